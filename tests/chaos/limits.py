"""R8b: what a plan and a budget allow is allowed to the request and to the picodollar, however many processes ask."""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Sequence

from tests.chaos.books import Question, hanging
from tests.chaos.client import Answer, Client, ask_bytes, paced
from tests.chaos.node import Node
from tests.chaos.stage import House, Stage
from tests.chaos.trial import Trial

PER_MINUTE, AT_ONCE = 600, 10
PER_SECOND = PER_MINUTE / 60
PLANS = f"""
[plans.measured]
requests_per_minute = {PER_MINUTE}
[plans.few]
concurrent_requests = {AT_ONCE}
[plans.unlimited]
"""
LANES = 24
"""Connections, so many that the kernel gives some to every process."""
ANSWER = 200
"""Tokens that a caller allows, so that no answer of the books costs more than was set aside."""
LEASE = 60.0
PATIENT = {"WATCHLLM_REDIS_TIMEOUT": "2s"}
"""Where requests are counted one by one, a machine that stalls must not pass for a Redis that is away."""


async def r8b(stage: Stage, trial: Trial) -> None:
    await _measured(stage, trial, processes=2, times=trial.scale((30,), (3, 10, 60)))
    await _measured(stage, trial, processes=4, times=(40,), alter="skewed")
    with trial.control("shared count", "admitted") as broken:
        await _measured(stage, broken, processes=2, times=(40,), alter="limits")
    await _at_once(stage, trial)
    await _raced(stage, trial, "")
    with trial.control("shared purse", "overspent") as broken:
        await _raced(stage, broken, "limits")


# --- a minute ---------------------------------------------------------------------------------------


async def _measured(
    stage: Stage, trial: Trial, *, processes: int, times: Sequence[int], alter: str = ""
) -> None:
    """`times` is how often the limit is offered, in turn; the Redis dies after the last."""
    seconds = trial.scale(4.5, 120.0)
    async with stage.house(trial, plan="measured", plans=PLANS, settings=PATIENT) as house:
        node = await house.started(processes=processes, broken=alter)
        lanes = [Client(node.port) for _ in range(LANES)]
        seen: list[Answer] = []
        for offered in times:
            rate = offered * PER_SECOND
            long = max(seconds, 1.5 * PER_MINUTE / rate) if not seen else seconds
            seen += await _offer(house, lanes, rate, long)
            _check_bound(trial, seen, f"{processes} processes, {offered} times")
        if alter == "skewed":
            trial.must(_per_minute(seen) <= 2 * PER_MINUTE + 1, "a minute had more than it may")
            await _without_redis(house, trial, lanes, trial.scale(3.0, 30.0))
        for lane in lanes:
            lane.close()


async def _offer(house: House, lanes: list[Client], rate: float, seconds: float) -> list[Answer]:
    question = Question(0, "chaos-1")
    request = ask_bytes(house.keys[0], question)

    def send(number: int) -> asyncio.Task[Answer]:
        return asyncio.create_task(lanes[number % len(lanes)].ask(request, question))

    return await paced(rate, seconds, send)


def _check_bound(trial: Trial, seen: list[Answer], told: str) -> None:
    """Admitted is the burst and what leaked meanwhile, give or take one."""
    admitted = sum(one.status == 200 for one in seen)
    strange = {one.status for one in seen} - {200, 429}
    trial.must(not strange, f"{told}: answers {strange}")
    first, last = seen[0], max(seen, key=lambda one: one.ended)
    most = PER_MINUTE + PER_SECOND * (last.ended - first.began)
    least = PER_MINUTE + PER_SECOND * (last.began - first.ended)
    trial.tell(f"{told}: {admitted} of {len(seen)} admitted, bound {most:.1f}")
    trial.must(admitted <= most + 1, f"{told}: {admitted} admitted, bound {most:.1f}")
    trial.must(admitted >= least - 1, f"{told}: {admitted} admitted, due {least:.1f}")
    untold = [one for one in seen if one.status == 429 and not one.retry_after]
    trial.must(not untold, f"{told}: {len(untold)} refusals without Retry-After")


async def _without_redis(house: House, trial: Trial, lanes: list[Client], seconds: float) -> None:
    """Each process allows its share, which together is the limit; two seconds after Redis is back it is exact again."""
    house.valkey.kill()
    seen = await _offer(house, lanes, 20 * PER_SECOND, seconds)
    alone, most = sum(one.status == 200 for one in seen), 1.2 * PER_SECOND * seconds
    trial.tell(f"{alone} admitted without Redis, bound {most:.0f}")
    trial.must(alone <= most + 4, f"{alone} admitted without Redis, bound {most:.0f}")
    house.valkey.start()
    await _offer(house, lanes, 20 * PER_SECOND, 2.0)
    seen = await _offer(house, lanes, 20 * PER_SECOND, seconds)
    back = sum(one.status == 200 for one in seen)
    took = seen[-1].ended - seen[0].began
    trial.tell(f"{back} admitted after it, bound {PER_SECOND * took:.1f}")
    trial.must(abs(back - PER_SECOND * took) <= 2, f"{back} admitted after it in {took:.1f} s")


def _per_minute(seen: list[Answer]) -> int:
    """The most that were admitted in any sixty seconds."""
    times = sorted(one.ended for one in seen if one.status == 200)
    return max(bisect_left(times, at + 60) - number for number, at in enumerate(times))


# --- at once ----------------------------------------------------------------------------------------


async def _at_once(stage: Stage, trial: Trial) -> None:
    """Exactly so many run, in whichever process; those of a killed process end with their lease."""
    async with stage.house(trial, plan="few", plans=PLANS) as house:
        node = await house.started(processes=2)
        house.books.mood = lambda question, _: hanging(question, 2)
        clients = [Client(node.port) for _ in range(3 * AT_ONCE)]
        tasks = [
            asyncio.create_task(
                client.ask(ask_bytes(house.keys[0], question, stream=True), question, 30)
            )
            for client, question in ((client, house.question()) for client in clients)
        ]
        async with asyncio.timeout(10):
            while sum(task.done() for task in tasks) < 2 * AT_ONCE:
                await asyncio.sleep(0.02)
        await asyncio.sleep(0.2)
        running = house.books.dispatched.total()
        refused = sum(task.done() and task.result().status == 429 for task in tasks)
        trial.tell(f"{running} at once, {refused} refused")
        trial.must((running, refused) == (AT_ONCE, 2 * AT_ONCE), f"{running} ran at once")
        node.kill()
        await asyncio.gather(*tasks)
        house.books.mood = lambda *_: None
        await node.start()
        trial.must((await _one(house, node)).status == 429, "a lease ended with its process")
        if trial.full:
            await _leases_end(house, trial, node)


async def _leases_end(house: House, trial: Trial, node: Node) -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    while (await _one(house, node)).status != 200 and loop.time() - began < LEASE + 5:
        await asyncio.sleep(0.5)
    took = loop.time() - began
    trial.tell(f"leases of the dead ended after {took:.0f} s")
    trial.must(took <= LEASE + 1, f"leases of the dead took {took:.0f} s")


async def _one(house: House, node: Node) -> Answer:
    return await house.ask(node, house.question())


# --- money ------------------------------------------------------------------------------------------


async def _raced(stage: Stage, trial: Trial, broken: str) -> None:
    """Two processes spend one budget: never more than it holds, and who is refused never reached the provider."""
    async with stage.house(trial, questions=1_000) as house:
        probe = house.question()
        reserve = _reserved(probe)
        budget = 25 * reserve + trial.chance("budget").randrange(reserve)
        await house.storage.projects.set_budget(house.projects[0], budget)
        nodes = [await house.started(broken=broken) for _ in range(2)]
        house.books.delay = lambda _: 0.05

        def send(number: int) -> asyncio.Task[Answer]:
            question = house.question()
            return asyncio.create_task(
                house.ask(nodes[number % 2], question, max_tokens=ANSWER, stream=number % 3 == 0)
            )

        seen = await paced(100, 2.0, send)
        # Then one by one, until not even one more fits.
        house.books.delay = lambda _: 0.0
        for number in range(100):
            seen.append(await send(number))
        spent = sum(
            times * house.books.bill(one).cost for one, times in house.books.dispatched.items()
        )
        served = sum(one.good for one in seen)
        trial.tell(f"{served} of {len(seen)} served, {spent / budget:.1%} of the budget spent")
        trial.must(spent <= budget, f"overspent: {spent / budget:.1%} of the budget")
        trial.must(spent > budget - reserve, f"only {spent / budget:.1%} of the budget was spent")
        trial.must(
            house.books.dispatched.total() == served,
            f"{house.books.dispatched.total()} calls for {served} answers",
        )
        known = next(one.question for one in seen if one.good and one.question)
        hit = await house.ask(nodes[0], known, max_tokens=ANSWER)
        trial.must((hit.status, hit.cached) == (200, "hit"), "a hit was refused for want of money")


def _reserved(question: Question) -> int:
    """What is set aside for a question: its text at four characters a token, and all of the answer's tokens."""
    return -(-len(question.text) // 4) * 150_000 + ANSWER * 600_000
