"""Money: every cost is exact, every count a provider may send is either a count or refused."""

from __future__ import annotations

import random
import tomllib
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from importlib.resources import files
from itertools import product
from typing import Any

import genai_prices
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config.catalogue import read_catalogue
from domain.models import ANTHROPIC, LongPrompt, Model, Price, Rates
from domain.pricing import cost_of, dollars, estimate_tokens, openai_usage, prompt_estimate
from domain.routing import route
from domain.usage import MAX_TOKENS, Usage

CATALOGUE = read_catalogue(None)
PRICED = [model for model in CATALOGUE.models if model.price is not None]
NOON = datetime.fromisoformat(CATALOGUE.version[:10] + "T12:00").replace(tzinfo=UTC)
BUCKETS = (
    "input",
    "cache_read",
    "cache_write",
    "cache_write_1h",
    "audio_input",
    "output",
    "audio_output",
)


def usage_of(counts: tuple[int, ...]) -> Usage:
    plain, read, write, write_1h, heard, written, spoken = counts
    return Usage(plain, read, write, write_1h, heard, written, spoken)


def price_of(id: str) -> Price:
    price = route(id, CATALOGUE).price
    assert price is not None
    return price


# --- the oracle


def oracle(usage: Usage, model: Model, tier: str | None) -> Fraction:
    """Dollars, by genai-prices. Its sums include their parts, ours are disjoint."""
    counted = genai_prices.Usage(
        input_tokens=usage.prompt,
        cache_read_tokens=usage.cache_read,
        cache_write_tokens=usage.cache_write + usage.cache_write_1h,
        cache_write_1h_tokens=usage.cache_write_1h,
        input_audio_tokens=usage.audio_input,
        output_tokens=usage.completion,
        output_audio_tokens=usage.audio_output,
    )
    context = None
    if tier is not None:
        context = {"speed" if model.provider == ANTHROPIC else "service_tier": tier}
    found = genai_prices.calc_price(
        counted,
        model.sent_as,
        provider_id=model.provider,
        genai_request_timestamp=NOON,
        price_context=context,
    )
    return Fraction(found.total_price)


def tiers(model: Model) -> list[str | None]:
    assert model.price is not None
    return [None, *(name for name, _ in model.price.service_tiers)]


# Around every bound of a long prompt, and where a rounding would show.
GRID = [
    (0, 0, 0, 0, 0, 0, 0),
    (1, 0, 0, 0, 0, 0, 0),
    (0, 1, 1, 1, 1, 1, 1),
    (7, 11, 13, 17, 19, 23, 29),
    (100_000, 0, 0, 0, 0, 333, 0),
    (99_999, 1, 1, 0, 0, 333, 0),
    (200_000, 0, 0, 0, 0, 333, 0),
    (0, 200_001, 0, 0, 0, 333, 0),
    (272_000, 0, 0, 0, 0, 333, 0),
    (0, 0, 272_001, 0, 0, 333, 0),
    (MAX_TOKENS, MAX_TOKENS, MAX_TOKENS, MAX_TOKENS, MAX_TOKENS, MAX_TOKENS, MAX_TOKENS),
]


@pytest.mark.parametrize("model", PRICED, ids=lambda model: model.id)
def test_the_cost_is_the_oracle_s_to_the_picodollar(model: Model) -> None:
    """Every priced model, every tier it has a price for, every corner of the counts."""
    assert model.price is not None
    for tier, counts in product(tiers(model), GRID):
        usage = usage_of(counts)

        assert oracle(usage, model, tier) == Fraction(cost_of(usage, model.price, tier), 10**12)


COUNTS = st.tuples(*[st.integers(0, 400_000) | st.integers(0, MAX_TOKENS)] * len(BUCKETS))


@settings(max_examples=300, deadline=None)
@given(model=st.sampled_from(PRICED), counts=COUNTS, data=st.data())
def test_any_usage_costs_what_the_oracle_says(
    model: Model, counts: tuple[int, ...], data: st.DataObject
) -> None:
    assert model.price is not None
    tier = data.draw(st.sampled_from(tiers(model)))
    usage = usage_of(counts)

    assert oracle(usage, model, tier) == Fraction(cost_of(usage, model.price, tier), 10**12)


def test_each_tier_the_oracle_knows_is_in_the_table() -> None:
    """Asked for any tier that a chat answer can name, the oracle and we agree, listed or not.

    Batch is left out by name: the oracle keeps it under `processing`, not `service_tier` (so the tier `batch` of
    gpt-5 comes back at the standard price there), and batch jobs have endpoints of their own.
    """
    usage = usage_of((1_000, 500, 250, 0, 0, 100, 0))
    for model, tier in product(PRICED, ("auto", "default", "flex", "scale", "priority", "fast")):
        assert model.price is not None

        assert oracle(usage, model, tier) == Fraction(cost_of(usage, model.price, tier), 10**12)


# --- against our own file, read by other eyes


def rationals(rates: dict[str, Any]) -> dict[str, Fraction]:
    """Dollars per million tokens of each bucket."""
    write = rates.get("cache_write", rates["input"])
    texts = {
        "input": rates["input"],
        "cache_read": rates.get("cache_read", rates["input"]),
        "cache_write": write,
        "cache_write_1h": rates.get("cache_write_1h", write),
        "audio_input": rates.get("audio_input", rates["input"]),
        "output": rates["output"],
        "audio_output": rates.get("audio_output", rates["output"]),
    }
    return {bucket: Fraction(text) for bucket, text in texts.items()}


def test_a_hundred_thousand_usages_are_exact() -> None:
    """No random usage is ever off by a picodollar from the rational numbers of the file."""
    table = tomllib.loads(files("config").joinpath("models.toml").read_text())["models"]
    priced = [
        (
            model.price,
            rationals(table[model.id]),
            [(long["above"], rationals(long)) for long in table[model.id].get("long_prompts", [])],
        )
        for model in PRICED
        if model.id in table
    ]
    chance = random.Random(18)
    wrong = 0
    for _ in range(100_000):
        price, rates, long_prompts = chance.choice(priced)
        top = chance.choice((9, 5_000, 120_000, MAX_TOKENS))
        counts = {bucket: chance.randrange(top) for bucket in chance.choices(BUCKETS, k=3)}
        usage = usage_of(tuple(counts.get(bucket, 0) for bucket in BUCKETS))
        for above, dearer in long_prompts:
            rates = dearer if usage.prompt > above else rates
        exact = sum((rates[bucket] * count for bucket, count in counts.items()), Fraction(0))
        assert price is not None
        wrong += exact / 10**6 != Fraction(cost_of(usage, price), 10**12)

    assert wrong == 0


# --- worked examples


WORKED = [
    ("claude-opus-5-5", Usage(input=500, cache_read=100, cache_write=400, output=10), "0.00422"),
    (
        "claude-opus-5-5",
        Usage(input=500, cache_read=100, cache_write_1h=400, output=10),
        "0.00542",
    ),
    ("gpt-5.4", Usage(input=300_000, output=1_000), "1.5225"),
    ("gpt-5.4", Usage(input=272_000, output=1_000), "0.695"),
    ("gpt-5.4", Usage(input=1, cache_read=272_000, output=1_000), "0.158505"),
    ("gpt-4o", Usage(input=9, output=12), "0.0001425"),
    ("claude-haiku-5-5", Usage(input=100_001, output=1), "0.050003"),
    ("text-embedding-3-small", Usage(input=5), "0.0000001"),
    ("gpt-audio", Usage(input=10, audio_input=100, output=5, audio_output=50), "0.006475"),
    ("openai/gpt-oss-20b", Usage(cache_read=1), "0.0000000375"),
]


@pytest.mark.parametrize(("model", "usage", "expected"), WORKED)
def test_worked_examples(model: str, usage: Usage, expected: str) -> None:
    """By hand, from the providers' price pages."""
    assert expected == dollars(cost_of(usage, price_of(model)))


def test_the_tier_that_was_billed_sets_the_price() -> None:
    """Flex is half, priority dearer, and a tier without a price costs what the standard does."""
    usage, price = Usage(input=1_000_000, output=100_000), price_of("gpt-4o")
    flexible = price_of("gpt-5")

    assert dollars(cost_of(usage, price)) == "3.5"
    assert dollars(cost_of(usage, price, "priority")) == "5.95"
    assert cost_of(usage, flexible) == 2 * cost_of(usage, flexible, "flex")
    for tier in (None, "", "auto", "default", "scale", "batch", "on_demand", "nonsense"):
        assert cost_of(usage, price) == cost_of(usage, price, tier)


def test_a_bucket_without_a_price_costs_what_the_plain_one_does() -> None:
    """Nothing is free for want of a row in the table; an hour's write costs what a short one does."""
    plain = Price(Rates(input=3, output=7))
    writes = Price(Rates(input=3, output=7, cache_write=4))

    assert cost_of(Usage(1, 1, 1, 1, 1, 1, 1), plain) == 5 * 3 + 2 * 7
    assert cost_of(Usage(1, 1, 1, 1, 1, 1, 1), writes) == 3 * 3 + 2 * 4 + 2 * 7
    assert cost_of(Usage(cache_read=9), Price(Rates(input=3, output=7, cache_read=0))) == 0


def test_the_highest_bound_that_was_passed_decides() -> None:
    """A long prompt re-prices the whole request, the answer too, from the first token past the bound."""
    price = Price(
        Rates(input=1, output=10),
        (LongPrompt(100, Rates(2, 20)), LongPrompt(200, Rates(3, 30))),
    )

    costs = [cost_of(Usage(input=n, output=1), price) for n in (100, 101, 200, 201)]

    assert costs == [110, 222, 420, 633]


def test_reasoning_is_paid_as_output_and_only_once() -> None:
    assert cost_of(Usage(output=9), price_of("o3")) == cost_of(
        Usage(output=9, reasoning=9), price_of("o3")
    )


def test_the_prompt_s_estimate_knows_long_prompts() -> None:
    """It is the cost of that many plain tokens."""
    price = price_of("gpt-5.4")

    assert [dollars(prompt_estimate(n, price)) for n in (0, 1, 300_000)] == [
        "0",
        "0.0000025",
        "1.5",
    ]


DOLLARS = [
    (0, "0"),
    (1, "0.000000000001"),
    (10, "0.00000000001"),
    (37_500, "0.0000000375"),
    (10_000_000, "0.00001"),
    (4_220_000_000, "0.00422"),
    (10**12 - 1, "0.999999999999"),
    (10**12, "1"),
    (10**13, "10"),
    (10**14 + 10**11, "100.1"),
    (123_456_789 * 10**12 + 1, "123456789.000000000001"),
    (-1, "-0.000000000001"),
    (-15 * 10**11, "-1.5"),
]


@pytest.mark.parametrize(("picodollars", "expected"), DOLLARS)
def test_dollars_are_plain_decimals(picodollars: int, expected: str) -> None:
    """Never an exponent, never a trailing zero."""
    assert expected == dollars(picodollars)


@given(st.integers(-(10**30), 10**30))
def test_dollars_lose_nothing(picodollars: int) -> None:
    text = dollars(picodollars)

    assert Fraction(picodollars, 10**12) == Fraction(text)
    assert "e" not in text.lower()
    assert text == format(Decimal(text), "f")


@pytest.mark.parametrize(
    ("text", "expected"), [("", 0), ("a", 1), ("abcd", 1), ("abcde", 2), ("x" * 4_000, 1_000)]
)
def test_an_estimate_is_a_quarter_of_the_characters(text: str, expected: int) -> None:
    assert expected == estimate_tokens(text)


# --- what providers report


READABLE: list[tuple[dict[str, Any], Usage]] = [
    (
        {"prompt_tokens": 9, "completion_tokens": 12, "total_tokens": 21},
        Usage(input=9, output=12),
    ),
    ({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}, Usage()),
    ({"prompt_tokens": 8, "total_tokens": 8}, Usage(input=8)),
    (
        {"prompt_tokens": 8, "completion_tokens": None, "total_tokens": 11},
        Usage(input=8, output=3),
    ),
    (
        {
            "prompt_tokens": 1_000,
            "completion_tokens": 300,
            "prompt_tokens_details": {
                "cached_tokens": 400,
                "cache_write_tokens": 200,
                "audio_tokens": 100,
                "text_tokens": 900,
            },
            "completion_tokens_details": {
                "reasoning_tokens": 64,
                "audio_tokens": 50,
                "accepted_prediction_tokens": 5,
                "rejected_prediction_tokens": 7,
            },
        },
        Usage(
            input=300,
            cache_read=400,
            cache_write=200,
            audio_input=100,
            output=250,
            audio_output=50,
            reasoning=64,
        ),
    ),
    (
        {
            "prompt_tokens": 5,
            "completion_tokens": 6,
            "prompt_tokens_details": None,
            "completion_tokens_details": {"reasoning_tokens": None},
        },
        Usage(input=5, output=6),
    ),
    (
        {
            "queue_time": 0.04,
            "prompt_time": 0.001,
            "total_time": 0.5,
            "prompt_tokens": 20,
            "completion_tokens": 4,
            "total_tokens": 24,
            "prompt_tokens_details": {"cached_tokens": 16},
        },
        Usage(input=4, cache_read=16, output=4),
    ),
    (
        {"prompt_tokens": MAX_TOKENS, "completion_tokens": MAX_TOKENS},
        Usage(input=MAX_TOKENS, output=MAX_TOKENS),
    ),
]


@pytest.mark.parametrize(("document", "expected"), READABLE)
def test_usage_comes_in_disjoint_buckets(document: dict[str, Any], expected: Usage) -> None:
    """Parts are taken out of their sums; nothing at all of a kind is data, as is 0."""
    assert expected == openai_usage(document)


def test_parts_never_exceed_their_sums() -> None:
    """A provider that contradicts itself is believed in its sums, so nobody pays for more than was read."""
    found = openai_usage(
        {
            "prompt_tokens": 100,
            "completion_tokens": 10,
            "prompt_tokens_details": {
                "cached_tokens": 80,
                "cache_write_tokens": 30,
                "audio_tokens": 90,
            },
            "completion_tokens_details": {"audio_tokens": 40, "reasoning_tokens": 50},
        }
    )

    assert Usage(cache_read=80, cache_write=20, audio_output=10) == found


NO_COUNTS = [
    -1,
    -(10**18),
    1.0,
    1.5,
    float("nan"),
    float("inf"),
    "12",
    "",
    True,
    False,
    [],
    {},
    [1],
]
NO_COUNTS += [MAX_TOKENS + 1, 10**12, 10**40]


@pytest.mark.parametrize("bad", NO_COUNTS, ids=repr)
def test_a_number_that_is_no_count_spoils_the_usage(bad: Any) -> None:
    """Never a crash, never a negative bill: the caller estimates and marks it so."""
    good = {"prompt_tokens": 5, "completion_tokens": 6, "total_tokens": 11}
    spoilt = [good | {"prompt_tokens": bad}, good | {"completion_tokens": bad}]
    spoilt += [
        good | {outer: {name: bad}}
        for outer, name in (
            ("prompt_tokens_details", "cached_tokens"),
            ("prompt_tokens_details", "cache_write_tokens"),
            ("prompt_tokens_details", "audio_tokens"),
            ("completion_tokens_details", "reasoning_tokens"),
            ("completion_tokens_details", "audio_tokens"),
        )
    ]
    spoilt += [{"prompt_tokens": 5, "total_tokens": bad}]

    assert [None] * len(spoilt) == [openai_usage(document) for document in spoilt]


@pytest.mark.parametrize(
    "document",
    [
        None,
        {},
        [],
        "usage",
        7,
        True,
        {"prompt_tokens": 5},
        {"completion_tokens": 5},
        {"total_tokens": 5},
        {"prompt_tokens": None, "completion_tokens": 5},
        {"prompt_tokens": 9, "total_tokens": 8},
        {"prompt_tokens": 5, "completion_tokens": 6, "prompt_tokens_details": [1]},
        {"prompt_tokens": 5, "completion_tokens": 6, "completion_tokens_details": "none"},
    ],
    ids=repr,
)
def test_what_is_no_usage_is_none(document: Any) -> None:
    """Missing is missing, and never 0."""
    assert None is openai_usage(document)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "prompt_tokens",
                    "completion_tokens",
                    "total_tokens",
                    "prompt_tokens_details",
                    "completion_tokens_details",
                    "cached_tokens",
                    "cache_write_tokens",
                    "audio_tokens",
                    "reasoning_tokens",
                ]
            ),
            inner,
            max_size=6,
        )
    ),
    max_leaves=12,
)


@given(ANYTHING)
def test_no_document_makes_a_negative_bucket(document: Any) -> None:
    found = openai_usage(document)

    assert found is None or (
        all(0 <= getattr(found, name) <= MAX_TOKENS for name in (*BUCKETS, "reasoning"))
        and found.reasoning <= found.output
        and found.prompt == document["prompt_tokens"]
    )
