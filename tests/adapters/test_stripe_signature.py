"""Who may say that an event is Stripe's: only who signs the very bytes, with a secret of ours, now."""

from __future__ import annotations

import pytest

from adapters.stripe.signature import verify
from tests.support.stripe import sign

NOW = 1_800_000_000.0
OLD, NEW = "whsec_old", "whsec_new"
BODY = b'{"id": "evt_1"}'
GOOD = sign(BODY, NEW, NOW)
T, V1, V0 = GOOD.split(",")
FORGED = "v1=" + "0" * 64


@pytest.mark.parametrize(
    ("header", "now"),
    [
        (GOOD, NOW),
        (GOOD, NOW + 300),
        (GOOD, NOW - 300),
        (f"{T},{FORGED},{V1}", NOW),
        (f"{V1},{T}", NOW),
        (f"{T}, {V1}", NOW),
        (sign(BODY, OLD, NOW), NOW),
        (f"{T},v1=ü,v1=,v1,{V1}", NOW),
        (",".join([T, *[FORGED] * 7, V1]), NOW),
    ],
)
def test_a_genuine_one(header: str, now: float) -> None:
    """Any one signature with any one of the secrets, up to five minutes apart."""
    verify(BODY, header, (OLD, NEW), now)


@pytest.mark.parametrize(
    ("header", "now"),
    [
        ("", NOW),
        (GOOD, NOW + 301),
        (GOOD, NOW - 301),
        (V1, NOW),
        (T, NOW),
        (f"{T},{V0}", NOW),
        (f"{T},{V1.replace('v1', 'v0')}", NOW),
        (f"{T},v1=", NOW),
        (f"{T},v1=ü", NOW),
        (f"{T},v1={'ü' * 64}", NOW),
        (f"{T},{FORGED}", NOW),
        (f"{T},{V1}0", NOW),
        (f"{T},{V1.upper()}", NOW),
        (f"{T},{T},{V1}", NOW),
        (f"t=1,{T},{V1}", NOW),
        (f"t=,{V1}", NOW),
        (f"t=-1,{V1}", NOW),
        (f"t=nan,{V1}", NOW),
        (f"t=１８,{V1}", NOW),
        (f"t={'9' * 5000},{V1}", NOW),
        (f"t={NOW},{V1}", NOW),
        (f"t={NOW + 1:.0f},{V1}", NOW),
        (sign(BODY, "whsec_theirs", NOW), NOW),
        (sign(BODY, "", NOW), NOW),
        (sign(BODY + b" ", NEW, NOW), NOW),
        (",".join([T, *[FORGED] * 8, V1]), NOW),
        (",".join([T, V1, *["x=1"] * 40]), NOW),
        ("," * 10_000, NOW),
        (f"{T},{V1}" + " " * 5000, NOW),
    ],
)
def test_all_others(header: str, now: float) -> None:
    """Forged, stale, of the future, unreadable or without an end: each is a ValueError, and nothing else."""
    with pytest.raises(ValueError, match=r"^(its|no) signature"):
        verify(BODY, header, (OLD, NEW), now)


def test_bytes_are_signed() -> None:
    """A body need not be text to be judged."""
    body = b"\xff\xfe\x00"

    verify(body, sign(body, NEW, NOW), (NEW,), NOW)


def test_no_secret_proves_nothing() -> None:
    """Without a secret nothing is genuine."""
    with pytest.raises(ValueError, match="genuine"):
        verify(BODY, GOOD, (), NOW)
