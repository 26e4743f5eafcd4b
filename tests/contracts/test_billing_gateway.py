"""What `BillingGateway` promises where nothing is set up, and where Stripe is."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from adapters.no_billing import NoBilling
from adapters.stripe.gateway import StripeGateway
from domain.billing import SUBSCRIPTION_UPDATED, BillingEvent
from domain.errors import InvalidRequest, NotFound
from ports.billing import BillingGateway, Order
from tests.support.fixtures import async_fixture
from tests.support.stripe import SECRET_KEY, SIGNING_SECRET, FakeStripe, sign
from tests.support.stripe_events import NOW, Customer, body

PRICES = {"price_pro": "pro"}
ORDER = Order("p_shop", "pro", "click_1")
EVENT = BillingEvent("evt_1", SUBSCRIPTION_UPDATED, NOW, subscription="sub_pshop1")


@pytest.fixture
def off() -> BillingGateway:
    return NoBilling()


@async_fixture
async def stripe() -> AsyncIterator[FakeStripe]:
    async with FakeStripe([Customer("p_shop", PRICES)]) as fake:
        fake.customers[0].checkout("pro")
        yield fake


@async_fixture
async def on(stripe: FakeStripe) -> AsyncIterator[BillingGateway]:
    gateway: BillingGateway = StripeGateway(
        secret_key=SECRET_KEY,
        webhook_secrets=[SIGNING_SECRET],
        prices=PRICES,
        api_base=stripe.url,
        public_url="https://llm.example",
    )
    yield gateway
    await gateway.aclose()


async def test_where_nothing_is_set_up(off: BillingGateway) -> None:
    """Everything says that billing is off, and closing is not an error."""
    assert (False, False) == (off.hears, off.sells)
    with pytest.raises(NotFound, match="not set up"):
        off.read_event(b"{}", "", NOW)
    with pytest.raises(NotFound, match="not set up"):
        off.read_logged(b"{}")
    for ask in (
        off.completed(EVENT),
        off.checkout(ORDER),
        off.portal("cus_1", "c"),
        off.change_plan("sub_1", "pro", "c"),
        off.cancel("sub_1", "c"),
    ):
        with pytest.raises(NotFound, match="not set up"):
            await ask
    await off.aclose()


async def test_what_can_be_asked(on: BillingGateway, stripe: FakeStripe) -> None:
    """It hears and sells; URLs are what a browser can open; changes reach the subscription."""
    customer = stripe.customers[0]

    assert (True, True) == (on.hears, on.sells)
    assert (await on.checkout(ORDER)).startswith("https://")
    assert (await on.portal(customer.customer, "c")).startswith("https://")
    await on.change_plan(customer.subscription, "pro", "c")
    await on.cancel(customer.subscription, "c")
    assert customer.cancels


async def test_an_order_is_done_once(on: BillingGateway) -> None:
    """The same order twice opens one checkout."""
    assert await on.checkout(ORDER) == await on.checkout(ORDER)


async def test_events_are_read(on: BillingGateway, stripe: FakeStripe) -> None:
    """Genuine ones, and the same from the log; forged ones are refused."""
    for document in stripe.customers[0].events:
        payload = body(document)
        event = on.read_event(payload, sign(payload, SIGNING_SECRET, NOW), NOW)
        assert (document["id"], "sub_pshop1") == (event.id, event.subscription)
        assert event == on.read_logged(payload)
        with pytest.raises(InvalidRequest):
            on.read_event(payload, sign(payload, "whsec_theirs", NOW), NOW)


async def test_an_event_is_completed(on: BillingGateway, stripe: FakeStripe) -> None:
    """With how its subscription stands, and not at all when nobody can be asked."""
    told = await on.completed(EVENT)
    await stripe.upstream.refuse()

    assert ("p_shop", "pro", "active", True) == (
        told.project,
        told.plan,
        told.status,
        told.current,
    )
    assert EVENT == await on.completed(EVENT)
