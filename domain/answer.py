"""What providers give back and what the cache keeps: the values between the rooms.

None of them shows its text when it is printed: prompts and answers never reach a log.
"""

from __future__ import annotations

from typing import Any

from attrs import field

from domain.usage import Usage
from domain.value import value

Document = dict[str, Any]
"""A JSON object, as parsed."""


@value
class Completion:
    """One whole answer in OpenAI's form for its endpoint.

    `usage` is None when the provider did not say. `service_tier` is the tier that was billed.
    """

    document: Document = field(repr=False)
    usage: Usage | None
    service_tier: str | None = None


@value
class Frame:
    """One chunk in OpenAI's form, with the JSON text it came in, which is passed on unless it must change.

    `usage` is set on the frame that brought the provider's (final, cumulative) count.
    """

    chunk: Document = field(repr=False)
    raw: bytes = field(repr=False)
    usage: Usage | None = None


@value
class CacheKey:
    """`digest` is 32 bytes; `project` says whose it is, for the envelope's own check."""

    project: str
    digest: bytes


@value
class CacheEntry:
    """A stored answer. `body` is the whole unstreamed JSON document (or float32 bytes of one embedding vector).

    `stored_at` is wall-clock seconds, `cost` what the provider charged for it in picodollars (None: unknown).
    `expires_at` is wall-clock seconds from which on it must not be served. The store sets it on put; 0: not known.
    """

    body: bytes = field(repr=False)
    provider: str
    model: str
    usage: Usage
    cost: int | None
    stored_at: float
    expires_at: float = field(default=0.0, eq=False)

    @property
    def size(self) -> int:
        """Bytes it takes in memory, near enough for a bound."""
        return len(self.body) + 600
