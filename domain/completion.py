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
TOKENS = 32
"""Tokens in one replayed chunk that tells their logprobs."""
MAX_CHOICES = 16_384
"""128 prompts of 128 choices."""
MAX_CALLS = 1_024

Pieces = dict[str, list[str]]

_NOT_FOLDED = frozenset({"choices", "usage", "object", "obfuscation", "x_groq"})
_IN_EVERY_CHUNK = frozenset({"id", "object", "created", "model", "system_fingerprint", "usage"})
_TOLD_APART = frozenset({"role", "content", "tool_calls", "function_call"})


class StreamFolder:
    """Feed it chunks; `document()` is the unstreamed answer.

    Whatever JSON a provider sends is taken in stride. An answer of more than `limit` characters, or with a chunk that
    made no sense, counts as `overflowed`: it is still counted but not held whole.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._top: Document = {}
        self._choices: dict[int, _Choice] = {}
        self._odd = False
        self.characters = 0

    @property
    def overflowed(self) -> bool:
        return self.characters > self._limit or self._odd

    @property
    def finished(self) -> bool:
        """Every choice seen so far has its finish_reason."""
        return bool(self._choices) and all(
            choice.finish is not None for choice in self._choices.values()
        )

    def feed(self, chunk: Document) -> None:
        choices = chunk.get("choices")
        if not choices:
            self._note_top(chunk)
            return
        if not self._top:
            self._note_top(chunk)
        if type(choices) is not list:
            self._odd = True
            return
        for choice in choices:
            self._take(choice)

    def _note_top(self, chunk: Document) -> None:
        for name, field in chunk.items():
            if name not in _NOT_FOLDED and field is not None:
                self._top[name] = field

    def _take(self, choice: Any) -> None:
        held = self._held(choice)
        if held is None:
            self._odd = True
            return
        finish = choice.get("finish_reason")
        if finish is not None:
            held.finish = finish
        keep = not self.overflowed
        text = choice.get("text")
        if type(text) is str:
            self.characters += len(text)
            if keep:
                held.text.append(text)
        delta = choice.get("delta")
        if type(delta) is dict:
            self.characters += held.take(delta, keep)
        logprobs = choice.get("logprobs")
        if type(logprobs) is dict and keep:
            self.characters += held.take_logprobs(logprobs)
        self._odd = self._odd or held.odd

    def _held(self, choice: Any) -> _Choice | None:
        index = choice.get("index", 0) if type(choice) is dict else None
        if type(index) is not int or index < 0:
            return None
        held = self._choices.get(index)
        if held is None and len(self._choices) < MAX_CHOICES:
            held = self._choices[index] = _Choice()
        return held

    def document(self, usage: Document | None) -> Document:
        """The whole answer as an unstreamed call would have brought it."""
        choices = sorted(self._choices.items())
        text_completion = any(choice.text for _, choice in choices)
        found: Document = {**self._top}
        found["object"] = "text_completion" if text_completion else "chat.completion"
        found["choices"] = [
            held.text_choice(index) if text_completion else held.chat_choice(index)
            for index, held in choices
        ]
        if usage is not None:
            found["usage"] = usage
        return found

    def text(self) -> str:
        """All that was written so far, for an estimate when a stream was cut before its usage arrived."""
        return "".join(piece for choice in self._choices.values() for piece in choice.written())


class _Choice:
    """One choice of a stream in the making. Strings are kept in pieces and joined once."""

    def __init__(self) -> None:
        self.finish: Any = None
        self.odd = False
        self.text: list[str] = []
        self._strings: Pieces = {}
        self._others: Document = {}
        self._calls: dict[int, _Call] = {}
        self._call: _Call | None = None
        self._logprobs: Document = {}

    def take(self, delta: Document, keep: bool) -> int:
        """Takes in one delta; gives the number of characters it brought."""
        brought = 0
        for name, field in delta.items():
            if field is None or name == "role":
                continue
            if type(field) is str:
                brought += len(field)
                if keep:
                    self._strings.setdefault(name, []).append(field)
            elif name == "tool_calls" and type(field) is list:
                brought += sum(self._take_call(call, keep) for call in field)
            elif name == "function_call" and type(field) is dict:
                self._call = self._call or _Call()
                brought += self._call.extend("function", field, keep)
            else:
                brought += self._take_other(name, field, keep)
        return brought

    def _take_call(self, call: Any, keep: bool) -> int:
        index = call.get("index", 0) if type(call) is dict else None
        if type(index) is not int or index < 0:
            self.odd = True
            return 0
        held = self._calls.get(index)
        if held is None:
            if len(self._calls) >= MAX_CALLS:
                self.odd = True
                return 0
            held = self._calls[index] = _Call()
        return held.take(call, keep)

    def _take_other(self, name: str, field: Any, keep: bool) -> int:
        """Lists grow, as with annotations. How the parts of anything else fit together nobody can know."""
        if not keep:
            return 0
        known = self._others.get(name)
        if type(known) is list and type(field) is list:
            known.extend(field)
        elif name in self._others or name in ("content", "refusal", "tool_calls", "function_call"):
            self.odd = True
        else:
            self._others[name] = [*field] if type(field) is list else field
        return len(orjson.dumps(field))

    def take_logprobs(self, logprobs: Document) -> int:
        weight = 0
        for name, field in logprobs.items():
            if type(field) is list:
                self._logprobs[name] = (self._logprobs.get(name) or []) + field
                # A logprob entry weighs far more than its token does.
                weight += 100 * len(field)
            else:
                self._logprobs.setdefault(name, None)
        return weight

    def written(self) -> Iterator[str]:
        yield from self.text
        for pieces in self._strings.values():
            yield from pieces
        for call in [*self._calls.values(), *([self._call] if self._call else [])]:
            yield from call.written()

    def text_choice(self, index: int) -> Document:
        return {
            "text": "".join(self.text),
            "index": index,
            "logprobs": self._logprobs or None,
            "finish_reason": self.finish,
        }

    def chat_choice(self, index: int) -> Document:
        strings = _joined(self._strings)
        content, refusal = strings.pop("content", ""), strings.pop("refusal", "")
        silent = bool(self._calls or self._call or refusal)
        message: Document = {
            "role": "assistant",
            "content": content or (None if silent else ""),
            "refusal": refusal or None,
            **self._others,
            **strings,
        }
        if self._calls:
            message["tool_calls"] = [call.document() for _, call in sorted(self._calls.items())]
        if self._call is not None:
            message["function_call"] = self._call.document()["function"]
        return {
            "index": index,
            "message": message,
            "logprobs": self._logprobs or None,
            "finish_reason": self.finish,
        }


class _Call:
    """One call of a tool in the making: what is told once, and the strings that grow."""

    def __init__(self) -> None:
        self._told: Document = {}
        self._growing: dict[str, Pieces] = {}

    def take(self, call: Document, keep: bool) -> int:
        brought = 0
        for name, field in call.items():
            if name == "index" or not field:
                continue
            if type(field) is dict:
                brought += self.extend(name, field, keep)
            elif keep and name not in self._told:
                self._told[name] = field
                brought += len(orjson.dumps(field))
        return brought

    def extend(self, name: str, part: Document, keep: bool) -> int:
        growing = self._growing.setdefault(name, {})
        brought = 0
        for key, field in part.items():
            if type(field) is str:
                brought += len(field)
                if keep:
                    growing.setdefault(key, []).append(field)
        return brought

    def written(self) -> Iterator[str]:
        for growing in self._growing.values():
            for pieces in growing.values():
                yield from pieces

    def document(self) -> Document:
        found = {**self._told, **{name: _joined(part) for name, part in self._growing.items()}}
        found.setdefault("type", "function")
        if "function" in found:
            found["function"] = {"name": "", "arguments": "", **found["function"]}
        return found


def _joined(pieces: Pieces) -> dict[str, str]:
    return {name: "".join(strings) for name, strings in pieces.items()}


# --- the other way ------------------------------------------------------------------------------------


def replay(document: Document, endpoint: Endpoint, include_usage: bool) -> bytes:
    """The whole stream of a stored answer, `[DONE]` included, to be written at once."""
    chat = endpoint is Endpoint.CHAT
    whole = {
        name: field
        for name, field in document.items()
        if name not in ("choices", "usage", "object")
    }
    whole["object"] = "chat.completion.chunk" if chat else "text_completion"
    if include_usage:
        whole["usage"] = None
    pieces = _chat_pieces if chat else _text_pieces
    # Only the first chunk says everything; repeating a long field thousands of times helps nobody.
    head = {name: field for name, field in whole.items() if name in _IN_EVERY_CHUNK}
    chunks = [piece for choice in document["choices"] for piece in pieces(choice)]
    frames = [
        frame(orjson.dumps({**(head if number else whole), "choices": [piece]}))
        for number, piece in enumerate(chunks)
    ]
    if include_usage:
        frames.append(frame(orjson.dumps({**head, "choices": [], "usage": document.get("usage")})))
    return b"".join(frames) + DONE


def _chat_pieces(choice: Document) -> Iterator[Document]:
    message = choice["message"]
    content = message.get("content") or ""
    calls, call = message.get("tool_calls") or [], message.get("function_call")

    def piece(delta: Document, logprobs: Any = None, finish: str | None = None) -> Document:
        return {
            "index": choice["index"],
            "delta": delta,
            "logprobs": logprobs,
            "finish_reason": finish,
        }

    yield piece({"role": "assistant", "content": None if calls or call else "", "refusal": None})
    for name, field in message.items():
        if name in _TOLD_APART or field is None:
            continue
        for part in _cut(field) if type(field) is str else [field]:
            yield piece({name: part})
    logprobs = choice.get("logprobs")
    if content:
        for part, said in _cut_with(content, logprobs, "content"):
            yield piece({"content": part}, said)
    for index, one in enumerate(calls):
        for part in _call_pieces(one):
            yield piece({"tool_calls": [{"index": index, **part}]})
    if call:
        yield from (piece({"function_call": part}) for part in _cut_string(call, "arguments"))
    yield piece({}, None if content else logprobs, choice.get("finish_reason"))


def _call_pieces(call: Document) -> Iterator[Document]:
    """Id, type and name are told once; what is long comes in parts."""
    told = {name: field for name, field in call.items() if name != "index"}
    kind, grows = ("custom", "input") if "custom" in call else ("function", "arguments")
    if kind not in call:
        yield told
        return
    for part in _cut_string(call[kind], grows):
        yield {**told, kind: part}
        told = {}


def _cut_string(whole: Document, name: str) -> Iterator[Document]:
    told = whole
    for part in list(_cut(whole.get(name) or "")) or [""]:
        yield {**told, name: part}
        told = {}


def _text_pieces(choice: Document) -> Iterator[Document]:
    parts = list(_cut_with(choice["text"], choice.get("logprobs"), "tokens")) or [("", None)]
    for number, (part, logprobs) in enumerate(parts, 1):
        yield {
            "text": part,
            "index": choice["index"],
            "logprobs": logprobs,
            "finish_reason": choice.get("finish_reason") if number == len(parts) else None,
        }


def _cut(text: str) -> Iterator[str]:
    for start in range(0, len(text), PIECE):
        yield text[start : start + PIECE]


def _cut_with(text: str, logprobs: Any, name: str) -> Iterator[tuple[str, Any]]:
    """The text in parts, each with the logprobs of its own tokens."""
    if not logprobs:
        yield from ((part, None) for part in _cut(text))
        return
    entries = logprobs.get(name) or []
    tokens = [entry["token"] if type(entry) is dict else entry for entry in entries]
    if "".join(tokens) != text:
        # A letter made of several tokens cannot be cut here.
        yield text, logprobs
        return
    for start in range(0, len(tokens), TOKENS):
        part = slice(start, start + TOKENS)
        yield (
            "".join(tokens[part]),
            {key: field[part] if field else field for key, field in logprobs.items()},
        )


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
