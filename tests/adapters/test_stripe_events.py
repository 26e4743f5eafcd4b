"""What Stripe's events say, in the forms of several years, and what is no event."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from attrs import evolve

from adapters.stripe.events import read
from domain import billing
from domain.billing import BillingEvent, tell
from tests.support import stripe_events as made
from tests.support.stripe_events import DAY, MONTH, NEW, NOW, OLD, Customer, Document, body

PRICES = {"price_starter": "starter", "price_pro": "pro"}
EVENT = BillingEvent("evt_1", "", NOW)
SUBSCRIPTION = evolve(
    EVENT,
    type=billing.SUBSCRIPTION_UPDATED,
    subscription="sub_1",
    project="p_shop",
    customer="cus_1",
    plan="pro",
    status="active",
    period_end=NOW + MONTH,
)
CHECKOUT = evolve(
    EVENT,
    type=billing.CHECKOUT_COMPLETED,
    subscription="sub_1",
    project="p_shop",
    customer="cus_1",
    email="owner@example.com",
    plan="pro",
    status="paid",
    amount=4900,
    currency="usd",
)
INVOICE = evolve(
    EVENT,
    subscription="sub_1",
    project="p_shop",
    customer="cus_1",
    email="owner@example.com",
    invoice="in_1",
    attempt=1,
    amount=4900,
    currency="usd",
    link="https://invoice.stripe.com/i/acct_1/in_1",
    reason="subscription_cycle",
)
PAID = evolve(INVOICE, type=billing.INVOICE_PAID, period_end=NOW + MONTH)
FAILED = evolve(INVOICE, type=billing.INVOICE_FAILED, next_attempt_at=NOW + 3 * DAY)
DISPUTE = evolve(
    EVENT,
    type=billing.DISPUTE_CREATED,
    dispute="dp_1",
    charge="ch_1",
    amount=4900,
    currency="usd",
    reason="fraudulent",
    status="needs_response",
    due_by=NOW + 7 * DAY,
)


def item(price: Any, **more: Any) -> Document:
    return {"id": "si_x", "price": price, **more}


def items(*found: Document) -> Document:
    return {"items": {"object": "list", "data": [*found]}}


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (made.subscription_updated(), SUBSCRIPTION),
        (made.subscription_updated(shape=OLD), SUBSCRIPTION),
        (made.subscription_updated(customer=made.charge(id="cus_1")), SUBSCRIPTION),
        (
            made.subscription_updated(cancels=True),
            evolve(SUBSCRIPTION, cancel_at=NOW + MONTH),
        ),
        (
            made.subscription_updated(cancels=True, cancel_at=None, shape=OLD),
            evolve(SUBSCRIPTION, cancel_at=NOW + MONTH),
        ),
        (
            made.subscription_updated(cancel_at=int(NOW + DAY)),
            evolve(SUBSCRIPTION, cancel_at=NOW + DAY),
        ),
        (
            made.subscription_updated(status="trialing", trial_end=int(NOW + DAY)),
            evolve(SUBSCRIPTION, status="trialing", trial_end=NOW + DAY),
        ),
        (made.subscription_updated(metadata=None), evolve(SUBSCRIPTION, project="")),
        (made.subscription_updated(metadata={}), evolve(SUBSCRIPTION, project="")),
        (
            made.subscription_updated(metadata={"project": "'; DROP TABLE"}),
            evolve(SUBSCRIPTION, project=""),
        ),
        (made.subscription_updated(price="price_theirs"), evolve(SUBSCRIPTION, plan="")),
        (
            made.subscription_updated(price="price_theirs", shape=OLD),
            evolve(SUBSCRIPTION, plan=""),
        ),
        (
            made.subscription_updated(
                **items(
                    item({"id": "price_seat"}, current_period_end=int(NOW + DAY)),
                    item({"id": "price_starter"}, current_period_end=int(NOW + MONTH)),
                    item({"id": "price_pro"}, current_period_end=int(NOW + DAY)),
                )
            ),
            evolve(SUBSCRIPTION, plan="starter"),
        ),
        (
            made.subscription_updated(**items(item("price_pro", current_period_end=1))),
            evolve(SUBSCRIPTION, period_end=1),
        ),
        (
            made.subscription_updated(shape=OLD, **items()),
            SUBSCRIPTION,
        ),
        (
            made.subscription_updated(items=None),
            evolve(SUBSCRIPTION, plan=None, period_end=None),
        ),
        (
            made.subscription_updated(cancellation_details={"reason": "payment_failed"}),
            evolve(SUBSCRIPTION, reason="payment_failed"),
        ),
        (made.checkout_completed(), CHECKOUT),
        (made.checkout_completed(paid=False), evolve(CHECKOUT, status="unpaid")),
        (
            made.checkout_completed(
                subscription={"id": "sub_1", "object": "subscription"}, customer={"id": "cus_1"}
            ),
            CHECKOUT,
        ),
        (made.checkout_completed(metadata=None), evolve(CHECKOUT, plan=None)),
        (made.checkout_completed(client_reference_id=None), CHECKOUT),
        (
            made.checkout_completed(metadata={"project": "p_shop", "plan": "unlimited"}),
            evolve(CHECKOUT, plan=None),
        ),
        (
            made.checkout_completed(customer_details=None, customer_email="a@b.example"),
            evolve(CHECKOUT, email="a@b.example"),
        ),
        (
            made.checkout_completed(email="a@b.example\r\nBcc: all@b.example"),
            evolve(CHECKOUT, email=""),
        ),
        (
            made.checkout_completed(mode="payment", subscription=None),
            evolve(EVENT, type=billing.CHECKOUT_COMPLETED),
        ),
        (made.invoice_paid(), PAID),
        (made.invoice_paid(shape=OLD), PAID),
        (
            made.invoice_paid(parent={"subscription_details": {"subscription": {"id": "sub_1"}}}),
            evolve(PAID, project=""),
        ),
        (made.invoice_paid(lines=None), evolve(PAID, period_end=None)),
        (
            made.invoice_paid(
                lines={
                    "data": [
                        {"type": "invoiceitem", "period": {"end": int(NOW + 9 * MONTH)}},
                        {"type": "subscription", "period": {"end": int(NOW + MONTH)}},
                        {"type": "subscription", "period": None},
                    ]
                }
            ),
            PAID,
        ),
        (made.invoice_failed(), FAILED),
        (made.invoice_failed(shape=OLD), FAILED),
        (made.invoice_failed(next_attempt=None), evolve(FAILED, next_attempt_at=None)),
        (
            made.invoice_failed(hosted_invoice_url="javascript:alert(1)"),
            evolve(FAILED, link=""),
        ),
        (
            made.invoice_failed(parent=None),
            evolve(FAILED, subscription="", project=""),
        ),
        (made.dispute_created(), DISPUTE),
        (
            made.dispute_created(charge=made.charge()),
            evolve(DISPUTE, customer="cus_1", email="owner@example.com"),
        ),
        (made.dispute_created(due_by=None), evolve(DISPUTE, due_by=None)),
        (made.dispute_created(evidence_details=None), evolve(DISPUTE, due_by=None)),
        (made.unheard_of(), evolve(EVENT, type="customer.updated")),
        (
            made.event("customer.updated", {"id": 7, "items": [[]]}),
            evolve(EVENT, type="customer.updated"),
        ),
    ],
)
def test_shapes(document: Document, expected: BillingEvent) -> None:
    """Documents of old and new versions, with objects or their ids, say the same."""
    assert expected == read(body(document), PRICES, live=False)


@pytest.mark.parametrize("shape", [NEW, OLD])
@pytest.mark.parametrize("kind", billing.HANDLED)
def test_every_handled_type_is_read(kind: str, shape: str) -> None:
    """More than the envelope of each is understood."""
    if kind in billing.CHECKOUTS:
        document = made.checkout_session()
    elif kind in billing.SUBSCRIPTIONS:
        document = made.subscription(shape=shape)
    elif kind in billing.INVOICES:
        document = made.invoice(shape=shape)
    else:
        document = made.dispute()

    event = read(body(made.event(kind, document, shape=shape)), PRICES, live=False)

    assert (kind, NOW) == (event.type, event.created)
    assert event.subscription == "sub_1" or event.dispute == "dp_1"


@pytest.mark.parametrize("shape", [NEW, OLD])
def test_a_bill_where_no_price_is_known(shape: str) -> None:
    """It names prices, and nobody can say that they are not ours: it must not be taken for another shop's."""
    line = (
        {"pricing": {"price_details": {"price": "price_x"}}}
        if shape == NEW
        else {"price": {"id": "price_x"}}
    )
    payload = body(made.invoice_failed(shape=shape, lines={"data": [line]}))

    assert "" == read(payload, PRICES, live=False).plan
    assert None is read(payload, {}, live=False).plan


@pytest.mark.parametrize("shape", [NEW, OLD])
def test_plans_where_no_price_is_known(shape: str) -> None:
    """What a checkout or a subscription is marked with is the plan; unmarked, neither says anything of it."""
    for marked in (made.checkout_completed, made.subscription_updated):
        assert "pro" == read(body(marked(plan="pro")), {}, live=None).plan
        assert None is read(body(marked(metadata={"project": "p_shop"})), {}, live=None).plan
        assert None is read(body(marked(metadata={"plan": "p; --"})), {}, live=None).plan
    changed_price = made.subscription_updated(shape=shape, price="price_x", plan="starter")
    assert "starter" == read(body(changed_price), {}, live=None).plan
    assert "" == read(body(changed_price), PRICES, live=None).plan


def changed(**fields: Any) -> bytes:
    return body({**made.subscription_updated(), **fields})


def within(**fields: Any) -> bytes:
    return body(made.subscription_updated(**fields))


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"null",
        b"7",
        b'"evt_1"',
        b"[]",
        b"[" + changed() + b"]",
        b"{}",
        b"\xff\xfe",
        b'{"id": "evt_1\xff"}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"{" + b'"a":{' * 500,
        changed()[:-1],
        changed() + b"x",
        changed().replace(b"1800000000", b"NaN", 1),
        changed().replace(b"1800000000", b"Infinity", 1),
        changed().replace(b"1800000000", b"1e999", 1),
        changed().replace(b"1800000000", b"9" * 400, 1),
        changed().replace(b"1800000000", b"1800000000.5", 1),
        changed().replace(b"evt_1", b"\\ud800", 1),
        changed(id=None),
        changed(id=7),
        changed(id=""),
        changed(id="evt 1"),
        changed(id="../evt"),
        changed(id="evt_\n"),
        changed(id="evt_é"),
        changed(id="e" * 256),
        changed(id={"id": None}),
        changed(type=None),
        changed(type=""),
        changed(type="Customer.Updated"),
        changed(type="a" * 256),
        changed(created=None),
        changed(created=0),
        changed(created=-1),
        changed(created=True),
        changed(created="1800000000"),
        changed(created="2026-11-23T17:00:00Z"),
        changed(created=2**62),
        changed(account="acct_1"),
        changed(livemode=True),
        changed(livemode="false"),
        changed(livemode=0),
        changed(data=None),
        changed(data=[]),
        changed(data={}),
        changed(data={"object": []}),
        changed(data={"object": {}}),
        within(customer=7),
        within(customer=["cus_1"]),
        within(customer={"object": "customer"}),
        within(status=7),
        within(status=["active"]),
        within(metadata="p_shop"),
        within(metadata={"project": ["p_shop"]}),
        within(items=[]),
        within(items={"data": 7}),
        within(items={"data": ["si_1"]}),
        within(items={"data": {"a": 1}}),
        within(cancel_at=-1),
        within(cancel_at=2**60),
        within(cancel_at="tomorrow"),
        within(cancel_at_period_end="yes"),
        body(made.invoice_failed(amount=-1)),
        body(made.invoice_failed(amount=2**60)),
        body(made.invoice_failed(amount=True)),
        body(made.invoice_failed(attempt=-1)),
        body(made.invoice_failed(customer_email=7)),
        body(made.invoice_failed(hosted_invoice_url="x" * 6000)),
        body(made.invoice_paid(lines={"data": [7]})),
        body(made.dispute_created(evidence_details="soon")),
        body(made.event(billing.DISPUTE_CREATED, {"charge": "ch_1"})),
    ],
)
def test_what_is_no_event(payload: bytes) -> None:
    """Whatever is not as documented is a ValueError, and nothing else."""
    with pytest.raises(ValueError, match=r"."):
        read(payload, PRICES, live=False)


def test_depth_alone_is_no_fault() -> None:
    """What we do not look at may be as deep as JSON goes."""
    deep: Document = {}
    for _ in range(100):
        deep = {"a": [deep]}

    assert "evt_1" == read(within(default_source=deep), PRICES, live=False).id


@pytest.mark.parametrize("live", [True, False, None])
@pytest.mark.parametrize("sent", [True, False, None])
def test_modes(live: bool | None, sent: bool | None) -> None:
    """Events of the other mode are not ours; where the mode is not known or not said, all are."""
    payload = changed(livemode=sent)
    if None in (live, sent) or live is sent:
        assert "evt_1" == read(payload, PRICES, live).id
        return

    with pytest.raises(ValueError, match="mode"):
        read(payload, PRICES, live)


@pytest.mark.parametrize("shape", [NEW, OLD])
def test_a_life(shape: str) -> None:
    """What a customer's life sends, read and told again, gives what the customer has."""
    shop = Customer("p_shop", PRICES, shape=shape)
    shop.checkout("starter")
    seen = [stand(shop)]
    for verb in (
        shop.renew,
        lambda: shop.change("pro"),
        shop.fail_payment,
        shop.fail_payment,
        shop.recover,
        shop.dispute,
        shop.schedule_cancellation,
        shop.withdraw_cancellation,
        shop.schedule_cancellation,
        shop.unheard_of,
        shop.cancel,
    ):
        shop.wait(MONTH / 3)
        verb()
        seen.append(stand(shop))

    expected = [
        ("active", "starter", False),
        ("active", "starter", False),
        ("active", "pro", False),
        ("past_due", "pro", False),
        ("past_due", "pro", False),
        ("active", "pro", False),
        ("active", "pro", False),
        ("active", "pro", True),
        ("active", "pro", False),
        ("active", "pro", True),
        ("active", "pro", True),
        ("canceled", "pro", True),
    ]
    assert expected == seen
    assert len({one["id"] for one in shop.events}) == len(shop.events)


def stand(customer: Customer) -> tuple[str, str, bool]:
    found = [read(body(one), PRICES, live=False) for one in customer.events]
    mine = [one for one in found if one.subscription]
    told = tell(customer.subscription, mine, grace=7 * DAY).subscription
    assert (customer.project, customer.email, customer.period_end) == (
        told.project,
        told.email,
        told.period_end,
    )
    return told.status, told.plan, told.cancel_at is not None


def test_a_bill_paid_by_debit() -> None:
    """A checkout that is not paid yet unlocks nothing until the money comes."""
    shop = Customer("p_shop", PRICES)
    paid = Customer("p_other", PRICES)
    for one in (shop, paid):
        one.checkout("pro", paid=False)
        one.wait(3 * DAY)
    paid.payment_arrived()
    shop.payment_bounced()

    def entitled(customer: Customer, upto: int) -> str:
        found = [read(body(one), PRICES, live=False) for one in customer.events[:upto]]
        told = tell(customer.subscription, found, grace=0).subscription
        return billing.entitled(told, customer.now, grace=0)

    assert ["", ""] == [entitled(shop, 2), entitled(shop, 4)]
    assert ["", "pro"] == [entitled(paid, 2), entitled(paid, 4)]


def test_builders_make_json() -> None:
    """What is sent is what was built."""
    document = made.subscription_updated()

    assert document == orjson.loads(body(document))
