"""The x-WatchLLM-* headers and the comment that ends a stream."""

from __future__ import annotations

import re

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.headers import closing_comment, for_hit, for_miss
from domain.sse import SSEReader
from domain.usage import Usage

PLAIN = re.compile(r"[ -~]*")


def test_a_hit():
    """A hit costs nothing and says what it saved."""
    assert {
        "x-WatchLLM-cached": "HIT",
        "x-WatchLLM-cost-usd": "0",
        "x-WatchLLM-cost-basis": "exact",
        "x-WatchLLM-latency-ms": "0.12",
        "x-WatchLLM-provider": "openai",
        "x-WatchLLM-tokens-saved": "21",
        "x-WatchLLM-cache-reason": "exact",
    } == for_hit("openai", 21, 0.1234)


def test_a_miss():
    """The exact price as a plain decimal."""
    assert {
        "x-WatchLLM-cached": "MISS",
        "x-WatchLLM-cost-usd": "0.000000025",
        "x-WatchLLM-cost-basis": "exact",
        "x-WatchLLM-latency-ms": "812.00",
        "x-WatchLLM-provider": "anthropic",
        "x-WatchLLM-tokens-saved": "0",
        "x-WatchLLM-cache-reason": "stored",
    } == for_miss("anthropic", 25_000, 812, "")


def test_a_streamed_miss_says_that_it_estimates():
    """The answer's tokens are not known when headers leave."""
    found = for_miss("groq", 1_000_000, 5, "stream", basis="prompt-estimate")

    assert "prompt-estimate" == found["x-WatchLLM-cost-basis"]


def test_an_unknown_price_is_no_price():
    """Rather nothing than a guess, and no basis for nothing."""
    found = for_miss("openai", None, 5, "no-store")

    assert "x-WatchLLM-cost-usd" not in found
    assert "x-WatchLLM-cost-basis" not in found
    assert "no-store" == found["x-WatchLLM-cache-reason"]


def test_a_price_of_nothing_is_told():
    """0 is a figure, not an absence."""
    assert "0" == for_miss("sandbox", 0, 5, "")["x-WatchLLM-cost-usd"]


@settings(deadline=None)
@given(st.text(), st.integers(0, 10**18), st.floats(0, 1e9))
def test_nothing_breaks_out_of_a_header(text, number, elapsed):
    """Whatever a reason holds, values are printable ASCII of a decent length, numbers never have an exponent."""
    for found in (
        for_hit("openai", number, elapsed, reason=text),
        for_miss("openai", number, elapsed, text),
    ):
        for value in found.values():
            assert PLAIN.fullmatch(value)
            assert len(value) <= 120
        assert "e" not in found["x-WatchLLM-cost-usd"].lower()
        assert re.fullmatch(r"\d+\.\d\d", found["x-WatchLLM-latency-ms"])


@pytest.mark.parametrize(
    ("cost", "usage", "expected"),
    [
        (
            1_230_000_000,
            Usage(input=9, output=12),
            b'{"cost_usd":"0.00123","latency_ms":812,"tokens":{"prompt":9,"completion":12}}',
        ),
        (
            None,
            Usage(input=1, cache_read=2, output=3, reasoning=3),
            b'{"latency_ms":812,"tokens":{"prompt":3,"completion":3}}',
        ),
        (
            0,
            Usage(estimated=True),
            b'{"cost_usd":"0","latency_ms":812,"tokens":{"prompt":0,"completion":0},"estimated":true}',
        ),
    ],
)
def test_the_comment_that_ends_a_stream(cost, usage, expected):
    """One line with the exact figures, which no client takes for an event."""
    line = closing_comment(cost, 811.7, usage)

    assert b": x-watchllm " + expected + b"\n\n" == line
    assert orjson.loads(expected)
    assert [] == SSEReader().feed(line)
