"""R1: nothing is lost, doubled or wrongly priced while everything that can die dies, again and again."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine, Sequence
from random import Random
from typing import Any

from attrs import define

from tests.chaos.books import Question
from tests.chaos.client import Answer, beats
from tests.chaos.ledger import judge
from tests.chaos.node import Node, end
from tests.chaos.stage import DURABLE, House, Stage
from tests.chaos.trial import Trial

STREAMS, REPEATS = 0.4, 0.3
CAUGHT_UP = 60.0

Fault = Callable[[], Coroutine[Any, Any, None]]


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
BRIEF = Weather(4, 40, (3.0,), (), kills=1, terms=0)


async def r1(stage: Stage, trial: Trial) -> None:
    await _storm(stage, trial, trial.scale(SHORT, FULL), "")
    with trial.control("journal on disk") as broken:
        await _storm(stage, broken, BRIEF, "journal")


async def _storm(stage: Stage, trial: Trial, weather: Weather, broken: str) -> None:
    chance = trial.chance("weather")
    questions = int(weather.rate * weather.seconds * 1.1) + 100
    more = {"WATCHLLM_DRAIN_GRACE": "3s"}
    async with stage.house(trial, keys=8, questions=questions, **more) as house:
        house.books.delay = lambda question: _delay(trial.seed, question)
        node = await house.started(processes=2, broken=broken)
        for number in range(len(house.keys)):
            # Each worker gets to know each key while the database is there.
            await asyncio.gather(
                *[_warm(house, node, house.question(number), turn) for turn in range(6)]
            )
        audit = house.audit()
        audit.add(house.trial_answers)
        faults = [
            _timeline(chance, weather, weather.postgres, lambda long: _postgres_out(house, long)),
            _timeline(chance, weather, weather.valkey, lambda long: _valkey_out(house, long)),
            _timeline(
                chance, weather, [0.0] * weather.kills, lambda _: _hit(node, chance, signal.SIGKILL)
            ),
            _timeline(
                chance, weather, [0.0] * weather.terms, lambda _: _hit(node, chance, signal.SIGTERM)
            ),
        ]
        load = asyncio.create_task(_load(house, node, weather))
        await asyncio.gather(*faults)
        audit.add(await load)
        await house.revive()
        await judge(trial, house.url, audit, CAUGHT_UP if not broken else 6.0)
