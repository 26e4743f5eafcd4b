"""Sentry: every unexpected exception, with whose request it was, and nothing a caller has written. Of alarms, those
that only an operator can end.

The SDK collects nothing by itself here: no integration, no breadcrumb, no local variable, no body. Its Tornado
integration costs a third of a hit and its tracing several hits, so both wait for a setting.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import sentry_sdk
from sentry_sdk.integrations import Integration
from sentry_sdk.types import Event, Hint

from adapters.telemetry.exporter import Exporter
from adapters.telemetry.scrub import scrubbed, scrubbed_event
from domain.usage import CLIENT_GONE, FAILED, UsageRecord
from domain.value import value
from ports.telemetry import Alarm, Stage

PENDING: Final = 100
"""Tracebacks that may wait to be packed: each holds its frames, and with them what they were working on."""
QUEUE: Final = 1_000
PER_SECOND: Final = 10
"""How often one kind of crash is told of in a second."""
KINDS: Final = 1_000
REMEMBERED: Final = 256


@value
class Crashed:
    error: BaseException
    where: str
    tags: Mapping[str, str]


class Sentry:
    """`tornado` and `traces` switch on what is dear. There is one per process: the SDK's client is the process's."""

    def __init__(
        self,
        dsn: str,
        environment: str | None,
        release: str,
        *,
        tornado: bool = False,
        traces: float = 0.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        sentry_sdk.init(
            dsn=dsn,
            environment=environment,
            release=release,
            default_integrations=False,
            auto_enabling_integrations=False,
            integrations=_integrations(tornado),
            include_local_variables=False,
            max_request_body_size="never",
            max_breadcrumbs=0,
            traces_sample_rate=traces if tornado and traces else None,
            before_send=_scrub,
            before_send_transaction=_scrub,
            auto_session_tracking=False,
            send_client_reports=False,
            transport_queue_size=QUEUE,
            shutdown_timeout=0,
        )
        self.suppressed = 0
        self._monotonic = monotonic
        self._windows: dict[tuple[str, str], tuple[float, int]] = {}
        self._broken: OrderedDict[str, UsageRecord] = OrderedDict()
        self.exporter: Exporter[Crashed] = Exporter("sentry", self._send, limit=PENDING, pause=0.2)

    def exchange(self, record: UsageRecord, _: Sequence[Stage] = (), /) -> None:
        """Remembers what broke: when its crash is told, a moment later, it is known whose it was."""
        if record.status < 500 and record.outcome not in (FAILED, CLIENT_GONE):
            return
        self._broken[record.id] = record
        if len(self._broken) > REMEMBERED:
            self._broken.popitem(last=False)

    def crash(self, error: BaseException, where: str, /, **tags: str) -> None:
        if isinstance(error, Alarm) and not error.urgent:
            return  # it follows from another one, or mends itself: metrics and traces tell it
        if not self._admitted(where, type(error).__name__):
            self.suppressed += 1
            return
        record = self._broken.get(tags.get("request", ""))
        if record is not None:
            tags = {
                "project": record.project,
                "route": record.endpoint,
                "model": record.model_asked,
                "provider": record.provider,
            } | tags
        self.exporter.give(Crashed(error, where, tags))

    def close(self) -> None:
        self.exporter.close()
        sentry_sdk.get_client().close(timeout=1)

    def _admitted(self, where: str, kind: str) -> bool:
        now = self._monotonic()
        if len(self._windows) >= KINDS:
            self._windows.clear()
        began, count = self._windows.get((where, kind), (now, 0))
        if now - began >= 1:
            began, count = now, 0
        self._windows[where, kind] = began, count + 1
        return count < PER_SECOND

    def _send(self, crashes: list[Crashed]) -> None:
        for one in crashes:
            with sentry_sdk.new_scope() as scope:
                scope.set_tag("where", one.where)
                for name, text in one.tags.items():
                    if text:
                        scope.set_tag(name, scrubbed(text))
                scope.capture_exception(one.error)


def _integrations(tornado: bool) -> list[Integration]:
    if not tornado:
        return []
    from sentry_sdk.integrations.tornado import TornadoIntegration

    return [TornadoIntegration()]


def _scrub(event: Event, hint: Hint) -> Event:
    """The last thing before an event leaves; whatever put it together."""
    raised = hint.get("exc_info")
    error: BaseException | None = raised[1] if raised else None
    found: Any = scrubbed_event(dict(event), error)
    return found  # type: ignore[no-any-return]
