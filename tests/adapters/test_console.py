"""Mails where none can be sent."""

from __future__ import annotations

import logging

from adapters.notify.console import Console
from domain.notices import MAIL, PLAN_CHANGED, Delivery
from domain.words import Words


async def test_one_line_has_it_all(caplog):
    """Whom it was for, its subject and its text, so that a developer sees what customers would."""
    caplog.set_level(logging.INFO)
    sent = Delivery("n", MAIL, "ann@customer.test", PLAN_CHANGED, "prj_1", {}, 0.0, 0.0)

    await Console().send(sent, Words("Your plan", "It has\nchanged.\n", "<p>", "m"))

    [line] = caplog.records
    assert "info" == line.levelname.lower()
    assert ("ann@customer.test", "Your plan", "It has\nchanged.\n") == (
        line.recipient,
        line.subject,
        line.text,
    )
