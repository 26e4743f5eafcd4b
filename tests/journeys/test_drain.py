"""SIGTERM: nothing new is taken, what runs may end, and nobody is cut off without a word."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import aiohttp
import pytest

from tests.support.house import QUESTION, events
from tests.support.served import Served, serving
from tests.support.upstream import Call, Reply, ScriptedUpstream
from tests.support.upstream_openai import good_answer

STREAM = {**QUESTION, "stream": True}


def settings(upstream: ScriptedUpstream, **more: str) -> dict[str, str]:
    return {"OPENAI_API_KEY": "sk-x", "OPENAI_BASE_URL": upstream.openai, **more}


class Gated:
    """Streams that stop after some events until they may go on."""

    def __init__(self, upstream: ScriptedUpstream) -> None:
        self.gate = asyncio.Event()
        upstream.answer = self.answer

    def answer(self, call: Call) -> Reply | None:
        return good_answer(call).gated(self.gate, 3) if call.method == "POST" else None


async def begin(
    http: aiohttp.ClientSession, served: Served, number: int
) -> aiohttp.ClientResponse:
    """A stream whose first bytes have arrived."""
    answer = await http.post(
        f"{served.root}/v1/chat/completions",
        json={**STREAM, "seed": number},
        headers={"Authorization": f"Bearer {served.keys['project']}"},
    )
    assert answer.status == 200
    await answer.content.readuntil(b"\n\n")
    return answer


async def exit_code(served: Served) -> int:
    return await asyncio.get_running_loop().run_in_executor(None, served.wait)


async def refused(served: Served) -> None:
    """Returns when nothing listens any more."""
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", served.port)
        except OSError:
            return
        writer.close()


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path


async def test_running_streams_end_whole(data_dir: Path) -> None:
    """Every stream that ends within the grace has its last byte; then the process leaves at once, with 0."""
    async with ScriptedUpstream() as upstream:
        gated = Gated(upstream)
        with serving(data_dir, **settings(upstream)) as served:
            async with aiohttp.ClientSession() as http:
                answers = [await begin(http, served, number) for number in range(10)]

                served.signal(signal.SIGTERM)
                await refused(served)
                gated.gate.set()
                bodies = [await answer.read() for answer in answers]

            assert 0 == await exit_code(served)
    assert ["[DONE]"] * 10 == [events(body)[-1] for body in bodies]


async def test_after_the_grace_streams_are_told(data_dir: Path) -> None:
    """A stream that outlives the grace gets an error event and no `[DONE]`."""
    async with ScriptedUpstream() as upstream:
        Gated(upstream)
        more = {"WATCHLLM_DRAIN_GRACE": "1s"}
        with serving(data_dir, **settings(upstream, **more)) as served:
            async with aiohttp.ClientSession() as http:
                answer = await begin(http, served, 1)
                served.signal(signal.SIGTERM)
                body = await answer.read()

            assert 0 == await exit_code(served)
    assert "error" in events(body)[-1]


async def test_a_second_signal_waits_for_nothing(data_dir: Path) -> None:
    """Whoever signals twice means it."""
    async with ScriptedUpstream() as upstream:
        Gated(upstream)
        with serving(data_dir, **settings(upstream)) as served:
            async with aiohttp.ClientSession() as http:
                answer = await begin(http, served, 1)
                served.signal(signal.SIGTERM)
                await refused(served)
                served.signal(signal.SIGTERM)
                async with asyncio.timeout(5):
                    assert 0 == await exit_code(served)
                answer.close()


async def test_kept_connections_are_closed_at_once(data_dir: Path) -> None:
    """An idle connection of a client's pool does not hold the process back."""
    with serving(data_dir) as served:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        writer.write(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readuntil(b'"dependencies"')

        served.signal(signal.SIGTERM)

        async with asyncio.timeout(3):
            await reader.read()
            assert 0 == await exit_code(served)
        writer.close()
