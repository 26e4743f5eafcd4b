"""Streams and whole answers are one thing in two shapes: here the first is folded into the second.

`StreamFolder` is fed OpenAI chunks and knows the whole answer at the end, of chat (`chat.completion`) or of text
completions (`text_completion`). `replay` goes the other way. `delivered` is what a caller sees of a provider's chunk.
"""

from __future__ import annotations

from typing import Any

import orjson

from domain.answer import Document
from domain.errors import UpstreamFailed
from domain.replay import replay
from domain.request import ProxyRequest
from domain.sse import frame

__all__ = ["StreamFolder", "delivered", "replay", "stored_document", "written_out"]

MAX_CHOICES = 16_384
"""128 prompts of 128 choices."""
MAX_CALLS = 1_024

Pieces = dict[str, list[str]]
"""Strings that grow, by name: kept in pieces and joined once."""

_NOT_FOLDED = frozenset({"choices", "usage", "object", "obfuscation", "x_groq"})
_CALLS = frozenset({"tool_calls", "function_call"})
_OWN_KINDS = _CALLS | {"content", "refusal"}


class StreamFolder:
    """Feed it chunks; `document()` is the unstreamed answer.

    Whatever JSON a provider sends is taken in stride; only nesting that cannot be written again is an UpstreamFailed.
    An answer of more than `limit` characters, or with a chunk that made no sense, counts as `overflowed`: it is still
    counted, but not held whole.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._top: Document = {}
        self._choices: dict[int, _Choice] = {}
        self._odd = False
        self.characters = 0
        """All that was brought, log probabilities included."""
        self.written = 0
        """Of these, what the model wrote: for an estimate when a stream is cut before its usage arrives."""

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
            if name in _NOT_FOLDED or field is None:
                continue
            if type(field) in (dict, list):
                written_out(field)
            self._top[name] = field

    def _take(self, choice: Any) -> None:
        held = self._held(choice)
        if held is None:
            self._odd = True
            return
        finish = choice.get("finish_reason")
        if type(finish) is str:
            held.finish = finish
        elif finish is not None:
            held.odd = True
        keep = not self.overflowed
        text, delta, logprobs = choice.get("text"), choice.get("delta"), choice.get("logprobs")
        if type(text) is str:
            self.written += len(text)
            self.characters += len(text)
            if keep and (text or not held.text):
                held.text.append(text)
        elif text is not None:
            held.odd = True
        if type(delta) is dict:
            brought = held.take(delta, keep)
            self.written += brought
            self.characters += brought
        elif delta is not None:
            held.odd = True
        if type(logprobs) is dict:
            self.characters += held.take_logprobs(logprobs, keep)
        elif logprobs is not None:
            held.odd = True
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


class _Choice:
    """One choice of a stream in the making; `odd` once something in it made no sense."""

    def __init__(self) -> None:
        self.finish: str | None = None
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
            if type(field) is str and name not in _CALLS:
                brought += len(field)
                if keep:
                    _grow(self._strings, name, field)
            elif name == "tool_calls" and type(field) is list:
                brought += sum(self._take_call(call, keep) for call in field)
            elif name == "function_call" and type(field) is dict:
                self._call = self._call or _Call()
                brought += self._call.take({"function": field}, keep)
                self.odd = self.odd or self._call.odd
            elif keep:
                brought += self._take_other(name, field)
        return brought

    def _take_call(self, call: Any, keep: bool) -> int:
        index = call.get("index", 0) if type(call) is dict else None
        if type(index) is not int or not 0 <= index < MAX_CALLS:
            self.odd = True
            return 0
        held = self._calls.setdefault(index, _Call())
        brought = held.take(call, keep)
        self.odd = self.odd or held.odd
        return brought

    def _take_other(self, name: str, field: Any) -> int:
        """Lists grow, as with annotations. How the parts of anything else fit together nobody can know."""
        known = self._others.get(name)
        if type(known) is list and type(field) is list:
            known.extend(field)
        elif name in self._others or name in self._strings or name in _OWN_KINDS:
            self.odd = True
        else:
            self._others[name] = [*field] if type(field) is list else field
        return len(written_out(field))

    def take_logprobs(self, logprobs: Document, keep: bool) -> int:
        weight = 0
        for name, field in logprobs.items():
            if type(field) is not list:
                self._logprobs.setdefault(name, None)
                continue
            # They weigh far more than their tokens do.
            weight += len(written_out(field))
            if keep and self._logprobs.get(name):
                self._logprobs[name].extend(field)
            elif keep:
                self._logprobs[name] = [*field]
        return weight

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
        self.odd = False
        self._told: Document = {}
        self._growing: dict[str, Pieces] = {}

    def take(self, call: Document, keep: bool) -> int:
        brought = 0
        for name, field in call.items():
            if name == "index" or field is None:
                continue
            if type(field) is dict:
                brought += self._extend(self._growing.setdefault(name, {}), field, keep)
            elif keep and not self._told.get(name):
                # Some providers repeat the id, or leave it empty from the second time on.
                self._told[name] = field
                brought += len(written_out(field))
        return brought

    def _extend(self, growing: Pieces, part: Document, keep: bool) -> int:
        brought = 0
        for name, field in part.items():
            if type(field) is str:
                brought += len(field)
                if keep:
                    _grow(growing, name, field)
            elif field is not None:
                self.odd = True
        return brought

    def document(self) -> Document:
        found = {**self._told, **{name: _joined(part) for name, part in self._growing.items()}}
        found.setdefault("type", "function")
        if "function" in self._growing:
            found["function"] = {"name": "", "arguments": "", **found["function"]}
        return found


def _grow(pieces: Pieces, name: str, text: str) -> None:
    held = pieces.setdefault(name, [])
    if text:
        held.append(text)


def _joined(pieces: Pieces) -> dict[str, str]:
    return {name: "".join(strings) for name, strings in pieces.items()}


# --- what the caller sees of the provider's usage ------------------------------------------------------


def delivered(chunk: Document, raw: bytes, request: ProxyRequest) -> bytes:
    """The frame to write for a chunk: usage is always asked of the provider, and shown only to who asked.

    Empty when nothing is left to show.
    """
    if "usage" not in chunk:
        if request.include_usage and chunk.get("choices"):
            return frame(written_out({**chunk, "usage": None}))
        return frame(raw)
    if request.include_usage:
        return frame(raw)
    if not chunk.get("choices") and chunk["usage"] is not None:
        return b""
    return frame(written_out({name: field for name, field in chunk.items() if name != "usage"}))


def written_out(found: Any) -> bytes:
    """JSON text of what a provider sent; UpstreamFailed if that is nested too deeply to be written again."""
    try:
        return orjson.dumps(found)
    except TypeError:
        # orjson reads four times as deep as it writes.
        raise UpstreamFailed("The provider's answer is nested too deeply.") from None


def stored_document(document: Document) -> Document:
    """What of an answer is kept: the echo of who asked and at which tier is not the answer."""
    return {
        name: field
        for name, field in document.items()
        if name not in ("service_tier", "metadata", "x_groq")
    }
