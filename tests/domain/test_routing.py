"""A model id leaves to the company it belongs to, or nowhere."""

from __future__ import annotations

import pytest

from config.catalogue import read_catalogue
from domain.errors import ModelNotFound
from domain.models import (
    ANTHROPIC,
    CHAT,
    COMPLETION,
    EMBEDDING,
    GROQ,
    OPENAI,
    SANDBOX,
    ClaudeAbilities,
    Model,
    Price,
    Rates,
)
from domain.pricing import cost_of
from domain.routing import Catalogue, route, sandbox_route
from domain.usage import Usage

PRICE = Price(Rates(input=1, output=2))
PINNED = Price(Rates(input=3, output=4))
CLAUDE = ClaudeAbilities(max_output=7)
CATALOGUE = Catalogue(
    (
        Model("gpt-4o", OPENAI, "gpt-4o", price=PRICE),
        Model("gpt-4o-2024-08-06", OPENAI, "gpt-4o-2024-08-06", price=PINNED),
        Model("claude-opus-4-5", ANTHROPIC, "claude-opus-4-5", aliases=("claude-opus-4.5",), claude=CLAUDE),
        Model("openai/gpt-oss-120b", GROQ, "openai/gpt-oss-120b", price=PRICE, reasoning=True),
        Model("cheap", OPENAI, "gpt-6-luna", aliases=("small", "fast"), price=PRICE, first_byte_timeout=9.0),
        Model("claude-shadow", OPENAI, "gpt-4o-mini", price=PRICE),
        Model("text-embedding-3-small", OPENAI, "text-embedding-3-small", EMBEDDING, price=PRICE),
    ),
    "2026-11-23-test",
)  # fmt: skip

# asked, provider, sent, kind, price
ROWS = [
    # the table first, by id and by alias
    ("gpt-4o", OPENAI, "gpt-4o", CHAT, PRICE),
    ("gpt-4o-2024-08-06", OPENAI, "gpt-4o-2024-08-06", CHAT, PINNED),
    ("cheap", OPENAI, "gpt-6-luna", CHAT, PRICE),
    ("small", OPENAI, "gpt-6-luna", CHAT, PRICE),
    ("claude-opus-4.5", ANTHROPIC, "claude-opus-4-5", CHAT, None),
    ("claude-shadow", OPENAI, "gpt-4o-mini", CHAT, PRICE),
    # groq/ and anthropic/ and openai/ in front
    ("groq/llama-3.1-8b-instant", GROQ, "llama-3.1-8b-instant", CHAT, None),
    ("groq/openai/gpt-oss-120b", GROQ, "openai/gpt-oss-120b", CHAT, PRICE),
    ("groq/gpt-4o", GROQ, "gpt-4o", CHAT, None),
    ("groq/compound", GROQ, "groq/compound", CHAT, None),
    ("groq/compound-mini", GROQ, "groq/compound-mini", CHAT, None),
    ("groq/groq/compound", GROQ, "groq/compound", CHAT, None),
    ("anthropic/claude-opus-9", ANTHROPIC, "claude-opus-9", CHAT, None),
    ("anthropic/claude-opus-4-5", ANTHROPIC, "claude-opus-4-5", CHAT, None),
    ("anthropic/claude-opus-4.5", ANTHROPIC, "claude-opus-4-5", CHAT, None),
    ("anthropic/claude-shadow", ANTHROPIC, "claude-shadow", CHAT, None),
    ("openai/gpt-4o", OPENAI, "gpt-4o", CHAT, PRICE),
    ("openai/gpt-4o-2024-08-06", OPENAI, "gpt-4o-2024-08-06", CHAT, PINNED),
    ("openai/small", OPENAI, "gpt-6-luna", CHAT, PRICE),
    ("openai/text-embedding-3-small", OPENAI, "text-embedding-3-small", EMBEDDING, PRICE),
    ("openai/llama-9", OPENAI, "llama-9", CHAT, None),
    # OpenAI's open models run at Groq
    ("openai/gpt-oss-120b", GROQ, "openai/gpt-oss-120b", CHAT, PRICE),
    ("openai/gpt-oss-7b", GROQ, "openai/gpt-oss-7b", CHAT, None),
    ("gpt-oss-120b", GROQ, "openai/gpt-oss-120b", CHAT, PRICE),
    ("gpt-oss-7b", GROQ, "openai/gpt-oss-7b", CHAT, None),
    # the names providers give
    ("claude-haiku-9", ANTHROPIC, "claude-haiku-9", CHAT, None),
    ("gpt-6-luna", OPENAI, "gpt-6-luna", CHAT, PRICE),
    ("gpt-9", OPENAI, "gpt-9", CHAT, None),
    ("chatgpt-4o-latest", OPENAI, "chatgpt-4o-latest", CHAT, None),
    ("o1", OPENAI, "o1", CHAT, None),
    ("o3-mini", OPENAI, "o3-mini", CHAT, None),
    ("o4-mini-2025-04-16", OPENAI, "o4-mini-2025-04-16", CHAT, None),
    ("text-embedding-9", OPENAI, "text-embedding-9", EMBEDDING, None),
    ("ft:gpt-4o-2024-08-06:org::id", OPENAI, "ft:gpt-4o-2024-08-06:org::id", CHAT, None),
    ("codex-9", OPENAI, "codex-9", CHAT, None),
    ("davinci-002", OPENAI, "davinci-002", COMPLETION, None),
    ("babbage-002", OPENAI, "babbage-002", COMPLETION, None),
    ("llama-3.3-70b-versatile", GROQ, "llama-3.3-70b-versatile", CHAT, None),
    ("llama3-8b-8192", GROQ, "llama3-8b-8192", CHAT, None),
    ("meta-llama/llama-9", GROQ, "meta-llama/llama-9", CHAT, None),
    ("mixtral-8x7b-32768", GROQ, "mixtral-8x7b-32768", CHAT, None),
    ("gemma2-9b-it", GROQ, "gemma2-9b-it", CHAT, None),
    ("qwen-qwq-32b", GROQ, "qwen-qwq-32b", CHAT, None),
    ("qwen/qwen3-32b", GROQ, "qwen/qwen3-32b", CHAT, None),
    ("moonshotai/kimi-k9", GROQ, "moonshotai/kimi-k9", CHAT, None),
    ("deepseek-r9", GROQ, "deepseek-r9", CHAT, None),
    ("compound-beta", GROQ, "compound-beta", CHAT, None),
]  # fmt: skip


@pytest.mark.parametrize(("asked", "provider", "sent", "kind", "price"), ROWS)
def test_the_first_rule_that_matches_decides(
    asked: str, provider: str, sent: str, kind: str, price: Price | None
) -> None:
    """The table, then a provider's name in front, then the prefixes; a price is exact or None."""
    found = route(asked, CATALOGUE)

    assert (asked, provider, sent, kind, price) == (
        found.asked,
        found.provider,
        found.model,
        found.kind,
        found.price,
    )


NOBODY_S = [
    "",
    "o",
    "gpt",
    "claude",
    "GPT-4o",
    "ox-1",
    " gpt-4o",
    "/gpt-4o",
    "gpt-9\n",
    "xopenai/gpt-4o",
]
NOBODY_S += [
    "groq/",
    "anthropic/",
    "openai/",
    "unknown/gpt-4o",
    "azure/gpt-4o",
    "google/gemma-9",
    "sandbox",
]
NOBODY_S += [
    "omni-moderation-latest",
    "whisper-1",
    "tts-1",
    "mistral-large",
    "gemini-3",
    "command-r",
    "grok-5",
]


@pytest.mark.parametrize("asked", NOBODY_S)
def test_an_id_nobody_owns_is_never_guessed(asked: str) -> None:
    """The prompt would leave to the wrong company."""
    with pytest.raises(ModelNotFound) as caught:
        route(asked, CATALOGUE)

    assert (caught.value.status, caught.value.code) == (404, "model_not_found")


def test_a_route_brings_all_that_is_configured() -> None:
    """By alias, by its own id at the provider, and with the provider in front."""
    assert {9.0} == {
        route(asked, CATALOGUE).first_byte_timeout
        for asked in ("fast", "gpt-6-luna", "openai/cheap")
    }
    assert {True} == {
        route(asked, CATALOGUE).reasoning for asked in ("gpt-oss-120b", "groq/openai/gpt-oss-120b")
    }
    assert route("anthropic/claude-opus-4.5", CATALOGUE).claude == CLAUDE


def test_the_first_of_two_that_claim_a_name_has_it() -> None:
    catalogue = Catalogue(
        (
            Model("a", OPENAI, "one", aliases=("shared",)),
            Model("b", OPENAI, "two", aliases=("shared", "a")),
            Model("two", OPENAI, "three"),
        ),
        "v",
    )

    asked = ("a", "b", "shared", "two", "openai/two", "openai/three")

    assert [route(id, catalogue).model for id in asked] == [
        "one",
        "two",
        "one",
        "three",
        "three",
        "three",
    ]


def test_the_sandbox_serves_any_model_for_nothing() -> None:
    """A test key costs nothing whatever it asks for, and nothing leaves."""
    found = sandbox_route("no-such-model")

    assert (found.provider, found.model, found.kind) == (SANDBOX, "no-such-model", CHAT)
    assert found.price is not None
    assert cost_of(Usage(1, 2, 3, 4, 5, 6, 7), found.price, "priority") == 0


@pytest.mark.parametrize("asked", ["text-embedding-3-small", "openai/text-embedding-3-large"])
def test_the_sandbox_knows_embedding_models(asked: str) -> None:
    assert sandbox_route(asked).kind == EMBEDDING


# The packaged table: asked, provider, sent, priced
PACKAGED = [
    ("gpt-4o", OPENAI, "gpt-4o", True),
    ("gpt-4o-2024-08-06", OPENAI, "gpt-4o-2024-08-06", True),
    ("openai/gpt-4o-2024-11-20", OPENAI, "gpt-4o-2024-11-20", True),
    ("gpt-4o-2031-01-01", OPENAI, "gpt-4o-2031-01-01", False),
    ("gpt-6.2-astra", OPENAI, "gpt-6.2-astra", False),
    ("gpt-6.2-sol", OPENAI, "gpt-6.2-sol", False),
    ("gpt-6-luna", OPENAI, "gpt-6-luna", True),
    ("ft:gpt-4o-2024-08-06:org::id", OPENAI, "ft:gpt-4o-2024-08-06:org::id", False),
    ("text-embedding-3-large", OPENAI, "text-embedding-3-large", True),
    ("claude-opus-4-5", ANTHROPIC, "claude-opus-4-5", True),
    ("claude-opus-4-5-20251101", ANTHROPIC, "claude-opus-4-5-20251101", True),
    ("anthropic/claude-opus-4-5-20251101", ANTHROPIC, "claude-opus-4-5-20251101", True),
    ("claude-opus-4.5", ANTHROPIC, "claude-opus-4-5", True),
    ("claude-sonnet-4-5", ANTHROPIC, "claude-sonnet-4-5", True),
    ("claude-mythos-5-1", ANTHROPIC, "claude-mythos-5-1", False),
    ("claude-opus-4-5-20991231", ANTHROPIC, "claude-opus-4-5-20991231", False),
    ("openai/gpt-oss-120b", GROQ, "openai/gpt-oss-120b", True),
    ("gpt-oss-20b", GROQ, "openai/gpt-oss-20b", True),
    ("groq/qwen/qwen3.8-27b", GROQ, "qwen/qwen3.8-27b", True),
    ("compound", GROQ, "groq/compound", False),
    ("groq/compound", GROQ, "groq/compound", False),
    ("groq/llama-3.3-70b-versatile", GROQ, "llama-3.3-70b-versatile", True),
]


@pytest.mark.parametrize(("asked", "provider", "sent", "priced"), PACKAGED)
def test_the_packaged_table_knows_today_s_models(
    asked: str, provider: str, sent: str, priced: bool
) -> None:
    """A pinned snapshot is sent as it was pinned; what is not listed to the letter has no price."""
    found = route(asked, read_catalogue(None))

    assert (provider, sent, priced) == (found.provider, found.model, found.price is not None)
