"""The whole product in the test's own process: real sockets before it and, where a test wants, scripted providers behind.

`open_house` builds it exactly as `watchllm serve` does, from settings; only the providers' base URLs and the data
directory are the test's.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import orjson
from attrs import define
from tornado.netutil import bind_sockets

from app.build import House, build
from app.desk import key_ring, project_book
from app.main import HEADER_BYTES, UNBOUNDED
from app.storage import Storage, open_storage
from app.web.server import Server
from config.settings import Settings, read_settings
from domain.project import PROJECT, TEST, Project
from tests.support.upstream import Call, ScriptedUpstream

QUESTION = {"model": "gpt-4o", "messages": [{"role": "user", "content": "How far is the moon?"}]}


@define
class Reply:
    """What a plain HTTP client saw. Header names in any case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def document(self) -> Any:
        return orjson.loads(self.body)

    @property
    def cached(self) -> str:
        return self.headers["x-WatchLLM-cached"]

    @property
    def reason(self) -> str:
        return self.headers["x-WatchLLM-cache-reason"]

    @property
    def error(self) -> dict[str, Any]:
        """The error object, after a check of its form: all four keys, always."""
        found = self.document["error"]
        assert {"message", "type", "param", "code"} == set(found)
        assert found["message"]
        return found


@define
class OpenHouse:
    """`key` is a project key of `project`, `test_key` a test key."""

    settings: Settings
    storage: Storage
    house: House
    server: Server
    port: int
    project: Project
    key: str
    test_key: str
    http: aiohttp.ClientSession

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def ask(
        self,
        document: Any = None,
        path: str = "/v1/chat/completions",
        *,
        key: str | None = None,
        method: str = "POST",
        raw: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        """One request, read to its end. `document` is sent as JSON, `raw` as it is."""
        body = raw if raw is not None else None if document is None else orjson.dumps(document)
        sent = {"Authorization": f"Bearer {self.key if key is None else key}"}
        if body is not None:
            sent["Content-Type"] = "application/json"
        sent.update(headers or {})
        async with self.http.request(method, self.root + path, data=body, headers=sent) as answer:
            return Reply(answer.status, answer.headers, await answer.read())

    async def new_project(self, name: str, plan: str = "unlimited") -> tuple[Project, str]:
        project = await project_book(self.storage).create(name, plan=plan)
        fresh = await key_ring(self.settings, self.storage).create(
            project.id, kind=PROJECT, name=""
        )
        return project, fresh.key

    async def rows(self) -> list[dict[str, Any]]:
        """The ledger's rows, oldest first, once all that was closed has reached it."""
        await self.house.journal.drain(5)
        return await self.storage.db.rows("SELECT * FROM usage_log ORDER BY id")


def events(body: bytes) -> list[Any]:
    """The JSON of a stream's events; `[DONE]` as text; comments left out."""
    found: list[Any] = []
    for block in body.split(b"\n\n"):
        lines = [line for line in block.split(b"\n") if line.startswith(b"data: ")]
        if lines:
            text = lines[0][6:]
            found.append("[DONE]" if text == b"[DONE]" else orjson.loads(text))
    return found


@asynccontextmanager
async def open_house(
    data_dir: Path, upstream: ScriptedUpstream | None = None, **environment: str
) -> AsyncIterator[OpenHouse]:
    """`environment` adds to or overrides the settings; with `upstream`, all three providers are configured."""
    given = {"WATCHLLM_DATA_DIR": str(data_dir), "WATCHLLM_DRAIN_GRACE": "2s"}
    if upstream is not None:
        given |= {
            "OPENAI_API_KEY": "sk-openai-canary-key",
            "OPENAI_BASE_URL": upstream.openai,
            "ANTHROPIC_API_KEY": "sk-ant-canary-key",
            "ANTHROPIC_BASE_URL": upstream.anthropic,
            "GROQ_API_KEY": "gsk_canary_key",
            "GROQ_BASE_URL": upstream.groq,
        }
    settings = read_settings(given | environment)
    storage = open_storage(settings)
    await storage.migrate()
    house = build(settings, storage, "http://127.0.0.1")
    sockets = bind_sockets(0, "127.0.0.1")
    server = Server(
        house.front,
        most=settings.listening.max_connections,
        most_per_address=settings.listening.max_connections_per_ip,
        max_body_size=UNBOUNDED,
        max_header_size=HEADER_BYTES,
    )
    house.start()
    server.add_sockets(sockets)
    ring = key_ring(settings, storage)
    project = await project_book(storage).create("tests", plan="unlimited")
    key = await ring.create(project.id, kind=PROJECT, name="")
    test_key = await ring.create(project.id, kind=TEST, name="")
    http = aiohttp.ClientSession(auto_decompress=False)
    try:
        yield OpenHouse(
            settings,
            storage,
            house,
            server,
            sockets[0].getsockname()[1],
            project,
            key.key,
            test_key.key,
            http,
        )
    finally:
        await http.close()
        server.stop()
        for exchange in list(house.front.running):
            exchange.cut()
        await server.close_all_connections()
        await house.close()
        await storage.aclose()


def asked(upstream: ScriptedUpstream) -> list[Call]:
    """The calls that cost money; the background's look at the model lists is none."""
    return [call for call in upstream.calls if call.method == "POST"]
