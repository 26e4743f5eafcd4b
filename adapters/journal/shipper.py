"""From the journal's files to the ledger: what waits, in which order, and what becomes of rows it never takes."""

from __future__ import annotations

import asyncio
import logging
import os
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from adapters.journal.records import CLOSE, OPEN, interrupted, letter
from adapters.journal.segments import START, Owner, Position, Reader
from domain.errors import ApiError, Unavailable
from domain.usage import UsageRecord
from ports.storage import UsageLog

log = logging.getLogger(__name__)

BATCH = 1_000
NEARLY = 64 << 10
"""Bytes that surely hold less than a batch."""
MOST_TOLD = 10_000

Thread = Callable[[Callable[[], Any]], Awaitable[Any]]
"""Runs a function where it may wait for the disk, one after the other."""


class OwnRows:
    """What this process closed. The newest are kept in memory, the rest is read back from the disk."""

    def __init__(self, owner: Owner, thread: Thread, remembered: int) -> None:
        self.waiting = 0
        self.reached: Position = START
        """All up to here is in the ledger."""
        self._owner = owner
        self._thread = thread
        self._remembered = remembered
        self._recent: deque[tuple[Position, UsageRecord]] = deque()
        self._written: Position = START
        self._reader: Reader | None = None
        """Where rows that are only on disk are read from; while it is set, none is kept in memory."""
        self._batch: list[UsageRecord] = []
        self._batch_end: Position = START

    def add(self, at: Position, record: UsageRecord) -> None:
        self.waiting += 1
        if self._reader is None and len(self._recent) >= self._remembered:
            self._reader = Reader(self._owner, self._written, at)
        if self._reader is None:
            self._recent.append((at, record))
        self._written = at

    @property
    def oldest(self) -> float | None:
        """Wall-clock seconds."""
        if self._batch:
            return self._batch[0].at
        return self._recent[0][1].at if self._recent else None

    def remembered(self) -> list[UsageRecord]:
        """What waits and is in memory."""
        return [*self._batch, *(record for _, record in self._recent)]

    async def batch(self) -> Sequence[UsageRecord]:
        """The next rows; the same again until `shipped` was called. None when nothing waits."""
        if self._batch:
            return self._batch
        while self._recent and len(self._batch) < BATCH:
            self._batch_end, record = self._recent.popleft()
            self._batch.append(record)
        while self._reader is not None and not self._batch:
            await self._read_back(self._reader)
        return self._batch

    def shipped(self) -> None:
        self.reached = self._batch_end
        self.waiting -= len(self._batch)
        self._batch = []

    async def _read_back(self, reader: Reader) -> None:
        start, reader.end = reader.at, self._written
        last = _nearly(reader)
        if last:
            # From here on new rows stay in memory: this reading takes all before them.
            self._reader = None
        try:
            found = await self._thread(reader.read_all if last else reader.read)
        except BaseException:
            # Perhaps still at it in its thread, so another one begins where it began.
            self._recent.clear()
            self._reader = Reader(self._owner, start, self._written)
            raise
        self._batch = [record for _, (kind, record) in found if kind == CLOSE]
        self._batch_end = reader.at
        if reader.at >= self._written:
            self._reader = None
        if last:
            # Counted anew, should the disk have lost some.
            self.waiting = len(self._batch) + len(self._recent)


def _nearly(reader: Reader) -> bool:
    (number, offset), (last, end) = reader.at, reader.end
    return number == last and end - offset <= NEARLY


class Orphan:
    """What a dead process left. Its closed rows first, then those it never closed, as interrupted ones."""

    def __init__(self, owner: Owner) -> None:
        self.owner = owner
        self.finished = False
        self._checkpoint = owner.checkpoint()
        self._reader = Reader(owner, (min(owner.numbers(), default=0), 0))
        self._open: dict[str, tuple[int, UsageRecord]] = {}
        self._rows: list[UsageRecord] = []

    @property
    def waiting(self) -> int:
        return len(self._rows)

    @property
    def oldest(self) -> float | None:
        return self._rows[0].at if self._rows else None

    def read(self) -> Sequence[UsageRecord]:
        """The next rows, perhaps none; the same again until `shipped` was called. For the thread."""
        if self._rows:
            return self._rows
        found = self._reader.read()
        for at, (kind, record) in found:
            if kind == OPEN:
                self._open[record.id] = at[0], record
                continue
            self._open.pop(record.id, None)
            if at > self._checkpoint:
                self._rows.append(record)
        if not found:
            self._rows = [interrupted(record) for _, record in self._left()]
            self.finished = not self._rows
        return self._rows

    def shipped(self) -> None:
        """What is no longer needed goes, segment by segment. For the thread."""
        self._rows = []
        if self.finished:
            self._remove(self.owner.numbers())
            self.owner.empty()
            self.owner.release()
            return
        if self._reader.at > self._checkpoint:
            self.owner.save(self._reader.at)
        keep = min((number for number, _ in self._open.values()), default=self._reader.at[0])
        self._remove(number for number in self.owner.numbers() if number < keep)

    def _left(self) -> list[tuple[int, UsageRecord]]:
        return [self._open.pop(id) for id in list(self._open)[:BATCH]]

    def _remove(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            if number in self._reader.damaged:
                self.owner.set_aside(number)
            else:
                self.owner.remove(number)


class Shipper:
    """Hands rows to the ledger. A row that it never takes is set aside, so that it does not hold up all others."""

    def __init__(self, ledger: UsageLog, thread: Thread) -> None:
        self._ledger = ledger
        self._thread = thread
        self._away = False
        self._dead: dict[str, None] = {}

    async def ship(self, rows: Sequence[UsageRecord], dead: Path) -> bool:
        """Whether all of them are dealt with. If not, all are to come again: twice is as good as once."""
        try:
            await self._append(rows, dead)
        except Unavailable:
            self._tell(away=True)
            return False
        self._tell(away=False)
        return True

    async def _append(self, rows: Sequence[UsageRecord], dead: Path) -> None:
        try:
            # A statement that is under way is never cut off: it may be a connection that others use.
            await asyncio.shield(self._ledger.append(rows))
        except Unavailable:
            raise
        except ApiError as error:
            if len(rows) > 1:
                half = len(rows) // 2
                await self._append(rows[:half], dead)
                await self._append(rows[half:], dead)
                return
            await self._set_aside(rows[0], error, dead)

    async def _set_aside(self, record: UsageRecord, error: ApiError, dead: Path) -> None:
        if record.id in self._dead:
            return
        line = letter(record, error.message)
        try:
            await self._thread(lambda: _post(dead, line))
        except OSError as exc:
            raise Unavailable("A usage row cannot be set aside.") from exc
        log.error("a usage row never fits the ledger and was set aside", extra={"row": record.id})
        if len(self._dead) >= MOST_TOLD:
            del self._dead[next(iter(self._dead))]
        self._dead[record.id] = None

    def _tell(self, *, away: bool) -> None:
        if away and not self._away:
            log.warning("the ledger is away; usage rows wait in the journal")
        if self._away and not away:
            log.info("the ledger is back")
        self._away = away


def _post(dead: Path, line: bytes) -> None:
    dead.mkdir(mode=0o700, exist_ok=True)
    fd = os.open(dead / "rows.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        if os.write(fd, line) != len(line):
            raise OSError("short write")
        os.fsync(fd)
    finally:
        os.close(fd)
