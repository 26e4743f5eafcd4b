"""Our keys: made from given chance, read strictly, digested under a pepper."""

from __future__ import annotations

from zlib import crc32

import pytest

from domain import apikey
from domain.apikey import RANDOM_BYTES
from domain.project import PROJECT, TEST

DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
KEY = apikey.mint(PROJECT, bytes(range(RANDOM_BYTES)))
TEST_KEY = apikey.mint(TEST, bytes(range(RANDOM_BYTES)))


def checksum(body: str) -> str:
    """The CRC-32 in base62, written the long way."""
    number, text = crc32(body.encode()), ""
    for _ in range(6):
        number, digit = divmod(number, 62)
        text = DIGITS[digit] + text
    return text


@pytest.mark.parametrize("kind", [PROJECT, TEST])
def test_a_minted_key_reads_back(kind: str) -> None:
    """A key is its prefix, thirty characters of chance and their checksum, and `parse` knows it again."""
    key = apikey.mint(kind, bytes(range(RANDOM_BYTES)))
    prefix, body = f"lgw_{kind}_", key.removeprefix(f"lgw_{kind}_")

    assert key == prefix + body[:30] + checksum(body[:30])
    assert key == apikey.parse(key)
    assert kind == apikey.kind_of(key)


def test_chance_decides_and_nothing_else() -> None:
    """The same bytes give the same key; other bytes another."""
    assert KEY == apikey.mint(PROJECT, bytes(range(RANDOM_BYTES)))
    assert KEY != apikey.mint(PROJECT, bytes(range(1, RANDOM_BYTES + 1)))


def test_every_character_is_used_evenly() -> None:
    """No character is favoured, as `byte % 62` would favour the first eight."""
    counts = dict.fromkeys(DIGITS, 0)
    number = 1
    for _ in range(2_000):
        number = number * 6364136223846793005 % (1 << 8 * RANDOM_BYTES) ^ number >> 97
        for sign in apikey.mint(TEST, number.to_bytes(RANDOM_BYTES, "big"))[9:39]:
            counts[sign] += 1
    expected = 2_000 * 30 / 62
    # 61 degrees of freedom: 120 is exceeded by chance once in ten thousand, a byte % 62 gives over 700.
    assert sum((count - expected) ** 2 / expected for count in counts.values()) < 120


@pytest.mark.parametrize("random", [b"", bytes(RANDOM_BYTES - 1), bytes(RANDOM_BYTES + 1)])
def test_too_little_chance_makes_no_key(random: bytes) -> None:
    with pytest.raises(ValueError, match="48 random bytes"):
        apikey.mint(PROJECT, random)


def test_there_are_two_kinds() -> None:
    with pytest.raises(ValueError, match="project or test"):
        apikey.mint("admin", bytes(RANDOM_BYTES))


def test_the_short_prefix_means_the_long_one() -> None:
    """`lgw_proj_…` is the same key, with the same digest."""
    short = KEY.replace("lgw_project_", "lgw_proj_")

    assert KEY == apikey.parse(short)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "lgw_project_",
        KEY[:-1],
        KEY + "0",
        KEY + "\n",
        " " + KEY,
        KEY.upper(),
        KEY[:-1] + ("0" if KEY[-1] != "0" else "1"),
        KEY[:12] + KEY[13] + KEY[12] + KEY[14:],
        KEY.replace("lgw_project_", "lgw_admin_"),
        KEY.replace("lgw_project_", "sk-"),
        KEY.replace("lgw_project_", "lgw_project-"),
        KEY[:20] + "é" + KEY[21:],
        KEY[:20] + "٣" + KEY[21:],
        KEY[:20] + "\x00" + KEY[21:],
        KEY[:20] + "\udcff" + KEY[21:],
        KEY * 1000,
    ],
)
def test_what_is_not_a_key(text: str) -> None:
    """Another length, alphabet, prefix or checksum is no key, and never an exception."""
    assert None is apikey.parse(text)


def test_a_digest_depends_on_pepper_and_key() -> None:
    """Without the pepper, a stolen table cannot be searched for a known key."""
    digest = apikey.digest(b"pepper" * 6, KEY)

    assert 32 == len(digest)
    assert digest == apikey.digest(b"pepper" * 6, KEY)
    assert digest != apikey.digest(b"Pepper" * 6, KEY)
    assert digest != apikey.digest(b"pepper" * 6, TEST_KEY)


def test_a_digest_is_hmac_sha_256() -> None:
    """RFC 4231, test case 2: keys outlive releases, so the digest must never change."""
    expected = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"

    assert expected == apikey.digest(b"Jefe", "what do ya want for nothing?").hex()


def test_a_hint_shows_prefix_and_last_four() -> None:
    assert f"lgw_project_...{KEY[-4:]}" == apikey.hint(KEY)
    assert f"lgw_test_...{TEST_KEY[-4:]}" == apikey.hint(TEST_KEY)
