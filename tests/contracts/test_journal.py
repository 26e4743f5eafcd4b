"""What `Journal` promises."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from adapters.journal.disk import DiskJournal
from domain.errors import Unavailable
from tests.adapters.journal_rows import Ledger, ids, opened, row, sqlite_ledger, until
from tests.conftest import Clock
from tests.support.fixtures import async_fixture

SMALL = 5


@async_fixture
async def ledger(tmp_path: Path) -> AsyncIterator[Ledger]:
    async with sqlite_ledger(tmp_path / "ledger.db") as found:
        yield found


@async_fixture
async def journal(ledger: Ledger, clock: Clock, tmp_path: Path) -> AsyncIterator[DiskJournal]:
    disk = DiskJournal(tmp_path / "journal", ledger, clock)
    yield disk
    await disk.aclose()


@async_fixture
async def small(ledger: Ledger, clock: Clock, tmp_path: Path) -> AsyncIterator[DiskJournal]:
    """Room for few rows."""
    disk = DiskJournal(tmp_path / "small", ledger, clock, cap=10_000, remembered=SMALL)
    yield disk
    await disk.aclose()


async def test_what_is_closed_reaches_the_ledger(journal: DiskJournal, ledger: Ledger) -> None:
    """In the order in which it was closed, whether it was opened first (a call) or not (a hit)."""
    journal.open(opened(1))
    journal.close(row(2))
    journal.close(row(1))

    await journal.drain(5)

    assert [row(2).id, row(1).id] == ledger.given
    assert 0 == journal.backlog


async def test_every_field_arrives(journal: DiskJournal, ledger: Ledger) -> None:
    """The row is the closed record, not the opened one."""
    journal.open(opened(1))
    journal.close(attrs.evolve(row(1), cost=2**62, cache_reason="x", status=502))

    await journal.drain(5)

    [found] = await ledger.db.rows("SELECT cost, cache_reason, status FROM usage_log")
    assert {"cost": 2**62, "cache_reason": "x", "status": 502} == found


async def test_nothing_is_shipped_before_it_is_closed(
    journal: DiskJournal, ledger: Ledger
) -> None:
    journal.open(opened(1))

    await journal.drain(0.3)

    assert [] == ledger.given


async def test_rows_wait_while_the_ledger_is_away(journal: DiskJournal, ledger: Ledger) -> None:
    """Nothing is lost, and nothing raises, however long it takes."""
    ledger.away = True
    for number in range(3):
        journal.close(row(number))
    await journal.drain(0.3)
    assert 3 == journal.backlog

    ledger.away = False
    await journal.drain(5)

    assert ids(range(3)) == ledger.given


async def test_the_loop_ships_by_itself(journal: DiskJournal, ledger: Ledger) -> None:
    """Within parts of a second, and after an outage too."""
    running = asyncio.create_task(journal.run())
    journal.close(row(1))
    await until(lambda: 0 == journal.backlog)
    ledger.away = True
    journal.close(row(2))
    await until(lambda: ledger.given == ids(range(1, 2)))
    ledger.away = False

    await until(lambda: 0 == journal.backlog)

    assert ids(range(1, 3)) == ledger.given
    running.cancel()
    await asyncio.wait([running])


async def test_full_means_refuse(small: DiskJournal, ledger: Ledger) -> None:
    """With a time to come back; what was opened before is closed nevertheless, and all of it arrives."""
    ledger.away = True
    begun = 0
    with pytest.raises(Unavailable) as caught:
        for begun in range(1_000):
            small.open(opened(begun))
    assert 5 <= begun < 20
    assert caught.value.headers()["Retry-After"]

    for number in range(begun):
        small.close(row(number))

    ledger.away = False
    await small.drain(5)
    assert ids(range(begun)) == await ledger.ids()


async def test_there_is_room_again(small: DiskJournal, ledger: Ledger) -> None:
    """Once the ledger took what waited, calls are let through as before."""
    running = asyncio.create_task(small.run())
    ledger.away = True
    begun = 0
    with pytest.raises(Unavailable):
        for begun in range(1_000):
            small.open(opened(begun))
    for number in range(begun):
        small.close(row(number))
    ledger.away = False

    def opens() -> bool:
        try:
            small.open(opened(10_000))
        except Unavailable:
            return False
        small.close(row(10_000))
        return True

    await until(opens)
    running.cancel()
    await asyncio.wait([running])


async def test_closing_never_raises(small: DiskJournal, ledger: Ledger) -> None:
    """Not even when far more answers came from the cache than there is room for."""
    ledger.away = True
    for number in range(1_000):
        small.close(row(number))

    ledger.away = False
    await small.drain(5)

    assert SMALL <= len(ledger.given) < 1_000


@pytest.mark.parametrize("change", [{"cost": 2**70}, {"model_asked": "\ud800"}, {"status": None}])
async def test_a_strange_record_does_no_harm(journal: DiskJournal, change: dict[str, Any]) -> None:
    """Closing never raises, whatever is in the record."""
    journal.close(attrs.evolve(row(1), **change))
