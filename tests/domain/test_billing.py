"""Subscriptions: their history makes them, in whatever order and however often it is told."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from domain import billing
from domain.billing import (
    ACTIVE,
    CANCELED,
    CHECKOUT_COMPLETED,
    CHECKOUT_FAILED,
    CHECKOUT_PAID,
    DISPUTE_CREATED,
    DISPUTE_ENDED,
    FREE,
    INCOMPLETE,
    INCOMPLETE_EXPIRED,
    INVOICE_ACTION_REQUIRED,
    INVOICE_FAILED,
    INVOICE_PAID,
    PAST_DUE,
    PAUSED,
    SUBSCRIPTION_CREATED,
    SUBSCRIPTION_DELETED,
    SUBSCRIPTION_PAUSED,
    SUBSCRIPTION_RESUMED,
    SUBSCRIPTION_UPDATED,
    TRIAL_WILL_END,
    TRIALING,
    UNPAID,
    BillingChange,
    BillingEvent,
    Subscription,
    bill_notices,
    dispute_notices,
    dunning,
    entitled,
    in_doubt,
    in_order,
    plan_of,
    rank,
    tell,
)
from domain.notices import AUDIENCES, ON_THE_BILL, Notice
from domain.plans import Plan

NOW = 1_800_000_000.0
HOUR, DAY = 3_600.0, 86_400.0
GRACE = 7 * DAY
SUB, PROJECT = "sub_1", "prj_1"
PLANS = {
    name: Plan(name, 0, 0, 0, price)
    for name, price in (("free", 0), ("starter", 29), ("pro", 49), ("unlimited", 0))
}


def event(kind: str, at: float = 0, **facts: Any) -> BillingEvent:
    """`at` is in seconds after `NOW`; its id says what it is."""
    facts = {"subscription": SUB, "project": PROJECT, **facts}
    number = facts.pop("number", 0)
    return BillingEvent(f"evt_{kind}_{at}_{number}", kind, NOW + at, **facts)


def subscribed(at: float, status: str, plan: str | None = "starter", **facts: Any) -> BillingEvent:
    kind = facts.pop("kind", SUBSCRIPTION_UPDATED)
    return event(kind, at, status=status, plan=plan, **facts)


def failed(at: float, attempt: int = 1, invoice: str = "in_1", **facts: Any) -> BillingEvent:
    return event(INVOICE_FAILED, at, invoice=invoice, attempt=attempt, **facts)


def told(*events: BillingEvent, grace: float = GRACE) -> BillingChange:
    return tell(SUB, events, grace)


def plan_at(change: BillingChange, at: float) -> str:
    return entitled(change.subscription, NOW + at, GRACE)


def kinds(change: BillingChange) -> list[str]:
    return [notice.kind for notice in change.notices]


def facts_of(change: BillingChange, kind: str) -> dict[str, object]:
    (found,) = [notice for notice in change.notices if notice.kind == kind]
    return dict(found.facts)


def arrived(events: Sequence[BillingEvent]) -> list[BillingEvent]:
    """Numbered as the log does."""
    return [evolve(one, arrival=number) for number, one in enumerate(events, 1)]


# --- any order, any repetition --------------------------------------------------------------------

steps = st.tuples(
    st.sampled_from(billing.HANDLED),
    st.sampled_from(["", INCOMPLETE, TRIALING, ACTIVE, PAST_DUE, UNPAID, PAUSED, "paid"]),
    st.sampled_from([None, "", "starter", "pro"]),
    st.sampled_from([None, NOW + 30 * DAY, NOW + 60 * DAY]),
    st.sampled_from(["", "a@x.example", "b@x.example"]),
    st.sampled_from(["", "in_1", "in_2"]),
    st.integers(0, 3),
)


@st.composite
def histories(draw: st.DrawFn, gaps: Sequence[float] = (0, 1, 1, HOUR, DAY, 8 * DAY)) -> Any:
    """What may ever come, in the order it came."""
    at = 0.0
    found = []
    for number, one in enumerate(draw(st.lists(steps, min_size=1, max_size=14))):
        at += draw(st.sampled_from(gaps))
        kind, status, plan, cancel_at, email, invoice, attempt = one
        facts = {"plan": plan, "cancel_at": cancel_at, "email": email}
        found.append(
            event(
                kind,
                at,
                number=number,
                status=status,
                invoice=invoice,
                attempt=attempt,
                project=draw(st.sampled_from([PROJECT, ""])),
                trial_end=NOW + 14 * DAY,
                **facts,
            )
        )
    return arrived(found)


@settings(max_examples=300, deadline=None)
@given(histories(), st.randoms(use_true_random=False), st.integers(0, 20))
def test_any_order_and_any_repetition(
    history: list[BillingEvent], chance: random.Random, more: int
) -> None:
    """Whoever knows the same events knows the same subscription and the same notices."""
    expected = tell(SUB, history, GRACE)
    shuffled = history + chance.choices(history, k=more)
    chance.shuffle(shuffled)

    assert expected == tell(SUB, shuffled, GRACE)
    assert expected == tell(SUB, iter(shuffled), GRACE)


@settings(max_examples=200, deadline=None)
@given(histories(gaps=(1, 2, HOUR, DAY, 8 * DAY)), st.randoms(use_true_random=False))
def test_arrival_matters_only_within_a_second(
    history: list[BillingEvent], chance: random.Random
) -> None:
    """Where the provider's seconds tell what came first, the way to us changes nothing."""
    shuffled = chance.sample(history, len(history))

    assert tell(SUB, history, GRACE) == tell(SUB, arrived(shuffled), GRACE)


@settings(max_examples=200, deadline=None)
@given(histories())
def test_notices_can_be_sent(history: list[BillingEvent]) -> None:
    """Each has an id of its own and an audience, and belongs to somebody."""
    change = tell(SUB, history, GRACE)

    assert len({notice.id for notice in change.notices}) == len(change.notices)
    assert set() == set(kinds(change)) - set(AUDIENCES)
    assert set() == {
        notice.project for notice in change.notices if notice.kind not in ON_THE_BILL
    } - {PROJECT}
    assert {change.subscription.email} | {one.email for one in history} >= {
        notice.email for notice in change.notices
    }


@settings(max_examples=200, deadline=None)
@given(histories())
def test_what_ended_is_over(history: list[BillingEvent]) -> None:
    """Nothing that happened before or comes after unlocks a subscription that was deleted."""
    last = max(one.created for one in history) - NOW
    ended = event(SUBSCRIPTION_DELETED, last + 1)
    after = subscribed(last + 2, ACTIVE), event(INVOICE_PAID, last + 3), failed(last + 4)
    change = tell(SUB, [*history, ended, *after, event(CHECKOUT_PAID, last + 5)], GRACE)

    assert change.subscription.status in (CANCELED, INCOMPLETE_EXPIRED)
    assert "" == plan_at(change, last + 5)
    assert change.subscription.failing_since is None


@settings(max_examples=200, deadline=None)
@given(histories())
def test_changes_follow_from_each_other(history: list[BillingEvent]) -> None:
    """Whoever gets all of the mails never reads of a plan that was not the last one told, but for a grace that ended."""
    plan = FREE
    for notice in tell(SUB, history, GRACE).notices:
        if notice.kind == "plan_changed":
            assert notice.facts["before"] in (plan, FREE)
            assert notice.facts["before"] != notice.facts["after"]
            plan = str(notice.facts["after"])


def test_each_event_is_told_once() -> None:
    """The same one again, with another number, is the one that came first."""
    first = evolve(subscribed(0, ACTIVE), arrival=1)

    assert [first] == in_order([evolve(first, arrival=2), first])


# --- the same second ------------------------------------------------------------------------------

SECOND = [
    event(CHECKOUT_COMPLETED, status="unpaid"),
    subscribed(0, INCOMPLETE, kind=SUBSCRIPTION_CREATED),
    subscribed(0, ACTIVE),
    event(INVOICE_FAILED, invoice="in_1"),
    event(INVOICE_PAID, invoice="in_1"),
    event(SUBSCRIPTION_DELETED, status=CANCELED),
]


def test_the_order_within_a_second() -> None:
    """An open checkout begins it all, then comes what is created, changed, not paid, paid, and ended."""
    assert SECOND == in_order(reversed(SECOND))
    assert sorted(map(rank, SECOND)) == [rank(one) for one in SECOND]
    assert len(SECOND) == len(set(map(rank, SECOND)))


@pytest.mark.parametrize("number", range(1, len(SECOND) + 1))
def test_all_within_a_second(number: int) -> None:
    """However much of it is known, and in whatever order it came."""
    known = SECOND[:number]
    expected = tell(SUB, known, GRACE)
    chance = random.Random(number)
    for _ in range(20):
        assert expected == tell(SUB, arrived(chance.sample(known, number)), GRACE)


def test_a_checkout_that_was_paid_comes_after_its_subscription() -> None:
    """The order in which Stripe does it: the subscription is incomplete, is paid, is active; then the checkout is complete."""
    created = subscribed(0, INCOMPLETE, kind=SUBSCRIPTION_CREATED)
    updated = subscribed(0, ACTIVE)
    paid, checkout = event(INVOICE_PAID), event(CHECKOUT_COMPLETED, status="paid", plan="starter")
    assert rank(created) < rank(updated) < rank(checkout)

    for events in ([created, updated, paid, checkout], [checkout, paid, updated, created]):
        change = tell(SUB, arrived(events), GRACE)
        assert ["plan_changed"] == kinds(change)
        assert "starter" == plan_at(change, 0)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_incomplete_is_only_ever_the_beginning(order: tuple[int, int]) -> None:
    """Of two updates within a second, the one that is still incomplete came first, whatever came here first."""
    updates = subscribed(0, INCOMPLETE, number=1), subscribed(0, ACTIVE, number=2)
    change = tell(SUB, arrived([updates[one] for one in order]), GRACE)

    assert ACTIVE == change.subscription.status
    assert ["plan_changed"] == kinds(change)


def test_doubt() -> None:
    """Two that say how the subscription stands, of the same second and nothing newer: only the provider knows."""
    one, other = subscribed(0, ACTIVE, number=1), subscribed(0, PAST_DUE, number=2)
    paused = subscribed(0, PAUSED, kind=SUBSCRIPTION_PAUSED)
    deleted = event(SUBSCRIPTION_DELETED, status=CANCELED)

    assert in_doubt(one, [one, other])
    assert in_doubt(one, [one, paused])
    assert not in_doubt(one, [one])
    assert not in_doubt(one, [one, one])
    assert not in_doubt(one, [one, subscribed(1, PAST_DUE)])
    assert not in_doubt(one, [one, subscribed(-1, PAST_DUE)])
    assert not in_doubt(one, [one, other, subscribed(1, ACTIVE)])
    assert not in_doubt(one, [one, other, deleted])
    assert not in_doubt(one, [one, subscribed(0, INCOMPLETE, kind=SUBSCRIPTION_CREATED)])
    assert not in_doubt(one, [one, event("invoice.created")])
    assert not in_doubt(one, [one, event(INVOICE_PAID)])
    assert in_doubt(one, [one, other, event(INVOICE_PAID), event(INVOICE_PAID, DAY)])
    assert not in_doubt(event(INVOICE_PAID), [one, event(INVOICE_PAID), event(INVOICE_FAILED)])


# --- a life ---------------------------------------------------------------------------------------

LIFE: list[tuple[list[BillingEvent], str, str, list[str]]] = [
    (
        [
            event(CHECKOUT_COMPLETED, 2, status="unpaid", plan="starter", email="a@x.example"),
            subscribed(0, ACTIVE, kind=SUBSCRIPTION_CREATED),
        ],
        ACTIVE,
        "",
        [],
    ),
    ([event(CHECKOUT_PAID, 3 * DAY, status="paid")], ACTIVE, "starter", ["plan_changed"]),
    ([event(INVOICE_PAID, 3 * DAY, invoice="in_1", attempt=1)], ACTIVE, "starter", []),
    ([subscribed(10 * DAY, ACTIVE, "pro")], ACTIVE, "pro", ["plan_changed"]),
    ([subscribed(30 * DAY, ACTIVE, "pro")], ACTIVE, "pro", []),
    (
        [failed(30 * DAY + HOUR, 1, "in_2", next_attempt_at=NOW + 33 * DAY)],
        PAST_DUE,
        "pro",
        ["payment_failed"],
    ),
    ([subscribed(30 * DAY + HOUR + 1, PAST_DUE, "pro")], PAST_DUE, "pro", []),
    ([failed(33 * DAY, 2, "in_2")], PAST_DUE, "pro", ["payment_failed"]),
    (
        [event(INVOICE_PAID, 34 * DAY, invoice="in_2", attempt=3)],
        ACTIVE,
        "pro",
        ["payment_recovered"],
    ),
    ([subscribed(34 * DAY, ACTIVE, "pro", number=2)], ACTIVE, "pro", []),
    (
        [subscribed(40 * DAY, ACTIVE, "pro", cancel_at=NOW + 60 * DAY)],
        ACTIVE,
        "pro",
        ["cancellation_scheduled"],
    ),
    ([subscribed(41 * DAY, ACTIVE, "pro")], ACTIVE, "pro", ["cancellation_withdrawn"]),
    (
        [subscribed(42 * DAY, ACTIVE, "pro", cancel_at=NOW + 60 * DAY)],
        ACTIVE,
        "pro",
        ["cancellation_scheduled"],
    ),
    (
        [
            event(
                SUBSCRIPTION_DELETED,
                60 * DAY,
                status=CANCELED,
                plan="pro",
                cancel_at=NOW + 60 * DAY,
            )
        ],
        CANCELED,
        "",
        ["plan_changed"],
    ),
    ([subscribed(59 * DAY, ACTIVE, "pro", cancel_at=NOW + 60 * DAY)], CANCELED, "", []),
]


def test_a_life() -> None:
    """At each step the right state, the right plan and exactly the notices that a customer expects."""
    known: list[BillingEvent] = []
    before: list[str] = []
    for events, status, plan, expected in LIFE:
        known += events
        change = tell(SUB, known, GRACE)
        at = max(one.created for one in known) - NOW
        step = [notice.id for notice in change.notices if notice.id not in before]
        before += step

        assert status == change.subscription.status
        assert plan == plan_at(change, at)
        assert expected == [one.split(":")[0] for one in step]
        assert {notice.id for notice in change.notices} == set(before)
    assert ["a@x.example"] == sorted({notice.email for notice in change.notices})


def test_a_life_in_any_order() -> None:
    """Delivered in disorder, over and over, it ends the same."""
    history = [one for events, *_ in LIFE for one in events]
    expected = tell(SUB, history, GRACE)
    chance = random.Random(1)
    for _ in range(200):
        assert expected == tell(SUB, arrived(chance.sample(history * 3, 3 * len(history))), GRACE)


# --- what gives a plan ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (ACTIVE, "starter"),
        (TRIALING, "starter"),
        (INCOMPLETE, ""),
        (INCOMPLETE_EXPIRED, ""),
        (UNPAID, ""),
        (PAUSED, ""),
        (CANCELED, ""),
        ("of_tomorrow", ""),
        ("", ""),
    ],
)
def test_what_each_state_gives(status: str, expected: str) -> None:
    """Only what is paid for, or tried."""
    change = told(subscribed(0, status))

    assert expected == plan_at(change, 0)
    assert (["plan_changed"] if expected else []) == kinds(change)


@pytest.mark.parametrize("status", [UNPAID, PAUSED, CANCELED, INCOMPLETE_EXPIRED])
def test_a_plan_that_ends(status: str) -> None:
    """With the state that gives none, and the owners are told why."""
    change = told(subscribed(0, ACTIVE), subscribed(DAY, status))

    assert "" == plan_at(change, DAY)
    assert {"before": "starter", "after": "free", "why": status} == change.notices[-1].facts


@pytest.mark.parametrize("late", [subscribed(0, PAST_DUE), failed(0)])
def test_late_payment_is_borne_for_a_while(late: BillingEvent) -> None:
    """Until the grace is over, to the second, whichever event told of it first."""
    change = told(subscribed(-DAY, ACTIVE), late)

    assert PAST_DUE == change.subscription.status
    assert "starter" == plan_at(change, 0)
    assert "starter" == plan_at(change, GRACE - 1)
    assert "" == plan_at(change, GRACE)


def test_grace_is_not_renewed() -> None:
    """By another attempt, another bill, another state, or another plan while it lasts."""
    change = told(
        subscribed(-DAY, ACTIVE),
        failed(0),
        subscribed(1, PAST_DUE),
        failed(2 * DAY, 2),
        subscribed(3 * DAY, PAST_DUE, "pro"),
        failed(4 * DAY, 1, "in_2"),
    )

    assert NOW == change.subscription.failing_since
    assert "pro" == plan_at(change, GRACE - 1)
    assert "" == plan_at(change, GRACE)


@pytest.mark.parametrize("status", [PAST_DUE, UNPAID, INCOMPLETE])
def test_paying_heals(status: str) -> None:
    """Late, very late and first payments."""
    change = told(subscribed(0, status), event(INVOICE_PAID, 30 * DAY))

    assert ACTIVE == change.subscription.status
    assert change.subscription.failing_since is None
    assert "starter" == plan_at(change, 30 * DAY)


@pytest.mark.parametrize("status", [TRIALING, PAUSED, CANCELED, INCOMPLETE_EXPIRED])
def test_paying_does_not_change_every_state(status: str) -> None:
    """A trial's bill of nothing ends no trial, an old bill resumes and revives nothing."""
    change = told(subscribed(0, status), event(INVOICE_PAID, 1))

    assert status == change.subscription.status


@pytest.mark.parametrize(
    "begun",
    [
        [event(CHECKOUT_COMPLETED, 2, status="unpaid", plan="starter")],
        [
            subscribed(0, ACTIVE, kind=SUBSCRIPTION_CREATED),
            event(CHECKOUT_COMPLETED, 2, status="unpaid", plan="starter"),
            subscribed(3, ACTIVE),
        ],
        [
            subscribed(0, ACTIVE, kind=SUBSCRIPTION_CREATED),
            event(CHECKOUT_COMPLETED, 2, status="unpaid", plan="starter"),
            event(CHECKOUT_FAILED, 3 * DAY, status="unpaid"),
        ],
        [
            subscribed(0, ACTIVE, kind=SUBSCRIPTION_CREATED),
            event(CHECKOUT_COMPLETED, 2, status="unpaid"),
            failed(3 * DAY),
            subscribed(3 * DAY, PAST_DUE),
        ],
        [event(CHECKOUT_COMPLETED, 2, status="", plan="starter"), subscribed(3, ACTIVE)],
    ],
)
def test_an_open_checkout_unlocks_nothing(begun: list[BillingEvent]) -> None:
    """Not for the seconds before it completes, nor for a grace when it fails: nothing was ever paid."""
    change = told(*begun)

    assert "" == plan_at(change, 3 * DAY)
    assert "plan_changed" not in kinds(change)
    assert (None,) == (billing.grace_ends(change.subscription, GRACE),)
    assert () == dunning(change.subscription, NOW + 30 * DAY, GRACE)
    assert {None} >= {notice.facts["ends_at"] for notice in change.notices}

    paid = told(*begun, event(INVOICE_PAID, 5 * DAY), subscribed(5 * DAY, ACTIVE))
    assert "starter" == plan_at(paid, 5 * DAY)
    assert ["plan_changed"] == [one for one in kinds(paid) if one != "payment_failed"]


@pytest.mark.parametrize("status", ["paid", "no_payment_required"])
def test_a_checkout_alone_unlocks(status: str) -> None:
    """Its subscription's own events may come a little later."""
    change = told(event(CHECKOUT_COMPLETED, status=status, plan="pro"))

    assert ACTIVE == change.subscription.status
    assert "pro" == plan_at(change, 0)
    assert {"before": "free", "after": "pro", "why": ACTIVE} == facts_of(change, "plan_changed")


def test_a_checkout_does_not_take_back_an_upgrade() -> None:
    """A debit arrives days later, and its checkout still says what was ordered then."""
    change = told(
        subscribed(0, ACTIVE, kind=SUBSCRIPTION_CREATED),
        event(CHECKOUT_COMPLETED, 1, status="unpaid", plan="starter", email="a@x.example"),
        subscribed(DAY, ACTIVE, "pro"),
        event(CHECKOUT_PAID, 3 * DAY, status="paid", plan="starter"),
    )

    assert "pro" == plan_at(change, 3 * DAY)
    assert {"before": "free", "after": "pro", "why": ACTIVE} == facts_of(change, "plan_changed")


def test_a_price_that_is_nobodys_here() -> None:
    """Gives no plan. An event that does not speak of it changes none."""
    assert "" == plan_at(told(subscribed(0, ACTIVE, None)), 0)
    assert "" == plan_at(told(subscribed(0, ACTIVE), subscribed(1, ACTIVE, "")), 1)
    assert "starter" == plan_at(told(subscribed(0, ACTIVE), subscribed(1, ACTIVE, None)), 1)
    assert "starter" == plan_at(told(subscribed(0, ACTIVE), event(INVOICE_PAID, 1, plan="pro")), 1)


def test_a_trial() -> None:
    """Gives its plan at once, is told of before it ends, and goes on when the card is charged."""
    change = told(
        subscribed(0, TRIALING, kind=SUBSCRIPTION_CREATED, trial_end=NOW + 14 * DAY),
        event(INVOICE_PAID, 0, invoice="in_0"),
        event(CHECKOUT_COMPLETED, 1, status="no_payment_required", plan="starter"),
        subscribed(11 * DAY, TRIALING, kind=TRIAL_WILL_END, trial_end=NOW + 14 * DAY),
        subscribed(14 * DAY, ACTIVE),
        event(INVOICE_PAID, 14 * DAY + HOUR, invoice="in_1"),
    )

    assert ["plan_changed", "trial_ending"] == kinds(change)
    assert {"plan": "starter", "at": NOW + 14 * DAY} == facts_of(change, "trial_ending")
    assert "starter" == plan_at(change, 15 * DAY)


@pytest.mark.parametrize(
    ("ending", "expected"),
    [
        (
            [subscribed(14 * DAY, PAUSED), subscribed(14 * DAY, PAUSED, kind=SUBSCRIPTION_PAUSED)],
            "",
        ),
        ([event(SUBSCRIPTION_DELETED, 14 * DAY, status=CANCELED)], ""),
        ([subscribed(14 * DAY, ACTIVE), failed(14 * DAY + HOUR)], "starter"),
    ],
)
def test_a_trial_without_a_card(ending: list[BillingEvent], expected: str) -> None:
    """Is paused, is cancelled or is late, as the operator has set it up with the payment provider."""
    change = told(subscribed(0, TRIALING), *ending)

    assert expected == plan_at(change, 14 * DAY + HOUR)
    assert 2 == len(change.notices)


def test_a_pause_and_its_end() -> None:
    """Resumed is as before, and both are told once each."""
    change = told(
        subscribed(0, TRIALING),
        subscribed(DAY, PAUSED, kind=SUBSCRIPTION_PAUSED),
        subscribed(2 * DAY, ACTIVE, kind=SUBSCRIPTION_RESUMED),
        subscribed(2 * DAY, ACTIVE),
    )

    assert ["plan_changed"] * 3 == kinds(change)
    assert "starter" == plan_at(change, 2 * DAY)


def test_a_trial_that_was_ended_early_is_not_told_of() -> None:
    """Stripe sends the event then, too."""
    change = told(
        subscribed(0, TRIALING), subscribed(DAY, ACTIVE, kind=TRIAL_WILL_END, trial_end=NOW + DAY)
    )

    assert ["plan_changed"] == kinds(change)


def test_the_first_payment_that_fails() -> None:
    """There is no plan that could be kept; after a day without payment it never was one."""
    change = told(
        subscribed(0, INCOMPLETE, kind=SUBSCRIPTION_CREATED), failed(0, email="a@x.example")
    )
    expired = subscribed(DAY, INCOMPLETE_EXPIRED)

    assert INCOMPLETE == change.subscription.status
    assert ["payment_failed"] == kinds(change)
    assert None is facts_of(change, "payment_failed")["ends_at"]
    assert () == dunning(change.subscription, NOW + 30 * DAY, GRACE)

    over = told(
        subscribed(0, INCOMPLETE, kind=SUBSCRIPTION_CREATED),
        failed(0),
        expired,
        subscribed(2 * DAY, ACTIVE),
    )
    assert INCOMPLETE_EXPIRED == over.subscription.status
    assert "" == plan_at(over, 2 * DAY)


def test_the_dearest_of_several() -> None:
    """Of what is paid for now; what is not in the table counts for nothing."""
    starter = told(subscribed(0, ACTIVE)).subscription
    pro = told(subscribed(0, PAST_DUE, "pro")).subscription
    gone = told(subscribed(0, ACTIVE, "gone")).subscription

    assert "pro" == plan_of([starter, pro, gone], PLANS, NOW, GRACE)
    assert "pro" == plan_of([pro, gone, starter], PLANS, NOW, GRACE)
    assert "starter" == plan_of([pro, starter], PLANS, NOW + GRACE, GRACE)
    assert FREE == plan_of([gone], PLANS, NOW, GRACE)
    assert FREE == plan_of([], PLANS, NOW, GRACE)


# --- what is told ---------------------------------------------------------------------------------


def test_who_is_told_may_be_known_late() -> None:
    """A notice from before the project was known is told afterwards; a bill's goes to the bill's own address at once."""
    before = told(
        subscribed(0, ACTIVE, project="", kind=SUBSCRIPTION_CREATED),
        failed(DAY, project="", email="bill@x.example"),
    )
    after = told(
        subscribed(0, ACTIVE, project="", kind=SUBSCRIPTION_CREATED),
        failed(DAY, project="", email="bill@x.example"),
        subscribed(2 * DAY, ACTIVE, "pro", email="new@x.example"),
    )

    assert [("payment_failed", "", "bill@x.example")] == [
        (notice.kind, notice.project, notice.email) for notice in before.notices
    ]
    assert [
        ("plan_changed", PROJECT, "new@x.example"),
        ("payment_failed", PROJECT, "bill@x.example"),
        ("plan_changed", PROJECT, "new@x.example"),
        ("payment_recovered", PROJECT, "new@x.example"),
    ] == [(notice.kind, notice.project, notice.email) for notice in after.notices]


def test_a_subscription_to_something_else_is_not_told_of() -> None:
    """The same Stripe account may sell other things: a bill that names prices, and none of ours, is none of ours."""
    foreign = failed(1, project="", email="a@x", plan="")
    change = told(subscribed(0, ACTIVE, project=""), foreign)
    ours = told(subscribed(0, ACTIVE), foreign)

    assert () == change.notices
    assert () == dunning(change.subscription, NOW + 30 * DAY, GRACE)
    assert "payment_failed" in {notice.kind for notice in ours.notices}


@pytest.mark.parametrize(
    ("event", "project", "told_of"),
    [
        (BillingEvent("evt", INVOICE_FAILED, NOW), "", ["payment_failed"]),
        (BillingEvent("evt", INVOICE_ACTION_REQUIRED, NOW), "", ["payment_action_required"]),
        (BillingEvent("evt", INVOICE_FAILED, NOW, plan=""), "", []),
        (BillingEvent("evt", INVOICE_FAILED, NOW, plan=""), PROJECT, ["payment_failed"]),
        (BillingEvent("evt", INVOICE_FAILED, NOW, subscription="sub_1"), "", []),
        (BillingEvent("evt", INVOICE_PAID, NOW), "", []),
    ],
)
def test_a_bill_of_no_subscription(event: BillingEvent, project: str, told_of: list[str]) -> None:
    """It is told unless it is for something else, or its subscription's history tells it."""
    notices = bill_notices(event, project)

    assert told_of == [notice.kind for notice in notices]
    assert {project} >= {notice.project for notice in notices}


def test_a_failed_payment_says_when_service_ends() -> None:
    """Counted from the first failure, whatever attempt it is, and not once it has ended."""
    bill: dict[str, Any] = {
        "amount": 2900,
        "currency": "usd",
        "link": "https://invoice.stripe.com/i/1",
        "next_attempt_at": NOW + 3 * DAY,
    }
    change = told(
        subscribed(-DAY, ACTIVE), failed(0, 1, **bill), failed(3 * DAY, 2), failed(8 * DAY, 3)
    )
    first, second, third = [one.facts for one in change.notices if one.kind == "payment_failed"]

    assert {**bill, "attempt": 1, "ends_at": NOW + GRACE} == first
    assert NOW + GRACE == second["ends_at"]
    assert None is third["ends_at"]


def test_a_failed_payment_is_told_of_once() -> None:
    """A debit that fails is told by its checkout and by its bill, and an event may be made twice under two ids."""
    change = told(
        subscribed(0, ACTIVE, kind=SUBSCRIPTION_CREATED),
        event(CHECKOUT_COMPLETED, 1, status="unpaid", invoice="in_1"),
        event(CHECKOUT_FAILED, 3 * DAY, invoice="in_1"),
        failed(3 * DAY, 1),
        failed(3 * DAY, 1, number=2),
        failed(4 * DAY, 2),
    )

    assert ["payment_failed:in_1:1", "payment_failed:in_1:2"] == [one.id for one in change.notices]


def test_a_payment_to_confirm() -> None:
    """Once for each attempt, to the address of the bill."""
    change = told(
        subscribed(0, ACTIVE),
        event(INVOICE_ACTION_REQUIRED, 1, invoice="in_1", attempt=1, email="bill@x.example"),
        event(INVOICE_ACTION_REQUIRED, 2, invoice="in_1", attempt=1),
    )

    assert ["plan_changed", "payment_action_required"] == kinds(change)
    assert "bill@x.example" == change.notices[-1].email


def test_one_change_is_told_once_whichever_event_comes_first() -> None:
    """Two events show that a payment came. The older one comes an hour later, when its notice was sent long ago."""
    late = [subscribed(0, ACTIVE), failed(DAY)]
    updated = subscribed(2 * DAY + 1, ACTIVE)
    paid = event(INVOICE_PAID, 2 * DAY)

    first, both = told(*late, updated), told(*late, paid, updated)
    assert "payment_recovered" == kinds(both)[-1]
    assert [one.id for one in first.notices] == [one.id for one in both.notices]

    began = told(subscribed(5, ACTIVE))
    older = told(subscribed(0, ACTIVE, kind=SUBSCRIPTION_CREATED), subscribed(5, ACTIVE))
    assert [one.id for one in began.notices] == [one.id for one in older.notices]


def test_the_same_change_again_is_another_one() -> None:
    """Up, down and up again are three, and late twice is recovered twice."""
    change = told(
        subscribed(0, ACTIVE),
        subscribed(1, ACTIVE, "pro"),
        subscribed(2, ACTIVE),
        subscribed(3, ACTIVE, "pro"),
        failed(4, 1, "in_1"),
        event(INVOICE_PAID, 5),
        failed(6, 1, "in_2"),
        event(INVOICE_PAID, 7),
    )

    assert ["plan_changed:sub_1:starter:pro:1", "plan_changed:sub_1:starter:pro:2"] == [
        one.id for one in change.notices if one.facts.get("after") == "pro"
    ]
    assert 2 == kinds(change).count("payment_recovered")
    assert len(change.notices) == len({one.id for one in change.notices})


def test_ids_do_not_depend_on_how_a_database_gives_numbers() -> None:
    """Seconds may come back whole."""
    scheduled = subscribed(1, ACTIVE, cancel_at=NOW + 30 * DAY)
    whole = evolve(scheduled, cancel_at=int(NOW + 30 * DAY), created=int(NOW + 1))

    first, second = told(subscribed(0, ACTIVE), scheduled), told(subscribed(0, ACTIVE), whole)
    assert [one.id for one in first.notices] == [one.id for one in second.notices]


def test_a_cancellation_that_is_moved_is_told_again() -> None:
    """Else the owners would go by the wrong day."""
    change = told(
        subscribed(0, ACTIVE),
        subscribed(1, ACTIVE, cancel_at=NOW + 30 * DAY),
        subscribed(2, ACTIVE, cancel_at=NOW + 30 * DAY),
        subscribed(3, ACTIVE, cancel_at=NOW + 60 * DAY),
    )

    assert [NOW + 30 * DAY, NOW + 60 * DAY] == [
        one.facts["at"] for one in change.notices if one.kind == "cancellation_scheduled"
    ]


def test_paying_for_a_better_plan_is_two_things() -> None:
    """The payment came, and the plan changed."""
    change = told(subscribed(0, ACTIVE), failed(1), subscribed(2, ACTIVE, "pro"))

    assert ["plan_changed", "payment_failed", "plan_changed", "payment_recovered"] == kinds(change)


def test_paying_after_the_grace_begins_the_plan_anew() -> None:
    """There was none any more, which time alone had told."""
    change = told(subscribed(0, ACTIVE), failed(0), event(INVOICE_PAID, 8 * DAY))

    assert ["plan_changed", "payment_failed", "plan_changed"] == kinds(change)
    assert {"before": "free", "after": "starter", "why": ACTIVE} == change.notices[-1].facts


# --- what time brings -----------------------------------------------------------------------------


def test_dunning() -> None:
    """A day before the end and at the end, under the same ids however often it is asked."""
    late = told(subscribed(-DAY, ACTIVE, email="a@x.example"), failed(0)).subscription
    asked = [dunning(late, NOW + at, GRACE) for at in range(0, int(10 * DAY), int(HOUR))]
    found = {notice.id: notice for notices in asked for notice in notices}

    facts = {"plan": "starter", "at": NOW + GRACE}
    assert [
        Notice(f"grace_ending:{SUB}:{NOW:.0f}", "grace_ending", PROJECT, "a@x.example", facts),
        Notice(f"grace_ended:{SUB}:{NOW:.0f}", "grace_ended", PROJECT, "a@x.example", facts),
    ] == list(found.values())
    assert () == dunning(late, NOW + 6 * DAY - 1, GRACE)
    assert ["grace_ending"] == [one.kind for one in dunning(late, NOW + 6 * DAY, GRACE)]
    assert ["grace_ending"] == [one.kind for one in dunning(late, NOW + GRACE - 1, GRACE)]
    assert ["grace_ended"] == [one.kind for one in dunning(late, NOW + GRACE, GRACE)]


def test_who_is_late_again_is_told_again() -> None:
    """A second grace has notices of its own."""
    again = told(
        subscribed(-DAY, ACTIVE), failed(0), event(INVOICE_PAID, DAY), failed(30 * DAY, 1, "in_2")
    ).subscription

    (notice,) = dunning(again, NOW + 40 * DAY, GRACE)
    assert f"grace_ended:{SUB}:{NOW + 30 * DAY:.0f}" == notice.id


@pytest.mark.parametrize("status", [INCOMPLETE, TRIALING, ACTIVE, UNPAID, PAUSED, CANCELED])
def test_nobody_else_is_dunned(status: str) -> None:
    """Only who is late, and has something to lose."""
    one = told(subscribed(0, status)).subscription

    assert () == dunning(one, NOW + 30 * DAY, GRACE)
    assert () == dunning(told(subscribed(0, PAST_DUE, None)).subscription, NOW + GRACE, GRACE)


# --- disputes -------------------------------------------------------------------------------------


def test_disputes() -> None:
    """The team is told of each once when it opens and once when it ends, and no subscription changes."""
    opened = event(DISPUTE_CREATED, dispute="du_1", charge="ch_1", amount=2900, due_by=NOW + DAY)
    closed = event(DISPUTE_ENDED, 1, dispute="du_1", status="lost")
    (first,), (last,) = dispute_notices(opened), dispute_notices(closed)

    assert ("dispute_opened:du_1", "dispute_closed:du_1") == (first.id, last.id)
    assert ("ch_1", 2900, NOW + DAY) == tuple(
        first.facts[one] for one in ("charge", "amount", "due_by")
    )
    assert "lost" == last.facts["status"]
    assert () == dispute_notices(event(INVOICE_PAID))
    assert Subscription(SUB) == told(opened, closed).subscription
