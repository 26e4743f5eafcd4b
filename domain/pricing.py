"""What an answer costs: the provider's token counts into buckets, buckets into picodollars.

All of it is exact integer arithmetic. Which model has which price is `domain.routing`'s matter.
"""

from __future__ import annotations

from typing import Any

from domain.models import Price, Rates
from domain.request import Endpoint, ProxyRequest, prompt_text
from domain.usage import MAX_TOKENS, Usage

PICODOLLARS = 10**12
CHARACTERS_PER_TOKEN = 4
UNLIMITED_ANSWER = 8_192
"""Tokens that an answer without a limit of the caller's is taken for."""


def cost_of(usage: Usage, price: Price, service_tier: str | None = None) -> int:
    """Picodollars. A tier without a price of its own is charged as the standard one."""
    rates = _rates_for(usage.prompt, _in_tier(price, service_tier))
    read = rates.input if rates.cache_read is None else rates.cache_read
    write = rates.input if rates.cache_write is None else rates.cache_write
    # Keeping a prefix for an hour is never cheaper than keeping it for minutes.
    write_1h = write if rates.cache_write_1h is None else rates.cache_write_1h
    heard = rates.input if rates.audio_input is None else rates.audio_input
    spoken = rates.output if rates.audio_output is None else rates.audio_output
    return (
        usage.input * rates.input
        + usage.cache_read * read
        + usage.cache_write * write
        + usage.cache_write_1h * write_1h
        + usage.audio_input * heard
        + usage.output * rates.output
        + usage.audio_output * spoken
    )


def prompt_estimate(prompt_tokens: int, price: Price) -> int:
    """What the prompt alone will cost if nothing of it comes from the provider's cache."""
    return cost_of(Usage(input=prompt_tokens), price)


def most_cost(request: ProxyRequest, price: Price) -> int:
    """What a call may cost at most, near enough to set aside: all of the prompt written to the provider's cache, and
    as many tokens as the caller allows, or an answer of `UNLIMITED_ANSWER`."""
    body = request.body
    prompt = estimate_tokens(prompt_text(body))
    limit = body.get("max_completion_tokens") or body.get("max_tokens") or UNLIMITED_ANSWER
    answers = max(body.get("n") or 1, body.get("best_of") or 1) * _prompts(body.get("prompt"))
    written = 0 if request.endpoint is Endpoint.EMBEDDINGS else limit * answers
    return max(
        cost_of(Usage(input=prompt, output=written), price),
        cost_of(Usage(cache_write=prompt, output=written), price),
    )


def _prompts(prompt: Any) -> int:
    """How many questions a text completion asks: tokens in one array are one."""
    if type(prompt) is not list or type(prompt[0]) is int:
        return 1
    return len(prompt)


def dollars(picodollars: int) -> str:
    """A plain decimal: no exponent, no trailing zeros."""
    whole, rest = divmod(abs(picodollars), PICODOLLARS)
    text = f"{whole}.{rest:012}".rstrip("0").rstrip(".")
    return f"-{text}" if picodollars < 0 else text


def estimate_tokens(text: str) -> int:
    """For answers whose provider did not count: English has about four characters to a token."""
    return tokens_in(len(text))


def tokens_in(characters: int) -> int:
    return -(-characters // CHARACTERS_PER_TOKEN)


def openai_usage(document: Any) -> Usage | None:
    """Reads OpenAI's usage object, of whichever endpoint, into disjoint buckets; Groq's is the same.

    None when it is missing or has a number that cannot be a count: better an estimate than a wrong bill.
    """
    if not isinstance(document, dict):
        return None
    prompt = _count(document.get("prompt_tokens"))
    completion = _completion(document, prompt)
    read, write, heard = _details(
        document.get("prompt_tokens_details"),
        "cached_tokens",
        "cache_write_tokens",
        "audio_tokens",
    )
    spoken, reasoning = _details(
        document.get("completion_tokens_details"), "audio_tokens", "reasoning_tokens"
    )
    if min(prompt, completion, read, write, heard, spoken, reasoning) < 0:
        return None
    # The details are parts of the sums. Should they overlap (audio that was cached) or exceed them,
    # the sums hold, so that no token is paid for twice.
    read = min(read, prompt)
    write = min(write, prompt - read)
    heard = min(heard, prompt - read - write)
    spoken = min(spoken, completion)
    return Usage(
        input=prompt - read - write - heard,
        cache_read=read,
        cache_write=write,
        audio_input=heard,
        output=completion - spoken,
        audio_output=spoken,
        reasoning=min(reasoning, completion - spoken),
    )


def _in_tier(price: Price, service_tier: str | None) -> Price:
    if service_tier is None:
        return price
    return next((own for name, own in price.service_tiers if name == service_tier), price)


def _rates_for(prompt: int, price: Price) -> Rates:
    rates = price.rates
    for long in price.long_prompts:
        if prompt > long.above:
            rates = long.rates
    return rates


BAD = -1
"""Stands for a number that is no count; real counts are never negative."""


def _count(number: Any) -> int:
    # bool is a kind of int, so the type is compared and not tested.
    return number if type(number) is int and 0 <= number <= MAX_TOKENS else BAD


def _completion(document: dict[str, Any], prompt: int) -> int:
    """Embeddings have no completion tokens, only a total that equals the prompt."""
    if document.get("completion_tokens") is not None:
        return _count(document["completion_tokens"])
    total = _count(document.get("total_tokens"))
    return total - prompt if total >= prompt else BAD


def _details(details: Any, *names: str) -> list[int]:
    """Details may be left out or null, which is none of that kind."""
    if details is None:
        return [0] * len(names)
    if not isinstance(details, dict):
        return [BAD] * len(names)
    return [0 if details.get(name) is None else _count(details[name]) for name in names]
