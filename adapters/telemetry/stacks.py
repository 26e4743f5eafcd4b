"""A crash or an alarm on its way to a tracer: its type, its frames and whose it was, frozen at once.

The exception itself is let go, for its frames hold requests. Frames are files, lines and names; no values.
"""

from __future__ import annotations

import os
import re
import traceback
from collections.abc import Mapping
from typing import Final

from adapters.telemetry.scrub import said, scrubbed
from domain.value import value
from ports.telemetry import Alarm

DEEPEST: Final = 30
"""Of a longer stack the innermost frames are kept."""
LONGEST: Final = 8_000

_ID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@value
class Crash:
    """`name` is crash or alarm. `trace` is the request's own where it is known, in hexadecimal; so is `span`."""

    name: str
    at: float
    type: str
    said: str
    where: str
    tags: Mapping[str, str]
    stack: tuple[str, ...]
    trace: str
    span: str

    @staticmethod
    def of(error: BaseException, where: str, tags: Mapping[str, str], at: float) -> Crash:
        request = tags.get("request", "")
        trace = request.replace("-", "") if _ID.fullmatch(request) else os.urandom(16).hex()
        kept = {name: scrubbed(text) for name, text in tags.items()}
        return Crash(
            "alarm" if isinstance(error, Alarm) else "crash",
            at,
            type_of(error),
            said(error),
            scrubbed(where),
            kept,
            tuple(_lines(error)),
            trace,
            os.urandom(8).hex(),
        )


def type_of(error: BaseException) -> str:
    kind = type(error)
    return (
        kind.__qualname__
        if kind.__module__ == "builtins"
        else f"{kind.__module__}.{kind.__qualname__}"
    )


def frames(crash: Crash) -> str:
    """The stack as text, innermost frame last."""
    return "".join(crash.stack)[-LONGEST:]


def _lines(error: BaseException) -> list[str]:
    """Without the source's text: reading files would hold up whoever crashed."""
    found = traceback.StackSummary.extract(
        traceback.walk_tb(error.__traceback__), lookup_lines=False
    )
    return [
        f'  File "{frame.filename}", line {frame.lineno}, in {frame.name}\n'
        for frame in found[-DEEPEST:]
    ]
