"""What the log says of trouble is told to the observers: of requests, background tasks, loops and libraries alike.

One place for all of it, today's and tomorrow's. A line with a traceback is a crash, whoever wrote it. A line of our own
without one is an alarm: at ERROR somebody has to act, at WARNING it mends itself. A WARNING whose `state` is `away` tells
of a store or a provider; what only follows from that has none.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from types import FrameType, TracebackType
from typing import Final

from ports.telemetry import Alarm, Observer

OWN: Final = ("adapters.telemetry", "sentry_sdk", "ddtrace", "urllib3")
"""Loggers of the observers themselves, which would tell of each other for ever."""
OURS: Final = ("adapters.", "app.")
TAGS: Final = ("request", "project", "route", "model", "provider")
DEEPEST: Final = 30
AWAY: Final = "away"


class CrashHandler(logging.Handler):
    """For the root logger. `where` is the logger and the template, never the formatted text."""

    def __init__(self, observer: Observer) -> None:
        super().__init__(logging.WARNING)
        self._observer = observer

    def emit(self, record: logging.LogRecord) -> None:
        if record.name.startswith(OWN):
            return
        error = record.exc_info[1] if record.exc_info else None
        if error is None and record.name.startswith(OURS):
            error = _alarm(record)
        if error is None or isinstance(error, asyncio.CancelledError):
            return
        given = record.__dict__
        tags = {name: str(given[name]) for name in TAGS if given.get(name)}
        self._observer.crash(error, f"{record.name}: {_template(record)}", **tags)


def _template(record: logging.LogRecord) -> str:
    # asyncio formats before it logs; only its own libraries' first line is the same each time.
    text = record.msg if isinstance(record.msg, str) else type(record.msg).__name__
    return text.partition("\n")[0][:120]


def _alarm(record: logging.LogRecord) -> Alarm:
    away = record.__dict__.get("state") == AWAY
    error = Alarm(record.getMessage(), urgent=away or record.levelno >= logging.ERROR)
    return error.with_traceback(_way_here())


def _way_here() -> TracebackType | None:
    """The stack of whoever logs, as if it had raised there."""
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame.f_code.co_filename in (__file__, logging.__file__):
        frame = frame.f_back
    found: TracebackType | None = None
    for _ in range(DEEPEST):
        if frame is None:
            break
        found = TracebackType(found, frame, frame.f_lasti, frame.f_lineno)
        frame = frame.f_back
    return found
