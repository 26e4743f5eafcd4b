"""The values of the scripted provider: a call that came in, and a reply as the steps that write it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Sequence
from enum import Enum, auto
from typing import Any, Self

import orjson
from attrs import define, evolve, field, frozen

Headers = tuple[tuple[str, str], ...]

REASONS = {200: "OK", 302: "Found", 400: "Bad Request", 429: "Too Many Requests"}

CANARY = re.compile(r"canary-[0-9A-Za-z]+")


class Ending(Enum):
    """How an answer stops other than by being complete."""

    HANG = auto()
    """Nothing more until the client leaves."""
    CLOSE = auto()
    """An orderly end of the connection, whatever is still missing."""
    RESET = auto()
    """The connection is torn down (RST)."""


Step = bytes | float | asyncio.Event | Ending
"""Bytes are written, a number is a wait in seconds, an event is waited for."""


@frozen
class Reply:
    """What goes onto the wire. With `chunked` every bytes step is one HTTP chunk; `status` 0 writes no head at all."""

    status: int = 200
    headers: Headers = ()
    steps: Iterable[Step] = ()
    chunked: bool = False

    @classmethod
    def json(cls, status: int, document: Any, headers: Headers = ()) -> Self:
        return cls.text(status, orjson.dumps(document), "application/json", headers)

    @classmethod
    def text(
        cls, status: int, body: bytes, kind: str = "text/plain", headers: Headers = ()
    ) -> Self:
        head = (("content-type", kind), ("content-length", str(len(body))), *headers)
        return cls(status, head, (body,))

    @classmethod
    def sse(cls, steps: Iterable[Step], headers: Headers = ()) -> Self:
        """Events as raw bytes, with waits between them as one likes."""
        return cls(
            200,
            (("content-type", "text/event-stream; charset=utf-8"), *headers),
            steps,
            chunked=True,
        )

    @classmethod
    def raw(cls, steps: Iterable[Step]) -> Self:
        """The very bytes of the wire, status line included; then the connection ends."""
        return cls(0, (), steps)

    def gated(self, gate: asyncio.Event, after: int) -> Self:
        """The same, but waiting for `gate` once `after` pieces are out."""
        steps = list(self.steps)
        return evolve(self, steps=[*steps[:after], gate, *steps[after:]])

    @property
    def reusable(self) -> bool:
        """Whether the client can tell where this answer ends."""
        return bool(self.status) and (
            self.chunked or any(name == "content-length" for name, _ in self.headers)
        )

    def head(self) -> bytes:
        if not self.status:
            return b""
        lines = [f"HTTP/1.1 {self.status} {REASONS.get(self.status, 'Status')}"]
        lines += [f"{name}: {content}" for name, content in self.headers]
        if self.chunked:
            lines.append("transfer-encoding: chunked")
        return "\r\n".join([*lines, "", ""]).encode("latin-1")


@define(eq=False)
class Call:
    """One request as it arrived; header names are lower case. The rest is filled in while it is answered."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    raw: bytes
    body: dict[str, Any]
    connection: int
    """Calls with the same number came over the same connection."""

    closed_early: bool = False
    """The client left before the answer was complete."""
    closed_at: float | None = None
    """When, by the loop's clock."""
    bytes_sent: int = 0
    closed: asyncio.Event = field(factory=asyncio.Event, repr=False)
    """Set when the client leaves early."""
    done: asyncio.Event = field(factory=asyncio.Event, repr=False)
    """Set when the answer is over, in whatever way."""

    def hung_up(self, now: float) -> None:
        self.closed_early = True
        self.closed_at = now
        self.closed.set()

    @property
    def dialect(self) -> str:
        if self.path.startswith("/openai/"):
            return "groq"
        if self.path.startswith("/v1/messages") or "anthropic-version" in self.headers:
            return "anthropic"
        return "openai"

    @property
    def model(self) -> str:
        return str(self.body.get("model", ""))

    @property
    def stream(self) -> bool:
        return self.body.get("stream") is True

    @property
    def messages(self) -> Sequence[dict[str, Any]]:
        found = self.body.get("messages")
        return found if isinstance(found, list) else []

    @property
    def last_role(self) -> str:
        return str(self.messages[-1].get("role")) if self.messages else ""

    def told(self, text: str) -> bool:
        """Whether the caller's words hold this one."""
        return text.encode() in self.raw

    def canary(self) -> str | None:
        """The first `canary-...` in the caller's words; good answers repeat it, so that a leak shows."""
        found = CANARY.search(self.raw.decode(errors="replace"))
        return found[0] if found else None
