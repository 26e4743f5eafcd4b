"""What only the memory store does: its bound, and who leaves first."""

from __future__ import annotations

import pytest

from adapters.memory.cache import MemoryCache, MemoryStats
from domain.answer import CacheEntry, CacheKey
from domain.usage import Usage


def key(number: int) -> CacheKey:
    return CacheKey("prj_1", number.to_bytes(32, "big"))


def entry(size: int = 1000) -> CacheEntry:
    """An entry that counts as `size` bytes."""
    return CacheEntry(b"x" * (size - 600), "openai", "gpt-4o", Usage(), None, 0.0)


@pytest.fixture
def cache(clock) -> MemoryCache:
    return MemoryCache(clock, limit_bytes=3000)


def held(cache: MemoryCache, *numbers: int) -> list[int]:
    return [number for number in numbers if cache.peek(key(number)) is not None]


async def test_the_least_recently_used_leaves_first(cache):
    """A look counts as a use."""
    await cache.put_many([(key(1), entry()), (key(2), entry()), (key(3), entry())], ttl=60)
    cache.peek(key(1))
    await cache.put_many([(key(4), entry())], ttl=60)

    assert [1, 3, 4] == held(cache, 1, 2, 3, 4)
    assert MemoryStats(entries=3, bytes=3000, evictions=1) == cache.stats()


async def test_a_big_entry_makes_as_much_room_as_it_needs(cache):
    """The bound is in bytes, and is never passed."""
    await cache.put_many([(key(n), entry()) for n in (1, 2, 3)], ttl=60)
    await cache.put_many([(key(4), entry(2500))], ttl=60)

    assert [4] == held(cache, 1, 2, 3, 4)
    assert MemoryStats(entries=1, bytes=2500, evictions=3) == cache.stats()


async def test_what_can_never_fit_throws_nobody_out(cache):
    """An entry above the whole bound is not kept, and neither is its older version."""
    await cache.put_many([(key(1), entry()), (key(2), entry())], ttl=60)
    await cache.put_many([(key(2), entry(3001))], ttl=60)

    assert [1] == held(cache, 1, 2)
    assert MemoryStats(entries=1, bytes=1000, evictions=0) == cache.stats()


async def test_replacing_and_ending_give_their_bytes_back(cache, clock):
    """The count of bytes is that of the entries held."""
    await cache.put_many([(key(1), entry(2000))], ttl=60)
    await cache.put_many([(key(1), entry(1000))], ttl=60)
    assert MemoryStats(entries=1, bytes=1000, evictions=0) == cache.stats()

    clock.advance(60)
    assert None is cache.peek(key(1))
    assert MemoryStats(entries=0, bytes=0, evictions=0) == cache.stats()


async def test_a_thousand_puts_keep_the_books(cache):
    """Whatever the order of sizes, the bytes add up and stay within the bound."""
    for number in range(1000):
        await cache.put_many([(key(number % 7), entry(601 + number * 37 % 2600))], ttl=60)
        stats = cache.stats()
        assert stats.bytes <= 3000
        assert stats.bytes == sum(e.size for e, _, _ in cache._held.values())
