"""What one-shot commands do their work with, and what the first start says."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from attrs import define

from adapters.sql.migrate import pending
from app.billing import open_billing
from app.services.billing import Billing
from app.services.keys import KeyRing
from app.services.projects import FirstStart, ProjectBook
from app.services.reports import Reports
from app.storage import Storage, open_storage
from config.catalogue import read_plans
from config.secrets import SettingError, derive
from config.settings import Settings


@define
class Desk:
    """What commands ask."""

    settings: Settings
    storage: Storage
    projects: ProjectBook
    keys: KeyRing
    reports: Reports
    _billing: Billing | None = None

    def billing(self) -> Billing:
        """Opened with the first question: the payment provider's client is slow to load."""
        if self._billing is None:
            self._billing = open_billing(
                self.settings,
                self.storage,
                read_plans(self.settings.config_dir),
                self.settings.public_root(self.settings.listening.port),
                time.time,
            )
        return self._billing

    async def aclose(self) -> None:
        if self._billing is not None:
            await self._billing.gateway.aclose()


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
        desk = Desk(
            settings,
            storage,
            project_book(storage),
            key_ring(settings, storage),
            Reports(storage.reports, time.time),
        )
        try:
            yield desk
        finally:
            await desk.aclose()
    finally:
        await storage.aclose()


def project_book(storage: Storage) -> ProjectBook:
    return ProjectBook(storage.projects, time.time, secrets.token_bytes)


def key_ring(settings: Settings, storage: Storage) -> KeyRing:
    pepper = derive(settings.master_secret(), "key-hash")
    return KeyRing(storage.keys, pepper, time.time, secrets.token_bytes)


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
