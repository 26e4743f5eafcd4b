"""CacheEntry to bytes and back, for stores that others can write to.

The stored form: a version byte, the length of the header, the header as JSON, the body, and a MAC over all of it
(HMAC-SHA-256, RFC 2104, cut to 16 bytes as RFC 2104 section 5 allows). The header names the project and the key,
so an answer that was moved to another key, or was written by someone else, is not an answer.
"""

from __future__ import annotations

import hmac

import orjson

from domain.answer import CacheEntry, CacheKey
from domain.usage import Usage

VERSION = b"\x01"
_LENGTH_BYTES = 4
_HEADER_AT = len(VERSION) + _LENGTH_BYTES
_MAC_BYTES = 16


class EntryCodec:
    """`mac_key` is a key of its own, used for nothing else."""

    def __init__(self, mac_key: bytes) -> None:
        self._keyed = hmac.new(mac_key, digestmod="sha256")

    def encode(self, key: CacheKey, entry: CacheEntry) -> bytes:
        header = orjson.dumps(
            (
                key.project,
                key.digest.hex(),
                entry.provider,
                entry.model,
                entry.cost,
                entry.stored_at,
                entry.expires_at,
                *entry.usage.fields,
            )
        )
        length = len(header).to_bytes(_LENGTH_BYTES, "big")
        message = b"".join((VERSION, length, header, entry.body))
        return message + self._mac(message)

    def decode(self, key: CacheKey, blob: bytes) -> CacheEntry | None:
        """None for whatever is not exactly what `encode` made for this very key."""
        message = blob[:-_MAC_BYTES]
        if message[:1] != VERSION or not hmac.compare_digest(
            self._mac(message), blob[-_MAC_BYTES:]
        ):
            return None
        body_at = _HEADER_AT + int.from_bytes(message[1:_HEADER_AT], "big")
        try:
            project, digest, provider, model, cost, stored_at, expires_at, *counts = orjson.loads(
                message[_HEADER_AT:body_at]
            )
            usage = Usage(*counts)
        except (ValueError, TypeError):
            return None
        if project != key.project or digest != key.digest.hex():
            return None
        return CacheEntry(message[body_at:], provider, model, usage, cost, stored_at, expires_at)

    def _mac(self, message: bytes) -> bytes:
        # A copy of a keyed state is a third cheaper than setting the key again.
        mac = self._keyed.copy()
        mac.update(message)
        return mac.digest()[:_MAC_BYTES]
