"""What is broken is seen from outside: one line in the log for each change, an event, a span and a metric.

A real server with a real Valkey, a real PostgreSQL and a scripted provider; Sentry and a Datadog agent are receivers on
real sockets.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import psycopg2
import pytest
from attrs import define, field

from adapters.telemetry.families import COUNTERS, GAUGES, HISTOGRAMS, SUMS
from app.desk import key_ring, project_book
from app.storage import open_storage
from config.settings import read_settings
from domain.project import PROJECT
from tests.chaos.broken import CRASH
from tests.chaos.node import Node
from tests.support.fixtures import async_fixture
from tests.support.house import QUESTION, open_house
from tests.support.postgres import PostgresServer, new_server
from tests.support.telemetry import Receiver, receiving
from tests.support.upstream import ScriptedUpstream
from tests.support.valkey import ValkeyServer, valkey_server

SECRET = "0123456789abcdef-seen-from-outside-0123456789abcdef"
PATIENCE = 40.0
ENOUGH = 12
"""Requests into an outage: more than any number of failures in a row that begins one."""


@define
class Scene:
    """One server and everybody around it. `spare` is a key that the server has not met."""

    node: Node
    valkey: ValkeyServer
    postgres: PostgresServer
    upstream: ScriptedUpstream
    sentry: Receiver
    agent: Receiver
    http: aiohttp.ClientSession
    key: str
    spare: str
    asked: int = field(default=0)

    async def ask(self, content: str = "", key: str = "", **more: Any) -> int:
        """The status of a question that was never asked before, unless it is given."""
        self.asked += 1
        text = content or f"question {self.asked}"
        document = {"model": "gpt-4o", "messages": [{"role": "user", "content": text}], **more}
        async with self.http.post(
            f"http://127.0.0.1:{self.node.port}/v1/chat/completions",
            json=document,
            headers={"Authorization": f"Bearer {key or self.key}"},
        ) as answer:
            await answer.read()
            return answer.status

    async def asks(self) -> set[int]:
        return {await self.ask() for _ in range(ENOUGH)}

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.node.log.splitlines() if line.startswith("{")]

    def told(self) -> list[str]:
        """What the log says of changes, in order: all that is trouble, and the ends of it."""
        over = re.compile(r"again|is back")
        return [
            line["message"]
            for line in self.lines()
            if line["level"] != "info" or over.search(line["message"])
        ]

    def alarms(self) -> list[dict[str, str]]:
        """The error spans of changes."""
        return [
            span["meta"]
            for trace in self.agent.traces()
            for span in trace
            if span["name"] == "watchllm.alarm" and span["error"] == 1
        ]

    def failed(self) -> list[str]:
        """The error types of failed requests' spans."""
        return [
            span["meta"]["error.type"]
            for trace in self.agent.traces()
            for span in trace
            if span["name"] == "watchllm.request" and span["error"] == 1
        ]

    async def metrics(self) -> dict[str, float]:
        async with self.http.get(f"http://127.0.0.1:{self.node.port}/metrics") as answer:
            page = (await answer.read()).decode()
        rows = (line.rpartition(" ") for line in page.splitlines() if not line.startswith("#"))
        return {name: float(number) for name, _, number in rows}

    async def metric(self, start: str, *labels: str) -> float:
        """The sum of the series that begin so and have these labels."""
        found = await self.metrics()
        return sum(
            number
            for name, number in found.items()
            if name.startswith(start) and all(label in name for label in labels)
        )


async def until(true: Callable[[], Any]) -> None:
    ends = time.monotonic() + PATIENCE
    while True:
        found = true()
        if found is not None and not isinstance(found, bool | int | list):
            found = await found
        if found:
            return
        assert time.monotonic() < ends
        await asyncio.sleep(0.1)


def last_frame(event: dict[str, Any]) -> tuple[str, str]:
    frame = event["exception"]["values"][-1]["stacktrace"]["frames"][-1]
    return Path(frame["filename"]).name, frame["function"]


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    server = new_server()
    try:
        server.start()
        yield server
    finally:
        server.remove()


@asynccontextmanager
async def staged(
    folder: Path, postgres: PostgresServer, broken: str = "", **more: str
) -> AsyncIterator[Scene]:
    name = f"seen_{time.monotonic_ns()}"
    connection = psycopg2.connect(postgres.url)
    connection.autocommit = True
    connection.cursor().execute(f"CREATE DATABASE {name}")
    connection.close()
    with receiving() as sentry, receiving() as agent, valkey_server() as valkey:
        async with ScriptedUpstream() as upstream, aiohttp.ClientSession() as http:
            settings = {
                "DATABASE_URL": postgres.url.rpartition("/")[0] + f"/{name}",
                "REDIS_URL": valkey.url,
                "WATCHLLM_SECRET_KEY": SECRET,
                "OPENAI_API_KEY": "sk-x",
                "OPENAI_BASE_URL": upstream.openai,
            }
            key, spare = await furnished(settings, folder)
            watched = {
                "SENTRY_DSN": sentry.dsn,
                "DD_TRACE_ENABLED": "true",
                "DD_AGENT_HOST": "127.0.0.1",
                "DD_TRACE_AGENT_PORT": str(agent.port),
                "DD_DOGSTATSD_PORT": str(agent.udp_port),
            }
            node = Node(folder / "node", settings | watched | more, broken=broken)
            await node.start()
            try:
                yield Scene(node, valkey, postgres, upstream, sentry, agent, http, key, spare)
            finally:
                node.kill()


async def furnished(settings: dict[str, str], folder: Path) -> tuple[str, str]:
    read = read_settings({**settings, "WATCHLLM_DATA_DIR": str(folder / "desk")})
    storage = open_storage(read)
    await storage.migrate()
    project = await project_book(storage).create("seen", plan="unlimited")
    ring = key_ring(read, storage)
    made = [await ring.create(project.id, kind=PROJECT, name=name) for name in ("one", "other")]
    await storage.aclose()
    return made[0].key, made[1].key


@async_fixture
async def scene(tmp_path: Path, postgres: PostgresServer) -> AsyncIterator[Scene]:
    async with staged(tmp_path, postgres) as found:
        assert 200 == await found.ask()
        yield found


async def test_a_provider_that_breaks(scene: Scene) -> None:
    """Its key is refused, or it fails: one line and one event each. Each ends with one line."""
    await scene.upstream.break_with("401")
    assert {502} == await scene.asks()
    await until(lambda: scene.sentry.events() and scene.alarms())

    assert ["a provider refused our key"] == scene.told()
    [line] = [line for line in scene.lines() if line["level"] == "error"]
    assert ("openai", 401) == (line["provider"], line["status"])
    [event] = scene.sentry.events()
    assert ("alarms.py", "provider_key") == last_frame(event)
    assert "a provider refused our key" == event["exception"]["values"][-1]["value"]
    assert "openai" == event["tags"]["provider"]
    [span] = scene.alarms()
    assert "in provider_key\n" in span["error.stack"]
    assert "a provider refused our key" == span["error.message"]
    await until(lambda: len(scene.failed()) == ENOUGH)
    assert 1 == await scene.metric("watchllm_provider_key_refused", 'provider="openai"')
    assert ENOUGH == await scene.metric("watchllm_upstream_errors_total", 'status="502"')
    assert 1 == await scene.metric("watchllm_alarms_total", 'where="app.services.alarms"')

    expected = ["a provider refused our key"]
    for fault, says, gauge in (
        ("401", "takes our key", "watchllm_provider_key_refused"),
        ("500", "answers", "watchllm_provider_failing"),
        ("refuse", "answers", "watchllm_provider_failing"),
    ):
        if fault != "401":
            await scene.upstream.break_with(fault)
            assert {502} == await scene.asks()
            expected.append("a provider fails")
            assert expected == scene.told()
            assert 1 == await scene.metric(gauge, 'provider="openai"')
        await scene.upstream.heal()
        expected.append(f"a provider {says} again")

        async def mended(end: str = expected[-1]) -> bool:
            assert 200 == await scene.ask()
            return scene.told()[-1] == end

        await until(mended)
        assert 0 == await scene.metric(gauge, 'provider="openai"')

    assert expected == scene.told()
    await until(lambda: len(scene.alarms()) == 3)
    await until(lambda: len(scene.failed()) == 3 * ENOUGH)
    assert 3 * ENOUGH == await scene.metric("watchllm_upstream_errors_total", 'status="502"')
    await until(lambda: len(scene.sentry.events()) == 3)
    assert ["provider_key", "provider", "provider"] == [
        last_frame(event)[1] for event in scene.sentry.events()
    ]


async def test_a_cache_that_stops_and_dies(scene: Scene) -> None:
    """Frozen, then killed: one line and one event when it goes, and one line when it is back."""
    valkey, expected = scene.valkey, []
    name = f"Redis at 127.0.0.1:{valkey.port}"
    for hurt, heal in ((valkey.freeze, valkey.thaw), (valkey.kill, valkey.start)):
        await asyncio.to_thread(hurt)
        try:
            assert {200} == await scene.asks()
            await until(lambda: scene.metric("watchllm_breaker_open", 'name="redis"'))
            await until(lambda: gone(scene, "redis"))
            assert {200} == await scene.asks()
        finally:
            await asyncio.to_thread(heal)
        await until(lambda: scene.metric("watchllm_dependency_up", 'name="redis"'))
        assert 0 == await scene.metric("watchllm_breaker_open", 'name="redis"')
        expected += [f"{name} is away", f"{name} is back"]

    said = [re.split(r": no| after ", line)[0] for line in scene.told()]
    assert expected == said
    await until(lambda: len(scene.alarms()) == 2)
    assert all("in trip\n" in span["error.stack"] for span in scene.alarms())
    assert 2 == await scene.metric("watchllm_alarms_total", 'where="adapters.redis.breaker"')
    await until(lambda: len(scene.sentry.events()) == 2)
    assert {("breaker.py", "trip")} == {last_frame(event) for event in scene.sentry.events()}


async def gone(scene: Scene, name: str) -> bool:
    found = await scene.metrics()
    return found[f'watchllm_dependency_up{{name="{name}",worker="0"}}'] == 0


async def test_a_database_that_dies(scene: Scene) -> None:
    """Known keys are served, others are told to come back. Whoever needs it says so once, and once when it is back; one
    event tells of it, and rows that wait are seen to."""
    await asyncio.to_thread(scene.postgres.kill)
    try:
        assert {200} == await scene.asks()
        assert {503} == {await scene.ask(key=scene.spare) for _ in range(ENOUGH)}
        await until(lambda: gone(scene, "supabase"))
        await until(lambda: scene.metric("watchllm_journal_backlog_rows"))
        assert ENOUGH <= await scene.metric("watchllm_journal_backlog_rows")
        assert 0 < await scene.metric("watchllm_journal_oldest_seconds")
        assert ENOUGH == await scene.metric("watchllm_rejected_total", 'status="503"')
        await until(lambda: len(scene.alarms()) >= 2)
    finally:
        await asyncio.to_thread(scene.postgres.start)

    await until(lambda: {"PostgreSQL answers again", "the ledger is back"} <= set(scene.told()))
    assert 200 == await scene.ask(key=scene.spare)
    told = Counter(
        (line["message"].partition(":")[0], line.get("chore"))
        for line in scene.lines()
        if line["message"] in scene.told()
    )
    assert {("PostgreSQL does not answer", None), ("PostgreSQL answers again", None)} <= set(told)
    assert {1} == set(told.values())
    assert ("the ledger is away; usage rows wait in the journal", None) in told
    stacks = "".join(span["error.stack"] for span in scene.alarms())
    assert "adapters/sql/postgres.py" in stacks
    assert "adapters/journal/shipper.py" in stacks
    await until(lambda: scene.metric("watchllm_dependency_up", 'name="supabase"'))
    [event] = scene.sentry.events()
    assert ("postgres.py", "_notice") == last_frame(event)


async def test_an_exception_that_nobody_expected(tmp_path: Path, postgres: PostgresServer) -> None:
    """A broken adapter: a 500, one line with its traceback, one event that ends in the line that raised, one error span
    in the request's own trace, one count. No word of the prompt in any of them."""
    async with staged(tmp_path, postgres, broken="adapter") as scene:
        assert 200 == await scene.ask()
        assert 500 == await scene.ask(f"{CRASH} tangerine")
        await until(lambda: scene.sentry.events() and crashes(scene))

        assert ["a request crashed"] == scene.told()
        [line] = [line for line in scene.lines() if line["level"] == "error"]
        assert "tests/chaos/broken.py" in line["exception"]
        [event] = scene.sentry.events()
        assert ("broken.py", "complete") == last_frame(event)
        assert "LookupError" == event["exception"]["values"][-1]["type"]
        assert {"request": line["request"], "route": "chat/completions", "model": "gpt-4o"} == {
            name: event["tags"][name] for name in ("request", "route", "model")
        }
        [crash] = crashes(scene)
        assert ("LookupError", 1) == (crash["meta"]["error.type"], crash["error"])
        assert "in complete\n" in crash["meta"]["error.stack"]
        assert int(line["request"].replace("-", "")[16:], 16) == crash["trace_id"]
        assert 1 == await scene.metric("watchllm_crashes_total", 'where="app.web.front"')
        assert 1 == len([one for one in scene.agent.lines() if "watchllm.crashes:1|c" in one])
        assert b"tangerine" not in scene.sentry.everything + scene.agent.everything
        assert "tangerine" not in scene.node.log


def crashes(scene: Scene) -> list[dict[str, Any]]:
    spans = [span for trace in scene.agent.traces() for span in trace]
    return [span for span in spans if span["name"] == "watchllm.crash"]


QUIET = {
    "watchllm_alarms_total",
    "watchllm_crashes_total",
    "watchllm_notices_dead_total",
    "watchllm_notices_failed_total",
    "watchllm_notices_sent_total",
    "watchllm_upstream_errors_total",
    "watchllm_unpriced_requests_total",
}
"""Have no series until the first of what they count."""
MOVED = {
    "watchllm_cache_bytes",
    "watchllm_cache_entries",
    "watchllm_cost_dollars_total",
    "watchllm_dependency_up",
    "watchllm_in_flight_requests",
    "watchllm_journal_bytes",
    "watchllm_limiter_decisions_total",
    "watchllm_loop_lag_seconds",
    "watchllm_open_connections",
    "watchllm_rejected_total",
    "watchllm_requests_total",
    "watchllm_saved_dollars_total",
    "watchllm_tokens_total",
}


async def test_every_metric_has_a_source(scene: Scene) -> None:
    """A running server exports each name of the table, and those that tell of traffic move with it."""
    for content in ("one", "one", "two"):
        assert 200 == await scene.ask(content)
    assert 401 == await scene.ask(key="nobody's")
    assert 404 == await scene.ask(model="nobody-makes-this")
    await scene.upstream.break_with("hang")
    hanging = asyncio.create_task(scene.ask())
    await until(lambda: scene.metric("watchllm_in_flight_requests"))
    await until(lambda: scene.metric("watchllm_loop_lag_seconds"))
    found = await scene.metrics()
    hanging.cancel()

    parts = re.compile(r"(_bucket|_sum|_count|_created)?(\{.*)?$")
    exported = {parts.sub("", name) for name in found}
    moved = {parts.sub("", name) for name, number in found.items() if number > 0}
    assert set() == {*GAUGES, *COUNTERS, *SUMS, *HISTOGRAMS} - exported - QUIET
    assert set() == MOVED - moved
    assert 3 == await scene.metric("watchllm_requests_total", 'status="200"') - 1
    # The page's own connection is one, too.
    assert 2 <= found['watchllm_open_connections{worker="0"}']


async def test_a_cache_in_a_file_is_measured_too(tmp_path: Path) -> None:
    """What it holds, beside what memory does."""
    async with open_house(tmp_path) as house:
        assert 200 == (await house.ask(QUESTION, key=house.test_key)).status

        async def written() -> bool:
            page = (await house.ask(None, "/metrics", method="GET")).body.decode()
            return 'watchllm_cache_entries{tier="disk",worker="0"} 1.0' in page

        await until(written)
        page = (await house.ask(None, "/metrics", method="GET")).body.decode()
        [held] = re.findall(r'watchllm_cache_bytes\{tier="disk",worker="0"\} (\S+)', page)
        assert 200 < float(held) < 5_000
        assert 'watchllm_cache_evictions_total{tier="disk"} 0.0' in page
