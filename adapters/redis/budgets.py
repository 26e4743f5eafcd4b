"""Money counted in Redis, for all processes at once. Exact to the picodollar, up to `MOST` a month.

While Redis is away each process spends its share of what was left when it last heard. That knowledge ages: after
`STALE` seconds no more money is spent on it.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable
from functools import partial
from typing import Any

from attrs import define, field

from adapters.redis.connection import Argument, RedisFault, fail
from adapters.redis.limits import keys_of
from adapters.redis.link import Link
from adapters.redis.script import Script
from domain.errors import Unavailable
from domain.rates import MICROSECONDS, Purse, Reservation, Spend, reserve, settle, turned

MOST = 4 * 10**18
"""Four million dollars: with a reservation as large, the sum still fits into the 64 bits of HINCRBY."""

STALE = 900.0
PROJECTS = 10_000


@define(eq=False)
class Account:
    """One process's knowledge of a purse: what Redis said last, and what happened here alone since then."""

    heard: Purse = field(factory=Purse)
    version: int = 0
    heard_at: float | None = None
    skew: int = 0
    alone: Purse | None = None
    own: int = 0


class RedisBudgets:
    """A Budgets over a link. `processes` is how many share a budget while Redis is away."""

    def __init__(self, link: Link, processes: int, prefix: str = "watchllm:l:") -> None:
        self._link = link
        self._processes = processes
        self._prefix = prefix
        self._script = Script(link, "limits.lua")
        self._accounts: OrderedDict[str, Account] = OrderedDict()

    def reserve(self, spend: Spend, /) -> Awaitable[Reservation | None]:
        account = self._account(spend.project)
        own, account.own = account.own, 0
        answer: asyncio.Future[Reservation | None] = asyncio.get_running_loop().create_future()
        self._script.run(
            partial(self._heard, spend, account, own, answer),
            keys_of(self._prefix, spend.project),
            *("reserve", min(spend.most, MOST + 1), min(spend.budget, MOST)),
            *_known(account, own),
        )
        return answer

    def settle(self, reservation: Reservation, /, cost: int) -> None:
        account = self._account(reservation.project)
        own, account.own = account.own, 0
        beyond = cost - reservation.amount

        def heard(reply: Any, fault: RedisFault | None) -> None:
            if fault is None:
                _learn(account, reply, None)
                return
            account.own += own
            before = account.heard if account.alone is None else account.alone
            account.alone = settle(before, reservation, cost)
            if before.month == reservation.month:
                account.own += beyond

        keys = keys_of(self._prefix, reservation.project)
        args = _known(account, own)
        self._script.run(heard, keys, "settle", reservation.month, beyond, *args)

    def _heard(
        self,
        spend: Spend,
        account: Account,
        own: int,
        answer: asyncio.Future[Reservation | None],
        reply: Any,
        fault: RedisFault | None,
    ) -> None:
        found: Reservation | None = None
        if fault is None:
            if _learn(account, reply, spend.now):
                found = Reservation(spend.project, spend.most, account.heard.month)
        else:
            account.own += own
            if answer.done():
                return
            if not _fresh(account, spend.now):
                fail(answer, Unavailable("Your budget cannot be read right now.", retry_after=5))
                return
            found = self._reserve_alone(spend, account)
        if not answer.done():
            answer.set_result(found)
        elif found is not None:
            # Who asked has left meanwhile and will spend nothing.
            self.settle(found, 0)

    def _reserve_alone(self, spend: Spend, account: Account) -> Reservation | None:
        now = round(spend.now * MICROSECONDS) + account.skew
        before = account.heard if account.alone is None else account.alone
        if turned(before, now) is not before:
            account.heard, account.own = turned(before, now), 0
            before = account.heard
        after = reserve(before, spend, now, self._processes)
        if after is None:
            return None
        account.alone = after
        account.own += spend.most
        return Reservation(spend.project, spend.most, after.month, self._processes)

    def _account(self, project: str) -> Account:
        account = self._accounts.get(project)
        if account is None:
            account = self._accounts[project] = Account()
            if len(self._accounts) > PROJECTS:
                self._accounts.popitem(last=False)
        else:
            self._accounts.move_to_end(project)
        return account


def _known(account: Account, own: int) -> list[Argument]:
    return [account.heard.month, account.version, account.heard.spent, own]


def _learn(account: Account, reply: Any, now: float | None) -> bool:
    """Whether the money was set aside. `now` is None where nobody told the time."""
    granted, server_now, month, version, spent = reply
    account.heard, account.version, account.alone = Purse(month, int(spent)), version, None
    if now is not None:
        account.heard_at = now
        account.skew = server_now - round(now * MICROSECONDS)
    return bool(granted)


def _fresh(account: Account, now: float) -> bool:
    return account.heard_at is not None and now - account.heard_at <= STALE
