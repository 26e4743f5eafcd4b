"""Two running servers and the official SDK before them; what the tests of this folder have in common.

One server has all three providers, each of them scripted on a real socket. The other has none and lives on test keys.
A seat is one way to be served: a provider's model, or the sandbox. Every prompt is fresh, so that no test meets the
answers another one left in the cache.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from uuid import uuid4

import pytest
from attrs import define, frozen
from openai import AsyncOpenAI, OpenAI

from tests.support.served import Served, serving
from tests.support.upstream import Call, Reply, ScriptedUpstream, running_upstream

MODELS = {
    "openai": "gpt-6-sol",
    "anthropic": "claude-opus-5-5",
    "groq": "openai/gpt-oss-120b",
    "sandbox": "gpt-6-sol",
}
PRICES = {
    "openai": ("2", "10"),
    "anthropic": ("4", "20"),
    "groq": ("0.15", "0.6"),
    "sandbox": ("0", "0"),
}
"""Dollars per million tokens, in and out."""

PROVIDER_KEYS = {
    "OPENAI_API_KEY": "sk-openai-canary-key",
    "ANTHROPIC_API_KEY": "sk-ant-canary-key",
    "GROQ_API_KEY": "gsk_canary_key",
}
EMBEDDING_MODEL = "text-embedding-3-small"

Script = Callable[[Callable[[Call], Reply | None]], None]


@frozen
class Told:
    """What the x-WatchLLM headers say."""

    cached: str
    cost: str | None
    basis: str | None
    provider: str
    saved: int
    latency: float
    reason: str

    @classmethod
    def by(cls, headers: Mapping[str, str]) -> Told:
        cost = headers.get("x-watchllm-cost-usd")
        # A plain decimal: whoever splits at the point must not meet an exponent.
        assert cost is None or re.fullmatch(r"\d+(\.\d+)?", cost)
        return cls(
            headers["x-watchllm-cached"],
            cost,
            headers.get("x-watchllm-cost-basis"),
            headers["x-watchllm-provider"],
            int(headers["x-watchllm-tokens-saved"]),
            float(headers["x-watchllm-latency-ms"]),
            headers["x-watchllm-cache-reason"],
        )


@define
class Seat:
    """A client of the SDK, the model it asks, and who answers for it. Nothing is tried again."""

    provider: str
    model: str
    client: OpenAI

    def cost(self, prompt: int, completion: int) -> Decimal:
        """Dollars, by the price list."""
        read, written = PRICES[self.provider]
        return (prompt * Decimal(read) + completion * Decimal(written)) / 1_000_000

    def open_async(self) -> AsyncOpenAI:
        return AsyncOpenAI(
            base_url=self.client.base_url, api_key=self.client.api_key, max_retries=0
        )

    def miss(self, told: Told, *, basis: str = "exact", reason: str = "stored") -> None:
        """Asserts that the headers tell of a call that the provider answered."""
        assert "MISS" == told.cached
        assert basis == told.basis
        assert (self.provider, reason, 0) == (told.provider, told.reason, told.saved)
        assert told.latency >= 0

    def hit(self, told: Told, total_tokens: int) -> None:
        """Asserts that the headers tell of an answer that was free, and of the tokens it spared."""
        assert ("HIT", "0", "exact") == (told.cached, told.cost, told.basis)
        assert (self.provider, "exact", total_tokens) == (told.provider, told.reason, told.saved)
        assert 0 < told.saved
        assert told.latency >= 0


@pytest.fixture(scope="session")
def upstream() -> Iterator[ScriptedUpstream]:
    with running_upstream() as upstream:
        yield upstream


@pytest.fixture(scope="session")
def served(
    upstream: ScriptedUpstream, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    """Stopped as an operator would; it must leave with 0, having met nothing it did not expect."""
    with serving(
        tmp_path_factory.mktemp("served"),
        **PROVIDER_KEYS,
        OPENAI_BASE_URL=upstream.openai,
        ANTHROPIC_BASE_URL=upstream.anthropic,
        GROQ_BASE_URL=upstream.groq,
    ) as served:
        yield served
        end(served)


@pytest.fixture(scope="session")
def keyless(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server right after its installation: no provider is configured."""
    with serving(tmp_path_factory.mktemp("keyless")) as served:
        yield served
        end(served)


def end(served: Served) -> None:
    assert 0 == served.stop(), served.log
    crashed = [line for line in served.log.splitlines() if "crashed" in line]
    assert [] == crashed


@pytest.fixture(scope="session")
def seats(served: Served, keyless: Served) -> Iterator[dict[str, Seat]]:
    client = OpenAI(base_url=f"{served.root}/v1", api_key=served.keys["project"], max_retries=0)
    sandbox = OpenAI(base_url=f"{keyless.root}/v1", api_key=keyless.keys["test"], max_retries=0)
    with client, sandbox:
        yield {
            provider: Seat(provider, model, sandbox if provider == "sandbox" else client)
            for provider, model in MODELS.items()
        }


@pytest.fixture(params=list(MODELS))
def seat(request: pytest.FixtureRequest, seats: dict[str, Seat]) -> Seat:
    """Each in turn; `parametrize("seat", [...], indirect=True)` picks some."""
    return seats[request.param]


@pytest.fixture
def client(seats: dict[str, Seat]) -> OpenAI:
    """With a project key, before all three providers."""
    return seats["openai"].client


@pytest.fixture
def place() -> str:
    """A word never said before; good answers repeat it, so each can be told from every other."""
    return f"canary-{uuid4().hex[:12]}"


@pytest.fixture
def prompt(place: str) -> str:
    """Speaks of the weather, which is what the sandbox looks for in the names of tools."""
    return f"How is the weather in {place}?"


@pytest.fixture
def script(upstream: ScriptedUpstream) -> Iterator[Script]:
    """Lets a test decide what the providers answer; None leaves a call to the good answers."""

    def say(answer: Callable[[Call], Reply | None]) -> None:
        upstream.answer = answer

    yield say
    upstream.answer = None


def calls_about(upstream: ScriptedUpstream, place: str) -> list[Call]:
    """What reached a provider because of this test."""
    return [call for call in upstream.calls if call.told(place)]
