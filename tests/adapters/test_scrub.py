"""What leaves and what does not, as tables."""

from __future__ import annotations

from typing import Any

import pytest

from adapters.telemetry.crashes import CrashHandler
from adapters.telemetry.scrub import CAP, WITHHELD, said, scrubbed, scrubbed_event


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("nothing to hide", "nothing to hide"),
        ("lgw_project_0123456789abcdefgh", "lgw_project_<secret>"),
        ("lgw_test_0123456789abcdefgh is wrong", "lgw_test_<secret> is wrong"),
        ("key=sk-proj-0123456789abcdef.", "key=sk-<secret>."),
        ("gsk_0123456789abcdef", "gsk_<secret>"),
        ("whsec_0123456789abcdef", "whsec_<secret>"),
        ("Authorization: Bearer abc.def-ghi/jkl==", "Authorization: Bearer <secret>"),
        ("basic dXNlcjpwYXNzd29yZA==", "basic <secret>"),
        ("postgresql://user:pa55@host/db", "postgresql://user:<secret>@host/db"),
        ("redis://:pa55@host:1", "redis://:<secret>@host:1"),
    ],
)
def test_keys_are_cut_out_of_texts(text: str, left: str) -> None:
    """Ours, the providers', Stripe's, bearers and passwords of URLs; the rest of the text stays."""
    assert left == scrubbed(text)


def test_a_text_has_an_end() -> None:
    """However long it was, and wherever in it the key stood."""
    assert CAP == len(scrubbed("x" * 10_000_000))
    assert "0123456789" not in scrubbed("y" * (CAP - 20) + " sk-" + "0123456789" * 100)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ValueError("a prompt"), WITHHELD),
        (KeyError("a prompt"), WITHHELD),
        (UnicodeEncodeError("ascii", "a prompt\xe9", 8, 9, "because"), WITHHELD),
        (OSError("a prompt"), WITHHELD),
        (OSError(28, "No space left on device"), "No space left on device"),
        (ConnectionRefusedError(111, "Connection refused"), "Connection refused"),
    ],
)
def test_a_message_is_withheld_unless_the_system_wrote_it(error: Exception, told: str) -> None:
    assert told == said(error)


PROMPT = "tell me a secret"
EVENT: dict[str, Any] = {
    "level": "error",
    "release": "1",
    "user": {"ip_address": "10.0.0.1"},
    "server_name": "db-7",
    "breadcrumbs": {"values": [{"message": PROMPT}]},
    "extra": {"body": PROMPT},
    "logentry": {"message": "%s crashed", "params": [PROMPT], "formatted": PROMPT},
    "request": {
        "method": "POST",
        "url": f"http://here/v1/x?q={PROMPT}",
        "query_string": PROMPT,
        "data": {"messages": [PROMPT]},
        "headers": {"Authorization": PROMPT, "x": PROMPT},
        "cookies": {"a": PROMPT},
        "env": {"REMOTE_ADDR": PROMPT},
    },
    "exception": {
        "values": [
            {"type": "KeyError", "value": PROMPT, "stacktrace": {"frames": [{"vars": {"a": PROMPT}}]}},
            {
                "type": "ValueError",
                "value": PROMPT,
                "stacktrace": {"frames": [{"function": "f", "lineno": 3, "vars": {"p": PROMPT}}]},
            },
        ]
    },
    "tags": {"project": "prj_1", "where": "sk-0123456789abcdef", "api_key": PROMPT},
    "contexts": {"deep": {"Authorization": PROMPT, "raw": PROMPT.encode(), "list": [{"vars": PROMPT}]}},
}  # fmt: skip


def test_an_event_keeps_what_helps_and_loses_the_rest() -> None:
    """Types, frames and tags stay; locals, bodies, headers, queries, users and messages go."""
    left = scrubbed_event(EVENT)

    assert PROMPT not in repr(left)
    assert {"method": "POST", "url": "http://here/v1/x"} == left["request"]
    assert {"message": "%s crashed"} == left["logentry"]
    assert ["KeyError", "ValueError"] == [one["type"] for one in left["exception"]["values"]]
    frame = left["exception"]["values"][1]["stacktrace"]["frames"][0]
    assert {"function": "f", "lineno": 3} == frame
    assert {"project": "prj_1", "where": "sk-<secret>", "api_key": "<secret>"} == left["tags"]
    assert set(left) == {
        "level",
        "release",
        "logentry",
        "request",
        "exception",
        "tags",
        "contexts",
    }


@pytest.mark.parametrize("event", [{}, {"exception": None}, {"request": 3}, {"logentry": "x"}, {"exception": {"values": [None]}}])  # fmt: skip
def test_an_odd_event_is_scrubbed_too(event: dict[str, Any]) -> None:
    """A hook that raises would let the SDK's next version decide what happens."""
    assert isinstance(scrubbed_event(event), dict)


def test_an_event_that_never_ends_is_cut() -> None:
    """Nested deeper than anything of ours, or holding itself."""
    event: dict[str, Any] = {}
    event["contexts"] = event

    assert WITHHELD in repr(scrubbed_event(event))


class Notes:
    def __init__(self) -> None:
        self.told: list[tuple[str, str, dict[str, str]]] = []

    def exchange(self, *_: Any) -> None: ...

    def crash(self, error: BaseException, where: str, /, **tags: str) -> None:
        self.told.append((type(error).__name__, where, tags))


def test_every_logged_exception_is_a_crash() -> None:
    """Its place is the logger and the template; whose it was is in `extra`. Observers' own loggers are left out.

    What of ours is logged as trouble without one is an alarm.
    """
    import logging

    notes = Notes()
    handler = CrashHandler(notes)
    try:
        raise ValueError(PROMPT)
    except ValueError as error:
        for name, message, exc in [
            ("app.web.front", "a request crashed", error),
            ("asyncio", f"Task exception was never retrieved\nfuture: <{PROMPT}>", error),
            ("app.x", "no exception", None),
            ("tornado.x", "no exception either, and not ours", None),
            ("sentry_sdk.errors", "its own", error),
            ("adapters.telemetry.fanout", "an observer failed", error),
        ]:
            info = None if exc is None else (type(exc), exc, exc.__traceback__)
            line = logging.LogRecord(name, logging.ERROR, "", 0, message, None, info)
            line.__dict__["request"] = "r1"
            handler.handle(line)

    assert [
        ("ValueError", "app.web.front: a request crashed", {"request": "r1"}),
        ("ValueError", "asyncio: Task exception was never retrieved", {"request": "r1"}),
        ("Alarm", "app.x: no exception", {"request": "r1"}),
    ] == notes.told
