"""Keys and what they grant, in SQL. Of a key itself only the digest is known here."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping, Sequence

import orjson

from adapters.sql.db import (
    POSTGRES,
    SQLITE,
    Db,
    Row,
    millis,
    optional_millis,
    optional_seconds,
    seconds,
)
from domain.errors import ApiError, Unavailable
from domain.project import ApiKey, Grant

# PostgreSQL locks rows one by one: always in the same order, so that no two processes wait for each other.
_NOTE_USED = {
    SQLITE: """
        UPDATE api_keys SET last_used_at = used.at
          FROM (SELECT key AS id, value AS at FROM json_each(:used)) AS used
         WHERE api_keys.id = used.id AND COALESCE(api_keys.last_used_at, 0) < used.at
        """,
    POSTGRES: """
        WITH used AS (
            SELECT k.id, CAST(u.value AS bigint) AS at
              FROM json_each_text(:used) AS u
              JOIN api_keys k ON k.id = u.key
             WHERE COALESCE(k.last_used_at, 0) < CAST(u.value AS bigint)
             ORDER BY k.id
               FOR NO KEY UPDATE OF k
        )
        UPDATE api_keys SET last_used_at = used.at
          FROM used
         WHERE api_keys.id = used.id
        """,
}


class SqlKeys:
    """`Keys` and `Grants` on either database; `clock` is wall-clock seconds."""

    def __init__(self, db: Db, clock: Callable[[], float]) -> None:
        self._db = db
        self._clock = clock

    async def grant(self, digest: bytes, /) -> Grant | None:
        found = await self._db.rows(
            """
            SELECT k.id, k.project, k.kind, k.digest, k.expires_at, k.revoked_at, k.models, k.endpoints,
                   p.plan, p.cache_epoch, p.budget
              FROM api_keys k
              JOIN projects p ON p.id = k.project
             WHERE k.digest = :digest
            """,
            {"digest": digest},
        )
        if not found or not hmac.compare_digest(found[0]["digest"], digest):
            return None
        row = found[0]
        ends = [row[name] for name in ("expires_at", "revoked_at") if row[name] is not None]
        ends_at = optional_seconds(min(ends, default=None))
        if ends_at is not None and self._clock() >= ends_at:
            return None
        return Grant(
            row["project"],
            row["id"],
            row["kind"],
            row["plan"],
            row["cache_epoch"],
            ends_at,
            row["budget"],
            _names(row["models"]),
            _names(row["endpoints"]),
        )

    async def sequence(self) -> int:
        found = await self._db.rows("SELECT number FROM grant_changes")
        if not found:
            # Row level security hides every row from a role that `watchllm migrate` does not know yet.
            raise Unavailable("The database shows no rows.", retry_after=5)
        number: int = found[0]["number"]
        return number

    async def ping(self) -> None:
        """A server that answers is of no use without our tables."""
        await self.sequence()

    async def add(self, key: ApiKey, digest: bytes, /) -> None:
        # Adding the same key again is as good as once; another key under its id is a mistake.
        added = await self._db.run(
            """
            INSERT INTO api_keys (id, project, kind, name, hint, digest, created_at, expires_at, revoked_at,
                                  models, endpoints)
            VALUES (:id, :project, :kind, :name, :hint, :digest, :created_at, :expires_at, :revoked_at,
                    :models, :endpoints)
            ON CONFLICT (id) DO UPDATE SET digest = excluded.digest
             WHERE api_keys.digest = excluded.digest
            """,
            {
                "id": key.id,
                "project": key.project,
                "kind": key.kind,
                "name": key.name,
                "hint": key.hint,
                "digest": digest,
                "created_at": millis(key.created_at),
                "expires_at": optional_millis(key.expires_at),
                "revoked_at": optional_millis(key.revoked_at),
                "models": orjson.dumps(key.models).decode(),
                "endpoints": orjson.dumps(key.endpoints).decode(),
            },
        )
        if not added:
            raise ApiError("There is another key with this id.")

    async def of(self, project: str, /) -> Sequence[ApiKey]:
        found = await self._db.rows(
            """
            SELECT id, project, kind, name, hint, created_at, expires_at, revoked_at, models, endpoints,
                   last_used_at
              FROM api_keys
             WHERE project = :project
             ORDER BY created_at, id
            """,
            {"project": project},
        )
        return [_key(row) for row in found]

    async def find(self, key: str, /) -> ApiKey | None:
        found = await self._db.rows(
            """
            SELECT id, project, kind, name, hint, created_at, expires_at, revoked_at, models, endpoints,
                   last_used_at
              FROM api_keys
             WHERE id = :id
            """,
            {"id": key},
        )
        return _key(found[0]) if found else None

    async def end(self, key: str, /, at: float) -> bool:
        changed = await self._db.run(
            """
            UPDATE api_keys
               SET revoked_at = CASE WHEN revoked_at < :at THEN revoked_at ELSE :at END
             WHERE id = :id
            """,
            {"id": key, "at": millis(at)},
        )
        return changed == 1

    async def note_used(self, uses: Mapping[str, float], /) -> None:
        used = orjson.dumps({key: millis(at) for key, at in uses.items()}).decode()
        await self._db.run(_NOTE_USED[self._db.dialect], {"used": used})


def _names(stored: str) -> tuple[str, ...]:
    """Raises ApiError for what is no list of names: a restriction that cannot be read is not no restriction."""
    try:
        found = orjson.loads(stored)
    except ValueError as exc:
        raise _unreadable() from exc
    if type(found) is not list or not all(type(name) is str for name in found):
        raise _unreadable()
    return tuple(found)


def _unreadable() -> ApiError:
    return ApiError("What this key may ask for cannot be read.")


def _key(row: Row) -> ApiKey:
    return ApiKey(
        row["id"],
        row["project"],
        row["kind"],
        row["name"],
        row["hint"],
        seconds(row["created_at"]),
        optional_seconds(row["expires_at"]),
        optional_seconds(row["revoked_at"]),
        _names(row["models"]),
        _names(row["endpoints"]),
        optional_seconds(row["last_used_at"]),
    )
