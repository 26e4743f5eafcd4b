"""The way out of the process: a bounded queue and a thread of its own, so that nobody waits for whoever receives.

A receiver that is dead or hangs costs the oldest of what waits, which is counted, and nothing else.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T")

LIMIT = 1_000
BATCH = 100
"""Sent in one go: small, for the thread takes the interpreter from the loop while it packs them."""
HASTE = 200
"""With so many waiting, the thread does not sleep to the end of its pause."""
PAUSE = 1.0


class Exporter(Generic[T]):
    """`send` takes a batch in the exporter's thread and may block or raise. The thread starts with the first item, so
    never before a fork."""

    def __init__(
        self,
        name: str,
        send: Callable[[list[T]], None],
        *,
        limit: int = LIMIT,
        pause: float = PAUSE,
    ) -> None:
        self.name = name
        self.dropped = 0
        self._send = send
        self._limit = limit
        self._pause = pause
        self._waiting: deque[T] = deque(maxlen=limit)
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._closing = False
        self._failing = False

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def give(self, item: T) -> None:
        waiting = len(self._waiting)
        if waiting >= self._limit:
            self.dropped += 1
        self._waiting.append(item)
        if waiting == HASTE:
            self._wake.set()
        if self._thread is None and not self._closing:
            self._start()

    def close(self, timeout: float = 1.0) -> None:
        """Sends what waits, for at most `timeout` seconds. What hangs is left behind: the thread is a daemon."""
        self._closing = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join(timeout)

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._run, name=f"to-{self.name}", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            self._wake.wait(self._pause)
            self._wake.clear()
            while batch := self._batch():
                self._try(batch)
            if self._closing:
                return

    def _batch(self) -> list[T]:
        batch: list[T] = []
        while len(batch) < BATCH:
            try:
                batch.append(self._waiting.popleft())
            except IndexError:
                break
        return batch

    def _try(self, batch: list[T]) -> None:
        try:
            self._send(batch)
        except Exception as exc:  # noqa: BLE001  whatever a receiver does, the next batch is tried
            self.dropped += len(batch)
            if not self._failing:
                log.warning(
                    "telemetry is not delivered",
                    extra={"receiver": self.name, "error": type(exc).__name__},
                )
            self._failing = True
            return
        if self._failing:
            log.info("telemetry is delivered again", extra={"receiver": self.name})
        self._failing = False
