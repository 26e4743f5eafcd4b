"""The pages a person sees: for now the front page, which says what this is and where to go next."""

from __future__ import annotations

from app.web.api import OPEN, Handler

_POLICY = "default-src 'self'; style-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"


class Page(Handler):
    """Server-rendered, works without JavaScript."""

    auth = OPEN

    def set_default_headers(self) -> None:
        super().set_default_headers()
        self.set_header("Content-Security-Policy", _POLICY)
        self.set_header("Referrer-Policy", "no-referrer")


class FrontPage(Page):
    """`GET /`."""

    auth = OPEN

    def get(self) -> None:
        base = f"{self.settings['public_url'].rstrip('/')}/v1"
        self.render("front.html", base_url=base, version=self.rooms.version)
