"""Reports in SQL: sums from the roll-ups, which `adapters.sql.usage` keeps, and single rows of the ledger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from adapters.sql.db import Db, Row, millis, seconds
from domain.reports import DAY, START, Place, Span
from domain.usage import DENIED, HIT, Usage, UsageRecord, UsageSums, UsageTotal

_DOLLAR = 10**12

# Days in the middle, hours at both ends. The three parts touch and never overlap.
_PARTS = """
    (
        SELECT start, provider, model, requests, hits, unpriced, prompt_tokens, completion_tokens,
               cost_dollars, cost_rest, avoided_dollars, avoided_rest
          FROM usage_hourly
         WHERE project = :project AND start >= :since AND start < :first_day
        UNION ALL
        SELECT start, provider, model, requests, hits, unpriced, prompt_tokens, completion_tokens,
               cost_dollars, cost_rest, avoided_dollars, avoided_rest
          FROM usage_daily
         WHERE project = :project AND start >= :first_day AND start < :last_day
        UNION ALL
        SELECT start, provider, model, requests, hits, unpriced, prompt_tokens, completion_tokens,
               cost_dollars, cost_rest, avoided_dollars, avoided_rest
          FROM usage_hourly
         WHERE project = :project AND start >= :last_day AND start < :until
    ) AS parts
    """

_SUMS = """
    SUM(requests) AS requests, SUM(hits) AS hits, SUM(unpriced) AS unpriced,
    SUM(prompt_tokens) AS prompt_tokens, SUM(completion_tokens) AS completion_tokens,
    SUM(cost_dollars) AS cost_dollars, SUM(cost_rest) AS cost_rest,
    SUM(avoided_dollars) AS avoided_dollars, SUM(avoided_rest) AS avoided_rest
    """

_TOTALS = f"""
    SELECT start - start % :width AS start, provider, model, {_SUMS}
      FROM {_PARTS}
     WHERE (start - start % :width, provider, model) > (:after_start, :after_provider, :after_model)
     GROUP BY start - start % :width, provider, model
     ORDER BY 1, 2, 3
     LIMIT :limit
    """  # noqa: S608 -- put together of the constants above

_SUM = f"SELECT {_SUMS} FROM {_PARTS}"  # noqa: S608 -- as above

_MONTHS = f"SELECT project, {_SUMS} FROM usage_daily WHERE start >= :since GROUP BY project"  # noqa: S608 -- as above


class SqlUsageReports:
    """`UsageReports` on either database."""

    def __init__(self, db: Db) -> None:
        self._db = db

    async def totals(
        self,
        project: str,
        span: Span,
        /,
        width: int = DAY,
        after: Place = START,
        limit: int = 1_000,
    ) -> Sequence[UsageTotal]:
        found = await self._db.rows(
            _TOTALS,
            {
                **_parts(project, span, width, after),
                "width": millis(width),
                "after_start": millis(after.start),
                "after_provider": after.provider,
                "after_model": after.model,
                "limit": limit,
            },
        )
        return [
            UsageTotal(int(seconds(row["start"])), row["provider"], row["model"], _sums(row))
            for row in found
        ]

    async def sum(self, project: str, span: Span, /) -> UsageSums:
        [row] = await self._db.rows(_SUM, _parts(project, span, DAY, START))
        return _sums(row)

    async def find(self, project: str, request: str, /) -> UsageRecord | None:
        found = await self._db.rows(
            "SELECT * FROM usage_log WHERE id = :id AND project = :project",
            {"id": request, "project": project},
        )
        return _record(found[0]) if found else None

    async def months(self, since: int, /) -> Mapping[str, UsageSums]:
        found = await self._db.rows(_MONTHS, {"since": millis(since)})
        return {row["project"]: _sums(row) for row in found}

    async def served(self, project: str, span: Span, /) -> int:
        """In SQLite, whose ledger has no index by project, this reads all of it."""
        [row] = await self._db.rows(
            """
            SELECT COUNT(*) AS served
              FROM usage_log
             WHERE project = :project AND at >= :since AND at < :until AND outcome <> :denied
            """,
            {
                "project": project,
                "since": millis(span.since),
                "until": millis(span.until),
                "denied": DENIED,
            },
        )
        served: int = row["served"]
        return served

    async def tokens_saved(self, project: str, span: Span, /) -> int:
        """As `served`."""
        [row] = await self._db.rows(
            """
            SELECT CAST(COALESCE(SUM(input_tokens + cache_read_tokens + cache_write_tokens + cache_write_1h_tokens
                        + audio_input_tokens + output_tokens + audio_output_tokens), 0) AS bigint) AS saved
              FROM usage_log
             WHERE project = :project AND at >= :since AND at < :until AND outcome = :hit
            """,
            {
                "project": project,
                "since": millis(span.since),
                "until": millis(span.until),
                "hit": HIT,
            },
        )
        saved: int = row["saved"]
        return saved


def _parts(project: str, span: Span, width: int, after: Place) -> dict[str, str | int]:
    """Where hours end and days begin; whole days only where they are what is asked for."""
    first_day, last_day = -(-span.since // DAY) * DAY, span.until // DAY * DAY
    if width != DAY or first_day >= last_day:
        first_day = last_day = span.until
    # What lies before the page is not read again.
    return {
        "project": project,
        "since": millis(max(span.since, after.start)),
        "first_day": millis(max(first_day, after.start)),
        "last_day": millis(max(last_day, after.start)),
        "until": millis(span.until),
    }


def _sums(row: Row) -> UsageSums:
    """Sums of PostgreSQL are decimals, and those over nothing are None."""
    return UsageSums(
        requests=int(row["requests"] or 0),
        hits=int(row["hits"] or 0),
        unpriced=int(row["unpriced"] or 0),
        prompt_tokens=int(row["prompt_tokens"] or 0),
        completion_tokens=int(row["completion_tokens"] or 0),
        cost=int(row["cost_dollars"] or 0) * _DOLLAR + int(row["cost_rest"] or 0),
        avoided=int(row["avoided_dollars"] or 0) * _DOLLAR + int(row["avoided_rest"] or 0),
    )


def _record(row: Row) -> UsageRecord:
    return UsageRecord(
        id=row["id"],
        project=row["project"],
        key=row["api_key"],
        kind=row["kind"],
        at=seconds(row["at"]),
        endpoint=row["endpoint"],
        model_asked=row["model_asked"],
        model_answered=row["model_answered"],
        provider=row["provider"],
        streamed=bool(row["streamed"]),
        outcome=row["outcome"],
        status=row["status"],
        usage=Usage(
            input=row["input_tokens"],
            cache_read=row["cache_read_tokens"],
            cache_write=row["cache_write_tokens"],
            cache_write_1h=row["cache_write_1h_tokens"],
            audio_input=row["audio_input_tokens"],
            output=row["output_tokens"],
            audio_output=row["audio_output_tokens"],
            reasoning=row["reasoning_tokens"],
            estimated=bool(row["estimated"]),
        ),
        cost=None if row["cost"] is None else int(row["cost"]),
        avoided=None if row["avoided"] is None else int(row["avoided"]),
        price_version=row["price_version"],
        first_byte_ms=row["first_byte_ms"],
        total_ms=row["total_ms"],
        cache_reason=row["cache_reason"],
    )
