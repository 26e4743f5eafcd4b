"""Request ids: version 7 UUIDs that sort by time."""

from __future__ import annotations

from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st

from domain.requestid import RANDOM_BYTES, request_id

MOMENTS = st.floats(0, 2**47 / 1000, allow_nan=False)
CHANCE = st.binary(min_size=RANDOM_BYTES, max_size=RANDOM_BYTES)


def test_the_example_of_the_standard():
    """RFC 9562, appendix A.6: 2022-02-22 19:22:22 UTC."""
    random = bytes.fromhex("0cc3 98c4dc0c0c07398f".replace(" ", ""))

    assert "017f22e2-79b0-7cc3-98c4-dc0c0c07398f" == request_id(1645557742.0, random)


@settings(deadline=None)
@given(MOMENTS, CHANCE)
def test_it_is_a_version_7_uuid(now, random):
    """Version and variant are right whatever the dice say, and the time can be read back."""
    made = UUID(request_id(now, random))

    assert (7, "specified in RFC 4122") == (made.version, made.variant)
    assert int(now * 1000) == made.int >> 80


@settings(deadline=None)
@given(MOMENTS, CHANCE, CHANCE)
def test_later_ids_sort_later(now, earlier, later):
    """As texts, too: the ledger's primary key grows at its end."""
    assert request_id(now, earlier) < request_id(now + 0.002, later)


@settings(deadline=None)
@given(CHANCE, CHANCE)
def test_chance_makes_the_difference(one, other):
    """74 of the 80 bits are used, so equal ids mean equal dice but for those six."""
    same = request_id(0.0, one) == request_id(0.0, other)
    masked = [bytes([dice[0] & 0x0F, dice[1], dice[2] & 0x3F, *dice[3:]]) for dice in (one, other)]

    assert same == (masked[0] == masked[1])
