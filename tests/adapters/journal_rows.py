"""Rows, a ledger that can be made to fail, and what a journal's folder still holds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import attrs

from adapters.journal.segments import adopt
from adapters.journal.shipper import Orphan
from adapters.sql.db import Db
from adapters.sql.migrate import migrate
from adapters.sql.sqlite import SqliteDb
from adapters.sql.usage import SqlUsageLog
from domain.errors import ApiError, Unavailable
from domain.usage import Usage, UsageRecord

ROW = UsageRecord(
    id="0190c0de-0000",
    project="p_1",
    key="k_1",
    kind="project",
    at=1_800_000_000.125,
    endpoint="chat/completions",
    model_asked="fast",
    model_answered="gpt-5.1",
    provider="openai",
    streamed=True,
    outcome="miss",
    status=200,
    usage=Usage(1, 2, 4, 8, 16, 32, 64, 20, False),
    cost=2**60 + 1,
    avoided=None,
    price_version="2026-02-28",
    first_byte_ms=120.25,
    total_ms=900.5,
    cache_reason="",
)
OPENED = attrs.evolve(ROW, outcome="failed", status=500, usage=Usage(input=7), cost=0)


def row(number: int) -> UsageRecord:
    return attrs.evolve(ROW, id=f"row-{number:06}")


def opened(number: int) -> UsageRecord:
    return attrs.evolve(OPENED, id=f"row-{number:06}")


def ids(*ranges: range) -> list[str]:
    return [row(number).id for numbers in ranges for number in numbers]


class Ledger:
    """A real one on SQLite, that can be away, slow, or never take some rows. `given` is what it took."""

    def __init__(self, db: Db) -> None:
        self.db = db
        self.away = False
        self.poison: set[str] = set()
        self.gate: asyncio.Event | None = None
        self.given: list[str] = []
        self._log = SqlUsageLog(db)

    async def append(self, records: Sequence[UsageRecord], /) -> None:
        if self.gate is not None:
            await self.gate.wait()
        if self.away:
            raise Unavailable("away")
        if any(record.id in self.poison for record in records):
            raise ApiError("It does not fit.")
        await self._log.append(records)
        self.given += [record.id for record in records]

    async def ids(self) -> list[str]:
        return [
            found["id"] for found in await self.db.rows("SELECT id FROM usage_log ORDER BY id")
        ]


@asynccontextmanager
async def sqlite_ledger(path: Path) -> AsyncIterator[Ledger]:
    db = SqliteDb(path)
    await migrate(db)
    try:
        yield Ledger(db)
    finally:
        await db.aclose()


def left_behind(folder: Path) -> list[UsageRecord]:
    """All that a dead process left, read to the end without a ledger; nothing is removed."""
    rows: list[UsageRecord] = []
    for owner in adopt(folder):
        orphan = Orphan(owner)
        while not orphan.finished:
            rows += orphan.read()
            orphan._rows = []
        owner.release()
    return rows


async def until(true: Callable[[], bool], seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not true():
            await asyncio.sleep(0.005)
