"""A journal in memory: closed records wait here, in order and bounded, until the ledger has taken them.

Rows leave the queue only after the ledger has them. When the ledger is away the queue grows to its bound, and then
requests are refused rather than rows dropped.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from contextlib import suppress
from itertools import islice

from domain.errors import ApiError, Unavailable
from domain.usage import UsageRecord
from ports.storage import UsageLog

log = logging.getLogger(__name__)

BATCH = 1_000
PAUSE = 0.2
MAX_PAUSE = 5.0


class BufferedJournal:
    """`limit` is the number of requests whose rows may be under way at once.

    Rows that were never opened (hits and refusals: no provider was paid) may wait beside them up to the same number
    again. Whoever opens a row closes it, in a `finally`: an open row keeps its place until then.
    """

    def __init__(self, ledger: UsageLog, limit: int = 100_000) -> None:
        self._ledger = ledger
        self._limit = limit
        self._closed: deque[UsageRecord] = deque()
        self._open: set[str] = set()
        self._failing = False
        self._dropped = 0
        self._shipping = asyncio.Lock()

    @property
    def backlog(self) -> int:
        return len(self._closed)

    def open(self, record: UsageRecord) -> None:
        if len(self._closed) + len(self._open) >= self._limit:
            raise Unavailable(
                "The usage journal is full; nothing can be billed now.", retry_after=5
            )
        self._open.add(record.id)

    def close(self, record: UsageRecord) -> None:
        if record.id in self._open:
            self._open.remove(record.id)
        elif len(self._closed) >= 2 * self._limit:
            self._dropped += 1
            return
        self._closed.append(record)

    async def run(self) -> None:
        """Runs for ever: ships what is closed, and backs off while the ledger is away."""
        pause = PAUSE
        while True:
            await asyncio.sleep(pause)
            pause = PAUSE if await self._ship() else min(pause * 2, MAX_PAUSE)

    async def drain(self, timeout: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while self._closed:
                    if not await self._ship():
                        await asyncio.sleep(PAUSE)
        if self._closed:
            log.error("usage rows were lost at the end", extra={"rows": len(self._closed)})

    async def _ship(self) -> bool:
        # One at a time: two that send the same rows would both take them off the queue, and others with them.
        async with self._shipping:
            while self._closed:
                batch = list(islice(self._closed, BATCH))
                try:
                    await asyncio.shield(self._ledger.append(batch))
                except ApiError:
                    self._note_failure()
                    return False
                for _ in batch:
                    self._closed.popleft()
            self._note_success()
            return True

    def _note_failure(self) -> None:
        if not self._failing:
            log.warning("the ledger is away; usage rows wait in memory")
        self._failing = True

    def _note_success(self) -> None:
        if self._failing:
            log.info("the ledger is back")
        if self._dropped:
            log.error("usage rows of unpaid requests were dropped", extra={"rows": self._dropped})
        self._failing, self._dropped = False, 0
