"""What takes money: the payment provider, and the book of what it told us."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from domain.billing import Account, BillingEvent, Subscription
from domain.notices import Contact, Delivery
from domain.value import value


@value
class Order:
    """Somebody wants a plan. `click` makes the order unique: the same one twice opens one checkout."""

    project: str
    plan: str
    click: str
    customer: str = ""
    email: str = ""


class BillingGateway(Protocol):
    """The payment provider. Where none is configured, everything here raises `NotFound` and says that billing is off.

    Raises `Unavailable` when the provider cannot be asked, `InvalidRequest` for what it will never do.
    """

    @property
    def hears(self) -> bool:
        """Whether it can tell its events from forged ones."""

    @property
    def sells(self) -> bool:
        """Whether checkouts can be opened."""

    def read_event(self, payload: bytes, signature: str, now: float, /) -> BillingEvent:
        """The event in a webhook's raw body. Raises InvalidRequest for a forged, stale, foreign or unreadable one."""

    def read_logged(self, payload: bytes, /) -> BillingEvent:
        """The same of a body whose signature was checked when it was logged."""

    async def completed(self, event: BillingEvent, /) -> BillingEvent:
        """With what only the provider can add: how its subscription stands now, or whose charge a dispute is about.

        The event as it was, if the provider cannot be asked or knows no more.
        """

    async def checkout(self, order: Order, /) -> str:
        """The URL at which the order can be paid."""

    async def portal(self, customer: str, click: str, /) -> str:
        """The URL at which a customer sees bills and changes cards; good for a short while."""

    async def change_plan(self, subscription: str, plan: str, click: str, /) -> None: ...

    async def cancel(self, subscription: str, click: str, /) -> None:
        """At the end of the period that is paid for."""

    async def aclose(self) -> None: ...


class BillingTurn(Protocol):
    """Reads and writes of one transaction, while all other turns wait."""

    async def log(self, event: BillingEvent, body: bytes, at: float, /) -> BillingEvent | None:
        """Keeps it whole and gives it with its arrival; None if it is there already."""

    async def restate(self, event: BillingEvent, /) -> None:
        """The same event, better understood."""

    async def history(self, subscription: str, /) -> Sequence[BillingEvent]:
        """All logged events of a subscription, in any order."""

    async def keep(self, subscription: Subscription, /) -> None: ...

    async def of_project(self, project: str, /) -> Sequence[Subscription]: ...

    async def account(self, project: str, /) -> Account | None: ...

    async def keep_account(self, account: Account, /) -> None: ...

    async def set_plan(self, project: str, plan: str, /) -> bool:
        """False if there is no such project."""

    async def project_of(self, customer: str, /) -> str:
        """Whose account the customer pays for; empty if nobody's."""

    async def contact(self, project: str, /) -> Contact:
        """An empty one if its owners gave none."""

    async def post(self, deliveries: Sequence[Delivery], /, settled: str = "") -> None:
        """Queues those that are not queued yet.

        Whatever else is still unsent of the subscription `settled` is withdrawn.
        """


class BillingBook(Protocol):
    """What the payment provider told, and what it came to. Raises `Unavailable`."""

    def turn(self) -> AbstractAsyncContextManager[BillingTurn]:
        """All of it takes effect, or nothing."""

    async def events(self, project: str, limit: int, /) -> Sequence[BillingEvent]:
        """Of a project's subscriptions and disputes, newest arrivals first."""

    async def body(self, event: str, /) -> bytes | None:
        """The body of a logged event, as it came."""

    async def subscriptions(self, project: str, /) -> Sequence[Subscription]: ...

    async def account(self, project: str, /) -> Account | None: ...

    async def failing(self) -> Sequence[Subscription]:
        """Those past due, whatever their grace says."""
