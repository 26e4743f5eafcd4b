"""Projects in SQL."""

from __future__ import annotations

from collections.abc import Sequence

from adapters.sql.db import Db, Row, millis, seconds
from domain.errors import NotFound
from domain.project import Project


class SqlProjects:
    """`Projects` on either database."""

    def __init__(self, db: Db) -> None:
        self._db = db

    async def add(self, project: Project, /) -> bool:
        await self._db.run(
            """
            INSERT INTO projects (id, name, plan, cache_epoch, created_at, budget)
            VALUES (:id, :name, :plan, :cache_epoch, :created_at, :budget)
            ON CONFLICT DO NOTHING
            """,
            {
                "id": project.id,
                "name": project.name,
                "plan": project.plan,
                "cache_epoch": project.cache_epoch,
                "created_at": millis(project.created_at),
                "budget": project.budget,
            },
        )
        # Asked back, not counted: after a lost connection the first try may have been the one that counted.
        found = await self._db.rows(
            "SELECT 1 AS found FROM projects WHERE id = :id AND name = :name",
            {"id": project.id, "name": project.name},
        )
        return bool(found)

    async def find(self, id_or_name: str, /) -> Project | None:
        """An id goes before a name that looks like it."""
        found = await self._db.rows(
            """
            SELECT id, name, plan, cache_epoch, created_at, budget
              FROM projects
             WHERE id = :wanted OR name = :wanted
             ORDER BY CASE WHEN id = :wanted THEN 0 ELSE 1 END
             LIMIT 1
            """,
            {"wanted": id_or_name},
        )
        return _project(found[0]) if found else None

    async def all(self) -> Sequence[Project]:
        """Oldest first."""
        found = await self._db.rows(
            """
            SELECT id, name, plan, cache_epoch, created_at, budget
              FROM projects
             ORDER BY created_at, id
            """
        )
        return [_project(row) for row in found]

    async def set_plan(self, project: str, plan: str, /) -> None:
        changed = await self._db.run(
            "UPDATE projects SET plan = :plan WHERE id = :id", {"id": project, "plan": plan}
        )
        if not changed:
            raise _unknown()

    async def set_budget(self, project: str, budget: int, /) -> None:
        changed = await self._db.run(
            "UPDATE projects SET budget = :budget WHERE id = :id",
            {"id": project, "budget": budget},
        )
        if not changed:
            raise _unknown()

    async def purge_cache(self, project: str, /) -> int:
        found = await self._db.rows(
            """
            UPDATE projects SET cache_epoch = cache_epoch + 1
             WHERE id = :id
            RETURNING cache_epoch
            """,
            {"id": project},
        )
        if not found:
            raise _unknown()
        epoch: int = found[0]["cache_epoch"]
        return epoch


def _unknown() -> NotFound:
    return NotFound("There is no such project.")


def _project(row: Row) -> Project:
    return Project(
        row["id"],
        row["name"],
        row["plan"],
        row["cache_epoch"],
        seconds(row["created_at"]),
        row["budget"],
    )
