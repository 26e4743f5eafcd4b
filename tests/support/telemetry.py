"""Receivers of telemetry on real sockets: what Sentry, a Datadog agent and an OpenTelemetry collector take, and two
that are no use at all: one that is dead and one that takes a connection and never answers."""

from __future__ import annotations

import gzip
import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from attrs import define, field

from domain.usage import HIT, MISS, Usage, UsageRecord

PATIENCE = 10.0


@define
class Received:
    """One request that came in."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


@define
class Receiver:
    """`received` grows while it runs. `datagrams` too, where there is a UDP port."""

    port: int
    received: list[Received] = field(factory=list)
    datagrams: list[bytes] = field(factory=list)
    udp_port: int = 0

    @property
    def everything(self) -> bytes:
        """All bytes that came, for a search."""
        return b"\n".join(
            [*(one.path.encode() + one.body for one in self.received), *self.datagrams]
        )

    def wait(self, ready: Callable[[], Any]) -> Any:
        """Until `ready` gives something true, which is what this gives."""
        until = time.monotonic() + PATIENCE
        while not (found := ready()):
            assert time.monotonic() < until, self.received
            time.sleep(0.01)
        return found

    # --- Sentry ---------------------------------------------------------------------------------------

    @property
    def dsn(self) -> str:
        return f"http://public@127.0.0.1:{self.port}/1"

    def events(self) -> list[dict[str, Any]]:
        """Of all envelopes: a header line, then pairs of an item's header and its payload."""
        found = []
        for one in self.received:
            if one.path == "/api/1/envelope/":
                lines = one.body.split(b"\n")
                found += [
                    json.loads(payload)
                    for head, payload in zip(lines[1::2], lines[2::2], strict=False)
                    if json.loads(head)["type"] == "event"
                ]
        return found

    # --- OpenTelemetry --------------------------------------------------------------------------------

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def otlp_spans(self) -> list[dict[str, Any]]:
        return [
            span
            for one in self.received
            if one.path.endswith("/v1/traces")
            for resource in json.loads(one.body)["resourceSpans"]
            for scope in resource["scopeSpans"]
            for span in scope["spans"]
        ]

    # --- Datadog --------------------------------------------------------------------------------------

    def traces(self) -> list[list[dict[str, Any]]]:
        """Of all payloads in version 0.5: a table of strings, and traces whose spans are lists that point into it."""
        found: list[list[dict[str, Any]]] = []
        for one in self.received:
            if one.path == "/v0.5/traces":
                strings, traces = unpacked(one.body)
                found += [[_span(strings, span) for span in trace] for trace in traces]
        return found

    def lines(self) -> list[str]:
        return b"\n".join(self.datagrams).decode().splitlines()


@contextmanager
def receiving(status: int = 200) -> Iterator[Receiver]:
    """Takes everything, over HTTP and UDP, and answers what each of the three senders wants to hear."""
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind(("127.0.0.1", 0))
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    receiver = Receiver(server.server_address[1], udp_port=udp.getsockname()[1])
    server.receiver, server.status = receiver, status  # type: ignore[attr-defined]
    threads = [
        threading.Thread(target=server.serve_forever, args=(0.02,)),
        threading.Thread(target=_listen, args=(udp, receiver)),
    ]
    for thread in threads:
        thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ending:
            ending.sendto(b"", udp.getsockname())
        for thread in threads:
            thread.join()
        udp.close()


@contextmanager
def hanging() -> Iterator[int]:
    """A port where connections are taken by the kernel and never answered."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        yield listener.getsockname()[1]


def dead_port() -> int:
    """Nobody listens there."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _take(self) -> None:
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = self._chunks()
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        receiver: Receiver = self.server.receiver  # type: ignore[attr-defined]
        receiver.received.append(Received(self.command, self.path, dict(self.headers), body))
        answer = b'{"rate_by_service":{}}'
        if self.path == "/info":
            answer = b'{"version":"7.70.0","endpoints":["/v0.5/traces"],"client_drop_p0s":true}'
        self.send_response(self.server.status)  # type: ignore[attr-defined]
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_GET = do_POST = do_PUT = _take

    def _chunks(self) -> bytes:
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def log_message(self, *_: Any) -> None:
        pass


def _listen(udp: socket.socket, receiver: Receiver) -> None:
    while datagram := udp.recv(65_536):
        receiver.datagrams.append(datagram)


def _span(strings: list[str], span: list[Any]) -> dict[str, Any]:
    names = (
        "service",
        "name",
        "resource",
        "trace_id",
        "span_id",
        "parent_id",
        "start",
        "duration",
        "error",
    )
    found = dict(zip(names, span, strict=False))
    for name in ("service", "name", "resource"):
        found[name] = strings[found[name]]
    found["meta"] = {strings[name]: strings[text] for name, text in span[9].items()}
    found["metrics"] = {strings[name]: number for name, number in span[10].items()}
    return found


def unpacked(data: bytes) -> Any:
    """MessagePack, as much of it as tracers use (the format's specification, "Formats")."""
    return _Unpacker(data).value()


class _Unpacker:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def value(self) -> Any:
        kind = self._take(1)[0]
        if kind < 0x80:
            return kind
        if kind < 0x90:
            return self._map(kind & 15)
        if kind < 0xA0:
            return [self.value() for _ in range(kind & 15)]
        if kind < 0xC0:
            return self._take(kind & 31).decode()
        if kind >= 0xE0:
            return kind - 256
        return self._long(kind)

    def _long(self, kind: int) -> Any:
        simple = {0xC0: None, 0xC2: False, 0xC3: True}
        if kind in simple:
            return simple[kind]
        if 0xC4 <= kind <= 0xC6:
            return self._take(self._number(1 << kind - 0xC4))
        if kind in (0xCA, 0xCB):
            size, form = (4, ">f") if kind == 0xCA else (8, ">d")
            return struct.unpack(form, self._take(size))[0]
        if 0xCC <= kind <= 0xCF:
            return self._number(1 << kind - 0xCC)
        if 0xD0 <= kind <= 0xD3:
            size = 1 << kind - 0xD0
            return int.from_bytes(self._take(size), "big", signed=True)
        if 0xD9 <= kind <= 0xDB:
            return self._take(self._number(1 << kind - 0xD9)).decode()
        if kind in (0xDC, 0xDD):
            return [self.value() for _ in range(self._number(2 << kind - 0xDC))]
        assert kind in (0xDE, 0xDF), hex(kind)
        return self._map(self._number(2 << kind - 0xDE))

    def _map(self, size: int) -> dict[Any, Any]:
        return {self.value(): self.value() for _ in range(size)}

    def _number(self, size: int) -> int:
        return int.from_bytes(self._take(size), "big")

    def _take(self, size: int) -> bytes:
        found = self._data[self._at : self._at + size]
        self._at += size
        return found


# --- what there is to tell ----------------------------------------------------------------------------


def record(number: int = 0, **given: Any) -> UsageRecord:
    """A hit on `gpt-4o`, with whatever is `given` instead; the id's last digits are the number's."""
    outcome = given.get("outcome", HIT)
    fields: dict[str, Any] = {
        "id": f"019ab2c3-d4e5-7f60-8123-{number:012x}",
        "project": "prj_1",
        "key": "key_1",
        "kind": "project",
        "at": 1_800_000_000.0,
        "endpoint": "chat/completions",
        "model_asked": "gpt-4o",
        "model_answered": "gpt-4o",
        "provider": "openai",
        "streamed": False,
        "outcome": outcome,
        "status": 200,
        "usage": Usage(input=100, output=20),
        "cost": 450_000_000 if outcome == MISS else 0,
        "avoided": 450_000_000 if outcome == HIT else 0,
        "price_version": "1",
        "first_byte_ms": 0.4,
        "total_ms": 0.5,
        "cache_reason": "exact" if outcome == HIT else "",
    }
    return UsageRecord(**(fields | given))
