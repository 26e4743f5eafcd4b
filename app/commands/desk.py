"""What every command does around its work: settings are read, storage is opened and closed, failures are told in a line.

What is heavy is imported when it is needed, so that `--help` is quick.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

import click

if TYPE_CHECKING:
    from app.desk import Desk
    from config.settings import Settings

T = TypeVar("T")

_DENIED = (
    "The database does not allow its role to do that. `watchllm migrate` needs the owner of the tables, which at first is"
    " who may create a schema; for all else `watchllm doctor` says what is missing."
)


class Misconfigured(click.ClickException):
    exit_code = 2


def settings(*, quiet: bool = True, **overrides: str | None) -> Settings:
    """From the environment; what the command line says wins. `quiet` commands log warnings only."""
    from app import log
    from config.settings import read_settings

    said = {name: text for name, text in overrides.items() if text is not None}
    found = read_settings({**os.environ, **said})
    level = found.logging.level
    log.configure(
        "warning" if quiet and level == "info" else level, found.logging.format, sys.stderr
    )
    return found


def at_desk(work: Callable[[Desk], Awaitable[T]], *, migrated: bool = True) -> T:
    given = settings()

    import asyncio

    from app.desk import open_desk

    async def run() -> T:
        async with open_desk(given, migrated=migrated) as desk:
            return await work(desk)

    return asyncio.run(run())


def check_plan(given: Settings, plan: str) -> None:
    from config.catalogue import read_plans

    plans = read_plans(given.config_dir)
    if plan not in plans:
        raise click.BadParameter(
            f"there is no plan {plan}, only {', '.join(plans)}.", param_hint="PLAN"
        )


def told(exc: Exception) -> click.ClickException:
    """What to say of a failure. Only texts of our own are shown whole; others may quote a secret."""
    import logging

    from adapters.sql.migrate import MigrationError
    from app.doctor_rights import is_denied
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
    if is_denied(exc):
        return click.ClickException(_DENIED)
    if isinstance(exc, ApiError):
        return click.ClickException(exc.message)
    if isinstance(exc, MigrationError):
        return click.ClickException(str(exc))
    if isinstance(exc, OSError) and exc.strerror:
        return click.ClickException(
            f"{exc.strerror}: {exc.filename}" if exc.filename else exc.strerror
        )
    return click.ClickException(f"{type(exc).__name__}; WATCHLLM_LOG_LEVEL=debug shows where")
