"""What Stripe's documents say, as events of the domain. Pure: bytes and documents in, values out.

The documents are those of https://docs.stripe.com/api/events/types; their forms are in `adapters.stripe.shapes`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import orjson
from attrs import evolve

from adapters.stripe.shapes import (
    Charge,
    Checkout,
    Data,
    Dispute,
    Ending,
    Evidence,
    Invoice,
    Item,
    Line,
    Metadata,
    Person,
    SubscriptionDetails,
    SubscriptionDocument,
    envelope,
    structured,
)
from domain.billing import (
    CHECKOUTS,
    DISPUTES,
    HANDLED,
    INVOICE_PAID,
    INVOICES,
    SUBSCRIPTIONS,
    BillingEvent,
)

_PROJECT = re.compile(r"[0-9A-Za-z_-]{1,64}")
_WORD = re.compile(r"[0-9A-Za-z_-]{1,64}")
_EMAIL = re.compile(r"[!-?A-~\u00a1-\uffff]{1,64}@[!-?A-~\u00a1-\uffff]{1,255}")
_LINK = re.compile(r"https://[!-~]{1,2000}")

Prices = Mapping[str, str]
"""Plans by the id of their price."""


def read(payload: bytes, prices: Prices, live: bool | None) -> BillingEvent:
    """`live` is the mode whose events are ours, None if that is not known. Raises ValueError for what is no event of ours."""
    document = orjson.loads(payload)
    found = envelope(document)
    if found.account:
        raise ValueError("it is a connected account's")
    if live is not None and found.livemode is (not live):
        raise ValueError("it is of the other mode, live or test")
    event = BillingEvent(found.id, found.type, found.created)
    if event.type not in HANDLED:
        return event
    return _read_object(event, structured(document.get("data"), Data).object, prices)


def _read_object(event: BillingEvent, document: object, prices: Prices) -> BillingEvent:
    if event.type in CHECKOUTS:
        return _read_checkout(event, structured(document, Checkout), prices)
    if event.type in SUBSCRIPTIONS:
        return _read_subscription(event, structured(document, SubscriptionDocument), prices)
    if event.type in INVOICES:
        return _read_invoice(event, structured(document, Invoice), prices)
    assert event.type in DISPUTES, event.type
    return _read_dispute(event, structured(document, Dispute), document)


def _read_checkout(event: BillingEvent, checkout: Checkout, prices: Prices) -> BillingEvent:
    """One that sells something else than a subscription is none of ours."""
    if not checkout.subscription:
        return event
    return evolve(
        event,
        subscription=checkout.subscription,
        project=_project(checkout.metadata) or _matching(_PROJECT, checkout.client_reference_id),
        customer=checkout.customer,
        email=_email((checkout.customer_details or Person()).email, checkout.customer_email),
        plan=_ordered(checkout.metadata, prices),
        status=_matching(_WORD, checkout.payment_status),
        amount=checkout.amount_total,
        currency=_matching(_WORD, checkout.currency),
    )


def _read_subscription(
    event: BillingEvent, found: SubscriptionDocument, prices: Prices
) -> BillingEvent:
    if not found.id:
        raise ValueError("it is of no subscription")
    why = (found.cancellation_details or Ending()).reason
    return evolve(
        standing(evolve(event, subscription=found.id), found, prices),
        reason=_matching(_WORD, why),
    )


def standing(event: BillingEvent, found: SubscriptionDocument, prices: Prices) -> BillingEvent:
    """The event, with how this subscription stands.

    A checkout keeps its status, which is its payment's and not the subscription's, and the plan that was ordered
    where the price is unknown.
    """
    item, plan = _item(found, prices)
    if not prices:
        plan = _ordered(found.metadata, prices)
    period_end = item.current_period_end or found.current_period_end
    cancels_at_end = period_end if found.cancel_at_period_end else None
    a_checkout = event.type in CHECKOUTS
    return evolve(
        event,
        project=_project(found.metadata) or event.project,
        customer=found.customer or event.customer,
        plan=plan or event.plan if a_checkout else plan,
        status=event.status if a_checkout else _matching(_WORD, found.status),
        period_end=period_end,
        cancel_at=found.cancel_at or cancels_at_end,
        trial_end=found.trial_end,
    )


def item_of(found: SubscriptionDocument, prices: Prices) -> str:
    """The id of what the plan is paid by; empty if there are several, and none has a known price."""
    item, plan = _item(found, prices)
    items = found.items.data if found.items else []
    return item.id if plan or len(items) == 1 else ""


def _item(found: SubscriptionDocument, prices: Prices) -> tuple[Item, str | None]:
    """The first item with a known price, and its plan; else just the first, and no plan.

    None as a plan means that nothing is said of any price.
    """
    items = found.items.data if found.items else []
    for item in items:
        plan = prices.get(item.price) or prices.get(item.plan)
        if plan:
            return item, plan
    named = found.plan or any(item.price or item.plan for item in items)
    return items[0] if items else Item(), prices.get(found.plan, "") if named else None


def _read_invoice(event: BillingEvent, invoice: Invoice, prices: Prices) -> BillingEvent:
    of = invoice.parent and invoice.parent.subscription_details
    of = of or invoice.subscription_details or SubscriptionDetails()
    paid = event.type == INVOICE_PAID
    return evolve(
        event,
        subscription=of.subscription or invoice.subscription,
        project=_project(of.metadata) or _project(invoice.metadata),
        customer=invoice.customer,
        email=_email(invoice.customer_email),
        period_end=_paid_until(invoice) if paid else None,
        plan=_billed(invoice, prices),
        invoice=invoice.id,
        attempt=invoice.attempt_count or 0,
        next_attempt_at=invoice.next_payment_attempt,
        amount=invoice.amount_paid if paid else invoice.amount_due,
        currency=_matching(_WORD, invoice.currency),
        link=_matching(_LINK, invoice.hosted_invoice_url),
        reason=_matching(_WORD, invoice.billing_reason),
    )


def _billed(invoice: Invoice, prices: Prices) -> str | None:
    """The plan that it bills; empty if it names prices and none of ours, None if it names none.

    Where no price is known at all, none can be told from ours.
    """
    if not prices:
        return None
    named = {_price(line) for line in (invoice.lines.data if invoice.lines else [])} - {""}
    return next((prices[one] for one in named if one in prices), "") if named else None


def _price(line: Line) -> str:
    details = line.pricing.price_details if line.pricing else None
    return line.price or (details.price if details else "")


def _paid_until(invoice: Invoice) -> float | None:
    """The invoice's own period is the one that has passed; what was bought is in its lines."""
    lines = invoice.lines.data if invoice.lines else []
    ends = [line.period.end for line in lines if line.period and _of_the_subscription(line)]
    return max((end for end in ends if end is not None), default=None)


def _of_the_subscription(line: Line) -> bool:
    kind = line.parent.type if line.parent else line.type
    return kind in ("subscription", "subscription_item_details")


def _read_dispute(event: BillingEvent, dispute: Dispute, document: object) -> BillingEvent:
    if not dispute.id:
        raise ValueError("it is of no dispute")
    told = evolve(
        event,
        dispute=dispute.id,
        charge=dispute.charge,
        amount=dispute.amount,
        currency=_matching(_WORD, dispute.currency),
        reason=_matching(_WORD, dispute.reason),
        status=_matching(_WORD, dispute.status),
        due_by=(dispute.evidence_details or Evidence()).due_by,
    )
    whole = document.get("charge") if isinstance(document, dict) else None
    return charged(told, structured(whole, Charge)) if isinstance(whole, dict) else told


def charged(event: BillingEvent, charge: Charge) -> BillingEvent:
    """The event, with whose charge it is about."""
    address = (charge.billing_details or Person()).email
    return evolve(
        event,
        project=_project(charge.metadata) or event.project,
        customer=charge.customer or event.customer,
        email=_email(charge.receipt_email, address) or event.email,
    )


def only_project(found: list[SubscriptionDocument]) -> str:
    """Whose all these subscriptions are; empty if several projects share the customer."""
    projects = {_project(one.metadata) for one in found} - {""}
    return projects.pop() if len(projects) == 1 else ""


def _project(metadata: Metadata | None) -> str:
    return _matching(_PROJECT, metadata.project) if metadata else ""


def _ordered(metadata: Metadata | None, prices: Prices) -> str | None:
    """The plan that its maker has written onto it, if it has a price; where none has, that is all there is to go by."""
    plan = _matching(_WORD, metadata.plan) if metadata else ""
    return plan if plan and (not prices or plan in prices.values()) else None


def _email(*addresses: str | None) -> str:
    """The first that may stand in a mail's head."""
    return next(filter(None, (_matching(_EMAIL, one) for one in addresses)), "")


def _matching(form: re.Pattern[str], text: str | None) -> str:
    """The text if it has the form, else nothing. Words for people are not worth refusing an event about money."""
    return text if text is not None and form.fullmatch(text) else ""
