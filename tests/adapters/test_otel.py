"""OpenTelemetry: what a collector gets for a hit, a miss, a failure and a crash."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from adapters.telemetry.otel import OpenTelemetry, headers_from
from adapters.telemetry.sampling import kept, threshold
from domain.usage import DENIED, FAILED, MISS, Usage
from ports.telemetry import Stage
from tests.conftest import Clock
from tests.support.telemetry import Receiver, receiving, record

STAGES = (Stage("cache", 1.0, 3.0), Stage("provider", 4.0, 900.0))


@pytest.fixture
def collector() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


def tell(collector: Receiver, *told: Any, rate: float = 1.0) -> list[dict[str, Any]]:
    """The spans of what is told: pairs of a record and its stages."""
    observer = OpenTelemetry(collector.root, {"x-team": "a b"}, rate, "watchllm", "1", Clock())
    for one, stages in told:
        observer.exchange(one, stages)
    observer.close()
    return collector.otlp_spans()


def attributes(span: dict[str, Any]) -> dict[str, Any]:
    return {one["key"]: next(iter(one["value"].values())) for one in span["attributes"]}


def test_a_miss_is_a_request_with_its_stages(collector: Receiver) -> None:
    """The trace is the request's id; times are those of the row; the provider's call is a client span of its own."""
    miss = record(7, outcome=MISS, total_ms=1000.0, usage=Usage(input=80, cache_read=20, output=9))
    request, cache, provider = tell(collector, (miss, STAGES))

    assert {miss.id.replace("-", "")} == {span["traceId"] for span in (request, cache, provider)}
    assert (None, request["spanId"], request["spanId"]) == tuple(
        span.get("parentSpanId") for span in (request, cache, provider)
    )
    assert ("chat", "cache", "chat gpt-4o") == (request["name"], cache["name"], provider["name"])
    assert (2, 1, 3) == (request["kind"], cache["kind"], provider["kind"])
    assert 10**9 == int(request["endTimeUnixNano"]) - int(request["startTimeUnixNano"])
    assert 896 == round(
        (int(provider["endTimeUnixNano"]) - int(provider["startTimeUnixNano"])) / 1e6
    )
    said = attributes(provider)
    assert ("chat", "openai", "gpt-4o", "gpt-4o", "100", "9", "20") == tuple(
        said["gen_ai." + name]
        for name in (
            "operation.name",
            "provider.name",
            "request.model",
            "response.model",
            "usage.input_tokens",
            "usage.output_tokens",
            "usage.cache_read.input_tokens",
        )
    )
    assert "a b" == collector.received[0].headers["x-team"]


def test_a_failure_is_an_error_span(collector: Receiver) -> None:
    """With the code, not with the words."""
    failed = record(outcome=FAILED, status=502, cache_reason="api_error")
    request, *_, provider = tell(collector, (failed, STAGES))

    assert {"code": 2} == request["status"] == provider["status"]
    assert "api_error" == attributes(request)["error.type"]


def test_a_crash_is_told_with_its_stack(collector: Receiver) -> None:
    """In the trace of its request, with frames and without the message."""
    observer = OpenTelemetry(collector.root, {}, 0.0, "watchllm", "1", Clock())
    try:
        raise RuntimeError("a prompt")
    except RuntimeError as error:
        observer.crash(error, "app.web.front: a request crashed", request=record().id)
    observer.close()

    [span] = collector.otlp_spans()
    [event] = span["events"]
    said = attributes(event)
    assert record().id.replace("-", "") == span["traceId"]
    assert ("RuntimeError", "<withheld>") == (said["exception.type"], said["exception.message"])
    assert "in test_a_crash_is_told_with_its_stack" in said["exception.stacktrace"]


@pytest.mark.parametrize("rate", [0.0, 0.1, 1.0])
def test_a_share_is_told_and_every_failure(collector: Receiver, rate: float) -> None:
    """The id chooses, so that the same requests are seen everywhere."""
    step = -(-(2**32) // 500)
    told = [(record(at * step), ()) for at in range(500)]
    failed = [(record(at * step, outcome=FAILED, status=502), ()) for at in range(450, 500)]
    spans = tell(collector, *told, *failed, rate=rate)

    assert round(500 * rate) + 50 == len(spans)


def test_a_refusal_is_no_failure() -> None:
    """A caller over its limit could fill every trace there is."""
    assert not kept(record(2**32 - 1, outcome=DENIED, status=429), threshold(0.1))
    assert kept(record(2**32 - 1, outcome=FAILED, status=502), threshold(0.0))


@pytest.mark.parametrize(
    ("text", "headers"),
    [
        ("", {}),
        ("a=b", {"a": "b"}),
        ("a=b, c=d=e", {"a": "b", "c": "d=e"}),
        ("Authorization=Bearer%20x", {"Authorization": "Bearer x"}),
    ],
)
def test_headers_are_read_as_the_specification_says(text: str, headers: dict[str, str]) -> None:
    assert headers == headers_from(text)


@pytest.mark.parametrize("text", ["a", "=b", "a=b,c"])
def test_headers_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(ValueError):
        headers_from(text)
