"""How what is typed is read: durations, dollars and lists of names, each refused with a line that says why."""

from __future__ import annotations

from typing import Any

import click

from domain.durations import seconds
from domain.project import read_budget

AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")


class Duration(click.ParamType[float]):
    name = "duration"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        if isinstance(value, float):
            return value
        try:
            return seconds(value)
        except ValueError as exc:
            self.fail(str(exc), param, ctx)


class Dollars(click.ParamType[int]):
    name = "usd"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        try:
            return read_budget(value)
        except ValueError as exc:
            self.fail(f"{exc}.", param, ctx)


class Names(click.ParamType[tuple[str, ...]]):
    """With commas between them; a list of nothing is a mistake, since it would mean everything."""

    name = "names"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        found = tuple(dict.fromkeys(name.strip() for name in value.split(",")))
        if "" in found:
            self.fail("an empty name stands among them.", param, ctx)
        return found
