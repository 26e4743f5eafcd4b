"""A Stripe on a real socket, and signatures as it makes them. What it sends is made by `tests.support.stripe_events`.

    async with FakeStripe([customer]) as stripe:
        gateway = StripeGateway(secret_key=stripe.secret_key, api_base=stripe.url, ...)

It knows checkouts, portals, subscriptions and charges. A subscription is its `Customer`'s: what is changed by the API changes that,
and appends to `Customer.events` what Stripe would send. Every request is kept in `requests`. A request with a known
`Idempotency-Key` gets the first answer again, or 400 if it asks for something else.

`break_with` makes it fail: "500", "429", "401", "403", "hang", "reset", "garbage", "list", "deep",
"redirect", "endless", "another".
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from hashlib import sha256
from typing import Any, Self
from urllib.parse import parse_qsl

import orjson
from attrs import define

from tests.support.stripe_events import Customer, Document, charge, subscription
from tests.support.upstream import Call, Ending, Reply, ScriptedUpstream

SECRET_KEY = "sk_test_51canarystripe"
SIGNING_SECRET = "whsec_canarysigning"


def sign(body: bytes, secret: str, at: float) -> str:
    """A `Stripe-Signature` header."""
    made = hmac.new(secret.encode(), b"%d." % at + body, sha256).hexdigest()
    return f"t={int(at)},v1={made},v0={'0' * 64}"


@define
class Request:
    """`form` has the names as Stripe has them, as `metadata[project]`; `key` is the Idempotency-Key."""

    method: str
    path: str
    form: dict[str, str]
    key: str
    headers: dict[str, str]


class FakeStripe:
    """`customers` may be added to at any time."""

    def __init__(self, customers: Iterable[Customer] = (), *, port: int = 0) -> None:
        self.customers = [*customers]
        self.charges: dict[str, Document] = {}
        """Besides those of its customers."""
        self.requests: list[Request] = []
        self.secret_key = SECRET_KEY
        self.upstream = ScriptedUpstream(port)
        self.upstream.answer = self._answer
        self._fault = ""
        self._faults = 0
        self._done: dict[str, tuple[Request, Reply]] = {}
        self._made = 0

    @property
    def url(self) -> str:
        """As `STRIPE_API_BASE`."""
        return self.upstream.url

    async def __aenter__(self) -> Self:
        await self.upstream.listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.upstream.aclose()

    def break_with(self, fault: str, times: int = 1_000_000) -> None:
        """The next so many requests meet it; "" mends it."""
        self._fault, self._faults = fault, times

    def _answer(self, call: Call) -> Reply:
        asked = Request(
            call.method,
            call.path,
            dict(parse_qsl((call.raw.decode() or call.query), keep_blank_values=True)),
            call.headers.get("idempotency-key", ""),
            call.headers,
        )
        self.requests.append(asked)
        if self._fault and self._faults > 0:
            self._faults -= 1
            return _broken(self._fault)
        if call.headers.get("authorization") != f"Bearer {self.secret_key}":
            return _refusal(401, f"Invalid API Key provided: {self.secret_key}")
        if asked.key not in self._done:
            reply = self._reply(asked)
            if asked.key and reply.status == 200:
                self._done[asked.key] = asked, reply
            return reply
        first, reply = self._done[asked.key]
        if (first.path, first.form) == (asked.path, asked.form):
            return reply
        return _refusal(400, "Keys for idempotent requests differ.", "idempotency_error")

    def _reply(self, asked: Request) -> Reply:
        match asked.method, asked.path.removeprefix("/v1/").split("/"):
            case "POST", ["checkout", "sessions"]:
                return self._checkout(asked.form)
            case "POST", ["billing_portal", "sessions"]:
                return self._portal(asked.form)
            case "GET", ["subscriptions"]:
                found = [
                    one.document()
                    for one in self.customers
                    if one.subscribed and one.customer == asked.form["customer"]
                ]
                return Reply.json(200, {"object": "list", "data": found, "has_more": False})
            case method, ["subscriptions", id]:
                return self._subscription(method, id, asked.form)
            case "GET", ["charges", id]:
                return self._charge(id)
        return _refusal(404, f"Unrecognized request URL ({asked.method}: {asked.path})")

    def _checkout(self, form: dict[str, str]) -> Reply:
        if form.get("mode") != "subscription" or "line_items[0][price]" not in form:
            return _refusal(400, "Missing required param: line_items.")
        if "customer" in form and "customer_email" in form:
            return _refusal(400, "You may only specify one of these parameters.")
        if "customer" in form and not self._known(form["customer"]):
            return _refusal(404, f"No such customer: '{form['customer']}'")
        return self._session("checkout.session", "https://checkout.stripe.com/c/pay/cs_test_")

    def _portal(self, form: dict[str, str]) -> Reply:
        if not self._known(form.get("customer", "")):
            return _refusal(404, f"No such customer: '{form.get('customer')}'")
        return self._session(
            "billing_portal.session", "https://billing.stripe.com/p/session/test_"
        )

    def _session(self, kind: str, url: str) -> Reply:
        self._made += 1
        made = {"id": f"s_{self._made}", "object": kind, "url": f"{url}{self._made}"}
        return Reply.json(200, made)

    def _known(self, customer: str) -> bool:
        return any(one.customer == customer for one in self.customers)

    def _subscription(self, method: str, id: str, form: dict[str, str]) -> Reply:
        for one in self.customers:
            if one.subscribed and one.subscription == id:
                break
        else:
            return _refusal(404, f"No such subscription: '{id}'")
        if method == "POST" and "items[0][price]" in form:
            if form["items[0][price]"] not in one.prices:
                return _refusal(400, f"No such price: '{form['items[0][price]']}'")
            if form.get("items[0][id]") != one.document()["items"]["data"][0]["id"]:
                return _refusal(400, "Invalid subscription item.")
            one.change(one.prices[form["items[0][price]"]])
        if method == "POST" and form.get("cancel_at_period_end") == "true":
            one.schedule_cancellation()
        return Reply.json(200, one.document())

    def _charge(self, id: str) -> Reply:
        for one in self.customers:
            if one.charge == id:
                return Reply.json(200, charge(id=id, customer=one.customer, email=one.email))
        if id in self.charges:
            return Reply.json(200, self.charges[id])
        return _refusal(404, f"No such charge: '{id}'")


def _refusal(status: int, message: str, kind: str = "invalid_request_error") -> Reply:
    return Reply.json(status, {"error": {"type": kind, "message": message, "param": "x"}})


def _broken(fault: str) -> Reply:
    json = (("content-type", "application/json"),)
    match fault:
        case "429":
            document: Any = {"error": {"type": "invalid_request_error", "message": "Slow down."}}
            return Reply.json(429, document, (("retry-after", "7"),))
        case "500" | "401" | "403":
            return _refusal(int(fault), f"Invalid API Key provided: {SECRET_KEY}", "api_error")
        case "hang":
            return Reply(200, json, (Ending.HANG,))
        case "reset":
            return Reply(200, json, (Ending.RESET,))
        case "garbage":
            return Reply.text(200, b"<html>sign in</html>", "text/html")
        case "list":
            return Reply.text(200, orjson.dumps([1, {"url": "x"}]), "application/json")
        case "deep":
            return Reply.text(200, b'{"a":' * 900 + b"1" + b"}" * 900, "application/json")
        case "redirect":
            return Reply.text(302, b"", headers=(("location", "/stolen"),))
        case "endless":
            good = b'{"id": "sub_pshop1", "url": "https://checkout.stripe.com/c"'
            return Reply(200, json, (good, *(b" " * 65_536,) * 32, b"}"), chunked=True)
        case "another":
            return Reply.json(200, subscription(id="sub_another"))
    raise AssertionError(fault)
