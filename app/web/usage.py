"""A project's own usage, for its keys: sums by day or hour, and one request by its id."""

from __future__ import annotations

import orjson

from app.services.reports import MAX_PAGE, Question
from app.web.api import KEY, Handler
from domain.errors import InvalidRequest
from domain.reports import START, WIDTHS, read_cursor

_KNOWN = frozenset({"since", "until", "by", "after", "limit"})


class UsageRoute(Handler):
    """Test keys see what their project's other keys see."""

    auth = KEY

    async def get(self) -> None:
        asked = self._question()
        page = await self.rooms.reports.page(self.grant.project, asked)
        self.set_header("Cache-Control", "no-store")
        self.json(orjson.dumps(page))

    def _question(self) -> Question:
        for name, said in self.request.query_arguments.items():
            if name not in _KNOWN:
                raise InvalidRequest(f"Unknown parameter {name[:100]!r}.", param=name[:100])
            if len(said) > 1:
                raise InvalidRequest(f"'{name}' is given twice.", param=name)
        by = self.get_query_argument("by", "day")
        if by not in WIDTHS:
            raise InvalidRequest("'by' must be day or hour.", param="by")
        after = self.get_query_argument("after", None)
        return Question(
            self.get_query_argument("since", None),
            self.get_query_argument("until", None),
            by,
            START if after is None else read_cursor(after),
            self._limit(),
        )

    def _limit(self) -> int:
        said = self.get_query_argument("limit", str(MAX_PAGE))
        if not (
            said.isascii() and said.isdigit() and len(said) < 5 and 1 <= int(said) <= MAX_PAGE
        ):
            raise InvalidRequest(f"'limit' must be 1 to {MAX_PAGE:,}.", param="limit")
        return int(said)


class UsageOfRequestRoute(Handler):
    """What one request cost, streams included; `x-request-id` is its id."""

    auth = KEY

    async def get(self, request: str) -> None:
        row = await self.rooms.reports.request(self.grant.project, request)
        self.set_header("Cache-Control", "no-store")
        self.json(orjson.dumps(row))
