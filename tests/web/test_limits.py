"""Plans and budgets over HTTP: who is refused, before what, how it is told, and what is given back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from attrs import define, field

from domain.errors import Unavailable
from domain.pricing import most_cost
from domain.request import Endpoint, parse_request
from domain.routing import route
from tests.support.fixtures import async_fixture
from tests.support.house import QUESTION, OpenHouse, Reply, asked, events, open_house
from tests.support.upstream import Ending, ScriptedUpstream, good_answer
from tests.support.upstream import Reply as Said

PLANS = """
[plans.unlimited]
[plans.three]
requests_per_minute = 3
[plans.hundred]
requests_per_minute = 100
[plans.monthly]
requests_per_month = 2
requests_per_minute = 50
[plans.single]
concurrent_requests = 1
requests_per_minute = 50
"""
ROUTES = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "hi"}]},
    "/v1/completions": {"prompt": "hi"},
    "/v1/embeddings": {"input": "hi", "model": "text-embedding-3-small"},
}
HEADERS = {f"x-ratelimit-{name}-requests" for name in ("limit", "remaining", "reset")}


@async_fixture
async def house(tmp_path: Path, upstream: ScriptedUpstream) -> AsyncIterator[OpenHouse]:
    (tmp_path / "plans.toml").write_text(PLANS)
    async with open_house(
        tmp_path / "data", upstream, WATCHLLM_CONFIG_DIR=str(tmp_path)
    ) as opened:
        yield opened


def question(content: object = "hi", **more: Any) -> dict[str, Any]:
    return {**QUESTION, "messages": [{"role": "user", "content": str(content)}], **more}


def limits(reply: Reply) -> dict[str, str]:
    return {
        name.lower(): told
        for name, told in reply.headers.items()
        if name.lower().startswith("x-ratelimit-")
    }


async def outcomes(house: OpenHouse) -> list[tuple[str, int, str]]:
    return [(row["outcome"], row["status"], row["cache_reason"]) for row in await house.rows()]


# --- requests a minute, a month, at once ---------------------------------------------------------------


@pytest.mark.parametrize("path", ROUTES)
async def test_a_minute_that_is_full(
    house: OpenHouse, upstream: ScriptedUpstream, path: str
) -> None:
    """HITs count too; the one too many costs nothing, is told when to come back and leaves a row of its own."""
    _, key = await house.new_project("small", "three")
    body = {"model": "gpt-4o", **ROUTES[path]}
    passed = [await house.ask(body, path, key=key) for _ in range(3)]
    calls = len(asked(upstream))
    refused = await house.ask(body, path, key=key)

    assert ["MISS", "HIT", "HIT"] == [reply.cached for reply in passed]
    assert [("3", "2"), ("3", "1"), ("3", "0")] == [
        (told["x-ratelimit-limit-requests"], told["x-ratelimit-remaining-requests"])
        for told in map(limits, passed)
    ]
    assert (429, "rate_limit_exceeded", "rate_limit_exceeded") == (
        refused.status,
        refused.error["type"],
        refused.error["code"],
    )
    assert 1 <= int(refused.headers["Retry-After"]) <= 20
    assert ("0", calls) == (
        limits(refused)["x-ratelimit-remaining-requests"],
        len(asked(upstream)),
    )
    assert 1 == (await outcomes(house)).count(("denied", 429, "rate_limit_exceeded"))


@pytest.mark.parametrize("path", ROUTES)
async def test_every_answer_tells_the_limits(
    house: OpenHouse, upstream: ScriptedUpstream, path: str
) -> None:
    """Whatever came of it: streamed or not, from the cache, refused by us or by the provider, or broken."""
    _, key = await house.new_project("medium", "hundred")
    body = {"model": "gpt-4o", **ROUTES[path]}
    stream = {**body, "stream": True} if path != "/v1/embeddings" else body
    answers = [
        await house.ask(one, path, key=key, raw=raw)
        for one, raw in (
            (body, None),
            (body, None),
            (stream, None),
            ({**stream, "user": "another"}, None),
            ({**body, "model": "unheard-of"}, None),
            ({"model": "gpt-4o"}, None),
            (None, b"{"),
        )
    ]
    await upstream.break_with("500")
    answers.append(await house.ask({**body, "user": "x", "seed": 1, "input": "y"}, path, key=key))
    answers.append(await house.ask({**stream, "seed": 2, "input": "z"}, path, key=key))
    await upstream.heal()

    assert [200, 200, 200, 200, 404, 400, 400] == [reply.status for reply in answers[:7]]
    assert {502} == {reply.status for reply in answers[7:]}
    assert [HEADERS] * 9 == [set(limits(reply)) for reply in answers]
    left = [int(limits(reply)["x-ratelimit-remaining-requests"]) for reply in answers]
    assert sorted(left, reverse=True) == left


async def test_no_limit_no_headers(house: OpenHouse) -> None:
    """Of a plan without a limit a minute there is nothing to tell; nor of a caller nobody knows."""
    _, key = await house.new_project("small", "three")
    for reply in (
        await house.ask(QUESTION),
        await house.ask(QUESTION),
        await house.ask(QUESTION, key=key + "x"),
        await house.ask(None, raw=b"{", key=house.test_key),
    ):
        assert {} == limits(reply)


async def test_a_month_that_is_full(house: OpenHouse, upstream: ScriptedUpstream) -> None:
    """A little waiting does not help: SDKs are told not to ask again, people to look in an hour. HITs count as well."""
    _, key = await house.new_project("monthly", "monthly")
    assert [200, 200] == [(await house.ask(question(), key=key)).status for _ in range(2)]
    for content in ("hi", "other"):
        refused = await house.ask(question(content), key=key)
        assert (429, "insufficient_quota") == (refused.status, refused.error["code"])
        assert ("false", "3600") == (
            refused.headers["x-should-retry"],
            refused.headers.get("Retry-After"),
        )

    assert 1 == len(asked(upstream))
    assert 2 == (await outcomes(house)).count(("denied", 429, "insufficient_quota"))


@pytest.mark.parametrize("ending", ["end", "leave", "break"])
@pytest.mark.parametrize("stream", [False, True])
async def test_one_at_a_time(
    house: OpenHouse, upstream: ScriptedUpstream, stream: bool, ending: str
) -> None:
    """While one runs the next is told to wait a second; the place is free again however the one ended."""
    _, key = await house.new_project("single", "single")
    gate = asyncio.Event()
    upstream.answer = lambda call: (
        good_answer(call).gated(gate, 1 if stream else 0) if call.method == "POST" else None
    )
    if ending == "break":
        upstream.answer = lambda call: (
            Said.raw([gate, Ending.RESET]) if call.method == "POST" else None
        )
    running = asyncio.ensure_future(house.ask(question("long", stream=stream), key=key))
    while not asked(upstream):
        await asyncio.sleep(0.005)

    refused = await house.ask(question("next"), key=key)
    if ending == "leave":
        running.cancel()
    gate.set()
    await asyncio.gather(running, return_exceptions=True)
    while house.house.front.running:
        await asyncio.sleep(0.005)
    upstream.answer = None

    assert (429, "rate_limit_exceeded", "1") == (
        refused.status,
        refused.error["code"],
        refused.headers["Retry-After"],
    )
    assert 200 == (await house.ask(question("next"), key=key)).status


async def test_a_change_of_plan_acts_within_a_second(house: OpenHouse) -> None:
    """In both directions, without a restart."""
    project, key = await house.new_project("growing", "three")
    assert [200, 200, 200, 429] == [
        (await house.ask(question(), key=key)).status for _ in range(4)
    ]
    for plan, limit in (("hundred", "100"), ("three", "3")):
        await house.storage.projects.set_plan(project.id, plan)
        began = time.monotonic()
        while limits(await house.ask(question(), key=key))["x-ratelimit-limit-requests"] != limit:
            assert time.monotonic() - began < 1.5
            await asyncio.sleep(0.02)


# --- money ---------------------------------------------------------------------------------------------


def most(house: OpenHouse, document: dict[str, Any]) -> int:
    """What is set aside for it, picodollars."""
    catalogue = house.house.front.proxy.catalogue
    request = parse_request(Endpoint.CHAT, orjson.dumps(document))
    price = route(request.model, catalogue).price
    assert price is not None
    return most_cost(request, price)


async def budgeted(house: OpenHouse, budget: int) -> tuple[str, str]:
    """The id and a fresh key of a project that may spend this much."""
    project, key = await house.new_project(f"budget {time.monotonic_ns()}")
    await house.storage.projects.set_budget(project.id, budget)
    return project.id, key


@pytest.mark.parametrize("stream", [False, True])
async def test_a_budget_refuses_before_the_provider_is_called(
    house: OpenHouse, upstream: ScriptedUpstream, stream: bool
) -> None:
    """One picodollar too little: nothing is asked, nothing is charged, and SDKs do not ask again."""
    asking = question(max_tokens=10, stream=stream)
    _, key = await budgeted(house, most(house, asking) - 1)

    refused = await house.ask(asking, key=key)

    assert (429, "insufficient_quota", "insufficient_quota", "false") == (
        refused.status,
        refused.error["type"],
        refused.error["code"],
        refused.headers["x-should-retry"],
    )
    assert [] == asked(upstream)
    [row] = await house.rows()
    assert ("denied", 429, 0) == (row["outcome"], row["status"], row["cost"])


async def test_a_budget_refuses_embeddings(house: OpenHouse, upstream: ScriptedUpstream) -> None:
    _, key = await budgeted(house, 1)

    refused = await house.ask(
        {"model": "text-embedding-3-small", "input": "hello " * 100}, "/v1/embeddings", key=key
    )

    assert (429, "insufficient_quota") == (refused.status, refused.error["code"])
    assert [] == asked(upstream)


async def test_what_is_spent_is_spent(house: OpenHouse, upstream: ScriptedUpstream) -> None:
    """After each call the rest returns, until the budget does not hold another one; HITs are served all the same."""
    asking = question("a", max_tokens=1_000)
    reserved = most(house, asking)
    _, key = await budgeted(house, reserved)
    first = await house.ask(asking, key=key)
    refused = await house.ask({**asking, "seed": 1}, key=key)
    hit = await house.ask(asking, key=key)
    small = await house.ask(question("b", max_tokens=10), key=key)

    assert [200, 429, 200, 200] == [one.status for one in (first, refused, hit, small)]
    assert ("HIT", "MISS") == (hit.cached, small.cached)
    assert 2 == len(asked(upstream))
    costs = {(row["outcome"], row["cost"] > 0) for row in await house.rows()}
    assert {("miss", True), ("denied", False), ("hit", False)} == costs
    assert sum(row["cost"] for row in await house.rows()) < reserved


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fault", ["500", "429", "reset"])
async def test_a_call_that_failed_costs_nothing(
    house: OpenHouse, upstream: ScriptedUpstream, fault: str, stream: bool
) -> None:
    """What was set aside for it is there for the next one."""
    asking = question(max_tokens=10, stream=stream)
    _, key = await budgeted(house, most(house, asking))
    await upstream.break_with(fault)
    failed = [(await house.ask(asking, key=key)).status for _ in range(3)]
    await upstream.heal()

    # A provider's own 429 is passed on; a refused budget would not have reached it.
    assert [429 if fault == "429" else 502] * 3 == failed
    assert len(asked(upstream)) >= 3
    assert 200 == (await house.ask(asking, key=key)).status


async def test_calls_at_the_same_moment_share_the_budget(
    house: OpenHouse, upstream: ScriptedUpstream
) -> None:
    """Money for three is money for three, however many ask before the first has paid."""
    gate = asyncio.Event()
    upstream.answer = lambda call: (
        good_answer(call).gated(gate, 0) if call.method == "POST" else None
    )
    asking = [question(f"call {number}", max_tokens=50) for number in range(8)]
    _, key = await budgeted(house, 3 * most(house, asking[0]))
    running = [asyncio.ensure_future(house.ask(one, key=key)) for one in asking]
    while len(asked(upstream)) < 3 or sum(one.done() for one in running) < 5:
        await asyncio.sleep(0.005)
    gate.set()
    found = await asyncio.gather(*running)

    assert [200] * 3 + [429] * 5 == sorted(reply.status for reply in found)
    assert 3 == len(asked(upstream))


async def test_a_budget_that_is_taken_away(house: OpenHouse) -> None:
    """Acts within a second, as a plan does."""
    project, key = await budgeted(house, 1)
    assert 429 == (await house.ask(question(), key=key)).status
    await house.storage.projects.set_budget(project, 0)
    began = time.monotonic()
    while (await house.ask(question(), key=key)).status != 200:
        assert time.monotonic() - began < 1.5
        await asyncio.sleep(0.02)


async def test_a_stream_spends_what_it_cost(house: OpenHouse, upstream: ScriptedUpstream) -> None:
    """The rest returns at its end."""
    asking = question("s", max_tokens=1_000, stream=True)
    _, key = await budgeted(house, most(house, asking))
    whole = await house.ask(asking, key=key)
    after = await house.ask(question("t", max_tokens=10), key=key)

    assert "[DONE]" == events(whole.body)[-1]
    assert 200 == after.status
    assert 2 == len(asked(upstream))


@define
class Ledger:
    """Counts who asks it; while it is `away` it cannot be asked."""

    real: Any
    asked: list[str] = field(factory=list)
    away: bool = False

    async def sum(self, project: str, span: Any) -> Any:
        self.asked.append(project)
        if self.away:
            raise Unavailable("away")
        return await self.real.sum(project, span)


@pytest.fixture
def ledger(house: OpenHouse) -> Ledger:
    budgets: Any = house.house.front.proxy.gate.budgets
    budgets._spent.ledger = Ledger(budgets._spent.ledger)
    found: Ledger = budgets._spent.ledger
    return found


async def test_only_the_first_call_of_a_budget_asks_the_ledger(
    house: OpenHouse, ledger: Ledger
) -> None:
    """Neither a project without a budget does, nor a hit."""
    for _ in range(2):
        assert 200 == (await house.ask(question())).status
    assert [] == ledger.asked
    project, key = await budgeted(house, 10**12)
    for number in (1, 1, 2, 3, 3):
        assert 200 == (await house.ask(question(number), key=key)).status
    assert [project] == ledger.asked


async def test_a_new_budget_counts_what_the_month_has_cost(house: OpenHouse) -> None:
    """What was spent before the project had a budget is spent, too."""
    project, key = await house.new_project("late")
    first = await house.ask(question(max_tokens=10), key=key)
    assert "0" != first.headers["x-watchllm-cost-usd"]
    reserved = most(house, question(max_tokens=10))
    await house.rows()
    await house.storage.projects.set_budget(project.id, reserved)
    began, number = time.monotonic(), 0
    while (await house.ask(question(number, max_tokens=10), key=key)).status != 429:
        number += 1
        assert time.monotonic() - began < 1.5
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_budget_that_nobody_knows_is_closed(
    house: OpenHouse, upstream: ScriptedUpstream, ledger: Ledger, stream: bool
) -> None:
    """503 with a time to come back, nothing is asked of a provider; other projects and hits do not notice."""
    ledger.away = True
    _, key = await budgeted(house, 10**12)
    refused = await house.ask(question(stream=stream), key=key)

    assert (503, "5") == (refused.status, refused.headers["Retry-After"])
    assert [] == asked(upstream)
    assert 200 == (await house.ask(question(stream=stream))).status
    ledger.away = False
    assert 200 == (await house.ask(question(stream=stream), key=key)).status
    ledger.away = True
    assert 200 == (await house.ask(question("more", stream=stream), key=key)).status
