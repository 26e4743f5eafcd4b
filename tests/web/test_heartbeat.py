"""Silence and slowness: comments keep a stream alive, a caller who does not read holds up nobody and is let go."""

from __future__ import annotations

import asyncio
import resource
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path
from time import monotonic
from typing import Any

import orjson
import pytest

from tests.support.fixtures import async_fixture
from tests.support.house import QUESTION, OpenHouse, asked, events, open_house
from tests.support.upstream import Call, Ending, Reply, ScriptedUpstream, good_answer
from tests.support.upstream_faults import giant_answer
from tests.support.upstream_reply import Step

BEAT = b": keep-alive\n\n"
STREAM = {**QUESTION, "stream": True}
MIB = 1 << 20

SIZES = {"whole": 12_000_000, "hit": 900_000, "small hits": 30_000}
TIMES = {"hit": 8, "small hits": 400}
"""More of them than the kernel's buffers hold."""


@async_fixture
async def house(tmp_path: Path, upstream: ScriptedUpstream) -> AsyncIterator[OpenHouse]:
    async with open_house(
        tmp_path,
        upstream,
        WATCHLLM_HEARTBEAT="100ms",
        WATCHLLM_WRITE_TIMEOUT="1s",
        WATCHLLM_UPSTREAM_STREAM_FIRST_BYTE_TIMEOUT="600ms",
        WATCHLLM_UPSTREAM_IDLE_TIMEOUT="600ms",
    ) as opened:
        yield opened


# --- heartbeats -----------------------------------------------------------------------------------


async def test_a_silent_provider_does_not_make_a_silent_stream(
    house: OpenHouse, upstream: ScriptedUpstream
) -> None:
    """Comments in front of the answer and inside it; the answer itself is whole, and kept without them."""
    upstream.answer = paused

    answer = await house.ask(STREAM)

    assert 200 == answer.status
    before, first, rest = answer.body.partition(b"data: ")
    assert first
    assert before.count(BEAT) >= 2
    assert before == BEAT * before.count(BEAT)
    assert rest.count(BEAT) >= 2
    assert "[DONE]" == events(answer.body)[-1]
    upstream.answer = None
    again = await house.ask(STREAM)
    assert "HIT" == again.cached
    assert said(answer.body) == said(again.body)
    assert BEAT not in again.body


def paused(call: Call) -> Reply | None:
    """Silent for three beats before the first event, and again in the middle."""
    if call.method != "POST":
        return None
    good = good_answer(call)
    steps = list(good.steps)
    return Reply.sse([0.35, *steps[:4], 0.35, *steps[4:]])


async def test_a_quick_stream_has_no_comments_but_the_last(house: OpenHouse) -> None:
    """Only silence is filled."""
    answer = await house.ask(STREAM)

    comments = [line for line in answer.body.split(b"\n") if line.startswith(b":")]
    assert [b": x-watchllm"] == [line.partition(b" {")[0] for line in comments]


@pytest.mark.parametrize(
    ("reply", "status"),
    [
        (Reply.raw([Ending.HANG]), 504),
        (Reply.sse([Ending.HANG]), 504),
        (Reply.raw([0.25, Ending.RESET]), 502),
        (Reply.sse([0.25, b'data: {"error":{"type":"overloaded_error"}}\n\n']), 503),
        (Reply.sse([0.25]), 502),
    ],
    ids=["silent", "silent inside", "reset", "error", "cut"],
)
async def test_after_the_first_comment_a_fault_is_an_event(
    house: OpenHouse, upstream: ScriptedUpstream, reply: Reply, status: int
) -> None:
    """The comment took the status; the fault is told in the stream, without [DONE], and the row knows it."""
    upstream.answer = lambda call: reply if call.method == "POST" else None

    answer = await house.ask(STREAM)

    assert 200 == answer.status
    assert answer.body.startswith(BEAT)
    [error] = events(answer.body)
    assert "api_error" == error["error"]["type"]
    [row] = await house.rows()
    assert ("failed", status) == (row["outcome"], row["status"])


async def test_a_fault_before_the_first_comment_keeps_its_status(
    house: OpenHouse, upstream: ScriptedUpstream
) -> None:
    """Nothing was said yet, so a plain error is the answer."""
    upstream.answer = lambda call: (
        Reply.json(429, {"error": {"message": "no"}}) if call.method == "POST" else None
    )

    assert 429 == (await house.ask(STREAM)).status


# --- slow readers ---------------------------------------------------------------------------------


async def test_a_slow_reader_gets_every_byte(house: OpenHouse, upstream: ScriptedUpstream) -> None:
    """With a beat more often than its reads, and a stream larger than all buffers: whole, and in order."""
    numbers = 3_000
    upstream.answer = numbered(numbers, 4_000)
    reader, writer = await connect(house, STREAM)
    heard = b""
    with closing(writer):
        while not heard.endswith(b"0\r\n\r\n"):
            piece = await reader.read(200_000)
            assert piece
            heard += piece
            await asyncio.sleep(0.005)

    found = events(unchunked(heard))
    assert "[DONE]" == found[-1]
    texts = [event["choices"][0]["delta"].get("content") for event in found[:-1]]
    assert [f"{number:06d}" for number in range(numbers)] == [text[:6] for text in texts if text]


async def test_a_reader_slower_than_the_beat_gets_every_byte(
    house: OpenHouse, upstream: ScriptedUpstream
) -> None:
    """Each pause is longer than a beat and shorter than the write deadline: nothing is lost or mixed up."""
    numbers = 1_000
    upstream.answer = numbered(numbers, 8_000)
    reader, writer = await connect(house, STREAM)
    heard = b""
    with closing(writer):
        while not heard.endswith(b"0\r\n\r\n"):
            piece = await reader.read(4 * MIB)
            assert piece
            heard += piece
            if len(heard) < 6 * MIB:
                await asyncio.sleep(0.15)

    texts = said(unchunked(heard))
    assert numbers == texts.count("x" * 7_994)


@pytest.mark.parametrize("kind", ["stream", "whole", "hit", "small hits"])
async def test_who_does_not_read_is_let_go(
    house: OpenHouse, upstream: ScriptedUpstream, kind: str
) -> None:
    """After the write deadline, whatever kind the answer is of; meanwhile no more is taken from the provider than fits."""
    document = STREAM if kind == "stream" else QUESTION
    upstream.answer = endless if kind == "stream" else large(SIZES[kind])
    if "hit" in kind:
        assert "MISS" == (await house.ask(document)).cached
        assert "HIT" == (await house.ask(document)).cached
    began = monotonic()
    _, writer = await connect(house, document, receive=4_096, times=TIMES.get(kind, 1))
    with closing(writer):
        await gone(house)
        took = monotonic() - began
        sent = sum(call.bytes_sent for call in asked(upstream) if call.stream)

    assert 0.9 < took < 5
    assert sent < 16 * MIB
    upstream.answer = None
    assert 200 == (await house.ask({**QUESTION, "seed": 1})).status
    if kind == "stream":
        [row] = [row for row in await house.rows() if row["streamed"]]
        assert ("client_gone", 499) == (row["outcome"], row["status"])
        assert row["output_tokens"] > 0
        async with asyncio.timeout(2):
            await asked(upstream)[0].closed.wait()


async def test_twenty_who_do_not_read_cost_little(
    house: OpenHouse, upstream: ScriptedUpstream
) -> None:
    """Memory is bounded by connection, not by what the providers would like to send."""
    upstream.answer = endless
    before = memory()
    callers = [
        await connect(house, {**STREAM, "seed": number}, receive=4_096) for number in range(20)
    ]
    await gone(house)
    for _, writer in callers:
        writer.close()

    assert memory() - before < 64 * MIB
    async with asyncio.timeout(2):
        for call in asked(upstream):
            await call.closed.wait()
    assert 20 == len(asked(upstream))
    assert 16 * MIB > max(call.bytes_sent for call in asked(upstream))
    assert ["client_gone"] * 20 == [row["outcome"] for row in await house.rows()]


# --- parts ----------------------------------------------------------------------------------------


def numbered(numbers: int, size: int) -> Any:
    """A stream of that many texts, each with its number and filled up to `size`."""

    def answer(call: Call) -> Reply | None:
        if call.method != "POST":
            return None
        texts = (f"{number:06d}" + "x" * (size - 6) for number in range(numbers))
        return Reply.sse(
            [*(chunk(text) for text in texts), chunk("", "stop"), b"data: [DONE]\n\n"]
        )

    return answer


def chunk(text: str, finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
    return b"data: " + orjson.dumps({"id": "x", "choices": [choice]}) + b"\n\n"


def endless(call: Call) -> Reply | None:
    """Up to 33 MiB, which nobody is going to read."""
    return giant_answer(call, 0) if call.method == "POST" else None


def large(size: int) -> Any:
    def answer(call: Call) -> Reply | None:
        if call.method != "POST":
            return None
        good = good_answer(call)
        steps: list[Step] = list(good.steps)
        [body] = steps
        assert isinstance(body, bytes)
        return Reply.text(200, body.replace(b"speaking", b"x" * size), "application/json")

    return answer


async def connect(
    house: OpenHouse, document: Any, receive: int | None = None, times: int = 1
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A caller that has asked and will read only when told; `receive` bytes of it fit into the kernel."""
    body = orjson.dumps(document)
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {house.key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    sock = socket.socket()
    sock.setblocking(False)
    if receive is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", house.port))
    reader, writer = await asyncio.open_connection(sock=sock, limit=MIB if receive is None else 1)
    writer.write((head.encode() + body) * times)
    return reader, writer


async def gone(house: OpenHouse) -> None:
    """Waits until the server has let every answering connection go."""
    async with asyncio.timeout(10):
        await asyncio.sleep(0.3)
        while house.house.front.running or house.server.busy():
            await asyncio.sleep(0.02)


def memory() -> int:
    """Bytes at most so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def unchunked(raw: bytes) -> bytes:
    return b"".join(_chunks(raw.partition(b"\r\n\r\n")[2]))


def _chunks(raw: bytes) -> Iterator[bytes]:
    place = 0
    while True:
        end = raw.index(b"\r\n", place)
        size = int(raw[place:end], 16)
        if not size:
            return
        yield raw[end + 2 : end + 2 + size]
        place = end + 2 + size + 2


def said(body: bytes) -> str:
    return "".join(
        choice["delta"].get("content") or ""
        for event in events(body)
        if event != "[DONE]"
        for choice in event["choices"]
    )
