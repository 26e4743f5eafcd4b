"""The sandbox: every shape of an answer, the same one each time, without a provider.

The official SDK reads what the sandbox writes, through a transport that has no network behind it.
"""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from enum import Enum
from itertools import pairwise
from math import isclose, sqrt
from struct import unpack
from time import perf_counter
from typing import Any, Literal
from uuid import UUID

import httpx2
import openai
import orjson
import pytest
from openai.types import CreateEmbeddingResponse
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import BaseModel, Field

from adapters.providers.sandbox import Sandbox
from adapters.providers.sandbox_pattern import example
from adapters.providers.sandbox_schema import sample
from domain.answer import Document, Frame
from domain.completion import StreamFolder
from domain.errors import InvalidRequest
from domain.models import SANDBOX, Route
from domain.request import Endpoint, ProxyRequest, parse_request
from domain.sse import DONE, frame
from ports.providers import FrameStream, Provider
from tests.conftest import Clock

HELLO = {"model": "gpt-any", "messages": [{"role": "user", "content": "Hello there"}]}

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "unit": {"enum": ["celsius", "fahrenheit"]},
                "days": {"type": "integer", "minimum": 3},
            },
            "required": ["city", "unit", "days"],
        },
    },
}
ARGUMENTS = {"city": "sandbox", "unit": "celsius", "days": 3}

TOOLS = [{"type": "function", "function": {"name": "add"}}, WEATHER]


@pytest.fixture
def sandbox(clock: Clock) -> Sandbox:
    return Sandbox(clock)


def chat(**fields: Any) -> ProxyRequest:
    return parse_request(Endpoint.CHAT, orjson.dumps({**HELLO, **fields}))


def route(request: ProxyRequest) -> Route:
    return Route(request.model, SANDBOX, request.model)


async def whole(sandbox: Provider, request: ProxyRequest) -> Document:
    completion = await sandbox.complete(request, route(request))
    ChatCompletion.model_validate(completion.document, strict=True)
    usage = completion.document["usage"]
    assert completion.usage is not None
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (
        completion.usage.prompt,
        completion.usage.completion,
        completion.usage.total,
    )
    return completion.document


async def frames(sandbox: Provider, request: ProxyRequest) -> list[Frame]:
    stream: FrameStream = await sandbox.open_stream(request, route(request))
    found = [one async for read in stream for one in read]
    for one in found:
        if b'"type":"custom"' not in one.raw:  # which the SDK's types leave out of streams
            ChatCompletionChunk.model_validate(one.chunk)
        assert one.chunk == orjson.loads(one.raw)
    return found


def sdk(sandbox: Sandbox) -> openai.AsyncOpenAI:
    """The official client, its requests answered by the sandbox itself."""

    async def answer(asked: httpx2.Request) -> httpx2.Response:
        endpoint = Endpoint(asked.url.path.removeprefix("/v1/"))
        request = parse_request(endpoint, asked.content)
        if not request.stream:
            completion = await sandbox.complete(request, route(request))
            return httpx2.Response(200, json=completion.document)
        read = await frames(sandbox, request)
        body = b"".join(frame(one.raw) for one in read) + DONE
        return httpx2.Response(200, content=body, headers={"content-type": "text/event-stream"})

    transport = httpx2.AsyncClient(transport=httpx2.MockTransport(answer))
    return openai.AsyncOpenAI(
        api_key="lgw_test_x", base_url="http://sandbox/v1", http_client=transport
    )


# --- words ----------------------------------------------------------------------------------------


async def test_says_what_it_is_and_echoes_a_little(sandbox: Sandbox, clock: Clock) -> None:
    """A newcomer sees at once that no model was asked, and that their words arrived."""
    document = await whole(sandbox, chat())

    content = document["choices"][0]["message"]["content"]
    assert "WatchLLM sandbox" in content
    assert content.endswith("Hello there")
    assert "stop" == document["choices"][0]["finish_reason"]
    assert document["id"].startswith("chatcmpl-sandbox")
    assert int(clock.now) == document["created"]
    assert "gpt-any" == document["model"]


async def test_the_echo_is_short_and_printable(sandbox: Sandbox) -> None:
    """Control characters and long prompts do not come back."""
    document = await whole(
        sandbox,
        chat(messages=[{"role": "user", "content": "a\x1b[2J\r\n\u202eb " + "x" * 100_000}]),
    )

    content = document["choices"][0]["message"]["content"]
    assert content.isprintable()
    assert len(content) < 200


async def test_same_request_same_answer(sandbox: Sandbox) -> None:
    """Neither the order of the fields nor how the answer travels changes it; another word does."""
    first = await whole(sandbox, chat())
    turned = parse_request(
        Endpoint.CHAT, orjson.dumps(dict(reversed(list({**HELLO, "stream": False}.items()))))
    )
    other = await whole(sandbox, chat(seed=2))

    assert first == await whole(sandbox, turned)
    assert first["id"] != other["id"]


async def test_parts_of_text_are_read(sandbox: Sandbox) -> None:
    """Content in parts is text like any other; pictures are passed over."""
    parts = [
        {"type": "text", "text": "What is"},
        {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
        {"type": "text", "text": "this?"},
    ]
    document = await whole(sandbox, chat(messages=[{"role": "user", "content": parts}]))

    assert document["choices"][0]["message"]["content"].endswith("What is this?")


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
async def test_the_limit_holds(sandbox: Sandbox, field: str) -> None:
    """A limit cuts the answer at that many tokens and says so."""
    document = await whole(sandbox, chat(**{field: 3}))

    assert "This is the" == document["choices"][0]["message"]["content"]
    assert "length" == document["choices"][0]["finish_reason"]
    assert 3 == document["usage"]["completion_tokens"]


async def test_stop_words_end_the_text(sandbox: Sandbox) -> None:
    """The first stop word ends the text and is not part of it."""
    document = await whole(sandbox, chat(stop=["model", " sandbox", ""]))

    assert "This is the WatchLLM" == document["choices"][0]["message"]["content"]
    assert "stop" == document["choices"][0]["finish_reason"]


async def test_several_choices(sandbox: Sandbox) -> None:
    """As many choices as were asked for, all counted."""
    one = await whole(sandbox, chat())
    three = await whole(sandbox, chat(n=3))

    assert [0, 1, 2] == [choice["index"] for choice in three["choices"]]
    assert 3 * one["usage"]["completion_tokens"] == three["usage"]["completion_tokens"]


async def test_logprobs_stand_beside_each_token(sandbox: Sandbox) -> None:
    """The tokens spell the text, each with as many alternatives as were asked for."""
    document = await whole(sandbox, chat(logprobs=True, top_logprobs=2))

    choice = document["choices"][0]
    tokens = choice["logprobs"]["content"]
    assert choice["message"]["content"] == "".join(token["token"] for token in tokens)
    assert {2} == {len(token["top_logprobs"]) for token in tokens}
    assert all(token["top_logprobs"][0]["token"] == token["token"] for token in tokens)


async def test_no_sound(sandbox: Sandbox) -> None:
    """Audio is refused by name rather than answered with text."""
    with pytest.raises(InvalidRequest) as caught:
        await whole(sandbox, chat(modalities=["text", "audio"]))

    assert "modalities" == caught.value.param


# --- tools ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("choice", "called"),
    [
        ("required", "add"),
        ({"type": "function", "function": {"name": "get_weather"}}, "get_weather"),
        (
            {
                "type": "allowed_tools",
                "allowed_tools": {
                    "mode": "required",
                    "tools": [{"type": "function", "name": "get_weather"}],
                },
            },
            "get_weather",
        ),
        ("none", None),
        ("auto", None),
        (None, None),
    ],
)
async def test_tool_choice(sandbox: Sandbox, choice: Any, called: str | None) -> None:
    """A forced tool is called; the others only when the user speaks of them."""
    document = await whole(sandbox, chat(tools=TOOLS, tool_choice=choice))

    message = document["choices"][0]["message"]
    calls = message.get("tool_calls")
    if called is None:
        assert calls is None
        assert message["content"]
        return
    assert [called] == [call["function"]["name"] for call in calls]
    assert "tool_calls" == document["choices"][0]["finish_reason"]
    assert message["content"] is None


@pytest.mark.parametrize(
    "words", ["please get_weather", "What is the weather in Paris?", "WEATHER!"]
)
async def test_a_tool_spoken_of_is_called(sandbox: Sandbox, words: str) -> None:
    """With `auto`, a user who names the tool or its subject gets a call whose arguments fit."""
    document = await whole(
        sandbox, chat(tools=TOOLS, messages=[{"role": "user", "content": words}])
    )

    (call,) = document["choices"][0]["message"]["tool_calls"]
    assert "get_weather" == call["function"]["name"]
    assert ARGUMENTS == orjson.loads(call["function"]["arguments"])


async def test_after_a_result_come_words(sandbox: Sandbox) -> None:
    """A loop over tools comes to an end."""
    messages = [
        {"role": "user", "content": "weather?"},
        {
            "role": "assistant",
            "tool_calls": [
                {
                    "id": "c1",
                    "type": "function",
                    "function": {"name": "get_weather", "arguments": "{}"},
                }
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "rain"},
    ]
    document = await whole(sandbox, chat(tools=TOOLS, tool_choice="required", messages=messages))

    assert document["choices"][0]["message"]["content"]
    assert "stop" == document["choices"][0]["finish_reason"]


async def test_older_functions(sandbox: Sandbox) -> None:
    """Callers of the older fields read the older shape."""
    document = await whole(
        sandbox, chat(functions=[WEATHER["function"]], function_call={"name": "get_weather"})
    )

    call = document["choices"][0]["message"]["function_call"]
    assert "get_weather" == call["name"]
    assert ARGUMENTS == orjson.loads(call["arguments"])
    assert "function_call" == document["choices"][0]["finish_reason"]


async def test_custom_tools(sandbox: Sandbox) -> None:
    """A custom tool takes free text."""
    document = await whole(
        sandbox,
        chat(tools=[{"type": "custom", "custom": {"name": "shell"}}], tool_choice="required"),
    )

    (call,) = document["choices"][0]["message"]["tool_calls"]
    assert {"name": "shell", "input": "sandbox"} == call["custom"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "function"}]}, "tools[0].function.name"),
        ({"tools": [{"type": "magic"}]}, "tools[0].magic.name"),
        ({"functions": [{}]}, "functions[0].name"),
        ({"tools": TOOLS, "tool_choice": "perhaps"}, "tool_choice"),
        ({"tools": TOOLS, "tool_choice": 5}, "tool_choice"),
        (
            {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "x"}}},
            "tool_choice",
        ),
        (
            {"tools": TOOLS, "tool_choice": {"type": "allowed_tools", "allowed_tools": 5}},
            "tool_choice",
        ),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": 1}}},
            "response_format.json_schema",
        ),
    ],
)
async def test_broken_requests_are_refused_by_field(
    sandbox: Sandbox, fields: Document, param: str
) -> None:
    """What a provider would refuse is a 400 that names the field, never a crash."""
    with pytest.raises(InvalidRequest) as caught:
        await whole(sandbox, chat(**fields))

    assert param == caught.value.param


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": [{"role": "assistant", "content": None}]},
        {"messages": [{"role": "user", "content": []}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": 5}]}]},
        {"messages": [{"role": "system", "content": "only a system turn"}]},
        {"tools": [], "tool_choice": "auto"},
        {
            "tools": TOOLS,
            "tool_choice": {
                "type": "allowed_tools",
                "allowed_tools": {"mode": "auto", "tools": [5]},
            },
        },
        {"tools": None, "functions": None, "response_format": None, "n": None, "logprobs": None},
        {"max_tokens": 0},
        {"modalities": ["text"]},
        {"reasoning_effort": "high"},
    ],
)
async def test_odd_but_good_requests_are_answered(sandbox: Sandbox, fields: Document) -> None:
    """What passes the door is answered."""
    document = await whole(sandbox, chat(**fields))

    assert "assistant" == document["choices"][0]["message"]["role"]


# --- streams --------------------------------------------------------------------------------------

SHAPES: list[Document] = [
    {},
    {"n": 3},
    {"max_tokens": 2},
    {"logprobs": True, "top_logprobs": 1},
    {"tools": TOOLS, "tool_choice": "required"},
    {
        "tools": TOOLS,
        "tool_choice": {"type": "function", "function": {"name": "get_weather"}},
        "n": 2,
    },
    {"functions": [WEATHER["function"]], "function_call": {"name": "get_weather"}},
    {"tools": [{"type": "custom", "custom": {"name": "shell"}}], "tool_choice": "required"},
    {"response_format": {"type": "json_object"}},
]


@pytest.mark.parametrize("fields", SHAPES)
async def test_a_stream_is_the_whole_answer_in_pieces(sandbox: Sandbox, fields: Document) -> None:
    """Folded, a stream says what the unstreamed call says."""
    document = await whole(sandbox, chat(**fields))
    folder = StreamFolder(limit=100_000)
    for one in await frames(sandbox, chat(**fields, stream=True)):
        folder.feed(one.chunk)

    folded = folder.document(document["usage"])
    for choice in document["choices"]:
        choice["message"].pop("annotations")
    assert document == folded


async def test_the_order_of_a_stream(sandbox: Sandbox) -> None:
    """Role, words, reason, usage: one identity, one moment, one model; the usage comes last and once."""
    read = await frames(sandbox, chat(stream=True))

    chunks = [one.chunk for one in read]
    assert {"role": "assistant", "content": "", "refusal": None} == chunks[0]["choices"][0][
        "delta"
    ]
    assert ["stop"] == [
        chunk["choices"][0]["finish_reason"]
        for chunk in chunks[:-1]
        if chunk["choices"][0]["finish_reason"]
    ]
    assert {} == chunks[-2]["choices"][0]["delta"]
    assert [] == chunks[-1]["choices"]
    assert 1 == len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in chunks})
    assert [None] * (len(read) - 1) == [one.usage for one in read[:-1]]
    assert read[-1].usage is not None
    assert not read[-1].usage.estimated


@pytest.mark.parametrize("wanted", [True, False])
async def test_usage_is_null_on_the_other_chunks_if_asked_for(
    sandbox: Sandbox, wanted: bool
) -> None:
    """The chunks pass to the caller as they are, whether they asked for usage or not."""
    read = await frames(sandbox, chat(stream=True, stream_options={"include_usage": wanted}))

    assert {wanted} == {"usage" in one.chunk for one in read[:-1]}


async def test_a_closed_stream_is_over(sandbox: Sandbox) -> None:
    """After aclose nothing more comes."""
    request = chat(stream=True)
    stream = await sandbox.open_stream(request, route(request))
    reads = 0
    async for _ in stream:
        reads += 1
        await stream.aclose()

    assert 1 == reads


# --- the official SDK -----------------------------------------------------------------------------


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Point(BaseModel):
    x: float = Field(gt=0, lt=1)
    y: float | None


class Tree(BaseModel):
    name: str
    left: Tree | None
    right: Tree | None
    children: list[Tree]


class Report(BaseModel):
    title: str = Field(min_length=12)
    code: str = Field(pattern=r"^[A-Z]{3}-\d{4}$")
    when: datetime
    identity: UUID
    colour: Colour
    points: list[Point] = Field(min_length=2, max_length=3)
    kind: Literal["a", "b"]
    either: int | str
    score: int = Field(ge=10, le=20, multiple_of=4)
    by_name: dict[str, int]
    tree: Tree | None


async def test_the_sdk_parses_a_schema(sandbox: Sandbox) -> None:
    """`parse` gives the caller's own type, recursion, formats and bounds included."""
    async with sdk(sandbox) as client:
        answer = await client.chat.completions.parse(
            model="gpt-any", messages=[{"role": "user", "content": "report"}], response_format=Tree
        )

    assert isinstance(answer.choices[0].message.parsed, Tree)


async def test_an_example_of_every_kind_of_field() -> None:
    """The example passes the caller's own validation, bounds included."""
    found = sample(Report.model_json_schema(), "response_format")

    assert "SANDBOX" != Report.model_validate(found).title
    assert list(Report.model_fields) == list(found)


async def test_the_sdk_assembles_a_stream(sandbox: Sandbox) -> None:
    """The stream helper, the strictest reader of deltas, ends with the parsed arguments."""
    async with (
        sdk(sandbox) as client,
        client.chat.completions.stream(
            model="gpt-any",
            messages=[{"role": "user", "content": "weather?"}],
            tools=[openai.pydantic_function_tool(Point, name="get_weather")],
            tool_choice="required",
            stream_options={"include_usage": True},
        ) as stream,
    ):
        final = await stream.get_final_completion()

    calls = final.choices[0].message.tool_calls
    assert calls
    assert isinstance(calls[0].function.parsed_arguments, Point)
    assert final.usage is not None
    assert final.usage.completion_tokens > 0


async def test_the_sdk_reads_embeddings(sandbox: Sandbox) -> None:
    """The SDK asks for base64 by itself and reads numbers of length one."""
    async with sdk(sandbox) as client:
        answer = await client.embeddings.create(model="text-embedding-3-small", input="hello")

    assert 1536 == len(answer.data[0].embedding)
    assert isclose(
        1, sqrt(sum(number * number for number in answer.data[0].embedding)), rel_tol=1e-6
    )


# --- embeddings -----------------------------------------------------------------------------------


async def embed(sandbox: Sandbox, **fields: Any) -> Document:
    body = {"model": "text-embedding-3-small", **fields}
    request = parse_request(Endpoint.EMBEDDINGS, orjson.dumps(body))
    completion = await sandbox.complete(request, route(request))
    assert completion.usage is not None
    assert completion.usage.prompt == completion.document["usage"]["total_tokens"]
    return completion.document


@pytest.mark.parametrize(
    ("fields", "shape"),
    [
        ({"input": "a"}, (1, 1536)),
        ({"input": ["a", "b"]}, (2, 1536)),
        ({"input": [1, 2, 3]}, (1, 1536)),
        ({"input": [[1, 2], [3]]}, (2, 1536)),
        ({"input": "a", "dimensions": 7}, (1, 7)),
        ({"input": "a", "dimensions": 1}, (1, 1)),
        ({"input": "a", "model": "text-embedding-3-large"}, (1, 3072)),
    ],
)
async def test_embeddings(sandbox: Sandbox, fields: Document, shape: tuple[int, int]) -> None:
    """One vector of length one for each input, with the dimensions asked for."""
    document = await embed(sandbox, **fields)

    CreateEmbeddingResponse.model_validate(document, strict=True)
    vectors = [entry["embedding"] for entry in document["data"]]
    assert shape == (len(vectors), len(vectors[0]))
    assert all(isclose(1, sqrt(sum(x * x for x in vector)), rel_tol=1e-6) for vector in vectors)


async def test_embeddings_belong_to_their_text(sandbox: Sandbox) -> None:
    """The same text has the same vector in every batch; another text another one."""
    alone = (await embed(sandbox, input="a"))["data"][0]["embedding"]
    first, second = (
        entry["embedding"] for entry in (await embed(sandbox, input=["b", "a"]))["data"]
    )

    assert alone == second
    assert alone != first


async def test_both_encodings_say_the_same(sandbox: Sandbox) -> None:
    """Base64 is the floats, bit by bit (float32, little-endian)."""
    floats = (await embed(sandbox, input="a", dimensions=9))["data"][0]["embedding"]
    packed = (await embed(sandbox, input="a", dimensions=9, encoding_format="base64"))["data"][0][
        "embedding"
    ]

    assert tuple(floats) == unpack("<9f", b64decode(packed))


async def test_dimensions_have_a_bound(sandbox: Sandbox) -> None:
    """A short request cannot ask for an endless answer."""
    with pytest.raises(InvalidRequest) as caught:
        await embed(sandbox, input="a", dimensions=2**40)

    assert "dimensions" == caught.value.param


# --- schemas --------------------------------------------------------------------------------------

FITTING: list[tuple[Any, Any]] = [
    ({}, "sandbox"),
    ({"type": "object"}, {}),
    ({"type": "object", "properties": {"a": {"type": "null"}}}, {"a": None}),
    ({"type": "object", "properties": {"a": {}, "b": {}}, "required": ["b"]}, {"b": "sandbox"}),
    (
        {"properties": {"b": {"const": 1}, "a": {"const": 2}}, "required": ["a", "b"]},
        {"b": 1, "a": 2},
    ),
    (
        {"type": "object", "minProperties": 1, "additionalProperties": {"type": "boolean"}},
        {"sandbox0": True},
    ),
    ({"type": "array", "items": {"type": "integer"}}, [1]),
    ({"type": "array", "items": {"type": "integer"}, "maxItems": 0}, []),
    (
        {"type": "array", "items": {"type": "integer"}, "minItems": 3, "uniqueItems": True},
        [1, 2, 3],
    ),
    (
        {"type": "array", "items": {"enum": ["a", "b"]}, "minItems": 2, "uniqueItems": True},
        ["a", "b"],
    ),
    ({"type": "array", "prefixItems": [{"const": 1}, {"const": 2}], "items": False}, [1, 2]),
    ({"type": "string", "minLength": 9}, "sandboxxx"),
    ({"type": "string", "maxLength": 4}, "sand"),
    ({"type": "string", "format": "date"}, "2026-01-01"),
    ({"type": ["string", "null"]}, "sandbox"),
    ({"type": "integer", "minimum": 7}, 7),
    ({"type": "integer", "maximum": -7}, -7),
    ({"type": "integer", "exclusiveMinimum": 7}, 8),
    ({"type": "integer", "minimum": 7, "exclusiveMinimum": True}, 8),
    ({"type": "integer", "exclusiveMaximum": -7}, -8),
    ({"type": "integer", "minimum": 7, "multipleOf": 5}, 10),
    ({"type": "integer", "minimum": 2**60 + 1}, 2**60 + 1),
    ({"type": "integer", "minimum": -5, "maximum": 0}, -5),
    ({"type": "number", "minimum": 2, "maximum": 3}, 2.5),
    ({"type": "number", "multipleOf": 0.5}, 0.5),
    ({"type": "boolean"}, True),
    ({"anyOf": [False, {"type": "integer"}]}, 1),
    ({"oneOf": [{"type": "integer", "minimum": 2, "maximum": 1}, {"const": "x"}]}, "x"),
    (
        {"type": "object", "properties": {"a": {}}, "anyOf": [{"required": ["a"]}]},
        {"a": "sandbox"},
    ),
    (
        {"allOf": [{"properties": {"a": {"const": 1}}}, {"properties": {"b": {"const": 2}}}]},
        {"a": 1, "b": 2},
    ),
    ({"$ref": "#/$defs/x~1y", "$defs": {"x/y": {"const": 3}}}, 3),
    ({"$ref": "#/definitions/a%20b", "definitions": {"a b": {"const": 4}}}, 4),
]


@pytest.mark.parametrize(("schema", "expected"), FITTING)
def test_examples(schema: Any, expected: Any) -> None:
    """The smallest value that fits."""
    assert expected == sample(schema, "tools")


def _doubling() -> Document:
    names = [f"d{number}" for number in range(40)]
    parts = {
        name: {"allOf": [{"$ref": f"#/$defs/{after}"}] * 2} for name, after in pairwise(names)
    }
    return {"$ref": "#/$defs/d0", "$defs": {**parts, names[-1]: {"type": "object"}}}


def _branching() -> Document:
    node = {
        "type": "object",
        "properties": {name: {"$ref": "#"} for name in "abcdefgh"},
        "required": list("abcdefgh"),
    }
    return {"anyOf": [node, node]}


HOSTILE: list[Callable[[], Any]] = [
    lambda: False,
    lambda: {"$ref": "#"},
    lambda: {
        "$ref": "#/$defs/a",
        "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}},
    },
    lambda: {"$ref": "https://example.com/schema.json"},
    lambda: {"$ref": "#/nowhere"},
    lambda: {"$ref": 5},
    lambda: {"allOf": [{"$ref": "#"}]},
    lambda: {"type": "array", "minItems": 10**9, "items": {}},
    lambda: {
        "type": "array",
        "minItems": 100,
        "items": {"type": "array", "minItems": 100, "items": {}},
    },
    lambda: {"type": "string", "minLength": 10**12},
    lambda: {"type": "object", "minProperties": 10**9},
    lambda: {"type": "string", "pattern": "(?=x)y"},
    lambda: {"type": "string", "pattern": "((a{99}){99}){99}"},
    lambda: {"type": "integer", "minimum": 2, "maximum": 1},
    lambda: {"type": "integer", "minimum": 1e308, "multipleOf": 1e-308},
    lambda: {"type": "elephant"},
    lambda: {"type": "object", "properties": {"a": False}, "required": ["a"]},
    lambda: {"enum": []},
    lambda: {"anyOf": []},
    _doubling,
    _branching,
]


@pytest.mark.parametrize("schema", HOSTILE)
def test_no_schema_holds_the_loop(schema: Callable[[], Any]) -> None:
    """What has no example, or a giant one, is a 400 in no time."""
    began = perf_counter()
    with pytest.raises(InvalidRequest) as caught:
        sample(schema(), "tools[0].function.parameters")

    assert "tools[0].function.parameters" == caught.value.param
    assert perf_counter() - began < 0.5


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 128},
        {"n": 128, "logprobs": True, "top_logprobs": 20},
        {
            "n": 128,
            "logprobs": True,
            "top_logprobs": 20,
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "x", "schema": {"type": "string", "minLength": 9_000}},
            },
        },
    ],
)
async def test_no_request_asks_for_endless_work(sandbox: Sandbox, fields: Document) -> None:
    """Answered, or refused, soon: the loop belongs to others too."""
    began = perf_counter()
    with suppress(InvalidRequest):
        await whole(sandbox, chat(**fields))
    assert perf_counter() - began < 2


PATTERNS = [
    r"^[A-Z]{3}-\d{4}$",
    r"^\+?[1-9]\d{1,14}$",
    r"^(foo|bar)+$",
    r"^[^@\s]+@[^@\s]+\.[a-z]{2,}$",
    r"^#[0-9a-fA-F]{6}$",
    r"^(?:\d{1,3}\.){3}\d{1,3}$",
    r"^(?P<year>\d{4})-(?P<month>\d\d)$",
    r"^[]x]$",
    r"^[a\-z]$",
    r"^[\w.-]+$",
    r"^\$\d+(\.\d{2})?$",
    r"^[^a-z]{2}$",
    r"^\x41\u0042$",
    r"^a{2}b{1,}c{0,3}?$",
    r"a|b",
    r"",
]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns(pattern: str) -> None:
    """The example matches the expression it was written from."""
    found = example(pattern)

    assert found is not None
    assert re.search(pattern, found)


def test_an_open_pattern_stretches() -> None:
    """A least length is reached where the pattern lets it."""
    found = example(r"^[a-z]+\d$", 12)

    assert found is not None
    assert re.fullmatch(r"[a-z]{11}\d", found)


@pytest.mark.parametrize(
    "pattern",
    [
        "(",
        ")",
        "[",
        "[a",
        "a{",
        "a{x}",
        "(?<!a)b",
        r"(a)\1",
        "*",
        "\\",
        r"\ud800",
        "(" * 500,
        "a" * 5_000,
    ],
)
def test_patterns_beyond_us(pattern: str) -> None:
    """What cannot be read is said to be so."""
    assert example(pattern) is None


async def test_nothing_of_its_own(sandbox: Sandbox) -> None:
    """It lists no models, since it answers to every name, and closing it frees nothing."""
    provider: Provider = sandbox

    assert [] == await provider.models()
    await provider.aclose()
