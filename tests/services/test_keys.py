"""The life of a key, over the embedded database."""

from __future__ import annotations

from collections.abc import AsyncIterator
from itertools import count
from pathlib import Path

import pytest
from attrs import define

from adapters.sql.keys import SqlKeys
from adapters.sql.migrate import migrate
from adapters.sql.projects import SqlProjects
from adapters.sql.sqlite import SqliteDb
from app.services.keys import FreshKey, KeyRing, ends_at, is_live
from app.services.projects import ProjectBook, first_start
from domain import apikey
from domain.errors import InvalidRequest, NotFound, Unavailable
from domain.project import PROJECT, TEST, ApiKey, Grant
from tests.conftest import Clock
from tests.support.fixtures import async_fixture

PEPPER = bytes(range(32))


@define
class Desk:
    keys: SqlKeys
    ring: KeyRing
    book: ProjectBook

    async def grant(self, text: str) -> Grant | None:
        return await self.keys.grant(apikey.digest(PEPPER, text))


@async_fixture
async def desk(tmp_path: Path, clock: Clock) -> AsyncIterator[Desk]:
    db = SqliteDb(tmp_path / "keys.db")
    await migrate(db)
    keys, numbers = SqlKeys(db, clock), count(1)

    def random(size: int) -> bytes:
        return next(numbers).to_bytes(size, "big")

    yield Desk(
        keys, KeyRing(keys, PEPPER, clock, random), ProjectBook(SqlProjects(db), clock, random)
    )
    await db.aclose()


async def made(desk: Desk, **wanted: float) -> FreshKey:
    project = await desk.book.create("acme", plan="free")
    return await desk.ring.create(project.id, kind=PROJECT, **wanted)


@pytest.mark.parametrize("kind", [PROJECT, TEST])
async def test_a_created_key_grants(desk: Desk, kind: str) -> None:
    """A key works from the moment it is shown, for its project and as its kind."""
    project = await desk.book.create("acme", plan="free")
    fresh = await desk.ring.create(project.id, kind=kind, name="ci")
    grant = await desk.grant(fresh.key)
    [listed] = await desk.keys.of(project.id)

    assert Grant(project.id, fresh.id, kind, "free", 0, None) == grant
    assert ("ci", apikey.hint(fresh.key)) == (listed.name, listed.hint)


async def test_nothing_stored_is_the_key(desk: Desk) -> None:
    """Of a key, only a digest and a hint are kept."""
    fresh = await made(desk)
    [listed] = await desk.keys.of(fresh.project)

    assert fresh.key not in repr(listed)
    assert None is await desk.keys.grant(fresh.key.encode())


async def test_a_key_expires(desk: Desk, clock: Clock) -> None:
    """It works up to its last second and not in the next."""
    fresh = await made(desk, expires_in=60)

    clock.advance(59.5)
    assert await desk.grant(fresh.key) is not None
    clock.advance(0.5)
    assert None is await desk.grant(fresh.key)


@pytest.mark.parametrize(
    "wanted", [{"expires_in": 0.0}, {"name": "x" * 101}, {"name": "a\nb"}, {"name": "\x1b[31m"}]
)
async def test_what_makes_no_key(desk: Desk, wanted: dict[str, object]) -> None:
    with pytest.raises(InvalidRequest):
        await desk.ring.create("prj_x", kind=PROJECT, **wanted)  # type: ignore[arg-type]


async def test_rotation_leaves_a_grace(desk: Desk, clock: Clock) -> None:
    """Both keys work until the grace ends, then the new one alone."""
    old = await made(desk)
    new = await desk.ring.rotate(old.id, grace=3600)

    clock.advance(3599)
    assert await desk.grant(old.key) is not None
    assert await desk.grant(new.key) is not None
    clock.advance(1)
    assert None is await desk.grant(old.key)
    assert await desk.grant(new.key) is not None


async def test_rotation_without_grace_ends_the_old_key_now(desk: Desk) -> None:
    old = await made(desk)
    new = await desk.ring.rotate(old.id, grace=0)

    assert None is await desk.grant(old.key)
    assert (old.kind, old.project) == (new.kind, new.project)
    assert old.id != new.id


async def test_a_rotated_key_lives_as_long_as_the_first_was_to(desk: Desk, clock: Clock) -> None:
    """The new key gets the lifetime that the old one was given, counted from now."""
    old = await made(desk, expires_in=100)
    clock.advance(90)
    new = await desk.ring.rotate(old.id, grace=0)
    listed = await desk.keys.find(new.id)

    assert listed is not None
    assert clock.now + 100 == ends_at(listed)


async def test_grace_never_outlives_expiry(desk: Desk, clock: Clock) -> None:
    """A rotation cannot prolong the old key."""
    old = await made(desk, expires_in=100)
    await desk.ring.rotate(old.id, grace=3600)

    clock.advance(100)
    assert None is await desk.grant(old.key)


async def test_a_second_rotation_cannot_prolong_the_grace(desk: Desk, clock: Clock) -> None:
    old = await made(desk)
    await desk.ring.rotate(old.id, grace=10)
    await desk.ring.rotate(old.id, grace=3600)

    clock.advance(10)
    assert None is await desk.grant(old.key)


async def test_an_ended_key_is_not_rotated(desk: Desk) -> None:
    """Rotation must not bring back what was revoked."""
    old = await made(desk)
    await desk.ring.revoke(old.id)

    with pytest.raises(InvalidRequest, match="has ended"):
        await desk.ring.rotate(old.id, grace=0)
    assert 1 == len(await desk.keys.of(old.project))


async def test_revocation_is_at_once_and_for_good(desk: Desk, clock: Clock) -> None:
    fresh = await made(desk)
    await desk.ring.revoke(fresh.id)
    clock.advance(5)
    await desk.ring.revoke(fresh.id)
    listed = await desk.keys.find(fresh.id)

    assert None is await desk.grant(fresh.key)
    assert listed is not None
    assert clock.now - 5 == listed.revoked_at
    assert not is_live(listed, clock.now - 5)


async def test_an_unknown_key_is_said_to_be(desk: Desk) -> None:
    with pytest.raises(NotFound, match="key_none"):
        await desk.ring.revoke("key_none")
    with pytest.raises(NotFound, match="key_none"):
        await desk.ring.rotate("key_none", grace=0)


async def test_a_failed_rotation_locks_nobody_out(desk: Desk) -> None:
    """The old key is ended last: if the new one cannot be kept, it still works."""
    old = await made(desk)

    class Full(SqlKeys):
        async def add(self, key: ApiKey, digest: bytes, /) -> None:
            raise Unavailable("disk full")

    desk.ring.keys = Full(desk.keys._db, desk.keys._clock)
    with pytest.raises(Unavailable):
        await desk.ring.rotate(old.id, grace=0)
    assert await desk.grant(old.key) is not None


@pytest.mark.parametrize("name", ["", " ", " a", "a ", "x" * 101, "a\nb", "prj_mine", "\x9b1m"])
async def test_names_a_project_cannot_have(desk: Desk, name: str) -> None:
    """A name can be printed, and is never taken for an id."""
    with pytest.raises(InvalidRequest):
        await desk.book.create(name, plan="free")


async def test_a_name_is_given_once(desk: Desk) -> None:
    await desk.book.create("acme", plan="free")

    with pytest.raises(InvalidRequest, match="exists already"):
        await desk.book.create("acme", plan="pro")


async def test_a_project_is_found_by_id_and_name(desk: Desk) -> None:
    project = await desk.book.create("acme", plan="free")

    assert project == await desk.book.find("acme")
    assert project == await desk.book.find(project.id)
    with pytest.raises(NotFound, match="nobody"):
        await desk.book.find("nobody")


async def test_a_first_start_gives_both_keys_once(desk: Desk) -> None:
    """An empty installation gets a project without limits and a key of each kind; a used one gets nothing."""
    first = await first_start(desk.book, desk.ring)

    assert first is not None
    assert ("default", "unlimited") == (first.project.name, first.project.plan)
    assert PROJECT == apikey.kind_of(first.key.key)
    assert TEST == apikey.kind_of(first.test_key.key)
    assert await desk.grant(first.test_key.key) is not None
    assert None is await first_start(desk.book, desk.ring)
