"""What `migrate` promises, over SQLite and PostgreSQL."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import pytest

from adapters.sql.db import Db
from adapters.sql.migrate import Migration, MigrationError, migrate, packaged
from adapters.sql.projects import SqlProjects
from domain.errors import Unavailable
from domain.project import Project

FIRST = Migration(
    "0001_first",
    "CREATE TABLE first (id text NOT NULL); -- one\nINSERT INTO first VALUES ('a;b');\n",
)
SECOND = Migration("0002_second", "CREATE TABLE second (id text NOT NULL);\n")
BROKEN = Migration(
    "0003_broken", "CREATE TABLE third (id text NOT NULL);\nINSERT INTO nowhere VALUES (1);\n"
)


async def test_an_empty_database(empty_db: Db) -> None:
    """Everything is applied in order, once, and said."""
    expected = [migration.name for migration in packaged(empty_db.dialect)]

    assert expected == await migrate(empty_db)
    assert [] == await migrate(empty_db)
    assert expected == sorted(expected)
    assert expected


async def test_only_what_is_missing(empty_db: Db) -> None:
    """A later version adds its own files to what is there."""
    assert ["0001_first"] == await migrate(empty_db, [FIRST])
    assert ["0002_second"] == await migrate(empty_db, [FIRST, SECOND])
    assert [{"id": "a;b"}] == await empty_db.rows("SELECT id FROM first")


async def test_a_broken_file_leaves_nothing(empty_db: Db) -> None:
    """All or nothing: a failure leaves the schema as it was, tables included."""
    await migrate(empty_db, [FIRST])

    with pytest.raises(Unavailable):
        await migrate(empty_db, [FIRST, SECOND, BROKEN])

    with pytest.raises(Unavailable):
        await empty_db.rows("SELECT id FROM second")
    assert ["0002_second"] == await migrate(empty_db, [FIRST, SECOND])


async def test_several_nodes_at_once(empty_db: Db, open_db: Callable[[], Db]) -> None:
    """One of them does the work, the others wait for it and find nothing to do."""
    nodes = [empty_db, *(open_db() for _ in range(3))]
    try:
        done = await asyncio.gather(*(migrate(node) for node in nodes))
    finally:
        for node in nodes[1:]:
            await node.aclose()

    names = [migration.name for migration in packaged(empty_db.dialect)]
    assert sorted([names, [], [], []]) == sorted(done)


async def test_a_file_changed_after_it_was_applied(empty_db: Db) -> None:
    """The database's history is not rewritten: a clear error that names the file."""
    await migrate(empty_db, [FIRST])

    with pytest.raises(MigrationError, match="0001_first"):
        await migrate(empty_db, [Migration("0001_first", FIRST.text + "\n"), SECOND])


async def test_a_file_that_comes_too_late(empty_db: Db) -> None:
    """Files are applied in order only: what sorts before an applied one is an error."""
    await migrate(empty_db, [SECOND])

    with pytest.raises(MigrationError, match="0001_first"):
        await migrate(empty_db, [FIRST, SECOND])


async def test_a_database_newer_than_the_code(db: Db, caplog: pytest.LogCaptureFixture) -> None:
    """A newer schema only adds: this version works on, changes nothing, and says it."""
    newer = Migration(
        "9999_newer", "ALTER TABLE projects ADD COLUMN colour text NOT NULL DEFAULT 'red';\n"
    )
    await migrate(db, [*packaged(db.dialect), newer])
    project = Project("p_1", "shop", "free", 0, 1.0)

    with caplog.at_level(logging.WARNING):
        assert [] == await migrate(db)

    assert "9999_newer" in caplog.text
    assert await SqlProjects(db).add(project) is True
    assert [project] == list(await SqlProjects(db).all())


async def test_a_transaction_is_all_or_nothing(empty_db: Db) -> None:
    """What fails, or is cancelled, half way did not happen, and the next statement works."""
    await migrate(empty_db, [FIRST])
    begun = asyncio.Event()

    async def half() -> None:
        async with empty_db.transaction() as transaction:
            await transaction.run("DELETE FROM first")
            begun.set()
            await asyncio.Event().wait()

    task = asyncio.ensure_future(half())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(ZeroDivisionError):
        async with empty_db.transaction() as transaction:
            await transaction.run("DELETE FROM first")
            raise ZeroDivisionError

    assert [{"id": "a;b"}] == await empty_db.rows("SELECT id FROM first")
    async with empty_db.transaction() as transaction:
        assert 1 == await transaction.run("DELETE FROM first WHERE id = :id", {"id": "a;b"})
    assert [] == await empty_db.rows("SELECT id FROM first")


def test_every_file_is_for_both_or_in_two() -> None:
    """No version of the schema exists for one database only."""
    assert [it.name for it in packaged("sqlite")] == [it.name for it in packaged("postgres")]
