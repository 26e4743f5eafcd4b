"""A stream of Anthropic's events as OpenAI's chunks: feed it reads, it gives frames. No socket, no await."""

from __future__ import annotations

from typing import Any

import orjson

from adapters.providers.anthropic_answer import (
    arguments_of,
    finish_reason,
    read_usage,
    refusal_of,
    service_tier_of,
    text_of,
    usage_document,
)
from adapters.providers.anthropic_faults import event_failure
from adapters.providers.anthropic_request import Outgoing
from domain.answer import Document, Frame
from domain.errors import ApiError, UpstreamFailed
from domain.sse import SSEReader


class _Call:
    """A tool call under way: its place among the calls, and whether any of its input has come."""

    def __init__(self, place: int, block: Document) -> None:
        self.place = place
        self.block = block
        self.begun = False


class MessageStream:
    """Cut the bytes anywhere, the frames are the same.

    A failure never takes back what came before it: `feed` gives those frames first, and the next `feed` or
    `close` raises. `failed` says at once that it will, so nobody has to wait for a silent provider.
    """

    def __init__(self, outgoing: Outgoing, created: int) -> None:
        self._functions = outgoing.functions
        # OpenAI begins an answer that may be a tool call with null, others with no text yet.
        self._begin = None if "tools" in outgoing.payload else ""
        self._head: Document = {
            "id": "",
            "object": "chat.completion.chunk",
            "created": created,
            "model": "",
        }
        self._events = SSEReader()
        self._begun = False
        self._calls: dict[int, _Call] = {}
        self._told: Document = {}
        self._ending: Document = {}
        self._failure: ApiError | None = None
        self.service_tier: str | None = None
        self.ended = False

    @property
    def failed(self) -> bool:
        return self._failure is not None

    def feed(self, read: bytes) -> list[Frame]:
        """The frames that this read completes, in order."""
        if self._failure is not None:
            raise self._failure
        frames: list[Frame] = []
        try:
            for _, data in self._events.feed(read):
                if self.ended:
                    break
                self._take(data, frames)
        except ApiError as exc:
            self._failure = exc
            if not frames:
                raise
        return frames

    def close(self) -> None:
        """To be called when the provider has nothing more: raises unless the message was whole."""
        if self._failure is not None:
            raise self._failure
        if not self.ended:
            raise UpstreamFailed("Anthropic's answer was cut off.")

    def _take(self, data: bytes, frames: list[Frame]) -> None:
        try:
            event: Any = orjson.loads(data)
        except orjson.JSONDecodeError as exc:
            raise UpstreamFailed("Anthropic sent an event that is not JSON.") from exc
        kind = event.get("type") if type(event) is dict else None
        if kind == "error":
            raise event_failure(event)
        if kind == "message_start":
            self._start(_held(event, "message"), frames)
        elif kind == "content_block_delta":
            self._delta(event, _held(event, "delta"), frames)
        elif kind == "content_block_start":
            self._open(event, _held(event, "content_block"), frames)
        elif kind == "content_block_stop":
            self._shut(self._call_of(event), frames)
        elif kind == "message_delta":
            self._ending |= _said(_held(event, "delta"))
            self._count(event.get("usage"))
        elif kind == "message_stop":
            self._end(frames)
        # Pings and whatever is added later are passed over, as Anthropic asks its readers to.

    def _start(self, message: Document, frames: list[Frame]) -> None:
        self._head["id"] = text_of(message, "id")
        self._head["model"] = text_of(message, "model")
        self._begun = True
        told = message.get("usage")
        self._count(told)
        # A placeholder; the count comes with message_delta.
        self._told.pop("output_tokens", None)
        self.service_tier = service_tier_of(told)
        frames.append(self._frame({"role": "assistant", "content": self._begin, "refusal": None}))

    def _count(self, told: Any) -> None:
        """Counts are cumulative and may be told again: the last one stands, nothing is added up."""
        if type(told) is dict:
            self._told |= _said(told)

    def _open(self, event: Document, block: Document, frames: list[Frame]) -> None:
        if block.get("type") != "tool_use":
            return
        call = _Call(len(self._calls), block)
        self._calls[_place(event)] = call
        function = {"name": text_of(block, "name"), "arguments": ""}
        head = {"id": text_of(block, "id"), "type": "function"}
        self._say(call, function, head, frames)

    def _delta(self, event: Document, delta: Document, frames: list[Frame]) -> None:
        kind = delta.get("type")
        if kind == "text_delta":
            if text := text_of(delta, "text"):
                frames.append(self._frame({"content": text}))
        elif kind == "input_json_delta":
            text, call = text_of(delta, "partial_json"), self._call_of(event)
            if text and call:
                call.begun = True
                self._say(call, {"arguments": text}, {}, frames)

    def _shut(self, call: _Call | None, frames: list[Frame]) -> None:
        # A tool without input sends none of it, yet clients parse the arguments.
        if call and not call.begun:
            call.begun = True
            self._say(call, {"arguments": arguments_of(call.block)}, {}, frames)

    def _say(self, call: _Call, function: Document, head: Document, frames: list[Frame]) -> None:
        if not self._functions:
            frames.append(
                self._frame({"tool_calls": [{"index": call.place, **head, "function": function}]})
            )
        elif call.place == 0:
            frames.append(self._frame({"function_call": function}))

    def _end(self, frames: list[Frame]) -> None:
        finish = finish_reason(self._ending.get("stop_reason"), functions=self._functions)
        for call in self._calls.values():
            self._shut(call, frames)
        if refusal := refusal_of(self._ending):
            frames.append(self._frame({"refusal": refusal}))
        frames.append(self._frame({}, finish))
        usage = read_usage(self._told)
        if usage is not None:
            chunk = {**self._head, "choices": [], "usage": usage_document(usage)}
            frames.append(Frame(chunk, orjson.dumps(chunk), usage))
        self.ended = True

    def _call_of(self, event: Document) -> _Call | None:
        return self._calls.get(_place(event))

    def _frame(self, delta: Document, finish: str | None = None) -> Frame:
        if not self._begun:
            raise UpstreamFailed("Anthropic sent an answer without its beginning.")
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        chunk = {**self._head, "choices": [choice]}
        return Frame(chunk, orjson.dumps(chunk))


def _held(event: Document, field: str) -> Document:
    found = event.get(field)
    if type(found) is not dict:
        raise UpstreamFailed(f"Anthropic sent an event without its '{field}'.")
    return found


def _place(event: Document) -> int:
    found = event.get("index")
    if type(found) is not int:
        raise UpstreamFailed("Anthropic sent an event without its 'index'.")
    return found


def _said(told: Document) -> Document:
    """Null says nothing, so it replaces nothing."""
    return {field: found for field, found in told.items() if found is not None}
