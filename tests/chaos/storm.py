"""R1: nothing is lost, doubled or wrongly priced while everything that can die dies, again and again."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine, Sequence
from random import Random
from typing import Any
from zlib import crc32

from attrs import define

from tests.chaos.books import Question
from tests.chaos.client import Answer, beats
from tests.chaos.ledger import judge
from tests.chaos.node import Node, end
from tests.chaos.stage import DURABLE, House, Stage
from tests.chaos.trial import Trial

STREAMS, REPEATS = 0.4, 0.3
CAUGHT_UP = 60.0

Fault = Callable[[float], Coroutine[Any, Any, None]]


@define(frozen=True)
class Weather:
    """Seconds, questions a second, and how long each of the databases' outages is."""

    seconds: float
    rate: float
    postgres: Sequence[float]
    valkey: Sequence[float]
    kills: int
    terms: int


SHORT = Weather(13, 50, (2.5, 3.5), (1.0, 1.5), kills=2, terms=1)
FULL = Weather(420, 150, (30, 30, 180, 30, 30), (10, 10, 10, 10, 10), kills=5, terms=5)
BRIEF = Weather(4, 40, (3.2,), (), kills=3, terms=0)


async def r1(stage: Stage, trial: Trial) -> None:
    await _storm(stage, trial, trial.scale(SHORT, FULL), "")
    with trial.control("journal on disk", "lost") as broken:
        await _storm(stage, broken, BRIEF, "journal")


async def _storm(stage: Stage, trial: Trial, weather: Weather, broken: str) -> None:
    questions = int(weather.rate * weather.seconds) + 200
    more = {"WATCHLLM_DRAIN_GRACE": "3s"}
    async with stage.house(trial, keys=8, questions=questions, settings=more) as house:
        node = await house.started(processes=2, broken=broken)
        audit = house.audit()
        audit.add(await _introduced(house, node))
        house.books.delay = lambda question: _delay(trial.seed, question)

        async def postgres(long: float) -> None:
            await asyncio.to_thread(house.postgres.kill)
            await asyncio.sleep(long)
            await asyncio.to_thread(house.postgres.start, *DURABLE)

        async def valkey(long: float) -> None:
            house.valkey.kill()
            await asyncio.sleep(long)
            await asyncio.to_thread(house.valkey.start)

        hits = trial.chance("hits")
        timelines = [
            _timeline(trial.chance("postgres"), weather, weather.postgres, postgres),
            _timeline(trial.chance("valkey"), weather, weather.valkey, valkey),
            *[
                _timeline(hits, weather, [0.0] * times, _hitting(node, hits, how))
                for how, times in (
                    (signal.SIGKILL, weather.kills),
                    (signal.SIGTERM, weather.terms),
                )
            ],
        ]
        load = asyncio.create_task(_load(house, node, weather))
        await asyncio.gather(*timelines)
        audit.add(await load)
        await judge(trial, house.url, audit, 3.0 if broken else CAUGHT_UP)
        trial.none([line for line in node.log.splitlines() if _crash(line)], "crashes")


async def _introduced(house: House, node: Node) -> list[Answer]:
    """Each worker gets to know each key while the database is there."""
    told: list[Answer] = []
    for number in range(len(house.keys)):
        question = house.question()
        assert question.key == number
        # At once, so that they go over different connections, which the kernel spreads.
        told += await asyncio.gather(*[house.ask(node, question) for _ in range(8)])
    return told


async def _load(house: House, node: Node, weather: Weather) -> list[Answer]:
    chance = house.trial.chance("load")
    asked: list[Question] = []
    sent: list[asyncio.Task[Answer]] = []
    async for _ in beats(weather.rate, weather.seconds):
        repeats = len(asked) > 20 and chance.random() < REPEATS
        question = chance.choice(asked[-200:]) if repeats else house.question()
        if not repeats:
            asked.append(question)
        stream = chance.random() < STREAMS
        sent.append(asyncio.create_task(house.ask(node, question, stream=stream)))
    return list(await asyncio.gather(*sent))


def _timeline(
    chance: Random, weather: Weather, lasting: Sequence[float], fault: Fault
) -> Coroutine[Any, Any, None]:
    """The faults one after the other, with what time is left spread between them."""
    free = weather.seconds * 0.95 - sum(lasting)
    cuts = sorted(chance.random() * free for _ in lasting)
    waits = [here - before for before, here in zip([0.0, *cuts], cuts, strict=False)]

    async def run() -> None:
        for wait, long in zip(waits, lasting, strict=True):
            await asyncio.sleep(wait)
            await fault(long)

    return run()


def _hitting(node: Node, chance: Random, how: signal.Signals) -> Fault:
    async def hit(_: float) -> None:
        workers = node.workers()
        if workers:
            end(chance.choice(workers), how)

    return hit


def _delay(seed: int, question: Question) -> float:
    """Most take a moment, every tenth takes a second or more."""
    drawn = crc32(f"{seed}/{question.text}/slow".encode())
    return 1.0 + drawn % 997 / 500 if drawn % 10 == 0 else 0.02 + drawn % 991 / 5_000


def _crash(line: str) -> bool:
    return '"a request crashed"' in line or "a background loop crashed" in line
