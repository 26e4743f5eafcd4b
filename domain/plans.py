"""What a plan allows. The numbers live in `config/plans.toml`; counting is `domain.rates`' work."""

from __future__ import annotations

from domain.value import value


@value
class Plan:
    """A plan's limits; 0 means no limit. The price is whole dollars."""

    name: str
    requests_per_minute: int
    requests_per_month: int
    concurrent_requests: int
    price_usd_per_month: int


STRICTEST = Plan("", 10, 50_000, 10, 0)
"""For a project whose plan is not in the table any more."""
