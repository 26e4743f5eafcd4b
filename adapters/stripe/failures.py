"""What becomes of Stripe's errors: whose fault each is, and when to come back."""

from __future__ import annotations

import logging
import math
import re

import stripe

from domain.errors import ApiError, InvalidRequest, Unavailable

RETRY_AFTER = 5.0
_LONGEST_RETRY = 60.0
_LONGEST = 300

_SECRET = re.compile(r"\b(?:sk|rk|pk|whsec)_[^\s'\"]+|[^\s@'\"]+@[^\s@'\"]+|https?://\S+|[^ -~]+")

log = logging.getLogger(__name__)


class failures:
    """No foreign exception leaves; what nobody foresaw counts as nonsense that Stripe answered."""

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: object
    ) -> None:
        if isinstance(error, Exception) and not isinstance(error, ApiError):
            raise _of_ours(error) from error


def _of_ours(error: Exception) -> ApiError:
    if isinstance(error, stripe.AuthenticationError | stripe.PermissionError):
        log.error("Stripe refuses STRIPE_SECRET_KEY, or the key may not do this; nobody can buy")
        return Unavailable("Billing does not work at the moment.", retry_after=_LONGEST_RETRY)
    if isinstance(error, stripe.RateLimitError):
        return Unavailable("Stripe is asked too often.", retry_after=_retry_after(error))
    if isinstance(error, stripe.IdempotencyError):
        return InvalidRequest("This was asked for before, and differently. Please start again.")
    if isinstance(error, stripe.InvalidRequestError | stripe.CardError):
        return InvalidRequest(f"Stripe refused this: {scrubbed(error.user_message or '')}")
    if isinstance(error, stripe.APIConnectionError):
        return Unavailable("Stripe did not answer.", retry_after=RETRY_AFTER)
    if isinstance(error, stripe.StripeError):
        return Unavailable("Stripe could not do this now.", retry_after=_retry_after(error))
    return Unavailable("Stripe answered nonsense.", retry_after=RETRY_AFTER)


def scrubbed(text: str) -> str:
    """Without keys, addresses and links, in one line of ASCII."""
    return _SECRET.sub("…", text)[:_LONGEST] or "no reason given"


def _retry_after(error: stripe.StripeError) -> float:
    try:
        seconds = (
            float(error.headers.get("retry-after", RETRY_AFTER)) if error.headers else RETRY_AFTER
        )
    except ValueError:
        return RETRY_AFTER
    return min(max(seconds, 1.0), _LONGEST_RETRY) if math.isfinite(seconds) else RETRY_AFTER
