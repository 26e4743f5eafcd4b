"""`GET /v1/usage` over HTTP: a project's own sums, page by page, and one request by its id."""

from __future__ import annotations

import asyncio
import time
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

import attrs
import psycopg2
import pytest

from app.storage import REPORT_CONNECTIONS
from domain.usage import Usage, UsageRecord
from tests.support.house import QUESTION, OpenHouse, Reply, open_house
from tests.support.postgres import new_server

MASTER = "Zt3vQ8mK1xY7rB5nW2jL9pD4sF6hG0aC"


async def usage(house: OpenHouse, path: str = "", key: str | None = None) -> Reply:
    await house.house.journal.drain(5)
    return await house.ask(path=f"/v1/usage{path}", method="GET", key=key)


async def test_a_miss_and_a_hit(house: OpenHouse) -> None:
    """The sums are those of the answers' headers, and the shape is that of the command line."""
    miss = await house.ask(QUESTION)
    hit = await house.ask(QUESTION)
    assert ("MISS", "HIT") == (miss.cached, hit.cached)
    cost = miss.headers["x-WatchLLM-cost-usd"]
    tokens = miss.document["usage"]

    found = await usage(house)

    sums = {
        "requests": 2,
        "hits": 1,
        "prompt_tokens": 2 * tokens["prompt_tokens"],
        "completion_tokens": 2 * tokens["completion_tokens"],
        "cost_usd": cost,
        "saved_usd": cost,
        "unpriced": 0,
    }
    document = found.document
    [row] = document["rows"]
    assert (200, "application/json") == (found.status, found.headers["Content-Type"])
    assert "no-store" == found.headers["Cache-Control"]
    assert {"project", "since", "until", "rows", "total", "next"} == set(document)
    assert (house.project.id, sums, None) == (
        document["project"],
        document["total"],
        document["next"],
    )
    assert {"day": row["day"], "provider": "openai", "model": "gpt-4o", **sums} == row
    assert row["day"] == document["until"][:10] or document["until"].endswith("T00:00:00Z")


@pytest.mark.parametrize("stream", [False, True])
async def test_one_request_by_its_id(house: OpenHouse, stream: bool) -> None:
    """What it cost, exactly, for streams as well, whose headers cannot tell."""
    whole = await house.ask({**QUESTION, "model": "gpt-4o-mini"})
    asked = await house.ask({**QUESTION, "stream": stream})
    known = await usage(house, f"/{whole.headers['x-request-id']}")

    found = await usage(house, f"/{asked.headers['x-request-id']}")

    document = found.document
    assert 200 == found.status
    assert asked.headers["x-request-id"] == document["id"]
    assert ("miss", stream, 200, False, "project") == tuple(
        document[name] for name in ("outcome", "streamed", "status", "estimated", "kind")
    )
    assert (document["prompt_tokens"], document["completion_tokens"]) == (
        sum(n for name, n in document["tokens"].items() if name in ("input", "cache_read")),
        document["tokens"]["output"],
    )
    assert float(document["cost_usd"]) > 0
    assert whole.headers["x-WatchLLM-cost-usd"] == known.document["cost_usd"]


async def test_other_projects_are_not_seen(house: OpenHouse) -> None:
    """Not in sums, and an id of theirs is as unknown as one that never was."""
    mine = await house.ask(QUESTION)
    _, stranger = await house.new_project("strangers")
    theirs = await usage(house, f"/{mine.headers['x-request-id']}", stranger)
    never = await usage(house, "/0199c0de-0000-7000-8000-000000000000", stranger)

    assert 0 == (await usage(house, key=stranger)).document["total"]["requests"]
    assert (404, theirs.error) == (theirs.status, never.error)
    assert "not yet" in theirs.error["message"]


async def test_test_keys_see_their_project(house: OpenHouse) -> None:
    """All of it, their own rows of cost 0 included."""
    await house.ask(QUESTION)
    free = await house.ask(QUESTION, key=house.test_key)

    found = await usage(house, key=house.test_key)

    assert {"openai", "sandbox"} == {row["provider"] for row in found.document["rows"]}
    assert found.document["rows"] == (await usage(house)).document["rows"]
    row = (await usage(house, f"/{free.headers['x-request-id']}", house.test_key)).document
    assert ("test", "0") == (row["kind"], row["cost_usd"])


async def test_a_price_nobody_knows(house: OpenHouse) -> None:
    """Is null, and counted; the sums do not take it for free of charge."""
    asked = await house.ask({**QUESTION, "model": "gpt-9-unheard-of"})

    row = (await usage(house, f"/{asked.headers['x-request-id']}")).document
    total = (await usage(house)).document["total"]

    assert (None, "gpt-9-unheard-of") == (row["cost_usd"], row["model_asked"])
    assert (1, 1, "0") == (total["requests"], total["unpriced"], total["cost_usd"])


RECORD = UsageRecord(
    "0190", "p", "k", "project", 0.0, "chat/completions", "m", "m", "openai", False, "miss", 200,
    Usage(1), 5, 0, "v", 1.0, 1.0, "",
)  # fmt: skip


@pytest.mark.parametrize("by", ["day", "hour"])
async def test_pages(house: OpenHouse, by: str) -> None:
    """`next` leads through all of it, in order; the total is that of the whole on every page."""
    now = time.time()
    await house.storage.usage_log.append(
        [
            attrs.evolve(RECORD, id=f"id-{n}", project=house.project.id, at=now - 5_000 * n, model_answered=f"m{n % 3}&=+")
            for n in range(40)
        ]
    )  # fmt: skip
    whole = (await usage(house, f"?since=30d&by={by}")).document
    rows: list[dict[str, Any]] = []
    after = ""
    while after is not None:
        page = (await usage(house, f"?since=30d&by={by}&limit=4{after}")).document
        rows += page["rows"]
        assert whole["total"] == page["total"]
        after = page["next"] and f"&after={page['next']}"

    assert whole["rows"] == rows
    assert len(rows) > 8
    assert 40 == sum(row["requests"] for row in rows) == whole["total"]["requests"]
    assert by in rows[0]


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("since=yesterday", "since"),
        ("since=", "since"),
        ("since=1h&until=2h", "since"),
        ("since=24h&until=soon", "until"),
        ("by=week", "by"),
        ("by=", "by"),
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=-1", "limit"),
        ("limit=1e2", "limit"),
        ("limit=٣", "limit"),
        ("limit=" + "9" * 5_000, "limit"),
        ("after=nonsense", "after"),
        ("since=1h&since=2h", "since"),
        ("project=prj_1", "project"),
        ("since=%27%3BDROP+TABLE+usage_log", "since"),
        ("since=%00", "since"),
        ("after=%F0%9F%A6%8A", "after"),
    ],
)
async def test_questions_that_mean_nothing(house: OpenHouse, query: str, param: str) -> None:
    """A 400 in the API's form that names the parameter."""
    found = await usage(house, f"?{quote(query, safe='=&%+')}")

    assert (400, "invalid_request_error", param) == (
        found.status,
        found.error["type"],
        found.error["param"],
    )


@pytest.mark.parametrize("path", ["/v1/usage", "/usage", "/v1/usage/x", "/usage/x"])
async def test_a_key_is_needed(house: OpenHouse, path: str) -> None:
    for key in ("", "lgw_project_nonsense", house.key + "x"):
        found = await house.ask(path=path, method="GET", key=key)
        assert (401, "invalid_api_key") == (found.status, found.error["code"])


async def test_only_get(house: OpenHouse) -> None:
    found = await house.ask({}, path="/v1/usage")

    assert (405, "GET") == (found.status, found.headers["Allow"])


@pytest.mark.parametrize("request_id", ["%FF", "%00", "' OR 1=1--", "x" * 3_000, "..", "a%2Fb"])
async def test_ids_that_never_were(house: OpenHouse, request_id: str) -> None:
    found = await usage(house, f"/{quote(request_id, safe='%')}")

    assert found.status in (400, 404)
    assert found.error["message"]


@pytest.mark.postgres
async def test_reports_keep_nobody_waiting(tmp_path: Path) -> None:
    """Reports that hang use up their own connections: keys that nobody knows yet are still looked up."""
    server = new_server()
    try:
        server.start()
        given = {"DATABASE_URL": server.url, "WATCHLLM_SECRET_KEY": MASTER}
        async with open_house(tmp_path, **given) as house:
            with closing(psycopg2.connect(server.url)) as other:
                # Held by somebody else, every report waits for this table.
                other.cursor().execute("LOCK TABLE watchllm.usage_daily IN ACCESS EXCLUSIVE MODE")
                held = [asyncio.ensure_future(usage(house)) for _ in range(REPORT_CONNECTIONS + 1)]
                refused = await next(asyncio.as_completed(held))
                _, key = await house.new_project("newcomers")
                models = await house.ask(path="/v1/models", method="GET", key=key)
                other.rollback()
                answers = await asyncio.gather(*held)
    finally:
        server.remove()

    assert (503, "1") == (refused.status, refused.headers["Retry-After"])
    assert 200 == models.status
    # A chore that looks at the month's sums may hold one of the connections, too.
    assert [200, 503] == sorted({answer.status for answer in answers})
