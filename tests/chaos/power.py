"""R2: whatever a power cut leaves of the journal's files, the next start takes what is whole and invents nothing."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

from attrs import define, evolve

from adapters.journal import records, segments
from adapters.journal.disk import RESERVE, DiskJournal
from adapters.journal.records import CLOSE, Event, interrupted, payloads
from adapters.journal.segments import Segment, adopt
from adapters.journal.shipper import Orphan
from domain.errors import Unavailable
from domain.usage import CLIENT_GONE, MISS, Usage, UsageRecord
from tests.chaos.stage import Stage
from tests.chaos.trial import Trial, ms, percentile

TAIL = 64 << 10
WINDOW = 0.1
"""Seconds of traffic that a power cut may take."""
MACHINE = 0.4
"""What a machine with other work may add to it."""

Rows = Mapping[str, UsageRecord]


@define
class Written:
    """A journal as it was when the power went: its folder, its one segment's bytes, and what they say up to where."""

    folder: Path
    segment: str
    data: bytes
    events: Sequence[tuple[int, Event]]

    @property
    def end(self) -> int:
        return self.events[-1][0]

    def kept(self, until: int) -> dict[str, UsageRecord]:
        """The rows that the events up to there amount to."""
        rows: dict[str, UsageRecord] = {}
        for end, (kind, record) in self.events:
            if end > until:
                break
            rows[record.id] = record if kind == CLOSE else interrupted(record)
        return rows


class Ledger:
    """A UsageLog in memory; each row once."""

    def __init__(self, *, away: bool = False) -> None:
        self.rows: dict[str, UsageRecord] = {}
        self._away = away

    async def append(self, rows: Sequence[UsageRecord], /) -> None:
        if self._away:
            raise Unavailable("away")
        for row in rows:
            self.rows.setdefault(row.id, row)


async def r2(_: Stage, trial: Trial) -> None:
    with tempfile.TemporaryDirectory(prefix="watchllm-chaos-") as disk:
        await _window(trial, Path(disk) / "window")
    with tempfile.TemporaryDirectory(prefix="watchllm-chaos-", dir=_memory()) as folder:
        written = await _written(Path(folder) / "journal", trial.chance("rows"))
        await _truncated(trial, written, Path(folder))
        await _flipped(trial, written, Path(folder), trial.scale(200, 1_000))
        await _started(trial, written, Path(folder), trial.scale(10, 100))
        with trial.control("checksum", "altered") as broken, _no_checksum():
            unsure = await _written(Path(folder) / "unsure", trial.chance("rows"))
            await _flipped(broken, unsure, Path(folder), 200)


def _memory() -> str | None:
    """Many thousand files are read back, whose disk is not what is tested."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


async def _written(folder: Path, chance: Random) -> Written:
    journal = DiskJournal(folder, Ledger(away=True), time.time, segment_bytes=1 << 20)
    under_way: list[UsageRecord] = []
    number = 0
    while journal.used - len(under_way) * RESERVE < TAIL + (8 << 10):
        number += 1
        under_way.append(_record(number, chance))
        journal.open(under_way[-1])
        while under_way and chance.random() < 0.6:
            opened = under_way.pop(chance.randrange(len(under_way)))
            journal.close(_closed(opened, chance))
    # Files as they are now; the process itself "dies" by not being asked any more.
    [path] = folder.glob("*.log")
    data = path.read_bytes()
    events = [(end, records.decode(payload)) for end, payload in payloads(data)]
    copied = folder.with_name(folder.name + "-dead")
    shutil.copytree(folder, copied)
    await journal.aclose()
    return Written(
        copied, path.name, data, [(end, event) for end, event in events if event is not None]
    )


def _record(number: int, chance: Random) -> UsageRecord:
    return UsageRecord(
        id=f"{number:08x}-0000-7000-8000-{chance.getrandbits(48):012x}",
        project="prj_power",
        key="key_power",
        kind="project",
        at=1_790_000_000.0 + number,
        endpoint="chat/completions",
        model_asked="gpt-" + "x" * chance.randrange(40),
        model_answered="gpt-x",
        provider="openai",
        streamed=chance.random() < 0.4,
        outcome=CLIENT_GONE,
        status=499,
        usage=Usage(input=chance.randrange(10_000), estimated=True),
        cost=chance.randrange(1, 10**10),
        avoided=0,
        price_version="power",
        first_byte_ms=1.0,
        total_ms=2.0,
        cache_reason="",
    )


def _closed(opened: UsageRecord, chance: Random) -> UsageRecord:
    usage = Usage(input=chance.randrange(10_000), output=chance.randrange(10_000))
    cost = chance.randrange(10**12)
    return evolve(opened, outcome=MISS, status=200, usage=usage, cost=cost, cache_reason="stored")


async def _truncated(trial: Trial, written: Written, folder: Path) -> None:
    """Cut at every byte: what was whole before the cut is there, and nothing else. Every second file ends in zeros."""
    first = max(0, written.end - TAIL)
    offsets = list(range(first, written.end + 1))
    if not trial.full:
        drawn = trial.chance("cuts").sample(offsets, 300)
        offsets = sorted({*drawn, *offsets[-700:]})
    wrong = []
    for offset in offsets:
        zeros = bytes(4096) if offset % 2 else b""
        found = await _recovered(written, written.data[:offset] + zeros, folder)
        if found != written.kept(offset):
            wrong.append(offset)
    trial.tell(f"cut at {len(offsets)} offsets of {written.end - first} bytes")
    trial.none(wrong, "starts with too little or too much")


async def _flipped(trial: Trial, written: Written, folder: Path, times: int) -> None:
    """One bit is wrong: all before it is there, what follows may be missing, and nothing is altered."""
    chance = trial.chance("flips")
    missing, altered = [], []
    for _ in range(times):
        at, bit = chance.randrange(written.end), chance.randrange(8)
        data = bytearray(written.data)
        data[at] ^= 1 << bit
        found = await _recovered(written, bytes(data), folder)
        sure = written.kept(at)
        whole = written.kept(written.end)
        begun = {
            event[1].id: interrupted(event[1]) for _, event in written.events if event[0] != CLOSE
        }
        missing += [id for id in sure if id not in found]
        altered += [id for id, row in found.items() if row not in (whole.get(id), begun.get(id))]
    trial.tell(f"{times} bits flipped")
    trial.none(missing, "rows missing before the damage")
    trial.none(altered, "altered rows")


async def _recovered(written: Written, data: bytes, folder: Path) -> Rows:
    """What the next process makes of it, and the one after that."""
    home = _damaged(written, data, folder)
    ledger = Ledger()
    for owner in list(adopt(home)):
        orphan = Orphan(owner)
        while not orphan.finished:
            await ledger.append(orphan.read())
            orphan.shipped()
    found = dict(ledger.rows)
    again = list(adopt(home))
    assert not again, "files were left that somebody would read again"
    shutil.rmtree(home)
    return found


async def _started(trial: Trial, written: Written, folder: Path, times: int) -> None:
    """The whole journal starts on such files, takes new rows and brings both to the ledger."""
    chance = trial.chance("starts")
    wrong = []
    for number in range(times):
        offset = chance.randrange(written.end)
        home = _damaged(written, written.data[:offset], folder)
        ledger = Ledger()
        journal = DiskJournal(home, ledger, time.time, segment_bytes=1 << 16)
        journal.start()
        running = asyncio.create_task(journal.run())
        fresh = _record(10**6 + number, chance)
        journal.open(fresh)
        journal.close(_closed(fresh, chance))
        wanted = {*written.kept(offset), fresh.id}
        until = time.monotonic() + 5
        while set(ledger.rows) != wanted and time.monotonic() < until:
            await asyncio.sleep(0.01)
        if set(ledger.rows) != wanted:
            wrong.append(offset)
        running.cancel()
        await asyncio.wait([running])
        await journal.aclose()
        shutil.rmtree(home)
    trial.none(wrong, f"of {times} starts without all rows")


def _damaged(written: Written, data: bytes, folder: Path) -> Path:
    home = Path(tempfile.mkdtemp(dir=folder))
    (home / f"{written.segment.partition('.')[0]}.lock").touch()
    (home / written.segment).write_bytes(data)
    return home


async def _window(trial: Trial, folder: Path) -> None:
    """How long a row that was closed waits for the disk."""
    safe: list[tuple[float, int]] = []
    newest = 0
    append, sync = Segment.append, Segment.sync

    def added(self: Segment, data: bytes) -> None:
        nonlocal newest
        append(self, data)
        newest = self.used

    def noted(self: Segment) -> None:
        used = self.used
        sync(self)
        safe.append((time.monotonic(), used))

    segments.Segment.append = added  # type: ignore[method-assign]
    segments.Segment.sync = noted  # type: ignore[method-assign]
    try:
        # One segment for all rows, in which a place says whether it was written before another.
        journal = DiskJournal(folder, Ledger(), time.time, segment_bytes=1 << 26)
        journal.start()
        running = asyncio.create_task(journal.run())
        chance = trial.chance("window")
        written: list[tuple[float, int]] = []
        for number in range(trial.scale(300, 5_000)):
            record = _record(number, chance)
            journal.open(record)
            journal.close(_closed(record, chance))
            written.append((time.monotonic(), newest))
            await asyncio.sleep(0.003)
        await asyncio.sleep(3 * WINDOW)
        running.cancel()
        await asyncio.wait([running])
        await journal.aclose()
    finally:
        segments.Segment.append = append  # type: ignore[method-assign]
        segments.Segment.sync = sync  # type: ignore[method-assign]
    waits = [
        min((when for when, used in safe if used >= end and when >= at), default=at + 9) - at
        for at, end in written
    ]
    trial.tell(f"rows were safe after {ms(percentile(waits, 0.5))}, {ms(max(waits))} at most")
    trial.must(percentile(waits, 0.5) <= WINDOW, "half of the rows waited longer than the window")
    trial.must(max(waits) <= WINDOW + MACHINE, f"a row waited {ms(max(waits))} for the disk")


@contextmanager
def _no_checksum() -> Iterator[None]:
    module: Any = records
    real = module.crc32
    module.crc32 = lambda *_: 0
    try:
        yield
    finally:
        module.crc32 = real
