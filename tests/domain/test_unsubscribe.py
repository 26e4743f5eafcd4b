"""The token in a mail's unsubscribe link."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.unsubscribe import read_token, token

KEY = b"k" * 32


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_it_names_its_project(project):
    """And needs no escaping in a URL."""
    given = token(KEY, project)

    assert project == read_token(KEY, given)
    assert re.fullmatch(r"[A-Za-z0-9_-]+", given)


@given(st.text())
def test_nobody_makes_one_up(text):
    assert read_token(KEY, text) is None


def test_a_changed_one_is_none():
    """At any place, also where Base64 has bits to spare; and so is one of another key."""
    good = token(KEY, "prj_1")

    assert read_token(b"o" * 32, good) is None
    for at in range(len(good)):
        for other in "AB_-z":
            changed = good[:at] + other + good[at + 1 :]
            assert (
                read_token(KEY, changed) in ((None, "prj_1") if at == len(good) - 1 else (None,))
                or changed == good
            )


@pytest.mark.parametrize("text", ["", "=", "A" * 22, "ä", "A" * 10_000, "AAAA AAAA", "AAAA\n"])
def test_odd_texts_are_none(text):
    assert read_token(KEY, text) is None
