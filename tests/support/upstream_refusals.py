"""The errors a provider answers with, status by status, in the dialect of the call."""

from __future__ import annotations

from tests.support import upstream_anthropic, upstream_openai
from tests.support.upstream_reply import Call, Reply

SECRET = "org-Zq7secret"
"""Stands in error messages, beside the provider's own key; a proxy must pass on neither."""

RETRY_AFTER = 7

KINDS = {
    400: ("invalid_request_error", "invalid_request_error"),
    401: ("invalid_request_error", "authentication_error"),
    403: ("invalid_request_error", "permission_error"),
    404: ("invalid_request_error", "not_found_error"),
    408: ("timeout", "timeout_error"),
    409: ("invalid_request_error", "conflict_error"),
    413: ("invalid_request_error", "request_too_large"),
    422: ("invalid_request_error", "invalid_request_error"),
    429: ("requests", "rate_limit_error"),
    498: ("capacity_exceeded", "rate_limit_error"),
    500: ("server_error", "api_error"),
    502: ("server_error", "api_error"),
    503: ("server_error", "api_error"),
    504: ("server_error", "timeout_error"),
    529: ("overloaded", "overloaded_error"),
}
CODES = {401: "invalid_api_key", 404: "model_not_found", 429: "rate_limit_exceeded"}
WAITING = frozenset({429, 503})


def status(call: Call, after: int, number: int) -> Reply:
    """An error as the dialect writes it; the message holds what must not be passed on."""
    key = call.headers.get("authorization", call.headers.get("x-api-key", ""))
    message = f"Upstream says {number} to {SECRET} with {key}."
    headers = (("retry-after", str(RETRY_AFTER)),) if number in WAITING else ()
    kinds = KINDS[number]
    if call.dialect == "anthropic":
        return upstream_anthropic.error(number, kinds[1], message, headers)
    return upstream_openai.error(number, message, kinds[0], CODES.get(number), headers=headers)


def out_of_quota(call: Call, after: int) -> Reply:
    """Nothing left to spend: no word on when to come back. Anthropic says so with a 400."""
    if call.dialect == "anthropic":
        return upstream_anthropic.error(
            400, "invalid_request_error", "Your credit balance is too low."
        )
    message = "You exceeded your current quota."
    return upstream_openai.error(429, message, "insufficient_quota", "insufficient_quota")


def page(call: Call, after: int, number: int) -> Reply:
    """An error that is not the provider's own but of something before it."""
    return Reply.text(number, b"<html><h1>Bad gateway</h1></html>", "text/html")


def redirect(call: Call, after: int) -> Reply:
    """To a place on this very server, so that a client that follows is seen in `calls`."""
    place = f"http://{call.headers.get('host', '127.0.0.1')}/_trap"
    return Reply.text(302, b"", headers=(("location", place),))
