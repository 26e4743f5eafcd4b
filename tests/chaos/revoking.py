"""R11: a key that was revoked is refused by every process within a second, and a rotated one exactly at its end."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from functools import partial

from adapters.held import HeldGrants
from domain.project import PROJECT
from tests.chaos.client import Client, paced, post
from tests.chaos.node import Node
from tests.chaos.stage import House, Stage
from tests.chaos.trial import Trial, ms, percentile

PROCESSES = 4
USUAL, WORST, GRACE = 1.0, 2.0, 1.0
EVERY = 0.05
"""Seconds between two looks at a process."""
RATE = 20.0
NEVER = 99.0


async def r11(stage: Stage, trial: Trial) -> None:
    await _revoked(stage, trial, trial.scale(18, 200), PROCESSES, "")
    with trial.control("watch over changes", "took") as broken:
        await _revoked(stage, broken, 1, 1, "watch")


async def _revoked(stage: Stage, trial: Trial, times: int, processes: int, broken: str) -> None:
    """`processes` are servers of their own, each with its port, so that each can be asked."""
    async with stage.house(trial, questions=20_000) as house:
        nodes = [house.node(broken=broken) for _ in range(processes)]
        await asyncio.gather(*[node.start() for node in nodes])
        question = house.question()

        async def load() -> None:
            await paced(
                RATE,
                1_000,
                lambda number: asyncio.create_task(house.ask(nodes[number % processes], question)),
            )

        loading = asyncio.create_task(load())
        try:
            waits = await _rounds(house, nodes, times - times // 2)
            if not broken:
                late = await _rotated(house, nodes, trial.scale(1, 10))
                house.valkey.kill()
            blind = await _rounds(house, nodes, times // 2)
        finally:
            loading.cancel()
            await asyncio.wait([loading])
        p99, worst = percentile(waits, 0.99), max(waits)
        trial.tell(f"{times} revoked, refused everywhere after {ms(p99)}, {ms(worst)} at most")
        trial.must(worst <= WORST, f"a revocation took {ms(worst)}")
        blindly = max(blind, default=0.0)
        trial.must(blindly <= WORST, f"a revocation without Redis took {ms(blindly)}")
        if p99 > USUAL:
            _over(trial, f"revocations took {ms(p99)}")
        if not broken:
            trial.tell(f"without Redis {ms(blindly)}; grace missed by {ms(late)}")
            trial.must(late <= GRACE, f"a rotated key missed its end by {ms(late)}")


def _over(trial: Trial, told: str) -> None:
    """Who looks once a second cannot always know within one."""
    every = inspect.signature(HeldGrants.watch).parameters["every"].default
    if isinstance(every, float) and every > USUAL / 2:
        trial.pending = f"{told}; changes are looked for every {every} s only"
    else:
        trial.must(False, told)


async def _rounds(house: House, nodes: list[Node], times: int) -> list[float]:
    """Seconds from each revocation to its last refusal; three at once."""
    chance = house.trial.chance(f"rounds {len(nodes)}")
    waits: list[float] = []

    async def one() -> None:
        fresh = await house.ring.create(house.projects[0], kind=PROJECT, name="short-lived")
        await asyncio.sleep(chance.random())
        waits.append(await _last_refusal(nodes, fresh.key, lambda: house.ring.revoke(fresh.id)))

    for start in range(0, times, 3):
        await asyncio.gather(*[one() for _ in range(min(3, times - start))])
    return waits


async def _last_refusal(
    nodes: list[Node], key: str, end: Callable[[], Awaitable[object]]
) -> float:
    """Seconds until no process takes the key any more, from the moment that it was told to be over."""
    clients = [Client(node.port) for node in nodes]
    loop = asyncio.get_running_loop()
    try:
        for client in clients:
            known = await client.ask(post(key, b"{}"))
            assert known.status == 400, f"a good key got {known.status}"
        await end()
        ended = loop.time()
        return max(await asyncio.gather(*[_refused(client, key) for client in clients])) - ended
    finally:
        for client in clients:
            client.close()


async def _refused(client: Client, key: str) -> float:
    loop = asyncio.get_running_loop()
    until = loop.time() + 2 * WORST
    while loop.time() < until:
        if (await client.ask(post(key, b"{}"))).status == 401:
            return loop.time()
        await asyncio.sleep(EVERY)
    return loop.time() + NEVER


async def _rotated(house: House, nodes: list[Node], times: int) -> float:
    """By how many seconds the end of a grace was missed at most."""
    grace = 2.0
    missed: list[float] = []
    for _ in range(times):
        fresh = await house.ring.create(house.projects[0], kind=PROJECT, name="rotated")
        rotate = partial(house.ring.rotate, fresh.id, grace=grace)
        took = await _last_refusal(nodes, fresh.key, rotate)
        missed.append(abs(took - grace))
    return max(missed)
