"""The scripted provider of the tests speaks as the real ones do: their own SDKs are the judges.

And it breaks as it says, so that a test of ours that passes proves something.
"""

from __future__ import annotations

import asyncio
import gzip
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from typing import Any

import anthropic
import groq
import openai
import orjson
import pytest
from anthropic.types import Message, ModelInfo
from openai.types import Completion, CreateEmbeddingResponse
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import BaseModel

from tests.support.fixtures import async_fixture
from tests.support.upstream import Call, Ending, Reply, ScriptedUpstream, running_upstream
from tests.support.upstream_anthropic import WITHOUT_SAMPLING
from tests.support.upstream_faults import FAULTS, STREAM_ONLY, drip
from tests.support.upstream_openai import CACHED

USER: list[Any] = [{"role": "user", "content": "hello canary-A7"}]
BODY: dict[str, Any] = {"model": "gpt-x", "messages": USER, "max_tokens": 1_000}
CLAUDE: dict[str, Any] = {"model": "claude-x", "messages": USER, "max_tokens": 1_000}
TOOL: Any = {
    "type": "function",
    "function": {
        "name": "add",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
            "required": ["a", "b"],
        },
    },
}
SLOW = frozenset({"drip", "giant_answer", "gzip"})
"""Faults that take time or room; each has a test of its own."""

PATHS = {
    "openai": "/v1/chat/completions",
    "groq": "/openai/v1/chat/completions",
    "anthropic": "/v1/messages",
}


@async_fixture
async def upstream() -> AsyncIterator[ScriptedUpstream]:
    async with ScriptedUpstream() as running:
        yield running


class Sum(BaseModel):
    a: int
    b: int


# --- a client whose every byte is ours ------------------------------------------------------------


def request(path: str, body: dict[str, Any] | None, method: str = "POST") -> bytes:
    raw = orjson.dumps(body) if body is not None else b""
    return (
        f"{method} {path} HTTP/1.1\r\nHost: here\r\nAuthorization: Bearer sk-provider\r\n"
        f"{'anthropic-version: 2023-06-01' if path == '/v1/messages' else 'x-other: 1'}\r\n"
        f"Content-Length: {len(raw)}\r\n\r\n"
    ).encode() + raw


async def ask(upstream: ScriptedUpstream, sent: bytes) -> bytes:
    """All that comes until the connection ends or stays silent after a whole answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", upstream.port)
    with closing(writer):
        writer.write(sent)
        head = await reader.readuntil(b"\r\n\r\n")
        while head.startswith(b"HTTP/1.1 1"):
            head = await reader.readuntil(b"\r\n\r\n")
        if b"chunked" in head:
            return head + await _chunks(reader)
        size = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
        return head + await reader.readexactly(size)


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    found = []
    while size := int(await reader.readuntil(b"\r\n"), 16):
        found.append((await reader.readexactly(size + 2))[:-2])
    await reader.readexactly(2)
    return b"".join(found)


# --- OpenAI ---------------------------------------------------------------------------------------


def openai_sdk(upstream: ScriptedUpstream) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(api_key="sk-x", base_url=upstream.openai, max_retries=0)


async def test_openai_chat(upstream: ScriptedUpstream) -> None:
    """A whole answer passes the SDK's types, repeats the canary and counts."""
    async with openai_sdk(upstream) as client:
        answer = await client.chat.completions.create(**BODY, logprobs=True, n=2)

    ChatCompletion.model_validate(answer.model_dump(), strict=True)
    assert "canary-A7" in (answer.choices[1].message.content or "")
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert upstream.calls[0].body["n"] == 2
    assert upstream.calls[0].headers["authorization"] == "Bearer sk-x"


@pytest.mark.parametrize("wanted", [True, False])
async def test_openai_stream(upstream: ScriptedUpstream, wanted: bool) -> None:
    """Role, words, reason, and the usage last if it was asked for, null before."""
    async with openai_sdk(upstream) as client:
        stream = await client.chat.completions.create(
            **BODY, stream=True, stream_options={"include_usage": wanted}
        )
        chunks = [chunk async for chunk in stream]

    for chunk in chunks:
        ChatCompletionChunk.model_validate(chunk.model_dump(), strict=True)
    assert (chunks[-1].choices == []) is wanted
    assert (chunks[-1].usage is not None) is wanted
    assert chunks[0].obfuscation
    spoken = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert "canary-A7" in spoken
    assert "日本 😀" in spoken


@pytest.mark.parametrize("streamed", [True, False])
async def test_openai_tools(upstream: ScriptedUpstream, streamed: bool) -> None:
    """A tool is called with arguments that fit; the stream helper puts them together."""
    async with openai_sdk(upstream) as client:
        if streamed:
            async with client.chat.completions.stream(
                model="gpt-x",
                messages=USER,
                tools=[openai.pydantic_function_tool(Sum)],
            ) as stream:
                answer: Any = await stream.get_final_completion()
        else:
            answer = await client.chat.completions.create(**BODY, tools=[TOOL])

    (call,) = answer.choices[0].message.tool_calls
    assert orjson.loads(call.function.arguments) == {"a": 1, "b": 1}
    assert answer.choices[0].finish_reason == "tool_calls"


async def test_openai_schema_and_limit(upstream: ScriptedUpstream) -> None:
    """A schema is followed, a limit held, and cached tokens told when the magic word stands in the prompt."""
    async with openai_sdk(upstream) as client:
        parsed = await client.chat.completions.parse(
            model="gpt-x", messages=[{"role": "user", "content": CACHED}], response_format=Sum
        )
        cut = await client.chat.completions.create(**{**BODY, "max_tokens": 2})

    assert parsed.choices[0].message.parsed == Sum(a=1, b=1)
    assert parsed.usage is not None
    assert parsed.usage.prompt_tokens_details is not None
    assert parsed.usage.prompt_tokens_details.cached_tokens == 8
    assert cut.choices[0].finish_reason == "length"


async def test_openai_other_routes(upstream: ScriptedUpstream) -> None:
    """Embeddings in both encodings, text completions and the list of models."""
    async with openai_sdk(upstream) as client:
        vectors = await client.embeddings.create(model="e", input=["a", "b"], dimensions=8)
        floats = await client.embeddings.create(
            model="e", input="a", dimensions=8, encoding_format="float"
        )
        text = await client.completions.create(model="gpt-x", prompt="x")
        stream = await client.completions.create(model="gpt-x", prompt="x", stream=True)
        pieces = [chunk.choices[0].text async for chunk in stream]
        models = [model async for model in client.models.list()]

    CreateEmbeddingResponse.model_validate(vectors.model_dump())
    Completion.model_validate(text.model_dump(), strict=True)
    assert [0, 1] == [entry.index for entry in vectors.data]
    assert floats.data[0].embedding == pytest.approx(vectors.data[0].embedding)
    assert text.choices[0].text == "".join(pieces)
    assert models[0].object == "model"


# --- Groq -----------------------------------------------------------------------------------------


async def test_groq(upstream: ScriptedUpstream) -> None:
    """Groq's own SDK reads its extras; what Groq refuses is refused."""
    async with groq.AsyncGroq(api_key="gsk", base_url=upstream.groq, max_retries=0) as client:
        answer = await client.chat.completions.create(messages=USER, model="openai/gpt-oss-20b")
        stream: Any = await client.chat.completions.create(
            messages=USER,
            model="openai/gpt-oss-20b",
            stream=True,
        )
        chunks = [chunk async for chunk in stream]
        models = await client.models.list()
        with pytest.raises(groq.BadRequestError):
            await client.chat.completions.create(messages=USER, model="x", n=2)

    assert answer.usage is not None
    assert answer.usage.queue_time is not None
    assert chunks[0].x_groq is not None
    assert chunks[-1].x_groq is not None
    assert chunks[-1].x_groq.usage is not None
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert models.data[0].id == "openai/gpt-oss-120b"


# --- Anthropic ------------------------------------------------------------------------------------


def anthropic_sdk(upstream: ScriptedUpstream) -> anthropic.AsyncAnthropic:
    return anthropic.AsyncAnthropic(api_key="sk-a", base_url=upstream.anthropic, max_retries=0)


async def test_anthropic_message(upstream: ScriptedUpstream) -> None:
    """A whole message passes the SDK's types; cached tokens stand beside the input, not in it."""
    async with anthropic_sdk(upstream) as client:
        answer = await client.messages.create(**{**CLAUDE, "system": CACHED})

    Message.model_validate(answer.model_dump(), strict=True)
    assert "canary-A7" in getattr(answer.content[0], "text", "")
    assert answer.usage.cache_read_input_tokens == 8
    assert answer.usage.cache_creation_input_tokens == 6


async def test_anthropic_stream(upstream: ScriptedUpstream) -> None:
    """The SDK's stream helper, a strict reader of events, ends with the whole message and its counts."""
    tool: Any = {"name": "add", "input_schema": TOOL["function"]["parameters"]}
    async with anthropic_sdk(upstream) as client:
        whole = await client.messages.create(**CLAUDE, tools=[tool])
        async with client.messages.stream(**CLAUDE, tools=[tool]) as stream:
            names = [event.type async for event in stream]
            final = await stream.get_final_message()

    assert final.content[1].to_dict() == whole.content[1].to_dict()
    assert final.stop_reason == "tool_use"
    assert final.usage.output_tokens == whole.usage.output_tokens
    assert names[0] == "message_start"
    assert names[-1] == "message_stop"


async def test_anthropic_models(upstream: ScriptedUpstream) -> None:
    """The header tells whose list is wanted; each model says what it can."""
    async with anthropic_sdk(upstream) as client:
        models = [model async for model in client.models.list()]

    for model in models:
        ModelInfo.model_validate(model.model_dump())
    assert models[0].capabilities is not None
    assert models[0].capabilities.thinking.types.adaptive.supported


@pytest.mark.parametrize(
    ("body", "version"),
    [
        ({**CLAUDE, "temperature": 1}, WITHOUT_SAMPLING),
        ({**CLAUDE, "n": 1}, "2023-06-01"),
        ({**CLAUDE, "max_tokens": None}, "2023-06-01"),
        ({**CLAUDE, "messages": [{"role": "tool", "content": "x"}]}, "2023-06-01"),
        ({**CLAUDE, "messages": [{"role": "user", "content": ""}]}, "2023-06-01"),
    ],
)
async def test_anthropic_refuses(
    upstream: ScriptedUpstream, body: dict[str, Any], version: str
) -> None:
    """What the Messages API would not take is a 400 here too."""
    sent = request("/v1/messages", body).replace(b"2023-06-01", version.encode())

    assert (await ask(upstream, sent)).startswith(b"HTTP/1.1 400 ")


# --- breaking -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", PATHS)
@pytest.mark.parametrize("name", sorted(FAULTS.keys() - SLOW))
async def test_every_fault_in_every_dialect(
    upstream: ScriptedUpstream, name: str, dialect: str
) -> None:
    """Each fault, plain, at once and after two events, begins to answer (or does not) without an error of its own."""
    body = BODY if dialect != "anthropic" else CLAUDE
    for streamed, after in ((False, 0), (True, 0), (True, 2)):
        await upstream.break_with(name, after)
        _, writer = await asyncio.open_connection("127.0.0.1", upstream.port)
        with closing(writer):
            writer.write(request(PATHS[dialect], {**body, "stream": streamed}))
            call = await upstream.called(len(upstream.calls) + 1)
            writer.write_eof()
            await call.done.wait()
        assert call.dialect == dialect


Bytes = Callable[[bytes], bool]

SEEN: list[tuple[str, bool, Bytes]] = [
    ("400", False, lambda got: got.startswith(b"HTTP/1.1 400 ")),
    ("429", False, lambda got: b"retry-after: 7\r\n" in got),
    ("429_quota", False, lambda got: b"insufficient_quota" in got and b"retry-after" not in got),
    ("529", False, lambda got: got.startswith(b"HTTP/1.1 529 ")),
    ("redirect", False, lambda got: b"location: http://here/_trap" in got),
    ("html", False, lambda got: b"<!doctype html>" in got),
    ("invalid_json", False, lambda got: got.endswith(b"[")),
    ("ok_with_error", False, lambda got: b" 200 " in got and b'"error":' in got),
    ("ok_with_error", True, lambda got: b'data: {"error":' in got),
    ("no_end_marker", True, lambda got: b"finish_reason" in got and b"[DONE]" not in got),
    ("giant_line", True, lambda got: max(map(len, got.split(b"\n"))) > 1 << 20),
    ("giant_answer", False, lambda got: len(got) > 32 << 20),
    ("giant_answer", True, lambda got: len(got) > 32 << 20 and got.endswith(b"[DONE]\n\n")),
    (
        "odd_events",
        True,
        lambda got: b": a comment\r\r" in got and b"\n" not in got.partition(b"\r\n\r\n")[2],
    ),
    ("split_utf8", True, lambda got: "日本" in got.decode() and "😀" in got.decode()),
    ("split_utf8", False, lambda got: "日本 😀" in got.decode()),
    ("bad_usage", False, lambda got: b'"prompt_tokens":-1' in got),
    ("bad_usage", True, lambda got: b'"prompt_tokens":-1' in got),
    ("usage_as_text", False, lambda got: b'"prompt_tokens":"12"' in got),
    ("no_usage", False, lambda got: b'"usage"' not in got),
    ("no_usage", True, lambda got: b"prompt_tokens" not in got),
    ("many_1xx", False, lambda got: b" 200 OK" in got and got.endswith(b"}")),
    ("many_1xx", True, lambda got: got.endswith(b"[DONE]\n\n")),
    ("gzip", False, lambda got: b"content-encoding: gzip" in got and len(got) < 100_000),
    ("no_choices", False, lambda got: b'"choices":[],' in got),
    ("no_choices", True, lambda got: b'"choices":[{' not in got),
    ("no_text", False, lambda got: b'"content":""' in got),
    ("no_text", True, lambda got: b'"content":"' in got and b"canary" not in got),
    ("no_finish", False, lambda got: b'"finish_reason":null' in got),
    ("content_filter", True, lambda got: b'"finish_reason":"content_filter"' in got),
    ("length_unasked", False, lambda got: b'"finish_reason":"length"' in got),
    ("refusal", False, lambda got: b'"content":null,"refusal":"I will not."' in got),
    ("refusal", True, lambda got: b'"refusal":"I will not."' in got),
    ("wrong_type", True, lambda got: b"content-type: text/plain" in got and b"[DONE]" in got),
    ("json_for_stream", True, lambda got: b"application/json" in got),
]


@pytest.mark.parametrize(("name", "streamed", "seen"), SEEN)
async def test_faults_that_answer(
    upstream: ScriptedUpstream, name: str, streamed: bool, seen: Bytes
) -> None:
    """What a client sees of a fault is what its name says; a model's name asks for it as well as a script."""
    body = {**BODY, "stream": streamed, "stream_options": {"include_usage": True}}
    await upstream.break_with(name)
    scripted = await ask(upstream, request(PATHS["openai"], body))
    await upstream.heal()
    named = await ask(upstream, request(PATHS["openai"], {**body, "model": f"gpt-fault-{name}"}))

    assert seen(scripted)
    assert seen(named)


CUTS = ["stall_mid_body", "reset", "reset_early", "close_early", "wrong_length", "hang"]


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize("name", CUTS)
async def test_faults_that_do_not_end(
    upstream: ScriptedUpstream, name: str, streamed: bool
) -> None:
    """The connection stalls, ends early or is reset: no whole answer arrives."""
    await upstream.break_with(name, after=2)
    sent = request(PATHS["openai"], {**BODY, "stream": streamed})

    with pytest.raises(
        (asyncio.IncompleteReadError, ConnectionResetError, TimeoutError)
    ) as caught:
        await asyncio.wait_for(ask(upstream, sent), 0.3)
    if name in ("hang", "stall_mid_body"):
        assert caught.type is TimeoutError
    if name.startswith("reset"):
        assert caught.type is ConnectionResetError


@pytest.mark.parametrize(
    ("name", "seen"),
    [
        ("no_choices", b'"content":[]'),
        ("no_finish", b'"stop_reason":null'),
        ("content_filter", b'"stop_reason":"refusal"'),
        ("length_unasked", b'"stop_reason":"model_context_window_exceeded"'),
        ("ok_with_error", b'{"type":"error","error":{"type":"overloaded_error"'),
        ("529", b'"type":"overloaded_error"'),
        ("bad_usage", b'"input_tokens":-1'),
    ],
)
async def test_faults_in_the_dialect_of_anthropic(
    upstream: ScriptedUpstream, name: str, seen: bytes
) -> None:
    """The same names mean the same in Anthropic's words."""
    await upstream.break_with(name)

    assert seen in await ask(upstream, request(PATHS["anthropic"], CLAUDE))


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize("dialect", PATHS)
async def test_large_faults_in_every_dialect(
    upstream: ScriptedUpstream, dialect: str, streamed: bool
) -> None:
    """An answer beyond any bound, and a small one that unpacks to one."""
    body = {**(CLAUDE if dialect == "anthropic" else BODY), "stream": streamed}
    await upstream.break_with("giant_answer")
    giant = await ask(upstream, request(PATHS[dialect], body))
    await upstream.break_with("gzip")
    bomb = await ask(upstream, request(PATHS[dialect], body))

    assert len(giant) > 32 << 20
    assert len(gzip.decompress(bomb.partition(b"\r\n\r\n")[2])) > 32 << 20


@pytest.mark.parametrize("streamed", [True, False])
async def test_dripping(upstream: ScriptedUpstream, streamed: bool) -> None:
    """Byte by byte the good answer arrives in the end."""
    body = {**BODY, "stream": streamed, "max_tokens": 1}
    good = await ask(upstream, request(PATHS["openai"], body))
    upstream.answer = lambda call: drip(call, 1, seconds=0.0)

    assert await ask(upstream, request(PATHS["openai"], body)) == good


async def test_events_before_a_fault_arrive(upstream: ScriptedUpstream) -> None:
    """A reset in mid-stream does not overtake the events before it."""
    body = {**BODY, "stream": True, "model": "gpt-fault-reset@2"}
    reader, writer = await asyncio.open_connection("127.0.0.1", upstream.port)
    writer.write(request(PATHS["openai"], body))
    got = b""
    with pytest.raises(ConnectionResetError):
        while read := await reader.read(1000):
            got += read
    writer.close()

    assert got.count(b"data: {") == 2


@pytest.mark.parametrize("name", sorted(STREAM_ONLY))
async def test_faults_of_streams_leave_plain_answers_good(
    upstream: ScriptedUpstream, name: str
) -> None:
    """As their list says."""
    await upstream.break_with(name)

    assert (await ask(upstream, request(PATHS["openai"], BODY))).endswith(b"}")


async def test_refusing_and_healing(upstream: ScriptedUpstream) -> None:
    """Connections are refused until healed, on the same port."""
    await upstream.break_with("refuse")
    with pytest.raises(ConnectionRefusedError):
        await ask(upstream, request(PATHS["openai"], BODY))
    await upstream.heal()

    assert (await ask(upstream, request(PATHS["openai"], BODY))).startswith(b"HTTP/1.1 200 ")


# --- steering and watching ------------------------------------------------------------------------


async def test_scripts(upstream: ScriptedUpstream) -> None:
    """A callable goes before the queue, the queue before good answers; bytes go out as written."""
    upstream.replies.append(Reply.json(418, {"a": 1}, (("x-a", "b"),)))
    upstream.answer = lambda call: Reply.text(200, b"mine") if call.model == "mine" else None

    mine = await ask(upstream, request(PATHS["openai"], {**BODY, "model": "mine"}))
    queued = await ask(upstream, request(PATHS["openai"], BODY))
    good = await ask(upstream, request(PATHS["openai"], BODY))

    assert mine.endswith(b"\r\n\r\nmine")
    assert queued.endswith(b'x-a: b\r\n\r\n{"a":1}')
    assert b"chatcmpl-upstream" in good


@pytest.mark.parametrize("model", ["gpt-x", "gpt-bench"])
async def test_a_connection_is_used_again(upstream: ScriptedUpstream, model: str) -> None:
    """Answers follow each other over one connection, pipelined requests included."""
    reader, writer = await asyncio.open_connection("127.0.0.1", upstream.port)
    with closing(writer):
        writer.write(request(PATHS["openai"], {**BODY, "model": model}) * 3)
        for _ in range(3):
            head = await reader.readuntil(b"\r\n\r\n")
            size = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
            orjson.loads(await reader.readexactly(size))

    assert upstream.connected == 1
    assert upstream.count == 3


@pytest.mark.parametrize("abort", [True, False])
async def test_a_client_that_leaves_is_noticed(upstream: ScriptedUpstream, abort: bool) -> None:
    """`closed` is set as the client leaves in mid-answer, with what it had got by then."""
    gate = asyncio.Event()
    upstream.answer = lambda call: Reply.sse([b"data: 1\n\n", gate, b"data: 2\n\n"])
    reader, writer = await asyncio.open_connection("127.0.0.1", upstream.port)
    writer.write(request(PATHS["openai"], {**BODY, "stream": True}))
    await reader.readuntil(b"data: 1")
    (call,) = upstream.calls
    assert not call.closed_early
    if abort:
        writer.transport.abort()
    else:
        writer.close()

    await asyncio.wait_for(call.closed.wait(), 1)
    await call.done.wait()
    assert call.closed_early
    assert call.closed_at is not None
    assert 0 < call.bytes_sent < 200
    assert upstream.closed_early == 1


async def test_who_reads_to_the_end_did_not_leave_early(upstream: ScriptedUpstream) -> None:
    """A gate holds an answer for as long as a test wants; a whole answer is no early leave."""
    gate = asyncio.Event()
    upstream.answer = lambda call: Reply.sse([b"data: 1\n\n", b"data: 2\n\n"]).gated(gate, 1)
    asking = asyncio.create_task(ask(upstream, request(PATHS["openai"], {**BODY, "stream": True})))
    call = await upstream.called()
    assert not call.done.is_set()
    gate.set()

    assert (await asking).endswith(b"data: 1\n\ndata: 2\n\n")
    await call.done.wait()
    assert not call.closed_early
    assert upstream.state()["open"] == 0


async def test_a_reset_of_our_own_is_no_leave(upstream: ScriptedUpstream) -> None:
    """`closed_early` speaks of the client only."""
    upstream.answer = lambda call: Reply.raw([b"HTTP/1.1 200", Ending.RESET])
    with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
        await ask(upstream, request(PATHS["openai"], BODY))

    await upstream.calls[0].done.wait()
    assert not upstream.calls[0].closed_early


# --- bench ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["gpt-bench", "gpt-bench-5x0", "gpt-bench-5x2"])
async def test_bench_answers_are_good_ones(upstream: ScriptedUpstream, model: str) -> None:
    """Answers made in advance pass the SDK's types, plain and streamed."""
    count = 12 if model == "gpt-bench" else 5
    async with openai_sdk(upstream) as client:
        answer = await client.chat.completions.create(model=model, messages=USER)
        stream: Any = await client.chat.completions.create(model=model, messages=USER, stream=True)
        chunks = [chunk async for chunk in stream]

    ChatCompletion.model_validate(answer.model_dump(), strict=True)
    assert answer.model == model
    spoken = [choice.delta.content for chunk in chunks for choice in chunk.choices]
    assert spoken.count("word ") == count
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == count
    assert upstream.calls == []


async def test_bench_speaks_claude_too(upstream: ScriptedUpstream) -> None:
    """The same by Anthropic's events."""
    async with anthropic_sdk(upstream) as client:
        answer = await client.messages.create(**{**CLAUDE, "model": "claude-bench-5x1"})
        async with client.messages.stream(**{**CLAUDE, "model": "claude-bench-5x1"}) as stream:
            final = await stream.get_final_message()

    assert final.content[0].to_dict() == answer.content[0].to_dict()
    assert final.usage.output_tokens == 5


async def test_bench_streams_end_with_their_client(upstream: ScriptedUpstream) -> None:
    """A paced stream whose client left is over."""
    reader, writer = await asyncio.open_connection("127.0.0.1", upstream.port)
    writer.write(request(PATHS["openai"], {**BODY, "model": "gpt-bench-9x60000", "stream": True}))
    await reader.readuntil(b"data: ")
    assert upstream.state()["open"] == 1
    (connection,) = upstream.connections
    writer.close()
    await asyncio.wait_for(connection.gone.wait(), 1)

    state = upstream.state()
    assert (1, 0, 1) == (state["calls"], state["open"], state["closed_early"])


# --- elsewhere ------------------------------------------------------------------------------------


def test_on_a_thread() -> None:
    """Callers that block use it too."""
    with running_upstream() as upstream:
        client = openai.OpenAI(api_key="sk-x", base_url=upstream.openai, max_retries=0)
        with client:
            answer = client.chat.completions.create(**BODY)

    assert answer.id == "chatcmpl-upstream"
    assert upstream.calls[0].model == "gpt-x"


def test_as_a_process() -> None:
    """It prints its port and tells its state."""
    command = [sys.executable, "-m", "tests.support.upstream", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        port = orjson.loads(process.stdout.readline())["port"]
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/_state", timeout=5) as answer:
                state = orjson.loads(answer.read())
        finally:
            process.terminate()

    assert state == {"calls": 0, "open": 0, "closed_early": 0, "connections": 1, "connected": 1}


def test_calls_know_their_dialect() -> None:
    """By path, and for the shared path by header."""

    def call(path: str, **headers: str) -> Call:
        named = {name.replace("_", "-"): content for name, content in headers.items()}
        return Call("GET", path, "", named, b"", {}, 1)

    assert call("/v1/models").dialect == "openai"
    assert call("/v1/models", anthropic_version="2023-06-01").dialect == "anthropic"
    assert call("/openai/v1/models").dialect == "groq"
