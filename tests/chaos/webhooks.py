"""R12: what Stripe tells happens exactly once, however it comes and whatever dies meanwhile; and people are told of it."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Coroutine, Mapping, Sequence
from random import Random
from typing import Any

import orjson
from attrs import define

from tests.chaos.client import Answer
from tests.chaos.ledger import query
from tests.chaos.lives import Outcome
from tests.chaos.node import Node
from tests.chaos.notified import judge_notices, notices_told
from tests.chaos.shop import COPIES, Shop, deliver, deliver_all, open_shop, outcome
from tests.chaos.stage import DURABLE, Stage
from tests.chaos.trial import Trial, ms, percentile
from tests.support.stripe_events import body

QUICK = 0.2
ASKING = 5.0
"""Seconds within which Stripe was asked of what is in doubt."""


@define(frozen=True)
class Weather:
    """Deliveries a second; seconds that each outage of the database lasts, and how often a server is killed."""

    events: int
    rate: float
    postgres: Sequence[float]
    kills: int


SHORT = Weather(120, 75, (0.7,), kills=1)
FULL = Weather(1_000, 30, (3.0, 8.0), kills=2)
FEW, BRISK = 30, 60
"""Events for a server without one of its guards, and deliveries of them a second."""
_GUARDS = (
    ("ids", "unique ids", "logged more than once"),
    ("order", "order", "subscriptions wrong"),
    ("signatures", "signatures", "forged events logged"),
)
"""What `tests.chaos.broken` takes away, how that is called, and what must be said of it."""


async def r12(stage: Stage, trial: Trial) -> None:
    begin = float(int(time.time()))
    weather = trial.scale(SHORT, FULL)
    async with open_shop(stage, trial, weather.events, begin) as shop:
        await asyncio.gather(*[shop.house.started() for _ in range(2)])
        await _storm(shop, weather)
        await _judge(shop, ASKING)
        await judge_notices(shop)
        _judge_times(shop)
        stormy = await outcome(shop)
    await asyncio.gather(
        _in_order(stage, trial, weather, begin, stormy),
        *[_unguarded(stage, trial, begin, *guard) for guard in _GUARDS[: trial.scale(2, 3)]],
    )


async def _in_order(
    stage: Stage, trial: Trial, weather: Weather, begin: float, stormy: Outcome
) -> None:
    """The same lives once more, each event once and in order, in calm."""
    async with open_shop(stage, trial, weather.events, begin) as shop:
        await shop.house.started()
        for document in sorted(shop.events, key=lambda one: int(one["created"])):
            await deliver(shop, document, trial.chance("calm"))
        calm = await _settled(shop, ASKING)
        notices = await notices_told(shop)
    _same(trial, "subscriptions other than in calm", stormy.subscriptions, calm.subscriptions)
    _same(trial, "plans other than in calm", stormy.plans, calm.plans)
    trial.none(notices, "notices other than in calm")


async def _unguarded(
    stage: Stage, trial: Trial, begin: float, guard: str, without: str, sign: str
) -> None:
    with trial.control(without, sign) as broken:
        async with open_shop(stage, broken, FEW, begin) as shop:
            await shop.house.started(broken=guard)
            await deliver_all(shop, BRISK)
            await _judge(shop, 0.0)


# --- the storm -------------------------------------------------------------------------------------


async def _storm(shop: Shop, weather: Weather) -> None:
    long = len(shop.events) * COPIES / weather.rate
    chance = shop.trial.chance("faults")
    nodes = shop.house.nodes
    faults = [
        _later(at * long, _postgres_dies(shop, lasting))
        for at, lasting in zip(
            _moments(chance, len(weather.postgres)), weather.postgres, strict=True
        )
    ]
    faults += [
        _later(at * long, _server_dies(shop, nodes[number % len(nodes)]))
        for number, at in enumerate(_moments(chance, weather.kills))
    ]
    await asyncio.gather(deliver_all(shop, weather.rate), *faults)


async def _later(seconds: float, fault: Coroutine[Any, Any, None]) -> None:
    await asyncio.sleep(seconds)
    await fault


def _moments(chance: Random, times: int) -> list[float]:
    """Each in a part of its own of the time, as shares of it."""
    return [(at + 0.1 + 0.7 * chance.random()) / times for at in range(times)]


async def _postgres_dies(shop: Shop, lasting: float) -> None:
    began = asyncio.get_running_loop().time()
    answered = {*shop.accepted}
    await asyncio.to_thread(shop.house.postgres.kill)
    await asyncio.sleep(lasting)
    await asyncio.to_thread(shop.house.postgres.start, *DURABLE)
    logged = await asyncio.to_thread(
        query, shop.house.url, "SELECT id FROM watchllm.billing_events"
    )
    shop.lost |= answered - {id for (id,) in logged}
    shop.over(began)


async def _server_dies(shop: Shop, node: Node) -> None:
    began = asyncio.get_running_loop().time()
    node.kill()
    await asyncio.sleep(0.3)
    shop.kills.append(len(shop.mails.mails))
    await node.start()
    shop.over(began)


# --- what came of it -------------------------------------------------------------------------------


async def _judge(shop: Shop, patience: float) -> None:
    """The log of events, and what the subscriptions and plans are."""
    trial = shop.trial
    genuine = {document["id"]: body(document) for document in shop.events}
    rows = await asyncio.to_thread(
        query, shop.house.url, "SELECT id, body FROM watchllm.billing_events"
    )
    logged = Counter(_told_id(bytes(text)) for _, text in rows)
    known = {*genuine.values()}
    trial.tell(f"{len(genuine)} events of {len(shop.lives)} customers, {_failed(shop)}")
    trial.none(sorted(genuine.keys() - shop.accepted.keys()), "events never taken")
    trial.none(sorted(shop.lost | (shop.accepted.keys() - logged.keys())), "events lost")
    trial.none([id for id, times in logged.items() if times > 1], "events logged more than once")
    trial.none([id for id, text in rows if bytes(text) not in known], "forged events logged")
    trial.must({*shop.refused} <= {400}, f"forged events were answered with {dict(shop.refused)}")
    trial.tell(f"{shop.refused[400]} forged ones refused")
    trial.none(
        [id for id, answers in shop.accepted.items() if sum(map(_fresh, answers)) > 1],
        "events applied more than once",
    )
    lines = [line for node in shop.house.nodes for line in node.log.splitlines()]
    trial.none([line for line in lines if "crashed" in line], "crashes")
    unknown = sum("Stripe could not tell more" in line for line in lines)
    trial.tell(f"{unknown} questions that Stripe did not answer in time")
    strange = {*shop.statuses} - {0, 503}
    trial.must(not strange, f"events were answered with {dict(shop.statuses)}")
    found, wanted = await _settled(shop, patience), shop.expected()
    _same(trial, "subscriptions wrong", found.subscriptions, wanted.subscriptions)
    _same(trial, "plans wrong", found.plans, wanted.plans)


async def _settled(shop: Shop, patience: float) -> Outcome:
    """As it is once Stripe was asked of what is in doubt."""
    loop = asyncio.get_running_loop()
    until, wanted = loop.time() + patience, shop.expected()
    while True:
        found = await outcome(shop)
        well = (found.subscriptions, found.plans) == (wanted.subscriptions, wanted.plans)
        if well or loop.time() >= until:
            return found
        await asyncio.sleep(0.1)


def _same(
    trial: Trial, what: str, found: Mapping[str, object], wanted: Mapping[str, object]
) -> None:
    differing = [
        f"{name}: {found.get(name)} and not {wanted.get(name)}"
        for name in sorted(found.keys() | wanted.keys())
        if found.get(name) != wanted.get(name)
    ]
    trial.none(differing, what)


def _failed(shop: Shop) -> str:
    again = ", ".join(f"{number} x {status}" for status, number in sorted(shop.statuses.items()))
    return f"sent again after {again}" if again else "none sent again"


def _fresh(answer: Answer) -> bool:
    return answer.whole and orjson.loads(answer.body)["duplicate"] is False


def _told_id(text: bytes) -> str:
    return str(orjson.loads(text)["id"])


def _judge_times(shop: Shop) -> None:
    trial = shop.trial
    taken = [
        answer.took
        for answers in shop.accepted.values()
        for answer in answers
        if not any(answer.began < end and began < answer.ended for began, end in shop.outages)
    ]
    p99 = percentile(taken, 0.99)
    told = (
        f"{len(taken)} taken outside of outages, {ms(percentile(taken, 0.5))} each, p99 {ms(p99)}"
    )
    trial.tell(told)
    if trial.full:
        trial.must(p99 <= QUICK, told)
