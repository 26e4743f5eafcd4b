"""The legacy text completions through the official Python SDK: on every provider, by way of chat."""

from __future__ import annotations

from typing import Any

import pytest
from openai import BadRequestError, OpenAI
from openai.types import Completion

from tests.sdk.conftest import MODELS, Seat, Told, calls_about
from tests.support.upstream import ScriptedUpstream

NATIVE = "gpt-3.5-turbo-instruct"


def stream(seat: Seat, prompt: Any, **more: Any) -> tuple[Told, list[Completion]]:
    raw = seat.client.completions.with_raw_response.create(
        model=seat.model, prompt=prompt, stream=True, **more
    )
    return Told.by(raw.headers), list(raw.parse())


def test_the_second_call_is_free(
    seat: Seat, prompt: str, place: str, upstream: ScriptedUpstream
) -> None:
    """In the endpoint's own shape, with the same headers as chat; the second time for nothing."""
    create = seat.client.completions.with_raw_response.create

    raw = create(model=seat.model, prompt=prompt, max_tokens=100)
    first = raw.parse()
    again = create(model=seat.model, prompt=prompt, max_tokens=100)
    second = again.parse()

    assert first.usage is not None
    seat.miss(Told.by(raw.headers))
    seat.hit(Told.by(again.headers), first.usage.total_tokens)
    [choice] = second.choices
    assert place in choice.text
    assert ("stop", 0, None) == (choice.finish_reason, choice.index, choice.logprobs)
    assert [choice] == first.choices
    assert "text_completion" == first.object
    assert first.id.startswith("cmpl-")
    for found in (raw, again):
        Completion.model_validate_json(found.text)
    assert (first.id, first.usage) == (second.id, second.usage)
    if seat.provider != "sandbox":
        [call] = calls_about(upstream, place)
        assert not call.path.endswith("/completions") or call.path.endswith("/chat/completions")


def test_streamed(seat: Seat, prompt: str, place: str) -> None:
    """The text comes in pieces, and from the cache the same text; `choices[0]` is always there."""
    written = []
    for cached in ("MISS", "HIT"):
        told, chunks = stream(seat, prompt, max_tokens=100)

        assert cached == told.cached
        assert all("text_completion" == chunk.object for chunk in chunks)
        assert 1 == len({chunk.id for chunk in chunks})
        assert ["stop"] == [
            chunk.choices[0].finish_reason for chunk in chunks if chunk.choices[0].finish_reason
        ]
        assert all(chunk.usage is None for chunk in chunks)
        written.append("".join(chunk.choices[0].text for chunk in chunks))
    plain = seat.client.completions.create(model=seat.model, prompt=prompt, max_tokens=100)

    assert place in written[0]
    assert [plain.choices[0].text] * 2 == written


def test_usage_of_a_stream(seat: Seat, prompt: str) -> None:
    for cached in ("MISS", "HIT"):
        told, chunks = stream(seat, prompt, max_tokens=100, stream_options={"include_usage": True})

        assert cached == told.cached
        assert [] == chunks[-1].choices
        assert all(chunk.usage is None for chunk in chunks[:-1])
        assert chunks[-1].usage is not None
        assert 0 < chunks[-1].usage.total_tokens


def test_several_prompts(seat: Seat, place: str) -> None:
    """Each prompt is answered, numbered in order, echoed if that is asked."""
    prompts = [f"{place}a", f"{place}b", f"{place}c"]
    for cached in ("MISS", "HIT"):
        raw = seat.client.completions.with_raw_response.create(
            model=seat.model, prompt=prompts, echo=True, max_tokens=100
        )
        answer = raw.parse()

        assert cached == Told.by(raw.headers).cached
        assert [0, 1, 2] == [choice.index for choice in answer.choices]
        for prompt, choice in zip(prompts, answer.choices, strict=True):
            assert choice.text.startswith(prompt)
            assert prompt in choice.text.removeprefix(prompt)


async def test_async(seat: Seat, prompt: str, place: str) -> None:
    async with seat.open_async() as client:
        written = ""
        async for chunk in await client.completions.create(
            model=seat.model, prompt=prompt, max_tokens=100, stream=True
        ):
            written += chunk.choices[0].text

    assert place in written


@pytest.mark.parametrize("streamed", [False, True])
def test_a_completion_model_is_asked_in_its_own_way(
    client: OpenAI, prompt: str, place: str, upstream: ScriptedUpstream, streamed: bool
) -> None:
    """A model that the table marks as one for completions is not asked through chat."""
    for cached in ("MISS", "HIT"):
        raw = client.completions.with_raw_response.create(
            model=NATIVE, prompt=prompt, stream=streamed
        )
        parsed: Any = raw.parse()
        pieces = list(parsed) if streamed else [parsed]

        assert cached == Told.by(raw.headers).cached
        assert place in "".join(piece.choices[0].text for piece in pieces)
    [call] = calls_about(upstream, place)
    assert "/v1/completions" == call.path


@pytest.mark.parametrize(("field", "given"), [("suffix", "x"), ("logprobs", 2), ("best_of", 2)])
def test_what_chat_cannot_do_is_refused(seat: Seat, prompt: str, field: str, given: Any) -> None:
    """With the field's name, never silently left out."""
    more: dict[str, Any] = {field: given}
    with pytest.raises(BadRequestError) as raised:
        seat.client.completions.create(model=seat.model, prompt=prompt, **more)

    assert (field, "unsupported_parameter") == (raised.value.param, raised.value.code)


def test_the_default_limit_leaves_room_to_think(
    client: OpenAI, place: str, upstream: ScriptedUpstream
) -> None:
    """The endpoint's 16 tokens would leave a reasoning model without a word, so it has more; others keep the 16."""
    limits: list[int] = []
    for model in (MODELS["openai"], "gpt-4o"):
        client.completions.create(model=model, prompt=place)
        body = calls_about(upstream, place)[-1].body
        limits.append(body.get("max_completion_tokens") or body["max_tokens"])

    assert (True, 16) == (limits[0] > 16, limits[1])
