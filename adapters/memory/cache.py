"""Answers in the process's own memory: bounded in bytes, least recently used leaves first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

from domain.answer import CacheEntry, CacheKey
from domain.value import value


@value
class MemoryStats:
    """`evictions` counts what had to leave for room since the start, not what ended by itself."""

    entries: int
    bytes: int
    evictions: int


class MemoryCache:
    """A CacheStore without a wire. Nothing in it ever waits."""

    def __init__(self, clock: Callable[[], float], limit_bytes: int) -> None:
        self._clock = clock
        self._limit = limit_bytes
        # By digest alone: bytes remember their hash, a CacheKey would hash itself at each look.
        self._held: OrderedDict[bytes, tuple[CacheEntry, float, str]] = OrderedDict()
        self._bytes = 0
        self._evictions = 0

    def peek(self, key: CacheKey, /) -> CacheEntry | None:
        held = self._held.get(key.digest)
        if held is None:
            return None
        entry, ends, project = held
        if project != key.project:
            return None
        if ends <= self._clock():
            self._drop(key.digest)
            return None
        self._held.move_to_end(key.digest)
        return entry

    async def get_many(self, keys: Sequence[CacheKey], /) -> list[CacheEntry | None]:
        return [self.peek(key) for key in keys]

    async def put_many(self, items: Sequence[tuple[CacheKey, CacheEntry]], /, ttl: int) -> None:
        ends = self._clock() + ttl
        for key, entry in items:
            if key.digest in self._held:
                self._drop(key.digest)
            if ttl <= 0 or entry.size > self._limit:
                continue
            self._held[key.digest] = (entry, ends, key.project)
            self._bytes += entry.size
            self._make_room()

    def stats(self) -> MemoryStats:
        return MemoryStats(len(self._held), self._bytes, self._evictions)

    def _make_room(self) -> None:
        while self._bytes > self._limit:
            _, (entry, _, _) = self._held.popitem(last=False)
            self._bytes -= entry.size
            self._evictions += 1

    def _drop(self, digest: bytes) -> None:
        self._bytes -= self._held.pop(digest)[0].size
