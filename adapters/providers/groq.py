"""Groq's dialect of OpenAI's API (console.groq.com, "OpenAI compatibility"): what it refuses, drops and reports elsewhere."""

from __future__ import annotations

from typing import Any

from adapters.providers.openai import prepare
from domain.answer import Document
from domain.errors import InvalidRequest
from domain.models import Route
from domain.pricing import openai_usage
from domain.request import Endpoint, ProxyRequest
from domain.usage import Usage

ROOT = "/openai/v1"

REFUSED = ("logprobs", "top_logprobs", "logit_bias")
"""A caller who asks for these would read a field that is not there."""

DROPPED = frozenset(
    {
        "metadata", "store", "presence_penalty", "frequency_penalty", "prediction", "audio", "modalities",
        "verbosity", "web_search_options", "safety_identifier", "prompt_cache_key", "prompt_cache_retention",
        "prompt_cache_options", "moderation",
    }
)  # fmt: skip
"""These steer nothing there, or have no counterpart."""

TIERS = frozenset({"auto", "on_demand", "flex", "performance"})
EFFORTS = {"minimal": "low", "xhigh": "high", "max": "high"}


def prepare_groq(request: ProxyRequest, route: Route) -> Document:
    """Raises InvalidRequest for what Groq answers with a 400."""
    body = prepare(request, route)
    if request.endpoint is not Endpoint.CHAT:
        return body
    for name in REFUSED:
        if body.get(name) not in (None, False, {}):
            raise _refused(name)
    if body.get("n") not in (None, 1):
        raise _refused("n")
    found = {
        name: item
        for name, item in body.items()
        if name not in DROPPED and name not in REFUSED and item is not None
    }
    found["messages"] = [_unnamed(message) for message in body["messages"]]
    if found.get("service_tier") not in TIERS:
        found.pop("service_tier", None)
    _map_effort(found, route.model)
    return found


def _refused(name: str) -> InvalidRequest:
    return InvalidRequest(
        f"'{name}' is not supported by this model's provider.",
        param=name,
        code="unsupported_parameter",
    )


def _unnamed(message: Document) -> Document:
    """A participant's name is a 400 there; a tool's name inside its call is not touched."""
    if "name" not in message or message.get("role") == "function":
        return message
    return {name: item for name, item in message.items() if name != "name"}


def _map_effort(body: Document, model: str) -> None:
    """gpt-oss knows low, medium and high; Qwen 3 knows none and default; Qwen 3.8 knows all five."""
    effort = body.get("reasoning_effort")
    if effort is None:
        return
    effort = EFFORTS.get(effort, effort)
    if model.startswith("qwen/qwen3-") and effort != "none":
        effort = "default"
    if model.startswith("openai/gpt-oss") and effort == "none":
        effort = "low"
    body["reasoning_effort"] = effort


def groq_usage(document: Document) -> Usage | None:
    """`usage`, or `x_groq.usage` on a stream's last chunk; a caller who reads one may lack the other."""
    usage: Any = document.get("usage")
    if usage is None:
        extra = document.get("x_groq")
        usage = extra.get("usage") if type(extra) is dict else None
    return openai_usage(usage)
