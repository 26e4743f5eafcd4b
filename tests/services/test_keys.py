"""The life of a key, over the embedded database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from itertools import count
from pathlib import Path

import pytest
from attrs import define, evolve, field

from adapters.sql.keys import SqlKeys
from adapters.sql.migrate import migrate
from adapters.sql.projects import SqlProjects
from adapters.sql.sqlite import SqliteDb
from app.services import throttle
from app.services.admission import Admission, Uses
from app.services.keys import FreshKey, KeyRing, ends_at, is_live
from app.services.projects import ProjectBook, first_start
from app.services.throttle import Throttle
from app.services.watching import Watching
from domain import apikey
from domain.errors import (
    ApiError,
    InvalidKey,
    InvalidRequest,
    NotFound,
    RateLimited,
    Unavailable,
)
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
    "wanted",
    [
        {"expires_in": 0.0},
        {"name": "x" * 101},
        {"name": "a\nb"},
        {"name": "\x1b[31m"},
        {"models": ("gpt 4o",)},
        {"models": ("",)},
        {"models": tuple(f"m{number}" for number in range(101))},
        {"endpoints": ("chat", "images")},
        {"endpoints": ("chat/completions",)},
    ],
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


async def test_limits_outlive_a_rotation(desk: Desk) -> None:
    """A key that was limited is not replaced by one that may do anything."""
    project = await desk.book.create("acme", plan="free")
    limits = {"models": ("gpt-4o",), "endpoints": ("chat",)}
    old = await desk.ring.create(project.id, kind=PROJECT, **limits)
    await desk.keys.note_used({old.id: 1_800_000_000.0})
    new = await desk.ring.rotate(old.id, grace=0)
    grant = await desk.grant(new.key)
    listed = await desk.keys.find(new.id)

    assert grant is not None
    assert listed is not None
    assert (("gpt-4o",), ("chat",), None) == (grant.models, grant.endpoints, listed.last_used_at)


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

    with pytest.raises(ApiError, match="exists already"):
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


# --- how often a wrong key may be tried


PUBLIC = "8.8.8.8"


class Known:
    """Grants of one good key, which is not always fresh."""

    def __init__(self, good: bytes) -> None:
        self.good, self.fresh, self.asked = good, True, 0

    def peek(self, digest: bytes) -> Grant | None:
        return GRANT if digest == self.good and self.fresh else None

    def vouched(self, digest: bytes) -> bool:
        return digest == self.good

    async def grant(self, digest: bytes) -> Grant | None:
        self.asked += 1
        await asyncio.sleep(0)
        return GRANT if digest == self.good else None


GRANT = Grant("prj_1", "key_1", PROJECT, "free", 0, None)
GOOD, WRONG = (apikey.mint(PROJECT, bytes([number]) * apikey.RANDOM_BYTES) for number in (1, 2))


@define
class Gate:
    admission: Admission
    known: Known
    uses: Uses

    async def tried(self, key: str, address: str = PUBLIC) -> int | str:
        """The status, or the key that was let in."""
        try:
            return (await self.admission.admit(key, address)).key
        except ApiError as error:
            return error.status


@pytest.fixture
def gate(desk: Desk, clock: Clock) -> Gate:
    known = Known(apikey.digest(PEPPER, GOOD))
    uses = Uses(desk.keys, clock)
    return Gate(Admission(known, PEPPER, uses, Throttle(3, clock)), known, uses)


@pytest.mark.parametrize("key", ["", "sk-nonsense", WRONG])
async def test_wrong_keys_run_into_a_wall(gate: Gate, clock: Clock, key: str) -> None:
    """Three a minute here: then 429 without a question to the database, until a third of the minute is over."""
    assert [401, 401, 401, 429, 429] == [await gate.tried(key) for _ in range(5)]
    asked = gate.known.asked
    with pytest.raises(RateLimited) as caught:
        await gate.admission.admit(WRONG, PUBLIC)
    assert ({"Retry-After": "20"}, asked) == (caught.value.headers(), gate.known.asked)
    clock.advance(19.9)
    assert 429 == await gate.tried(key)
    clock.advance(0.1)

    assert [401, 429] == [await gate.tried(key) for _ in range(2)]


async def test_many_wrong_keys_at_the_same_moment(gate: Gate) -> None:
    """Those that were looked up together are counted one by one."""
    found = await asyncio.gather(*[gate.tried(WRONG) for _ in range(10)])

    assert ([401] * 3, [429] * 7) == (sorted(found)[:3], sorted(found)[3:])


async def test_a_good_key_passes_the_wall(gate: Gate) -> None:
    """Whatever its neighbours try, also while it is to be asked for again."""
    for _ in range(5):
        await gate.tried(WRONG)
    for gate.known.fresh in (True, False):
        assert "key_1" == await gate.tried(GOOD)


async def test_a_good_key_is_no_failure(gate: Gate) -> None:
    """However often it is used."""
    assert {"key_1"} == {await gate.tried(GOOD) for _ in range(10)}
    assert 401 == await gate.tried(WRONG)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "192.168.0.9",
        "::1",
        "fe80::1%eth0",
        "::ffff:10.0.0.1",
        "0.0.0.0",
        "",
    ],
)
async def test_behind_a_private_address_is_everybody(gate: Gate, address: str) -> None:
    assert {401} == {await gate.tried(WRONG, address) for _ in range(10)}


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("8.8.8.8", "8.8.4.4", False),
        ("8.8.8.8", "::ffff:8.8.8.8", True),
        ("2606:4700:4700::1111", "2606:4700:4700::abcd:1", True),
        ("2606:4700:4700::1111", "2606:4700:4700:1::1111", False),
    ],
)
async def test_whose_address_it_is(gate: Gate, first: str, second: str, same: bool) -> None:
    """An address counts for itself; of IPv6 the whole /64, which is one customer's."""
    for _ in range(4):
        await gate.tried(WRONG, first)

    assert (429 if same else 401) == await gate.tried(WRONG, second)


async def test_no_more_strangers_are_remembered_than_fit(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that has not failed for longest is forgotten first."""
    monkeypatch.setattr(throttle, "MOST_STRANGERS", 2)
    for address in ["8.8.8.8"] * 3 + ["8.8.4.4"] * 3 + ["1.1.1.1"]:
        await gate.tried(WRONG, address)

    assert 2 == len(gate.admission.throttle._failures)
    assert 429 == await gate.tried(WRONG, "8.8.4.4")
    assert 401 == await gate.tried(WRONG, "8.8.8.8")


async def test_a_throttle_that_is_off(gate: Gate) -> None:
    gate.admission.throttle.per_minute = 0

    assert {401} == {await gate.tried(WRONG) for _ in range(50)}


# --- when a key was last used


async def test_uses_are_written_together(desk: Desk, gate: Gate, clock: Clock) -> None:
    """By hits and by longer roads alike, as of the last of them; a database that is away only makes it late."""
    fresh = await made(desk)
    gate.known.good = apikey.digest(PEPPER, fresh.key)
    gate.uses.note(fresh.id)
    clock.advance(5)
    gate.uses.note(fresh.id)

    class Away:
        async def note_used(self, uses: object) -> None:
            gate.uses.note("key_later")
            raise Unavailable("away")

    gate.uses.keys = Away()  # type: ignore[assignment]
    await gate.uses.write()
    gate.uses.keys = desk.keys
    clock.advance(5)
    await gate.uses.write()
    listed = await desk.keys.find(fresh.id)

    assert listed is not None
    assert clock.now - 5 == listed.last_used_at
    assert {} == gate.uses._unwritten


async def test_only_good_keys_are_used(gate: Gate) -> None:
    await gate.tried(WRONG)
    assert gate.admission.known(WRONG) is None
    assert {} == gate.uses._unwritten
    assert gate.admission.known(GOOD) is not None

    assert ["key_1"] == list(gate.uses._unwritten)


# --- streams end with their key


@define
class Running:
    """A stream under way."""

    grant: Grant
    digest: bytes
    ended: list[ApiError] = field(factory=list)

    def end(self, error: InvalidKey) -> None:
        self.ended.append(error)


async def test_streams_of_keys_that_are_no_longer_good_end(gate: Gate, clock: Clock) -> None:
    """Revoked ones when it is noticed, expired ones by the clock; the others, and all while nobody can tell, go on."""
    good = Running(GRANT, gate.known.good)
    revoked = [Running(GRANT, bytes([number])) for number in range(12)]
    expired = Running(evolve(GRANT, ends_at=clock() + 10), gate.known.good)
    watching = Watching(gate.known, lambda: [good, *revoked, expired], clock)

    async def away(digest: bytes) -> Grant | None:
        raise Unavailable("away")

    there, gate.known.grant = gate.known.grant, away  # type: ignore[method-assign]
    gate.known.fresh = False
    await watching.look()
    assert [] == [one for one in (good, *revoked, expired) if one.ended]
    gate.known.grant = there  # type: ignore[method-assign]
    await watching.look()
    assert (12, []) == (sum(len(one.ended) for one in revoked), good.ended + expired.ended)
    clock.advance(10)
    await watching.look()

    assert ([], "invalid_api_key") == (good.ended, expired.ended[0].code)


async def test_a_key_that_cannot_be_read_grants_nothing(gate: Gate, clock: Clock) -> None:
    """Its stream ends, and is no reason to leave the others alone."""
    broken, revoked = Running(GRANT, b"broken"), Running(GRANT, b"revoked")
    there = gate.known.grant

    async def found(digest: bytes) -> Grant | None:
        if digest == b"broken":
            raise ApiError("unreadable")
        return await there(digest)

    gate.known.grant = found  # type: ignore[method-assign]
    await Watching(gate.known, lambda: [broken, revoked], clock).look()

    assert [1, 1] == [len(one.ended) for one in (broken, revoked)]
