"""The route table: who may come in is said by every handler, and every address speaks JSON when it says no."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

import pytest
from tornado.routing import PathMatches
from tornado.web import RequestHandler

from app.web.api import KEY, OPEN, SIGNED, Handler, Nowhere
from app.web.front import ENDPOINTS
from app.web.routes import table
from domain.request import Endpoint
from tests.support.house import QUESTION, OpenHouse, asked, open_house
from tests.support.upstream import ScriptedUpstream

ROUTES: list[tuple[str, type[Handler]]] = [
    (row[0], row[1]) for row in table(cast("Any", None), cast("Any", str))
]
MONEY = ("/chat/completions", "/completions", "/embeddings")
OPEN_PATHS = {
    "/",
    "/billing/paid",
    "/health",
    "/metrics",
    "/static/app.css",
    *MONEY,
    *(f"/v1{path}" for path in MONEY),
}
"""All that answers without a key; the three that cost money ask for it themselves, under POST."""
SIGNED_PATHS = {"/api/webhooks/stripe": "POST", "/unsubscribe/": "GET"}
"""What proves itself, by how it begins, and how it is asked; who cannot is told that there is nothing."""

BODIES = {
    Endpoint.CHAT: QUESTION,
    Endpoint.COMPLETIONS: {"model": "gpt-4o", "prompt": "How far is the moon?"},
    Endpoint.EMBEDDINGS: {"model": "text-embedding-3-small", "input": "How far is the moon?"},
}


def every_handler() -> set[type[RequestHandler]]:
    return {handler for _, handler in ROUTES} | {Nowhere}


@pytest.mark.parametrize("handler", sorted(every_handler(), key=repr))
def test_every_handler_says_who_may_come_in(handler: type[RequestHandler]) -> None:
    """In its own class, not by inheritance, where it would be forgotten."""
    assert issubclass(handler, Handler), "a handler of Tornado's own has no policy"
    assert handler.__dict__.get("auth") in (OPEN, KEY, SIGNED)
    assert issubclass(Handler, RequestHandler)
    assert "auth" not in Handler.__dict__, "there is no default"


async def test_what_is_not_known_to_be_open_needs_a_key(house: OpenHouse) -> None:
    """Over HTTP, for every route of the table: 401 without a key, unless it stands in this test's own list."""
    for pattern, handler in ROUTES:
        for path in examples(pattern):
            if path in OPEN_PATHS:
                assert OPEN == handler.auth
                continue
            signed = [one for one in SIGNED_PATHS if path.startswith(one)]
            if signed:
                assert SIGNED == handler.auth
                answer = await house.ask(None, path, method=SIGNED_PATHS[signed[0]], key="")
                assert 404 == answer.status
                continue
            assert KEY == handler.auth, f"{path} is open"
            for key in ("", "lgw_project_wrong"):
                answer = await house.ask(None, path, method="GET", key=key)
                assert (401, "invalid_api_key") == (answer.status, answer.error["code"]), path


async def test_another_method_is_a_405_in_json(house: OpenHouse) -> None:
    """With the methods that are allowed, for every route of the table."""
    for path in (path for pattern, _ in ROUTES for path in examples(pattern)):
        for method in ("DELETE", "PUT", "PATCH", "OPTIONS", "NONSENSE"):
            answer = await house.ask(None, path, method=method)

            assert (405, "application/json") == (
                answer.status,
                answer.headers["Content-Type"],
            ), f"{method} {path}"
            assert "invalid_request_error" == answer.error["type"]
            assert method not in answer.headers["Allow"]
            assert answer.headers["Allow"]


async def test_an_unknown_address_is_a_404_in_json(house: OpenHouse) -> None:
    """Under every method, with an id to ask about it."""
    for path in ("/nothing", "/v1/nothing", "/v1", "/v1/responses", "/static/x", "/health/"):
        for method in ("GET", "POST", "DELETE", "OPTIONS"):
            answer = await house.ask(None, path, method=method)

            assert (404, None) == (answer.status, answer.error["code"]), f"{method} {path}"
            assert "/v1/chat/completions" in answer.error["message"]
            assert answer.headers["x-request-id"]


@pytest.mark.parametrize("path", ENDPOINTS)
async def test_both_roots_cost_the_same(
    house: OpenHouse, upstream: ScriptedUpstream, path: str
) -> None:
    """An SDK whose base URL lacks `/v1` is served as well, needs a key as well, and shares the cache."""
    body = BODIES[ENDPOINTS[path]]
    twin = path.removeprefix("/v1") if path.startswith("/v1") else f"/v1{path}"

    denied = await house.ask(body, path, key="")
    first = await house.ask(body, path)
    again = await house.ask(body, twin)

    assert (401, "invalid_api_key") == (denied.status, denied.error["code"])
    assert ("MISS", "HIT") == (first.cached, again.cached)
    assert 1 == len(asked(upstream))


@pytest.mark.parametrize("root", ["", "/v1"])
async def test_both_roots_list_models(house: OpenHouse, root: str) -> None:
    """The list, and one model whose id holds a slash, percent-encoded or not."""
    listed = await house.ask(None, f"{root}/models", method="GET")
    quoted = await house.ask(None, f"{root}/models/openai%2Fgpt-oss-120b", method="GET")
    plain = await house.ask(None, f"{root}/models/openai/gpt-oss-120b", method="GET")

    assert (200, "list") == (listed.status, listed.document["object"])
    assert "openai/gpt-oss-120b" == quoted.document["id"] == plain.document["id"]


async def test_every_answer_has_an_id_and_no_servers_name(house: OpenHouse) -> None:
    """Also pages, the style sheet and faults; what runs here is nobody's business."""
    for method, path in (
        ("GET", "/"),
        ("GET", "/health"),
        ("GET", "/static/app.css"),
        ("POST", "/static/app.css"),
        ("GET", "/v1/models"),
        ("GET", "/v1/models/nobody-knows-it"),
        ("GET", "/nothing"),
        ("POST", "/v1/chat/completions"),
    ):
        answer = await house.ask(None, path, method=method)
        assert 36 == len(answer.headers["x-request-id"]), path
        assert "Server" not in answer.headers, path


async def test_nothing_is_open_but_what_is_listed(tmp_path: Path) -> None:
    """The table's routes are all of the application's: none was added beside it."""
    async with open_house(tmp_path) as house:
        [rule] = house.house.front.application.default_router.rules
        rules = rule.target.rules

    matched = [one.matcher for one in rules]
    assert all(isinstance(one, PathMatches) for one in matched)
    assert len(ROUTES) == len(rules)


def examples(pattern: str) -> list[str]:
    """The addresses that a route of the table stands for, each group filled in."""
    return [
        pattern.replace("(?:v1/)?", root)
        .replace("(?:chat/completions|completions|embeddings)", name)
        .replace(r"(app\.css)", "app.css")
        .replace("(paid|cancelled)", "paid")
        .replace("(.+)", "gpt-4o")
        .replace("([^/]+)", "01a208d3-2012-729d-94e5-0dbcca074acd")
        for root in (["", "v1/"] if "(?:v1/)?" in pattern else [""])
        for name in (
            ["chat/completions", "completions", "embeddings"] if "(?:chat" in pattern else [""]
        )
    ]


async def test_a_target_in_absolute_form_is_served(house: OpenHouse) -> None:
    """RFC 9112 asks a server to take it; the path decides, whatever host it names."""
    reader, writer = await asyncio.open_connection("127.0.0.1", house.port)
    writer.write(b"GET http://elsewhere.example/health HTTP/1.1\r\nHost: x\r\n\r\n")

    assert b"HTTP/1.1 200 OK\r\n" == await reader.readline()
    writer.close()


async def test_a_key_in_the_place_of_a_model_is_not_repeated(house: OpenHouse) -> None:
    """A slip of the hand must not write a key into errors and the ledger."""
    refused = await house.ask({**QUESTION, "model": house.key})

    assert (400, "model") == (refused.status, refused.error["param"])
    assert house.key.encode() not in refused.body
    assert all(house.key not in str(row) for row in await house.rows())
