"""What only the two tiers together do: who is asked, and for how long a find is held near."""

from __future__ import annotations

import attrs
import pytest

from adapters.memory.cache import MemoryCache
from adapters.tiered import NEAR_LIFE, TieredCache
from domain.answer import CacheEntry, CacheKey
from domain.usage import Usage

ENTRY = CacheEntry(b"{}", "openai", "gpt-4o", Usage(), None, 0.0)


def key(number: int) -> CacheKey:
    return CacheKey("prj_1", number.to_bytes(32, "big"))


class FarCache(MemoryCache):
    """A memory store that behaves as one behind a wire: notes who asked, and stamps what it keeps."""

    def __init__(self, clock) -> None:
        super().__init__(clock, 1 << 20)
        self.asked: list[list[CacheKey]] = []

    def get_many(self, keys, /):
        self.asked.append(list(keys))
        return super().get_many(keys)

    async def put_many(self, items, /, ttl):
        ends = self._clock() + ttl
        await super().put_many([(k, attrs.evolve(e, expires_at=ends)) for k, e in items], ttl)


@pytest.fixture
def near(clock) -> MemoryCache:
    return MemoryCache(clock, 1 << 20)


@pytest.fixture
def far(clock) -> FarCache:
    return FarCache(clock)


@pytest.fixture
def tiered(near, far, clock) -> TieredCache:
    return TieredCache(near, far, clock)


async def test_only_what_is_missing_is_asked_for(tiered, near, far):
    """And the far store is asked at the call, before anyone waits."""
    await near.put_many([(key(1), ENTRY)], ttl=60)
    await far.put_many([(key(2), ENTRY)], ttl=60)
    answer = tiered.get_many([key(1), key(2), key(3)])

    assert [[key(2), key(3)]] == far.asked
    assert [ENTRY, ENTRY, None] == await answer


async def test_a_find_is_near_from_then_on(tiered, far):
    """The second look does not leave the process."""
    await far.put_many([(key(1), ENTRY)], ttl=60)
    await tiered.get_many([key(1)])

    assert ENTRY == tiered.peek(key(1))
    assert [ENTRY] == await tiered.get_many([key(1)])
    assert 1 == len(far.asked)


@pytest.mark.parametrize(
    ("ttl", "age", "near_for"), [(30, 20, 10), (30, 29.5, 0), (9000, 0, NEAR_LIFE)]
)
async def test_a_find_keeps_its_remaining_life(tiered, far, clock, ttl, age, near_for):
    """Held near it gets no younger, and it is looked up anew now and then."""
    await far.put_many([(key(1), ENTRY)], ttl=ttl)
    clock.advance(age)
    assert [ENTRY] == await tiered.get_many([key(1)])

    clock.advance(max(0, near_for - 0.001))
    assert (ENTRY if near_for else None) == tiered.peek(key(1))
    clock.advance(0.001)
    assert None is tiered.peek(key(1))


async def test_an_unknown_end_is_not_held_near(tiered, far):
    """What does not say when it ends might outlive its ttl."""
    await MemoryCache.put_many(far, [(key(1), ENTRY)], ttl=60)

    assert [ENTRY] == await tiered.get_many([key(1)])
    assert None is tiered.peek(key(1))


async def test_a_put_is_in_both(tiered, near, far):
    """The far half outlives the process, the near half answers at once."""
    await tiered.put_many([(key(1), ENTRY)], ttl=60)

    assert [ENTRY, ENTRY] == [near.peek(key(1)), far.peek(key(1))]
