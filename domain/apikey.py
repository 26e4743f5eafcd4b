"""Our own API keys: how they are made, read, digested and hinted at.

A key is ``lgw_<project|test>_``, 30 base62 characters of chance (178 bits) and 6 base62 characters of the
CRC-32 over those 30, so that a mistyped key is known without asking a store. Where keys are kept is not said here.
"""

from __future__ import annotations

import hmac
import re
from zlib import crc32

from domain.project import KINDS, PROJECT, TEST

RANDOM_BYTES = 48
"""How much chance one key takes. The body is the remainder of these 384 bits by 62**30 (179 bits), so that
no body is likelier than another by more than one part in 2**205."""

_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_PAIRS = tuple(high + low for high in _DIGITS for low in _DIGITS)
_BODY = 30
_FORM = re.compile(r"lgw_(proj|project|test)_([0-9A-Za-z]{30})([0-9A-Za-z]{6})")


def mint(kind: str, random: bytes) -> str:
    """A new key of this kind out of exactly `RANDOM_BYTES` random bytes."""
    if kind not in KINDS:
        raise ValueError(f"a key is of kind {' or '.join(KINDS)}")
    if len(random) != RANDOM_BYTES:
        raise ValueError(f"a key takes {RANDOM_BYTES} random bytes")
    number = int.from_bytes(random, "big")
    body = ""
    for _ in range(_BODY):
        number, digit = divmod(number, 62)
        body += _DIGITS[digit]
    return f"lgw_{kind}_{body}{_checksum(body)}"


def parse(text: str) -> str | None:
    """The key in its one normal form, or None if it cannot be one of ours.

    The short spelling ``lgw_proj_…`` means ``lgw_project_…``. The checksum holds no secret, so a wrong
    one may be told early.
    """
    found = _FORM.fullmatch(text)
    if found is None:
        return None
    kind, body, checksum = found.groups()
    if _checksum(body) != checksum:
        return None
    return f"lgw_project_{body}{checksum}" if kind == "proj" else text


def kind_of(key: str) -> str:
    """The kind of a key that `parse` or `mint` gave."""
    return TEST if key.startswith("lgw_test_") else PROJECT


def digest(pepper: bytes, key: str) -> bytes:
    """What is stored and looked up instead of the key.

    A slow hash would add nothing to 178 bits of chance, and would let strangers spend our CPU.
    """
    return hmac.digest(pepper, key.encode(), "sha256")


def hint(key: str) -> str:
    """What may be shown of a key for good: its prefix and its last four characters."""
    return f"lgw_{kind_of(key)}_...{key[-4:]}"


def _checksum(body: str) -> str:
    number = crc32(body.encode())
    number, low = divmod(number, 3844)
    high, middle = divmod(number, 3844)
    return _PAIRS[high] + _PAIRS[middle] + _PAIRS[low]
