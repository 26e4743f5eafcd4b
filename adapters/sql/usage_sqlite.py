"""Appending to the ledger in SQLite. Each hit leaves a row, so what a row costs, each hit costs.

SQLite has no INSERT inside a WITH, and triggers for the sums would write twice for every row. So one transaction,
which keeps all other writers out, adds the rows, sees which of them were new, and adds their sums to the few hours
and days they are of: 6 to 10 us a row, where JSON and triggers took 40.
"""

from __future__ import annotations

import sqlite3
from bisect import bisect_left
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from itertools import chain
from operator import add
from typing import Any

from adapters.sql.db import Db, millis, without_nul
from adapters.sql.sqlite import SqliteDb
from domain.errors import ApiError
from domain.reports import DAY, HOUR
from domain.usage import HIT, UsageRecord

_HOUR, _DAY = millis(HOUR), millis(DAY)
_DOLLAR = 10**12

_SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
"""How many rows a statement may have: few lengths, so that all of them stay prepared, and long ones. The thread lets go
of the interpreter while a statement runs, and a busy event loop gives it back after the switch interval only: 5 ms in
which the two wake each other in vain, at the price of some hundred rows."""
_SUMS_AT_ONCE = 16

_INSERT = """
    INSERT INTO usage_log (
        id, project, api_key, kind, at, endpoint, model_asked, model_answered, provider, streamed, outcome,
        status, input_tokens, cache_read_tokens, cache_write_tokens, cache_write_1h_tokens,
        audio_input_tokens, output_tokens, audio_output_tokens, reasoning_tokens, estimated,
        cost, avoided, price_version, first_byte_ms, total_ms, cache_reason
    )
    VALUES {rows}
    ON CONFLICT (id) DO NOTHING
    """

_ADD = """
    INSERT INTO {table} (
        project, start, provider, model, requests, hits, unpriced, prompt_tokens, completion_tokens,
        cost_dollars, cost_rest, avoided_dollars, avoided_rest
    )
    VALUES {rows}
    ON CONFLICT (project, start, provider, model) DO UPDATE SET
        requests          = requests + excluded.requests,
        hits              = hits + excluded.hits,
        unpriced          = unpriced + excluded.unpriced,
        prompt_tokens     = prompt_tokens + excluded.prompt_tokens,
        completion_tokens = completion_tokens + excluded.completion_tokens,
        cost_dollars      = cost_dollars + excluded.cost_dollars
                            + (cost_rest + excluded.cost_rest) / 1000000000000,
        cost_rest         = (cost_rest + excluded.cost_rest) % 1000000000000,
        avoided_dollars   = avoided_dollars + excluded.avoided_dollars
                            + (avoided_rest + excluded.avoided_rest) / 1000000000000,
        avoided_rest      = (avoided_rest + excluded.avoided_rest) % 1000000000000
    """
_ADD_HOURS = _ADD.replace("{table}", "usage_hourly")
_ADD_DAYS = _ADD.replace("{table}", "usage_daily")

Key = tuple[str, int, str, str]
"""Project, start, provider and model: what a sum is of."""
Sums = tuple[int, ...]
"""Requests, hits, unpriced, prompt tokens, completion tokens, cost and avoided."""


def appender(db: Db) -> Callable[[Sequence[UsageRecord]], Awaitable[None]]:
    assert isinstance(db, SqliteDb)

    async def append(records: Sequence[UsageRecord]) -> None:
        try:
            await db.together(partial(_append, records=records))
        except (TypeError, ValueError) as exc:
            raise ApiError("A usage record does not fit the ledger.") from exc

    return append


# --- below: in the thread of the connection -----------------------------------------------------------


def _append(connection: sqlite3.Connection, records: Sequence[UsageRecord]) -> None:
    hours = _by_hour(_add(connection, records))
    _add_sums(connection, _ADD_HOURS, hours)
    _add_sums(connection, _ADD_DAYS, _by_day(hours))


def _add(connection: sqlite3.Connection, records: Sequence[UsageRecord]) -> Sequence[UsageRecord]:
    """Those that are new, each once."""
    [(last,)] = connection.execute("SELECT MAX(rowid) FROM usage_log")
    added = 0
    for begin in range(0, len(records), _SIZES[-1]):
        rows = [_row(record) for record in records[begin : begin + _SIZES[-1]]]
        # What is there once more is not added, so that the last row may fill up.
        size = _SIZES[bisect_left(_SIZES, len(rows))]
        added += _insert(connection, _INSERT, rows + rows[-1:] * (size - len(rows)))
    if added == len(records):
        return records
    # A new row's number is above all others (https://www.sqlite.org/autoinc.html).
    found = connection.execute("SELECT id FROM usage_log WHERE rowid > ?", [last or 0])
    new = {id for (id,) in found}
    # Of two with the same id the first one was taken.
    return [one for one in {one.id: one for one in reversed(records)}.values() if one.id in new]


def _add_sums(connection: sqlite3.Connection, sql: str, sums: Mapping[Key, Sums]) -> None:
    rows = [
        (*key, *counts, *divmod(cost, _DOLLAR), *divmod(avoided, _DOLLAR))
        for key, (*counts, cost, avoided) in sums.items()
    ]
    for begin in range(0, len(rows), _SUMS_AT_ONCE):
        _insert(connection, sql, rows[begin : begin + _SUMS_AT_ONCE])


def _insert(connection: sqlite3.Connection, sql: str, rows: Sequence[tuple[Any, ...]]) -> int:
    """How many rows it changed."""
    marks = f"({', '.join('?' * len(rows[0]))})"
    statement = sql.format(rows=", ".join([marks] * len(rows)))
    return connection.execute(statement, [*chain.from_iterable(rows)]).rowcount


def _row(record: UsageRecord) -> tuple[Any, ...]:
    return (
        record.id,
        record.project,
        record.key,
        record.kind,
        millis(record.at),
        record.endpoint,
        without_nul(record.model_asked),
        without_nul(record.model_answered),
        record.provider,
        record.streamed,
        record.outcome,
        record.status,
        *record.usage.fields,
        record.cost,
        record.avoided,
        record.price_version,
        record.first_byte_ms,
        record.total_ms,
        without_nul(record.cache_reason),
    )


def _by_hour(records: Sequence[UsageRecord]) -> Mapping[Key, Sums]:
    groups: dict[Key, list[UsageRecord]] = {}
    for record in records:
        at = millis(record.at)
        # As long as PostgreSQL's index takes it.
        model = without_nul(record.model_answered or record.model_asked)[:256]
        key = record.project, at - at % _HOUR, record.provider, model
        groups.setdefault(key, []).append(record)
    return {key: _sums(group) for key, group in groups.items()}


def _by_day(hours: Mapping[Key, Sums]) -> Mapping[Key, Sums]:
    days: dict[Key, Sums] = {}
    for (project, hour, provider, model), sums in hours.items():
        key = project, hour - hour % _DAY, provider, model
        days[key] = tuple(map(add, days[key], sums)) if key in days else sums
    return days


def _sums(records: Sequence[UsageRecord]) -> Sums:
    return (
        len(records),
        sum([one.outcome == HIT for one in records]),
        sum([one.cost is None or one.avoided is None for one in records]),
        sum([one.usage.prompt for one in records]),
        sum([one.usage.completion for one in records]),
        sum([one.cost or 0 for one in records]),
        sum([one.avoided or 0 for one in records]),
    )
