"""The one seam between SQLite and PostgreSQL: what the other modules here may ask of a database.

SQL is written once, in words both speak, with parameters as `:name`. Text without a schema's name: each
adapter sees to it that the right one is meant. Times are epoch milliseconds, money is whole picodollars.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

SQLITE, POSTGRES = "sqlite", "postgres"

Row = dict[str, Any]
Params = Mapping[str, Any]
"""Text, integers, floats, booleans, bytes and None."""


class Transaction(Protocol):
    """Statements that take effect together or not at all."""

    async def rows(self, sql: str, params: Params | None = None, /) -> list[Row]: ...

    async def run(self, sql: str, params: Params | None = None, /) -> int:
        """How many rows it changed."""

    async def script(self, text: str, /) -> None:
        """Several statements, each ending its line with a semicolon."""


class Db(Protocol):
    """A database. Raises `Unavailable` when it cannot answer, and `ApiError` for data that it will never take.

    A statement may be sent twice when its connection was found dead, so each is written such that twice is
    as good as once.
    """

    @property
    def dialect(self) -> str:
        """SQLITE or POSTGRES."""

    async def rows(self, sql: str, params: Params | None = None, /) -> list[Row]: ...

    async def run(self, sql: str, params: Params | None = None, /) -> int:
        """How many rows it changed."""

    def transaction(self, *, exclusive: bool = False) -> AbstractAsyncContextManager[Transaction]:
        """All or nothing, sent once. `exclusive` waits for, and keeps out, all others who ask for the same."""

    async def ping(self) -> None: ...

    async def aclose(self) -> None: ...


def millis(at: float) -> int:
    """Wall-clock seconds as they are stored."""
    return round(at * 1000)


def seconds(stored: int) -> float:
    """Stored time as wall-clock seconds."""
    return stored / 1000


def optional_millis(at: float | None) -> int | None:
    return None if at is None else millis(at)


def optional_seconds(stored: int | None) -> float | None:
    return None if stored is None else seconds(stored)


def without_nul(given: str) -> str:
    """Text without U+0000, which PostgreSQL refuses in every text type; the same in both, so that they agree."""
    return given.replace("\0", "\N{REPLACEMENT CHARACTER}")


def storable(params: Params | None) -> dict[str, Any]:
    """Parameters as both databases take them."""
    return {
        name: without_nul(given) if isinstance(given, str) else given
        for name, given in (params or {}).items()
    }
