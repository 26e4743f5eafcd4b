"""The words of each notice: plain, kind and short. As a mail's text and HTML, and as one message for a channel."""

from __future__ import annotations

from domain.value import value


@value
class Words:
    """`message` is one or two lines without markup. `unsubscribe` is a URL, empty where the notice is not optional."""

    subject: str
    text: str
    html: str
    message: str
    unsubscribe: str = ""
