"""`GET /metrics`: what Prometheus reads, on the main port or on one of its own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from tornado.web import Application, RequestHandler

from app.web.api import OPEN, Handler

CONTENT_TYPE = "text/plain; version=1.0.0; charset=utf-8"
Page = Callable[[], Awaitable[bytes]]


class MetricsRoute(Handler):
    """On the main port, beside everything else."""

    auth = OPEN

    async def get(self) -> None:
        metrics: Page = self.settings["metrics"]
        self.set_header("Content-Type", CONTENT_TYPE)
        self.finish(await metrics())


class OwnPort(RequestHandler):
    """Nothing but the metrics, for a port that only the operator's network reaches."""

    def set_default_headers(self) -> None:
        self.clear_header("Server")

    async def get(self) -> None:
        self.set_header("Content-Type", CONTENT_TYPE)
        self.finish(await self.settings["metrics"]())

    def compute_etag(self) -> None:
        """Never the same twice."""


def own_port(page: Page) -> Application:
    return Application(
        [(r"/metrics", OwnPort)],
        metrics=page,
        log_function=lambda _: None,
    )
