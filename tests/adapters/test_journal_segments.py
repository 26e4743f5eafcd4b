"""The journal's files alone: their form, damage of every kind, and who owns them."""

from __future__ import annotations

import fcntl
import logging
import os
import random
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from adapters.journal import records
from adapters.journal.records import CLOSE, OPEN, decode, encode, payloads
from adapters.journal.segments import START, Owner, Position, Segment, adopt, claim
from domain.usage import Usage, UsageRecord
from tests.adapters.journal_rows import ROW, ids, left_behind, opened, row

ROOT = Path(__file__).parents[2]
TORN_BYTES = 4 << 10
FLIPS = 1_000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "journal"


def fill(folder: Path, count: int, *, per_segment: int = 40) -> tuple[Owner, list[Position]]:
    """A dead process's files: rows 0 to count, each opened and closed. Gives where each close ends."""
    owner = claim(folder)
    ends: list[Position] = []
    segment: Segment | None = None
    for number in range(count):
        if number % per_segment == 0:
            if segment is not None:
                segment.retire()
            index = number // per_segment + 1
            segment = Segment(owner.segment(index), index, 64 << 10)
        assert segment is not None
        segment.append(encode(OPEN, opened(number)))
        segment.append(encode(CLOSE, row(number)))
        ends.append((segment.number, segment.used))
    assert segment is not None
    segment.retire()
    owner.release()
    return owner, ends


# --- the form --------------------------------------------------------------------------------------


def test_the_form_is_for_good() -> None:
    """A newer version reads what an older one left: these bytes mean this row, for ever."""
    written = bytes.fromhex("cd0000009c677859") + (
        b'["close","0190c0de-0000","p_1","k_1","project",1800000000.125,"chat/completions",'
        b'"fast","gpt-5.1","openai",true,"miss",200,[1,2,4,8,16,32,64,20,false],1152921504606846977,null,'
        b'"2026-02-28",120.25,900.5,""]'
    )

    assert written == encode(CLOSE, ROW)
    [(end, payload)] = payloads(written)
    assert len(written) == end
    assert (CLOSE, ROW) == decode(payload)


@pytest.mark.parametrize(
    "change",
    [
        {"avoided": 5, "cost": None},
        {"usage": Usage(0, 1, 2, 3, 4, 5, 6, 7, True)},
        {"model_answered": 'Größe 🦊 \0 "quoted"\n'},
        {"model_answered": "\ud800"},
        {"status": None, "id": None},
        {"at": 1e-9, "first_byte_ms": 0.1 + 0.2},
    ],
)
def test_every_record_comes_back(change: dict[str, Any]) -> None:
    """Also those that no ledger will take: that is not for the journal to decide."""
    record = attrs.evolve(ROW, **change)

    [(_, payload)] = payloads(encode(OPEN, record))

    assert (OPEN, record) == decode(payload)


@pytest.mark.parametrize(
    "payload", [b"", b"[]", b"{}", b"null", b'["close"]', b'["else",1]', b"\xff", b"[" * 9_999]
)
def test_what_is_not_understood_is_no_record(payload: bytes) -> None:
    assert None is decode(payload)


def test_empty_space_is_no_record() -> None:
    """Zeros stand where space was set aside."""
    assert [] == list(payloads(bytes(1_000)))


# --- damage ----------------------------------------------------------------------------------------


def damaged(path: Path, data: bytes) -> list[UsageRecord]:
    path.write_bytes(data)
    return left_behind(path.parent)


def test_cut_at_every_byte(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A file that ends anywhere gives all rows that are whole before that, and no other; a row that was only
    opened by then is interrupted."""
    caplog.set_level(logging.CRITICAL)
    owner, ends = fill(folder, 40)
    path = owner.segment(1)
    whole = path.read_bytes()
    starts = [0, *(end for _, end in ends)]
    begun = [start + len(encode(OPEN, opened(0))) for start in starts]

    for cut in range(len(whole) - 1, max(0, len(whole) - TORN_BYTES), -1):
        os.truncate(path, cut)

        found = left_behind(folder)

        closed = sum(end <= cut for _, end in ends)
        expected = ids(range(closed))
        assert expected == [each.id for each in found if each.outcome == "miss"]
        interrupted = ids(range(closed, closed + 1)) if begun[closed] <= cut else []
        assert interrupted == [each.id for each in found if each.outcome != "miss"]


def put(path: Path, at: int, byte: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(bytes([byte]))


def flip_and_check(folder: Path, seed: int) -> None:
    owner, ends = fill(folder, 100)
    files = [*map(owner.segment, owner.numbers())]
    owner.save(ends[9])
    files.append(folder / f"{owner.name}.checkpoint")
    expected = {each.id: each for each in map(row, range(100))}
    chance = random.Random(seed)
    for _ in range(FLIPS):
        path = chance.choice(files)
        whole = path.read_bytes()
        at, bit = chance.randrange(len(whole)), chance.randrange(8)
        put(path, at, whole[at] ^ 1 << bit)

        found = left_behind(folder)

        put(path, at, whole[at])

        closed = {each.id: each for each in found if each.outcome == "miss"}
        assert len(found) == len({each.id for each in found})
        for id, each in closed.items():
            assert expected[id] == each
        number = files.index(path) + 1
        harmed = {
            row(index).id for index, end in enumerate(ends) if end[0] == number and end[1] > at
        }
        shipped = set(ids(range(10)))
        assert expected.keys() - harmed - shipped <= closed.keys()


def test_flipped_bits(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A wrong bit anywhere, in segments or in the checkpoint, costs at most what follows it in its segment; no row
    is ever wrong or there twice."""
    seed = random.SystemRandom().randrange(2**32)
    print("seed", seed)
    caplog.set_level(logging.CRITICAL)

    flip_and_check(folder, seed)


def test_flipped_bits_are_seen_by_the_checksum(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test above is worth something: without checksums it fails."""
    monkeypatch.setattr(records, "crc32", lambda *_: 0)

    with pytest.raises(AssertionError):
        flip_and_check(folder, seed=1)


def test_a_damaged_segment_does_not_end_the_next(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is told of, once, and the rest is read."""
    owner, ends = fill(folder, 80)
    path = owner.segment(1)
    changed = bytearray(path.read_bytes())
    changed[ends[19][1] + 9] ^= 1
    caplog.set_level(logging.ERROR)

    found = damaged(path, bytes(changed))

    assert ids(range(20), range(40, 80)) == [each.id for each in found]
    assert 1 == len(caplog.records)


def test_set_aside_space_is_no_damage(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What a killed process leaves: its last segment ends in zeros."""
    owner, _ = fill(folder, 3)
    path = owner.segment(1)

    found = damaged(path, path.read_bytes() + bytes(10_000))

    assert ids(range(3)) == [each.id for each in found]
    assert [] == caplog.records


def test_a_hole_of_zeros_is_damage(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """After a power cut a later page may be on disk and an earlier one not."""
    owner, ends = fill(folder, 10)
    path = owner.segment(1)
    whole = path.read_bytes()
    (_, start), (_, end) = ends[3], ends[5]

    found = damaged(path, whole[:start] + bytes(end - start) + whole[end:])

    assert ids(range(4)) == [each.id for each in found]
    assert 1 == len(caplog.records)


@pytest.mark.parametrize("content", [b"", b"x" * 100, bytes(100), b"\xff" * 4_096])
def test_a_checkpoint_that_cannot_be_believed(folder: Path, content: bytes) -> None:
    """Then everything is sent again, which does no harm."""
    owner, ends = fill(folder, 3)
    (folder / f"{owner.name}.checkpoint").write_bytes(content)
    assert START == owner.checkpoint()

    owner.save(ends[1])

    assert ends[1] == owner.checkpoint()
    assert ids(range(2, 3)) == [each.id for each in left_behind(folder)]


# --- owners ----------------------------------------------------------------------------------------


def test_nobody_else_may_look(folder: Path) -> None:
    """0700 for folders, 0600 for files, whatever the umask allows."""
    before = os.umask(0)
    try:
        owner, ends = fill(folder, 1)
        owner.save(ends[0])
        owner.set_aside(1)
        Segment(owner.segment(2), 2, 1_000).retire()
    finally:
        os.umask(before)

    modes = {
        path.relative_to(folder).suffix: stat.S_IMODE(path.stat().st_mode)
        for path in folder.rglob("*")
    }
    assert 0o700 == stat.S_IMODE(folder.stat().st_mode)
    assert {"": 0o700, ".lock": 0o600, ".checkpoint": 0o600, ".log": 0o600} == modes


def test_the_living_are_left_alone(folder: Path) -> None:
    """Files go over when their owner lets go of the lock, and to one only."""
    living = claim(folder)
    assert [] == list(adopt(folder))

    living.release()

    [adopted] = adopt(folder)
    assert living.name == adopted.name
    assert [] == list(adopt(folder))
    adopted.release()


@pytest.mark.parametrize("taken_at", [1, 2, 3])
def test_a_lock_that_was_removed_counts_for_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, taken_at: int
) -> None:
    """Between making a lock and holding it, somebody who looks for dead processes may have taken and removed it;
    without a file behind it, the next one to look would take the files of a living process."""
    real, calls = fcntl.flock, 0

    def removed_first(fd: int, how: int) -> None:
        nonlocal calls
        calls += 1
        if calls <= taken_at:
            [path] = folder.glob("*.lock")
            path.unlink()
        real(fd, how)

    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", removed_first)
        owner = claim(folder)

    assert [f"{owner.name}.lock"] == [path.name for path in folder.iterdir()]
    assert [] == list(adopt(folder))
    owner.release()


def test_files_without_a_lock_are_found(folder: Path) -> None:
    """Somebody may have removed what looked empty and useless."""
    owner, _ = fill(folder, 2)
    (folder / f"{owner.name}.lock").unlink()

    assert ids(range(2)) == [each.id for each in left_behind(folder)]


HOLD = """
import sys
from pathlib import Path
from adapters.journal.segments import claim
owner = claim(Path(sys.argv[1]))
print(owner.name, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def holder(folder: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        yield process
        process.kill()


def test_a_killed_process_lets_go(holder: subprocess.Popen[str], folder: Path) -> None:
    """The kernel frees the lock; nobody has to wait for a time-out or to look for process ids."""
    assert holder.stdout is not None
    name = holder.stdout.readline().strip()
    assert [] == list(adopt(folder))

    holder.send_signal(signal.SIGKILL)
    holder.wait()

    [adopted] = adopt(folder)
    assert name == adopted.name
    adopted.release()


def test_removing_all_leaves_nothing(folder: Path) -> None:
    owner, ends = fill(folder, 100)
    owner.save(ends[50])

    [adopted] = adopt(folder)
    adopted.empty()
    adopted.release()

    assert [] == list(folder.iterdir())


def test_a_segment_keeps_its_space(folder: Path) -> None:
    """Space is the segment's from the beginning, and given back at its end."""
    owner = claim(folder)
    segment = Segment(owner.segment(1), 1, 1 << 20)
    segment.append(b"x" * 1_000)
    assert 1 << 20 <= owner.segment(1).stat().st_blocks * 512

    segment.retire()

    assert 1_000 == owner.segment(1).stat().st_size
    owner.release()
