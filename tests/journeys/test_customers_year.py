"""A customer's year against a running server: from a checkout to the end, with each step's limits, mails and messages.

`pytest -s tests/journeys/test_customers_year.py` prints it as a transcript.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import aiohttp
from attrs import define, field

from domain.notices import SETTLING
from tests.support.hooks import HookSink, hook_sink
from tests.support.house import QUESTION
from tests.support.mail import MailSink, mail_sink
from tests.support.served import Served, serving
from tests.support.stripe import SECRET_KEY, SIGNING_SECRET, FakeStripe, sign
from tests.support.stripe_events import Customer, Document, body

PRICES = {"price_starter": "starter", "price_pro": "pro"}
OWNER = "owner@shop.example"
SOON = 1.0
"""Seconds within which every process knows of a new plan."""


@define
class Year:
    served: Served
    stripe: FakeStripe
    mails: MailSink
    team: HookSink
    http: aiohttp.ClientSession
    shop: Customer
    key: str
    shuffled: Random = field(factory=lambda: Random(7))

    async def deliver(self, what: str, events: list[Document]) -> None:
        """Each twice, in any order, as may happen."""
        print(f"\n== {what}: {', '.join(one['type'] for one in events)}")
        twice = [*events, *events]
        self.shuffled.shuffle(twice)
        for event in twice:
            assert 200 == await self.post(body(event))

    async def post(self, payload: bytes, secret: str = SIGNING_SECRET) -> int:
        headers = {"Stripe-Signature": sign(payload, secret, time.time())}
        async with self.http.post(
            f"{self.served.root}/api/webhooks/stripe", data=payload, headers=headers
        ) as answer:
            return answer.status

    async def command(self, *words: str) -> str:
        """Beside the loop, on which the payment provider lives."""
        said = await asyncio.to_thread(self.served.command, *words)
        print(f"$ watchllm {' '.join(words)}\n  {said.strip()}")
        return said

    async def may_ask(self, expected: int) -> None:
        """Waits until a request is told that its project may ask so often a minute."""
        seen = -1
        began = time.monotonic()
        while seen != expected and time.monotonic() - began < SOON:
            async with self.http.post(
                f"{self.served.root}/v1/chat/completions",
                json=QUESTION,
                headers={"Authorization": f"Bearer {self.key}"},
            ) as answer:
                assert 200 == answer.status
                seen = int(answer.headers["x-ratelimit-limit-requests"])
            await asyncio.sleep(0.2)
        assert expected == seen
        print(f"   may ask {seen} times a minute, after {time.monotonic() - began - 0.2:.1f} s")

    async def project(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(await self.command("billing", "show", "shop", "--json"))
        return found


@asynccontextmanager
async def year(folder: Path) -> AsyncIterator[Year]:
    async with AsyncExitStack() as stack:
        stripe = await stack.enter_async_context(FakeStripe())
        mails = await stack.enter_async_context(mail_sink())
        team = await stack.enter_async_context(hook_sink())
        http = await stack.enter_async_context(aiohttp.ClientSession())
        served = stack.enter_context(
            serving(
                folder,
                STRIPE_SECRET_KEY=SECRET_KEY,
                STRIPE_WEBHOOK_SECRET=f"whsec_old,{SIGNING_SECRET}",
                STRIPE_API_BASE=stripe.url,
                STRIPE_PRICE_STARTER="price_starter",
                STRIPE_PRICE_PRO="price_pro",
                SMTP_URL=f"smtp://127.0.0.1:{mails.port}",
                WATCHLLM_MAIL_FROM="WatchLLM <billing@gateway.example>",
                WATCHLLM_TEAM_WEBHOOKS=team.url,
            )
        )
        made = json.loads(
            await asyncio.to_thread(
                served.command, "project", "create", "shop", "--plan", "free", "--json"
            )
        )
        key = json.loads(
            await asyncio.to_thread(
                served.command, "key", "create", "shop", "--kind", "test", "--json"
            )
        )["key"]
        shop = Customer(made["id"], PRICES, email=OWNER, now=time.time())
        stripe.customers.append(shop)
        yield Year(served, stripe, mails, team, http, shop, key)


async def test_a_customers_year(tmp_path: Path) -> None:
    """Checkout, upgrade, a failed payment, recovery, a dispute, the end: each plan holds within a second, and the owner
    and the team hear of each thing once.
    """
    async with year(tmp_path) as its:
        shop = its.shop
        await its.may_ask(10)
        assert "https://checkout.stripe.com/" in await its.command(
            "billing", "checkout", "shop", "starter"
        )
        order = its.stripe.requests[-1]
        assert (shop.project, "price_starter") == (
            order.form["client_reference_id"],
            order.form["line_items[0][price]"],
        )
        await its.deliver("checkout", shop.checkout("starter"))
        await its.may_ask(50)

        shop.wait(1)
        before = len(shop.events)
        await its.command("billing", "change", "shop", "pro")
        await its.deliver("upgrade", shop.events[before:])
        await its.may_ask(200)

        shop.wait(1)
        await its.deliver("payment fails", shop.fail_payment())
        await its.may_ask(200)
        assert "past_due" == (await its.project())["subscriptions"][0]["status"]

        shop.wait(1)
        await its.deliver("payment recovers", shop.recover())
        await its.may_ask(200)

        shop.wait(1)
        await its.deliver("dispute", shop.dispute())
        await its.deliver("dispute won", shop.dispute_closed("won"))

        shop.wait(1)
        before = len(shop.events)
        await its.command("billing", "cancel", "shop")
        await its.deliver("cancellation", shop.events[before:])
        await its.may_ask(200)
        shop.wait(1)
        await its.deliver("the period ends", shop.cancel())
        await its.may_ask(10)

        # Nothing of it may be forged.
        assert 400 == await its.post(body(shop.renew()[0]), "whsec_forged")
        await its.may_ask(10)

        await _rows_are_right(its)
        await _everybody_was_told(its)


async def _rows_are_right(its: Year) -> None:
    found = await its.project()
    assert ("free", its.shop.customer, OWNER) == tuple(
        found[name] for name in ("plan", "customer", "email")
    )
    [subscription] = found["subscriptions"]
    assert (its.shop.subscription, "canceled", "pro") == tuple(
        subscription[name] for name in ("id", "status", "plan")
    )
    logged = [event["id"] for event in found["events"]]
    sent = [event["id"] for event in its.shop.events[:-2]]
    assert sorted(sent) == sorted(logged), "each once, and the forged one not at all"


MAILS = {
    "plan_changed": 3,
    "payment_failed": 1,
    "payment_recovered": 1,
    "cancellation_scheduled": 1,
}
MESSAGES = {**MAILS, "dispute_opened": 1, "dispute_closed": 1}


async def _everybody_was_told(its: Year) -> None:
    """Once of each thing, and nobody else of anything."""
    print(f"\n== {SETTLING:.0f} seconds later")
    until = time.monotonic() + SETTLING + 20
    while time.monotonic() < until and len(its.mails.mails) < sum(MAILS.values()):
        await asyncio.sleep(0.2)
    listed = json.loads(
        await its.command("notices", "list", "--state", "waiting", "--state", "dead", "--json")
    )
    assert [] == listed
    for mail in its.mails.mails:
        print(f"   mail to {', '.join(mail.recipients)}: {mail.message['Subject']}")
    for post in its.team.posts:
        print(f"   team: {post.document['text']!r}")
    sent = json.loads(
        await asyncio.to_thread(its.served.command, "notices", "list", "--state", "sent", "--json")
    )
    assert MAILS == Counter(one["kind"] for one in sent if one["channel"] == "mail")
    assert MESSAGES == Counter(one["kind"] for one in sent if one["channel"] == "team")
    assert sum(MAILS.values()) == len(its.mails.mails)
    assert sum(MESSAGES.values()) == len(its.team.posts)
    assert {OWNER} == {one for mail in its.mails.mails for one in mail.recipients}
    assert all("billing@gateway.example" in mail.sender for mail in its.mails.mails)
    ids = {mail.message["Message-ID"] for mail in its.mails.mails}
    assert len(its.mails.mails) == len(ids)
    assert "error" not in {json.loads(line)["level"] for line in its.served.log.splitlines()}
