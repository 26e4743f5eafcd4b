"""What `Postbox` promises, over SQLite and PostgreSQL."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

import attrs
import pytest

from adapters.sql.db import Db
from adapters.sql.migrate import migrate
from adapters.sql.postbox import AT_ONCE, SqlPostbox
from adapters.sql.postgres import PostgresDb
from domain.errors import ApiError, Unavailable
from domain.notices import CHANNEL, MAIL, PAYMENT_FAILED, QUOTA_80, TEAM, WEEKLY_REPORT, Delivery
from tests.support.fixtures import async_fixture

NOW = 1_800_000_000.0
FACTS = {"amount": 4900, "link": "https://pay.example/ü?a=%s&b=:now", "at": NOW + 0.5, "who": None}
ONE = Delivery(
    "payment_failed:evt_1",
    MAIL,
    "owner@shop.example",
    PAYMENT_FAILED,
    "p_1",
    FACTS,
    queued_at=NOW - 10,
    due_at=NOW - 5,
    subject="sub_1",
)


def another(number: int, **changes: object) -> Delivery:
    return attrs.evolve(ONE, notice=f"payment_failed:evt_{number}", **changes)  # type: ignore[arg-type]


@async_fixture
async def postbox(db: Db) -> SqlPostbox:
    return SqlPostbox(db)


async def test_added_once(postbox: SqlPostbox) -> None:
    """Notice, channel and recipient together say which it is; a second time is no second delivery, also within one call."""
    team, channel = attrs.evolve(ONE, channel=TEAM), attrs.evolve(ONE, channel=CHANNEL)

    assert 0 == await postbox.add([])
    assert 1 == await postbox.add([ONE])
    assert 2 == await postbox.add([team, ONE, channel, attrs.evolve(team, facts={})])
    assert 0 == await postbox.add([ONE, team, channel])
    assert 3 == len(await postbox.find(["waiting"], 10))


async def test_what_was_sent_is_not_queued_again(postbox: SqlPostbox) -> None:
    await postbox.add([ONE])
    await postbox.sent(ONE, NOW)

    assert 0 == await postbox.add([ONE])
    assert [] == list(await postbox.take(NOW + 1e6, 60, 10))


async def test_more_than_one_statement_takes(postbox: SqlPostbox) -> None:
    """Some hundreds at once, half of them known."""
    many = [another(number) for number in range(2 * AT_ONCE + 1)]

    assert AT_ONCE == await postbox.add(many[:AT_ONCE])
    assert AT_ONCE + 1 == await postbox.add(many)
    assert (len(many), 5.0) == await postbox.waiting(NOW)


async def test_taken_as_it_was_added(postbox: SqlPostbox) -> None:
    """All of it, with one attempt begun, and nobody else gets it before the lease is over."""
    await postbox.add([ONE])

    assert [attrs.evolve(ONE, due_at=NOW + 60, attempts=1)] == list(
        await postbox.take(NOW, 60, 10)
    )
    assert [] == list(await postbox.take(NOW + 59.9, 60, 10))
    assert [attrs.evolve(ONE, due_at=NOW + 120, attempts=2)] == list(
        await postbox.take(NOW + 60, 60, 10)
    )


async def test_oldest_first(postbox: SqlPostbox) -> None:
    """As many as asked for, those that are due longest, the oldest first; what is not due waits."""
    order = [3, 1, 4, 2]
    await postbox.add(
        [another(n, queued_at=NOW - 100 + n, due_at=NOW - 50 + n) for n in order]
        + [another(9, due_at=NOW + 0.001)]
    )

    assert [f"payment_failed:evt_{n}" for n in (1, 2, 3)] == [
        one.notice for one in await postbox.take(NOW, 60, 3)
    ]
    assert ["payment_failed:evt_4"] == [one.notice for one in await postbox.take(NOW, 60, 3)]


async def test_several_processes_take(
    db: Db, open_db: Callable[[], Db], postbox: SqlPostbox
) -> None:
    """Four at once, each over its own connections: every delivery is taken, and none twice."""
    wanted = [another(number) for number in range(200)]
    await postbox.add(wanted)
    dbs = [open_db() for _ in range(4)]
    taken: Counter[str] = Counter()

    async def take_all(box: SqlPostbox) -> None:
        while (await box.waiting(NOW))[1] > 0:
            taken.update(one.notice for one in await box.take(NOW, 600, 7))

    try:
        await asyncio.gather(*(take_all(SqlPostbox(one)) for one in dbs))
    finally:
        for one in dbs:
            await one.aclose()

    assert Counter(one.notice for one in wanted) == taken
    assert {1} == {one.attempts for one in await postbox.find(["waiting"], 1_000)}


@pytest.mark.postgres
async def test_what_another_one_is_taking(postgres_url: str, postgres_schema: str) -> None:
    """It is passed over, and nobody waits for him. SQLite has one writer at a time."""
    db = PostgresDb(postgres_url, schema=postgres_schema)
    try:
        await migrate(db)
        postbox = SqlPostbox(db)
        await postbox.add([another(1), another(2)])
        async with db.transaction() as other:
            await other.run(
                "UPDATE notices SET due_at = due_at + 9999999 WHERE notice = :notice",
                {"notice": another(1).notice},
            )

            [taken] = await asyncio.wait_for(postbox.take(NOW, 60, 10), 3)

        assert another(2).notice == taken.notice
        assert [] == list(await postbox.take(NOW, 60, 10))
    finally:
        await db.aclose()


async def test_sent(postbox: SqlPostbox) -> None:
    """It is not waiting any more, and says when; a second time changes nothing."""
    await postbox.add([ONE])
    [taken] = await postbox.take(NOW, 60, 10)
    await postbox.sent(taken, NOW + 1)
    await postbox.sent(taken, NOW + 2)

    assert [attrs.evolve(taken, sent_at=NOW + 1)] == list(await postbox.find(["sent"], 10))
    assert (0, 0.0) == await postbox.waiting(NOW + 1e6)


async def test_sent_though_withdrawn(postbox: SqlPostbox, db: Db) -> None:
    """What was withdrawn while it was on its way was sent all the same, and is not sent when it is told again."""
    await postbox.add([ONE])
    [taken] = await postbox.take(NOW, 60, 10)
    await db.run("DELETE FROM notices")
    await postbox.sent(taken, NOW + 1)

    assert 0 == await postbox.add([ONE])
    assert [attrs.evolve(taken, sent_at=NOW + 1)] == list(await postbox.find(["sent"], 10))


async def test_postponed(postbox: SqlPostbox) -> None:
    """It is due again when it was said to be, and keeps what went wrong."""
    await postbox.add([ONE])
    [taken] = await postbox.take(NOW, 60, 10)
    await postbox.postpone(taken, NOW + 2, "connection refused")

    assert [] == list(await postbox.take(NOW + 1, 60, 10))
    [again] = await postbox.take(NOW + 2, 60, 10)
    assert ("connection refused", 2) == (again.fault, again.attempts)


@pytest.mark.parametrize("late", ["postpone", "give_up"])
@pytest.mark.parametrize("meanwhile", ["taken", "sent"])
async def test_who_is_later_than_his_lease(postbox: SqlPostbox, late: str, meanwhile: str) -> None:
    """He changes nothing of what another one has begun, or done."""
    await postbox.add([ONE])
    [slow] = await postbox.take(NOW, 60, 10)
    [fast] = await postbox.take(NOW + 60, 60, 10)
    if meanwhile == "sent":
        await postbox.sent(fast, NOW + 61)
    before = await postbox.find(["waiting", "sent", "dead"], 10)

    await getattr(postbox, late)(slow, NOW + 61, "timeout")

    assert before == await postbox.find(["waiting", "sent", "dead"], 10)


async def test_given_up_and_retried(postbox: SqlPostbox) -> None:
    """It is dead until somebody asks for it, and then due at once with all its patience; others of it are as they were."""
    team = attrs.evolve(ONE, channel=TEAM)
    await postbox.add([ONE, team, another(2)])
    for one in await postbox.take(NOW, 60, 10):
        if one.channel == TEAM:
            await postbox.sent(one, NOW)
        else:
            await postbox.give_up(one, NOW + 1, "mailbox unknown")

    assert (0, 0.0) == await postbox.waiting(NOW + 1e6)
    assert {("mailbox unknown", NOW + 1)} == {
        (one.fault, one.dead_at) for one in await postbox.find(["dead"], 10)
    }
    assert 1 == await postbox.retry(ONE.notice, NOW + 500)
    assert 0 == await postbox.retry(ONE.notice, NOW + 500)
    assert 0 == await postbox.retry("unknown", NOW)
    assert [
        attrs.evolve(ONE, queued_at=NOW + 500, due_at=NOW + 560, attempts=1),
    ] == list(await postbox.take(NOW + 500, 60, 10))


async def test_found_by_state(postbox: SqlPostbox) -> None:
    """Newest first, no more than asked for, of the states that were named."""
    await postbox.add([another(n, queued_at=NOW + n) for n in range(1, 6)])
    await postbox.sent(another(2, queued_at=NOW + 2), NOW)
    await postbox.give_up(another(4, queued_at=NOW + 4), NOW, "gone")

    async def found(*states: str, limit: int = 10) -> list[int]:
        return [int(one.notice[-1]) for one in await postbox.find(states, limit)]

    assert [5, 3, 1] == await found("waiting")
    assert [2] == await found("sent")
    assert [4, 2] == await found("dead", "sent")
    assert [5, 4] == await found("dead", "sent", "waiting", limit=2)
    assert [] == await found()
    assert [] == await found("lost")


async def test_how_long_the_oldest_waits(postbox: SqlPostbox) -> None:
    """From when it was due; what is not due yet counts and waits for no time."""
    assert (0, 0.0) == await postbox.waiting(NOW)
    await postbox.add([another(1, due_at=NOW + 5)])
    assert (1, 0.0) == await postbox.waiting(NOW)
    await postbox.add([another(2, due_at=NOW - 7)])
    assert (2, 7.0) == await postbox.waiting(NOW)


async def test_forgotten(postbox: SqlPostbox) -> None:
    """What was sent or given up long ago goes, unless history tells it again: then it would be sent a second time."""
    report, quota = another(5, kind=WEEKLY_REPORT), another(2, kind=QUOTA_80)
    young, waits = another(3, kind=QUOTA_80), another(4, kind=QUOTA_80)
    await postbox.add([report, quota, young, waits, ONE])
    await postbox.sent(report, NOW)
    await postbox.give_up(quota, NOW, "gone")
    await postbox.sent(young, NOW + 100)
    await postbox.sent(ONE, NOW)

    assert 2 == await postbox.forget(NOW + 100)
    assert 0 == await postbox.forget(NOW + 100)
    assert 0 == await postbox.add([ONE])
    assert {young.notice, waits.notice, ONE.notice} == {
        one.notice for one in await postbox.find(["waiting", "sent", "dead"], 10)
    }


async def test_awkward_texts(postbox: SqlPostbox) -> None:
    """Quotes and signs are only data. U+0000 is replaced, and what it was in is found again."""
    awkward = attrs.evolve(
        ONE,
        notice="a'b:c%(x)s\0",
        recipient="'; DROP TABLE notices;--",
        facts={"why": 'quo"te \\ \u202e 🦊 %s :now', "nested": {"list": [1, 2.5, None, True]}},
    )
    await postbox.add([awkward])
    [taken] = await postbox.take(NOW, 60, 10)
    await postbox.sent(taken, NOW)

    assert awkward.facts == taken.facts
    assert awkward.recipient == taken.recipient
    assert 0 == await postbox.add([awkward])


@pytest.mark.parametrize("change", [{"facts": {"x": object()}}, {"recipient": "\ud800"}])
async def test_what_never_fits(postbox: SqlPostbox, change: dict[str, object]) -> None:
    """It is told from an outage, and nothing of its call is queued."""
    with pytest.raises(ApiError) as caught:
        await postbox.add([another(1), attrs.evolve(ONE, **change)])  # type: ignore[arg-type]

    assert not isinstance(caught.value, Unavailable)
    assert [] == list(await postbox.find(["waiting"], 10))


async def test_without_tables(empty_db: Db) -> None:
    with pytest.raises(Unavailable):
        await SqlPostbox(empty_db).take(NOW, 60, 1)
