"""Which provider a model id goes to, under which id, at which price.

The table of models speaks first, then the prefixes that providers' own ids have. An id that neither knows
is refused and never guessed: the prompt would leave to the wrong company.
"""

from __future__ import annotations

import re

from attrs import field

from domain.errors import ModelNotFound
from domain.models import (
    ANTHROPIC,
    CHAT,
    COMPLETION,
    EMBEDDING,
    GROQ,
    OPENAI,
    SANDBOX,
    Model,
    Price,
    Rates,
    Route,
)
from domain.value import value


@value
class Catalogue:
    """The table of models. `version` names it in the ledger; where two claim a name, the first has it."""

    models: tuple[Model, ...]
    version: str
    by_name: dict[str, Model] = field(init=False, eq=False, repr=False)
    by_target: dict[tuple[str, str], Model] = field(init=False, eq=False, repr=False)

    @by_name.default
    def _names(self) -> dict[str, Model]:
        found: dict[str, Model] = {}
        for model in self.models:
            for name in (model.id, *model.aliases):
                found.setdefault(name, model)
        return found

    @by_target.default
    def _targets(self) -> dict[tuple[str, str], Model]:
        """A name with its provider in front means what the name alone means; ids sent come after."""
        found = {(model.provider, name): model for name, model in self.by_name.items()}
        for model in self.models:
            found.setdefault((model.provider, model.sent_as), model)
        return found


def route(asked: str, catalogue: Catalogue) -> Route:
    """Raises ModelNotFound."""
    model = catalogue.by_name.get(asked)
    if model is not None:
        return _as_configured(asked, model)
    provider, sent = _by_prefix(asked)
    model = catalogue.by_target.get((provider, sent))
    if model is not None:
        return _as_configured(asked, model)
    return Route(asked, provider, sent, _kind(provider, sent))


def sandbox_route(asked: str) -> Route:
    """Test keys may ask for any model; it costs nothing and goes nowhere."""
    embeds = _kind(OPENAI, asked.removeprefix("openai/")) == EMBEDDING
    kind = EMBEDDING if embeds else CHAT
    return Route(asked, SANDBOX, asked, kind, price=Price(Rates(input=0, output=0)))


def _as_configured(asked: str, model: Model) -> Route:
    return Route(
        asked,
        model.provider,
        model.sent_as,
        model.kind,
        model.price,
        model.reasoning,
        model.first_byte_timeout,
        model.claude,
    )


# In this order: the first that matches decides. Groq's own Compound systems are called `groq/compound`, and
# the open models of OpenAI run at Groq under `openai/gpt-oss-...`, so both stand before the plain prefixes.
_PREFIXES: tuple[tuple[re.Pattern[str], str, str], ...] = tuple(
    (re.compile(pattern), provider, sent)
    for pattern, provider, sent in (
        (r"(groq/compound.*)", GROQ, r"\1"),
        (r"groq/(.+)", GROQ, r"\1"),
        (r"anthropic/(.+)", ANTHROPIC, r"\1"),
        (r"(openai/gpt-oss-.*)", GROQ, r"\1"),
        (r"openai/(.+)", OPENAI, r"\1"),
        (r"(claude-.*)", ANTHROPIC, r"\1"),
        (r"(gpt-oss-.*)", GROQ, r"openai/\1"),
        (
            r"((?:gpt-|chatgpt-|o[0-9]|text-embedding-|ft:|codex-|davinci-|babbage-).*)",
            OPENAI,
            r"\1",
        ),
        (
            r"((?:llama|meta-llama/|mixtral|gemma|qwen|moonshotai/|deepseek-|compound).*)",
            GROQ,
            r"\1",
        ),
    )
)


def _by_prefix(asked: str) -> tuple[str, str]:
    for pattern, provider, sent in _PREFIXES:
        found = pattern.fullmatch(asked)
        if found:
            return provider, found.expand(sent)
    raise ModelNotFound(asked)


def _kind(provider: str, sent: str) -> str:
    if provider != OPENAI:
        return CHAT
    if sent.startswith("text-embedding-"):
        return EMBEDDING
    # The base models never learned to chat.
    return COMPLETION if sent.startswith(("davinci-", "babbage-")) else CHAT
