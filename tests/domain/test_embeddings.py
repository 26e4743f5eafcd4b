"""Embeddings item by item: vectors in, unit vectors kept, both forms out."""

from __future__ import annotations

import struct
from base64 import b64decode, b64encode
from math import hypot, inf, nan
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.embeddings import items, render, shares, vectors
from domain.errors import UpstreamFailed


def packed(*numbers: float) -> bytes:
    return struct.pack(f"<{len(numbers)}f", *numbers)


def unpacked(vector: bytes) -> tuple[float, ...]:
    return struct.unpack(f"<{len(vector) // 4}f", vector)


def b64(*numbers: float) -> str:
    return b64encode(packed(*numbers)).decode()


def entry(embedding: Any, index: Any = 0) -> dict[str, Any]:
    return {"object": "embedding", "index": index, "embedding": embedding}


def answer(*entries: Any) -> dict[str, Any]:
    return {"object": "list", "data": list(entries)}


@pytest.mark.parametrize(
    ("given_input", "expected"),
    [
        ("a", ["a"]),
        (["a"], ["a"]),
        (["a", "b", "a"], ["a", "b", "a"]),
        ([1, 2], [[1, 2]]),
        ([[1, 2]], [[1, 2]]),
        ([[1], [2]], [[1], [2]]),
    ],
)
def test_the_items_of_an_input(given_input, expected):
    """A list of tokens is one item, a list of texts is many."""
    assert expected == items(given_input)


# --- in ---------------------------------------------------------------------------------------------


def test_floats_and_base64_are_the_same_vector():
    """Whatever form the provider chose."""
    assert [packed(0.6, 0.8)] == vectors(answer(entry([0.6, 0.8])), 1)
    assert [packed(0.6, 0.8)] == vectors(answer(entry(b64(0.6, 0.8))), 1)


def test_vectors_come_in_the_order_of_the_inputs():
    """The provider numbers them, in any order."""
    document = answer(entry([0, 1], 1), entry([1.0, 0], 0), entry([0, -1], 2))

    assert [packed(1, 0), packed(0, 1), packed(0, -1)] == vectors(document, 3)


@pytest.mark.parametrize("form", [list, lambda numbers: b64(*numbers)])
def test_a_vector_that_is_not_of_length_one_is_made_so(form):
    """Callers compare by the dot product alone."""
    [vector] = vectors(answer(entry(form([3.0, 4.0]))), 1)

    assert packed(0.6, 0.8) == vector


NUMBERS = st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=64).filter(
    lambda numbers: hypot(*numbers) > 1e-3
)


@settings(deadline=None)
@given(NUMBERS)
def test_every_vector_has_length_one(numbers):
    """Float32 and its rounding included; made twice, it stays the same."""
    [vector] = vectors(answer(entry(b64(*numbers))), 1)

    assert 1 == pytest.approx(hypot(*unpacked(vector)), abs=1e-6)
    assert [vector] == vectors(answer(entry(b64encode(vector).decode())), 1)


BAD = {
    "nothing": {},
    "data of null": {"data": None},
    "data as an object": {"data": {"0": entry([1])}},
    "none": answer(),
    "one of two": answer(entry([1])),
    "three of two": answer(entry([1]), entry([1], 1), entry([1], 2)),
    "an entry of null": answer(entry([1]), None),
    "an entry as a list": answer(entry([1]), [1]),
    "no number": answer(entry([1]), {"embedding": [1]}),
    "the same number twice": answer(entry([1]), entry([1])),
    "a number too high": answer(entry([1]), entry([1], 2)),
    "a negative number": answer(entry([1]), entry([1], -1)),
    "a number as a text": answer(entry([1]), entry([1], "1")),
    "a number of true": answer(entry([1]), entry([1], True)),
    "a decimal number": answer(entry([1]), entry([1], 1.0)),
    "different lengths": answer(entry([1, 0]), entry([1], 1)),
}


@pytest.mark.parametrize("document", BAD.values(), ids=BAD)
def test_an_answer_that_is_not_whole(document):
    """A wrong vector under a good text would be wrong for long: nothing of it is kept."""
    with pytest.raises(UpstreamFailed):
        vectors(document, 2)


MALFORMED = {
    "null": None,
    "a number": 1,
    "an object": {"0": 1},
    "no numbers": [],
    "no bytes": "",
    "texts": ["1"],
    "null inside": [1, None],
    "lists inside": [[1]],
    "no base64": "!!!",
    "letters beyond ASCII": "äöü=",
    "base64 with white space": b64(1, 0)[:4] + "\n" + b64(1, 0)[4:],
    "three bytes": b64encode(b"abc").decode(),
    "five bytes": b64encode(b"abcde").decode(),
    "not a number": b64(nan, 1),
    "infinite": b64(inf, 1),
    "infinite both ways": b64(inf, -inf),
    "all zero": [0, 0, 0],
    "all zero, in base64": b64(0, -0.0),
    "beyond float32": [1e39, 1],
    "far beyond float32": [1e308, 1e308],
    "an enormous integer": [10**400, 1],
}


@pytest.mark.parametrize("embedding", MALFORMED.values(), ids=MALFORMED)
def test_an_embedding_without_a_direction(embedding):
    """It is the provider's fault, whatever is wrong with it."""
    with pytest.raises(UpstreamFailed):
        vectors(answer(entry(embedding)), 1)


# --- out --------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.lists(NUMBERS, min_size=1, max_size=3), st.integers(0, 10**9), st.text(max_size=5))
def test_both_forms_are_the_same_float32(batch, tokens, model):
    """Decimal text or base64: a client reads the same bits."""
    stored = [packed(*numbers) for numbers in batch]
    floats = orjson.loads(render(model, stored, tokens, base64=False))
    texts = orjson.loads(render(model, stored, tokens, base64=True))

    assert stored == [packed(*one["embedding"]) for one in floats["data"]]
    assert stored == [b64decode(one["embedding"]) for one in texts["data"]]
    for found in (floats, texts):
        assert ("list", model) == (found["object"], found["model"])
        assert {"prompt_tokens": tokens, "total_tokens": tokens} == found["usage"]
        assert list(range(len(stored))) == [one["index"] for one in found["data"]]
        assert {"embedding"} == {one["object"] for one in found["data"]}


def test_what_is_rendered_can_be_read_again():
    """Our own answer is one that we would take from a provider."""
    stored = [packed(0.6, 0.8), packed(1, 0)]

    for base64 in (True, False):
        assert stored == vectors(orjson.loads(render("m", stored, 5, base64)), 2)


# --- whose tokens ---------------------------------------------------------------------------------------

BATCHES = st.lists(st.text() | st.lists(st.integers(), max_size=20), min_size=1, max_size=50)


@settings(deadline=None)
@given(st.integers(0, 10**18), BATCHES)
def test_shares_add_up(total, given_items):
    """To the last token and the last picodollar, and none is negative."""
    found = shares(total, given_items)

    assert total == sum(found)
    assert len(given_items) == len(found)
    assert min(found) >= 0


@pytest.mark.parametrize(
    ("total", "given_items", "expected"),
    [
        (10, ["aaaa"], [10]),
        (10, ["a", "a"], [5, 5]),
        (10, ["a", "aaaa"], [2, 8]),
        (3, [[1], [1, 2]], [1, 2]),
        (1, ["a", "a", "a"], [0, 0, 1]),
        (4, ["", "a"], [2, 2]),
        (0, ["a", "b"], [0, 0]),
    ],
)
def test_shares_go_by_length(total, given_items, expected):
    """Twice the text, twice the tokens."""
    assert expected == shares(total, given_items)
