"""Access lines: one log line for a share of the requests, written by a thread of its own.

Whoever reads the log may be slow, and a full pipe must not stop the loop.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

from adapters.telemetry.exporter import Exporter
from adapters.telemetry.sampling import kept, threshold
from domain.usage import UsageRecord
from ports.telemetry import Stage

LOGGER: Final = "adapters.telemetry.access"
"""Lines of this logger are sampled already; the flood gate of the log lets them pass."""

log = logging.getLogger(LOGGER)


class AccessLog:
    """`rate` of the requests have a line, and every one that failed."""

    def __init__(self, rate: float) -> None:
        self._below = threshold(rate)
        self.exporter: Exporter[UsageRecord] = Exporter("access log", _write, pause=0.2)

    def exchange(self, record: UsageRecord, _: Sequence[Stage] = (), /) -> None:
        if kept(record, self._below):
            self.exporter.give(record)

    def crash(self, error: BaseException, where: str, /, **tags: str) -> None:
        """Has its own line."""

    def close(self) -> None:
        self.exporter.close()


def _write(records: list[UsageRecord]) -> None:
    for record in records:
        log.info(
            "request",
            extra={
                "request": record.id,
                "project": record.project,
                "endpoint": record.endpoint,
                "model": record.model_asked,
                "provider": record.provider,
                "outcome": record.outcome,
                "status": record.status,
                "reason": record.cache_reason,
                "prompt_tokens": record.usage.prompt,
                "completion_tokens": record.usage.completion,
                "first_byte_ms": round(record.first_byte_ms, 1),
                "total_ms": round(record.total_ms, 1),
            },
        )
