"""SQLite: one file, one connection, one thread of its own, so that the loop never waits for a disk.

The connection is opened by the first question. Write-ahead logging lets the cache and the ledger live in one
file without holding each other up (https://www.sqlite.org/wal.html).
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from adapters.sql.db import SQLITE, Params, Row, storable
from domain.errors import ApiError, Unavailable

BUSY_TIMEOUT = 5.0

_NEVER = (
    sqlite3.IntegrityError,
    sqlite3.DataError,
    sqlite3.ProgrammingError,  # a value of a type that no column has
    OverflowError,
    UnicodeError,
)

T = TypeVar("T")

Job = tuple[Callable[[], Any], "asyncio.Future[Any]"]
Outcome = tuple["asyncio.Future[Any]", Any, BaseException | None]


class SqliteThread:
    """A connection that lives in its own thread; `do` runs a function there, one after the other.

    What is asked within one turn of the loop, or while the thread is busy, crosses over together: going to a thread
    and back costs more than most of what is done there.
    `synchronous` is FULL for what must survive a power cut, NORMAL for what may lose its last second.
    """

    def __init__(self, path: Path, synchronous: str) -> None:
        assert synchronous in ("FULL", "NORMAL")
        self._path = path
        self._synchronous = synchronous
        self._connection: sqlite3.Connection | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sqlite")
        self._waiting: list[Job] = []
        self._busy = False
        self._closed = False

    async def do(self, work: Callable[[sqlite3.Connection], T]) -> T:
        if self._closed:
            raise Unavailable("The database is closed.")
        return await self._ask(partial(self._do, work))

    async def aclose(self) -> None:
        """Ends after all that was asked before is done."""
        if self._closed:
            return
        self._closed = True
        await self._ask(self._close)
        self._thread.shutdown()

    def _ask(self, work: Callable[[], T]) -> asyncio.Future[T]:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()
        self._waiting.append((work, done))
        if not self._busy:
            self._busy = True
            loop.call_soon(self._cross, loop)
        return done

    def _cross(self, loop: asyncio.AbstractEventLoop) -> None:
        jobs, self._waiting = self._waiting, []
        self._busy = bool(jobs)
        if jobs:
            self._thread.submit(self._run, loop, jobs)

    def _return(self, loop: asyncio.AbstractEventLoop, outcomes: list[Outcome]) -> None:
        for done, result, error in outcomes:
            if done.done():
                continue
            if error is None:
                done.set_result(result)
            else:
                done.set_exception(error)
        self._cross(loop)

    # --- below: in the thread -----------------------------------------------------------------------

    def _run(self, loop: asyncio.AbstractEventLoop, jobs: list[Job]) -> None:
        outcomes: list[Outcome] = []
        for work, done in jobs:
            if done.cancelled():
                continue
            try:
                outcomes.append((done, work(), None))
            except BaseException as exc:  # noqa: BLE001 -- told to whoever asked
                outcomes.append((done, None, exc))
        loop.call_soon_threadsafe(self._return, loop, outcomes)

    def _do(self, work: Callable[[sqlite3.Connection], T]) -> T:
        if self._connection is None:
            self._connection = self._open()
        return work(self._connection)

    def _open(self) -> sqlite3.Connection:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # SQLite gives its -wal and -shm files the mode of the database, so this is enough for all three. Only a file that
        # is not there yet may be touched: closing any descriptor of it drops all of this process's locks on it
        # (https://www.sqlite.org/howtocorrupt.html, 2.2), and the next process to close takes itself for the last one.
        with suppress(FileExistsError):
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        connection = sqlite3.connect(self._path, timeout=BUSY_TIMEOUT, isolation_level=None)
        try:
            connection.row_factory = sqlite3.Row
            _take_wal(connection)
            connection.execute(f"PRAGMA synchronous = {self._synchronous}")
            connection.execute("PRAGMA foreign_keys = ON")
        except sqlite3.Error:
            connection.close()
            raise
        return connection

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _take_wal(connection: sqlite3.Connection) -> None:
    """Waits for others that do the same to a new file: SQLite's own waiting does not cover a change of the journal."""
    until = time.monotonic() + BUSY_TIMEOUT
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError:
            if time.monotonic() >= until:
                raise
            time.sleep(0.01)
        else:
            return


class SqliteDb:
    """`Db` on a SQLite file. A transaction keeps all other statements waiting; they are short."""

    dialect = SQLITE

    def __init__(self, path: Path) -> None:
        self._thread = SqliteThread(path, "FULL")
        self._statements = _Statements(self._thread)
        self._turn = asyncio.Lock()

    async def rows(self, sql: str, params: Params | None = None, /) -> list[Row]:
        async with self._turn:
            return await self._statements.rows(sql, params)

    async def run(self, sql: str, params: Params | None = None, /) -> int:
        async with self._turn:
            return await self._statements.run(sql, params)

    @asynccontextmanager
    async def transaction(self, *, exclusive: bool = False) -> AsyncIterator[_Statements]:
        # IMMEDIATE is exclusive enough for both kinds: one writer at a time, other processes included.
        async with self._turn:
            try:
                await self._statements.run("BEGIN IMMEDIATE")
                yield self._statements
                await self._statements.run("COMMIT")
            except BaseException:
                # Shielded and queued at once: it runs before anything asked later, whoever is cancelled.
                await asyncio.shield(self._thread.do(_roll_back))
                raise

    async def together(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """What `work` does to the connection is a transaction of its own, and crosses to the thread once."""

        def whole(connection: sqlite3.Connection) -> T:
            try:
                connection.execute("BEGIN IMMEDIATE")
                result = work(connection)
                connection.execute("COMMIT")
            except BaseException:
                _roll_back(connection)
                raise
            return result

        async with self._turn:
            with _failures():
                return await self._thread.do(whole)

    async def ping(self) -> None:
        await self.rows("SELECT 1 AS well")

    async def aclose(self) -> None:
        await self._thread.aclose()


class _Statements:
    """The statements of a connection that somebody else has the turn on."""

    def __init__(self, thread: SqliteThread) -> None:
        self._thread = thread

    async def rows(self, sql: str, params: Params | None = None, /) -> list[Row]:
        def work(connection: sqlite3.Connection) -> list[Row]:
            return [dict(row) for row in connection.execute(sql, storable(params)).fetchall()]

        with _failures():
            return await self._thread.do(work)

    async def run(self, sql: str, params: Params | None = None, /) -> int:
        with _failures():
            return await self._thread.do(lambda it: it.execute(sql, storable(params)).rowcount)

    async def script(self, text: str, /) -> None:
        with _failures():
            await self._thread.do(lambda it: _run_script(it, text))


def _run_script(connection: sqlite3.Connection, text: str) -> None:
    # Not executescript, which commits before it begins.
    statement = ""
    for line in text.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            connection.execute(statement)
            statement = ""
    assert not statement.strip(), "the last statement lacks its semicolon"


def _roll_back(connection: sqlite3.Connection) -> None:
    if connection.in_transaction:
        connection.execute("ROLLBACK")


@contextmanager
def _failures() -> Iterator[None]:
    try:
        yield
    except _NEVER as exc:
        raise ApiError("The database refused the data.") from exc
    except (sqlite3.Error, OSError) as exc:
        raise Unavailable("The database is not available.") from exc
