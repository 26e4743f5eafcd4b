"""How often a project may ask and how much it may spend: the rulings, and how they are told.

The rate is GCRA in the form of a leaky bucket ("continuous-state leaky bucket", ITU-T I.371, the twin of virtual
scheduling). The bucket's level is kept in whole parts of a request, so that nothing is ever rounded: a request is
`REQUEST` parts, and a plan of N per minute forgets N parts each microsecond. A plan of N per minute therefore lets N
through at once and N a minute in the long run, and another N counts from the next request on.

Times are whole microseconds of one clock. Where the counts are kept, and on whose clock, is the adapters' matter.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from math import ceil

from attrs import evolve

from domain.errors import ApiError, QuotaExhausted, RateLimited
from domain.plans import Plan
from domain.reports import Span
from domain.value import value

MICROSECONDS = 1_000_000
REQUEST = 60 * MICROSECONDS
"""Parts of one request."""

LEASE = 60.0
"""Seconds after which a request whose process died no longer counts as running."""

RATE, MONTH, CONCURRENCY = "rate", "month", "concurrency"
"""Which number of a plan said no."""


@value
class Ask:
    """One request wants to pass. `request` is its id, `now` our wall clock in seconds since the epoch."""

    project: str
    plan: Plan
    request: str
    now: float


@value
class Standing:
    """What is kept of a project: the bucket's level at `at`, and the requests of a month."""

    level: int = 0
    at: int = 0
    month: int = 0
    used: int = 0


@value
class Verdict:
    """`refused` is empty where the request may pass. Seconds; `limit` 0 is no limit per minute.

    `retry_after` is None where waiting a little does not help.
    """

    refused: str = ""
    limit: int = 0
    remaining: int = 0
    reset: float = 0.0
    retry_after: float | None = None


PASS = Verdict()


def unlimited(plan: Plan) -> bool:
    return not (plan.requests_per_minute or plan.requests_per_month or plan.concurrent_requests)


def take(
    plan: Plan, before: Standing, now: int, running: int = 0, weight: int = 1
) -> tuple[Verdict, Standing]:
    """Rules on one request; the standing changes only if it may pass. `running` are the project's others.

    `weight` is how many requests this one stands for: the number of processes, where each must count alone.
    """
    there = leaked(plan, before, now, weight)
    refused = _refused(plan, there, running, weight)
    if not refused:
        level = there.level + weight * REQUEST if plan.requests_per_minute else 0
        there = evolve(there, level=level, used=there.used + weight)
    return verdict(plan, there, refused, weight), there if not refused else before


def leaked(plan: Plan, before: Standing, now: int, weight: int = 1) -> Standing:
    """The standing as it is at `now`. A clock that was set back forgives nothing and owes nothing."""
    forgotten = plan.requests_per_minute * max(0, now - before.at)
    # After a change to a smaller plan nobody waits longer than for a bucket that is full.
    level = min(max(0, before.level - forgotten), _bucket(plan, weight))
    month = month_of(now)
    if month > before.month:
        return Standing(level, now, month, 0)
    return Standing(level, now, before.month, before.used)


def verdict(plan: Plan, there: Standing, refused: str, weight: int = 1) -> Verdict:
    """The ruling in words, for a standing of this very moment."""
    limit = plan.requests_per_minute
    if not limit:
        return Verdict(refused, retry_after=1.0 if refused == CONCURRENCY else None)
    wait: float | None = None
    if refused == RATE:
        missing = there.level + weight * REQUEST - _bucket(plan, weight)
        wait = -(-missing // limit) / MICROSECONDS
    elif refused == CONCURRENCY:
        wait = 1.0
    room = max(0, limit * REQUEST - there.level)
    reset = -(-there.level // limit) / MICROSECONDS
    return Verdict(refused, limit, room // REQUEST, reset, wait)


def month_of(now: int) -> int:
    """Calendar months (UTC), counted from March of the year 0 on, which is how leap days do no harm."""
    day = datetime.fromtimestamp(now // MICROSECONDS, UTC)
    return day.year * 12 + day.month - 3


def _refused(plan: Plan, there: Standing, running: int, weight: int) -> str:
    # What no waiting mends is said first. Where the weight exceeds a number, one at a time still passes.
    if plan.requests_per_month and there.used and there.used + weight > plan.requests_per_month:
        return MONTH
    if plan.requests_per_minute and there.level + weight * REQUEST > _bucket(plan, weight):
        return RATE
    if plan.concurrent_requests and running and (running + 1) * weight > plan.concurrent_requests:
        return CONCURRENCY
    return ""


def _bucket(plan: Plan, weight: int) -> int:
    return max(plan.requests_per_minute, weight) * REQUEST


# --- money ----------------------------------------------------------------------------------------

HELD = 660.0
"""Seconds for which money stays set aside for a call that nobody hears of again: by default, see `held_for`."""


@value
class Spend:
    """A call that may cost `most` asks for it. `budget` is the project's for the month; picodollars, both."""

    project: str
    most: int
    budget: int
    now: float
    call: str


@value
class Hold:
    """Money set aside for a call until `ends`, microseconds."""

    amount: int
    ends: int


NO_HOLDS: Mapping[str, Hold] = {}


@value
class Purse:
    """What was spent in a month by calls that were settled, and what is held for others: `holds`, by call.

    Without a name are those calls of which only the sum is known. No hold ends before `ends`; 0 is never.
    """

    month: int = 0
    spent: int = 0
    held: int = 0
    ends: int = 0
    holds: Mapping[str, Hold] = NO_HOLDS


@value
class Reservation:
    """Money set aside in `month` until the call is settled, which happens once.

    `weight` is how many processes it stands for, where it was set aside by one that had to count alone.
    """

    project: str
    amount: int
    month: int
    call: str
    weight: int = 1


def reserve(before: Purse, spend: Spend, now: int, lease: int, weight: int = 1) -> Purse | None:
    """The purse with the money set aside for `lease` microseconds, or None if that exceeds the budget."""
    purse = turned(before, now)
    amount, ends = spend.most * weight, now + lease
    if purse.spent + purse.held + amount > spend.budget:
        return None
    return Purse(
        purse.month,
        purse.spent,
        purse.held + amount,
        min(purse.ends or ends, ends),
        {**purse.holds, spend.call: Hold(amount, ends)},
    )


def settle(purse: Purse, reservation: Reservation, cost: int) -> Purse:
    """What was set aside returns, if it has not by itself, and the cost is spent. A month that is over stays as it was."""
    if purse.month != reservation.month:
        return purse
    holds = dict(purse.holds)
    hold, unnamed = holds.pop(reservation.call, None), holds.get("")
    returned = 0
    if hold is not None:
        returned = hold.amount
    elif unnamed is not None:
        returned = min(unnamed.amount, reservation.amount * reservation.weight)
        holds[""] = Hold(unnamed.amount - returned, unnamed.ends)
    spent = purse.spent + cost * reservation.weight
    return Purse(purse.month, spent, purse.held - returned, purse.ends, holds)


def turned(purse: Purse, now: int) -> Purse:
    """The purse as it is at `now`: of its month, without what has ended. A clock that was set back opens no old month."""
    month = month_of(now)
    if month > purse.month:
        return Purse(month)
    if not purse.ends or now < purse.ends:
        return purse
    holds = {call: hold for call, hold in purse.holds.items() if now < hold.ends}
    held = sum([hold.amount for hold in holds.values()])
    ends = min([hold.ends for hold in holds.values()], default=0)
    return Purse(purse.month, purse.spent, held, ends, holds)


def held_for(longest: float) -> float:
    """A tenth more than the longest call may take, so that none outlives its money by much."""
    return longest * 1.1


def span_of(month: int) -> Span:
    """Its hours, for the ledger."""
    first, until = [
        int(datetime(number // 12, number % 12 + 1, 1, tzinfo=UTC).timestamp())
        for number in (month + 2, month + 3)
    ]
    return Span(first, until)


# --- how it is told -------------------------------------------------------------------------------


def limit_headers(verdict: Verdict) -> dict[str, str]:
    """OpenAI's three headers, with our plan's numbers; none where there is no limit per minute."""
    if not verdict.limit:
        return {}
    return {
        "x-ratelimit-limit-requests": str(verdict.limit),
        "x-ratelimit-remaining-requests": str(verdict.remaining),
        "x-ratelimit-reset-requests": go_duration(verdict.reset),
    }


def refusal(verdict: Verdict) -> ApiError | None:
    """What the caller is told; None if the request may pass."""
    match verdict.refused:
        case "":
            return None
        case "month":
            return QuotaExhausted("This month's requests of your plan are used up.")
        case "concurrency":
            return RateLimited(
                "Too many requests of this project are running.", retry_after=verdict.retry_after
            )
        case _:
            return RateLimited(
                f"Rate limit reached: {verdict.limit} requests per minute.",
                retry_after=verdict.retry_after,
            )


def budget_spent() -> ApiError:
    return QuotaExhausted("This month's budget of your project is used up.")


def go_duration(seconds: float) -> str:
    """`17ms`, `1s`, `6m0s`, `1h0m2.5s`: Go's notation, as in OpenAI's headers; never too short."""
    # Noise of a float below a microsecond is no reason to wait another millisecond.
    left = ceil(round(max(0.0, seconds) * MICROSECONDS) / 1000)
    if not left:
        return "0s"
    if left < 1000:
        return f"{left}ms"
    minutes, left = divmod(left, 60_000)
    hours, minutes = divmod(minutes, 60)
    text = f"{left / 1000:.3f}".rstrip("0").rstrip(".") + "s"
    if hours:
        return f"{hours}h{minutes}m{text}"
    return f"{minutes}m{text}" if minutes else text
