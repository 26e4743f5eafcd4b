"""DogStatsD: counts and distributions as datagrams (Datadog's "Datagram Format", version 1.1).

What a datagram's way is like, nobody waits to know: a full or dead socket costs the datagram.
"""

from __future__ import annotations

import socket
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable
from contextlib import suppress
from typing import Final

from adapters.telemetry.labels import Labels, labels_of
from domain.usage import UsageRecord

DATAGRAM: Final = 1_432
"""Bytes that no Ethernet on the way has to cut in two."""
PICO: Final = 10**12


class Statsd:
    """Opened at first use, in the thread that sends. `tags` go with everything."""

    def __init__(self, host: str, port: int, tags: Collection[str]) -> None:
        self._address = host, port
        self._tags = tuple(tags)
        self._socket: socket.socket | None = None

    def send(self, lines: Iterable[str]) -> None:
        packet = b""
        for line in lines:
            encoded = line.encode()
            if packet and len(packet) + 1 + len(encoded) > DATAGRAM:
                self._out(packet)
                packet = b""
            packet += b"\n" + encoded if packet else encoded
        if packet:
            self._out(packet)

    def counts(self, records: Iterable[UsageRecord], models: Collection[str]) -> list[str]:
        """The lines for a batch: one for each metric and combination of labels."""
        counters: Counter[tuple[str, str]] = Counter()
        times: dict[tuple[str, str], list[str]] = defaultdict(list)
        for record in records:
            tags = self._joined(labels_of(record, models))
            counters["watchllm.requests", tags] += 1
            counters["watchllm.tokens.prompt", tags] += record.usage.prompt
            counters["watchllm.tokens.completion", tags] += record.usage.completion
            counters["watchllm.cost.picodollars", tags] += record.cost or 0
            counters["watchllm.saved.picodollars", tags] += record.avoided or 0
            times["watchllm.request.ms", tags].append(f"{record.total_ms:.3f}")
            times["watchllm.first_byte.ms", tags].append(f"{record.first_byte_ms:.3f}")
        lines = [_count(name, number, tags) for (name, tags), number in counters.items() if number]
        for (name, tags), found in times.items():
            lines += [
                f"{name}:{':'.join(found[at : at + 50])}|d|#{tags}"
                for at in range(0, len(found), 50)
            ]
        return lines

    def crash(self, type: str) -> str:
        return f"watchllm.crashes:1|c|#{','.join((*self._tags, f'type:{_safe(type)}'))}"

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _joined(self, labels: Labels) -> str:
        told = (
            ("endpoint", labels.endpoint),
            ("provider", labels.provider),
            ("model", labels.model),
            ("outcome", labels.outcome),
            ("status", str(labels.status)),
            ("reason", labels.reason),
        )
        return ",".join((*self._tags, *(f"{name}:{_safe(text)}" for name, text in told if text)))

    def _out(self, packet: bytes) -> None:
        with suppress(OSError):
            if self._socket is None:
                family, kind, protocol, _, address = socket.getaddrinfo(
                    *self._address, type=socket.SOCK_DGRAM
                )[0]
                self._socket = socket.socket(family, kind, protocol)
                self._socket.setblocking(False)
                self._socket.connect(address)
            self._socket.send(packet)


def _count(name: str, number: int, tags: str) -> str:
    if name.endswith(".picodollars"):
        return f"{name.removesuffix('.picodollars')}.dollars:{number / PICO:.12f}|c|#{tags}"
    return f"{name}:{number}|c|#{tags}"


def _safe(text: str) -> str:
    return "".join("_" if sign in ",|#\n" else sign for sign in text)
