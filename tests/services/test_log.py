"""Log lines: one each, capped, escaped, without secrets, and never a flood."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from app import log
from app.log import FIELD_CAP, PER_SECOND, ConsoleLines, FloodGate, JsonLines
from tests.conftest import Clock

OUR_KEY = "lgw_project_VMEmTb0gQH7D1dh0PuYR0bcJkRfcxA3A8L3O"


def record(message: object, *args: object, **extra: object) -> logging.LogRecord:
    made = logging.LogRecord("app.web", logging.INFO, "file.py", 1, message, args, None)
    made.__dict__.update(extra)
    return made


def line(message: object, *args: object, **extra: object) -> dict[str, Any]:
    text = JsonLines().format(record(message, *args, **extra))
    found: dict[str, Any] = json.loads(text)
    return found


@pytest.fixture
def _untouched_logging() -> Iterator[None]:
    """Puts the process's logging back as it was."""
    root = logging.getLogger()
    before = root.handlers[:], root.level
    yield
    root.handlers, root.level = before
    logging.captureWarnings(False)
    logging.getLogger("tornado.access").disabled = False
    for name in ("adapters", "app", "config", "domain", "ports"):
        logging.getLogger(name).setLevel(logging.NOTSET)


def test_a_line_says_when_what_and_who() -> None:
    found = line("served %s in %d ms", "chat", 12, status=200, project="prj_1", cached=False)
    time = found.pop("time")

    assert {
        "level": "info",
        "logger": "app.web",
        "message": "served chat in 12 ms",
        "status": 200,
        "project": "prj_1",
        "cached": False,
    } == found
    assert time.endswith("Z")
    assert len("2026-11-23T12:00:00.000Z") == len(time)


@pytest.mark.parametrize(
    "hostile",
    [
        'x\n{"level":"error","message":"forged"}',
        "x\r\nforged",
        "\x1b[2J\x1b]0;title\x07",
        "\x9b31m",
        "\x7f\x08\x00",
        "line\u2028separator\u2029",
        "right\u202eleft",
        "lone \ud800 surrogate",
    ],
)
@pytest.mark.parametrize("style", [JsonLines(), ConsoleLines()])
def test_what_came_from_outside_stays_on_its_line(style: logging.Formatter, hostile: str) -> None:
    """No newline, escape sequence or bidirectional mark leaves a field, wherever it came in."""
    for made in (record(hostile), record("%s", hostile), record("said", user_agent=hostile)):
        assert style.format(made).isprintable()
        style.format(made).encode()


def test_json_lines_are_plain_ascii() -> None:
    """No byte of a line can be taken for a control byte, in any encoding."""
    assert JsonLines().format(record("grüße \x9b €")).isascii()


def test_a_field_is_capped() -> None:
    """A field has at most 1 KiB, however long what came in was."""
    found = line("x" * 5_000_000, path="y" * 5_000, nested={"z": "z" * 5_000})

    assert [FIELD_CAP] * 3 == [len(found[name]) for name in ("message", "path", "nested")]
    assert found["path"].endswith("...")


@pytest.mark.parametrize(
    ("text", "secret", "left"),
    [
        (f"key {OUR_KEY} is unknown", OUR_KEY[12:], "key lgw_project_<secret> is unknown"),
        ("lgw_test_abcdefgh1234", "abcdefgh1234", "lgw_test_<secret>"),
        ("sk-proj-abc_DEF-123456", "abc_DEF", "sk-<secret>"),
        ("sk-ant-api03-abcdefgh", "abcdefgh", "sk-<secret>"),
        ("gsk_abcdefgh123", "abcdefgh", "gsk_<secret>"),
        ("sk_live_abcdefgh, whsec_abcdefgh", "abcdefgh", "sk_<secret>, whsec_<secret>"),
        ("Authorization: Bearer abcdefgh.ijkl", "abcdefgh", "Authorization: Bearer <secret>"),
        ("at postgresql://u:hunter2@db/x", "hunter2", "at postgresql://u:<secret>@db/x"),
        ("risk-abcdefghijk is not one", "", "risk-abcdefghijk is not one"),
    ],
)
def test_what_looks_like_a_secret_is_cut(text: str, secret: str, left: str) -> None:
    """The last net: nothing of ours logs a key, but a foreign exception's text may hold one."""
    assert left == line(text)["message"]
    assert left == line("x", detail=text)["detail"]
    assert not secret or secret not in ConsoleLines().format(record(text))


def test_an_exception_is_told_without_its_words() -> None:
    """They quote what was wrong. The end of the traceback is kept, capped and scrubbed like any field."""
    try:
        raise ValueError(f"refused {OUR_KEY}, a prompt")
    except ValueError:
        made = record("failed")
        made.exc_info = sys.exc_info()
    found = json.loads(JsonLines().format(made))

    assert found["exception"].endswith("\nValueError: <withheld>")
    assert "in test_an_exception_is_told_without_its_words" in found["exception"]
    assert len(found["exception"]) <= FIELD_CAP


def test_what_led_to_an_exception_is_told_too() -> None:
    """Causes and members of a group, each by type and stack; the system's own words for its own errors."""
    try:
        try:
            try:
                open("/nowhere/prompt")  # noqa: SIM115
            except OSError as exc:
                raise ValueError("a prompt") from exc
        except ValueError as exc:
            raise ExceptionGroup("a prompt", [exc]) from None
    except ExceptionGroup:
        made = record("failed")
        made.exc_info = sys.exc_info()
    told = json.loads(JsonLines().format(made))["exception"]

    ends = [line for line in told.splitlines() if line[0].isalpha() and "Traceback" not in line]
    assert [
        "FileNotFoundError: No such file or directory",
        "ValueError: <withheld>",
        "ExceptionGroup: <withheld>",
    ] == ends


def test_what_strangers_garble_is_not_quoted(capsys: pytest.CaptureFixture[str]) -> None:
    """Tornado's lines about malformed requests hold their words; its warnings are heard."""
    log.configure("debug", "json", sys.stderr)
    logging.getLogger("tornado.general").info("Malformed HTTP message from %s: %s", "here", "key")
    logging.getLogger("tornado.general").warning("something else")

    [told] = capsys.readouterr().err.splitlines()
    assert "something else" == json.loads(told)["message"]


def test_asyncio_speaks_of_tasks_without_their_exceptions() -> None:
    """Its message holds the exception's words from its second line on."""
    made = record("Task exception was never retrieved\nfuture: <Task ValueError('a prompt')>")
    made.name = "asyncio"

    assert "Task exception was never retrieved" == json.loads(JsonLines().format(made))["message"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, None),
        (True, True),
        (3, 3),
        (0.5, 0.5),
        (float("nan"), "nan"),
        (float("inf"), "inf"),
        ([1], "[1]"),
    ],
)
def test_fields_are_valid_json(given: object, expected: object) -> None:
    assert expected == line("x", field=given)["field"]


def test_a_field_cannot_take_the_place_of_another() -> None:
    found = line("true", level="forged", time="forged", logger="forged")

    assert ("info", "true", "app.web") == (found["level"], found["message"], found["logger"])


def test_arguments_that_do_not_fit_are_no_crash() -> None:
    assert "%d of %d" == line("%d of %d", "one")["message"]


def test_a_message_cannot_flood_the_log(clock: Clock) -> None:
    """Ten a second of one message pass; the next second's first says how many did not. Others are unhurt."""
    gate = FloodGate(clock)
    passed = [gate.filter(record("again %s", number)) for number in range(100)]

    assert PER_SECOND == sum(passed)
    assert gate.filter(record("another"))
    clock.advance(1)
    late = record("again %s", 100)
    assert gate.filter(late)
    assert 90 == json.loads(JsonLines().format(late))["suppressed"]


def test_the_gate_remembers_a_bounded_number(clock: Clock) -> None:
    """Templates built from outside words cannot fill the memory."""
    gate = FloodGate(clock)
    for number in range(5_000):
        gate.filter(record(f"built {number}"))

    assert len(gate._windows) <= 1_000


@pytest.mark.usefixtures("_untouched_logging")
@pytest.mark.parametrize(
    ("format", "json_lines"), [(None, True), ("json", True), ("console", False)]
)
def test_configured_logging(format: str | None, json_lines: bool) -> None:
    """Without a terminal it is JSON; lines below the level stay out, libraries' debug lines always."""
    stream = io.StringIO()
    log.configure("debug", format, stream)
    logging.getLogger("app.web").debug("ours")
    logging.getLogger("aiohttp.client").debug("headers and bodies")
    logging.getLogger("tornado.access").warning("GET /?key=1")
    lines = stream.getvalue().splitlines()

    assert 1 == len(lines)
    assert "ours" in lines[0]
    assert json_lines == lines[0].startswith("{")


@pytest.mark.usefixtures("_untouched_logging")
def test_configuring_twice_writes_once() -> None:
    log.configure("info", "json", io.StringIO())
    stream = io.StringIO()
    log.configure("info", "json", stream)
    logging.getLogger("app").info("once")
    logging.getLogger("app").debug("not at all")

    assert 1 == len(stream.getvalue().splitlines())
