"""Notices on their way, in SQL. Which are posted with what was paid is `adapters.sql.billing`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import orjson

from adapters.sql.db import (
    POSTGRES,
    SQLITE,
    Db,
    Params,
    Row,
    Transaction,
    millis,
    optional_seconds,
    seconds,
)
from domain.errors import ApiError
from domain.notices import (
    BUDGET_80,
    BUDGET_100,
    PROVIDER_KEY_REFUSED,
    QUOTA_80,
    QUOTA_100,
    WEEKLY_REPORT,
    Delivery,
)

AT_ONCE = 100
"""Rows to a statement."""

PASSING = (QUOTA_80, QUOTA_100, BUDGET_80, BUDGET_100, PROVIDER_KEY_REFUSED, WEEKLY_REPORT)
"""Of a month or a moment. All others follow from kept events and are told again with each new one: without its row a
notice would be sent again."""

# PostgreSQL: whoever comes second takes other rows, and waits for nobody. SQLite has one writer at a time.
_TAKE = """
    WITH due AS (
        SELECT notice, channel, recipient
          FROM notices
         WHERE sent_at IS NULL AND dead_at IS NULL AND due_at <= :now
         ORDER BY due_at, notice, channel, recipient
         LIMIT :limit
         {lock}
    )
    UPDATE notices SET due_at = :until, attempts = attempts + 1
     WHERE (notice, channel, recipient) IN (SELECT notice, channel, recipient FROM due)
       AND sent_at IS NULL AND dead_at IS NULL AND due_at <= :now
    RETURNING *
    """
_TAKE_IN = {
    SQLITE: _TAKE.format(lock=""),
    POSTGRES: _TAKE.format(lock="FOR UPDATE SKIP LOCKED"),
}

_STATES = """
    (:waiting AND sent_at IS NULL AND dead_at IS NULL)
    OR (:sent AND sent_at IS NOT NULL)
    OR (:dead AND dead_at IS NOT NULL)
    """


class SqlPostbox:
    """`Postbox` on either database."""

    def __init__(self, db: Db) -> None:
        self._db = db

    async def add(self, deliveries: Sequence[Delivery], /) -> int:
        if not deliveries:
            return 0
        # Not by itself, for a statement may be sent twice, and the second time nothing would be new.
        async with self._db.transaction() as transaction:
            return await queue(transaction, deliveries)

    async def take(self, now: float, lease: float, limit: int, /) -> Sequence[Delivery]:
        """Should the answer get lost, they are due again after the lease, as if the taker had died."""
        taken = await self._db.rows(
            _TAKE_IN[self._db.dialect],
            {"now": millis(now), "until": millis(now + lease), "limit": limit},
        )
        found = [_delivery(row) for row in taken]
        return sorted(found, key=lambda one: (one.queued_at, one.notice))

    async def sent(self, delivery: Delivery, at: float, /) -> None:
        """Also of one that was withdrawn on its way: it must not be sent again when it is told again."""
        params = {**_params(delivery), "at": millis(at)}
        async with self._db.transaction() as transaction:
            there = await transaction.run(
                """
                UPDATE notices SET sent_at = COALESCE(sent_at, :at), dead_at = NULL, fault = ''
                 WHERE notice = :notice AND channel = :channel AND recipient = :recipient
                """,
                params,
            )
            if there:
                return
            await transaction.run(
                """
                INSERT INTO notices (notice, channel, recipient, kind, project, facts, subject,
                                     queued_at, due_at, attempts, sent_at)
                VALUES (:notice, :channel, :recipient, :kind, :project, :facts, :subject,
                        :queued_at, :due_at, :attempts, :at)
                ON CONFLICT DO NOTHING
                """,
                params,
            )

    async def postpone(self, delivery: Delivery, due_at: float, fault: str, /) -> None:
        # Whoever kept it longer than his lease has no more say: `attempts` tells the takers apart.
        await self._db.run(
            """
            UPDATE notices SET due_at = :due_at, fault = :fault
             WHERE notice = :notice AND channel = :channel AND recipient = :recipient
               AND attempts = :attempts AND sent_at IS NULL AND dead_at IS NULL
            """,
            {**_which(delivery), "due_at": millis(due_at), "fault": fault},
        )

    async def give_up(self, delivery: Delivery, at: float, fault: str, /) -> None:
        await self._db.run(
            """
            UPDATE notices SET dead_at = :at, fault = :fault
             WHERE notice = :notice AND channel = :channel AND recipient = :recipient
               AND attempts = :attempts AND sent_at IS NULL AND dead_at IS NULL
            """,
            {**_which(delivery), "at": millis(at), "fault": fault},
        )

    async def retry(self, notice: str, now: float, /) -> int:
        # In a transaction, which is sent once: of two times the second would find nothing to count.
        async with self._db.transaction() as transaction:
            return await transaction.run(
                """
                UPDATE notices
                   SET dead_at = NULL, queued_at = :now, due_at = :now, attempts = 0, fault = ''
                 WHERE notice = :notice AND dead_at IS NOT NULL
                """,
                {"notice": notice, "now": millis(now)},
            )

    async def find(self, states: Sequence[str], limit: int, /) -> Sequence[Delivery]:
        found = await self._db.rows(
            f"""
            SELECT * FROM notices
             WHERE {_STATES}
             ORDER BY queued_at DESC, notice, channel, recipient
             LIMIT :limit
            """,  # noqa: S608 -- put together of the constant above
            {**{name: name in states for name in ("waiting", "sent", "dead")}, "limit": limit},
        )
        return [_delivery(row) for row in found]

    async def waiting(self, now: float, /) -> tuple[int, float]:
        [row] = await self._db.rows(
            """
            SELECT COUNT(*) AS unsent, MIN(due_at) AS oldest
              FROM notices
             WHERE sent_at IS NULL AND dead_at IS NULL
            """
        )
        oldest = optional_seconds(row["oldest"])
        return row["unsent"], 0.0 if oldest is None else max(0.0, now - oldest)

    async def forget(self, before: float, /) -> int:
        """Those of a month or a moment only, see `PASSING`."""
        names = [f"kind_{number}" for number in range(len(PASSING))]
        async with self._db.transaction() as transaction:
            return await transaction.run(
                f"""
                DELETE FROM notices
                 WHERE (sent_at < :before OR dead_at < :before)
                   AND kind IN ({", ".join(f":{name}" for name in names)})
                """,  # noqa: S608 -- names of our own
                {**dict(zip(names, PASSING, strict=True)), "before": millis(before)},
            )


async def queue(transaction: Transaction, deliveries: Sequence[Delivery]) -> int:
    """Those that were never queued before; how many these were. Always in the same order: two who queue the same ones
    must not wait for each other."""
    ordered = sorted(deliveries, key=lambda one: (one.notice, one.channel, one.recipient))
    added = 0
    for begin in range(0, len(ordered), AT_ONCE):
        some = ordered[begin : begin + AT_ONCE]
        params: dict[str, object] = {}
        for number, one in enumerate(some):
            params |= {f"{name}_{number}": given for name, given in _params(one).items()}
        rows = ", ".join(_marks(len(some)))
        added += await transaction.run(
            f"""
            INSERT INTO notices (notice, channel, recipient, kind, project, facts, subject,
                                 queued_at, due_at, attempts)
            VALUES {rows}
            ON CONFLICT DO NOTHING
            """,  # noqa: S608 -- names of our own and numbers
            params,
        )
    return added


def _marks(count: int) -> Iterator[str]:
    for number in range(count):
        yield (
            f"(:notice_{number}, :channel_{number}, :recipient_{number}, :kind_{number}, "
            f":project_{number}, :facts_{number}, :subject_{number}, :queued_at_{number}, "
            f":due_at_{number}, :attempts_{number})"
        )


def _which(delivery: Delivery) -> Params:
    return {
        "notice": delivery.notice,
        "channel": delivery.channel,
        "recipient": delivery.recipient,
        "attempts": delivery.attempts,
    }


def _params(delivery: Delivery) -> Params:
    try:
        facts = orjson.dumps(dict(delivery.facts)).decode()
    except TypeError as exc:
        raise ApiError("A notice's facts cannot be kept.") from exc
    return {
        **_which(delivery),
        "kind": delivery.kind,
        "project": delivery.project,
        "facts": facts,
        "subject": delivery.subject,
        "queued_at": millis(delivery.queued_at),
        "due_at": millis(delivery.due_at),
    }


def _delivery(row: Row) -> Delivery:
    return Delivery(
        notice=row["notice"],
        channel=row["channel"],
        recipient=row["recipient"],
        kind=row["kind"],
        project=row["project"],
        facts=orjson.loads(row["facts"]),
        queued_at=seconds(row["queued_at"]),
        due_at=seconds(row["due_at"]),
        subject=row["subject"],
        attempts=row["attempts"],
        sent_at=optional_seconds(row["sent_at"]),
        dead_at=optional_seconds(row["dead_at"]),
        fault=row["fault"],
    )
