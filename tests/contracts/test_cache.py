"""The promises of CacheStore, kept by every adapter."""

from __future__ import annotations

import asyncio
import secrets
from contextlib import AsyncExitStack, aclosing

import pytest

from adapters.entry_codec import EntryCodec
from adapters.memory.cache import MemoryCache
from adapters.redis.cache import RedisCache
from adapters.redis.cluster import open_link
from adapters.sql.cache import SqliteCache
from adapters.tiered import TieredCache
from domain.answer import CacheEntry, CacheKey
from domain.usage import Usage
from tests.support.fixtures import async_fixture

CODEC = EntryCodec(b"contract" * 4)
MIB = 1 << 20


def key(number: int, project: str = "prj_1") -> CacheKey:
    return CacheKey(project, number.to_bytes(32, "big"))


def entry(body: bytes = b"{}") -> CacheEntry:
    return CacheEntry(body, "openai", "gpt-4o", Usage(input=9, output=12), 345, 1_800_000_000.0)


FAR = ["sqlite", "redis", "cluster"]
KINDS = ["memory", *FAR, "tiered-sqlite", "tiered-redis"]


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@async_fixture
async def store(kind, clock, request, tmp_path):
    async with AsyncExitStack() as stack:

        async def sqlite():
            path = tmp_path / "cache.sqlite"
            cache = SqliteCache(path, clock, 64 * MIB, CODEC.encode, CODEC.decode)
            return await stack.enter_async_context(aclosing(cache))

        async def redis(fixture):
            # A prefix of its own is as good as an empty server.
            link = open_link(
                request.getfixturevalue(fixture), command_timeout=2, connect_timeout=2
            )
            await stack.enter_async_context(aclosing(link))
            return RedisCache(link, CODEC, clock, prefix=f"test:{secrets.token_hex(6)}:")

        match kind:
            case "memory":
                yield MemoryCache(clock, 64 * MIB)
            case "redis":
                yield await redis("valkey_url")
            case "cluster":
                yield await redis("valkey_cluster_url")
            case "sqlite":
                yield await sqlite()
            case "tiered-sqlite":
                yield TieredCache(MemoryCache(clock, 64 * MIB), await sqlite(), clock)
            case "tiered-redis":
                yield TieredCache(MemoryCache(clock, 64 * MIB), await redis("valkey_url"), clock)


async def test_what_was_put_is_found(store):
    """Whole, in the order of the keys, None where nothing is, the same key twice if asked twice."""
    first, second = entry(b'{"n":1}'), entry(b'{"n":2}')
    await store.put_many([(key(1), first), (key(2), second)], ttl=60)

    assert [second, None, first, second] == await store.get_many([key(2), key(3), key(1), key(2)])


async def test_nothing_asked_nothing_put(store):
    """Empty lists are fine."""
    await store.put_many([], ttl=60)

    assert [] == await store.get_many([])


async def test_an_old_entry_is_gone(store, clock):
    """A reader never gets an entry older than its ttl."""
    await store.put_many([(key(1), entry())], ttl=30)
    clock.advance(29)
    assert [entry()] == await store.get_many([key(1)])

    clock.advance(1)
    assert [None] == await store.get_many([key(1)])
    assert None is store.peek(key(1))


async def test_no_time_to_live_is_not_kept(store):
    """A ttl of zero is no wish to store."""
    await store.put_many([(key(1), entry())], ttl=0)

    assert [None] == await store.get_many([key(1)])


async def test_the_later_put_counts(store):
    """Its answer and its ttl."""
    await store.put_many([(key(1), entry(b"old"))], ttl=30)
    await store.put_many([(key(1), entry(b"new"))], ttl=60)

    assert [entry(b"new")] == await store.get_many([key(1)])


async def test_another_project_finds_nothing(store):
    """Even under the very same digest."""
    await store.put_many([(key(1), entry())], ttl=60)

    assert [None] == await store.get_many([key(1, project="prj_2")])
    assert None is store.peek(key(1, project="prj_2"))


@pytest.mark.parametrize("body", [b"", bytes(range(256)), b"\r\n$-1\r\n", b"x" * MIB])
async def test_bodies_are_bytes(store, body):
    """Any bytes, none and a mebibyte of them."""
    await store.put_many([(key(1), entry(body))], ttl=60)

    assert [entry(body)] == await store.get_many([key(1)])


async def test_a_long_list_keeps_its_order(store):
    """An embeddings request has 2,048 inputs."""
    items = [(key(n), entry(b"%d" % n)) for n in range(2048) if n % 3]
    await store.put_many(items, ttl=60)
    found = await store.get_many([key(n) for n in range(2048)])

    assert [entry(b"%d" % n) if n % 3 else None for n in range(2048)] == found


async def test_a_look_never_waits(store):
    """`peek` is an entry or None at once; what it gives is what `get_many` gives."""
    await store.put_many([(key(1), entry())], ttl=60)

    assert store.peek(key(1)) in (None, entry())
    assert None is store.peek(key(2))


async def test_readers_that_leave_disturb_nobody(store):
    """Cancelled in the middle, a look-up takes no other reader's answer with it."""
    await store.put_many([(key(n), entry(b"%d" % n)) for n in range(50)], ttl=60)
    readers = [asyncio.ensure_future(store.get_many([key(n)])) for n in range(50)]
    await asyncio.sleep(0)
    for reader in readers[::2]:
        reader.cancel()
    found = await asyncio.gather(*readers[1::2])

    assert [[entry(b"%d" % n)] for n in range(1, 50, 2)] == found


@pytest.mark.parametrize("kind", FAR)
async def test_entries_tell_when_they_end(store, clock):
    """A store behind another says until when an entry may be kept in front of it."""
    await store.put_many([(key(1), entry())], ttl=30)
    [found] = await store.get_many([key(1)])

    assert (entry(), clock() + 30) == (found, found.expires_at)
