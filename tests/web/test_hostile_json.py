"""Hostile bodies over HTTP: what is no good request is a 400 that names its field, and no provider ever sees it."""

from __future__ import annotations

import os
import random
from collections import Counter
from io import BytesIO
from typing import Any

import orjson
import pytest
from attrs import field, frozen

from tests.support.house import QUESTION, OpenHouse, Reply, asked
from tests.support.upstream import ScriptedUpstream

CHAT, TEXT, VECTORS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"

MESSAGES = [{"role": "user", "content": "How far is the moon?"}]
BODIES: dict[str, dict[str, Any]] = {
    CHAT: QUESTION,
    TEXT: {"model": "gpt-4o", "prompt": "How far is the moon?"},
    VECTORS: {"model": "text-embedding-3-small", "input": "How far is the moon?"},
}


@frozen
class Case:
    """`said` stands in the message; the body never does."""

    raw: bytes = field(repr=False)
    param: str | None = None
    code: str | None = None
    status: int = 400
    path: str = CHAT
    said: str = ""


def text(raw: bytes | str, said: str = "JSON") -> Case:
    return Case(raw if isinstance(raw, bytes) else raw.encode(), said=said)


def with_fields(path: str = CHAT, **fields: Any) -> bytes:
    return orjson.dumps({**BODIES[path], **fields})


def case(
    param: str, found: Any, code: str | None, path: str = CHAT, at: str | None = None
) -> Case:
    """This field with this value; `at` is the place the error names, if not the field itself."""
    return Case(with_fields(path, **{param: found}), at or param, code, path=path)


def cases(param: str, code: str | None, *values: Any, path: str = CHAT) -> dict[str, Case]:
    return {
        f"{path} {param} {number}: {value!r:.40}": case(param, value, code, path)
        for number, value in enumerate(values)
    }


def message(found: Any, at: str, code: str) -> Case:
    return case("messages", [*MESSAGES, found], code, at=f"messages[1]{at}")


GOOD = orjson.dumps(QUESTION)
FIELDS = GOOD[1:-1]

NOT_JSON = {
    "nothing": text(b""),
    "blanks": text(b" \r\n\t "),
    "NUL": text(b"\0"),
    "an open brace": text(b"{"),
    "half a body": text(GOOD[:-5]),
    "garbage behind": text(GOOD + b"x"),
    "two bodies": text(GOOD + GOOD),
    "NUL behind": text(GOOD + b"\0"),
    "single quotes": text(b"{'model': 'gpt-4o'}"),
    "a trailing comma": text(b"{" + FIELDS + b",}"),
    "a comment": text(b"{" + FIELDS + b" /* hello */}"),
    "no quotes": text(b"{model: 1}"),
    "NaN": text(b"{" + FIELDS + b',"temperature":NaN}'),
    "Infinity": text(b"{" + FIELDS + b',"temperature":Infinity}'),
    "-Infinity": text(b"{" + FIELDS + b',"temperature":-Infinity}'),
    "a leading zero": text(b"{" + FIELDS + b',"n":01}'),
    "a plus": text(b"{" + FIELDS + b',"n":+1}'),
    "hexadecimal": text(b"{" + FIELDS + b',"n":0x1}'),
    "more digits than any number has": text(b"{" + FIELDS + b',"n":' + b"9" * 5_000 + b"}"),
    "a bare dot": text(b"{" + FIELDS + b',"temperature":1.}'),
    "a raw line end in a string": text(b'{"model":"gpt\n-4o"}'),
    "a raw NUL in a string": text(b'{"model":"gpt\0-4o"}'),
    "a bad escape": text(rb'{"model":"\x41"}'),
    "half an escape": text(rb'{"model":"\u12"}'),
    "a lone surrogate": text(rb'{"model":"\ud800"}'),
    "a lone low surrogate": text(rb'{"model":"\udc00x"}'),
    "surrogates swapped": text(rb'{"model":"\udc00\ud800"}'),
    "Latin-1": text("{'é'}".encode("latin-1")),
    "an overlong letter": text(b'{"model":"\xc0\xaf"}'),
    "raw surrogate bytes": text(b'{"model":"\xed\xa0\x80"}'),
    "UTF-16": text(GOOD.decode().encode("utf-16")),
    "UTF-16 without a mark": text(GOOD.decode().encode("utf-16-le")),
    "UTF-32": text(GOOD.decode().encode("utf-32")),
    "a mark in front": text(b"\xef\xbb\xbf" + GOOD),
    "gzip": text(b"\x1f\x8b\x08\0\0\0\0\0\0\xff"),
    "XML": text(b"<?xml version='1.0'?><!DOCTYPE x [<!ENTITY a SYSTEM 'file:///etc/passwd'>]>"),
    "a form": text(b"model=gpt-4o&messages=x"),
    "a list": text(b"[" + GOOD + b"]", "object"),
    "a string": text(b'"model"', "object"),
    "a number": text(b"5", "object"),
    "null": text(b"null", "object"),
    "true": text(b"true", "object"),
    "deep lists": text(b'{"a":' + b"[" * 70 + b"]" * 70 + b"}", "deep"),
    "deep lists without end": text(b'{"a":' + b"[" * 200_000),
    "a hundred thousand deep": text(b"[" * 100_000 + b"]" * 100_000, "deep"),
    "deep objects": text(b'{"a":' * 5_000 + b"1" + b"}" * 5_000, "deep"),
    "deep, hidden by strings": text(
        b'{"x":"' + b"]" * 200 + b'","a":' + b"[" * 100 + b"]" * 100 + b"}", "deep"
    ),
    "wide": text(b'{"a":[' + b"1," * 200_000 + b"1]}", "elements"),
    "wide objects": text(b'{"a":[' + b"{}," * 150_000 + b"{}]}", "elements"),
    "many fields": text(
        b"{" + b",".join(b'"%d":1' % number for number in range(150_000)) + b"}", "elements"
    ),
    "a name of 2 KiB": text(b'{"' + b"a" * 2_000 + b'":1,' + FIELDS + b"}", "name"),
}  # fmt: skip

MODEL = {
    "no model": Case(b'{"messages":[]}', "model"),
    "model null": case("model", None, None),
    "model empty": case("model", "", None),
    **cases("model", "invalid_type", 5, 1.5, True, [], {}, ["gpt-4o"]),
    **cases(
        "model",
        None,
        "a" * 257,
        "gpt 4o",
        "gpt-4o\r\nX-Injected: 1",
        "gpt-4o\n",
        "gpt-4o\0",
        "-gpt",
        "../gpt",
        "gpt-4o?x",
        "gpt-4o#x",
        "gpt%2f",
        "gpt-4ö",
        "\u202egpt",
        "${jndi:ldap://x}",
        "'; DROP TABLE usage_log; --",
        "<script>",
    ),
    **{
        f"unknown {name}": Case(with_fields(model=name), None, "model_not_found", 404)
        for name in ("nobody-knows-it", "a" * 256, "x/../../y", "a:b@c", "localhost:80", "openai/")
    },
    "a chat model for vectors": Case(
        with_fields(VECTORS, model="claude-opus-5-5"), None, "model_not_found", 404, VECTORS
    ),
}

NO_OBJECTS: list[Any] = [None, 5, "x", [], True]
NO_ROLES: list[Any] = ["root", "", 5, [], {}, True, "USER", "user "]
NO_CONTENTS: list[Any] = [5, True, {}, 1.5]
NO_PARTS: list[Any] = [{}, {"type": 5}, {"type": None}, {"text": "x"}]

CHATS = {
    "no messages": Case(b'{"model":"gpt-4o"}', "messages", "missing_required_parameter"),
    "messages null": case("messages", None, "missing_required_parameter"),
    **cases("messages", "invalid_type", "hello", 5, True, {}, {"role": "user"}),
    "no message": case("messages", [], "empty_array"),
    "too many messages": case("messages", MESSAGES * 10_001, "array_above_max_length"),
    **{f"a message {found!r}": message(found, "", "invalid_type") for found in NO_OBJECTS},
    "no role": message({"content": "x"}, ".role", "missing_required_parameter"),
    "a role null": message({"role": None}, ".role", "missing_required_parameter"),
    **{
        f"role {role!r}": message({"role": role, "content": "x"}, ".role", "invalid_value")
        for role in NO_ROLES
    },
    **{
        f"content {found!r}": message(
            {"role": "user", "content": found}, ".content", "invalid_type"
        )
        for found in NO_CONTENTS
    },
    "no content": message({"role": "user"}, ".content", "missing_required_parameter"),
    "content null for a tool": message(
        {"role": "tool", "content": None}, ".content", "missing_required_parameter"
    ),
    **{
        f"part {part!r}": message(
            {"role": "user", "content": [part]}, ".content[0]", "invalid_type"
        )
        for part in NO_OBJECTS
    },
    **{
        f"part {part!r}": message(
            {"role": "user", "content": [part]}, ".content[0].type", "missing_required_parameter"
        )
        for part in NO_PARTS
    },
}

OPTIONS = {
    **cases("temperature", "invalid_type", "1", True, [], {}),
    **cases("temperature", "decimal_above_max_value", 2.1, 1e308, 10**17),
    **cases("temperature", "decimal_below_min_value", -0.1, -1e308),
    **cases("top_p", "invalid_type", "1", False),
    **cases("top_p", "decimal_above_max_value", 1.01),
    **cases("presence_penalty", "decimal_below_min_value", -2.5),
    **cases("frequency_penalty", "decimal_above_max_value", 2.5),
    **cases("max_tokens", "invalid_type", "5", 1.5, True, 1e3),
    **cases("max_tokens", "integer_below_min_value", -1),
    **cases("max_tokens", "integer_above_max_value", 2**60),
    **cases("max_completion_tokens", "integer_below_min_value", 0, -5),
    **cases("n", "invalid_type", "2", True, 1.0, [1]),
    **cases("n", "integer_below_min_value", 0, -1),
    **cases("n", "integer_above_max_value", 129, 10**15),
    **cases("seed", "invalid_type", "5", 1.5),
    **cases("seed", "integer_above_max_value", 2**63),
    **cases("top_logprobs", "integer_above_max_value", 21),
    **cases("logprobs", "invalid_type", 1, "true"),
    **cases("stream", "invalid_type", 1, "true", [], {}, 0),
    **cases("stream_options", "invalid_type", True, [], "x"),
    **cases("logit_bias", "invalid_type", [], "x"),
    **cases("stop", "invalid_type", 5, {}, [5], [None], True),
    **cases("stop", "array_above_max_length", ["a"] * 5),
    **cases("tools", "invalid_type", {}, "x", [5], [None]),
    **cases("functions", "invalid_type", {}, [5]),
    **cases("parallel_tool_calls", "invalid_type", 1, "no"),
    **cases("store", "invalid_type", 1, "no"),
    **cases("response_format", "invalid_type", "json", []),
    **cases("metadata", "invalid_type", "x", []),
    **cases("reasoning_effort", "invalid_value", "huge", 5, [], {}, ""),
    **cases("temperature", "invalid_type", "1", path=TEXT),
    **cases("best_of", "integer_above_max_value", 21, path=TEXT),
    **cases("logprobs", "invalid_type", True, path=TEXT),
    **cases("logprobs", "integer_above_max_value", 6, path=TEXT),
    **cases("echo", "invalid_type", 1, path=TEXT),
    **cases("suffix", "invalid_type", 1, path=TEXT),
}

PROMPTS = {
    "no prompt": Case(b'{"model":"gpt-4o"}', "prompt", "missing_required_parameter", path=TEXT),
    **cases("prompt", "missing_required_parameter", None, path=TEXT),
    **cases("prompt", "empty_array", [], path=TEXT),
    **cases("prompt", "invalid_type", 5, {}, True, ["x", 5], [[]], [["x"]], [True], path=TEXT),
    **cases("prompt", "array_above_max_length", ["x"] * 129, path=TEXT),
}

INPUTS = {
    "no input": Case(
        b'{"model":"text-embedding-3-small"}', "input", "missing_required_parameter", path=VECTORS
    ),
    **cases("input", "missing_required_parameter", None, path=VECTORS),
    **cases("input", "empty_array", [], path=VECTORS),
    **cases("input", "invalid_value", "", ["x", ""], path=VECTORS),
    **cases("input", "invalid_type", 5, {}, True, ["x", 5], [[]], [[1.5]], [None], path=VECTORS),
    **cases("input", "array_above_max_length", ["x"] * 2_049, path=VECTORS),
    **cases("dimensions", "invalid_type", "8", 1.5, True, path=VECTORS),
    **cases("dimensions", "integer_below_min_value", 0, -1, path=VECTORS),
    **cases("encoding_format", "invalid_value", "hex", 5, [], True, path=VECTORS),
}

TABLES = {
    "json": NOT_JSON,
    "model": MODEL,
    "chat": CHATS,
    "option": OPTIONS,
    "prompt": PROMPTS,
    "input": INPUTS,
}
CASES = {f"{table}: {name}": one for table, found in TABLES.items() for name, one in found.items()}


async def test_every_hostile_body_is_refused_as_promised(
    house: OpenHouse, upstream: ScriptedUpstream, caplog: pytest.LogCaptureFixture
) -> None:
    """Shuffled: status, type, param and code; one row each; no provider asked; nothing of the body told back."""
    seed = int(os.environ.get("WATCHLLM_TEST_SEED", random.randrange(10**6)))
    print(f"WATCHLLM_TEST_SEED={seed}")
    order = list(CASES)
    random.Random(seed).shuffle(order)
    faults = {}
    for name in order:
        one = CASES[name]
        answer = await ask(house, one.raw, one.path)
        if found := wrong(one, answer):
            faults[name] = found

    assert not faults, "\n".join(f"{name}: {found}" for name, found in faults.items())
    assert [] == asked(upstream)
    rows = Counter((row["outcome"], row["status"]) for row in await house.rows())
    assert Counter(("denied", one.status) for one in CASES.values()) == rows
    assert not [record for record in caplog.records if record.exc_info]


async def ask(house: OpenHouse, raw: bytes, path: str = CHAT) -> Reply:
    """As `house.ask`, for bodies of any size."""
    headers = {"Authorization": f"Bearer {house.key}", "Content-Type": "application/json"}
    async with house.http.post(house.root + path, data=BytesIO(raw), headers=headers) as answer:
        return Reply(answer.status, answer.headers, await answer.read())


def wrong(one: Case, answer: Reply) -> str:
    told = f"{answer.status} {answer.body!r}"
    if one.status != answer.status or "application/json" != answer.headers["Content-Type"]:
        return told
    error = answer.error
    if (error["type"], error["param"], error["code"]) != (
        "invalid_request_error",
        one.param,
        one.code,
    ):
        return told
    if "X-Injected" in answer.headers or "How far" in told or len(error["message"]) > 500:
        return f"tells too much: {told}"
    return "" if one.said in error["message"] else told


ODD_BUT_GOOD = {
    "NUL in a text": with_fields(messages=[{"role": "user", "content": "a\0b"}]),
    "every plane": with_fields(messages=[{"role": "user", "content": "é日😀\u202e\ufffe"}]),
    "escaped quotes": with_fields(messages=[{"role": "user", "content": '"]}{[\\"'}]),
    "nulls": with_fields(temperature=None, stop=None, tools=None, stream=None, n=None),
    "limits": with_fields(temperature=2, top_p=1.0, n=1, seed=2**63 - 1, stop=["a"] * 4),
    "unknown fields": with_fields(novelty={"a": [1, {"b": None}]}, __proto__={"admin": True}),
    "giant numbers where none is read": GOOD[:-1] + b',"novelty":' + b"9" * 300 + b"}",
    "a tiny number": GOOD[:-1] + b',"temperature":1e-400}',
    "sixty deep": with_fields(novelty=orjson.Fragment(b"[" * 60 + b"]" * 60)),
    "a name with line ends": GOOD[:-1] + rb',"a\r\nX-Injected: 1":1}',
    "many brackets in a text": with_fields(
        messages=[{"role": "user", "content": "[{" * 100_000 + "," * 100_000}]
    ),
    "a mebibyte of text": with_fields(messages=[{"role": "user", "content": "x" * (1 << 20)}]),
    "blanks around": b" \r\n\t" + GOOD + b" \r\n\t",
}


@pytest.mark.parametrize("stream", [False, True])
async def test_odd_but_good_bodies_are_served(
    house: OpenHouse, upstream: ScriptedUpstream, caplog: pytest.LogCaptureFixture, stream: bool
) -> None:
    """What JSON allows is passed on as it was meant, and its row is written."""
    for name, raw in ODD_BUT_GOOD.items():
        body = raw.replace(b'{"model"', b'{"stream":true,"model"', 1) if stream else raw
        answer = await ask(house, body)
        assert 200 == answer.status, f"{name}: {answer.body!r}"
        assert "X-Injected" not in answer.headers
    assert len(ODD_BUT_GOOD) == len(await house.rows())
    assert not [record for record in caplog.records if record.exc_info]


async def test_the_last_of_two_equal_names_counts_for_everybody(
    house: OpenHouse, upstream: ScriptedUpstream
) -> None:
    """Cache, ledger and provider see one and the same request, never the caller's own bytes."""
    twice = b'{"model":"nobody-knows-it","model":"gpt-4o","messages":[],' + FIELDS[17:] + b"}"
    assert orjson.loads(twice) == QUESTION

    answer = await house.ask(raw=twice)
    again = await house.ask(QUESTION)

    [call] = asked(upstream)
    assert (200, "HIT") == (answer.status, again.cached)
    assert b"nobody" not in call.raw
    assert "gpt-4o" == call.body["model"]
