"""The cache key: a keyed digest of everything that can change an answer, and of whose it is.

The whole document is hashed, unknown fields included, minus the published ignore-list below. The tenant, the kind
of key and the resolved provider and model are arguments, not options. The form has a version: a change of it
makes every old entry unreachable, never wrong. docs/caching.md tells users the same in words.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Sequence
from typing import Any

import orjson

from domain.answer import CacheKey, Document
from domain.models import Route
from domain.project import Grant
from domain.request import Endpoint, ProxyRequest

VERSION = 1

DELIVERY = frozenset({"stream", "stream_options"})
"""How the answer travels; one entry serves every form. For embeddings that is `encoding_format`, too."""

BOOKKEEPING = frozenset(
    {
        "user",
        "safety_identifier",
        "metadata",
        "store",
        "service_tier",
        "prompt_cache_key",
        "prompt_cache_retention",
        "prompt_cache_options",
    }
)
"""Who asks, at what price and with what notes: not what is answered."""

IGNORED = DELIVERY | BOOKKEEPING | {"model"}
"""`model` stands in the key as the resolved one."""

KEYED = frozenset(
    {
        "messages", "temperature", "top_p", "n", "max_completion_tokens", "max_tokens", "stop",
        "presence_penalty", "frequency_penalty", "logit_bias", "logprobs", "top_logprobs", "seed",
        "tools", "tool_choice", "parallel_tool_calls", "functions", "function_call",
        "response_format", "reasoning_effort", "verbosity", "prediction", "modalities", "audio",
        "web_search_options", "moderation", "prompt", "best_of", "echo", "suffix", "input", "dimensions",
    }
)  # fmt: skip
"""Known fields that speak. Every other field speaks too, as it is written: nobody knows if its order matters."""


def raw_digest(
    secret: bytes, grant: Grant, endpoint: Endpoint, controls: str, raw: bytes
) -> bytes:
    """A digest of the body as it came, in front of parsing: equal bytes from one tenant mean an equal request."""
    head = orjson.dumps(
        [VERSION, grant.project, grant.kind, grant.cache_epoch, endpoint.value, controls]
    )
    return hmac.digest(secret, head + raw, "sha256")


def cache_key(secret: bytes, grant: Grant, route: Route, request: ProxyRequest) -> CacheKey:
    """The key of a chat or text completion."""
    canonical = _canonical(request.endpoint, request.body)
    return _key(secret, grant, route, request.endpoint, canonical)


def item_keys(
    secret: bytes, grant: Grant, route: Route, request: ProxyRequest, items: Sequence[Any]
) -> list[CacheKey]:
    """One key per embedding input, so that a batch shares what any earlier one brought."""
    endpoint = request.endpoint
    shared = _canonical(endpoint, {**request.body, "input": None})
    return [_key(secret, grant, route, endpoint, {**shared, "input": item}) for item in items]


def _key(
    secret: bytes, grant: Grant, route: Route, endpoint: Endpoint, canonical: Document
) -> CacheKey:
    # A JSON array is prefix-free: no field can borrow bytes from its neighbour.
    text = orjson.dumps(
        [
            VERSION,
            grant.project,
            grant.kind,
            grant.cache_epoch,
            endpoint.value,
            route.provider,
            route.model,
            canonical,
        ],
        option=orjson.OPT_SORT_KEYS,
    )
    return CacheKey(grant.project, hmac.digest(secret, text, "sha256"))


def _canonical(endpoint: Endpoint, body: Document) -> Document:
    """The normal form: equal meaning, equal text. Text is never folded, trimmed or re-encoded."""
    rewrites = _REWRITES[endpoint]
    found: Document = {}
    for name, field in body.items():
        if field is None or name in IGNORED:
            continue
        if name == "encoding_format" and endpoint is Endpoint.EMBEDDINGS:
            continue
        if name == "n" and field == 1 and field is not True:
            continue
        if name in rewrites:
            found[name] = rewrites[name](field)
        elif name in KEYED:
            found[name] = _numbers(field)
        else:
            found[name] = _ordered(field)
    return found


def _numbers(item: Any) -> Any:
    """Numbers by value: 1.0 is 1 and -0.0 is 0, but true is not 1."""
    kind = type(item)
    if kind is float:
        return int(item) if item.is_integer() and abs(item) < 2**53 else item
    if kind is dict:
        return {name: _numbers(field) for name, field in item.items()}
    if kind is list:
        return [_numbers(field) for field in item]
    return item


def _stop(stop: Any) -> Any:
    return [stop] if type(stop) is str else stop


def _messages(messages: Any) -> Any:
    return [_message(message) for message in messages]


def _message(message: Document) -> Document:
    found = {name: _numbers(field) for name, field in message.items() if field is not None}
    if type(found.get("content")) is list:
        found["content"] = _content(found["content"])
    return found


def _content(parts: list[Any]) -> Any:
    """A single text part is its string; a provider's cache mark is not part of the question."""
    plain = [
        {name: field for name, field in part.items() if name != "prompt_cache_breakpoint"}
        for part in parts
    ]
    match plain:
        case [{"type": "text", "text": str(text), **others}] if not others:
            return text
    return plain


def _ordered(schema: Any) -> str:
    # The order of a schema's properties reaches the model and shapes its output, so it stays as written.
    return orjson.dumps(schema).decode()


def _response_format(form: Any) -> Any:
    found = _numbers(form)
    named = found.get("json_schema")
    if type(named) is dict and "schema" in named:
        found["json_schema"] = {**named, "schema": _ordered(form["json_schema"]["schema"])}
    return found


def _tools(tools: Any) -> Any:
    found = []
    for tool in tools:
        plain = _numbers(tool)
        function = plain.get("function")
        if type(function) is dict and "parameters" in function:
            plain["function"] = {
                **function,
                "parameters": _ordered(tool["function"]["parameters"]),
            }
        found.append(plain)
    return found


def _functions(functions: Any) -> Any:
    found = []
    for function in functions:
        plain = _numbers(function)
        if "parameters" in plain:
            plain["parameters"] = _ordered(function["parameters"])
        found.append(plain)
    return found


_OF_TEXT: dict[str, Callable[[Any], Any]] = {
    "stop": _stop,
    "response_format": _response_format,
    "tools": _tools,
    "functions": _functions,
}
# Only what the endpoint's own check has looked at may be taken apart.
_REWRITES: dict[Endpoint, dict[str, Callable[[Any], Any]]] = {
    Endpoint.CHAT: {**_OF_TEXT, "messages": _messages},
    Endpoint.COMPLETIONS: _OF_TEXT,
    Endpoint.EMBEDDINGS: {},
}
