"""`watchllm project` and `watchllm cache`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from app import show
from app.commands.desk import at_desk, check_plan
from app.commands.words import AS_JSON, Dollars
from domain.contacts import changed
from domain.pricing import dollars

if TYPE_CHECKING:
    from app.desk import Desk
    from domain.notices import Contact
    from domain.project import Project


@click.group()
def project() -> None:
    """Projects: who has keys, a plan and a cache of their own."""


@project.command("create")
@click.argument("name")
@click.option("--plan", default="unlimited", show_default=True, help="A plan of plans.toml.")
@AS_JSON
def project_create(name: str, plan: str, as_json: bool) -> None:
    """Create the project NAME."""

    async def work(desk: Desk) -> Project:
        check_plan(desk.settings, plan)
        return await desk.projects.create(name, plan=plan)

    made = at_desk(work)
    if as_json:
        return show.document(show.project_row(made))
    click.echo(f"Project {made.name} has the id {made.id} and the plan {made.plan}.")


@project.command("list")
@AS_JSON
def project_list(as_json: bool) -> None:
    """List all projects."""

    async def work(desk: Desk) -> Sequence[Project]:
        return await desk.storage.projects.all()

    columns = ("id", "name", "plan", "budget_usd")
    show.rows([show.project_row(one) for one in at_desk(work)], columns, as_json)


@project.command("plan")
@click.argument("project")
@click.argument("plan")
def project_plan(project: str, plan: str) -> None:
    """Put PROJECT (an id or a name) on PLAN."""

    async def work(desk: Desk) -> Project:
        check_plan(desk.settings, plan)
        found = await desk.projects.find(project)
        await desk.storage.projects.set_plan(found.id, plan)
        return found

    click.echo(f"Project {at_desk(work).name} is on the plan {plan} now.")


@project.command("budget")
@click.argument("project")
@click.argument("usd", type=Dollars())
def project_budget(project: str, usd: int) -> None:
    """Let PROJECT (an id or a name) spend USD at providers in a calendar month.

    0 or none takes the budget away.
    """

    async def work(desk: Desk) -> Project:
        found = await desk.projects.find(project)
        await desk.storage.projects.set_budget(found.id, usd)
        return found

    name = at_desk(work).name
    if usd:
        return click.echo(f"Project {name} may spend ${dollars(usd)} a month now.")
    click.echo(f"Project {name} has no budget now.")


@project.command("contact")
@click.argument("project")
@click.option(
    "--email", help="Where mails go, in the place of the address of the bills; none for that one."
)
@click.option(
    "--channel", help="Incoming webhook of Slack, Discord or Teams; none to take it away."
)
@click.option("--reports", type=click.BOOL, help="Whether a report comes each week: yes or no.")
def project_contact(
    project: str, email: str | None, channel: str | None, reports: bool | None
) -> None:
    """Say where the owners of PROJECT (an id or a name) want to be told of bills, quotas and savings."""

    async def work(desk: Desk) -> tuple[Project, Contact]:
        found = await desk.projects.find(project)
        wanted = changed(
            await desk.storage.contacts.contact(found.id),
            email=email,
            channel=channel,
            reports=reports,
        )
        await desk.storage.contacts.keep(wanted)
        return found, wanted

    found, contact = at_desk(work)
    click.echo(
        f"Project {found.name}: mails go to {contact.email or 'the address of its bills'}, "
        f"{'and messages to a channel of its own' if contact.channel else 'it has no channel'}; "
        f"{'a report comes each week' if contact.reports else 'no reports'}."
    )


@click.group()
def cache() -> None:
    """Stored answers."""


@cache.command("purge")
@click.argument("project")
def cache_purge(project: str) -> None:
    """Forget every stored answer of PROJECT (an id or a name), on every node."""

    async def work(desk: Desk) -> Project:
        found = await desk.projects.find(project)
        await desk.storage.projects.purge_cache(found.id)
        return found

    click.echo(f"The cache of project {at_desk(work).name} is empty.")
