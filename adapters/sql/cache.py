"""Answers in a SQLite file, so that an embedded cache survives a restart.

How an answer looks as bytes, and how it is known to be whole and whose it is, is somebody else's: `encode` and
`decode` are passed in. Whatever goes wrong here is a miss.
"""

from __future__ import annotations

import logging
import sqlite3
from collections import deque
from collections.abc import Callable, Sequence
from math import floor
from pathlib import Path

import attrs

from adapters.sql.db import millis, seconds
from adapters.sql.sqlite import SqliteThread
from domain.answer import CacheEntry, CacheKey

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
        self._well = True
        # The first of several writes that wait takes all into its transaction: a commit costs more than its rows.
        self._unwritten: deque[tuple[Sequence[tuple[CacheKey, CacheEntry]], float]] = deque()

    def peek(self, key: CacheKey, /) -> CacheEntry | None:
        return None

    async def get_many(self, keys: Sequence[CacheKey], /) -> list[CacheEntry | None]:
        if not keys:
            return []
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
        if not items or ttl <= 0:
            return
        now = self._clock()
        try:
            self._unwritten.append((items, now + ttl))
            await self._thread.do(lambda it: self._write(it, now))
        except Exception as exc:  # noqa: BLE001 -- the promise: raises nothing
            self._notice(exc)
            return
        self._notice(None)

    async def ping(self) -> None:
        await self._thread.do(lambda it: it.execute("SELECT 1").fetchone())

    async def aclose(self) -> None:
        await self._thread.aclose()

    # --- below: in the thread of the connection -------------------------------------------------------

    def _read(
        self, connection: sqlite3.Connection, keys: Sequence[CacheKey]
    ) -> list[CacheEntry | None]:
        self._count(connection)
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

    def _write(self, connection: sqlite3.Connection, now: float) -> None:
        if not self._unwritten:
            return
        self._count(connection)
        try:
            connection.execute("BEGIN IMMEDIATE")
            while self._unwritten:
                items, expires_at = self._unwritten.popleft()
                for key, entry in items:
                    self._put(connection, key, attrs.evolve(entry, expires_at=expires_at))
            self._make_room(connection, now)
            connection.execute("COMMIT")
        except BaseException:
            self._held = None
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    def _put(self, connection: sqlite3.Connection, key: CacheKey, entry: CacheEntry) -> None:
        blob = self._encode(key, entry)
        size = len(blob) + ROW_BYTES
        self._forget(connection, "DELETE FROM answers WHERE digest = ? RETURNING size", key.digest)
        if size > self._limit:
            return
        connection.execute(
            "INSERT INTO answers (digest, expires_at, size, blob) VALUES (?, ?, ?, ?)",
            (key.digest, floor(entry.expires_at * 1000), size, blob),
        )
        self._held = (self._held or 0) + size

    def _make_room(self, connection: sqlite3.Connection, now: float) -> None:
        if (self._held or 0) <= self._limit:
            return
        self._forget(
            connection, "DELETE FROM answers WHERE expires_at <= ? RETURNING size", millis(now)
        )
        too_much = (self._held or 0) - self._limit
        if too_much <= 0:
            return
        self._forget(connection, _DELETE_OLDEST, too_much)

    def _forget(self, connection: sqlite3.Connection, sql: str, which: bytes | int) -> None:
        gone = connection.execute(sql, (which,)).fetchall()
        self._held = (self._held or 0) - sum(row["size"] for row in gone)

    def _count(self, connection: sqlite3.Connection) -> None:
        """What the file holds, asked once: one process has it for itself."""
        if self._held is not None:
            return
        connection.execute(_TABLE)
        connection.execute(_INDEX)
        self._held = connection.execute("SELECT COALESCE(SUM(size), 0) FROM answers").fetchone()[0]

    def _notice(self, trouble: Exception | None) -> None:
        """Told once per change, and only the kind: the words may hold what was asked."""
        if self._well == (trouble is None):
            return
        self._well = trouble is None
        if trouble is None:
            _log.info("the answer cache on disk works again")
            return
        _log.warning("the answer cache on disk does not work: %s", type(trouble).__name__)
