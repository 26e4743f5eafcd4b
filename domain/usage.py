"""Tokens as they are billed, and one row of the ledger.

Providers count differently: OpenAI's prompt tokens include what was read from its cache, Anthropic's
exclude it. Inside the house the buckets are disjoint, so that nothing is ever paid twice.
"""

from __future__ import annotations

from domain.value import value

MAX_TOKENS = 10**9
"""A count above this is a provider's mistake, not a bill."""


@value
class Usage:
    """Disjoint token buckets. `reasoning` is a part of `output` and priced with it.

    `estimated` is True when we counted ourselves because the provider did not say.
    """

    input: int = 0
    cache_read: int = 0
    cache_write: int = 0
    cache_write_1h: int = 0
    audio_input: int = 0
    output: int = 0
    audio_output: int = 0
    reasoning: int = 0
    estimated: bool = False

    @property
    def fields(self) -> tuple[int | bool, ...]:
        """All of it in the order of its arguments, for those who write it down: `Usage(*fields)` is the same again."""
        return (
            self.input,
            self.cache_read,
            self.cache_write,
            self.cache_write_1h,
            self.audio_input,
            self.output,
            self.audio_output,
            self.reasoning,
            self.estimated,
        )

    @property
    def prompt(self) -> int:
        """All that was read, in OpenAI's sense of `prompt_tokens`."""
        return (
            self.input
            + self.cache_read
            + self.cache_write
            + self.cache_write_1h
            + self.audio_input
        )

    @property
    def completion(self) -> int:
        """All that was written, in OpenAI's sense of `completion_tokens`."""
        return self.output + self.audio_output

    @property
    def total(self) -> int:
        return self.prompt + self.completion


HIT, MISS, DENIED, FAILED, CLIENT_GONE = "hit", "miss", "denied", "failed", "client_gone"
"""How a request ended: from the cache, from a provider, refused by us before a provider was called, broken after
that, or left by its client."""

INTERRUPTED = "interrupted"
"""Or cut off by the end of our own process: written by whoever finds its journal."""


@value
class UsageRecord:
    """One row of the ledger: exactly one per request. Money is picodollars, None where no price is known.

    `at` is wall-clock seconds since the epoch; durations are milliseconds. Prompts and answers are never here.
    """

    id: str
    project: str
    key: str
    kind: str
    at: float
    endpoint: str
    model_asked: str
    model_answered: str
    provider: str
    streamed: bool
    outcome: str
    status: int
    usage: Usage
    cost: int | None
    avoided: int | None
    price_version: str
    first_byte_ms: float
    total_ms: float
    cache_reason: str


@value
class UsageSums:
    """Sums over rows of the ledger. Money is picodollars and what is known of it: `unpriced` rows have a cost, or a
    saving, that nobody knows."""

    requests: int
    hits: int
    unpriced: int
    prompt_tokens: int
    completion_tokens: int
    cost: int
    avoided: int


@value
class UsageTotal:
    """The sums of one hour or day (UTC; `start` is epoch seconds), provider and model.

    The model is the one that answered, or the one asked for where none did.
    """

    start: int
    provider: str
    model: str
    sums: UsageSums
