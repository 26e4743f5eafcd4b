"""Stripe's documents and events as it sends them, and customers whose life makes them.

Single documents: `subscription`, `checkout_session`, `invoice`, `dispute`, `charge`; `event` puts one into an envelope, and
`checkout_completed`, `subscription_updated`, `invoice_paid`, `invoice_failed`, `dispute_created` and so on do both at once. Whatever is given as a
further keyword replaces that field of the document. All of them are plain dicts: `body` makes the bytes.

A whole life: `Customer` remembers how the subscription stands, and each of its verbs gives the events that Stripe would
send, in order, and appends them to `Customer.events`:

    shop = Customer("p_shop", {"price_starter": "starter", "price_pro": "pro"})
    shop.checkout("starter"); shop.wait(30 * DAY); shop.renew(); shop.change("pro"); shop.fail_payment(); shop.recover()
    for one in shop.events: deliver(body(one))

`NEW` documents are of API version 2026-10-28, `OLD` ones of 2024-06-20: there the period stands on the subscription, and
an invoice names its subscription itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
from attrs import define, field

from domain import billing

DAY = 86_400.0
MONTH = 30 * DAY
NEW, OLD = "new", "old"
VERSIONS = {NEW: "2026-10-28.endive", OLD: "2024-06-20"}
NOW = 1_800_000_000.0

Document = dict[str, Any]


def body(event: Document) -> bytes:
    """As Stripe writes it: indented."""
    return orjson.dumps(event, option=orjson.OPT_INDENT_2)


def event(
    kind: str,
    document: Document,
    *,
    id: str = "evt_1",
    created: float = NOW,
    live: bool = False,
    shape: str = NEW,
    previous: Document | None = None,
) -> Document:
    """The envelope. `previous` are the values that an update has changed."""
    data: Document = {"object": document}
    if previous is not None:
        data["previous_attributes"] = previous
    return {
        "id": id,
        "object": "event",
        "api_version": VERSIONS[shape],
        "created": int(created),
        "data": data,
        "livemode": live,
        "pending_webhooks": 1,
        "request": {"id": None, "idempotency_key": None},
        "type": kind,
    }


def subscription(
    *,
    id: str = "sub_1",
    customer: str = "cus_1",
    project: str = "p_shop",
    plan: str = "pro",
    price: str = "price_pro",
    status: str = billing.ACTIVE,
    began: float = NOW,
    period_end: float = NOW + MONTH,
    cancels: bool = False,
    shape: str = NEW,
    **fields: Any,
) -> Document:
    period = {"current_period_start": int(began), "current_period_end": int(period_end)}
    item = {
        "id": id.replace("sub_", "si_"),
        "object": "subscription_item",
        "price": {"id": price, "object": "price", "type": "recurring", "active": True},
        "quantity": 1,
        "subscription": id,
        **(period if shape == NEW else {"plan": {"id": price, "object": "plan"}}),
    }
    return {
        "id": id,
        "object": "subscription",
        "customer": customer,
        "status": status,
        "cancel_at": int(period_end) if cancels else None,
        "cancel_at_period_end": cancels,
        "canceled_at": None,
        "cancellation_details": {"comment": None, "feedback": None, "reason": None},
        "items": {"object": "list", "data": [item], "has_more": False, "url": "/v1/x"},
        "metadata": {"project": project, "plan": plan},
        "trial_end": None,
        **({} if shape == NEW else {**period, "plan": {"id": price, "object": "plan"}}),
        **fields,
    }


def checkout_session(
    *,
    id: str = "cs_test_1",
    subscription: str = "sub_1",
    customer: str = "cus_1",
    project: str = "p_shop",
    plan: str = "pro",
    email: str = "owner@example.com",
    paid: bool = True,
    amount: int = 4900,
    **fields: Any,
) -> Document:
    return {
        "id": id,
        "object": "checkout.session",
        "mode": "subscription",
        "status": "complete",
        "payment_status": "paid" if paid else "unpaid",
        "client_reference_id": project,
        "customer": customer,
        "customer_details": {"email": email, "name": "Ann Owner", "phone": None},
        "customer_email": None,
        "subscription": subscription,
        "metadata": {"project": project, "plan": plan},
        "amount_total": amount,
        "currency": "usd",
        **fields,
    }


def invoice(
    *,
    id: str = "in_1",
    subscription: str = "sub_1",
    customer: str = "cus_1",
    project: str = "p_shop",
    plan: str = "pro",
    email: str = "owner@example.com",
    amount: int = 4900,
    paid: bool = True,
    attempt: int = 1,
    next_attempt: float | None = None,
    reason: str = "subscription_cycle",
    began: float = NOW,
    period_end: float = NOW + MONTH,
    shape: str = NEW,
    **fields: Any,
) -> Document:
    of = {"subscription": subscription, "metadata": {"project": project, "plan": plan}}
    new: Document = {"parent": {"type": "subscription_details", "subscription_details": of}}
    old = {
        "subscription": subscription,
        "subscription_details": {"metadata": of["metadata"]},
        "paid": paid,
        "charge": "ch_1",
    }
    line = {
        "id": "il_1",
        "object": "line_item",
        "amount": amount,
        "period": {"start": int(began), "end": int(period_end)},
        **(
            {"parent": {"type": "subscription_item_details", "subscription_item_details": {}}}
            if shape == NEW
            else {"type": "subscription"}
        ),
    }
    return {
        "id": id,
        "object": "invoice",
        "status": "paid" if paid else "open",
        "customer": customer,
        "customer_email": email,
        "amount_due": amount,
        "amount_paid": amount if paid else 0,
        "currency": "usd",
        "attempt_count": attempt,
        "next_payment_attempt": None if next_attempt is None else int(next_attempt),
        "billing_reason": reason,
        "hosted_invoice_url": f"https://invoice.stripe.com/i/acct_1/{id}",
        "lines": {"object": "list", "data": [line], "has_more": False},
        "metadata": {},
        "period_start": int(began - MONTH),
        "period_end": int(began),
        **(new if shape == NEW else old),
        **fields,
    }


def dispute(
    *,
    id: str = "dp_1",
    charge: str = "ch_1",
    amount: int = 4900,
    status: str = "needs_response",
    due_by: float | None = NOW + 7 * DAY,
    **fields: Any,
) -> Document:
    """It names its charge, and no customer."""
    return {
        "id": id,
        "object": "dispute",
        "charge": charge,
        "payment_intent": "pi_1",
        "amount": amount,
        "currency": "usd",
        "reason": "fraudulent",
        "status": status,
        "evidence_details": {
            "due_by": None if due_by is None else int(due_by),
            "has_evidence": False,
            "past_due": False,
            "submission_count": 0,
        },
        "metadata": {},
        **fields,
    }


def charge(
    *,
    id: str = "ch_1",
    customer: str = "cus_1",
    email: str = "owner@example.com",
    **fields: Any,
) -> Document:
    return {
        "id": id,
        "object": "charge",
        "customer": customer,
        "billing_details": {"email": email, "name": "Ann Owner"},
        "receipt_email": None,
        "metadata": {},
        **fields,
    }


def checkout_completed(
    *, id: str = "evt_1", created: float = NOW, live: bool = False, **fields: Any
) -> Document:
    return event(
        billing.CHECKOUT_COMPLETED, checkout_session(**fields), id=id, created=created, live=live
    )


def subscription_updated(
    *, id: str = "evt_1", created: float = NOW, live: bool = False, shape: str = NEW, **fields: Any
) -> Document:
    """`id` is the event's; the subscription is `sub_1`."""
    return event(
        billing.SUBSCRIPTION_UPDATED,
        subscription(shape=shape, **fields),
        id=id,
        created=created,
        live=live,
        shape=shape,
        previous={},
    )


def invoice_paid(
    *, id: str = "evt_1", created: float = NOW, live: bool = False, shape: str = NEW, **fields: Any
) -> Document:
    """`id` is the event's; the invoice is `in_1`."""
    document = invoice(shape=shape, **fields)
    return event(billing.INVOICE_PAID, document, id=id, created=created, live=live, shape=shape)


def invoice_failed(
    *, id: str = "evt_1", created: float = NOW, live: bool = False, shape: str = NEW, **fields: Any
) -> Document:
    """`id` is the event's; the invoice is `in_1`, tried for the first time and again in three days."""
    given = {"next_attempt": created + 3 * DAY, **fields}
    document = invoice(paid=False, shape=shape, **given)
    return event(billing.INVOICE_FAILED, document, id=id, created=created, live=live, shape=shape)


def dispute_created(
    *, id: str = "evt_1", created: float = NOW, live: bool = False, **fields: Any
) -> Document:
    """`id` is the event's; the dispute is `dp_1`, about `ch_1`."""
    return event(billing.DISPUTE_CREATED, dispute(**fields), id=id, created=created, live=live)


def unheard_of(*, id: str = "evt_1", created: float = NOW, live: bool = False) -> Document:
    """A type that nobody here handles."""
    document = {"id": "cus_1", "object": "customer", "email": "owner@example.com"}
    return event("customer.updated", document, id=id, created=created, live=live)


@define
class Customer:
    """One customer's life at Stripe, with one subscription at a time; `wait` moves its clock.

    `prices` are plans by price id, as the gateway gets them. All ids are made of `name`, so that two customers never share one.
    """

    project: str
    prices: Mapping[str, str]
    email: str = "owner@example.com"
    now: float = NOW
    shape: str = NEW
    live: bool = False
    name: str = field()
    events: list[Document] = field(factory=list)
    plan: str = ""
    status: str = ""
    period_end: float = 0.0
    cancels: bool = False
    attempts: int = 0
    disputed: int = 0
    subscribed: int = 0
    """How many subscriptions there were."""
    invoices: int = 0

    @name.default
    def _named(self) -> str:
        return self.project.replace("_", "")

    # --- what it is now

    @property
    def customer(self) -> str:
        return f"cus_{self.name}"

    @property
    def subscription(self) -> str:
        """The id of the last one."""
        return f"sub_{self.name}{self.subscribed}"

    @property
    def price(self) -> str:
        return next(price for price, plan in self.prices.items() if plan == self.plan)

    @property
    def charge(self) -> str:
        return f"ch_{self.name}{self.invoices}"

    def document(self, **fields: Any) -> Document:
        """How the subscription stands now, as `GET /v1/subscriptions/...` tells it."""
        return subscription(
            id=self.subscription,
            customer=self.customer,
            project=self.project,
            plan=self.plan,
            price=self.price,
            status=self.status,
            began=self.period_end - MONTH,
            period_end=self.period_end,
            cancels=self.cancels,
            shape=self.shape,
            **fields,
        )

    def wait(self, seconds: float) -> None:
        self.now += seconds

    # --- what happens to it; each verb gives what Stripe sends of it, in order

    def checkout(self, plan: str, *, paid: bool = True, trial: float = 0.0) -> list[Document]:
        """Bought by card. If not `paid`, by direct debit: `payment_arrived` or `payment_bounced` follows days later."""
        self.subscribed += 1
        self.plan, self.attempts, self.cancels = plan, 0, False
        self.period_end = self.now + (trial or MONTH)
        if trial:
            self.status = billing.TRIALING
            ends = int(self.now + trial)
            made = [self._of_subscription(billing.SUBSCRIPTION_CREATED, trial_end=ends)]
            return self._sent(*made, self._of_checkout(billing.CHECKOUT_COMPLETED, paid=True))
        if not paid:
            self.status = billing.ACTIVE
            return self._sent(
                self._of_subscription(billing.SUBSCRIPTION_CREATED),
                self._of_checkout(billing.CHECKOUT_COMPLETED, paid=False),
            )
        self.status = billing.INCOMPLETE
        created = self._of_subscription(billing.SUBSCRIPTION_CREATED)
        self.status = billing.ACTIVE
        return self._sent(
            created,
            self._of_invoice(billing.INVOICE_PAID, reason="subscription_create"),
            self._of_subscription(billing.SUBSCRIPTION_UPDATED),
            self._of_checkout(billing.CHECKOUT_COMPLETED, paid=True),
        )

    def payment_arrived(self) -> list[Document]:
        """Of a checkout that was not paid at once."""
        return self._sent(
            self._of_invoice(billing.INVOICE_PAID, reason="subscription_create"),
            self._of_checkout(billing.CHECKOUT_PAID, paid=True),
        )

    def payment_bounced(self) -> list[Document]:
        """Of a checkout that was not paid at once."""
        self.status = billing.INCOMPLETE_EXPIRED
        return self._sent(
            self._of_checkout(billing.CHECKOUT_FAILED, paid=False),
            self._of_subscription(billing.SUBSCRIPTION_UPDATED),
        )

    def renew(self) -> list[Document]:
        """The next month is paid. A customer who has come to it by `wait` renews at its beginning."""
        self.period_end += MONTH
        self.status, self.attempts = billing.ACTIVE, 0
        return self._sent(
            self._of_invoice(billing.INVOICE_PAID),
            self._of_subscription(billing.SUBSCRIPTION_UPDATED),
        )

    def change(self, plan: str) -> list[Document]:
        """Up or down, the difference billed at once."""
        self.plan = plan
        return self._sent(
            self._of_subscription(billing.SUBSCRIPTION_UPDATED),
            self._of_invoice(billing.INVOICE_PAID, reason="subscription_update", amount=2000),
        )

    def fail_payment(self) -> list[Document]:
        """The month's bill could not be paid, or not again; Stripe tries four times, three days apart."""
        self.attempts += 1
        if self.attempts == 1:
            self.invoices += 1
            self.period_end += MONTH
        more = self.now + 3 * DAY if self.attempts < 4 else None
        failed = self._of_invoice(
            billing.INVOICE_FAILED, paid=False, attempt=self.attempts, next_attempt=more
        )
        if self.attempts > 1:
            return self._sent(failed)
        self.status = billing.PAST_DUE
        return self._sent(failed, self._of_subscription(billing.SUBSCRIPTION_UPDATED))

    def needs_action(self) -> list[Document]:
        """The bank wants the card's owner to confirm."""
        return self._sent(
            self._of_invoice(billing.INVOICE_ACTION_REQUIRED, paid=False, attempt=self.attempts)
        )

    def recover(self) -> list[Document]:
        """The bill that had failed is paid."""
        self.status = billing.ACTIVE
        paid = self._of_invoice(billing.INVOICE_PAID, attempt=self.attempts + 1)
        self.attempts = 0
        return self._sent(paid, self._of_subscription(billing.SUBSCRIPTION_UPDATED))

    def schedule_cancellation(self) -> list[Document]:
        self.cancels = True
        return self._sent(self._of_subscription(billing.SUBSCRIPTION_UPDATED))

    def withdraw_cancellation(self) -> list[Document]:
        self.cancels = False
        return self._sent(self._of_subscription(billing.SUBSCRIPTION_UPDATED))

    def cancel(self) -> list[Document]:
        """It ends now: as was scheduled, or because nobody paid."""
        self.status = billing.CANCELED
        return self._sent(
            self._of_subscription(
                billing.SUBSCRIPTION_DELETED,
                canceled_at=int(self.now),
                ended_at=int(self.now),
                cancellation_details={
                    "comment": None,
                    "feedback": None,
                    "reason": "cancellation_requested" if self.cancels else "payment_failed",
                },
            )
        )

    def pause(self) -> list[Document]:
        self.status = billing.PAUSED
        return self._sent(self._of_subscription(billing.SUBSCRIPTION_PAUSED))

    def resume(self) -> list[Document]:
        self.status = billing.ACTIVE
        return self._sent(self._of_subscription(billing.SUBSCRIPTION_RESUMED))

    def trial_will_end(self) -> list[Document]:
        """Three days before it does."""
        return self._sent(
            self._of_subscription(billing.TRIAL_WILL_END, trial_end=int(self.period_end))
        )

    def dispute(self) -> list[Document]:
        """The last charge is disputed at the bank."""
        self.disputed += 1
        return self._sent(self._of_dispute(billing.DISPUTE_CREATED, "needs_response"))

    def dispute_closed(self, status: str = "lost") -> list[Document]:
        return self._sent(self._of_dispute(billing.DISPUTE_ENDED, status))

    def unheard_of(self) -> list[Document]:
        """Something that nobody here handles."""
        document = {"id": self.customer, "object": "customer", "email": self.email}
        return self._sent(self._event("customer.updated", document))

    # --- documents of it

    def _of_subscription(self, kind: str, **fields: Any) -> Document:
        return self._event(kind, self.document(**fields))

    def _of_checkout(self, kind: str, *, paid: bool) -> Document:
        document = checkout_session(
            id=f"cs_test_{self.name}{self.subscribed}",
            subscription=self.subscription,
            customer=self.customer,
            project=self.project,
            plan=self.plan,
            email=self.email,
            paid=paid,
        )
        return self._event(kind, document)

    def _of_invoice(self, kind: str, **fields: Any) -> Document:
        """The next bill, or the open one while it has failed."""
        self.invoices += not self.attempts
        document = invoice(
            id=f"in_{self.name}{self.invoices}",
            subscription=self.subscription,
            customer=self.customer,
            project=self.project,
            plan=self.plan,
            email=self.email,
            began=self.period_end - MONTH,
            period_end=self.period_end,
            shape=self.shape,
            **fields,
        )
        return self._event(kind, document)

    def _of_dispute(self, kind: str, status: str) -> Document:
        document = dispute(
            id=f"dp_{self.name}{self.disputed}",
            charge=self.charge,
            status=status,
            due_by=self.now + 7 * DAY,
        )
        return self._event(kind, document)

    def _event(self, kind: str, document: Document) -> Document:
        return event(kind, document, created=self.now, live=self.live, shape=self.shape)

    def _sent(self, *made: Document) -> list[Document]:
        """They get their ids in the order in which they happened."""
        for one in made:
            one["id"] = f"evt_{self.name}{len(self.events) + 1:05d}"
            self.events.append(one)
        return [*made]
