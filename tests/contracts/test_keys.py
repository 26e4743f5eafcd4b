"""What `Keys` and `Grants` promise, over SQLite and PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256

import attrs
import pytest

from adapters.sql.db import Db
from adapters.sql.keys import SqlKeys
from adapters.sql.projects import SqlProjects
from domain.errors import ApiError
from domain.project import PROJECT, TEST, ApiKey, Grant, Project
from tests.conftest import Clock
from tests.support.fixtures import async_fixture

NOW = 1_800_000_000.0
SHOP = Project("p_1", "shop", "free", 7, NOW)
KEY = ApiKey("k_1", "p_1", PROJECT, "first", "lgw_project_…abcd", NOW, None, None)
DIGEST = sha256(b"first").digest()


@async_fixture
async def keys(db: Db, clock: Clock) -> SqlKeys:
    await SqlProjects(db).add(SHOP)
    return SqlKeys(db, clock)


async def test_a_live_key_is_granted(keys: SqlKeys) -> None:
    """The grant is the key joined with its project."""
    await keys.add(KEY, DIGEST)

    assert Grant("p_1", "k_1", PROJECT, "free", 7, None) == await keys.grant(DIGEST)


async def test_an_unknown_digest(keys: SqlKeys) -> None:
    """A digest that no key has, or half of one, is None."""
    await keys.add(KEY, DIGEST)

    for digest in (sha256(b"other").digest(), DIGEST[:16], b"", b"\\x" + DIGEST, b"' OR 1=1 --"):
        assert await keys.grant(digest) is None


@pytest.mark.parametrize(
    ("expires_at", "revoked_at", "ends_at"),
    [
        (NOW + 60.5, None, NOW + 60.5),
        (None, NOW + 60, NOW + 60),
        (NOW + 60, NOW + 90, NOW + 60),
        (NOW + 90, NOW + 60, NOW + 60),
    ],
)
async def test_a_key_ends(
    keys: SqlKeys, clock: Clock, expires_at: float | None, revoked_at: float | None, ends_at: float
) -> None:
    """The earlier of expiry and revocation ends a grant; from that moment on there is none."""
    await keys.add(attrs.evolve(KEY, expires_at=expires_at, revoked_at=revoked_at), DIGEST)

    live = await keys.grant(DIGEST)
    clock.now = ends_at
    ended = await keys.grant(DIGEST)

    assert Grant("p_1", "k_1", PROJECT, "free", 7, ends_at) == live
    assert ended is None


async def test_end_only_ever_brings_forward(keys: SqlKeys) -> None:
    """The first end stays unless an earlier one comes; an unknown key is False."""
    await keys.add(KEY, DIGEST)

    for at, expected in ((NOW + 50, NOW + 50), (NOW + 90, NOW + 50), (NOW + 10, NOW + 10)):
        assert await keys.end("k_1", at) is True
        found = await keys.find("k_1")
        assert found is not None
        assert expected == found.revoked_at
    assert await keys.end("k_9", NOW) is False


async def test_listed_oldest_first_with_the_ended(keys: SqlKeys) -> None:
    """All keys of a project and no other's, in the order they were made."""
    old = attrs.evolve(KEY, id="k_9", kind=TEST, created_at=NOW - 5, expires_at=NOW - 1)
    await keys.add(KEY, DIGEST)
    await keys.add(old, sha256(b"old").digest())

    assert [old, KEY] == list(await keys.of("p_1"))
    assert [] == list(await keys.of("p_2"))
    assert KEY == await keys.find("k_1")
    assert await keys.find("k_2") is None


async def test_added_twice(keys: SqlKeys) -> None:
    """The same key again is as good as once; another key under its id or with its digest is refused."""
    await keys.add(KEY, DIGEST)
    await keys.add(KEY, DIGEST)

    assert [KEY] == list(await keys.of("p_1"))
    with pytest.raises(ApiError):
        await keys.add(KEY, sha256(b"other").digest())
    with pytest.raises(ApiError):
        await keys.add(attrs.evolve(KEY, id="k_2"), DIGEST)
    assert await keys.grant(sha256(b"other").digest()) is None


async def test_a_key_of_no_project(keys: SqlKeys) -> None:
    """A key belongs to a project that is there."""
    with pytest.raises(ApiError):
        await keys.add(attrs.evolve(KEY, project="p_9"), DIGEST)


async def test_every_change_of_a_grant_is_numbered(keys: SqlKeys, db: Db) -> None:
    """The number grows with a key, a plan and a purge, on all nodes, and stands still while nothing changes."""
    projects = SqlProjects(db)
    changes: list[Callable[[], object]] = [
        lambda: keys.add(KEY, DIGEST),
        lambda: projects.set_plan("p_1", "pro"),
        lambda: projects.set_budget("p_1", 5),
        lambda: projects.purge_cache("p_1"),
        lambda: db.run("UPDATE api_keys SET models = '[\"m\"]'"),
        lambda: db.run("UPDATE api_keys SET endpoints = '[\"chat\"]'"),
        lambda: keys.end("k_1", NOW),
        lambda: db.run("DELETE FROM api_keys"),
    ]
    for change in changes:
        before = await keys.sequence()
        assert before == await keys.sequence()
        await change()  # type: ignore[misc]
        assert await keys.sequence() > before


async def test_a_grant_has_its_limits(keys: SqlKeys, db: Db) -> None:
    """The project's budget and what the key may ask for, in the key's order."""
    limited = attrs.evolve(KEY, models=("gpt-4o", "a:b/c"), endpoints=("chat", "embeddings"))
    await SqlProjects(db).set_budget("p_1", 4 * 10**18)
    await keys.add(limited, DIGEST)

    grant = await keys.grant(DIGEST)

    assert grant is not None
    assert 4 * 10**18 == grant.budget
    assert (limited.models, limited.endpoints) == (grant.models, grant.endpoints)
    assert limited == await keys.find("k_1")


@pytest.mark.parametrize("stored", ["", "gpt-4o", "{}", "null", "[1]", '"gpt-4o"'])
@pytest.mark.parametrize("column", ["models", "endpoints"])
async def test_limits_that_cannot_be_read(keys: SqlKeys, db: Db, column: str, stored: str) -> None:
    """Written by hand and wrong: no grant at all rather than one without limits."""
    await keys.add(KEY, DIGEST)
    await db.run(f"UPDATE api_keys SET {column} = :stored", {"stored": stored})

    with pytest.raises(ApiError):
        await keys.grant(DIGEST)


async def test_last_use_moves_on_and_changes_no_grant(keys: SqlKeys) -> None:
    """Many at once, never back; unknown keys are ignored, and nobody has to ask again for any grant."""
    await keys.add(KEY, DIGEST)
    await keys.add(attrs.evolve(KEY, id="k_2"), sha256(b"second").digest())
    before = await keys.sequence()

    for uses, first, second in (
        ({}, None, None),
        ({"k_1": NOW + 1.5, "k_9'\"": NOW}, NOW + 1.5, None),
        ({"k_1": NOW, "k_2": NOW + 2}, NOW + 1.5, NOW + 2),
        ({"k_2": NOW + 3, "k_1": NOW + 3}, NOW + 3, NOW + 3),
    ):
        await keys.note_used(uses)
        assert [first, second] == [key.last_used_at for key in await keys.of("p_1")]
    assert before == await keys.sequence()


async def test_last_use_of_many_keys(keys: SqlKeys) -> None:
    """One statement takes as many keys as a process knows."""
    await keys.add(KEY, DIGEST)

    await keys.note_used({f"k_{number}": NOW + number for number in range(50_000)})

    found = await keys.find("k_1")
    assert found is not None
    assert NOW + 1 == found.last_used_at


async def test_a_key_cannot_be_read_back(keys: SqlKeys, db: Db) -> None:
    """What is stored of a key is its hint and its digest."""
    await keys.add(KEY, DIGEST)

    [row] = await db.rows("SELECT * FROM api_keys")

    assert {"hint": KEY.hint, "digest": DIGEST} == {name: row[name] for name in ("hint", "digest")}
    columns = {
        "id",
        "project",
        "kind",
        "name",
        "hint",
        "digest",
        "created_at",
        "expires_at",
        "revoked_at",
        "models",
        "endpoints",
        "last_used_at",
    }
    assert columns == set(row)
