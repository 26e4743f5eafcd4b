"""The breaker's rulings, as a table of what happens when and what is allowed then."""

from __future__ import annotations

import logging

import pytest

from adapters.redis.breaker import OPENS_AFTER, PROBE_EVERY, Breaker
from tests.conftest import Clock

FAIL, OK, TRIP = "fail", "ok", "trip"
LONG_DEAD = [FAIL] * OPENS_AFTER


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    return Breaker(clock, "Redis at there:1")


@pytest.mark.parametrize(
    ("events", "state", "allowed"),
    [
        ([], "closed", True),
        ([FAIL] * 4, "closed", True),
        ([FAIL] * 4 + [OK] + [FAIL] * 4, "closed", True),
        ([FAIL] * 5, "open", False),
        ([TRIP], "open", False),
        ([FAIL] * 9, "open", False),
        ([*LONG_DEAD, 0.9], "open", False),
        ([*LONG_DEAD, 1.0], "open", True),
        ([*LONG_DEAD, 1.0, FAIL], "open", True),
        ([*LONG_DEAD, OK], "closed", True),
        ([*LONG_DEAD, 1.0, OK], "closed", True),
        ([*LONG_DEAD, OK, FAIL], "closed", True),
        ([TRIP, 5.0, OK, *LONG_DEAD, 0.9], "open", False),
    ],
)
def test_the_table(breaker, clock, events, state, allowed):
    """Five failures in a row open it, a success closes it, a second opens a gap for one probe."""
    for event in events:
        match event:
            case "fail":
                breaker.failed("no answer")
            case "ok":
                breaker.succeeded()
            case "trip":
                breaker.trip("refused")
            case seconds:
                clock.advance(seconds)

    assert (state, allowed) == (breaker.state, breaker.allows())


def test_an_open_breaker_lets_one_probe_pass_each_second(breaker, clock):
    """However often it is asked."""
    breaker.trip("refused")
    passed = 0
    for _ in range(1000):
        clock.advance(0.01)
        passed += breaker.allows()

    assert 9 <= passed <= 10
    assert 0 <= breaker.probe_in() <= PROBE_EVERY


def test_it_tells_each_change_once(breaker, clock, caplog):
    """Two lines for an outage, whatever its length."""
    caplog.set_level(logging.INFO)
    for _ in range(50):
        breaker.failed("no answer within 50 ms")
        clock.advance(0.1)
    breaker.succeeded()
    breaker.succeeded()

    assert [
        "Redis at there:1 is away: no answer within 50 ms. Asking again each second.",
        "Redis at there:1 is back after 4.6 s.",
    ] == [record.getMessage() for record in caplog.records]
