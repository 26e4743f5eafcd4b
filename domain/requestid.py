"""Request ids: UUID version 7 (RFC 9562, section 5.7), so that the ledger's primary key grows with time."""

from __future__ import annotations

RANDOM_BYTES = 10


def request_id(now: float, random: bytes) -> str:
    """`now` in wall-clock seconds, ten random bytes."""
    high = (int(now * 1000) & 0xFFFFFFFFFFFF) << 16 | 0x7000 | (random[0] & 0x0F) << 8 | random[1]
    low = int.from_bytes(random[2:10], "big") & 0x3FFFFFFFFFFFFFFF | 0x8000000000000000
    text = f"{high << 64 | low:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
