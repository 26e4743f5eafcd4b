"""The weekly report goes out on Mondays, once, to those who used something and can be told."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime

import pytest
from attrs import define

from app.services.chores import repeat
from app.services.weekly import WeeklyReports, week_before
from domain.billing import Account
from domain.errors import Unavailable
from domain.notices import Contact
from domain.project import Project
from domain.usage import UsageSums
from tests.support.postbox import MemoryBooks, MemoryChores, MemoryContacts, Posts

MONDAY = datetime(2027, 1, 18, tzinfo=UTC).timestamp()
DAY = 86_400
USED = UsageSums(100, 40, 0, 5_000, 600, 7_000, 3_000)


@define
class Bench:
    clock: object
    books: MemoryBooks
    contacts: MemoryContacts
    chores: MemoryChores
    posts: Posts

    def process(self):
        return WeeklyReports(
            projects=self.books,
            usage=self.books,
            contacts=self.contacts,
            bills=self.books,
            chores=self.chores,
            post=self.posts,
            clock=self.clock,
        )


@pytest.fixture
def bench(clock):
    books = MemoryBooks(
        [
            Project(f"prj_{name}", name, "free", 0, 0.0)
            for name in ("ann", "bob", "cy", "di", "ed")
        ],
        {"prj_bob": Account("prj_bob", email="bill@bob.test")},
        {f"prj_{name}": USED for name in ("ann", "bob", "cy", "di")},
    )
    contacts = MemoryContacts(
        {
            "prj_ann": Contact("prj_ann", "ann@ann.test"),
            "prj_di": Contact("prj_di", "di@di.test", reports=False),
            "prj_ed": Contact("prj_ed", "ed@ed.test"),
        }
    )
    clock.now = MONDAY + 8 * 3_600
    return Bench(clock, books, contacts, MemoryChores(), Posts())


async def test_who_gets_one(bench):
    """Who used something, can be told and has not asked for no more: an own address or that of the bill."""
    await bench.process().look()

    assert {
        "weekly_report:prj_ann:2027-W02": "",
        "weekly_report:prj_bob:2027-W02": "bill@bob.test",
    } == {identity: one.email for identity, one in bench.posts.told.items()}


async def test_what_it_says(bench):
    """The week before, Monday to Monday."""
    await bench.process().look()

    assert {
        "since": MONDAY - 7 * DAY,
        "until": MONDAY,
        "requests": 100,
        "hits": 40,
        "cost": 7_000,
        "saved": 3_000,
        "tokens_saved": 12_345,
    } == bench.posts.told["weekly_report:prj_ann:2027-W02"].facts
    assert {(MONDAY - 7 * DAY, MONDAY)} == {(one.since, one.until) for one in bench.books.spans}


@pytest.mark.parametrize(
    ("after", "told"),
    [
        (0, 0),
        (8 * 3_600 - 1, 0),
        (8 * 3_600, 2),
        (1 * DAY, 2),
        (3 * DAY - 1, 2),
        (3 * DAY, 0),
        (6 * DAY, 0),
    ],
)
async def test_when(bench, after, told):
    """From Monday 08:00 UTC on; if nobody was there then, until Wednesday is over."""
    bench.clock.now = MONDAY + after
    await bench.process().look()

    assert told == len(bench.posts.told)


async def test_once_a_week(bench):
    """However many processes look each minute, and also after a restart."""
    two = [bench.process(), bench.process()]
    for minute in range(3 * 24 * 60):
        if minute == 90:
            two.append(bench.process())
        for one in two:
            await one.look()
        bench.clock.advance(60)
    # One round by each process, since none knows how far another came.
    assert 3 * 2 == bench.posts.asked
    assert 2 == len(bench.posts.told)

    bench.clock.now = MONDAY + 7 * DAY + 9 * 3_600
    await two[0].look()
    assert 4 == len(bench.posts.told)


async def test_half_a_round_is_finished_by_another(bench):
    """Whoever began it is gone, or the database was."""
    first, second = bench.process(), bench.process()
    bench.posts.store.away = 1
    with pytest.raises(Unavailable):
        await first.look()
    await second.look()
    assert {} == bench.posts.told
    bench.clock.advance(3_600)
    await second.look()

    assert 2 == len(bench.posts.told)


@pytest.mark.parametrize(
    ("now", "until"),
    [
        ("2027-01-18T00:00:00", "2027-01-18"),
        ("2027-01-17T23:59:59", "2027-01-11"),
        ("2028-03-01T12:00:00", "2028-02-28"),
        ("2027-01-01T00:00:00", "2026-12-28"),
    ],
)
def test_weeks(now, until):
    found = week_before(datetime.fromisoformat(f"{now}+00:00").timestamp())
    end = datetime.fromisoformat(f"{until}T00:00:00+00:00").timestamp()

    assert (end - 7 * DAY, end) == (found.since, found.until)


async def test_the_week_of_the_turn_of_the_year(bench):
    """ISO's year is the week's."""
    bench.clock.now = datetime(2027, 1, 4, 9, tzinfo=UTC).timestamp()
    await bench.process().look()

    assert "weekly_report:prj_ann:2026-W53" in bench.posts.told


async def test_a_chore_goes_on(caplog):
    """An outage is two lines, however long it is."""
    caplog.set_level(logging.INFO)
    done = []
    ended = asyncio.Event()

    async def work():
        done.append(len(done))
        if 2 <= len(done) <= 8:
            raise Unavailable("The database is away.")

    async def sleep(seconds):
        assert 60.0 == seconds
        if len(done) == 12:
            ended.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(repeat(work, 60.0, "reports", sleep))
    await ended.wait()
    task.cancel()
    await asyncio.wait([task])

    assert ["a chore waits for the database", "a chore is done again"] == [
        line.message for line in caplog.records
    ]
