"""A journal on disk: what was opened or closed survives the end of the process, however it ends.

Each record is in the kernel before `open` and `close` return, so a kill loses nothing; ten times a second a thread
makes it safe from power cuts. Shipping to the ledger goes on beside that. When the journal or its disk is full, what
costs money is refused, never forgotten.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TypeVar

from attrs import define

from adapters.journal.records import CLOSE, OPEN, encode
from adapters.journal.segments import START, Owner, adopt, bytes_of_others, claim
from adapters.journal.shipper import BATCH, Orphan, OwnRows, Shipper
from adapters.journal.writer import Writer
from domain.errors import Unavailable
from domain.usage import UsageRecord
from ports.storage import UsageLog

log = logging.getLogger(__name__)

OK, FULL, FAILING = "ok", "full", "failing"

CAP = 1 << 30
SEGMENT = 8 << 20
REMEMBERED = 4_000
RESERVE = 1 << 10
"""Bytes kept free for the end of each open row."""

SYNC_EVERY = 0.1
TIDY_EVERY = 10
"""Syncs between two looks at other processes' files."""
PAUSE, MAX_PAUSE = 0.2, 5.0

T = TypeVar("T")


@define
class Mine:
    """What a process has once it has begun."""

    owner: Owner
    writer: Writer
    rows: OwnRows


class DiskJournal:
    """`Journal` in `folder`, which any number of processes may share; `run` must run for ever beside it.

    To be built after forking: a child that inherits the lock would keep its parent's files from being found.
    """

    def __init__(
        self,
        folder: Path,
        ledger: UsageLog,
        clock: Callable[[], float],
        *,
        cap: int = CAP,
        segment_bytes: int = SEGMENT,
        remembered: int = REMEMBERED,
    ) -> None:
        self.cap = cap
        self._folder = folder
        self._clock = clock
        self._segment_bytes = segment_bytes
        self._remembered = remembered
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="journal")
        self._shipper = Shipper(ledger, self._in_thread)
        self._shipping = asyncio.Lock()
        self._mine: Mine | None = None
        self._orphans: list[Orphan] = []
        self._open: dict[str, int] = {}
        """In which segment each open row began."""
        self._unsaved: deque[UsageRecord] = deque()
        """Rows that the disk did not take: they are shipped from memory."""
        self._dropped = 0
        self.dropped = 0
        """Rows that found no room since the start."""
        self._others = 0
        self._saved = START
        self._barred = self._untidy = self._closed = False

    # --- for /health -------------------------------------------------------------------------------

    @property
    def state(self) -> str:
        if self._barred or (self._mine is not None and self._mine.writer.failing):
            return FAILING
        return OK if self._fits(2 * RESERVE) else FULL

    @property
    def fullness(self) -> float:
        return self.used / self.cap if self.state == OK else 1.0

    @property
    def used(self) -> int:
        """Bytes of all processes' files, of `cap`; what is promised to open rows included."""
        own = 0 if self._mine is None else self._mine.writer.used
        return self._others + own + len(self._open) * RESERVE

    @property
    def backlog(self) -> int:
        """Rows that are closed and not in the ledger, as far as they are known yet."""
        waiting = sum(orphan.waiting for orphan in self._orphans) + len(self._unsaved)
        return waiting + (0 if self._mine is None else self._mine.rows.waiting)

    @property
    def oldest(self) -> float:
        """How many seconds ago the request began whose row has waited longest; 0 if none waits."""
        began = [orphan.oldest for orphan in self._orphans]
        began += [record.at for record in islice(self._unsaved, 1)]
        began += [] if self._mine is None else [self._mine.rows.oldest]
        known = [at for at in began if at is not None]
        return max(0.0, self._clock() - min(known)) if known else 0.0

    # --- the port ----------------------------------------------------------------------------------

    def start(self) -> None:
        """Takes files of its own; done at the first use if not before. Raises Unavailable."""
        self._begun()

    def open(self, record: UsageRecord) -> None:
        writer = self._begun().writer
        frame = encode(OPEN, record)
        if not self._fits(len(frame) + RESERVE):
            raise Unavailable(
                "The usage journal is full; nothing can be billed now.", retry_after=5
            )
        keep = (len(self._open) + 1) * RESERVE
        if keep + len(frame) > self._segment_bytes:
            raise Unavailable("Too many requests are under way.", retry_after=1)
        at = None if writer.failing else writer.write(frame, keep, owed=False)
        if at is None:
            raise Unavailable(
                "The usage journal cannot be written; nothing can be billed now.", retry_after=5
            )
        self._open[record.id] = at[0]

    def close(self, record: UsageRecord) -> None:
        if self._kept(record):
            self._open.pop(record.id, None)
        elif record.id in self._open or len(self._unsaved) < self._remembered:
            self._unsaved.append(record)
        else:
            self._dropped += 1
            self.dropped += 1

    async def drain(self, timeout: float) -> None:
        if self._closed:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                if self._mine is not None:
                    await self._mine.writer.sync()
                while self.backlog or self._orphans:
                    if not await self._ship():
                        await asyncio.sleep(PAUSE)
        if self.backlog:
            log.warning("usage rows wait for the next start", extra={"rows": self.backlog})

    # --- the loops ---------------------------------------------------------------------------------

    async def run(self) -> None:
        """Runs for ever."""
        self._begun()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keep_safe())
            group.create_task(self._keep_shipping())

    async def aclose(self) -> None:
        """Gives the files up: for good if nothing waits in them, else to the next start."""
        if self._closed:
            return
        self._closed = True
        try:
            await self._in_thread(self._give_up)
        except OSError as exc:
            log.error("the usage journal was not closed well: %s", exc.strerror)  # noqa: TRY400
        self._mine = None
        self._executor.shutdown()
        lost = len(self._unsaved) + self._dropped
        if lost:
            log.error("usage rows were lost: the disk did not take them", extra={"rows": lost})

    async def _keep_safe(self) -> None:
        while True:
            # Without files of its own it says so by its state, and the next look tries again.
            with suppress(Unavailable):
                await self._tidy(self._begun())
            for _ in range(TIDY_EVERY):
                await asyncio.sleep(SYNC_EVERY)
                if self._mine is not None:
                    await self._mine.writer.sync()

    async def _keep_shipping(self) -> None:
        pause = PAUSE
        while True:
            pause = PAUSE if await self._ship() else min(pause * 2, MAX_PAUSE)
            await asyncio.sleep(pause)

    # --- files -------------------------------------------------------------------------------------

    def _begun(self) -> Mine:
        if self._mine is not None:
            return self._mine
        if self._closed:
            raise Unavailable("The usage journal is closed.")
        self._barred = True
        try:
            owner = claim(self._folder)
            try:
                self._others = bytes_of_others(self._folder, owner.name)
                writer = Writer(owner, self._segment_bytes, self._in_thread)
            except OSError:
                owner.release()
                raise
        except OSError as exc:
            raise Unavailable(
                f"The usage journal cannot be written: {exc.strerror}.", retry_after=5
            ) from exc
        self._barred = False
        self._mine = Mine(owner, writer, OwnRows(owner, self._in_thread, self._remembered))
        return self._mine

    def _fits(self, size: int) -> bool:
        return self.used + size <= self.cap

    def _kept(self, record: UsageRecord) -> bool:
        """Whether the end of a row is on disk. Of rows nobody paid for, a full journal keeps none."""
        try:
            mine = self._begun()
        except Unavailable:
            return False
        opened = record.id in self._open
        frame = encode(CLOSE, record)
        if not opened and not self._fits(len(frame)):
            return False
        keep = (len(self._open) - opened) * RESERVE
        at = mine.writer.write(frame, keep, owed=opened)
        if at is None:
            return False
        mine.rows.add(at, record)
        return True

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)

    async def _tidy(self, mine: Mine) -> None:
        """Room is counted anew, what dead processes left is found, and what is no longer needed goes."""
        try:
            if await self._in_thread(mine.writer.deleted):
                await self._begin_anew(mine)
                return
            if mine.writer.failing and await mine.writer.recover():
                rows, self._unsaved = self._unsaved, deque()
                self._close_all(rows)
            await self._in_thread(partial(self._look_around, mine.owner))
            reached = mine.rows.reached
            if reached != self._saved:
                await self._in_thread(partial(mine.owner.save, reached))
                self._saved = reached
            await mine.writer.forget(min([reached[0], *self._open.values()]))
        except OSError as exc:
            if not self._untidy:
                log.warning("the usage journal cannot be tidied: %s", exc.strerror)
            self._untidy = True
        else:
            self._untidy = False

    async def _begin_anew(self, mine: Mine) -> None:
        """The files were deleted while they were in use: what memory has of them goes into new ones."""
        rows = mine.rows.remembered()
        lost = mine.rows.waiting - len(rows)
        log.error("the usage journal was deleted; it begins anew", extra={"rows_lost": lost})
        self.dropped += lost
        self._mine, self._saved = None, START
        self._close_all(rows)
        with suppress(OSError):
            await self._in_thread(mine.writer.finish)
        mine.owner.release()
        self._begun()

    def _close_all(self, rows: Iterable[UsageRecord]) -> None:
        for record in rows:
            self.close(record)

    def _look_around(self, own: Owner) -> None:
        # Into the list from here, so that whoever is cancelled meanwhile leaves no lock behind that nobody knows of.
        for owner in adopt(self._folder):
            self._orphans.append(Orphan(owner))
        self._others = bytes_of_others(self._folder, own.name)

    def _give_up(self) -> None:
        for orphan in self._orphans:
            orphan.owner.release()
        if self._mine is None:
            return
        owner, rows = self._mine.owner, self._mine.rows
        try:
            self._mine.writer.finish()
            if not rows.waiting and not self._open:
                owner.empty()
            else:
                owner.save(rows.reached)
        finally:
            owner.release()

    # --- shipping ----------------------------------------------------------------------------------

    async def _ship(self) -> bool:
        """Whether the ledger took all it was given; less than a batch waits then."""
        async with self._shipping:
            more = True
            while more:
                if not (await self._ship_unsaved() and await self._ship_own()):
                    return False
                for orphan in list(self._orphans):
                    if not await self._ship_orphan(orphan):
                        return False
                more = bool(self._orphans) or self.backlog >= BATCH
            if self._dropped:
                rows = {"rows": self._dropped}
                log.error("usage rows of unpaid requests were dropped", extra=rows)
                self._dropped = 0
            return True

    async def _ship_unsaved(self) -> bool:
        rows = list(islice(self._unsaved, BATCH))
        if not rows:
            return True
        if not await self._send(rows):
            return False
        sent = {record.id for record in rows}
        self._unsaved = deque(record for record in self._unsaved if record.id not in sent)
        for id in sent:
            self._open.pop(id, None)
        return True

    async def _ship_own(self) -> bool:
        mine = self._mine
        if mine is None:
            return True
        rows = await mine.rows.batch()
        if rows and not await self._send(rows):
            return False
        mine.rows.shipped()
        return True

    async def _ship_orphan(self, orphan: Orphan) -> bool:
        try:
            rows = await self._in_thread(orphan.read)
            if rows and not await self._send(rows):
                return False
            await self._in_thread(orphan.shipped)
        except OSError as exc:
            log.warning("what a dead process left cannot be read: %s", exc.strerror)
            return False
        if orphan.finished:
            self._orphans.remove(orphan)
        return True

    async def _send(self, rows: Sequence[UsageRecord]) -> bool:
        return await self._shipper.ship(rows, self._folder / "dead")
