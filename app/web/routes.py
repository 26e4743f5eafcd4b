"""The routing table, whole. The POST routes that cost money are taken by the front door before it is read."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from tornado.web import Application, StaticFileHandler

from app.web.api import HealthRoute, ModelRoute, ModelsRoute, Nowhere, PostOnly, Rooms
from app.web.pages import FrontPage

STATIC = (r"/static/(app\.css)", StaticFileHandler)


def table(rooms: Rooms) -> list[tuple[Any, ...]]:
    """Every route with its handler."""
    given = {"rooms": rooms}
    return [
        (r"/", FrontPage, given),
        (r"/health", HealthRoute, given),
        (r"/(?:v1/)?models", ModelsRoute, given),
        (r"/(?:v1/)?models/(.+)", ModelRoute, given),
        (r"/(?:v1/)?(?:chat/completions|completions|embeddings)", PostOnly, given),
        (*STATIC, {"path": str(files("app.web") / "static")}),
    ]


def application(rooms: Rooms, **settings: Any) -> Application:
    return Application(
        table(rooms),
        default_handler_class=Nowhere,
        default_handler_args={"rooms": rooms},
        template_path=str(files("app.web") / "templates"),
        log_function=_silent,
        clock=rooms.clock,
        **settings,
    )


def _silent(_: object) -> None:
    """No access line per request; what is worth a line is logged where it happens."""
