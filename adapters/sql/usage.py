"""The ledger in SQL, and with it its sums by hour and day: PostgreSQL's here, SQLite's in `adapters.sql.usage_sqlite`.
Reading them is `adapters.sql.reports`.

To PostgreSQL a batch travels as one JSON document in one statement and the database takes it apart: quoting an array
for each of the columns would hold the event loop four times as long (16 ms against 4 ms for a thousand rows).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

import orjson

from adapters.sql.db import SQLITE, Db, millis, without_nul
from domain.errors import ApiError
from domain.usage import UsageRecord

# Whoever ships the same rows, or rows of the same hour, takes its locks in the same order: ids, hours, days, each
# sorted. The days' condition is always true; it makes them wait for the hours, which nothing else here would promise
# (https://www.postgresql.org/docs/current/queries-with.html#QUERIES-WITH-MODIFYING). Models are cut at what an index
# can take.
_APPEND = """
    WITH added AS (
        INSERT INTO usage_log (
            id, project, api_key, kind, at, endpoint, model_asked, model_answered, provider, streamed, outcome,
            status, input_tokens, cache_read_tokens, cache_write_tokens, cache_write_1h_tokens,
            audio_input_tokens, output_tokens, audio_output_tokens, reasoning_tokens, estimated,
            cost, avoided, price_version, first_byte_ms, total_ms, cache_reason
        )
        SELECT
            id, project, api_key, kind, at, endpoint, model_asked, model_answered, provider, streamed, outcome,
            status, input_tokens, cache_read_tokens, cache_write_tokens, cache_write_1h_tokens,
            audio_input_tokens, output_tokens, audio_output_tokens, reasoning_tokens, estimated,
            cost, avoided, price_version, first_byte_ms, total_ms, cache_reason
          FROM json_populate_recordset(NULL::usage_log, :batch::json)
         ORDER BY id COLLATE "C"
        ON CONFLICT (id) DO NOTHING
        RETURNING *
    ),
    sums AS (
        SELECT project,
               at - at % 3600000 AS hour,
               provider,
               SUBSTR(CASE WHEN model_answered = '' THEN model_asked ELSE model_answered END, 1, 256) AS model,
               COUNT(*) AS requests,
               COUNT(*) FILTER (WHERE outcome = 'hit') AS hits,
               COUNT(*) FILTER (WHERE cost IS NULL OR avoided IS NULL) AS unpriced,
               SUM(input_tokens + cache_read_tokens + cache_write_tokens
                   + cache_write_1h_tokens + audio_input_tokens) AS prompt_tokens,
               SUM(output_tokens + audio_output_tokens) AS completion_tokens,
               COALESCE(SUM(cost), 0) AS cost,
               COALESCE(SUM(avoided), 0) AS avoided
          FROM added
         GROUP BY 1, 2, 3, 4
    ),
    hours AS (
        INSERT INTO usage_hourly (
            project, start, provider, model,
            requests, hits, unpriced, prompt_tokens, completion_tokens, cost, avoided
        )
        SELECT project, hour, provider, model,
               requests, hits, unpriced, prompt_tokens, completion_tokens, cost, avoided
          FROM sums
         ORDER BY 1, 2, 3, 4
        ON CONFLICT (project, start, provider, model) DO UPDATE SET
            requests          = usage_hourly.requests + excluded.requests,
            hits              = usage_hourly.hits + excluded.hits,
            unpriced          = usage_hourly.unpriced + excluded.unpriced,
            prompt_tokens     = usage_hourly.prompt_tokens + excluded.prompt_tokens,
            completion_tokens = usage_hourly.completion_tokens + excluded.completion_tokens,
            cost              = usage_hourly.cost + excluded.cost,
            avoided           = usage_hourly.avoided + excluded.avoided
        RETURNING 1
    )
    INSERT INTO usage_daily (
        project, start, provider, model,
        requests, hits, unpriced, prompt_tokens, completion_tokens, cost, avoided
    )
    SELECT project, hour - hour % 86400000, provider, model,
           SUM(requests), SUM(hits), SUM(unpriced), SUM(prompt_tokens), SUM(completion_tokens),
           SUM(cost), SUM(avoided)
      FROM sums
     WHERE (SELECT COUNT(*) FROM hours) >= 0
     GROUP BY 1, 2, 3, 4
     ORDER BY 1, 2, 3, 4
    ON CONFLICT (project, start, provider, model) DO UPDATE SET
        requests          = usage_daily.requests + excluded.requests,
        hits              = usage_daily.hits + excluded.hits,
        unpriced          = usage_daily.unpriced + excluded.unpriced,
        prompt_tokens     = usage_daily.prompt_tokens + excluded.prompt_tokens,
        completion_tokens = usage_daily.completion_tokens + excluded.completion_tokens,
        cost              = usage_daily.cost + excluded.cost,
        avoided           = usage_daily.avoided + excluded.avoided
    """


class SqlUsageLog:
    """`UsageLog` on either database. Raises `ApiError` for a batch with a record that no retry will get in."""

    def __init__(self, db: Db) -> None:
        self._append: Callable[[Sequence[UsageRecord]], Awaitable[None]] = partial(_append, db)
        if db.dialect == SQLITE:
            from adapters.sql.usage_sqlite import appender

            self._append = appender(db)

    async def append(self, records: Sequence[UsageRecord], /) -> None:
        if records:
            await self._append(records)


async def _append(db: Db, records: Sequence[UsageRecord]) -> None:
    try:
        batch = orjson.dumps([_row(record) for record in records]).decode()
    except TypeError as exc:
        raise ApiError("A usage record does not fit the ledger.") from exc
    await db.run(_APPEND, {"batch": batch})


def _row(record: UsageRecord) -> dict[str, Any]:
    usage = record.usage
    return {
        "id": record.id,
        "project": record.project,
        "api_key": record.key,
        "kind": record.kind,
        "at": millis(record.at),
        "endpoint": record.endpoint,
        "model_asked": without_nul(record.model_asked),
        "model_answered": without_nul(record.model_answered),
        "provider": record.provider,
        "streamed": record.streamed,
        "outcome": record.outcome,
        "status": record.status,
        "input_tokens": usage.input,
        "cache_read_tokens": usage.cache_read,
        "cache_write_tokens": usage.cache_write,
        "cache_write_1h_tokens": usage.cache_write_1h,
        "audio_input_tokens": usage.audio_input,
        "output_tokens": usage.output,
        "audio_output_tokens": usage.audio_output,
        "reasoning_tokens": usage.reasoning,
        "estimated": usage.estimated,
        "cost": record.cost,
        "avoided": record.avoided,
        "price_version": record.price_version,
        "first_byte_ms": record.first_byte_ms,
        "total_ms": record.total_ms,
        "cache_reason": without_nul(record.cache_reason),
    }
