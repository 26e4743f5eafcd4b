"""The journal in memory: nothing is lost, nothing is counted twice, and its bound is kept."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

import pytest
from attrs import evolve

from adapters.journal import buffer
from adapters.journal.buffer import BATCH, BufferedJournal
from domain.errors import Unavailable
from domain.usage import Usage, UsageRecord, UsageTotal

RECORD = UsageRecord(
    "id-0", "prj_1", "key_1", "project", 0.0, "chat/completions", "gpt", "gpt", "openai", False,
    "miss", 200, Usage(input=9, output=12), 5, 0, "2026-11", 1.0, 2.0, "",
)  # fmt: skip


def record(number: int) -> UsageRecord:
    return evolve(RECORD, id=f"id-{number}")


def ids(*numbers: int) -> list[str]:
    return [f"id-{number}" for number in numbers]


class Ledger:
    """Keeps what it is given, each id once, and fails when told: before or after it has kept the rows."""

    def __init__(self) -> None:
        self.rows: dict[str, UsageRecord] = {}
        self.batches: list[int] = []
        self.away = False
        self.answers_lost = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def append(self, records: Sequence[UsageRecord], /) -> None:
        given = list(records)
        await self.gate.wait()
        if self.away:
            raise Unavailable("away")
        self.batches.append(len(given))
        for one in given:
            self.rows.setdefault(one.id, one)
        if self.answers_lost:
            self.answers_lost -= 1
            raise Unavailable("kept, but the answer was lost")

    async def totals(self, project: str, /, since: float, until: float) -> Sequence[UsageTotal]:
        return []


@pytest.fixture(autouse=True)
def _fast(monkeypatch) -> None:
    monkeypatch.setattr(buffer, "PAUSE", 0.001)
    monkeypatch.setattr(buffer, "MAX_PAUSE", 0.004)


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


def write(journal: BufferedJournal, *numbers: int) -> None:
    for number in numbers:
        journal.open(record(number))
        journal.close(record(number))


async def test_rows_arrive_in_order(ledger):
    """As they were closed, whatever the order in which they were opened."""
    journal = BufferedJournal(ledger)
    for number in (0, 1, 2):
        journal.open(record(number))
    for number in (2, 0, 1):
        journal.close(record(number))
    await journal.drain(1)

    assert ids(2, 0, 1) == list(ledger.rows)
    assert 0 == journal.backlog


async def test_many_rows_go_in_batches(ledger):
    """A statement has a bound."""
    journal = BufferedJournal(ledger)
    write(journal, *range(2 * BATCH + 1))
    await journal.drain(1)

    assert [BATCH, BATCH, 1] == ledger.batches
    assert ids(*range(2 * BATCH + 1)) == list(ledger.rows)


async def test_rows_wait_while_the_ledger_is_away(ledger, caplog):
    """They leave the queue only when the ledger has them; it is said once when it goes and once when it is back."""
    journal = BufferedJournal(ledger)
    write(journal, 0, 1)
    ledger.away = True
    shipping = asyncio.create_task(journal.run())
    with caplog.at_level(logging.INFO):
        await asyncio.sleep(0.02)
        assert 2 == journal.backlog
        write(journal, 2)
        ledger.away = False
        await _until(lambda: not journal.backlog)
    shipping.cancel()

    assert ids(0, 1, 2) == list(ledger.rows)
    assert ["the ledger is away; usage rows wait in memory", "the ledger is back"] == [
        one.message for one in caplog.records if one.name == buffer.__name__
    ]


async def test_an_answer_that_was_lost_counts_nothing_twice(ledger):
    """The same rows are sent again, and their ids make it once."""
    journal = BufferedJournal(ledger)
    ledger.answers_lost = 2
    write(journal, 0, 1)
    await journal.drain(1)

    assert ids(0, 1) == list(ledger.rows)
    assert [2, 2, 2] == ledger.batches


async def test_full_means_refuse(ledger):
    """Rows that wait and rows under way count together; what was let in is kept."""
    journal = BufferedJournal(ledger, limit=2)
    journal.open(record(0))
    journal.open(record(1))
    with pytest.raises(Unavailable) as caught:
        journal.open(record(2))
    assert {"Retry-After": "5"} == caught.value.headers()
    journal.close(record(0))
    with pytest.raises(Unavailable):
        journal.open(record(2))
    await journal.drain(1)
    journal.open(record(2))
    journal.close(record(1))
    journal.close(record(2))
    await journal.drain(1)

    assert ids(0, 1, 2) == list(ledger.rows)


async def test_a_row_that_was_paid_for_is_never_dropped(ledger, caplog):
    """Unpaid ones are kept up to a bound of their own, and a loss is said aloud."""
    journal = BufferedJournal(ledger, limit=2)
    journal.open(record(0))
    for number in range(10, 20):
        journal.close(record(number))
    journal.close(record(0))
    with caplog.at_level(logging.ERROR):
        await journal.drain(1)

    assert ids(10, 11, 12, 13, 0) == list(ledger.rows)
    [told] = caplog.records
    assert ("usage rows of unpaid requests were dropped", 6) == (told.message, told.rows)


async def test_shipping_and_draining_together_lose_nothing(ledger):
    """At the end both run at once, and rows are written all the while."""
    journal = BufferedJournal(ledger)
    write(journal, *range(1500))
    ledger.gate.clear()
    shipping = asyncio.create_task(journal.run())
    await asyncio.sleep(0.01)
    draining = [asyncio.create_task(journal.drain(5)) for _ in range(2)]
    await asyncio.sleep(0)
    write(journal, *range(1500, 1600))
    ledger.gate.set()
    await asyncio.gather(*draining)
    shipping.cancel()

    assert ids(*range(1600)) == list(ledger.rows)
    assert 1600 == sum(ledger.batches)


async def test_a_cancelled_shipment_goes_on(ledger):
    """What is on its way to a database is never cut; what comes twice counts once."""
    journal = BufferedJournal(ledger)
    write(journal, 0, 1)
    ledger.gate.clear()
    shipping = asyncio.create_task(journal.run())
    await asyncio.sleep(0.01)
    shipping.cancel()
    await asyncio.sleep(0)
    ledger.gate.set()
    await journal.drain(1)

    assert ids(0, 1) == list(ledger.rows)
    assert 0 == journal.backlog


async def test_draining_ends_in_time(ledger, caplog):
    """The process must end; what is lost is said."""
    journal = BufferedJournal(ledger)
    write(journal, 0, 1, 2)
    ledger.away = True
    with caplog.at_level(logging.ERROR):
        await asyncio.wait_for(journal.drain(0.02), 1)

    [told] = [one for one in caplog.records if one.levelno == logging.ERROR]
    assert ("usage rows were lost at the end", 3) == (told.message, told.rows)


async def test_draining_a_ledger_that_hangs_ends_in_time(ledger):
    """Also while a shipment holds its turn."""
    journal = BufferedJournal(ledger)
    write(journal, 0)
    ledger.gate.clear()
    shipping = asyncio.create_task(journal.run())
    await asyncio.sleep(0.01)
    await asyncio.wait_for(journal.drain(0.02), 1)
    shipping.cancel()
    ledger.gate.set()

    assert 1 == journal.backlog


async def test_an_open_row_keeps_its_place(ledger):
    """Whoever opens closes; until then the row counts, and draining does not wait for it."""
    journal = BufferedJournal(ledger, limit=1)
    journal.open(record(0))
    await asyncio.wait_for(journal.drain(5), 1)
    with pytest.raises(Unavailable):
        journal.open(record(1))
    journal.close(record(0))
    journal.close(record(0))
    await journal.drain(1)
    journal.open(record(1))

    assert ids(0) == list(ledger.rows)


async def _until(done) -> None:
    async with asyncio.timeout(2):
        while not done():
            await asyncio.sleep(0.001)
