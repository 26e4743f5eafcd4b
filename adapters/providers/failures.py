"""What a provider's refusal means to our caller: its status and body become a domain error.

Our own key being refused is our fault, never the caller's: 502. Texts are passed on for faults in the request itself
and for nothing else, shortened, and without anything that looks like a key.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from math import isfinite
from typing import Any

import orjson

from domain.errors import (
    ApiError,
    ProviderRefused,
    QuotaExhausted,
    RateLimited,
    Unavailable,
    UpstreamFailed,
    UpstreamTimeout,
)

Failure = Callable[[str, int, bytes, str | None], ApiError]

MAX_MESSAGE = 1_000
MAX_WAIT = 120.0
CAPPED = 3_600.0
"""Seconds to tell where a cap, not a rate, was reached and nobody said when it ends."""
_KEYLIKE = re.compile(r"\b(?:sk|gsk|lgw|rk|pk|whsec|org|proj)[-_][A-Za-z0-9_*.-]{6,}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_PASSED_ON = frozenset({400, 404, 409, 413, 422})
_TYPE_STATUS = {
    "invalid_request_error": 400,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "requests": 429,
    "tokens": 429,
    "insufficient_quota": 429,
    "overloaded_error": 503,
    "service_unavailable_error": 503,
    "timeout_error": 504,
}


class KeyRefused(UpstreamFailed):
    """Nobody can be served there until the operator mends the key or the account. `refused_with` is what they said."""

    def __init__(self, message: str, refused_with: int) -> None:
        super().__init__(message)
        self.refused_with = refused_with


def openai_failure(provider: str, status: int, raw: bytes, retry_after: str | None) -> ApiError:
    """The domain error of an answer in OpenAI's error form, or in none."""
    error = _error_of(raw)
    return _failure(provider, status, error, wait(retry_after))


def event_error(provider: str, error: Any) -> ApiError:
    """The domain error of an error object that came with status 200, alone or in a stream."""
    if type(error) is not dict:
        error = {}
    status = error.get("status") or error.get("code") or error.get("status_code")
    if type(status) is not int or not 400 <= status < 600:
        status = _TYPE_STATUS.get(str(error.get("type")), 0) or _TYPE_STATUS.get(
            str(error.get("code")), 502
        )
    return _failure(provider, status, error, None)


def _failure(
    provider: str, status: int, error: dict[str, Any], retry_after: float | None
) -> ApiError:
    code = _word(error.get("code"))
    message = clean(error.get("message"))
    if status in (401, 402, 403) or code == "invalid_api_key":
        return KeyRefused(f"{provider} refused the gateway's own credentials.", status)
    if status in (429, 498) or code == "rate_limit_exceeded":
        return _limited(provider, status, code, _word(error.get("type")), retry_after)
    if status in _PASSED_ON:
        return ProviderRefused(
            status,
            message or f"{provider} refused the request.",
            param=_word(error.get("param")),
            code=_refusal_code(status, code),
        )
    if status in (408, 504):
        return UpstreamTimeout(f"{provider} did not answer in time.", retry_after=retry_after)
    if status in (503, 529):
        return Unavailable(f"{provider} is overloaded.", retry_after=retry_after or 1)
    return UpstreamFailed(f"{provider} failed (status {status}).", retry_after=retry_after)


def _limited(
    provider: str, status: int, code: str | None, kind: str | None, retry_after: float | None
) -> ApiError:
    if status == 498:
        # The SDKs do not know Groq's 498 (capacity exceeded) and would not try again.
        return Unavailable(f"{provider} has no capacity just now.", retry_after=retry_after or 1)
    if "insufficient_quota" in (code, kind):
        return QuotaExhausted(
            f"The gateway's quota at {provider} is used up.",
            retry_after=retry_after or CAPPED,
        )
    return RateLimited(
        f"{provider} limits the gateway's rate; try again later.", retry_after=retry_after or 1
    )


def _refusal_code(status: int, code: str | None) -> str | None:
    if status == 404 and code is None:
        return "model_not_found"
    return code


def _error_of(raw: bytes) -> dict[str, Any]:
    try:
        document = orjson.loads(raw[:65_536])
    except orjson.JSONDecodeError:
        return {}
    error = document.get("error") if type(document) is dict else None
    if type(error) is str:
        return {"message": error}
    return error if type(error) is dict else {}


def clean(message: Any) -> str:
    """A provider's words, fit to be passed on."""
    if type(message) is not str:
        return ""
    return _KEYLIKE.sub("<secret>", _CONTROL.sub(" ", message))[:MAX_MESSAGE]


def _word(found: Any) -> str | None:
    if type(found) is int:
        found = str(found)
    return clean(found)[:200] if type(found) is str and found else None


def wait(retry_after: str | None) -> float | None:
    """Seconds of a Retry-After header (a number, or a date of RFC 9110), within 1 and 120; None without one."""
    if not retry_after:
        return None
    try:
        seconds = float(retry_after)
    except ValueError:
        return _until(retry_after)
    if not isfinite(seconds):
        return None
    return min(max(seconds, 1.0), MAX_WAIT)


def _until(date: str) -> float | None:
    # How far away a date is needs a clock; the longest wait is the safe reading of any date.
    try:
        parsedate_to_datetime(date)
    except ValueError:
        return None
    return MAX_WAIT
