"""The full installation: two servers over one PostgreSQL, one Valkey and two scripted providers, and a project to ask with.

The second server reaches Valkey and PostgreSQL through relays that can hold their answers back. All of it may be shared
by the tests of a module: each makes a project of its own, and leaves behind what it found.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import psycopg2
from attrs import define, field

from app.desk import Desk, open_desk
from app.storage import open_storage
from config.settings import read_settings
from domain.project import PROJECT
from tests.support.house import QUESTION, Reply
from tests.support.postgres import PostgresServer
from tests.support.relay import relay
from tests.support.served import Served, serving
from tests.support.upstream import ScriptedUpstream
from tests.support.valkey import ValkeyServer

T = TypeVar("T")

SECRET = "0123456789abcdef-full-house-tests-0123456789abcdef"
ROLE = "watchllm_service"
"""Serves, with no more rights than that needs."""
OWNER = "watchllm"


@define
class Far:
    """What lives on a loop and a thread of its own, so that a test may block. Seconds that answers are held back."""

    loop: asyncio.AbstractEventLoop
    openai: ScriptedUpstream
    anthropic: ScriptedUpstream
    redis_port: int = 0
    redis_lag: float = 0.0
    database_port: int = 0
    database_lag: float = 0.0

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(10)


@define
class Full:
    """`settings` are those of `one`; `owner` those of the commands, which may do everything in the database."""

    valkey: ValkeyServer
    postgres: PostgresServer
    database: str
    far: Far
    settings: dict[str, str]
    owner: dict[str, str]
    one: Served = field(init=False)
    other: Served = field(init=False)

    @property
    def both(self) -> tuple[Served, Served]:
        return self.one, self.other

    @contextmanager
    def third(self, folder: Path, **settings: str) -> Iterator[Served]:
        """One more server on the same database and Valkey."""
        with serving(folder, **{**self.settings, **settings}) as served:
            yield served

    def sql(self, *statements: str) -> list[Any]:
        """Each a transaction of its own; gives the rows of the last."""
        connection = psycopg2.connect(self.owner["DATABASE_URL"], connect_timeout=5)
        try:
            connection.autocommit = True
            cursor = connection.cursor()
            for statement in statements:
                cursor.execute(statement)
            return cursor.fetchall() if cursor.description else []
        finally:
            connection.close()


@define
class Tenant:
    """A project of one test. What is asked with its keys is remembered, for each of it leaves one row."""

    full: Full
    http: aiohttp.ClientSession
    desk: Desk
    project: str
    key: str
    stranger: str
    """A key that no server has seen."""
    projects: list[str]
    asked: list[str] = field(factory=list)

    async def send(self, served: Served, content: str, *, key: str, **more: Any) -> Reply:
        """Not remembered: for what leaves no row."""
        document = {**QUESTION, "messages": [{"role": "user", "content": content}], **more}
        async with self.http.post(
            f"{served.root}/v1/chat/completions",
            json=document,
            headers={"Authorization": f"Bearer {key}"},
        ) as answer:
            return Reply(answer.status, answer.headers, await answer.read())

    async def ask(
        self, served: Served, content: str, *, key: str | None = None, **more: Any
    ) -> Reply:
        reply = await self.send(served, content, key=key or self.key, **more)
        self.asked.append(reply.headers["x-request-id"])
        return reply

    async def cached(self, served: Served, content: str, **more: Any) -> str:
        reply = await self.ask(served, content, **more)
        assert 200 == reply.status, reply.body
        return reply.cached

    async def new_key(self, plan: str, budget: int = 0) -> str:
        """Of a further project; each of its requests is to be remembered, too. `budget` in picodollars."""
        made = await self.desk.projects.create(
            f"more of {self.project} {len(self.projects)}", plan=plan
        )
        if budget:
            await self.desk.storage.projects.set_budget(made.id, budget)
        self.projects.append(made.id)
        return (await self.desk.keys.create(made.id, kind=PROJECT)).key

    async def introduce(self, key: str, *servers: Served) -> None:
        """The servers know the key from here on; a list of models leaves no row."""
        for served in servers:
            assert 200 == (await self.look(served, "/v1/models", key)).status

    async def look(self, served: Served, path: str, key: str) -> Reply:
        """A question that leaves no row."""
        async with self.http.get(
            served.root + path, headers={"Authorization": f"Bearer {key}"}
        ) as answer:
            return Reply(answer.status, answer.headers, await answer.read())

    async def health(self, served: Served) -> tuple[int, str, str, str]:
        """HTTP status, the word for all, for Redis, for the database."""
        async with self.http.get(f"{served.root}/health") as answer:
            document = await answer.json()
        words = [document["dependencies"][name]["status"] for name in ("redis", "supabase")]
        return answer.status, document["status"], words[0], words[1]

    async def told(self, served: Served, *expected: object) -> None:
        """Waits until `/health` says exactly that."""
        seen: tuple[object, ...] = ()
        try:
            async with asyncio.timeout(12):
                while (seen := await self.health(served)) != expected:
                    await asyncio.sleep(0.05)
        except TimeoutError:
            assert expected == seen

    async def ids(self) -> list[str]:
        """Of all rows of the test's projects."""
        rows = await self.desk.storage.db.rows(
            "SELECT id FROM usage_log WHERE project IN (SELECT value FROM json_each_text(:projects)) ORDER BY id",
            {"projects": json.dumps(dict(enumerate(self.projects)))},
        )
        return [row["id"] for row in rows]

    async def settled(self) -> None:
        """The ledger has one row of each request, and no other."""

        async def all_there() -> bool:
            return len(await self.ids()) >= len(self.asked)

        await until(all_there, 15)
        assert sorted(self.asked) == await self.ids()


async def until(true: Callable[[], Awaitable[Any]], within: float = 10) -> None:
    """Asks again and again, which is the only way to see another process change its mind."""
    async with asyncio.timeout(within):
        while not await true():
            await asyncio.sleep(0.05)


@contextmanager
def full_house(
    folder: Path, valkey: ValkeyServer, postgres: PostgresServer, more: Mapping[str, str]
) -> Iterator[Full]:
    """`valkey` and `postgres` are running; the database is one of its own. `more` are settings of the servers."""
    name = f"house_{folder.stat().st_ino}"
    root, _, _ = postgres.url.rpartition("/")
    with ExitStack() as stack:
        far = stack.enter_context(_elsewhere(lambda: _far(valkey.port, postgres.port)))
        owner = {
            "DATABASE_URL": f"{root}/{name}",
            "REDIS_URL": valkey.url,
            "WATCHLLM_SECRET_KEY": SECRET,
            "WATCHLLM_DATA_DIR": str(folder / "owner"),
        }
        settings = {
            **owner,
            **more,
            "DATABASE_URL": owner["DATABASE_URL"].replace(OWNER, ROLE, 1),
            "OPENAI_API_KEY": "sk-x",
            "OPENAI_BASE_URL": far.openai.openai,
            "ANTHROPIC_API_KEY": "sk-ant-x",
            "ANTHROPIC_BASE_URL": far.anthropic.anthropic,
        }
        del settings["WATCHLLM_DATA_DIR"]
        full = Full(valkey, postgres, name, far, settings, owner)
        _make_database(full)
        slow = {
            "REDIS_URL": f"redis://127.0.0.1:{far.redis_port}",
            "DATABASE_URL": settings["DATABASE_URL"].replace(
                f":{postgres.port}/", f":{far.database_port}/"
            ),
        }
        with ThreadPoolExecutor(2) as pool:
            starts = [full.third(folder / "one"), full.third(folder / "other", **slow)]
            full.one, full.other = pool.map(stack.enter_context, starts)
        yield full


@asynccontextmanager
async def tenant_of(full: Full) -> AsyncIterator[Tenant]:
    """Its key is known to both servers."""
    timeout = aiohttp.ClientTimeout(total=20)
    async with (
        open_desk(read_settings(full.owner)) as desk,
        aiohttp.ClientSession(timeout=timeout) as http,
    ):
        made = await desk.projects.create(f"tenant {desk.keys.random(6).hex()}", plan="unlimited")
        key, stranger = [(await desk.keys.create(made.id, kind=PROJECT)).key for _ in range(2)]
        tenant = Tenant(full, http, desk, made.id, key, stranger, [made.id])
        await tenant.introduce(tenant.key, *full.both)
        yield tenant


def _make_database(full: Full) -> None:
    connection = psycopg2.connect(full.postgres.url)
    connection.autocommit = True
    connection.cursor().execute(f"CREATE DATABASE {full.database}")
    connection.close()
    full.sql(f"CREATE ROLE {ROLE} LOGIN")
    full.far.do(_migrate(full))
    full.sql(
        f"GRANT USAGE ON SCHEMA watchllm TO {ROLE}",
        f"GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA watchllm TO {ROLE}",
    )
    # Whoever was granted a table since sees its rows from here on.
    full.far.do(_migrate(full))


async def _migrate(full: Full) -> None:
    storage = open_storage(read_settings(full.owner))
    try:
        await storage.migrate()
    finally:
        await storage.aclose()


@asynccontextmanager
async def _far(valkey: int, postgres: int) -> AsyncIterator[Far]:
    async with ScriptedUpstream() as openai, ScriptedUpstream() as anthropic:
        far = Far(asyncio.get_running_loop(), openai, anthropic)
        async with (
            relay(valkey, delay=lambda: far.redis_lag) as far.redis_port,
            relay(postgres, delay=lambda: far.database_lag) as far.database_port,
        ):
            yield far


@contextmanager
def _elsewhere(entered: Callable[[], AbstractAsyncContextManager[Far]]) -> Iterator[Far]:
    ready: list[Far] = []
    begun, ended = threading.Event(), asyncio.Event()

    async def hold() -> None:
        async with entered() as far:
            ready.append(far)
            begun.set()
            await ended.wait()

    thread = threading.Thread(target=lambda: asyncio.run(hold()), name="far")
    thread.start()
    assert begun.wait(10)
    try:
        yield ready[0]
    finally:
        ready[0].loop.call_soon_threadsafe(ended.set)
        thread.join(10)
