"""All settings as one value, read from the environment once, at the root.

Variables that the ecosystem already has keep their names; our own begin with `WATCHLLM_`. An empty one counts
as unset. The table of variables is `config.sections`; what a setting does is decided where it is used.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import environ

from config import parts
from config.parts import Setting, setting
from config.secrets import Secret, SettingError, kept_master
from config.sections import (
    SECTIONS,
    Anthropic,
    Billing,
    Cache,
    Database,
    Groq,
    Keys,
    Ledger,
    Listening,
    Logging,
    Notices,
    OpenAI,
    Redis,
    Telemetry,
    Upstream,
)

__all__ = ["Setting", "SettingError", "Settings", "every_setting", "read_settings"]


@environ.config(prefix="", frozen=True)
class Settings:
    """All of them; `read_settings` fills in `data_dir`. `config_dir` is None for the packaged tables."""

    data_dir: Path = setting(
        "WATCHLLM_DATA_DIR",
        None,
        parts.path,
        "embedded database, usage journal, generated secret; the platform's user data directory if unset",
    )
    config_dir: Path | None = setting(
        "WATCHLLM_CONFIG_DIR",
        None,
        parts.directory,
        "where `plans.toml` and `models.toml` are read; a file missing there falls back to the packaged one",
    )
    secret_key: Secret | None = setting(
        "WATCHLLM_SECRET_KEY",
        None,
        parts.master,
        "master secret, 32 bytes or more; generated in the data directory if unset, required with `DATABASE_URL`",
        secret=True,
    )
    listening: Listening = environ.group(Listening)
    logging: Logging = environ.group(Logging)
    database: Database = environ.group(Database)
    ledger: Ledger = environ.group(Ledger)
    redis: Redis = environ.group(Redis)
    openai: OpenAI = environ.group(OpenAI)
    anthropic: Anthropic = environ.group(Anthropic)
    groq: Groq = environ.group(Groq)
    upstream: Upstream = environ.group(Upstream)
    cache: Cache = environ.group(Cache)
    keys: Keys = environ.group(Keys)
    billing: Billing = environ.group(Billing)
    notices: Notices = environ.group(Notices)
    telemetry: Telemetry = environ.group(Telemetry)

    @property
    def embedded(self) -> bool:
        """No database server: one SQLite file in the data directory."""
        return self.database.url is None

    @property
    def database_file(self) -> Path:
        return self.data_dir / "watchllm.db"

    def master_secret(self) -> Secret:
        """The configured one, or the data directory's own, made at first use."""
        return self.secret_key or kept_master(self.data_dir, beside=self.database_file)

    def public_root(self, port: int) -> str:
        """Base of our own links; `port` is the one that was bound."""
        if self.listening.public_url is not None:
            return self.listening.public_url
        host = self.listening.host
        if host in ("0.0.0.0", "::"):  # noqa: S104  bound everywhere, reached from here by this name
            host = "localhost"
        return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def read_settings(environment: Mapping[str, str]) -> Settings:
    """Raises SettingError, which names the variable and never shows a secret."""
    given = parts.with_files(environment, [one.name for one in every_setting() if one.secret])
    if "WATCHLLM_DATA_DIR" not in given:
        given["WATCHLLM_DATA_DIR"] = str(_user_data_dir(environment))
    roots = given.get("SSL_CERT_FILE")
    if roots and not Path(roots).is_file():
        raise SettingError("SSL_CERT_FILE", f"names no file ({roots})")
    settings = environ.to_config(Settings, given)
    _check_together(settings)
    return settings


def every_setting() -> Iterator[Setting]:
    sections: tuple[Any, ...] = (Settings, *SECTIONS)
    for section in sections:
        for field in attrs.fields(section):
            if isinstance(field.converter, Setting):
                yield field.converter


def _check_together(settings: Settings) -> None:
    if settings.secret_key is None and not settings.embedded:
        # A secret of one node's own would make every other node's keys unknown.
        raise SettingError(
            "WATCHLLM_SECRET_KEY", "is required with DATABASE_URL, the same on every node"
        )
    if settings.database.direct_url is not None and settings.embedded:
        raise SettingError("DATABASE_DIRECT_URL", "is set, but DATABASE_URL is not")
    if settings.listening.processes > 1 and settings.redis.url is None:
        raise SettingError(
            "WATCHLLM_PROCESSES",
            "can be more than 1 only with REDIS_URL, through which processes share their cache",
        )
    if settings.keys.stale < settings.keys.fresh:
        raise SettingError("WATCHLLM_KEY_STALE", "must not be shorter than WATCHLLM_KEY_FRESH")


def _user_data_dir(environment: Mapping[str, str]) -> Path:
    """Where the platform keeps a user's data; on Unix the XDG base directory specification says where."""
    try:
        home = Path(environment.get("HOME") or Path.home())
    except RuntimeError:
        raise SettingError(
            "WATCHLLM_DATA_DIR", "must be set, for this user has no home directory"
        ) from None
    if os.name == "nt":
        return Path(environment.get("LOCALAPPDATA") or home / "AppData" / "Local") / "watchllm"
    if sys.platform == "darwin":
        return home / "Library" / "Application Support" / "watchllm"
    given = Path(environment.get("XDG_DATA_HOME") or "")
    # The specification: a relative path there is invalid and must be ignored.
    return (given if given.is_absolute() else home / ".local" / "share") / "watchllm"
