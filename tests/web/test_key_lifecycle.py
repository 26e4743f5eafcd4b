"""The life of a key over HTTP: limited, used, rotated, revoked and expired, also under a running stream."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import orjson
import pytest

from app.desk import key_ring
from app.services.keys import FreshKey, KeyRing
from domain.project import PROJECT, TEST
from domain.request import Endpoint
from tests.support.house import QUESTION, OpenHouse, Reply, asked, events
from tests.support.upstream import Ending, ScriptedUpstream, good_answer
from tests.support.upstream import Reply as Said

BODIES = {
    "chat": ("/v1/chat/completions", QUESTION),
    "completions": ("/v1/completions", {"model": "gpt-4o", "prompt": "hi"}),
    "embeddings": ("/v1/embeddings", {"model": "text-embedding-3-small", "input": "hi"}),
}
KNOWN_WITHIN = 1.5
"""Seconds in which a change is noticed: a look each half second, and what a busy machine adds."""


def ring(house: OpenHouse) -> KeyRing:
    return key_ring(house.settings, house.storage)


async def limited(house: OpenHouse, kind: str = PROJECT, **limits: tuple[str, ...]) -> str:
    return (await ring(house).create(house.project.id, kind=kind, **limits)).key


def chat(model: str, **more: Any) -> dict[str, Any]:
    return {**QUESTION, "model": model, **more}


# --- what it may ask for -------------------------------------------------------------------------------


def test_every_endpoint_has_a_body() -> None:
    assert [endpoint.name.lower() for endpoint in Endpoint] == list(BODIES)


@pytest.mark.parametrize("allowed", BODIES)
@pytest.mark.parametrize("kind", [PROJECT, TEST])
async def test_other_endpoints_are_refused(
    house: OpenHouse, upstream: ScriptedUpstream, allowed: str, kind: str
) -> None:
    """Before anything is read or asked, with or without `/v1`; the model list is open to every key."""
    key = await limited(house, kind, endpoints=(allowed,))
    for name, (path, body) in BODIES.items():
        found = await house.ask(body, path, key=key)
        bare = await house.ask(None, path.removeprefix("/v1"), raw=b"{", key=key)
        if name == allowed:
            assert (200, 400) == (found.status, bare.status)
            continue
        for reply in (found, bare):
            assert (403, "invalid_request_error", "endpoint_not_allowed") == (
                reply.status,
                reply.error["type"],
                reply.error["code"],
            )
    assert 200 == (await house.ask(path="/v1/models", method="GET", key=key)).status
    assert (1 if kind == PROJECT else 0) == len(asked(upstream))


@pytest.mark.parametrize("kind", [PROJECT, TEST])
@pytest.mark.parametrize("stream", [False, True])
async def test_other_models_are_refused(
    house: OpenHouse, upstream: ScriptedUpstream, kind: str, stream: bool
) -> None:
    """Also where another key of the project already has the answer: neither memory nor the cache is a way around."""
    key = await limited(house, kind, models=("gpt-4o-mini", "claude-sonnet-4-5"))
    other = house.key if kind == PROJECT else house.test_key
    for _ in range(2):
        assert 200 == (await house.ask(chat("gpt-4o", stream=stream), key=other)).status
    before = len(asked(upstream))
    for asking in (chat("gpt-4o", stream=stream), chat("groq/gpt-4o-mini", stream=stream)):
        for _ in range(2):
            found = await house.ask(asking, key=key)
            assert (403, "invalid_request_error", "model_not_allowed", "model") == (
                found.status,
                found.error["type"],
                found.error["code"],
                found.error["param"],
            )
    assert before == len(asked(upstream))
    assert 200 == (await house.ask(chat("gpt-4o-mini", stream=stream), key=key)).status
    rows = [row for row in await house.rows() if row["status"] == 403]
    assert [("denied", "model_not_allowed", 0)] * 4 == [
        (row["outcome"], row["cache_reason"], row["cost"]) for row in rows
    ]


@pytest.mark.parametrize(
    ("allowed", "model", "status"),
    [
        ("gpt-4o", "openai/gpt-4o", 200),
        ("openai/gpt-4o", "gpt-4o", 200),
        ("gpt-4o", "groq/gpt-4o", 403),
        ("gpt-4o", "gpt-4o-mini", 403),
        ("gpt-oss-120b", "openai/gpt-oss-120b", 200),
        ("no-such-model", "gpt-4o", 403),
        ("no-such-model", "no-such-model", 404),
        ("gpt-4o", "no-such-model", 404),
    ],
)
async def test_a_name_means_what_it_means_in_a_request(
    house: OpenHouse, allowed: str, model: str, status: int
) -> None:
    """The same model under another name is allowed, the same name at another provider is not."""
    key = await limited(house, models=(allowed,))

    assert status == (await house.ask(chat(model), key=key)).status


@pytest.mark.parametrize("kind", [PROJECT, TEST])
async def test_the_list_of_models_is_what_may_be_asked_for(house: OpenHouse, kind: str) -> None:
    """Whatever is listed works, and another one is not there."""
    allowed = {"text-embedding-3-small", "gpt-4o"}
    key = await limited(house, kind, models=tuple(allowed))
    listed, everything = await models(house, key), set[str]()
    # The background's own list may come between the two.
    while everything != (
        everything := await models(house, house.key if kind == PROJECT else house.test_key)
    ):
        listed = await models(house, key)
    [another, *_] = everything - allowed

    assert everything & allowed == listed
    assert "text-embedding-3-small" in listed
    for model, status in (("text-embedding-3-small", 200), (another.replace("/", "%2F"), 404)):
        found = await house.ask(path=f"/v1/models/{model}", method="GET", key=key)
        assert status == found.status


async def models(house: OpenHouse, key: str) -> set[str]:
    found = await house.ask(path="/v1/models", method="GET", key=key)
    return {one["id"] for one in found.document["data"]}


# --- when it was used ----------------------------------------------------------------------------------


async def test_last_use_is_written_in_the_background(house: OpenHouse) -> None:
    """A miss, a hit and a look at the models are uses; a refused key is none, and no request waits for the writing."""
    fresh = [await ring(house).create(house.project.id, kind=PROJECT) for _ in range(4)]
    before = time.time()
    await house.ask(QUESTION, key=fresh[0].key)
    await house.ask(path="/v1/models", method="GET", key=fresh[1].key)
    await house.ask(QUESTION, key=fresh[2].key)
    await ring(house).revoke(fresh[3].id)
    await until_refused(house, fresh[3])
    sequence = await house.storage.keys.sequence()
    await house.house.front.proxy.admission.uses.write()
    used = {key.id: key.last_used_at for key in await house.storage.keys.of(house.project.id)}

    for one in fresh[:3]:
        at = used[one.id]
        assert at is not None
        assert before - 0.001 <= at <= time.time()
    assert None is used[fresh[3].id]
    assert sequence == await house.storage.keys.sequence()


async def until_refused(house: OpenHouse, fresh: FreshKey) -> float:
    """Seconds until the key is refused."""
    began = time.monotonic()
    while (await house.ask(path="/v1/models", method="GET", key=fresh.key)).status != 401:
        assert time.monotonic() - began < KNOWN_WITHIN
        await asyncio.sleep(0.01)
    return time.monotonic() - began


# --- its end -------------------------------------------------------------------------------------------


async def begun(
    house: OpenHouse, upstream: ScriptedUpstream, key: str, gate: asyncio.Event, after: int = 4
) -> asyncio.Task[Reply]:
    """A stream that stands still after some events, once its provider was asked."""
    before = len(asked(upstream))
    upstream.answer = lambda call: (
        good_answer(call).gated(gate, after) if call.method == "POST" else None
    )
    running = asyncio.ensure_future(house.ask({**QUESTION, "stream": True}, key=key))
    while len(asked(upstream)) == before or not list(house.house.front.streams()):
        await asyncio.sleep(0.005)
    return running


@pytest.mark.parametrize("how", ["revoked", "rotated", "expired"])
async def test_a_stream_ends_with_its_key(
    house: OpenHouse, upstream: ScriptedUpstream, how: str
) -> None:
    """Within five seconds: the caller gets an error event and no `[DONE]`, the provider is hung up on, and the row says why."""
    gate = asyncio.Event()
    lifetime = {"expires_in": 1.0} if how == "expired" else {}
    fresh = await ring(house).create(house.project.id, kind=PROJECT, **lifetime)
    running = await begun(house, upstream, fresh.key, gate)
    other = await begun(house, upstream, house.key, gate)
    began = time.monotonic()
    if how == "revoked":
        await ring(house).revoke(fresh.id)
    elif how == "rotated":
        await ring(house).rotate(fresh.id, grace=0.5)
    reply = await asyncio.wait_for(running, 5)
    took = time.monotonic() - began

    last = events(reply.body)[-1]
    assert took < 2.5
    assert 200 == reply.status
    assert reply.body.endswith(b"\n\n")
    assert ("invalid_request_error", "invalid_api_key") == (
        last["error"]["type"],
        last["error"]["code"],
    )
    assert b"[DONE]" not in reply.body
    await asyncio.wait_for(asked(upstream)[0].closed.wait(), 1)
    gate.set()
    assert "[DONE]" == events((await other).body)[-1]
    rows = {row["api_key"]: row for row in await house.rows()}
    row = rows.pop(fresh.id)
    assert ("failed", 401, "key_revoked", True) == (
        row["outcome"],
        row["status"],
        row["cache_reason"],
        bool(row["estimated"]),
    )
    assert row["input_tokens"] > 0
    assert row["cost"] > 0
    assert ["miss"] == [row["outcome"] for row in rows.values()]


async def test_a_stream_that_has_not_begun(house: OpenHouse, upstream: ScriptedUpstream) -> None:
    """Before the provider's first event it is a plain 401, and what was asked is still charged."""
    fresh = await ring(house).create(house.project.id, kind=PROJECT)
    running = await begun(house, upstream, fresh.key, asyncio.Event(), after=0)
    await ring(house).revoke(fresh.id)
    reply = await asyncio.wait_for(running, 5)
    [row] = await house.rows()

    assert (401, "invalid_api_key") == (reply.status, reply.error["code"])
    assert ("failed", 401, "key_revoked") == (row["outcome"], row["status"], row["cache_reason"])
    assert row["input_tokens"] > 0


async def test_a_client_that_does_not_read(house: OpenHouse, upstream: ScriptedUpstream) -> None:
    """Its stream stops as soon as any other: nothing waits for it to read."""
    fresh = await ring(house).create(house.project.id, kind=PROJECT)
    event = orjson.dumps(
        {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o",
         "choices": [{"index": 0, "delta": {"content": "x" * 60_000}, "finish_reason": None}]}
    )  # fmt: skip
    upstream.answer = lambda call: (
        Said.sse([b"data: " + event + b"\n\n"] * 500) if call.method == "POST" else None
    )
    body = orjson.dumps({**QUESTION, "stream": True})
    reader, writer = await asyncio.open_connection("127.0.0.1", house.port, limit=1024)
    writer.write(
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {fresh.key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        + body
    )
    while not any(one._blocked for one in house.house.front.streams()):
        await asyncio.sleep(0.01)
    await ring(house).revoke(fresh.id)
    async with asyncio.timeout(5):
        while house.house.front.running:
            await asyncio.sleep(0.01)
    [row] = await house.rows()
    writer.close()

    assert ("failed", 401, "key_revoked") == (row["outcome"], row["status"], row["cache_reason"])
    assert reader is not None


async def test_a_connection_outlives_its_stream(
    house: OpenHouse, upstream: ScriptedUpstream
) -> None:
    """The error event ends the answer as HTTP has it, so that another key may go on over the same connection."""
    gate = asyncio.Event()
    fresh = await ring(house).create(house.project.id, kind=PROJECT)
    running = await begun(house, upstream, fresh.key, gate)
    await ring(house).revoke(fresh.id)
    await running
    upstream.answer = None
    again = await house.ask({**QUESTION, "stream": True})

    assert "[DONE]" == events(again.body)[-1]
    assert 1 == len(house.server._connections)


async def test_revocations_are_noticed_soon(house: OpenHouse) -> None:
    """Within a second, by the key's own next request."""
    took = []
    for _ in range(3):
        fresh = await ring(house).create(house.project.id, kind=PROJECT)
        assert 200 == (await house.ask(QUESTION, key=fresh.key)).status
        await ring(house).revoke(fresh.id)
        took.append(await until_refused(house, fresh))

    assert max(took) < KNOWN_WITHIN


# --- wrong keys ----------------------------------------------------------------------------------------


async def test_wrong_keys_from_one_address(house: OpenHouse) -> None:
    """Thirty a minute over all routes, then 429 and when to come back; keys known to be good are served all the while."""
    house.house.front.proxy.admission.throttle.name_of = lambda address: address
    assert 200 == (await house.ask(QUESTION)).status
    statuses = []
    for number in range(32):
        path, method = (("/v1/models", "GET"), ("/v1/chat/completions", "POST"))[number % 2]
        last = await house.ask(
            QUESTION if method == "POST" else None, path, method=method, key=f"lgw_{number}"
        )
        statuses.append(last.status)
    hit = await house.ask(QUESTION)
    await house.storage.projects.set_budget(house.project.id, 10**18)
    await house.house.front.proxy.admission.grants.notice_changes()  # type: ignore[attr-defined]
    doubted = await house.ask({**QUESTION, "user": "another"})
    _, newcomer = await house.new_project("newcomers")
    refused = await house.ask(QUESTION, key=newcomer)

    assert [401] * 30 + [429] * 2 == statuses
    assert ("rate_limit_exceeded", "rate_limit_exceeded") == (
        last.error["type"],
        last.error["code"],
    )
    assert 1 <= int(last.headers["Retry-After"]) <= 2
    assert ("HIT", 200, 429) == (hit.cached, doubted.status, refused.status)


async def test_private_addresses_are_not_counted(house: OpenHouse) -> None:
    """Behind the loopback may stand a balancer with everybody behind it."""
    assert {401} == {(await house.ask(QUESTION, key=f"x{number}")).status for number in range(40)}


async def test_a_hung_provider_and_a_revoked_key(
    house: OpenHouse, upstream: ScriptedUpstream
) -> None:
    """What is not streamed was admitted while the key was good, and may end."""
    gate = asyncio.Event()
    fresh = await ring(house).create(house.project.id, kind=PROJECT)
    upstream.answer = lambda call: (
        Said.raw([gate, Ending.RESET]) if call.method == "POST" else None
    )
    running = asyncio.ensure_future(house.ask(QUESTION, key=fresh.key))
    while not asked(upstream):
        await asyncio.sleep(0.005)
    await ring(house).revoke(fresh.id)
    await until_refused(house, fresh)
    gate.set()

    assert 502 == (await running).status
