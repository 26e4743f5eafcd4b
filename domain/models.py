"""Models, their prices, and which provider a model id goes to.

The rules are a table read from `config/models.toml` first, then the prefixes of `PREFIXES`; an id that
matches neither is unknown, and is never guessed: the prompt would leave to the wrong company.
"""

from __future__ import annotations

from domain.value import value

OPENAI, ANTHROPIC, GROQ, SANDBOX = "openai", "anthropic", "groq", "sandbox"

CHAT, COMPLETION, EMBEDDING = "chat", "completion", "embedding"


@value
class Rates:
    """Picodollars per token of each bucket, which is dollars per million tokens with six decimals.

    A bucket without a price of its own (None) costs what plain input or output costs; an hour's cache write falls
    back to the five minutes' one first.
    """

    input: int
    output: int
    cache_read: int | None = None
    cache_write: int | None = None
    cache_write_1h: int | None = None
    audio_input: int | None = None
    audio_output: int | None = None


@value
class LongPrompt:
    """Rates of the whole request once all its prompt tokens, cached ones included, exceed `above`."""

    above: int
    rates: Rates


@value
class Price:
    """`long_prompts` ascend by `above`. `service_tiers` are pairs of a tier's name and its own price."""

    rates: Rates
    long_prompts: tuple[LongPrompt, ...] = ()
    service_tiers: tuple[tuple[str, Price], ...] = ()


@value
class ClaudeAbilities:
    """What a Claude model takes; see the table in docs/providers.md.

    `thinking` holds the accepted types: adaptive, enabled (a token budget), disabled, between_tools.
    `effort` holds the accepted levels.
    """

    max_output: int = 128_000
    sampling: bool = False
    both_samplings: bool = False
    thinking: frozenset[str] = frozenset({"adaptive"})
    forced_tools: bool = False
    prefill: bool = False
    effort: frozenset[str] = frozenset({"low", "medium", "high", "xhigh", "max"})
    structured: bool = True
    images: bool = True
    pdf: bool = True


@value
class Model:
    """A configured model. `sent_as` is the id the provider knows; `kind` is chat, completion or embedding.

    `reasoning` models spend output tokens on thinking, so a tiny default limit would leave no text.
    """

    id: str
    provider: str
    sent_as: str
    kind: str = CHAT
    aliases: tuple[str, ...] = ()
    price: Price | None = None
    reasoning: bool = False
    first_byte_timeout: float | None = None
    claude: ClaudeAbilities | None = None


@value
class ListedModel:
    """A model as a provider's own list names it; `created` is seconds since the epoch."""

    id: str
    provider: str
    created: int = 0
    shutdown_date: str | None = None
    claude: ClaudeAbilities | None = None


@value
class Route:
    """Where a request goes: `asked` is the caller's word, `model` the provider's id for it."""

    asked: str
    provider: str
    model: str
    kind: str = CHAT
    price: Price | None = None
    reasoning: bool = False
    first_byte_timeout: float | None = None
    claude: ClaudeAbilities | None = None
