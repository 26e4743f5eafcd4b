"""A scripted provider on a real socket: OpenAI's, Groq's and Anthropic's dialects, told apart by path.

It answers well by itself, and as badly as a test wants (`upstream_faults`). Every byte it sends is decided here, and
every call is kept, with the moment its client hung up. Three ways to use it:

- on a test's own loop: `async with ScriptedUpstream() as upstream`
- from code without a loop: `with running_upstream() as upstream`
- as a process: `python -m tests.support.upstream --port 0`, which prints `{"port": ...}` and serves `GET /_state`

A test steers with `upstream.answer`, `upstream.replies` and `break_with`; another process steers by model name:
`gpt-fault-reset` breaks at once and `gpt-fault-reset@2` after two good events, `gpt-bench` is a small answer made in
advance, `gpt-bench-100x5` a stream of 100 chunks 5 ms apart (or one answer after those 500 ms). The same goes for
`claude-...`.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Self, cast
from urllib.parse import urlsplit

import orjson

from tests.support import upstream_anthropic, upstream_bench, upstream_faults, upstream_openai
from tests.support.upstream_reply import Call, Ending, Reply

__all__ = ["Call", "Ending", "Reply", "ScriptedUpstream", "running_upstream"]

KEPT_CALLS = 100_000

Answer = Callable[[Call], Reply | None]


class ScriptedUpstream:
    """`answer` (None: not mine) goes before `replies`, those before faults named by a model, those before good answers."""

    def __init__(self, port: int = 0) -> None:
        self.port = port
        self.answer: Answer | None = None
        self.replies: deque[Reply] = deque()
        self.calls: list[Call] = []
        self.count = 0
        """Calls so far, those of the bench included, which are not kept."""
        self.open = 0
        """Calls that are being answered now."""
        self.closed_early = 0
        self.connections: set[_Connection] = set()
        self.connected = 0
        """Connections so far."""
        self._server: asyncio.Server | None = None
        self._arrived = asyncio.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def openai(self) -> str:
        """As `OPENAI_BASE_URL` and OpenAI's SDK want it."""
        return f"{self.url}/v1"

    @property
    def anthropic(self) -> str:
        return self.url

    @property
    def groq(self) -> str:
        return self.url

    async def __aenter__(self) -> Self:
        await self.listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def listen(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: _Connection(self), "127.0.0.1", self.port, backlog=4096
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def refuse(self) -> None:
        """From now on connections are refused, and those that are open end; `listen` takes the same port again."""
        if self._server is not None:
            self._server.close()
            self._server = None
        tasks = [one.task for one in self.connections if one.task is not None]
        for connection in tuple(self.connections):
            connection.drop()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def aclose(self) -> None:
        await self.refuse()

    async def break_with(self, fault: str, after: int = 0) -> None:
        """Every call from now on meets this fault; in streams after that many good events."""
        if fault == "refuse":
            await self.refuse()
            return
        make = upstream_faults.FAULTS[fault]
        self.answer = lambda call: make(call, after) if call.method == "POST" else None

    async def heal(self) -> None:
        self.answer = None
        self.replies.clear()
        if self._server is None:
            await self.listen()

    async def called(self, times: int = 1) -> Call:
        """Waits until that many calls have arrived; gives the last of them."""
        while len(self.calls) < times:
            self._arrived.clear()
            await self._arrived.wait()
        return self.calls[times - 1]

    def note(self, call: Call) -> None:
        if len(self.calls) < KEPT_CALLS:
            self.calls.append(call)
        self._arrived.set()

    def reply_to(self, call: Call) -> Reply:
        if self.answer is not None:
            reply = self.answer(call)
            if reply is not None:
                return reply
        if self.replies and call.method == "POST":
            return self.replies.popleft()
        return upstream_faults.named(call) or good_answer(call)

    def state(self) -> dict[str, int]:
        return {
            "calls": self.count,
            "open": self.open,
            "closed_early": self.closed_early,
            "connections": len(self.connections),
            "connected": self.connected,
        }


def good_answer(call: Call) -> Reply:
    """What the provider whose path and headers these are would say."""
    if call.dialect == "anthropic":
        return upstream_anthropic.good_answer(call)
    return upstream_openai.good_answer(call)


class _Connection(asyncio.Protocol):
    """One client's connection: requests in turn, the next one read when the last answer is out."""

    def __init__(self, upstream: ScriptedUpstream) -> None:
        self.upstream = upstream
        self.task: asyncio.Task[None] | None = None
        self.paced: upstream_bench.Paced | None = None
        self._buffer = b""
        self._writable = asyncio.Event()
        self._writable.set()
        self.gone = asyncio.Event()
        self._number = 0

    # --- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.upstream.connections.add(self)
        self.upstream.connected += 1
        self._number = self.upstream.connected

    def data_received(self, data: bytes) -> None:
        self._buffer = self._buffer + data if self._buffer else data
        self._serve()

    def eof_received(self) -> None:
        # A proxy never half-closes, so the end of its sending is its leaving.
        self._leave()

    def connection_lost(self, exc: Exception | None) -> None:
        self._leave()
        self.upstream.connections.discard(self)

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    # --- requests

    def drop(self) -> None:
        self.transport.abort()
        self._leave()

    def _leave(self) -> None:
        if self.gone.is_set():
            return
        self.gone.set()
        self._writable.set()
        if self.paced is not None:
            self.paced.cancel()
            self.finished(early=True)

    def finished(self, early: bool = False) -> None:
        """The answer under way is over, by us or (`early`) by the client."""
        self.upstream.open -= 1
        self.upstream.closed_early += early
        self.task = self.paced = None
        if not early and self._buffer:
            self._serve()

    def _serve(self) -> None:
        if self.task is not None or self.paced is not None:
            return
        if self.gone.is_set() or self.transport.is_closing():
            return
        head, found, rest = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return
        size = upstream_bench.body_size(head)
        if len(rest) < size:
            return
        body, self._buffer = rest[:size], rest[size:]
        upstream = self.upstream
        upstream.count += 1
        upstream.open += 1
        bench = upstream_bench.script(head, body)
        if bench is not None and bench.instant:
            self.transport.write(bench.last)
            self.finished()
            return
        if bench is not None:
            self.paced = upstream_bench.Paced(bench, self.transport, self.finished)
            return
        call = _read_call(head, body, self._number)
        if call.path == "/_state":
            upstream.count -= 1
            reply = Reply.json(200, {**upstream.state(), "open": upstream.open - 1})
        else:
            upstream.note(call)
            reply = upstream.reply_to(call)
        self.task = asyncio.get_running_loop().create_task(self._answer(call, reply))

    async def _answer(self, call: Call, reply: Reply) -> None:
        """Writes the reply step by step, as long as the client is there."""
        keep = False
        try:
            keep = await self._write(call, reply)
        finally:
            if self.gone.is_set() and not call.done.is_set():
                call.hung_up(asyncio.get_running_loop().time())
            call.done.set()
            if not keep and not self.transport.is_closing():
                self.transport.close()
            self.finished(early=call.closed_early)

    async def _write(self, call: Call, reply: Reply) -> bool:
        """Whether the connection may be used again."""
        self._send(call, reply.head())
        for step in reply.steps:
            if self.gone.is_set():
                return False
            if isinstance(step, bytes):
                self._send(call, b"%x\r\n%b\r\n" % (len(step), step) if reply.chunked else step)
                await self._writable.wait()
            elif isinstance(step, Ending):
                return await self._end(call, step)
            elif not await self._wait(step):
                return False
        if self.gone.is_set():
            return False
        if reply.chunked:
            self._send(call, b"0\r\n\r\n")
        call.done.set()
        return reply.reusable

    def _send(self, call: Call, data: bytes) -> None:
        self.transport.write(data)
        call.bytes_sent += len(data)

    async def _wait(self, step: float | asyncio.Event) -> bool:
        """False if the client left meanwhile."""
        loop = asyncio.get_running_loop()
        gone = loop.create_task(self.gone.wait())
        waits = {gone}
        if isinstance(step, asyncio.Event):
            waits.add(loop.create_task(step.wait()))
        try:
            timeout = None if isinstance(step, asyncio.Event) else step
            await asyncio.wait(waits, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        return not self.gone.is_set()

    async def _end(self, call: Call, ending: Ending) -> bool:
        if ending is Ending.HANG:
            await self.gone.wait()
        elif ending is Ending.RESET:
            call.done.set()
            upstream_faults.reset(self.transport)
        return False


def _read_call(head: bytes, body: bytes, connection: int) -> Call:
    line, *lines = head.decode("latin-1").split("\r\n")
    method, target, _ = line.split(" ", 2)
    headers = {}
    for one in lines:
        name, _, content = one.partition(":")
        headers[name.lower()] = content.strip()
    url = urlsplit(target)
    document: Any = None
    with suppress(orjson.JSONDecodeError):
        document = orjson.loads(body)
    return Call(
        method=method,
        path=url.path,
        query=url.query,
        headers=headers,
        raw=body,
        body=document if isinstance(document, dict) else {},
        connection=connection,
    )


@contextmanager
def running_upstream() -> Iterator[ScriptedUpstream]:
    """On a loop and a thread of its own, for callers that block; steer it before the first call."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="upstream", daemon=True)
    thread.start()
    try:
        upstream = asyncio.run_coroutine_threadsafe(_listening(0), loop).result(10)
        yield upstream
        asyncio.run_coroutine_threadsafe(upstream.aclose(), loop).result(10)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


async def _listening(port: int) -> ScriptedUpstream:
    upstream = ScriptedUpstream(port)
    await upstream.listen()
    return upstream


async def _serve_forever(port: int) -> None:
    upstream = await _listening(port)
    print(json.dumps({"port": upstream.port}), flush=True)
    await asyncio.Event().wait()


def main() -> None:
    from argparse import ArgumentParser

    parser = ArgumentParser(description="A scripted provider for tests and benchmarks.")
    parser.add_argument("--port", type=int, default=0)
    port = parser.parse_args().port
    with suppress(KeyboardInterrupt):
        try:
            import uvloop
        except ImportError:
            asyncio.run(_serve_forever(port))
        else:
            uvloop.run(_serve_forever(port))


if __name__ == "__main__":
    main()
