"""What `UsageLog` promises, over SQLite and PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import attrs
import pytest

from adapters.sql.db import Db
from adapters.sql.usage import SqlUsageLog
from domain.errors import ApiError, Unavailable
from domain.usage import Usage, UsageRecord, UsageTotal
from tests.support.fixtures import async_fixture

MIDNIGHT = datetime(2026, 3, 1, tzinfo=UTC).timestamp()
USAGE = Usage(1, 2, 4, 8, 16, 32, 64, 20, True)
RECORD = UsageRecord(
    id="0190-1",
    project="p_1",
    key="k_1",
    kind="project",
    at=MIDNIGHT + 0.25,
    endpoint="chat/completions",
    model_asked="fast",
    model_answered="gpt-5.1",
    provider="openai",
    streamed=True,
    outcome="miss",
    status=200,
    usage=USAGE,
    cost=2**60 + 1,
    avoided=None,
    price_version="2026-02-28",
    first_byte_ms=120.25,
    total_ms=900.5,
    cache_reason="not-cacheable: finish_reason content_filter",
)


@async_fixture
async def log(db: Db) -> SqlUsageLog:
    return SqlUsageLog(db)


async def all_of(log: SqlUsageLog, project: str = "p_1") -> list[UsageTotal]:
    return list(await log.totals(project, 0.0, MIDNIGHT * 2))


async def test_every_field_is_kept(log: SqlUsageLog, db: Db) -> None:
    """Each field and each bucket of a record has its column, and money its last digit."""
    await log.append([RECORD])

    [row] = await db.rows("SELECT * FROM usage_log")

    expected: dict[str, Any] = attrs.asdict(RECORD, recurse=False)
    expected |= {f"{name}_tokens": count for name, count in attrs.asdict(USAGE).items()}
    expected |= {"api_key": RECORD.key, "at": round(RECORD.at * 1000), "estimated": True}
    for name in ("key", "usage", "estimated_tokens"):
        del expected[name]
    assert expected == row


async def test_the_same_record_counts_once(log: SqlUsageLog) -> None:
    """Whether in one batch, in a later one or beside new ones."""
    other = attrs.evolve(RECORD, id="0190-2")

    await log.append([RECORD, RECORD])
    await log.append([RECORD, other])
    await log.append([])

    [total] = await all_of(log)
    assert 2 == total.requests


async def test_two_appenders_of_the_same_rows(log: SqlUsageLog, open_db: Callable[[], Db]) -> None:
    """Two nodes that ship the same journal at the same time write each record once."""
    records = [attrs.evolve(RECORD, id=f"0190-{number}") for number in range(500)]
    second = open_db()
    try:
        await asyncio.gather(
            *(
                one.append(rows)
                for one in (log, SqlUsageLog(second))
                for rows in (records, records[::-1])
            )
        )
    finally:
        await second.aclose()

    [total] = await all_of(log)
    assert (500, 500 * (2**60 + 1)) == (total.requests, total.cost)


async def test_totals_add_up(log: SqlUsageLog) -> None:
    """Prompt and completion are the sums of their buckets, hits are counted, unknown money is left out."""
    await log.append(
        [
            RECORD,
            attrs.evolve(RECORD, id="0190-2", outcome="hit", cost=0, avoided=10**15),
            attrs.evolve(RECORD, id="0190-3", cost=None),
        ]
    )

    [total] = await all_of(log)

    expected = UsageTotal(
        "2026-03-01",
        "openai",
        "gpt-5.1",
        3,
        1,
        3 * USAGE.prompt,
        3 * USAGE.completion,
        2**60 + 1,
        10**15,
    )
    assert expected == total
    for field in (
        total.hits,
        total.prompt_tokens,
        total.completion_tokens,
        total.cost,
        total.avoided,
    ):
        assert type(field) is int


async def test_totals_per_utc_day_provider_and_model(log: SqlUsageLog) -> None:
    """Ordered by day, provider and model; a model that never answered goes by the name it was asked by."""
    cases = [
        (MIDNIGHT + 1, "openai", "b"),
        (MIDNIGHT + 1, "openai", "a"),
        (MIDNIGHT + 1, "openai", "Z"),
        (MIDNIGHT - 0.001, "openai", "a"),
        (MIDNIGHT + 1, "anthropic", "c"),
        (MIDNIGHT + 1, "openai", ""),
    ]
    await log.append(
        [
            attrs.evolve(
                RECORD, id=f"0190-{number}", at=at, provider=provider, model_answered=model
            )
            for number, (at, provider, model) in enumerate(cases)
        ]
    )

    found = [(total.day, total.provider, total.model) for total in await all_of(log)]

    assert [
        ("2026-02-28", "openai", "a"),
        ("2026-03-01", "anthropic", "c"),
        ("2026-03-01", "openai", "Z"),
        ("2026-03-01", "openai", "a"),
        ("2026-03-01", "openai", "b"),
        ("2026-03-01", "openai", "fast"),
    ] == found


async def test_totals_of_a_time_and_a_project(log: SqlUsageLog) -> None:
    """`since` is inside, `until` outside, and other projects do not show."""
    at = (MIDNIGHT, MIDNIGHT + 10, MIDNIGHT + 20)
    await log.append(
        [attrs.evolve(RECORD, id=f"0190-{number}", at=moment) for number, moment in enumerate(at)]
    )
    await log.append([attrs.evolve(RECORD, id="0190-9", project="p_2")])

    [total] = await log.totals("p_1", MIDNIGHT, MIDNIGHT + 20)

    assert 2 == total.requests
    assert [] == list(await log.totals("p_1", MIDNIGHT + 21, MIDNIGHT + 30))
    assert [] == list(await log.totals("p_1' OR '1'='1", 0.0, MIDNIGHT * 2))


@pytest.mark.parametrize(
    "text",
    ["'); DROP TABLE usage_log;--", "%(batch)s :batch %s", "Größe 🦊", 'a"b\\u0000c\\', "a\0b"],
)
async def test_text_is_only_data(log: SqlUsageLog, text: str) -> None:
    """Whatever a provider calls its model is kept as it is, but for U+0000."""
    await log.append([attrs.evolve(RECORD, model_answered=text)])

    [total] = await all_of(log)
    assert text.replace("\0", "\N{REPLACEMENT CHARACTER}") == total.model


@pytest.mark.parametrize(
    "change",
    [{"cost": 2**64}, {"status": None}, {"id": None}, {"model_asked": "\ud800"}],
)
async def test_a_record_that_never_fits(log: SqlUsageLog, change: dict[str, Any]) -> None:
    """It is told from an outage, refuses its batch as a whole, and does no harm to the next."""
    with pytest.raises(ApiError) as caught:
        await log.append([attrs.evolve(RECORD, id="0190-0"), attrs.evolve(RECORD, **change)])

    assert not isinstance(caught.value, Unavailable)
    assert [] == await all_of(log)
    await log.append([RECORD])
    assert 1 == len(await all_of(log))


async def test_a_ledger_without_tables(empty_db: Db) -> None:
    """Before the first migration nothing is refused for good: the ledger is away."""
    with pytest.raises(Unavailable):
        await SqlUsageLog(empty_db).append([RECORD])
