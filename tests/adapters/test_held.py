"""Grants in memory: a database that is slow or away is no outage for known keys, and no open door for others."""

from __future__ import annotations

import asyncio

import pytest
from attrs import evolve

from adapters import held as module
from adapters.held import UNKNOWN_FOR, HeldGrants
from domain.errors import Unavailable
from domain.project import Grant
from tests.conftest import Clock

KEY, OTHER = b"k" * 32, b"o" * 32
GRANT = Grant("prj_1", "key_1", "project", "free", 1, None)
FRESH, STALE = 60.0, 900.0


class Source:
    """The database, which can be away, slow or changed."""

    def __init__(self) -> None:
        self.grants: dict[bytes, Grant] = {KEY: GRANT}
        self.changes = 1
        self.away = False
        self.asked: list[bytes] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.at_once = False

    async def grant(self, digest: bytes, /) -> Grant | None:
        self.asked.append(digest)
        found = self.grants.get(digest)
        if not self.at_once:
            await self.gate.wait()
        if self.away:
            raise Unavailable("away")
        return found

    async def sequence(self) -> int:
        if self.away:
            raise Unavailable("away")
        return self.changes

    def change(self, digest: bytes, grant: Grant | None) -> None:
        self.changes += 1
        if grant is None:
            del self.grants[digest]
        else:
            self.grants[digest] = grant


@pytest.fixture(params=["lazy", "eager", "eager, at once"])
def source(request, io_loop) -> Source:
    """In production a task begins before `create_task` returns (Python 3.12), and memory answers without waiting."""
    made = Source()
    if request.param != "lazy":
        io_loop.asyncio_loop.set_task_factory(getattr(asyncio, "eager_task_factory", None))
    made.at_once = request.param == "eager, at once"
    return made


@pytest.fixture
def time() -> Clock:
    """Monotonic seconds."""
    return Clock(1000.0)


@pytest.fixture
def grants(source, clock, time, monkeypatch) -> HeldGrants:
    monkeypatch.setattr(module, "PATIENCE", 0.02)
    return HeldGrants(source, clock, time, fresh=FRESH, stale=STALE)


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


# --- known -------------------------------------------------------------------------------------------


async def test_a_fresh_grant_is_not_asked_for_again(grants, source, time):
    """For a minute, memory is enough."""
    assert grants.peek(KEY) is None
    assert GRANT == await grants.grant(KEY)
    time.advance(FRESH / 2)

    assert GRANT == grants.peek(KEY)
    assert GRANT == await grants.grant(KEY)
    assert [KEY] == source.asked


async def test_a_grant_in_use_is_refreshed_in_the_background(grants, source, time):
    """Past half its time a request is served at once and the next one finds it fresh."""
    await grants.grant(KEY)
    await settle()
    time.advance(FRESH / 2 + 1)
    assert GRANT == grants.peek(KEY)
    assert GRANT == grants.peek(KEY)
    await settle()
    assert [KEY, KEY] == source.asked
    time.advance(FRESH - 1)

    assert GRANT == grants.peek(KEY)


async def test_a_grant_is_not_fresh_for_ever(grants, source, time):
    """At the minute it is asked for again, and the answer counts."""
    await grants.grant(KEY)
    await settle()
    time.advance(FRESH)
    source.grants[KEY] = evolve(GRANT, plan="pro")

    assert grants.peek(KEY) is None
    assert "pro" == (await grants.grant(KEY)).plan
    assert [KEY, KEY] == source.asked


async def test_a_refresh_that_fails_in_the_background_is_quiet(grants, source, time, caplog):
    """Nobody waits for it, nothing is reported as unretrieved, and it is not tried at every request."""
    await grants.grant(KEY)
    await settle()
    time.advance(FRESH / 2 + 1)
    source.away = True
    for _ in range(5):
        assert GRANT == grants.peek(KEY)
        await settle()
    assert 2 == len(source.asked)
    time.advance(1.1)
    grants.peek(KEY)
    await settle()

    assert 3 == len(source.asked)
    assert [] == caplog.records


# --- unknown -----------------------------------------------------------------------------------------


async def test_an_unknown_key_is_not_asked_for_at_every_try(grants, source, time):
    """For half a minute."""
    assert await grants.grant(OTHER) is None
    await settle()
    time.advance(UNKNOWN_FOR - 1)
    assert await grants.grant(OTHER) is None
    assert [OTHER] == source.asked
    time.advance(1)
    assert await grants.grant(OTHER) is None

    assert [OTHER, OTHER] == source.asked


async def test_a_new_key_works_when_the_change_is_noticed(grants, source):
    """It was tried before it was made."""
    await grants.notice_changes()
    assert await grants.grant(OTHER) is None
    source.change(OTHER, GRANT)
    await grants.notice_changes()

    assert GRANT == await grants.grant(OTHER)


async def test_a_key_asked_for_before_it_was_made(grants, source):
    """The answer of before comes after the change was noticed, and is not remembered as one of after."""
    source.at_once = False
    await grants.notice_changes()
    source.gate.clear()
    early = asyncio.create_task(grants.grant(OTHER))
    await settle()
    source.change(OTHER, GRANT)
    await grants.notice_changes()
    source.gate.set()

    assert await early is None
    await settle()
    assert GRANT == await grants.grant(OTHER)


# --- revoked -----------------------------------------------------------------------------------------


async def test_a_revoked_key_is_noticed(grants, source):
    """Any change puts every grant in doubt until it is asked for again."""
    await grants.notice_changes()
    await grants.grant(KEY)
    await settle()
    assert GRANT == grants.peek(KEY)
    source.change(KEY, None)
    await grants.notice_changes()

    assert grants.peek(KEY) is None
    assert await grants.grant(KEY) is None
    assert grants.peek(KEY) is None


async def test_a_revocation_during_a_question(grants, source):
    """Who asks after the change does not get the answer of before it, nor is that one remembered."""
    source.at_once = False
    await grants.notice_changes()
    source.gate.clear()
    early = asyncio.create_task(grants.grant(KEY))
    await settle()
    source.change(KEY, None)
    await grants.notice_changes()
    late = asyncio.create_task(grants.grant(KEY))
    await settle()
    source.gate.set()

    assert [GRANT, None] == await asyncio.gather(early, late)
    await settle()
    assert grants.peek(KEY) is None
    assert await grants.grant(KEY) is None
    assert [KEY, KEY] == source.asked[:2]


async def test_an_old_answer_that_comes_late(grants, source):
    """It does not undo what was learned since, not even when the database goes away."""
    source.at_once = False
    await grants.notice_changes()
    source.gate.clear()
    early = asyncio.create_task(grants.grant(KEY))
    await settle()
    source.change(KEY, None)
    await grants.notice_changes()
    old, source.gate = source.gate, asyncio.Event()
    source.gate.set()
    assert await grants.grant(KEY) is None
    old.set()
    assert GRANT == await early
    source.away = True

    assert await grants.grant(KEY) is None


async def test_grants_from_before_the_first_look_are_in_doubt(grants, source):
    """Nobody knows what changed between the two."""
    await grants.grant(KEY)
    source.change(KEY, None)
    await settle()
    await grants.notice_changes()

    assert grants.peek(KEY) is None
    assert await grants.grant(KEY) is None


async def test_no_change_is_no_doubt(grants, source):
    """A look each second costs no question."""
    await grants.notice_changes()
    await grants.grant(KEY)
    for _ in range(5):
        await grants.notice_changes()

    assert GRANT == grants.peek(KEY)
    assert [KEY] == source.asked


async def test_the_watch_looks_again_and_again(grants, source):
    """Also after the database was away."""
    watching = asyncio.create_task(grants.watch(every=0.001))
    await asyncio.sleep(0.01)
    await grants.grant(KEY)
    source.away = True
    await asyncio.sleep(0.01)
    assert GRANT == grants.peek(KEY)
    source.away = False
    source.change(KEY, None)
    async with asyncio.timeout(2):
        while grants.peek(KEY) is not None:
            await asyncio.sleep(0.001)
    watching.cancel()


async def test_a_key_ends_by_the_clock(grants, source, clock, time):
    """No database is needed to know it: not by fresh grants, not by stale ones."""
    source.grants[KEY] = evolve(GRANT, ends_at=clock() + 10)
    assert await grants.grant(KEY) is not None
    await settle()
    clock.advance(9.9)
    assert grants.peek(KEY) is not None
    clock.advance(0.1)
    source.away = True

    assert grants.peek(KEY) is None
    with pytest.raises(Unavailable):
        await grants.grant(KEY)


async def test_what_was_vouched_for(grants, source, clock, time):
    """A good key is known as one while it is in doubt, not fresh any more or not to be asked for; an ended one is not."""
    source.grants[KEY] = evolve(GRANT, ends_at=clock() + 10)
    assert not grants.vouched(KEY)
    await grants.grant(KEY)
    await grants.grant(OTHER)
    await settle()
    await grants.notice_changes()
    time.advance(FRESH)
    assert grants.peek(KEY) is None
    assert (True, False) == (grants.vouched(KEY), grants.vouched(OTHER))
    clock.advance(10)

    assert not grants.vouched(KEY)


# --- the database is away -------------------------------------------------------------------------------


async def test_a_known_key_stays_good_while_the_database_is_away(grants, source, time):
    """Up to the stale limit, and not a second longer."""
    await grants.grant(KEY)
    await settle()
    source.away = True
    time.advance(STALE - 1)
    assert GRANT == await grants.grant(KEY)
    await settle()
    time.advance(1)

    with pytest.raises(Unavailable) as caught:
        await grants.grant(KEY)
    assert {"Retry-After": "1"} == caught.value.headers()


async def test_a_doubted_key_stays_good_while_the_database_is_away(grants, source):
    """An outage is no revocation."""
    await grants.notice_changes()
    await grants.grant(KEY)
    source.changes += 1
    await grants.notice_changes()
    await settle()
    source.away = True

    assert GRANT == await grants.grant(KEY)


async def test_an_unknown_key_is_neither_refused_nor_let_in(grants, source):
    """While nobody can know; and afterwards it is asked for at once."""
    source.away = True
    for _ in range(3):
        with pytest.raises(Unavailable):
            await grants.grant(KEY)
        await settle()
    source.away = False

    assert GRANT == await grants.grant(KEY)
    assert await grants.grant(OTHER) is None


async def test_one_failure_a_second_is_enough(grants, source, time):
    """Known keys do not wait for a database that just failed."""
    await grants.grant(KEY)
    await settle()
    time.advance(FRESH)
    source.away = True
    for _ in range(5):
        assert GRANT == await grants.grant(KEY)
        await settle()

    assert 2 == len(source.asked)
    time.advance(1)
    assert GRANT == await grants.grant(KEY)
    assert 3 == len(source.asked)


async def test_a_slow_database_is_not_waited_for(grants, source, time):
    """A known key waits a moment; the answer counts when it comes."""
    await grants.grant(KEY)
    await settle()
    time.advance(FRESH)
    source.at_once = False
    source.gate.clear()
    assert GRANT == await asyncio.wait_for(grants.grant(KEY), 1)
    source.grants[KEY] = evolve(GRANT, plan="pro")
    source.gate.set()
    await settle()

    assert 2 == len(source.asked)
    assert grants.peek(KEY) is not None


# --- many at once ----------------------------------------------------------------------------------------


async def test_one_question_for_many(grants, source):
    """All who ask for the same key at the same time share one query."""
    source.at_once = False
    source.gate.clear()
    waiting = [asyncio.create_task(grants.grant(KEY)) for _ in range(10)]
    await settle()
    source.gate.set()

    assert [GRANT] * 10 == await asyncio.gather(*waiting)
    assert [KEY] == source.asked


async def test_who_gives_up_leaves_the_others_their_answer(grants, source):
    """The question goes on, even if nobody waits any more."""
    source.at_once = False
    source.gate.clear()
    first, second = (asyncio.create_task(grants.grant(KEY)) for _ in range(2))
    await settle()
    first.cancel()
    await settle()
    source.gate.set()
    assert GRANT == await second

    source.gate.clear()
    last = asyncio.create_task(grants.grant(OTHER))
    await settle()
    last.cancel()
    source.gate.set()
    await settle()
    assert await grants.grant(OTHER) is None
    assert [KEY, OTHER] == source.asked


async def test_a_failure_nobody_waits_for_is_quiet(grants, source, caplog):
    """The caller hung up while the database was dying."""
    source.at_once = False
    source.gate.clear()
    waiting = asyncio.create_task(grants.grant(KEY))
    await settle()
    waiting.cancel()
    source.away = True
    source.gate.set()
    await settle()

    assert [] == caplog.records


async def test_memory_is_bounded(grants, source, monkeypatch):
    """The oldest leave first, of the known and of the unknown."""
    monkeypatch.setattr(module, "MAX_KNOWN", 2)
    monkeypatch.setattr(module, "MAX_UNKNOWN", 2)
    known = [bytes([number]) * 32 for number in range(3)]
    unknown = [bytes([number]) * 32 for number in range(10, 13)]
    for digest in known:
        source.grants[digest] = GRANT
    for digest in [*known, *unknown]:
        await grants.grant(digest)
        await settle()
    source.asked.clear()

    assert [None, GRANT, GRANT] == [grants.peek(digest) for digest in known]
    for digest in unknown[::-1]:
        assert await grants.grant(digest) is None
    assert [unknown[0]] == source.asked


async def test_closing_ends_what_is_asked(grants, source):
    """No question outlives the house."""
    source.at_once = False
    source.gate.clear()
    waiting = asyncio.create_task(grants.grant(KEY))
    await settle()
    await grants.aclose()
    await settle()

    assert waiting.cancelled()
    await grants.aclose()
