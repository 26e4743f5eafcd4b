"""What `BillingBook` and `BillingTurn` promise, over SQLite and PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import attrs
import orjson
import pytest

from adapters.sql.billing import SqlBillingBook
from adapters.sql.contacts import SqlContacts
from adapters.sql.db import Db
from adapters.sql.keys import SqlKeys
from adapters.sql.postbox import SqlPostbox
from adapters.sql.projects import SqlProjects
from domain.billing import (
    ACTIVE,
    DISPUTE_CREATED,
    INVOICE_FAILED,
    PAST_DUE,
    SUBSCRIPTION_UPDATED,
    Account,
    BillingEvent,
    Subscription,
)
from domain.errors import ApiError, Unavailable
from domain.notices import (
    CANCELLATION_SCHEDULED,
    MAIL,
    PAYMENT_FAILED,
    PLAN_CHANGED,
    TEAM,
    Contact,
    Delivery,
)
from domain.project import Project
from tests.support.fixtures import async_fixture

NOW = 1_800_000_000.25
KEY = bytes(32)
BODY = b'\x00\xff{"id": "evt_1"}'
EVENT = BillingEvent(
    id="evt_1",
    type=SUBSCRIPTION_UPDATED,
    created=NOW - 3,
    subscription="sub_1",
    project="p_1",
    customer="cus_1",
    email="bill@shop.example",
    plan="pro",
    status=ACTIVE,
    period_end=NOW + 1e6,
    cancel_at=NOW + 1e5,
    trial_end=0.0,
    invoice="in_1",
    attempt=2,
    next_attempt_at=NOW + 5,
    amount=4900,
    currency="eur",
    link="https://pay.example/ü?a=%s",
    reason="'); --",
    charge="ch_1",
    dispute="dp_1",
    due_by=NOW,
    current=True,
)
LATE = Subscription(
    "sub_1", "p_1", "cus_1", "b@s.example", PAST_DUE, "pro", NOW + 5, NOW + 9, True, NOW - 7
)


def told(notice: str, kind: str, **changes: object) -> Delivery:
    whole = Delivery(
        notice,
        MAIL,
        "o@shop.example",
        kind,
        "p_1",
        {"plan": "pro"},
        queued_at=NOW,
        due_at=NOW,
        subject="sub_1",
    )
    return attrs.evolve(whole, **changes)  # type: ignore[arg-type]


def book_of(db: Db) -> SqlBillingBook:
    return SqlBillingBook(db, SqlContacts(db, KEY))


@async_fixture
async def book(db: Db) -> SqlBillingBook:
    await SqlProjects(db).add(Project("p_1", "shop", "free", 0, NOW))
    return book_of(db)


async def log(book: SqlBillingBook, *events: BillingEvent) -> list[BillingEvent | None]:
    async with book.turn() as turn:
        return [await turn.log(one, BODY, NOW) for one in events]


async def test_an_event_is_kept_whole(book: SqlBillingBook) -> None:
    """Every field of it, with its arrival, and its body byte by byte."""
    [logged] = await log(book, EVENT)

    assert attrs.evolve(EVENT, arrival=1) == logged
    assert [logged] == list(await book.events("p_1", 10))
    assert BODY == await book.body("evt_1")
    assert None is await book.body("evt_2")


async def test_an_event_is_kept_once(book: SqlBillingBook) -> None:
    """Later, and within the same turn; arrivals are numbered without a gap all the same."""
    second = attrs.evolve(EVENT, id="evt_2")

    first = await log(book, EVENT, EVENT, second)
    again = await log(book, second, EVENT, attrs.evolve(EVENT, id="evt_3"))

    assert [1, None, 2] == [one and one.arrival for one in first]
    assert [None, None, 3] == [one and one.arrival for one in again]


async def test_turns_wait_for_each_other(
    book: SqlBillingBook, db: Db, open_db: Callable[[], Db]
) -> None:
    """Four processes that are told the same events at once: each event is new to one of them, and no arrival is given
    twice. Whoever has the turn has it alone, between two statements too."""
    dbs = [db, *(open_db() for _ in range(3))]
    inside = 0
    new: list[BillingEvent] = []

    async def process(number: int) -> None:
        nonlocal inside
        for step in range(12):
            event = attrs.evolve(EVENT, id=f"evt_{(step + number) % 12}")
            async with book_of(dbs[number]).turn() as turn:
                inside += 1
                logged = await turn.log(event, BODY, NOW)
                history = await turn.history("sub_1")
                await asyncio.sleep(0)
                assert 1 == inside
                assert len(history) == max(one.arrival for one in history)
                inside -= 1
            if logged is not None:
                new.append(logged)

    try:
        await asyncio.gather(*map(process, range(4)))
    finally:
        for one in dbs[1:]:
            await one.aclose()

    assert list(range(1, 13)) == sorted(one.arrival for one in new)
    assert {f"evt_{number}" for number in range(12)} == {one.id for one in new}


async def test_a_turn_is_all_or_nothing(book: SqlBillingBook, db: Db) -> None:
    """What fails half way left no event, no plan, no account and no notice, and the next turn is its first."""
    with pytest.raises(ZeroDivisionError):
        async with book.turn() as turn:
            await turn.log(EVENT, BODY, NOW)
            await turn.keep(LATE)
            await turn.keep_account(Account("p_1", "cus_1", "", "pro"))
            await turn.set_plan("p_1", "pro")
            await turn.post([told("n", PAYMENT_FAILED)])
            raise ZeroDivisionError

    assert [] == list(await book.events("p_1", 10))
    assert [] == list(await book.subscriptions("p_1"))
    assert None is await book.account("p_1")
    assert [] == list(await SqlPostbox(db).find(["waiting"], 10))
    project = await SqlProjects(db).find("p_1")
    assert project is not None
    assert "free" == project.plan
    assert [1] == [one and one.arrival for one in await log(book, EVENT)]


async def test_restated(book: SqlBillingBook) -> None:
    """The same event says more, and keeps its body and its place; an unknown one is none."""
    little = BillingEvent("evt_1", SUBSCRIPTION_UPDATED, NOW)
    await log(book, attrs.evolve(EVENT, id="evt_0"), little)

    async with book.turn() as turn:
        await turn.restate(EVENT)
        await turn.restate(attrs.evolve(EVENT, id="evt_9"))
        history = await turn.history("sub_1")

    assert {
        attrs.evolve(EVENT, id="evt_0", arrival=1),
        attrs.evolve(EVENT, arrival=2),
    } == set(history)
    assert BODY == await book.body("evt_1")


async def test_a_history_is_of_one_subscription(book: SqlBillingBook) -> None:
    """Also with what was logged in this very turn."""
    await log(book, EVENT, attrs.evolve(EVENT, id="evt_2", subscription="sub_2"))
    async with book.turn() as turn:
        await turn.log(attrs.evolve(EVENT, id="evt_3"), BODY, NOW)

        assert ["evt_1", "evt_3"] == sorted(one.id for one in await turn.history("sub_1"))
        assert [] == list(await turn.history("sub_9"))


async def test_events_of_a_project(book: SqlBillingBook) -> None:
    """Those that name it, disputes included, and those of its subscriptions that do not; newest arrivals first."""
    await log(
        book,
        EVENT,
        BillingEvent("evt_2", INVOICE_FAILED, NOW - 99, subscription="sub_1"),
        BillingEvent("evt_3", INVOICE_FAILED, NOW, subscription="sub_2", project="p_2"),
        BillingEvent("evt_4", DISPUTE_CREATED, NOW, project="p_1", dispute="dp_1"),
    )
    async with book.turn() as turn:
        await turn.keep(LATE)

    assert ["evt_4", "evt_2", "evt_1"] == [one.id for one in await book.events("p_1", 10)]
    assert ["evt_4", "evt_2"] == [one.id for one in await book.events("p_1", 2)]
    assert ["evt_3"] == [one.id for one in await book.events("p_2", 10)]


async def test_facts_of_another_version(book: SqlBillingBook, db: Db) -> None:
    """What it knew more is ignored, what it did not know has its default."""
    await log(book, EVENT)
    facts = {"id": "evt_1", "type": SUBSCRIPTION_UPDATED, "created": 5, "colour": "red"}
    await db.run(
        "UPDATE billing_events SET facts = :facts", {"facts": orjson.dumps(facts).decode()}
    )

    assert [BillingEvent("evt_1", SUBSCRIPTION_UPDATED, 5.0, arrival=1)] == list(
        await book.events("p_1", 1)
    )


async def test_subscriptions(book: SqlBillingBook) -> None:
    """Kept as told last; those past due are known by themselves."""
    good = Subscription("sub_2", "p_1", status=ACTIVE)
    async with book.turn() as turn:
        await turn.keep(attrs.evolve(LATE, status=ACTIVE, plan=""))
        await turn.keep(good)
        await turn.keep(Subscription("sub_3", "p_2"))
        await turn.keep(LATE)

        assert [LATE, good] == list(await turn.of_project("p_1"))

    assert [LATE, good] == list(await book.subscriptions("p_1"))
    assert [LATE] == list(await book.failing())
    assert [] == list(await book.subscriptions("p_9"))


async def test_accounts(book: SqlBillingBook) -> None:
    """One for each project, as kept last; also for a project that is not here."""
    async with book.turn() as turn:
        assert None is await turn.account("p_1")
        await turn.keep_account(Account("p_1", "cus_1", "a@b.example", "pro"))
        await turn.keep_account(Account("p_1", "cus_2", "", "free"))
        await turn.keep_account(Account("p_9", "cus_9"))

        assert Account("p_1", "cus_2", "", "free") == await turn.account("p_1")

    assert Account("p_9", "cus_9") == await book.account("p_9")
    assert None is await book.account("p_2")


async def test_a_plan_reaches_everybody(book: SqlBillingBook, db: Db) -> None:
    """It is a change of what keys grant, and is counted as one."""
    keys = SqlKeys(db, lambda: NOW)
    before = await keys.sequence()
    async with book.turn() as turn:
        assert await turn.set_plan("p_1", "pro") is True
        assert await turn.set_plan("p_9", "pro") is False

    project = await SqlProjects(db).find("p_1")
    assert project is not None
    assert "pro" == project.plan
    assert before < await keys.sequence()


async def test_contacts_are_the_same(book: SqlBillingBook, db: Db) -> None:
    """As `Contacts` has them, also if there is none."""
    owner = Contact("p_1", "o@shop.example", "https://hooks.example/x", False)
    await SqlContacts(db, KEY).keep(owner)

    async with book.turn() as turn:
        assert [owner] * 2 == [await turn.contact("p_1") for _ in range(2)]
        assert Contact("p_2") == await turn.contact("p_2")


async def test_notices_are_posted_once(book: SqlBillingBook, db: Db) -> None:
    """A history that is told again queues what is new in it."""
    postbox = SqlPostbox(db)
    first = told("plan_changed:evt_1", PLAN_CHANGED)
    second = told("payment_failed:evt_2", PAYMENT_FAILED)
    async with book.turn() as turn:
        await turn.post([first], "sub_1")
    [taken] = await postbox.take(NOW, 60, 10)
    await postbox.sent(taken, NOW)
    async with book.turn() as turn:
        await turn.post([first, second], "sub_1")
        await turn.post([])

    assert [second] == list(await postbox.find(["waiting"], 10))


async def test_old_notices_are_no_news(book: SqlBillingBook, db: Db) -> None:
    """A history tells them again with each event, but nobody who is named a day later: a team's new channel hears of what
    happens from then on. Until then an address may become known late."""
    postbox = SqlPostbox(db)
    first = [
        told("n_1", PAYMENT_FAILED),
        told("n_2", PAYMENT_FAILED, channel=TEAM, recipient="a"),
    ]
    async with book.turn() as turn:
        await turn.post(first, settled="sub_1")

    for hours in (23, 25):
        again = [
            attrs.evolve(
                one, channel=TEAM, recipient=f"after {hours} h", queued_at=NOW + hours * 3600
            )
            for one in first
        ]
        async with book.turn() as turn:
            await turn.post(again, settled="sub_1")

    found = await postbox.find(["waiting"], 10)
    assert [
        ("n_1", "after 23 h"),
        ("n_1", "o@shop.example"),
        ("n_2", "a"),
        ("n_2", "after 23 h"),
    ] == sorted((one.notice, one.recipient) for one in found)


async def test_what_is_not_true_any_more_is_withdrawn(book: SqlBillingBook, db: Db) -> None:
    """Of this subscription, of what is told in order, of what is still unsent, for all its recipients. Nothing else."""
    postbox = SqlPostbox(db)
    withdrawn = told("plan_changed:evt_1", PLAN_CHANGED)
    stays = [
        told("plan_changed:evt_2", PLAN_CHANGED),
        told("payment_failed:evt_3", PAYMENT_FAILED),
        told("plan_changed:evt_4", PLAN_CHANGED, subject="sub_2"),
        told("plan_changed:evt_7", PLAN_CHANGED, subject=""),
    ]
    sent = told("cancellation_scheduled:evt_5", CANCELLATION_SCHEDULED)
    dead = told("plan_changed:evt_6", PLAN_CHANGED)
    await postbox.add([withdrawn, attrs.evolve(withdrawn, channel=TEAM), *stays, sent, dead])
    await postbox.sent(sent, NOW)
    await postbox.give_up(dead, NOW, "gone")

    async with book.turn() as turn:
        await turn.post([stays[0]])
        await turn.post([stays[0]], "sub_1")

    assert {one.notice for one in stays} == {
        one.notice for one in await postbox.find(["waiting"], 10)
    }
    assert {sent.notice, dead.notice} == {
        one.notice for one in await postbox.find(["sent", "dead"], 10)
    }
    # What was withdrawn can come true again.
    async with book.turn() as turn:
        await turn.post([withdrawn, stays[0]], "sub_1")
    assert withdrawn in await postbox.find(["waiting"], 10)


async def test_texts_with_nul(book: SqlBillingBook) -> None:
    """They are no reason to refuse an event for ever, and it is found again."""
    await log(book, attrs.evolve(EVENT, subscription="sub\0", reason="a\0b"))

    async with book.turn() as turn:
        [found] = await turn.history("sub\0")
        await turn.keep(attrs.evolve(LATE, id="sub\0"))

    assert "evt_1" == found.id


@pytest.mark.parametrize(
    "change", [{"reason": "\ud800"}, {"customer": "\ud800"}, {"amount": 2**70}]
)
async def test_an_event_that_never_fits(book: SqlBillingBook, change: dict[str, object]) -> None:
    """It is told from an outage, and does no harm to the next."""
    with pytest.raises(ApiError) as caught:
        await log(book, attrs.evolve(EVENT, **change))  # type: ignore[arg-type]

    assert not isinstance(caught.value, Unavailable)
    assert [1] == [one and one.arrival for one in await log(book, EVENT)]


async def test_without_tables(empty_db: Db) -> None:
    with pytest.raises(Unavailable):
        await log(book_of(empty_db), EVENT)
