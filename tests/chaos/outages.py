"""R9: Redis fails in every way it can, and nobody who asks is the worse for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from random import Random
from typing import Any

from attrs import define

from tests.chaos.client import Answer, paced
from tests.chaos.node import Node, free_port
from tests.chaos.stage import House, Stage
from tests.chaos.trial import Trial, ms, percentile
from tests.support.relay import relay

LATE, BUSY = 0.060, 0.002
"""What a request may wait longer: until the breaker opens, and afterwards."""
NOISE = 0.010
"""What the other servers of this very machine may add to a median."""
BACK = 3.0

Change = Callable[[], Awaitable[Any]]


@define
class Lag:
    """Seconds that a relay holds back each answer."""

    seconds: float = 0.0

    def __call__(self) -> float:
        return self.seconds


async def r9(stage: Stage, trial: Trial) -> None:
    async with _two(stage, trial, "") as (house, near, far, lag):
        for name, hurt, heal, long in _redis_faults(house, lag, trial):
            seen = await _under(house, [near, far], hurt, heal, trial.scale(1.5, long))
            _check_latency(trial, name, seen, far if name == "slow" else None)
            back = await _shared_again(house, near, far)
            trial.must(back <= BACK, f"{name}: hits came back after {back:.1f} s")
    with trial.control("breaker", "waited") as broken:
        async with _two(stage, broken, "breaker") as (house, near, far, lag):
            faults = _redis_faults(house, lag, broken)
            name, hurt, heal, _ = next(fault for fault in faults if fault[0] == "frozen")
            seen = await _under(house, [near, far], hurt, heal, 2.5)
            _check_latency(broken, name, seen, None)


@asynccontextmanager
async def _two(
    stage: Stage, trial: Trial, broken: str
) -> AsyncIterator[tuple[House, Node, Node, Lag]]:
    """The second server's Redis is behind a relay."""
    questions = trial.scale(4_000, 60_000)
    async with stage.house(trial, questions=questions) as house:
        lag = Lag()
        async with relay(house.valkey.port, delay=lag) as port:
            near = house.node(broken=broken)
            far = house.node(broken=broken, REDIS_URL=f"redis://127.0.0.1:{port}")
            await asyncio.gather(near.start(), far.start())
            for node in (near, far, near, far):
                await house.ask(node, house.question())
            yield house, near, far, lag


def _redis_faults(house: House, lag: Lag, trial: Trial) -> list[tuple[str, Change, Change, float]]:
    """What is done, how it is undone, and for how many seconds in full."""
    valkey = house.valkey
    storm: list[asyncio.Task[None]] = []

    async def nothing() -> None:
        return None

    async def kill() -> None:
        await asyncio.to_thread(valkey.kill)

    async def start() -> None:
        await asyncio.to_thread(valkey.start)

    async def restart() -> None:
        await kill()
        await start()

    async def freeze() -> None:
        valkey.freeze()

    async def thaw() -> None:
        valkey.thaw()

    async def slow() -> None:
        lag.seconds = 0.2

    async def quick() -> None:
        lag.seconds = 0.0

    def says(*words: str) -> Change:
        async def say() -> None:
            await asyncio.to_thread(valkey.call, *words)

        return say

    async def cut_all() -> None:
        while True:
            await says("CLIENT", "KILL", "TYPE", "normal")()
            await asyncio.sleep(0.02)

    async def begin_storm() -> None:
        storm.append(asyncio.create_task(cut_all()))

    async def end_storm() -> None:
        storm.pop().cancel()

    replica = says("REPLICAOF", "127.0.0.1", str(free_port()))
    found = [
        ("down", kill, start, 60.0),
        ("frozen", freeze, thaw, 60.0),
        ("slow", slow, quick, 60.0),
        ("restarted empty", restart, nothing, 15.0),
        ("full", says("CONFIG", "SET", "maxmemory", "1"), says("CONFIG", "SET", "maxmemory", "0"), 15.0),
        ("cutting", begin_storm, end_storm, 15.0),
        ("a replica", replica, says("REPLICAOF", "NO", "ONE"), 15.0),
    ]  # fmt: skip
    trial.chance("order").shuffle(found)
    return found


@define
class Seen:
    """Answers before a fault and while it lasted. `began` is the loop's time of it."""

    before: list[Answer]
    during: list[Answer]
    began: float


async def _under(
    house: House, nodes: list[Node], hurt: Change, heal: Change, seconds: float
) -> Seen:
    """An even load, first on a well installation and then beside the fault; half of it asks what was asked before."""
    loop = asyncio.get_running_loop()
    chance = house.trial.chance("load")
    before = await loaded(house, nodes, 0.8, chance)
    await hurt()
    began = loop.time()
    during = await loaded(house, nodes, seconds, chance)
    await heal()
    return Seen(before, during, began)


async def loaded(house: House, nodes: list[Node], seconds: float, chance: Random) -> list[Answer]:
    latest = [house.question()]

    def send(number: int) -> asyncio.Task[Answer]:
        if number % 4:
            latest.append(house.question())
        node = nodes[number % len(nodes)]
        stream = chance.random() < 0.4
        return asyncio.create_task(house.ask(node, chance.choice(latest[-20:]), stream=stream))

    return await paced(house.trial.scale(50.0, 150.0), seconds, send)


def _check_latency(trial: Trial, name: str, seen: Seen, only: Node | None) -> None:
    bad = [(one.status, one.whole) for one in seen.during if not one.good]
    trial.must(
        len(bad) <= len(seen.during) / 1_000,
        f"{name}: {len(bad)} of {len(seen.during)} went wrong, such as {bad[:3]}",
    )
    usual = percentile([one.took for one in seen.before], 0.5)
    tail = percentile([one.took for one in seen.before], 0.99)
    of = [one for number, one in enumerate(seen.during) if only is None or number % 2]
    first = percentile([one.took for one in of if one.began < seen.began + 1], 0.99)
    rest = percentile([one.took for one in of if one.began >= seen.began + 1], 0.5)
    trial.tell(f"{name}: p99 {ms(tail)} to {ms(first)}, then p50 {ms(usual)} to {ms(rest)}")
    trial.must(
        first <= tail + LATE + 5 * NOISE, f"{name}: p99 went from {ms(tail)} to {ms(first)}"
    )
    trial.must(
        rest <= usual + BUSY + NOISE, f"{name}: half waited {ms(rest)} instead of {ms(usual)}"
    )


async def _shared_again(house: House, near: Node, far: Node) -> float:
    """Seconds until what one server was told is a hit on the other."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    while loop.time() - began < 10:
        question = house.question()
        await house.ask(near, question)
        await asyncio.sleep(0.02)
        if (await house.ask(far, question)).cached == "hit":
            break
    return loop.time() - began
