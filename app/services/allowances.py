"""Who has used most of a month's quota or budget, or all of it, is told so: once each a month.

Limits themselves are kept on the road of requests; this only reads the ledger now and then.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime

from attrs import define, evolve, field

from domain import notices
from domain.notices import BUDGET_80, BUDGET_100, QUOTA_80, QUOTA_100, Notice
from domain.plans import STRICTEST, Plan
from domain.project import Project
from domain.reports import span
from domain.usage import UsageSums
from domain.value import value
from ports.billing import BillingBook
from ports.notify import Chores
from ports.storage import Projects, UsageReports

EVERY = 60.0

QUOTA = {80: QUOTA_80, 100: QUOTA_100}
BUDGET = {80: BUDGET_80, 100: BUDGET_100}


@value
class Month:
    """A calendar month (UTC), as limits count them: `since` and `until` are wall-clock seconds."""

    name: str
    since: int
    until: int


@define
class Allowances:
    """`post` is the outbox's. Raises Unavailable where the database is away."""

    projects: Projects
    usage: UsageReports
    bills: BillingBook
    chores: Chores
    post: Callable[[Sequence[Notice]], Awaitable[int]]
    plans: Mapping[str, Plan]
    clock: Callable[[], float]
    _told: set[str] = field(factory=set)
    """Ids of notices that were posted from here: nobody has to ask for them again each minute."""
    _refusals: dict[tuple[str, str], int] = field(factory=dict)
    """By project and month, how many of the requests in the sums were refused when that was last counted. It only
    grows, so requests without these are never fewer than were served."""

    async def look(self) -> None:
        """All projects, if it is this process's turn."""
        now = self.clock()
        if not await self.chores.mine("allowances", now, EVERY):
            return
        month = month_of(now)
        self._forget_all_but(month)
        used = await self.usage.months(month.since)
        for project in await self.projects.all():
            if project.id in used:
                await self._tell(project, used[project.id], month, now)

    def _forget_all_but(self, month: Month) -> None:
        self._told = {told for told in self._told if told.endswith(month.name)}
        self._refusals = {
            of: number for of, number in self._refusals.items() if of[1] == month.name
        }

    async def _tell(self, project: Project, sums: UsageSums, month: Month, now: float) -> None:
        told: list[Notice] = []
        most = self.plans.get(project.plan, STRICTEST).requests_per_month
        # The sums know of requests that were refused, too, which count for nobody's quota.
        refused = self._refusals.get((project.id, month.name), 0)
        if self._news(project, QUOTA, sums.requests - refused, most, month):
            served = await self.usage.served(project.id, span(month.since, now))
            self._refusals[project.id, month.name] = max(refused, sums.requests - served)
            told += self._news(project, QUOTA, served, most, month)
        told += self._news(project, BUDGET, sums.cost, project.budget, month)
        if not told:
            return
        account = await self.bills.account(project.id)
        email = account.email if account is not None else ""
        await self.post([evolve(notice, email=email) for notice in told])
        self._told |= {notice.id for notice in told}

    def _news(
        self, project: Project, kinds: Mapping[int, str], used: int, most: int, month: Month
    ) -> list[Notice]:
        """Of 80 and 100 per cent only the higher one, when both were reached since the last look."""
        reached = notices.crossed(used, most)
        if not reached:
            return []
        kind = kinds[reached]
        identity = f"{kind}:{project.id}:{month.name}"
        if identity in self._told:
            return []
        facts = {"used": used, "most": most, "month": month.name, "resets_at": month.until}
        return [Notice(identity, kind, project.id, "", facts)]


def month_of(now: float) -> Month:
    first = datetime.fromtimestamp(now, UTC).replace(
        day=1, hour=0, minute=0, second=0, microsecond=0
    )
    years, month = divmod(first.month, 12)
    following = first.replace(year=first.year + years, month=month + 1)
    return Month(f"{first:%Y-%m}", int(first.timestamp()), int(following.timestamp()))
