"""One socket to a Redis server: commands out, replies back to those who wait for them.

RESP2 has no ids: a reply belongs to a command by its place alone. Hence the one rule of this module: any doubt
(a malformed or uncalled-for reply, a lost byte, a deadline that the owner saw pass) ends the connection and fails
everything in flight. A late reply then finds no one, and a caller that leaves only leaves its own future.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, cast

import hiredis

MAX_REPLY = 8 << 20

Argument = str | bytes | int | float
Command = tuple[bytes, "asyncio.Future[Any]"]

_MORE = object()


class RedisFault(Exception):
    """A command without a good answer."""


class NoAnswer(RedisFault):
    """Nobody answered in time, or nobody could be asked. The command may or may not have been carried out."""


class Refused(RedisFault):
    """The server answered with an error; `code` is its first word (NOSCRIPT, MOVED, OOM, ...)."""

    @property
    def code(self) -> str:
        return str(self).partition(" ")[0]


class Connection(asyncio.Protocol):
    """One socket's life. Once in doubt it is dead, and its successor shares nothing with it."""

    def __init__(self, heard: Callable[[], None], lost: Callable[[Connection, str], None]) -> None:
        self.sent: deque[tuple[asyncio.Future[Any], float, int]] = deque()
        self.unanswered = 0
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.dead = False
        self._heard = heard
        self._lost = lost
        self._unparsed = 0
        self._reader = hiredis.Reader(notEnoughData=_MORE, replyError=Refused)
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)

    def send(self, commands: list[Command], deadline: float) -> None:
        assert self._transport is not None
        for packed, future in commands:
            self.sent.append((future, deadline, len(packed)))
            self.unanswered += len(packed)
        self._transport.write(b"".join([packed for packed, _ in commands]))

    def data_received(self, data: bytes) -> None:
        if self.dead:
            return
        try:
            whole = self._take(data)
        except (hiredis.HiredisError, ValueError, MemoryError):
            self.end("it sent what is no answer")
            return
        self._unparsed = len(data) if whole else self._unparsed + len(data)
        if self._unparsed > MAX_REPLY:
            self.end("it sent an endless answer")

    def _take(self, data: bytes) -> bool:
        """Gives each reply to the command whose turn it is. False if the bytes complete none."""
        reader = self._reader
        reader.feed(data)
        reply = reader.gets()
        if reply is _MORE:
            return False
        while reply is not _MORE:
            if not self.sent or type(reply) is hiredis.PushNotification:
                raise hiredis.ProtocolError("nobody asked for this")
            future, _, size = self.sent.popleft()
            self.unanswered -= size
            if type(reply) is Refused:
                fail(future, reply)
            elif not future.done():
                future.set_result(reply)
            reply = reader.gets()
        self._heard()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self.end("the connection was lost")
        if not self.gone.done():
            self.gone.set_result(None)

    def end(self, reason: str) -> None:
        """The only way out: fails what is in flight, now, before anything else can arrive."""
        if self.dead:
            return
        self.dead = True
        if self._transport is not None:
            self._transport.abort()
        # `sent` keeps its length until the owner has been told whether anybody was waiting.
        self._lost(self, reason)
        while self.sent:
            fail(self.sent.popleft()[0], NoAnswer(reason))


def pack(args: tuple[Argument, ...]) -> bytes:
    packed: bytes = hiredis.pack_command(args)  # type: ignore[arg-type]  # its stub knows tuples of one
    return packed


def fail(future: asyncio.Future[Any], fault: BaseException) -> asyncio.Future[Any]:
    if not future.done():
        future.set_exception(fault)
        future.exception()  # marks it as seen: a caller may leave without asking
    return future
