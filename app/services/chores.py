"""Work that goes on for as long as the process lives, over stores that may be away for a while."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from domain.errors import Unavailable

log = logging.getLogger(__name__)

Sleep = Callable[[float], Awaitable[object]]


async def repeat(
    work: Callable[[], Awaitable[object]], every: float, what: str, sleep: Sleep = asyncio.sleep
) -> None:
    """Runs for ever. That a store is away is told once when it begins and once when it is over."""
    away = False
    while True:
        try:
            await work()
        except Unavailable:
            if not away:
                log.warning("a chore waits for the database", extra={"chore": what})
            away = True
        else:
            if away:
                log.info("a chore is done again", extra={"chore": what})
            away = False
        await sleep(every)
