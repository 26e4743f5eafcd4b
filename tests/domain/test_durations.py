"""Durations as people write them."""

from __future__ import annotations

import pytest

from domain.durations import seconds


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("30s", 30),
        ("15m", 900),
        ("24h", 86_400),
        ("30d", 2_592_000),
        ("90", 90),
        ("0s", 0),
        ("0", 0),
        ("1.5h", 5_400),
        ("0.05", 0.05),
        ("50ms", 0.05),
        (" 24h ", 86_400),
    ],
)
def test_a_duration_in_seconds(text: str, expected: float) -> None:
    assert pytest.approx(expected) == seconds(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "s",
        "-1s",
        "+1s",
        "1e9",
        "nan",
        "inf",
        "1 h",
        "1h30m",
        "1w",
        "24H",
        "٣s",
        "1_000",
        ".5s",
        "9" * 13,
    ],
)
def test_what_is_not_a_duration(text: str) -> None:
    """Anything else is refused with the forms that work; nothing is guessed."""
    with pytest.raises(ValueError, match="30s, 15m, 24h, 30d"):
        seconds(text)
