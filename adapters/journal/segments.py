"""The journal's files: who owns them, and how they are written, read and removed. No ledger, no event loop.

A process owns the files that begin with its name, for as long as it holds the lock on `<name>.lock`. The kernel frees
the lock when the process ends, however it ends; whoever gets it then owns what was left (flock(2)).

    <name>.lock           empty
    <name>.00000001.log   segments: records one after the other, then zeros where space is set aside
    <name>.checkpoint     how far the ledger has them
    dead/                 rows the ledger never takes, and damaged segments
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from secrets import token_hex

import orjson

from adapters.journal.records import MAX_FRAME, Event, decode, frame, payloads

log = logging.getLogger(__name__)

Position = tuple[int, int]
"""Number of a segment and offset in it; the end of the record it speaks of."""

START: Position = (0, 0)
SLICE, SLICE_BYTES = 1_000, 2 * MAX_FRAME
NO_FALLOCATE = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)

# macOS has neither.
_sync = getattr(os, "fdatasync", os.fsync)
_allocate = getattr(os, "posix_fallocate", None)


class Segment:
    """The file being written. Its space is set aside at once, so that within `size` the disk cannot be full."""

    def __init__(self, path: Path, number: int, size: int) -> None:
        self.number = number
        self.size = size
        self.used = 0
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            _set_aside(self._fd, size)
        except OSError:
            os.close(self._fd)
            path.unlink()
            raise

    def append(self, data: bytes) -> None:
        """In the kernel when it returns. After an OSError the segment takes no more: its end may be torn."""
        if os.write(self._fd, data) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.used += len(data)

    def sync(self) -> None:
        _sync(self._fd)

    def retire(self) -> None:
        """Gives back what was not used, whole records only, and closes."""
        try:
            os.ftruncate(self._fd, self.used)
            _sync(self._fd)
        finally:
            os.close(self._fd)


class Owner:
    """One process's files, while this process holds their lock."""

    def __init__(self, folder: Path, name: str, lock: int) -> None:
        self.name = name
        self._folder = folder
        self._lock = lock

    @property
    def dead(self) -> Path:
        return self._folder / "dead"

    def segment(self, number: int) -> Path:
        return self._folder / f"{self.name}.{number:08}.log"

    def deleted(self, number: int | None) -> bool:
        """Whether the lock, or the segment with this number, is no longer what its name means."""
        try:
            if number is not None:
                self.segment(number).stat()
            return not os.path.samestat(os.fstat(self._lock), self._path("lock").stat())
        except FileNotFoundError:
            return True

    def numbers(self) -> list[int]:
        found = (path.name.split(".")[1] for path in self._folder.glob(f"{self.name}.*.log"))
        return sorted(int(number) for number in found if number.isdecimal())

    def checkpoint(self) -> Position:
        """START if there is none, or none that can be believed."""
        try:
            data = self._path("checkpoint").read_bytes()
        except OSError:
            return START
        for _, payload in payloads(data):
            with suppress(ValueError, TypeError):
                number, offset = orjson.loads(payload)
                return number, offset
        return START

    def save(self, position: Position) -> None:
        """Atomic: a crash leaves the old one or the new one."""
        fresh = self._path("fresh")
        with open(fresh, "wb", opener=_private) as file:
            file.write(frame(orjson.dumps(position)))
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self._path("checkpoint"))
        self.sync_names()

    def sync_names(self) -> None:
        fd = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def set_aside(self, number: int) -> None:
        """A damaged segment is kept for people to look at."""
        self.dead.mkdir(mode=0o700, exist_ok=True)
        with suppress(FileNotFoundError):
            self.segment(number).replace(self.dead / self.segment(number).name)

    def remove(self, number: int) -> None:
        self.segment(number).unlink(missing_ok=True)

    def release(self) -> None:
        """The files stay, for whoever takes them next."""
        # Once only: the number may be another file's by the second time.
        lock, self._lock = self._lock, -1
        if lock >= 0:
            os.close(lock)

    def empty(self) -> None:
        """Nothing in them is needed any more. The lock goes last: a crash on the way leaves something to adopt.

        Oldest first, for a later segment may hold the end of what an earlier one opened, never the reverse.
        """
        for number in self.numbers():
            self.remove(number)
        for kind in ("fresh", "checkpoint", "lock"):
            self._path(kind).unlink(missing_ok=True)

    def _path(self, kind: str) -> Path:
        return self._folder / f"{self.name}.{kind}"


class Reader:
    """Walks through an owner's records, from segment to segment. Damage ends a segment, never the walk."""

    def __init__(self, owner: Owner, at: Position, until: Position | None = None) -> None:
        """`at` is the end of a record. Without `until` all there is now; its owner must be dead then."""
        self.at = at
        self.end = until or (max(owner.numbers(), default=0) + 1, 0)
        self.damaged: set[int] = set()
        self._owner = owner

    def read(self) -> list[tuple[Position, Event]]:
        """The next records, at most SLICE; none at the end."""
        while self.at < self.end:
            number, offset = self.at
            most = self.end[1] - offset if number == self.end[0] else SLICE_BYTES
            data = self._bytes(number, offset, min(most, SLICE_BYTES))
            found = [((number, offset + end), event) for end, event in _events(data)]
            if found:
                self.at = found[-1][0]
                return found
            self._leave(number, offset)
        return []

    def read_all(self) -> list[tuple[Position, Event]]:
        found: list[tuple[Position, Event]] = []
        while part := self.read():
            found += part
        return found

    def _leave(self, number: int, offset: int) -> None:
        rest = self._bytes(number, offset, -1)
        if number == self.end[0]:
            rest = rest[: self.end[1] - offset]
        if rest.strip(b"\0"):
            self.damaged.add(number)
            log.error(
                "a segment of the usage journal is damaged; what follows in it cannot be read",
                extra={"segment": self._owner.segment(number).name, "bytes": len(rest)},
            )
        later = (other for other in self._owner.numbers() if other > number)
        self.at = min((next(later, self.end[0]), 0), self.end)
        if number == self.end[0]:
            self.at = self.end

    def _bytes(self, number: int, offset: int, most: int) -> bytes:
        try:
            with self._owner.segment(number).open("rb") as file:
                file.seek(offset)
                return file.read(most)
        except OSError as exc:
            if not isinstance(exc, FileNotFoundError):
                self.damaged.add(number)
                log.exception("a segment of the usage journal cannot be read")
            return b""


def claim(folder: Path) -> Owner:
    """Files of our own, under a name nobody had before. Raises OSError."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    while True:
        name = token_hex(8)
        path = folder / f"{name}.lock"
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        lock = _lock(path)
        # Whoever looks for dead processes may have been faster and taken it for one.
        if lock is not None:
            return Owner(folder, name, lock)


def adopt(folder: Path) -> Iterator[Owner]:
    """The files whose owner is dead; from here on they are ours. Several may look at once: each set goes to one."""
    names = {
        path.name.split(".")[0] for kind in ("lock", "log") for path in folder.glob(f"*.{kind}")
    }
    for name in sorted(names):
        lock = _lock(folder / f"{name}.lock")
        if lock is not None:
            yield Owner(folder, name, lock)


def bytes_of_others(folder: Path, own: str) -> int:
    """What all files but our own segments take, what is set aside included."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            if not (name.startswith(own) and name.endswith(".log")):
                with suppress(FileNotFoundError):
                    total += os.stat(os.path.join(root, name)).st_size
    return total


def _events(data: bytes) -> Iterator[tuple[int, Event]]:
    for count, (end, payload) in enumerate(payloads(data)):
        event = decode(payload)
        if event is None or count == SLICE:
            return
        yield end, event


def _lock(path: Path) -> int | None:
    """The descriptor that holds the lock; None if somebody else does."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # The last owner removes the file while it holds the lock: what we locked must still be what the name means.
        if os.path.samestat(os.fstat(fd), path.stat()):
            return fd
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(fd)
    return None


def _set_aside(fd: int, size: int) -> None:
    if _allocate is None:
        return
    try:
        _allocate(fd, 0, size)
    except OSError as exc:
        if exc.errno not in NO_FALLOCATE:
            raise


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
