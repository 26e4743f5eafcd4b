"""Datadog: spans through ddtrace on our own terms, counts and distributions by DogStatsD.

ddtrace patches nothing here unless asked: spans are made in the exporter's thread from what a request has left behind.
It is imported by whoever makes a `Datadog`, and by nobody else.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Final

from adapters.telemetry.exporter import Exporter
from adapters.telemetry.labels import OTHER
from adapters.telemetry.sampling import kept, threshold
from adapters.telemetry.spans import PROVIDER, Span, spans_of
from adapters.telemetry.stacks import Crash, frames
from adapters.telemetry.statsd import Statsd
from domain.usage import UsageRecord
from ports.telemetry import Stage

if TYPE_CHECKING:
    from ddtrace.trace import Context as TraceContext
    from ddtrace.trace import Span as Made
    from ddtrace.trace import Tracer

MANNERS: Final = {
    "DD_INSTRUMENTATION_TELEMETRY_ENABLED": "false",
    "DD_REMOTE_CONFIGURATION_ENABLED": "false",
    "DD_CRASHTRACKING_ENABLED": "false",
    "DD_TRACE_STARTUP_LOGS": "false",
    "DD_TRACE_REPORT_HOSTNAME": "false",
    "DD_TRACE_HEADER_TAGS": "",
    "DD_TRACE_HTTP_SERVER_TAG_QUERY_STRING": "false",
    "DD_TRACE_HTTP_CLIENT_TAG_QUERY_STRING": "false",
    "DD_REDIS_RAW_COMMAND_TAGS_ENABLED": "false",
}
"""What ddtrace reads of the environment where the operator has not spoken: it tells nobody but the agent, and of
nothing but us."""
KEEP: Final = "manual.keep"
"""The tag by which ddtrace knows a trace that somebody has chosen already."""

Told = tuple[UsageRecord, Sequence[Stage], bool] | Crash


class Datadog:
    """`rate` of the requests become spans, and every error; all are counted. `models` are the names that may be tags.

    Where the agent's traces go is for ddtrace to read (`DD_AGENT_HOST`, `DD_TRACE_AGENT_PORT`). `tornado` adds its own
    patch, which doubles the price of a hit.
    """

    def __init__(
        self,
        host: str,
        statsd_port: int,
        models: Collection[str],
        rate: float,
        service: str,
        env: str | None,
        version: str,
        clock: Callable[[], float],
        *,
        tornado: bool = False,
    ) -> None:
        self._tracer, self._context = _ddtrace(tornado=tornado)
        tags = [f"service:{service}", f"version:{version}"] + ([f"env:{env}"] if env else [])
        self._service = service
        self._version = version
        self._models = models
        self._clock = clock
        self._below = threshold(rate)
        self._statsd = Statsd(host, statsd_port, tags)
        self.exporter: Exporter[Told] = Exporter("datadog", self._send)

    def exchange(self, record: UsageRecord, stages: Sequence[Stage] = (), /) -> None:
        self.exporter.give((record, stages, kept(record, self._below)))

    def crash(self, error: BaseException, where: str, /, **tags: str) -> None:
        self.exporter.give(Crash.of(error, where, tags, self._clock()))

    def close(self) -> None:
        """Gives an agent that hangs two seconds. The interpreter's own end would wait for ddtrace's thread for twenty
        more, so a server ends by `os._exit`."""
        self.exporter.close()
        self._statsd.close()
        self._tracer.shutdown(timeout=1)

    def _send(self, told: list[Told]) -> None:
        crashes = [one for one in told if isinstance(one, Crash)]
        exchanges = [one for one in told if not isinstance(one, Crash)]
        self._statsd.send(
            [
                *self._statsd.counts([record for record, _, _ in exchanges], self._models),
                *(self._statsd.crash(one.name, one.type, one.where) for one in crashes),
            ]
        )
        for record, stages, chosen in exchanges:
            if chosen:
                self._trace(record, stages)
        for crash in crashes:
            self._trace_crash(crash)

    def _trace(self, record: UsageRecord, stages: Sequence[Stage]) -> None:
        spans = spans_of(record, stages)
        root = self._begin(spans[0], self._context(trace_id=int(record.id.replace("-", ""), 16)))
        root.set_tag(KEEP)
        for span in spans[1:]:
            child = self._tracer.start_span(
                span.name, child_of=root, service=self._service, resource=self._resource(span)
            )
            _fill(child, span)
            child.finish(span.end)
        root.finish(spans[0].end)

    def _begin(self, span: Span, trace: TraceContext) -> Made:
        found = self._tracer.start_span(
            span.name,
            child_of=trace,
            service=self._service,
            resource=self._resource(span),
            span_type="web",
        )
        found.set_tag("version", self._version)
        _fill(found, span)
        return found

    def _resource(self, span: Span) -> str:
        """Datadog keeps statistics by resource, so no caller may invent one."""
        if not span.name.endswith(PROVIDER):
            return span.resource
        operation, _, model = span.resource.partition(" ")
        return f"{operation} {model if model in self._models else OTHER}"

    def _trace_crash(self, crash: Crash) -> None:
        span = self._tracer.start_span(
            f"watchllm.{crash.name}",
            child_of=self._context(trace_id=int(crash.trace, 16)),
            service=self._service,
            resource=crash.where if crash.name == "alarm" else crash.type,
        )
        span.set_tag(KEEP)
        span.start_ns = int(crash.at * 1e9)
        span.error = 1
        span.set_tag("error.type", crash.type)
        span.set_tag("error.message", crash.said)
        span.set_tag("error.stack", frames(crash))
        span.set_tag("watchllm.where", crash.where)
        for name, text in crash.tags.items():
            span.set_tag(f"watchllm.{name}", text)
        span.finish(crash.at)


def _ddtrace(*, tornado: bool) -> tuple[Tracer, type[TraceContext]]:
    """It reads the environment while it is imported, so what the operator left open is said before."""
    for name, text in MANNERS.items():
        os.environ.setdefault(name, text)
    from ddtrace.trace import Context, tracer

    # An agent that is away is told of once, by the exporter's figures, not once for each flush.
    logging.getLogger("ddtrace").setLevel(logging.CRITICAL)
    if tornado:
        from ddtrace import patch

        patch(tornado=True)
    return tracer, Context


def _fill(made: Made, span: Span) -> None:
    made.start_ns = int(span.start * 1e9)
    for name, found in span.attributes.items():
        if isinstance(found, bool | str):
            made.set_tag(name, str(found).lower() if isinstance(found, bool) else found)
        else:
            made.set_metric(name, found)
    if span.error:
        made.error = 1
        made.set_tag("error.type", span.error)
