"""What the doctor says of rights in PostgreSQL: who could reach the tables beside us, and whether the role that asks can."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from adapters.sql.db import Db
from adapters.sql.rls import reach, rights
from app.findings import BROKEN, OK, WARNING, Finding

_NAME: Final = "database rights"
_INSUFFICIENT_PRIVILEGE: Final = "42501"
_AS_OWNER: Final = "Run `watchllm migrate` as the owner of the tables"


def is_denied(exc: BaseException) -> bool:
    """Whether PostgreSQL is there and said no (https://www.postgresql.org/docs/current/errcodes-appendix.html)."""
    return getattr(exc.__cause__, "pgcode", None) == _INSUFFICIENT_PRIVILEGE


def not_let_in() -> Finding:
    message = (
        "PostgreSQL has our tables, but this role sees nothing of them: it has no rights there, or got"
        " them after the last migration"
    )
    mend = f"{_AS_OWNER}: it lets watchllm_service in, and roles that were granted tables by name."
    return Finding("database", BROKEN, message, mend)


async def database_rights(db: Db) -> list[Finding]:
    """What `watchllm migrate` has set, as it stands now."""
    found = await rights(db)
    doubts = []
    if found.unguarded:
        message = f"without row level security: {_some(found.unguarded)}"
        doubts.append(Finding(_NAME, WARNING, message, f"{_AS_OWNER}."))
    if found.exposed:
        message = f"PUBLIC, anon or authenticated may use {_some(found.exposed)}"
        doubts.append(Finding(_NAME, BROKEN, message, f"{_AS_OWNER}; it takes that back."))
    if not found.unguarded:
        doubts += await _reach(db)
    if doubts:
        return doubts
    message = "row level security is on, nobody else was let in"
    if not found.may_create:
        return [Finding(_NAME, OK, message)]
    mend = "The running role may change tables, too; it could be watchllm_service, which may not."
    return [Finding(_NAME, OK, message, mend)]


async def _reach(db: Db) -> list[Finding]:
    """A role whose grants were made by hand is not granted the tables of a newer version."""
    own = await reach(db)
    if own.barred:
        message = f"this role lacks SELECT, INSERT, UPDATE or DELETE on {_some(own.barred)}"
        mend = (
            "Grant it these on all tables of the schema and run `watchllm migrate`, both as the owner of the"
            " tables; or use watchllm_service."
        )
        return [Finding(_NAME, BROKEN, message, mend)]
    if own.unseen:
        message = f"this role was granted, but sees no row of {_some(own.unseen)}"
        return [Finding(_NAME, BROKEN, message, f"{_AS_OWNER}; it lets the role in.")]
    return []


def _some(tables: Sequence[str]) -> str:
    more = f" and {len(tables) - 3} more" if len(tables) > 3 else ""
    return ", ".join(tables[:3]) + more
