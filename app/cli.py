"""The command line: `watchllm`.

Commands only read their words, call one use case and print. What is heavy is imported by the command that needs
it, so that `--help` is quick. Exit codes: 0 done, 2 wrong usage or configuration, 1 anything else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from app import show
from app.commands.billing import billing, notices
from app.commands.desk import at_desk, settings, told
from app.commands.keys import key
from app.commands.projects import cache, project
from app.commands.words import AS_JSON, Duration
from domain import reports

if TYPE_CHECKING:
    from app.desk import Desk
    from app.services.reports import Report
    from domain.project import Project


class Commands(click.Group):
    """Turns every failure into one line on stderr and its exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as exc:  # the last door: nobody reads a traceback in a terminal
            raise told(exc) from exc


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
    given = settings(
        WATCHLLM_HOST=host, WATCHLLM_PORT=port, WATCHLLM_PROCESSES=processes, quiet=False
    )
    from app.main import run

    ctx.exit(run(given))


@main.command()
def migrate() -> None:
    """Bring the database to the newest schema.

    Forward only, and safe to run from several nodes at once.
    """

    async def work(desk: Desk) -> list[str]:
        return await desk.storage.migrate()

    steps = at_desk(work, migrated=False)
    for step in steps:
        click.echo(f"applied {step}")
    if not steps:
        click.echo("The database has the newest schema already.")


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

    of, report = at_desk(work)
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
        findings = asyncio.run(practice.examine(settings()))
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


for group in (project, key, cache, billing, notices):
    main.add_command(group)
