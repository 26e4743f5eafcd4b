"""Brings a database to the newest schema: numbered files under `schema/`, forward only, each applied once.

A file is `NNNN_name.sql` where both databases take the same text, else `NNNN_name.sqlite.sql` and
`NNNN_name.postgres.sql`. Files only add (tables, columns with a default), so that the version before still runs.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from importlib.resources import files

from adapters.sql.db import POSTGRES, SQLITE, Db, Transaction
from domain.value import value

_APPLIED = """
    CREATE TABLE IF NOT EXISTS migrations (
        name      text NOT NULL PRIMARY KEY,
        checksum  text NOT NULL
    );
    """

MONTHS_AHEAD = 12
"""How far the ledger's partitions reach. Where nobody migrates for longer, the default partition takes the rows."""

_log = logging.getLogger(__name__)


class MigrationError(Exception):
    """The database's history is not this version's; a person must look."""


@value
class Migration:
    name: str
    text: str

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()


async def migrate(db: Db, migrations: Sequence[Migration] | None = None) -> list[str]:
    """Applies what is missing, all or nothing, and returns its names. Safe from several nodes at once.

    A database that is ahead of this version is left as it is, and said so in the log. The ledger's partitions for the
    months to come are added each time, and rights are set on whatever is new.
    """
    known = packaged(db.dialect) if migrations is None else migrations
    async with db.transaction(exclusive=True) as transaction:
        await transaction.script(_APPLIED)
        applied = await transaction.rows("SELECT name, checksum FROM migrations")
        if not applied and db.dialect == POSTGRES:
            await _check_empty(transaction)
        missing = _missing(known, {row["name"]: row["checksum"] for row in applied})
        for migration in missing:
            await _apply(transaction, migration)
        if migrations is None and db.dialect == POSTGRES:
            await _prepare(transaction)
    return [migration.name for migration in missing]


async def pending(db: Db) -> list[str]:
    """The names this version needs and the database lacks; it is only looked at."""
    needed = [migration.name for migration in packaged(db.dialect)]
    found = await db.rows(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name = 'migrations'"
        if db.dialect == SQLITE
        else "SELECT 1 AS name WHERE to_regclass('migrations') IS NOT NULL"
    )
    if not found:
        return needed
    applied = {row["name"] for row in await db.rows("SELECT name FROM migrations")}
    return [name for name in needed if name not in applied]


def packaged(dialect: str) -> list[Migration]:
    """The files that come with this version, in order."""
    found = {}
    for file in files(__package__).joinpath("schema").iterdir():
        name, *kind = file.name.removesuffix(".sql").split(".")
        if kind in ([], [dialect]):
            found[name] = Migration(name, file.read_text(encoding="utf-8"))
    return [found[name] for name in sorted(found)]


def _missing(known: Sequence[Migration], applied: dict[str, str]) -> list[Migration]:
    for migration in known:
        if applied.get(migration.name, migration.checksum) != migration.checksum:
            raise MigrationError(
                f"{migration.name} was changed after it had been applied to this database."
            )
    newer = sorted(applied.keys() - {migration.name for migration in known})
    if newer:
        _log.warning("the database is newer than this version: it has %s", ", ".join(newer))
    missing = [migration for migration in known if migration.name not in applied]
    last = max(applied, default="")
    for migration in missing:
        if migration.name < last:
            raise MigrationError(
                f"{migration.name} is missing, though {last} was applied to this database."
            )
    return missing


async def _check_empty(transaction: Transaction) -> None:
    """No migration to be seen, but tables: row level security hides them from this role."""
    if await transaction.rows("SELECT 1 AS found WHERE to_regclass('projects') IS NOT NULL"):
        raise MigrationError(
            "This role sees no rows of our tables. `watchllm migrate` as their owner lets it in."
        )


async def _prepare(transaction: Transaction) -> None:
    """The months to come, and rights on whatever is new: both are the owner's to give."""
    [asker] = await transaction.rows(
        "SELECT has_function_privilege('secure_tables()', 'EXECUTE') AS is_owner"
    )
    if not asker["is_owner"]:
        _log.warning("this role does not own the tables: partitions and rights stay as they are")
        return
    await transaction.rows("SELECT add_usage_partitions(:ahead)", {"ahead": MONTHS_AHEAD})
    await transaction.rows("SELECT secure_tables()")


async def _apply(transaction: Transaction, migration: Migration) -> None:
    await transaction.script(migration.text)
    await transaction.run(
        "INSERT INTO migrations (name, checksum) VALUES (:name, :checksum)",
        {"name": migration.name, "checksum": migration.checksum},
    )
