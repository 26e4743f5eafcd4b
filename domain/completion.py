"""Streams and whole answers are one thing in two shapes: fold the first into the second, replay the second as the first.

`StreamFolder` is fed OpenAI chunks and knows the whole answer at the end; `replay` turns a stored answer into the
chunks a provider would have sent. Both serve chat (`chat.completion`) and text completions (`text_completion`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson

from domain.answer import Document
from domain.request import Endpoint, ProxyRequest
from domain.sse import DONE, frame

PIECE = 4_096
"""Characters of text in one replayed chunk: clients that read line by line have a bound on a line."""

_NOT_FOLDED = frozenset({"choices", "usage", "object", "obfuscation", "x_groq"})


class StreamFolder:
    """Feed it chunks; `document()` is the unstreamed answer. Past `limit` characters it keeps counting but not keeping."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._top: Document = {}
        self._choices: dict[int, _Choice] = {}
        self.characters = 0
        self.finished = False
        """Every choice seen so far has its finish_reason."""

    @property
    def overflowed(self) -> bool:
        return self.characters > self._limit

    def feed(self, chunk: Document) -> None:
        choices = chunk.get("choices")
        if not choices:
            self._note_top(chunk)
            return
        if not self._top:
            self._note_top(chunk)
        for choice in choices:
            self._take(choice)

    def _note_top(self, chunk: Document) -> None:
        for name, field in chunk.items():
            if name not in _NOT_FOLDED and field is not None:
                self._top[name] = field

    def _take(self, choice: Document) -> None:
        index = choice.get("index", 0)
        held = self._choices.get(index)
        if held is None:
            held = self._choices[index] = _Choice()
        finish = choice.get("finish_reason")
        if finish is not None:
            held.finish = finish
            self.finished = all(one.finish is not None for one in self._choices.values())
        keep = not self.overflowed
        text = choice.get("text")
        if type(text) is str:
            self.characters += len(text)
            if keep:
                held.add("text", text)
        delta = choice.get("delta")
        if delta:
            self.characters += held.take(delta, keep)
        logprobs = choice.get("logprobs")
        if logprobs and keep:
            # A logprob entry weighs far more than its token does.
            self.characters += held.take_logprobs(logprobs)

    def document(self, usage: Document | None) -> Document:
        """The whole answer as an unstreamed call would have brought it."""
        text_completion = any("text" in choice.fields for choice in self._choices.values())
        found: Document = {**self._top}
        found["object"] = "text_completion" if text_completion else "chat.completion"
        found["choices"] = [
            held.text_choice(index) if text_completion else held.chat_choice(index)
            for index, held in sorted(self._choices.items())
        ]
        if usage is not None:
            found["usage"] = usage
        return found

    def text(self) -> str:
        """All that was written so far, for an estimate when a stream was cut before its usage arrived."""
        return "".join(choice.all_text() for choice in self._choices.values())


class _Choice:
    """One choice of a stream in the making. Strings are kept in pieces and joined once."""

    def __init__(self) -> None:
        self.finish: str | None = None
        self.fields: dict[str, list[str]] = {}
        self.others: Document = {}
        self.calls: dict[int, Document] = {}
        self.call: Document | None = None
        self.logprobs: dict[str, Any] = {}

    def add(self, name: str, text: str) -> None:
        self.fields.setdefault(name, []).append(text)

    def take(self, delta: Document, keep: bool) -> int:
        """Takes in one delta; gives the number of characters it brought."""
        brought = 0
        for name, field in delta.items():
            if field is None or name == "role":
                continue
            if type(field) is str:
                brought += len(field)
                if keep:
                    self.add(name, field)
            elif name == "tool_calls" and type(field) is list:
                brought += sum(self._take_call(call, keep) for call in field if type(call) is dict)
            elif name == "function_call" and type(field) is dict:
                if self.call is None:
                    self.call = {}
                brought += _extend(self.call, field, keep)
            elif keep:
                self.others[name] = field
                brought += 64
        return brought

    def _take_call(self, call: Document, keep: bool) -> int:
        held = self.calls.setdefault(call.get("index", 0), {})
        brought = 0
        for name, field in call.items():
            if name == "index" or field is None:
                continue
            if type(field) is dict:
                brought += _extend(held.setdefault(name, {}), field, keep)
            else:
                held[name] = field
        return brought

    def take_logprobs(self, logprobs: Document) -> int:
        weight = 0
        for name, field in logprobs.items():
            if type(field) is list:
                self.logprobs.setdefault(name, []).extend(field)
                weight += 100 * len(field)
        return weight

    def _joined(self) -> dict[str, str]:
        return {name: "".join(pieces) for name, pieces in self.fields.items()}

    def all_text(self) -> str:
        calls = [*self.calls.values(), *([self.call] if self.call else [])]
        return "".join(self._joined().values()) + "".join(
            "".join(_strings(call)) for call in calls
        )

    def text_choice(self, index: int) -> Document:
        joined = self._joined()
        return {
            "text": joined.get("text", ""),
            "index": index,
            "logprobs": self.logprobs or None,
            "finish_reason": self.finish,
        }

    def chat_choice(self, index: int) -> Document:
        joined = self._joined()
        message: Document = {"role": "assistant", "content": joined.pop("content", None)}
        message["refusal"] = joined.pop("refusal", None)
        message.update(joined)
        message.update(self.others)
        if self.calls:
            message["tool_calls"] = [_joined_call(call) for _, call in sorted(self.calls.items())]
            message["content"] = message["content"] or None
        if self.call is not None:
            message["function_call"] = {"name": "", "arguments": "", **_joined_strings(self.call)}
            message["content"] = message["content"] or None
        if message["content"] is None and not self.calls and self.call is None and not message["refusal"]:
            message["content"] = ""
        return {
            "index": index,
            "message": message,
            "logprobs": self.logprobs or None,
            "finish_reason": self.finish,
        }


def _extend(held: Document, piece: Document, keep: bool) -> int:
    """Appends the strings of a function's piece, in lists that are joined once."""
    brought = 0
    for name, field in piece.items():
        if type(field) is str:
            brought += len(field)
            if keep:
                held.setdefault(name, []).append(field)
    return brought


def _strings(call: Document) -> Iterator[str]:
    for field in call.values():
        if type(field) is list:
            yield from field
        elif type(field) is dict:
            yield from _strings(field)


def _joined_strings(call: Document) -> Document:
    return {name: "".join(field) if type(field) is list else field for name, field in call.items()}


def _joined_call(call: Document) -> Document:
    found = {
        name: _joined_strings(field) if type(field) is dict else field for name, field in call.items()
    }
    found.setdefault("type", "function")
    function = found.get("function")
    if type(function) is dict:
        function.setdefault("arguments", "")
    return found


# --- the other way ------------------------------------------------------------------------------------


def replay(document: Document, endpoint: Endpoint, include_usage: bool) -> bytes:
    """The whole stream of a stored answer, `[DONE]` included, to be written at once."""
    head = {name: field for name, field in document.items() if name not in ("choices", "usage", "object")}
    chat = endpoint is Endpoint.CHAT
    head["object"] = "chat.completion.chunk" if chat else "text_completion"
    if include_usage:
        head["usage"] = None
    pieces = _chat_pieces if chat else _text_pieces
    frames = [
        frame(orjson.dumps({**head, "choices": [piece]}))
        for choice in document["choices"]
        for piece in pieces(choice)
    ]
    if include_usage:
        frames.append(
            frame(orjson.dumps({**head, "choices": [], "usage": document.get("usage")}))
        )
    return b"".join(frames) + DONE


def _chat_pieces(choice: Document) -> Iterator[Document]:
    message = choice["message"]
    calls, call = message.get("tool_calls"), message.get("function_call")
    content = message.get("content")

    def piece(delta: Document, finish: str | None = None, logprobs: Any = None) -> Document:
        return {
            "index": choice["index"],
            "delta": delta,
            "logprobs": logprobs,
            "finish_reason": finish,
        }

    yield piece({"role": "assistant", "content": None if calls or call else "", "refusal": None})
    told = {"role", "content", "tool_calls", "function_call"}
    for name, field in message.items():
        if name not in told and field is not None:
            yield piece({name: field})
    logprobs = choice.get("logprobs")
    if content:
        # Logprobs belong to the tokens of their delta, so text that has them is not cut.
        for part in [content] if logprobs else _cut(content):
            yield piece({"content": part}, logprobs=logprobs)
    for index, one in enumerate(calls or ()):
        yield piece({"tool_calls": [{"index": index, **one}]})
    if call:
        yield piece({"function_call": call})
    yield piece({}, finish=choice.get("finish_reason"))


def _text_pieces(choice: Document) -> Iterator[Document]:
    logprobs = choice.get("logprobs")
    parts = [choice["text"]] if logprobs else list(_cut(choice["text"])) or [""]
    for number, part in enumerate(parts, 1):
        yield {
            "text": part,
            "index": choice["index"],
            "logprobs": logprobs,
            "finish_reason": choice.get("finish_reason") if number == len(parts) else None,
        }


def _cut(text: str) -> Iterator[str]:
    for start in range(0, len(text), PIECE):
        yield text[start : start + PIECE]


# --- what the caller sees of the provider's usage ------------------------------------------------------


def delivered(chunk: Document, raw: bytes, request: ProxyRequest) -> bytes:
    """The frame to write for a chunk: usage is always asked of the provider, and shown only to who asked.

    Empty when nothing is left to show.
    """
    if "usage" not in chunk:
        if request.include_usage and chunk.get("choices"):
            return frame(orjson.dumps({**chunk, "usage": None}))
        return frame(raw)
    if request.include_usage:
        return frame(raw)
    if not chunk.get("choices") and chunk["usage"] is not None:
        return b""
    return frame(orjson.dumps({name: field for name, field in chunk.items() if name != "usage"}))


def stored_document(document: Document) -> Document:
    """What of an answer is kept: the echo of who asked and at which tier is not the answer."""
    return {
        name: field
        for name, field in document.items()
        if name not in ("service_tier", "metadata", "x_groq")
    }
