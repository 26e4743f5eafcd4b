"""R10: PostgreSQL fails in every way it can. Known keys are served, unknown ones are told to come back."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from contextlib import closing, suppress
from typing import Any

import psycopg2

from domain import apikey
from domain.project import PROJECT
from tests.chaos.client import Answer, Client, post
from tests.chaos.ending import hits
from tests.chaos.ledger import Audit, count, judge
from tests.chaos.node import Node
from tests.chaos.outages import loaded
from tests.chaos.stage import DURABLE, House, Stage
from tests.chaos.trial import Trial

CATCH_UP = 2_000
"""Rows a second."""
PAUSE = 0.5
CROWD = ("max_connections=16",)
MEGABYTES = 20

_THROW_OUT = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'watchllm'
"""

Change = Callable[[], Awaitable[Any]]


async def r10(stage: Stage, trial: Trial) -> None:
    async with stage.house(trial, keys=2, questions=trial.scale(4_000, 60_000)) as house:
        await _fails(house, trial, "")
    with trial.control("kept keys", "known keys") as broken:
        async with stage.house(broken, keys=2) as house:
            await _fails(house, broken, "held")


async def _fails(house: House, trial: Trial, broken: str) -> None:
    node = await house.started(processes=2, broken=broken)
    audit = house.audit()
    for _ in house.keys:
        question = house.question()
        audit.add(await asyncio.gather(*[house.ask(node, question) for _ in range(8)]))
    for name, hurt, heal, long, answers in _faults(house, trial):
        if broken and name != "down":
            continue
        strangers = await _unseen(house)
        await hurt()
        asking = [asyncio.create_task(_knocks(node, key)) for key in strangers]
        seen = await loaded(house, [node], trial.scale(2.0, long), trial.chance(name))
        audit.add(seen)
        bad = [one.status for one in seen if not one.good]
        trial.tell(f"{name}: {len(seen) - len(bad)} of {len(seen)} with known keys")
        trial.must(not bad, f"{name}: known keys got {bad[:3]}, {len(bad)} of {len(seen)}")
        if not answers:
            _turned_away(trial, name, [task.result() for task in asking if task.done()])
        if name == "down" and not broken:
            await _catches_up(house, trial, node, audit, heal)
        else:
            await heal()
        await asyncio.gather(*asking)
    if not broken:
        await _boots_without(house, trial)
        await judge(trial, house.url, audit, 30)


def _faults(house: House, trial: Trial) -> list[tuple[str, Change, Change, float, bool]]:
    """What is done, how it is undone, for how many seconds in full, and whether it answers questions meanwhile."""
    postgres = house.postgres
    crowd: list[Any] = []

    def thread(work: Callable[..., Any], *words: Any) -> Change:
        return lambda: asyncio.to_thread(work, *words)

    async def nothing() -> None:
        return None

    def squeeze() -> None:
        """Everybody is thrown out, and all places are taken before anybody is back."""
        postgres.restart(*DURABLE, *CROWD)
        until = time.monotonic() + 5
        while time.monotonic() < until:
            with suppress(psycopg2.OperationalError):
                while True:
                    crowd.append(psycopg2.connect(house.url, connect_timeout=2))
            crowd[0].autocommit = True
            cursor = crowd[0].cursor()
            cursor.execute(_THROW_OUT)
            if not cursor.fetchall():
                return

    def release() -> None:
        while crowd:
            crowd.pop().close()
        postgres.restart(*DURABLE)

    def alter(word: str) -> None:
        with closing(psycopg2.connect(postgres.url, connect_timeout=5)) as connection:
            connection.autocommit = True
            cursor = connection.cursor()
            cursor.execute(f"ALTER SYSTEM {word}")
            cursor.execute("SELECT pg_reload_conf()")

    read_only = "default_transaction_read_only"
    found = [
        ("down", thread(postgres.kill), thread(postgres.start, *DURABLE), 180.0, False),
        ("frozen", thread(postgres.pause), thread(postgres.resume), 60.0, False),
        ("restarted", thread(postgres.restart, *DURABLE), nothing, 15.0, True),
        ("crowded", thread(squeeze), thread(release), 15.0, False),
        (
            "read-only",
            thread(alter, f"SET {read_only} = on"),
            thread(alter, f"RESET {read_only}"),
            15.0,
            True,
        ),
    ]
    trial.chance("order").shuffle(found)
    return found


async def _unseen(house: House) -> list[str]:
    """Keys that no server has seen: two good ones, and one that nobody made."""
    made = [
        (await house.ring.create(house.projects[0], kind=PROJECT, name="unseen")).key
        for _ in range(2)
    ]
    return [*made, apikey.mint(PROJECT, os.urandom(apikey.RANDOM_BYTES))]


async def _knocks(node: Node, key: str) -> Answer:
    """Asks nothing: with a good key that is a 400, and leaves no trace at the provider."""
    await asyncio.sleep(0.2)
    client = Client(node.port)
    answer = await client.ask(post(key, b"{}"), patience=12)
    client.close()
    return answer


def _turned_away(trial: Trial, name: str, answers: list[Answer]) -> None:
    wrong = [one.status for one in answers if one.status != 503 or not one.retry_after]
    trial.must(not wrong, f"{name}: unknown keys got {wrong}")
    if answers:
        trial.tell(f"{len(answers)} unknown told to come back")


async def _catches_up(house: House, trial: Trial, node: Node, audit: Audit, heal: Change) -> None:
    """A long absence costs no memory, and is made good quickly."""
    question = audit.answers[0].question
    assert question is not None
    before = node.resident()
    audit.add(await hits(house, node, question, trial.scale(6_000, 20_000)))
    grown = (node.resident() - before) / 2**20
    trial.tell(f"{grown:.0f} MiB more")
    trial.must(grown <= MEGABYTES, f"waiting rows took {grown:.0f} MiB of memory")
    wanted = sum(one.whole and one.status == 200 for one in audit.answers)
    await heal()
    had = await count(house.url)
    there, grew, busy = had, time.monotonic(), 0.0
    until = grew + 30
    while there < wanted and grew < until and time.monotonic() < until:
        await asyncio.sleep(0.01)
        now, before = await count(house.url), there
        if now > before:
            # Not the pauses in which a process had given up asking for a while.
            busy += min(time.monotonic() - grew, PAUSE)
            there, grew = now, time.monotonic()
    rate = (there - had) / max(busy, 0.001)
    trial.tell(f"{there - had} rows caught up at {rate:.0f} a second")
    trial.must(there >= wanted and rate >= CATCH_UP, f"caught up at {rate:.0f} rows a second")


async def _boots_without(house: House, trial: Trial) -> None:
    """A server that starts without its database is there at once, and heals by itself."""
    key, *_ = await _unseen(house)
    await asyncio.to_thread(house.postgres.stop)
    node = await house.started()
    early = await _knocks(node, key)
    trial.must(early.status == 503 and bool(early.retry_after), f"early got {early.status}")
    await asyncio.to_thread(house.postgres.start, *DURABLE)
    began = time.monotonic()
    while (await _knocks(node, key)).status != 400 and time.monotonic() - began < 15:
        pass
    took = time.monotonic() - began
    trial.tell(f"a start without it healed in {took:.1f} s")
    trial.must(took <= 10, f"a start without it healed only in {took:.1f} s")
