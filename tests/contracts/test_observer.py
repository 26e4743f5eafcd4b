"""Observers' promise: told at once, whoever receives is dead, hangs or refuses; and nothing of a caller's leaves.

Datadog's library changes the process it is imported into, so its part of this is in `tests/adapters/test_datadog.py`.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from adapters.telemetry.access import AccessLog
from adapters.telemetry.fanout import Fanout
from adapters.telemetry.otel import OpenTelemetry
from adapters.telemetry.sentry import Sentry
from adapters.telemetry.tally import Tally
from domain.usage import CLIENT_GONE, DENIED, FAILED, HIT, INTERRUPTED, MISS, Usage, UsageRecord
from ports.telemetry import Alarm, Observer, Stage
from tests.support.telemetry import dead_port, hanging, receiving, record

ROOT = Path(__file__).parents[2]
STAGES = (Stage("database", 0.0, 1.0), Stage("cache", 1.0, 2.0), Stage("provider", 2.0, 80.0))
MANY = 5_000
AT_ONCE = 1.5
"""Seconds for `MANY` exchanges: a thousand times what they take, and less than any receiver's deadline."""

CANARY = "sk-canary-0123456789abcdef"
PROMPT = "the prompt that nobody may read"

Make = Callable[[int], Any]


@pytest.fixture(params=["dead", "hanging", "refusing"])
def port(request: pytest.FixtureRequest) -> Iterator[int]:
    """Where nobody takes anything."""
    if request.param == "dead":
        yield dead_port()
    elif request.param == "hanging":
        with hanging() as found:
            yield found
    else:
        with receiving(status=500) as receiver:
            yield receiver.port


def otel(port: int) -> OpenTelemetry:
    return OpenTelemetry(f"http://127.0.0.1:{port}", {}, 1.0, "watchllm", "1", time.time)


def sentry(port: int) -> Sentry:
    return Sentry(f"http://public@127.0.0.1:{port}/1", None, "1")


def access(_: int) -> AccessLog:
    return AccessLog(1.0)


def tally(_: int) -> Tally:
    return Tally(frozenset({"gpt-4o"}))


EVERY = [otel, sentry, access, tally]


@pytest.fixture(params=EVERY, ids=lambda make: make.__name__)
def observer(request: pytest.FixtureRequest, port: int) -> Iterator[Any]:
    found = request.param(port)
    yield found
    if hasattr(found, "close"):
        found.close()


def crashed(message: str = PROMPT) -> Exception:
    try:
        raise ValueError(message)
    except ValueError as error:
        return error


def test_nobody_waits_for_a_receiver(observer: Observer) -> None:
    """Thousands of exchanges and crashes cost no time to speak of."""
    records = [record(number, outcome=FAILED, status=502) for number in range(MANY)]
    error = crashed()
    began = time.monotonic()
    for one in records:
        observer.exchange(one, STAGES)
        observer.crash(error, "app.web.front: a request crashed", request=one.id)

    assert time.monotonic() - began < 2 * AT_ONCE


def test_an_end_does_not_wait_either(observer: Any) -> None:
    """Closing gives a receiver that hangs a second or two, not its own deadline."""
    observer.exchange(record(outcome=FAILED, status=500), STAGES)
    observer.crash(crashed(), "somewhere")
    began = time.monotonic()
    if hasattr(observer, "close"):
        observer.close()

    assert time.monotonic() - began < 4


@pytest.mark.parametrize(
    "given",
    [
        {"outcome": outcome, "status": status}
        for outcome, status in [
            (HIT, 200), (MISS, 200), (DENIED, 429), (FAILED, 502), (CLIENT_GONE, 499), (INTERRUPTED, 0)
        ]
    ]
    + [
        {"cost": None, "avoided": None},
        {"model_asked": "\ud800\r\n\x00", "model_answered": "x" * 10_000},
        {"provider": "", "model_answered": "", "cache_reason": "a\nb|c#d"},
        {"usage": Usage(10**9, 10**9, 1, 1, 1, 10**9, 1, 1, True), "cost": 10**30},
        {"endpoint": "", "first_byte_ms": 1e12, "total_ms": -1.0},
    ],
)  # fmt: skip
def test_no_record_is_too_odd(given: dict[str, Any]) -> None:
    """Whatever a row holds, telling of it raises nothing and is not what stops the next."""
    with receiving() as receiver:
        made = [make(receiver.port) for make in EVERY]
        everybody = Fanout(made)
        everybody.exchange(record(**given), STAGES)
        everybody.exchange(record(7, outcome=FAILED, status=502, total_ms=80.0), STAGES)
        everybody.crash(crashed(), "somewhere")
        for one in made:
            if hasattr(one, "close"):
                one.close()

        assert any(span["traceId"].endswith("007") for span in receiver.otlp_spans())


def test_one_that_fails_keeps_nothing_from_the_others(caplog: pytest.LogCaptureFixture) -> None:
    """A faulty observer is logged, and the request goes on."""

    class Faulty:
        def exchange(self, record: UsageRecord, stages: Any = (), /) -> None:
            raise RuntimeError

        def crash(self, error: BaseException, where: str, /, **tags: str) -> None:
            raise RuntimeError

    counting = tally(0)
    both = Fanout([Faulty(), counting])
    both.exchange(record())
    both.crash(crashed(), "a.b: c")

    assert 1 == len(counting.cells)
    assert {"watchllm_crashes_total"} == {name for name, _ in counting.counters}
    assert 2 == caplog.text.count("an observer failed")


def test_nothing_of_a_caller_leaves(caplog: pytest.LogCaptureFixture) -> None:
    """Keys where a name should be, and a prompt in an exception's message, in a local and in a tag's neighbourhood."""
    caplog.set_level(logging.INFO)
    with receiving() as receiver:
        made = [make(receiver.port) for make in EVERY]
        everybody = Fanout(made)
        told = record(outcome=FAILED, status=500, model_asked=CANARY, cache_reason=CANARY)
        everybody.exchange(told, STAGES)
        prompt_of_a_local = PROMPT
        everybody.crash(crashed(), f"a: {CANARY}", request=told.id, project=CANARY)
        everybody.crash(crashed(prompt_of_a_local * 2), "b", request=told.id)
        for one in made:
            if hasattr(one, "close"):
                one.close()
        receiver.wait(lambda: len(receiver.events()) == 2)

        assert b"gen_ai" in receiver.everything
        assert b"ValueError" in receiver.everything
        assert CANARY.encode() not in receiver.everything
        assert PROMPT.encode() not in receiver.everything


def test_a_queue_is_bounded_and_tells_what_it_lost() -> None:
    """The oldest go first, and are counted."""
    with hanging() as port:
        observer = otel(port)
        for number in range(MANY):
            observer.exchange(record(number))
        lost, waiting = observer.exporter.dropped, observer.exporter.waiting
        observer.exporter._closing = True

    assert waiting <= 1_000
    # What is neither lost nor waiting is the one batch that hangs.
    assert MANY - 100 <= lost + waiting <= MANY


def test_an_alarm_is_told_as_a_crash_is() -> None:
    """Each observer takes it; counts and spans keep the two apart, and Sentry hears of what somebody has to mend."""
    with receiving() as receiver:
        made = [make(receiver.port) for make in EVERY]
        everybody = Fanout(made)
        everybody.crash(Alarm("a cache is away", urgent=False), "adapters.a: away")
        everybody.crash(Alarm("a key is refused", urgent=True), "app.b: refused")
        for one in made:
            if hasattr(one, "close"):
                one.close()
        [event] = receiver.wait(receiver.events)
        spans = receiver.otlp_spans()

    assert "a key is refused" == event["exception"]["values"][0]["value"]
    assert ["alarm", "alarm"] == [span["name"] for span in spans]
    assert {2} == {span["status"]["code"] for span in spans}
    assert {
        ("watchllm_alarms_total", (("where", "adapters.a"),)): 1,
        ("watchllm_alarms_total", (("where", "app.b"),)): 1,
    } == made[-1].counters


def test_what_is_off_is_not_imported() -> None:
    """The port and the fan-out know no library, and building the default house imports none of theirs."""
    code = (
        "import sys, app.build, ports.telemetry, adapters.telemetry.fanout, adapters.telemetry.crashes\n"
        "print([one for one in ('sentry_sdk', 'ddtrace', 'prometheus_client', 'http.client') if one in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=False, timeout=30
    )

    loaded = done.stdout.decode()
    assert "sentry_sdk" not in loaded, done.stderr
    assert "ddtrace" not in loaded
    assert "prometheus_client" not in loaded
