"""Writes `models.toml` anew from the genai-prices package and the facts kept by hand below.

For developers: bring `AS_OF` and the lists up to date, then `python -m config.export_models`. The same package and
the same lists give the same file. Prices are taken as they stand on `AS_OF`; what the package does not know stays
without a price. The product never imports this module, and genai-prices is a development dependency.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time
from decimal import Decimal
from pathlib import Path

import genai_prices
from attrs import frozen
from genai_prices.data import providers
from genai_prices.types import ModelInfo, ModelPrice, TieredPrices

from domain.models import ANTHROPIC, CHAT, COMPLETION, EMBEDDING, GROQ, OPENAI

AS_OF = date(2026, 11, 23)
TARGET = Path(__file__).with_name("models.toml")

HEADER = f"""\
# The models WatchLLM knows by name. Written by config/export_models.py.
# To change it, put a copy into the folder WATCHLLM_CONFIG_DIR names and edit that; it replaces this one whole.
#
# Prices: genai-prices {genai_prices.__version__}, https://github.com/pydantic/genai-prices
# The MIT License (MIT), Copyright (c) Pydantic Services Inc. 2025 to present
#
# [models."ID"]
#   provider      openai, anthropic or groq
#   sent_as       the id the provider knows, where it differs from ID
#   kind          chat (default), completion or embedding
#   aliases       other names for it, sent as ID is
#   snapshots     dated and sister ids with the same prices and abilities, each sent as it was asked for
#   reasoning     true if it may spend output tokens on thinking
#   first_byte_timeout   seconds, for a model slower to start than the rest
#   input, output, cache_read, cache_write, cache_write_1h, audio_input, audio_output
#                 dollars per million tokens, in quotes; a bucket left out costs what plain input or output costs,
#                 cache_write_1h what cache_write costs. Without input and output no price is known
#   long_prompts  the prices of the whole request once its prompt has more than `above` tokens
#   service_tiers the prices where the provider says it served the request in that tier
#   claude        what a Claude model takes, where it differs from: max_output = 128000, sampling = false,
#                 both_samplings = false (temperature and top_p at once), thinking = ["adaptive"], forced_tools = false,
#                 prefill = false, effort = ["low", "medium", "high", "xhigh", "max"], structured = true,
#                 images = true, pdf = true

as_of = "{AS_OF}"
"""

PRICE_KEYS = {
    "input_mtok": "input",
    "cache_read_mtok": "cache_read",
    "cache_write_mtok": "cache_write",
    "cache_write_1h_mtok": "cache_write_1h",
    "input_audio_mtok": "audio_input",
    "output_mtok": "output",
    "output_audio_mtok": "audio_output",
}
# Tools that the provider runs are billed per call, by the Responses API or the provider's own one, not here.
NOT_TOKENS = frozenset({"web_searches_kcount", "storage_searches_kcount"})
# Batch jobs have endpoints of their own, so no answer that passes here was billed at the batch rate.
TIERS = {
    "flex": {"service_tier": "flex"},
    "priority": {"service_tier": "priority"},
    "fast": {"service_tier": "fast"},
}
CLAUDE_TIERS = {"fast": {"speed": "fast"}}

Facts = dict[str, object]


@frozen
class Listed:
    """A model by hand: what genai-prices does not say."""

    id: str
    provider: str
    snapshots: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    kind: str = CHAT
    reasoning: bool = False
    claude: Facts | None = None
    priced: bool = True


def _openai(id: str, *snapshots: str, reasoning: bool = False, priced: bool = True) -> Listed:
    full = tuple(id + ending if ending.startswith("-20") else ending for ending in snapshots)
    return Listed(id, OPENAI, full, reasoning=reasoning, priced=priced)


def _thinks(id: str, *snapshots: str, priced: bool = True) -> Listed:
    return _openai(id, *snapshots, reasoning=True, priced=priced)


def _claude(id: str, dotted: str | None = None, *snapshots: str, **facts: object) -> Listed:
    """`facts` are the abilities that differ from the newest models'."""
    thinking = facts.get("thinking", ["adaptive"])
    reasoning = isinstance(thinking, list) and "adaptive" in thinking
    priced = facts.pop("priced", True) is True
    aliases = (dotted,) if dotted else ()
    return Listed(
        id, ANTHROPIC, snapshots, aliases, reasoning=reasoning, claude=facts, priced=priced
    )


# https://developers.openai.com/api/docs/models and /deprecations. Left out: models billed by other things than text
# and audio tokens, and those whose price the package has only in part (audio previews, search models).
OPENAI_MODELS = (
    _thinks("gpt-6.2-astra", priced=False),
    _thinks("gpt-6.2-sol", priced=False),
    _thinks("gpt-6.1-sol"),
    _thinks("gpt-6.1-terra"),
    _thinks("gpt-6-astra"),
    _thinks("gpt-6-sol"),
    _thinks("gpt-6-luna"),
    _thinks("gpt-6-cyber"),
    _thinks("gpt-6-rosalind"),
    _thinks("gpt-5.6-sol", "gpt-5.6"),
    _thinks("gpt-5.6-terra"),
    _thinks("gpt-5.6-luna"),
    _thinks("gpt-5.6-cyber"),
    _thinks("gpt-5.5", "-2026-04-23", "-2026-04-24", "gpt-5.5-chat-latest"),
    _thinks("gpt-5.5-pro", "-2026-04-23"),
    _thinks("gpt-5.5-cyber"),
    _openai("chat-latest"),
    _thinks("gpt-5.4", "-2026-03-05"),
    _thinks("gpt-5.4-mini", "-2026-03-17"),
    _thinks("gpt-5.4-nano", "-2026-03-17"),
    _thinks("gpt-5.4-pro", "-2026-03-05"),
    _openai("gpt-5.3-chat-latest"),
    _thinks("gpt-5.3-codex"),
    _thinks("gpt-5.2", "-2025-12-11", "gpt-5.2-chat-latest", "gpt-5.2-codex"),
    _thinks("gpt-5.2-pro", "-2025-12-11"),
    _thinks("gpt-5.1", "-2025-11-13", "gpt-5.1-chat-latest", "gpt-5.1-codex"),
    _thinks("gpt-5", "-2025-08-07", "gpt-5-chat-latest", "gpt-5-codex"),
    _thinks("gpt-5-mini", "-2025-08-07"),
    _thinks("gpt-5-nano", "-2025-08-07"),
    _thinks("gpt-5-pro", "-2025-10-06"),
    _thinks("o4-mini", "-2025-04-16"),
    _thinks("o3", "-2025-04-16"),
    _thinks("o3-pro", "-2025-06-10"),
    _thinks("o3-mini", "-2025-01-31"),
    _thinks("o1", "-2024-12-17"),
    _openai("gpt-4.1", "-2025-04-14"),
    _openai("gpt-4.1-mini", "-2025-04-14"),
    _openai("gpt-4.1-nano", "-2025-04-14"),
    _openai("gpt-4o", "-2024-11-20", "-2024-08-06"),
    _openai("gpt-4o-2024-05-13"),
    _openai("gpt-4o-mini", "-2024-07-18"),
    _openai("gpt-4-turbo", "-2024-04-09"),
    _openai("gpt-4", "gpt-4-0613"),
    _openai("gpt-3.5-turbo", "gpt-3.5-turbo-0125"),
    _openai("gpt-audio", "-2025-08-28", "gpt-audio-1.5"),
    _openai("gpt-audio-mini", "-2025-10-06", "-2025-12-15"),
    Listed("gpt-3.5-turbo-instruct", OPENAI, ("gpt-3.5-turbo-instruct-0914",), kind=COMPLETION),
    Listed("davinci-002", OPENAI, kind=COMPLETION),
    Listed("babbage-002", OPENAI, kind=COMPLETION),
    Listed("text-embedding-3-small", OPENAI, kind=EMBEDDING),
    Listed("text-embedding-3-large", OPENAI, kind=EMBEDDING),
    Listed("text-embedding-ada-002", OPENAI, kind=EMBEDDING),
)

_SWITCHABLE = ["adaptive", "disabled"]
_BUDGETED = ["enabled", "disabled"]
_TO_HIGH = ["low", "medium", "high"]

# https://platform.claude.com/docs/en/about-claude/models/overview, /build-with-claude/adaptive-thinking, /effort
CLAUDE_MODELS = (
    _claude("claude-fable-5-2", "claude-fable-5.2"),
    _claude("claude-mythos-5-2", "claude-mythos-5.2"),
    _claude("claude-fable-5-1", "claude-fable-5.1"),
    _claude("claude-mythos-5-1", "claude-mythos-5.1", priced=False),
    _claude("claude-fable-5", forced_tools=True),
    _claude("claude-opus-5-5", "claude-opus-5.5"),
    _claude("claude-sonnet-5-5", "claude-sonnet-5.5", thinking=["adaptive", "between_tools"]),
    _claude("claude-haiku-5-5", "claude-haiku-5.5", thinking=_SWITCHABLE, forced_tools=True),
    _claude("claude-opus-5", None, thinking=_SWITCHABLE, forced_tools=True),
    _claude("claude-sonnet-5", None, thinking=_SWITCHABLE, forced_tools=True),
    _claude("claude-opus-4-8", "claude-opus-4.8", thinking=_SWITCHABLE, forced_tools=True),
    _claude("claude-opus-4-7", "claude-opus-4.7", thinking=_SWITCHABLE, forced_tools=True),
    *(
        _claude(
            f"claude-{name}-4-6",
            f"claude-{name}-4.6",
            sampling=True,
            thinking=["adaptive", "enabled", "disabled"],
            forced_tools=True,
            effort=["low", "medium", "high", "max"],
        )
        for name in ("opus", "sonnet")
    ),
    *(
        _claude(
            f"claude-{name}-4-5",
            f"claude-{name}-4.5",
            f"claude-{name}-4-5-{snapshot}",
            max_output=64_000,
            sampling=True,
            thinking=_BUDGETED,
            forced_tools=True,
            prefill=True,
            effort=effort,
        )
        for name, snapshot, effort in (
            ("opus", "20251101", _TO_HIGH),
            ("sonnet", "20250929", []),
            ("haiku", "20251001", []),
        )
    ),
    *(
        _claude(
            id,
            dotted,
            snapshot,
            max_output=max_output,
            sampling=True,
            both_samplings=both,
            thinking=_BUDGETED,
            forced_tools=True,
            prefill=True,
            effort=[],
            structured=False,
        )
        for id, dotted, snapshot, max_output, both in (
            ("claude-opus-4-1", "claude-opus-4.1", "claude-opus-4-1-20250805", 32_000, False),
            ("claude-opus-4-0", "claude-opus-4", "claude-opus-4-20250514", 32_000, True),
            ("claude-sonnet-4-0", "claude-sonnet-4", "claude-sonnet-4-20250514", 64_000, True),
        )
    ),
)

# https://console.groq.com/docs/models and /deprecations. Compound systems are billed by what they call.
GROQ_MODELS = (
    Listed("openai/gpt-oss-120b", GROQ, reasoning=True),
    Listed("openai/gpt-oss-20b", GROQ, reasoning=True),
    Listed("openai/gpt-oss-safeguard-20b", GROQ, reasoning=True),
    Listed("qwen/qwen3.8-27b", GROQ, reasoning=True),
    Listed("qwen/qwen3-32b", GROQ, reasoning=True),
    Listed("groq/compound", GROQ, aliases=("compound",), reasoning=True, priced=False),
    Listed("groq/compound-mini", GROQ, aliases=("compound-mini",), reasoning=True, priced=False),
    Listed("llama-3.3-70b-versatile", GROQ),
    Listed("llama-3.1-8b-instant", GROQ),
    Listed("meta-llama/llama-4-maverick-17b-128e-instruct", GROQ),
    Listed("meta-llama/llama-4-scout-17b-16e-instruct", GROQ),
    Listed("moonshotai/kimi-k2-instruct", GROQ, ("moonshotai/kimi-k2-instruct-0905",)),
)


def render() -> str:
    parts = [HEADER]
    for title, models in (
        ("OpenAI", OPENAI_MODELS),
        ("Anthropic", CLAUDE_MODELS),
        ("Groq", GROQ_MODELS),
    ):
        parts.append(f"\n# {title}\n")
        parts.extend("\n" + _table(model) for model in models)
    return "".join(parts)


def _table(model: Listed) -> str:
    facts: Facts = {"provider": model.provider}
    if model.kind != CHAT:
        facts["kind"] = model.kind
    if model.aliases:
        facts["aliases"] = list(model.aliases)
    if model.snapshots:
        facts["snapshots"] = list(model.snapshots)
    if model.reasoning:
        facts["reasoning"] = True
    facts |= _prices(model)
    if model.claude:
        facts["claude"] = model.claude
    lines = [
        f"[models.{_toml(model.id)}]",
        *(f"{key} = {_toml(fact)}" for key, fact in facts.items()),
    ]
    return "\n".join(lines) + "\n"


def _prices(model: Listed) -> Facts:
    known = _known(model)
    if known is None:
        return {}
    moment = datetime.combine(AS_OF, time(12), UTC)
    standard = _price(known.get_prices(moment))
    tiers = {
        f"service_tiers.{tier}": _price(known.get_prices(moment, context))
        for tier, context in (CLAUDE_TIERS if model.provider == ANTHROPIC else TIERS).items()
    }
    return standard | {key: own for key, own in tiers.items() if own != standard}


def _known(model: Listed) -> ModelInfo | None:
    """The package's entry, which all our ids for the model must agree on."""
    provider = next(provider for provider in providers if provider.id == model.provider)
    ids = (model.id, *model.snapshots)
    entries = [provider.find_model(id) for id in ids]
    if model.priced == (entries[0] is None) or any(entry is not entries[0] for entry in entries):
        raise SystemExit(f"{model.id}: genai-prices knows {entries[0]}, look at the lists again")
    return entries[0]


def _price(prices: ModelPrice) -> Facts:
    found = {key: price for key, price in vars(prices).items() if price is not None}
    strange = found.keys() - PRICE_KEYS.keys() - NOT_TOKENS
    if strange:
        raise SystemExit(f"prices of a kind that has no bucket: {sorted(strange)}")
    tokens = {name: found[key] for key, name in PRICE_KEYS.items() if key in found}
    bounds = sorted(
        {
            tier.start
            for price in tokens.values()
            if isinstance(price, TieredPrices)
            for tier in price.tiers
        }
    )
    facts = _rates(tokens, above=0)
    if bounds:
        facts["long_prompts"] = [{"above": bound} | _rates(tokens, bound) for bound in bounds]
    return facts


def _rates(tokens: dict[str, Decimal | TieredPrices], above: int) -> Facts:
    rates: Facts = {name: _rate(price, above) for name, price in tokens.items()}
    return rates | {"output": rates.get("output", Decimal(0))}


def _rate(price: Decimal | TieredPrices, above: int) -> Decimal:
    if isinstance(price, Decimal):
        return price
    reached: list[Decimal] = [tier.price for tier in price.tiers if tier.start <= above]
    base: Decimal = price.base
    return reached[-1] if reached else base


def _toml(fact: object) -> str:
    match fact:
        case bool():
            return "true" if fact else "false"
        case Decimal():
            return f'"{fact.normalize():f}"'
        case str():
            return f'"{fact}"'
        case list():
            return f"[{', '.join(_toml(item) for item in fact)}]"
        case dict():
            return f"{{ {', '.join(f'{key} = {_toml(item)}' for key, item in fact.items())} }}"
        case _:
            return str(fact)


if __name__ == "__main__":
    TARGET.write_text(render(), encoding="utf-8")
