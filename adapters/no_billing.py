"""Billing where no payment provider is set up: everything else works, and whoever asks for billing is told why not."""

from __future__ import annotations

from typing import NoReturn

from domain.billing import BillingEvent
from domain.errors import NotFound
from ports.billing import Order


class NoBilling:
    """Implements `ports.billing.BillingGateway` by saying no."""

    hears = False
    sells = False

    def read_event(self, payload: bytes, signature: str, now: float, /) -> BillingEvent:
        _refuse()

    def read_logged(self, payload: bytes, /) -> BillingEvent:
        _refuse()

    async def completed(self, event: BillingEvent, /) -> BillingEvent:
        _refuse()

    async def checkout(self, order: Order, /) -> str:
        _refuse()

    async def portal(self, customer: str, click: str, /) -> str:
        _refuse()

    async def change_plan(self, subscription: str, plan: str, click: str, /) -> None:
        _refuse()

    async def cancel(self, subscription: str, click: str, /) -> None:
        _refuse()

    async def aclose(self) -> None:
        """There is nothing to close."""


def _refuse() -> NoReturn:
    raise NotFound(
        "Billing is not set up here: STRIPE_SECRET_KEY and STRIPE_WEBHOOK_SECRET are unset."
    )
