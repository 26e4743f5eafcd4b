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
TOO_LARGE = "not-cacheable: too large"
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
_DIRECTIVE = re.compile(r'([a-z-]+)(?:="?([0-9]+)"?)?')


def parse_controls(cache_control: str, ttl: str) -> Controls:
    """Unknown directives are ignored, as the RFC asks; a ttl that is no number of seconds is a 400."""
    read = write = True
    max_age: int | None = None
    for part in cache_control.lower().split(","):
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
    lookup: Lookup,
    request: ProxyRequest,
    document: Document,
    usage: Usage | None,
    size: int,
    most: int,
) -> str:
    """Empty when the answer is proven whole and may be kept, else the reason. `size` and `most` are bytes."""
    if not lookup.write:
        return lookup.reason
    if document.get("error") is not None:
        return "not-cacheable: error in the answer"
    if usage is None:
        return "not-cacheable: no usage"
    if size > most:
        return TOO_LARGE
    choices = document.get("choices")
    if type(choices) is not list or not choices:
        return "not-cacheable: no choices"
    reason = _flaw(request, choices)
    return f"not-cacheable: {reason}" if reason else ""


def _flaw(request: ProxyRequest, choices: list[Any]) -> str:
    if not all(type(choice) is dict and type(choice.get("index")) is int for choice in choices):
        return "malformed choice"
    wanted = len(_prompts(request)) * (request.body.get("n") or 1)
    if sorted(choice["index"] for choice in choices) != list(range(wanted)):
        return "choices missing"
    return next(filter(None, (_flaw_of_choice(request, choice) for choice in choices)), "")


def _prompts(request: ProxyRequest) -> list[Any]:
    """What has choices of its own; a list of tokens is one prompt."""
    prompt = request.body.get("prompt")
    if request.endpoint is Endpoint.CHAT or type(prompt) is not list or type(prompt[0]) is int:
        return [prompt]
    return prompt


def _flaw_of_choice(request: ProxyRequest, choice: Document) -> str:
    finish = choice.get("finish_reason")
    if finish is None:
        return "finish_reason missing"
    if finish == "length" and not _limited(request.body):
        return "finish_reason length"
    if finish == "content_filter":
        return "finish_reason content_filter"
    if type(finish) is not str or (finish != "length" and finish not in WHOLE):
        return "finish_reason unknown"
    if request.endpoint is Endpoint.COMPLETIONS:
        return _flaw_of_text(request, choice)
    return _flaw_of_message(request, choice.get("message"), finish)


def _flaw_of_text(request: ProxyRequest, choice: Document) -> str:
    text = choice.get("text")
    if type(text) is not str:
        return "malformed choice"
    echoed = 0
    if request.body.get("echo") is True:
        prompt = _prompts(request)[choice["index"] // (request.body.get("n") or 1)]
        echoed = len(prompt) if type(prompt) is str else 0
    return "" if len(text) > echoed else "empty"


def _flaw_of_message(request: ProxyRequest, message: Any, finish: str) -> str:
    if type(message) is not dict:
        return "malformed choice"
    if message.get("refusal"):
        return "refusal"
    text, calls, call = (message.get(name) for name in ("content", "tool_calls", "function_call"))
    if text is not None and type(text) is not str:
        return "malformed choice"
    if calls or call:
        # A call that was cut at a limit cannot be made.
        return "" if finish != "length" and _can_be_made(calls, call) else "malformed tool call"
    if not text:
        return "empty"
    if finish in ("tool_calls", "function_call"):
        return "tool calls missing"
    if _wants_json(request.body) and not _is_json(text):
        return "not the JSON that was asked for"
    return ""


def _can_be_made(calls: Any, call: Any) -> bool:
    """Every called function has a name and arguments that are JSON, or none."""
    listed = calls or []
    if type(listed) is not list or not all(type(one) is dict for one in listed):
        return False
    functions = [one.get("function") for one in listed if one.get("type") != "custom"]
    return all(_is_call(function) for function in [*functions, *([call] if call else [])])


def _is_call(function: Any) -> bool:
    if type(function) is not dict or not function.get("name"):
        return False
    arguments = function.get("arguments")
    return type(arguments) is str and (not arguments.strip() or _is_json(arguments))


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
