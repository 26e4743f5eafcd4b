"""Who watches, as the settings say; each is imported only if one asks for it. Also what metrics are read from."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from attrs import define, field

from adapters.telemetry.crashes import CrashHandler
from adapters.telemetry.fanout import Fanout
from app import version
from app.web.metrics import Page
from config.secrets import SettingError
from config.settings import Settings
from ports.telemetry import Observer, Reading, Readings

if TYPE_CHECKING:
    from adapters.telemetry.exporter import Exporter
    from adapters.telemetry.prometheus import Prometheus

Clock = Callable[[], float]


@define
class Observers:
    """`sources` are filled in by the root, once there is something to read."""

    told: Fanout
    sources: list[Readings]
    metrics: Prometheus | None
    loops: list[Callable[[], Coroutine[Any, Any, None]]]
    closers: list[Callable[[], None]]
    _crashes: CrashHandler = field(init=False)

    @_crashes.default
    def _handler(self) -> CrashHandler:
        return CrashHandler(self.told)

    def metrics_here(self, settings: Settings) -> Page | None:
        """The page, if it is to be had on the main port."""
        if self.metrics is None or settings.listening.metrics_port is not None:
            return None
        return self.metrics.text

    def start(self) -> None:
        if self.closers:
            logging.getLogger().addHandler(self._crashes)

    async def aclose(self) -> None:
        logging.getLogger().removeHandler(self._crashes)
        loop = asyncio.get_running_loop()
        ended = (loop.run_in_executor(None, close) for close in self.closers)
        await asyncio.gather(*ended, return_exceptions=True)


def open_observers(
    settings: Settings, models: frozenset[str], clock: Clock, monotonic: Clock
) -> Observers:
    """Raises SettingError. To be called after forking."""
    given = settings.telemetry
    found: list[Observer] = []
    exporters: list[Exporter[Any]] = []
    opened = Observers(Fanout(()), [], None, [], [])
    if settings.listening.serves_metrics:
        _prometheus(settings, models, clock, monotonic, opened, found)
    if given.sentry_dsn is not None:
        from adapters.telemetry.sentry import Sentry

        sentry = Sentry(
            given.sentry_dsn.reveal(),
            given.sentry_environment,
            f"watchllm@{version()}",
            tornado=given.sentry_tornado,
            traces=given.sentry_traces_rate,
        )
        found.append(sentry)
        exporters.append(sentry.exporter)
        opened.closers.append(sentry.close)
    if given.datadog:
        from adapters.telemetry.datadog import Datadog

        datadog = Datadog(
            given.datadog_host,
            given.dogstatsd_port,
            models,
            given.trace_rate,
            given.datadog_service,
            given.datadog_env,
            version(),
            clock,
            tornado=given.datadog_tornado,
        )
        found.append(datadog)
        exporters.append(datadog.exporter)
        opened.closers.append(datadog.close)
    if given.otlp_endpoint is not None:
        from adapters.telemetry.otel import OpenTelemetry, headers_from

        headers = {} if given.otlp_headers is None else headers_from(given.otlp_headers.reveal())
        otel = OpenTelemetry(
            given.otlp_endpoint,
            headers,
            given.trace_rate,
            given.datadog_service,
            version(),
            clock,
        )
        found.append(otel)
        exporters.append(otel.exporter)
        opened.closers.append(otel.close)
    if given.access_log > 0:
        from adapters.telemetry.access import AccessLog

        access = AccessLog(given.access_log)
        found.append(access)
        exporters.append(access.exporter)
        opened.closers.append(access.close)
    opened.told.observers = tuple(found)
    opened.sources.append(lambda: _queues(exporters))
    return opened


def _prometheus(
    settings: Settings,
    models: frozenset[str],
    clock: Clock,
    monotonic: Clock,
    opened: Observers,
    found: list[Observer],
) -> None:
    from adapters.telemetry.looplag import LoopLag
    from adapters.telemetry.prometheus import Prometheus
    from adapters.telemetry.tally import Tally

    slots = None
    if settings.listening.processes > 1:
        from adapters.telemetry.shared import Slots

        try:
            slots = Slots(settings.data_dir / "metrics")
        except OSError as exc:
            raise SettingError(
                "WATCHLLM_DATA_DIR", f"cannot hold metrics: {exc.strerror}"
            ) from exc
    tally = Tally(models)
    metrics = Prometheus(tally, opened.sources, clock, version(), slots)
    lag = LoopLag(monotonic)
    opened.sources.append(lag.read)
    opened.metrics = metrics
    opened.loops += [lag.run] if slots is None else [lag.run, metrics.run]
    opened.closers.append(metrics.close)
    found.append(tally)


def _queues(exporters: Sequence[Exporter[Any]]) -> Iterable[Reading]:
    for one in exporters:
        labels = (("receiver", one.name),)
        yield Reading("watchllm_telemetry_waiting", one.waiting, labels)
        yield Reading("watchllm_telemetry_dropped_total", one.dropped, labels)
