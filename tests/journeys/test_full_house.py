"""The full installation: two processes that share a real Valkey and a real PostgreSQL, and what happens when those fail."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import aiohttp
import psycopg2
import pytest
from attrs import define

from tests.support.fixtures import async_fixture
from tests.support.house import QUESTION
from tests.support.postgres import PostgresServer, new_server
from tests.support.served import ROOT, Served, serving
from tests.support.upstream import Call, Reply, ScriptedUpstream
from tests.support.upstream_openai import good_answer
from tests.support.valkey import ValkeyServer, valkey_server

SECRET = "0123456789abcdef-full-house-tests-0123456789abcdef"
Header = str


@define
class Full:
    """Two servers, one database, one Valkey, one scripted provider."""

    one: Served
    other: Served
    valkey: ValkeyServer
    postgres: PostgresServer
    upstream: ScriptedUpstream
    http: aiohttp.ClientSession
    project: str
    key: str

    async def ask(
        self, served: Served, content: str, *, key: str | None = None, **more: Any
    ) -> tuple[int, dict[Header, str], bytes, float]:
        """Status, headers, body, and how long it took."""
        document = {**QUESTION, "messages": [{"role": "user", "content": content}], **more}
        began = time.monotonic()
        async with self.http.post(
            f"{served.root}/v1/chat/completions",
            json=document,
            headers={"Authorization": f"Bearer {key or self.key}"},
        ) as answer:
            body = await answer.read()
            headers = {name.lower(): text for name, text in answer.headers.items()}
            return answer.status, headers, body, time.monotonic() - began

    async def cached(self, served: Served, content: str, **more: Any) -> str:
        status, headers, body, _ = await self.ask(served, content, **more)
        assert status == 200, body
        return headers["x-watchllm-cached"]

    async def health(self, served: Served) -> dict[str, str]:
        async with self.http.get(f"{served.root}/health") as answer:
            document = await answer.json()
        return {name: one["status"] for name, one in document["dependencies"].items()}

    async def until(self, true: Callable[[], Any], within: float = 10) -> None:
        """Asks again and again, which is the only way to see another process change its mind."""
        async with asyncio.timeout(within):
            while not await true():
                await asyncio.sleep(0.05)


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    server = new_server()
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture
def database(postgres: PostgresServer) -> str:
    """An empty database of the test's own."""
    if not postgres.running:
        postgres.start()
    name = f"house_{time.monotonic_ns()}"
    connection = psycopg2.connect(postgres.url)
    connection.autocommit = True
    connection.cursor().execute(f"CREATE DATABASE {name}")
    connection.close()
    return postgres.url.rpartition("/")[0] + f"/{name}"


@async_fixture
async def full(tmp_path: Path, postgres: PostgresServer, database: str) -> AsyncIterator[Full]:
    loop = asyncio.get_running_loop()
    with ExitStack() as stack:
        valkey = stack.enter_context(valkey_server())
        upstream = ScriptedUpstream()
        await upstream.listen()
        settings = {
            "DATABASE_URL": database,
            "REDIS_URL": valkey.url,
            "WATCHLLM_SECRET_KEY": SECRET,
            "OPENAI_API_KEY": "sk-x",
            "OPENAI_BASE_URL": upstream.openai,
        }
        command(settings, tmp_path, "migrate")
        made = json.loads(command(settings, tmp_path, "project", "create", "full", "--json"))
        key = json.loads(command(settings, tmp_path, "key", "create", "full", "--json"))
        one, other = [
            stack.enter_context(
                await loop.run_in_executor(
                    None, lambda name=name: Entered(tmp_path / name, settings)
                )
            )
            for name in ("one", "other")
        ]
        async with aiohttp.ClientSession() as http:
            yield Full(one, other, valkey, postgres, upstream, http, made["id"], key["key"])
        await upstream.aclose()


class Entered(ExitStack):
    """A server that was started in a thread, so that the scripted provider could answer meanwhile."""

    def __init__(self, folder: Path, settings: dict[str, str]) -> None:
        super().__init__()
        self._served = self.enter_context(serving(folder, **settings))

    def __enter__(self) -> Served:  # type: ignore[override]
        super().__enter__()
        return self._served


def command(settings: dict[str, str], folder: Path, *words: str) -> str:
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(folder), **settings}
    done = subprocess.run(
        [sys.executable, "-m", "app", *words],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


async def test_one_process_hits_what_the_other_missed(full: Full) -> None:
    """The answer, the key and the purge are shared; a purge reaches both processes within two seconds."""
    assert "MISS" == await full.cached(full.one, "shared")
    assert "HIT" == await full.cached(full.other, "shared")
    assert "HIT" == await full.cached(full.other, "shared", stream=True)
    assert {"redis": "up", "supabase": "up"} == await full.health(full.one)

    full.one.command("cache", "purge", full.project)

    async def forgotten() -> bool:
        return await full.cached(full.other, "shared", max_tokens=None) == "MISS"

    await full.until(forgotten, within=3)


async def test_without_valkey_everything_is_a_miss_and_nothing_fails(full: Full) -> None:
    """Killed: misses, no error, no delay beyond the breaker's second. Back: hits again, without a restart."""
    await full.cached(full.one, "warm")

    full.valkey.kill()

    slowest = 0.0
    for number in range(60):
        status, headers, _, took = await full.ask(full.one, f"dead {number}")
        assert (200, "MISS") == (status, headers["x-watchllm-cached"])
        slowest = max(slowest, took)
    assert slowest < 1.0
    assert "MISS" == await full.cached(full.other, "dead 1")

    full.valkey.start()

    async def shared_again() -> bool:
        await full.cached(full.one, "back")
        return await full.cached(full.other, "back") == "HIT"

    await full.until(shared_again, within=5)


async def test_a_frozen_valkey_costs_no_more_than_its_deadline(full: Full) -> None:
    """Stopped but not dead: each call waits 50 ms at most until the breaker opens, then not at all."""
    await full.cached(full.one, "warm")

    full.valkey.freeze()
    try:
        took = [(await full.ask(full.one, f"frozen {number}"))[3] for number in range(30)]
    finally:
        full.valkey.thaw()

    assert max(took) < 1.0
    assert sum(took[-10:]) / 10 < 0.05


async def test_known_keys_outlive_postgres(full: Full) -> None:
    """Restarted: nothing fails. Away: known keys are served, unknown ones get 503 and when to come back; the
    ledger catches up afterwards."""
    stranger = json.loads(full.one.command("key", "create", full.project, "--json"))["key"]
    assert "MISS" == await full.cached(full.one, "before")

    full.postgres.restart()
    assert "HIT" == await full.cached(full.one, "before")

    full.postgres.stop()
    for number in range(20):
        status, _, body, took = await full.ask(full.one, f"away {number}")
        assert 200 == status, body
        assert took < 1.0
    status, headers, body, _ = await full.ask(full.one, "away", key=stranger)
    assert (503, "api_error") == (status, json.loads(body)["error"]["type"])
    assert int(headers["retry-after"]) >= 1

    full.postgres.start()

    async def known() -> bool:
        return (await full.ask(full.one, "again", key=stranger))[0] == 200

    async def written() -> bool:
        return count(full, "outcome = 'miss' AND cost > 0") >= 21

    await full.until(known)
    await full.until(written)


async def test_boots_while_the_database_is_away(full: Full, tmp_path: Path) -> None:
    """A server that starts without its database serves health at once and heals by itself."""
    full.postgres.stop()
    settings = {
        name: text
        for name, text in full.one.environment.items()
        if name.isupper() and name not in ("WATCHLLM_DATA_DIR", "HOME", "PATH", "WATCHLLM_PORT")
    }
    loop = asyncio.get_running_loop()
    third = await loop.run_in_executor(None, lambda: Entered(tmp_path / "third", settings))
    with third as served:
        assert 503 == (await full.ask(served, "early"))[0]

        full.postgres.start()

        async def healed() -> bool:
            return (await full.ask(served, "early"))[0] == 200

        await full.until(healed)


async def test_tenants_never_see_each_others_answers(full: Full) -> None:
    """Fifty tenants, one question, half of the clients hanging up midway: each canary stays with one tenant."""
    keys = [
        json.loads(full.one.command("key", "create", project, "--json"))["key"]
        for project in tenants(full, 50)
    ]
    made = iter(range(10**6))
    seen: dict[str, set[int]] = {}

    def answer(call: Call) -> Reply | None:
        if call.method != "POST":
            return None
        number = next(made)
        call.raw = call.raw.replace(b"everyone", b"canary-%d" % number)
        call.body["messages"] = [{"role": "user", "content": f"say canary-{number}"}]
        return good_answer(call)

    full.upstream.answer = answer

    async def tenant(number: int, turn: int) -> None:
        served = (full.one, full.other)[(number + turn) % 2]
        asking = asyncio.ensure_future(
            full.ask(served, "everyone asks this", key=keys[number], stream=turn % 3 == 0)
        )
        if turn % 2:
            await asyncio.sleep(0.001 * (number % 7))
            asking.cancel()
        try:
            status, headers, body, _ = await asking
        except asyncio.CancelledError:
            return
        assert 200 == status
        if turn == 0:
            assert "MISS" == headers["x-watchllm-cached"]
        text = body.decode()
        start = text.find("canary-")
        assert start >= 0, text
        canary = text[start : start + 12].split('"')[0].split(".")[0].split(" ")[0]
        seen.setdefault(canary, set()).add(number)

    for turn in range(8):
        await asyncio.gather(*[tenant(number, turn) for number in range(50)])

    assert len(seen) >= 50
    assert {1} == {len(tenants_of_one) for tenants_of_one in seen.values()}


def tenants(full: Full, count_wanted: int) -> list[str]:
    """Projects, made in the database itself: fifty commands would take a minute."""
    names = [f"tenant{number}" for number in range(count_wanted)]
    with psycopg2.connect(full.one.environment["DATABASE_URL"]) as connection:
        cursor = connection.cursor()
        for name in names:
            cursor.execute(
                "INSERT INTO watchllm.projects (id, name, plan, cache_epoch, created_at)"
                " VALUES (%s, %s, 'unlimited', 0, 0)",
                (f"prj_{name}", name),
            )
    connection.close()
    return names


def count(full: Full, condition: str) -> int:
    connection = psycopg2.connect(full.one.environment["DATABASE_URL"])
    try:
        cursor = connection.cursor()
        cursor.execute(f"SELECT count(*) FROM watchllm.usage_log WHERE {condition}")
        return int(cursor.fetchone()[0])
    finally:
        connection.close()
