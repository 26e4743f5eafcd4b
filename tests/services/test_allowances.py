"""Who has used most of a month, or all of it, is told once."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from attrs import define, evolve

from app.services.allowances import Allowances, month_of
from domain.billing import Account
from domain.errors import Unavailable
from domain.plans import Plan
from domain.project import Project
from domain.usage import UsageSums
from tests.support.postbox import MemoryBooks, MemoryChores, Posts

PLANS = {"starter": Plan("starter", 60, 1_000, 10, 49), "unlimited": Plan("unlimited", 0, 0, 0, 0)}
NONE = UsageSums(0, 0, 0, 0, 0, 0, 0)
MONTH = "2027-01"
RESETS = datetime(2027, 2, 1, tzinfo=UTC).timestamp()


@define
class Bench:
    clock: object
    books: MemoryBooks
    chores: MemoryChores
    posts: Posts

    def process(self):
        return Allowances(
            projects=self.books,
            usage=self.books,
            bills=self.books,
            chores=self.chores,
            post=self.posts,
            plans=PLANS,
            clock=self.clock,
        )

    async def minute(self, *processes, requests=0, cost=0, refused=0):
        """The ledger stands so, and everybody looks."""
        self.books.sums = {"prj_1": evolve(NONE, requests=requests, cost=cost)}
        self.books.refused = {"prj_1": refused}
        before = set(self.posts.told)
        for one in processes:
            await one.look()
        self.clock.advance(60)
        return sorted(set(self.posts.told) - before)


@pytest.fixture
def bench(clock):
    books = MemoryBooks([Project("prj_1", "shop", "starter", 0, 0.0, budget=100)])
    books.accounts["prj_1"] = Account("prj_1", email="bill@customer.test")
    return Bench(clock, books, MemoryChores(), Posts())


async def test_80_and_100_are_each_told_once(bench):
    """However often it is looked, and by however many processes."""
    two = bench.process(), bench.process()

    assert [] == await bench.minute(*two, requests=799)
    assert [f"quota_80:prj_1:{MONTH}"] == await bench.minute(*two, requests=800)
    assert [] == await bench.minute(*two, requests=999)
    assert [f"quota_100:prj_1:{MONTH}"] == await bench.minute(*two, requests=1_000)
    assert [] == await bench.minute(*two, requests=5_000)


async def test_a_jump_tells_only_the_end(bench):
    """Nobody reads that most is used when all of it is."""
    assert [f"quota_100:prj_1:{MONTH}"] == await bench.minute(bench.process(), requests=1_000)


async def test_budgets_too(bench):
    """By the ledger's cost, to the picodollar."""
    one = bench.process()

    assert [] == await bench.minute(one, cost=79)
    assert [f"budget_80:prj_1:{MONTH}"] == await bench.minute(one, cost=80)
    assert [f"budget_100:prj_1:{MONTH}"] == await bench.minute(one, cost=100)


async def test_the_facts(bench):
    """How much of what, in which month, and when it begins anew; to the address of the bill if there is no other."""
    await bench.minute(bench.process(), requests=850, cost=90)

    quota, budget = (
        bench.posts.told[f"quota_80:prj_1:{MONTH}"],
        bench.posts.told[f"budget_80:prj_1:{MONTH}"],
    )
    assert {"used": 850, "most": 1_000, "month": MONTH, "resets_at": RESETS} == quota.facts
    assert {"used": 90, "most": 100, "month": MONTH, "resets_at": RESETS} == budget.facts
    assert {
        ("quota_80", "prj_1", "bill@customer.test"),
        ("budget_80", "prj_1", "bill@customer.test"),
    } == {(one.kind, one.project, one.email) for one in (quota, budget)}


async def test_refused_requests_use_nothing_up(bench):
    """A client that runs against its limit fills the ledger and not its quota."""
    one = bench.process()

    assert [] == await bench.minute(one, requests=5_000, refused=4_500)
    assert [f"quota_80:prj_1:{MONTH}"] == await bench.minute(one, requests=5_400, refused=4_600)


async def test_counting_is_dear_and_rare(bench):
    """The rows of a whole month are counted again only if the count can have reached something since."""
    one = bench.process()
    for more in range(100):
        await bench.minute(one, requests=5_000 + more, refused=4_500 + more // 2)
    assert 1 == len(bench.books.counted)
    await bench.minute(one, requests=5_300, refused=4_700)
    assert 2 == len(bench.books.counted)

    for more in range(10):
        await bench.minute(one, requests=5_500 + more, refused=4_700)
    assert 3 == len(bench.books.counted)
    assert [f"quota_80:prj_1:{MONTH}"] == list(bench.posts.told)


async def test_no_limit_no_notice(bench):
    bench.books.projects = [Project("prj_1", "shop", "unlimited", 0, 0.0)]

    assert [] == await bench.minute(bench.process(), requests=10**9, cost=10**18)


async def test_a_plan_that_is_not_in_the_table(bench):
    """It is as strict as the strictest, as the limits themselves are."""
    bench.books.projects = [Project("prj_1", "gone", "gone", 0, 0.0)]

    assert [f"quota_100:prj_1:{MONTH}"] == await bench.minute(bench.process(), requests=50_000)


async def test_a_new_month_begins_anew(bench):
    """And what was told of the old one is forgotten."""
    one = bench.process()
    await bench.minute(one, requests=1_000)
    bench.clock.now = RESETS
    assert ["quota_100:prj_1:2027-02"] == await bench.minute(one, requests=1_000)


async def test_what_could_not_be_posted_is_told_later(bench):
    one = bench.process()
    bench.posts.store.away = 1
    with pytest.raises(Unavailable):
        await bench.minute(one, requests=800)
    bench.clock.advance(60)

    assert [f"quota_80:prj_1:{MONTH}"] == await bench.minute(one, requests=800)


async def test_one_process_looks_each_minute(bench):
    two = bench.process(), bench.process()
    await bench.minute(*two, requests=5_000, refused=5_000)

    assert ["prj_1"] == bench.books.counted
    assert [datetime(2027, 1, 1, tzinfo=UTC).timestamp()] == [
        one.since for one in bench.books.spans
    ]


@pytest.mark.parametrize(
    ("at", "name", "until"),
    [
        ("2027-01-01T00:00:00", "2027-01", "2027-02-01"),
        ("2027-12-31T23:59:59", "2027-12", "2028-01-01"),
        ("2028-02-29T12:00:00", "2028-02", "2028-03-01"),
        ("2027-11-30T12:00:00", "2027-11", "2027-12-01"),
    ],
)
def test_months(at, name, until):
    """Calendar months, UTC."""
    found = month_of(datetime.fromisoformat(f"{at}+00:00").timestamp())

    assert (name, datetime.fromisoformat(f"{until}T00:00:00+00:00").timestamp()) == (
        found.name,
        found.until,
    )
