"""One finished request as spans, for whoever draws them: made at its end from what was measured anyway.

Attributes are those of OpenTelemetry's semantic conventions for generative AI (version 1.41) where they have one, and
`watchllm.*` else. No span holds a prompt, an answer or a header.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from adapters.telemetry.scrub import scrubbed
from domain.models import SANDBOX
from domain.usage import FAILED, HIT, UsageRecord
from domain.value import value
from ports.telemetry import Stage

Attribute = str | int | float | bool

REQUEST, PROVIDER = "watchllm.request", "provider"
_OPERATIONS: Final = {
    "chat/completions": "chat",
    "completions": "text_completion",
    "embeddings": "embeddings",
}
LONGEST_NAME: Final = 256


@value
class Span:
    """`parent` is the index of another span of the request; times are epoch seconds."""

    name: str
    resource: str
    parent: int | None
    start: float
    end: float
    attributes: dict[str, Attribute]
    error: str = ""


def spans_of(record: UsageRecord, stages: Sequence[Stage]) -> list[Span]:
    """The request first, then its stages in their order."""
    operation = _OPERATIONS.get(record.endpoint, record.endpoint)
    error = _error(record)
    attributes = _about(record, operation)
    began = record.at
    found = [
        Span(REQUEST, operation, None, began, began + record.total_ms / 1000, attributes, error)
    ]
    for stage in stages:
        calls = stage.name == PROVIDER
        own = {**_gen_ai(record, operation)} if calls else {}
        found.append(
            Span(
                f"watchllm.{stage.name}",
                f"{operation} {_name(record.model_answered)}" if calls else stage.name,
                0,
                began + stage.from_ms / 1000,
                began + stage.to_ms / 1000,
                own,
                error if calls else "",
            )
        )
    return found


def _about(record: UsageRecord, operation: str) -> dict[str, Attribute]:
    found: dict[str, Attribute] = {
        **_gen_ai(record, operation),
        "http.response.status_code": record.status,
        "watchllm.request_id": record.id,
        "watchllm.project": record.project,
        "watchllm.endpoint": record.endpoint,
        "watchllm.outcome": record.outcome,
        "watchllm.streamed": record.streamed,
        "watchllm.cached": record.outcome == HIT,
        "watchllm.first_byte_ms": round(record.first_byte_ms, 3),
    }
    if record.cache_reason:
        found["watchllm.reason"] = scrubbed(record.cache_reason)
    if record.cost is not None:
        found["watchllm.cost_dollars"] = record.cost / 10**12
    if record.avoided:
        found["watchllm.saved_dollars"] = record.avoided / 10**12
    return found


def _gen_ai(record: UsageRecord, operation: str) -> dict[str, Attribute]:
    usage = record.usage
    found: dict[str, Attribute] = {
        "gen_ai.operation.name": operation,
        "gen_ai.request.model": _name(record.model_asked),
    }
    if record.provider:
        found["gen_ai.provider.name"] = (
            "watchllm" if record.provider == SANDBOX else record.provider
        )
    if record.model_answered:
        found["gen_ai.response.model"] = _name(record.model_answered)
    if usage.total:
        found["gen_ai.usage.input_tokens"] = usage.prompt
        found["gen_ai.usage.output_tokens"] = usage.completion
    if usage.cache_read:
        found["gen_ai.usage.cache_read.input_tokens"] = usage.cache_read
    if usage.cache_write or usage.cache_write_1h:
        written = usage.cache_write + usage.cache_write_1h
        found["gen_ai.usage.cache_creation.input_tokens"] = written
    if usage.reasoning:
        found["gen_ai.usage.reasoning.output_tokens"] = usage.reasoning
    return found


def _error(record: UsageRecord) -> str:
    """What kind of error, as `error.type` wants it: a code of ours or the status. Never a message."""
    if record.status < 500 and record.outcome != FAILED:
        return ""
    return scrubbed(record.cache_reason) or str(record.status)


def _name(model: str) -> str:
    """Callers choose it, so it may be anything."""
    return scrubbed(model[:LONGEST_NAME])
