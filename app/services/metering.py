"""One ledger row per request: begun when the caller is known, opened before a provider is called, closed once."""

from __future__ import annotations

from collections.abc import Callable

from attrs import define

from domain.answer import CacheEntry
from domain.errors import ApiError, Unavailable
from domain.headers import Headers
from domain.models import Price, Route
from domain.pricing import cost_of
from domain.project import Grant
from domain.rates import Ask, Reservation
from domain.request import Endpoint, ProxyRequest
from domain.usage import DENIED, FAILED, HIT, Usage, UsageRecord
from ports.storage import Journal
from ports.telemetry import Observer, Stage

KEY_REVOKED = "key_revoked"
"""The reason of a stream that was ended because its key had."""
NOTHING = Usage()
NO_HEADERS: Headers = {}
BRIEF_MS = 0.2
"""What took less never left memory, and is no stage of its own."""


@define
class Line:
    """A row in the making. Times are monotonic seconds; `cost` and `avoided` picodollars, None where unknown."""

    id: str
    grant: Grant
    endpoint: Endpoint
    began: float
    at: float
    asked: str = ""
    answered: str = ""
    provider: str = ""
    streamed: bool = False
    outcome: str = FAILED
    status: int = 500
    usage: Usage = NOTHING
    cost: int | None = 0
    avoided: int | None = 0
    reason: str = ""
    first_byte: float | None = None
    price: Price | None = None
    limits: Headers = NO_HEADERS
    admitted: Ask | None = None
    reserved: Reservation | None = None
    known_at: float = 0.0
    """When the caller was known; 0 for what is answered at once."""
    looked_up: tuple[float, float] | None = None
    dispatched_at: float | None = None
    dispatched: bool = False
    closed: bool = False

    def ask(self, request: ProxyRequest, route: Route) -> None:
        self.asked = request.model
        self.provider = route.provider
        self.answered = route.model
        self.streamed = request.stream
        self.price = route.price

    def hit(self, entry: CacheEntry) -> None:
        self.outcome, self.status, self.reason = HIT, 200, "exact"
        self.provider, self.answered = entry.provider, entry.model
        self.usage, self.avoided = entry.usage, entry.cost

    def paid(self, usage: Usage, service_tier: str | None) -> int | None:
        """What the provider charges for `usage`; None when no price is known."""
        self.usage = usage
        self.cost = None if self.price is None else cost_of(usage, self.price, service_tier)
        return self.cost

    def revoked(self, error: ApiError) -> bool:
        """The key ended before the answer did. False if the row is closed already."""
        if self.closed:
            return False
        self.refused(error)
        error.recorded = True
        self.reason = KEY_REVOKED
        return True

    def refused(self, error: ApiError) -> None:
        """Denied is what no provider ever saw; failed is what one may have charged for."""
        self.outcome = FAILED if self.dispatched else DENIED
        self.status = error.status
        self.reason = error.code or error.type


@define
class Metering:
    """`clock` is wall-clock seconds, `monotonic` measures."""

    journal: Journal
    clock: Callable[[], float]
    monotonic: Callable[[], float]
    price_version: str
    observer: Observer

    def line(self, call_id: str, grant: Grant, endpoint: Endpoint, began: float) -> Line:
        """Raises Unavailable while no row can be kept: what would not be told is not done."""
        if self.journal.fullness >= 1:
            raise Unavailable("The usage journal takes no more rows now.", retry_after=5)
        return Line(call_id, grant, endpoint, began, self.clock())

    def open(self, line: Line, prompt_tokens: int) -> None:
        """Before the provider is called. Raises Unavailable when the row could not be kept.

        Until the provider has counted, the prompt is estimated: it is what an interrupted call has surely cost.
        """
        line.paid(Usage(input=prompt_tokens, estimated=True), None)
        try:
            self.journal.open(self._record(line))
        except ApiError:
            line.usage, line.cost = NOTHING, 0
            raise
        line.dispatched = True
        line.dispatched_at = self.monotonic()

    def close(self, line: Line) -> None:
        """Before the last byte leaves; the second time does nothing."""
        if line.closed:
            return
        line.closed = True
        record = self._record(line)
        self.journal.close(record)
        self.observer.exchange(record, _stages(line, record.total_ms) if line.known_at else ())

    def _record(self, line: Line) -> UsageRecord:
        now = self.monotonic()
        first = now if line.first_byte is None else line.first_byte
        return UsageRecord(
            line.id,
            line.grant.project,
            line.grant.key,
            line.grant.kind,
            line.at,
            line.endpoint.value,
            line.asked,
            line.answered,
            line.provider,
            line.streamed,
            line.outcome,
            line.status,
            line.usage,
            line.cost,
            line.avoided,
            self.price_version,
            (first - line.began) * 1000,
            (now - line.began) * 1000,
            line.reason,
        )


def _stages(line: Line, ended: float) -> tuple[Stage, ...]:
    """Where the time went, as far as anybody waited."""
    began = line.began
    found = [Stage("database", 0.0, (line.known_at - began) * 1000)]
    if line.looked_up is not None:
        asked, answered = line.looked_up
        found.append(Stage("cache", (asked - began) * 1000, (answered - began) * 1000))
    if line.dispatched_at is not None:
        found.append(Stage("provider", (line.dispatched_at - began) * 1000, ended))
    return tuple(one for one in found if one.to_ms - one.from_ms >= BRIEF_MS)
