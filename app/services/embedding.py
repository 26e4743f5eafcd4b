"""Embeddings: what the cache has of a batch is answered from there, and only the rest is asked of the provider."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from attrs import define, evolve

from app.services.background import BUSY, Background
from app.services.calls import Answer
from app.services.gate import Gate
from app.services.metering import NOTHING, Line, Metering
from domain.answer import CacheEntry, CacheKey
from domain.cachekey import item_keys
from domain.cachepolicy import Lookup, young_enough
from domain.embeddings import items, render, shares, vectors
from domain.errors import ApiError, ModelNotFound
from domain.headers import for_hit, for_miss
from domain.models import OPENAI, SANDBOX, Route
from domain.pricing import estimate_tokens
from domain.project import Grant
from domain.request import ProxyRequest
from domain.usage import HIT, MISS, Usage
from ports.cache import CacheStore
from ports.providers import Provider

Entries = dict[CacheKey, CacheEntry]
AT_ONCE = 16
"""Vectors that are rendered on the loop: some hundred microseconds each, as floats."""


@define
class Embedding:
    """`cache_secret` keys the items; `clock` is wall-clock seconds, `monotonic` measures."""

    cache: CacheStore
    gate: Gate
    metering: Metering
    background: Background
    clock: Callable[[], float]
    monotonic: Callable[[], float]
    cache_secret: bytes

    async def answer(
        self,
        request: ProxyRequest,
        to: Route,
        grant: Grant,
        lookup: Lookup,
        line: Line,
        provider: Provider,
    ) -> Answer:
        if to.provider not in (OPENAI, SANDBOX):
            raise ModelNotFound(
                request.model, f"The model '{request.model}' makes no embeddings here."
            )
        given = items(request.body["input"])
        keys = item_keys(self.cache_secret, grant, to, request, given)
        known = await self._known(keys, lookup)
        # The same text twice in a batch is asked once.
        missing = {key: item for key, item in zip(keys, given, strict=True) if key not in known}
        spared = sum(known[key].usage.total for key in keys if key in known)
        line.avoided = _sum([known[key].cost for key in keys if key in known])
        made: Entries = {}
        if missing:
            made = await self._make(request, to, line, provider, missing)
        line.outcome, line.status = MISS if missing else HIT, 200
        line.reason = _reason(lookup, len(given), sum(key in missing for key in keys))
        if made and lookup.write:
            put = self.cache.put_many(list(made.items()), lookup.ttl)
            line.reason = line.reason if self.background.own(put) else BUSY
        if not missing:
            line.usage = Usage(input=spared)
        entries = {**known, **made}
        body = await _rendered(
            to.model,
            [entries[key] for key in keys],
            request.body.get("encoding_format") == "base64",
        )
        self.metering.close(line)
        elapsed = (self.monotonic() - line.began) * 1000
        if missing:
            headers = for_miss(line.provider, line.cost, elapsed, line.reason)
        else:
            headers = for_hit(line.provider, spared, elapsed)
        return Answer({**headers, **line.limits}, body)

    async def _known(self, keys: Sequence[CacheKey], lookup: Lookup) -> Entries:
        if not lookup.read:
            return {}
        now = self.clock()
        found = await self.cache.get_many(keys)
        return {
            key: entry
            for key, entry in zip(keys, found, strict=True)
            if entry is not None and young_enough(entry, lookup, now)
        }

    async def _make(
        self,
        request: ProxyRequest,
        to: Route,
        line: Line,
        provider: Provider,
        missing: dict[CacheKey, Any],
    ) -> Entries:
        asked = list(missing.values())
        estimate = sum(estimate_tokens(str(item)) for item in asked)
        body = {**request.body, "input": asked, "encoding_format": "base64"}
        await self.gate.reserve(line, evolve(request, body=body))
        self.metering.open(line, estimate)
        try:
            completion = await provider.complete(evolve(request, body=body), to)
        except ApiError:
            line.paid(NOTHING, None)
            raise
        usage = completion.usage or Usage(input=estimate, estimated=True)
        line.paid(usage, completion.service_tier)
        # Thousands of vectors are checked in one go; the loop's other work must not wait for it.
        made = await asyncio.get_running_loop().run_in_executor(
            None, vectors, completion.document, len(asked)
        )
        tokens = shares(usage.total, asked)
        costs = [None] * len(asked) if line.cost is None else shares(line.cost, asked)
        now = self.clock()
        return {
            key: CacheEntry(vector, line.provider, to.model, Usage(input=count), cost, now)
            for key, vector, count, cost in zip(missing, made, tokens, costs, strict=True)
        }


async def _rendered(model: str, entries: Sequence[CacheEntry], base64: bool) -> bytes:
    """A few vectors at once; many in a thread, for thousands of them are a second's work."""
    vectors, tokens = (
        [entry.body for entry in entries],
        sum(entry.usage.total for entry in entries),
    )
    if len(entries) <= AT_ONCE:
        return render(model, vectors, tokens, base64)
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(None, render, model, vectors, tokens, base64)


def _sum(costs: Sequence[int | None]) -> int | None:
    told = [cost for cost in costs if cost is not None]
    return sum(told) if len(told) == len(costs) else None


def _reason(lookup: Lookup, asked: int, missing: int) -> str:
    if not missing:
        return "exact"
    if missing < asked:
        return f"partial: {asked - missing} of {asked}"
    return lookup.reason
