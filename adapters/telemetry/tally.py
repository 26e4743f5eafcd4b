"""Counting requests in plain memory: one list of numbers for each combination of labels, added to in place.

This is all that Prometheus costs a request. What the numbers are called is decided when somebody asks for them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterable, Sequence
from typing import Final

from attrs import astuple, define, field

from adapters.telemetry.labels import OTHER, Labels, labels_of
from domain.usage import UsageRecord
from ports.telemetry import Alarm, Reading, Stage

# fmt: off
BOUNDS_MS: Final = (
    1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0,
    1_000.0, 2_500.0, 5_000.0, 10_000.0, 30_000.0, 60_000.0, 300_000.0,
)
# fmt: on
BUCKETS: Final = len(BOUNDS_MS) + 1
"""The last one is for what is over every bound."""

REQUESTS, PROMPT, COMPLETION, COST, SAVED, UNPRICED, FIRST_MS, TOTAL_MS = range(8)
FIRST: Final = 8
TOTAL: Final = FIRST + BUCKETS
SIZE: Final = TOTAL + BUCKETS

MAX_CELLS: Final = 1_000
MAX_NAMES: Final = 10_000
MAX_COUNTERS: Final = 1_000

Cell = list[float]
Counter = tuple[str, tuple[tuple[str, str], ...]]


@define
class Tally:
    """`models` are the names that may be labels. Money is picodollars, times are milliseconds."""

    models: Collection[str]
    cells: dict[Labels, Cell] = field(factory=dict)
    counters: dict[Counter, float] = field(factory=dict)
    _by_record: dict[tuple[str, str, str, str, int, str], Cell] = field(factory=dict)
    _last: dict[Counter, float] = field(factory=dict)

    def exchange(self, record: UsageRecord, _: Sequence[Stage] = (), /) -> None:
        cell = self._by_record.get(
            (
                record.endpoint,
                record.provider,
                record.model_answered,
                record.outcome,
                record.status,
                record.cache_reason,
            )
        )
        if cell is None:
            cell = self._find(record)
        usage, first, total = record.usage, record.first_byte_ms, record.total_ms
        cell[REQUESTS] += 1
        cell[PROMPT] += usage.prompt
        cell[COMPLETION] += usage.completion
        if record.cost is None or record.avoided is None:
            cell[UNPRICED] += 1
        cell[COST] += record.cost or 0
        cell[SAVED] += record.avoided or 0
        cell[FIRST_MS] += first
        cell[TOTAL_MS] += total
        cell[FIRST + bisect_left(BOUNDS_MS, first)] += 1
        cell[TOTAL + bisect_left(BOUNDS_MS, total)] += 1

    def crash(self, error: BaseException, where: str, /, **tags: str) -> None:
        # The template of a foreign logger may be anything, its name is one of a few.
        name = "watchllm_alarms_total" if isinstance(error, Alarm) else "watchllm_crashes_total"
        self.count(name, (("where", where.partition(":")[0]),), 1)

    def count(self, name: str, labels: tuple[tuple[str, str], ...], more: float) -> None:
        counter = name, labels
        if counter not in self.counters and len(self.counters) >= MAX_COUNTERS:
            return
        self.counters[counter] = self.counters.get(counter, 0) + more

    def take(self, readings: Iterable[Reading]) -> None:
        """Adds what counters of this process have grown by since they were last taken."""
        for reading in readings:
            counter = reading.name, reading.labels
            self.count(*counter, max(0.0, reading.value - self._last.get(counter, 0)))
            self._last[counter] = reading.value

    def _find(self, record: UsageRecord) -> Cell:
        labels = labels_of(record, self.models)
        cell = self.cells.get(labels)
        if cell is None:
            if len(self.cells) >= MAX_CELLS:
                labels = Labels(record.endpoint, record.provider, OTHER, record.outcome, 0, OTHER)
            cell = self.cells.setdefault(labels, [0] * SIZE)
        if len(self._by_record) >= MAX_NAMES:
            self._by_record.clear()
        name = (
            record.endpoint,
            record.provider,
            record.model_answered,
            record.outcome,
            record.status,
            record.cache_reason,
        )
        self._by_record[name] = cell
        return cell


def add_cells(sums: dict[Labels, Cell], cells: Iterable[tuple[Labels, Sequence[float]]]) -> None:
    for labels, numbers in cells:
        known = sums.get(labels)
        if known is None:
            sums[labels] = list(numbers)
        else:
            known[:] = [a + b for a, b in zip(known, numbers, strict=True)]


def flat(labels: Labels) -> tuple[str, str, str, str, int, str]:
    return astuple(labels)
