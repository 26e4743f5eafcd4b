"""A budget lasts longer than a process: over restarts, and over the death of one that had set money aside."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from config.catalogue import read_catalogue
from domain.pricing import dollars, most_cost
from domain.request import Endpoint, parse_request
from domain.routing import route
from tests.support.house import QUESTION, asked
from tests.support.postgres import PostgresServer, new_server
from tests.support.served import ROOT, Served, serving
from tests.support.upstream import Call, Reply, ScriptedUpstream
from tests.support.upstream_openai import good_answer
from tests.support.valkey import valkey_server

SECRET = "0123456789abcdef-budget-tests-0123456789abcdef"
LARGE = {**QUESTION, "max_tokens": 1_000}
SMALL = {**QUESTION, "max_tokens": 10}
SEEDS = itertools.count()
"""So that no answer comes from the cache."""
LONGEST = 4.0
"""Seconds that a call may take here, so that a lease is 4.4."""


def most(document: dict[str, Any]) -> int:
    """What is set aside for it, picodollars."""
    request = parse_request(Endpoint.CHAT, orjson.dumps(document))
    price = route(request.model, read_catalogue(None)).price
    assert price is not None
    return most_cost(request, price)


async def ask(
    http: aiohttp.ClientSession, served: Served, key: str, document: dict[str, Any]
) -> tuple[int, str]:
    """Status and, of an error, its type."""
    async with http.post(
        f"{served.root}/v1/chat/completions",
        json={**document, "seed": next(SEEDS)},
        headers={"Authorization": f"Bearer {key}"},
    ) as answer:
        told = await answer.json()
    return answer.status, told.get("error", {}).get("type", "")


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
async def test_a_restart_opens_no_budget_again(tmp_path: Path, how: signal.Signals) -> None:
    """Embedded: what was spent is spent after an end in order and after a kill; what is left is still there."""
    async with ScriptedUpstream() as upstream, aiohttp.ClientSession() as http:
        settings = {"OPENAI_API_KEY": "sk-x", "OPENAI_BASE_URL": upstream.openai}
        with serving(tmp_path, name="first", **settings) as served:
            key = served.keys["project"]
            served.command("project", "budget", "default", dollars(most(LARGE)))
            first = [await ask(http, served, key, LARGE) for _ in range(2)]
            served.signal(how)
            await asyncio.get_running_loop().run_in_executor(None, served.wait)
        assert [(200, ""), (429, "insufficient_quota")] == first

        with serving(tmp_path, name="second", **settings) as served:
            again = await asyncio.gather(*[ask(http, served, key, LARGE) for _ in range(3)])
            small = await ask(http, served, key, SMALL)
        assert [(429, "insufficient_quota")] * 3 == again
        assert (200, "") == small


def command(settings: dict[str, str], folder: Path, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "app", *words],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "HOME": str(folder), **settings},
        capture_output=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


@pytest.fixture
def postgres() -> Iterator[PostgresServer]:
    server = new_server()
    try:
        server.start()
        yield server
    finally:
        server.remove()


async def test_what_a_killed_process_set_aside_returns(
    tmp_path: Path, postgres: PostgresServer
) -> None:
    """Two processes, one budget: it waits for the lease of a call whose process was killed, and no longer."""
    never = asyncio.Event()

    def hanging(call: Call) -> Reply | None:
        return good_answer(call).gated(never, 0) if "hang" in str(call.body) else None

    with ExitStack() as stack:
        upstream = ScriptedUpstream()
        await upstream.listen()
        upstream.answer = hanging
        settings = {
            "DATABASE_URL": postgres.url,
            "REDIS_URL": stack.enter_context(valkey_server()).url,
            "WATCHLLM_SECRET_KEY": SECRET,
            "OPENAI_API_KEY": "sk-x",
            "OPENAI_BASE_URL": upstream.openai,
        }
        for name in ("TOTAL", "FIRST_BYTE", "STREAM_FIRST_BYTE"):
            settings[f"WATCHLLM_UPSTREAM_{name}_TIMEOUT"] = f"{LONGEST}s"
        command(settings, tmp_path, "migrate")
        command(settings, tmp_path, "project", "create", "p")
        command(settings, tmp_path, "project", "budget", "p", dollars(most(LARGE)))
        key = json.loads(command(settings, tmp_path, "key", "create", "p", "--json"))["key"]
        one, other = [
            stack.enter_context(serving(tmp_path / name, **settings)) for name in ("one", "other")
        ]
        async with aiohttp.ClientSession() as http:
            lost = asyncio.ensure_future(
                ask(http, one, key, {**LARGE, "messages": [{"role": "user", "content": "hang"}]})
            )
            while not asked(upstream):
                await asyncio.sleep(0.005)
            began = time.monotonic()
            assert (429, "insufficient_quota") == await ask(http, other, key, LARGE)
            one.signal(signal.SIGKILL)
            await asyncio.gather(lost, return_exceptions=True)
            assert (429, "insufficient_quota") == await ask(http, other, key, LARGE)

            async with asyncio.timeout(30):
                while (await ask(http, other, key, LARGE))[0] != 200:
                    await asyncio.sleep(0.1)
            assert time.monotonic() - began > LONGEST
            # It is spent now, which a restart does not change.
            assert (429, "insufficient_quota") == await ask(http, other, key, LARGE)
        await upstream.aclose()
