"""How the command line prints: one JSON document, or plain columns."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from app.services.keys import FreshKey, ends_at, is_live
from app.services.reports import Report
from domain import reports
from domain.billing import BillingEvent, Subscription
from domain.notices import WAITING, Delivery
from domain.pricing import dollars
from domain.project import ApiKey, Project

if TYPE_CHECKING:
    from app.services.billing import Standing

KEY_COLUMNS = (
    "id",
    "kind",
    "name",
    "hint",
    "state",
    "created_at",
    "ends_at",
    "last_used_at",
    "models",
    "endpoints",
)


def project_row(project: Project) -> dict[str, Any]:
    return {
        "id": project.id,
        "name": project.name,
        "plan": project.plan,
        "budget_usd": dollars(project.budget) if project.budget else None,
    }


def key_row(key: ApiKey, now: float) -> dict[str, Any]:
    return {
        "id": key.id,
        "project": key.project,
        "kind": key.kind,
        "name": key.name,
        "hint": key.hint,
        "state": "live" if is_live(key, now) else "ended",
        "created_at": moment(key.created_at),
        "ends_at": moment(ends_at(key)),
        "last_used_at": moment(key.last_used_at),
        "models": list(key.models),
        "endpoints": list(key.endpoints),
    }


def moment(at: float | None) -> str | None:
    if at is None:
        return None
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


SUBSCRIPTION_COLUMNS = ("id", "status", "plan", "period_end", "cancel_at", "failing_since")
EVENT_COLUMNS = ("created", "id", "type", "subscription")
DELIVERY_COLUMNS = (
    "notice",
    "channel",
    "to",
    "state",
    "queued_at",
    "due_at",
    "attempts",
    "sent_at",
    "fault",
)


def delivery_row(delivery: Delivery) -> dict[str, Any]:
    waiting = delivery.state == WAITING
    return {
        "notice": delivery.notice,
        "kind": delivery.kind,
        "project": delivery.project,
        "channel": delivery.channel,
        "to": delivery.recipient,
        "state": delivery.state,
        "queued_at": moment(delivery.queued_at),
        "due_at": moment(delivery.due_at) if waiting else None,
        "attempts": delivery.attempts,
        "sent_at": moment(delivery.sent_at),
        "fault": delivery.fault,
    }


def standing(project: Project, found: Standing, as_json: bool) -> None:
    """What a project pays for, and what was last heard about it."""
    subscriptions = [_subscription_row(one) for one in found.subscriptions]
    events = [_event_row(one) for one in found.events]
    head = {
        "project": project.id,
        "plan": project.plan,
        "customer": found.account.customer,
        "email": found.account.email,
    }
    if as_json:
        return document({**head, "subscriptions": subscriptions, "events": events})
    for name, told in head.items():
        click.echo(f"{name:9} {told or '-'}")
    for listed, columns in ((subscriptions, SUBSCRIPTION_COLUMNS), (events, EVENT_COLUMNS)):
        if listed:
            click.echo()
            rows(listed, columns, as_json=False)


def _subscription_row(one: Subscription) -> dict[str, Any]:
    return {
        "id": one.id,
        "status": one.status,
        "plan": one.plan,
        "period_end": moment(one.period_end),
        "cancel_at": moment(one.cancel_at),
        "failing_since": moment(one.failing_since),
        "awaits_payment": one.awaits_payment,
    }


def _event_row(event: BillingEvent) -> dict[str, Any]:
    return {
        "id": event.id,
        "type": event.type,
        "created": moment(event.created),
        "subscription": event.subscription,
    }


def fresh_key(fresh: FreshKey, as_json: bool) -> None:
    if as_json:
        return document(
            {"id": fresh.id, "key": fresh.key, "kind": fresh.kind, "project": fresh.project}
        )
    # The key alone on stdout, so that a script can take it.
    click.echo(f"The key {fresh.id} is shown this once:", err=True)
    click.echo(fresh.key)


def rows(found: Sequence[dict[str, Any]], columns: Sequence[str], as_json: bool) -> None:
    if as_json:
        return document(found)
    table = [tuple(columns), *(tuple(_cell(row[one]) for one in columns) for row in found)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for line in table:
        words = (word.ljust(width) for word, width in zip(line, widths, strict=True))
        click.echo("  ".join(words).rstrip())


def _cell(found: Any) -> str:
    return str((",".join(found) if isinstance(found, list) else found) or "-")


def usage(report: Report) -> None:
    """Each total and, last, the sum of them."""
    listed = [
        *(reports.row(total) for total in report.rows),
        {"day": "total", "provider": "", "model": "", **reports.sums(report.total)},
    ]
    # As text, since a count of 0 is not an empty cell.
    rows(
        [{name: reports.printable(str(one[name])) for name in reports.COLUMNS} for one in listed],
        reports.COLUMNS,
        as_json=False,
    )


def document(what: object) -> None:
    click.echo(json.dumps(what, indent=2))
