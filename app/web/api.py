"""The small JSON routes, and the handlers' common ground: every fault is an error in the API's form."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable
from typing import Any, ClassVar

import orjson
from attrs import define
from tornado.web import HTTPError, RequestHandler

from app.services.admission import Admission
from app.services.billing import Billing
from app.services.health import Health
from app.services.listing import Listing
from app.services.reports import Reports
from domain.errors import ApiError, InvalidRequest, MethodNotAllowed, NotFound, PayloadTooLarge
from domain.project import Grant
from domain.requestid import RANDOM_BYTES, request_id
from ports.notify import Contacts

log = logging.getLogger(__name__)

OPEN, KEY, SIGNED = "open", "key", "signed"
_KEYLIKE = re.compile(r"(lgw_|sk-|gsk_)[\w-]+")


@define
class Rooms:
    """What handlers may reach."""

    admission: Admission
    listing: Listing
    reports: Reports
    health: Health
    billing: Billing
    contacts: Contacts
    unsubscribe_secret: bytes
    clock: Callable[[], float]
    version: str


class Handler(RequestHandler):
    """`auth` must be said by every handler. A test reads the route table.

    OPEN, KEY for a project's or test key, or SIGNED where the request itself proves where it comes from.
    """

    auth: ClassVar[str]
    rooms: Rooms

    def initialize(self, rooms: Rooms) -> None:
        self.rooms = rooms

    def set_default_headers(self) -> None:
        self.clear_header("Server")
        self.request_id = request_id(self.settings["clock"](), os.urandom(RANDOM_BYTES))
        self.set_header("X-Request-Id", self.request_id)
        self.set_header("X-Content-Type-Options", "nosniff")
        if self.settings["front"].draining:
            self.set_header("Connection", "close")

    async def prepare(self) -> None:
        if self.auth == KEY:
            self.grant: Grant = await self.rooms.admission.admit(
                self._bearer(), self.request.remote_ip or ""
            )

    def _bearer(self) -> str:
        scheme, _, bearer = self.request.headers.get("Authorization", "").partition(" ")
        return bearer.strip() if scheme.lower() == "bearer" else ""

    def compute_etag(self) -> None:
        """A digest of every small answer would cost more than it spares."""

    def json(self, text: bytes) -> None:
        self.set_header("Content-Type", "application/json")
        self.finish(text)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        error = _api_error(status_code, kwargs.get("exc_info"), self.request_id)
        self.set_status(error.status)
        for name, text in error.headers().items():
            self.set_header(name, text)
        if error.status == 405:
            self.set_header("Allow", ", ".join(self._allowed()))
        self.json(error.body())

    def _allowed(self) -> list[str]:
        own = type(self)
        return [
            method
            for method in self.SUPPORTED_METHODS
            if getattr(own, method.lower()) is not getattr(RequestHandler, method.lower())
        ] or ["POST"]

    def log_exception(self, typ: Any, value: Any, tb: Any) -> None:
        if not isinstance(value, ApiError | HTTPError):
            log.error(
                "a request crashed", exc_info=(typ, value, tb), extra={"request": self.request_id}
            )


def _api_error(status: int, raised: Any, request: str) -> ApiError:
    error = raised[1] if raised else None
    if isinstance(error, ApiError):
        return error
    match status:
        case 404:
            return NotFound("There is nothing here.")
        case 405:
            return MethodNotAllowed("This method is not allowed here.")
        case 413:
            return PayloadTooLarge("The body is too large.")
        case _ if 400 <= status < 500:
            return InvalidRequest("The request cannot be understood.")
    return ApiError(f"Something went wrong here; it was recorded under {request}.")


class HealthRoute(Handler):
    """Liveness and the dependencies' state, from memory: no query per call."""

    auth = OPEN

    def get(self) -> None:
        health = self.rooms.health
        if not health.serving:
            self.set_status(503)
            self.set_header("Retry-After", "1")
        self.set_header("Cache-Control", "no-store")
        self.json(orjson.dumps(health.report()))

    head = get


class ModelsRoute(Handler):
    """OpenAI's list form over all configured providers; `owned_by` tells which one."""

    auth = KEY

    def get(self) -> None:
        self.json(self.rooms.listing.all(self.grant))


class ModelRoute(Handler):
    """One model; its id may hold a slash, percent-encoded or not."""

    auth = KEY

    def get(self, model: str) -> None:
        self.json(self.rooms.listing.one(self.grant, model))


class PostOnly(Handler):
    """The three proxied addresses under any other method."""

    auth = OPEN


class Nowhere(Handler):
    """Every other address."""

    auth = OPEN

    def prepare(self) -> None:  # type: ignore[override]
        path = _KEYLIKE.sub(r"\1...", self.request.path[:200])
        raise NotFound(
            f"Unknown address {path!r}. This gateway serves POST /v1/chat/completions, /v1/completions and"
            " /v1/embeddings, GET /v1/models, GET /v1/usage and GET /health."
        )
