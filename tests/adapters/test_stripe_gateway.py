"""Asking Stripe: what is sent, what comes of each failure, and that nothing secret or foreign gets out."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from attrs import evolve

from adapters.stripe import gateway as module
from adapters.stripe.failures import scrubbed
from adapters.stripe.gateway import StripeGateway, mode_of
from adapters.stripe.transport import Transport
from domain import billing
from domain.billing import BillingEvent
from domain.errors import ApiError, InvalidRequest, NotFound, Unavailable
from ports.billing import Order
from tests.support import stripe_events as made
from tests.support.fixtures import async_fixture
from tests.support.stripe import SECRET_KEY, SIGNING_SECRET, FakeStripe, sign
from tests.support.stripe_events import DAY, MONTH, NOW, Customer, body

PRICES = {"price_starter": "starter", "price_pro": "pro"}
ORDER = Order("p_shop", "pro", "click_1")
EVENT = BillingEvent("evt_1", billing.SUBSCRIPTION_UPDATED, NOW, subscription="sub_pshop1")
REFUSAL = "This is not an event of Stripe's that is meant for us."


@async_fixture
async def stripe() -> AsyncIterator[FakeStripe]:
    async with FakeStripe([Customer("p_shop", PRICES)]) as fake:
        yield fake


@async_fixture
async def gateway(stripe: FakeStripe) -> AsyncIterator[StripeGateway]:
    opened = connected(stripe.url)
    yield opened
    await opened.aclose()


def connected(url: str, secret_key: str | None = SECRET_KEY) -> StripeGateway:
    return StripeGateway(
        secret_key=secret_key,
        webhook_secrets=["whsec_before", SIGNING_SECRET],
        prices=PRICES,
        api_base=url,
        public_url="https://llm.example/",
    )


@pytest.fixture
def shop(stripe: FakeStripe) -> Customer:
    customer = stripe.customers[0]
    customer.checkout("starter")
    return customer


# --- buying


async def test_a_checkout(gateway: StripeGateway, stripe: FakeStripe) -> None:
    """Whose it is stands on the session and on the subscription it will make."""
    url = await gateway.checkout(evolve(ORDER, email="owner@example.com"))

    sent = stripe.requests[0]
    assert "https://checkout.stripe.com/c/pay/cs_test_1" == url
    assert ("POST", "/v1/checkout/sessions") == (sent.method, sent.path)
    assert {
        "mode": "subscription",
        "line_items[0][price]": "price_pro",
        "line_items[0][quantity]": "1",
        "client_reference_id": "p_shop",
        "metadata[project]": "p_shop",
        "metadata[plan]": "pro",
        "subscription_data[metadata][project]": "p_shop",
        "subscription_data[metadata][plan]": "pro",
        "success_url": "https://llm.example/billing/paid?checkout={CHECKOUT_SESSION_ID}",
        "cancel_url": "https://llm.example/billing/cancelled",
        "customer_email": "owner@example.com",
    } == sent.form


async def test_a_known_customer_is_kept(
    gateway: StripeGateway, stripe: FakeStripe, shop: Customer
) -> None:
    """One who has bought before is the same customer, whatever address there is."""
    await gateway.checkout(evolve(ORDER, customer=shop.customer, email="owner@example.com"))

    form = stripe.requests[0].form
    assert shop.customer == form["customer"]
    assert "customer_email" not in form


async def test_a_click_buys_once(gateway: StripeGateway, stripe: FakeStripe) -> None:
    """The same click opens one checkout, another opens another, whatever a click is made of."""
    urls = [
        await gateway.checkout(order)
        for order in (ORDER, ORDER, evolve(ORDER, click="x" * 9999 + "\r\nEvil: 1 ü"))
    ]

    keys = [one.key for one in stripe.requests]
    assert (urls[0], 2) == (urls[1], len(set(urls)))
    assert (keys[0], 2) == (keys[1], len(set(keys)))
    assert all(len(key) < 255 and key.isascii() for key in keys)


async def test_a_click_is_one_orders(gateway: StripeGateway, stripe: FakeStripe) -> None:
    """Nobody's click stands in the way of somebody else's."""
    first = await gateway.checkout(ORDER)

    for order in (evolve(ORDER, project="p_other"), evolve(ORDER, plan="starter")):
        assert first != await gateway.checkout(order)
    with pytest.raises(InvalidRequest, match="differently"):
        await gateway.checkout(evolve(ORDER, email="new@example.com"))


async def test_only_what_a_request_needs_leaves(
    gateway: StripeGateway, stripe: FakeStripe
) -> None:
    """Nothing about this machine, and the key in one place."""
    await gateway.checkout(ORDER)

    headers = stripe.requests[0].headers
    expected = {"authorization", "content-type", "idempotency-key", "stripe-version"}
    of_http = {"host", "accept", "accept-encoding", "content-length", "user-agent"}
    assert expected | of_http == set(headers)
    assert f"Bearer {SECRET_KEY}" == headers["authorization"]


async def test_a_plan_without_a_price(gateway: StripeGateway, stripe: FakeStripe) -> None:
    """It is not for sale, and Stripe is not asked."""
    for ask in (
        gateway.checkout(evolve(ORDER, plan="unlimited")),
        gateway.change_plan("sub_pshop1", "unlimited", "c"),
    ):
        with pytest.raises(InvalidRequest, match="not for sale"):
            await ask

    assert [] == stripe.requests


async def test_the_portal(gateway: StripeGateway, stripe: FakeStripe, shop: Customer) -> None:
    """One visit a click, and the way back."""
    urls = {await gateway.portal(shop.customer, "click_1") for _ in range(2)}

    assert {"https://billing.stripe.com/p/session/test_1"} == urls
    assert {"customer": shop.customer, "return_url": "https://llm.example/"} == stripe.requests[
        0
    ].form


async def test_a_plan_is_changed(
    gateway: StripeGateway, stripe: FakeStripe, shop: Customer
) -> None:
    """The item gets another price, once per click; Stripe's default sets off what is left."""
    for _ in range(2):
        await gateway.change_plan(shop.subscription, "pro", "click_1")

    changes = [one for one in stripe.requests if one.method == "POST"]
    assert "pro" == shop.plan
    assert 2 == sum(one["type"] == billing.SUBSCRIPTION_UPDATED for one in shop.events)
    assert {
        "items[0][id]": "si_pshop1",
        "items[0][price]": "price_pro",
        "metadata[plan]": "pro",
    } == changes[0].form


async def test_a_cancellation(gateway: StripeGateway, stripe: FakeStripe, shop: Customer) -> None:
    """Service stays until the end of what was paid."""
    await gateway.cancel(shop.subscription, "click_1")

    assert shop.cancels
    assert "active" == shop.status
    assert {"cancel_at_period_end": "true"} == stripe.requests[-1].form


async def test_what_stripe_does_not_know(gateway: StripeGateway) -> None:
    """An unknown customer or subscription is the caller's mistake, in Stripe's words."""
    for ask in (
        gateway.portal("cus_nobody", "c"),
        gateway.cancel("sub_nothing", "c"),
        gateway.change_plan("sub_nothing", "pro", "c"),
        gateway.checkout(evolve(ORDER, customer="cus_nobody")),
    ):
        with pytest.raises(InvalidRequest, match="No such"):
            await ask


async def test_strange_ids_stay_in_their_place(gateway: StripeGateway, stripe: FakeStripe) -> None:
    """An id is never a path or a query."""
    for name in ("../charges/ch_1", "..", "a?b=c", "a/b", "x\r\ny", ""):
        with pytest.raises(ApiError):
            await gateway.cancel(name, "c")

    assert all(one.path.count("/") == 3 for one in stripe.requests)
    assert all("cancel_at_period_end" in one.form for one in stripe.requests)


# --- failing

FAULTS = [
    ("500", Unavailable, 5.0),
    ("429", Unavailable, 7.0),
    ("401", Unavailable, 60.0),
    ("403", Unavailable, 60.0),
    ("reset", Unavailable, 5.0),
    ("garbage", Unavailable, 5.0),
    ("list", Unavailable, 5.0),
    ("deep", Unavailable, 5.0),
    ("redirect", Unavailable, 5.0),
    ("endless", Unavailable, 5.0),
    ("another", Unavailable, 5.0),
    ("refuse", Unavailable, 5.0),
]


@pytest.mark.parametrize(("fault", "kind", "retry_after"), FAULTS)
async def test_failures(
    gateway: StripeGateway,
    stripe: FakeStripe,
    shop: Customer,
    fault: str,
    kind: type[ApiError],
    retry_after: float,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each is one of ours, says when to come back, and repeats nothing of Stripe's."""
    monkeypatch.setattr(Transport, "sleep_async", lambda _, secs: asyncio.sleep(0))
    if fault == "refuse":
        await stripe.upstream.refuse()
    stripe.break_with(fault)
    asks: list[Callable[[], Awaitable[object]]] = [
        lambda: gateway.checkout(ORDER),
        lambda: gateway.portal(shop.customer, "c"),
        lambda: gateway.change_plan(shop.subscription, "pro", "c"),
    ]
    for ask in asks:
        with pytest.raises(kind) as raised:
            await ask()
        assert retry_after == raised.value.retry_after
        assert SECRET_KEY not in raised.value.message
    assert EVENT == await gateway.completed(EVENT)
    assert all(one.path.startswith("/v1/") for one in stripe.requests)
    assert SECRET_KEY not in caplog.text
    assert "canary" not in caplog.text
    refused = fault in ("401", "403")
    assert refused is any(one.levelno == logging.ERROR for one in caplog.records)


async def test_one_more_try(gateway: StripeGateway, stripe: FakeStripe) -> None:
    """What may pass is tried again, with the same key; a refusal is not."""
    stripe.break_with("500", times=1)
    await gateway.checkout(ORDER)
    stripe.break_with("429", times=1)
    with pytest.raises(Unavailable):
        await gateway.checkout(ORDER)

    assert 3 == len(stripe.requests)
    assert stripe.requests[0].key == stripe.requests[1].key


async def test_a_stripe_that_hangs(stripe: FakeStripe, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call has an end."""
    monkeypatch.setattr(module, "PATIENCE", 0.05)
    gateway = connected(stripe.url)
    stripe.break_with("hang")

    with pytest.raises(Unavailable, match="did not answer"):
        await gateway.checkout(ORDER)
    await gateway.aclose()


async def test_a_cancelled_call(gateway: StripeGateway, stripe: FakeStripe) -> None:
    """Whoever asked may leave: that is no failure, and the connection goes with it."""
    stripe.break_with("hang")
    asking = asyncio.create_task(gateway.checkout(ORDER))
    call = await stripe.upstream.called()
    asking.cancel()

    with pytest.raises(asyncio.CancelledError):
        await asking
    await call.closed.wait()


async def test_after_the_end(stripe: FakeStripe) -> None:
    """A closed gateway says that it is not there."""
    gateway = connected(stripe.url)
    await gateway.checkout(ORDER)
    await gateway.aclose()

    with pytest.raises(Unavailable):
        await gateway.checkout(ORDER)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("No such customer: 'cus_1'", "No such customer: 'cus_1'"),
        ("Invalid key: 'sk_live_51abc' really", "Invalid key: '…' really"),
        ("rk_test_x\r\nwhsec_abc", "………"),
        ("for ann@example.com see https://stripe.com/x?y=1 now", "for … see … now"),
        ("", "no reason given"),
        ("x" * 9999, "x" * 300),
    ],
)
def test_what_stripe_says(text: str, expected: str) -> None:
    """Its reasons are passed on without keys, addresses and links."""
    assert expected == scrubbed(text)


# --- knowing more


async def test_how_a_subscription_stands_now(gateway: StripeGateway, shop: Customer) -> None:
    """An event gets what its subscription is meanwhile."""
    shop.change("pro")
    shop.schedule_cancellation()

    expected = evolve(
        EVENT,
        project="p_shop",
        customer=shop.customer,
        plan="pro",
        status="active",
        period_end=NOW + MONTH,
        cancel_at=NOW + MONTH,
        current=True,
    )
    assert expected == await gateway.completed(EVENT)


async def test_a_cancellation_that_was_withdrawn(gateway: StripeGateway, shop: Customer) -> None:
    """What Stripe says now replaces what the event said, also where it is nothing."""
    told = await gateway.completed(evolve(EVENT, cancel_at=NOW + DAY, plan="pro"))

    assert (None, "starter") == (told.cancel_at, told.plan)


async def test_a_checkout_learns_its_plan(gateway: StripeGateway, shop: Customer) -> None:
    """Its status stays that of its payment, for an active subscription may be unpaid."""
    bought = BillingEvent(
        "evt_1",
        billing.CHECKOUT_COMPLETED,
        NOW,
        subscription=shop.subscription,
        email="owner@example.com",
        status="unpaid",
    )
    told = await gateway.completed(bought)

    assert ("unpaid", "starter", True) == (told.status, told.plan, told.current)
    assert ("p_shop", "owner@example.com") == (told.project, told.email)


async def test_a_checkouts_plan_stays_where_its_price_is_unknown(
    stripe: FakeStripe, shop: Customer
) -> None:
    """What was ordered is better than nothing."""
    gateway = StripeGateway(
        secret_key=SECRET_KEY,
        webhook_secrets=[],
        prices={"price_new": "starter"},
        api_base=stripe.url,
        public_url="https://llm.example",
    )
    bought = evolve(EVENT, type=billing.CHECKOUT_COMPLETED, plan="starter")

    assert "starter" == (await gateway.completed(bought)).plan
    assert "" == (await gateway.completed(evolve(EVENT, plan="starter"))).plan
    await gateway.aclose()


async def test_whose_charge_is_disputed(gateway: StripeGateway, shop: Customer) -> None:
    """A dispute names a charge; the charge its customer; the customer's subscriptions the project."""
    disputed = BillingEvent("evt_1", billing.DISPUTE_CREATED, NOW, charge=shop.charge)
    told = await gateway.completed(disputed)

    assert (shop.customer, shop.email, "p_shop") == (told.customer, told.email, told.project)
    assert not told.current


async def test_a_customer_of_two_projects(
    gateway: StripeGateway, stripe: FakeStripe, shop: Customer
) -> None:
    """Which of them a charge was for cannot be said, so it is not."""
    other = Customer("p_other", PRICES, name=shop.name)
    other.subscribed = 1
    other.checkout("pro")
    stripe.customers.append(other)
    told = await gateway.completed(
        BillingEvent("evt_1", billing.DISPUTE_CREATED, NOW, charge=shop.charge)
    )

    assert (shop.customer, "") == (told.customer, told.project)


async def test_nothing_to_ask(gateway: StripeGateway, stripe: FakeStripe) -> None:
    """Bills, foreign events and checkouts of something else are complete as they are."""
    for event in (
        evolve(EVENT, type=billing.INVOICE_PAID),
        evolve(EVENT, type="customer.updated"),
        BillingEvent("evt_1", billing.CHECKOUT_COMPLETED, NOW),
        BillingEvent("evt_1", billing.DISPUTE_CREATED, NOW),
    ):
        assert event == await gateway.completed(event)

    assert [] == stripe.requests


async def test_completing_does_not_wait_for_long(
    gateway: StripeGateway,
    stripe: FakeStripe,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An event is as it was when Stripe hangs, and one line says so."""
    monkeypatch.setattr(module, "COMPLETING", 0.05)
    stripe.break_with("hang")

    assert EVENT == await gateway.completed(EVENT)
    assert ["Stripe could not tell more of evt_1: it took too long"] == [
        one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING
    ]


# --- hearing


def refused(gateway: StripeGateway, payload: bytes, header: str, now: float = NOW) -> bool:
    with pytest.raises(InvalidRequest) as raised:
        gateway.read_event(payload, header, now)
    assert (400, REFUSAL) == (raised.value.status, raised.value.message)
    return True


GENUINE = body(made.invoice_failed())


async def test_events_are_heard(gateway: StripeGateway) -> None:
    """With either secret while they are replaced, and again from the log."""
    for secret in ("whsec_before", SIGNING_SECRET):
        event = gateway.read_event(GENUINE, sign(GENUINE, secret, NOW), NOW + 299)
        assert ("evt_1", "sub_1", "in_1") == (event.id, event.subscription, event.invoice)
        assert event == gateway.read_logged(GENUINE)


@pytest.mark.parametrize(
    "payload",
    [
        b"\xff\xfe{",
        b"[" + GENUINE + b"]",
        b"[" * 200_000,
        b'{"a":' * 40_000 + b"1" + b"}" * 40_000,
        b'{"id": "evt_1", "type": "x", "created": ' + b"9" * 5000 + b"}",
        b'{"id": "evt_1", "type": "x", "created": NaN}',
        b'{"id": "evt_1", "type": "x", "created": 1e400}',
        body(made.invoice_failed(live=True)),
        body({**made.invoice_failed(), "account": "acct_theirs"}),
        b"{}",
        b"",
    ],
)
async def test_hostile_bodies(
    gateway: StripeGateway, payload: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Signed or not, they are refused in one and the same way; the log does not repeat them."""
    assert refused(gateway, payload, sign(payload, SIGNING_SECRET, NOW))
    assert refused(gateway, payload, sign(payload, "whsec_theirs", NOW))
    assert 2 == len(caplog.records)
    assert all(len(one.getMessage()) < 120 for one in caplog.records)


@pytest.mark.parametrize(
    ("header", "now"),
    [
        ("", NOW),
        ("t=1800000000,v1=", NOW),
        ("t=1800000000,v1=ü", NOW),
        ("t=18\ud800,v1=1", NOW),
        (sign(GENUINE, SIGNING_SECRET, NOW), NOW + 301),
        (sign(GENUINE, SIGNING_SECRET, NOW), NOW - 301),
        (sign(GENUINE, "", NOW), NOW),
        (sign(GENUINE, "whsec_theirs", NOW), NOW),
    ],
)
async def test_hostile_signatures(gateway: StripeGateway, header: str, now: float) -> None:
    """Forged, empty, old and future ones look the same from outside."""
    assert refused(gateway, GENUINE, header, now)


async def test_an_empty_secret_is_none(stripe: FakeStripe) -> None:
    """What anybody can sign with is no secret."""
    gateway = StripeGateway(
        secret_key=None, webhook_secrets=["", "  "], prices={}, api_base=None, public_url=""
    )

    assert (False, False) == (gateway.hears, gateway.sells)
    with pytest.raises(NotFound, match="not set up"):
        gateway.read_event(GENUINE, sign(GENUINE, "", NOW), NOW)


async def test_hearing_alone(stripe: FakeStripe) -> None:
    """Without a key events are heard, of whichever mode, and nothing is asked."""
    gateway = connected(stripe.url, secret_key=None)
    payload = body(made.subscription_updated(live=True))
    event = gateway.read_event(payload, sign(payload, SIGNING_SECRET, NOW), NOW)

    assert (True, False) == (gateway.hears, gateway.sells)
    assert event == await gateway.completed(event)
    with pytest.raises(NotFound, match="STRIPE_SECRET_KEY"):
        await gateway.checkout(ORDER)
    assert [] == stripe.requests
    await gateway.aclose()


@pytest.mark.parametrize("payload", [b"", b"[]", b"{}", b"\xff", b"[" * 99_999])
async def test_a_broken_log(gateway: StripeGateway, payload: bytes) -> None:
    """What was logged may have been damaged; that is no crash."""
    with pytest.raises(InvalidRequest, match="no event"):
        gateway.read_logged(payload)


@pytest.mark.parametrize(
    ("key", "live"),
    [
        ("sk_live_51x", True),
        ("rk_live_51x", True),
        ("sk_test_51x", False),
        ("rk_test_51x", False),
        ("pk_live_51x", None),
        ("sk_other_51x", None),
        ("live", None),
        ("", None),
        (None, None),
    ],
)
def test_modes_of_keys(key: str | None, live: bool | None) -> None:
    """A key says its mode, or nothing is known."""
    assert live is mode_of(key)


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    """The SDK would write an id of this machine into the user's home, and import itself for nothing."""
    script = """
import asyncio, sys
import adapters.no_billing, adapters.stripe, adapters.stripe.events
assert "stripe" not in sys.modules
from adapters.stripe.gateway import StripeGateway
from domain.errors import Unavailable
from ports.billing import Order
async def main():
    gateway = StripeGateway(secret_key="sk_test_1", webhook_secrets=[], prices={"price_1": "pro"},
        api_base="http://127.0.0.1:1", public_url="https://llm.example")
    try:
        await gateway.checkout(Order("p", "pro", "c"))
    except Unavailable:
        await gateway.aclose()
        return
    raise AssertionError("somebody answered")
asyncio.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path / "xdg")},
        capture_output=True,
        check=False,
        cwd=Path(__file__).parents[2],
        timeout=60,
    )

    assert (b"", 0) == (done.stderr, done.returncode)
    assert [] == [*tmp_path.iterdir()]
