"""Words: every notice has some, whatever is known; as people write them, and safe to show anywhere."""

from __future__ import annotations

import html
import re
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain import notices
from domain.notices import AUDIENCES, OPTIONAL, Undelivered
from domain.phrases import day, dollars, money
from domain.words import LONGEST_MESSAGE, LONGEST_SUBJECT, Links, Words, words

DECEMBER = datetime(2026, 12, 1, tzinfo=UTC).timestamp()
DAY = 86_400.0
DOLLAR = 10**12
LINKS = Links("https://llm.example", "https://llm.example/unsubscribe?token=a&b=c")
BILL = "https://invoice.stripe.com/i/acct_1/live_2?s=ap"

PAYMENT = {
    "amount": 2900,
    "currency": "usd",
    "link": BILL,
    "attempt": 2,
    "next_attempt_at": DECEMBER + 3 * DAY,
}
DISPUTE = {
    "dispute": "du_1",
    "charge": "ch_1",
    "customer": "cus_1",
    "amount": 2900,
    "currency": "usd",
    "reason": "product_not_received",
    "status": "lost",
    "due_by": DECEMBER,
}
REQUESTS = {"used": 812_345, "most": 1_000_000, "month": "2026-11", "resets_at": DECEMBER}
MONEY = {**REQUESTS, "used": 41 * DOLLAR, "most": 50 * DOLLAR}
PLAN = {"plan": "starter"}
ENDS = {"plan": "starter", "at": DECEMBER}

FACTS: dict[str, dict[str, Any]] = {
    notices.PAYMENT_FAILED: {**PAYMENT, "ends_at": DECEMBER + 7 * DAY},
    notices.PAYMENT_ACTION_REQUIRED: PAYMENT,
    notices.PAYMENT_RECOVERED: PLAN,
    notices.PLAN_CHANGED: {"before": "free", "after": "pro", "why": "active"},
    notices.CANCELLATION_SCHEDULED: ENDS,
    notices.CANCELLATION_WITHDRAWN: PLAN,
    notices.TRIAL_ENDING: ENDS,
    notices.GRACE_ENDING: ENDS,
    notices.GRACE_ENDED: ENDS,
    notices.DISPUTE_OPENED: DISPUTE,
    notices.DISPUTE_CLOSED: DISPUTE,
    notices.QUOTA_80: REQUESTS,
    notices.QUOTA_100: REQUESTS,
    notices.BUDGET_80: MONEY,
    notices.BUDGET_100: MONEY,
    notices.PROVIDER_KEY_REFUSED: {"provider": "openai", "status": 401},
    notices.WEEKLY_REPORT: {
        "since": DECEMBER - 7 * DAY,
        "until": DECEMBER,
        "requests": 1_234,
        "hits": 1_000,
        "cost": 12_345_000_000_000,
        "saved": 45_678_900_000_000,
        "tokens_saved": 3_456_789,
    },
}


def written(kind: str, name: str = "Acme", links: Links = LINKS, **facts: Any) -> Words:
    return words(kind, facts, name, links)


def shown(page: str) -> list[str]:
    """The words of a page, as a reader sees them."""
    return html.unescape(re.sub("<[^>]*>", " ", page)).split()


def check(said: Words) -> None:
    """What holds for words of any kind, whatever they are made of."""
    assert 0 < len(said.subject) <= LONGEST_SUBJECT
    assert said.subject.isprintable()
    assert 0 < len(said.message) <= LONGEST_MESSAGE
    assert len(said.message.split("\n")) <= 2
    assert all(line.isprintable() for line in said.message.split("\n"))
    assert all(line.isprintable() for line in said.text.split("\n"))
    assert said.text.split() == shown(said.html)
    for text in (said.subject, said.text, said.message):
        assert "None" not in text
        assert "  " not in text
    said.text.encode()


def test_every_kind_has_words() -> None:
    """No kind is unknown, and the table below knows them all."""
    assert set(AUDIENCES) == set(FACTS)


@pytest.mark.parametrize("kind", sorted(AUDIENCES))
def test_words_of_everything_and_of_nothing(kind: str) -> None:
    """All facts are used well; missing ones, and those that are None, are left out, with the project's name or without."""
    for name in ("Acme", ""):
        for facts in (FACTS[kind], dict.fromkeys(FACTS[kind]), {}):
            check(words(kind, facts, name, LINKS))
            check(words(kind, facts, name, Links()))

    for missing in FACTS[kind]:
        check(words(kind, {**FACTS[kind], missing: None}, "Acme", LINKS))


@pytest.mark.parametrize("kind", sorted(AUDIENCES))
def test_words_name_the_project_once_it_is_known(kind: str) -> None:
    """In the subject and in the message, for those who have more than one."""
    said = words(kind, FACTS[kind], "Acme", LINKS)

    assert "Acme" in said.subject
    assert "Acme" in said.message
    assert "Acme" not in words(kind, FACTS[kind], "", LINKS).text


MESSAGES = {
    notices.PAYMENT_FAILED: "A payment of $29.00 did not go through (attempt 2). It is tried again on 4 December 2026."
    " The plan stays as it is until 8 December 2026.",
    notices.PAYMENT_ACTION_REQUIRED: "The bank wants the owner to confirm a payment of $29.00.",
    notices.PAYMENT_RECOVERED: "The open payment has arrived. The project Acme stays on the starter plan.",
    notices.PLAN_CHANGED: "The project Acme is on the pro plan now, it was on the free plan before.",
    notices.CANCELLATION_SCHEDULED: "The starter plan for the project Acme ends on 1 December 2026.",
    notices.CANCELLATION_WITHDRAWN: "The cancellation was taken back. The starter plan for the project Acme goes on as"
    " before.",
    notices.TRIAL_ENDING: "The trial of the starter plan for the project Acme ends on 1 December 2026.",
    notices.GRACE_ENDING: "The starter plan for the project Acme ends on 1 December 2026 if nothing is paid.",
    notices.GRACE_ENDED: "The starter plan for the project Acme has ended on 1 December 2026: a payment is open.",
    notices.DISPUTE_OPENED: "A payment of $29.00 is disputed: product not received. An answer is due by 1 December 2026.",
    notices.DISPUTE_CLOSED: "The dispute about a payment of $29.00 is closed: lost.",
    notices.QUOTA_80: "The project Acme has used 81 % of the monthly quota of November 2026: 812,345 of 1,000,000"
    " requests. It begins anew on 1 December 2026.",
    notices.QUOTA_100: "The project Acme has used up the monthly quota of November 2026: 812,345 of 1,000,000 requests."
    " It begins anew on 1 December 2026. Until then, requests are refused.",
    notices.BUDGET_80: "The project Acme has used 82 % of the monthly budget of November 2026: $41.00 of $50.00. It"
    " begins anew on 1 December 2026.",
    notices.BUDGET_100: "The project Acme has used up the monthly budget of November 2026: $41.00 of $50.00. It begins"
    " anew on 1 December 2026. Until then, requests that would cost something are refused.",
    notices.PROVIDER_KEY_REFUSED: "OpenAI refuses our API key with 401.",
    notices.WEEKLY_REPORT: "The cache saved $45.68 and 3,456,789 tokens. 1,234 requests, 1,000 of them answered from the"
    " cache (81 %).",
}


@pytest.mark.parametrize("kind", sorted(AUDIENCES))
def test_messages(kind: str) -> None:
    """The second line says it all; the first is the subject."""
    said = words(kind, FACTS[kind], "Acme", LINKS)

    assert [said.subject, MESSAGES[kind]] == said.message.split("\n")


def test_a_failed_payment_says_all_there_is_to_know() -> None:
    """What happened, when it is tried again, until when the service stays, what to do and where."""
    said = words(notices.PAYMENT_FAILED, FACTS[notices.PAYMENT_FAILED], "Acme", LINKS)

    assert "A payment did not go through (Acme)" == said.subject
    assert "A payment of $29.00 for the project Acme did not go through (attempt 2)." in said.text
    assert "It is tried again on 4 December 2026." in said.text
    assert "The plan stays as it is until 8 December 2026. If nothing is paid by then" in said.text
    assert "Please check the card" in said.text
    assert f"You can pay the bill here:\n{BILL}\n" in said.text
    assert f'<a href="{BILL}"' in said.html


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({"next_attempt_at": DECEMBER}, "It is tried again on 1 December 2026."),
        ({"next_attempt_at": None}, "It is not tried again by itself."),
        ({}, ""),
        ({"next_attempt_at": "soon"}, ""),
    ],
)
def test_whether_it_is_tried_again(facts: dict[str, Any], expected: str) -> None:
    """The last attempt was the last one. What was not told is not said."""
    said = written(notices.PAYMENT_FAILED, **facts)

    assert expected in said.message
    assert bool(expected) == ("tried again" in said.text)


def test_a_week_ends_on_its_last_day() -> None:
    """From Monday to Sunday, and not to the Monday after."""
    said = words(notices.WEEKLY_REPORT, FACTS[notices.WEEKLY_REPORT], "Acme", LINKS)

    assert "24 November 2026 to 30 November 2026" in said.text


@pytest.mark.parametrize("kind", sorted(AUDIENCES))
def test_unsubscribing(kind: str) -> None:
    """What is optional can be stopped from each mail; nobody stops bills by mistake."""
    said = words(kind, FACTS[kind], "Acme", LINKS)
    optional = kind in OPTIONAL

    assert optional == (LINKS.unsubscribe in said.text)
    assert optional == (html.escape(LINKS.unsubscribe) in said.html)
    assert (LINKS.unsubscribe if optional else "") == said.unsubscribe


@pytest.mark.parametrize(
    ("amount", "currency", "expected"),
    [
        (2900, "usd", "$29.00"),
        (1250, "eur", "€12.50"),
        (5, "gbp", "£0.05"),
        (123_456_789, "USD", "$1,234,567.89"),
        (-2900, "usd", "-$29.00"),
        (1200, "jpy", "¥1,200"),
        (1200, "krw", "₩1,200"),
        (1200, "clp", "1,200 CLP"),
        (500_000, "isk", "5,000.00 ISK"),
        (500_000, "ugx", "5,000.00 UGX"),
        (12_340, "kwd", "12.340 KWD"),
        (1250, "chf", "12.50 CHF"),
        (1250, "xyz", "12.50 XYZ"),
        (0, "usd", "$0.00"),
        (1250, "", ""),
        (1250, "dollars", ""),
        (1250, "<b>", ""),
        (1250, "ÜSD", ""),
        (1250, "us\n", ""),
    ],
)
def test_money(amount: int, currency: str, expected: str) -> None:
    """In the currency's own digits and sign; with its code where the sign is not everybody's, and not at all in none.

    Iceland's and Uganda's have no cents, but Stripe counts them: https://docs.stripe.com/currencies#special-cases
    """
    assert expected == money(amount, currency)


@pytest.mark.parametrize(
    ("picodollars", "expected"),
    [
        (0, "$0.00"),
        (1, "less than $0.01"),
        (4_999_999_999, "less than $0.01"),
        (5_000_000_000, "$0.01"),
        (12_345_000_000_000, "$12.35"),
        (12_344_999_999_999, "$12.34"),
        (-2 * DOLLAR, "-$2.00"),
        (1_234_567 * DOLLAR, "$1,234,567.00"),
    ],
)
def test_dollars(picodollars: int, expected: str) -> None:
    """To the cent, without floating point; little is not nothing."""
    assert expected == dollars(picodollars)


def test_days_are_days_of_utc() -> None:
    """And in English, wherever the server stands."""
    assert "1 December 2026" == day(DECEMBER)
    assert "30 November 2026" == day(DECEMBER - 1)
    assert "29 February 2028" == day(datetime(2028, 2, 29, 23, 59, tzinfo=UTC).timestamp())
    assert "1 January 1970" == day(0)


@pytest.mark.parametrize(
    "link",
    [
        "http://invoice.stripe.com/i/1",
        "javascript:alert(1)",
        "https://",
        "https:///path",
        "https://invoice.stripe.com@evil.example/",
        "https://[::1/",
        "https://evil.example/\nBcc: all@example.com",
        'https://evil.example/"onmouseover="x',
        "https://evil.example/<script>",
        "https://ev\u0131l.example/",
        "https://evil.example/\u202e",
        "https://evil.example/" + "a" * 3_000,
        " https://evil.example/",
        "HTTPS://evil.example/",
        b"https://evil.example/",
        17,
    ],
)
def test_a_bill_is_behind_a_plain_https_url_or_nowhere(link: object) -> None:
    """Anything else is not shown at all, and neither is the sentence that would lead to it."""
    said = written(notices.PAYMENT_FAILED, link=link)

    assert "here:" not in said.text
    assert "evil" not in said.text + said.html
    check(said)


def test_numbers_that_nobody_can_mean() -> None:
    """A week without requests has no share of them, and a day that no calendar has is left out."""
    check(written(notices.WEEKLY_REPORT, requests=0, hits=0))
    check(written(notices.GRACE_ENDED, at=253_402_300_800))
    assert "9999" in written(notices.GRACE_ENDED, at=253_402_300_799).text


def test_text_of_others_is_only_text() -> None:
    """A project's name makes no second header, no markup, and nothing that is read backwards."""
    name = 'A\r\nBcc: x@y.example\x00\x1b[31m\u202eevil\u2028<script>alert("1")</script>&amp;'
    said = words(notices.PAYMENT_FAILED, FACTS[notices.PAYMENT_FAILED], name, LINKS)

    plain = 'A Bcc: x@y.example[31mevil <script>alert("1")</script>&amp;'
    assert f"A payment did not go through ({plain})" == said.subject
    assert plain in said.text
    assert "<script" not in said.html
    assert "&lt;script&gt;" in said.html
    check(said)


def test_long_text_is_cut() -> None:
    """Nobody fills a channel by a name."""
    said = written(notices.DISPUTE_OPENED, "x" * 10_000, reason="y" * 10_000, charge="z" * 10_000)

    assert len(said.subject) <= LONGEST_SUBJECT
    assert len(said.text) < 1_000
    check(said)


def test_no_words_for_a_kind_of_tomorrow() -> None:
    """It waits for a server that knows it, instead of holding up others."""
    with pytest.raises(Undelivered) as caught:
        written("of_tomorrow")

    assert not caught.value.permanent


def test_pages_fetch_nothing() -> None:
    """No images, no scripts, no style from elsewhere: nobody learns that a mail was opened."""
    for kind, facts in FACTS.items():
        page = words(kind, facts, "Acme", LINKS).html
        assert set() == set(re.findall("<([a-z]+)", page)) - {"html", "body", "p", "br", "a"}
        assert set() == set(re.findall(r" ([a-z]+)=\"", page)) - {"lang", "style", "href"}
        assert "url(" not in page


anything = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(),
    st.binary(),
    st.lists(st.integers()),
    st.sampled_from([10**40, -(10**40), 253_402_300_800, "2026-13", "\ud800", "None" * 0]),
)
NAMES = sorted({name for facts in FACTS.values() for name in facts})


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(sorted(AUDIENCES)),
    st.dictionaries(st.sampled_from(NAMES), anything),
    st.text(),
)
def test_words_of_anything(kind: str, facts: dict[str, object], name: str) -> None:
    """No fact and no name is so strange that nobody can be told."""
    check(words(kind, facts, name, LINKS))
