"""Who could read or change our tables beside us, as PostgreSQL itself says. `secure_tables` of the schema sets it right."""

from __future__ import annotations

from adapters.sql.db import Db
from domain.value import value


@value
class Rights:
    """Names of tables. `exposed` are those that everybody may use, or the roles under which Supabase lets browsers in."""

    unguarded: tuple[str, ...]
    exposed: tuple[str, ...]
    may_create: bool


async def rights(db: Db) -> Rights:
    """Of PostgreSQL only. `may_create` is about the role that asks."""
    found = await db.rows(
        """
        SELECT it.relname::text AS name,
               it.relrowsecurity AS guarded,
               EXISTS (
                   SELECT 1
                     FROM (
                          SELECT 'public' AS who
                           UNION ALL
                          SELECT rolname FROM pg_roles WHERE rolname IN ('anon', 'authenticated')
                          ) AS strangers
                    WHERE has_table_privilege(who, it.oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE')
                       OR has_any_column_privilege(who, it.oid, 'SELECT, INSERT, UPDATE')
               ) AS exposed
          FROM pg_class AS it
         WHERE it.relnamespace = CAST(current_schema() AS regnamespace) AND it.relkind IN ('r', 'p')
         ORDER BY name
        """
    )
    [asker] = await db.rows(
        "SELECT has_schema_privilege(current_schema(), 'CREATE') AS may_create"
    )
    return Rights(
        unguarded=tuple(row["name"] for row in found if not row["guarded"]),
        exposed=tuple(row["name"] for row in found if row["exposed"]),
        may_create=asker["may_create"],
    )
