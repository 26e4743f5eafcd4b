"""PostgreSQL through aiopg: connected when first asked, bounded in every wait, healing by itself.

Works through a transaction pooler (PgBouncer, Supavisor): nothing is left behind in a session. Each statement
travels with its `SET LOCAL`s in one simple query, which the server runs as one transaction in one round trip
(https://www.postgresql.org/docs/current/protocol-flow.html, "Multiple Statements in a Simple Query").
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import Any

import aiopg
import psycopg2
from psycopg2 import errorcodes, errors, extensions

from adapters.sql.db import POSTGRES, Params, Row, storable
from adapters.sql.pool import Connection, Pool, drop
from domain.errors import ApiError, Unavailable

SCHEMA = "watchllm"
EXCLUSIVE_WAIT = 300.0
IDLE = 15.0
"""Seconds a transaction may stand still before the server ends it."""

_NAME = re.compile(r"[a-z_][a-z0-9_]{0,62}")
_TOKEN = re.compile(r"'(?:[^']|'')*'|::|:([a-z_][a-z0-9_]*)")

# Connections that answered with one of these are of no more use: the server stops, or no longer takes writes
# since another one was promoted. A new connection may reach the right server.
_LAST_WORDS = ("08", "57P", errorcodes.READ_ONLY_SQL_TRANSACTION)

_NOT_LET_IN = (errors.InsufficientPrivilege, errors.UndefinedTable)

_log = logging.getLogger(__name__)


class PostgresDb:
    """`Db` on a pool of connections. All waits are in seconds.

    `pool_wait` is for a free connection, `connect_timeout` for a new one, `statement_timeout` for an answer: the
    server gives up by itself then, since closing a connection does not stop what it runs. `tells` is whether the log
    hears when the server is away and when it is back: of several pools to one server, one is enough.
    """

    dialect = POSTGRES

    def __init__(
        self,
        url: str,
        *,
        schema: str = SCHEMA,
        connections: int = 10,
        connect_timeout: float = 3.0,
        pool_wait: float = 0.25,
        statement_timeout: float = 5.0,
        tells: bool = True,
    ) -> None:
        if not _NAME.fullmatch(schema):
            raise ValueError(f"not a plain schema name: {schema!r}")
        _check_url(url)
        self._schema = schema
        self._statement_timeout = statement_timeout
        self._pool = Pool(url, connections, pool_wait, connect_timeout)
        self._well = True
        self._tells = tells
        self._barred = False

    async def rows(self, sql: str, params: Params | None = None, /) -> list[Row]:
        return (await self._ask(sql, params))[0]

    async def run(self, sql: str, params: Params | None = None, /) -> int:
        return (await self._ask(sql, params))[1]

    @asynccontextmanager
    async def transaction(self, *, exclusive: bool = False) -> AsyncIterator[_Statements]:
        patience = EXCLUSIVE_WAIT if exclusive else self._statement_timeout
        async with self._connection() as connection:
            statements = _Statements(connection, patience)
            idle = f"SET LOCAL idle_in_transaction_session_timeout = {_milliseconds(IDLE)}"
            await statements.script("BEGIN; " + self._settings(patience) + idle)
            if exclusive:
                await self._exclude(statements)
            # Who leaves here by an error gives back a connection in mid-transaction, and the pool closes it.
            yield statements
            await statements.script("COMMIT")

    async def ping(self) -> None:
        await self.rows("SELECT 1 AS well")

    async def aclose(self) -> None:
        self._pool.close()

    async def _ask(self, sql: str, params: Params | None) -> tuple[list[Row], int]:
        """Once more on a new connection if the first was dead, as all are after the server was restarted."""
        try:
            try:
                found = await self._ask_once(sql, params)
            except _ConnectionLostError:
                self._pool.clear()
                found = await self._ask_once(sql, params)
        except Unavailable as exc:
            self._notice(exc.__cause__)
            raise
        self._notice(None)
        return found

    async def _ask_once(self, sql: str, params: Params | None) -> tuple[list[Row], int]:
        async with self._connection() as connection:
            statements = _Statements(connection, self._statement_timeout)
            return await statements.ask(self._settings(self._statement_timeout), sql, params)

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Connection]:
        async with AsyncExitStack() as stack:
            with _failures():
                connection = await stack.enter_async_context(self._pool.connection())
            yield connection

    def _settings(self, patience: float) -> str:
        # Names and numbers of our own, checked above; SET takes no parameters.
        return (
            f"SET LOCAL search_path = {self._schema}, pg_temp; "
            f"SET LOCAL statement_timeout = {_milliseconds(patience)}; "
        )

    def _notice(self, trouble: BaseException | None) -> None:
        """Told once per change; libpq's own words may hold names and data, so only the kind is said."""
        if not self._tells:
            return
        if isinstance(trouble, _NOT_LET_IN):
            self._tell_of_rights(trouble)
            return
        if self._well == (trouble is None):
            return
        self._well = trouble is None
        if trouble is None:
            _log.info("PostgreSQL answers again", extra={"state": "back"})
            return
        code = getattr(trouble, "pgcode", None) or "no code"
        kind = type(trouble).__name__
        _log.warning("PostgreSQL does not answer: %s, %s", kind, code, extra={"state": "away"})

    def _tell_of_rights(self, trouble: psycopg2.Error) -> None:
        """The server answers, and says that this is not ours to ask: some statements fail for ever, others do not."""
        if not self._barred:
            _log.error(
                "PostgreSQL does not let us in everywhere: %s, %s; `watchllm doctor` says where",
                type(trouble).__name__,
                trouble.pgcode,
            )
        self._barred = True

    async def _exclude(self, statements: _Statements) -> None:
        """One at a time per schema, and the schema exists. The lock ends with the transaction, as poolers need."""
        await statements.rows(
            "SELECT pg_advisory_xact_lock(hashtext(:name))", {"name": f"watchllm {self._schema}"}
        )
        # Asking first, since IF NOT EXISTS wants the right to create even where there is nothing to do.
        if not await statements.rows(
            "SELECT 1 AS found FROM pg_namespace WHERE nspname = :schema", {"schema": self._schema}
        ):
            await statements.script(f"CREATE SCHEMA {self._schema}")


class _ConnectionLostError(Unavailable):
    """The connection died under the question: a new one may do better."""

    def __init__(self) -> None:
        super().__init__("The connection to the database was lost.")


class _Statements:
    """The statements of one connection."""

    def __init__(self, connection: Connection, patience: float) -> None:
        self._connection = connection
        self._patience = patience

    async def rows(self, sql: str, params: Params | None = None, /) -> list[Row]:
        return (await self.ask("", sql, params))[0]

    async def run(self, sql: str, params: Params | None = None, /) -> int:
        return (await self.ask("", sql, params))[1]

    async def script(self, text: str, /) -> None:
        await self._execute(text, None)

    async def ask(self, settings: str, sql: str, params: Params | None) -> tuple[list[Row], int]:
        """The rows, and how many rows were found or changed. `settings` go ahead in the same message."""
        cursor = await self._execute(settings + _translated(sql, params), storable(params) or None)
        count: int = cursor.rowcount
        if cursor.description is None:
            return [], count
        names = [column.name for column in cursor.description]
        found = await cursor.fetchall()
        return [dict(zip(names, map(_plain, row), strict=True)) for row in found], count

    async def _execute(self, text: str, params: dict[str, Any] | None) -> aiopg.Cursor:
        connection = self._connection
        with _failures():
            try:
                cursor = await connection.cursor()
                # The server gives up first, unless it cannot even do that.
                await cursor.execute(text, params, timeout=self._patience + 1)
                return cursor
            except asyncio.CancelledError as exc:
                # aiopg says so of a statement that the server cancelled, for one because it took too long.
                if isinstance(exc.__context__, errors.QueryCanceled):
                    raise exc.__context__ from None
                raise
            except psycopg2.Error as exc:
                if not (connection.closed or _is_last_word(exc)):
                    raise
                drop(connection)
                raise _ConnectionLostError from exc


def _is_last_word(exc: psycopg2.Error) -> bool:
    if exc.pgcode is None:
        return isinstance(exc, psycopg2.OperationalError)
    code: str = exc.pgcode
    return code.startswith(_LAST_WORDS)


def _translated(sql: str, params: Params | None) -> str:
    """`:name` as psycopg2 has it; text in quotes and `::` casts are left alone."""
    if not params:
        return sql
    return _TOKEN.sub(lambda it: f"%({it[1]})s" if it[1] else it[0], sql.replace("%", "%%"))


def _plain(found: Any) -> Any:
    return bytes(found) if isinstance(found, memoryview) else found


def _milliseconds(wait: float) -> int:
    return round(wait * 1000)


def _check_url(url: str) -> None:
    try:
        extensions.parse_dsn(url)
    except psycopg2.ProgrammingError:
        # libpq repeats the URL in its words, with the password.
        raise ValueError("not a PostgreSQL URL") from None


@contextmanager
def _failures() -> Iterator[None]:
    try:
        yield
    except (psycopg2.IntegrityError, psycopg2.DataError, UnicodeError) as exc:
        raise ApiError("The database refused the data.") from exc
    except (psycopg2.Error, OSError, TimeoutError) as exc:
        raise Unavailable("The database is not available.") from exc
