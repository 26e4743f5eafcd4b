"""Appending to the ledger in SQLite. Each hit leaves a row, so what a row costs, each hit costs.

SQLite has no INSERT inside a WITH, and triggers for the sums would write twice for every row. So one transaction,
which keeps all other writers out, asks which rows are new, adds those, and adds their sums to the few hours and days
they are of: 6 to 10 us a row, where JSON and triggers took 40.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from operator import add
from typing import Any, TypeVar

import orjson

from adapters.sql.db import Db, millis, without_nul
from adapters.sql.sqlite import SqliteDb
from domain.errors import ApiError
from domain.reports import DAY, HOUR
from domain.usage import HIT, UsageRecord

_HOUR, _DAY = millis(HOUR), millis(DAY)
_DOLLAR = 10**12

_MANY = 64
"""Rows in one statement. The thread lets go of the interpreter while a statement runs and must take it back from the
event loop: beside a busy one, `executemany` was seen to take 60 us a row instead of 5."""

_KNOWN = "SELECT id FROM usage_log WHERE id IN (SELECT value FROM json_each(?))"

_INSERT = """
    INSERT INTO usage_log (
        id, project, api_key, kind, at, endpoint, model_asked, model_answered, provider, streamed, outcome,
        status, input_tokens, cache_read_tokens, cache_write_tokens, cache_write_1h_tokens,
        audio_input_tokens, output_tokens, audio_output_tokens, reasoning_tokens, estimated,
        cost, avoided, price_version, first_byte_ms, total_ms, cache_reason
    )
    VALUES {rows}
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

T = TypeVar("T")
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
    added = _unknown(connection, records)
    _write(connection, _INSERT, added, _row)
    hours = _by_hour(added)
    _write(connection, _ADD_HOURS, [*hours.items()], _sums_row)
    _write(connection, _ADD_DAYS, [*_by_day(hours).items()], _sums_row)


def _unknown(
    connection: sqlite3.Connection, records: Sequence[UsageRecord]
) -> Sequence[UsageRecord]:
    """Each once."""
    given = {record.id: record for record in records}
    for (known,) in connection.execute(_KNOWN, [orjson.dumps([*given]).decode()]):
        given.pop(known, None)
    return [*given.values()]


def _write(
    connection: sqlite3.Connection,
    sql: str,
    items: Sequence[T],
    row: Callable[[T], tuple[Any, ...]],
) -> None:
    for some in _slices(items):
        values = [row(item) for item in some]
        marks = f"({', '.join('?' * len(values[0]))})"
        connection.execute(
            sql.format(rows=", ".join([marks] * len(values))), [*chain.from_iterable(values)]
        )


def _slices(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """Of `_MANY`, and what is left by halves of it: so few lengths that all statements stay prepared."""
    begin, size = 0, _MANY
    while begin < len(items):
        while size > len(items) - begin:
            size //= 2
        yield items[begin : begin + size]
        begin += size


def _row(record: UsageRecord) -> tuple[Any, ...]:
    usage = record.usage
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
        usage.input,
        usage.cache_read,
        usage.cache_write,
        usage.cache_write_1h,
        usage.audio_input,
        usage.output,
        usage.audio_output,
        usage.reasoning,
        usage.estimated,
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


def _sums_row(item: tuple[Key, Sums]) -> tuple[Any, ...]:
    key, (*counts, cost, avoided) = item
    return (*key, *counts, *divmod(cost, _DOLLAR), *divmod(avoided, _DOLLAR))
