"""Mails where none can be sent: one log line each."""

from __future__ import annotations

import logging

from domain.notices import Delivery
from domain.words import Words

log = logging.getLogger(__name__)


class Console:
    """Takes everything. For development, and for installations without SMTP_URL."""

    async def send(self, delivery: Delivery, words: Words, /) -> None:
        log.info(
            "a mail, not sent: SMTP_URL is not set",
            extra={"recipient": delivery.recipient, "subject": words.subject, "text": words.text},
        )

    async def aclose(self) -> None:
        """There is nothing to close."""
