"""A key that ends, seen from two processes that share a database: how soon it is refused, under load, with and without
Valkey."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path

import aiohttp
import pytest
from attrs import define

from app.desk import key_ring, project_book
from app.services.keys import FreshKey, KeyRing
from app.storage import open_storage
from config.settings import read_settings
from domain.project import PROJECT
from tests.support.fixtures import async_fixture
from tests.support.house import QUESTION
from tests.support.postgres import new_server
from tests.support.served import Served, serving
from tests.support.upstream import ScriptedUpstream
from tests.support.valkey import ValkeyServer, valkey_server

SECRET = "0123456789abcdef-revocation-tests-0123456789abcdef"
LOAD_PAUSE = 0.02


@define
class Two:
    """Two servers over one database and one Valkey; `ring` makes and ends keys in that database, as the commands do."""

    served: list[Served]
    valkey: ValkeyServer
    http: aiohttp.ClientSession
    ring: KeyRing
    project: str
    loaded: int = 0

    async def new_key(self) -> FreshKey:
        """One that both servers know to be good."""
        fresh = await self.ring.create(self.project, kind=PROJECT)
        for served in self.served:
            assert 200 == await self.status(served, fresh.key)
        return fresh

    async def status(self, served: Served, key: str, content: str = "hello") -> int:
        document = {**QUESTION, "messages": [{"role": "user", "content": content}]}
        async with self.http.post(
            f"{served.root}/v1/chat/completions",
            json=document,
            headers={"Authorization": f"Bearer {key}"},
        ) as answer:
            await answer.read()
            return answer.status

    async def refused(self, key: str, since: float) -> list[float]:
        """Seconds from `since` (wall clock) to the first 401 of each server; nothing but 200 comes before."""
        return await asyncio.gather(*[self._refused(one, key, since) for one in self.served])

    async def _refused(self, served: Served, key: str, since: float) -> float:
        async with asyncio.timeout(10):
            while (found := await self.status(served, key)) != 401:
                assert found == 200
                await asyncio.sleep(0.01)
        return time.time() - since

    async def revoked(self, times: int) -> list[float]:
        """How long each server let each key in, from before its revocation on."""
        took = []
        for _ in range(times):
            fresh = await self.new_key()
            since = time.time()
            await self.ring.revoke(fresh.id)
            took += await self.refused(fresh.key, since)
        return took

    async def load(self, key: str) -> None:
        """Until cancelled: hits and misses in turn, on both servers, none of which may fail."""
        while True:
            self.loaded += 1
            content = "hello" if self.loaded % 2 else f"miss {self.loaded}"
            found = await self.status(self.served[self.loaded // 2 % 2], key, content)
            assert found == 200
            await asyncio.sleep(LOAD_PAUSE)


@pytest.fixture
def database() -> Iterator[str]:
    server = new_server()
    try:
        server.start()
        yield server.url
    finally:
        server.remove()


@async_fixture
async def two(tmp_path: Path, database: str) -> AsyncIterator[Two]:
    with ExitStack() as stack:
        valkey = stack.enter_context(valkey_server())
        async with ScriptedUpstream() as upstream, aiohttp.ClientSession() as http:
            settings = {
                "DATABASE_URL": database,
                "REDIS_URL": valkey.url,
                "WATCHLLM_SECRET_KEY": SECRET,
                "OPENAI_API_KEY": "sk-x",
                "OPENAI_BASE_URL": upstream.openai,
            }
            read = read_settings({**settings, "WATCHLLM_DATA_DIR": str(tmp_path / "here")})
            storage = open_storage(read)
            await storage.migrate()
            project = await project_book(storage).create("shop", plan="unlimited")
            served = [
                await asyncio.to_thread(stack.enter_context, serving(tmp_path / name, **settings))
                for name in ("one", "other")
            ]
            yield Two(served, valkey, http, key_ring(read, storage), project.id)
            await storage.aclose()


def told(name: str, took: list[float]) -> str:
    took = sorted(took)
    middle, most = took[len(took) // 2], took[min(len(took) - 1, round(0.99 * len(took)))]
    return (
        f"{name}: {len(took)} looks, median {middle:.3f} s, p99 {most:.3f} s, max {took[-1]:.3f} s"
    )


async def test_revocations_reach_every_process(
    two: Two, capsys: pytest.CaptureFixture[str]
) -> None:
    """Under load, and as fast without Valkey, which has no part in it: 401 from both within a second."""
    loading_key = await two.new_key()
    loading = [asyncio.ensure_future(two.load(loading_key.key)) for _ in range(2)]
    with_valkey = await two.revoked(20)
    two.valkey.kill()
    without = await two.revoked(10)
    for one in loading:
        assert not one.done(), one
        one.cancel()
    await asyncio.gather(*loading, return_exceptions=True)
    with capsys.disabled():
        print("\n" + told("revoked, with Valkey", with_valkey))
        print(told("revoked, without Valkey", without))
        print(f"{two.loaded} other requests meanwhile, none failed")

    assert max(with_valkey) <= 1.0
    assert max(without) <= 1.0


async def test_a_grace_ends_to_the_second(two: Two, capsys: pytest.CaptureFixture[str]) -> None:
    """Each process ends it by the clock: not before its time, and less than a second after."""
    took: list[float] = []
    for _ in range(3):
        old = await two.new_key()
        new = await two.ring.rotate(old.id, grace=2)
        listed = await two.ring.keys.find(old.id)
        assert listed is not None
        assert listed.revoked_at is not None
        took += await two.refused(old.key, listed.revoked_at)
        assert {200} == {await two.status(served, new.key) for served in two.served}
    with capsys.disabled():
        print("\n" + told("after the grace's end", took))

    assert min(took) >= 0
    assert max(took) <= 1.0
