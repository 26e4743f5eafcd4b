"""Counts of one process, exact as long as it is the only one. Bounded: who asked longest ago is forgotten first."""

from __future__ import annotations

from collections import OrderedDict

from domain.rates import (
    HELD,
    MICROSECONDS,
    PASS,
    Ask,
    Purse,
    Reservation,
    Spend,
    Standing,
    Verdict,
    month_of,
    reserve,
    settle,
    take,
    unlimited,
)
from ports.limits import Spent

PROJECTS = 50_000
"""About 250 bytes each. A forgotten project begins anew, so the bound is far above what one process serves."""


class MemoryLimits:
    """A Limits without a wire: `at_once` always knows."""

    def __init__(self, projects: int = PROJECTS) -> None:
        self._projects = projects
        self._standings: OrderedDict[str, Standing] = OrderedDict()
        self._running: dict[str, int] = {}

    def at_once(self, ask: Ask, /) -> Verdict:
        if unlimited(ask.plan):
            return PASS
        running = self._running.get(ask.project, 0)
        before = self._standings.get(ask.project, Standing())
        verdict, after = take(ask.plan, before, round(ask.now * MICROSECONDS), running)
        if verdict.refused:
            return verdict
        self._standings[ask.project] = after
        self._standings.move_to_end(ask.project)
        if len(self._standings) > self._projects:
            self._standings.popitem(last=False)
        if ask.plan.concurrent_requests:
            self._running[ask.project] = running + 1
        return verdict

    async def admit(self, ask: Ask, /) -> Verdict:
        return self.at_once(ask)

    def release(self, ask: Ask, /) -> None:
        # Bounded by what runs, and needs no end of its own: nothing outlives the process.
        running = self._running.get(ask.project, 0)
        if not ask.plan.concurrent_requests or not running:
            return
        if running == 1:
            del self._running[ask.project]
        else:
            self._running[ask.project] = running - 1


class MemoryBudgets:
    """A Budgets without a wire. What it does not know it begins with what was `spent`, or with nothing."""

    def __init__(
        self, spent: Spent | None = None, lease: float = HELD, projects: int = PROJECTS
    ) -> None:
        self._spent = spent
        self._lease = round(lease * MICROSECONDS)
        self._projects = projects
        self._purses: OrderedDict[str, Purse] = OrderedDict()

    async def reserve(self, spend: Spend, /) -> Reservation | None:
        now = round(spend.now * MICROSECONDS)
        if spend.project not in self._purses:
            month = month_of(now)
            spent = await self._spent(spend.project, month) if self._spent is not None else 0
            # Another one may have been told meanwhile, and have spent since.
            self._purses.setdefault(spend.project, Purse(month, spent))
            if len(self._purses) > self._projects:
                self._purses.popitem(last=False)
        after = reserve(self._purses[spend.project], spend, now, self._lease)
        if after is None:
            return None
        self._purses[spend.project] = after
        self._purses.move_to_end(spend.project)
        return Reservation(spend.project, spend.most, after.month, spend.call)

    def settle(self, reservation: Reservation, /, cost: int) -> None:
        # Of a purse that was forgotten meanwhile the ledger will tell, this call included.
        purse = self._purses.get(reservation.project)
        if purse is not None:
            self._purses[reservation.project] = settle(purse, reservation, cost)
