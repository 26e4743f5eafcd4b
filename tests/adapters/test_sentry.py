"""Sentry, against a receiver on a real socket: what an event holds, and what it never does."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from attrs import define

from adapters.telemetry.sentry import PENDING, PER_SECOND, Sentry
from domain.usage import FAILED
from ports.telemetry import Alarm
from tests.conftest import Clock
from tests.support.telemetry import Receiver, receiving, record

ROOT = Path(__file__).parents[2]
PROMPT = "how far is the moon"


@define
class Given:
    sentry: Sentry
    receiver: Receiver


@pytest.fixture
def given(clock: Clock) -> Iterator[Given]:
    with receiving() as receiver:
        sentry = Sentry(receiver.dsn, "tests", "watchllm@1", monotonic=clock)
        yield Given(sentry, receiver)
        sentry.close()


def crash(kind: type[Exception] = ValueError) -> Exception:
    prompt = PROMPT
    try:
        raise kind(f"cannot read {prompt}")
    except kind as error:
        return error


def one_event(given: Given) -> dict[str, Any]:
    [event] = given.receiver.wait(given.receiver.events)
    return event  # type: ignore[no-any-return]


def test_an_event_says_what_broke_and_whose_it_was(given: Given) -> None:
    """The row of the same request, told just before, gives project, route and model."""
    told = record(outcome=FAILED, status=500, model_asked="gpt-4o")
    given.sentry.exchange(told)
    given.sentry.crash(crash(), "app.web.front: a request crashed", request=told.id)

    event = one_event(given)
    assert ("watchllm@1", "tests", "error") == (
        event["release"],
        event["environment"],
        event["level"],
    )
    assert {
        "request": told.id,
        "project": "prj_1",
        "route": "chat/completions",
        "model": "gpt-4o",
        "provider": "openai",
        "where": "app.web.front: a request crashed",
    } == event["tags"]
    [exception] = event["exception"]["values"]
    assert ("ValueError", "<withheld>") == (exception["type"], exception["value"])
    assert "crash" == exception["stacktrace"]["frames"][-1]["function"]


def test_an_event_holds_no_words_of_a_caller(given: Given) -> None:
    """Neither locals nor messages, nor the machine's name, users, modules or breadcrumbs."""
    given.sentry.crash(crash(), "somewhere")
    event = one_event(given)

    assert PROMPT.encode() not in given.receiver.everything
    assert set() == {"request", "user", "breadcrumbs", "server_name", "extra", "modules"} & set(
        event
    )
    for frame in event["exception"]["values"][0]["stacktrace"]["frames"]:
        assert "vars" not in frame


def test_a_crash_without_a_request_is_told_too(given: Given) -> None:
    """Of a background task or a loop."""
    given.sentry.crash(crash(), "app.services.background: background work crashed")

    assert {"where"} == set(one_event(given)["tags"])


def test_a_storm_of_one_kind_is_thinned(given: Given, clock: Clock) -> None:
    """Ten a second of each place and type; the others are counted, and the next second tells again."""
    for _ in range(50):
        given.sentry.crash(crash(), "here")
    given.sentry.crash(crash(KeyError), "here")
    given.sentry.crash(crash(), "there")
    clock.advance(1)
    given.sentry.crash(crash(), "here")

    given.receiver.wait(lambda: len(given.receiver.events()) == PER_SECOND + 3)
    assert 40 == given.sentry.suppressed


def test_what_is_remembered_is_bounded(given: Given) -> None:
    """Failures without a crash do not pile up, nor do hits at all."""
    for number in range(2_000):
        given.sentry.exchange(record(number))
        given.sentry.exchange(record(number, outcome=FAILED, status=502))

    assert 256 == len(given.sentry._broken)


def test_few_tracebacks_wait() -> None:
    """Each holds what its frames were working on, so the queue in front of the SDK is short."""
    assert PENDING <= 100


def test_an_alarm_is_an_event_if_somebody_has_to_act(given: Given) -> None:
    """Its text is the log's own line, keys cut; what mends itself is no event."""
    given.sentry.crash(Alarm("it will be back", urgent=False), "adapters.x: it will be back")
    given.sentry.crash(
        Alarm("a provider refused sk-0123456789abc", urgent=True),
        "app.x: refused",
        provider="openai",
    )

    event = one_event(given)
    [exception] = event["exception"]["values"]
    assert ("Alarm", "a provider refused sk-<secret>") == (exception["type"], exception["value"])
    assert {"where": "app.x: refused", "provider": "openai"} == event["tags"]


TORNADO = """
import sys
import sentry_sdk
from tornado.web import RequestHandler
before = RequestHandler._execute
from adapters.telemetry.sentry import Sentry
Sentry("http://public@127.0.0.1:9/1", None, "1", tornado=sys.argv[1] == "on", traces=1.0)
client = sentry_sdk.get_client()
print(RequestHandler._execute is not before, sorted(client.integrations), client.options["traces_sample_rate"])
"""


@pytest.mark.parametrize(
    ("setting", "expected"), [("off", "False [] None"), ("on", "True ['tornado'] 1.0")]
)
def test_tornado_is_left_alone_unless_asked(setting: str, expected: str) -> None:
    """The SDK's integration changes Tornado's own handlers, so each way has a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", TORNADO, setting],
        cwd=ROOT,
        capture_output=True,
        check=False,
        timeout=60,
    )

    assert expected == done.stdout.decode().strip(), done.stderr.decode()
