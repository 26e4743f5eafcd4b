"""The pages a person sees: the front page, which says what this is and where to go next, and the way out of reports."""

from __future__ import annotations

from attrs import evolve

from app.web.api import OPEN, SIGNED, Handler
from domain.errors import NotFound
from domain.unsubscribe import read_token

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


class CheckoutPage(Page):
    """`/billing/paid` and `/billing/cancelled`: where Stripe sends people back. Being here proves nothing and changes nothing."""

    auth = OPEN

    def get(self, how: str) -> None:
        self.render("checkout.html", paid=how == "paid", version=self.rooms.version)


class UnsubscribePage(Page):
    """`/unsubscribe/{token}`: the token in a report's mail is all it needs. A mail program may POST by itself (RFC 8058);
    a GET changes nothing, since some programs open every link.
    """

    auth = SIGNED

    def get(self, token: str) -> None:
        self._project(token)
        self.render("unsubscribe.html", done=False, version=self.rooms.version)

    async def post(self, token: str) -> None:
        contacts = self.rooms.contacts
        contact = await contacts.contact(self._project(token))
        await contacts.keep(evolve(contact, reports=False))
        self.render("unsubscribe.html", done=True, version=self.rooms.version)

    def _project(self, token: str) -> str:
        project = read_token(self.rooms.unsubscribe_secret, token)
        if project is None:
            raise NotFound("This link is not whole; take it from the mail once more.")
        return project
