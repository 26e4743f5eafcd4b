"""Chat completions as a stream, through the official Python SDK: the plain loop, the helper, raw lines."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from openai.types.chat import ChatCompletionChunk, ChatCompletionMessageParam

from tests.sdk.conftest import Script, Seat, Told, calls_about
from tests.support.upstream import Call, Reply, ScriptedUpstream
from tests.support.upstream_openai import DONE, event, head

COMMENT = ": x-watchllm "


def asked(prompt: str) -> list[ChatCompletionMessageParam]:
    return [{"role": "user", "content": prompt}]


def chunks(seat: Seat, prompt: str, **more: Any) -> tuple[Told, list[ChatCompletionChunk]]:
    raw = seat.client.chat.completions.with_raw_response.create(
        model=seat.model, messages=asked(prompt), stream=True, **more
    )
    with raw.parse() as stream:
        return Told.by(raw.headers), list(stream)


def text(found: list[ChatCompletionChunk], choice: int = 0) -> str:
    """As popular code reads it: without a look at whether there is a choice."""
    return "".join(
        chunk.choices[0].delta.content or "" for chunk in found if chunk.choices[0].index == choice
    )


def test_the_second_stream_is_free(
    seat: Seat, prompt: str, place: str, upstream: ScriptedUpstream
) -> None:
    """A streamed miss is told with an estimate, the same again is a hit: cost 0, the tokens saved, the same words."""
    told, first = chunks(seat, prompt)
    again, second = chunks(seat, prompt)

    seat.miss(told, basis="prompt-estimate", reason="stream")
    seat.hit(again, again.saved)
    assert place in text(first)
    assert text(first) == text(second)
    assert (0 if seat.provider == "sandbox" else 1) == len(calls_about(upstream, place))
    for found in (first, second):
        assert "stop" == found[-1].choices[0].finish_reason
        assert ["assistant"] == [
            chunk.choices[0].delta.role for chunk in found if chunk.choices[0].delta.role
        ]
        assert 1 == len({(chunk.id, chunk.created, chunk.model) for chunk in found})
    assert (first[0].id, first[0].model) == (second[0].id, second[0].model)


def test_every_chunk_fits_the_sdks_types(seat: Seat, prompt: str) -> None:
    """The SDK reads whatever comes; here its own type is held against each event, hit or miss."""
    for cached in ("MISS", "HIT"):
        with seat.client.chat.completions.with_streaming_response.create(
            model=seat.model, messages=asked(prompt), stream=True
        ) as raw:
            assert cached == Told.by(raw.headers).cached
            events = [line for line in raw.iter_lines() if line.startswith("data: {")]

        assert 2 < len(events)
        for one in events:
            ChatCompletionChunk.model_validate_json(one.removeprefix("data: "))


def test_a_plain_answer_as_a_stream(seat: Seat, prompt: str) -> None:
    """What was asked without a stream is streamed from the cache, usage included."""
    answer = seat.client.chat.completions.create(model=seat.model, messages=asked(prompt))

    told, found = chunks(seat, prompt, stream_options={"include_usage": True})

    assert answer.usage is not None
    seat.hit(told, answer.usage.total_tokens)
    assert answer.choices[0].message.content == text(found[:-1])
    assert answer.usage == found[-1].usage


def test_usage_is_shown_to_who_asks(seat: Seat, prompt: str) -> None:
    """Then the last chunk has no choices, and no other chunk has a usage; from the provider and from the cache."""
    usages = []
    for cached in ("MISS", "HIT"):
        told, found = chunks(seat, prompt, stream_options={"include_usage": True})

        assert cached == told.cached
        assert [] == found[-1].choices
        assert all(chunk.usage is None and chunk.choices for chunk in found[:-1])
        usages.append(found[-1].usage)

    assert usages[0] is not None
    assert usages[0] == usages[1]
    assert usages[0].total_tokens == usages[0].prompt_tokens + usages[0].completion_tokens


def test_usage_is_hidden_from_who_does_not(
    seat: Seat, prompt: str, place: str, upstream: ScriptedUpstream
) -> None:
    """The provider is asked for it all the same; a loop over `choices[0]` never meets a chunk without."""
    for cached in ("MISS", "HIT"):
        told, found = chunks(seat, prompt)

        assert cached == told.cached
        assert all(chunk.choices and chunk.usage is None for chunk in found)

    for call in calls_about(upstream, place):
        if call.dialect != "anthropic":
            assert {"include_usage": True} == call.body["stream_options"]


def test_the_exact_figures_come_last(seat: Seat, prompt: str) -> None:
    """A comment before `[DONE]` has what the stream cost; a hit has said so in its headers already."""
    lines: list[list[str]] = []
    headers = []
    for _ in range(2):
        with seat.client.chat.completions.with_streaming_response.create(
            model=seat.model, messages=asked(prompt), stream=True
        ) as raw:
            headers.append(raw.headers)
            lines.append([line for line in raw.iter_lines() if line])

    first, second = lines
    assert "data: [DONE]" == first[-1] == second[-1]
    assert first[-2].startswith(COMMENT)
    figures = json.loads(first[-2].removeprefix(COMMENT))
    tokens = figures["tokens"]
    assert seat.cost(tokens["prompt"], tokens["completion"]) == Decimal(figures["cost_usd"])
    assert figures["latency_ms"] >= 0
    estimate = Told.by(headers[0]).cost
    assert Decimal(estimate or "-1") <= Decimal(figures["cost_usd"])
    assert not any(line.startswith(COMMENT) for line in second)
    seat.hit(Told.by(headers[1]), tokens["prompt"] + tokens["completion"])
    for found in headers:
        assert found["content-type"].startswith("text/event-stream")
        assert found["x-request-id"]


def test_the_helper(seat: Seat, prompt: str, place: str) -> None:
    """`chat.completions.stream` folds the chunks into one completion, equal to the plain one; hit or miss."""
    finals = []
    for _ in range(2):
        with seat.client.chat.completions.stream(
            model=seat.model, messages=asked(prompt), stream_options={"include_usage": True}
        ) as stream:
            kinds = [found.type for found in stream]
            finals.append(stream.get_final_completion())

        assert "content.delta" in kinds
        assert "content.done" in kinds
    plain = seat.client.chat.completions.create(model=seat.model, messages=asked(prompt))

    for final in finals:
        [choice], [expected] = final.choices, plain.choices
        assert place in (choice.message.content or "")
        assert expected.message.content == choice.message.content
        assert ("assistant", "stop") == (choice.message.role, choice.finish_reason)
        assert plain.usage == final.usage


async def test_async(seat: Seat, prompt: str, place: str) -> None:
    """The async client's loop and its helper see the same text."""
    async with seat.open_async() as client:
        written = ""
        async for chunk in await client.chat.completions.create(
            model=seat.model, messages=asked(prompt), stream=True
        ):
            written += chunk.choices[0].delta.content or ""
        async with client.chat.completions.stream(
            model=seat.model, messages=asked(prompt)
        ) as stream:
            final = await stream.get_final_completion()

    assert place in written
    assert written == final.choices[0].message.content


@pytest.mark.parametrize("seat", ["openai", "sandbox"], indirect=True)
def test_several_choices(seat: Seat, prompt: str, place: str) -> None:
    """They may come in turns; each is whole by its index."""
    for cached in ("MISS", "HIT"):
        told, found = chunks(seat, prompt, n=2)

        assert cached == told.cached
        assert place in text(found, 0)
        assert place in text(found, 1)
        ends = [
            chunk.choices[0].index for chunk in found if chunk.choices[0].finish_reason == "stop"
        ]
        assert [0, 1] == sorted(ends)


@pytest.mark.parametrize("seat", ["openai", "sandbox"], indirect=True)
def test_logprobs(seat: Seat, prompt: str) -> None:
    for cached in ("MISS", "HIT"):
        told, found = chunks(seat, prompt, logprobs=True)

        assert cached == told.cached
        spelt = [
            token.token
            for chunk in found
            if chunk.choices[0].logprobs
            for token in chunk.choices[0].logprobs.content or ()
        ]
        assert text(found) == "".join(spelt)


@pytest.mark.parametrize("seat", ["openai"], indirect=True)
def test_a_refusal_is_read_as_one(seat: Seat, prompt: str, script: Script) -> None:
    """The helper finds it in its own field, and it is never kept."""
    script(refusal)
    for _ in range(2):
        with seat.client.chat.completions.stream(
            model=seat.model, messages=asked(prompt)
        ) as stream:
            [choice] = stream.get_final_completion().choices
        told, _ = chunks(seat, prompt)

        assert "I will not." == choice.message.refusal
        assert not choice.message.content
        assert "MISS" == told.cached


def refusal(call: Call) -> Reply | None:
    if call.method != "POST":
        return None
    top = head(call, "chat.completion.chunk")
    deltas: list[tuple[dict[str, Any], str | None]] = [
        ({"role": "assistant", "refusal": ""}, None),
        ({"refusal": "I will"}, None),
        ({"refusal": " not."}, None),
        ({}, "stop"),
    ]
    counted = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}
    told = [
        event({**top, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})
        for delta, finish in deltas
    ]
    return Reply.sse([*told, event({**top, "choices": [], "usage": counted}), DONE])
