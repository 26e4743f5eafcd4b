"""Two stores as one: memory in front of what outlives it or is shared."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from domain.answer import CacheEntry, CacheKey
from ports.cache import CacheStore

NEAR_LIFE = 60
"""Seconds that a find from the far store is held near: nodes whose clocks differ disagree for no longer."""


class TieredCache:
    """A CacheStore over two. `clock` is wall-clock seconds, the same that the far store stamps entries with."""

    def __init__(self, near: CacheStore, far: CacheStore, clock: Callable[[], float]) -> None:
        self._near = near
        self._far = far
        self._clock = clock

    def peek(self, key: CacheKey, /) -> CacheEntry | None:
        return self._near.peek(key)

    def get_many(self, keys: Sequence[CacheKey], /) -> Awaitable[list[CacheEntry | None]]:
        found = [self._near.peek(key) for key in keys]
        missing = [at for at, entry in enumerate(found) if entry is None]
        if not missing:
            return _ready(found)
        # Called here and awaited there: what the far store is asked has left when this returns.
        answer = self._far.get_many([keys[at] for at in missing])
        return self._fill(keys, found, missing, answer)

    async def put_many(self, items: Sequence[tuple[CacheKey, CacheEntry]], /, ttl: int) -> None:
        await self._near.put_many(items, ttl)
        await self._far.put_many(items, ttl)

    async def _fill(
        self,
        keys: Sequence[CacheKey],
        found: list[CacheEntry | None],
        missing: Sequence[int],
        answer: Awaitable[list[CacheEntry | None]],
    ) -> list[CacheEntry | None]:
        fetched = await answer
        now = self._clock()
        for at, entry in zip(missing, fetched, strict=True):
            if entry is None:
                continue
            found[at] = entry
            left = int(min(entry.expires_at - now, NEAR_LIFE))
            if left > 0:
                await self._near.put_many([(keys[at], entry)], left)
        return found


async def _ready(found: list[CacheEntry | None]) -> list[CacheEntry | None]:
    return found
