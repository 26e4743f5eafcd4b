"""Connections: how many there may be, how they are kept lively, who of them has left."""

from __future__ import annotations

import asyncio
import fcntl
import ipaddress
import select
import struct
import termios
from collections import Counter
from collections.abc import Iterable
from itertools import takewhile
from typing import Any

from tornado.httpserver import HTTPServer
from tornado.iostream import IOStream

from app.web.front import Exchange, Front
from ports.telemetry import Reading

UNREAD = 64 * 1024
"""More than this behind a running request is no pipelining but abuse, and would hide the client's leaving."""

# Linux tells of a half-closed peer even behind unread bytes; elsewhere heartbeats and deadlines must do.
_GONE = getattr(select, "POLLRDHUP", 0)


class Server(HTTPServer):
    """Tornado's server with Nagle's algorithm kept off and connections counted."""

    def initialize(  # type: ignore[override]
        self, front: Front, *, most: int, most_per_address: int, **options: Any
    ) -> None:
        super().initialize(front, **options)
        self._front = front
        # Tornado's own deadlines cost two timers and a task in each request; `sweep` looks once a second.
        self.conn_params.header_timeout = self.conn_params.body_timeout = None
        self._most = most
        self._most_per_address = most_per_address
        self._by_address: Counter[str] = Counter()

    def handle_stream(self, stream: IOStream, address: tuple[Any, ...]) -> None:
        peer = str(address[0]) if address else ""
        if len(self._connections) >= self._most or self._crowded(peer):
            stream.close()
            return
        stream.set_nodelay(True)
        # Tornado would turn Nagle on again after each answer, which holds back the chunks of a paced stream.
        stream.set_nodelay = _kept  # type: ignore[method-assign,assignment]
        self._by_address[peer] += 1
        super().handle_stream(stream, address)

    def on_close(self, server_conn: Any) -> None:
        super().on_close(server_conn)
        self._front.forget(server_conn)
        address = server_conn.context.address
        peer = str(address[0]) if address else ""
        self._by_address[peer] -= 1
        if self._by_address[peer] <= 0:
            del self._by_address[peer]

    def readings(self) -> Iterable[Reading]:
        yield Reading("watchllm_open_connections", len(self._connections))

    def busy(self) -> bool:
        """Whether some connection still has bytes to send."""
        return any(
            conn.stream is not None and not conn.stream.closed() and conn.stream.writing()
            for conn in list(self._connections)
        )

    def _crowded(self, peer: str) -> bool:
        """Only strangers are counted: behind a private address stands a balancer, with everybody behind it."""
        if self._by_address[peer] < self._most_per_address:
            return False
        return ipaddress.ip_address(peer.partition("%")[0]).is_global


def _kept(_: bool) -> None:
    return None


async def sweep(front: Front, every: float = 1.0) -> None:
    """Runs for ever: ends what is made for clients that have left without Tornado noticing, and whoever is too slow."""
    while True:
        await asyncio.sleep(every)
        for held, most in (
            (front.waiting, front.limits.head_timeout),
            (front.reading, front.limits.body_timeout),
        ):
            for exchange in late(held, most, front.monotonic()):
                exchange.connection.close()
        for exchange in gone(list(front.running)):
            exchange.connection.close()
            exchange.left()


def late(held: dict[object, tuple[Exchange, float]], most: float, now: float) -> list[Exchange]:
    """Those held for longer than `most` seconds. The oldest stand first."""
    return [
        exchange for exchange, _ in takewhile(lambda each: now - each[1] >= most, held.values())
    ]


def gone(running: list[Exchange]) -> list[Exchange]:
    """Those whose peer has closed, or has sent more behind its request than a client ever would."""
    poll = select.poll()
    by_descriptor: dict[int, Exchange] = {}
    for exchange in running:
        stream = exchange.connection.stream
        if stream is None or stream.closed():
            continue
        descriptor = stream.socket.fileno()
        by_descriptor[descriptor] = exchange
        poll.register(descriptor, _GONE)
    left = [by_descriptor[descriptor] for descriptor, _ in poll.poll(0)]
    flooded = [
        exchange
        for descriptor, exchange in by_descriptor.items()
        if exchange not in left and _unread(descriptor) > UNREAD
    ]
    return left + flooded


def _unread(descriptor: int) -> int:
    (count,) = struct.unpack("i", fcntl.ioctl(descriptor, termios.FIONREAD, b"\0\0\0\0"))
    return int(count)
