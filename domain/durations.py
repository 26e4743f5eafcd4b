"""Durations as people write them."""

from __future__ import annotations

import re

_FORM = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,6})?)(ms|s|m|h|d)?")
_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}


def seconds(text: str) -> float:
    """`30s`, `15m`, `24h`, `30d`, `50ms`, or a plain number of seconds. ValueError for anything else."""
    found = _FORM.fullmatch(text.strip())
    if found is None:
        raise ValueError(
            "a duration is written 30s, 15m, 24h, 30d or as a plain number of seconds"
        )
    number, unit = found.groups()
    return float(number) * _UNITS[unit or "s"]
