"""Answers in Redis, shared by all processes. Keys there hold a digest only; values carry their own proof."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from attrs import evolve

from adapters.entry_codec import EntryCodec
from adapters.redis.connection import RedisFault
from adapters.redis.link import Link
from domain.answer import CacheEntry, CacheKey

AT_ONCE = 256
"""Commands of one caller in flight, so that a large batch is answered within a command's deadline."""

_log = logging.getLogger(__name__)


class RedisCache:
    """A CacheStore over a link. `clock` is wall-clock seconds; Redis keeps the time to live by its own."""

    def __init__(
        self,
        link: Link,
        codec: EntryCodec,
        clock: Callable[[], float],
        prefix: str = "watchllm:c:",
    ) -> None:
        self.rejected = 0
        self._link = link
        self._codec = codec
        self._clock = clock
        self._prefix = prefix

    def peek(self, key: CacheKey, /) -> CacheEntry | None:
        return None

    def get_many(self, keys: Sequence[CacheKey], /) -> Awaitable[list[CacheEntry | None]]:
        # GETs of one turn and no MGET: a cluster refuses keys of several slots in one command.
        return self._read(keys, self._ask(keys[:AT_ONCE]))

    async def put_many(self, items: Sequence[tuple[CacheKey, CacheEntry]], /, ttl: int) -> None:
        if ttl <= 0:
            return
        ends = self._clock() + ttl
        for begin in range(0, len(items), AT_ONCE):
            answers = []
            for key, entry in items[begin : begin + AT_ONCE]:
                blob = self._codec.encode(key, evolve(entry, expires_at=ends))
                answers.append(self._link.execute("SET", self._name(key), blob, "PX", ttl * 1000))
            try:
                for answer in answers:
                    await answer
            except RedisFault:
                return

    def _ask(self, keys: Sequence[CacheKey]) -> list[asyncio.Future[Any]]:
        return [self._link.execute("GET", self._name(key)) for key in keys]

    async def _read(
        self, keys: Sequence[CacheKey], answers: list[asyncio.Future[Any]]
    ) -> list[CacheEntry | None]:
        found: list[CacheEntry | None] = []
        try:
            for key in keys:
                if len(found) == len(answers):
                    answers += self._ask(keys[len(found) : len(found) + AT_ONCE])
                found.append(self._open(key, await answers[len(found)]))
        except RedisFault:
            # One deadline is all that a caller pays: what follows the first fault is a miss unasked.
            found += [None] * (len(keys) - len(found))
        return found

    def _open(self, key: CacheKey, blob: Any) -> CacheEntry | None:
        if blob is None:
            return None
        entry = self._codec.decode(key, blob) if type(blob) is bytes else None
        if entry is None:
            self._reject(key)
            return None
        return entry if self._clock() < entry.expires_at else None

    def _reject(self, key: CacheKey) -> None:
        """Somebody else's bytes, or ours under an older secret. Counted always, told once."""
        self.rejected += 1
        if self.rejected == 1:
            _log.warning("Redis held an answer that does not belong to its key; it was deleted.")
        self._link.execute("DEL", self._name(key))

    def _name(self, key: CacheKey) -> str:
        return self._prefix + key.digest.hex()
