"""Nothing bad is ever kept: answers that are cut, empty, refused, misnumbered or wrong, each beside its good twin."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import pytest
from attrs import evolve, field, frozen

from tests.support.fixtures import async_fixture
from tests.support.house import QUESTION, OpenHouse, asked, open_house
from tests.support.upstream import Call, Reply, ScriptedUpstream, good_answer
from tests.support.upstream_faults import FAULTS, STREAM_ONLY
from tests.support.upstream_reply import Step

Fault = Callable[[Call, int], Reply]
Change = Callable[[dict[str, Any]], Any]

TOOL = {
    "tools": [
        {
            "type": "function",
            "function": {
                "name": "add",
                "parameters": {
                    "type": "object",
                    "properties": {"a": {"type": "integer"}},
                    "required": ["a"],
                },
            },
        }
    ]
}
JSON = {"response_format": {"type": "json_object"}}


@frozen
class Bad:
    """An answer that must not be kept, and what the question says besides. `plain` and `stream`: where it exists."""

    fault: Fault
    asked: dict[str, Any] = field(factory=dict)
    plain: bool = True
    stream: bool = True


# --- making them ----------------------------------------------------------------------------------


def named(name: str, after: int = 0) -> Bad:
    fault = FAULTS[name]
    return Bad(lambda call, _: fault(call, after), plain=name not in STREAM_ONLY)


def replaced(pattern: bytes, by: bytes, **asked: Any) -> Bad:
    """The good answer, with this in the place of that, wherever it stands."""

    def fault(call: Call, after: int) -> Reply:
        good = good_answer(call)
        steps: list[Step] = [
            re.sub(pattern, by, step) for step in good.steps if isinstance(step, bytes)
        ]
        assert steps != list(good.steps), "nothing was changed"
        if call.stream:
            return evolve(good, steps=steps)
        [body] = steps
        assert isinstance(body, bytes)
        return Reply.text(200, body, "application/json")

    return Bad(fault, asked)


def plain(change: Change, **asked: Any) -> Bad:
    """The good whole answer, changed."""

    def fault(call: Call, after: int) -> Reply:
        [body] = good_answer(call).steps
        assert isinstance(body, bytes)
        return Reply.json(200, change(orjson.loads(body)))

    return Bad(fault, asked, stream=False)


def streamed(change: Callable[[list[bytes]], list[bytes]], **asked: Any) -> Bad:
    """The good events, changed."""

    def fault(call: Call, after: int) -> Reply:
        good = good_answer(call)
        return evolve(good, steps=change([step for step in good.steps if isinstance(step, bytes)]))

    return Bad(fault, asked, plain=False)


def one_choice(call: Call, after: int) -> Reply:
    """One choice where several were asked for."""
    return good_answer(evolve(call, body={**call.body, "n": 1}))


def status(number: int) -> Bad:
    return named(str(number))


def event(**chunk: Any) -> bytes:
    return b"data: %b\n\n" % orjson.dumps(chunk)


def renumbered(index: Any) -> Change:
    def change(body: dict[str, Any]) -> Any:
        [choice] = body["choices"]
        return {**body, "choices": [{**choice, "index": index}]}

    return change


BAD: dict[str, Bad] = {
    # An error under a good status, or a refusal.
    "error in a 200": named("ok_with_error"),
    "rate limit in a 200": named("ok_with_rate_limit"),
    "bad request in a 200": named("ok_with_bad_request"),
    "an error beside good choices": plain(lambda body: {**body, "error": {"message": "half"}}),
    "a text for an error": plain(lambda body: {**body, "error": "half"}),
    "400": status(400),
    "401": status(401),
    "404": status(404),
    "429": status(429),
    "500": status(500),
    "503": status(503),
    "529": status(529),
    "302": named("redirect"),
    "201": Bad(lambda call, after: evolve(good_answer(call), status=201)),
    "206": Bad(lambda call, after: evolve(good_answer(call), status=206)),
    # Something else than an answer.
    "not JSON": named("invalid_json"),
    "not an object": named("not_an_object"),
    "HTML": named("html"),
    "another content type": named("wrong_type"),
    "the other delivery": named("json_for_stream"),
    "compressed": named("gzip"),
    "nothing": Bad(lambda call, after: Reply.text(200, b"", "application/json")),
    # Whole, but not an answer to keep.
    "no choices": named("no_choices"),
    "no text": named("no_text"),
    "no finish_reason": named("no_finish"),
    "an unknown finish_reason": named("unknown_finish"),
    "content_filter": named("content_filter"),
    "length without a limit": named("length_unasked"),
    "a refusal": named("refusal"),
    "no usage": named("no_usage"),
    "a negative usage": named("bad_usage"),
    "a usage in text": named("usage_as_text"),
    "a fraction for usage": named("usage_as_fraction"),
    "a giant usage": named("giant_usage"),
    "too large to keep": replaced(b"speaking", b"x" * 20_000),
    "tool calls that cannot be parsed": replaced(rb'\\"a\\":', rb'\\"a\\"', **TOOL),
    "tool calls cut at the limit": replaced(
        rb'"finish_reason":"tool_calls"', rb'"finish_reason":"length"', max_tokens=500, **TOOL
    ),
    "tool calls without a name": replaced(rb'"name":"add"', rb'"name":""', **TOOL),
    "tool calls announced but missing": replaced(
        rb'"finish_reason":"stop"', rb'"finish_reason":"tool_calls"'
    ),
    "text where JSON was asked for": replaced(rb"\{\\\"ok\\\"", rb"Sure: {\\\"ok\\\"", **JSON),
    "half of the JSON asked for": replaced(rb"true\}", rb"true", **JSON),
    "one choice of two": Bad(one_choice, {"n": 2}),
    "a wrong index": plain(renumbered(1)),
    "an index in text": plain(renumbered("0")),
    "a second choice nobody asked for": plain(
        lambda body: {**body, "choices": [*body["choices"], {**body["choices"][0], "index": 1}]}
    ),
    # Cut, in whatever way.
    "reset": named("reset"),
    "reset at once": named("reset_early"),
    "closed": named("close_early"),
    "closed inside": named("close_early", 3),
    "less than announced": named("wrong_length"),
    "less than announced inside": named("wrong_length", 3),
    "without [DONE]": named("no_end_marker"),
    "an endless line": named("giant_line", 2),
    "an error inside": named("ok_with_error", 3),
    "an error before the end": streamed(
        lambda steps: [*steps[:-1], event(error={"message": "half"}), steps[-1]]
    ),
    "[DONE] without a finish_reason": streamed(
        lambda steps: [step for step in steps if b'"finish_reason":"stop"' not in step]
    ),
    "[DONE] without usage": streamed(
        lambda steps: [step for step in steps if b'"prompt_tokens"' not in step]
    ),
    "[DONE] alone": streamed(lambda steps: steps[-1:]),
    "usage and [DONE] alone": streamed(lambda steps: steps[-2:]),
    "[DONE] in the middle": streamed(lambda steps: [*steps[:4], steps[-1], *steps[4:]]),
    "a chunk that is no object": streamed(lambda steps: [*steps[:3], b"data: 5\n\n", *steps[3:]]),
    "a chunk for another choice": streamed(
        lambda steps: [
            *steps[:3],
            event(choices=[{"index": 1, "delta": {"content": "!"}, "finish_reason": None}]),
            *steps[3:],
        ]
    ),
    **{f"cut after event {number}": named("no_end_marker", number) for number in range(1, 13)},
    **{f"cut inside event {number}": named("cut_mid_line", number) for number in range(13)},
}

CASES = [
    *((name, False) for name, bad in BAD.items() if bad.plain),
    *((name, True) for name, bad in BAD.items() if bad.stream),
]


@async_fixture
async def house(tmp_path: Path, upstream: ScriptedUpstream) -> AsyncIterator[OpenHouse]:
    async with open_house(tmp_path, upstream, WATCHLLM_CACHE_ENTRY_BYTES="16KiB") as opened:
        yield opened


def test_there_are_enough() -> None:
    """Forty shapes in each delivery."""
    assert min(sum(stream is one for _, one in CASES) for stream in (False, True)) >= 40


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
async def test_nothing_bad_is_kept(
    house: OpenHouse, upstream: ScriptedUpstream, stream: bool
) -> None:
    """Asked again, the provider is asked again; its good twin is a hit the next time, in both deliveries."""
    for seed, name in enumerate(name for name, one in CASES if one is stream):
        bad = BAD[name]
        question = {**QUESTION, "stream": stream, "seed": seed, **bad.asked}
        before = len(asked(upstream))
        upstream.answer = lambda call, bad=bad: (
            bad.fault(call, 0) if call.method == "POST" else None
        )
        first = await house.ask(question)
        again = await house.ask(question)
        assert "HIT" not in (
            first.headers.get("x-WatchLLM-cached"),
            again.headers.get("x-WatchLLM-cached"),
        ), name
        assert (first.status, first.headers["Content-Type"]) == (
            again.status,
            again.headers["Content-Type"],
        ), name
        dialled = len(asked(upstream)) - before
        assert dialled >= 2, name

        await upstream.heal()
        good = await house.ask(question)
        twin = await house.ask(question)
        other = await house.ask({**question, "stream": not stream})

        assert ("MISS", "HIT", "HIT") == (good.cached, twin.cached, other.cached), name
        assert before + dialled + 1 == len(asked(upstream)), name


EMBEDDING = {"model": "text-embedding-3-small", "input": ["near", "far"], "dimensions": 8}


def vectors(change: Callable[[list[dict[str, Any]]], Any]) -> Fault:
    def fault(call: Call, after: int) -> Reply:
        [body] = good_answer(call).steps
        assert isinstance(body, bytes)
        document = orjson.loads(body)
        return Reply.json(200, {**document, "data": change(document["data"])})

    return fault


def embedded(embedding: Any) -> Fault:
    return vectors(lambda data: [data[0], {**data[1], "embedding": embedding}])


BAD_VECTORS: dict[str, Fault] = {
    "error in a 200": FAULTS["ok_with_error"],
    "not JSON": FAULTS["html"],
    "another content type": FAULTS["wrong_type"],
    "429": FAULTS["429"],
    "500": FAULTS["500"],
    "closed": FAULTS["close_early"],
    "one of two": vectors(lambda data: data[:1]),
    "three of two": vectors(lambda data: [*data, data[0]]),
    "one twice": vectors(lambda data: [data[0], data[0]]),
    "misnumbered": vectors(lambda data: [data[0], {**data[1], "index": 7}]),
    "negative number": vectors(lambda data: [data[0], {**data[1], "index": -1}]),
    "no numbers": vectors(lambda data: [{"embedding": one["embedding"]} for one in data]),
    "no list": vectors(lambda data: None),
    "no objects": vectors(lambda data: ["x", "y"]),
    "null": embedded(None),
    "empty": embedded([]),
    "text": embedded("not base64!"),
    "half a number": embedded("AAAA"),
    "zero": embedded([0.0] * 8),
    "objects": embedded([{}] * 8),
    "too large": embedded([1e300] * 8),
    "another length": embedded([1.0, 0.0]),
}


async def test_no_bad_vector_is_kept(
    house: OpenHouse, upstream: ScriptedUpstream, caplog: pytest.LogCaptureFixture
) -> None:
    """Half a batch or a broken vector is an error for the whole batch, one row, and nothing of it is kept."""
    for number, (name, fault) in enumerate(BAD_VECTORS.items()):
        question = {**EMBEDDING, "input": [f"near {number}", f"far {number}"]}
        upstream.answer = partial(only_posts, fault)
        bad = await house.ask(question, "/v1/embeddings")
        await upstream.heal()
        good = await house.ask(question, "/v1/embeddings")
        twin = await house.ask(question, "/v1/embeddings")

        assert bad.status in (429, 502, 503), name
        assert bad.error["type"], name
        assert ("MISS", "HIT") == (good.cached, twin.cached), name
    outcomes = Counter(row["outcome"] for row in await house.rows())
    assert {
        "failed": len(BAD_VECTORS),
        "miss": len(BAD_VECTORS),
        "hit": len(BAD_VECTORS),
    } == outcomes
    assert not [record for record in caplog.records if record.exc_info]


def only_posts(fault: Fault, call: Call) -> Reply | None:
    return fault(call, 0) if call.method == "POST" else None
