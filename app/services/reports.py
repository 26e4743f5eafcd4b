"""What a project used: pages for its own keys, the whole for the operator, one request by its id."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

from attrs import define

from domain import reports
from domain.errors import NotFound
from domain.reports import START, WIDTHS, Document, Place, Span
from domain.usage import UsageSums, UsageTotal
from domain.value import value
from ports.storage import UsageReports

MAX_PAGE = 1_000


@value
class Question:
    """Which page of a report. `by` is hour or day."""

    since: str | None = None
    until: str | None = None
    by: str = "day"
    after: Place = START
    limit: int = MAX_PAGE


@value
class Report:
    span: Span
    rows: list[UsageTotal]
    total: UsageSums


@define
class Reports:
    """`clock` is wall-clock seconds."""

    ledger: UsageReports
    clock: Callable[[], float]

    async def page(self, project: str, asked: Question) -> Document:
        """A page of the report and the sums of the whole; `next` is for the page after it, null at the end."""
        span = reports.read_span(asked.since, asked.until, self.clock())
        # One more than asked for tells whether there is another page.
        found = await self.ledger.totals(
            project, span, WIDTHS[asked.by], asked.after, asked.limit + 1
        )
        rows = found[: asked.limit]
        more = len(found) > asked.limit
        return {
            **reports.report(project, span, rows, await self.ledger.sum(project, span), asked.by),
            "next": reports.cursor(rows[-1]) if more else None,
        }

    async def whole(self, project: str, since: float) -> Report:
        """All of the last `since` seconds, by day."""
        now = self.clock()
        span = reports.span(now - since, now)
        rows = [total async for total in self._all(project, span)]
        return Report(span, rows, await self.ledger.sum(project, span))

    async def request(self, project: str, request: str) -> Document:
        record = await self.ledger.find(project, request)
        if record is None:
            raise NotFound(
                "This project has no such request in the ledger, or not yet: a request is there within seconds of"
                " its end."
            )
        return reports.request(record)

    async def _all(self, project: str, span: Span) -> AsyncIterator[UsageTotal]:
        after = START
        while True:
            found = await self.ledger.totals(project, span, after=after, limit=MAX_PAGE)
            for total in found:
                yield total
            if len(found) < MAX_PAGE:
                return
            after = Place(found[-1].start, found[-1].provider, found[-1].model)
