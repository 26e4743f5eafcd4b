"""What others tell us by webhook."""

from __future__ import annotations

import orjson

from app.web.api import SIGNED, Handler


class StripeRoute(Handler):
    """`POST /api/webhooks/stripe`. Answered 200 once the event is kept for good, and again for one that was seen before.

    What cannot be kept now is a 503, and Stripe comes back with it; https://docs.stripe.com/webhooks.
    """

    auth = SIGNED

    async def post(self) -> None:
        fresh = await self.rooms.billing.take(
            self.request.body, self.request.headers.get("Stripe-Signature", "")
        )
        self.json(orjson.dumps({"received": True, "duplicate": not fresh}))
