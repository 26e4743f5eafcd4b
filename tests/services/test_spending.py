"""What the ledger is asked before a budget is known: when, how often, and for how long."""

from __future__ import annotations

import asyncio

import pytest
from attrs import define, field

from app.services import gate
from app.services.gate import Spending
from domain.errors import InvalidRequest, Unavailable
from domain.rates import month_of, span_of
from domain.usage import UsageSums

MONTH = month_of(1_800_000_000_000_000)


@define
class Told:
    """A ledger and a journal that note in which order they were asked."""

    spent: int = 70
    away: bool = False
    asked: list[object] = field(factory=list)
    gate: asyncio.Event | None = None

    async def sum(self, project, span):
        self.asked.append((project, span))
        if self.gate is not None:
            await self.gate.wait()
        if self.away:
            raise InvalidRequest("any of its errors")
        return UsageSums(1, 0, 0, 0, 0, self.spent, 0)

    async def drain(self, timeout):
        assert 0 < timeout <= 1
        self.asked.append("journal")


@pytest.fixture
def told():
    return Told()


@pytest.fixture
def spending(told):
    return Spending(told, told)


async def test_the_journal_of_an_earlier_process_comes_first(told, spending):
    """Once, before the first question; each question is of the month's hours."""
    assert [70, 70] == [await spending(project, MONTH) for project in "pq"]
    assert ["journal", ("p", span_of(MONTH)), ("q", span_of(MONTH))] == told.asked


async def test_many_wait_for_one_question(told, spending):
    """And the next one, later, asks anew."""
    told.gate = asyncio.Event()
    waiting = [asyncio.ensure_future(spending("p", MONTH)) for _ in range(20)]
    await asyncio.sleep(0)
    waiting.pop().cancel()
    await asyncio.sleep(0)
    told.gate.set()

    assert [70] * 19 == await asyncio.gather(*waiting)
    assert 2 == len(told.asked)
    told.spent = 80
    assert 80 == await spending("p", MONTH)


async def test_nobody_waits_for_long(told, spending, monkeypatch):
    """The question stays open for those who come later; nobody is told the same error object."""
    monkeypatch.setattr(gate, "PATIENCE", 0.01)
    told.gate = asyncio.Event()
    errors = []
    for _ in range(2):
        with pytest.raises(Unavailable) as caught:
            await spending("p", MONTH)
        errors.append(caught.value)
    assert [503, 503] == [error.status for error in errors]
    assert [5, 5] == [error.retry_after for error in errors]
    assert errors[0] is not errors[1]
    assert 2 == len(told.asked)
    monkeypatch.setattr(gate, "PATIENCE", 5)
    told.gate.set()
    assert 70 == await spending("p", MONTH)
    assert 2 == len(told.asked)


async def test_a_ledger_that_is_away_is_no_answer(told, spending):
    """503, whatever it says of itself."""
    told.away = True
    with pytest.raises(Unavailable):
        await spending("p", MONTH)
    told.away = False
    assert 70 == await spending("p", MONTH)


async def test_open_questions_are_bounded(told, spending, monkeypatch):
    monkeypatch.setattr(gate, "MOST_ASKED", 3)
    told.gate = asyncio.Event()
    waiting = [asyncio.ensure_future(spending(project, MONTH)) for project in "abc"]
    await asyncio.sleep(0)
    with pytest.raises(Unavailable):
        await spending("d", MONTH)
    told.gate.set()
    assert [70] * 3 == await asyncio.gather(*waiting)
    assert 70 == await spending("d", MONTH)
