"""An incoming webhook on a real socket that keeps what it is sent, and is as unhelpful as a test wants."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import orjson
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult
from attrs import define, field


@define
class Posted:
    method: str
    host: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def document(self) -> Any:
        return orjson.loads(self.body)


@define
class Answer:
    status: int = 200
    headers: Mapping[str, str] = field(factory=dict)
    body: bytes = b"ok"


@define
class HookSink:
    """`answers` are those to the next posts instead of the good one. While `hangs` there are none."""

    port: int = 0
    posts: list[Posted] = field(factory=list)
    answers: deque[Answer] = field(factory=deque)
    hangs: bool = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook?sig=a%2Fb"

    async def serve(self, request: web.BaseRequest) -> web.Response:
        self.posts.append(
            Posted(
                request.method,
                request.host,
                request.raw_path,
                request.headers,
                await request.read(),
            )
        )
        if self.hangs:
            await asyncio.Event().wait()
        answer = self.answers.popleft() if self.answers else Answer()
        return web.Response(status=answer.status, headers=answer.headers, body=answer.body)


@asynccontextmanager
async def hook_sink(*, tls: ssl.SSLContext | None = None) -> AsyncIterator[HookSink]:
    """On the test's own loop."""
    sink = HookSink()
    runner = web.ServerRunner(web.Server(sink.serve), shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    sink.port = runner.addresses[0][1]
    try:
        yield sink
    finally:
        await runner.cleanup()


@define
class Names(AbstractResolver):
    """Answers every name with `addresses`, at `port` whatever was asked for, and counts how often it was asked."""

    addresses: tuple[str, ...]
    port: int
    asked: list[str] = field(factory=list)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        self.asked.append(host)
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=self.port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address in self.addresses
        ]

    async def close(self) -> None:
        """There is nothing to close."""
