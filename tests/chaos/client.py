"""Clients that bear everything: raw sockets, and an answer for each question, even if it is that none came."""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import AsyncIterator, Callable

import orjson
from attrs import define, field

from tests.bench.load import WrongAnswer, split
from tests.chaos.books import Question

PATIENCE = 20.0
_ID = re.compile(rb"\r\nx-request-id: ([0-9a-f-]{36})\r\n")
_CACHED = re.compile(rb"\r\nx-watchllm-cached: (hit|miss)\r\n")
_RETRY = re.compile(rb"\r\nretry-after: (\d+)\r\n")


@define(eq=False)
class Answer:
    """`status` 0 is no answer. `whole` means that the last byte came. Times are the loop's."""

    question: Question | None
    began: float
    ended: float = 0.0
    status: int = 0
    id: str = ""
    cached: str = ""
    retry_after: int | None = None
    whole: bool = False
    streamed: bool = False
    body: bytes = field(default=b"", repr=False)

    @property
    def took(self) -> float:
        return self.ended - self.began

    @property
    def good(self) -> bool:
        """All of a good answer, which speaks of the question that was asked."""
        if self.status != 200 or not self.whole:
            return False
        if self.streamed and not self.body.rstrip().endswith(b"data: [DONE]"):
            return False
        return self.question is None or self.question.model.encode() in self.body


def ask_bytes(
    key: str, question: Question, *, stream: bool = False, headers: str = "", **more: object
) -> bytes:
    """`headers` are whole lines, each with its end."""
    document: dict[str, object] = {
        "model": question.model,
        "messages": [{"role": "user", "content": question.text}],
        **more,
    }
    if stream:
        document["stream"] = True
    return post(key, orjson.dumps(document), headers)


def post(key: str, body: bytes, headers: str = "") -> bytes:
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: chaos\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
    )
    return head.encode() + body


HEALTH = b"GET /health HTTP/1.1\r\nHost: chaos\r\n\r\n"

Line = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Client:
    """Kept connections to one port, used in turn; a new one when all are waiting for an answer.

    `fewest` are opened before any is used again, so that the kernel gives some to each process behind the port.
    """

    def __init__(self, port: int, fewest: int = 1) -> None:
        self.port = port
        self._fewest = fewest
        self._idle: deque[Line] = deque()
        self._busy = 0

    async def ask(
        self, request: bytes, question: Question | None = None, patience: float = PATIENCE
    ) -> Answer:
        loop = asyncio.get_running_loop()
        answer = Answer(question, loop.time(), streamed=b'"stream":true' in request)
        line: Line | None = None
        self._busy += 1
        try:
            async with asyncio.timeout(patience):
                line = await self._line()
                line[1].write(request)
                await _read(line[0], answer)
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            pass
        finally:
            answer.ended = loop.time()
            self._busy -= 1
            if line is not None:
                # Whoever draws drained answers says `connection: close`; the next read would tell anyway.
                if answer.whole and len(self._idle) < 64:
                    self._idle.append(line)
                else:
                    line[1].transport.abort()
        return answer

    def close(self) -> None:
        while self._idle:
            self._idle.pop()[1].transport.abort()

    async def _line(self) -> Line:
        while len(self._idle) + self._busy > self._fewest and self._idle:
            line = self._idle.popleft()
            if not line[0].at_eof() and not line[1].transport.is_closing():
                return line
            line[1].transport.abort()
        return await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 20)


async def _read(reader: asyncio.StreamReader, answer: Answer) -> None:
    buffer = b""
    found = None
    while found is None:
        data = await reader.read(65_536)
        if not data:
            _note(answer, buffer.partition(b"\r\n\r\n")[0].lower() + b"\r\n")
            return
        buffer += data
        found = split(buffer)
    head, answer.body = found
    _note(answer, head)
    answer.whole = True


def _note(answer: Answer, head: bytes) -> None:
    if not head.startswith(b"http/1.1 "):
        return
    answer.status = int(head[9:12])
    for pattern, name in ((_ID, "id"), (_CACHED, "cached")):
        match = pattern.search(head)
        if match:
            setattr(answer, name, match[1].decode())
    retry = _RETRY.search(head)
    answer.retry_after = int(retry[1]) if retry else None


async def paced(
    rate: float, seconds: float, send: Callable[[int], asyncio.Task[Answer]]
) -> list[Answer]:
    """`rate` questions a second, whether or not the last was answered; all the answers, in order of asking."""
    sent = [send(number) async for number in beats(rate, seconds)]
    return list(await asyncio.gather(*sent))


async def beats(rate: float, seconds: float) -> AsyncIterator[int]:
    loop = asyncio.get_running_loop()
    began = loop.time()
    for number in range(int(rate * seconds)):
        await asyncio.sleep(max(0.0, began + number / rate - loop.time()))
        yield number


__all__ = ["HEALTH", "Answer", "Client", "WrongAnswer", "ask_bytes", "beats", "paced", "post"]
