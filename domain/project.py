"""Who asks: projects, their keys, and what a key grants."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation

from domain.pricing import PICODOLLARS
from domain.value import value

MOST_BUDGET = 4_000_000
"""Dollars a month; sums of twice as many still fit into the 64 bits that stores count in."""

PROJECT = "project"
TEST = "test"
KINDS = (PROJECT, TEST)


@value
class Project:
    """A customer's unit of keys, plan, cache and bill. Times are wall-clock seconds since the epoch.

    `budget` is what it may spend at providers in a calendar month (UTC), picodollars; 0 is no limit.
    """

    id: str
    name: str
    plan: str
    cache_epoch: int
    created_at: float
    budget: int = 0


@value
class ApiKey:
    """A key as it may be shown: `hint` is its prefix and last four characters, never the key itself."""

    id: str
    project: str
    kind: str
    name: str
    hint: str
    created_at: float
    expires_at: float | None
    revoked_at: float | None
    models: tuple[str, ...] = ()
    endpoints: tuple[str, ...] = ()
    last_used_at: float | None = None


@value
class Grant:
    """What a presented key allows. `cache_epoch` is part of every cache key, so a purge is one number.

    `ends_at` is the earlier of expiry and the end of a rotation's grace. `models` and `endpoints` are all it may ask
    for, anything where they are empty; see `domain.scope`.
    """

    project: str
    key: str
    kind: str
    plan: str
    cache_epoch: int
    ends_at: float | None
    budget: int = 0
    models: tuple[str, ...] = ()
    endpoints: tuple[str, ...] = ()


def read_budget(text: str) -> int:
    """Dollars as people write them, in picodollars; `none` and `0` are none. Raises ValueError."""
    if text == "none":
        return 0
    try:
        dollars = Decimal(text)
    except InvalidOperation:
        dollars = Decimal(-1)
    if not (dollars.is_finite() and 0 <= dollars <= MOST_BUDGET):
        raise ValueError(
            f"a budget is dollars such as 25 or 0.50, {MOST_BUDGET:,} at most, or none"
        )
    picodollars = dollars * PICODOLLARS
    if picodollars != int(picodollars):
        raise ValueError("a budget has twelve decimals at most")
    return int(picodollars)
