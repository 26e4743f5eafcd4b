"""A stored answer as the stream that a provider would have sent, for chat and for text completions.

The official clients add up what they get, so a role, an id or a name is told once, calls are numbered from 0, and each
choice ends with its finish_reason.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson

from domain.answer import Document
from domain.request import Endpoint
from domain.sse import DONE, frame

PIECE = 4_096
"""Characters of text in one chunk: clients that read line by line have a bound on a line."""
TOKENS = 32
"""Tokens in one chunk that tells their logprobs."""

_IN_EVERY_CHUNK = frozenset({"id", "object", "created", "model", "system_fingerprint", "usage"})
_TOLD_APART = frozenset({"role", "content", "tool_calls", "function_call"})


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
        for part in _parts(field) if type(field) is str else [field]:
            yield piece({name: part})
    logprobs = choice.get("logprobs")
    if content:
        for part, said in _parts_with(content, logprobs, "content"):
            yield piece({"content": part}, said)
    for index, one in enumerate(calls):
        for part in _call_pieces(one):
            yield piece({"tool_calls": [{"index": index, **part}]})
    if call:
        yield from (piece({"function_call": part}) for part in _parts_of(call, "arguments"))
    yield piece({}, None if content else logprobs, choice.get("finish_reason"))


def _call_pieces(call: Document) -> Iterator[Document]:
    """Id, type and name are told once; what is long comes in parts."""
    told = {name: field for name, field in call.items() if name != "index"}
    kind, grows = ("custom", "input") if "custom" in call else ("function", "arguments")
    if kind not in call:
        yield told
        return
    for part in _parts_of(call[kind], grows):
        yield {**told, kind: part}
        told = {}


def _parts_of(whole: Document, name: str) -> Iterator[Document]:
    told = whole
    for part in _parts(whole.get(name) or ""):
        yield {**told, name: part}
        told = {}


def _text_pieces(choice: Document) -> Iterator[Document]:
    parts = list(_parts_with(choice["text"], choice.get("logprobs"), "tokens"))
    for number, (part, logprobs) in enumerate(parts, 1):
        yield {
            "text": part,
            "index": choice["index"],
            "logprobs": logprobs,
            "finish_reason": choice.get("finish_reason") if number == len(parts) else None,
        }


def _parts(text: str) -> list[str]:
    """One at least, even of nothing."""
    return [text[start : start + PIECE] for start in range(0, len(text), PIECE)] or [""]


def _parts_with(text: str, logprobs: Any, name: str) -> Iterator[tuple[str, Any]]:
    """The text in parts, each with the logprobs of its own tokens."""
    if not logprobs:
        yield from ((part, None) for part in _parts(text))
        return
    entries = logprobs.get(name) or []
    tokens = [entry["token"] if type(entry) is dict else entry for entry in entries]
    counts = {len(field) for field in logprobs.values() if field}
    if counts != {len(tokens)} or "".join(tokens) != text:
        # A letter made of several tokens cannot be cut here.
        yield text, logprobs
        return
    for start in range(0, len(tokens), TOKENS):
        part = slice(start, start + TOKENS)
        yield (
            "".join(tokens[part]),
            {key: field[part] if field else field for key, field in logprobs.items()},
        )
