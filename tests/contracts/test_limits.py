"""The promises of Limits and Budgets, kept by every adapter.

Redis runs the packaged script; only its clock is replaced by the test's.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from contextlib import AsyncExitStack, aclosing
from datetime import UTC, datetime
from importlib.resources import files

import pytest
from attrs import define, field

from adapters.memory.limits import MemoryBudgets, MemoryLimits
from adapters.redis.budgets import RedisBudgets
from adapters.redis.cluster import open_link
from adapters.redis.limits import RedisLimits
from domain.errors import Unavailable
from domain.plans import Plan
from domain.rates import (
    CONCURRENCY,
    HELD,
    MONTH,
    RATE,
    Ask,
    Purse,
    Reservation,
    Spend,
    Standing,
    month_of,
    reserve,
    settle,
    take,
    turned,
)
from tests.support.fixtures import async_fixture

SCRIPT = files("adapters.redis").joinpath("limits.lua").read_text()
MILLION = 10**18
LEASE = round(HELD * 1_000_000)


def plan(per_minute: int = 0, per_month: int = 0, at_once: int = 0) -> Plan:
    return Plan("test", per_minute, per_month, at_once, 0)


@define
class StillLink:
    """A link whose scripts see the test's clock in place of the server's."""

    link: object
    clock: object

    @property
    def state(self):
        return self.link.state

    def execute(self, *args):
        if args[0] != "EVALSHA":
            return self.link.execute(*args)
        seconds, micros = divmod(round(self.clock() * 1_000_000), 1_000_000)
        assert 1 == SCRIPT.count("redis.call('TIME')")
        text = SCRIPT.replace("redis.call('TIME')", f"{{'{seconds}', '{micros}'}}")
        return self.link.execute("EVAL", text, *args[2:])


@define
class Books:
    """A ledger: what was spent, by project and month. `asked` is how often; while it is `away` it cannot be asked."""

    spent: dict[tuple[str, int], int] = field(factory=dict)
    asked: int = 0
    away: bool = False
    gate: asyncio.Event | None = None

    async def __call__(self, project, month):
        self.asked += 1
        spent = self.spent.get((project, month), 0)
        if self.gate is not None:
            await self.gate.wait()
        if self.away:
            raise Unavailable("away")
        return spent


@define
class Counted:
    """An adapter's two halves, and the shortest way to ask them."""

    limits: object
    budgets: object
    clock: object
    books: Books
    serial: int = 0

    @property
    def month(self):
        return month_of(round(self.clock() * 1_000_000))

    async def ask(self, numbers: Plan, project: str = "p", request: str = ""):
        self.serial += 1
        ask = Ask(project, numbers, request or f"r{self.serial}", self.clock())
        verdict = self.limits.at_once(ask)
        return await self.limits.admit(ask) if verdict is None else verdict

    async def refused(self, numbers: Plan, project: str = "p", request: str = "") -> str:
        return (await self.ask(numbers, project, request)).refused

    def end(self, numbers: Plan, request: str, project: str = "p") -> None:
        self.limits.release(Ask(project, numbers, request, self.clock()))

    async def reserve(self, most: int, budget: int, project: str = "p"):
        self.serial += 1
        spend = Spend(project, most, budget, self.clock(), f"c{self.serial}")
        return await self.budgets.reserve(spend)

    async def left(self, budget: int = MILLION, project: str = "p") -> int:
        """What can be set aside, found by asking."""
        least, most = 0, budget + 1
        while most - least > 1:
            amount = (least + most) // 2
            found = await self.reserve(amount, budget, project)
            if found is None:
                most = amount
            else:
                self.budgets.settle(found, 0)
                least = amount
        return least


@pytest.fixture(params=["memory", "redis", "cluster"])
def kind(request):
    return request.param


@async_fixture
async def counted(kind, clock, request):
    books = Books()
    if kind == "memory":
        yield Counted(MemoryLimits(), MemoryBudgets(books), clock, books)
        return
    async with AsyncExitStack() as stack:
        url = request.getfixturevalue("valkey_url" if kind == "redis" else "valkey_cluster_url")
        link = open_link(url, command_timeout=2, connect_timeout=2)
        await stack.enter_async_context(aclosing(link))
        still = StillLink(link, clock)
        prefix = f"test:{secrets.token_hex(6)}:"
        limits = RedisLimits(still, processes=4, prefix=prefix)
        stack.callback(limits.close)
        budgets = RedisBudgets(still, 4, books, prefix=prefix)
        yield Counted(limits, budgets, clock, books)


async def test_the_number_of_the_plan_passes(counted, clock):
    """N at once, then one for each interval, and the verdict says what remains."""
    verdicts = [await counted.ask(plan(5)) for _ in range(6)]

    assert ["", "", "", "", "", RATE] == [verdict.refused for verdict in verdicts]
    assert [4, 3, 2, 1, 0, 0] == [verdict.remaining for verdict in verdicts]
    assert [12, 24, 36, 48, 60, 60] == [verdict.reset for verdict in verdicts]
    clock.advance(verdicts[-1].retry_after - 0.001)
    assert RATE == await counted.refused(plan(5))
    clock.advance(0.001)
    assert "" == await counted.refused(plan(5))
    assert RATE == await counted.refused(plan(5))


async def test_projects_do_not_share(counted):
    """One project's limit is nobody else's."""
    assert ["", RATE] == [await counted.refused(plan(1), "p") for _ in range(2)]
    assert ["", RATE] == [await counted.refused(plan(1), "q") for _ in range(2)]


async def test_a_new_plan_acts_with_the_next_request(counted):
    """Its numbers come with each request; larger ones open what the smaller had closed."""
    assert ["", RATE] == [await counted.refused(plan(1)) for _ in range(2)]
    assert "" == await counted.refused(plan(3))
    assert RATE == await counted.refused(plan(2))


async def test_no_limit_needs_no_question(counted):
    """A plan of zeros is answered at once, and counts nothing."""
    for _ in range(5):
        verdict = counted.limits.at_once(Ask("p", plan(), "r", counted.clock()))
        assert ("", 0) == (verdict.refused, verdict.limit)
    assert "" == await counted.refused(plan(1))


async def test_every_schedule_is_ruled_as_the_domain_rules(counted, clock):
    """Random times and plans: verdicts equal domain.rates to the last figure."""
    dice, standing, seen = random.Random(26), Standing(), set()
    for _ in range(400):
        if dice.random() < 0.8:
            clock.advance(round(dice.expovariate(3), 6))
        numbers = plan(dice.choice([0, 7, 30, 60, 60, 60, 113]), dice.choice([250, 1000]))
        now = round(clock() * 1_000_000)
        expected, standing = take(numbers, standing, now)
        seen.add(expected.refused)
        assert expected == await counted.ask(numbers)

    assert {"", RATE, MONTH} == seen


@pytest.mark.parametrize("year", [2027, 2028, 2100])
async def test_a_month_ends_when_the_calendar_says(counted, clock, year):
    """Every month of a year, a leap year and a century: full in its last millisecond, empty in its first."""
    for month in range(1, 13):
        begins = datetime(year + month // 12, month % 12 + 1, 1, tzinfo=UTC).timestamp()
        clock.now = begins - 0.001
        assert "" == await counted.refused(plan(per_month=1), f"p{month}")
        assert MONTH == await counted.refused(plan(per_month=1), f"p{month}")
        clock.now = begins
        assert "" == await counted.refused(plan(per_month=1), f"p{month}")
        assert MONTH == await counted.refused(plan(per_month=1), f"p{month}")


async def test_a_refused_request_counts_nowhere(counted, clock):
    """Not in the month when the minute is full, not as running when the month is."""
    numbers = plan(per_minute=2, per_month=3, at_once=9)
    assert ["", "", RATE, RATE, RATE] == [await counted.refused(numbers) for _ in range(5)]
    clock.advance(30)
    assert ["", MONTH, MONTH] == [await counted.refused(numbers) for _ in range(3)]
    one_more = plan(at_once=4)
    assert ["", CONCURRENCY] == [await counted.refused(one_more) for _ in range(2)]


async def test_only_so_many_run_at_once(counted):
    """An end makes room for one; an end of one that was refused makes none."""
    numbers = plan(at_once=2)
    assert ["", "", CONCURRENCY] == [await counted.refused(numbers, request=r) for r in "abc"]
    counted.end(numbers, "a")
    assert ["", CONCURRENCY] == [await counted.refused(numbers, request=r) for r in "de"]


async def test_money_is_never_set_aside_twice(counted):
    """To the picodollar at a million dollars."""
    first = await counted.reserve(MILLION - 1, MILLION)
    assert MILLION - 1 == first.amount
    assert None is await counted.reserve(2, MILLION)
    assert None is not await counted.reserve(1, MILLION)
    assert None is await counted.reserve(1, MILLION)


async def test_what_was_not_spent_returns(counted):
    """Settled for less: the rest can be set aside again. Failed for free: all of it."""
    first = await counted.reserve(600, 1000)
    second = await counted.reserve(400, 1000)
    counted.budgets.settle(first, 599)
    assert None is await counted.reserve(2, 1000)
    assert None is not await counted.reserve(1, 1000)
    counted.budgets.settle(second, 0)
    assert None is not await counted.reserve(400, 1000)
    assert None is await counted.reserve(1, 1000)


async def test_what_was_spent_beyond_counts(counted):
    """A call that cost more than was set aside leaves less for others."""
    first = await counted.reserve(10, 100)
    counted.budgets.settle(first, 95)

    assert None is await counted.reserve(6, 100)
    assert None is not await counted.reserve(5, 100)


async def test_random_sums_are_exact(counted):
    """Two hundred calls of up to ten thousand dollars: the ledger's integer and the budget agree at each step."""
    dice, spent, open_calls = random.Random(7), 0, []
    for _ in range(200):
        most = dice.randrange(1, 10**16)
        found = await counted.reserve(most, MILLION)
        assert (found is not None) == (spent + most <= MILLION)
        if found is not None:
            spent += most
            open_calls.append(found)
        if open_calls and dice.random() < 0.3:
            call = open_calls.pop(dice.randrange(len(open_calls)))
            cost = dice.randrange(0, call.amount + 10)
            counted.budgets.settle(call, cost)
            spent += cost - call.amount
    assert None is await counted.reserve(MILLION - spent + 1, MILLION)
    assert None is not await counted.reserve(MILLION - spent, MILLION)


async def test_a_budget_is_the_months(counted, clock):
    """A new month begins with all of it; what is settled late belongs to the old one."""
    clock.now = datetime(2028, 2, 29, 23, 59, 59, tzinfo=UTC).timestamp()
    late = await counted.reserve(100, 100)
    assert None is await counted.reserve(1, 100)
    clock.advance(1)
    new = await counted.reserve(60, 100)
    assert month_of(round(clock() * 1_000_000)) == new.month == late.month + 1
    counted.budgets.settle(late, 0)
    assert None is await counted.reserve(41, 100)
    assert None is not await counted.reserve(40, 100)


async def test_money_of_a_call_that_never_ends_returns(counted, clock):
    """With its lease, and not sooner; what is settled in time stays settled."""
    await counted.reserve(90, 100)
    clock.advance(60)
    good = await counted.reserve(10, 100)
    counted.budgets.settle(good, 4)
    clock.advance(HELD - 61)
    assert 6 == await counted.left(100)
    clock.advance(1)
    assert 96 == await counted.left(100)


async def test_a_call_that_outlives_its_lease_is_counted_once(counted, clock):
    """At what it cost, beside what was set aside for others meanwhile."""
    long, other = await counted.reserve(90, 100), None
    clock.advance(HELD)
    other = await counted.reserve(30, 100)
    counted.budgets.settle(long, 50)
    assert 20 == await counted.left(100)
    counted.budgets.settle(other, 0)
    assert 50 == await counted.left(100)


async def test_every_schedule_of_money_is_ruled_as_the_domain_rules(counted, clock):
    """Random amounts, times and losses over hours: each yes and no is that of domain.rates, to the picodollar."""
    dice, purse, running, seen = random.Random(11), Purse(counted.month), [], []
    for number in range(300):
        clock.advance(round(dice.expovariate(1 / 40), 6))
        now, most = round(clock() * 1_000_000), dice.randrange(1, MILLION // 6)
        if dice.random() < 0.3:
            there = turned(purse, now)
            most = max(1, MILLION - there.spent - there.held + dice.choice([0, 1]))
        after = reserve(purse, Spend("p", most, MILLION, 0, f"c{number + 1}"), now, LEASE)
        found = await counted.reserve(most, MILLION)
        assert (after is None) == (found is None)
        seen.append(found is None)
        if found is not None:
            purse = after
            # Some are never heard of again.
            running += [found] if dice.random() < 0.7 else []
        while running and dice.random() < 0.5:
            call = running.pop(dice.randrange(len(running)))
            cost = dice.randrange(0, call.amount // 90 + 2)
            assert call == Reservation("p", call.amount, purse.month, call.call)
            counted.budgets.settle(call, cost)
            purse = settle(purse, call, cost)

    assert 30 < sum(seen) < 270


# --- money that was spent before ---------------------------------------------------------------------


async def test_a_month_begins_with_what_the_ledger_says(counted, clock):
    """Asked once, by the first call; each project has its own."""
    counted.books.spent = {("p", counted.month): MILLION - 30, ("q", counted.month - 1): MILLION}
    assert None is await counted.reserve(31, MILLION)
    first = await counted.reserve(30, MILLION)
    counted.budgets.settle(first, 10)
    assert 20 == await counted.left()
    assert 1 == counted.books.asked
    assert MILLION == await counted.left(project="q")


async def test_a_new_month_is_not_asked_for(counted, clock):
    """A counter that was there all the time knows that nothing was spent in it."""
    await counted.reserve(100, 100)
    clock.now = datetime(2100, 1, 1, tzinfo=UTC).timestamp()
    counted.books.away = True
    assert 100 == await counted.left(100)
    assert 1 == counted.books.asked


async def test_what_cannot_be_known_is_not_spent(counted):
    """While the ledger is away no call is allowed, and the next one asks again. What is known goes on."""
    counted.books.spent = {("p", counted.month): 60}
    counted.books.away = True
    for _ in range(2):
        with pytest.raises(Unavailable):
            await counted.reserve(1, 100)
    counted.books.away = False
    assert 40 == await counted.left(100)
    counted.books.away = True
    assert 40 == await counted.left(100)


async def test_what_was_spent_before_is_counted_once(counted):
    """Ten first calls at once all hear of it; and one that hears late changes nothing that others did since."""
    counted.books.spent = {("p", counted.month): 60}
    counted.books.gate = asyncio.Event()
    late = asyncio.ensure_future(counted.reserve(1, 100))
    while not counted.books.asked:
        await asyncio.sleep(0.001)
    late_gate, counted.books.gate = counted.books.gate, None
    found = await asyncio.gather(*[counted.reserve(5, 100) for _ in range(10)])
    granted = [one for one in found if one is not None]
    assert [5] * 8 == [one.amount for one in granted]
    for one in granted:
        counted.budgets.settle(one, 4)
    # By now the ledger has them too.
    counted.books.spent = {("p", counted.month): 92}
    assert 8 == await counted.left(100)
    late_gate.set()
    assert 1 == (await late).amount
    assert 7 == await counted.left(100)


async def test_who_leaves_while_the_ledger_is_asked_spends_nothing(counted):
    """And the next one asks anew."""
    counted.books.gate = asyncio.Event()
    gone = asyncio.ensure_future(counted.reserve(70, 100))
    while not counted.books.asked:
        await asyncio.sleep(0.001)
    gone.cancel()
    counted.books.gate.set()
    await asyncio.wait([gone])

    assert gone.cancelled()
    assert 100 == await counted.left(100)
