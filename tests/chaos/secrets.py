"""R13: whatever happens, no key, password, prompt or answer is found where it does not belong."""

from __future__ import annotations

import asyncio
import re
import signal
from contextlib import closing
from pathlib import Path

import orjson
import psycopg2
from attrs import define

from adapters.redis.cluster import open_link
from tests.chaos.canaries import Canaries, answered, malformed, requests
from tests.chaos.client import Client, post
from tests.chaos.node import Node
from tests.chaos.stage import DURABLE, House, Stage
from tests.chaos.trial import Trial
from tests.support.telemetry import Receiver, receiving

_CONTROL = re.compile(rb"[\x00-\x09\x0b-\x1f\x7f-\xff]")
_TABLES = """
    SELECT quote_ident(table_schema) || '.' || quote_ident(table_name) FROM information_schema.tables
     WHERE table_schema NOT IN ('pg_catalog', 'information_schema') AND table_type = 'BASE TABLE'
"""


@define
class Found:
    """Everything that can be read afterwards, by where it was. `values` are the cache's."""

    places: dict[str, bytes]
    values: bytes
    lines: list[bytes]

    def leaks(self, canaries: Canaries) -> list[str]:
        found = [
            f"{name} in {place}"
            for name, text in canaries.named.items()
            for place, held in self.places.items()
            if text in held
        ]
        inside = canaries.named.keys() - {"answer"}
        found += [
            f"{name} in the cache's values"
            for name in sorted(inside)
            if canaries.named[name] in self.values
        ]
        return found

    def steering(self) -> list[bytes]:
        return [line[:200] for line in self.lines if _CONTROL.search(line)]


async def r13(stage: Stage, trial: Trial) -> None:
    async with stage.house(trial, keys=2) as house:
        rounds = trial.scale(1, 40)
        canaries, found = await _swept(house, "adapter", rounds)
        trial.tell(
            f"{sum(map(len, found.places.values())) >> 10} KiB in {len(found.places)} places"
        )
        trial.must(
            canaries.named["answer"] in found.values, "no answer was kept, so nothing was searched"
        )
        for place in (
            "Sentry",
            "traces",
            "statsd",
            "PostgreSQL",
            "the journal",
            "the log",
            "error bodies",
        ):
            trial.must(len(found.places[place]) > 100, f"nothing was found in {place}")
        trial.none(found.leaks(canaries), "canaries got out")
        trial.none(found.steering(), "log lines with a control byte")
        with trial.control("scrubber", "canaries") as broken:
            canaries, found = await _swept(house, "scrubber", 1)
            broken.none(found.leaks(canaries), "canaries got out")


async def _swept(house: House, broken: str, rounds: int) -> tuple[Canaries, Found]:
    canaries = Canaries()
    # Each run has fresh keys, for the first one ends one of its own.
    kept, ended = [
        await house.ring.create(house.projects[0], kind="project", name=name)
        for name in ("kept", "ended")
    ]
    await house.ring.revoke(ended.id)
    canaries.customer, canaries.revoked = kept.key, ended.key
    await asyncio.to_thread(house.valkey.call, "CONFIG", "SET", "requirepass", canaries.redis)
    with receiving() as sentry, receiving() as agent:
        node = house.node(broken=broken, **canaries.settings(house), **_watched(sentry, agent))
        await node.start()
        try:
            house.upstream.answer = lambda call: answered(call, canaries)
            bodies = b"".join(
                [await _traffic(house, node, canaries, kept.key) for _ in range(rounds)]
            )
            await _outage(house, node, canaries, kept.key)
            journal = _files(node.data)
            node.signal(signal.SIGTERM)
            await node.wait(20)
        finally:
            node.kill()
        keys, values = await _redis(canaries.settings(house)["REDIS_URL"])
    log = node.log_file.read_bytes()
    places = {
        "the log": log,
        "Sentry": sentry.everything,
        "traces": b"".join(one.body for one in agent.received),
        "statsd": b"\n".join(agent.datagrams),
        "error bodies": bodies,
        "Redis's keys": keys,
        "PostgreSQL": await asyncio.to_thread(_database, house.url),
        "the journal": journal + _files(node.data),
    }
    return canaries, Found(places, values, log.splitlines())


def _watched(sentry: Receiver, agent: Receiver) -> dict[str, str]:
    return {
        "SENTRY_DSN": sentry.dsn,
        "DD_TRACE_ENABLED": "true",
        "DD_AGENT_HOST": "127.0.0.1",
        "DD_TRACE_AGENT_PORT": str(agent.port),
        "DD_DOGSTATSD_PORT": str(agent.udp_port),
        "OTEL_EXPORTER_OTLP_ENDPOINT": agent.root,
    }


# --- what is sent -------------------------------------------------------------------------------------


async def _traffic(house: House, node: Node, canaries: Canaries, key: str) -> bytes:
    """Good, denied, hostile and unlucky requests. Gives the bodies of all answers that are errors."""
    client = Client(node.port)
    answers = []
    for request in requests(canaries, key):
        answers.append(await client.ask(request, patience=10))
    client.close()
    refused = [await _shouted(node, raw) for raw in malformed(canaries, key)]
    await _leaver(node, canaries, key)
    return b"\n".join([*refused, *(one.body for one in answers if one.status != 200)])


async def _shouted(node: Node, raw: bytes) -> bytes:
    """All that is said to it before the connection ends."""
    reader, writer = await asyncio.open_connection("127.0.0.1", node.port)
    writer.write(raw)
    writer.write_eof()
    try:
        async with asyncio.timeout(2):
            return await reader.read()
    except (OSError, TimeoutError):
        return b""
    finally:
        writer.transport.abort()


async def _leaver(node: Node, canaries: Canaries, key: str) -> None:
    """Asks and is gone."""
    _, writer = await asyncio.open_connection("127.0.0.1", node.port)
    body = {
        "model": "chaos-0",
        "messages": [{"role": "user", "content": f"gone {canaries.prompt}"}],
    }
    writer.write(post(key, orjson.dumps(body)))
    await writer.drain()
    writer.transport.abort()


async def _outage(house: House, node: Node, canaries: Canaries, key: str) -> None:
    """The database and Redis go; rows wait in the journal, which is then read where it lies."""
    await asyncio.to_thread(house.postgres.kill)
    await asyncio.to_thread(house.valkey.freeze)
    try:
        await _traffic(house, node, canaries, key)
    finally:
        house.valkey.thaw()
        await asyncio.to_thread(house.postgres.start, *DURABLE)


# --- what is read afterwards --------------------------------------------------------------------------


def _files(folder: Path) -> bytes:
    found = []
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            found += [file.name.encode(), file.read_bytes().strip(b"\0")]
    return b"\n".join(found)


async def _redis(url: str) -> tuple[bytes, bytes]:
    """All keys, and all values whatever their type. Takes the password away again."""
    link = open_link(url, connect_timeout=2, command_timeout=2)
    readers = {
        b"string": ("GET",),
        b"hash": ("HGETALL",),
        b"zset": ("ZRANGE", 0, -1),
        b"list": ("LRANGE", 0, -1),
    }
    try:
        keys = await link.execute("KEYS", "*")
        values = []
        for key in keys:
            read, *more = readers[await link.execute("TYPE", key)]
            values.append(repr(await link.execute(read, key, *more)).encode())
        await link.execute("CONFIG", "SET", "requirepass", "")
    finally:
        await link.aclose()
    return b"\n".join(keys), b"\n".join(values)


def _database(url: str) -> bytes:
    with closing(psycopg2.connect(url, connect_timeout=5)) as connection:
        cursor = connection.cursor()
        cursor.execute(_TABLES)
        found = []
        for (table,) in cursor.fetchall():
            cursor.execute(f"SELECT t::text FROM {table} t")
            found += [table, *(row for (row,) in cursor.fetchall())]
    return "\n".join(found).encode()
