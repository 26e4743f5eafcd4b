"""The routing table, whole. The POST routes that cost money are taken by the front door before it is read."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from tornado.web import Application, StaticFileHandler

from app.web.api import (
    OPEN,
    Handler,
    HealthRoute,
    ModelRoute,
    ModelsRoute,
    Nowhere,
    PostOnly,
    Rooms,
)
from app.web.metrics import MetricsRoute, Page
from app.web.pages import CheckoutPage, FrontPage, UnsubscribePage
from app.web.usage import UsageOfRequestRoute, UsageRoute
from app.web.webhooks import StripeRoute


class Static(StaticFileHandler, Handler):  # type: ignore[misc]
    """The pages' style sheet; its faults are told as everybody's are."""

    auth = OPEN

    def initialize(self, rooms: Rooms, path: str) -> None:  # type: ignore[override]
        Handler.initialize(self, rooms)
        StaticFileHandler.initialize(self, path)


def table(rooms: Rooms, metrics: Page | None = None) -> list[tuple[Any, ...]]:
    """Every route with its handler."""
    given = {"rooms": rooms}
    watched = [] if metrics is None else [(r"/metrics", MetricsRoute, given)]
    return [
        *watched,
        (r"/", FrontPage, given),
        (r"/health", HealthRoute, given),
        (r"/(?:v1/)?models", ModelsRoute, given),
        (r"/(?:v1/)?models/(.+)", ModelRoute, given),
        (r"/(?:v1/)?usage", UsageRoute, given),
        (r"/(?:v1/)?usage/([^/]+)", UsageOfRequestRoute, given),
        (r"/(?:v1/)?(?:chat/completions|completions|embeddings)", PostOnly, given),
        (r"/api/webhooks/stripe", StripeRoute, given),
        (r"/billing/(paid|cancelled)", CheckoutPage, given),
        (r"/unsubscribe/([^/]+)", UnsubscribePage, given),
        (r"/static/(app\.css)", Static, {**given, "path": str(files("app.web") / "static")}),
    ]


def application(rooms: Rooms, metrics: Page | None = None, **settings: Any) -> Application:
    return Application(
        table(rooms, metrics),
        metrics=metrics,
        default_handler_class=Nowhere,
        default_handler_args={"rooms": rooms},
        template_path=str(files("app.web") / "templates"),
        log_function=_silent,
        clock=rooms.clock,
        **settings,
    )


def _silent(_: object) -> None:
    """No access line per request; what is worth a line is logged where it happens."""
