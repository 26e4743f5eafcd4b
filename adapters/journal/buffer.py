"""A journal in memory: closed records wait here, in order and bounded, until the ledger has taken them.

Rows leave the queue only after the ledger has them. When the ledger is away the queue grows to its bound, and then
requests are refused rather than rows dropped.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from itertools import islice

from domain.errors import ApiError, Unavailable
from domain.usage import UsageRecord
from ports.storage import UsageLog

log = logging.getLogger(__name__)

BATCH = 1_000
PAUSE = 0.2
MAX_PAUSE = 5.0


class BufferedJournal:
    """`limit` is the number of requests whose rows may be under way at once."""

    def __init__(self, ledger: UsageLog, limit: int = 100_000) -> None:
        self._ledger = ledger
        self._limit = limit
        self._closed: deque[UsageRecord] = deque()
        self._open: set[str] = set()
        self._failing = False

    @property
    def backlog(self) -> int:
        return len(self._closed)

    def open(self, record: UsageRecord) -> None:
        if len(self._closed) + len(self._open) >= self._limit:
            raise Unavailable("The usage journal is full; nothing can be billed now.", retry_after=5)
        self._open.add(record.id)

    def close(self, record: UsageRecord) -> None:
        self._open.discard(record.id)
        self._closed.append(record)

    async def run(self) -> None:
        """Runs for ever: ships what is closed, and backs off while the ledger is away."""
        pause = PAUSE
        while True:
            await asyncio.sleep(pause)
            pause = PAUSE if await self._ship() else min(pause * 2, MAX_PAUSE)

    async def drain(self, timeout: float) -> None:
        try:
            async with asyncio.timeout(timeout):
                while self._closed:
                    if not await self._ship():
                        await asyncio.sleep(PAUSE)
        except TimeoutError:
            log.error("usage rows were lost at the end", extra={"rows": len(self._closed)})

    async def _ship(self) -> bool:
        while self._closed:
            batch = list(islice(self._closed, BATCH))
            try:
                await asyncio.shield(self._ledger.append(batch))
            except ApiError:
                if not self._failing:
                    log.warning("the ledger is away; usage rows wait in memory")
                self._failing = True
                return False
            for _ in batch:
                self._closed.popleft()
        if self._failing:
            log.info("the ledger is back")
        self._failing = False
        return True
