"""Whose turn it is to do what one process does for all, in SQL."""

from __future__ import annotations

from adapters.sql.db import Db, millis


class SqlChores:
    """`Chores` on either database."""

    def __init__(self, db: Db) -> None:
        self._db = db

    async def mine(self, name: str, now: float, every: float, /) -> bool:
        # The database looks at the row it has locked: of all who ask at once, one finds it due. Should his answer get lost,
        # nobody does the chore this time, which is less harm than twice.
        changed = await self._db.run(
            """
            INSERT INTO chores (name, due_at) VALUES (:name, :next)
            ON CONFLICT (name) DO UPDATE SET due_at = excluded.due_at
             WHERE chores.due_at <= :now
            """,
            {"name": name, "now": millis(now), "next": millis(now + every)},
        )
        return changed == 1
