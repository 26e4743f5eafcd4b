"""Which answers a file may hold: a Bloom filter over digests, so that most misses need not ask the file at all."""

from __future__ import annotations

BITS = 24
PROBES = 4


class Seen:
    """2 MiB. With a million digests about two in a thousand strangers are taken for known; no known one is missed."""

    def __init__(self) -> None:
        self._bits = bytearray(1 << BITS - 3)

    def add(self, digest: bytes) -> None:
        for place in _places(digest):
            self._bits[place >> 3] |= 1 << (place & 7)

    def __contains__(self, digest: bytes) -> bool:
        bits = self._bits
        return all(bits[place >> 3] & 1 << (place & 7) for place in _places(digest))


def _places(digest: bytes) -> tuple[int, ...]:
    # A digest's bytes are as good as chance: its pieces are hashes of it.
    whole = int.from_bytes(digest[: 4 * PROBES], "big")
    mask = (1 << BITS) - 1
    return (whole & mask, whole >> 32 & mask, whole >> 64 & mask, whole >> 96 & mask)
