"""Names that may become a label: from fixed lists only, for each new one is a new series that somebody keeps."""

from __future__ import annotations

from collections.abc import Collection

from domain.usage import DENIED, FAILED, UsageRecord
from domain.value import value

OTHER = "other"

_REASONS = frozenset(
    {
        "api_error",
        "context_length_exceeded",
        "insufficient_quota",
        "invalid_request_error",
        "model_not_found",
        "rate_limit_exceeded",
    }
)


@value
class Labels:
    """What requests are counted by. `reason` is empty where nothing went wrong."""

    endpoint: str
    provider: str
    model: str
    outcome: str
    status: int
    reason: str


def labels_of(record: UsageRecord, models: Collection[str]) -> Labels:
    """Callers choose the model's name and providers the code of an error, so both are looked up."""
    model = record.model_answered
    if model and model not in models:
        model = OTHER
    reason = ""
    if record.outcome in (DENIED, FAILED):
        reason = record.cache_reason if record.cache_reason in _REASONS else OTHER
    return Labels(record.endpoint, record.provider, model, record.outcome, record.status, reason)
