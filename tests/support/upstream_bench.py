"""The fast path of the scripted provider: answers made in advance for models named `...bench` or `...bench-NxMS`.

Nothing is parsed and nothing is kept, so that a benchmark measures the proxy. A chunk costs one timer and one write.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from functools import lru_cache

import orjson
from attrs import define

MODEL = re.compile(rb'"model": ?"([^"]{0,80}bench(?:-(\d{1,6})x(\d{1,6}))?)"')
STREAM = re.compile(rb'"stream": ?true')
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)

CREATED = 1_790_000_000

HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)


def body_size(head: bytes) -> int:
    found = LENGTH.search(head)
    return int(found[1]) if found else 0


@define
class Script:
    """`first` at once, then `count` times `piece` at `interval` seconds, then `last`."""

    first: bytes
    piece: bytes
    count: int
    interval: float
    last: bytes

    @property
    def instant(self) -> bool:
        return not self.first and not self.interval


class Paced:
    """A script under way. Its clock is the loop's, so that a late timer does not delay the rest."""

    def __init__(
        self, script: Script, transport: asyncio.Transport, finished: Callable[[], None]
    ) -> None:
        self._script = script
        self._transport = transport
        self._finished = finished
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._sent = 0
        if script.first:
            transport.write(script.first)
        self._later()

    def cancel(self) -> None:
        self._timer.cancel()

    def _later(self) -> None:
        due = self._began + (self._sent + 1) * self._script.interval
        self._timer = self._loop.call_at(due, self._tick)

    def _tick(self) -> None:
        script = self._script
        if self._sent < script.count:
            self._transport.write(script.piece)
            self._sent += 1
            self._later()
            return
        self._transport.write(script.last)
        self._finished()


def script(head: bytes, body: bytes) -> Script | None:
    """None unless the model's name asks for it."""
    found = MODEL.search(body)
    if found is None:
        return None
    count, interval = int(found[2] or 0), int(found[3] or 0)
    streamed = STREAM.search(body) is not None
    return _script(b"/messages" in head[:40], streamed, found[1].decode(), count, interval)


@lru_cache(maxsize=256)
def _script(anthropic: bool, streamed: bool, model: str, count: int, interval: int) -> Script:
    count = count or 12
    if not streamed:
        body = orjson.dumps((_message if anthropic else _completion)(model, count))
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        return Script(b"", b"", 0, count * interval / 1000, head % len(body) + body)
    first, piece, last = (_events if anthropic else _chunks)(model, count)
    return Script(
        HEAD + _chunked(*first),
        _chunked(piece),
        count,
        interval / 1000,
        _chunked(*last) + b"0\r\n\r\n",
    )


def _chunked(*events: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(event), event) for event in events)


def _completion(model: str, count: int) -> dict[str, object]:
    return {
        "id": "chatcmpl-bench",
        "object": "chat.completion",
        "created": CREATED,
        "model": model,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "word " * count, "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": _usage(count),
    }


def _usage(count: int) -> dict[str, int]:
    return {"prompt_tokens": 10, "completion_tokens": count, "total_tokens": 10 + count}


def _chunks(model: str, count: int) -> tuple[list[bytes], bytes, list[bytes]]:
    head = {
        "id": "chatcmpl-bench",
        "object": "chat.completion.chunk",
        "created": CREATED,
        "model": model,
    }

    def chunk(delta: dict[str, str], finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return b"data: %b\n\n" % orjson.dumps({**head, "choices": [choice], "usage": None})

    usage = b"data: %b\n\n" % orjson.dumps({**head, "choices": [], "usage": _usage(count)})
    return (
        [chunk({"role": "assistant", "content": ""})],
        chunk({"content": "word "}),
        [chunk({}, "stop"), usage, b"data: [DONE]\n\n"],
    )


def _message(model: str, count: int) -> dict[str, object]:
    return {
        "id": "msg_bench",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [{"type": "text", "text": "word " * count}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": 10, "output_tokens": count},
    }


def _events(model: str, count: int) -> tuple[list[bytes], bytes, list[bytes]]:
    def event(name: str, **fields: object) -> bytes:
        return b"event: %b\ndata: %b\n\n" % (name.encode(), orjson.dumps({"type": name, **fields}))

    started = {**_message(model, 1), "content": [], "stop_reason": None}
    return (
        [
            event("message_start", message=started),
            event("content_block_start", index=0, content_block={"type": "text", "text": ""}),
        ],
        event("content_block_delta", index=0, delta={"type": "text_delta", "text": "word "}),
        [
            event("content_block_stop", index=0),
            event(
                "message_delta",
                delta={"stop_reason": "end_turn", "stop_sequence": None},
                usage={"input_tokens": 10, "output_tokens": count},
            ),
            event("message_stop"),
        ],
    )
