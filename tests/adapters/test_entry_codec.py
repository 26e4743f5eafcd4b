"""The stored form: true to every field, and nothing to anyone whose key it is not."""

from __future__ import annotations

import attrs
import pytest

from adapters.entry_codec import EntryCodec
from domain.answer import CacheEntry, CacheKey
from domain.usage import Usage

MINE = CacheKey("prj_mine", bytes(range(32)))
OTHER = CacheKey("prj_mine", bytes(range(1, 33)))
FOREIGN = CacheKey("prj_foreign", MINE.digest)
ENTRY = CacheEntry(
    body=b'{"id":"chatcmpl-1","choices":[]}',
    provider="openai",
    model="gpt-4o-2024-08-06",
    usage=Usage(1, 2, 3, 4, 5, 6, 7, 8, True),
    cost=12_345_678_901_234,
    stored_at=1_800_000_000.123456,
    expires_at=1_800_003_600.654321,
)


@pytest.fixture
def codec() -> EntryCodec:
    return EntryCodec(b"m" * 32)


@pytest.mark.parametrize(
    "entry",
    [
        ENTRY,
        attrs.evolve(ENTRY, body=b""),
        attrs.evolve(ENTRY, body=bytes(range(256)) * 4096),
        attrs.evolve(ENTRY, cost=None),
        attrs.evolve(ENTRY, cost=0, usage=Usage()),
        attrs.evolve(ENTRY, model='new\nline "quoted" é \U0001f30d'),
        attrs.evolve(ENTRY, stored_at=0.0, expires_at=0.0),
    ],
)
def test_every_field_comes_back(codec, entry):
    """Also those that a comparison of entries leaves out, and their exact types."""
    found = codec.decode(MINE, codec.encode(MINE, entry))

    assert repr(entry) == repr(found)


def test_the_fields_are_all_known():
    """A new field of an entry or of its usage must find its place in the stored form, and a new version."""
    assert (7, 9) == (len(attrs.fields(CacheEntry)), len(attrs.fields(Usage)))


@pytest.mark.parametrize("key", [OTHER, FOREIGN])
def test_an_answer_belongs_to_one_key(codec, key):
    """Moved to another key or another project, it is no answer."""
    assert None is codec.decode(key, codec.encode(MINE, ENTRY))


def test_two_swapped_answers_are_both_misses(codec):
    """Someone who can write to the store cannot hand one customer's answer to another."""
    mine, other = codec.encode(MINE, ENTRY), codec.encode(OTHER, ENTRY)

    assert [None, None] == [codec.decode(MINE, other), codec.decode(OTHER, mine)]


def test_any_flipped_byte_is_a_miss(codec):
    """Each byte of the stored form is proved, and each bit of it."""
    blob = codec.encode(MINE, ENTRY)
    for at in range(len(blob)):
        for bit in range(8):
            bad = bytearray(blob)
            bad[at] ^= 1 << bit
            assert None is codec.decode(MINE, bytes(bad)), (at, bit)


def test_any_other_length_is_a_miss(codec):
    """Cut anywhere or with something behind it, it is no answer."""
    blob = codec.encode(MINE, ENTRY)
    for length in range(len(blob)):
        assert None is codec.decode(MINE, blob[:length]), length
    assert None is codec.decode(MINE, blob + b"\0")


@pytest.mark.parametrize(
    "blob", [b"", b"\x01", b"\x02" * 17, b"\x01" + b"\xff" * 40, b"OK", b'{"body":1}']
)
def test_rubbish_is_a_miss(codec, blob):
    """Never an error: what cannot be read was not stored."""
    assert None is codec.decode(MINE, blob)


def test_another_secret_cannot_read_it(codec):
    """A new mac key empties the cache; it breaks nothing."""
    assert None is EntryCodec(b"n" * 32).decode(MINE, codec.encode(MINE, ENTRY))


@pytest.mark.parametrize(
    "header", [b"[]", b"null", b"{}", b"[1,2,3,4,5,6,7]", b"[", b"7", b'"' * 9]
)
def test_a_proved_but_strange_header_is_a_miss(codec, header):
    """The MAC says who wrote it, not that it makes sense."""
    message = b"\x01" + len(header).to_bytes(4, "big") + header + b"body"

    assert None is codec.decode(MINE, message + codec._mac(message))


def test_the_prompt_is_not_stored_beside_the_answer(codec):
    """The stored form holds the digest of the question, never the question."""
    assert MINE.digest.hex().encode() in codec.encode(MINE, ENTRY)
