"""Spans to an OpenTelemetry collector, as OTLP over HTTP in its JSON form (OTLP 1.x, "JSON Protobuf Encoding").

The form is small and stable, so no SDK is needed. Only `http.client` is: it follows no redirect and knows no proxy, so
the headers go where they were meant to go.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from http.client import HTTPConnection, HTTPSConnection
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from adapters.telemetry.exporter import Exporter
from adapters.telemetry.sampling import kept, threshold
from adapters.telemetry.spans import PROVIDER, Span, spans_of
from adapters.telemetry.stacks import Crash, frames
from domain.usage import UsageRecord
from ports.telemetry import Stage

TIMEOUT: Final = 5.0
SERVER, INTERNAL, CLIENT = 2, 1, 3
FAILED: Final = 2

Told = tuple[UsageRecord, Sequence[Stage]] | Crash


class OpenTelemetry:
    """`endpoint` is the collector's root, without `/v1/traces`. `rate` of the requests are told of, and every error."""

    def __init__(
        self,
        endpoint: str,
        headers: Mapping[str, str],
        rate: float,
        service: str,
        version: str,
        clock: Callable[[], float],
    ) -> None:
        self._clock = clock
        self._url = urlsplit(endpoint.rstrip("/") + "/v1/traces")
        self._headers = {**headers, "Content-Type": "application/json"}
        self._below = threshold(rate)
        self._resource = _attributes({"service.name": service, "service.version": version})
        self.exporter: Exporter[Told] = Exporter("opentelemetry", self._send)

    def exchange(self, record: UsageRecord, stages: Sequence[Stage] = (), /) -> None:
        if kept(record, self._below):
            self.exporter.give((record, stages))

    def crash(self, error: BaseException, where: str, /, **tags: str) -> None:
        self.exporter.give(Crash.of(error, where, tags, self._clock()))

    def close(self) -> None:
        self.exporter.close()

    def _send(self, told: list[Told]) -> None:
        found = [span for one in told for span in _spans(one)]
        scope = {"scope": {"name": "watchllm"}, "spans": found}
        traces = {
            "resourceSpans": [{"resource": {"attributes": self._resource}, "scopeSpans": [scope]}]
        }
        self._post(json.dumps(traces, separators=(",", ":")).encode())

    def _post(self, body: bytes) -> None:
        kind = HTTPSConnection if self._url.scheme == "https" else HTTPConnection
        connection = kind(self._url.hostname or "", self._url.port, timeout=TIMEOUT)
        try:
            connection.request("POST", self._url.path, body, self._headers)
            answer = connection.getresponse()
            answer.read(1 << 16)
        finally:
            connection.close()
        if answer.status >= 300:
            raise OSError(f"the collector answered {answer.status}")


def headers_from(text: str) -> dict[str, str]:
    """As `OTEL_EXPORTER_OTLP_HEADERS` has them: `name=value,other=value`, percent-encoded. Raises ValueError."""
    found = {}
    for pair in filter(None, map(str.strip, text.split(","))):
        name, sign, given = pair.partition("=")
        if not sign or not name.strip():
            raise ValueError("must be written name=value,name=value")
        found[unquote(name.strip())] = unquote(given.strip())
    return found


def _spans(told: Told) -> list[dict[str, Any]]:
    if isinstance(told, Crash):
        return [_crash(told)]
    record, stages = told
    trace = record.id.replace("-", "")
    # The trace is found by the request's id; a span's own id only has to differ from its sisters'.
    root = int(trace[16:], 16)
    return [
        _span(span, trace, root + at, None if span.parent is None else root + span.parent)
        for at, span in enumerate(spans_of(record, stages))
    ]


def _span(span: Span, trace: str, id: int, parent: int | None) -> dict[str, Any]:
    kind = SERVER if parent is None else CLIENT if span.name.endswith(PROVIDER) else INTERNAL
    found: dict[str, Any] = {
        "traceId": trace,
        "spanId": f"{id & (1 << 64) - 1:016x}",
        "name": span.resource,
        "kind": kind,
        "startTimeUnixNano": str(int(span.start * 1e9)),
        "endTimeUnixNano": str(int(span.end * 1e9)),
        "attributes": _attributes(span.attributes),
    }
    if parent is not None:
        found["parentSpanId"] = f"{parent:016x}"
    if span.error:
        found["status"] = {"code": FAILED}
        found["attributes"] += _attributes({"error.type": span.error})
    return found


def _crash(crash: Crash) -> dict[str, Any]:
    """A span of no length, with the exception as its event."""
    at = str(int(crash.at * 1e9))
    told = {
        "exception.type": crash.type,
        "exception.message": crash.said,
        "exception.stacktrace": frames(crash),
    }
    attributes = {"watchllm.where": crash.where, "error.type": crash.type}
    attributes |= {f"watchllm.{name}": text for name, text in crash.tags.items()}
    return {
        "traceId": crash.trace,
        "spanId": crash.span,
        "name": crash.name,
        "kind": INTERNAL,
        "startTimeUnixNano": at,
        "endTimeUnixNano": at,
        "status": {"code": FAILED},
        "attributes": _attributes(attributes),
        "events": [{"timeUnixNano": at, "name": "exception", "attributes": _attributes(told)}],
    }


def _attributes(given: Mapping[str, str | int | float | bool]) -> list[dict[str, Any]]:
    return [{"key": name, "value": _value(found)} for name, found in given.items()]


def _value(found: str | int | float | bool) -> dict[str, Any]:
    if isinstance(found, bool):
        return {"boolValue": found}
    if isinstance(found, int):
        return {"intValue": str(found)}  # the JSON form writes 64 bits as text
    if isinstance(found, float):
        return {"doubleValue": found}
    return {"stringValue": found}
