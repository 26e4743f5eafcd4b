"""How long the event loop keeps everybody waiting: a timer that looks how late it is."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable

from ports.telemetry import Reading

EVERY = 0.25
LOOKS = 60
"""Remembered: fifteen seconds, as long as scrapes are usually apart."""


class LoopLag:
    """`run` must run for ever; `read` is a source of metrics."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._late: deque[float] = deque(maxlen=LOOKS)

    async def run(self) -> None:
        while True:
            due = self._monotonic() + EVERY
            await asyncio.sleep(EVERY)
            self._late.append(max(0.0, self._monotonic() - due))

    def read(self) -> Iterable[Reading]:
        yield Reading("watchllm_loop_lag_seconds", max(self._late, default=0.0))
