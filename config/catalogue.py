"""Reads `models.toml` and `plans.toml`, the operator's or the packaged ones, into the domain's values.

What is wrong in them is told in one line that names the file and the entry. A key nobody reads is wrong too: a
misspelt limit would be no limit.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from datetime import date
from decimal import Decimal
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import Any

from attrs import define, evolve

from domain.models import (
    ANTHROPIC,
    CHAT,
    COMPLETION,
    EMBEDDING,
    GROQ,
    OPENAI,
    ClaudeAbilities,
    LongPrompt,
    Model,
    Price,
    Rates,
)
from domain.plans import Plan
from domain.request import MODEL_NAME
from domain.routing import Catalogue

PROVIDERS = (OPENAI, ANTHROPIC, GROQ)
KINDS = (CHAT, COMPLETION, EMBEDDING)
THINKING = ("adaptive", "enabled", "disabled", "between_tools")
EFFORT = ("low", "medium", "high", "xhigh", "max")
BUCKETS = ("cache_read", "cache_write", "cache_write_1h", "audio_input", "audio_output")
PLAN_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
# Six decimals of a dollar per million tokens are whole picodollars per token.
PRICE = re.compile(r"([0-9]{1,9})(?:\.([0-9]{1,6}))?")
MOST = 2**53


class CatalogueError(Exception):
    """A file says something that cannot be meant."""

    def __init__(self, file: str, message: str) -> None:
        self.file = file
        self.message = " ".join(message.split())
        super().__init__(f"{file}: {self.message}")


def read_catalogue(folder: Path | None) -> Catalogue:
    """The version names the day of the prices and the very bytes they were read from. Raises CatalogueError."""
    file, raw = _source(folder, "models.toml")
    root = _parse(file, raw)
    as_of = root.day("as_of")
    models = [
        model for entry in root.tables("models") for model in _with_snapshots(_model(entry), entry)
    ]
    root.end()
    _refuse_doubles(file, models)
    return Catalogue(tuple(models), f"{as_of or 'undated'}-{sha256(raw).hexdigest()[:8]}")


def read_plans(folder: Path | None) -> dict[str, Plan]:
    """Plans by name. A limit left out is no limit. Raises CatalogueError."""
    root = _parse(*_source(folder, "plans.toml"))
    plans = {entry.key: _plan(entry) for entry in root.tables("plans")}
    root.end()
    return plans


@define
class _Entry:
    """A table of the file: each key is taken once, and none may be left at the end."""

    file: str
    name: str
    key: str
    left: dict[str, Any]

    def wrong(self, message: str) -> CatalogueError:
        return CatalogueError(self.file, f"{self.name}{message}")

    def end(self) -> None:
        if self.left:
            raise self.wrong(f"{next(iter(self.left))} is not a known setting")

    def text(self, key: str, default: str | None, choices: Iterable[str] = ()) -> str:
        found = self.left.pop(key, default)
        if found is None:
            raise self.wrong(f"{key} is missing")
        if type(found) is not str or (choices and found not in choices):
            raise self.wrong(f"{key} must be {_one_of(choices)}")
        return found

    def model_id(self, key: str, default: str) -> str:
        return self._checked_id(key, self.text(key, default))

    def model_ids(self, key: str) -> tuple[str, ...]:
        return tuple(self._checked_id(key, id) for id in self.texts(key, ()))

    def _checked_id(self, key: str, id: str) -> str:
        if not MODEL_NAME.fullmatch(id):
            raise self.wrong(f"{key} has an id that no request can carry")
        return id

    def texts(self, key: str, default: Iterable[str], choices: Iterable[str] = ()) -> list[str]:
        found = self.left.pop(key, list(default))
        if type(found) is not list or any(
            type(item) is not str or (choices and item not in choices) for item in found
        ):
            raise self.wrong(f"{key} must be a list, each {_one_of(choices)}")
        return found

    def flag(self, key: str, default: bool) -> bool:
        found = self.left.pop(key, default)
        if type(found) is not bool:
            raise self.wrong(f"{key} must be true or false")
        return found

    def count(self, key: str, default: int | None, least: int = 0) -> int:
        found = self.left.pop(key, default)
        if type(found) is not int or not least <= found <= MOST:
            raise self.wrong(f"{key} must be a whole number, {least} or more")
        return found

    def seconds(self, key: str) -> float | None:
        found = self.left.pop(key, None)
        if found is None:
            return None
        # By way of text, since TOML also knows nan, inf and integers beyond any float.
        number = float(str(found)) if type(found) in (int, Decimal) else 0.0
        if not 0 < number <= MOST:
            raise self.wrong(f"{key} must be a number of seconds above 0")
        return number

    def day(self, key: str) -> str | None:
        found = self.left.pop(key, None)
        if found is None or type(found) is date:
            return None if found is None else found.isoformat()
        try:
            return date.fromisoformat(found).isoformat()
        except (TypeError, ValueError):
            raise self.wrong(f"{key} must be a day, such as 2026-11-23") from None

    def rate(self, key: str) -> int | None:
        found = self.left.pop(key, None)
        if found is None:
            return None
        # Numbers without quotes are welcome: they arrive as exact decimals, never as floats.
        digits = PRICE.fullmatch(str(found)) if type(found) in (str, int, Decimal) else None
        if digits is None:
            raise self.wrong(f'{key} must be dollars per million tokens, such as "0.075"')
        return int(digits[1]) * 10**6 + int((digits[2] or "").ljust(6, "0"))

    def tables(self, key: str) -> list[_Entry]:
        found = self.left.pop(key, None)
        if type(found) is not dict or not all(type(item) is dict for item in found.values()):
            raise self.wrong(f"needs tables [{key}.NAME]")
        return [_Entry(self.file, f"[{key}.{name}] ", name, item) for name, item in found.items()]

    def inner(self, key: str) -> _Entry | None:
        found = self.left.pop(key, None)
        if found is not None and type(found) is not dict:
            raise self.wrong(f"{key} must be a table")
        return None if found is None else self._below(key, found)

    def inner_list(self, key: str) -> list[_Entry]:
        found = self.left.pop(key, [])
        if type(found) is not list or not all(type(item) is dict for item in found):
            raise self.wrong(f"{key} must be a list of tables")
        return [self._below(key, item) for item in found]

    def _below(self, key: str, table: dict[str, Any]) -> _Entry:
        return _Entry(self.file, f"{self.name}{key}: ", key, table)


def _one_of(choices: Iterable[str]) -> str:
    return f"one of {', '.join(choices)}" if choices else "text"


def _source(folder: Path | None, name: str) -> tuple[str, bytes]:
    if folder is not None:
        try:
            return str(folder / name), (folder / name).read_bytes()
        except FileNotFoundError:
            pass
        except OSError as exc:
            raise CatalogueError(str(folder / name), f"cannot be read: {exc.strerror}") from exc
    return name, files("config").joinpath(name).read_bytes()


def _parse(file: str, raw: bytes) -> _Entry:
    try:
        document = tomllib.loads(raw.decode(), parse_float=Decimal)
    except ValueError as exc:
        raise CatalogueError(file, f"is not valid TOML: {exc}") from exc
    return _Entry(file, "", "", document)


def _model(entry: _Entry) -> Model:
    if not MODEL_NAME.fullmatch(entry.key):
        raise entry.wrong("has an id that no request can carry")
    provider = entry.text("provider", None, PROVIDERS)
    kind = entry.text("kind", CHAT, KINDS)
    return Model(
        id=entry.key,
        provider=provider,
        sent_as=entry.model_id("sent_as", entry.key),
        kind=kind,
        aliases=entry.model_ids("aliases"),
        price=_price(entry, kind),
        reasoning=entry.flag("reasoning", False),
        first_byte_timeout=entry.seconds("first_byte_timeout"),
        claude=_claude(entry) if provider == ANTHROPIC else None,
    )


def _with_snapshots(model: Model, entry: _Entry) -> list[Model]:
    """A snapshot was pinned by whoever asks for it, so unlike an alias it is sent as it stands."""
    snapshots = entry.model_ids("snapshots")
    entry.end()
    return [model, *(evolve(model, id=id, sent_as=id, aliases=()) for id in snapshots)]


def _price(entry: _Entry, kind: str) -> Price | None:
    rates = _rates(entry, kind)
    long_prompts = [
        LongPrompt(inner.count("above", None), _required_rates(inner, kind))
        for inner in entry.inner_list("long_prompts")
    ]
    tiers = _tiers(entry, kind)
    if rates is None:
        if long_prompts or tiers:
            raise entry.wrong("needs input and output beside its other prices")
        return None
    return Price(rates, tuple(sorted(long_prompts, key=lambda long: long.above)), tiers)


def _tiers(entry: _Entry, kind: str) -> tuple[tuple[str, Price], ...]:
    outer = entry.inner("service_tiers")
    if outer is None:
        return ()
    found = []
    for name in list(outer.left):
        inner = outer.inner(name)
        price = _price(inner, kind) if inner else None
        if inner is None or price is None:
            raise outer.wrong(f"{name} needs input and output")
        inner.end()
        found.append((name, price))
    return tuple(found)


def _required_rates(entry: _Entry, kind: str) -> Rates:
    rates = _rates(entry, kind)
    if rates is None:
        raise entry.wrong("needs input and output")
    entry.end()
    return rates


def _rates(entry: _Entry, kind: str) -> Rates | None:
    """None where no price at all is given."""
    buckets = {name: entry.rate(name) for name in BUCKETS}
    plain, written = entry.rate("input"), entry.rate("output")
    if kind == EMBEDDING and plain is not None and written is None:
        written = 0
    if plain is None and written is None and set(buckets.values()) == {None}:
        return None
    if plain is None or written is None:
        raise entry.wrong("needs input and output beside its other prices")
    return Rates(plain, written, **buckets)


def _claude(entry: _Entry) -> ClaudeAbilities:
    plain = ClaudeAbilities()
    inner = entry.inner("claude")
    if inner is None:
        return plain
    found = ClaudeAbilities(
        max_output=inner.count("max_output", plain.max_output, least=1),
        sampling=inner.flag("sampling", plain.sampling),
        both_samplings=inner.flag("both_samplings", plain.both_samplings),
        thinking=frozenset(inner.texts("thinking", plain.thinking, THINKING)),
        forced_tools=inner.flag("forced_tools", plain.forced_tools),
        prefill=inner.flag("prefill", plain.prefill),
        effort=frozenset(inner.texts("effort", plain.effort, EFFORT)),
        structured=inner.flag("structured", plain.structured),
        images=inner.flag("images", plain.images),
        pdf=inner.flag("pdf", plain.pdf),
    )
    inner.end()
    return found


def _refuse_doubles(file: str, models: Iterable[Model]) -> None:
    owner: dict[str, str] = {}
    for model in models:
        for name in (model.id, *model.aliases):
            if name in owner:
                raise CatalogueError(file, f"[models.{model.id}] {name} is also {owner[name]}'s")
            owner[name] = model.id


def _plan(entry: _Entry) -> Plan:
    if not PLAN_NAME.fullmatch(entry.key):
        raise entry.wrong("has a name that is not lower-case letters, digits, - and _")
    plan = Plan(
        name=entry.key,
        requests_per_minute=entry.count("requests_per_minute", 0),
        requests_per_month=entry.count("requests_per_month", 0),
        concurrent_requests=entry.count("concurrent_requests", 0),
        price_usd_per_month=entry.count("price_usd_per_month", 0),
    )
    entry.end()
    return plan
