"""`watchllm key`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from app import show
from app.commands.desk import at_desk
from app.commands.words import AS_JSON, Duration, Names
from domain.project import KINDS, PROJECT

if TYPE_CHECKING:
    from app.desk import Desk
    from app.services.keys import FreshKey


@click.group()
def key() -> None:
    """API keys of projects. A key is shown once, when it is made."""


@key.command("create")
@click.argument("project")
@click.option(
    "--kind",
    type=click.Choice(KINDS),
    default=PROJECT,
    show_default=True,
    help="Test keys are answered by the sandbox and cost nothing.",
)
@click.option("--name", default="", help="What the key is for.")
@click.option("--expires-in", type=Duration(), help="For example 30d; never, if left out.")
@click.option(
    "--models", type=Names(), default=(), help="All it may use, such as gpt-4o,gpt-4o-mini."
)
@click.option(
    "--endpoints", type=Names(), default=(), help="All it may use, of chat,completions,embeddings."
)
@AS_JSON
def key_create(
    project: str,
    kind: str,
    name: str,
    expires_in: float | None,
    models: tuple[str, ...],
    endpoints: tuple[str, ...],
    as_json: bool,
) -> None:
    """Create a key for PROJECT (an id or a name)."""

    async def work(desk: Desk) -> FreshKey:
        found = await desk.projects.find(project)
        return await desk.keys.create(
            found.id,
            kind=kind,
            name=name,
            expires_in=expires_in,
            models=models,
            endpoints=endpoints,
        )

    show.fresh_key(at_desk(work), as_json)


@key.command("list")
@click.argument("project")
@AS_JSON
def key_list(project: str, as_json: bool) -> None:
    """List the keys of PROJECT (an id or a name), ended ones included."""

    async def work(desk: Desk) -> list[dict[str, Any]]:
        found = await desk.projects.find(project)
        now = desk.keys.clock()
        return [show.key_row(one, now) for one in await desk.storage.keys.of(found.id)]

    show.rows(at_desk(work), show.KEY_COLUMNS, as_json)


@key.command("rotate")
@click.argument("key_id")
@click.option(
    "--grace",
    type=Duration(),
    default="24h",
    show_default=True,
    help="How long the old key still works; 0s ends it now.",
)
@AS_JSON
def key_rotate(key_id: str, grace: float, as_json: bool) -> None:
    """Create a key in the place of KEY_ID, which works until the grace ends."""

    async def work(desk: Desk) -> FreshKey:
        return await desk.keys.rotate(key_id, grace=grace)

    show.fresh_key(at_desk(work), as_json)


@key.command("revoke")
@click.argument("key_id")
def key_revoke(key_id: str) -> None:
    """End KEY_ID now."""

    async def work(desk: Desk) -> None:
        await desk.keys.revoke(key_id)

    at_desk(work)
    click.echo(f"Key {key_id} is revoked.")
