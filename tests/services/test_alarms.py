"""What an operator hears: once when something begins, once when it is over, whatever the traffic."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import Any

import pytest
from attrs import define

from adapters.providers.failures import KeyRefused, event_error, openai_failure
from adapters.providers.watched import Watched
from adapters.telemetry.crashes import CrashHandler
from app.services.alarms import IN_A_ROW, QUIET, Alarms
from app.services.health import Health
from domain.errors import (
    ApiError,
    ModelNotFound,
    RateLimited,
    Unavailable,
    UpstreamFailed,
    UpstreamTimeout,
)
from ports.telemetry import Alarm
from tests.conftest import Clock


@pytest.fixture(autouse=True)
def _heard(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


def test_a_refused_key_is_told_once_and_once_when_it_is_taken_again(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """To the log and to whoever subscribed, per provider, however many requests meet it."""
    changes: list[tuple[str, bool]] = []
    alarms = Alarms(clock, lambda provider, refused: changes.append((provider, refused)))
    for _ in range(1_000):
        alarms.provider_key("openai", True, 401)
    alarms.provider_key("groq", False)
    clock.advance(QUIET)
    for _ in range(1_000):
        alarms.provider_key("openai", False)

    assert [("openai", True), ("openai", False)] == changes
    assert [
        ("ERROR", "a provider refused our key"),
        ("INFO", "a provider takes our key again"),
    ] == [(record.levelname, record.getMessage()) for record in caplog.records]
    assert [("openai", 401), ("openai", None)] == [
        (record.provider, getattr(record, "status", None))  # type: ignore[attr-defined]
        for record in caplog.records
    ]


def test_answers_that_were_under_way_end_nothing(clock: Clock) -> None:
    """Nor does a key that is refused for one model and taken for another make it flap."""
    changes: list[bool] = []
    alarms = Alarms(clock, lambda _, refused: changes.append(refused))
    for _ in range(100):
        alarms.provider_key("openai", True, 403)
        alarms.provider_key("openai", False)
        clock.advance(QUIET / 2)
        alarms.provider_key("openai", False)

    assert [True] == changes


@pytest.mark.parametrize(
    ("news", "told"),
    [
        ("x" * (IN_A_ROW - 1), []),
        ("x" * 4 + "." + "x" * 4, []),
        ("x" * 100, ["a provider fails"]),
        ("x" * 9 + ".x.x.", ["a provider fails"]),
        ("x" * 9 + "|.", ["a provider fails", "a provider answers again"]),
        ("x" * 9 + "|.xx.", ["a provider fails", "a provider answers again"]),
        ("x" * 9 + "|." + "x" * 5, ["a provider fails", "a provider answers again", "a provider fails"]),
    ],
)  # fmt: skip
def test_a_provider_that_fails(
    clock: Clock, caplog: pytest.LogCaptureFixture, news: str, told: list[str]
) -> None:
    """Five in a row begin it; the first answer that comes some seconds after the last failure ends it."""
    alarms = Alarms(clock)
    for one in news:
        if one == "|":
            clock.advance(QUIET)
        else:
            alarms.provider("openai", one == ".")

    assert told == [record.getMessage() for record in caplog.records]
    [state] = [reading.value for reading in alarms.readings()]
    assert (bool(told) and told[-1] == "a provider fails") == bool(state)


# --- what counts as news -------------------------------------------------------------------------------


@define
class Scripted:
    """A provider whose every call ends in this."""

    end: Any

    async def complete(self, *_: Any) -> Any:
        if isinstance(self.end, BaseException):
            raise self.end
        return self.end

    open_stream = models = complete


@pytest.mark.parametrize(
    ("end", "key", "calls"),
    [
        ("an answer", (False, 200), True),
        (KeyRefused("", 402), (True, 402), None),
        (openai_failure("openai", 401, b"", None), (True, 401), None),
        (event_error("openai", {"code": "invalid_api_key"}), (True, 502), None),
        (UpstreamFailed(""), None, False),
        (UpstreamTimeout(""), None, False),
        (Unavailable(""), None, False),
        (RateLimited("", retry_after=1), None, None),
        (ModelNotFound("x"), None, None),
        (openai_failure("openai", 400, b"", None), None, None),
        (asyncio.CancelledError(), None, None),
        (LookupError("of our own"), None, None),
    ],
)
@pytest.mark.parametrize("verb", ["complete", "open_stream", "models"])
async def test_what_a_call_tells(end: Any, key: Any, calls: Any, verb: str) -> None:
    """Success is good news of both. Of a request's own fault, a limit or a client that left, nothing is learned."""
    heard: list[Any] = []
    watched = Watched(
        Scripted(end),
        "openai",
        lambda name, refused, status: heard.append((name, refused, status)),
        lambda name, answered: heard.append((name, answered)),
    )
    words: Any = () if verb == "models" else (None, None)
    with suppress(ApiError, LookupError, asyncio.CancelledError):
        await getattr(watched, verb)(*words)

    expected = [] if key is None else [("openai", *key)]
    expected += [] if calls is None else [("openai", calls)]
    assert expected == heard


# --- the journal --------------------------------------------------------------------------------------


@define
class Filling:
    fullness: float = 0.0


def test_a_full_journal_is_told_once(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """As an error, for it refuses requests; and once when there is room, not each time a row finds some."""
    journal: Any = Filling()
    health = Health(
        {}, journal, "1", clock, lambda: True, journal_full=lambda: journal.fullness >= 1
    )
    for journal.fullness in (0.5, 1.0, 0.99, 1.0, 0.9, 1.0, 0.5, 0.4):
        health.look_at_journal()

    assert ["ERROR", "INFO"] == [record.levelname for record in caplog.records]
    assert "full" in caplog.records[0].getMessage()


# --- from the log to the observers ----------------------------------------------------------------------


def test_trouble_of_ours_becomes_an_alarm_where_it_was_logged(clock: Clock) -> None:
    """An error is urgent, and so is what is away; a warning that follows from it is not. Its stack ends in the function
    that logged, its text is the line's.
    """
    told: list[tuple[BaseException, str, dict[str, str]]] = []

    class Notes:
        def exchange(self, *_: Any) -> None: ...

        def crash(self, error: BaseException, where: str, /, **tags: str) -> None:
            told.append((error, where, tags))

    handler = CrashHandler(Notes())
    logging.getLogger().addHandler(handler)
    try:
        alarms = Alarms(clock)
        alarms.provider_key("openai", True, 401)
        for _ in range(IN_A_ROW):
            alarms.provider("groq", False)
        logging.getLogger("app.x").warning("so this waits")
        logging.getLogger("foreign").error("not ours")
        logging.getLogger("adapters.telemetry.exporter").warning("of a receiver")
    finally:
        logging.getLogger().removeHandler(handler)

    assert [
        ("a provider refused our key", True, {"provider": "openai"}),
        ("a provider fails", True, {"provider": "groq"}),
        ("so this waits", False, {}),
    ] == [(str(error), error.urgent, tags) for error, _, tags in told if isinstance(error, Alarm)]
    assert ["provider_key", "provider"] == [last_function(error) for error, _, _ in told][:2]


def last_function(error: BaseException) -> str:
    found = error.__traceback__
    assert found is not None
    while found.tb_next is not None:
        found = found.tb_next
    return found.tb_frame.f_code.co_name
