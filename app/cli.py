"""The command line: `watchllm`.

Commands only read their words, call one use case and print. What is heavy is imported by the command that needs
it, so that `--help` is quick. Exit codes: 0 done, 2 wrong usage or configuration, 1 anything else.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from app import show
from domain import reports
from domain.durations import seconds
from domain.pricing import dollars
from domain.project import KINDS, PROJECT, read_budget

if TYPE_CHECKING:
    from app.desk import Desk
    from app.services.keys import FreshKey
    from app.services.reports import Report
    from config.settings import Settings
    from domain.project import Project

T = TypeVar("T")

AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")


class Duration(click.ParamType[float]):
    name = "duration"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        if isinstance(value, float):
            return value
        try:
            return seconds(value)
        except ValueError as exc:
            self.fail(str(exc), param, ctx)


class Dollars(click.ParamType[int]):
    name = "usd"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        try:
            return read_budget(value)
        except ValueError as exc:
            self.fail(f"{exc}.", param, ctx)


class Names(click.ParamType[tuple[str, ...]]):
    """With commas between them; a list of nothing is a mistake, since it would mean everything."""

    name = "names"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        found = tuple(dict.fromkeys(name.strip() for name in value.split(",")))
        if "" in found:
            self.fail("an empty name stands among them.", param, ctx)
        return found


class Misconfigured(click.ClickException):
    exit_code = 2


class Commands(click.Group):
    """Turns every failure into one line on stderr and its exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as exc:  # the last door: nobody reads a traceback in a terminal
            raise _told(exc) from exc


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=lambda ctx, _, wanted: _print_version(ctx) if wanted else None,
    help="Show the version and exit.",
)
def main() -> None:
    """WatchLLM: one door to OpenAI, Anthropic and Groq that remembers answers and counts what they cost.

    Settings are environment variables; `watchllm doctor` says which of them are wrong.
    """


@main.command()
@click.option("--host", help="Address to listen on (WATCHLLM_HOST).")
@click.option("--port", help="Port to listen on (WATCHLLM_PORT).")
@click.option("--processes", help="Processes that share the port (WATCHLLM_PROCESSES).")
@click.pass_context
def serve(ctx: click.Context, host: str | None, port: str | None, processes: str | None) -> None:
    """Run the proxy."""
    settings = _settings(
        WATCHLLM_HOST=host, WATCHLLM_PORT=port, WATCHLLM_PROCESSES=processes, quiet=False
    )
    from app.main import run

    ctx.exit(run(settings))


@main.command()
def migrate() -> None:
    """Bring the database to the newest schema.

    Forward only, and safe to run from several nodes at once.
    """

    async def work(desk: Desk) -> list[str]:
        return await desk.storage.migrate()

    steps = _at_desk(work, migrated=False)
    for step in steps:
        click.echo(f"applied {step}")
    if not steps:
        click.echo("The database has the newest schema already.")


@main.group()
def project() -> None:
    """Projects: who has keys, a plan and a cache of their own."""


@project.command("create")
@click.argument("name")
@click.option("--plan", default="unlimited", show_default=True, help="A plan of plans.toml.")
@AS_JSON
def project_create(name: str, plan: str, as_json: bool) -> None:
    """Create the project NAME."""

    async def work(desk: Desk) -> Project:
        _check_plan(desk.settings, plan)
        return await desk.projects.create(name, plan=plan)

    made = _at_desk(work)
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
    show.rows([show.project_row(one) for one in _at_desk(work)], columns, as_json)


@project.command("plan")
@click.argument("project")
@click.argument("plan")
def project_plan(project: str, plan: str) -> None:
    """Put PROJECT (an id or a name) on PLAN."""

    async def work(desk: Desk) -> Project:
        _check_plan(desk.settings, plan)
        found = await desk.projects.find(project)
        await desk.storage.projects.set_plan(found.id, plan)
        return found

    click.echo(f"Project {_at_desk(work).name} is on the plan {plan} now.")


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

    name = _at_desk(work).name
    if usd:
        return click.echo(f"Project {name} may spend ${dollars(usd)} a month now.")
    click.echo(f"Project {name} has no budget now.")


@main.group()
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

    show.fresh_key(_at_desk(work), as_json)


@key.command("list")
@click.argument("project")
@AS_JSON
def key_list(project: str, as_json: bool) -> None:
    """List the keys of PROJECT (an id or a name), ended ones included."""

    async def work(desk: Desk) -> list[dict[str, Any]]:
        found = await desk.projects.find(project)
        now = desk.keys.clock()
        return [show.key_row(one, now) for one in await desk.storage.keys.of(found.id)]

    show.rows(_at_desk(work), show.KEY_COLUMNS, as_json)


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

    show.fresh_key(_at_desk(work), as_json)


@key.command("revoke")
@click.argument("key_id")
def key_revoke(key_id: str) -> None:
    """End KEY_ID now."""

    async def work(desk: Desk) -> None:
        await desk.keys.revoke(key_id)

    _at_desk(work)
    click.echo(f"Key {key_id} is revoked.")


@main.group()
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

    click.echo(f"The cache of project {_at_desk(work).name} is empty.")


@main.command()
@click.argument("project")
@click.option(
    "--since",
    type=Duration(),
    default="24h",
    show_default=True,
    help="How far back, for example 30d; whole hours are counted.",
)
@AS_JSON
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV that is safe to open as a sheet.")
def usage(project: str, since: float, as_json: bool, as_csv: bool) -> None:
    """Show what PROJECT (an id or a name) used: by day, provider and model."""
    if as_json and as_csv:
        raise click.UsageError("--json and --csv exclude each other.")

    async def work(desk: Desk) -> tuple[Project, Report]:
        found = await desk.projects.find(project)
        return found, await desk.reports.whole(found.id, since)

    of, report = _at_desk(work)
    if as_csv:
        return click.echo(reports.csv_text(report.rows), nl=False)
    if as_json:
        return show.document(reports.report(of.id, report.span, report.rows, report.total))
    show.usage(report)


@main.command()
@AS_JSON
@click.pass_context
def doctor(ctx: click.Context, as_json: bool) -> None:
    """Check the configuration and each dependency, and say how to mend what is wrong."""
    import asyncio

    from app import doctor as practice
    from config.secrets import SettingError

    misread = None
    try:
        findings = asyncio.run(practice.examine(_settings()))
    except SettingError as exc:
        findings, misread = practice.misconfigured(exc), exc
    if as_json:
        show.document(practice.report(findings))
    else:
        click.echo("\n".join(practice.lines(findings)))
    if misread is not None:
        raise misread
    if any(one.state == practice.BROKEN for one in findings):
        ctx.exit(1)


def _print_version(ctx: click.Context) -> None:
    from app import version

    click.echo(f"watchllm {version()}")
    ctx.exit()


def _settings(*, quiet: bool = True, **overrides: str | None) -> Settings:
    """From the environment; what the command line says wins. `quiet` commands log warnings only."""
    from app import log
    from config.settings import read_settings

    said = {name: text for name, text in overrides.items() if text is not None}
    settings = read_settings({**os.environ, **said})
    level = settings.logging.level
    log.configure(
        "warning" if quiet and level == "info" else level, settings.logging.format, sys.stderr
    )
    return settings


def _at_desk(work: Callable[[Desk], Awaitable[T]], *, migrated: bool = True) -> T:
    settings = _settings()

    import asyncio

    from app.desk import open_desk

    async def run() -> T:
        async with open_desk(settings, migrated=migrated) as desk:
            return await work(desk)

    return asyncio.run(run())


def _check_plan(settings: Settings, plan: str) -> None:
    from config.catalogue import read_plans

    plans = read_plans(settings.config_dir)
    if plan not in plans:
        raise click.BadParameter(
            f"there is no plan {plan}, only {', '.join(plans)}.", param_hint="PLAN"
        )


def _told(exc: Exception) -> click.ClickException:
    """What to say of a failure. Only texts of our own are shown whole; others may quote a secret."""
    import logging

    from adapters.sql.migrate import MigrationError
    from config.catalogue import CatalogueError
    from config.secrets import SettingError
    from domain.errors import ApiError, InvalidRequest

    logging.getLogger(__name__).debug("the command failed", exc_info=exc)
    if isinstance(exc, SettingError):
        return Misconfigured(str(exc))
    if isinstance(exc, CatalogueError):
        return Misconfigured(f"WATCHLLM_CONFIG_DIR: {exc}")
    if isinstance(exc, InvalidRequest):
        return Misconfigured(exc.message)
    if isinstance(exc, ApiError):
        return click.ClickException(exc.message)
    if isinstance(exc, MigrationError):
        return click.ClickException(str(exc))
    if isinstance(exc, OSError) and exc.strerror:
        return click.ClickException(
            f"{exc.strerror}: {exc.filename}" if exc.filename else exc.strerror
        )
    return click.ClickException(f"{type(exc).__name__}; WATCHLLM_LOG_LEVEL=debug shows where")
