"""Grants kept in memory: a database that is slow or away is no outage for keys it has vouched for.

A grant is fresh for a minute and refreshed in the background while it is in use, so that requests do not wait.
When the database cannot be asked, a known key stays good for the stale limit; an unknown one is `Unavailable`,
neither refused nor let in. Any change of a key or project is noticed by `watch`, which reads one number twice a second.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import TypeVar

from domain.errors import Unavailable
from domain.project import Grant
from ports.storage import Grants

T = TypeVar("T")
Question = tuple[bytes, int]
"""A digest, and how many changes were noticed before it was asked for."""

MAX_KNOWN = 50_000
MAX_UNKNOWN = 10_000
UNKNOWN_FOR = 30.0
PATIENCE = 0.5
"""Seconds a request with a known but no longer fresh key waits for the database."""


class HeldGrants:
    """`clock` is wall-clock seconds (for a key's end), `monotonic` measures freshness."""

    def __init__(
        self,
        source: Grants,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
        *,
        fresh: float = 60.0,
        stale: float = 900.0,
    ) -> None:
        self._source = source
        self._clock = clock
        self._monotonic = monotonic
        self._fresh = fresh
        self._stale = stale
        self._known: OrderedDict[bytes, tuple[Grant, float, int]] = OrderedDict()
        self._unknown: OrderedDict[bytes, tuple[float, int]] = OrderedDict()
        self._asking: dict[Question, asyncio.Task[Grant | None]] = {}
        self._doubts = 0
        self._failed_at = float("-inf")
        self._sequence: int | None = None

    def peek(self, digest: bytes) -> Grant | None:
        held = self._known.get(digest)
        if held is None:
            return None
        grant, asked_at, doubts = held
        age = self._monotonic() - asked_at
        if age >= self._fresh or doubts != self._doubts or self._ended(grant):
            return None
        if age > self._fresh / 2 and not self._recently_failed():
            self._ask(digest)
        return grant

    def vouched(self, digest: bytes) -> bool:
        return self._usable(digest) is not None

    async def grant(self, digest: bytes) -> Grant | None:
        found = self.peek(digest)
        if found is not None:
            return found
        if self._known_as_unknown(digest):
            return None
        held = self._usable(digest)
        if held is None:
            return await asyncio.shield(self._ask(digest))
        if self._recently_failed():
            return held
        try:
            async with asyncio.timeout(PATIENCE):
                return await asyncio.shield(self._ask(digest))
        except (TimeoutError, Unavailable):
            return held

    def knows_any(self) -> bool:
        """Whether some key could be let in without asking."""
        now = self._monotonic()
        return any(now - held[1] < self._stale for held in reversed(self._known.values()))

    async def watch(self, every: float = 0.5) -> None:
        """Runs for ever: one small query each `every` seconds; a changed number puts every held grant in doubt."""
        while True:
            await self.notice_changes()
            await asyncio.sleep(every)

    async def notice_changes(self) -> None:
        try:
            sequence = await self._source.sequence()
        except Unavailable:
            return
        # The first number tells nothing of what was asked before it, so it counts as a change.
        if sequence != self._sequence:
            self._doubts += 1
        self._sequence = sequence

    def _usable(self, digest: bytes) -> Grant | None:
        """The held grant if it is within the stale limit."""
        held = self._known.get(digest)
        if held is None:
            return None
        grant, asked_at, _ = held
        if self._monotonic() - asked_at >= self._stale or self._ended(grant):
            return None
        return grant

    def _ended(self, grant: Grant) -> bool:
        return grant.ends_at is not None and self._clock() >= grant.ends_at

    def _known_as_unknown(self, digest: bytes) -> bool:
        held = self._unknown.get(digest)
        if held is None:
            return False
        asked_at, doubts = held
        return doubts == self._doubts and self._monotonic() - asked_at < UNKNOWN_FOR

    def _recently_failed(self) -> bool:
        return self._monotonic() - self._failed_at < 1.0

    def _ask(self, digest: bytes) -> asyncio.Task[Grant | None]:
        """One question at a time for each key, whoever waits for it and whoever gives up."""
        question = digest, self._doubts
        asking = self._asking.get(question)
        if asking is None:
            asking = asyncio.get_running_loop().create_task(self._look_up(digest))
            self._asking[question] = asking
            asking.add_done_callback(lambda done: self._asked(question, done))
        return asking

    def _asked(self, question: Question, done: asyncio.Task[Grant | None]) -> None:
        del self._asking[question]
        if not done.cancelled():
            done.exception()  # told to whoever waits; a background refresh has nobody

    async def _look_up(self, digest: bytes) -> Grant | None:
        # As of the question, not the answer: a change in between leaves the answer in doubt.
        asked_at, doubts = self._monotonic(), self._doubts
        try:
            grant = await self._source.grant(digest)
        except Unavailable:
            self._failed_at = self._monotonic()
            raise
        if doubts != self._doubts and (digest in self._known or digest in self._unknown):
            return grant
        if grant is None:
            self._known.pop(digest, None)
            _keep(self._unknown, digest, (asked_at, doubts), MAX_UNKNOWN)
            return None
        self._unknown.pop(digest, None)
        _keep(self._known, digest, (grant, asked_at, doubts), MAX_KNOWN)
        return grant

    async def aclose(self) -> None:
        asking = list(self._asking.values())
        for one in asking:
            one.cancel()
        if asking:
            await asyncio.wait(asking, timeout=1)


def _keep(held: OrderedDict[bytes, T], key: bytes, what: T, most: int) -> None:
    held[key] = what
    held.move_to_end(key)
    if len(held) > most:
        held.popitem(last=False)
