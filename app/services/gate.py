"""What a project may: its plan's limits before anything is done, its budget before a provider is called."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from attrs import define

from app.services.metering import Line
from domain.plans import STRICTEST, Plan
from domain.pricing import most_cost
from domain.rates import Ask, Spend, Verdict, budget_spent, limit_headers, refusal
from domain.request import ProxyRequest
from ports.limits import Budgets, Limits


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
            self.budgets.reserve(Spend(line.grant.project, most, budget, self.clock()))
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
