"""Answers in a SQLite file, so that an embedded cache survives a restart.

How an answer looks as bytes, and how it is known to be whole and whose it is, is somebody else's: `encode` and
`decode` are passed in. Whatever goes wrong here is a miss.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from math import floor
from pathlib import Path

import attrs

from adapters.sql.db import millis, seconds
from adapters.sql.seen import Seen
from adapters.sql.sqlite import SqliteThread
from domain.answer import CacheEntry, CacheKey

WRITE_BEHIND = 0.25
"""Seconds that an answer may wait to be written. A kill loses it, which is a miss; memory has it meanwhile."""
MOST_UNWRITTEN = 8 << 20
ROWS_AT_ONCE = 250

ROW_BYTES = 200
"""What a row takes beside its blob, with the index and half-filled pages, near enough for a bound."""

_TABLE = """
    CREATE TABLE IF NOT EXISTS answers (
        digest      BLOB    NOT NULL PRIMARY KEY,
        expires_at  INTEGER NOT NULL,
        size        INTEGER NOT NULL,
        blob        BLOB    NOT NULL
    ) STRICT
    """
_INDEX = "CREATE INDEX IF NOT EXISTS answers_expiry ON answers (expires_at, size)"

# Rows are numbered as they come: all up to the one with which enough bytes are gone.
_DELETE_OLDEST = """
    DELETE FROM answers
     WHERE rowid <= (SELECT number
                       FROM (SELECT rowid AS number, SUM(size) OVER (ORDER BY rowid) AS so_far FROM answers)
                      WHERE so_far >= ?
                      ORDER BY number
                      LIMIT 1)
    RETURNING size
    """

Row = tuple[bytes, int, int, bytes]
"""Digest, end in epoch milliseconds, size, blob."""

_log = logging.getLogger(__name__)


class SqliteCache:
    """`CacheStore` in a file, of about `limit_bytes` at most: the expired go first, then the oldest."""

    def __init__(
        self,
        path: Path,
        clock: Callable[[], float],
        limit_bytes: int,
        encode: Callable[[CacheKey, CacheEntry], bytes],
        decode: Callable[[CacheKey, bytes], CacheEntry | None],
    ) -> None:
        self._thread = SqliteThread(path, "NORMAL")
        self._clock = clock
        self._limit = limit_bytes
        self._encode = encode
        self._decode = decode
        self._held: int | None = None
        self.entries = 0
        self.evictions = 0
        """What had to leave for room since the start, not what ended by itself."""
        self.well = True
        self._unwritten: deque[tuple[Sequence[tuple[CacheKey, CacheEntry]], float]] = deque()
        self._unwritten_bytes = 0
        self._writing: asyncio.Task[None] | None = None
        # One process has the file for itself, so it knows what cannot be in there.
        self._seen = Seen()

    @property
    def size(self) -> int:
        """Bytes that the file holds, as far as they were counted yet."""
        return self._held or 0

    def peek(self, key: CacheKey, /) -> CacheEntry | None:
        return None

    async def get_many(self, keys: Sequence[CacheKey], /) -> list[CacheEntry | None]:
        if self._held is not None and not any(key.digest in self._seen for key in keys):
            return [None] * len(keys)
        found: list[CacheEntry | None]
        try:
            found = await self._thread.do(lambda it: self._read(it, keys))
        except Exception as exc:  # noqa: BLE001 -- the promise: failing is a miss
            self._notice(exc)
            return [None] * len(keys)
        self._notice(None)
        now = self._clock()
        return [entry if entry is not None and entry.expires_at > now else None for entry in found]

    async def put_many(self, items: Sequence[tuple[CacheKey, CacheEntry]], /, ttl: int) -> None:
        """Written a moment later, many in one transaction: a commit costs more than its rows. A read sees them before."""
        if ttl <= 0:
            return
        for key, entry in items:
            self._seen.add(key.digest)
            self._unwritten_bytes += entry.size
        self._unwritten.append((items, self._clock() + ttl))
        if self._unwritten_bytes > MOST_UNWRITTEN:
            await self.flush()
        elif self._writing is None or self._writing.done():
            self._writing = asyncio.get_running_loop().create_task(self._write_behind())

    async def _write_behind(self) -> None:
        await asyncio.sleep(WRITE_BEHIND)
        await self.flush()

    async def flush(self) -> None:
        """Brings what waits to the file."""
        self._unwritten_bytes = 0
        try:
            await self._thread.do(self._write)
        except Exception as exc:  # noqa: BLE001 -- the promise: raises nothing
            self._notice(exc)
            return
        self._notice(None)

    async def ping(self) -> None:
        await self._thread.do(lambda it: it.execute("SELECT 1").fetchone())

    async def aclose(self) -> None:
        if self._writing is not None:
            self._writing.cancel()
        await self.flush()
        await self._thread.aclose()

    # --- below: in the thread of the connection -------------------------------------------------------

    def _read(
        self, connection: sqlite3.Connection, keys: Sequence[CacheKey]
    ) -> list[CacheEntry | None]:
        self._count(connection)
        self._write(connection)
        wanted = list({key.digest for key in keys})
        marks = ", ".join("?" * len(wanted))
        rows = connection.execute(
            f"SELECT digest, expires_at, blob FROM answers WHERE digest IN ({marks})",  # noqa: S608
            wanted,
        ).fetchall()
        stored = {row["digest"]: row for row in rows}
        return [self._entry(connection, key, stored.get(key.digest)) for key in keys]

    def _entry(
        self, connection: sqlite3.Connection, key: CacheKey, row: sqlite3.Row | None
    ) -> CacheEntry | None:
        if row is None:
            return None
        try:
            entry = self._decode(key, row["blob"])
        except Exception:  # noqa: BLE001 -- bytes on a disk may be anything
            entry = None
        if entry is None:
            self._forget(
                connection, "DELETE FROM answers WHERE digest = ? RETURNING size", key.digest
            )
            return None
        return attrs.evolve(entry, expires_at=seconds(row["expires_at"]))

    def _write(self, connection: sqlite3.Connection) -> None:
        """All that waits, in one transaction and few statements: each one costs a hand-over of the interpreter."""
        if not self._unwritten:
            return
        self._count(connection)
        rows: dict[bytes, Row] = {}
        while self._unwritten:
            items, expires_at = self._unwritten.popleft()
            for key, entry in items:
                blob = self._encode(key, attrs.evolve(entry, expires_at=expires_at))
                size = len(blob) + ROW_BYTES
                rows[key.digest] = (key.digest, floor(expires_at * 1000), size, blob)
        try:
            connection.execute("BEGIN IMMEDIATE")
            for batch in _batches(list(rows.values())):
                self._put(connection, batch)
            self._make_room(connection, self._clock())
            connection.execute("COMMIT")
        except BaseException:
            self._held = None
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    def _put(self, connection: sqlite3.Connection, rows: Sequence[Row]) -> None:
        """Whatever stood under these keys goes, what is too large for the whole file too."""
        marks = ", ".join("?" * len(rows))
        self._forget(
            connection,
            f"DELETE FROM answers WHERE digest IN ({marks}) RETURNING size",  # noqa: S608
            *[row[0] for row in rows],
        )
        kept = [row for row in rows if row[2] <= self._limit]
        if not kept:
            return
        marks = ", ".join(["(?, ?, ?, ?)"] * len(kept))
        connection.execute(
            f"INSERT INTO answers (digest, expires_at, size, blob) VALUES {marks}",  # noqa: S608
            list(chain.from_iterable(kept)),
        )
        self._held = (self._held or 0) + sum(row[2] for row in kept)
        self.entries += len(kept)

    def _make_room(self, connection: sqlite3.Connection, now: float) -> None:
        if (self._held or 0) <= self._limit:
            return
        self._forget(
            connection, "DELETE FROM answers WHERE expires_at <= ? RETURNING size", millis(now)
        )
        too_much = (self._held or 0) - self._limit
        if too_much <= 0:
            return
        self.evictions += self._forget(connection, _DELETE_OLDEST, too_much)

    def _forget(self, connection: sqlite3.Connection, sql: str, *which: bytes | int) -> int:
        gone = connection.execute(sql, which).fetchall()
        self._held = (self._held or 0) - sum(row["size"] for row in gone)
        self.entries -= len(gone)
        return len(gone)

    def _count(self, connection: sqlite3.Connection) -> None:
        """What the file holds, asked once: one process has it for itself."""
        if self._held is not None:
            return
        connection.execute(_TABLE)
        connection.execute(_INDEX)
        held = entries = 0
        for row in connection.execute("SELECT digest, size FROM answers"):
            self._seen.add(row["digest"])
            held += row["size"]
            entries += 1
        self._held, self.entries = held, entries

    def _notice(self, trouble: Exception | None) -> None:
        """Told once per change, and only the kind: the words may hold what was asked."""
        if self.well == (trouble is None):
            return
        self.well = trouble is None
        if trouble is None:
            _log.info("the answer cache on disk works again", extra={"state": "back"})
            return
        kind = type(trouble).__name__
        _log.warning("the answer cache on disk does not work: %s", kind, extra={"state": "away"})


def _batches(rows: list[Row]) -> Iterator[list[Row]]:
    for start in range(0, len(rows), ROWS_AT_ONCE):
        yield rows[start : start + ROWS_AT_ONCE]
