"""Several observers as one; the one place that keeps the promise never to raise."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from domain.usage import UsageRecord
from ports.telemetry import Observer, Stage

log = logging.getLogger(__name__)


class Fanout:
    """An Observer over any number of them, none included. One that fails keeps nothing from the others."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self.observers = tuple(observers)

    def exchange(self, record: UsageRecord, stages: Sequence[Stage] = (), /) -> None:
        for observer in self.observers:
            try:
                observer.exchange(record, stages)
            except Exception:
                log.exception("an observer failed")

    def crash(self, error: BaseException, where: str, /, **tags: str) -> None:
        for observer in self.observers:
            try:
                observer.crash(error, where, **tags)
            except Exception:
                log.exception("an observer failed")
