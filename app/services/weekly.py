"""The weekly report: on Mondays, what the cache has saved each project in the week before."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime

from attrs import define

from domain.notices import WEEKLY_REPORT, Notice
from domain.project import Project
from domain.reports import DAY, HOUR, Span
from domain.usage import UsageSums
from ports.billing import BillingBook
from ports.notify import Chores, Contacts
from ports.storage import Projects, UsageReports

EVERY = 60.0
FROM, UNTIL = 8 * HOUR, 3 * DAY
"""Seconds after a Monday's beginning (UTC): when reports go out, and until when they are still worth reading."""
WEEK = 7 * DAY

_A_MONDAY = 4 * DAY
"""1970-01-05."""


@define
class WeeklyReports:
    """`post` is the outbox's. Raises Unavailable where the database is away."""

    projects: Projects
    usage: UsageReports
    contacts: Contacts
    bills: BillingBook
    chores: Chores
    post: Callable[[Sequence[Notice]], Awaitable[int]]
    clock: Callable[[], float]
    _done: int = 0
    """The week whose reports are all posted, by its end."""

    async def look(self) -> None:
        """All projects, if it is time and this process's turn. Half a round is gone over again within the hour."""
        now = self.clock()
        week = week_before(now)
        if week.until == self._done or not FROM <= now - week.until < UNTIL:
            return
        if not await self.chores.mine("weekly-reports", now, HOUR):
            return
        for project in await self.projects.all():
            await self._report(project, week)
        self._done = week.until

    async def _report(self, project: Project, week: Span) -> None:
        contact = await self.contacts.contact(project.id)
        account = await self.bills.account(project.id)
        email = account.email if account is not None else ""
        if not contact.reports or not (contact.email or contact.channel or email):
            return
        used = await self.usage.sum(project.id, week)
        if not used.requests:
            return
        facts = _facts(week, used, await self.usage.tokens_saved(project.id, week))
        year, number, _ = datetime.fromtimestamp(week.since, UTC).isocalendar()
        identity = f"{WEEKLY_REPORT}:{project.id}:{year}-W{number:02}"
        await self.post([Notice(identity, WEEKLY_REPORT, project.id, email, facts)])


def _facts(week: Span, used: UsageSums, tokens_saved: int) -> Mapping[str, object]:
    return {
        "since": week.since,
        "until": week.until,
        "requests": used.requests,
        "hits": used.hits,
        "cost": used.cost,
        "saved": used.avoided,
        "tokens_saved": tokens_saved,
    }


def week_before(now: float) -> Span:
    """The last whole week, Monday to Monday (UTC)."""
    until = _A_MONDAY + int(now - _A_MONDAY) // WEEK * WEEK
    return Span(until - WEEK, until)
