"""Everything a caller can be told, and how it looks on the wire.

The tree is flat and is the error table of the API document: each class is one row. Bodies are
always ``{"error": {"message", "type", "param", "code"}}`` with all four keys (OpenAI's form).
Nothing here logs or decides; whoever raises knows why.
"""

from __future__ import annotations

from math import ceil

import orjson

from domain.usage import Usage


class ApiError(Exception):
    """The root: something went wrong on our side. Answered 500 `api_error`."""

    status: int = 500
    type: str = "api_error"
    default_code: str | None = "api_error"

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
        should_retry: bool | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code if code is not None else self.default_code
        self.retry_after = retry_after
        self.should_retry = should_retry
        self.recorded = False
        """The request that failed has a row in the ledger."""
        self.limits: dict[str, str] = {}
        """The x-ratelimit-* headers of the request that failed."""
        self.spent: Usage | None = None
        """Tokens the provider charged for before it failed."""

    def document(self) -> dict[str, dict[str, str | None]]:
        """The body as OpenAI's SDKs read it."""
        return {
            "error": {
                "message": self.message,
                "type": self.type,
                "param": self.param,
                "code": self.code,
            }
        }

    def body(self) -> bytes:
        return orjson.dumps(self.document())

    def headers(self) -> dict[str, str]:
        """`Retry-After` in whole seconds, at least 1 (RFC 9110 10.2.3); `x-should-retry` for the SDKs."""
        found = {**self.limits}
        if self.retry_after is not None:
            found["Retry-After"] = str(max(1, ceil(self.retry_after)))
        if self.should_retry is not None:
            found["x-should-retry"] = "true" if self.should_retry else "false"
        return found


class InvalidRequest(ApiError):
    """The payload cannot be served as it is; `param` names the field."""

    status = 400
    type = "invalid_request_error"
    default_code = None


class InvalidKey(ApiError):
    """No key, an unknown key or one that ended: all look the same to the caller."""

    status = 401
    type = "invalid_request_error"
    default_code = "invalid_api_key"

    def __init__(self, message: str = "Incorrect API key provided.") -> None:
        super().__init__(message)


class ModelNotAllowed(ApiError):
    """The key is limited to other models."""

    status = 403
    type = "invalid_request_error"
    default_code = "model_not_allowed"

    def __init__(self, model: str) -> None:
        super().__init__(f"This API key may not use the model '{model}'.", param="model")


class EndpointNotAllowed(ApiError):
    """The key is limited to other endpoints."""

    status = 403
    type = "invalid_request_error"
    default_code = "endpoint_not_allowed"

    def __init__(self, endpoint: str) -> None:
        super().__init__(f"This API key may not use {endpoint}.")


class NotFound(ApiError):
    """No such address."""

    status = 404
    type = "invalid_request_error"
    default_code = None


class ModelNotFound(ApiError):
    """The model is not configured and no rule says whose it is; it is never guessed."""

    status = 404
    type = "invalid_request_error"
    default_code = "model_not_found"

    def __init__(self, model: str, message: str | None = None) -> None:
        super().__init__(
            message or f"The model '{model}' does not exist or is not configured here."
        )


class MethodNotAllowed(ApiError):
    status = 405
    type = "invalid_request_error"
    default_code = None


class PayloadTooLarge(ApiError):
    status = 413
    type = "invalid_request_error"
    default_code = None


class UnsupportedMedia(ApiError):
    status = 415
    type = "invalid_request_error"
    default_code = None


class RateLimited(ApiError):
    """Asked more often than a limit allows: ours by plan, or the provider's."""

    status = 429
    type = "rate_limit_exceeded"
    default_code = "rate_limit_exceeded"


class QuotaExhausted(ApiError):
    """Nothing left to spend; asking again soon is useless, and the SDKs are told so."""

    status = 429
    type = "insufficient_quota"
    default_code = "insufficient_quota"

    def __init__(self, message: str, *, retry_after: float = 3_600) -> None:
        super().__init__(message, retry_after=retry_after, should_retry=False)


class ProviderRefused(ApiError):
    """The provider said no to this very request (400, 404, 409, 413, 422): passed on in our form."""

    type = "invalid_request_error"
    default_code = None

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message, param=param, code=code)
        self.status = status


class UpstreamFailed(ApiError):
    """The provider broke, answered nonsense, or refused our own key: 502, never 401."""

    status = 502


class Unavailable(ApiError):
    """Cannot serve now (draining, overloaded, a store is away); says when to come back."""

    status = 503

    def __init__(
        self, message: str, *, retry_after: float = 1, should_retry: bool | None = None
    ) -> None:
        super().__init__(message, retry_after=retry_after, should_retry=should_retry)


class UpstreamTimeout(ApiError):
    """The provider did not answer in the time it has."""

    status = 504
