"""Requests counted in Redis, for all processes at once: one script a request, on the server's clock.

While Redis is away each process goes on from what it last heard, on its share: a request then counts as many times as
there are processes. What it let through alone it adds with the first command that Redis takes again.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Awaitable
from functools import partial
from typing import Any

from attrs import define, field

from adapters.redis.connection import Argument, RedisFault
from adapters.redis.link import Link
from adapters.redis.script import Script
from domain.rates import (
    CONCURRENCY,
    LEASE,
    MICROSECONDS,
    MONTH,
    PASS,
    RATE,
    REQUEST,
    Ask,
    Standing,
    Verdict,
    leaked,
    take,
    unlimited,
    verdict,
)

PROJECTS = 10_000
"""Projects whose standing a process remembers, for the time when Redis is away."""

RENEW_EVERY = LEASE / 3

_LEASE_MS = round(LEASE * 1000)
_REFUSALS = ("", MONTH, RATE, CONCURRENCY)
_UNRELEASED = 1000


@define(eq=False)
class Account:
    """One process's knowledge of a project: what Redis said last, and what happened here alone since then."""

    heard: Standing = field(factory=Standing)
    heard_at: float = 0.0
    skew: int = 0
    """Microseconds by which the server's clock is ahead of ours."""
    alone: Standing | None = None
    own: int = 0
    running: set[str] = field(factory=set)
    unreleased: deque[str] = field(factory=lambda: deque(maxlen=_UNRELEASED))

    def server_time(self, now: float) -> int:
        return round(now * MICROSECONDS) + self.skew


class RedisLimits:
    """A Limits over a link. `processes` is how many share the plan while Redis is away."""

    def __init__(
        self,
        link: Link,
        processes: int,
        prefix: str = "watchllm:l:",
        renew_every: float = RENEW_EVERY,
    ) -> None:
        self._link = link
        self._processes = processes
        self._prefix = prefix
        self._renew_every = renew_every
        self._script = Script(link, "limits.lua")
        self._accounts: OrderedDict[str, Account] = OrderedDict()
        self._holders: dict[str, Account] = {}
        self._renewal: asyncio.TimerHandle | None = None

    def at_once(self, ask: Ask, /) -> Verdict | None:
        if unlimited(ask.plan):
            return PASS
        account = self._account(ask.project)
        if self._link.state == "open":
            return self._rule_alone(ask, account)
        # The level in Redis is never below what it was when we last heard, less what has leaked: who is refused
        # by that is refused there too, and a storm of retries costs no trip.
        if ask.now < account.heard_at or account.own:
            return None
        known, _ = take(ask.plan, account.heard, account.server_time(ask.now))
        return known if known.refused == RATE else None

    def admit(self, ask: Ask, /) -> Awaitable[Verdict]:
        account = self._account(ask.project)
        own, account.own = account.own, 0
        answer: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        self._script.run(
            partial(self._heard, ask, account, own, answer),
            keys_of(self._prefix, ask.project),
            *_arguments(ask, account, own, self._processes),
        )
        return answer

    def release(self, ask: Ask, /) -> None:
        account = self._holders.get(ask.project)
        if account is None or ask.request not in account.running:
            return
        account.running.discard(ask.request)
        if not account.running:
            del self._holders[ask.project]
        self._forget(ask, account)

    def close(self) -> None:
        """Stops renewing: what still runs here ends with its lease."""
        if self._renewal is not None:
            self._renewal.cancel()
            self._renewal = None

    def _heard(
        self,
        ask: Ask,
        account: Account,
        own: int,
        answer: asyncio.Future[Verdict],
        reply: Any,
        fault: RedisFault | None,
    ) -> None:
        if fault is None:
            ruling = self._learn(ask, account, reply)
        elif answer.done():
            account.own += own
            return
        else:
            account.own += own
            ruling = self._rule_alone(ask, account)
        if not answer.done():
            answer.set_result(ruling)
        elif not ruling.refused:
            # Who asked has left meanwhile and will not say when it ends.
            self.release(ask)

    def _learn(self, ask: Ask, account: Account, reply: Any) -> Verdict:
        code, now, *kept = reply
        was_alone, account.alone = account.alone is not None, None
        account.heard, account.heard_at = Standing(*kept), ask.now
        account.skew = now - round(ask.now * MICROSECONDS)
        refused = _REFUSALS[code]
        if not refused:
            self._hold(ask, account)
        if was_alone or account.unreleased:
            self._catch_up(ask.project, account)
        return verdict(ask.plan, leaked(ask.plan, account.heard, now), refused)

    def _rule_alone(self, ask: Ask, account: Account) -> Verdict:
        now = account.server_time(ask.now)
        before = account.heard if account.alone is None else account.alone
        ruling, after = take(ask.plan, before, now, len(account.running), self._processes)
        if ruling.refused:
            return ruling
        if after.month != before.month:
            account.own = 0
        account.alone = after
        account.own += 1
        self._hold(ask, account)
        return ruling

    def _account(self, project: str) -> Account:
        account = self._accounts.get(project)
        if account is None:
            account = self._accounts[project] = self._holders.get(project) or Account()
            if len(self._accounts) > PROJECTS:
                self._accounts.popitem(last=False)
        else:
            self._accounts.move_to_end(project)
        return account

    # --- leases ------------------------------------------------------------------------------------

    def _hold(self, ask: Ask, account: Account) -> None:
        if not ask.plan.concurrent_requests:
            return
        account.running.add(ask.request)
        self._holders[ask.project] = account
        if self._renewal is None:
            loop = asyncio.get_running_loop()
            self._renewal = loop.call_later(self._renew_every, self._renew_all)

    def _forget(self, ask: Ask, account: Account) -> None:
        """Takes the lease back. One that Redis does not hear of is told when it is back, or runs out."""

        def heard(sent: asyncio.Future[Any]) -> None:
            if sent.exception() is not None:
                account.unreleased.append(ask.request)

        _, leases, _ = keys_of(self._prefix, ask.project)
        self._link.execute("ZREM", leases, ask.request).add_done_callback(heard)

    def _renew_all(self) -> None:
        self._renewal = None
        for project, account in self._holders.items():
            self._renew(project, account)
        if self._holders:
            loop = asyncio.get_running_loop()
            self._renewal = loop.call_later(self._renew_every, self._renew_all)

    def _renew(self, project: str, account: Account) -> None:
        keys = keys_of(self._prefix, project)
        self._script.run(_unheard, keys, "renew", _LEASE_MS, *account.running)

    def _catch_up(self, project: str, account: Account) -> None:
        """Redis is back: it learns what runs here and what has ended meanwhile."""
        if account.running:
            self._renew(project, account)
        if account.unreleased:
            _, leases, _ = keys_of(self._prefix, project)
            self._link.execute("ZREM", leases, *account.unreleased)
            account.unreleased.clear()


def keys_of(prefix: str, project: str) -> list[str]:
    """Standing, leases, purse. The braces keep them in one slot of a cluster."""
    tag = f"{prefix}{{{project}}}"
    return [tag, f"{tag}:running", f"{tag}:purse"]


def _arguments(ask: Ask, account: Account, own: int, processes: int) -> list[Argument]:
    plan, heard, level = ask.plan, account.heard, 0
    if own and account.alone is not None:
        # Of what has not leaked yet, our part: each process adds its own.
        there = leaked(plan, account.alone, account.server_time(ask.now), processes)
        level = min(own * REQUEST, there.level // processes)
    return [
        "admit",
        plan.requests_per_minute,
        plan.requests_per_month,
        plan.concurrent_requests,
        ask.request,
        _LEASE_MS,
        *(heard.level, heard.at, heard.month, heard.used),
        *(level, own),
    ]


def _unheard(answer: Any, fault: RedisFault | None) -> None:
    """A renewal that fails is followed by the next one."""
