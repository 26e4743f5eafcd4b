"""Notices: who gets each, when one is tried again, when it is given up, when an allowance is told of."""

from __future__ import annotations

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from domain import notices
from domain.notices import (
    AUDIENCES,
    CHANNEL,
    DEAD,
    FIRST_PAUSE,
    LONGEST_PAUSE,
    MAIL,
    OPTIONAL,
    PATIENCE,
    SENT,
    SETTLING,
    TEAM,
    TOLD_IN_ORDER,
    WAITING,
    Contact,
    Delivery,
    Notice,
    Undelivered,
    crossed,
    deliveries,
    given_up,
    pause,
)

NOW = 1_800_000_000.0
PROJECT = "prj_1"
OWNER, BILL = "owner@x.example", "bill@x.example"
HOOK = "https://hooks.slack.example/services/secret"
CONTACT = Contact(PROJECT, OWNER, HOOK)

ON_THE_BILL = {notices.PAYMENT_FAILED, notices.PAYMENT_ACTION_REQUIRED}
TEAM_ONLY = {notices.DISPUTE_OPENED, notices.DISPUTE_CLOSED, notices.PROVIDER_KEY_REFUSED}
NO_TEAM = {
    notices.PAYMENT_ACTION_REQUIRED,
    notices.TRIAL_ENDING,
    notices.GRACE_ENDING,
    notices.WEEKLY_REPORT,
}


def notice(kind: str, email: str = BILL) -> Notice:
    return Notice(f"{kind}:1", kind, PROJECT, email, {"plan": "pro"})


def sent_to(kind: str, contact: Contact = CONTACT, email: str = BILL) -> list[tuple[str, str]]:
    made = deliveries(notice(kind, email), contact, ("team-1", "team-2"), NOW)
    return [(one.channel, one.recipient) for one in made]


# --- to whom --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", sorted(AUDIENCES))
def test_who_is_told(kind: str) -> None:
    """The team of what it can do something about, owners of what is theirs: each by all their ways, once."""
    expected = [] if kind in NO_TEAM else [(TEAM, "team-1"), (TEAM, "team-2")]
    if kind not in TEAM_ONLY:
        expected += [(MAIL, BILL if kind in ON_THE_BILL else OWNER), (CHANNEL, PROJECT)]

    assert expected == sent_to(kind)


@pytest.mark.parametrize(
    ("email", "contact", "on_the_bill", "otherwise"),
    [
        (BILL, OWNER, BILL, OWNER),
        (BILL, "", BILL, BILL),
        ("", OWNER, OWNER, OWNER),
        ("", "", None, None),
    ],
)
def test_which_address(
    email: str, contact: str, on_the_bill: str | None, otherwise: str | None
) -> None:
    """A bill's mail goes to the bill's address, everything else to the owners' own; each to the other one if need be."""
    for kind, audience in AUDIENCES.items():
        if MAIL not in audience:
            continue
        mails = [
            recipient
            for channel, recipient in sent_to(kind, evolve(CONTACT, email=contact), email)
            if channel == MAIL
        ]
        expected = on_the_bill if kind in ON_THE_BILL else otherwise
        assert ([expected] if expected else []) == mails


@pytest.mark.parametrize("kind", sorted(AUDIENCES))
def test_who_wants_no_reports_gets_the_others(kind: str) -> None:
    """Bills cannot be unsubscribed from."""
    quiet = evolve(CONTACT, reports=False)

    assert ([] if kind in OPTIONAL else sent_to(kind)) == sent_to(kind, quiet)


@pytest.mark.parametrize("kind", sorted(AUDIENCES))
def test_nobody_is_no_recipient(kind: str) -> None:
    """Without addresses, channels and a team there is nothing to deliver."""
    assert [] == deliveries(notice(kind, ""), Contact(PROJECT), (), NOW)


@pytest.mark.parametrize("kind", sorted(AUDIENCES))
def test_what_is_delivered(kind: str) -> None:
    """All of the notice, for the first time now, or when it has settled; and never the channel's own URL."""
    due_at = NOW + SETTLING if kind in TOLD_IN_ORDER else NOW
    made = deliveries(notice(kind), CONTACT, iter(["team-1"]), NOW, "sub_1")

    assert made
    for one in made:
        assert (
            Delivery(
                f"{kind}:1",
                one.channel,
                one.recipient,
                kind,
                PROJECT,
                {"plan": "pro"},
                NOW,
                due_at,
                "sub_1",
            )
            == one
        )
    assert HOOK not in repr((made, CONTACT))
    assert len(made) == len({(one.channel, one.recipient) for one in made})


def test_what_may_turn_out_untrue_waits() -> None:
    """A failed payment and an ended grace do not: they are true whatever else happened."""
    assert {
        notices.PLAN_CHANGED,
        notices.CANCELLATION_SCHEDULED,
        notices.CANCELLATION_WITHDRAWN,
        notices.PAYMENT_RECOVERED,
    } == TOLD_IN_ORDER
    assert set() == (TOLD_IN_ORDER | OPTIONAL) - set(AUDIENCES)


def test_states() -> None:
    """Sent is sent, also after it was once given up."""
    (one, *_) = deliveries(notice(notices.QUOTA_80), CONTACT, (), NOW)

    assert WAITING == one.state
    assert DEAD == evolve(one, dead_at=NOW).state
    assert SENT == evolve(one, sent_at=NOW).state
    assert SENT == evolve(one, sent_at=NOW, dead_at=NOW).state


# --- when -----------------------------------------------------------------------------------------

chances = st.floats(0, 1, exclude_max=True)


@given(st.integers(0, 10_000), chances)
def test_pauses_are_bounded(attempts: int, chance: float) -> None:
    """Never none at all, never more than an hour, however often it was tried."""
    assert FIRST_PAUSE / 2 <= pause(attempts, chance) <= LONGEST_PAUSE


@given(st.integers(0, 40), chances, chances)
def test_pauses_grow(attempts: int, chance: float, other: float) -> None:
    """Each is at least as long as the one before, until they are an hour; chance spreads them by a half."""
    if 2.0 ** (attempts + 1) <= LONGEST_PAUSE:
        assert pause(attempts, chance) <= pause(attempts + 1, other)
    assert pause(attempts, chance) <= pause(attempts + 1, chance)
    assert pause(attempts, min(chance, other)) <= pause(attempts, max(chance, other))


def test_the_first_pauses() -> None:
    """A second after the first attempt at the earliest, and then twice as long each time."""
    assert [1, 2, 4, 8, 16] == [pause(attempts, 0) for attempts in range(1, 6)]
    assert LONGEST_PAUSE / 2 == pause(40, 0)


def test_patience() -> None:
    """A day's worth of attempts, to the second, counted from when it was queued."""
    (one, *_) = deliveries(notice(notices.QUOTA_80), CONTACT, (), NOW)

    assert not given_up(one, NOW)
    assert not given_up(one, NOW + PATIENCE)
    assert given_up(one, NOW + PATIENCE + 1)


@given(st.lists(chances, min_size=200, max_size=200))
def test_a_day_has_few_attempts(spread: list[float]) -> None:
    """Nobody is knocked at for ever: given up after a day, and after 33 to 60 attempts."""
    (one, *_) = deliveries(notice(notices.QUOTA_80), CONTACT, (), NOW)
    at, attempts = NOW, 0
    for chance in spread:
        attempts += 1
        at += pause(attempts, chance)
        if given_up(one, at):
            break

    assert 33 <= attempts <= 62
    assert NOW + PATIENCE < at <= NOW + PATIENCE + LONGEST_PAUSE


# --- allowances -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("used", "most", "expected"),
    [
        (0, 100, 0),
        (79, 100, 0),
        (80, 100, 80),
        (99, 100, 80),
        (100, 100, 100),
        (1_000, 100, 100),
        (0, 0, 0),
        (10**30, 0, 0),
        (0, 1, 0),
        (1, 1, 100),
        (3, 4, 0),
        (4, 5, 80),
        (8 * 10**29 - 1, 10**30, 0),
        (8 * 10**29, 10**30, 80),
    ],
)
def test_crossed(used: int, most: int, expected: int) -> None:
    """Exact at any size; a jump over both is the whole of it, and what has no limit is never reached."""
    assert expected == crossed(used, most)


@given(st.integers(0, 10**30), st.integers(0, 10**30), st.integers(1, 10**30))
def test_crossed_only_grows(used: int, more: int, most: int) -> None:
    """Whoever uses more has reached no less."""
    assert crossed(used, most) <= crossed(used + more, most)


# --- faults ---------------------------------------------------------------------------------------


def test_undelivered() -> None:
    """Says why, and whether it is worth another try."""
    assert ("full", False) == (Undelivered("full").reason, Undelivered("full").permanent)
    assert Undelivered("gone", permanent=True).permanent
    assert "gone" == str(Undelivered("gone"))
