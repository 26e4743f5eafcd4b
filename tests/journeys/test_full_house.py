"""The full installation when all is well: two processes that share a real Valkey and a real PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.support.fixtures import async_fixture
from tests.support.full import Full, Tenant, tenant_of, until
from tests.support.upstream import Call, Reply
from tests.support.upstream_openai import good_answer

pytestmark = [pytest.mark.postgres, pytest.mark.valkey]


@async_fixture
async def tenant(full: Full) -> AsyncIterator[Tenant]:
    async with tenant_of(full) as tenant:
        yield tenant
        await tenant.settled()


async def test_one_process_hits_what_the_other_missed(tenant: Tenant, full: Full) -> None:
    """The answer, the key and the purge are shared; a purge reaches both processes within two seconds."""
    assert "MISS" == await tenant.cached(full.one, "shared")
    assert "HIT" == await tenant.cached(full.other, "shared")
    assert "HIT" == await tenant.cached(full.other, "shared", stream=True)
    assert (200, "ok", "up", "up") == await tenant.health(full.one)

    full.one.command("cache", "purge", tenant.project)

    async def forgotten() -> bool:
        return await tenant.cached(full.other, "shared", max_tokens=None) == "MISS"

    await until(forgotten, within=3)


async def test_tenants_never_see_each_others_answers(tenant: Tenant, full: Full) -> None:
    """Fifty tenants, one question, half of the clients hanging up midway: each canary stays with one tenant."""
    keys = [await tenant.new_key("unlimited") for _ in range(50)]
    for key in keys:
        await tenant.introduce(key, *full.both)
    made = iter(range(10**6))
    seen: dict[str, set[int]] = {}

    def answer(call: Call) -> Reply | None:
        if call.method != "POST":
            return None
        number = next(made)
        call.raw = call.raw.replace(b"everyone", b"canary-%d" % number)
        call.body["messages"] = [{"role": "user", "content": f"say canary-{number}"}]
        return good_answer(call)

    async def ask(number: int, turn: int) -> None:
        served = full.both[(number + turn) % 2]
        asking = asyncio.ensure_future(
            tenant.send(served, "everyone asks this", key=keys[number], stream=turn % 3 == 0)
        )
        if turn % 2:
            await asyncio.sleep(0.001 * (number % 7))
            asking.cancel()
        try:
            reply = await asking
        except asyncio.CancelledError:
            return
        assert 200 == reply.status
        if turn == 0:
            assert "MISS" == reply.cached
        text = reply.body.decode()
        start = text.find("canary-")
        assert start >= 0, text
        canary = text[start : start + 12].split('"')[0].split(".")[0].split(" ")[0]
        seen.setdefault(canary, set()).add(number)

    full.far.openai.answer = answer
    try:
        for turn in range(8):
            await asyncio.gather(*[ask(number, turn) for number in range(50)])
    finally:
        full.far.openai.answer = None
        # What those asked who hung up is not counted here.
        del tenant.projects[1:]

    assert len(seen) >= 50
    assert {1} == {len(tenants_of_one) for tenants_of_one in seen.values()}
