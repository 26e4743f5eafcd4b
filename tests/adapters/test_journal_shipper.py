"""The journal on disk as a whole: to the ledger and back, through full disks, dead processes and lost power."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs
import orjson
import pytest

from adapters.journal import segments, shipper
from adapters.journal.disk import DiskJournal
from adapters.journal.segments import Segment
from domain.errors import Unavailable
from domain.usage import INTERRUPTED, Usage
from tests.adapters.journal_rows import (
    Ledger,
    ids,
    left_behind,
    opened,
    row,
    sqlite_ledger,
    until,
)
from tests.conftest import Clock
from tests.support.fixtures import async_fixture

ROOT = Path(__file__).parents[2]
Begin = Callable[..., DiskJournal]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "journal"


@async_fixture
async def ledger(tmp_path: Path) -> AsyncIterator[Ledger]:
    async with sqlite_ledger(tmp_path / "ledger.db") as found:
        yield found


@async_fixture
async def begin(folder: Path, ledger: Ledger, clock: Clock) -> AsyncIterator[Begin]:
    """Journals on one folder, each as if in a process of its own."""
    begun = []

    def one_more(**options: int) -> DiskJournal:
        journal = DiskJournal(folder, ledger, clock, **options)
        begun.append(journal)
        return journal

    yield one_more
    for journal in begun:
        await journal.aclose()


@contextmanager
def running(journal: DiskJournal) -> Iterator[None]:
    task = asyncio.create_task(journal.run())
    try:
        yield
    finally:
        task.cancel()


def files(folder: Path) -> list[str]:
    return sorted(path.suffix or path.name for path in folder.iterdir())


# --- what waits -------------------------------------------------------------------------------------


async def test_a_clean_end_leaves_nothing(begin: Begin, folder: Path) -> None:
    journal = begin()
    journal.open(opened(1))
    journal.close(row(1))
    await journal.drain(5)

    await journal.aclose()

    assert [] == files(folder)


async def test_what_was_not_shipped_waits_for_the_next_start(begin: Begin, ledger: Ledger) -> None:
    """A drain takes no longer than it may; the next process brings the rest, once."""
    journal = begin()
    for number in range(50):
        journal.close(row(number))
    ledger.away = True
    before = time.monotonic()
    await journal.drain(0.3)
    assert time.monotonic() - before < 2
    await journal.aclose()
    ledger.away = False

    after = begin()
    with running(after):
        await until(lambda: 50 == len(ledger.given))

    assert ids(range(50)) == ledger.given


async def test_a_slow_ledger_does_not_make_a_drain_late(begin: Begin, ledger: Ledger) -> None:
    journal = begin()
    journal.close(row(1))
    ledger.gate = asyncio.Event()
    before = time.monotonic()

    await journal.drain(0.3)

    assert time.monotonic() - before < 2
    ledger.gate.set()
    await journal.drain(5)
    assert ids(range(1, 2)) == await ledger.ids()


async def test_memory_is_bounded_while_the_ledger_is_away(begin: Begin, ledger: Ledger) -> None:
    """What memory does not hold is read back from the disk, in order, each row once, over many segments; and
    later rows stay in memory again."""
    journal = begin(remembered=100, segment_bytes=64 << 10)
    ledger.away = True
    for number in range(5_000):
        if number % 2:
            journal.open(opened(number))
        journal.close(row(number))
    assert 5_000 == journal.backlog

    ledger.away = False
    await journal.drain(10)

    assert ids(range(5_000)) == ledger.given
    assert 0 == journal.backlog
    for number in range(5_000, 5_050):
        journal.close(row(number))
    shutil.rmtree(journal._folder)
    await journal.drain(5)
    assert ids(range(5_050)) == ledger.given


async def test_rows_come_while_others_are_read_back(begin: Begin, ledger: Ledger) -> None:
    """The road from disk to memory and back loses and doubles nothing."""
    journal = begin(remembered=10, segment_bytes=64 << 10)
    count = 0
    with running(journal):
        for _ in range(200):
            for _ in range(25):
                journal.close(row(count))
                count += 1
            await asyncio.sleep(0)
        await until(lambda: 0 == journal.backlog)

    assert ids(range(count)) == ledger.given


@pytest.mark.parametrize("count", [200, 3_000])
async def test_leaving_while_rows_are_read_back(begin: Begin, ledger: Ledger, count: int) -> None:
    """Whoever ships may be cancelled while the disk is asked; the drain that follows brings everything."""
    journal = begin(remembered=10)
    ledger.away = True
    for number in range(count):
        journal.close(row(number))
    ledger.away = False
    assert journal._mine is not None
    rows = journal._mine.rows
    real, asked = rows._thread, asyncio.Event()

    async def stuck(work: Callable[[], object]) -> None:
        asked.set()
        await asyncio.Event().wait()

    rows._thread = stuck
    leaving = asyncio.create_task(journal.drain(5))
    await asked.wait()
    journal.close(row(count))
    leaving.cancel()
    await asyncio.wait([leaving])
    rows._thread = real
    journal.close(row(count + 1))

    await journal.drain(10)

    assert ids(range(count + 2)) == ledger.given
    assert 0 == journal.backlog


async def test_segments_go_when_all_of_them_is_shipped(
    begin: Begin, folder: Path, ledger: Ledger
) -> None:
    """But not one in which a row is open: after a kill its beginning must be there."""
    journal = begin(segment_bytes=16 << 10)
    with running(journal):
        journal.open(opened(0))
        for number in range(1, 500):
            journal.close(row(number))
        await until(lambda: 499 == len(ledger.given))
        await until(lambda: (folder / f"{only_name(folder)}.checkpoint").exists())
        assert files(folder).count(".log") > 5

        journal.close(row(0))
        await until(lambda: files(folder).count(".log") == 1)
        await until(lambda: journal.used < 16 << 10)


def only_name(folder: Path) -> str:
    [lock] = folder.glob("*.lock")
    return lock.stem


async def test_how_it_is(begin: Begin, ledger: Ledger, clock: Clock) -> None:
    """Backlog, bytes and age can be read at any time, without waiting."""
    journal = begin()
    assert ("ok", 0, 0, 0.0) == (journal.state, journal.backlog, journal.used, journal.oldest)

    journal.close(attrs.evolve(row(1), at=clock()))
    clock.advance(30)

    assert ("ok", 1, 30.0) == (journal.state, journal.backlog, journal.oldest)
    assert 100 < journal.used < 1_000


# --- rows that never fit ------------------------------------------------------------------------------


async def test_poisoned_rows_are_set_aside(
    begin: Begin, folder: Path, ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    """They hold nobody up, are kept for people to read, and are told of once each."""
    caplog.set_level(logging.ERROR)
    journal = begin()
    ledger.poison = {row(3).id, row(77).id, row(78).id}
    for number in range(100):
        journal.close(row(number))

    await journal.drain(5)

    assert sorted(ids(range(3), range(4, 77), range(79, 100))) == await ledger.ids()
    lines = [*map(orjson.loads, (folder / "dead" / "rows.jsonl").read_bytes().splitlines())]
    assert ids(range(3, 4), range(77, 79)) == [line["id"] for line in lines]
    assert ("It does not fit.", 2**60 + 1, 32) == (
        lines[0]["reason"],
        lines[0]["cost"],
        lines[0]["usage"]["output"],
    )
    told = [each.row for each in caplog.records if "set aside" in each.message]  # type: ignore[attr-defined]
    assert ids(range(3, 4), range(77, 79)) == told


async def test_what_a_real_ledger_never_takes(begin: Begin, folder: Path, ledger: Ledger) -> None:
    """After a restart too, when such rows come from the disk."""
    for journal in (begin(), begin()):
        journal.close(attrs.evolve(row(1), cost=2**64, model_asked="\ud800"))
        journal.close(attrs.evolve(row(2), status=None))  # type: ignore[arg-type]
        journal.close(row(3))
        await journal.aclose()

    after = begin()
    with running(after):
        await until(lambda: ids(range(3, 4)) * 2 == ledger.given)
        await until(lambda: "dead" in files(folder))
        await after.drain(5)

    assert ids(range(3, 4)) == await ledger.ids()
    assert 2 == len((folder / "dead" / "rows.jsonl").read_bytes().splitlines())


async def test_poison_while_the_ledger_goes_away(begin: Begin, ledger: Ledger) -> None:
    """An outage in the middle of the search condemns nobody."""
    journal = begin()
    ledger.poison = {row(5).id}
    for number in range(10):
        journal.close(row(number))
    real = ledger.append
    calls = 0

    async def failing(records: object) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise Unavailable("away")
        await real(records)  # type: ignore[arg-type]

    ledger.append = failing  # type: ignore[method-assign]

    await journal.drain(5)

    assert ids(range(5), range(6, 10)) == await ledger.ids()


# --- room --------------------------------------------------------------------------------------------


async def test_a_full_journal_says_so(begin: Begin, ledger: Ledger) -> None:
    """And begins again when the ledger has taken what waited."""
    journal = begin(cap=200_000, segment_bytes=16 << 10)
    ledger.away = True
    count = 0
    with pytest.raises(Unavailable) as caught:
        for count in range(10_000):
            journal.open(opened(count))
            journal.close(row(count))
    assert 5 == caught.value.retry_after
    assert "full" == journal.state
    assert 180_000 < journal.used <= 200_000

    ledger.away = False
    with running(journal):
        await until(lambda: "ok" == journal.state)

    assert ids(range(count)) == await ledger.ids()


async def test_the_cap_is_for_all_processes(begin: Begin, ledger: Ledger, folder: Path) -> None:
    folder.mkdir()
    (folder / "other.00000001.log").write_bytes(b"x" * 150_000)
    (folder / "dead").mkdir()
    (folder / "dead" / "rows.jsonl").write_bytes(b"x" * 60_000)

    journal = begin(cap=200_000)

    with pytest.raises(Unavailable):
        journal.open(opened(1))
    assert "full" == journal.state


async def test_too_many_under_way(begin: Begin) -> None:
    """There is always room for the ends of all that was begun, without a new file."""
    journal = begin(segment_bytes=64 << 10)
    with pytest.raises(Unavailable):
        for number in range(1_000):
            journal.open(opened(number))


@contextmanager
def no_bigger_files() -> Iterator[None]:
    """The kernel refuses every new segment, as it does on a full disk; what is set aside can be written."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_a_full_disk(
    begin: Begin, folder: Path, ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever was begun is closed on disk, nothing new is begun, and it is told of once."""
    caplog.set_level(logging.ERROR)
    journal = begin(segment_bytes=48 << 10)
    for number in range(20):
        journal.open(opened(number))
    begun = 20
    with no_bigger_files():
        with pytest.raises(Unavailable):
            for begun in range(20, 1_000):
                journal.open(opened(begun))
        with pytest.raises(Unavailable):
            journal.open(opened(2_000))
        assert "failing" == journal.state
        journal.close(attrs.evolve(row(0), model_answered="long" * 1_000))
        for number in range(1, begun):
            journal.close(row(number))
    assert 1 == len(caplog.records)
    assert [] == [*journal._unsaved]
    shutil.copytree(folder, folder.with_name("copy"))
    assert ids(range(begun)) == [each.id for each in left_behind(folder.with_name("copy"))]

    with running(journal):
        await until(lambda: "ok" == journal.state)
        journal.open(opened(begun))
        journal.close(row(begun))
        await until(lambda: 0 == journal.backlog)

    assert ids(range(begun + 1)) == await ledger.ids()


async def test_a_disk_that_breaks_in_the_middle_of_a_record(
    begin: Begin, folder: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows of that time are shipped from memory, and written once the disk is back."""
    journal = begin()
    journal.open(opened(1))
    journal.close(row(0))
    real = os.write

    def torn(fd: int, data: bytes) -> int:
        real(fd, data[: len(data) // 2])
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", torn)
        journal.close(row(1))
        journal.close(row(2))
        with pytest.raises(Unavailable):
            journal.open(opened(3))
    ledger.away = True
    assert ("failing", 3) == (journal.state, journal.backlog)

    with running(journal):
        await until(lambda: "ok" == journal.state)
    shutil.copytree(folder, folder.with_name("copy"))
    assert ids(range(3)) == [each.id for each in left_behind(folder.with_name("copy"))]

    ledger.away = False
    await journal.drain(5)
    assert ids(range(3)) == await ledger.ids()


async def test_a_disk_that_cannot_be_synced(
    begin: Begin, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the kernel may have forgotten is not built upon."""
    journal = begin()
    with monkeypatch.context() as patch, running(journal):
        patch.setattr(Segment, "sync", broken)
        journal.open(opened(1))
        await until(lambda: "failing" == journal.state)
        with pytest.raises(Unavailable):
            journal.open(opened(2))
        patch.undo()
        await until(lambda: "ok" == journal.state)
        journal.close(row(1))
        await until(lambda: 0 == journal.backlog)

    assert ids(range(1, 2)) == await ledger.ids()


def broken(*_: object) -> None:
    raise OSError(errno.EIO, "Input/output error")


async def test_a_folder_that_cannot_be_made(ledger: Ledger, clock: Clock, tmp_path: Path) -> None:
    """Nothing is begun, closing still does not raise, and what could not be written arrives."""
    (tmp_path / "file").write_bytes(b"")
    journal = DiskJournal(tmp_path / "file" / "journal", ledger, clock)
    for attempt in (journal.start, lambda: journal.open(opened(1))):
        with pytest.raises(Unavailable):
            attempt()
    assert "failing" == journal.state

    journal.close(row(1))
    await journal.drain(5)

    assert ids(range(1, 2)) == await ledger.ids()
    await journal.aclose()


async def test_what_is_dropped_is_told(
    begin: Begin, ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    """Only rows nobody paid for, and only when neither disk nor memory has room."""
    journal = begin(cap=10_000, remembered=5)
    journal.open(opened(5_000))
    for number in range(1_000):
        journal.close(row(number))
    journal.close(row(5_000))

    await journal.drain(5)

    [told] = [each for each in caplog.records if "dropped" in each.message]
    arrived = await ledger.ids()
    assert row(5_000).id in arrived
    assert 1_001 == len(arrived) + told.rows  # type: ignore[attr-defined]


async def test_power_may_fail_at_any_time(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was written is safe soon, and an idle journal leaves the disk alone."""
    synced = 0
    real = Segment.sync

    def counted(segment: Segment) -> None:
        nonlocal synced
        real(segment)
        synced += 1

    monkeypatch.setattr(Segment, "sync", counted)
    journal = begin()
    with running(journal):
        journal.open(opened(1))
        before = time.monotonic()
        await until(lambda: 1 == synced)
        assert time.monotonic() - before < 1

        await asyncio.sleep(0.35)
        assert 1 == synced
        journal.close(row(1))
        await until(lambda: 2 == synced)


# --- dead processes -----------------------------------------------------------------------------------


async def test_a_row_that_was_never_closed(begin: Begin, ledger: Ledger, folder: Path) -> None:
    """Its process died in the middle: it becomes one row that says so, and what the provider took is a guess."""
    dead = begin()
    dead.open(attrs.evolve(opened(1), usage=Usage(input=70)))
    dead.open(opened(2))
    dead.close(row(2))
    await dead.aclose()

    for _ in range(2):
        after = begin()
        with running(after):
            await until(lambda: 2 == len(ledger.given))
            await until(lambda: only_one(folder))

    assert ids(range(2, 3), range(1, 2)) == ledger.given
    [found] = await ledger.db.rows("SELECT * FROM usage_log WHERE id = :id", {"id": row(1).id})
    assert (INTERRUPTED, 500, 70, 1, None) == (
        found["outcome"],
        found["status"],
        found["input_tokens"],
        found["estimated"],
        found["cost"],
    )


async def test_a_damaged_segment_is_kept_for_people(
    begin: Begin, ledger: Ledger, folder: Path
) -> None:
    """The start succeeds, what could be read is shipped, and the file is moved aside and not deleted."""
    dead = begin()
    for number in range(10):
        dead.close(row(number))
    await dead.aclose()
    [path] = folder.glob("*.log")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)

    after = begin()
    with running(after):
        await until(lambda: (folder / "dead" / path.name).exists())

    assert ids(range(5)) == await ledger.ids()
    assert data == (folder / "dead" / path.name).read_bytes()
    assert not path.exists()


async def test_a_crash_at_every_step(
    begin: Begin,
    ledger: Ledger,
    folder: Path,
    tmp_path: Path,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The folder as it is between any two changes of it is one that nothing is lost from and nothing doubled."""
    first = begin(segment_bytes=8 << 10)
    first.open(opened(0))
    for number in range(1, 60):
        first.open(opened(number))
        first.close(row(number))
    await first.aclose()
    copies: list[tuple[Path, list[str]]] = []

    def copied(real: Callable[..., object]) -> Callable[..., object]:
        def step(*given: object, **named: object) -> object:
            for moment in ("before", "after"):
                copies.append((tmp_path / f"copy-{len(copies)}-{moment}", [*ledger.given]))
                shutil.copytree(folder, copies[-1][0])
                if moment == "before":
                    result = real(*given, **named)
            return result

        return step

    with monkeypatch.context() as patch:
        for name in ("unlink", "replace"):
            patch.setattr(Path, name, copied(getattr(Path, name)))
        patch.setattr(shipper, "BATCH", 7)
        patch.setattr(segments, "SLICE", 7)
        second = begin(segment_bytes=8 << 10)
        with running(second):
            await until(lambda: 60 == len(set(ledger.given)))
            await until(lambda: only_one(folder))
        await second.aclose()

    assert len(copies) > 20
    assert ids(range(60)) == await ledger.ids()
    for copy, shipped in copies:
        ledger.given = []
        again = DiskJournal(copy, ledger, clock)
        again.start()
        await again._tidy(again._mine)  # type: ignore[arg-type]
        await again.drain(5)
        await again.aclose()
        assert ids(range(60)) == sorted({*shipped, *ledger.given})
        assert len(ledger.given) == len(set(ledger.given))
        assert [] == files(copy)
    [found] = await ledger.db.rows("SELECT id FROM usage_log WHERE outcome = 'interrupted'")
    assert {"id": row(0).id} == found


CLOSING = """
import asyncio, sys
from pathlib import Path
from adapters.journal.disk import DiskJournal
from domain.errors import Unavailable
from tests.adapters.journal_rows import opened, row

class Away:
    async def append(self, records): raise Unavailable("away")

async def main():
    journal = DiskJournal(Path(sys.argv[1]), Away(), lambda: 0.0)
    running = asyncio.create_task(journal.run())
    for number in range(1_000_000):
        journal.open(opened(number))
        sys.stdout.write(f"o{number}\\n")
        if number % 3:
            journal.close(row(number))
            sys.stdout.write(f"c{number}\\n")
        sys.stdout.flush()
        if number % 50 == 0:
            await asyncio.sleep(0)

asyncio.run(main())
"""


async def test_a_killed_process_loses_nothing(begin: Begin, ledger: Ledger, folder: Path) -> None:
    """10,000 rows and more that no ledger has seen, and SIGKILL: whatever `open` or `close` returned for is there,
    once, soon after the next start."""
    with subprocess.Popen(
        [sys.executable, "-c", CLOSING, str(folder)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        told = [process.stdout.readline().strip() for _ in range(26_000)]
        process.send_signal(signal.SIGKILL)
        told += [
            line.strip() for line in process.stdout.read().splitlines(True) if line[-1] == "\n"
        ]
    closed = {int(line[1:]) for line in told if line[0] == "c"}
    begun = {int(line[1:]) for line in told if line[0] == "o"}
    assert len(closed) > 10_000

    before = time.monotonic()
    journal = begin()
    journal.start()
    ready = time.monotonic() - before
    stalls = []
    with running(journal):
        while len(ledger.given) < len(begun) or not only_one(folder):
            turn = time.monotonic()
            await asyncio.sleep(0.001)
            stalls.append(time.monotonic() - turn)
            assert time.monotonic() - before < 10
    print(f"{len(begun)} rows: ready {ready:.3f} s, replay {time.monotonic() - before:.2f} s,")
    print(f"longest stall {max(stalls) * 1000:.0f} ms")

    assert ready < 3
    assert len(ledger.given) == len(set(ledger.given))
    found = await ledger.db.rows("SELECT id, outcome FROM usage_log")
    outcomes = {each["id"]: each["outcome"] for each in found}
    assert {row(number).id for number in begun} <= outcomes.keys()
    assert {"miss"} == {outcomes[row(number).id] for number in closed}
    assert len(outcomes) <= len(begun) + 1


def only_one(folder: Path) -> bool:
    return 1 == files(folder).count(".lock")


ADOPTING = """
import asyncio, sys, time
from pathlib import Path
from adapters.journal.disk import DiskJournal
from adapters.sql.sqlite import SqliteDb
from adapters.sql.usage import SqlUsageLog

async def main():
    db = SqliteDb(Path(sys.argv[2]))
    journal = DiskJournal(Path(sys.argv[1]), SqlUsageLog(db), time.time)
    sys.stdin.readline()
    running = asyncio.create_task(journal.run())
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    running.cancel()
    await asyncio.wait([running])
    await journal.drain(5)
    await journal.aclose()
    await db.aclose()

asyncio.run(main())
"""


async def test_many_start_at_once(
    begin: Begin, ledger: Ledger, folder: Path, tmp_path: Path
) -> None:
    """Each dead process's rows go to one of the living; together they bring all of them, and leave nothing."""
    for first in range(0, 3_000, 1_000):
        dead = begin()
        dead.open(opened(9_000 + first))
        for number in range(first, first + 1_000):
            dead.close(row(number))
        await dead.aclose()
    command = [sys.executable, "-c", ADOPTING, str(folder), str(tmp_path / "ledger.db")]
    processes = [
        subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, text=True) for _ in range(4)
    ]

    def say_all() -> None:
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()

    try:
        say_all()
        async with asyncio.timeout(20):
            while len(await ledger.ids()) < 3_003:
                await asyncio.sleep(0.05)
        say_all()
        ends = [process.wait(10) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.communicate()

    assert [0] * 4 == ends
    expected = ids(range(3_000), range(9_000, 12_000, 1_000))
    assert expected == await ledger.ids()
    assert [] == files(folder)
