"""The form of a usage record in a file: length, checksum, JSON. Pure; files live elsewhere.

The length is mixed into the checksum, so that a damaged length is noticed too, and a length of 0 is no record: space
that was set aside and never written reads as zeros.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from struct import Struct
from typing import Any
from zlib import crc32

import attrs
import orjson

from domain.usage import INTERRUPTED, Usage, UsageRecord

OPEN, CLOSE = "open", "close"
MAX_PAYLOAD = 256 << 10
"""No row is nearly as long; a longer one in a file is damage."""

_HEAD = Struct("<II")
HEAD = _HEAD.size
MAX_FRAME = HEAD + MAX_PAYLOAD

Event = tuple[str, UsageRecord]


def encode(kind: str, record: UsageRecord) -> bytes:
    """`kind` is OPEN or CLOSE. The values without their names: half the bytes and less than half the time."""
    return frame(
        _json(
            (
                kind,
                record.id,
                record.project,
                record.key,
                record.kind,
                record.at,
                record.endpoint,
                record.model_asked,
                record.model_answered,
                record.provider,
                record.streamed,
                record.outcome,
                record.status,
                record.usage.fields,
                record.cost,
                record.avoided,
                record.price_version,
                record.first_byte_ms,
                record.total_ms,
                record.cache_reason,
            )
        )
    )


def decode(payload: bytes) -> Event | None:
    """None for what this version does not understand."""
    try:
        kind, *values = _parsed(payload)
        values[12] = Usage(*values[12])
        record = UsageRecord(*values)
    except (ValueError, TypeError, IndexError, RecursionError):
        return None
    return (kind, record) if kind in (OPEN, CLOSE) else None


def frame(payload: bytes) -> bytes:
    size = len(payload)
    return _HEAD.pack(size, crc32(payload, size)) + payload


def payloads(data: bytes) -> Iterator[tuple[int, bytes]]:
    """What frames hold and where each ends, up to the first that is not whole and true."""
    at = 0
    while at + HEAD <= len(data):
        size, checksum = _HEAD.unpack_from(data, at)
        at += HEAD
        payload = data[at : at + size]
        if not 0 < size <= MAX_PAYLOAD or len(payload) < size:
            return
        if crc32(payload, size) != checksum:
            return
        at += size
        yield at, payload


def interrupted(opened: UsageRecord) -> UsageRecord:
    """The row of a request whose process died: what was asked is known, what was answered is not.

    Nothing is claimed to be free: a cost of 0 was only the start value.
    """
    return attrs.evolve(
        opened,
        outcome=INTERRUPTED,
        status=500,
        usage=attrs.evolve(opened.usage, estimated=True),
        cost=opened.cost or None,
    )


def letter(record: UsageRecord, reason: str) -> bytes:
    """A line for people: every value with its name."""
    return _json({"reason": reason, **attrs.asdict(record)}) + b"\n"


def _json(document: Any) -> bytes:
    try:
        return orjson.dumps(document)
    except TypeError:
        # Lone surrogates and integers of more than 64 bits: no ledger takes them, but that is not ours to decide.
        return json.dumps(document, default=str).encode()


def _parsed(payload: bytes) -> Any:
    try:
        return orjson.loads(payload)
    except orjson.JSONDecodeError:
        return json.loads(payload)
