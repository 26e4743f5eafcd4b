"""When the cache may speak and what it may keep, each with the reason it gives in `x-WatchLLM-cache-reason`."""

from __future__ import annotations

import re
from typing import Any

import orjson

from domain.answer import CacheEntry, Document
from domain.errors import InvalidRequest
from domain.request import Endpoint, ProxyRequest
from domain.usage import Usage
from domain.value import value

MAX_TTL = 7 * 24 * 3600
WHOLE = frozenset({"stop", "tool_calls", "function_call"})
"""Finish reasons of an answer that ended by itself."""


@value
class Controls:
    """What a request's headers say about the cache (RFC 9111, section 5.2.1). Seconds."""

    read: bool = True
    write: bool = True
    max_age: int | None = None
    ttl: int | None = None


@value
class Lookup:
    """What this request may do with the cache; `reason` is set when it may not do all."""

    read: bool
    write: bool
    ttl: int
    max_age: int | None
    reason: str = ""


DEFAULT_CONTROLS = Controls()
_DIRECTIVE = re.compile(r'([a-zA-Z-]+)(?:="?(\d+)"?)?')


def parse_controls(cache_control: str, ttl: str) -> Controls:
    """Unknown directives are ignored, as the RFC asks; a ttl that is no number of seconds is a 400."""
    read = write = True
    max_age: int | None = None
    for part in cache_control.lower().split(",")[:20]:
        word = _DIRECTIVE.fullmatch(part.strip())
        if word is None:
            continue
        match word[1], word[2]:
            case "no-cache", None:
                read = False
            case "no-store", None:
                write = False
            case "max-age", str(seconds):
                max_age = int(seconds[:10])
    return Controls(read, write, max_age, _ttl(ttl))


def _ttl(text: str) -> int | None:
    text = text.strip()
    if not text:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 10:
        raise InvalidRequest("x-WatchLLM-cache-ttl must be a whole number of seconds.")
    return min(int(text), MAX_TTL)


def plan_lookup(request: ProxyRequest, controls: Controls, default_ttl: int) -> Lookup:
    """A request whose answer must not be shared neither reads nor writes."""
    bypass = _bypass(request.body)
    if bypass:
        return Lookup(False, False, 0, None, bypass)
    ttl = default_ttl if controls.ttl is None else controls.ttl
    reason = "" if controls.read else "no-cache"
    write = controls.write and ttl > 0
    if not write:
        reason = "no-store"
    return Lookup(controls.read, write, ttl, controls.max_age, reason)


def _bypass(body: Document) -> str:
    if body.get("store") is True:
        return "bypass: store"
    if body.get("web_search_options") is not None:
        return "bypass: web_search_options"
    modalities = body.get("modalities")
    if body.get("audio") is not None or (type(modalities) is list and "audio" in modalities):
        return "bypass: audio"
    return ""


def young_enough(entry: CacheEntry, lookup: Lookup, now: float) -> bool:
    return lookup.max_age is None or now - entry.stored_at <= lookup.max_age


def why_not_stored(
    lookup: Lookup, request: ProxyRequest, document: Document, usage: Usage | None, size: int, most: int
) -> str:
    """Empty when the answer is proven whole and may be kept, else the reason. `size` and `most` are bytes."""
    if not lookup.write:
        return lookup.reason
    if "error" in document and document["error"] is not None:
        return "not-cacheable: error in the answer"
    if usage is None:
        return "not-cacheable: no usage"
    if size > most:
        return "not-cacheable: too large"
    choices = document.get("choices")
    if type(choices) is not list or not choices:
        return "not-cacheable: no choices"
    if len(choices) < (request.body.get("n") or 1):
        return "not-cacheable: choices missing"
    for choice in choices:
        reason = _flaw(request, choice)
        if reason:
            return f"not-cacheable: {reason}"
    return ""


def _flaw(request: ProxyRequest, choice: Any) -> str:
    if type(choice) is not dict:
        return "malformed choice"
    text, calls = _substance(request.endpoint, choice)
    if text is None and calls is None:
        return "refusal or malformed choice"
    finish = choice.get("finish_reason")
    if finish == "length":
        if not _limited(request.body):
            return "finish_reason length"
        return "" if text else "empty"
    if finish not in WHOLE:
        return f"finish_reason {finish}" if type(finish) is str else "finish_reason missing"
    if not text and not calls:
        return "empty"
    if text and not calls and _wants_json(request.body) and not _is_json(text):
        return "not the JSON that was asked for"
    return ""


def _substance(endpoint: Endpoint, choice: Document) -> tuple[str | None, object | None]:
    """The text and the calls of a choice; (None, None) if it is refused or malformed."""
    if endpoint is Endpoint.COMPLETIONS:
        text = choice.get("text")
        return (text, None) if type(text) is str else (None, None)
    message = choice.get("message")
    if type(message) is not dict or message.get("refusal"):
        return None, None
    content = message.get("content")
    if content is not None and type(content) is not str:
        return None, None
    return content or "", message.get("tool_calls") or message.get("function_call") or ""


def _limited(body: Document) -> bool:
    return body.get("max_tokens") is not None or body.get("max_completion_tokens") is not None


def _wants_json(body: Document) -> bool:
    form = body.get("response_format")
    return type(form) is dict and form.get("type") in ("json_object", "json_schema")


def _is_json(text: str) -> bool:
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        return False
    return True
