"""Metrics for Prometheus: counted in memory, put together and named when they are asked for.

With several processes each tells only what is in everybody's files, its own written first. So whichever of them is
asked, no counter ever goes back, which Prometheus would take for a restart and count anew.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from adapters.telemetry.families import COUNTERS, families
from adapters.telemetry.labels import Labels
from adapters.telemetry.shared import FRESH, Slots, Snapshot
from adapters.telemetry.tally import Cell, Counter, Tally, add_cells
from ports.telemetry import Reading, Readings

log = logging.getLogger(__name__)

CONTENT_TYPE = CONTENT_TYPE_LATEST
EVERY = 1.0


class Prometheus:
    """`tally` is the observer; `sources` are read when somebody asks. Without `slots` this is the only process."""

    def __init__(
        self,
        tally: Tally,
        sources: Sequence[Readings],
        clock: Callable[[], float],
        version: str,
        slots: Slots | None = None,
    ) -> None:
        self.tally = tally
        self._sources = sources
        self._clock = clock
        self._version = version
        self._slots = slots
        self._asked = asyncio.Lock()
        self._failing = False
        if slots is not None:
            before = slots.inherited()
            tally.cells.update(before.cells)
            tally.counters.update(before.counters)

    async def text(self) -> bytes:
        """The page. Sources are read here, for they belong to the loop; the rest is a thread's."""
        async with self._asked:
            now = self._now()
            return await asyncio.get_running_loop().run_in_executor(None, self._page, now)

    async def run(self) -> None:
        """Runs for ever where there are several processes: the others tell what was written here."""
        while self._slots is not None:
            async with self._asked:
                now = self._now()
                await asyncio.get_running_loop().run_in_executor(None, self._save, now)
            await asyncio.sleep(EVERY)

    def close(self) -> None:
        if self._slots is not None:
            self._save(self._now())
            self._slots.release()

    def _now(self) -> Snapshot:
        readings = list(self._readings())
        self.tally.take(one for one in readings if one.name in COUNTERS)
        return Snapshot(
            "0" if self._slots is None else self._slots.worker,
            self._clock(),
            {labels: cell[:] for labels, cell in self.tally.cells.items()},
            dict(self.tally.counters),
            [one for one in readings if one.name not in COUNTERS],
        )

    def _readings(self) -> Iterable[Reading]:
        for source in self._sources:
            try:
                yield from list(source())
            except Exception:
                log.exception("a source of metrics failed")

    def _save(self, now: Snapshot) -> None:
        if self._slots is None:
            return
        try:
            self._slots.write(now)
        except OSError as exc:
            if not self._failing:
                log.warning("metrics cannot be shared: %s", exc.strerror)
            self._failing = True
        else:
            self._failing = False

    def _page(self, now: Snapshot) -> bytes:
        self._save(now)
        told = [now] if self._slots is None else list(self._slots.read())
        if not any(one.worker == now.worker for one in told):
            told.append(now)  # never written: there is nothing it could take back
        cells: dict[Labels, Cell] = {}
        counters: dict[Counter, float] = {}
        for one in told:
            add_cells(cells, one.cells.items())
            for counter, number in one.counters.items():
                counters[counter] = counters.get(counter, 0) + number
        alive = [one for one in told if now.at - one.at < FRESH]
        gauges = [(one.worker, gauge) for one in alive for gauge in one.gauges]
        found = families(cells, counters, gauges, len(alive), self._version)
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Told(found))
        return generate_latest(registry)


class _Told(Collector):
    def __init__(self, found: list[Metric]) -> None:
        self._found = found

    def collect(self) -> Iterable[Metric]:
        return self._found
