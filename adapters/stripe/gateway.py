"""Stripe behind the port of billing: events are told from forged ones, and Stripe is asked by its SDK."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import TypeVar

import stripe
from attrs import evolve

from adapters.stripe import events, signature
from adapters.stripe.failures import failures
from adapters.stripe.shapes import (
    Charge,
    Session,
    SubscriptionDocument,
    Subscriptions,
    structured,
)
from adapters.stripe.transport import Transport
from domain.billing import CHECKOUTS, DISPUTES, SUBSCRIPTIONS, BillingEvent
from domain.errors import ApiError, InvalidRequest, NotFound
from ports.billing import Order

PATIENCE = 4.0
"""Seconds for one attempt; there is one more after a failure that may pass."""
COMPLETING = 2.0
"""Seconds for all that an event may lack, while Stripe waits for our answer to it."""

_SHARERS = 20

log = logging.getLogger(__name__)

T = TypeVar("T")


class StripeGateway:
    """`prices` are plans by the id of their price. Without `secret_key` it can hear and not ask, without
    `webhook_secrets` the other way round. `api_base` is Stripe's own if None, `public_url` is where browsers come back to.
    """

    def __init__(
        self,
        *,
        secret_key: str | None,
        webhook_secrets: Sequence[str],
        prices: Mapping[str, str],
        api_base: str | None,
        public_url: str,
    ) -> None:
        self._secrets = tuple(secret for secret in webhook_secrets if secret.strip())
        self._prices = dict(prices)
        self._live = mode_of(secret_key)
        self._public_url = public_url.rstrip("/")
        self._transport = Transport(PATIENCE)
        self._stripe = _client(secret_key, api_base, self._transport) if secret_key else None

    @property
    def hears(self) -> bool:
        return bool(self._secrets)

    @property
    def sells(self) -> bool:
        return self._stripe is not None and bool(self._prices)

    def read_event(self, payload: bytes, header: str, now: float, /) -> BillingEvent:
        if not self.hears:
            raise NotFound(
                "Billing is not set up here: STRIPE_WEBHOOK_SECRET has no signing secret."
            )
        try:
            signature.verify(payload, header, self._secrets, now)
            return events.read(payload, self._prices, self._live)
        except ValueError as exc:
            # Whoever sent it learns nothing; the operator does, for the secret may be that of another endpoint.
            log.warning("a call of Stripe's webhook was refused: %s", _cause(exc))
            raise InvalidRequest("This is not an event of Stripe's that is meant for us.") from exc

    def read_logged(self, payload: bytes, /) -> BillingEvent:
        try:
            return events.read(payload, self._prices, live=None)
        except ValueError as exc:
            raise InvalidRequest(f"This is no event: {_cause(exc)}.") from exc

    async def completed(self, event: BillingEvent, /) -> BillingEvent:
        if self._stripe is None:
            return event
        try:
            async with asyncio.timeout(COMPLETING):
                if event.type in (*CHECKOUTS, *SUBSCRIPTIONS) and event.subscription:
                    return await self._standing_now(event)
                if event.type in DISPUTES and event.charge:
                    return await self._charged(event)
        except (ApiError, TimeoutError) as exc:
            why = exc.message if isinstance(exc, ApiError) else "it took too long"
            log.warning("Stripe could not tell more of %s: %s", event.id, why)
        return event

    async def checkout(self, order: Order, /) -> str:
        client = self._asked()
        price = self._price(order.plan)
        marks = {"project": order.project, "plan": order.plan}
        params: stripe.params.checkout.SessionCreateParams = {
            "mode": "subscription",
            "line_items": [{"price": price, "quantity": 1}],
            "client_reference_id": order.project,
            "metadata": marks,
            "subscription_data": {"metadata": marks},
            "success_url": f"{self._public_url}/billing/paid?checkout={{CHECKOUT_SESSION_ID}}",
            "cancel_url": f"{self._public_url}/billing/cancelled",
        }
        if order.customer:
            params["customer"] = order.customer
        elif order.email:
            params["customer_email"] = order.email
        key = _once("checkout", order.project, order.plan, order.click)
        with failures():
            made = await client.v1.checkout.sessions.create_async(params, {"idempotency_key": key})
            return _document(made, Session).url

    async def portal(self, customer: str, click: str, /) -> str:
        client = self._asked()
        key = _once("portal", customer, click)
        with failures():
            made = await client.v1.billing_portal.sessions.create_async(
                {"customer": customer, "return_url": f"{self._public_url}/"},
                {"idempotency_key": key},
            )
            return _document(made, Session).url

    async def change_plan(self, subscription: str, plan: str, click: str, /) -> None:
        """What is left of the old plan is set off against the new one, as Stripe does by default."""
        client = self._asked()
        price = self._price(plan)
        item = events.item_of(await self._subscription(subscription), self._prices)
        if not item:
            raise InvalidRequest("The subscription sells nothing that is a plan here.")
        key = _once("change", subscription, plan, click)
        with failures():
            await client.v1.subscriptions.update_async(
                subscription,
                {"items": [{"id": item, "price": price}], "metadata": {"plan": plan}},
                {"idempotency_key": key},
            )

    async def cancel(self, subscription: str, click: str, /) -> None:
        client = self._asked()
        key = _once("cancel", subscription, click)
        with failures():
            await client.v1.subscriptions.update_async(
                subscription, {"cancel_at_period_end": True}, {"idempotency_key": key}
            )

    async def aclose(self) -> None:
        await self._transport.close_async()

    def _asked(self) -> stripe.StripeClient:
        if self._stripe is None:
            raise NotFound("Billing is not set up here: STRIPE_SECRET_KEY is unset.")
        return self._stripe

    def _price(self, plan: str) -> str:
        for price, sold in self._prices.items():
            if sold == plan:
                return price
        raise InvalidRequest(f"The plan '{plan}' is not for sale here.", param="plan")

    async def _subscription(self, subscription: str) -> SubscriptionDocument:
        with failures():
            asked = self._asked().v1.subscriptions.retrieve_async(subscription)
            found = _document(await asked, SubscriptionDocument)
            if found.id != subscription:
                raise ValueError("another subscription than the one asked for")
            return found

    async def _standing_now(self, event: BillingEvent) -> BillingEvent:
        found = await self._subscription(event.subscription)
        return evolve(events.standing(event, found, self._prices), current=True)

    async def _charged(self, event: BillingEvent) -> BillingEvent:
        client = self._asked()
        with failures():
            charge = _document(await client.v1.charges.retrieve_async(event.charge), Charge)
            told = events.charged(event, charge)
            if told.project or not told.customer:
                return told
            # Neither disputes nor charges know what they were paid for; the customer's subscriptions know whose they are.
            found = await client.v1.subscriptions.list_async(
                {"customer": told.customer, "status": "all", "limit": _SHARERS}
            )
            return evolve(told, project=events.only_project(_document(found, Subscriptions).data))


def mode_of(secret_key: str | None) -> bool | None:
    """Whether a key is of the live mode; None if it does not say."""
    kind = (secret_key or "").split("_")[:2]
    return {"live": True, "test": False}.get(kind[-1]) if kind[0] in ("sk", "rk") else None


def _client(secret_key: str, api_base: str | None, transport: Transport) -> stripe.StripeClient:
    # It would tell Stripe about this machine, under an id that it writes into the user's home.
    stripe.enable_telemetry = False
    # A line for each request, and foreign messages.
    logging.getLogger("stripe").setLevel(logging.WARNING)
    return stripe.StripeClient(
        secret_key,
        base_addresses={"api": api_base.rstrip("/")} if api_base else None,
        http_client=transport,
        max_network_retries=1,
    )


def _document(answer: stripe.StripeObject, shape: type[T]) -> T:
    """Raises ValueError for an answer that does not have the shape."""
    response = answer.last_response
    return structured(response.data if response is not None else None, shape)


def _once(*order: str) -> str:
    """Stripe does once whatever carries the same key; a digest, for a click may be any text and a key is a header."""
    return f"{order[0]}-{sha256(chr(0).join(order).encode()).hexdigest()}"


def _cause(exc: ValueError) -> str:
    """Without any of the body, which a JSON parser's words may quote."""
    return "it is not JSON" if type(exc) is not ValueError else str(exc)
