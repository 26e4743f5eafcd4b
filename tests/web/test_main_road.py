"""The main road over HTTP: a miss from each provider, then a hit, streamed or not, with its headers and its row."""

from __future__ import annotations

import pytest

from tests.support.house import QUESTION, OpenHouse, asked, events
from tests.support.upstream import ScriptedUpstream

MODELS = {"openai": "gpt-4o", "anthropic": "claude-opus-5-5", "groq": "openai/gpt-oss-120b"}


@pytest.mark.parametrize("provider", MODELS)
async def test_a_repeated_question_is_a_hit(
    house: OpenHouse, upstream: ScriptedUpstream, provider: str
) -> None:
    """The provider is asked once; the second answer is the same document, free, and says what it saved."""
    question = {**QUESTION, "model": MODELS[provider]}

    first = await house.ask(question)
    second = await house.ask(question)

    assert (200, "MISS", provider) == (
        first.status,
        first.cached,
        first.headers["x-WatchLLM-provider"],
    )
    assert float(first.headers["x-WatchLLM-cost-usd"]) > 0
    assert "exact" == first.headers["x-WatchLLM-cost-basis"]
    assert ("HIT", "exact") == (second.cached, second.reason)
    assert "0" == second.headers["x-WatchLLM-cost-usd"]
    assert (
        str(first.document["usage"]["total_tokens"]) == second.headers["x-WatchLLM-tokens-saved"]
    )
    assert first.document["choices"] == second.document["choices"]
    assert 1 == len(asked(upstream))


@pytest.mark.parametrize("provider", MODELS)
async def test_streams_and_whole_answers_share_an_entry(
    house: OpenHouse, upstream: ScriptedUpstream, provider: str
) -> None:
    """What a stream brought is replayed as a stream and told as a whole answer."""
    question = {**QUESTION, "model": MODELS[provider]}
    streamed = {**question, "stream": True, "stream_options": {"include_usage": True}}

    first = await house.ask(streamed)
    again = await house.ask(streamed)
    whole = await house.ask(question)

    assert ("MISS", "HIT", "HIT") == (first.cached, again.cached, whole.cached)
    assert "prompt-estimate" == first.headers["x-WatchLLM-cost-basis"]
    assert (
        text_of(first.body)
        == text_of(again.body)
        == whole.document["choices"][0]["message"]["content"]
    )
    assert "[DONE]" == events(first.body)[-1] == events(again.body)[-1]
    assert (
        events(first.body)[-2]["usage"]
        == events(again.body)[-2]["usage"]
        == whole.document["usage"]
    )
    assert b'\n: x-watchllm {"cost_usd":' in first.body
    assert 1 == len(asked(upstream))


async def test_every_request_leaves_its_row(house: OpenHouse, upstream: ScriptedUpstream) -> None:
    """Misses, hits, streams and refusals each leave one row, under the request id the caller was told."""
    answers = [
        await house.ask(QUESTION),
        await house.ask(QUESTION),
        await house.ask({**QUESTION, "stream": True, "temperature": 1}),
        await house.ask({**QUESTION, "messages": []}),
        await house.ask({**QUESTION, "model": "nobody-knows-it"}),
    ]

    rows = {str(row["id"]): row for row in await house.rows()}

    left = [rows.pop(answer.headers["x-request-id"]) for answer in answers]
    assert not rows
    assert ["miss", "hit", "miss", "denied", "denied"] == [row["outcome"] for row in left]
    assert [200, 200, 200, 400, 404] == [row["status"] for row in left]


def text_of(body: bytes) -> str:
    return "".join(
        choice["delta"].get("content") or ""
        for event in events(body)
        if event != "[DONE]"
        for choice in event["choices"]
    )


async def test_a_fresh_answer_is_kept_for_the_next_one(
    house: OpenHouse, upstream: ScriptedUpstream
) -> None:
    """`no-cache` asks the provider again and keeps what it said; `no-store` keeps nothing."""
    fresh = await house.ask(QUESTION, headers={"Cache-Control": "no-cache"})
    after = await house.ask(QUESTION)
    other = {**QUESTION, "seed": 1}
    unkept = await house.ask(other, headers={"Cache-Control": "no-store"})

    assert ("MISS", "no-cache") == (fresh.cached, fresh.reason)
    assert "HIT" == after.cached
    assert ("MISS", "no-store") == (unkept.cached, unkept.reason)
    assert "MISS" == (await house.ask(other)).cached
    assert 3 == len(asked(upstream))
