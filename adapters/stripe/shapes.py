"""The parts of Stripe's documents that matter here, in their newest and their older forms, and how they are structured.

A document has the form of the API version that the endpoint was made with, so both forms stay. Whatever is not listed
is not looked at; what is listed must have the type that https://docs.stripe.com/api gives it, or be null or absent.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final, NewType, TypeVar

from attrs import Factory, frozen, has
from cattrs import Converter
from cattrs.gen import make_dict_structure_fn

Moment = NewType("Moment", float)
Ref = NewType("Ref", str)
"""The id of an object that may stand here whole; empty if there is none."""

T = TypeVar("T")

_LATEST = 32_503_680_000
"""The year 3000: what is beyond is not a time in seconds."""
_MOST = 2**53
_LONGEST = 5000
_ID = re.compile(r"[0-9A-Za-z_][!-~]{0,254}")
_TYPE = re.compile(r"[0-9a-z_.]{1,255}")


@frozen
class Metadata:
    """What our checkouts write onto everything they make."""

    project: str | None = None
    plan: str | None = None


@frozen
class Person:
    email: str | None = None


@frozen
class Ending:
    reason: str | None = None


@frozen
class Evidence:
    due_by: Moment | None = None


@frozen
class Checkout:
    mode: str | None = None
    subscription: Ref = Ref("")
    customer: Ref = Ref("")
    client_reference_id: str | None = None
    metadata: Metadata | None = None
    payment_status: str | None = None
    customer_email: str | None = None
    customer_details: Person | None = None
    amount_total: int | None = None
    currency: str | None = None


@frozen
class Item:
    """`plan` is the price's older name."""

    id: Ref = Ref("")
    price: Ref = Ref("")
    plan: Ref = Ref("")
    current_period_end: Moment | None = None


@frozen
class Items:
    data: list[Item] = Factory(list)


@frozen
class SubscriptionDocument:
    """Until 2025-03-31 the period stood here, since then on each item."""

    id: Ref = Ref("")
    customer: Ref = Ref("")
    status: str | None = None
    metadata: Metadata | None = None
    items: Items | None = None
    plan: Ref = Ref("")
    current_period_end: Moment | None = None
    cancel_at: Moment | None = None
    cancel_at_period_end: bool | None = None
    trial_end: Moment | None = None
    cancellation_details: Ending | None = None


@frozen
class SubscriptionDetails:
    subscription: Ref = Ref("")
    metadata: Metadata | None = None


@frozen
class Parent:
    type: str | None = None
    subscription_details: SubscriptionDetails | None = None


@frozen
class Period:
    end: Moment | None = None


@frozen
class PriceDetails:
    price: Ref = Ref("")


@frozen
class Pricing:
    price_details: PriceDetails | None = None


@frozen
class Line:
    """Until 2025-03-31 it said itself what it is for and had a price, since then its parent and its pricing do."""

    type: str | None = None
    parent: Parent | None = None
    period: Period | None = None
    price: Ref = Ref("")
    pricing: Pricing | None = None


@frozen
class Lines:
    data: list[Line] = Factory(list)


@frozen
class Invoice:
    """Until 2025-03-31 the subscription stood here, since then under the parent."""

    id: Ref = Ref("")
    customer: Ref = Ref("")
    customer_email: str | None = None
    subscription: Ref = Ref("")
    subscription_details: SubscriptionDetails | None = None
    parent: Parent | None = None
    metadata: Metadata | None = None
    attempt_count: int | None = None
    next_payment_attempt: Moment | None = None
    amount_paid: int | None = None
    amount_due: int | None = None
    currency: str | None = None
    hosted_invoice_url: str | None = None
    billing_reason: str | None = None
    lines: Lines | None = None


@frozen
class Dispute:
    id: Ref = Ref("")
    charge: Ref = Ref("")
    amount: int | None = None
    currency: str | None = None
    reason: str | None = None
    status: str | None = None
    evidence_details: Evidence | None = None


@frozen
class Charge:
    id: Ref = Ref("")
    customer: Ref = Ref("")
    receipt_email: str | None = None
    billing_details: Person | None = None
    metadata: Metadata | None = None


@frozen
class Subscriptions:
    data: list[SubscriptionDocument] = Factory(list)


@frozen
class Session:
    """A checkout or a visit to the portal that was opened for us."""

    url: str


@frozen
class Data:
    object: dict[str, Any]


@frozen
class Envelope:
    """What all events have. `account` is somebody else's, for whom we would be a platform."""

    id: Ref
    type: str
    created: Moment
    livemode: bool | None = None
    account: Ref = Ref("")


def structured(document: object, shape: type[T]) -> T:
    """Raises ValueError for what does not have the shape."""
    if not isinstance(document, dict):
        raise ValueError("it is not an object")  # noqa: TRY004
    try:
        return _CONVERTER.structure(document, shape)
    except (KeyError, TypeError, AttributeError) as exc:
        raise ValueError("it does not have the documented form") from exc


def envelope(document: object) -> Envelope:
    """Raises ValueError for what is no event."""
    found = structured(document, Envelope)
    if not found.id or not found.created or not _TYPE.fullmatch(found.type):
        raise ValueError("it is not an event")
    return found


def _converter() -> Converter:
    """cattrs would make numbers of texts and texts of anything; Stripe's documents have types, and keep to them."""
    made = Converter(detailed_validation=False)
    made.register_structure_hook_factory(has, lambda shape: _object(made, shape))
    made.register_structure_hook(str, _text)
    made.register_structure_hook(int, _count)
    made.register_structure_hook(bool, _flag)
    made.register_structure_hook(Moment, _moment)
    made.register_structure_hook(Ref, _ref)
    return made


def _object(converter: Converter, shape: type[T]) -> Callable[[object, object], T]:
    build = make_dict_structure_fn(shape, converter)

    def structure(found: object, _: object) -> T:
        if not isinstance(found, dict):
            raise TypeError("not an object")
        return build(found, shape)

    return structure


def _text(found: object, _: object) -> str:
    if not isinstance(found, str) or len(found) > _LONGEST:
        raise TypeError("not a text")
    return found


def _count(found: object, _: object) -> int:
    if type(found) is not int or not 0 <= found <= _MOST:
        raise TypeError("not a count")
    return found


def _flag(found: object, _: object) -> bool:
    if not isinstance(found, bool):
        raise TypeError("not a flag")
    return found


def _moment(found: object, _: object) -> Moment:
    if type(found) is not int or not 0 <= found <= _LATEST:
        raise TypeError("not a time")
    return Moment(float(found))


def _ref(found: object, _: object) -> Ref:
    if found is None:
        return Ref("")
    name = found.get("id") if isinstance(found, dict) else found
    if not isinstance(name, str) or not _ID.fullmatch(name):
        raise TypeError("not an id")
    return Ref(name)


_CONVERTER: Final = _converter()
