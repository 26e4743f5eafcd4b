"""Every logged exception is told to the observers: of requests, background tasks, loops and libraries alike.

One place for all of them, today's and tomorrow's: what is worth a traceback in the log is a crash.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from ports.telemetry import Observer

OWN: Final = ("adapters.telemetry", "sentry_sdk", "ddtrace", "urllib3")
"""Loggers of the observers themselves, which would tell of each other for ever."""
TAGS: Final = ("request", "project", "route", "model")


class CrashHandler(logging.Handler):
    """For the root logger. `where` is the logger and the template, never the formatted text."""

    def __init__(self, observer: Observer) -> None:
        super().__init__(logging.WARNING)
        self._observer = observer

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if error is None or isinstance(error, asyncio.CancelledError):
            return
        if record.name.startswith(OWN):
            return
        given = record.__dict__
        tags = {name: str(given[name]) for name in TAGS if given.get(name)}
        self._observer.crash(error, f"{record.name}: {_template(record)}", **tags)


def _template(record: logging.LogRecord) -> str:
    # asyncio formats before it logs; only its own libraries' first line is the same each time.
    text = record.msg if isinstance(record.msg, str) else type(record.msg).__name__
    return text.partition("\n")[0][:120]
