"""What the metrics are called, and how the sums of the tally become Prometheus's families.

Dashboards and alerts are written against these names; a test holds both to this table.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Final

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from adapters.telemetry.labels import Labels
from adapters.telemetry.tally import (
    BOUNDS_MS,
    BUCKETS,
    COMPLETION,
    COST,
    FIRST,
    FIRST_MS,
    PROMPT,
    REQUESTS,
    SAVED,
    TOTAL,
    TOTAL_MS,
    UNPRICED,
    Cell,
    Counter,
)
from domain.usage import DENIED, FAILED, HIT
from ports.telemetry import Reading

PICO: Final = 10**12
BOUNDS: Final = [*(str(bound / 1000) for bound in BOUNDS_MS), "+Inf"]

GAUGES: Final[Mapping[str, str]] = {
    "watchllm_cache_bytes": "Bytes of answers held, by tier",
    "watchllm_cache_entries": "Answers held, by tier",
    "watchllm_journal_backlog_rows": "Usage rows that are not in the ledger yet",
    "watchllm_journal_oldest_seconds": "Age of the request whose row waits longest",
    "watchllm_journal_bytes": "Bytes of the usage journal",
    "watchllm_breaker_open": "1 while a server is left alone because it failed",
    "watchllm_dependency_up": "1 while a dependency answers",
    "watchllm_provider_failing": "1 after five failures of a provider without an answer between",
    "watchllm_provider_key_refused": "1 while a provider refuses our key or account",
    "watchllm_in_flight_requests": "Requests whose answer is being made",
    "watchllm_open_connections": "Connections of clients",
    "watchllm_background_tasks": "Tasks that outlive their request",
    "watchllm_loop_lag_seconds": "Longest time the event loop kept anybody waiting of late",
    "watchllm_notices_waiting": "Mails and messages that are not sent yet",
    "watchllm_notices_oldest_due_seconds": "For how long the oldest of them has been due",
    "watchllm_telemetry_waiting": "Items that wait for a receiver of telemetry",
    "watchllm_draining": "1 while the process ends what it has begun",
}
COUNTERS: Final[Mapping[str, str]] = {
    "watchllm_cache_evictions_total": "Answers that had to leave for room, by tier",
    "watchllm_rejected_total": "Requests turned away before their caller was known, by status",
    "watchllm_telemetry_dropped_total": "Items of telemetry that no receiver got",
    "watchllm_journal_dropped_total": "Usage rows of unpaid requests that were dropped",
    "watchllm_notices_sent_total": "Mails and messages that were taken, by channel",
    "watchllm_notices_failed_total": "Attempts at them that failed, by channel",
    "watchllm_notices_dead_total": "Mails and messages that were given up, by channel",
    "watchllm_alarms_total": "Things that stopped working, by who noticed",
    "watchllm_crashes_total": "Exceptions nobody expected, by where they were caught",
}
SUMS: Final[Mapping[str, str]] = {
    "watchllm_requests_total": "Requests of known callers",
    "watchllm_limiter_decisions_total": "Requests admitted, over their rate or over their budget",
    "watchllm_upstream_errors_total": "Requests that failed after a provider was called",
    "watchllm_tokens_total": "Tokens, from the cache or from a provider",
    "watchllm_cost_dollars_total": "What providers charged",
    "watchllm_saved_dollars_total": "What hits would have cost",
    "watchllm_unpriced_requests_total": "Requests whose cost or saving nobody knows",
}
HISTOGRAMS: Final[Mapping[str, str]] = {
    "watchllm_first_byte_seconds": "From a request's arrival to the first byte of its answer",
    "watchllm_request_seconds": "From a request's arrival to the end of its answer",
}
WORKERS: Final = "watchllm_workers", "Processes that serve"
BUILD: Final = "watchllm_build_info", "1, with the version"

_DECISIONS: Final = {"rate_limit_exceeded": "rate_limited", "insufficient_quota": "out_of_budget"}


def families(
    cells: Mapping[Labels, Cell],
    counters: Mapping[Counter, float],
    gauges: Iterable[tuple[str, Reading]],
    workers: int,
    version: str,
) -> list[Metric]:
    """`gauges` come with the name of the process they are of."""
    return [
        GaugeMetricFamily(*WORKERS, value=workers),
        _one(BUILD, "version", version),
        *_sums(cells),
        *_histograms(cells),
        *_counters(counters),
        *_gauges(gauges),
    ]


def _one(name: tuple[str, str], label: str, text: str) -> Metric:
    family = GaugeMetricFamily(*name, labels=[label])
    family.add_metric([text], 1)
    return family


def _sums(cells: Mapping[Labels, Cell]) -> list[Metric]:
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {
        name: defaultdict(float) for name in SUMS
    }
    for labels, cell in cells.items():
        for name, told, number in _told(labels, cell):
            found[name][tuple(told.items())] += number
    return [_family(name, SUMS[name], rows) for name, rows in found.items()]


def _told(labels: Labels, cell: Cell) -> Iterable[tuple[str, dict[str, str], float]]:
    by_model = {"provider": labels.provider, "model": labels.model}
    yield (
        "watchllm_requests_total",
        {
            "endpoint": labels.endpoint,
            "provider": labels.provider,
            "outcome": labels.outcome,
            "status": str(labels.status),
        },
        cell[REQUESTS],
    )
    decision = "admitted"
    if labels.outcome == DENIED and labels.status == 429:
        decision = _DECISIONS.get(labels.reason, "rate_limited")
    yield "watchllm_limiter_decisions_total", {"decision": decision}, cell[REQUESTS]
    if labels.outcome == FAILED:
        told = {
            "provider": labels.provider,
            "status": str(labels.status),
            "reason": labels.reason,
        }
        yield "watchllm_upstream_errors_total", told, cell[REQUESTS]
    source = "cache" if labels.outcome == HIT else "provider"
    for kind, at in (("prompt", PROMPT), ("completion", COMPLETION)):
        if cell[at]:
            yield "watchllm_tokens_total", {**by_model, "kind": kind, "source": source}, cell[at]
    if cell[COST]:
        yield "watchllm_cost_dollars_total", by_model, cell[COST] / PICO
    if cell[SAVED]:
        yield "watchllm_saved_dollars_total", by_model, cell[SAVED] / PICO
    if cell[UNPRICED]:
        yield "watchllm_unpriced_requests_total", by_model, cell[UNPRICED]


def _histograms(cells: Mapping[Labels, Cell]) -> list[Metric]:
    return [
        _histogram("watchllm_first_byte_seconds", cells, FIRST, FIRST_MS),
        _histogram("watchllm_request_seconds", cells, TOTAL, TOTAL_MS),
    ]


def _histogram(name: str, cells: Mapping[Labels, Cell], at: int, sum_at: int) -> Metric:
    rows: dict[tuple[str, str, str], list[float]] = {}
    for labels, cell in cells.items():
        key = labels.endpoint, labels.provider, labels.outcome
        row = rows.setdefault(key, [0.0] * (BUCKETS + 1))
        for bucket in range(BUCKETS):
            row[bucket] += cell[at + bucket]
        row[BUCKETS] += cell[sum_at] / 1000
    family = HistogramMetricFamily(
        name, HISTOGRAMS[name], labels=["endpoint", "provider", "outcome"]
    )
    for key, row in rows.items():
        reached, buckets = 0.0, []
        for bound, number in zip(BOUNDS, row, strict=False):
            reached += number
            buckets.append((bound, reached))
        family.add_metric(list(key), buckets, row[BUCKETS])
    return family


def _counters(counters: Mapping[Counter, float]) -> list[Metric]:
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {name: {} for name in COUNTERS}
    for (name, labels), number in counters.items():
        if name in found:
            found[name][labels] = number
    return [_family(name, COUNTERS[name], rows) for name, rows in found.items()]


def _family(name: str, help: str, rows: Mapping[tuple[tuple[str, str], ...], float]) -> Metric:
    names = [label for label, _ in next(iter(rows), ())]
    family = CounterMetricFamily(name, help, labels=names)
    for labels, number in rows.items():
        family.add_metric([text for _, text in labels], number)
    return family


def _gauges(gauges: Iterable[tuple[str, Reading]]) -> list[Metric]:
    found: dict[str, GaugeMetricFamily] = {}
    for worker, reading in gauges:
        if reading.name not in GAUGES:
            continue
        names = [*(name for name, _ in reading.labels), "worker"]
        family = found.setdefault(
            reading.name, GaugeMetricFamily(reading.name, GAUGES[reading.name], labels=names)
        )
        family.add_metric([*(text for _, text in reading.labels), worker], reading.value)
    return list(found.values())
