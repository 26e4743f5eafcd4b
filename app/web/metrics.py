"""`GET /metrics`: what Prometheus reads, on the main port or on one of its own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from tornado.web import Application

from app.web.api import OPEN, Handler
from app.web.front import Front
from domain.errors import NotFound

CONTENT_TYPE = "text/plain; version=1.0.0; charset=utf-8"
Page = Callable[[], Awaitable[bytes]]


class MetricsRoute(Handler):
    """On the main port, beside everything else."""

    auth = OPEN

    async def get(self) -> None:
        metrics: Page = self.settings["metrics"]
        self.set_header("Content-Type", CONTENT_TYPE)
        self.finish(await metrics())


class OwnPort(MetricsRoute):
    """Nothing but the metrics, for a port that only the operator's network reaches."""

    def initialize(self) -> None:  # type: ignore[override]
        """No room is to be reached from here."""


class NotOnOwnPort(Handler):
    """Every other address there."""

    auth = OPEN

    def initialize(self) -> None:  # type: ignore[override]
        """As above."""

    def prepare(self) -> None:  # type: ignore[override]
        raise NotFound("This port serves GET /metrics and nothing else.")


def own_port(page: Page, front: Front) -> Application:
    return Application(
        [(r"/metrics", OwnPort)],
        metrics=page,
        front=front,
        clock=front.clock,
        default_handler_class=NotOnOwnPort,
        log_function=lambda _: None,
    )
