"""What a customer pays for: a subscription is what its events tell, in the order they happened and not in which they came.

Events are delivered at least once and in any order, so nothing is ever made of an event alone. Each is kept, and the
history of its subscription is told again from the beginning: whoever knows the same events knows the same subscription
and has the same notices to send. Reading a payment provider's events is the adapters' matter.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from functools import partial

from attrs import evolve

from domain.notices import (
    CANCELLATION_SCHEDULED,
    CANCELLATION_WITHDRAWN,
    DISPUTE_CLOSED,
    DISPUTE_OPENED,
    GRACE_ENDED,
    GRACE_ENDING,
    ON_THE_BILL,
    PAYMENT_ACTION_REQUIRED,
    PAYMENT_FAILED,
    PAYMENT_RECOVERED,
    PLAN_CHANGED,
    TOLD_IN_ORDER,
    TRIAL_ENDING,
    Notice,
)
from domain.plans import Plan
from domain.value import value

FREE = "free"
"""The plan of who pays nothing."""

# Stripe's event types, https://docs.stripe.com/api/events/types. Every other one is kept and changes nothing.
CHECKOUT_COMPLETED = "checkout.session.completed"
CHECKOUT_PAID = "checkout.session.async_payment_succeeded"
CHECKOUT_FAILED = "checkout.session.async_payment_failed"
SUBSCRIPTION_CREATED = "customer.subscription.created"
SUBSCRIPTION_UPDATED = "customer.subscription.updated"
SUBSCRIPTION_DELETED = "customer.subscription.deleted"
SUBSCRIPTION_PAUSED = "customer.subscription.paused"
SUBSCRIPTION_RESUMED = "customer.subscription.resumed"
TRIAL_WILL_END = "customer.subscription.trial_will_end"
INVOICE_PAID = "invoice.paid"
INVOICE_FAILED = "invoice.payment_failed"
INVOICE_ACTION_REQUIRED = "invoice.payment_action_required"
DISPUTE_CREATED = "charge.dispute.created"
DISPUTE_ENDED = "charge.dispute.closed"

CHECKOUTS = (CHECKOUT_COMPLETED, CHECKOUT_PAID, CHECKOUT_FAILED)
SUBSCRIPTIONS = (
    SUBSCRIPTION_CREATED,
    SUBSCRIPTION_UPDATED,
    SUBSCRIPTION_DELETED,
    SUBSCRIPTION_PAUSED,
    SUBSCRIPTION_RESUMED,
    TRIAL_WILL_END,
)
INVOICES = (INVOICE_PAID, INVOICE_FAILED, INVOICE_ACTION_REQUIRED)
DISPUTES = (DISPUTE_CREATED, DISPUTE_ENDED)
HANDLED = (*CHECKOUTS, *SUBSCRIPTIONS, *INVOICES, *DISPUTES)

# A subscription's states, https://docs.stripe.com/api/subscriptions/object#subscription_object-status.
INCOMPLETE, TRIALING, ACTIVE = "incomplete", "trialing", "active"
PAST_DUE, UNPAID, PAUSED, CANCELED = "past_due", "unpaid", "paused", "canceled"
INCOMPLETE_EXPIRED = "incomplete_expired"
GOOD = (ACTIVE, TRIALING)
ENDED = (CANCELED, INCOMPLETE_EXPIRED)

# What a checkout says of its payment.
PAID = ("paid", "no_payment_required")

WARNING = 86_400.0
"""Seconds before a grace ends at which owners are told once more; half of a grace that is shorter than two of it."""

# Of what happened in the same second: an end ends it all, money has the last word before, and most of all money that came.
_RANKS = {
    SUBSCRIPTION_CREATED: 1,
    **dict.fromkeys((CHECKOUT_FAILED, INVOICE_FAILED, INVOICE_ACTION_REQUIRED), 3),
    **dict.fromkeys((CHECKOUT_PAID, INVOICE_PAID), 4),
    SUBSCRIPTION_DELETED: 5,
}
_OTHERS = 2


@value
class BillingEvent:
    """What one event says, as far as it matters here; what it does not speak of is empty or None.

    Times are wall-clock seconds, `amount` is in the currency's smallest unit. `status` is a subscription's, a dispute's, or
    the payment status of a checkout. `plan` is what the price stands for, empty where it stands for nothing here, and None
    where nothing is said of it: then the plan stays as it was.
    `current` says that subscription, plan and so on were asked for afterwards and are at least as new as the event.
    `arrival` numbers the events as they came, from 1.
    """

    id: str
    type: str
    created: float
    subscription: str = ""
    project: str = ""
    customer: str = ""
    email: str = ""
    plan: str | None = None
    status: str = ""
    period_end: float | None = None
    cancel_at: float | None = None
    trial_end: float | None = None
    invoice: str = ""
    attempt: int = 0
    next_attempt_at: float | None = None
    amount: int | None = None
    currency: str = ""
    link: str = ""
    reason: str = ""
    charge: str = ""
    dispute: str = ""
    due_by: float | None = None
    current: bool = False
    arrival: int = 0


@value
class Subscription:
    """`status` is the payment provider's word. `failing_since` is when payment began to fail; times are wall-clock seconds."""

    id: str
    project: str = ""
    customer: str = ""
    email: str = ""
    status: str = INCOMPLETE
    plan: str = ""
    period_end: float | None = None
    cancel_at: float | None = None
    awaits_payment: bool = False
    failing_since: float | None = None


@value
class Account:
    """A project towards the payment provider. `plan` is the last one that billing has put it on."""

    project: str
    customer: str = ""
    email: str = ""
    plan: str = FREE


@value
class BillingChange:
    """What a history comes to. Each notice is told again each time, under the same id."""

    subscription: Subscription
    notices: tuple[Notice, ...] = ()


def tell(subscription: str, events: Iterable[BillingEvent], grace: float) -> BillingChange:
    """The subscription after all its events, whatever order they are given in. `grace` is in seconds."""
    told = BillingChange(Subscription(subscription))
    for event in in_order(events):
        change = apply(told.subscription, event, grace)
        told = BillingChange(change.subscription, told.notices + change.notices)
    return BillingChange(told.subscription, _addressed(told))


def in_order(events: Iterable[BillingEvent]) -> list[BillingEvent]:
    """As they happened, each once. What the provider's seconds and their types leave open, their arrival decides."""
    once: dict[str, BillingEvent] = {}
    for event in sorted(events, key=_place):
        once.setdefault(event.id, event)
    return list(once.values())


def _place(event: BillingEvent) -> tuple[bool, float, int, int, str]:
    # A checkout completes some seconds after the subscription that it made: what it says of an open payment was so from
    # the beginning, and nothing was ever unlocked in between.
    begun = not _left_unpaid(event)
    return begun, event.created, rank(event), event.arrival, event.id


def rank(event: BillingEvent) -> int:
    """Which of two events of the same second came first; equal where only their arrival may tell."""
    if event.type == CHECKOUT_COMPLETED:
        return 0 if _left_unpaid(event) else _RANKS[CHECKOUT_PAID]
    return _RANKS.get(event.type, _OTHERS)


def in_doubt(event: BillingEvent, events: Iterable[BillingEvent]) -> bool:
    """Whether another event of the same second says how the subscription stands, so that neither is surely the newer one.

    Where a newer one is known, that one says it.
    """
    if event.type not in SUBSCRIPTIONS:
        return False
    others = [one for one in events if one.type in SUBSCRIPTIONS and one.id != event.id]
    return any(_tied(one, event) for one in others) and not any(
        (one.created, rank(one)) > (event.created, rank(event)) for one in others
    )


def _tied(one: BillingEvent, other: BillingEvent) -> bool:
    return (one.created, rank(one)) == (other.created, rank(other))


_BILLS = {
    INVOICE_FAILED: PAYMENT_FAILED,
    CHECKOUT_FAILED: PAYMENT_FAILED,
    INVOICE_ACTION_REQUIRED: PAYMENT_ACTION_REQUIRED,
}


def _left_unpaid(event: BillingEvent) -> bool:
    return event.type == CHECKOUT_COMPLETED and event.status not in PAID


def apply(before: Subscription, event: BillingEvent, grace: float) -> BillingChange:
    """The subscription after one more event, and what its owners are to be told of."""
    if _not_ours(event) and not (before.project and before.plan):
        return BillingChange(before)
    if event.type in CHECKOUTS:
        after = _checked_out(before, event)
    elif event.type in SUBSCRIPTIONS:
        after = _restated(before, event)
    elif event.type in INVOICES:
        after = _invoiced(before, event)
    else:
        return BillingChange(before)
    return BillingChange(after, tuple(_notices(before, after, event, grace)))


def entitled(subscription: Subscription, now: float, grace: float) -> str:
    """The plan it pays for at `now`; empty if none. Late payment is borne for `grace` seconds."""
    if subscription.awaits_payment:
        return ""
    if subscription.status in GOOD:
        return subscription.plan
    ends_at = grace_ends(subscription, grace)
    return subscription.plan if ends_at is not None and now < ends_at else ""


def grace_ends(subscription: Subscription, grace: float) -> float | None:
    """When service ends if nobody pays; None where no payment is late. What was never paid for never began."""
    if subscription.awaits_payment or subscription.status != PAST_DUE:
        return None
    if subscription.failing_since is None:
        return None
    return subscription.failing_since + grace


def plan_of(
    subscriptions: Iterable[Subscription], plans: Mapping[str, Plan], now: float, grace: float
) -> str:
    """The dearest plan that any of a project's subscriptions pays for, FREE if none does."""
    paid = {entitled(one, now, grace) for one in subscriptions} & plans.keys()
    return max(paid, key=lambda name: (plans[name].price_usd_per_month, name), default=FREE)


def dunning(subscription: Subscription, now: float, grace: float) -> tuple[Notice, ...]:
    """What time alone brings about: the grace is about to end, or has ended."""
    ends_at = grace_ends(subscription, grace)
    serves = subscription.project and subscription.plan
    if ends_at is None or not serves or now < ends_at - min(WARNING, grace / 2):
        return ()
    kind = GRACE_ENDING if now < ends_at else GRACE_ENDED
    told = Notice(
        f"{kind}:{subscription.id}:{subscription.failing_since:.0f}",
        kind,
        subscription.project,
        subscription.email,
        {"plan": subscription.plan, "at": ends_at},
    )
    return (told,)


def bill_notices(event: BillingEvent, project: str) -> tuple[Notice, ...]:
    """Of a bill that belongs to no subscription. `project` is its customer's, empty if that is nobody's here."""
    if event.type not in (INVOICE_FAILED, INVOICE_ACTION_REQUIRED):
        return ()
    if event.subscription or (_not_ours(event) and not project):
        return ()
    known = Subscription("", project=project or event.project)
    return (_note(known, event, _BILLS[event.type], **_bill(event)),)


def dispute_notices(event: BillingEvent) -> tuple[Notice, ...]:
    """A dispute is about a charge, and no part of a subscription's history."""
    if event.type not in DISPUTES:
        return ()
    kind = DISPUTE_OPENED if event.type == DISPUTE_CREATED else DISPUTE_CLOSED
    facts = {
        "dispute": event.dispute,
        "charge": event.charge,
        "customer": event.customer,
        "amount": event.amount,
        "currency": event.currency,
        "reason": event.reason,
        "status": event.status,
        "due_by": event.due_by,
    }
    return (Notice(f"{kind}:{event.dispute or event.id}", kind, event.project, "", facts),)


def _checked_out(before: Subscription, event: BillingEvent) -> Subscription:
    # What a checkout orders is old once the subscription speaks for itself: a debit may take days to arrive.
    after = _linked(
        before,
        evolve(event, plan=before.plan or event.plan, email=before.email or event.email),
    )
    if event.type == CHECKOUT_FAILED or _left_unpaid(event):
        return evolve(after, awaits_payment=True)
    begun = ACTIVE if after.status == INCOMPLETE else after.status
    return evolve(after, awaits_payment=False, status=begun)


def _restated(before: Subscription, event: BillingEvent) -> Subscription:
    if before.status in ENDED:
        return _linked(before, event)
    status = _status(before, event)
    failing_since = before.failing_since
    if status != PAST_DUE:
        failing_since = None
    elif failing_since is None:
        failing_since = event.created
    return evolve(
        _linked(before, event),
        status=status,
        cancel_at=event.cancel_at,
        failing_since=failing_since,
    )


def _status(before: Subscription, event: BillingEvent) -> str:
    if event.type == SUBSCRIPTION_DELETED:
        return CANCELED
    # It is the first state and never comes again: whoever knows of a later one was told of the money first.
    if event.status == INCOMPLETE:
        return before.status
    return event.status or before.status


def _invoiced(before: Subscription, event: BillingEvent) -> Subscription:
    after = _linked(before, evolve(event, plan=None))
    if event.type == INVOICE_PAID:
        healed = ACTIVE if after.status in (INCOMPLETE, PAST_DUE, UNPAID) else after.status
        return evolve(after, status=healed, failing_since=None, awaits_payment=False)
    if event.type == INVOICE_FAILED and after.status == ACTIVE:
        return evolve(after, status=PAST_DUE, failing_since=event.created)
    return after


def _linked(before: Subscription, event: BillingEvent) -> Subscription:
    """With whatever the event knows of who and what it is."""
    return evolve(
        before,
        project=event.project or before.project,
        customer=event.customer or before.customer,
        email=event.email or before.email,
        plan=before.plan if event.plan is None else event.plan,
        period_end=before.period_end if event.period_end is None else event.period_end,
    )


def _notices(
    before: Subscription, after: Subscription, event: BillingEvent, grace: float
) -> Iterable[Notice]:
    note = partial(_note, after, event)
    was, has = entitled(before, event.created, grace), entitled(after, event.created, grace)
    if event.type in _BILLS:
        ends_at = grace_ends(after, grace) if has else None
        yield note(_BILLS[event.type], **_bill(event, ends_at))
    elif event.type == TRIAL_WILL_END and after.status == TRIALING:
        yield note(TRIAL_ENDING, plan=after.plan, at=event.trial_end)
    if was != has:
        yield note(PLAN_CHANGED, before=was or FREE, after=has or FREE, why=after.status)
    if was and has and before.failing_since is not None and after.failing_since is None:
        yield note(PAYMENT_RECOVERED, plan=has)
    if has and before.cancel_at != after.cancel_at:
        if after.cancel_at is None:
            yield note(CANCELLATION_WITHDRAWN, plan=has)
        else:
            yield note(CANCELLATION_SCHEDULED, plan=has, at=after.cancel_at)


def _note(subscription: Subscription, event: BillingEvent, kind: str, **facts: object) -> Notice:
    email = event.email if event.type in INVOICES else ""
    told = f"{kind}:{_occasion(subscription, event, kind)}"
    return Notice(told, kind, subscription.project, email, facts)


def _not_ours(event: BillingEvent) -> bool:
    """A bill for something else that is sold under the same account: it names prices, and none of ours."""
    return event.type in INVOICES and event.plan == "" and not event.project


def _occasion(subscription: Subscription, event: BillingEvent, kind: str) -> str:
    """What a notice is of: more than one event may tell of the same attempt at a payment, or of the same trial's end."""
    if kind in (PAYMENT_FAILED, PAYMENT_ACTION_REQUIRED) and event.invoice:
        return f"{event.invoice}:{event.attempt or 1}"
    if kind == TRIAL_ENDING and event.trial_end is not None:
        return f"{subscription.id}:{event.trial_end:.0f}"
    return event.id


def _bill(event: BillingEvent, ends_at: float | None = None) -> dict[str, object]:
    return {
        "ends_at": ends_at,
        "amount": event.amount,
        "currency": event.currency,
        "link": event.link,
        "attempt": event.attempt,
        "next_attempt_at": event.next_attempt_at,
    }


def _addressed(told: BillingChange) -> tuple[Notice, ...]:
    """Who is to be told may have become known only after what they are told of.

    Of what nobody here has bought only the bills are told, as they name whom they are for; see `_not_ours`.
    """
    known = told.subscription
    changes: Counter[str] = Counter()
    once: dict[str, Notice] = {}
    for notice in told.notices:
        named = notice.kind in ON_THE_BILL and notice.email
        if not known.project and not named:
            continue
        name = _name(notice, known.id, changes)
        once.setdefault(
            name,
            evolve(
                notice,
                id=name,
                project=notice.project or known.project,
                email=notice.email or known.email,
            ),
        )
    return tuple(once.values())


def _name(notice: Notice, subscription: str, changes: Counter[str]) -> str:
    """A change is named by what it changes and how often that came before, not by the event that showed it: an older
    event that shows it too may still be on its way, and nobody is to be told of it twice."""
    if notice.kind not in TOLD_IN_ORDER:
        return notice.id
    parts = [_part(fact) for name, fact in notice.facts.items() if name != "why"]
    change = ":".join([notice.kind, subscription, *parts])
    changes[change] += 1
    return f"{change}:{changes[change]}"


def _part(fact: object) -> str:
    return f"{fact:.0f}" if isinstance(fact, int | float) else str(fact)
