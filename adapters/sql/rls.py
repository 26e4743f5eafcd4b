"""Who could read or change our tables beside us, and whether we can, as PostgreSQL itself says. `secure_tables` of the
schema sets it right. Nothing is tried out: the server's own catalogue is read, which tells any role.
"""

from __future__ import annotations

from adapters.sql.db import Db
from domain.value import value

_LET_IN = """
    SELECT 1 AS found
      FROM pg_class AS it
      JOIN pg_namespace AS home ON home.oid = it.relnamespace
     WHERE home.nspname = :schema AND it.relname = 'migrations'
    """

# Rows are asked for by the ledger's name and not by its partitions', so rights on those are nobody's need.
_REACH = """
    SELECT it.relname::text AS name,
           (
               SELECT bool_and(has_table_privilege(it.oid, need))
                 FROM unnest(
                          CASE it.relname
                              WHEN 'migrations' THEN ARRAY['SELECT']
                              ELSE ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']
                          END
                      ) AS need
           ) AS granted,
           NOT row_security_active(it.oid) OR EXISTS (
               SELECT 1
                 FROM pg_policy, unnest(polroles) AS admitted
                WHERE polrelid = it.oid
                  AND CASE admitted WHEN 0 THEN true ELSE pg_has_role(admitted, 'USAGE') END
           ) AS seen
      FROM pg_class AS it
     WHERE it.relnamespace = CAST(current_schema() AS regnamespace)
       AND it.relkind IN ('r', 'p') AND NOT it.relispartition
     ORDER BY name
    """


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


@value
class Reach:
    """Names of tables: those on which the role that asks lacks a right, and those whose rows it does not see."""

    barred: tuple[str, ...]
    unseen: tuple[str, ...]


async def reach(db: Db) -> Reach:
    """Of PostgreSQL only, and of the role that asks."""
    tables = await db.rows(_REACH)
    return Reach(
        barred=tuple(row["name"] for row in tables if not row["granted"]),
        unseen=tuple(row["name"] for row in tables if not row["seen"]),
    )


async def is_hidden(db: Db, schema: str) -> bool:
    """Of a database whose migrations this role does not see: whether they are there all the same."""
    return bool(await db.rows(_LET_IN, {"schema": schema}))
