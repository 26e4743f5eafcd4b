"""Embeddings through the official Python SDK, which asks for base64 unless it is told otherwise."""

from __future__ import annotations

import json
from array import array
from base64 import b64decode, b64encode
from decimal import Decimal
from math import hypot, isclose
from typing import Any, Literal

import pytest
from openai import NotFoundError, OpenAI
from openai.types import CreateEmbeddingResponse

from tests.sdk.conftest import EMBEDDING_MODEL, MODELS, Script, Seat, Told, calls_about
from tests.support.upstream import Call, Reply, ScriptedUpstream

BOTH = pytest.mark.parametrize("seat", ["openai", "sandbox"], indirect=True)
DOLLARS = {"openai": Decimal("0.02"), "sandbox": Decimal(0)}
"""Per million tokens."""


def embed(seat: Seat, given: Any, **more: Any) -> tuple[Told, CreateEmbeddingResponse]:
    raw = seat.client.embeddings.with_raw_response.create(
        model=EMBEDDING_MODEL, input=given, **more
    )
    return Told.by(raw.headers), raw.parse()


def vectors(answer: CreateEmbeddingResponse) -> list[list[float]]:
    assert list(range(len(answer.data))) == [one.index for one in answer.data]
    return [one.embedding for one in answer.data]


def has_unit_length(vector: list[float]) -> bool:
    return isclose(1, hypot(*vector), abs_tol=1e-6)


@BOTH
def test_the_default(seat: Seat, prompt: str, place: str, upstream: ScriptedUpstream) -> None:
    """A vector of unit length; the same text again is a hit with cost 0 and the tokens saved."""
    told, first = embed(seat, prompt)
    again, second = embed(seat, prompt)

    seat.miss(told, reason=told.reason)
    assert DOLLARS[seat.provider] * first.usage.prompt_tokens / 1_000_000 == Decimal(
        told.cost or "-1"
    )
    seat.hit(again, first.usage.total_tokens)
    [vector] = vectors(first)
    assert 1536 == len(vector)
    assert has_unit_length(vector)
    assert [vector] == vectors(second)
    assert (first.model, first.usage) == (second.model, second.usage)
    assert (0 if seat.provider == "sandbox" else 1) == len(calls_about(upstream, place))


@BOTH
def test_the_default_travels_as_base64(seat: Seat, prompt: str) -> None:
    """What the SDK asks for without saying so is what it gets: float32, little-endian, in base64; hit or miss."""
    for _ in range(2):
        raw = seat.client.embeddings.with_raw_response.create(
            model=EMBEDDING_MODEL, input=prompt, encoding_format="base64"
        )
        [entry] = json.loads(raw.text)["data"]

        assert 4 * 1536 == len(b64decode(entry["embedding"], validate=True))


@BOTH
def test_floats_are_the_same_numbers(seat: Seat, prompt: str) -> None:
    """How the vector travels is no part of the question."""
    _, first = embed(seat, prompt)
    raw = seat.client.embeddings.with_raw_response.create(
        model=EMBEDDING_MODEL, input=prompt, encoding_format="float"
    )

    assert "HIT" == Told.by(raw.headers).cached
    assert vectors(first) == vectors(CreateEmbeddingResponse.model_validate_json(raw.text))


@BOTH
def test_a_batch_asks_only_for_what_is_missing(
    seat: Seat, prompt: str, place: str, upstream: ScriptedUpstream
) -> None:
    """What an earlier batch brought is not paid again; the answer has all, in the order asked."""
    one, two, three = (f"{prompt} {number}" for number in range(3))
    _, known = embed(seat, [two, one])

    told, batch = embed(seat, [one, two, three, one])
    again, repeated = embed(seat, [three, one])

    assert ("MISS", "partial: 3 of 4") == (told.cached, told.reason)
    first, second, third, fourth = vectors(batch)
    assert [second, first] == vectors(known)
    assert first == fourth
    assert 3 == len({tuple(vector) for vector in (first, second, third)})
    assert "HIT" == again.cached
    assert [third, first] == vectors(repeated)
    assert 0 < again.saved == repeated.usage.total_tokens
    if seat.provider != "sandbox":
        assert [[two, one], [three]] == [
            call.body["input"] for call in calls_about(upstream, place)
        ]


@BOTH
def test_dimensions_and_user(seat: Seat, prompt: str) -> None:
    """Another length is another vector, another user is not."""
    found = [
        embed(seat, prompt, dimensions=dimensions, user=user)
        for dimensions, user in ((256, "a"), (512, "a"), (256, "b"))
    ]

    assert ["MISS", "MISS", "HIT"] == [told.cached for told, _ in found]
    assert [256, 512, 256] == [len(vectors(answer)[0]) for _, answer in found]


@BOTH
def test_tokens(seat: Seat, place: str) -> None:
    """Arrays of tokens are inputs as well."""
    numbers = [ord(letter) for letter in place]

    _, single = embed(seat, numbers)
    told, several = embed(seat, [numbers, numbers[:4]])

    assert "partial: 1 of 2" == told.reason
    assert vectors(single)[0] == vectors(several)[0]


@pytest.mark.parametrize("form", ["base64", "float"])
@pytest.mark.parametrize("sent", ["base64", "float"])
def test_every_vector_has_unit_length(
    seats: dict[str, Seat],
    prompt: str,
    script: Script,
    sent: str,
    form: Literal["base64", "float"],
) -> None:
    """Whatever the provider sends, and in whichever form, the caller's vectors are normalised."""

    def answer(call: Call) -> Reply | None:
        if not call.path.endswith("/embeddings"):
            return None
        numbers = array("f", [3.0, 0.0, -4.0])
        embedding = b64encode(numbers.tobytes()).decode() if sent == "base64" else list(numbers)
        return Reply.json(
            200,
            {
                "object": "list",
                "model": call.model,
                "data": [{"object": "embedding", "index": 0, "embedding": embedding}],
                "usage": {"prompt_tokens": 3, "total_tokens": 3},
            },
        )

    script(answer)
    more = {} if form == "base64" else {"encoding_format": form}
    for cached in ("MISS", "HIT"):
        told, found = embed(seats["openai"], prompt, **more)
        [vector] = vectors(found)

        assert cached == told.cached
        assert has_unit_length(vector)
        assert list(array("f", [0.6, 0.0, -0.8])) == vector


async def test_async(seats: dict[str, Seat], prompt: str) -> None:
    async with seats["openai"].open_async() as client:
        answer = await client.embeddings.create(model=EMBEDDING_MODEL, input=[prompt, "b"])

    assert all(has_unit_length(vector) for vector in vectors(answer))


@pytest.mark.parametrize("provider", ["anthropic", "groq"])
def test_other_providers_have_none(client: OpenAI, provider: str, prompt: str) -> None:
    """Embeddings always come from OpenAI; another provider's model is not there."""
    with pytest.raises(NotFoundError) as raised:
        client.embeddings.create(model=MODELS[provider], input=prompt)

    assert "model_not_found" == raised.value.code
