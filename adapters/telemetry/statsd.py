"""DogStatsD: counts and distributions as datagrams (Datadog's "Datagram Format", version 1.1).

What a datagram's way is like, nobody waits to know: a full or dead socket costs the datagram.
"""

from __future__ import annotations

import socket
from collections.abc import Collection, Iterable
from contextlib import suppress
from typing import Final

from adapters.telemetry.labels import Labels, labels_of
from domain.usage import UsageRecord

DATAGRAM: Final = 1_432
"""Bytes that no Ethernet on the way has to cut in two."""
PACKED: Final = 50
"""Values of one distribution that travel as one line."""
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
        """The lines for a batch: one for each metric and kind of request."""
        kinds: dict[tuple[str, str, str, str, int, str], list[UsageRecord]] = {}
        for record in records:
            kind = (
                record.endpoint,
                record.provider,
                record.model_answered,
                record.outcome,
                record.status,
                record.cache_reason,
            )
            kinds.setdefault(kind, []).append(record)
        lines: list[str] = []
        for alike in kinds.values():
            tags = self._joined(labels_of(alike[0], models))
            lines += [
                f"watchllm.{name}:{number}|c|#{tags}" for name, number in _sums(alike) if number
            ]
            for name, found in (
                ("request", [record.total_ms for record in alike]),
                ("first_byte", [record.first_byte_ms for record in alike]),
            ):
                lines += [
                    f"watchllm.{name}.ms:{':'.join(f'{ms:.3f}' for ms in found[at : at + PACKED])}|d|#{tags}"
                    for at in range(0, len(found), PACKED)
                ]
        return lines

    def crash(self, name: str, type: str, where: str) -> str:
        """`name` is crash or alarm; alarms differ by where they were noticed."""
        if name == "alarm":
            tag = f"where:{_safe(where.partition(':')[0])}"
            return f"watchllm.alarms:1|c|#{','.join((*self._tags, tag))}"
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


def _sums(alike: list[UsageRecord]) -> tuple[tuple[str, int | str], ...]:
    return (
        ("requests", len(alike)),
        ("tokens.prompt", sum(record.usage.prompt for record in alike)),
        ("tokens.completion", sum(record.usage.completion for record in alike)),
        ("cost.dollars", _dollars(sum(record.cost or 0 for record in alike))),
        ("saved.dollars", _dollars(sum(record.avoided or 0 for record in alike))),
    )


def _dollars(picodollars: int) -> str:
    return f"{picodollars / PICO:.12f}" if picodollars else ""


def _safe(text: str) -> str:
    return "".join("_" if sign in ",|#\n" else sign for sign in text)
