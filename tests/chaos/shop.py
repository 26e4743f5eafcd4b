"""A house that sells plans, a Stripe that tells it of its customers again and again, and who is told of that."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from random import Random

from attrs import define, evolve, field

from app.desk import project_book
from config.catalogue import read_plans
from domain import billing
from domain.channels import digest
from domain.plans import Plan
from tests.chaos.client import Answer, Client, beats
from tests.chaos.ledger import query
from tests.chaos.lives import PRICES, Life, Outcome, forgery, lives, told_in_order
from tests.chaos.stage import House, Stage
from tests.chaos.trial import Trial
from tests.support.hooks import HookSink, hook_sink
from tests.support.mail import MailSink, mail_sink
from tests.support.stripe import SIGNING_SECRET, FakeStripe, sign
from tests.support.stripe_events import Document, body, charge

COPIES, TWINS, FORGED = 3, 0.2, 0.05
LATE = 0.15
"""Of the customers whose first events come last of all."""
EVENTS_EACH = 10
"""Of one customer, about."""
ATTEMPTS = 60
FIRST_PAUSE, LONGEST_PAUSE = 0.3, 2.0
AFTERWARDS = 1.5
"""Seconds after an outage in which nobody has to be quick again."""


@define(eq=False)
class Shop:
    """A house that sells plans, and what was seen of it. `outages` are spans of the loop's time."""

    house: House
    trial: Trial
    stripe: FakeStripe
    mails: MailSink
    posts: HookSink
    lives: list[Life]
    numbers: dict[str, str]
    plans: dict[str, Plan]
    accepted: dict[str, list[Answer]] = field(factory=dict)
    refused: Counter[int] = field(factory=Counter)
    statuses: Counter[int] = field(factory=Counter)
    outages: list[tuple[float, float]] = field(factory=list)
    lost: set[str] = field(factory=set)
    kills: list[int] = field(factory=list)
    """How many mails had come before each."""
    calm_at: float = 0.0
    """When the last fault was over, in wall-clock seconds."""

    @property
    def events(self) -> list[Document]:
        return [document for life in self.lives for document in life.events]

    @property
    def team(self) -> str:
        return digest(self.posts.url)

    def over(self, began: float) -> None:
        """An outage that began then ends now, or nearly so."""
        self.outages.append((began, asyncio.get_running_loop().time() + AFTERWARDS))
        self.calm_at = time.time()

    def expected(self) -> Outcome:
        """As `outcome` has it."""
        one = told_in_order(self.lives, self.plans, [self.team], time.time())
        known = {
            id: evolve(found, project=self.numbers[found.project])
            for id, found in one.subscriptions.items()
        }
        plans = {self.numbers[project]: plan for project, plan in one.plans.items()}
        return Outcome(known, plans, one.told)


@asynccontextmanager
async def open_shop(stage: Stage, trial: Trial, events: int, begin: float) -> AsyncIterator[Shop]:
    async with FakeStripe() as stripe, mail_sink() as mails, hook_sink() as posts:
        settings = {
            "STRIPE_SECRET_KEY": stripe.secret_key,
            "STRIPE_WEBHOOK_SECRET": SIGNING_SECRET,
            "STRIPE_API_BASE": stripe.url,
            **{f"STRIPE_PRICE_{plan.upper()}": price for price, plan in PRICES.items()},
            "SMTP_URL": f"smtp://127.0.0.1:{mails.port}",
            "WATCHLLM_MAIL_FROM": "bills@watchllm.example",
            "WATCHLLM_TEAM_WEBHOOKS": posts.url,
        }
        async with stage.house(trial, questions=10, settings=settings) as house:
            book = project_book(house.storage)
            made = [
                await book.create(f"shop{at}x", plan=billing.FREE)
                for at in range(events // EVENTS_EACH)
            ]
            projects = [one.id for one in made]
            found = lives(projects, events, begin, trial.chance("lives"))
            stripe.customers += [life.customer for life in found]
            _charge(stripe, found)
            numbers = {project: str(at) for at, project in enumerate(projects)}
            yield Shop(house, trial, stripe, mails, posts, found, numbers, read_plans(None))


def _charge(stripe: FakeStripe, found: Sequence[Life]) -> None:
    """What was disputed was charged."""
    for life in found:
        for document in life.events:
            if document["type"] in billing.DISPUTES:
                one, id = life.customer, document["data"]["object"]["charge"]
                stripe.charges[id] = charge(id=id, customer=one.customer, email=one.email)


async def outcome(shop: Shop) -> Outcome:
    """Projects are told by their numbers, so that two houses can be compared."""
    found = Outcome()
    for project, number in shop.numbers.items():
        for one in await shop.house.storage.billing_book.subscriptions(project):
            found.subscriptions[one.id] = evolve(one, project=number)
    plans = await asyncio.to_thread(
        query, shop.house.url, "SELECT id, plan FROM watchllm.projects"
    )
    found.plans = {shop.numbers[id]: plan for id, plan in plans if id in shop.numbers}
    return found


# --- what Stripe sends -----------------------------------------------------------------------------


async def deliver_all(shop: Shop, rate: float) -> None:
    """Each so many times, in any order, some of them twice at the same moment, and forged ones among them.

    How some customers began becomes known only when all the rest is.
    """
    chance = shop.trial.chance("order")
    turns: list[list[Document]] = []
    for document in shop.events:
        twins = chance.random() < TWINS
        turns += [[document] * 2, [document]] if twins else [[document]] * COPIES
    forged = int(len(shop.events) * COPIES * FORGED)
    turns += [[] for _ in range(forged)]
    chance.shuffle(turns)
    late = _beginnings([life for life in shop.lives if chance.random() < LATE])
    turns.sort(key=lambda turn: bool(turn) and turn[0]["id"] in late)
    sent: list[asyncio.Task[None]] = []
    numbers = iter(range(forged))
    async for at in beats(rate, len(turns) / rate + 1):
        if at >= len(turns):
            break
        for copy, document in enumerate(turns[at]):
            draws = shop.trial.chance(f"{document['id']} {at} {copy}")
            sent.append(asyncio.create_task(deliver(shop, document, draws)))
        if not turns[at]:
            number = next(numbers)
            sent.append(asyncio.create_task(_forge(shop, number)))
    await asyncio.gather(*sent)


async def deliver(shop: Shop, document: Document, chance: Random) -> None:
    """Again and again until it is taken, as Stripe does, only sooner."""
    payload = body(document)
    for attempt in range(ATTEMPTS):
        answer = await _post(shop, payload, sign(payload, SIGNING_SECRET, time.time()), chance)
        if answer.status == 200:
            shop.accepted.setdefault(document["id"], []).append(answer)
            return
        shop.statuses[answer.status] += 1
        await asyncio.sleep(_pause(attempt, chance))


async def _forge(shop: Shop, number: int) -> None:
    chance = shop.trial.chance(f"forged {number}")
    life = chance.choice(shop.lives)
    payload, signature = forgery(number, life, time.time(), chance)
    for attempt in range(ATTEMPTS):
        answer = await _post(shop, payload, signature, chance)
        if answer.status:
            shop.refused[answer.status] += 1
        if answer.status not in (0, 503):
            return
        await asyncio.sleep(_pause(attempt, chance))


def _beginnings(some: Sequence[Life]) -> set[str]:
    """The events of the first second of each."""
    return {
        document["id"]
        for life in some
        for document in life.events
        if document["created"] == life.events[0]["created"]
    }


def _pause(attempt: int, chance: Random) -> float:
    return min(LONGEST_PAUSE, FIRST_PAUSE * 1.5**attempt) * (0.5 + chance.random())


async def _post(shop: Shop, payload: bytes, signature: str, chance: Random) -> Answer:
    node = chance.choice(shop.house.nodes)
    client = shop.house.clients.setdefault(node.port, Client(node.port, 4))
    head = (
        "POST /api/webhooks/stripe HTTP/1.1\r\nHost: chaos\r\nContent-Type: application/json\r\n"
        f"Stripe-Signature: {signature}\r\nContent-Length: {len(payload)}\r\n\r\n"
    )
    return await client.ask(head.encode() + payload)
