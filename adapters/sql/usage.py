"""The ledger in SQL.

A batch travels as one JSON document in one statement and the database takes it apart: quoting an array for
each of the columns would hold the event loop four times as long (16 ms against 4 ms for a thousand rows).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import orjson

from adapters.sql.db import POSTGRES, Db, Row, millis
from domain.errors import ApiError
from domain.usage import HIT, UsageRecord, UsageTotal

_APPEND_POSTGRES = """
    INSERT INTO usage_log (
        id, project, api_key, kind, at, endpoint, model_asked, model_answered, provider, streamed, outcome, status,
        input_tokens, cache_read_tokens, cache_write_tokens, cache_write_1h_tokens, audio_input_tokens,
        output_tokens, audio_output_tokens, reasoning_tokens, estimated,
        cost, avoided, price_version, first_byte_ms, total_ms, cache_reason
    )
    SELECT
        id, project, api_key, kind, at, endpoint, model_asked, model_answered, provider, streamed, outcome, status,
        input_tokens, cache_read_tokens, cache_write_tokens, cache_write_1h_tokens, audio_input_tokens,
        output_tokens, audio_output_tokens, reasoning_tokens, estimated,
        cost, avoided, price_version, first_byte_ms, total_ms, cache_reason
      FROM json_populate_recordset(NULL::usage_log, :batch::json)
    ON CONFLICT (id) DO NOTHING
    """

# `WHERE TRUE` keeps SQLite from reading ON CONFLICT as a join (https://www.sqlite.org/lang_upsert.html, 2.2).
_APPEND_SQLITE = """
    INSERT INTO usage_log (
        id, project, api_key, kind, at, endpoint, model_asked, model_answered, provider, streamed, outcome, status,
        input_tokens, cache_read_tokens, cache_write_tokens, cache_write_1h_tokens, audio_input_tokens,
        output_tokens, audio_output_tokens, reasoning_tokens, estimated,
        cost, avoided, price_version, first_byte_ms, total_ms, cache_reason
    )
    SELECT
        json_extract(value, '$.id'), json_extract(value, '$.project'), json_extract(value, '$.api_key'),
        json_extract(value, '$.kind'), json_extract(value, '$.at'), json_extract(value, '$.endpoint'),
        json_extract(value, '$.model_asked'), json_extract(value, '$.model_answered'),
        json_extract(value, '$.provider'), json_extract(value, '$.streamed'), json_extract(value, '$.outcome'),
        json_extract(value, '$.status'), json_extract(value, '$.input_tokens'),
        json_extract(value, '$.cache_read_tokens'), json_extract(value, '$.cache_write_tokens'),
        json_extract(value, '$.cache_write_1h_tokens'), json_extract(value, '$.audio_input_tokens'),
        json_extract(value, '$.output_tokens'), json_extract(value, '$.audio_output_tokens'),
        json_extract(value, '$.reasoning_tokens'), json_extract(value, '$.estimated'),
        json_extract(value, '$.cost'), json_extract(value, '$.avoided'), json_extract(value, '$.price_version'),
        json_extract(value, '$.first_byte_ms'), json_extract(value, '$.total_ms'),
        json_extract(value, '$.cache_reason')
      FROM json_each(:batch)
     WHERE TRUE
    ON CONFLICT (id) DO NOTHING
    """

_DAY = 86_400_000
_DOLLAR = 10**12


class SqlUsageLog:
    """`UsageLog` on either database. Raises `ApiError` for a batch with a record that no retry will get in."""

    def __init__(self, db: Db) -> None:
        self._db = db
        self._append = _APPEND_POSTGRES if db.dialect == POSTGRES else _APPEND_SQLITE

    async def append(self, records: Sequence[UsageRecord], /) -> None:
        if not records:
            return
        try:
            batch = orjson.dumps([_row(record) for record in records]).decode()
        except TypeError as exc:
            raise ApiError("A usage record does not fit the ledger.") from exc
        await self._db.run(self._append, {"batch": batch})

    async def totals(self, project: str, /, since: float, until: float) -> Sequence[UsageTotal]:
        """The model is the one that answered, or the one asked for where none did."""
        # Dollars and the rest are added up apart: a sum in SQLite is an error from 2^63 on.
        found = await self._db.rows(
            """
            SELECT at / :day AS day,
                   provider,
                   CASE WHEN model_answered = '' THEN model_asked ELSE model_answered END AS model,
                   COUNT(*) AS requests,
                   SUM(CASE WHEN outcome = :hit THEN 1 ELSE 0 END) AS hits,
                   SUM(input_tokens + cache_read_tokens + cache_write_tokens
                       + cache_write_1h_tokens + audio_input_tokens) AS prompt_tokens,
                   SUM(output_tokens + audio_output_tokens) AS completion_tokens,
                   COALESCE(SUM((cost - cost % :dollar) / :dollar), 0) AS cost_dollars,
                   COALESCE(SUM(cost % :dollar), 0) AS cost_rest,
                   COALESCE(SUM((avoided - avoided % :dollar) / :dollar), 0) AS avoided_dollars,
                   COALESCE(SUM(avoided % :dollar), 0) AS avoided_rest
              FROM usage_log
             WHERE project = :project AND at >= :since AND at < :until
             GROUP BY 1, 2, 3
            """,
            {
                "project": project,
                "since": millis(since),
                "until": millis(until),
                "hit": HIT,
                "day": _DAY,
                "dollar": _DOLLAR,
            },
        )
        # Sorted here, since a database sorts text by rules of its own.
        return sorted(
            map(_total, found), key=lambda total: (total.day, total.provider, total.model)
        )


def _row(record: UsageRecord) -> dict[str, Any]:
    usage = record.usage
    return {
        "id": record.id,
        "project": record.project,
        "api_key": record.key,
        "kind": record.kind,
        "at": millis(record.at),
        "endpoint": record.endpoint,
        "model_asked": _text(record.model_asked),
        "model_answered": _text(record.model_answered),
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
        "cache_reason": _text(record.cache_reason),
    }


def _text(given: str) -> str:
    # PostgreSQL keeps U+0000 in no text, written as an escape neither.
    return given.replace("\0", "\N{REPLACEMENT CHARACTER}")


def _total(row: Row) -> UsageTotal:
    return UsageTotal(
        day=datetime.fromtimestamp(row["day"] * _DAY / 1000, UTC).strftime("%Y-%m-%d"),
        provider=row["provider"],
        model=row["model"],
        requests=row["requests"],
        hits=int(row["hits"]),
        prompt_tokens=int(row["prompt_tokens"]),
        completion_tokens=int(row["completion_tokens"]),
        cost=_money(row["cost_dollars"], row["cost_rest"]),
        avoided=_money(row["avoided_dollars"], row["avoided_rest"]),
    )


def _money(dollars: int | Decimal, rest: int | Decimal) -> int:
    return int(dollars) * _DOLLAR + int(rest)
