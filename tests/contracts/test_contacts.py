"""What `Contacts` and `Chores` promise, over SQLite and PostgreSQL."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import pytest

from adapters.sql.chores import SqlChores
from adapters.sql.contacts import SqlContacts
from adapters.sql.db import Db
from adapters.sql.projects import SqlProjects
from domain.errors import NotFound
from domain.notices import Contact
from domain.project import Project
from tests.support.fixtures import async_fixture

KEY = bytes(range(32))
URL = "https://hooks.slack.example/services/T0/B0/hunter2"
OWNER = Contact("p_1", "owner@shop.example", URL, False)
NOW = 1_800_000_000.0


@async_fixture
async def contacts(db: Db) -> SqlContacts:
    await SqlProjects(db).add(Project("p_1", "shop", "free", 0, NOW))
    await SqlProjects(db).add(Project("p_2", "bar", "free", 0, NOW))
    return SqlContacts(db, KEY)


async def test_nothing_was_given(contacts: SqlContacts) -> None:
    """An empty contact, which wants its reports."""
    assert Contact("p_1", "", "", True) == await contacts.contact("p_1")
    assert Contact("p_9") == await contacts.contact("p_9")


async def test_a_contact_comes_back(contacts: SqlContacts) -> None:
    """As it was kept last; without a channel there is none."""
    await contacts.keep(OWNER)
    assert OWNER == await contacts.contact("p_1")

    for changed in (Contact("p_1", "a@b.example", "https://x.example/y", True), Contact("p_1")):
        await contacts.keep(changed)
        assert changed == await contacts.contact("p_1")
    assert Contact("p_2") == await contacts.contact("p_2")


async def test_a_project_that_is_not_there(contacts: SqlContacts) -> None:
    with pytest.raises(NotFound):
        await contacts.keep(Contact("p_9", "a@b.example"))


async def test_a_channel_is_sealed(contacts: SqlContacts, db: Db) -> None:
    """Nothing of the URL is in the database, and two projects with the same one do not look the same."""
    await contacts.keep(OWNER)
    await contacts.keep(Contact("p_2", "", URL))

    [one, other] = await db.rows("SELECT * FROM contacts ORDER BY project")

    assert "hunter2" not in repr(one)
    assert b"slack" not in one["channel"]
    assert one["channel"] != other["channel"]
    assert "hunter2" not in repr(OWNER)


@pytest.mark.parametrize("broken", ["another key", "another row", "cut", "empty"])
async def test_a_seal_that_does_not_open(
    contacts: SqlContacts, db: Db, caplog: pytest.LogCaptureFixture, broken: str
) -> None:
    """No channel, one warning however often it is read, and all the rest as it was."""
    await contacts.keep(OWNER)
    reader = contacts
    if broken == "another key":
        reader = SqlContacts(db, KEY[::-1])
    elif broken == "another row":
        await contacts.keep(Contact("p_2", "", "https://evil.example/"))
        await db.run(
            "UPDATE contacts SET channel = (SELECT channel FROM contacts WHERE project = 'p_2')"
            " WHERE project = 'p_1'"
        )
    else:
        await db.run(
            "UPDATE contacts SET channel = :sealed WHERE project = 'p_1'",
            {"sealed": b"gAAAAA" if broken == "cut" else b""},
        )

    with caplog.at_level(logging.WARNING):
        found = [await reader.contact("p_1") for _ in range(3)]

    assert [Contact("p_1", OWNER.email, "", False)] * 3 == found
    assert 1 == len(caplog.records)
    assert "hunter2" not in caplog.text


async def test_a_chore_is_one_process_s(db: Db, open_db: Callable[[], Db]) -> None:
    """Of eight that ask at the same time one is told to, each time it is due."""
    others = [open_db() for _ in range(7)]
    askers = [SqlChores(one) for one in (db, *others)]
    try:
        for turn in range(5):
            now = NOW + turn * 60
            told = await asyncio.gather(*(one.mine("report", now, 60) for one in askers))
            assert [False] * 7 + [True] == sorted(told)
    finally:
        for other in others:
            await other.aclose()


async def test_a_chore_is_due_when_its_time_is_over(db: Db) -> None:
    """Not a millisecond earlier; one chore says nothing of another."""
    chores = SqlChores(db)

    assert await chores.mine("report", NOW, 60)
    assert not await chores.mine("report", NOW + 59.999, 60)
    assert await chores.mine("dunning", NOW + 59.999, 60)
    assert await chores.mine("report", NOW + 60, 60)
    assert not await chores.mine("report", NOW + 119, 60)
