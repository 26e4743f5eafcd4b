"""Examines an installation: the settings, the data directory, and everything they point at.

It looks once, with short deadlines, and says what is wrong and how to mend it; it changes nothing and shows no
secret. What a running proxy watches is not here.
"""

from __future__ import annotations

import asyncio
import os
import stat
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from difflib import get_close_matches
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from adapters.sql.db import Db
from adapters.sql.migrate import packaged, pending
from app.doctor_billing import billing, mail, stripe
from app.doctor_rights import database_rights, is_denied, not_let_in
from app.findings import BROKEN, OFF, OK, PATIENCE, WARNING, Finding, lines, report
from app.storage import open_storage, ready_data_dir
from config.catalogue import CatalogueError, read_catalogue, read_plans
from config.secrets import SettingError
from config.settings import Settings, every_setting
from domain.errors import ApiError
from domain.value import value

if TYPE_CHECKING:
    from aiohttp import ClientSession

__all__ = [
    "BROKEN",
    "OFF",
    "OK",
    "WARNING",
    "Finding",
    "examine",
    "lines",
    "misconfigured",
    "report",
]

MOST_SKEW: Final = 60.0

_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_ANTHROPIC_VERSION: Final = "2023-06-01"


@value
class ProviderCheck:
    """Where a provider lists its models, and the headers that prove the key."""

    name: str
    variable: str
    url: str
    headers: Mapping[str, str]


async def examine(
    settings: Settings, environment: Mapping[str, str] = os.environ
) -> list[Finding]:
    checks: list[Awaitable[list[Finding]]] = [
        _database(settings),
        _redis(settings),
        _providers(settings),
        mail(settings),
        stripe(settings),
    ]
    found = [*_configuration(settings, environment), *billing(settings), _data_dir(settings)]
    for findings in await asyncio.gather(*checks):
        found += findings
    return found


def misconfigured(error: SettingError) -> list[Finding]:
    """What there is to say when the settings cannot be read at all."""
    return [Finding("configuration", BROKEN, str(error), f"Correct {error.name} and try again.")]


# --- the settings themselves


def _configuration(settings: Settings, environment: Mapping[str, str]) -> list[Finding]:
    found = [_tables(settings)]
    known = {one.name for one in every_setting()}
    known |= {f"{one.name}_FILE" for one in every_setting() if one.secret}
    for name in sorted(environment):
        if not name.startswith("WATCHLLM_") or name.startswith("WATCHLLM_TEST_") or name in known:
            continue
        near = get_close_matches(name, known, 1)
        mend = f"Did you mean {near[0]}?" if near else "Remove it."
        found.append(Finding("configuration", WARNING, f"{name} is not a setting", mend))
    for name, url in _base_urls(settings):
        parts = urlsplit(url)
        if parts.scheme == "http" and parts.hostname not in _LOOPBACK:
            mend = "Use https, unless the way there is private."
            found.append(Finding("configuration", WARNING, f"{name} is plain http", mend))
    return found


def _tables(settings: Settings) -> Finding:
    try:
        plans = read_plans(settings.config_dir)
        catalogue = read_catalogue(settings.config_dir)
    except CatalogueError as exc:
        return Finding(
            "configuration", BROKEN, str(exc), "Correct the file in WATCHLLM_CONFIG_DIR."
        )
    return Finding("configuration", OK, f"{len(plans)} plans, {len(catalogue.models)} models")


def _base_urls(settings: Settings) -> list[tuple[str, str]]:
    return [
        ("OPENAI_BASE_URL", settings.openai.base_url),
        ("ANTHROPIC_BASE_URL", settings.anthropic.base_url),
        ("GROQ_BASE_URL", settings.groq.base_url),
    ]


def _data_dir(settings: Settings) -> Finding:
    name, path = "data directory", settings.data_dir
    try:
        ready_data_dir(path)
        with tempfile.TemporaryFile(dir=path):
            pass
        secret = path / "secret.key"
        open_to_others = secret.exists() and secret.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO)
    except SettingError as exc:
        return Finding(name, BROKEN, str(exc), "Name a directory that this user owns.")
    except OSError as exc:
        mend = "Give it room and write permission, or name another."
        return Finding(
            name, BROKEN, f"WATCHLLM_DATA_DIR is not usable: {exc.strerror} ({path})", mend
        )
    if open_to_others:
        return Finding(name, WARNING, f"others may read {secret}", f"Run: chmod 600 {secret}")
    return Finding(name, OK, str(path))


# --- what they point at


async def _database(settings: Settings) -> list[Finding]:
    name = "database"
    kind = "SQLite" if settings.embedded else "PostgreSQL"
    variable = "WATCHLLM_DATA_DIR" if settings.embedded else "DATABASE_URL"
    try:
        storage = open_storage(settings)
    except SettingError as exc:
        return [Finding(name, BROKEN, str(exc), f"Correct {exc.name}.")]
    async with aclosing(storage):
        try:
            async with asyncio.timeout(PATIENCE):
                await storage.db.ping()
                if not settings.embedded:
                    return await _server(storage.db)
                missing = await pending(storage.db)
        except (ApiError, TimeoutError) as exc:
            if is_denied(exc):
                return [not_let_in()]
            mend = f"Check {variable}, and that the server is up and lets this machine in."
            return [Finding(name, BROKEN, f"{kind} does not answer: {_words(exc)}", mend)]
    if missing:
        return [Finding(name, OK, f"{kind} answers; `watchllm serve` will bring its schema up")]
    return [Finding(name, OK, f"{kind} answers and has the newest schema")]


async def _server(db: Db) -> list[Finding]:
    name, missing = "database", await pending(db)
    if len(missing) == len(packaged(db.dialect)) and await _is_hidden(db):
        return [not_let_in()]
    if missing:
        mend = "Run: watchllm migrate (as the role that owns the tables, or will)"
        return [Finding(name, BROKEN, f"PostgreSQL lacks {len(missing)} schema steps", mend)]
    message = "PostgreSQL answers and has the newest schema"
    return [Finding(name, OK, message), *await database_rights(db)]


async def _redis(settings: Settings) -> list[Finding]:
    name = "redis"
    if settings.redis.url is None:
        return [Finding(name, OFF, "REDIS_URL is not set: cache and limits live in the process")]
    from adapters.redis.cluster import open_link
    from adapters.redis.connection import RedisFault

    began = time.monotonic()
    try:
        url = settings.redis.url.reveal()
        link = open_link(url, connect_timeout=PATIENCE, command_timeout=PATIENCE)
        async with aclosing(link), asyncio.timeout(PATIENCE):
            await link.ping()
    except (RedisFault, TimeoutError, ValueError) as exc:
        why = exc if isinstance(exc, RedisFault) else type(exc).__name__
        mend = "Check REDIS_URL, and that the server is up; until then answers are not shared."
        return [Finding(name, BROKEN, f"does not answer a PING: {why}", mend)]
    took = time.monotonic() - began
    if took > 10 * settings.redis.timeout:
        mend = "Put it nearer, or raise WATCHLLM_REDIS_TIMEOUT."
        return [Finding(name, WARNING, f"took {took * 1000:.0f} ms to connect and answer", mend)]
    return [Finding(name, OK, "answers a PING")]


async def _providers(settings: Settings) -> list[Finding]:
    checks = _provider_checks(settings)
    if not checks:
        mend = "Set OPENAI_API_KEY, ANTHROPIC_API_KEY or GROQ_API_KEY."
        return [
            Finding("providers", WARNING, "no provider has a key: only test keys will work", mend)
        ]
    import aiohttp

    timeout = aiohttp.ClientTimeout(total=PATIENCE)
    async with aiohttp.ClientSession(timeout=timeout, trust_env=False) as session:
        found = await asyncio.gather(*(_provider(session, check, time.time) for check in checks))
    return [finding for findings in found for finding in findings]


def _provider_checks(settings: Settings) -> list[ProviderCheck]:
    checks = []
    if key := settings.openai.api_key:
        headers = {"Authorization": f"Bearer {key.reveal()}"}
        url = f"{settings.openai.base_url}/models"
        checks.append(ProviderCheck("openai", "OPENAI", url, headers))
    if key := settings.anthropic.api_key:
        headers = {"x-api-key": key.reveal(), "anthropic-version": _ANTHROPIC_VERSION}
        url = f"{settings.anthropic.base_url}/v1/models"
        checks.append(ProviderCheck("anthropic", "ANTHROPIC", url, headers))
    if key := settings.groq.api_key:
        headers = {"Authorization": f"Bearer {key.reveal()}"}
        url = f"{settings.groq.base_url}/openai/v1/models"
        checks.append(ProviderCheck("groq", "GROQ", url, headers))
    return checks


async def _provider(
    session: ClientSession, check: ProviderCheck, clock: Callable[[], float]
) -> list[Finding]:
    import aiohttp

    base, key = f"{check.variable}_BASE_URL", f"{check.variable}_API_KEY"
    try:
        # A redirect could carry the key to a stranger.
        async with session.get(
            check.url, headers=check.headers, allow_redirects=False
        ) as response:
            status, date = response.status, response.headers.get("Date")
    except (aiohttp.ClientError, OSError) as exc:  # TimeoutError is an OSError
        mend = f"Check {base} and this machine's way out."
        return [Finding(check.name, BROKEN, f"cannot be reached: {type(exc).__name__}", mend)]
    return [_answered(check.name, status, base, key), *_skew(date, clock())]


def _answered(name: str, status: int, base: str, key: str) -> Finding:
    if status == 200:
        return Finding(name, OK, "answers and takes the key")
    if status in (401, 403):
        return Finding(name, BROKEN, f"refuses the key ({status})", f"Put a valid key into {key}.")
    if status == 429 or status >= 500:
        return Finding(name, WARNING, f"is there, but answers {status}", "Try again later.")
    return Finding(name, BROKEN, f"answers {status} to a list of models", f"Check {base}.")


def _skew(date: str | None, now: float) -> list[Finding]:
    """Another machine's clock against ours: signatures, expiry and the ledger's days depend on it."""
    try:
        skew = abs(parsedate_to_datetime(date or "").timestamp() - now)
    except ValueError:
        return []
    if skew <= MOST_SKEW:
        return [Finding("clock", OK, "agrees with the provider's")]
    return [Finding("clock", WARNING, f"is {skew:.0f} s off the provider's", "Let NTP set it.")]


def _words(exc: BaseException) -> str:
    return exc.message if isinstance(exc, ApiError) else "no answer in time"


async def _is_hidden(db: Db) -> bool:
    from adapters.sql.postgres import SCHEMA
    from adapters.sql.rls import is_hidden

    return await is_hidden(db, SCHEMA)
