"""Who was told of what Stripe told: the outbox and what was sent, against what the customers' lives come to."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import closing
from itertools import pairwise

import psycopg2
from attrs import define

from domain.notices import MAIL, PAYMENT_FAILED, SETTLING, TEAM, TOLD_IN_ORDER, Delivery
from tests.chaos.ledger import query
from tests.chaos.lives import come_to, depends
from tests.chaos.shop import AFTERWARDS, Shop

DELIVERED = 60.0
LEASE, AT_ONCE = 60.0, 5
"""For how long nobody else sends what a process has taken, and how many it sends at once."""
FAILED = "A payment did not go through"


@define(frozen=True)
class Row:
    """Of the outbox; times are milliseconds, as they are there."""

    notice: str
    channel: str
    recipient: str
    kind: str
    subject: str
    queued_at: int
    due_at: int
    attempts: int
    sent_at: int | None
    dead_at: int | None


async def _rows(shop: Shop) -> list[Row]:
    sql = (
        "SELECT notice, channel, recipient, kind, subject, queued_at, due_at, attempts, sent_at, dead_at"
        " FROM watchllm.notices"
    )
    return [Row(*row) for row in await asyncio.to_thread(query, shop.house.url, sql)]


async def judge_notices(shop: Shop) -> None:
    trial = shop.trial
    took = await _delivered(shop)
    trial.must(took is not None, f"not all was delivered within {DELIVERED:.0f} s")
    if took is not None:
        trial.tell(f"all delivered after {took:.1f} s")
    rows = await _rows(shop)
    await _judge_outbox(shop, rows)
    _judge_sent(shop, rows)


async def notices_told(shop: Shop) -> list[str]:
    """What is queued and should not be, or the other way round; of a house that nothing went wrong in."""
    wanted = (await _wanted(shop)).keys()
    queued = Counter((row.notice, row.channel) for row in await _rows(shop))
    return [
        f"{name} {queued[name]} times"
        for name in sorted(wanted | queued.keys())
        if queued[name] != (name in wanted)
    ]


async def _delivered(shop: Shop) -> float | None:
    """Seconds until nothing waits. The short run does not wait for time to pass, but moves it on in the outbox."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    if not shop.trial.full:
        await asyncio.sleep(shop.calm_at + AFTERWARDS - time.time())
    while loop.time() - began < DELIVERED:
        if not shop.trial.full:
            await asyncio.to_thread(_move_on, shop)
        rows = await _rows(shop)
        if all(row.sent_at or row.dead_at for row in rows):
            return loop.time() - began
        await asyncio.sleep(0.1)
    return None


def _move_on(shop: Shop) -> None:
    """What settles has settled, and the leases of whom a fault has hit are over."""
    now = int(time.time() * 1_000)
    with closing(psycopg2.connect(shop.house.url, connect_timeout=3)) as connection:
        connection.autocommit = True
        connection.cursor().execute(
            "UPDATE watchllm.notices SET due_at = %s WHERE sent_at IS NULL AND dead_at IS NULL"
            " AND due_at > %s AND (attempts = 0 OR due_at < %s)",
            (now, now, int((shop.calm_at + LEASE) * 1_000)),
        )


async def _judge_outbox(shop: Shop, rows: list[Row]) -> None:
    trial = shop.trial
    wanted = await _wanted(shop)
    recipients: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        recipients.setdefault((row.notice, row.channel), []).append(row.recipient)
    failed = [one for one in wanted.values() if one.kind == PAYMENT_FAILED]
    by_channel = Counter(one.channel for one in failed)
    trial.tell(f"{len(rows)} deliveries, {by_channel[MAIL]} mails of failed payments")
    trial.none(sorted(wanted.keys() - recipients.keys()), "notices missing")
    trial.none([it for it in recipients.items() if len(it[1]) > 1], "notices to two recipients")
    astray = [
        one
        for one in failed
        if one.recipient not in recipients.get((one.notice, one.channel), [one.recipient])
    ]
    trial.none(astray, "bills sent to somebody else")
    trial.none([row for row in rows if row.dead_at], "notices given up")
    extra = [row for row in rows if (row.notice, row.channel) not in wanted]
    last = await _last_arrivals(shop)
    early = [row for row in extra if _too_early(row, last.get(row.subject, 0))]
    trial.tell(f"{len(early)} sent before something older came")
    trial.none([row for row in extra if row not in early], "notices untrue")


async def _wanted(shop: Shop) -> dict[tuple[str, str], Delivery]:
    """Of the ordered lives. What hasty ones are told of their changes is what was kept of their events, as Stripe was
    asked about these."""
    wanted = shop.expected().told
    for life in shop.lives:
        if life.hasty:
            project = life.customer.project
            kept = await shop.house.storage.billing_book.events(project, 1_000)
            told = come_to(project, kept, shop.plans, [shop.team], time.time()).told
            wanted = {
                name: one
                for name, one in wanted.items()
                if one.project != project or not depends(one)
            } | {name: one for name, one in told.items() if depends(one)}
    return wanted


async def _last_arrivals(shop: Shop) -> dict[str, int]:
    sql = (
        "SELECT subscription, max(received_at) FROM watchllm.billing_events GROUP BY subscription"
    )
    return dict(await asyncio.to_thread(query, shop.house.url, sql))


def _too_early(row: Row, last_arrival: int) -> bool:
    """It had settled and was sent before all was known; it was on its way for five seconds at most."""
    if row.kind not in TOLD_IN_ORDER or row.sent_at is None:
        return False
    settled = row.sent_at - row.queued_at >= SETTLING * 1_000
    return settled and row.sent_at <= last_arrival + 5_000


def _judge_sent(shop: Shop, rows: list[Row]) -> None:
    """Each notice once at least; more often only if a server was killed meanwhile."""
    trial = shop.trial
    ids = [str(one.message["Message-ID"]) for one in shop.mails.mails]
    subjects = {
        str(one.message["Message-ID"]): str(one.message["Subject"]) for one in shop.mails.mails
    }
    texts = [str(one.document["text"]) for one in shop.posts.posts]
    wanted = Counter(
        (one.channel, one.project)
        for one in shop.expected().told.values()
        if one.kind == PAYMENT_FAILED
    )
    wrong = []
    for life in shop.lives:
        sign, project = f"{FAILED} ({life.customer.name})", life.customer.project
        mails = sum(sign in subject for subject in subjects.values())
        posts = sum(sign in text for text in texts)
        if mails != wanted[MAIL, project] or posts < wanted[TEAM, project]:
            wrong.append(f"{sign}: {mails} mails and {posts} posts of {wanted[MAIL, project]}")
    trial.none(wrong, "customers not told of each failed payment")
    sent = Counter(row.channel for row in rows if row.sent_at)
    trial.must(len(subjects) >= sent[MAIL], f"{sent[MAIL]} mails noted, {len(subjects)} sent")
    again = [id for id, times in Counter(ids).items() if times > 1]
    more = len(ids) - len(subjects), len(texts) - sent[TEAM]
    trial.tell(f"{more[0]} mails and {more[1]} posts sent again after {len(shop.kills)} kills")
    trial.must(more[1] >= 0, f"{sent[TEAM]} posts noted, {len(texts)} sent")
    trial.must(sum(more) <= AT_ONCE * len(shop.kills), f"{more} mails and posts sent again")
    trial.none([id for id in again if not _killed(shop, ids, id)], "sent again without a kill")


def _killed(shop: Shop, ids: list[str], id: str) -> bool:
    """Whether a server was killed between any two times that it was sent."""
    places = [at for at, one in enumerate(ids) if one == id]
    return all(
        any(first < kill <= second for kill in shop.kills) for first, second in pairwise(places)
    )
