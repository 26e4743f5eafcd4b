"""`POST /api/webhooks/stripe` over HTTP, and the way out of reports: what is taken, refused, and lost by neither."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import orjson
import pytest

from config.secrets import derive
from domain.errors import Unavailable
from domain.notices import Contact
from domain.unsubscribe import token
from tests.support.fixtures import async_fixture
from tests.support.house import OpenHouse, Reply, open_house
from tests.support.stripe import SIGNING_SECRET, sign
from tests.support.stripe_events import Customer, body, subscription_updated

PATH = "/api/webhooks/stripe"
PRICES = {"price_starter": "starter", "price_pro": "pro"}
MOST = 256 * 1024


@async_fixture
async def paid_house(tmp_path: Path) -> AsyncIterator[OpenHouse]:
    async with open_house(
        tmp_path,
        STRIPE_WEBHOOK_SECRET=f"whsec_rolled,{SIGNING_SECRET}",
        STRIPE_PRICE_STARTER="price_starter",
        STRIPE_PRICE_PRO="price_pro",
    ) as opened:
        yield opened


async def post(
    house: OpenHouse, payload: bytes, *, secret: str = SIGNING_SECRET, late: float = 0.0
) -> Reply:
    signature = sign(payload, secret, time.time() - late)
    return await house.ask(raw=payload, path=PATH, key="", headers={"Stripe-Signature": signature})


async def logged(house: OpenHouse) -> int:
    [row] = await house.storage.db.rows("SELECT COUNT(*) AS number FROM billing_events")
    return int(row["number"])


async def test_without_a_secret_there_is_no_route(house: OpenHouse) -> None:
    """A forged event is never believed for want of a secret."""
    answer = await post(house, body(subscription_updated()))

    assert (404, "invalid_request_error") == (answer.status, answer.error["type"])
    assert "not set up" in answer.error["message"]


async def test_a_plan_is_everywhere_within_a_second(paid_house: OpenHouse) -> None:
    """What was bought is what the next request is told."""
    project, key = await paid_house.new_project("shop", plan="free")
    first = await paid_house.ask(None, "/v1/models", method="GET", key=key)
    assert 200 == first.status

    for event in Customer(project.id, PRICES).checkout("pro"):
        answer = await post(paid_house, body(event))
        assert (200, {"received": True, "duplicate": False}) == (answer.status, answer.document)

    question = {"model": "gpt-nothing", "messages": []}
    async with asyncio.timeout(1):
        while True:
            asked = await paid_house.ask(question, key=key)
            if asked.headers.get("x-ratelimit-limit-requests") == "200":
                break
            await asyncio.sleep(0.05)


async def test_the_same_event_is_taken_once(paid_house: OpenHouse) -> None:
    """However many arrive at the same time; each gets its 200."""
    payload = body(subscription_updated())

    answers = await asyncio.gather(*[post(paid_house, payload) for _ in range(10)])

    assert [200] * 10 == [one.status for one in answers]
    assert 1 == sum(not one.document["duplicate"] for one in answers)
    assert 1 == await logged(paid_house)


async def test_either_secret_will_do_while_it_is_rolled(paid_house: OpenHouse) -> None:
    """Stripe signs with both for a day."""
    for number, secret in enumerate(("whsec_rolled", SIGNING_SECRET)):
        event = body(subscription_updated(id=f"evt_{number}"))
        assert 200 == (await post(paid_house, event, secret=secret)).status


GOOD = subscription_updated()
HOSTILE = {
    "forged": (body(GOOD), {"secret": "whsec_forged"}),
    "stale": (body(GOOD), {"late": 301.0}),
    "from the future": (body(GOOD), {"late": -301.0}),
    "not UTF-8": (b'{"id": "\xff"}', {}),
    "a list": (b"[]", {}),
    "deep": (b"[" * 100_000 + b"]" * 100_000, {}),
    "empty": (b"", {}),
    "no event": (b'{"object": "charge"}', {}),
    "of a connected account": (orjson.dumps({**GOOD, "account": "acct_1"}), {}),
    "NaN": (b'{"id": NaN}', {}),
}


@pytest.mark.parametrize("what", HOSTILE)
async def test_what_is_not_stripes_is_a_400(paid_house: OpenHouse, what: str) -> None:
    """Without a word of why, and nothing of it is kept."""
    payload, how = HOSTILE[what]

    answer = await post(paid_house, payload, **how)  # type: ignore[arg-type]

    assert (400, "invalid_request_error") == (answer.status, answer.error["type"])
    assert "whsec" not in answer.body.decode()
    assert 0 == await logged(paid_house)
    assert 200 == (await paid_house.ask(None, "/health", method="GET")).status


@pytest.mark.parametrize(
    "signature", ["", "t=1", "v1=aa", "t=x,v1=aa", "t=1,v1=\u00e4", "t=1,v1=" + "a" * 60_000]
)
async def test_a_broken_signature_is_a_400(paid_house: OpenHouse, signature: str) -> None:
    """Whatever it holds."""
    answer = await paid_house.ask(
        raw=body(GOOD), path=PATH, key="", headers={"Stripe-Signature": signature}
    )

    assert (400, "invalid_request_error") == (answer.status, answer.error["type"])


async def test_another_mode_is_a_400(tmp_path: Path) -> None:
    """A live event means nothing to an installation with a test key."""
    async with open_house(
        tmp_path,
        STRIPE_SECRET_KEY="sk_test_1",
        STRIPE_WEBHOOK_SECRET=SIGNING_SECRET,
        STRIPE_API_BASE="http://127.0.0.1:9",
    ) as house:
        assert 400 == (await post(house, body(subscription_updated(live=True)))).status
        assert 200 == (await post(house, body(subscription_updated(live=False)))).status


async def test_a_large_body_is_a_413(paid_house: OpenHouse) -> None:
    """At the bound it is read, above it is refused."""
    event = {**GOOD, "padding": ""}
    event["padding"] = "x" * (MOST - len(orjson.dumps(event)))

    assert 200 == (await post(paid_house, orjson.dumps(event))).status
    answer = await post(paid_house, orjson.dumps({**event, "padding": event["padding"] + "x"}))
    assert (413, "invalid_request_error") == (answer.status, answer.error["type"])


async def test_while_the_database_is_away_it_is_a_503(
    paid_house: OpenHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stripe comes again, and then it counts."""
    payload = body(GOOD)
    book = paid_house.storage.billing_book

    def away() -> None:
        raise Unavailable("The database is away.", retry_after=5)

    with monkeypatch.context() as broken:
        broken.setattr(type(book), "turn", lambda _: away())
        answer = await post(paid_house, payload)
        assert (503, "5") == (answer.status, answer.headers["Retry-After"])
    assert 0 == await logged(paid_house)

    assert {"received": True, "duplicate": False} == (await post(paid_house, payload)).document


async def test_a_report_is_stopped_by_its_link(house: OpenHouse) -> None:
    """A GET shows a button and changes nothing, as mail programs open links by themselves; the POST does it, and again."""
    contacts = house.storage.contacts
    secret = derive(house.settings.master_secret(), "unsubscribe")
    await contacts.keep(Contact(house.project.id, "owner@example.com"))
    path = f"/unsubscribe/{token(secret, house.project.id)}"

    page = await house.ask(None, path, method="GET", key="")
    assert (200, True) == (page.status, b"<button" in page.body)
    assert "form-action 'self'" in page.headers["Content-Security-Policy"]
    assert (await contacts.contact(house.project.id)).reports

    for _ in range(2):
        done = await house.ask(raw=b"List-Unsubscribe=One-Click", path=path, key="")
        assert (200, True) == (done.status, b"No more reports" in done.body)
    assert Contact(house.project.id, "owner@example.com", "", False) == await contacts.contact(
        house.project.id
    )


@pytest.mark.parametrize("path", ["x", "AAAA", "%00", "a" * 3_000])
async def test_a_link_that_nobody_sent_does_nothing(house: OpenHouse, path: str) -> None:
    """By either method."""
    for method in ("GET", "POST"):
        answer = await house.ask(None, f"/unsubscribe/{path}", method=method, key="")
        assert (404, "invalid_request_error") == (answer.status, answer.error["type"])


@pytest.mark.parametrize(("how", "says"), [("paid", b"Thank you"), ("cancelled", b"Nothing was")])
async def test_people_come_back_to_a_page(house: OpenHouse, how: str, says: bytes) -> None:
    """Whatever Stripe appends to its address."""
    answer = await house.ask(None, f"/billing/{how}?checkout=<script>", method="GET", key="")

    assert (200, True) == (answer.status, says in answer.body)
    assert b"<script>" not in answer.body
