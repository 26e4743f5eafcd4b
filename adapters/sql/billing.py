"""What the payment provider told and what it came to, in SQL."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import orjson
from attrs import evolve
from cattrs.preconf.orjson import make_converter

from adapters.sql.contacts import SqlContacts
from adapters.sql.db import (
    Db,
    Params,
    Row,
    Transaction,
    millis,
    optional_millis,
    optional_seconds,
    seconds,
)
from adapters.sql.postbox import AT_ONCE, queue
from domain.billing import PAST_DUE, Account, BillingEvent, Subscription
from domain.errors import ApiError
from domain.notices import PATIENCE, TOLD_IN_ORDER, Contact, Delivery

_CONVERTER = make_converter()


class SqlBillingBook:
    """`BillingBook` on either database."""

    def __init__(self, db: Db, contacts: SqlContacts) -> None:
        self._db = db
        self._contacts = contacts

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[SqlBillingTurn]:
        async with self._db.transaction() as transaction:
            # Changing the row locks it until the end, and everybody does this first.
            [row] = await transaction.rows(
                "UPDATE billing_turn SET arrivals = arrivals RETURNING arrivals"
            )
            yield SqlBillingTurn(transaction, self._contacts, row["arrivals"])

    async def events(self, project: str, limit: int, /) -> Sequence[BillingEvent]:
        found = await self._db.rows(
            """
            SELECT facts, arrival
              FROM billing_events
             WHERE id IN (
                   SELECT id FROM billing_events WHERE project = :project
                    UNION
                   SELECT e.id
                     FROM billing_events e
                     JOIN subscriptions s ON s.id = e.subscription
                    WHERE s.project = :project
                   )
             ORDER BY arrival DESC
             LIMIT :limit
            """,
            {"project": project, "limit": limit},
        )
        return [_event(row) for row in found]

    async def body(self, event: str, /) -> bytes | None:
        found = await self._db.rows(
            "SELECT body FROM billing_events WHERE id = :id", {"id": event}
        )
        return bytes(found[0]["body"]) if found else None

    async def subscriptions(self, project: str, /) -> Sequence[Subscription]:
        return await _subscriptions(self._db, project)

    async def account(self, project: str, /) -> Account | None:
        return await _account(self._db, project)

    async def failing(self) -> Sequence[Subscription]:
        found = await self._db.rows(
            f"SELECT * FROM subscriptions WHERE status = '{PAST_DUE}' ORDER BY id"  # noqa: S608 -- a constant
        )
        return [_subscription(row) for row in found]


class SqlBillingTurn:
    """`BillingTurn`: what one transaction reads and writes. `arrivals` is how many events were logged before it."""

    def __init__(self, transaction: Transaction, contacts: SqlContacts, arrivals: int) -> None:
        self._transaction = transaction
        self._contacts = contacts
        self._arrivals = arrivals
        self._known: dict[str, Contact] = {}

    async def log(self, event: BillingEvent, body: bytes, at: float, /) -> BillingEvent | None:
        arrival = self._arrivals + 1
        added = await self._transaction.run(
            """
            INSERT INTO billing_events (id, arrival, type, created, subscription, project, customer,
                                        received_at, facts, body)
            VALUES (:id, :arrival, :type, :created, :subscription, :project, :customer,
                    :received_at, :facts, :body)
            ON CONFLICT (id) DO NOTHING
            """,
            {**_event_params(event), "arrival": arrival, "received_at": millis(at), "body": body},
        )
        if not added:
            return None
        await self._transaction.run(
            "UPDATE billing_turn SET arrivals = :arrival", {"arrival": arrival}
        )
        self._arrivals = arrival
        return evolve(event, arrival=arrival)

    async def restate(self, event: BillingEvent, /) -> None:
        """It arrived when it arrived."""
        await self._transaction.run(
            """
            UPDATE billing_events
               SET type = :type, created = :created, subscription = :subscription,
                   project = :project, customer = :customer, facts = :facts
             WHERE id = :id
            """,
            _event_params(event),
        )

    async def history(self, subscription: str, /) -> Sequence[BillingEvent]:
        found = await self._transaction.rows(
            """
            SELECT facts, arrival
              FROM billing_events
             WHERE subscription = :subscription
             ORDER BY arrival
            """,
            {"subscription": subscription},
        )
        return [_event(row) for row in found]

    async def keep(self, subscription: Subscription, /) -> None:
        await self._transaction.run(
            """
            INSERT INTO subscriptions (id, project, customer, email, status, plan, period_end,
                                       cancel_at, awaits_payment, failing_since)
            VALUES (:id, :project, :customer, :email, :status, :plan, :period_end,
                    :cancel_at, :awaits_payment, :failing_since)
            ON CONFLICT (id) DO UPDATE SET
                project        = excluded.project,
                customer       = excluded.customer,
                email          = excluded.email,
                status         = excluded.status,
                plan           = excluded.plan,
                period_end     = excluded.period_end,
                cancel_at      = excluded.cancel_at,
                awaits_payment = excluded.awaits_payment,
                failing_since  = excluded.failing_since
            """,
            {
                "id": subscription.id,
                "project": subscription.project,
                "customer": subscription.customer,
                "email": subscription.email,
                "status": subscription.status,
                "plan": subscription.plan,
                "period_end": optional_millis(subscription.period_end),
                "cancel_at": optional_millis(subscription.cancel_at),
                "awaits_payment": subscription.awaits_payment,
                "failing_since": optional_millis(subscription.failing_since),
            },
        )

    async def of_project(self, project: str, /) -> Sequence[Subscription]:
        return await _subscriptions(self._transaction, project)

    async def project_of(self, customer: str, /) -> str:
        """Of several the first by its id."""
        found = await self._transaction.rows(
            "SELECT project FROM billing_accounts WHERE customer = :customer ORDER BY project LIMIT 1",
            {"customer": customer},
        )
        return found[0]["project"] if found else ""

    async def account(self, project: str, /) -> Account | None:
        return await _account(self._transaction, project)

    async def keep_account(self, account: Account, /) -> None:
        await self._transaction.run(
            """
            INSERT INTO billing_accounts (project, customer, email, plan)
            VALUES (:project, :customer, :email, :plan)
            ON CONFLICT (project) DO UPDATE
               SET customer = excluded.customer, email = excluded.email, plan = excluded.plan
            """,
            {
                "project": account.project,
                "customer": account.customer,
                "email": account.email,
                "plan": account.plan,
            },
        )

    async def set_plan(self, project: str, plan: str, /) -> bool:
        changed = await self._transaction.run(
            "UPDATE projects SET plan = :plan WHERE id = :id", {"id": project, "plan": plan}
        )
        return changed == 1

    async def contact(self, project: str, /) -> Contact:
        # A history tells its notices all over again, mostly to the same owners, while all other turns wait.
        if project not in self._known:
            self._known[project] = await self._contacts.read(self._transaction, project)
        return self._known[project]

    async def post(self, deliveries: Sequence[Delivery], /, settled: str = "") -> None:
        await queue(self._transaction, await self._news(deliveries))
        if settled:
            await self._withdraw(settled, {one.notice for one in deliveries})

    async def _news(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """With each event a history tells all its notices again. What others were told long ago is none to a channel or an
        address that was named since."""
        first: dict[str, float] = {}
        names = sorted({one.notice for one in deliveries})
        for begin in range(0, len(names), AT_ONCE):
            some = {f"n_{at}": name for at, name in enumerate(names[begin : begin + AT_ONCE])}
            found = await self._transaction.rows(
                f"""
                SELECT notice, MIN(queued_at) AS queued_at
                  FROM notices
                 WHERE notice IN ({", ".join(f":{name}" for name in some)})
                 GROUP BY notice
                """,  # noqa: S608 -- names of our own
                some,
            )
            first |= {row["notice"]: seconds(row["queued_at"]) for row in found}
        return [
            one
            for one in deliveries
            if one.queued_at - first.get(one.notice, one.queued_at) <= PATIENCE
        ]

    async def _withdraw(self, subject: str, told: set[str]) -> None:
        """What may be withdrawn is what is told in order only: the rest stays true whatever comes to be known."""
        found = await self._transaction.rows(
            """
            SELECT DISTINCT notice, kind
              FROM notices
             WHERE subject = :subject AND sent_at IS NULL AND dead_at IS NULL
            """,
            {"subject": subject},
        )
        for row in found:
            if row["kind"] not in TOLD_IN_ORDER or row["notice"] in told:
                continue
            await self._transaction.run(
                """
                DELETE FROM notices
                 WHERE notice = :notice AND subject = :subject AND sent_at IS NULL AND dead_at IS NULL
                """,
                {"notice": row["notice"], "subject": subject},
            )


async def _subscriptions(asked: Db | Transaction, project: str) -> list[Subscription]:
    found = await asked.rows(
        "SELECT * FROM subscriptions WHERE project = :project ORDER BY id", {"project": project}
    )
    return [_subscription(row) for row in found]


async def _account(asked: Db | Transaction, project: str) -> Account | None:
    found = await asked.rows(
        "SELECT project, customer, email, plan FROM billing_accounts WHERE project = :project",
        {"project": project},
    )
    return Account(**found[0]) if found else None


def _subscription(row: Row) -> Subscription:
    return Subscription(
        id=row["id"],
        project=row["project"],
        customer=row["customer"],
        email=row["email"],
        status=row["status"],
        plan=row["plan"],
        period_end=optional_seconds(row["period_end"]),
        cancel_at=optional_seconds(row["cancel_at"]),
        awaits_payment=bool(row["awaits_payment"]),
        failing_since=optional_seconds(row["failing_since"]),
    )


def _event(row: Row) -> BillingEvent:
    """Fields that another version knows are left out, and those it lacked have their defaults."""
    facts = _CONVERTER.structure(orjson.loads(row["facts"]), BillingEvent)
    return evolve(facts, arrival=row["arrival"])


def _event_params(event: BillingEvent) -> Params:
    try:
        facts = _CONVERTER.dumps(event).decode()
    except TypeError as exc:
        raise ApiError("A billing event's facts cannot be kept.") from exc
    return {
        "id": event.id,
        "type": event.type,
        "created": millis(event.created),
        "subscription": event.subscription,
        "project": event.project,
        "customer": event.customer,
        "facts": facts,
    }
