"""Where owners want to be told: what they may give."""

from __future__ import annotations

import re

from attrs import evolve

from domain.channels import check_channel
from domain.errors import InvalidRequest
from domain.notices import Contact

_MAIL = re.compile(r"[^@\s,;<>\"()\\]{1,64}@[A-Za-z0-9.-]{1,190}")
NONE = "none"


def changed(
    before: Contact, *, email: str | None, channel: str | None, reports: bool | None
) -> Contact:
    """With what was given anew; None leaves it, `none` takes it away. Raises InvalidRequest."""
    after = before
    if email is not None:
        after = evolve(after, email="" if email == NONE else _address(email))
    if channel is not None:
        after = evolve(after, channel="" if channel == NONE else check_channel(channel))
    if reports is not None:
        after = evolve(after, reports=reports)
    return after


def _address(given: str) -> str:
    if not (_MAIL.fullmatch(given) and given.isascii() and given.isprintable()):
        raise InvalidRequest("The mail address looks like name@example.com.", param="email")
    return given
