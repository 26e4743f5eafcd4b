"""What is kept for good, opened as the settings say: for the running proxy and for commands alike."""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from attrs import define

from adapters.sql.billing import SqlBillingBook
from adapters.sql.chores import SqlChores
from adapters.sql.contacts import SqlContacts
from adapters.sql.db import Db
from adapters.sql.keys import SqlKeys
from adapters.sql.migrate import migrate
from adapters.sql.postbox import SqlPostbox
from adapters.sql.projects import SqlProjects
from adapters.sql.reports import SqlUsageReports
from adapters.sql.usage import SqlUsageLog
from config.secrets import SecretUrl, SettingError, derive
from config.settings import Settings

REPORT_CONNECTIONS = 2
REPORT_WAIT = 2.0
REPORT_TIMEOUT = 10.0
"""Seconds a report waits for a connection, and for its answer."""


@define
class Storage:
    """What is kept for good. The connection opens with the first question; whoever opened closes."""

    db: Db
    reports_db: Db
    projects: SqlProjects
    keys: SqlKeys
    usage_log: SqlUsageLog
    reports: SqlUsageReports
    billing_book: SqlBillingBook
    postbox: SqlPostbox
    contacts: SqlContacts
    chores: SqlChores
    migrate: Callable[[], Awaitable[list[str]]]
    """Brings the database to the newest schema and says which steps were taken."""

    async def aclose(self) -> None:
        await self.db.aclose()
        await self.reports_db.aclose()


def open_storage(settings: Settings, clock: Callable[[], float] = time.time) -> Storage:
    """Raises SettingError for a data directory or URL that cannot be used. Waits for nothing."""
    if settings.embedded:
        # Before the database: one without its secret must be told from one that is new.
        ready_data_dir(settings.data_dir)
        settings.master_secret()
    db = _database(settings)
    reports_db = _reports_database(settings)
    contacts = SqlContacts(db, derive(settings.master_secret(), "channel-seal"))

    async def migrate_here() -> list[str]:
        return await migrate(db)

    async def migrate_directly() -> list[str]:
        # Locks and long statements need a session of their own, which a pooler does not give.
        direct = _postgres(settings, "DATABASE_DIRECT_URL", settings.database.direct_url)
        try:
            return await migrate(direct)
        finally:
            await direct.aclose()

    return Storage(
        db=db,
        reports_db=reports_db,
        projects=SqlProjects(db),
        keys=SqlKeys(db, clock),
        usage_log=SqlUsageLog(db),
        reports=SqlUsageReports(reports_db),
        billing_book=SqlBillingBook(db, contacts),
        postbox=SqlPostbox(db),
        contacts=contacts,
        chores=SqlChores(db),
        migrate=migrate_here if settings.database.direct_url is None else migrate_directly,
    )


def ready_data_dir(path: Path) -> None:
    """Makes it for its owner alone. Raises SettingError if nothing can be kept there."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as exc:
        raise SettingError(
            "WATCHLLM_DATA_DIR", f"cannot be made: {exc.strerror} ({path})"
        ) from exc
    if not os.access(path, os.W_OK | os.X_OK):
        raise SettingError("WATCHLLM_DATA_DIR", f"cannot be written to ({path})")


def _database(settings: Settings) -> Db:
    if settings.database.url is not None:
        return _postgres(settings, "DATABASE_URL", settings.database.url)
    from adapters.sql.sqlite import SqliteDb

    ready_data_dir(settings.data_dir)
    return SqliteDb(settings.database_file)


def _reports_database(settings: Settings) -> Db:
    """The same database over connections of its own: who looks at reports keeps no request waiting for its key."""
    if settings.database.url is None:
        return _database(settings)
    from adapters.sql.postgres import PostgresDb

    return PostgresDb(
        settings.database.url.reveal(),
        connections=REPORT_CONNECTIONS,
        connect_timeout=settings.database.connect_timeout,
        pool_wait=REPORT_WAIT,
        statement_timeout=REPORT_TIMEOUT,
        tells=False,
    )


def _postgres(settings: Settings, name: str, url: SecretUrl | None) -> Db:
    from adapters.sql.postgres import PostgresDb

    assert url is not None
    try:
        return PostgresDb(
            url.reveal(),
            connect_timeout=settings.database.connect_timeout,
            pool_wait=settings.database.pool_timeout,
            statement_timeout=settings.database.statement_timeout,
        )
    except ValueError:
        raise SettingError(name, "is not a URL that PostgreSQL's client understands") from None
