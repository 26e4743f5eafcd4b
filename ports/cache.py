"""Where answers are kept."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Protocol

from domain.answer import CacheEntry, CacheKey


class CacheStore(Protocol):
    """Answers by key. A reader never gets an entry older than its ttl. Failing is a miss, never an error."""

    def peek(self, key: CacheKey, /) -> CacheEntry | None:
        """What this process holds in memory; never waits. A store without memory says None."""

    def get_many(self, keys: Sequence[CacheKey], /) -> Awaitable[list[CacheEntry | None]]:
        """One entry or None per key, in order. May have left for the store before it is awaited."""

    async def put_many(self, items: Sequence[tuple[CacheKey, CacheEntry]], /, ttl: int) -> None:
        """Keeps each for `ttl` seconds at most. Raises nothing."""
