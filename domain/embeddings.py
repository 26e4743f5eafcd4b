"""Embeddings item by item: what a batch asks for, which vectors are kept, and the answer put together again.

A vector is kept as float32 little-endian bytes, the form the SDKs ask for, and rendered as base64 or floats on the
way out. Every vector that leaves has unit length, whatever the provider sent.
"""

from __future__ import annotations

import sys
from array import array
from base64 import b64decode, b64encode
from collections.abc import Sequence
from math import hypot, isfinite
from typing import Any

import orjson

from domain.answer import Document
from domain.errors import UpstreamFailed

TOLERANCE = 1e-6
"""Vectors nearer to unit length than this are left as they came; float32 has about seven digits."""


def items(given: Any) -> list[Any]:
    """The inputs of a request, one by one: texts, or arrays of tokens."""
    if type(given) is str:
        return [given]
    if type(given[0]) is int:
        return [given]
    return list(given)


def vectors(document: Document, wanted: int) -> list[bytes]:
    """The vectors of a provider's answer in the order of the inputs. Raises UpstreamFailed when it is not whole."""
    data = document.get("data")
    if type(data) is not list or len(data) != wanted:
        raise UpstreamFailed(
            "The provider answered with another number of embeddings than was asked for."
        )
    found: list[bytes | None] = [None] * wanted
    for entry in data:
        index = entry.get("index") if type(entry) is dict else None
        if type(index) is not int or not 0 <= index < wanted or found[index] is not None:
            raise UpstreamFailed("The provider numbered its embeddings wrongly.")
        found[index] = unit(_floats(entry.get("embedding")))
    whole = [vector for vector in found if vector is not None]
    if len({len(vector) for vector in whole}) > 1:
        raise UpstreamFailed("The provider sent embeddings of different lengths.")
    return whole


def _floats(embedding: Any) -> array[float]:
    try:
        if type(embedding) is str:
            read = array("f")
            read.frombytes(b64decode(embedding, validate=True))
            if sys.byteorder == "big":
                read.byteswap()
            found = read
        else:
            found = array("f", embedding)
    except (TypeError, ValueError, OverflowError) as exc:
        raise UpstreamFailed("The provider sent a malformed embedding.") from exc
    if not found:
        raise UpstreamFailed("The provider sent an empty embedding.")
    return found


def unit(vector: array[float]) -> bytes:
    """The vector at length one, as float32 little-endian bytes."""
    length = hypot(*vector)
    if not isfinite(length) or length == 0:
        raise UpstreamFailed("The provider sent an embedding without a direction.")
    if abs(length - 1) > TOLERANCE:
        vector = array("f", [number / length for number in vector])
    if sys.byteorder == "big":
        vector = vector[:]
        vector.byteswap()
    return vector.tobytes()


def render(model: str, stored: Sequence[bytes], prompt_tokens: int, base64: bool) -> bytes:
    """The whole answer as JSON text, in the order given."""
    write = _base64 if base64 else _numbers
    data = b",".join(
        b'{"object":"embedding","index":%d,"embedding":%b}' % (index, write(vector))
        for index, vector in enumerate(stored)
    )
    return (
        b'{"object":"list","data":[%b],"model":%b,"usage":{"prompt_tokens":%d,"total_tokens":%d}}'
        % (
            data,
            orjson.dumps(model),
            prompt_tokens,
            prompt_tokens,
        )
    )


def _base64(vector: bytes) -> bytes:
    return b'"' + b64encode(vector) + b'"'


def _numbers(vector: bytes) -> bytes:
    read = array("f")
    read.frombytes(vector)
    if sys.byteorder == "big":
        read.byteswap()
    return orjson.dumps(read.tolist())


def shares(total: int, given: Sequence[Any]) -> list[int]:
    """The provider counts a batch as a whole; each item gets its share by length, and the shares add up exactly."""
    weights = [max(1, len(item)) for item in given]
    whole = sum(weights)
    found, told, passed = [], 0, 0
    for weight in weights:
        passed += weight
        until = total * passed // whole
        found.append(until - told)
        told = until
    return found
