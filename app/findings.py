"""One finding of the doctor, and how it looks; what there is to find is `app.doctor` and `app.doctor_billing`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import attrs

from domain.value import value

OK, OFF, WARNING, BROKEN = "ok", "off", "warning", "broken"

PATIENCE: Final = 5.0
"""Seconds for one dependency to answer."""

_SIGNS: Final = {OK: "ok     ", OFF: "off    ", WARNING: "warning", BROKEN: "BROKEN "}


@value
class Finding:
    """`mend` says what to do; empty where there is nothing to do."""

    name: str
    state: str
    message: str
    mend: str = ""


def report(findings: Sequence[Finding]) -> dict[str, Any]:
    states = {one.state for one in findings}
    worst = next((state for state in (BROKEN, WARNING) if state in states), OK)
    return {"status": worst, "checks": [attrs.asdict(one) for one in findings]}


def lines(findings: Sequence[Finding]) -> list[str]:
    told = []
    for one in findings:
        told.append(f"{_SIGNS[one.state]}  {one.name}: {one.message}")
        if one.mend:
            told.append(f"         {one.mend}")
    return told
