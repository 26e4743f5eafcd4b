"""What the sandbox says to a chat request: words, a tool call or JSON, cut into pieces that count as tokens.

Pure: the request's body and a seed in, the choices, their deltas and the usage out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import zip_longest
from typing import Any

import orjson

from adapters.providers.sandbox_schema import sample
from domain.answer import Document
from domain.errors import InvalidRequest
from domain.usage import Usage
from domain.value import value

ECHOED = 80
"""Characters of the caller's own words that are said back."""

MAX_WORK = 200_000
"""Tokens of one answer, alternatives counted."""

PIECE = re.compile(r"\s*\S{1,16}|\s+")
WORD = re.compile(r"[A-Z]?[a-z]{4,}|[A-Z]{4,}")


@value
class Call:
    """A tool that is called. `kind` is function, custom, or legacy for the older `functions` field."""

    kind: str
    name: str
    arguments: str


@value
class Said:
    """One answer: its choices as an unstreamed document has them, and `deltas()` as a stream brings them."""

    seed: str
    choices: list[Document]
    pieces: list[list[str]]
    usage: Usage

    def deltas(self) -> Iterator[Document]:
        """Choices of a stream's chunks, in the order of the wire."""
        turns = zip_longest(
            *(
                _deltas(choice, pieces)
                for choice, pieces in zip(self.choices, self.pieces, strict=True)
            )
        )
        for turn in turns:
            yield from (delta for delta in turn if delta is not None)


def say(body: Document, seed: str) -> Said:
    """Raises InvalidRequest for what no text model can give, or for a tool that is not there."""
    modalities = body.get("modalities")
    if type(modalities) is list and "audio" in modalities:
        raise InvalidRequest(
            "The sandbox writes text only.", param="modalities", code="unsupported_value"
        )
    count = body.get("n") or 1
    call = _call(body)
    text = _text(body) if call is None else ""
    _bound_work(body, count, text if call is None else call.arguments)
    choices, pieces = [], []
    for index in range(count):
        choice, cut = _choice(body, seed, call, text, index)
        choices.append(choice)
        pieces.append(cut)
    usage = Usage(input=_read(body), output=sum(len(cut) for cut in pieces))
    return Said(seed, choices, pieces, usage)


def tokens_of(text: Any) -> int:
    """About four bytes of text make a token; an array of tokens is as long as it is."""
    if type(text) is list:
        return len(text)
    return max(1, (len(str(text).encode()) + 3) // 4)


def _read(body: Document) -> int:
    read = {
        name: body[name]
        for name in ("messages", "tools", "functions", "response_format")
        if name in body
    }
    return max(1, (len(orjson.dumps(read)) + 3) // 4)


def _bound_work(body: Document, count: int, text: str) -> None:
    """A short request can ask for an endless answer; the sandbox keeps its loop free for others."""
    each = 1 + ((body.get("top_logprobs") or 0) if body.get("logprobs") else 0)
    if count * each * (len(text) // 4 + 1) > MAX_WORK:
        raise InvalidRequest(
            "The sandbox does not write this many choices of this length.", param="n"
        )


def _choice(
    body: Document, seed: str, call: Call | None, text: str, index: int
) -> tuple[Document, list[str]]:
    if call is not None:
        pieces, finish = _limited(body, call.arguments)
        arguments = "".join(pieces)
        message = _calling(call, arguments, f"call_sandbox{seed[:16]}{index}")
        finish = finish or ("function_call" if call.kind == "legacy" else "tool_calls")
        return _framed(index, message, None, finish), pieces
    pieces, limit = _limited(body, _until_stop(body, text))
    message = {
        "role": "assistant",
        "content": "".join(pieces),
        "refusal": None,
        "annotations": [],
    }
    logprobs = _logprobs(pieces, body.get("top_logprobs") or 0) if body.get("logprobs") else None
    return _framed(index, message, logprobs, limit or "stop"), pieces


def _framed(index: int, message: Document, logprobs: Document | None, finish: str) -> Document:
    return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": finish}


# --- words ----------------------------------------------------------------------------------------


def _text(body: Document) -> str:
    wanted = body.get("response_format") or {}
    if wanted.get("type") == "json_schema":
        return _example(wanted.get("json_schema"))
    text = _words(body)
    if wanted.get("type") == "json_object":
        return orjson.dumps({"message": text}).decode()
    return text


def _example(described: Any) -> str:
    schema = described.get("schema", {"type": "object"}) if type(described) is dict else None
    if type(schema) is not dict:
        raise InvalidRequest(
            "'response_format.json_schema' must hold a schema.",
            param="response_format.json_schema",
            code="invalid_type",
        )
    return orjson.dumps(sample(schema, "response_format.json_schema.schema")).decode()


def _words(body: Document) -> str:
    said = "This is the WatchLLM sandbox: no model was asked and nothing is charged."
    echoed = "".join(
        letter if letter.isprintable() else " " for letter in _last_user_text(body)[:1_000]
    )
    echoed = " ".join(echoed.split())
    if len(echoed) > ECHOED:
        echoed = echoed[: ECHOED - 1].rstrip() + "…"
    return f"{said} You wrote: {echoed}" if echoed else said


def _last_user_text(body: Document) -> str:
    for message in reversed(body["messages"]):
        if message["role"] == "user":
            return _content(message)
    return ""


def _content(message: Document) -> str:
    content = message.get("content")
    if type(content) is str:
        return content
    return " ".join(part["text"] for part in content or () if type(part.get("text")) is str)


def _until_stop(body: Document, text: str) -> str:
    stop = body.get("stop") or ()
    for word in [stop] if type(stop) is str else stop:
        if word:
            text = text.partition(word)[0]
    return text


def _limited(body: Document, text: str) -> tuple[list[str], str | None]:
    """The pieces that the caller's limit leaves, and `length` if it left something out."""
    pieces = PIECE.findall(text)
    limit = body.get("max_completion_tokens")
    if limit is None:
        limit = body.get("max_tokens")
    if limit is None or limit >= len(pieces):
        return pieces, None
    return pieces[:limit], "length"


def _logprobs(pieces: list[str], top: int) -> Document:
    return {"content": [_logprob(piece, top) for piece in pieces], "refusal": None}


def _logprob(piece: str, top: int) -> Document:
    """The word itself is all but certain, as nothing else could have been said."""
    others = [
        _token(f"{piece}{place}" if place else piece, -0.001 - 5.0 * place) for place in range(top)
    ]
    return {**_token(piece, -0.001), "top_logprobs": others}


def _token(text: str, logprob: float) -> Document:
    return {"token": text, "logprob": logprob, "bytes": list(text.encode())}


# --- tools ----------------------------------------------------------------------------------------


def _call(body: Document) -> Call | None:
    """Which tool answers, if any: a forced one, or one that the last user turn speaks of."""
    last = body["messages"][-1]
    if last["role"] in ("tool", "function"):
        return None
    legacy = not body.get("tools") and bool(body.get("functions"))
    choice = body.get("function_call" if legacy else "tool_choice")
    tools = _tools(body, legacy)
    tools, forced = _wanted(tools, choice, "function_call" if legacy else "tool_choice")
    if not forced:
        words = _content(last).casefold() if last["role"] == "user" else ""
        tools = [tool for tool in tools if _spoken_of(tool["name"], words)]
    return _called(tools[0]) if tools else None


def _tools(body: Document, legacy: bool) -> list[Document]:
    """Flat: `kind`, `name`, and `parameters` of functions, each checked as far as it is read."""
    found = []
    for place, tool in enumerate(body.get("functions" if legacy else "tools") or ()):
        kind = "legacy" if legacy else tool.get("type")
        where = f"functions[{place}]" if legacy else f"tools[{place}].{kind}"
        described = tool if legacy else tool.get(kind) if kind in ("function", "custom") else None
        if type(described) is not dict or type(described.get("name")) is not str:
            raise InvalidRequest(
                f"Missing required parameter: '{where}.name'.",
                param=f"{where}.name",
                code="missing_required_parameter",
            )
        found.append({**described, "kind": kind, "where": f"{where}.parameters"})
    return found


def _wanted(tools: list[Document], choice: Any, param: str) -> tuple[list[Document], bool]:
    """The tools that may be called, and whether one must be."""
    if choice is None or choice == "auto":
        return tools, False
    if choice == "none":
        return [], False
    names = None
    if type(choice) is dict and choice.get("type") == "allowed_tools":
        allowed = choice.get("allowed_tools")
        allowed = allowed if type(allowed) is dict else {}
        names = [_name(tool) for tool in allowed.get("tools") or ()]
        choice = allowed.get("mode")
    elif type(choice) is dict:
        names, choice = [_name(choice)], "required"
    if choice not in ("auto", "required"):
        raise InvalidRequest(f"'{param}' has no such value.", param=param, code="invalid_value")
    left = tools if names is None else [tool for tool in tools if tool["name"] in names]
    if not left and choice == "required":
        raise InvalidRequest(
            f"'{param}' asks for a tool that is not given.", param=param, code="invalid_value"
        )
    return left, choice == "required"


def _name(choice: Any) -> Any:
    """The name in a choice of either form: `{"function": {"name"}}`, or legacy `{"name"}`."""
    if type(choice) is not dict:
        return None
    inner = choice.get("function") or choice.get("custom")
    return inner.get("name") if type(inner) is dict else choice.get("name")


def _spoken_of(name: str, words: str) -> bool:
    """`get_weather` is meant by its name and by its longer words ("weather")."""
    if name.casefold() in words:
        return True
    return any(word.casefold() in words for word in WORD.findall(name))


def _called(tool: Document) -> Call:
    if tool["kind"] == "custom":
        return Call("custom", tool["name"], "sandbox")
    parameters = tool.get("parameters")
    schema = parameters if type(parameters) is dict else {"type": "object"}
    arguments = sample({"type": "object", **schema}, tool["where"])
    return Call(tool["kind"], tool["name"], orjson.dumps(arguments).decode())


def _calling(call: Call, arguments: str, identity: str) -> Document:
    message: Document = {"role": "assistant", "content": None, "refusal": None, "annotations": []}
    if call.kind == "legacy":
        return {**message, "function_call": {"name": call.name, "arguments": arguments}}
    word = "input" if call.kind == "custom" else "arguments"
    described = {"name": call.name, word: arguments}
    return {**message, "tool_calls": [{"id": identity, "type": call.kind, call.kind: described}]}


# --- streams --------------------------------------------------------------------------------------


def _deltas(choice: Document, pieces: list[str]) -> Iterator[Document]:
    index, message, logprobs = choice["index"], choice["message"], choice["logprobs"]
    opening = None if message["content"] is None else ""
    yield _delta(index, {"role": "assistant", "content": opening, "refusal": None})
    if "function_call" in message:
        yield _delta(index, {"function_call": {**message["function_call"], "arguments": ""}})
        for piece in pieces:
            yield _delta(index, {"function_call": {"arguments": piece}})
    elif "tool_calls" in message:
        yield from _call_deltas(index, message["tool_calls"][0], pieces)
    else:
        for place, piece in enumerate(pieces):
            part = {**logprobs, "content": [logprobs["content"][place]]} if logprobs else None
            yield _delta(index, {"content": piece}, part)
    yield _delta(index, {}, None, choice["finish_reason"])


def _call_deltas(index: int, call: Document, pieces: list[str]) -> Iterator[Document]:
    """Identity and name once, since clients append what they are told twice."""
    kind = call["type"]
    word = "input" if kind == "custom" else "arguments"
    yield _delta(index, {"tool_calls": [{"index": 0, **call, kind: {**call[kind], word: ""}}]})
    for piece in pieces:
        yield _delta(index, {"tool_calls": [{"index": 0, kind: {word: piece}}]})


def _delta(
    index: int, delta: Document, logprobs: Document | None = None, finish: str | None = None
) -> Document:
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
