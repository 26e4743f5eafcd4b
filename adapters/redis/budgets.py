"""Money counted in Redis, for all processes at once. Exact to the picodollar, up to `MOST` a month.

While Redis is away each process spends its share of what was left when it last heard. That knowledge ages: after
`STALE` seconds no more money is spent on it. A Redis that knows nothing of a project's month, nor is told by a process
that does, begins with what the ledger says.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Sequence
from functools import partial
from typing import Any

from attrs import define, field

from adapters.redis.connection import Argument, RedisFault, fail
from adapters.redis.limits import keys_of
from adapters.redis.link import Link
from adapters.redis.script import Script
from domain.errors import Unavailable
from domain.rates import (
    HELD,
    MICROSECONDS,
    Hold,
    Purse,
    Reservation,
    Spend,
    month_of,
    reserve,
    settle,
)
from domain.value import value
from ports.limits import Spent

MOST = 4 * 10**18
"""Four million dollars: with a reservation as large, the sum still fits into the 64 bits of HINCRBY."""

STALE = 900.0
PROJECTS = 10_000

_UNTOLD = 1000
_TRIES = 3
"""The last for a month that ended while its ledger was read."""


Part = tuple[str, int]
"""A call and what was set aside for it."""


@define(eq=False)
class Account:
    """One process's knowledge of a purse: what Redis said last, and what happened here alone since then."""

    heard: Purse = field(factory=Purse)
    era: int = 0
    version: int = 0
    heard_at: float | None = None
    skew: int = 0
    alone: Purse | None = None
    own: int = 0
    """What calls cost that were settled without Redis."""
    settled: deque[Part] = field(factory=lambda: deque(maxlen=_UNTOLD))
    """What Redis keeps for them; what is too much for here ends there with its lease."""
    held: dict[str, int] = field(factory=dict)
    """What was set aside without Redis, by call."""


@value
class Untold:
    """What Redis is told of `Account` with a command, and what it must be told again if that fails."""

    own: int
    settled: Sequence[Part]
    held: Sequence[Part]


@value
class Unknown:
    """Redis knows nothing of the project's month, which is this one."""

    month: int


Answer = asyncio.Future[Reservation | Unknown | None]
NOT_TOLD: tuple[int, int] = (0, 0)


class RedisBudgets:
    """A Budgets over a link. `processes` is how many share a budget while Redis is away; `lease` is seconds."""

    def __init__(
        self,
        link: Link,
        processes: int,
        spent: Spent | None = None,
        lease: float = HELD,
        prefix: str = "watchllm:l:",
    ) -> None:
        self._link = link
        self._processes = processes
        self._spent = spent
        self._lease = round(lease * MICROSECONDS)
        self._prefix = prefix
        self._script = Script(link, "limits.lua")
        self._accounts: OrderedDict[str, Account] = OrderedDict()

    async def reserve(self, spend: Spend, /) -> Reservation | None:
        told = NOT_TOLD
        for _ in range(_TRIES):
            found = await self._granted(spend, told)
            if not isinstance(found, Unknown):
                return found
            spent = 0
            if self._spent is not None:
                spent = await self._spent(spend.project, found.month)
            told = found.month, min(spent, MOST)
        raise _unreadable()

    def settle(self, reservation: Reservation, /, cost: int) -> None:
        account = self._account(reservation.project)
        untold = _take(account)
        # From here on it is no matter of other commands, whether Redis was told of it yet or is by this one.
        was_told = account.held.pop(reservation.call, None) is None

        def heard(reply: Any, fault: RedisFault | None) -> None:
            if fault is None:
                self._learn(account, untold, reply, None)
                return
            _give_back(account, untold)
            before = account.heard if account.alone is None else account.alone
            account.alone = settle(before, reservation, cost)
            if before.month != reservation.month:
                return
            account.own += cost
            # Of one that was held here Redis may know by a command that it took after we had given up, or not at all.
            account.settled.append((reservation.call, reservation.amount if was_told else 0))

        self._run(
            heard,
            ("settle", reservation.project),
            account,
            untold,
            (reservation.call, reservation.amount, reservation.month, cost),
        )

    async def _granted(self, spend: Spend, told: tuple[int, int]) -> Reservation | Unknown | None:
        answer = self._ask(spend, told)
        try:
            return await answer
        except asyncio.CancelledError:
            if answer.done() and not answer.cancelled() and answer.exception() is None:
                # Granted in the very turn in which its asker left.
                found = answer.result()
                if isinstance(found, Reservation):
                    self.settle(found, 0)
            raise

    def _ask(self, spend: Spend, told: tuple[int, int]) -> Answer:
        account = self._account(spend.project)
        untold = _take(account)
        answer: Answer = asyncio.get_running_loop().create_future()
        self._run(
            partial(self._heard, spend, account, untold, answer),
            ("reserve", spend.project),
            account,
            untold,
            (spend.call, min(spend.most, MOST + 1), min(spend.budget, MOST), *told),
        )
        return answer

    def _run(
        self,
        ended: Any,
        asked: tuple[str, str],
        account: Account,
        untold: Untold,
        arguments: Sequence[Argument],
    ) -> None:
        verb, project = asked
        heard = account.heard
        self._script.run(
            ended,
            keys_of(self._prefix, project),
            *(verb, self._lease),
            *(account.era, heard.month, account.version, heard.spent, heard.held),
            *(untold.own, len(untold.settled)),
            *arguments,
            *[part for call, held in (*untold.settled, *untold.held) for part in (call, held)],
        )

    def _heard(
        self,
        spend: Spend,
        account: Account,
        untold: Untold,
        answer: Answer,
        reply: Any,
        fault: RedisFault | None,
    ) -> None:
        found: Reservation | Unknown | None = None
        if fault is None:
            found = self._learn(account, untold, reply, spend)
        else:
            _give_back(account, untold)
            if answer.done():
                return
            if not _fresh(account, spend.now):
                fail(answer, _unreadable())
                return
            found = self._reserve_alone(spend, account)
        if not answer.done():
            answer.set_result(found)
        elif isinstance(found, Reservation):
            # Who asked has left meanwhile and will spend nothing.
            self.settle(found, 0)

    def _learn(
        self, account: Account, untold: Untold, reply: Any, spend: Spend | None
    ) -> Reservation | Unknown | None:
        """What came of it. `spend` is None where nobody asked for money, nor told the time."""
        code, server_now, *kept = reply
        if code == 2:
            return Unknown(kept[0])
        month, account.era, account.version, spent, held = kept
        for call, _ in untold.held:
            account.held.pop(call, None)
        # Whose it is does not matter here, and it lasts as long as this knowledge does.
        others = Hold(int(held), server_now + round(STALE * MICROSECONDS))
        account.alone = None
        account.heard = Purse(month, int(spent), others.amount, others.ends, {"": others})
        if spend is None:
            return None
        account.heard_at = spend.now
        account.skew = server_now - round(spend.now * MICROSECONDS)
        return Reservation(spend.project, spend.most, month, spend.call) if code == 1 else None

    def _reserve_alone(self, spend: Spend, account: Account) -> Reservation | None:
        now = round(spend.now * MICROSECONDS) + account.skew
        before = account.heard if account.alone is None else account.alone
        if month_of(now) > before.month:
            account.heard = before = Purse(month_of(now))
            account.own = 0
            account.settled.clear()
            account.held.clear()
        after = reserve(before, spend, now, self._lease, self._processes)
        if after is None:
            return None
        found = Reservation(spend.project, spend.most, after.month, spend.call, self._processes)
        account.alone, account.held[spend.call] = after, spend.most
        return found

    def _account(self, project: str) -> Account:
        account = self._accounts.get(project)
        if account is None:
            account = self._accounts[project] = Account()
            if len(self._accounts) > PROJECTS:
                self._accounts.popitem(last=False)
        else:
            self._accounts.move_to_end(project)
        return account


def _take(account: Account) -> Untold:
    """Costs must not be told twice; of what is held Redis itself knows what it knows already."""
    untold = Untold(account.own, tuple(account.settled), tuple(account.held.items()))
    account.own = 0
    account.settled.clear()
    return untold


def _give_back(account: Account, untold: Untold) -> None:
    account.own += untold.own
    account.settled.extend(untold.settled)


def _unreadable() -> Unavailable:
    return Unavailable("Your budget cannot be read right now.", retry_after=5)


def _fresh(account: Account, now: float) -> bool:
    return account.heard_at is not None and now - account.heard_at <= STALE
