"""What is kept for good: projects, keys and the ledger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from domain.project import ApiKey, Grant, Project
from domain.reports import DAY, START, Place, Span
from domain.usage import UsageRecord, UsageSums, UsageTotal


class Grants(Protocol):
    """Who a presented key is, read on the road of a request.

    Raises `Unavailable` when it cannot know; never guesses in either direction.
    """

    async def grant(self, digest: bytes, /) -> Grant | None:
        """The live grant of the key with this digest; None for unknown, revoked and ended ones."""

    async def sequence(self) -> int:
        """A number that grows whenever any grant may have changed: a key, a plan, a budget, a cache epoch."""


class KnownGrants(Protocol):
    """Grants kept in this process for a while, so that a request waits for no database."""

    def peek(self, digest: bytes, /) -> Grant | None:
        """A live grant that may be used without asking; never waits."""

    def vouched(self, digest: bytes, /) -> bool:
        """Whether this key was good when it was last asked for, even if that must be asked again by now."""

    async def grant(self, digest: bytes, /) -> Grant | None:
        """As `Grants.grant`, from memory where its staleness rules allow."""


class Projects(Protocol):
    """Projects and their keys, for the command line and the pages."""

    async def add(self, project: Project, /) -> bool:
        """False if the name is taken."""

    async def find(self, id_or_name: str, /) -> Project | None: ...

    async def all(self) -> Sequence[Project]: ...

    async def set_plan(self, project: str, plan: str, /) -> None:
        """By id; raises NotFound."""

    async def set_budget(self, project: str, budget: int, /) -> None:
        """Picodollars a month, 0 for none; by id. Raises NotFound."""

    async def purge_cache(self, project: str, /) -> int:
        """Moves the project's cache epoch (by id) on and returns it; raises NotFound."""


class Keys(Protocol):
    """A project's keys. Only digests are stored; a key cannot be read back."""

    async def add(self, key: ApiKey, digest: bytes, /) -> None:
        """As never used, whatever it says of that."""

    async def of(self, project: str, /) -> Sequence[ApiKey]:
        """Oldest first, ended ones included."""

    async def find(self, key: str, /) -> ApiKey | None: ...

    async def end(self, key: str, /, at: float) -> bool:
        """The key stops at `at` (wall-clock seconds), or earlier if it already was to. False if there is no such key."""

    async def note_used(self, uses: Mapping[str, float], /) -> None:
        """When keys, by id, were last used. Never moves back, and is no change of a grant; unknown ones are ignored."""


class UsageLog(Protocol):
    """The ledger. Appending the same record twice counts once (each carries its id)."""

    async def append(self, records: Sequence[UsageRecord], /) -> None:
        """All or none. Raises Unavailable to be tried again later, any other ApiError for rows that never fit."""


class UsageReports(Protocol):
    """What the ledger holds, mostly of one project, read beside the road of requests and never in its way.

    Sums are of records that `UsageLog.append` has taken, to the last picodollar.
    """

    async def totals(
        self,
        project: str,
        span: Span,
        /,
        width: int = DAY,
        after: Place = START,
        limit: int = 1_000,
    ) -> Sequence[UsageTotal]:
        """By start, provider and model, ordered so; `width` is HOUR or DAY. What follows `after`, `limit` at most."""

    async def sum(self, project: str, span: Span, /) -> UsageSums: ...

    async def find(self, project: str, request: str, /) -> UsageRecord | None:
        """The row of a request by its id; None if it is another project's or not there yet."""

    async def months(self, since: int, /) -> Mapping[str, UsageSums]:
        """Of each project that used anything: the sums of all days (UTC) from `since` on, epoch seconds."""

    async def served(self, project: str, span: Span, /) -> int:
        """How many requests were not denied, counted row by row: to be asked seldom."""

    async def tokens_saved(self, project: str, span: Span, /) -> int:
        """All tokens of hits, which no provider made anew; counted row by row as well."""


class Journal(Protocol):
    """Usage on its way to the ledger. Full means refuse, never drop."""

    @property
    def fullness(self) -> float:
        """From 0 to 1. At 1 nothing more can be kept, and whoever asks for something must be refused."""

    def open(self, record: UsageRecord, /) -> None:
        """Called before the provider is. Raises `Unavailable` when nothing more can be kept."""

    def close(self, record: UsageRecord, /) -> None:
        """Called before the last byte of the answer leaves. Never raises."""

    async def drain(self, timeout: float, /) -> None:
        """Brings what is kept to the ledger, for at most `timeout` seconds."""
