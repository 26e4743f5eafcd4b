"""How log lines look: one JSON object or one plain line each, on stderr.

What came from outside may be in any field, so every field is capped, control characters never reach the
terminal, texts that look like keys are cut, and one message cannot flood the rest. Exceptions quote what was wrong, and
that may be a prompt: their types and stacks are told, their words are not.
"""

from __future__ import annotations

import json
import logging
import re
import time
import traceback
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any, Final, TextIO

from adapters.telemetry.scrub import said
from adapters.telemetry.stacks import type_of

FIELD_CAP: Final = 1024
PER_SECOND: Final = 10
"""How often one message (a logger and its template) may come in a second."""

OWN: Final = ("adapters", "app", "config", "domain", "ports")
_PLAIN: Final = frozenset(
    {*logging.LogRecord("", 0, "", 0, "", None, None).__dict__, "message", "asctime", "suppressed"}
)
_SECRETS: Final = re.compile(
    r"(lgw_(?:proj(?:ect)?|test)_|\b(?:sk|rk|gsk|whsec)[-_])[0-9A-Za-z_-]{8,}"  # keys of ours and of others
    r"|((?i:bearer)\s+)[0-9A-Za-z._~+/=-]{8,}"
    r"|(://[^\s/:@]*:)[^\s@]+(?=@)"  # the password of a URL
)
_MAX_TEMPLATES: Final = 1000
DEEPEST: Final = 5
SAMPLED: Final = "adapters.telemetry.access"
"""The logger of access lines: a setting says already how many there are."""


def configure(level: str, format: str | None, stream: TextIO) -> None:
    """Sends all logs to `stream`. Without a format: plain lines on a terminal, else JSON.

    `debug` is ours alone: libraries write headers and bodies at that level.
    """
    if format is None:
        format = "console" if stream.isatty() else "json"
    handler = logging.StreamHandler(stream)
    handler.setFormatter(ConsoleLines() if format == "console" else JsonLines())
    handler.addFilter(_fit_to_tell)
    handler.addFilter(FloodGate(time.monotonic))
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    number = logging.getLevelNamesMapping()[level.upper()]
    root.setLevel(max(number, logging.INFO))
    for name in OWN:
        logging.getLogger(name).setLevel(number)
    # Tornado's access log shows whole query strings, which may hold what nobody should see.
    logging.getLogger("tornado.access").disabled = True
    logging.captureWarnings(True)


def _fit_to_tell(record: logging.LogRecord) -> bool:
    """Tornado says of each malformed request what was malformed, word for word: nobody's news, and perhaps a key."""
    return record.name != "tornado.general" or record.levelno >= logging.WARNING


class JsonLines(logging.Formatter):
    """One object a line, in ASCII: no byte of it can steer a terminal or end the line early."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _message(record),
        }
        for name, given in _extras(record).items():
            line.setdefault(name, given)
        return json.dumps(line, ensure_ascii=True, separators=(",", ":"))


class ConsoleLines(logging.Formatter):
    """For people: what cannot be printed is shown as an escape."""

    def format(self, record: logging.LogRecord) -> str:
        words = [_time(record)[11:19], record.levelname.lower().ljust(7), _message(record)]
        words += [f"{name}={given}" for name, given in _extras(record).items()]
        return _printable("  ".join(words))


class FloodGate:
    """Lets a message through `PER_SECOND` times a second; the next one after a pause says how many were not."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._windows: dict[tuple[str, object], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name == SAMPLED:
            return True
        now = self._monotonic()
        # An object that is no text has no template; its type will do.
        known = record.msg if isinstance(record.msg, str) else type(record.msg)
        message = (record.name, known)
        if len(self._windows) >= _MAX_TEMPLATES and message not in self._windows:
            self._windows.clear()
        began, count = self._windows.get(message, (now, 0))
        if now - began < 1:
            self._windows[message] = (began, count + 1)
            return count < PER_SECOND
        self._windows[message] = (now, 1)
        if count > PER_SECOND:
            record.suppressed = count - PER_SECOND
        return True


def _time(record: logging.LogRecord) -> str:
    when = datetime.fromtimestamp(record.created, UTC)
    return when.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _message(record: logging.LogRecord) -> str:
    if record.name == "asyncio":
        # Its further lines are what it speaks of, exceptions and their words included.
        return _capped(str(record.msg).partition("\n")[0])
    try:
        return _capped(record.getMessage())
    except (TypeError, ValueError, KeyError):  # a template and arguments that do not fit
        return _capped(str(record.msg))


def _extras(record: logging.LogRecord) -> dict[str, object]:
    given = {name: _field(found) for name, found in record.__dict__.items() if name not in _PLAIN}
    if "suppressed" in record.__dict__:
        given["suppressed"] = record.__dict__["suppressed"]
    if record.exc_info and record.exc_info[1] is not None:
        # The end of a traceback says most.
        given["exception"] = _scrubbed("\n".join(_told(record.exc_info[1])))[-FIELD_CAP:]
    return given


def _told(error: BaseException) -> Iterator[str]:
    """What led to it first, as Python does it; no further than `DEEPEST` exceptions back."""
    chain: list[BaseException] = []
    one: BaseException | None = error
    while one is not None and len(chain) < DEEPEST:
        chain.append(one)
        one = one.__cause__ or (None if one.__suppress_context__ else one.__context__)
    for one in reversed(chain):
        if isinstance(one, BaseExceptionGroup):
            for inner in one.exceptions[:DEEPEST]:
                yield from _told(inner)
        stack = "".join(traceback.format_tb(one.__traceback__))
        yield f"Traceback (most recent call last):\n{stack}{type_of(one)}: {said(one)}"


def _field(found: object) -> object:
    if found is None or isinstance(found, bool | int):
        return found
    if isinstance(found, float) and abs(found) < float("inf"):  # false for NaN too
        return found
    return _capped(str(found))


def _capped(text: str) -> str:
    if len(text) > 64 * FIELD_CAP:
        text = text[: 64 * FIELD_CAP]  # bounds the work of the search below
    text = _scrubbed(text)
    return text if len(text) <= FIELD_CAP else text[: FIELD_CAP - 3] + "..."


def _scrubbed(text: str) -> str:
    return _SECRETS.sub(lambda found: next(filter(None, found.groups()), "") + "<secret>", text)


def _printable(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(
        sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text
    )
