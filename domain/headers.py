"""The x-WatchLLM-* family, one function per outcome.

Values come from here, from numbers and from fixed words, and what could hold another's text keeps printable ASCII
alone, so that nothing can break out of a header.
"""

from __future__ import annotations

import re

import orjson

from domain.pricing import dollars
from domain.usage import Usage

Headers = dict[str, str]

_UNSAFE = re.compile(r"[^ -~]")


def latency(elapsed_ms: float) -> Headers:
    return {"x-WatchLLM-latency-ms": f"{elapsed_ms:.2f}"}


def for_hit(provider: str, tokens_saved: int, elapsed_ms: float, reason: str = "exact") -> Headers:
    return {
        "x-WatchLLM-cached": "HIT",
        "x-WatchLLM-cost-usd": "0",
        "x-WatchLLM-cost-basis": "exact",
        **latency(elapsed_ms),
        "x-WatchLLM-provider": provider,
        "x-WatchLLM-tokens-saved": str(tokens_saved),
        "x-WatchLLM-cache-reason": _safe(reason),
    }


def for_miss(
    provider: str, cost: int | None, elapsed_ms: float, reason: str, *, basis: str = "exact"
) -> Headers:
    """`cost` is picodollars; an unknown price leaves the cost out rather than guess (`basis` goes with it)."""
    found = {
        "x-WatchLLM-cached": "MISS",
        **latency(elapsed_ms),
        "x-WatchLLM-provider": provider,
        "x-WatchLLM-tokens-saved": "0",
        "x-WatchLLM-cache-reason": _safe(reason) or "stored",
    }
    if cost is not None:
        found["x-WatchLLM-cost-usd"] = dollars(cost)
        found["x-WatchLLM-cost-basis"] = basis
    return found


def closing_comment(cost: int | None, elapsed_ms: float, usage: Usage) -> bytes:
    """The last line of a streamed miss: the exact figures, in a comment that every client skips."""
    figures: dict[str, object] = {
        "latency_ms": round(elapsed_ms),
        "tokens": {"prompt": usage.prompt, "completion": usage.completion},
    }
    if cost is not None:
        figures = {"cost_usd": dollars(cost), **figures}
    if usage.estimated:
        figures["estimated"] = True
    return b": x-watchllm " + orjson.dumps(figures) + b"\n\n"


def _safe(text: str) -> str:
    return _UNSAFE.sub("?", text[:120])
