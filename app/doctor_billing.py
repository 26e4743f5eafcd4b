"""What the doctor says of bills and mails: whether they are set up whole, and whether those who carry them are there.

Servers are only connected to: nothing is asked of them, and no key is shown to them.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final
from urllib.parse import urlsplit

from app.findings import BROKEN, OFF, OK, PATIENCE, WARNING, Finding
from config.catalogue import CatalogueError, read_plans
from config.settings import Settings

_STRIPE: Final = "https://api.stripe.com"
_PORTS: Final = {"http": 80, "https": 443, "smtp": 587, "smtps": 465}


def billing(settings: Settings) -> list[Finding]:
    """Half a set-up takes money for nothing, or gives something for no money."""
    name, given = "billing", settings.billing
    if given.secret_key is None and given.webhook_secrets is None:
        return [_without_stripe(settings)]
    found = []
    if given.webhook_secrets is None:
        message = "what is paid would not be heard of: STRIPE_WEBHOOK_SECRET is not set"
        mend = "Set it to the signing secret of the webhook in Stripe's dashboard."
        found.append(Finding(name, BROKEN, message, mend))
    if given.secret_key is None:
        message = "Stripe is heard, but nobody can order: STRIPE_SECRET_KEY is not set"
        found.append(Finding(name, WARNING, message, "Set it, or remove STRIPE_WEBHOOK_SECRET."))
    found += _prices(settings)
    return found or [Finding(name, OK, f"{len(given.prices)} plans have a price at Stripe")]


async def stripe(settings: Settings) -> list[Finding]:
    if settings.billing.secret_key is None:
        return []
    url = settings.billing.api_base or _STRIPE
    return [await _reached("stripe", url, "STRIPE_API_BASE")]


async def mail(settings: Settings) -> list[Finding]:
    name, url = "mail", settings.notices.smtp_url
    if url is not None:
        reached = await _reached(name, url.reveal(), "SMTP_URL")
        if reached.state != OK or settings.notices.mail_from is not None:
            return [reached]
        mend = "Set it to an address that your mail server may send from."
        message = "WATCHLLM_MAIL_FROM is not set: mails come from no-reply at the public host"
        return [Finding(name, WARNING, message, mend)]
    message = "SMTP_URL is not set: mails go to the log"
    if settings.billing.secret_key is None:
        return [Finding(name, OFF, message)]
    mend = "Set it, so that customers hear of failed payments."
    return [Finding(name, WARNING, message, mend)]


def _without_stripe(settings: Settings) -> Finding:
    priced = [variable for variable, (_, price) in _variables(settings).items() if price]
    if not priced:
        return Finding("billing", OFF, "STRIPE_SECRET_KEY is not set: nobody can pay")
    message = f"STRIPE_SECRET_KEY is not set, though {' and '.join(priced)} is"
    return Finding("billing", WARNING, message, "Set it, or remove the prices.")


def _prices(settings: Settings) -> list[Finding]:
    """Prices against plans.toml, both ways. A file that cannot be read is told of elsewhere."""
    try:
        plans = read_plans(settings.config_dir)
    except CatalogueError:
        return []
    found = []
    variables = _variables(settings)
    for variable, (plan, price) in variables.items():
        known = plans.get(plan)
        if price and (known is None or not known.price_usd_per_month):
            why = "has no such plan" if known is None else "gives that plan away for nothing"
            message = f"{variable} is set, but plans.toml {why}"
            mend = f"Correct plans.toml in WATCHLLM_CONFIG_DIR, or remove {variable}."
            found.append(Finding("billing", WARNING, message, mend))
    buyable = {plan: variable for variable, (plan, _) in variables.items()}
    priced = {plan for plan, price in variables.values() if price}
    for plan, told in plans.items():
        if told.price_usd_per_month and plan not in priced:
            message = f"nobody can buy the plan {plan}: it has no price at Stripe"
            mend = f"Set {buyable[plan]}." if plan in buyable else _nameless(plan, buyable)
            found.append(Finding("billing", WARNING, message, mend))
    given = [price for _, price in variables.values() if price]
    if len(given) != len(set(given)):
        message = "two plans have the same price id, so one of them is never recognised"
        mend = f"Correct {' and '.join(variables)}."
        found.append(Finding("billing", BROKEN, message, mend))
    return found


def _nameless(plan: str, buyable: dict[str, str]) -> str:
    return f"Only {' and '.join(buyable)} can have one: call {plan} so, or let it cost nothing."


def _variables(settings: Settings) -> dict[str, tuple[str, str | None]]:
    return {
        "STRIPE_PRICE_STARTER": ("starter", settings.billing.price_starter),
        "STRIPE_PRICE_PRO": ("pro", settings.billing.price_pro),
    }


async def _reached(name: str, url: str, variable: str) -> Finding:
    parts = urlsplit(url)
    try:
        async with asyncio.timeout(PATIENCE):
            _, writer = await asyncio.open_connection(
                parts.hostname, parts.port or _PORTS[parts.scheme]
            )
    except (OSError, UnicodeError) as exc:  # TimeoutError is an OSError
        mend = f"Check {variable} and this machine's way out."
        return Finding(name, BROKEN, f"cannot be reached: {type(exc).__name__}", mend)
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
    return Finding(name, OK, "takes connections")
