"""The rulings on rate, month, concurrency and money, and how they are told."""

from __future__ import annotations

import random
from datetime import UTC, datetime

import pytest
import throttled.utils
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from throttled import Throttled, per_min
from throttled.store import MemoryStore

from domain.errors import QuotaExhausted, RateLimited
from domain.plans import Plan
from domain.rates import (
    CONCURRENCY,
    HELD,
    MONTH,
    RATE,
    Hold,
    Purse,
    Reservation,
    Spend,
    Standing,
    Verdict,
    go_duration,
    held_for,
    limit_headers,
    month_of,
    refusal,
    reserve,
    settle,
    span_of,
    take,
    unlimited,
)

NOW = 1_800_000_000_000_000
MINUTE = 60_000_000


def plan(per_minute: int = 0, per_month: int = 0, at_once: int = 0) -> Plan:
    return Plan("test", per_minute, per_month, at_once, 0)


def micros(year: int, month: int, day: int, *clock: int) -> int:
    return int(datetime(year, month, day, *clock, tzinfo=UTC).timestamp()) * 1_000_000


def offer(numbers: Plan, times: list[int], standing: Standing | None = None) -> list[Verdict]:
    standing = standing or Standing()
    verdicts = []
    for now in times:
        verdict, standing = take(numbers, standing, now)
        verdicts.append(verdict)
    return verdicts


def passed(verdicts: list[Verdict]) -> int:
    return sum(not verdict.refused for verdict in verdicts)


# --- the rate -------------------------------------------------------------------------------------


@pytest.mark.parametrize("per_minute", [1, 7, 10, 50, 200, 999, 60_000])
def test_a_plan_lets_its_number_through_at_once(per_minute):
    """N of N + 1 at the same instant, also where a minute does not divide by N."""
    assert per_minute == passed(offer(plan(per_minute), [NOW] * (per_minute + 1)))


@given(st.integers(1, 5000), st.lists(st.integers(0, 3_000_000), max_size=200))
def test_no_schedule_beats_the_bound(per_minute, gaps):
    """By any time t after the first, at most N and what N a minute make in t."""
    standing, now, let_through = Standing(), NOW, 0
    for gap in gaps:
        now += gap
        verdict, standing = take(plan(per_minute), standing, now)
        let_through += not verdict.refused
        assert let_through * MINUTE <= per_minute * (MINUTE + now - NOW)


def test_in_the_long_run_a_plan_is_exact():
    """Asked without end for an hour: N at once and N a minute, to the request."""
    times = list(range(NOW, NOW + 60 * MINUTE + 1, 50_000))

    assert 7 + 60 * 7 == passed(offer(plan(7), times))


@given(st.integers(1, 5000), st.lists(st.integers(0, 200_000), min_size=1, max_size=100))
def test_retry_after_is_exact(per_minute, gaps):
    """Who comes back then passes; who comes a microsecond sooner does not."""
    standing, now = Standing(), NOW
    for _ in range(per_minute):
        _, standing = take(plan(per_minute), standing, now)
    for gap in gaps:
        now += gap
        verdict, standing = take(plan(per_minute), standing, now)
        if verdict.retry_after is None:
            continue
        then = now + round(verdict.retry_after * 1_000_000)
        assert RATE == take(plan(per_minute), standing, then - 1)[0].refused
        assert "" == take(plan(per_minute), standing, then)[0].refused


def test_a_refused_request_does_not_count():
    """A storm of retries does not move the time at which the next one passes."""
    standing = Standing()
    for _ in range(10):
        _, standing = take(plan(10), standing, NOW)
    for now in range(NOW, NOW + 5_000_000, 1000):
        verdict, standing = take(plan(10, per_month=1000), standing, now)
        assert RATE == verdict.refused

    assert 10 == standing.used
    assert "" == take(plan(10), standing, NOW + 6_000_000)[0].refused


@pytest.mark.parametrize("per_minute", [1, 15, 60, 240])
def test_gcra_of_another_house_says_the_same(per_minute, monkeypatch):
    """throttled-py on random schedules: who passes, how many remain, when it is whole again, when to come back."""
    # Sixty-fourths of a second: exact in its floats, so that both mean the same instants.
    dice, tick = random.Random(per_minute), 0
    monkeypatch.setattr(throttled.utils, "now_mono_f", lambda: 1.0 + tick / 64)
    theirs = Throttled(
        using="gcra", quota=per_min(per_minute, burst=per_minute), store=MemoryStore()
    )
    standing, refusals = Standing(), 0
    for _ in range(3000):
        tick += int(dice.expovariate(per_minute / 60 / 64 * 1.3))
        verdict, standing = take(plan(per_minute), standing, NOW + tick * 15_625)
        result = theirs.limit("project")
        refusals += bool(verdict.refused)
        assert result.limited == bool(verdict.refused)
        assert (result.state.remaining, result.state.reset_after) == (
            verdict.remaining,
            verdict.reset,
        )
        assert result.state.retry_after == (verdict.retry_after or 0)

    assert 300 < refusals < 2700


def test_a_larger_plan_acts_at_once():
    """Ten of ten used up, then two hundred: 190 remain, now."""
    standing = Standing()
    for _ in range(10):
        _, standing = take(plan(10), standing, NOW)

    assert 190 == passed(offer(plan(200), [NOW] * 200, standing))


def test_a_smaller_plan_acts_at_once():
    """200 used, then a plan of 10: the next passes after its interval, not after twenty minutes."""
    standing = Standing()
    for _ in range(200):
        _, standing = take(plan(200), standing, NOW)
    verdict, _ = take(plan(10), standing, NOW)

    assert (RATE, 6.0) == (verdict.refused, verdict.retry_after)


def test_a_clock_that_is_set_back_locks_nobody_out():
    """The bucket goes on from where it was, on the new time."""
    standing = Standing()
    for _ in range(10):
        _, standing = take(plan(10), standing, NOW)
    verdict, _ = take(plan(10), standing, NOW - 60 * MINUTE)
    assert (RATE, 6.0) == (verdict.refused, verdict.retry_after)

    _, standing = take(plan(10), Standing(), NOW)
    _, standing = take(plan(10), standing, NOW - 60 * MINUTE)
    assert NOW - 60 * MINUTE == standing.at


@pytest.mark.parametrize(("per_minute", "processes"), [(60, 4), (10, 4), (7, 3), (2, 4), (1, 16)])
def test_shares_make_the_whole(per_minute, processes):
    """Processes that count alone let through N a minute together; at once N, or one each if N is less."""
    shares = []
    for _ in range(processes):
        standing, let_through = Standing(), []
        for now in [NOW] * per_minute + list(range(NOW, NOW + 20 * MINUTE, 250_000)):
            verdict, standing = take(plan(per_minute), standing, now, weight=processes)
            if not verdict.refused:
                let_through.append(now)
        shares.append(let_through)
    at_once = sum(now == NOW for share in shares for now in share)

    assert processes * max(1, per_minute // processes) == at_once
    assert 19 * per_minute <= sum(map(len, shares)) <= max(processes, per_minute) + 20 * per_minute


# --- month, concurrency ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("last", "first"),
    [
        (micros(2026, 12, 31, 23, 59, 59), micros(2027, 1, 1)),
        (micros(2027, 2, 28, 23, 59, 59), micros(2027, 3, 1)),
        (micros(2028, 2, 29, 23, 59, 59), micros(2028, 3, 1)),
        (micros(2100, 2, 28, 23, 59, 59), micros(2100, 3, 1)),
        (micros(2027, 4, 30, 23, 59, 59), micros(2027, 5, 1)),
    ],
)
def test_a_month_is_the_calendars(last, first):
    """To its last microsecond, in UTC; the next one counts from nothing."""
    numbers = plan(per_month=3)
    standing = Standing()
    for _ in range(3):
        verdict, standing = take(numbers, standing, last)
        assert "" == verdict.refused
    assert MONTH == take(numbers, standing, last + 999_999)[0].refused

    verdict, standing = take(numbers, standing, first)
    assert ("", 1, month_of(last) + 1) == (verdict.refused, standing.used, standing.month)


def test_a_clock_that_is_set_back_opens_no_old_month():
    """On the first of a month, an hour back is still this month's count."""
    numbers = plan(per_month=1)
    _, standing = take(numbers, Standing(), micros(2027, 2, 1))

    assert MONTH == take(numbers, standing, micros(2027, 1, 31, 23))[0].refused


def test_a_month_that_is_over_is_no_short_wait():
    """429 insufficient_quota, and the SDKs are told not to come back."""
    verdict, _ = take(plan(per_minute=5, per_month=1), Standing(0, NOW, month_of(NOW), 1), NOW)
    error = refusal(verdict)

    assert isinstance(error, QuotaExhausted)
    assert (429, "insufficient_quota") == (error.status, error.code)
    assert {"Retry-After": "3600", "x-should-retry": "false"} == error.headers()


def test_only_so_many_run_at_once():
    """The one beyond is told to come back in a second."""
    numbers = plan(at_once=2)
    assert "" == take(numbers, Standing(), NOW, running=1)[0].refused
    verdict, _ = take(numbers, Standing(), NOW, running=2)

    assert (CONCURRENCY, 1.0) == (verdict.refused, verdict.retry_after)
    assert {"Retry-After": "1"} == refusal(verdict).headers()


def test_no_number_no_limit():
    """0 never refuses and says nothing in headers."""
    assert unlimited(plan())
    assert not any(unlimited(p) for p in (plan(1), plan(0, 1), plan(0, 0, 1)))
    verdicts = offer(plan(), [NOW] * 10_000)
    assert 10_000 == passed(verdicts)
    assert {} == limit_headers(verdicts[-1])


# --- money ----------------------------------------------------------------------------------------


LEASE = 660_000_000


def aside(purse: Purse, most: int, budget: int, now: int, call: str, weight: int = 1):
    return reserve(purse, Spend("p", most, budget, 0, call), now, LEASE, weight)


def of(purse: Purse) -> tuple[int, int]:
    return purse.spent, purse.held


def test_money_is_set_aside_and_settled():
    """To the picodollar at a million dollars: what is not used returns, what was used beyond is spent."""
    million = 10**18
    first = aside(Purse(), million - 1, million, NOW, "a")
    assert None is aside(first, 2, million, NOW, "b")
    assert (0, million) == of(aside(first, 1, million, NOW, "b"))

    reservation = Reservation("p", million - 1, month_of(NOW), "a")
    assert (3, 0) == of(settle(first, reservation, 3))
    assert (million + 5, 0) == of(settle(first, reservation, million + 5))


def test_a_call_is_paid_in_the_month_that_it_began_in():
    """Settled after the turn of the month, it touches nothing of the new one."""
    end = micros(2026, 12, 31, 23, 59, 59)
    old = aside(Purse(), 70, 100, end, "a")
    new = aside(old, 60, 100, end + 1_000_000, "b")

    assert (old.month + 1, 0, 60) == (new.month, *of(new))
    assert new == settle(new, Reservation("p", 70, old.month, "a"), 0)


def test_money_of_a_call_that_never_ends_returns():
    """When its lease has ended, and not a microsecond sooner; settled after that its cost counts, and once."""
    purse = aside(Purse(), 100, 100, NOW, "lost")
    assert None is aside(purse, 1, 100, NOW + LEASE - 1, "next")
    purse = aside(purse, 60, 100, NOW + LEASE, "next")
    assert (0, 60) == of(purse)

    late = settle(purse, Reservation("p", 100, purse.month, "lost"), 40)
    assert (40, 60) == of(late)
    assert (95, 0) == of(settle(late, Reservation("p", 60, purse.month, "next"), 55))


def test_what_nobody_can_name_is_given_back_by_those_it_was_of():
    """Of money that is only known by its sum a call takes back its own, never more than there is."""
    ends = NOW + LEASE
    purse = Purse(month_of(NOW), 5, 107, ends, {"": Hold(100, ends), "a": Hold(7, ends)})
    one = Reservation("p", 70, purse.month, "b")

    assert (6, 37) == of(settle(purse, one, 1))
    assert (7, 7) == of(settle(settle(purse, one, 1), evolve(one, call="c"), 1))
    assert (5, 100) == of(settle(purse, Reservation("p", 7, purse.month, "a"), 0))


@pytest.mark.parametrize("year", [1999, 2028, 2100])
def test_the_ledgers_span_of_a_month_is_the_month(year):
    """From its first hour to its last, every month."""
    for month in range(1, 13):
        begins, ends = micros(year, month, 1), micros(year + month // 12, month % 12 + 1, 1)
        span = span_of(month_of(begins))
        assert (begins, ends) == (span.since * 1_000_000, span.until * 1_000_000)


def test_a_lease_is_longer_than_the_longest_call():
    assert (660, 660) == (HELD, round(held_for(600.0), 6))


# --- how it is told -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (-1, "0s"),
        (0.000001, "1ms"),
        (0.017, "17ms"),
        (0.9999, "1s"),
        (1, "1s"),
        (1.5, "1.5s"),
        (8.64, "8.64s"),
        (59.9999, "1m0s"),
        (60, "1m0s"),
        (360, "6m0s"),
        (61.0001, "1m1.001s"),
        (3723, "1h2m3s"),
        (3600.25, "1h0m0.25s"),
        (90_000, "25h0m0s"),
    ],
)
def test_durations_are_written_as_openai_does(seconds, text):
    """Go's form (https://pkg.go.dev/time#Duration.String) in milliseconds, rounded up."""
    assert text == go_duration(seconds)


def test_headers_say_our_plans_numbers():
    """Limit, what remains now, and when all of it is there again."""
    [*_, verdict] = offer(plan(10), [NOW] * 3)

    assert {
        "x-ratelimit-limit-requests": "10",
        "x-ratelimit-remaining-requests": "7",
        "x-ratelimit-reset-requests": "18s",
    } == limit_headers(verdict)


def test_a_refusal_says_when_to_come_back():
    """429 rate_limit_exceeded; whole seconds, rounded up, from 1 to 60."""
    for per_minute, seconds in ((1, "60"), (10, "6"), (7, "9"), (200, "1")):
        [*_, verdict] = offer(plan(per_minute), [NOW] * (per_minute + 1))
        error = refusal(verdict)
        assert isinstance(error, RateLimited)
        assert {"Retry-After": seconds} == error.headers()
        assert "0" == limit_headers(verdict)["x-ratelimit-remaining-requests"]
    assert None is refusal(Verdict())
