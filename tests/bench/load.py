"""The load: raw sockets, bytes made in advance, and a look at every answer. Cheaper than any server it drives.

A wrong answer ends the run: a fast server that answers something else is not fast.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Sequence
from typing import cast

from attrs import define, field

Request = Callable[[int], bytes]
"""The bytes of the n-th request."""
Check = Callable[[bytes, bytes], str | None]
"""Head in lower case and body in; what is wrong with them out."""

_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)")
_CHUNKED = b"\r\ntransfer-encoding: chunked"
_LAST_CHUNK = b"0\r\n\r\n"
PATIENCE = 10.0
"""Seconds without a byte after which an answer counts as lost."""


class WrongAnswer(Exception):
    """What was answered is not what was asked."""


def answers(status: int, cached: str | None = None, body: bytes | None = None) -> Check:
    """This status; if given, HIT or MISS, and exactly this body."""
    line = b"http/1.1 %d" % status
    told = None if cached is None else b"\r\nx-watchllm-cached: %b\r\n" % cached.lower().encode()

    def check(head: bytes, found: bytes) -> str | None:
        if not head.startswith(line):
            return f"{head[:12].decode()} instead of {status}: {found[:200]!r}"
        if told is not None and told not in head:
            return f"no {cached} in {head.decode('latin-1')!r}"
        if body is not None and found != body:
            return f"another body: {found[:200]!r}"
        return None

    return check


@define
class Load:
    """One measured stretch: what to send, what it has shown so far. `reads` are kept only when asked for."""

    request: Request
    check: Check
    count: int
    until: float
    keep_reads: bool = False
    taken: int = 0
    latencies: list[float] = field(factory=list)
    """Seconds, one per answer."""
    reads: list[list[tuple[float, int]]] = field(factory=list)
    """Of each stream: when bytes came, and how many events they held."""

    def next(self) -> bytes | None:
        if self.taken >= self.count or time.perf_counter() >= self.until:
            return None
        self.taken += 1
        return self.request(self.taken - 1)


class Caller(asyncio.Protocol):
    """One kept connection: asks, reads, checks, asks again until the load has nothing left for it."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are none of asyncio's classes.
        self._transport = cast(asyncio.Transport, transport)
        self._ask()

    def _ask(self) -> None:
        request = self._load.next()
        if request is None:
            self._end()
            return
        self._buffer = b""
        self._reads: list[tuple[float, int]] = []
        self._sent_at = time.perf_counter()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        if self._load.keep_reads:
            self._reads.append((time.perf_counter(), data.count(b"data: {")))
        self._buffer = self._buffer + data if self._buffer else data
        try:
            answer = split(self._buffer)
        except WrongAnswer as wrong:
            self._end(wrong)
            return
        if answer is None:
            return
        load = self._load
        load.latencies.append(time.perf_counter() - self._sent_at)
        if load.keep_reads:
            load.reads.append(self._reads)
        problem = load.check(*answer)
        if problem is None:
            self._ask()
        else:
            self._end(WrongAnswer(problem))

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(WrongAnswer("the connection was closed before its answer was whole"))

    def _end(self, wrong: WrongAnswer | None = None) -> None:
        self._transport.close()
        if self.done.done():
            return
        if wrong is None:
            self.done.set_result(None)
        else:
            self.done.set_exception(wrong)


def split(buffer: bytes) -> tuple[bytes, bytes] | None:
    """Head and body, or None while the answer is not whole."""
    at = buffer.find(b"\r\n\r\n")
    if at < 0:
        return None
    head = buffer[: at + 2].lower()
    found = _LENGTH.search(head)
    if found is not None:
        body = buffer[at + 4 :]
        missing = int(found[1]) - len(body)
        if missing < 0:
            raise WrongAnswer("more bytes than its Content-Length")
        return None if missing else (head, body)
    if _CHUNKED not in head:
        raise WrongAnswer(f"an answer of no known length: {head!r}")
    return (head, _dechunked(buffer[at + 4 :])) if buffer.endswith(_LAST_CHUNK) else None


def _dechunked(body: bytes) -> bytes:
    pieces: list[bytes] = []
    while True:
        size, _, body = body.partition(b"\r\n")
        length = int(size, 16)
        if not length:
            return b"".join(pieces)
        pieces.append(body[:length])
        body = body[length + 2 :]


async def drive(
    port: int,
    request: Request,
    check: Check,
    *,
    count: int,
    connections: int = 32,
    seconds: float = 20.0,
    keep_reads: bool = False,
) -> Load:
    """Each connection asks as soon as it is answered, until `count` answers or `seconds` are over."""
    loop = asyncio.get_running_loop()
    load = Load(request, check, count, time.perf_counter() + seconds, keep_reads)
    callers = []
    for _ in range(min(connections, count)):
        _, caller = await loop.create_connection(lambda: Caller(load), "127.0.0.1", port)
        callers.append(caller.done)
    try:
        async with asyncio.timeout(seconds + PATIENCE):
            ends = await asyncio.gather(*callers, return_exceptions=True)
    except TimeoutError:
        raise WrongAnswer(f"an answer did not come within {PATIENCE:.0f} s") from None
    for end in ends:
        if isinstance(end, BaseException):
            raise end
    return load


async def ask(port: int, request: bytes, check: Check) -> tuple[bytes, bytes]:
    """One question on a connection of its own; gives head and body."""
    kept: list[tuple[bytes, bytes]] = []

    def keep(head: bytes, body: bytes) -> str | None:
        kept.append((head, body))
        return check(head, body)

    await drive(port, lambda _: request, keep, count=1, connections=1)
    return kept[0]


async def pace(
    ports: Sequence[int],
    requests: Sequence[Request],
    checks: Sequence[Check],
    *,
    rate: float,
    count: int,
) -> list[list[float]]:
    """`rate` questions a second to each port in turn, whether or not the last was answered; their latencies.

    The ports alternate within each beat, so that noise of the machine falls on all of them.
    """
    loop = asyncio.get_running_loop()
    lanes = [_Lane(*each) for each in zip(ports, requests, checks, strict=True)]
    began = loop.time() + 0.05
    under_way: list[asyncio.Task[None]] = []
    for beat in range(count * len(lanes)):
        due = began + beat / (rate * len(lanes))
        await asyncio.sleep(max(0.0, due - loop.time()))
        under_way.append(loop.create_task(lanes[beat % len(lanes)].ask(beat // len(lanes))))
    try:
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(*under_way)
    except TimeoutError:
        raise WrongAnswer(f"an answer did not come within {PATIENCE:.0f} s") from None
    for lane in lanes:
        lane.close()
    return [lane.latencies for lane in lanes]


@define
class _Lane:
    """Kept connections to one port; a new one only when all are waiting for an answer."""

    port: int
    request: Request
    check: Check
    latencies: list[float] = field(factory=list)
    _idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = field(factory=list)

    async def ask(self, number: int) -> None:
        if self._idle:
            reader, writer = self._idle.pop()
        else:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        request = self.request(number)
        sent_at = time.perf_counter()
        writer.write(request)
        buffer, answer = b"", None
        while answer is None:
            data = await reader.read(65_536)
            if not data:
                raise WrongAnswer("the connection was closed before its answer was whole")
            buffer += data
            answer = split(buffer)
        self.latencies.append(time.perf_counter() - sent_at)
        self._idle.append((reader, writer))
        wrong = self.check(*answer)
        if wrong is not None:
            raise WrongAnswer(wrong)

    def close(self) -> None:
        for _, writer in self._idle:
            writer.close()


def percentile(found: Sequence[float], share: float) -> float:
    ordered = sorted(found)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]
