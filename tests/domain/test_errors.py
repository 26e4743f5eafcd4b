"""Errors as callers see them: OpenAI's body, with all four keys, and the headers that clients obey."""

from __future__ import annotations

import orjson
import pytest

from domain import errors
from domain.errors import ApiError

RATE, QUOTA = "rate_limit_exceeded", "insufficient_quota"
BAD = "invalid_request_error"
ROWS = [
    (errors.ApiError("m"), 500, "api_error", "api_error"),
    (errors.InvalidRequest("m"), 400, BAD, None),
    (errors.InvalidKey("m"), 401, BAD, "invalid_api_key"),
    (errors.NotFound("m"), 404, BAD, None),
    (errors.ModelNotFound("gpt", "m"), 404, BAD, "model_not_found"),
    (errors.MethodNotAllowed("m"), 405, BAD, None),
    (errors.PayloadTooLarge("m"), 413, BAD, None),
    (errors.UnsupportedMedia("m"), 415, BAD, None),
    (errors.RateLimited("m"), 429, RATE, RATE),
    (errors.QuotaExhausted("m"), 429, QUOTA, QUOTA),
    (errors.ProviderRefused(422, "m"), 422, BAD, None),
    (errors.UpstreamFailed("m"), 502, "api_error", "api_error"),
    (errors.Unavailable("m"), 503, "api_error", "api_error"),
    (errors.UpstreamTimeout("m"), 504, "api_error", "api_error"),
]


@pytest.mark.parametrize(("error", "status", "kind", "code"), ROWS)
def test_the_table(error, status, kind, code):
    """Each class is one row of the API document."""
    assert status == error.status
    assert {"error": {"message": "m", "type": kind, "param": None, "code": code}} == orjson.loads(
        error.body()
    )


def test_the_table_has_every_error():
    """A new error is placed here, too."""
    classes = {found for found in vars(errors).values() if isinstance(found, type)}
    of_keys = {errors.ModelNotAllowed, errors.EndpointNotAllowed}

    assert {type(row[0]) for row in ROWS} | of_keys == {
        one for one in classes if issubclass(one, ApiError)
    }


def test_what_a_key_may_not():
    """403, in words and codes that name what it is limited to."""
    model, endpoint = errors.ModelNotAllowed("gpt-x"), errors.EndpointNotAllowed("embeddings")

    assert (403, BAD, "model", "model_not_allowed") == (
        model.status,
        model.type,
        model.param,
        model.code,
    )
    assert (403, BAD, "endpoint_not_allowed") == (endpoint.status, endpoint.type, endpoint.code)
    assert "gpt-x" in model.message
    assert "embeddings" in endpoint.message


def test_what_is_told_goes_to_the_wire():
    """The field, the code and any text arrive as they are."""
    error = errors.InvalidRequest(
        'a "quoted"\n\u2028text', param="messages[0]", code="invalid_type"
    )

    assert {
        "error": {
            "message": 'a "quoted"\n\u2028text',
            "type": BAD,
            "param": "messages[0]",
            "code": "invalid_type",
        }
    } == orjson.loads(error.body())
    assert b"\n" not in error.body()
    assert error.message == str(error)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (errors.ApiError("m"), {}),
        (errors.RateLimited("m", retry_after=0.2), {"Retry-After": "1"}),
        (errors.RateLimited("m", retry_after=0), {"Retry-After": "1"}),
        (errors.RateLimited("m", retry_after=-5), {"Retry-After": "1"}),
        (errors.RateLimited("m", retry_after=2.01), {"Retry-After": "3"}),
        (errors.RateLimited("m", retry_after=60), {"Retry-After": "60"}),
        (errors.QuotaExhausted("m"), {"Retry-After": "3600", "x-should-retry": "false"}),
        (errors.Unavailable("m"), {"Retry-After": "1"}),
        (
            errors.Unavailable("m", retry_after=5, should_retry=True),
            {"Retry-After": "5", "x-should-retry": "true"},
        ),
    ],
)
def test_when_to_come_back(error, expected):
    """Whole seconds, rounded up, at least one; every 503 has them."""
    assert expected == error.headers()


def test_an_unknown_key_says_nothing_more():
    """Unknown, revoked and ended keys cannot be told apart."""
    assert "Incorrect API key provided." == errors.InvalidKey().message


def test_an_unknown_model_is_named():
    """So that a typing error is seen at once."""
    assert "'gpt-99'" in errors.ModelNotFound("gpt-99").message
