"""Work that outlives its request: owned, bounded, reported when it crashes, drained at the end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

log = logging.getLogger(__name__)


BUSY = "not-stored: busy"
"""The cache reason of an answer whose keeping was refused."""


class Background:
    """Keeps every task it is given. Over `limit` at once, a new one is refused and closed unstarted."""

    def __init__(self, limit: int = 1_000) -> None:
        self._limit = limit
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def running(self) -> int:
        return len(self._tasks)

    def own(self, work: Coroutine[Any, Any, Any]) -> bool:
        if len(self._tasks) >= self._limit:
            work.close()
            return False
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return True

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("background work crashed", exc_info=task.exception())

    async def drain(self, timeout: float) -> None:
        """Waits for what is under way and what that begins, then cancels what is left."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while self._tasks:
                    await asyncio.wait(self._tasks)
        late = set(self._tasks)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late, timeout=1)
