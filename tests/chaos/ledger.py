"""The ledger against the provider's books and the clients' answers, read by plain SQL."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import closing
from typing import Any, NamedTuple

import psycopg2

from tests.chaos.books import Bill, Books, Question
from tests.chaos.client import Answer
from tests.chaos.trial import Trial

DISPATCHED = ("miss", "failed", "client_gone", "interrupted")
PASSED_THE_DOOR = (200, 429, 502, 504)
"""Statuses of whoever was known and served, or refused by name; a 503 may come before there is anything to write."""


class Row(NamedTuple):
    id: str
    key: str
    model: str
    outcome: str
    status: int
    fresh: int
    cached: int
    output: int
    estimated: bool
    cost: int | None
    avoided: int | None


_ROWS = """
    SELECT id, api_key, model_asked, outcome, status, input_tokens, cache_read_tokens, output_tokens, estimated,
           cost, avoided
      FROM watchllm.usage_log
"""

# Sums of the rows that the kept sums do not have, and the other way round.
_SUMS = """
    WITH rows AS (
        SELECT project, at - at %% {width} AS start, provider,
               CASE WHEN model_answered = '' THEN model_asked ELSE model_answered END AS model,
               count(*) AS requests, count(*) FILTER (WHERE outcome = 'hit') AS hits,
               sum(input_tokens + cache_read_tokens + cache_write_tokens) AS prompt,
               sum(output_tokens) AS completion, coalesce(sum(cost), 0) AS cost,
               coalesce(sum(avoided), 0) AS avoided
          FROM watchllm.usage_log GROUP BY 1, 2, 3, 4
    ),
    kept AS (
        SELECT project, start, provider, model, requests, hits, prompt_tokens, completion_tokens, cost, avoided
          FROM watchllm.{table}
    )
    (SELECT * FROM rows EXCEPT SELECT * FROM kept) UNION ALL (SELECT * FROM kept EXCEPT SELECT * FROM rows)
"""


def query(url: str, sql: str) -> list[tuple[Any, ...]]:
    with closing(psycopg2.connect(url, connect_timeout=3)) as connection:
        cursor = connection.cursor()
        cursor.execute("SET statement_timeout = 20000")
        cursor.execute(sql)
        return list(cursor.fetchall()) if cursor.description else []


async def read(url: str) -> list[Row]:
    found = await asyncio.to_thread(query, url, _ROWS)
    return [
        Row(*row[:9], *(None if each is None else int(each) for each in row[9:])) for row in found
    ]


async def count(url: str, where: str = "true") -> int:
    sql = f"SELECT count(*) FROM watchllm.usage_log WHERE {where}"
    [[number]] = await asyncio.to_thread(query, url, sql)
    return int(number)


async def reached(url: str, wanted: int, within: float) -> float | None:
    """Seconds until there are that many rows; None if that takes longer."""
    began = time.monotonic()
    while time.monotonic() - began < within:
        if await count(url) >= wanted:
            return time.monotonic() - began
        await asyncio.sleep(0.05)
    return None


async def lost_sums(url: str) -> list[tuple[Any, ...]]:
    found: list[tuple[Any, ...]] = []
    for table, width in (("usage_daily", 86_400_000), ("usage_hourly", 3_600_000)):
        sql = _SUMS.format(table=table, width=width).replace("%%", "%")
        found += await asyncio.to_thread(query, url, sql)
    return found


class Audit:
    """Everything that was asked, and by whom: `keys` are key ids by their number."""

    def __init__(self, keys: Sequence[str], books: Books) -> None:
        self.books = books
        self.answers: list[Answer] = []
        self.numbers = {key: number for number, key in enumerate(keys)}

    def add(self, answers: Iterable[Answer]) -> None:
        self.answers += answers

    def lost(self, rows: Sequence[Row]) -> list[str]:
        """What must have a row and has none: answers that were read whole, and calls that reached the provider."""
        known = {row.id for row in rows}
        lost = [
            answer.id
            for answer in self.answers
            if answer.whole and answer.status in PASSED_THE_DOOR and answer.id not in known
        ]
        there = self._by_question(row for row in rows if row.outcome in DISPATCHED)
        for question, times in self.books.dispatched.items():
            lost += [f"{question.text} at the provider"] * max(0, times - there[question])
        return lost

    def doubled(self, rows: Sequence[Row]) -> list[str]:
        """Rows beyond what was asked, and answers of the provider's beyond what it was asked."""
        attempts = Counter(answer.question for answer in self.answers)
        there = self._by_question(rows)
        found = [one.text for one, times in there.items() if times > attempts[one]]
        misses = self._by_question(row for row in rows if row.outcome == "miss")
        found += [one.text for one, times in misses.items() if times > self.books.dispatched[one]]
        ids = Counter(row.id for row in rows)
        return found + [one for one, times in ids.items() if times > 1]

    def mispriced(self, rows: Sequence[Row]) -> list[Row]:
        return [row for row in rows if not self._well_priced(row)]

    def _well_priced(self, row: Row) -> bool:
        told = Bill(row.fresh, row.cached, row.output)
        if row.outcome == "denied":
            return row.cost == 0
        if row.outcome == "hit":
            return (row.cost, row.avoided) == (0, self.books.bill(self._question(row)).cost)
        if row.outcome == "miss" and told != self.books.bill(self._question(row)):
            return False
        return row.cost == told.cost

    def _by_question(self, rows: Iterable[Row]) -> Counter[Question]:
        return Counter(map(self._question, rows))

    def _question(self, row: Row) -> Question:
        return Question(self.numbers[row.key], row.model)


async def judge(trial: Trial, url: str, audit: Audit, within: float) -> None:
    """Waits until nothing is missing, for `within` seconds at most, and tells how long that took; then the rest."""
    began = time.monotonic()
    while True:
        # Other keys' rows are of whoever only knocked.
        rows = [row for row in await read(url) if row.key in audit.numbers]
        lost = audit.lost(rows)
        took = time.monotonic() - began
        if not lost or took > within:
            break
        await asyncio.sleep(0.25)
    outcomes = Counter(row.outcome for row in rows)
    whole = sum(answer.whole and answer.status == 200 for answer in audit.answers)
    trial.tell(f"{len(audit.answers)} asked, {whole} answered")
    trial.tell("rows " + ", ".join(f"{name} {times}" for name, times in sorted(outcomes.items())))
    trial.none(lost, "lost")
    trial.none(audit.doubled(rows), "duplicate")
    trial.none(audit.mispriced(rows), "wrong cost")
    trial.must(not await lost_sums(url), "the kept sums are not the sums of the rows")
    trial.tell(f"caught up in {took:.1f} s")
