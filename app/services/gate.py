"""What a project may: its plan's limits before anything is done, its budget before a provider is called."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from attrs import define, field

from app.services.metering import Line
from domain.errors import ApiError, Unavailable
from domain.plans import STRICTEST, Plan
from domain.pricing import most_cost
from domain.rates import Ask, Spend, Verdict, budget_spent, limit_headers, refusal, span_of
from domain.request import ProxyRequest
from ports.limits import Budgets, Limits
from ports.storage import Journal, UsageReports

CATCH_UP = 1.0
"""Seconds that rows of an earlier process may take to the ledger."""
PATIENCE = 2.0
"""Seconds a call waits to hear what was spent."""
MOST_ASKED = 1_000
"""Questions to the ledger that may be open at once."""


@define
class Gate:
    """`plans` by name; a grant whose plan is gone from the table gets the strictest. `clock` is wall-clock seconds."""

    limits: Limits
    budgets: Budgets
    plans: Mapping[str, Plan]
    clock: Callable[[], float]

    def at_once(self, line: Line) -> bool:
        """True if the request is counted and may pass, False if only `admit` can tell. Raises the refusal."""
        ask = self._ask(line)
        verdict = self.limits.at_once(ask)
        if verdict is None:
            return False
        self._rule(line, ask, verdict)
        return True

    def admit(self, line: Line) -> Awaitable[None]:
        """Counts the request, however long it takes. The question has left when this returns.

        Raises the refusal, now if it is known already.
        """
        ask = self._ask(line)
        verdict = self.limits.at_once(ask)
        if verdict is None:
            return self._hear(line, ask, self.limits.admit(ask))
        self._rule(line, ask, verdict)
        return _passed()

    async def reserve(self, line: Line, request: ProxyRequest) -> None:
        """Sets aside what the call may cost at most. Raises when the month's budget does not hold it."""
        budget = line.grant.budget
        if not budget or line.price is None:
            return
        most = most_cost(request, line.price)
        answer = asyncio.ensure_future(
            self.budgets.reserve(Spend(line.grant.project, most, budget, self.clock(), line.id))
        )
        try:
            line.reserved = await answer
        except asyncio.CancelledError:
            if answer.done() and not answer.cancelled() and answer.exception() is None:
                # Granted in the very turn in which its asker left.
                line.reserved = answer.result()
            raise
        if line.reserved is None:
            raise budget_spent()

    def leave(self, line: Line) -> None:
        """Gives the place and the unspent money back, once."""
        ask, line.admitted = line.admitted, None
        if ask is not None:
            self.limits.release(ask)
        reserved, line.reserved = line.reserved, None
        if reserved is not None:
            self.budgets.settle(reserved, line.cost or 0)

    def _ask(self, line: Line) -> Ask:
        plan = self.plans.get(line.grant.plan, STRICTEST)
        return Ask(line.grant.project, plan, line.id, self.clock())

    async def _hear(self, line: Line, ask: Ask, answer: Awaitable[Verdict]) -> None:
        # Before the wait: whoever leaves in the very turn in which the yes arrives gives the place back all the same.
        line.admitted = ask
        verdict = await answer
        line.admitted = None
        self._rule(line, ask, verdict)

    def _rule(self, line: Line, ask: Ask, verdict: Verdict) -> None:
        line.limits = limit_headers(verdict)
        refused = refusal(verdict)
        if refused is not None:
            raise refused
        line.admitted = ask


async def _passed() -> None:
    return None


@define
class Spending:
    """What the ledger says of a month: asked once, however many wait to hear it, and none of them for long.

    The ledger is asked on after the last of them has left: a statement under way is not cut off.
    """

    ledger: UsageReports
    journal: Journal
    _asking: dict[tuple[str, int], asyncio.Task[int | None]] = field(factory=dict)
    _caught_up: bool = False

    async def __call__(self, project: str, month: int, /) -> int:
        asking = self._asking.get((project, month))
        if asking is None:
            asking = self._begin(project, month)
        await asyncio.wait([asking], timeout=PATIENCE)
        spent = asking.result() if asking.done() else None
        if spent is None:
            raise Unavailable(
                "What your project has spent this month cannot be read right now.", retry_after=5
            )
        return spent

    def _begin(self, project: str, month: int) -> asyncio.Task[int | None]:
        if len(self._asking) >= MOST_ASKED:
            raise Unavailable("Too many budgets are being read.", retry_after=1)
        asking = asyncio.ensure_future(self._ask(project, month))
        self._asking[project, month] = asking
        asking.add_done_callback(lambda _: self._asking.pop((project, month)))
        return asking

    async def _ask(self, project: str, month: int) -> int | None:
        """None if the ledger is away."""
        if not self._caught_up:
            # What an earlier process left in its journal was spent, too.
            await self.journal.drain(CATCH_UP)
            self._caught_up = True
        try:
            return (await self.ledger.sum(project, span_of(month))).cost
        except ApiError:
            return None
