"""Customers' lives at Stripe, what they come to when they are told in order, and calls of the webhook that only look like Stripe's.

Nothing here knows a server. What should come of a life is `domain.billing` alone, over its events as they happened.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from random import Random

from attrs import define, evolve, field

from adapters.stripe import events as stripe_events
from domain import billing
from domain.billing import BillingEvent, Subscription
from domain.notices import TOLD_IN_ORDER, Contact, Delivery, deliveries
from domain.plans import Plan
from tests.support.stripe import SIGNING_SECRET, sign
from tests.support.stripe_events import DAY, MONTH, NEW, OLD, Customer, Document, body, event

PRICES = {"price_starter": "starter", "price_pro": "pro"}
PLANS = [*PRICES.values()]
GRACE = 7 * DAY
"""As is the default."""


@define(eq=False)
class Life:
    """`hasty` ones had something and its opposite within one second: what they were told between may depend on how they
    came, since Stripe is asked then."""

    customer: Customer
    hasty: bool
    addresses: set[str] = field(factory=set)

    @property
    def events(self) -> list[Document]:
        return self.customer.events


def lives(projects: Sequence[str], events: int, begin: float, chance: Random) -> list[Life]:
    """One for each project, with so many events in all."""
    found = [_life(project, at, begin, chance) for at, project in enumerate(projects)]
    while (missing := events - sum(len(life.events) for life in found)) > 0:
        # What is hasty ends hastily.
        one = chance.choice([life for life in found if not life.hasty]).customer
        one.wait(chance.randrange(1, int(DAY)))
        if missing > 1 and one.status == billing.ACTIVE:
            one.wait(MONTH)
            one.renew()
        else:
            one.unheard_of()
    return found


def _life(project: str, at: int, begin: float, chance: Random) -> Life:
    name = f"shop{at}x"
    one = Customer(
        project,
        PRICES,
        email=f"{name}@example.com",
        now=begin + chance.randrange(int(DAY)),
        shape=chance.choice((NEW, OLD)),
        name=name,
    )
    story = _STORIES[at % len(_STORIES)]
    addresses = {one.email}
    story(one, chance)
    addresses.add(one.email)
    return Life(one, story in _HASTY, addresses)


# --- the stories --------------------------------------------------------------------------------------


def _changes(one: Customer, chance: Random) -> None:
    one.checkout("starter")
    one.wait(10 * DAY)
    one.change("pro")
    one.wait(20 * DAY)
    one.renew()
    if chance.random() < 0.5:
        one.wait(5 * DAY)
        one.change("starter")


def _is_late(one: Customer, chance: Random) -> None:
    one.checkout(chance.choice(PLANS))
    one.wait(MONTH)
    one.fail_payment()
    one.wait(3 * DAY)
    one.fail_payment()
    one.wait(60)
    one.needs_action()
    one.wait(DAY)
    one.recover()


def _is_lost_and_comes_back(one: Customer, chance: Random) -> None:
    one.checkout("pro")
    one.wait(MONTH)
    for _ in range(4):
        one.fail_payment()
        one.wait(3 * DAY)
    one.cancel()
    one.wait(DAY * chance.randrange(1, 30))
    one.checkout(chance.choice(PLANS))


def _stays_late(one: Customer, chance: Random) -> None:
    one.checkout(chance.choice(PLANS))
    one.wait(MONTH)
    one.fail_payment()
    one.wait(3 * DAY)
    one.fail_payment()


def _tries(one: Customer, chance: Random) -> None:
    one.checkout(chance.choice(PLANS), trial=14 * DAY)
    one.wait(11 * DAY)
    one.trial_will_end()
    one.wait(3 * DAY)
    one.renew()


def _is_debited(one: Customer, chance: Random) -> None:
    one.checkout("pro", paid=False)
    one.wait(4 * DAY)
    if chance.random() < 0.5:
        one.payment_bounced()
        one.wait(DAY)
        one.checkout("starter", paid=False)
        one.wait(4 * DAY)
    one.payment_arrived()


def _disputes(one: Customer, chance: Random) -> None:
    one.checkout(chance.choice(PLANS))
    one.wait(5 * DAY)
    one.dispute()
    one.wait(20 * DAY)
    one.dispute_closed(chance.choice(("won", "lost")))


def _leaves(one: Customer, chance: Random) -> None:
    one.checkout("starter")
    one.wait(5 * DAY)
    one.schedule_cancellation()
    one.wait(2 * DAY)
    one.withdraw_cancellation()
    one.wait(chance.randrange(1, 999))
    one.schedule_cancellation()
    one.wait(MONTH)
    one.cancel()


def _pauses(one: Customer, chance: Random) -> None:
    one.checkout(chance.choice(PLANS))
    one.wait(5 * DAY)
    one.pause()
    one.wait(9 * DAY)
    one.resume()


def _moves(one: Customer, chance: Random) -> None:
    """The bills go to another address from the second month on."""
    one.checkout(chance.choice(PLANS))
    one.wait(MONTH)
    one.email = f"moved-{one.email}"
    one.renew()
    one.wait(MONTH)
    one.fail_payment()
    one.wait(3 * DAY)
    one.recover()


def _hesitates(one: Customer, chance: Random) -> None:
    """All within the second in which it ends, and nothing after that."""
    one.checkout("starter")
    one.wait(MONTH)
    one.change("pro")
    one.change("starter")
    one.schedule_cancellation()


def _wavers(one: Customer, chance: Random) -> None:
    one.checkout("starter")
    one.change("pro")
    one.wait(5 * DAY)
    one.pause()
    one.resume()
    one.wait(MONTH)
    one.fail_payment()
    one.recover()
    one.wait(DAY)
    one.cancel()


Story = Callable[[Customer, Random], None]
_HASTY: Sequence[Story] = (_hesitates, _wavers)
_STORIES: Sequence[Story] = (
    *(_changes, _is_late, _is_lost_and_comes_back, _hesitates, _moves, _is_debited),
    *(_disputes, _leaves, _stays_late, _wavers, _pauses, _tries),
)


# --- what they come to ---------------------------------------------------------------------------------


@define
class Outcome:
    """`told` are the deliveries by notice and channel."""

    subscriptions: dict[str, Subscription] = field(factory=dict)
    plans: dict[str, str] = field(factory=dict)
    told: dict[tuple[str, str], Delivery] = field(factory=dict)


def read(document: Document, arrival: int = 0) -> BillingEvent:
    return evolve(stripe_events.read(body(document), PRICES, None), arrival=arrival)


def told_in_order(
    found: Iterable[Life], plans: Mapping[str, Plan], team: Sequence[str], now: float
) -> Outcome:
    """What each of their events delivered once, one after the other, must come to."""
    outcome = Outcome()
    for life in found:
        events = [read(document, at) for at, document in enumerate(life.events)]
        one = come_to(life.customer.project, events, plans, team, now)
        outcome.subscriptions |= one.subscriptions
        outcome.plans |= one.plans
        outcome.told |= one.told
    return outcome


def come_to(
    project: str,
    events: Sequence[BillingEvent],
    plans: Mapping[str, Plan],
    team: Sequence[str],
    now: float,
) -> Outcome:
    """What all of a project's events come to."""
    changes = [
        billing.tell(name, [one for one in events if one.subscription == name], GRACE)
        for name in sorted({one.subscription for one in events} - {""})
    ]
    known = {change.subscription.id: change.subscription for change in changes}
    notices = [notice for change in changes for notice in change.notices]
    notices += [notice for one in events for notice in billing.dispute_notices(one)]
    told = {
        (delivery.notice, delivery.channel): delivery
        for notice in notices
        for delivery in deliveries(notice, Contact(notice.project), team, now)
    }
    return Outcome(known, {project: billing.plan_of(known.values(), plans, now, GRACE)}, told)


def depends(delivery: Delivery) -> bool:
    """Whether it may be withdrawn when something older comes to be known."""
    return delivery.kind in TOLD_IN_ORDER


# --- forgeries -----------------------------------------------------------------------------------------

_FORGERIES = ("secret", "body", "late", "early", "mode", "account", "unsigned", "garbage")


def forgery(number: int, life: Life, now: float, chance: Random) -> tuple[bytes, str]:
    """A body and its signature header: what would change much, if it were believed."""
    one = life.customer
    document = one.document()
    document["items"]["data"][0]["price"]["id"] = "price_pro"
    document |= {"status": chance.choice((billing.ACTIVE, billing.CANCELED))}
    later = one.now + 400 * DAY
    forged = event(billing.SUBSCRIPTION_UPDATED, document, id=f"evt_forged{number}", created=later)
    kind = _FORGERIES[number % len(_FORGERIES)]
    secret, at = SIGNING_SECRET, now
    if kind == "secret":
        secret = "whsec_somebodyelses"
    elif kind == "late":
        at = now - chance.randrange(310, 10_000)
    elif kind == "early":
        at = now + chance.randrange(310, 10_000)
    elif kind == "mode":
        forged["livemode"] = True
    elif kind == "account":
        forged["account"] = "acct_somebodyelses"
    if kind == "body":
        genuine = chance.choice(life.events)
        signature = sign(body(genuine), secret, at)
        return body({**forged, "id": genuine["id"]}), signature
    payload = body(forged)
    if kind == "unsigned":
        return payload, ""
    if kind == "garbage":
        return payload[:-9], sign(payload[:-9], secret, at)
    return payload, sign(payload, secret, at)
