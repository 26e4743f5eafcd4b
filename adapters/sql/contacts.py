"""Where owners want to be told, in SQL. The URL of a project's own channel is sealed: whoever reads the database, or a
backup of it, cannot write there."""

from __future__ import annotations

import base64
import logging

from cryptography.fernet import Fernet, InvalidToken

from adapters.sql.db import Db, Transaction
from domain.errors import NotFound
from domain.notices import Contact

_log = logging.getLogger(__name__)


class SqlContacts:
    """`Contacts` on either database. `key` is 32 bytes, secret, and the same in all processes."""

    def __init__(self, db: Db, key: bytes) -> None:
        self._db = db
        self._fernet = Fernet(base64.urlsafe_b64encode(key))
        self._warned = False

    async def contact(self, project: str, /) -> Contact:
        return await self.read(self._db, project)

    async def read(self, asked: Db | Transaction, project: str) -> Contact:
        """The same, for those who are in the middle of a transaction."""
        found = await asked.rows(
            "SELECT email, channel, reports FROM contacts WHERE project = :project",
            {"project": project},
        )
        if not found:
            return Contact(project)
        [row] = found
        channel = self._open(project, row["channel"])
        return Contact(project, row["email"], channel, bool(row["reports"]))

    async def keep(self, contact: Contact, /) -> None:
        kept = await self._db.run(
            """
            INSERT INTO contacts (project, email, channel, reports)
            SELECT id, :email, :channel, :reports FROM projects WHERE id = :project
            ON CONFLICT (project) DO UPDATE
               SET email = excluded.email, channel = excluded.channel, reports = excluded.reports
            """,
            {
                "project": contact.project,
                "email": contact.email,
                "channel": self._sealed(contact),
                "reports": contact.reports,
            },
        )
        if not kept:
            raise NotFound("There is no such project.")

    def _sealed(self, contact: Contact) -> bytes | None:
        """With the project inside: copied into another project's row it opens nothing."""
        if not contact.channel:
            return None
        return self._fernet.encrypt(f"{contact.project}\n{contact.channel}".encode())

    def _open(self, project: str, sealed: bytes | None) -> str:
        if sealed is None:
            return ""
        try:
            owner, _, channel = self._fernet.decrypt(sealed).decode().partition("\n")
        except (InvalidToken, UnicodeError):
            owner = channel = ""
        if owner == project:
            return channel
        if not self._warned:
            self._warned = True
            _log.warning(
                "channels of projects cannot be read, the first of %s: was the master secret changed? "
                "Until they are given again nothing is sent there.",
                project,
            )
        return ""
