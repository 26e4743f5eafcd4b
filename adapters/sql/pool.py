"""Connections to PostgreSQL: few, kept, made when needed, and never waited for without end.

aiopg's own pool makes all wait while one connection is being made, and wakes nobody when a broken one comes back;
this one is a list and a semaphore over aiopg's connections.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from weakref import ReferenceType

import aiopg
from psycopg2 import extensions

from domain.errors import Unavailable


class Connection(aiopg.Connection):
    """Forgets its descriptor when it is closed, whatever the number of it.

    aiopg asks select() whether the descriptor of a dead connection is still good, which refuses all above 1023.
    The loop would go on watching the number, and the next socket to get it would never be read.
    """

    @staticmethod
    def _ready(weak_self: ReferenceType[Connection]) -> None:
        try:
            aiopg.Connection._ready(weak_self)
        except ValueError:
            connection = weak_self()
            if connection is not None:
                connection.close()

    def _close(self) -> None:
        # aiopg may close twice, and would then take the watch off a number that is another socket's by now.
        super()._close()
        self._fileno = None


class Pool:
    """At most `size` connections; a caller waits `wait` seconds for a free one and `connect_timeout` for a new one."""

    def __init__(self, url: str, size: int, wait: float, connect_timeout: float) -> None:
        self._url = url
        self._wait = wait
        self._connect_timeout = connect_timeout
        self._slots = asyncio.Semaphore(size)
        self._free: list[Connection] = []
        self._used: set[Connection] = set()
        self._closed = False

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """Foreign errors are left to the caller."""
        if self._closed:
            raise Unavailable("The database is closed.")
        try:
            async with asyncio.timeout(self._wait):
                await self._slots.acquire()
        except TimeoutError as exc:
            raise Unavailable("All connections to the database are in use.") from exc
        try:
            connection = self._kept() or await self._new()
            self._used.add(connection)
            try:
                yield connection
            finally:
                self._used.discard(connection)
                self._put_back(connection)
        finally:
            self._slots.release()

    def clear(self) -> None:
        """Closes those that nobody uses."""
        while self._free:
            drop(self._free.pop())

    def close(self) -> None:
        """Closes all; what is under way fails."""
        self._closed = True
        self.clear()
        for connection in self._used:
            drop(connection)

    def _kept(self) -> Connection | None:
        # The last one used first, so that no more are kept busy than are needed.
        while self._free:
            connection = self._free.pop()
            if not connection.closed:
                return connection
        return None

    async def _new(self) -> Connection:
        connection = Connection(
            self._url,
            self._connect_timeout,
            enable_json=False,
            enable_hstore=False,
            enable_uuid=False,
            keepalives=1,
            keepalives_idle=10,
            keepalives_interval=3,
            keepalives_count=3,
            fallback_application_name="watchllm",
        )
        await connection
        return connection

    def _put_back(self, connection: Connection) -> None:
        # The server rolls back what loses its connection: no further word is needed that could go wrong.
        idle = not connection.closed and (
            connection.raw.get_transaction_status() == extensions.TRANSACTION_STATUS_IDLE
        )
        if idle and not self._closed:
            self._free.append(connection)
        else:
            drop(connection)


def drop(connection: Connection) -> None:
    if not connection.closed:
        connection.close()
