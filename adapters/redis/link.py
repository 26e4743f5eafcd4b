"""One persistent connection to one Redis server, shared by the whole process.

All commands of one event-loop turn leave in one write, so a command costs a fraction of a connection of its own.
Every command has one deadline and one try: what fails is told at once and never sent again.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Protocol

from adapters.redis.breaker import Breaker
from adapters.redis.connection import (
    Argument,
    Command,
    Connection,
    NoAnswer,
    RedisFault,
    Refused,
    fail,
    pack,
)
from adapters.redis.url import Target

CONNECT_TIMEOUT = 0.1
COMMAND_TIMEOUT = 0.05
MAX_UNANSWERED = 16 << 20

_LATE = 0.01
_STEPS = 10
_UNREADY = frozenset({"LOADING", "MASTERDOWN", "CLUSTERDOWN", "BUSY"})


class Link(Protocol):
    """Carries commands to Redis, one server or a cluster."""

    @property
    def state(self) -> str:
        """`open` while commands fail at once because the server is away, else `closed`."""

    def execute(self, *args: Argument) -> asyncio.Future[Any]:
        """Leaves with this turn of the loop. The future raises RedisFault, and may be dropped or cancelled."""

    async def ping(self) -> None: ...

    async def aclose(self) -> None: ...


class RedisLink:
    """A Link to one server. Connects when first needed, and by itself once a second while the server is away."""

    def __init__(
        self,
        target: Target,
        *,
        connect_timeout: float = CONNECT_TIMEOUT,
        command_timeout: float = COMMAND_TIMEOUT,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._target = target
        self._connect_timeout = connect_timeout
        self._command_timeout = command_timeout
        self._breaker = Breaker(clock, target.name)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._connection: Connection | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._closed = False
        self._queue: list[Command] = []  # of this turn
        self._queued = 0
        self._waiting: deque[tuple[Command, float]] = deque()  # for a connection
        self._sweeper: asyncio.TimerHandle | None = None
        self._prober: asyncio.TimerHandle | None = None

    @property
    def state(self) -> str:
        return self._breaker.state

    def execute(self, *args: Argument) -> asyncio.Future[Any]:
        loop = self._loop
        if loop is None:
            loop = self._loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        if self._closed or self._breaker.state == "open":
            return fail(future, NoAnswer(f"{self._target.name} is away."))
        packed = pack(args)
        unanswered = self._connection.unanswered if self._connection is not None else 0
        if self._queued + unanswered + len(packed) > MAX_UNANSWERED:
            return fail(future, NoAnswer(f"{self._target.name} has too much to answer."))
        if not self._queue:
            loop.call_soon(self._flush)
        self._queue.append((packed, future))
        self._queued += len(packed)
        return future

    async def ping(self) -> None:
        if await self.execute("PING") != b"PONG":
            raise NoAnswer(f"{self._target.name} does not answer a PING.")

    def close(self) -> None:
        self._closed = True
        for timer in (self._sweeper, self._prober):
            if timer is not None:
                timer.cancel()
        if self._connecting is not None:
            self._connecting.cancel()
        if self._connection is not None:
            self._connection.end("the link was closed")
        self._fail_unsent("the link was closed")

    async def aclose(self) -> None:
        connection, connecting = self._connection, self._connecting
        self.close()
        if connecting is not None:
            await asyncio.wait([connecting])
        if connection is not None:
            await connection.gone

    # --- out -------------------------------------------------------------------------------------

    def _flush(self) -> None:
        assert self._loop is not None
        if not self._queue:
            return
        # Counted from the write, not from the call: a turn of ours that took long is not Redis's fault.
        deadline = self._loop.time() + self._command_timeout
        commands, self._queue = self._queue, []
        if self._sweeper is None:
            self._sweeper = self._loop.call_at(deadline, self._sweep)
        if self._connection is not None:
            self._queued = 0
            self._connection.send(commands, deadline)
            return
        self._waiting.extend((command, deadline) for command in commands)
        self._connect_soon()

    def _sweep(self, seen: float | None = None) -> None:
        """Looks at the oldest command only: all have the same time, so none behind it is due earlier.

        `seen` is the deadline that an earlier look found long past.
        """
        assert self._loop is not None
        self._sweeper = None
        due = self._oldest_deadline()
        if due is None:
            return
        late = self._loop.time() - due
        if late < 0:
            self._sweeper = self._loop.call_at(due, self._sweep)
        elif late > _LATE and due != seen:
            # It was our own loop that stood still. What has arrived meanwhile is read before the next look.
            self._sweeper = self._loop.call_later(_LATE / 2, self._sweep, due)
        else:
            self._time_out(self._loop.time())

    def _oldest_deadline(self) -> float | None:
        if self._connection is not None and self._connection.sent:
            return self._connection.sent[0][1]
        return self._waiting[0][1] if self._waiting else None

    def _time_out(self, now: float) -> None:
        assert self._loop is not None
        reason = f"no answer within {self._command_timeout * 1000:.0f} ms"
        if self._connection is not None:
            self._connection.end(reason)
            return
        # Nothing of these was sent: the connection in the making is not in doubt, and its own end will count.
        while self._waiting and self._waiting[0][1] <= now:
            (packed, future), _ = self._waiting.popleft()
            self._queued -= len(packed)
            fail(future, NoAnswer(reason))
        if self._waiting:
            self._sweeper = self._loop.call_at(self._waiting[0][1], self._sweep)

    # --- the connection --------------------------------------------------------------------------

    def _connect_soon(self) -> None:
        assert self._loop is not None
        if self._connecting is None and not self._closed:
            self._connecting = self._loop.create_task(self._connect())
            self._connecting.add_done_callback(self._connected)

    async def _connect(self) -> None:
        connection: Connection | None = None
        loop = asyncio.get_running_loop()
        target = self._target
        try:
            async with _patience(self._connect_timeout):
                _, connection = await loop.create_connection(
                    lambda: Connection(self._heard, self._lost),
                    target.host,
                    target.port,
                    ssl=target.tls,
                )
                await self._greet(connection)
        except BaseException as exc:
            if connection is not None:
                connection.end("the greeting failed")
            if not isinstance(exc, (OSError, RedisFault, UnicodeError)):
                raise
            self._count_failure(_why(exc), for_good=isinstance(exc, Refused))
            self._fail_unsent(_why(exc))
        else:
            self._connection = connection
            self._breaker.succeeded()
            self._send_waiting(connection)

    async def _greet(self, connection: Connection) -> None:
        """AUTH, SELECT and PING in one write: a server that is stopped still accepts, but does not answer."""
        target = self._target
        loop = asyncio.get_running_loop()
        lines: list[tuple[Argument, ...]] = [("PING",)]
        if target.db:
            lines.insert(0, ("SELECT", target.db))
        if target.password is not None:
            user = () if target.user is None else (target.user,)
            lines.insert(0, ("AUTH", *user, target.password))
        commands = [(pack(line), loop.create_future()) for line in lines]
        connection.send(commands, 0.0)
        async with _patience(self._command_timeout):
            for _, future in commands:
                await future
        if connection.dead:  # it answered and left, before we came to look
            raise NoAnswer("the connection was lost")

    def _send_waiting(self, connection: Connection) -> None:
        waiting, self._waiting = self._waiting, deque()
        self._queued = sum(len(packed) for packed, _ in self._queue)
        for command, deadline in waiting:
            connection.send([command], deadline)

    def _connected(self, _: asyncio.Task[None]) -> None:
        """Runs behind the task, also where an eager task factory had ended it before it had a name."""
        self._connecting = None
        if self._waiting:
            self._connect_soon()  # they came while a failed attempt was still on record

    def _heard(self) -> None:
        # Not for replies to a greeting: it may still be refused.
        if self._breaker.failures and self._connection is not None:
            self._breaker.succeeded()

    def _lost(self, connection: Connection, reason: str) -> None:
        if connection is not self._connection:
            return
        self._connection = None
        # A server may close an idle connection as it likes (`timeout`, CLIENT KILL): nobody was let down.
        if connection.sent:
            self._count_failure(reason)

    # --- failing ---------------------------------------------------------------------------------

    def _count_failure(self, reason: str, for_good: bool = False) -> None:
        if for_good:
            self._breaker.trip(reason)
        else:
            self._breaker.failed(reason)
        if self._breaker.state == "open":
            self._fail_unsent(reason)
            self._probe_later()

    def _fail_unsent(self, reason: str) -> None:
        unsent = [command for command, _ in self._waiting]
        self._waiting.clear()
        if self._closed or self._breaker.state == "open":
            unsent += self._queue
            self._queue = []
        self._queued = sum(len(packed) for packed, _ in self._queue)
        for _, future in unsent:
            fail(future, NoAnswer(reason))

    def _probe_later(self) -> None:
        assert self._loop is not None
        if self._prober is None and not self._closed:
            self._prober = self._loop.call_later(self._breaker.probe_in(), self._probe)

    def _probe(self) -> None:
        """On our own time, so that no customer waits for a server that is away."""
        self._prober = None
        if self._breaker.state == "closed":
            return
        if self._breaker.allows():
            self._connect_soon()
        self._probe_later()


@asynccontextmanager
async def _patience(seconds: float) -> AsyncIterator[None]:
    """A timeout in ten steps. Connecting takes many turns of the loop: if those are slow, so are the steps, and an
    overloaded process, which needs its cache most, can still connect."""
    loop = asyncio.get_running_loop()
    steps_left = _STEPS
    timer: asyncio.TimerHandle | None = None
    async with asyncio.timeout(None) as scope:

        def step() -> None:
            nonlocal steps_left, timer
            if steps_left == 0:
                scope.reschedule(loop.time())
                return
            steps_left -= 1
            timer = loop.call_later(seconds / _STEPS, step)

        step()
        try:
            yield
        finally:
            if timer is not None:
                timer.cancel()


def _why(exc: BaseException) -> str:
    """For logs: no word of the server's own, which may repeat what we sent."""
    if isinstance(exc, Refused):
        if exc.code in _UNREADY:
            return f"it is not ready ({exc.code})"
        return f"it refused the user, the password or the database ({exc.code})"
    if isinstance(exc, TimeoutError):
        return "no connection in time"
    if isinstance(exc, OSError):
        return f"no connection ({exc.strerror or type(exc).__name__})"
    return str(exc)
