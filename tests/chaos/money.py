"""R18: a million bills against exact fractions, and a provider that counts nonsense."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from random import Random
from typing import Any

from attrs import define

from config.catalogue import read_catalogue
from domain.models import Price
from domain.pricing import cost_of, openai_usage
from domain.usage import Usage
from tests.chaos.books import Question, streamed
from tests.chaos.ledger import read
from tests.chaos.stage import Stage
from tests.chaos.trial import Trial
from tests.support.upstream import Call, Reply

MODELS = 200
BUCKETS = ("cache_read", "cache_write", "audio_input", "audio_output")
NONSENSE: tuple[Any, ...] = (-1, 10**12, "12", 1.5, True, None, [], 2**70)

Table = dict[str, str]
"""Dollars per million tokens by bucket, as they are written in a table of models."""


@define(frozen=True)
class Model:
    """What an operator wrote down."""

    rates: Table
    above: int
    long: Table
    tier: Table

    def toml(self, name: str) -> str:
        lines = [f'[models."{name}"]', 'provider = "openai"']
        lines += [f'{bucket} = "{rate}"' for bucket, rate in self.rates.items()]
        lines.append(f"long_prompts = [{{ above = {self.above}, {_inline(self.long)} }}]")
        lines.append(f"service_tiers.flex = {{ {_inline(self.tier)} }}")
        return "\n".join(lines)


async def r18(stage: Stage, trial: Trial) -> None:
    chance = trial.chance("bills")
    models = [_model(chance) for _ in range(MODELS)]
    prices = _read_back(models)
    _billed(trial, chance, models, prices, trial.scale(50_000, 1_000_000), cost_of)
    with trial.control("whole numbers", "wrong bills") as broken:
        _billed(broken, chance, models, prices, 5_000, _as_floats)
    await _nonsense(stage, trial)


def _model(chance: Random) -> Model:
    def table() -> Table:
        known = ["input", "output", *(name for name in BUCKETS if chance.random() < 0.6)]
        return {name: _rate(chance) for name in known}

    return Model(table(), chance.choice((1_000, 128_000, 272_000)), table(), table())


def _rate(chance: Random) -> str:
    digits = chance.randrange(7)
    whole = chance.choice((0, 0, 1, chance.randrange(1_000)))
    return f"{whole}.{chance.randrange(10**digits):0{digits}}" if digits else str(whole)


def _inline(table: Table) -> str:
    return ", ".join(f'{bucket} = "{rate}"' for bucket, rate in table.items())


def _read_back(models: list[Model]) -> list[Price]:
    with tempfile.TemporaryDirectory(prefix="watchllm-chaos-") as folder:
        text = "\n".join(model.toml(f"m{number}") for number, model in enumerate(models))
        (Path(folder) / "models.toml").write_text(f'as_of = "2026-01-01"\n{text}')
        known = read_catalogue(Path(folder)).by_name
    found = [known[f"m{number}"].price for number in range(len(models))]
    return [price for price in found if price is not None]


def _billed(
    trial: Trial,
    chance: Random,
    models: list[Model],
    prices: list[Price],
    times: int,
    cost: Callable[[Usage, Price, str | None], int],
) -> None:
    wrong: list[object] = []
    trusted: list[object] = []
    for _ in range(times):
        number = chance.randrange(len(models))
        tier = chance.choice((None, None, "default", "flex"))
        document, sane = _counted(chance)
        usage = openai_usage(document)
        if not sane or usage is None:
            if sane or usage is not None:
                trusted.append(document)
            continue
        told = cost(usage, prices[number], tier)
        if told < 0 or told != _exact(models[number], document, tier):
            wrong.append((document, models[number], tier, told))
    trial.tell(f"{times} bills")
    trial.none(wrong, "wrong bills")
    trial.none(trusted, "nonsense taken for a count, or a count for nonsense")


def _counted(chance: Random) -> tuple[dict[str, Any], bool]:
    """A usage object as OpenAI sends it, and whether all its numbers are counts."""
    most = chance.choice((10, 5_000, 400_000, 10**9))
    prompt, output = chance.randrange(most), chance.randrange(most)
    document: dict[str, Any] = {
        "prompt_tokens": prompt,
        "completion_tokens": output,
        "total_tokens": prompt + output,
    }
    if chance.random() < 0.7:
        # Parts that exceed their sum, now and then: the sums hold.
        document["prompt_tokens_details"] = {
            name: chance.randrange(prompt + 2)
            for name in ("cached_tokens", "cache_write_tokens", "audio_tokens")
            if chance.random() < 0.5
        }
    if chance.random() < 0.5:
        document["completion_tokens_details"] = {
            name: chance.randrange(output + 2)
            for name in ("audio_tokens", "reasoning_tokens")
            if chance.random() < 0.5
        }
    if chance.random() > 0.02:
        return document, True
    bad = chance.choice(NONSENSE)
    field = chance.choice(("prompt_tokens", "prompt_tokens_details"))
    if field == "prompt_tokens":
        document[field] = bad
    else:
        document[field] = {"cached_tokens": bad}
        # A detail that is null was not told, which is none.
        return document, bad is None
    return document, False


def _exact(model: Model, document: dict[str, Any], tier: str | None) -> Fraction:
    """Picodollars, from the decimal text of the table and the provider's document alone."""
    details = document.get("prompt_tokens_details") or {}
    prompt, output = document["prompt_tokens"], document["completion_tokens"]
    read = min(details.get("cached_tokens") or 0, prompt)
    write = min(details.get("cache_write_tokens") or 0, prompt - read)
    heard = min(details.get("audio_tokens") or 0, prompt - read - write)
    spoken = min((document.get("completion_tokens_details") or {}).get("audio_tokens", 0), output)
    table = model.tier if tier == "flex" else model.long if prompt > model.above else model.rates
    parts = {
        "input": (prompt - read - write - heard, "input"),
        "cache_read": (read, "input"),
        "cache_write": (write, "input"),
        "audio_input": (heard, "input"),
        "output": (output - spoken, "output"),
        "audio_output": (spoken, "output"),
    }
    dollars = sum(
        (
            count * Fraction(table.get(name, table[plain]))
            for name, (count, plain) in parts.items()
        ),
        Fraction(0),
    )
    return dollars * 10**6


def _as_floats(usage: Usage, price: Price, tier: str | None) -> int:
    """How it is where nobody minds: a sum of dollars that was a float for a moment."""
    return round(cost_of(usage, price, tier) / 1e12 * 1e12)


async def _nonsense(stage: Stage, trial: Trial) -> None:
    """Over the wire: the answer is passed on, the row is marked as estimated and never below zero."""
    async with stage.house(trial) as house:
        node = await house.started()
        told: dict[Question, Any] = {}

        def mood(question: Question, call: Call) -> Reply | None:
            bill = house.books.bill(question)
            reply = streamed(question, bill, f"the answer to {question.text}", 0.0)
            if not call.stream:
                return None
            usage = f'"prompt_tokens":{bill.fresh + bill.cached}'.encode()
            steps = [
                step.replace(usage, b'"prompt_tokens":' + told[question])
                if isinstance(step, bytes)
                else step
                for step in reply.steps
            ]
            return Reply(reply.status, reply.headers, steps, chunked=True)

        house.books.mood = mood
        words = (b"-1", b"1000000000000", b'"12"', b"1.5", b"null", b"true", b"[]", b"{}")
        for word in words:
            question = house.question()
            told[question] = word
            answer = await house.ask(node, question, stream=True)
            trial.must(answer.good, f"an answer that counted {word!r} was not passed on")
        node.signal(15)
        await node.wait(10)
        rows = await read(house.url)
        bad = [row for row in rows if not row.estimated or row.cost is None or row.cost <= 0]
        trial.must(len(rows) == len(words), f"{len(rows)} rows for {len(words)} answers")
        trial.none(bad, f"of {len(words)} nonsense counts believed")
