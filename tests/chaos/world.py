"""One world of the simulation: a proxy whose ports are `ports`' and whose time is virtual, and what must hold in it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from random import Random
from typing import Any

import orjson
from attrs import define, evolve, field

from adapters.held import HeldGrants
from app.services.admission import Admission, Uses
from app.services.background import Background
from app.services.calls import Answer, Call
from app.services.embedding import Embedding
from app.services.gate import Gate
from app.services.metering import Metering
from app.services.proxy import Proxy
from app.services.throttle import Throttle
from domain import apikey
from domain.errors import ApiError, InvalidKey
from domain.models import OPENAI, Model, Price, Rates
from domain.plans import Plan
from domain.project import PROJECT, Grant
from domain.request import Endpoint
from domain.requestid import request_id
from domain.routing import Catalogue
from tests.chaos.ports import (
    BAD,
    BrokenPromise,
    SimBudgets,
    SimCache,
    SimGrants,
    SimJournal,
    SimLimits,
    SimProvider,
    Unheard,
    Weather,
    must,
)

PER_MINUTE, AT_ONCE, PLACES = 20, 3, 4
PLANS = {
    "tight": Plan("tight", PER_MINUTE, 0, AT_ONCE, 0),
    "free": Plan("free", 0, 0, 0, 0),
}
BUDGET = 12 * 10**7
"""Picodollars: four answers, at the most that they may cost."""
CATALOGUE = Catalogue(
    (Model("sim-1", OPENAI, "sim-1", price=Price(Rates(150_000, 600_000))),), "sim"
)
PEPPER, SECRET = b"p" * 32, b"c" * 32
KEYS = [apikey.mint(PROJECT, bytes([number]) * apikey.RANDOM_BYTES) for number in range(1, 5)]
DIGESTS = [apikey.digest(PEPPER, key) for key in KEYS]
START = 1_790_000_000.0


class VirtualLoop(asyncio.BaseEventLoop):
    """Nobody waits: when all do, it is later. When all wait for nothing, that is an error."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        self._selector = self

    def time(self) -> float:
        return self._now

    def select(self, timeout: float | None) -> list[object]:
        if timeout is None:
            raise BrokenPromise("everybody waits for nothing")
        self._now += timeout
        return []

    def _process_events(self, _: object) -> None:
        return None

    def _write_to_self(self) -> None:
        return None


@define
class Sim:
    """One seed's world. `log` hears each step."""

    chance: Random
    loop: VirtualLoop
    log: Callable[[str], None]
    weather: Weather
    grants: SimGrants
    held: HeldGrants
    journal: SimJournal
    limits: SimLimits
    budgets: SimBudgets
    provider: SimProvider
    background: Background
    proxy: Proxy
    running: dict[asyncio.Task[None], str] = field(factory=dict)
    begun: set[str] = field(factory=set)
    broken: list[BaseException] = field(factory=list)
    number: int = 0

    async def run(self, steps: int) -> None:
        for _ in range(steps):
            drawn = self.chance.random()
            if drawn < 0.6:
                self.ask()
            elif drawn < 0.7:
                self.leave()
            elif drawn < 0.9:
                await asyncio.sleep(self.chance.expovariate(0.5))
            elif drawn < 0.95:
                self.change()
            else:
                self.weather.turn()
                self.log(f"weather {self.weather.fails}")
            with suppress(ApiError):
                await self.held.notice_changes()
            await asyncio.sleep(0)
            self.check()
        await self.end()

    def ask(self) -> None:
        key = self.chance.randrange(len(KEYS))
        question = f"question-{key // 2}-{self.chance.randrange(8)}"
        stream = self.chance.random() < 0.4
        body = {
            "model": "sim-1",
            "messages": [{"role": "user", "content": question}],
            "stream": stream,
            "max_tokens": 50,
        }
        self.number += 1
        call = Call(
            request_id(START + self.loop.time(), self.number.to_bytes(10)),
            Endpoint.CHAT,
            KEYS[key],
            self.chance.choice(("", "", "", "no-cache", "no-store")),
            "",
            orjson.dumps(body),
            self.loop.time(),
        )
        self.log(f"{self.loop.time():.3f} ask {call.id} key {key} {question}")
        self.begun.add(call.id)
        gone = self.grants.number if key in self.gone() else None
        task = self.loop.create_task(self._exchange(call, question, gone))
        self.running[task] = call.id
        task.add_done_callback(self._ended)

    def gone(self) -> set[int]:
        """Keys that are revoked, and whose end was noticed."""
        noticed = self.held._sequence == self.grants.number
        return {
            number
            for number, digest in enumerate(DIGESTS)
            if noticed and digest not in self.grants.known
        }

    async def _exchange(self, call: Call, question: str, gone: int | None) -> None:
        """`gone` is the change with which its key had ended, if it had."""
        try:
            answer = self.proxy.at_once(call) or await self.proxy.serve(call)
            if isinstance(answer, Answer):
                text, hit = answer.body.decode(), answer.headers["x-WatchLLM-cached"] == "HIT"
            else:
                hit, pieces = False, []
                try:
                    async for blob in answer.frames:
                        pieces.append(blob)
                finally:
                    await answer.frames.aclose()
                text = b"".join(pieces).decode()
            must(question in text, "an answer to another question")
            must(not (hit and BAD in text), "an answer that must not be kept was given again")
            must(not self._over(call, gone), f"{call.id}: a revoked key was served")
            must(call.id in self.journal.rows, "an answer was whole before its row was")
        except ApiError as error:
            self.log(f"{self.loop.time():.3f} {call.id} {type(error).__name__}")
            if isinstance(error, InvalidKey):
                self.begun.discard(call.id)
            elif call.id not in self.journal.rows:
                # Nobody knows yet who it was, or nothing can be written down.
                must(error.status == 503, f"{error.status} without a row")
                self.begun.discard(call.id)

    def _over(self, call: Call, gone: int | None) -> bool:
        """Whether nobody could take the key for a good one: nothing changed since, and the database was there.

        For a second after it was away, memory is believed.
        """
        return self.grants.number == gone and self.grants.failed_at < call.began - 1

    def _ended(self, task: asyncio.Task[None]) -> None:
        id = self.running.pop(task)
        if task.cancelled():
            if id not in self.journal.opened and id not in self.journal.rows:
                self.begun.discard(id)
        elif task.exception() is not None:
            self.broken.append(task.exception() or BrokenPromise())

    def leave(self) -> None:
        if self.running:
            task = self.chance.choice(list(self.running))
            self.log(f"{self.loop.time():.3f} leave {self.running[task]}")
            task.cancel()

    def change(self) -> None:
        number = self.chance.randrange(len(KEYS))
        digest = DIGESTS[number]
        held = self.grants.known.get(digest)
        if held is None:
            self.grants.change(digest, _grant(number))
        elif self.chance.random() < 0.5:
            self.grants.change(digest, None)
        else:
            self.grants.change(digest, evolve(held, cache_epoch=held.cache_epoch + 1))
        self.log(f"{self.loop.time():.3f} change key {number}")

    def check(self) -> None:
        """What holds at any moment."""
        if self.broken:
            raise self.broken[0]
        must(0 <= self.proxy.in_flight <= PLACES, f"{self.proxy.in_flight} calls under way")
        must(len(self.limits.running) <= len(self.running), "somebody left without giving back")
        open_rows = self.journal.opened.keys() - self.journal.rows.keys()
        must(open_rows <= set(self.running.values()), "a row was left open")

    async def end(self) -> None:
        """What holds when all is over."""
        if self.running:
            await asyncio.wait(self.running, timeout=10_000)
        await self.background.drain(2.0)
        await self.held.aclose()
        self.check()
        must(not self.running, "a request never ended")
        must(not self.limits.running, "a place was never given back")
        must(self.proxy.in_flight == 0, "a call is under way for ever")
        must(self.budgets.reserved == 0, "money was never given back")
        must(self.begun == set(self.journal.rows), "a request without a row, or a row without one")
        must(
            {id for id, row in self.journal.rows.items() if row.outcome == "miss"}
            <= self.journal.opened.keys(),
            "a provider's answer without an opened row",
        )
        spent = sum(row.cost or 0 for row in self.journal.rows.values() if row.project == "prj_0")
        must(spent == self.budgets.spent, "the purse and the rows do not agree")
        must(spent <= BUDGET, "the budget was overspent")
        self._check_rate()

    def _check_rate(self) -> None:
        """Of the project with limits: an own leaky bucket, in fractions of requests."""
        level, before = 0.0, START
        for project, at in self.limits.times:
            if project != "prj_1":
                continue
            level = max(0.0, level - (at - before) * PER_MINUTE / 60) + 1
            before = at
            must(level <= PER_MINUTE + 1e-3, f"{level:.3f} requests in a bucket of {PER_MINUTE}")


def _grant(number: int) -> Grant:
    """Two keys to each of two projects: one with a budget, one with limits."""
    project = number // 2
    return Grant(
        f"prj_{project}",
        f"key_{number}",
        PROJECT,
        "tight" if project else "free",
        0,
        None,
        budget=0 if project else BUDGET,
    )


def built(seed: int, loop: VirtualLoop, log: Callable[[str], None]) -> Sim:
    chance = Random(seed)
    weather = Weather(Random(seed + 1))
    weather.turn()

    def clock() -> float:
        return START + loop.time()

    grants = SimGrants(weather, {digest: _grant(at) for at, digest in enumerate(DIGESTS)})
    held = HeldGrants(grants, clock, loop.time)
    journal, background = SimJournal(weather), Background()
    cache, limits, budgets = SimCache(clock, 100_000), SimLimits(), SimBudgets()
    cache.weather = limits.weather = budgets.weather = weather
    limits.running, limits.times = set(), []
    budgets.reserved = budgets.spent = 0
    provider = SimProvider(weather, journal)
    metering = Metering(journal, clock, loop.time, "sim", Unheard())
    gate = Gate(limits, budgets, PLANS, clock)
    unused: Any = None
    proxy = Proxy(
        admission=Admission(held, PEPPER, Uses(unused, clock), Throttle(0, clock)),
        cache=cache,
        providers={OPENAI: provider},
        catalogue=CATALOGUE,
        gate=gate,
        metering=metering,
        embedding=Embedding(cache, gate, metering, background, clock, loop.time, SECRET),
        background=background,
        clock=clock,
        monotonic=loop.time,
        cache_secret=SECRET,
        ttls=dict.fromkeys(Endpoint, 30),
        most_in_flight=PLACES,
    )
    return Sim(chance, loop, log, weather, grants, held, journal, limits, budgets, provider, background, proxy)  # fmt: skip
