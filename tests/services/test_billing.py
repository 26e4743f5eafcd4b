"""Billing over a real database and a Stripe on a real socket: what events, time and orders come to."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import orjson
import pytest
from attrs import define

from adapters.stripe.gateway import StripeGateway
from app.desk import project_book
from app.services.billing import DUNNING_EVERY, Billing
from app.storage import Storage, open_storage
from config.catalogue import read_plans
from config.settings import read_settings
from domain.billing import CANCELED, PAST_DUE, BillingEvent
from domain.errors import InvalidRequest, NotFound, Unavailable
from domain.notices import Delivery
from domain.project import Project
from tests.conftest import Clock
from tests.support.fixtures import async_fixture
from tests.support.stripe import SIGNING_SECRET, FakeStripe, sign
from tests.support.stripe_events import DAY, Customer, Document, body, subscription_updated

PRICES = {"price_starter": "starter", "price_pro": "pro"}
GRACE = 7 * DAY
TEAM = "0123456789ab"


@define
class Shop:
    """A project, its customer at Stripe, and the billing that knows both."""

    storage: Storage
    stripe: FakeStripe
    clock: Clock
    billing: Billing
    project: Project
    customer: Customer

    async def hear(self, *events: Document) -> list[bool]:
        return [await self.tell(body(one)) for one in events]

    async def tell(self, payload: bytes) -> bool:
        signature = sign(payload, SIGNING_SECRET, self.clock())
        return await self.billing.take(payload, signature)

    async def wait(self, seconds: float) -> None:
        """Time goes by, here and at Stripe, and chores are done."""
        self.clock.advance(seconds)
        self.customer.wait(seconds)
        await self.billing.dun()

    async def plan(self) -> str:
        found = await self.storage.projects.find(self.project.id)
        assert found is not None
        return found.plan

    async def told(self) -> list[Delivery]:
        found = await self.storage.postbox.find(("waiting", "sent", "dead"), 1_000)
        return sorted(found, key=lambda one: (one.queued_at, one.notice))

    async def mails(self) -> list[str]:
        """The kinds of all mails, oldest first."""
        return [one.kind for one in await self.told() if one.channel == "mail"]


@async_fixture
async def shop(tmp_path: Path, clock: Clock) -> AsyncIterator[Shop]:
    settings = read_settings({"WATCHLLM_DATA_DIR": str(tmp_path)})
    storage = open_storage(settings)
    await storage.migrate()
    project = await project_book(storage).create("shop", plan="free")
    customer = Customer(project.id, PRICES, now=clock())
    async with FakeStripe([customer]) as stripe:
        gateway = StripeGateway(
            secret_key=stripe.secret_key,
            webhook_secrets=[SIGNING_SECRET],
            prices=PRICES,
            api_base=stripe.url,
            public_url="http://gateway.example",
        )
        billing = Billing(
            gateway=gateway,
            book=storage.billing_book,
            chores=storage.chores,
            plans=read_plans(None),
            team=(TEAM,),
            grace=GRACE,
            clock=clock,
            wake=lambda: None,
        )
        yield Shop(storage, stripe, clock, billing, project, customer)
        await gateway.aclose()
    await storage.aclose()


async def test_an_event_counts_once(shop: Shop) -> None:
    """The second time it is taken, too, and changes nothing."""
    bought = shop.customer.checkout("pro")

    assert [True] * len(bought) == await shop.hear(*bought)
    assert [False] * len(bought) == await shop.hear(*bought)

    assert "pro" == await shop.plan()
    assert ["plan_changed"] == await shop.mails()


async def test_a_subscription_that_moves(shop: Shop) -> None:
    """Its metadata names another project from now on: the plan goes with it, and stays with no other."""
    await shop.hear(*shop.customer.checkout("pro"))
    heir = await project_book(shop.storage).create("heir", plan="free")

    moved = subscription_updated(
        id="evt_moved", created=shop.clock() + 60, project=heir.id, metadata={"project": heir.id}
    )
    moved["data"]["object"]["id"] = shop.customer.subscription
    await shop.hear(moved)

    found = await shop.storage.projects.find(heir.id)
    assert found is not None
    assert ("pro", "free") == (found.plan, await shop.plan())


async def test_unpaid_checkouts_do_not_unlock(shop: Shop) -> None:
    """A direct debit that is under way is no money yet; one that bounces never was."""
    await shop.hear(*shop.customer.checkout("pro", paid=False))
    assert "free" == await shop.plan()

    await shop.hear(*shop.customer.payment_arrived())
    assert "pro" == await shop.plan()


async def test_late_payment_is_borne_for_the_grace(shop: Shop) -> None:
    """Service goes on, then the plan falls to free; owners are told at each step, once each, and payment heals it."""
    await shop.hear(*shop.customer.checkout("starter"))
    await shop.wait(30 * DAY)
    await shop.hear(*shop.customer.fail_payment())
    await shop.wait(GRACE - 2 * DAY)
    assert "starter" == await shop.plan()
    assert ["plan_changed", "payment_failed"] == await shop.mails()

    await shop.wait(1.5 * DAY)
    await shop.wait(DUNNING_EVERY)
    assert "starter" == await shop.plan()
    assert "grace_ending" == (await shop.mails())[-1]

    await shop.wait(DAY)
    await shop.wait(DUNNING_EVERY)
    assert "free" == await shop.plan()
    assert ["plan_changed", "payment_failed", "grace_ending", "grace_ended"] == await shop.mails()

    await shop.hear(*shop.customer.recover())
    assert "starter" == await shop.plan()
    assert ["plan_changed"] == (await shop.mails())[4:]


async def test_dunning_is_one_processes_chore(shop: Shop) -> None:
    """Whoever comes second within the minute leaves it."""
    await shop.hear(*shop.customer.checkout("starter"))
    await shop.wait(30 * DAY)
    await shop.hear(*shop.customer.fail_payment())
    await shop.wait(0)
    shop.clock.advance(GRACE)

    assert await shop.storage.chores.mine("dunning", shop.clock(), DUNNING_EVERY)
    await shop.billing.dun()
    assert "starter" == await shop.plan()

    shop.clock.advance(DUNNING_EVERY)
    await shop.billing.dun()
    assert "free" == await shop.plan()


async def test_who_has_paid_meanwhile_is_not_dunned(shop: Shop) -> None:
    """What was read before the turn came may be old by then."""
    await shop.hear(*shop.customer.checkout("starter"))
    await shop.wait(30 * DAY)
    await shop.hear(*shop.customer.fail_payment())
    [late] = await shop.storage.billing_book.failing()
    shop.clock.advance(GRACE)
    await shop.hear(*shop.customer.recover())

    await shop.billing._dun(late)

    assert "starter" == await shop.plan()
    assert "grace_ended" not in await shop.mails()


async def test_when_order_is_in_doubt_stripe_is_asked(shop: Shop) -> None:
    """Two changes in one second: whichever comes last, how the subscription stands is what counts."""
    await shop.hear(*shop.customer.checkout("starter"))
    shop.customer.wait(5)
    first = shop.customer.change("pro")
    second = shop.customer.change("starter")

    await shop.hear(second[0], first[0])

    assert "starter" == await shop.plan()


async def test_without_an_answer_the_last_to_come_counts(shop: Shop) -> None:
    """Stripe may be away: what was told is all there is."""
    await shop.hear(*shop.customer.checkout("starter"))
    shop.stripe.break_with("500")
    shop.customer.wait(5)
    first = shop.customer.change("pro")
    second = shop.customer.change("starter")

    await shop.hear(first[0], second[0])

    assert "starter" == await shop.plan()


async def test_a_doubt_outlives_the_process(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever dies, or loses the database, between an event and the question about it has not answered yet: the event
    comes again, and the question with it.
    """
    await shop.hear(*shop.customer.checkout("starter"))
    shop.customer.wait(5)
    first = shop.customer.change("pro")
    second = shop.customer.change("starter")
    await shop.hear(second[0])
    completed = StripeGateway.completed

    async def dies(_: StripeGateway, event: BillingEvent) -> BillingEvent:
        raise Unavailable("The database is away.")

    monkeypatch.setattr(StripeGateway, "completed", dies)
    with pytest.raises(Unavailable):
        await shop.hear(first[0])
    assert "pro" == await shop.plan()
    monkeypatch.setattr(StripeGateway, "completed", completed)

    assert [False] == await shop.hear(first[0])

    assert "starter" == await shop.plan()


async def test_a_price_that_was_forgotten_is_mended_by_a_replay(shop: Shop) -> None:
    """The event is read again as it was logged, and nobody is told twice."""
    bought = shop.customer.checkout("pro")
    known = shop.billing.gateway
    shop.billing.gateway = StripeGateway(
        secret_key=None,
        webhook_secrets=[SIGNING_SECRET],
        prices={"price_starter": "starter"},
        api_base=None,
        public_url="",
    )
    await shop.hear(*bought)
    assert "free" == await shop.plan()
    shop.billing.gateway = known

    for one in (*bought, *bought):
        await shop.billing.replay(one["id"])

    assert "pro" == await shop.plan()
    assert ["plan_changed"] == await shop.mails()
    with pytest.raises(NotFound, match="evt_nothing"):
        await shop.billing.replay("evt_nothing")


async def test_a_stranger_who_pays_is_kept_and_told_of(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    """A project that does not exist: no error, which would be sent again for days."""
    stranger = Customer("p_nobody", PRICES, now=shop.clock())

    assert all(await shop.hear(*stranger.checkout("pro")))

    assert "p_nobody" in caplog.text
    assert "free" == await shop.plan()
    assert [] == await shop.told()


async def test_an_operators_choice_stands_until_the_bill_changes(shop: Shop) -> None:
    """Renewals change nothing that is paid for."""
    await shop.hear(*shop.customer.checkout("starter"))
    await shop.storage.projects.set_plan(shop.project.id, "unlimited")
    await shop.wait(30 * DAY)

    await shop.hear(*shop.customer.renew())
    assert "unlimited" == await shop.plan()

    await shop.hear(*shop.customer.change("pro"))
    assert "pro" == await shop.plan()


async def test_the_dearest_of_several_counts(shop: Shop) -> None:
    """One may be bought twice; when it ends, the other still pays."""
    twin = Customer(shop.project.id, PRICES, now=shop.clock(), name="twin")
    await shop.hear(*shop.customer.checkout("starter"), *twin.checkout("pro"))
    assert "pro" == await shop.plan()

    twin.wait(5)
    await shop.hear(*twin.cancel())
    assert "starter" == await shop.plan()


async def test_a_mail_follows_the_notice_and_not_the_address(shop: Shop) -> None:
    """Whoever was told is not told again under an address that became known later."""
    *before, checkout = shop.customer.checkout("pro")
    for one in before:
        one["data"]["object"].pop("customer_email", None)
    await shop.hear(checkout, *before)
    shop.customer.email = "elsewhere@example.com"
    shop.customer.wait(30 * DAY)
    await shop.hear(*shop.customer.fail_payment())

    mails = [one for one in await shop.told() if one.channel == "mail"]
    assert len(mails) == len({one.notice for one in mails})
    assert "elsewhere@example.com" == next(
        one.recipient for one in mails if one.kind == "payment_failed"
    )


async def test_a_dispute_is_the_teams_matter(shop: Shop) -> None:
    """Whose it is Stripe is asked; without an answer the team is told all the same."""
    await shop.hear(*shop.customer.checkout("pro"))
    await shop.hear(*shop.customer.dispute())
    shop.stripe.break_with("500")
    await shop.hear(*shop.customer.dispute_closed())

    closed, opened = [one for one in await shop.told() if one.kind.startswith("dispute")]
    assert [("team", TEAM)] * 2 == [(one.channel, one.recipient) for one in (opened, closed)]
    assert (shop.project.id, shop.customer.customer) == (opened.project, opened.facts["customer"])


async def test_orders(shop: Shop) -> None:
    """Checkout, change, cancellation and the portal go to Stripe with the project's own subscription and customer."""
    billing, project, asked = shop.billing, shop.project, shop.stripe.requests
    with pytest.raises(InvalidRequest, match="no subscription"):
        await billing.cancel(project, "click_0")
    with pytest.raises(InvalidRequest, match="never paid"):
        await billing.portal(project, "click_0")
    with pytest.raises(InvalidRequest, match="starter, pro"):
        await billing.checkout(project, "free", "click_0")
    assert "https://checkout.stripe.com" in await billing.checkout(project, "pro", "click_1")
    await shop.hear(*shop.customer.checkout("pro"))

    with pytest.raises(InvalidRequest, match="has a subscription"):
        await billing.checkout(project, "starter", "click_2")
    await billing.change_plan(project, "starter", "click_3")
    await billing.cancel(project, "click_4")
    assert "https://billing.stripe.com" in await billing.portal(project, "click_5")

    assert "pro" == await shop.plan(), "only events change it"
    assert ["checkout", "change", "cancel", "portal"] == [
        one.key.partition("-")[0] for one in asked if one.method == "POST"
    ]
    await shop.hear(*shop.customer.events)
    assert "starter" == await shop.plan()


async def test_standing_tells_the_newest_first(shop: Shop) -> None:
    """What is paid for, and what was heard."""
    await shop.hear(*shop.customer.checkout("pro"))
    await shop.wait(30 * DAY)
    await shop.hear(*shop.customer.fail_payment())

    found = await shop.billing.standing(shop.project)

    assert ("pro", shop.customer.customer) == (found.account.plan, found.account.customer)
    assert [PAST_DUE] == [one.status for one in found.subscriptions]
    assert shop.customer.events[-1]["id"] == found.events[0].id


async def test_nothing_comes_after_the_end(shop: Shop) -> None:
    """An ended subscription stays ended, and another one begins anew."""
    await shop.hear(*shop.customer.checkout("pro"))
    shop.customer.wait(5)
    ended = shop.customer.cancel()
    late = subscription_updated(id="evt_late", created=shop.customer.now - 1)
    late["data"]["object"] = {**ended[0]["data"]["object"], "status": "active"}
    await shop.hear(*ended, late)
    assert "free" == await shop.plan()

    shop.customer.wait(5)
    await shop.hear(*shop.customer.checkout("starter"))

    assert "starter" == await shop.plan()
    found = await shop.billing.standing(shop.project)
    assert [CANCELED, "active"] == [one.status for one in found.subscriptions]


async def test_what_is_not_handled_is_kept(shop: Shop) -> None:
    """Whole, as it came."""
    [event] = shop.customer.unheard_of()
    payload = orjson.dumps(event)

    assert await shop.tell(payload)

    assert payload == await shop.storage.billing_book.body(event["id"])
    assert [] == await shop.told()
