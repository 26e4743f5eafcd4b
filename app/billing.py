"""Bills and notices, put together as the settings say: for the running service, and for the command line."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Coroutine, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from attrs import define

from adapters.no_billing import NoBilling
from app.services import allowances, billing, weekly
from app.services.alarms import Alarms
from app.services.allowances import Allowances
from app.services.background import Background
from app.services.billing import Billing
from app.services.chores import repeat
from app.services.outbox import Outbox
from app.services.weekly import WeeklyReports
from config.secrets import Secret, SettingError, derive
from config.settings import Settings
from domain import channels, words
from domain.errors import Unavailable
from domain.notices import PROVIDER_KEY_REFUSED, Delivery, Notice
from domain.plans import Plan
from domain.unsubscribe import token
from domain.words import Links, Words
from ports.billing import BillingGateway
from ports.notify import Notifier

if TYPE_CHECKING:
    from app.storage import Storage

Clock = Callable[[], float]
SPREAD = 1 << 20
AGAIN = 10.0
"""Seconds until a notice is posted again that the database did not take."""


@define
class Office:
    """What sends notices and takes money. `loops` run for ever."""

    billing: Billing
    outbox: Outbox
    loops: list[Callable[[], Coroutine[Any, Any, None]]]

    async def aclose(self) -> None:
        await self.outbox.aclose()
        await self.billing.gateway.aclose()


def open_office(
    settings: Settings,
    storage: Storage,
    plans: Mapping[str, Plan],
    public_url: str,
    clock: Clock,
) -> Office:
    outbox = _outbox(settings, storage, public_url, clock)
    money = open_billing(settings, storage, plans, public_url, clock, wake=outbox.wake)
    watched = Allowances(
        storage.projects,
        storage.reports,
        storage.billing_book,
        storage.chores,
        outbox.post,
        plans,
        clock,
    )
    reports = WeeklyReports(
        storage.projects,
        storage.reports,
        storage.contacts,
        storage.billing_book,
        storage.chores,
        outbox.post,
        clock,
    )
    chores = (
        (money.dun, billing.DUNNING_EVERY, "dunning"),
        (watched.look, allowances.EVERY, "allowances"),
        (reports.look, weekly.EVERY, "weekly reports"),
    )
    return Office(
        money, outbox, [outbox.keep_delivering, *(partial(repeat, *chore) for chore in chores)]
    )


def open_billing(
    settings: Settings,
    storage: Storage,
    plans: Mapping[str, Plan],
    public_url: str,
    clock: Clock,
    *,
    wake: Callable[[], None] = lambda: None,
) -> Billing:
    return Billing(
        gateway=_gateway(settings, public_url),
        book=storage.billing_book,
        chores=storage.chores,
        plans=plans,
        team=tuple(_team(settings)),
        grace=settings.billing.grace,
        clock=clock,
        wake=wake,
    )


def tell_of_keys(alarms: Alarms, office: Office, background: Background, clock: Clock) -> None:
    """The team hears of a provider that refuses our key: once a day, whichever processes notice."""

    async def post(notice: Notice) -> None:
        while True:
            try:
                await office.outbox.post([notice])
            except Unavailable:
                await asyncio.sleep(AGAIN)
            else:
                return

    def changed(provider: str, refused: bool) -> None:
        day = datetime.fromtimestamp(clock(), UTC).date()
        name = f"{PROVIDER_KEY_REFUSED}:{provider}:{day}"
        if refused:
            background.own(
                post(Notice(name, PROVIDER_KEY_REFUSED, "", "", {"provider": provider}))
            )

    alarms.on_provider_key = changed


def _gateway(settings: Settings, public_url: str) -> BillingGateway:
    given = settings.billing
    if given.secret_key is None and given.webhook_secrets is None:
        return NoBilling()
    from adapters.stripe.gateway import StripeGateway

    return StripeGateway(
        secret_key=None if given.secret_key is None else given.secret_key.reveal(),
        webhook_secrets=[one.reveal() for one in given.webhook_secrets or ()],
        prices=given.prices,
        api_base=given.api_base,
        public_url=public_url,
    )


def _team(settings: Settings) -> dict[str, Secret]:
    """The operator's channels by their digests."""
    urls = settings.notices.team_webhooks or ()
    return {channels.digest(url.reveal()): url for url in urls}


def _outbox(settings: Settings, storage: Storage, public_url: str, clock: Clock) -> Outbox:
    return Outbox(
        postbox=storage.postbox,
        contacts=storage.contacts,
        chores=storage.chores,
        mail=_mail(settings, public_url),
        team={digest: _channel(url, False) for digest, url in _team(settings).items()},
        channel=lambda url: _channel(Secret(url), True),
        words=_words(settings, storage, public_url),
        clock=clock,
        chance=lambda: secrets.randbelow(SPREAD) / SPREAD,
    )


def _mail(settings: Settings, public_url: str) -> Notifier:
    given = settings.notices
    if given.smtp_url is None:
        from adapters.notify.console import Console

        return Console()
    from adapters.notify.smtp import Smtp

    host = urlsplit(public_url).hostname or ""
    # An IPv6 address is no host of mail addresses as they are written here.
    sender = f"WatchLLM <no-reply@{'localhost' if ':' in host else host}>"
    try:
        return Smtp(given.smtp_url.reveal(), given.mail_from or sender)
    except ValueError as exc:
        what = "must be a mail address, with a name before it or not"
        raise SettingError("WATCHLLM_MAIL_FROM", what) from exc


def _channel(url: Secret, by_customer: bool) -> Notifier:
    from adapters.notify.channel import Channel

    return Channel(url.reveal(), by_customer=by_customer)


def _words(
    settings: Settings, storage: Storage, public_url: str
) -> Callable[[Delivery], Coroutine[Any, Any, Words]]:
    root = public_url.rstrip("/")
    key = derive(settings.master_secret(), "unsubscribe")

    async def found(delivery: Delivery) -> Words:
        project = await storage.projects.find(delivery.project) if delivery.project else None
        links = Links(root, f"{root}/unsubscribe/{token(key, delivery.project)}")
        name = "" if project is None else project.name
        return words.words(delivery.kind, delivery.facts, name, links)

    return found
