"""`python -m tests.chaos.broken WHAT serve`: the server without one of its guards, for the negative controls.

The product has no switch for any of this: the guard is taken out of the running program, here. `skewed`
breaks nothing; it puts the workers' clocks minutes apart. `adapter` breaks something: it is how an unexpected exception
is had.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any

CRASH = "break the adapter"
"""What a prompt says to meet the broken adapter."""
SKEWS = (300.0, -300.0, 0.0, 0.0)


def journal() -> None:
    """Rows are kept in memory until the ledger has them."""
    from adapters.journal.disk import DiskJournal

    def open_(self: DiskJournal, record: Any) -> None:
        self._begun()

    def close(self: DiskJournal, record: Any) -> None:
        self._unsaved.append(record)

    DiskJournal.open = open_  # type: ignore[method-assign]
    DiskJournal.close = close  # type: ignore[method-assign]


def deaf() -> None:
    """A client's leaving stops nothing."""
    from app.web.front import Exchange

    Exchange.left = lambda self: None  # type: ignore[method-assign]


def limits() -> None:
    """Each process counts for itself."""
    from adapters.memory.limits import MemoryBudgets, MemoryLimits

    build: Any = import_module("app.build")
    gate = build.Gate

    def alone(limits: Any, budgets: Any, plans: Any, clock: Any) -> Any:
        return gate(MemoryLimits(), MemoryBudgets(), plans, clock)

    build.Gate = alone


def breaker() -> None:
    """A Redis that has just failed is asked again and again."""
    from adapters.redis.breaker import Breaker

    Breaker.trip = lambda self, reason: None  # type: ignore[method-assign]


def held() -> None:
    """No key outlives the database."""
    from adapters.held import HeldGrants

    HeldGrants.peek = lambda self, digest: None  # type: ignore[method-assign]
    HeldGrants._usable = lambda self, digest: None  # type: ignore[method-assign]


def watch() -> None:
    """Nobody looks whether a key was revoked."""
    from adapters.held import HeldGrants

    async def asleep(self: HeldGrants, every: float = 1.0) -> None:
        await asyncio.Event().wait()

    HeldGrants.watch = asleep  # type: ignore[method-assign]


def drain() -> None:
    """At a signal, what runs is cut."""
    from app import main

    patient = main._drain

    async def at_once(house: Any, server: Any, grace: float, again: asyncio.Event) -> None:
        await patient(house, server, 0.0, again)

    main._drain = at_once


def leak() -> None:
    """Every row is kept in memory for ever, with some weight."""
    from app.services.metering import Metering

    kept: list[Any] = []
    close = Metering.close

    def closing(self: Metering, line: Any) -> None:
        kept.append((line, bytes(40_000)))
        close(self, line)

    Metering.close = closing  # type: ignore[method-assign]


def slots() -> None:
    """Any number of calls may be under way, over any number of connections."""
    from adapters.providers.upstream import Upstream
    from app.services.proxy import Slot

    Slot.__enter__ = lambda self: None  # type: ignore[method-assign]
    Slot.__exit__ = lambda self, *error: None  # type: ignore[method-assign]
    bounded = Upstream._open

    def unbounded(self: Upstream) -> Any:
        self._at_once = 0
        return bounded(self)

    Upstream._open = unbounded  # type: ignore[method-assign]


def adapter() -> None:
    """Of a prompt that says so, OpenAI's adapter makes an exception nobody expected, which quotes the whole prompt."""
    from adapters.providers import openai

    well = openai.OpenAI.complete

    async def complete(self: Any, request: Any, route: Any) -> Any:
        prompt = str(request.body)
        if CRASH in prompt:
            raise LookupError(f"cannot make sense of {prompt} with {self._origin.sent}")
        return await well(self, request, route)

    openai.OpenAI.complete = complete  # type: ignore[method-assign]


def scrubber() -> None:
    """As `adapter`, and whatever was wrong is told in full."""
    adapter()
    from adapters.telemetry import scrub, sentry, spans, stacks
    from app import log

    scrub.said = str
    stacks.said = str
    for module in (scrub, stacks, spans, sentry):
        module.scrubbed = lambda text: text  # type: ignore[attr-defined]
    sentry._scrub = lambda event, hint: event
    log._scrubbed = lambda text: text


def ids() -> None:
    """An event that comes again is a new one."""
    from attrs import evolve

    from adapters.sql.billing import SqlBillingTurn

    log = SqlBillingTurn.log

    async def anew(self: Any, event: Any, body: bytes, at: float) -> Any:
        return await log(self, evolve(event, id=f"{event.id}-{time.time_ns()}"), body, at)

    SqlBillingTurn.log = anew  # type: ignore[method-assign]


def order() -> None:
    """What the payment provider tells is true as it comes."""
    from domain import billing

    billing.in_order = lambda events: sorted(events, key=lambda one: one.arrival)


def signatures() -> None:
    """Whoever knows the way is believed."""
    from adapters.stripe import signature

    signature.verify = lambda payload, header, secrets, now: None


def skewed() -> None:
    """The first worker's clock is five minutes ahead, the second's as much behind."""
    forks = 0
    real = time.time

    def forked() -> None:
        nonlocal forks
        forks += 1

    def shifted() -> None:
        shift = SKEWS[(forks - 1) % len(SKEWS)]
        time.time = lambda: real() + shift

    os.register_at_fork(before=forked, after_in_child=shifted)


GUARDS: dict[str, Callable[[], None]] = {
    one.__name__: one
    for one in (
        *(journal, deaf, limits, breaker, held, watch, drain, leak, slots),
        *(adapter, scrubber, ids, order, signatures, skewed),
    )
}


def main() -> None:
    what, *words = sys.argv[1:]
    GUARDS[what]()
    sys.argv = ["watchllm", *words]
    from app.cli import main as watchllm

    watchllm()


if __name__ == "__main__":
    main()
