"""A client that leaves stops the provider's work at once, leaves one honest row, and nothing of a part in the cache."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest

from tests.support.house import QUESTION, OpenHouse
from tests.support.upstream import Call, Ending, Reply, ScriptedUpstream
from tests.support.upstream_openai import good_answer

BEHIND = {
    "nothing": b"",
    "one byte": b"x",
    "a request": b"GET /health HTTP/1.1\r\n\r\n",
    "300 kB": b"x" * 300_000,
}


def request(house: OpenHouse, document: dict[str, Any], behind: bytes = b"") -> bytes:
    body = orjson.dumps(document)
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {house.key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body + behind


async def gone_row(house: OpenHouse) -> dict[str, Any]:
    """The only row, which must have been closed by now."""
    while house.house.front.running:
        await asyncio.sleep(0)
    [row] = await house.rows()
    return row


@pytest.mark.parametrize("behind", BEHIND)
@pytest.mark.parametrize("stream", [False, True])
async def test_leaving_before_the_answer_stops_the_provider(
    house: OpenHouse, upstream: ScriptedUpstream, behind: str, stream: bool
) -> None:
    """Also when bytes were left behind the request, which hide the leaving from Tornado: then within two seconds."""
    upstream.answer = lambda call: Reply.raw([Ending.HANG]) if call.method == "POST" else None
    _, writer = await asyncio.open_connection("127.0.0.1", house.port)
    writer.write(request(house, {**QUESTION, "stream": stream}, BEHIND[behind]))
    call = await posted(upstream)

    writer.close()

    async with asyncio.timeout(2.5 if behind != "nothing" else 1):
        await call.closed.wait()
    row = await gone_row(house)
    assert ("client_gone", 499, True) == (row["outcome"], row["status"], bool(row["estimated"]))
    assert row["input_tokens"] > 0


@pytest.mark.parametrize("behind", BEHIND)
async def test_leaving_mid_stream_stops_the_provider(
    house: OpenHouse, upstream: ScriptedUpstream, behind: str
) -> None:
    """What was written by then is billed as an estimate, and no part of the answer is ever served again."""
    gate = asyncio.Event()
    upstream.answer = lambda call: (
        good_answer(call).gated(gate, 4) if call.method == "POST" else None
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", house.port)
    writer.write(request(house, {**QUESTION, "stream": True}, BEHIND[behind]))
    if behind != "300 kB":
        await reader.readuntil(b'"content":"')
    call = await posted(upstream)

    writer.close()

    async with asyncio.timeout(2.5 if behind != "nothing" else 1):
        await call.closed.wait()
    row = await gone_row(house)
    assert ("client_gone", 499, True) == (row["outcome"], row["status"], bool(row["estimated"]))
    upstream.answer = None
    assert "MISS" == (await house.ask(QUESTION)).cached


async def posted(upstream: ScriptedUpstream) -> Call:
    number = 1
    while True:
        call = await upstream.called(number)
        if call.method == "POST":
            return call
        number += 1
