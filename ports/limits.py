"""What counts requests and money."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Protocol

from domain.rates import Ask, Reservation, Spend, Verdict


class Limits(Protocol):
    """Counts a request against all numbers of its plan in one step, exactly, whichever process asks.

    A refused request counts nowhere. Where the count is shared and away, each process rules on its own share.
    """

    def at_once(self, ask: Ask, /) -> Verdict | None:
        """The verdict, if it needs no trip: the request is then counted. None: it is not, ask `admit`."""

    def admit(self, ask: Ask, /) -> Awaitable[Verdict]:
        """Has left for the store before it is awaited. Raises nothing."""

    def release(self, ask: Ask, /) -> None:
        """A request has ended, however; also one whose asker left before it was told. Never waits, raises nothing."""


class Spent(Protocol):
    """What a project spent in a month (of `domain.rates.month_of`), by a ledger that outlives every counter."""

    def __call__(self, project: str, month: int, /) -> Awaitable[int]:
        """Picodollars. Raises Unavailable, soon, if the ledger cannot be asked."""


class Budgets(Protocol):
    """Sets money aside before it is spent, so that no two processes spend the same.

    A counter that knows nothing of a project's month begins with what was spent by the ledger. Money set aside for a
    call that is never settled returns after a while; a call that is settled later than that is counted all the same.
    """

    def reserve(self, spend: Spend, /) -> Awaitable[Reservation | None]:
        """None if the month's budget does not hold it. Raises Unavailable if that cannot be known."""

    def settle(self, reservation: Reservation, /, cost: int) -> None:
        """What the call really cost, 0 if it failed for free. Once per reservation; never waits, raises nothing."""
