"""What `UsageLog` and `UsageReports` promise, over SQLite and PostgreSQL."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

import attrs
import pytest

from adapters.sql.db import Db
from adapters.sql.reports import SqlUsageReports
from adapters.sql.usage import SqlUsageLog
from domain.errors import ApiError, Unavailable
from domain.reports import DAY, HOUR, START, Place, Span
from domain.usage import HIT, Usage, UsageRecord, UsageSums, UsageTotal
from tests.support.fixtures import async_fixture

MIDNIGHT = int(datetime(2026, 3, 1, tzinfo=UTC).timestamp())
ALWAYS = Span(0, 2 * MIDNIGHT // DAY * DAY)
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


@async_fixture
async def reports(db: Db) -> SqlUsageReports:
    return SqlUsageReports(db)


async def all_of(reports: SqlUsageReports, project: str = "p_1") -> list[UsageTotal]:
    return list(await reports.totals(project, ALWAYS))


def summed(records: Iterable[UsageRecord]) -> UsageSums:
    """What the database is to come to, by plain addition."""
    once = list({record.id: record for record in records}.values())
    return UsageSums(
        requests=len(once),
        hits=sum(one.outcome == HIT for one in once),
        unpriced=sum(None in (one.cost, one.avoided) for one in once),
        prompt_tokens=sum(one.usage.prompt for one in once),
        completion_tokens=sum(one.usage.completion for one in once),
        cost=sum(one.cost or 0 for one in once),
        avoided=sum(one.avoided or 0 for one in once),
    )


def expected(records: Iterable[UsageRecord], width: int) -> list[UsageTotal]:
    groups: dict[tuple[int, str, str], list[UsageRecord]] = {}
    for one in records:
        start = int(one.at // width * width)
        groups.setdefault((start, one.provider, one.model_answered or one.model_asked), []).append(
            one
        )
    return [UsageTotal(*key, summed(groups[key])) for key in sorted(groups)]


def made_up(count: int, seed: int) -> list[UsageRecord]:
    """Records over three days around the turn of a month, of two projects, some of them at the edge of an hour."""
    chance = random.Random(seed)
    return [
        attrs.evolve(
            RECORD,
            id=f"0190-{seed}-{number}",
            project=chance.choice(["p_1", "p_1", "p_2"]),
            at=chance.choice(
                [
                    MIDNIGHT + chance.randrange(-2 * DAY, DAY) + chance.randrange(1000) / 1000,
                    MIDNIGHT + chance.randrange(-40, 20) * HOUR - chance.choice([0, 0.001]),
                ]
            ),
            provider=chance.choice(["openai", "anthropic"]),
            model_answered=chance.choice(["gpt-5.1", "Größe", "", "Z"]),
            outcome=chance.choice(["hit", "miss", "denied"]),
            usage=Usage(*(chance.randrange(10**9) for _ in range(8))),
            cost=chance.choice([None, 0, 1, 10**12 - 1, 2**60, chance.randrange(10**15)]),
            avoided=chance.choice([None, 0, 10**12, chance.randrange(10**15)]),
        )
        for number in range(count)
    ]


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


async def test_the_same_record_counts_once(log: SqlUsageLog, reports: SqlUsageReports) -> None:
    """Whether in one batch, in a later one or beside new ones: in the rows, and in every sum of them."""
    other = attrs.evolve(RECORD, id="0190-2")

    await log.append([RECORD, RECORD])
    await log.append([RECORD, other])
    await log.append([])

    for width in (DAY, HOUR):
        [total] = await reports.totals("p_1", ALWAYS, width)
        assert summed([RECORD, other]) == total.sums


@pytest.mark.parametrize("seed", range(3))
async def test_sums_are_those_of_the_rows(
    log: SqlUsageLog, reports: SqlUsageReports, db: Db, seed: int
) -> None:
    """By hour and by day, to the picodollar, after batches of any size that repeat each other."""
    chance = random.Random(seed)
    records = made_up(300, seed)
    for _ in range(12):
        await log.append(chance.sample(records, chance.randrange(1, 80)))
    for first in range(0, 300, 70):
        await log.append(records[first : first + 70])

    assert [{"n": 300}] == await db.rows("SELECT COUNT(*) AS n FROM usage_log")
    for project in ("p_1", "p_2"):
        own = [one for one in records if one.project == project]
        for width in (DAY, HOUR):
            assert expected(own, width) == list(await reports.totals(project, ALWAYS, width))
        assert summed(own) == await reports.sum(project, ALWAYS)


async def test_appenders_of_overlapping_batches(
    log: SqlUsageLog, reports: SqlUsageReports, open_db: Callable[[], Db]
) -> None:
    """Nodes that ship the same rows at the same time, each in another order, neither wait for each other for ever nor
    count anything twice."""
    records = made_up(400, 9)
    nodes = [open_db() for _ in range(3)]
    ledgers = [log, *map(SqlUsageLog, nodes)]
    chance = random.Random(1)
    try:
        for _ in range(4):
            await asyncio.gather(
                *(
                    ledger.append(chance.sample(records, 200))
                    for ledger in ledgers
                    for _ in range(2)
                )
            )
        await log.append(records)
    finally:
        for node in nodes:
            await node.aclose()

    for project in ("p_1", "p_2"):
        own = [one for one in records if one.project == project]
        assert expected(own, DAY) == await all_of(reports, project)
        assert expected(own, HOUR) == list(await reports.totals(project, ALWAYS, HOUR))


async def test_appenders_of_the_same_hours(
    log: SqlUsageLog, reports: SqlUsageReports, open_db: Callable[[], Db]
) -> None:
    """Rows of their own that belong to the same sums, in any order: again nobody waits for ever, nothing is lost."""
    records = made_up(1_600, 7)
    nodes = [open_db() for _ in range(3)]
    ledgers = [log, *map(SqlUsageLog, nodes)]
    try:
        await asyncio.gather(
            *(ledgers[n % 4].append(records[n * 100 : n * 100 + 100]) for n in range(16))
        )
    finally:
        for node in nodes:
            await node.aclose()

    own = [one for one in records if one.project == "p_1"]
    assert expected(own, HOUR) == list(await reports.totals("p_1", ALWAYS, HOUR))
    assert expected(own, DAY) == await all_of(reports)


async def test_totals_add_up(log: SqlUsageLog, reports: SqlUsageReports) -> None:
    """Prompt and completion are the sums of their buckets, hits are counted; money that nobody knows is left out, and
    how often is said."""
    await log.append(
        [
            attrs.evolve(RECORD, avoided=0),
            attrs.evolve(RECORD, id="0190-2", outcome="hit", cost=0, avoided=10**15),
            attrs.evolve(RECORD, id="0190-3", cost=None, avoided=0),
            attrs.evolve(RECORD, id="0190-4", outcome="hit", cost=0, avoided=None),
        ]
    )

    [total] = await all_of(reports)

    sums = UsageSums(4, 2, 2, 4 * USAGE.prompt, 4 * USAGE.completion, 2**60 + 1, 10**15)
    assert UsageTotal(MIDNIGHT, "openai", "gpt-5.1", sums) == total
    assert {int} == {type(one) for one in attrs.astuple(total.sums)}


async def test_money_beyond_64_bits(log: SqlUsageLog, reports: SqlUsageReports) -> None:
    """A sum may be larger than any of its rows can be."""
    records = [attrs.evolve(RECORD, id=f"0190-{number}", cost=2**60 + 1) for number in range(40)]
    await log.append(records[:10])
    await log.append(records[10:])

    assert 40 * (2**60 + 1) == (await reports.sum("p_1", ALWAYS)).cost
    assert UsageSums(0, 0, 0, 0, 0, 0, 0) == await reports.sum("p_2", ALWAYS)


async def test_totals_per_utc_day_provider_and_model(
    log: SqlUsageLog, reports: SqlUsageReports
) -> None:
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

    found = [(total.start, total.provider, total.model) for total in await all_of(reports)]

    assert [
        (MIDNIGHT - DAY, "openai", "a"),
        (MIDNIGHT, "anthropic", "c"),
        (MIDNIGHT, "openai", "Z"),
        (MIDNIGHT, "openai", "a"),
        (MIDNIGHT, "openai", "b"),
        (MIDNIGHT, "openai", "fast"),
    ] == found


@pytest.mark.parametrize(
    ("since", "until"),
    [(-30, 10), (-24, 0), (-25, 1), (0, 1), (-2, -1), (-48, 24), (5, 6), (-24, 5), (-7, 24)],
)
@pytest.mark.parametrize("width", [HOUR, DAY])
async def test_totals_of_some_hours(
    log: SqlUsageLog, reports: SqlUsageReports, since: int, until: int, width: int
) -> None:
    """`since` is inside, `until` outside; a day of which only hours are asked for counts with those hours."""
    records = made_up(300, 4)
    await log.append(records)
    span = Span(MIDNIGHT + since * HOUR, MIDNIGHT + until * HOUR)
    inside = [one for one in records if one.project == "p_1" and span.since <= one.at < span.until]

    assert expected(inside, width) == list(await reports.totals("p_1", span, width))
    assert summed(inside) == await reports.sum("p_1", span)


@pytest.mark.parametrize("width", [HOUR, DAY])
@pytest.mark.parametrize("limit", [1, 3, 1000])
async def test_pages(log: SqlUsageLog, reports: SqlUsageReports, width: int, limit: int) -> None:
    """One after the other they are the whole, whatever is appended meanwhile before the place."""
    await log.append(made_up(120, 5))
    span = Span(MIDNIGHT - 30 * HOUR, MIDNIGHT + 5 * HOUR)
    whole = list(await reports.totals("p_1", span, width))
    pages: list[UsageTotal] = []
    place = START
    while page := list(await reports.totals("p_1", span, width, place, limit)):
        assert len(page) <= limit
        pages += page
        place = Place(page[-1].start, page[-1].provider, page[-1].model)
        await log.append([attrs.evolve(RECORD, id=f"0190-{len(pages)}", at=span.since - 1)])

    assert whole == pages
    assert len(whole) > 3


async def test_projects_do_not_see_each_other(log: SqlUsageLog, reports: SqlUsageReports) -> None:
    """Neither in sums nor by the id of a request, whatever an id looks like."""
    await log.append([RECORD, attrs.evolve(RECORD, id="0190-9", project="p_2")])

    assert RECORD == await reports.find("p_1", RECORD.id)
    assert 1 == (await reports.sum("p_1", ALWAYS)).requests
    for project, request in [
        ("p_1", "0190-9"),
        ("p_2", RECORD.id),
        ("p_1", "0190-8"),
        ("p_1", ""),
        ("p_1", "' OR '1'='1"),
        ("p_1' OR '1'='1", RECORD.id),
    ]:
        assert None is await reports.find(project, request)
    assert [] == await all_of(reports, "p_1' OR '1'='1")


@pytest.mark.parametrize(
    "change",
    [{}, {"cost": None, "avoided": 0, "streamed": False}, {"usage": Usage(), "cost": 0}],
    ids=str,
)
async def test_a_row_is_read_as_it_was_written(
    log: SqlUsageLog, reports: SqlUsageReports, change: dict[str, Any]
) -> None:
    record = attrs.evolve(RECORD, **change)
    await log.append([record])

    assert record == await reports.find("p_1", record.id)


async def test_a_very_long_model(log: SqlUsageLog, reports: SqlUsageReports) -> None:
    """The row keeps it whole; sums know it by its first 256 characters, which every index takes."""
    chance = random.Random(1)
    model = "".join(chr(chance.randrange(0x4E00, 0x9FFF)) for _ in range(9_000))
    record = attrs.evolve(RECORD, model_answered=model)
    await log.append([record])

    [total] = await all_of(reports)
    assert model[:256] == total.model
    assert record == await reports.find("p_1", record.id)


@pytest.mark.parametrize(
    "text",
    ["'); DROP TABLE usage_log;--", "%(batch)s :batch %s", "Größe 🦊", 'a"b\\u0000c\\', "a\0b"],
)
async def test_text_is_only_data(log: SqlUsageLog, reports: SqlUsageReports, text: str) -> None:
    """Whatever a provider calls its model is kept as it is, but for U+0000."""
    await log.append([attrs.evolve(RECORD, model_answered=text)])

    [total] = await all_of(reports)
    assert text.replace("\0", "\N{REPLACEMENT CHARACTER}") == total.model


@pytest.mark.parametrize(
    "change",
    [
        {"cost": 2**64},
        {"status": None},
        {"status": object()},
        {"id": None},
        {"model_asked": "\ud800"},
        {"usage": Usage(input=2**63 - 1)},
    ],
)
async def test_a_record_that_never_fits(
    log: SqlUsageLog, reports: SqlUsageReports, db: Db, change: dict[str, Any]
) -> None:
    """By itself or in a sum. It is told from an outage, refuses its batch as a whole, sums included, and does no harm to
    the next."""
    with pytest.raises(ApiError) as caught:
        await log.append([attrs.evolve(RECORD, id="0190-0"), attrs.evolve(RECORD, **change)])

    assert not isinstance(caught.value, Unavailable)
    assert [] == await db.rows("SELECT id FROM usage_log")
    assert [] == await all_of(reports)
    assert [] == list(await reports.totals("p_1", ALWAYS, HOUR))
    await log.append([RECORD])
    assert summed([RECORD]) == await reports.sum("p_1", ALWAYS)


async def test_a_sum_that_grows_too_large(log: SqlUsageLog, reports: SqlUsageReports) -> None:
    """A record that fits, but no longer into the sums of its hour, is refused as well, and leaves no row behind."""
    large = attrs.evolve(RECORD, usage=Usage(output=2**63 - 1))
    await log.append([large])

    with pytest.raises(ApiError) as caught:
        await log.append([attrs.evolve(large, id="0190-2"), attrs.evolve(RECORD, id="0190-3")])

    assert not isinstance(caught.value, Unavailable)
    assert None is await reports.find("p_1", "0190-2")
    for width in (DAY, HOUR):
        [total] = await reports.totals("p_1", ALWAYS, width)
        assert summed([large]) == total.sums


@pytest.mark.parametrize("since", [MIDNIGHT - DAY, MIDNIGHT, MIDNIGHT + DAY])
async def test_months_of_all_projects(
    log: SqlUsageLog, reports: SqlUsageReports, since: int
) -> None:
    """Every project's own sums, of whole days from the given one on; who used nothing since is not there."""
    records = made_up(300, 5)
    await log.append(records)

    own: dict[str, list[UsageRecord]] = {}
    for one in records:
        if one.at >= since:
            own.setdefault(one.project, []).append(one)

    assert {name: summed(some) for name, some in own.items()} == await reports.months(since)


async def test_served_is_exact(log: SqlUsageLog, reports: SqlUsageReports) -> None:
    """What was refused does not count, and neither does anybody else's, nor what is a millisecond outside."""
    span = Span(MIDNIGHT - 7 * HOUR, MIDNIGHT + 3 * HOUR)
    edges = [
        attrs.evolve(RECORD, id=f"0190-edge-{number}", at=at)
        for number, at in enumerate(
            [span.since - 0.001, span.since, span.until - 0.001, span.until]
        )
    ]
    records = [*made_up(300, 6), *edges]
    await log.append(records)

    wanted = sum(
        one.project == "p_1" and span.since <= one.at < span.until and one.outcome != "denied"
        for one in records
    )
    assert wanted == await reports.served("p_1", span)
    assert 0 == await reports.served("p_9", span)


async def test_a_whole_batch(log: SqlUsageLog, reports: SqlUsageReports) -> None:
    """As many rows as are ever shipped at once, half of them sent before, of more hours than rows fit one statement."""
    records = made_up(1_000, 11)
    await log.append(records[::2])
    await log.append(records)

    for project in ("p_1", "p_2"):
        own = [one for one in records if one.project == project]
        for width in (DAY, HOUR):
            assert expected(own, width) == list(await reports.totals(project, ALWAYS, width))


async def test_a_ledger_without_tables(empty_db: Db) -> None:
    """Before the first migration nothing is refused for good: the ledger is away."""
    with pytest.raises(Unavailable):
        await SqlUsageLog(empty_db).append([RECORD])
