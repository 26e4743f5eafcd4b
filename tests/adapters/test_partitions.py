"""The ledger by months, which only PostgreSQL keeps apart: docs/decisions/0018-ledger-partitions.md."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import attrs
import pytest

from adapters.sql.migrate import MONTHS_AHEAD, migrate
from adapters.sql.postgres import PostgresDb
from adapters.sql.reports import SqlUsageReports
from adapters.sql.usage import SqlUsageLog
from domain.requestid import request_id
from domain.usage import Usage, UsageRecord
from tests.support.fixtures import async_fixture

pytestmark = pytest.mark.postgres


@async_fixture
async def db(postgres_url: str, postgres_schema: str) -> AsyncIterator[PostgresDb]:
    db = PostgresDb(postgres_url, schema=postgres_schema)
    await migrate(db)
    yield db
    await db.aclose()


def record(at: float) -> UsageRecord:
    return UsageRecord(
        id=request_id(at, bytes(10)),
        project="p_1",
        key="k_1",
        kind="project",
        at=at,
        endpoint="chat/completions",
        model_asked="m",
        model_answered="m",
        provider="openai",
        streamed=False,
        outcome="miss",
        status=200,
        usage=Usage(1),
        cost=1,
        avoided=0,
        price_version="v",
        first_byte_ms=1.0,
        total_ms=1.0,
        cache_reason="",
    )


def month(ahead: int) -> datetime:
    """Where the month `ahead` of this one begins."""
    now = datetime.now(UTC)
    years, index = divmod(now.month - 1 + ahead, 12)
    return datetime(now.year + years, index + 1, 1, tzinfo=UTC)


def name(begin: datetime) -> str:
    return begin.strftime("usage_log_%Y%m")


async def partitions(db: PostgresDb) -> list[str]:
    found = await db.rows(
        """
        SELECT inhrelid::regclass::text AS name
          FROM pg_inherits WHERE inhparent = 'usage_log'::regclass ORDER BY 1
        """
    )
    return [row["name"] for row in found]


async def homes(db: PostgresDb) -> dict[str, str]:
    """Which partition each row is in."""
    rows = await db.rows("SELECT id, tableoid::regclass::text AS home FROM usage_log")
    return {row["id"]: row["home"] for row in rows}


async def drop_from(db: PostgresDb, ahead: int) -> None:
    """As if nobody had migrated since long ago."""
    for one in range(ahead, MONTHS_AHEAD + 1):
        await db.run(f"DROP TABLE {name(month(one))}")


async def test_months_are_ready_ahead(db: PostgresDb) -> None:
    """This month and a year more; migrating again adds nothing."""
    ahead = [name(month(number)) for number in range(MONTHS_AHEAD + 1)]

    assert [*ahead, "usage_log_rest"] == await partitions(db)
    assert [] == await migrate(db)
    assert [*ahead, "usage_log_rest"] == await partitions(db)


async def test_a_row_goes_by_the_millisecond_of_its_id(db: PostgresDb) -> None:
    """The last one of a month and the first one of the next part; what has no month of its own is kept as well."""
    tick = timedelta(milliseconds=1)
    homes_by_moment = {
        month(0): name(month(0)),
        month(1) - tick: name(month(0)),
        month(1): name(month(1)),
        month(MONTHS_AHEAD + 1) - tick: name(month(MONTHS_AHEAD)),
        month(MONTHS_AHEAD + 1): "usage_log_rest",
        month(0) - tick: "usage_log_rest",
    }
    records = {moment: record(moment.timestamp()) for moment in homes_by_moment}
    await SqlUsageLog(db).append(list(records.values()))

    found = await homes(db)
    assert {one.id: homes_by_moment[moment] for moment, one in records.items()} == found


async def test_late_months_take_their_rows_in(db: PostgresDb) -> None:
    """Rows of months that nobody had prepared move when somebody migrates: none is lost, none is counted again."""
    await drop_from(db, 2)
    log, reports = SqlUsageLog(db), SqlUsageReports(db)
    late = [record(month(ahead).timestamp() + 5) for ahead in (2, 3, 3 + MONTHS_AHEAD)]
    late[1] = attrs.evolve(late[1], id=request_id(late[1].at, b"1234567890"))
    await log.append(late)
    assert {"usage_log_rest"} == set((await homes(db)).values())

    await migrate(db)
    await log.append(late)

    assert {
        late[0].id: name(month(2)),
        late[1].id: name(month(3)),
        late[2].id: "usage_log_rest",
    } == await homes(db)
    assert late[1] == await reports.find("p_1", late[1].id)
    assert [1, 1, 1] == [
        row["requests"] for row in await db.rows("SELECT requests FROM usage_daily")
    ]


async def test_months_are_added_while_rows_come(db: PostgresDb) -> None:
    """Who appends waits a moment at most, and loses nothing."""
    await drop_from(db, 1)
    log = SqlUsageLog(db)
    late = [
        attrs.evolve(
            record(month(1).timestamp() + number), id=f"{record(month(1).timestamp()).id}{number}"
        )
        for number in range(600)
    ]
    await log.append(late[:100])

    batches = [late[begin : begin + 50] for begin in range(0, 600, 50)]
    await asyncio.gather(migrate(db), *(log.append(batch) for batch in batches))

    assert {one.id: name(month(1)) for one in late} == await homes(db)
    assert 600 == (await db.rows("SELECT SUM(requests) AS n FROM usage_hourly"))[0]["n"]


async def test_one_request_is_looked_for_in_one_month(db: PostgresDb) -> None:
    """Its id says in which."""
    plan = await db.rows(
        "EXPLAIN SELECT * FROM usage_log WHERE id = :id AND project = 'p_1'",
        {"id": record(month(3).timestamp()).id},
    )
    text = "\n".join(row["QUERY PLAN"] for row in plan)

    assert name(month(3)) in text
    assert 1 == text.count(" on usage_log_")


async def test_a_role_without_ddl_is_enough(db: PostgresDb, postgres_url: str) -> None:
    """What runs may read and write rows, and nothing else: also for months that were added after it was granted."""
    schema = (await db.rows("SELECT current_schema() AS name"))[0]["name"]
    role = f"{schema}_runs"
    await drop_from(db, 1)
    async with db.transaction(exclusive=True) as transaction:
        await transaction.script(
            f"""
            CREATE ROLE {role};
            GRANT USAGE ON SCHEMA {schema} TO {role};
            GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA {schema} TO {role};
            """
        )
    await migrate(db)
    joined = f"{postgres_url}{'&' if '?' in postgres_url else '?'}options=-crole%3D{role}"
    runs = PostgresDb(joined, schema=schema)
    one = record(month(1).timestamp())
    try:
        await SqlUsageLog(runs).append([one])
        assert [{"role": role}] == await runs.rows("SELECT current_role::text AS role")
        assert one == await SqlUsageReports(runs).find("p_1", one.id)
        assert {one.id: name(month(1))} == await homes(db)
        with pytest.raises(Exception, match="not available"):
            await runs.run("CREATE TABLE mine (id text)")
    finally:
        await runs.aclose()
        await db.run(f"DROP OWNED BY {role}")
        await db.run(f"DROP ROLE {role}")
