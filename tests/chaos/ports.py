"""A world in memory for the simulation: every port with a fault script, and books of what the ports were told.

Faults come before an effect or after it, as delays, refusals and broken streams; which and when is drawn from the seed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from random import Random

import orjson
from attrs import define, evolve, field

from adapters.held import PATIENCE
from adapters.memory.cache import MemoryCache
from adapters.memory.limits import MemoryBudgets, MemoryLimits
from domain.answer import CacheEntry, CacheKey, Completion, Document, Frame
from domain.errors import ApiError, Unavailable, UpstreamFailed, UpstreamTimeout
from domain.models import ListedModel, Route
from domain.project import Grant
from domain.rates import Ask, Reservation, Spend, Verdict
from domain.request import ProxyRequest
from domain.usage import Usage, UsageRecord

BAD = "spoilt"
"""A word of answers that nobody may be given twice."""


class BrokenPromise(AssertionError):
    """An invariant does not hold."""


def must(true: bool, wrong: str) -> None:
    if not true:
        raise BrokenPromise(wrong)


@define
class Weather:
    """How likely each port fails or dawdles, now."""

    chance: Random
    fails: dict[str, float] = field(factory=dict)

    def turn(self) -> None:
        for port in ("grants", "cache", "limits", "budgets", "journal", "provider"):
            self.fails[port] = self.chance.choice((0.0, 0.0, 0.05, 0.3, 1.0))

    def strikes(self, port: str) -> bool:
        return self.chance.random() < self.fails.get(port, 0.0)

    def pause(self) -> float | None:
        """Seconds; None for an answer that is there at once."""
        drawn = self.chance.random()
        if drawn >= 0.3:
            return None
        return 0.0 if drawn < 0.2 else self.chance.choice((0.001, 0.05, 2.0))

    async def delay(self) -> None:
        pause = self.pause()
        if pause is not None:
            await asyncio.sleep(pause)


@define
class SimGrants:
    weather: Weather
    known: dict[bytes, Grant] = field(factory=dict)
    number: int = 0
    failed_at: float = -100.0
    """The loop's time when it was last away, or slower than a request waits for it."""

    async def grant(self, digest: bytes, /) -> Grant | None:
        self._strike()
        found, pause = self.known.get(digest), self.weather.pause()
        if pause is not None:
            if pause > PATIENCE:
                self._note(pause)
            await asyncio.sleep(pause)
        return found

    async def sequence(self) -> int:
        self._strike()
        return self.number

    def change(self, digest: bytes, grant: Grant | None) -> None:
        self.number += 1
        if grant is None:
            self.known.pop(digest, None)
        else:
            self.known[digest] = grant

    def _strike(self) -> None:
        if self.weather.strikes("grants"):
            self._note()
            raise Unavailable("the database is away")

    def _note(self, more: float = 0.0) -> None:
        self.failed_at = max(self.failed_at, asyncio.get_running_loop().time() + more)


class SimCache(MemoryCache):
    """Failing is a miss or a store that never happens."""

    weather: Weather

    async def get_many(self, keys: Sequence[CacheKey], /) -> list[CacheEntry | None]:
        await self.weather.delay()
        if self.weather.strikes("cache"):
            return [None] * len(keys)
        return await super().get_many(keys)

    async def put_many(self, items: Sequence[tuple[CacheKey, CacheEntry]], /, ttl: int) -> None:
        await self.weather.delay()
        if not self.weather.strikes("cache"):
            await super().put_many(items, ttl)


class SimLimits(MemoryLimits):
    """At times the verdict needs a trip."""

    weather: Weather
    running: set[str]
    times: list[tuple[str, float]]

    def at_once(self, ask: Ask, /) -> Verdict | None:  # type: ignore[override]
        return None if self.weather.strikes("limits") else self._count(ask)

    async def admit(self, ask: Ask, /) -> Verdict:
        loop = asyncio.get_running_loop()
        before = loop.time()
        await self.weather.delay()
        # Counted when the trip is over, as a shared count is.
        return self._count(evolve(ask, now=ask.now + loop.time() - before))

    def release(self, ask: Ask, /) -> None:
        # Whoever left before it was told may not have been counted yet.
        if ask.request in self.running:
            self.running.discard(ask.request)
            super().release(ask)

    def _count(self, ask: Ask) -> Verdict:
        verdict = super().at_once(ask)
        if not verdict.refused:
            must(ask.request not in self.running, "a request was counted twice")
            self.running.add(ask.request)
            self.times.append((ask.project, ask.now))
        return verdict


class SimBudgets(MemoryBudgets):
    weather: Weather
    reserved: int
    spent: int

    async def reserve(self, spend: Spend, /) -> Reservation | None:
        await self.weather.delay()
        if self.weather.strikes("budgets"):
            raise Unavailable("the budget cannot be read")
        found = await super().reserve(spend)
        if found is not None:
            self.reserved += found.amount
            must(self.reserved + self.spent <= spend.budget, "more was set aside than there is")
        return found

    def settle(self, reservation: Reservation, /, cost: int) -> None:
        self.reserved -= reservation.amount
        self.spent += cost
        must(self.reserved >= 0, "a reservation was settled twice")
        must(cost <= reservation.amount, "a call cost more than was set aside for it")
        super().settle(reservation, cost)


@define
class SimJournal:
    """`rows` is what was closed."""

    weather: Weather
    opened: dict[str, UsageRecord] = field(factory=dict)
    rows: dict[str, UsageRecord] = field(factory=dict)

    @property
    def fullness(self) -> float:
        return 1.0 if self.weather.fails.get("journal") == 1.0 else 0.0

    def open(self, record: UsageRecord, /) -> None:
        if self.weather.strikes("journal"):
            raise Unavailable("the journal is full")
        must(record.id not in self.opened, "a row was opened twice")
        must(record.id not in self.rows, "a closed row was opened")
        self.opened[record.id] = record

    def close(self, record: UsageRecord, /) -> None:
        must(record.id not in self.rows, "a row was closed twice")
        must((record.cost or 0) >= 0, "a cost is below zero")
        self.rows[record.id] = record

    async def drain(self, timeout: float, /) -> None:
        return None


@define
class SimProvider:
    """Knows whom it answered, and with what."""

    weather: Weather
    journal: SimJournal
    calls: int = 0

    async def complete(self, request: ProxyRequest, _: Route, /) -> Completion:
        self._called()
        await self.weather.delay()
        text, usage, finish = self._said(request)
        self._strike()
        await self.weather.delay()
        document: Document = {
            **_head("chat.completion"),
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": text},
                    "finish_reason": finish,
                }
            ],
        }
        if finish == "none":
            document["choices"][0]["finish_reason"] = None
        return Completion(document, usage)

    async def open_stream(self, request: ProxyRequest, _: Route, /) -> SimStream:
        self._called()
        await self.weather.delay()
        self._strike()
        return SimStream(self.weather, *self._said(request))

    async def models(self) -> Sequence[ListedModel]:
        return []

    async def aclose(self) -> None:
        return None

    def _called(self) -> None:
        self.calls += 1
        must(self.calls <= len(self.journal.opened), "a provider was called without a row")

    def _strike(self) -> None:
        if self.weather.strikes("provider"):
            kind: type[ApiError] = self.weather.chance.choice((UpstreamFailed, UpstreamTimeout))
            raise kind("the provider broke")

    def _said(self, request: ProxyRequest) -> tuple[str, Usage | None, str]:
        """What is said repeats the question; an answer that must not be kept says so of itself."""
        question = str(request.body["messages"][0]["content"])
        flaw = self.weather.chance.choice(("", "", "", "none", "content_filter", "no usage"))
        usage = (
            None
            if flaw == "no usage"
            else Usage(input=3, output=self.weather.chance.randrange(40))
        )
        finish = "stop" if flaw in ("", "no usage") else flaw
        return f"{question} {BAD if flaw else 'well'}", usage, finish


@define
class SimStream:
    weather: Weather
    text: str
    usage: Usage | None
    finish: str
    service_tier: str | None = None
    closed: bool = False

    async def __aiter__(self) -> AsyncIterator[Sequence[Frame]]:
        yield [_frame({"role": "assistant", "content": ""})]
        for word in self.text.split(" "):
            await self.weather.delay()
            if self.weather.strikes("provider"):
                raise UpstreamFailed("the stream broke")
            yield [_frame({"content": f"{word} "})]
        finish = None if self.finish == "none" else self.finish
        yield [_frame({}, finish), *([_told(self.usage)] if self.usage is not None else [])]

    async def aclose(self) -> None:
        self.closed = True


def _head(kind: str) -> Document:
    return {"id": "sim", "object": kind, "created": 1, "model": "sim-1"}


def _frame(delta: Document, finish: str | None = None) -> Frame:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    chunk = {**_head("chat.completion.chunk"), "choices": [choice]}
    return Frame(chunk, orjson.dumps(chunk))


def _told(usage: Usage) -> Frame:
    chunk = {
        **_head("chat.completion.chunk"),
        "choices": [],
        "usage": {"prompt_tokens": usage.prompt, "completion_tokens": usage.completion},
    }
    return Frame(chunk, orjson.dumps(chunk), usage)


class Unheard:
    """An observer whom nothing interests."""

    def exchange(self, *_: object) -> None:
        return None

    def crash(self, *_: object, **tags: str) -> None:
        return None
