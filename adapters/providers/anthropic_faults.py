"""Anthropic's refusals and failures in our words, and what of them a caller may read.

The provider's text is passed on only where it speaks of the caller's own request. Where it speaks of our account
(key, credit, limits) the text is ours.
"""

from __future__ import annotations

from typing import Any

import orjson

from adapters.providers.failures import CAPPED, KeyRefused, clean, wait
from domain.answer import Document
from domain.errors import (
    ApiError,
    ModelNotFound,
    ProviderRefused,
    RateLimited,
    Unavailable,
    UpstreamFailed,
    UpstreamTimeout,
)

_EVENTS = {"invalid_request_error": 400, "rate_limit_error": 429, "overloaded_error": 529}
_TOO_LONG = ("prompt is too long", "prompt too long", "exceed context limit")
# Anthropic answers these with 400, but it is our account that they are about.
_OUR_ACCOUNT = ("credit balance", "usage limits")


def failure(status: int, body: bytes, retry_after: str | None) -> ApiError:
    """The error to raise for an answer that is not a 200. `retry_after` is the header, in seconds."""
    pause = wait(retry_after)
    error = _error(status, _told(body), pause)
    if status == 429 and pause is None:
        # Without a time to come back it is a monthly cap, and asking again is useless.
        error.should_retry = False
    return error


def event_failure(event: Document) -> ApiError:
    """The same for an `error` event, which comes after a good status."""
    told = event.get("error")
    kind = told.get("type") if type(told) is dict else None
    status = _EVENTS.get(kind, 500) if type(kind) is str else 500
    return _error(status, told if type(told) is dict else {}, None)


def _error(status: int, told: Document, pause: float | None) -> ApiError:
    text = _text(told)
    if status == 400 and any(mark in text.lower() for mark in _OUR_ACCOUNT):
        status = 402
    if status in (401, 402, 403):
        return KeyRefused(
            "Anthropic refused this proxy's own account; its operator has to look.", status
        )
    if status == 404:
        return ModelNotFound("", text)
    if status in (400, 413) and any(mark in text.lower() for mark in _TOO_LONG):
        return ProviderRefused(status, text, param="messages", code="context_length_exceeded")
    if status in (400, 409, 413, 422):
        return ProviderRefused(status, text)
    if status == 429:
        return RateLimited(
            "Anthropic's limit for this proxy is reached.", retry_after=pause or CAPPED
        )
    if status in (503, 529):
        return Unavailable("Anthropic is overloaded.", retry_after=pause or 1)
    if status == 504:
        return UpstreamTimeout("Anthropic did not answer in time.", retry_after=pause)
    return UpstreamFailed("Anthropic could not answer.", retry_after=pause)


def _told(body: bytes) -> Document:
    try:
        document: Any = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    told = document.get("error") if type(document) is dict else None
    return told if type(told) is dict else {}


def _text(told: Document) -> str:
    return clean(told.get("message")) or "Anthropic refused the request."
