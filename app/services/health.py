"""Whether the house is well: asked in the background once a second, told at once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from attrs import define, field

from domain.answer import Document
from ports.health import Pingable
from ports.storage import Journal

log = logging.getLogger(__name__)

EVERY = 1.0
DEADLINE = 2.0
PRESSED = 0.8
"""Share of the journal from which on somebody should look."""
FAILURES = 2
"""A dependency is down when it failed this often in a row; one slow answer is not an outage."""


@define
class Health:
    """`dependencies` maps the API document's names (redis, supabase) to what can be pinged, or None when embedded."""

    dependencies: Mapping[str, Pingable | None]
    journal: Journal
    version: str
    clock: Callable[[], float]
    knows_keys: Callable[[], bool]
    """Whether a request could be let in while the database is away."""
    journal_full: Callable[[], bool] = lambda: False
    """Whether it is for want of room that the journal takes nothing; of a disk that fails it tells itself."""
    draining: bool = False
    _was_full: bool = False
    _failures: dict[str, int] = field(factory=dict)

    async def watch(self) -> None:
        """Runs for ever."""
        while True:
            self.look_at_journal()
            await asyncio.gather(*[self._ask(name) for name in self.dependencies])
            await asyncio.sleep(EVERY)

    def look_at_journal(self) -> None:
        """Told once when it is full, and once when there is room enough not to be full again at once."""
        if self.journal_full() and not self._was_full:
            self._was_full = True
            log.error(
                "the usage journal is full; requests are refused until the ledger takes rows"
            )
        elif self._was_full and self.journal.fullness < PRESSED:
            self._was_full = False
            log.info("the usage journal has room again")

    async def _ask(self, name: str) -> None:
        dependency = self.dependencies[name]
        if dependency is None:
            return
        try:
            async with asyncio.timeout(DEADLINE):
                await dependency.ping()
        except Exception:  # noqa: BLE001  whatever a dependency raises, it is not up
            self._failures[name] = self._failures.get(name, FAILURES) + 1
        else:
            self._failures[name] = 0

    def _state(self, name: str) -> str:
        if self.dependencies[name] is None:
            return "embedded"
        # What was never heard of is not up.
        return "down" if self._failures.get(name, FAILURES) >= FAILURES else "up"

    @property
    def serving(self) -> bool:
        if self.draining or self.journal.fullness >= 1:
            return False
        return self._state("supabase") != "down" or self.knows_keys()

    def report(self) -> Document:
        states = {name: self._state(name) for name in self.dependencies}
        pressed = "down" in states.values() or self.journal.fullness >= PRESSED
        status = "degraded" if pressed else "ok"
        return {
            "status": status if self.serving else "down",
            "service": "watchllm",
            "version": self.version,
            "timestamp": datetime.fromtimestamp(self.clock(), UTC).isoformat(
                timespec="milliseconds"
            ),
            "dependencies": {name: {"status": state} for name, state in states.items()},
        }
