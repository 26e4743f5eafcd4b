"""Storage, opened as the settings say, and what a one-shot command does its work with.

The running proxy opens its storage here too; the rest of it is put together elsewhere.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from attrs import define

from adapters.sql.db import Db
from adapters.sql.keys import SqlKeys
from adapters.sql.migrate import migrate, pending
from adapters.sql.projects import SqlProjects
from adapters.sql.reports import SqlUsageReports
from adapters.sql.usage import SqlUsageLog
from app.services.keys import KeyRing
from app.services.projects import FirstStart, ProjectBook
from app.services.reports import Reports
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
    migrate: Callable[[], Awaitable[list[str]]]
    """Brings the database to the newest schema and says which steps were taken."""

    async def aclose(self) -> None:
        await self.db.aclose()
        await self.reports_db.aclose()


@define
class Desk:
    """What commands ask."""

    settings: Settings
    storage: Storage
    projects: ProjectBook
    keys: KeyRing
    reports: Reports


def open_storage(settings: Settings, clock: Callable[[], float] = time.time) -> Storage:
    """Raises SettingError for a data directory or URL that cannot be used. Waits for nothing."""
    if settings.embedded:
        # Before the database: one without its secret must be told from one that is new.
        ready_data_dir(settings.data_dir)
        settings.master_secret()
    db = _database(settings)
    reports_db = _reports_database(settings)

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
        migrate=migrate_here if settings.database.direct_url is None else migrate_directly,
    )


@asynccontextmanager
async def open_desk(settings: Settings, *, migrated: bool = True) -> AsyncIterator[Desk]:
    """`migrated` commands need the newest schema: the embedded database gets it, a server must have it."""
    storage = open_storage(settings)
    try:
        if migrated and settings.embedded:
            await storage.migrate()
        elif migrated and await pending(storage.db):
            raise SettingError(
                "DATABASE_URL", "has no current schema yet; run `watchllm migrate` first"
            )
        yield Desk(
            settings,
            storage,
            project_book(storage),
            key_ring(settings, storage),
            Reports(storage.reports, time.time),
        )
    finally:
        await storage.aclose()


def project_book(storage: Storage) -> ProjectBook:
    return ProjectBook(storage.projects, time.time, secrets.token_bytes)


def key_ring(settings: Settings, storage: Storage) -> KeyRing:
    pepper = derive(settings.master_secret(), "key-hash")
    return KeyRing(storage.keys, pepper, time.time, secrets.token_bytes)


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


def greeting(first: FirstStart, root: str) -> str:
    """What a newcomer needs, once: both keys and a first request that costs nothing."""
    return f"""
Project {first.project.name} is ready. Its keys are shown this once:

  project key  {first.key.key}
  test key     {first.test_key.key}

A first request, answered by the built-in sandbox and free of charge:

curl -i {root}/v1/chat/completions -H "Authorization: Bearer {first.test_key.key}" \
-H "Content-Type: application/json" \
-d '{{"model":"gpt-4o-mini","messages":[{{"role":"user","content":"Hello"}}]}}'
"""


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
