"""Limits over Redis between real processes, and while Redis is killed, stopped, emptied and back."""

from __future__ import annotations

import asyncio
import itertools
import json
import secrets
import subprocess
import sys
import time
from contextlib import AsyncExitStack, aclosing
from pathlib import Path

import pytest

from adapters.redis.budgets import STALE, RedisBudgets
from adapters.redis.cluster import open_link
from adapters.redis.connection import NoAnswer, RedisFault
from adapters.redis.limits import RedisLimits, keys_of
from domain.errors import Unavailable
from domain.plans import Plan
from domain.rates import CONCURRENCY, HELD, LEASE, MONTH, RATE, Ask, Spend, month_of
from tests.contracts.test_limits import MILLION, StillLink, plan
from tests.support.fixtures import async_fixture

ROOT = Path(__file__).parents[2]


class CountingLink:
    """A link that notes what goes out."""

    def __init__(self, link):
        self.link = link
        self.sent = []

    @property
    def state(self):
        return self.link.state

    def execute(self, *args):
        self.sent.append(args[0])
        return self.link.execute(*args)


@async_fixture
async def link(valkey):
    async with aclosing(open_link(valkey.url, command_timeout=1, connect_timeout=1)) as link:
        yield link


@async_fixture
async def stack():
    async with AsyncExitStack() as stack:
        yield stack


def asked(numbers: Plan, request: str = "r", now: float | None = None) -> Ask:
    return Ask("p", numbers, request, time.time() if now is None else now)


SERIAL = itertools.count()


def costs(most: int, budget: int, now: float | None = None, project: str = "p") -> Spend:
    """A call of its own."""
    when = time.time() if now is None else now
    return Spend(project, most, budget, when, f"call {next(SERIAL)}")


def limits_over(stack, link, processes=4, **more) -> RedisLimits:
    limits = RedisLimits(link, processes, **more)
    stack.callback(limits.close)
    return limits


async def ruled(limits, ask):
    verdict = limits.at_once(ask)
    return await limits.admit(ask) if verdict is None else verdict


async def until(wish, within=5.0):
    ends = time.monotonic() + within
    while not await wish():
        assert time.monotonic() < ends, "it did not happen in time"
        await asyncio.sleep(0.005)


# --- between processes ----------------------------------------------------------------------------

HAMMER = """
import asyncio, json, sys, time
from adapters.memory.limits import MemoryLimits
from adapters.redis.cluster import open_link
from adapters.redis.limits import RedisLimits
from domain.plans import Plan
from domain.rates import Ask

async def main(url, shared, skew, per_minute, seconds):
    link = open_link(url, command_timeout=2, connect_timeout=2)
    limits = RedisLimits(link, 4) if shared else MemoryLimits()
    await link.ping()
    print("ready", flush=True)
    sys.stdin.readline()
    plan, offers, passed, ends = Plan("p", per_minute, 0, 0, 0), 0, 0, time.monotonic() + seconds
    began = time.time()
    async def ask():
        nonlocal offers, passed
        while time.monotonic() < ends:
            offers += 1
            # Straight to the store: what is known here must not make the proof easier.
            verdict = await limits.admit(Ask("p", plan, str(offers), time.time() + skew))
            passed += not verdict.refused
            await asyncio.sleep(0.002)
    await asyncio.gather(*[ask() for _ in range(4)])
    print(json.dumps([offers, passed, began, time.time()]))
    await link.aclose()

asyncio.run(main(sys.argv[1], *map(json.loads, sys.argv[2:])))
"""


def start(code, *args):
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, args)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def run_together(processes):
    """Starts them off in one moment, and returns what each had to say."""
    for process in processes:
        assert "ready\n" == process.stdout.readline()
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [json.loads(process.communicate(timeout=30)[0]) for process in processes]
    assert [0] * len(processes) == [process.returncode for process in processes]
    return said


def hammer(url, shared):
    """(offers, admitted, what the plan allows in the time from the first ask to the last answer)"""
    skews = (0, 300, -300, 0)
    said = run_together([start(HAMMER, url, shared, skew, 1200, 3) for skew in skews])
    offers, passed, began, ended = zip(*said, strict=True)
    return sum(offers), sum(passed), 1200 + 20 * (max(ended) - min(began))


def test_four_processes_share_one_limit(valkey):
    """Admitted is what the plan allows, to the request; clocks five minutes off change nothing."""
    offers, admitted, allowed = hammer(valkey.url, "true")

    assert offers > 1.5 * allowed
    # One for the interval that has begun, one for the moment between the last ask and the clock.
    assert allowed - 2 <= admitted <= allowed


def test_a_counter_in_each_process_would_not_do(valkey):
    """The control: the same hammer over memory lets through several times the plan."""
    _, admitted, allowed = hammer(valkey.url, "false")

    assert admitted > 1.5 * allowed


SPENDER = """
import asyncio, json, random, sys
from adapters.memory.limits import MemoryBudgets
from adapters.redis.budgets import RedisBudgets
from adapters.redis.cluster import open_link
from domain.rates import Spend

async def main(url, shared, seed, budget, most):
    link = open_link(url, command_timeout=2, connect_timeout=2)
    budgets = RedisBudgets(link, 4) if shared else MemoryBudgets()
    await link.ping()
    print("ready", flush=True)
    sys.stdin.readline()
    dice, spent, refused, serial = random.Random(seed), 0, 0, [0]
    async def call():
        nonlocal spent, refused
        while True:
            serial[0] += 1
            spend = Spend("p", most, budget, 1.8e9, f"{seed} {serial[0]}")
            reservation = await budgets.reserve(spend)
            if reservation is None:
                refused += 1
                return
            await asyncio.sleep(0.001)
            cost = dice.choice([0, dice.randrange(most), most])
            spent += cost
            budgets.settle(reservation, cost)
    await asyncio.gather(*[call() for _ in range(5)])
    await link.ping()
    print(json.dumps([spent, refused]))
    await link.aclose()

asyncio.run(main(sys.argv[1], *map(json.loads, sys.argv[2:])))
"""
MOST = MILLION // 1000 + 7


def spend_together(url, shared):
    said = run_together([start(SPENDER, url, shared, n, MILLION, MOST) for n in range(4)])
    assert [5] * 4 == [refused for _, refused in said]
    return sum(spent for spent, _ in said)


def test_processes_that_race_never_overspend(valkey):
    """A million dollars, four processes, twenty calls at once: not a picodollar more, and the store knows the sum."""
    spent = spend_together(valkey.url, "true")

    assert MILLION - 20 * MOST < spent <= MILLION
    kept = valkey.call("HGET", keys_of("watchllm:l:", "p")[2], "spent").split(b"\r\n")[1]
    assert spent == int(kept)


def test_a_purse_in_each_process_would_not_do(valkey):
    """The control: over memory the same race spends the budget several times."""
    assert spend_together(valkey.url, "false") > 3 * MILLION


HOLDER = """
import asyncio, sys, time
from adapters.redis.cluster import open_link
from adapters.redis.limits import RedisLimits
from domain.plans import Plan
from domain.rates import Ask

async def main(url):
    link = open_link(url, command_timeout=2, connect_timeout=2)
    limits = RedisLimits(link, 4)
    for n in range(3):
        verdict = await limits.admit(Ask("p", Plan("p", 0, 0, 3, 0), f"held{n}", time.time()))
        assert not verdict.refused
    print("ready", flush=True)
    await asyncio.sleep(60)

asyncio.run(main(sys.argv[1]))
"""


async def test_what_a_killed_process_held_is_freed(valkey, link, stack, clock):
    """Its leases end by themselves, 60 seconds after they were given, and not before."""
    began = time.time()
    holder = start(HOLDER, valkey.url)
    assert "ready\n" == holder.stdout.readline()
    holder.kill()
    holder.communicate()
    limits = limits_over(stack, StillLink(link, clock))

    clock.now = began + LEASE - 1
    assert CONCURRENCY == (await limits.admit(asked(plan(at_once=3), "a"))).refused
    clock.now = time.time() + LEASE
    assert "" == (await limits.admit(asked(plan(at_once=3), "a"))).refused


async def test_what_still_runs_keeps_its_lease(link, stack, clock):
    """A call longer than a lease is renewed until it ends; then its place is free at once."""
    still = StillLink(link, clock)
    limits = limits_over(stack, still, renew_every=0.01)
    numbers = plan(at_once=1)
    assert "" == (await limits.admit(asked(numbers, "long"))).refused
    leases = keys_of("watchllm:l:", "p")[1]
    for _ in range(3):
        clock.advance(LEASE - 1)
        ends = round((clock() + LEASE) * 1000)

        async def renewed(ends=ends):
            return float(await link.execute("ZSCORE", leases, "long")) >= ends

        await until(renewed)
        assert CONCURRENCY == (await limits.admit(asked(numbers, "other"))).refused

    limits.release(asked(numbers, "long"))
    assert "" == (await limits.admit(asked(numbers, "other"))).refused


PAYER = """
import asyncio, sys, time
from adapters.redis.budgets import RedisBudgets
from adapters.redis.cluster import open_link
from domain.rates import Spend

async def main(url):
    link = open_link(url, command_timeout=2, connect_timeout=2)
    budgets = RedisBudgets(link, 4)
    assert None is not await budgets.reserve(Spend("p", 90, 100, time.time(), "lost"))
    print("ready", flush=True)
    await asyncio.sleep(60)

asyncio.run(main(sys.argv[1]))
"""


async def test_what_a_killed_process_set_aside_returns(valkey, link, clock):
    """With the lease of its call, and not before; nothing of it stays in Redis."""
    began = time.time()
    payer = start(PAYER, valkey.url)
    assert "ready\n" == payer.stdout.readline()
    payer.kill()
    payer.communicate()
    budgets = RedisBudgets(StillLink(link, clock), 4)

    clock.now = began + HELD - 1
    assert None is await budgets.reserve(costs(11, 100))
    assert [b":lost"] == await holds(link)
    clock.now = time.time() + HELD
    whole = await budgets.reserve(costs(100, 100))
    assert [f":{whole.call}".encode()] == await holds(link)


async def holds(link, project="p"):
    fields = await link.execute("HKEYS", keys_of("watchllm:l:", project)[2])
    return sorted(name for name in fields if name.startswith(b":"))


# --- what it costs --------------------------------------------------------------------------------


async def test_one_command_a_request(link, stack):
    """And none for a plan without limits, nor for one who is known to be too early."""
    counting = CountingLink(link)
    limits = limits_over(stack, counting)
    assert "" == (await ruled(limits, asked(plan()))).refused
    assert [] == counting.sent

    await limits.admit(asked(plan(2), "a"))
    counting.sent.clear()
    await limits.admit(asked(plan(2), "b"))
    assert ["EVALSHA"] == counting.sent
    assert {RATE} == {(await ruled(limits, asked(plan(2)))).refused for _ in range(100)}
    assert ["EVALSHA"] == counting.sent


async def test_it_leaves_when_it_is_called(link, stack):
    """So that it flies together with a look-up in the cache, before either is awaited."""
    counting = CountingLink(link)
    limits = limits_over(stack, counting)
    verdict = limits.admit(asked(plan(2)))
    counting.execute("GET", "k")
    assert ["EVALSHA", "GET"] == counting.sent
    assert "" == (await verdict).refused


async def test_no_key_is_for_ever(valkey, link, stack):
    """Each has an end of life, of 33 days at most."""
    limits, budgets = limits_over(stack, link), RedisBudgets(link, 4)
    await limits.admit(asked(plan(2, 2, 2)))
    await budgets.reserve(costs(5, 10))
    keys = await link.execute("KEYS", "*")

    assert set(keys_of("watchllm:l:", "p")) == {key.decode() for key in keys}
    ends = [await link.execute("TTL", key) for key in keys]
    assert 0 < min(ends) <= max(ends) <= 33 * 86400


async def test_a_server_that_forgot_the_script_gets_it_again(link, stack):
    """SCRIPT FLUSH, or a restart, costs one more trip and no verdict."""
    limits = limits_over(stack, link)
    assert "" == (await limits.admit(asked(plan(2)))).refused
    await link.execute("SCRIPT", "FLUSH")
    verdicts = [limits.admit(asked(plan(2), str(n))) for n in range(3)]

    assert ["", RATE, RATE] == [(await verdict).refused for verdict in verdicts]


async def test_who_leaves_holds_nothing(link, stack):
    """A caller that is cancelled while it waits keeps neither a lease nor money."""
    limits, budgets = limits_over(stack, link), RedisBudgets(link, 4)
    verdict = limits.admit(asked(plan(at_once=1), "gone"))
    reservation = asyncio.ensure_future(budgets.reserve(costs(10, 10)))
    await asyncio.sleep(0)
    verdict.cancel()
    reservation.cancel()
    await link.ping()
    await link.ping()

    assert "" == (await limits.admit(asked(plan(at_once=1), "next"))).refused
    assert None is not await budgets.reserve(costs(10, 10))


class LeavingLink(CountingLink):
    """Whoever asks for money leaves in the very turn in which the answer arrives."""

    task = None

    def execute(self, *args):
        sent = super().execute(*args)
        if self.task and "reserve" in args:
            answered = asyncio.get_running_loop().create_future()

            def hand_over(done):
                answered.set_result(done.result())
                # After those who wait for it were told, before they run.
                asyncio.get_running_loop().call_soon(lambda: self.task.cancel())

            sent.add_done_callback(hand_over)
            return answered
        return sent


async def test_who_leaves_as_the_money_is_granted_holds_nothing(link):
    """It was set aside and nobody is there to say so: it returns at once."""
    leaving = LeavingLink(link)
    budgets = RedisBudgets(leaving, 4)
    await budgets.reserve(costs(1, 100))
    task = leaving.task = asyncio.ensure_future(budgets.reserve(costs(99, 100)))
    await asyncio.wait([task])
    await link.ping()

    assert task.cancelled()
    assert (0, 1) == await purse(link)


# --- while Redis is away --------------------------------------------------------------------------


class Crowd:
    """Four processes' worth of limiters, each over a link of its own, asking without end."""

    def __init__(self, url, stack, numbers):
        self.links = [open_link(url) for _ in range(4)]
        self.limits = [limits_over(stack, link) for link in self.links]
        for link in self.links:
            stack.push_async_callback(link.aclose)
        self.numbers = numbers
        self.passed = 0
        self.slowest = 0.0

    async def press(self, seconds):
        """Admitted within these seconds."""
        before, ends = self.passed, time.monotonic() + seconds
        await asyncio.gather(*[self._one(limits, ends) for limits in self.limits])
        return self.passed - before

    async def _one(self, limits, ends):
        while (began := time.monotonic()) < ends:
            verdict = await ruled(limits, asked(self.numbers))
            self.passed += not verdict.refused
            self.slowest = max(self.slowest, time.monotonic() - began)
            await asyncio.sleep(0.004)


@pytest.mark.parametrize("fault", ["kill", "freeze"])
async def test_away_and_back_the_limit_holds(valkey, stack, fault):
    """Over the whole time at most 1.2 times the plan, also where the server forgot; exact from 2 s after its return."""
    crowd = Crowd(valkey.url, stack, plan(600))
    began = time.monotonic()
    await crowd.press(1)
    assert 600 <= crowd.passed <= 613

    getattr(valkey, fault)()
    alone = await crowd.press(2)
    assert 10 <= alone <= 30
    valkey.thaw() if fault == "freeze" else valkey.start()
    await crowd.press(2)
    bound = 600 + 10 * (time.monotonic() - began)
    assert 0.97 * bound <= crowd.passed <= 1.2 * bound

    exact = await crowd.press(1.5)
    assert 14 <= exact <= 17
    assert {"closed"} == {link.state for link in crowd.links}
    assert crowd.slowest < 0.3


async def test_alone_from_the_start_each_has_its_share(valkey, stack):
    """Redis was never there: together the processes let through the plan's number."""
    valkey.kill()
    crowd = Crowd(valkey.url, stack, plan(400))
    passed = await crowd.press(1)

    assert 400 <= passed <= 408


async def test_the_month_goes_on_alone_and_is_told(valkey, link, stack):
    """Alone a process takes its share of what was left; Redis counts that when it is back, emptied or not."""
    limits, numbers = limits_over(stack, link, processes=2), plan(per_month=20)
    for n in range(10):
        await limits.admit(asked(numbers, str(n)))
    valkey.kill()
    alone = [(await ruled(limits, asked(numbers, str(n)))).refused for n in range(7)]
    assert [""] * 5 + [MONTH] * 2 == alone

    valkey.start()
    await until_up(link)
    back = [(await ruled(limits, asked(numbers, str(n)))).refused for n in range(7)]
    assert [""] * 5 + [MONTH] * 2 == back


async def test_the_minute_goes_on_alone_and_is_told(valkey, link, stack):
    """From the level that Redis told last, at twice the cost for two processes; what was let through alone is there
    when Redis comes back empty."""
    limits, numbers, now = limits_over(stack, link, processes=2), plan(60), time.time()
    for n in range(20):
        await limits.admit(asked(numbers, str(n), now))
    valkey.kill()
    alone = [(await ruled(limits, asked(numbers, str(n), now))).refused for n in range(22)]
    assert [""] * 20 + [RATE] * 2 == alone

    valkey.start()
    await until_up(link)
    verdict = await limits.admit(asked(numbers, "back", now))
    # 20 and 20 before it, less what has leaked in the second or two since.
    assert 19 <= verdict.remaining <= 24


async def test_who_runs_alone_is_counted_again(valkey, link, stack):
    """What was admitted alone has its lease in Redis as soon as that is back; what ended meanwhile has none."""
    limits, numbers = limits_over(stack, link, processes=2), plan(at_once=4)
    for request in ("a", "b"):
        await limits.admit(asked(numbers, request))
    valkey.freeze()
    assert CONCURRENCY == (await ruled(limits, asked(numbers, "c"))).refused
    limits.release(asked(numbers, "a"))
    assert "" == (await ruled(limits, asked(numbers, "c"))).refused

    valkey.thaw()
    await until_up(link)
    await limits.admit(asked(numbers, "d"))
    await link.ping()
    leases = await link.execute("ZRANGE", keys_of("watchllm:l:", "p")[1], 0, -1)
    assert [b"b", b"c", b"d"] == sorted(leases)


async def test_money_alone_is_a_share_of_the_rest_and_ages(valkey, link):
    """From what Redis said last; after a quarter of an hour, and where it never spoke, nothing is spent."""
    budgets, now = RedisBudgets(link, 2), time.time()
    open_call = await budgets.reserve(costs(400, 1000, now))
    valkey.kill()
    alone = await budgets.reserve(costs(300, 1000, now))
    assert (300, 2) == (alone.amount, alone.weight)
    assert None is await budgets.reserve(costs(1, 1000, now))
    budgets.settle(alone, 100)
    await down(link)
    budgets.settle(open_call, 0)
    assert None is not await budgets.reserve(costs(400, 1000, now + STALE))
    with pytest.raises(Unavailable):
        await budgets.reserve(costs(1, 1000, now + STALE + 1))
    with pytest.raises(Unavailable):
        await budgets.reserve(costs(1, 1000, now, "q"))

    valkey.start()
    await until_up(link)
    # 100 spent, 400 set aside; the server had forgotten all of it.
    assert None is await budgets.reserve(costs(501, 1000, now))
    assert None is not await budgets.reserve(costs(500, 1000, now))


async def test_an_emptied_server_is_told_by_those_who_remember(link, stack):
    """FLUSHALL opens no month, no minute and no purse again."""
    limits, budgets = limits_over(stack, link), RedisBudgets(link, 4)
    for n in range(3):
        await limits.admit(asked(plan(3, 4), str(n)))
    await budgets.reserve(costs(90, 100))
    await link.execute("FLUSHALL")

    assert RATE == (await limits.admit(asked(plan(3, 4)))).refused
    assert "" == (await limits.admit(asked(plan(0, 4)))).refused
    assert MONTH == (await limits.admit(asked(plan(0, 4)))).refused
    assert None is await budgets.reserve(costs(11, 100))
    assert None is not await budgets.reserve(costs(10, 100))


async def purse(link, project="p"):
    """Spent, and held."""
    found = await link.execute("HMGET", keys_of("watchllm:l:", project)[2], "spent", "held")
    return tuple(int(one) for one in found)


async def told(link, budgets, most, budget):
    """What is known after one more call that costs nothing."""
    budgets.settle(await budgets.reserve(costs(most, budget)), 0)
    await link.ping()
    return await purse(link)


async def test_emptied_under_way_nothing_is_counted_twice_nor_forgotten(link):
    """Three processes with calls open and different memories: at the end the purse is what the calls cost."""
    one, two, three = [RedisBudgets(link, 4) for _ in range(3)]
    calls = [
        (budgets, await budgets.reserve(costs(100, 10_000)))
        for budgets in (one, two, three, one, two, three)
    ]
    one.settle(calls[0][1], 10)
    await link.ping()
    await link.execute("FLUSHALL")
    # It has not heard of the last call of all, nor that the first one is over.
    assert (0, 500) == await told(link, two, 1, 10_000)
    for cost, (budgets, call) in zip((20, 30, 40, 50, 60), calls[1:], strict=True):
        budgets.settle(call, cost)
    await link.ping()

    assert (210, 0) == await told(link, three, 1, 10_000)
    assert [] == await holds(link)


async def test_emptied_a_stranger_begins_with_the_ledger(link):
    """And those who remember more add what the ledger did not know yet, those who remember less nothing."""
    ledger = {"p": 500}

    async def spent(project, month):
        return ledger[project]

    little, much = RedisBudgets(link, 4, spent), RedisBudgets(link, 4, spent)
    little.settle(await little.reserve(costs(10, 1_000)), 10)
    await link.ping()
    much.settle(await much.reserve(costs(80, 1_000)), 80)
    await link.ping()
    await link.execute("FLUSHALL")
    # Of the 90 that were spent meanwhile 30 have reached the ledger.
    ledger["p"] = 530
    stranger = RedisBudgets(link, 4, spent)
    stranger.settle(await stranger.reserve(costs(100, 1_000)), 7)
    await link.ping()
    assert (537, 0) == await purse(link)
    assert (537, 0) == await told(link, little, 1, 1_000)
    assert (597, 0) == await told(link, much, 1, 1_000)
    assert (597, 0) == await told(link, stranger, 1, 1_000)


async def test_emptied_and_all_restarted_the_ledger_tells(valkey, link):
    """Nobody remembers: the month goes on with what the ledger has, and without what crashed calls had set aside."""
    before = RedisBudgets(link, 4)
    before.settle(await before.reserve(costs(500, 1_000)), 400)
    await before.reserve(costs(600, 1_000))
    await link.ping()
    valkey.kill()
    valkey.start()
    await until_up(link)

    async def spent(project, month):
        return 400

    after = RedisBudgets(link, 4, spent)
    assert None is await after.reserve(costs(601, 1_000))
    assert None is not await after.reserve(costs(600, 1_000))


async def test_a_purse_of_an_earlier_release_begins_anew(link):
    """It does not say what of it was spent."""

    async def spent(project, month):
        return 60

    key = keys_of("watchllm:l:", "p")[2]
    month = month_of(round(time.time() * 1_000_000))
    await link.execute("HSET", key, "month", month, "version", 7, "spent", 95)
    assert (60, 0) == await told(link, RedisBudgets(link, 4, spent), 40, 100)


async def test_money_set_aside_alone_has_its_lease_when_redis_is_back(valkey, link, clock):
    """By its call's name: settled, it is gone at once; its process killed, with the lease."""
    still = StillLink(link, clock)
    budgets = RedisBudgets(still, 2)
    first = await budgets.reserve(costs(100, 1_000, clock()))
    valkey.freeze()
    calls = [await budgets.reserve(costs(100, 1_000, clock())) for _ in range(3)]
    assert [2, 2, 2] == [call.weight for call in calls]
    budgets.settle(calls[0], 30)
    budgets.settle(first, 40)
    await down(link)

    valkey.thaw()
    await until_up(link)
    budgets.settle(await budgets.reserve(costs(1, 1_000, clock())), 0)
    await link.ping()
    assert (70, 200) == await purse(link)
    assert sorted(f":{call.call}".encode() for call in calls[1:]) == await holds(link)
    budgets.settle(calls[1], 50)
    await link.ping()
    assert (120, 100) == await purse(link)
    clock.advance(HELD)
    other = RedisBudgets(still, 2)
    other.settle(await other.reserve(costs(880, 1_000, clock())), 0)
    await link.ping()
    assert (120, 0) == await purse(link)
    assert [] == await holds(link)


async def down(link):
    with pytest.raises(NoAnswer):
        await link.ping()


async def until_up(link):
    async def up():
        try:
            await link.ping()
        except RedisFault:
            return False
        return True

    await until(up)


async def test_prefixes_do_not_meet(link, stack):
    """Two installations may share a server."""
    one = limits_over(stack, link, prefix=f"{secrets.token_hex(4)}:")
    two = limits_over(stack, link, prefix=f"{secrets.token_hex(4)}:")

    assert "" == (await one.admit(asked(plan(1)))).refused
    assert "" == (await two.admit(asked(plan(1)))).refused
