"""`watchllm billing` and `watchllm notices`."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

import click

from app import show
from app.commands.desk import at_desk
from app.commands.words import AS_JSON
from domain.notices import DEAD, STATES, WAITING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.desk import Desk
    from app.services.billing import Standing
    from domain.billing import BillingEvent, Subscription
    from domain.notices import Delivery
    from domain.project import Project


@click.group()
def billing() -> None:
    """What projects pay for. Needs STRIPE_SECRET_KEY; plans change when Stripe says so."""


@billing.command("show")
@click.argument("project")
@AS_JSON
def billing_show(project: str, as_json: bool) -> None:
    """Show what PROJECT (an id or a name) pays for, and the last events about it."""

    async def work(desk: Desk) -> tuple[Project, Standing]:
        found = await desk.projects.find(project)
        return found, await desk.billing().standing(found)

    show.standing(*at_desk(work), as_json)


@billing.command("replay")
@click.argument("event_id")
def billing_replay(event_id: str) -> None:
    """Read a logged event anew, for example after a price was added. Nobody is told twice."""

    async def work(desk: Desk) -> BillingEvent:
        return await desk.billing().replay(event_id)

    event = at_desk(work)
    of = event.subscription or "no subscription"
    click.echo(f"Event {event.id} ({event.type}) of {of} was read again.")


@billing.command("checkout")
@click.argument("project")
@click.argument("plan")
def billing_checkout(project: str, plan: str) -> None:
    """Print the address at which PLAN can be paid for PROJECT (an id or a name)."""

    async def work(desk: Desk) -> str:
        found = await desk.projects.find(project)
        return await desk.billing().checkout(found, plan, _click())

    click.echo(at_desk(work))


@billing.command("portal")
@click.argument("project")
def billing_portal(project: str) -> None:
    """Print the address at which PROJECT's owner sees bills and changes cards; it is good for a short while."""

    async def work(desk: Desk) -> str:
        return await desk.billing().portal(await desk.projects.find(project), _click())

    click.echo(at_desk(work))


@billing.command("change")
@click.argument("project")
@click.argument("plan")
def billing_change(project: str, plan: str) -> None:
    """Put PROJECT's subscription on PLAN. What is left of the old one is credited."""

    async def work(desk: Desk) -> Project:
        found = await desk.projects.find(project)
        await desk.billing().change_plan(found, plan, _click())
        return found

    name = at_desk(work).name
    click.echo(f"Project {name} goes to the plan {plan} as soon as Stripe confirms it.")


@billing.command("cancel")
@click.argument("project")
def billing_cancel(project: str) -> None:
    """End PROJECT's subscription when the period that is paid for ends."""

    async def work(desk: Desk) -> tuple[Project, Subscription]:
        found = await desk.projects.find(project)
        return found, await desk.billing().cancel(found, _click())

    found, ended = at_desk(work)
    until = show.moment(ended.period_end) or "the end of its period"
    click.echo(f"Project {found.name} keeps the plan {ended.plan} until {until}.")


@click.group()
def notices() -> None:
    """Mails and messages to owners and teams: waiting, sent and given up."""


@notices.command("list")
@click.option(
    "--state",
    "states",
    type=click.Choice(STATES),
    multiple=True,
    default=(WAITING, DEAD),
    show_default=True,
    help="May be given more than once.",
)
@click.option("--limit", type=click.IntRange(1, 1_000), default=100, show_default=True)
@AS_JSON
def notices_list(states: tuple[str, ...], limit: int, as_json: bool) -> None:
    """List notices, newest first."""

    async def work(desk: Desk) -> Sequence[Delivery]:
        return await desk.storage.postbox.find(states, limit)

    listed = [show.delivery_row(one) for one in at_desk(work)]
    show.rows(listed, show.DELIVERY_COLUMNS, as_json)


@notices.command("retry")
@click.argument("notice_id")
def notices_retry(notice_id: str) -> None:
    """Send what was given up of a notice once more; the running service does so within seconds."""

    async def work(desk: Desk) -> int:
        return await desk.storage.postbox.retry(notice_id, desk.keys.clock())

    again = at_desk(work)
    if not again:
        raise click.ClickException(f"Nothing was given up of a notice {notice_id}.")
    click.echo(f"{again} {'delivery' if again == 1 else 'deliveries'} will be tried again.")


def _click() -> str:
    return secrets.token_hex(16)
