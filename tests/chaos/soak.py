"""R22 and R24: hours of work leave nothing behind, and four times too much work leaves the possible part of it done."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable

from tests.chaos.books import Question
from tests.chaos.client import HEALTH, Answer, Client, ask_bytes, beats, paced
from tests.chaos.ledger import judge
from tests.chaos.node import Node
from tests.chaos.stage import House, Stage
from tests.chaos.trial import Trial, ms, percentile

STREAMS, REPEATS = 0.4, 0.3
POOL = 400
"""Questions, so few that what is remembered of them is complete long before it is measured."""
DRIFT = 10.0
"""MiB."""
COMPLAINTS = re.compile(
    r"never retrieved|was destroyed|never awaited|ResourceWarning|Traceback|crashed"
)

PLACES = 10
WORK = 0.1
"""Seconds that the provider takes for a call; with more than three times that many at once it chokes on all."""
CAPACITY = PLACES / WORK
DEADLINE = 2.0
"""Seconds after which nobody waits for an answer any more."""
REFUSED_WITHIN = 0.05
MACHINE = 0.05
GOODPUT = 0.8
RECOVERY = 5.0


async def r22(stage: Stage, trial: Trial) -> None:
    await _soaked(stage, trial, *trial.scale((3_000, 250.0), (100_000, 150.0)), "")
    with trial.control("forgetting", "grew") as broken:
        await _soaked(stage, broken, 1_000, 250.0, "leak")


async def _soaked(stage: Stage, trial: Trial, times: int, rate: float, broken: str) -> None:
    async with stage.house(trial) as house:
        node = await house.started(broken=broken)
        pool = [house.question() for _ in range(POOL)]
        audit = house.audit()
        warm = times // 10 if trial.full else times // 3
        audit.add(await _asked(house, node, pool, warm, rate))
        resident, sockets = node.resident(), node.sockets()
        audit.add(await _asked(house, node, pool, times - warm, rate))
        grown = (node.resident() - resident) / 2**20
        trial.tell(f"{grown:.1f} MiB grown in {times - warm} requests")
        trial.must(grown <= DRIFT, f"it grew by {grown:.1f} MiB")
        trial.none([one.status for one in audit.answers if not one.good], "bad answers")
        if broken:
            return
        left = await _settled(house, node, sockets)
        trial.tell(f"{left} sockets more than before")
        trial.must(left <= 4, f"{left} sockets more than before")
        await judge(trial, house.url, audit, 10)
        node.signal(15)
        trial.must(await node.wait(10) == 0, "it did not leave well")
        trial.none(
            [line for line in node.log.splitlines() if COMPLAINTS.search(line)], "complaints"
        )


async def _asked(
    house: House, node: Node, pool: list[Question], times: int, rate: float
) -> list[Answer]:
    """A part may be answered from the cache, the rest asks for a fresh answer."""
    chance = house.trial.chance(f"asked {times}")
    client = house.clients.setdefault(node.port, Client(node.port))
    sent: list[asyncio.Task[Answer]] = []
    done: list[Answer] = []
    async for _ in beats(rate, times / rate):
        question = chance.choice(pool)
        fresh = "" if chance.random() < REPEATS else "Cache-Control: no-cache\r\n"
        stream = chance.random() < STREAMS
        request = ask_bytes(house.keys[question.key], question, stream=stream, headers=fresh)
        sent.append(asyncio.create_task(client.ask(request, question)))
        if len(sent) > 1_000:
            done += await asyncio.gather(*sent[:500])
            del sent[:500]
    return done + list(await asyncio.gather(*sent))


async def _settled(house: House, node: Node, baseline: int) -> int:
    house.clients.pop(node.port).close()
    for _ in range(100):
        if node.sockets() <= baseline:
            break
        await asyncio.sleep(0.1)
    return node.sockets() - baseline


# --- too much ---------------------------------------------------------------------------------------


async def r24(stage: Stage, trial: Trial) -> None:
    await _overloaded(stage, trial, trial.scale(6.0, 60.0), "")
    with trial.control("bound on calls under way", "goodput") as broken:
        await _overloaded(stage, broken, 4.0, "slots")


async def _overloaded(stage: Stage, trial: Trial, seconds: float, broken: str) -> None:
    questions = int(6 * CAPACITY * seconds) + 2_000
    more = {"WATCHLLM_MAX_IN_FLIGHT": str(PLACES)}
    async with stage.house(trial, questions=questions, settings=more) as house:
        node = await house.started(broken=broken)
        await house.ask(node, house.question())

        def crowded(_: Question) -> float:
            return WORK if house.upstream.open <= 3 * PLACES else 2 * DEADLINE

        house.books.delay = crowded
        peak = _goodput(await paced(0.95 * CAPACITY, 2.0, _sender(house, node)), 2.0)
        health = asyncio.create_task(_watched(node, seconds))
        seen = await paced(4 * CAPACITY, seconds, _sender(house, node))
        good = _goodput(seen, seconds)
        trial.tell(f"{len(seen)} asked, {good:.0f} a second served of {peak:.0f} at best")
        trial.must(good >= GOODPUT * peak, f"goodput fell to {good:.0f} of {peak:.0f} a second")
        refused = [one for one in seen if one.status in (429, 503)]
        slow = percentile([one.took for one in refused], 0.99)
        trial.tell(f"{len(refused)} refused within {ms(slow)}")
        trial.must(slow <= REFUSED_WITHIN + MACHINE, f"refusals took {ms(slow)}")
        silent = [one for one in refused if not one.retry_after]
        trial.must(not silent, f"{len(silent)} refusals without Retry-After")
        odd = {one.status for one in seen} - {200, 429, 503}
        trial.must(not odd, f"answers {odd}")
        longest = await health
        trial.must(longest <= 1.0, f"/health took {ms(longest)}")
        if not broken:
            recovered = await _recovered(house, node)
            trial.tell(f"/health within {ms(longest)}, recovered after {recovered:.1f} s")
            trial.must(recovered <= RECOVERY, f"it recovered only after {recovered:.1f} s")


def _sender(house: House, node: Node) -> Callable[[int], asyncio.Task[Answer]]:
    return lambda _: asyncio.create_task(house.ask(node, house.question(), patience=DEADLINE))


def _goodput(seen: list[Answer], seconds: float) -> float:
    return sum(one.good for one in seen) / seconds


async def _watched(node: Node, seconds: float) -> float:
    """The longest that /health took; infinite if it once did not answer."""
    client = Client(node.port)

    def look(_: int) -> asyncio.Task[Answer]:
        return asyncio.create_task(client.ask(HEALTH, patience=DEADLINE))

    seen = await paced(5.0, seconds, look)
    client.close()
    return max(one.took if one.status == 200 else float("inf") for one in seen)


async def _recovered(house: House, node: Node) -> float:
    """Seconds until half of the capacity is served without a refusal."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    seen = await paced(CAPACITY / 2, RECOVERY / 2, _sender(house, node))
    return max((one.ended for one in seen if not one.good), default=began) - began
