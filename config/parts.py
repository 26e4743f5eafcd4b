"""What single settings are made of: their declaration, and the readers that turn their text into a value.

A reader raises ValueError with words that complete "NAME …" and never repeat the value. The settings
themselves are in `config.settings`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import SplitResult, urlsplit

import attrs
import environ

from config.secrets import Secret, SecretUrl, SettingError, check_master
from domain.durations import seconds

LOG_LEVELS: Final = ("debug", "info", "warning", "error")
LOG_FORMATS: Final = ("json", "console")
REDIS_SCHEMES: Final = ("redis", "rediss")
CLUSTER_SCHEMES: Final = ("redis+cluster", "rediss+cluster")
MAX_TTL: Final = 7 * 86_400

_SIZE: Final = re.compile(r"([0-9]{1,15})(KiB|MiB|GiB)?")
_SIZES: Final = {None: 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_MAX_SECRET_FILE: Final = 65_536


@attrs.frozen
class Setting:
    """One variable. Called by attrs with its text (None: unset, and no default) it gives the value."""

    name: str
    default: str | None
    read: Callable[[str], Any]
    help: str
    secret: bool

    def __call__(self, text: str | None) -> Any:
        if text is None:
            return None
        try:
            text.encode()
            return self.read(text if self.secret else text.strip())
        except UnicodeEncodeError:
            raise SettingError(self.name, "is not UTF-8") from None
        except ValueError as exc:
            raise SettingError(self.name, str(exc)) from None


def setting(
    name: str, default: str | None, read: Callable[[str], Any], help: str, *, secret: bool = False
) -> Any:
    """Declares a variable; its default is written as the variable itself would be."""
    return environ.var(
        default=default, name=name, converter=Setting(name, default, read, help, secret), help=help
    )


def with_files(environment: Mapping[str, str], secrets: Iterable[str]) -> dict[str, str]:
    """The environment without empty variables, and with the secrets that `NAME_FILE` points at."""
    given = {name: value for name, value in environment.items() if value.strip()}
    for name in secrets:
        path = given.get(f"{name}_FILE")
        if path is None:
            continue
        if name in given:
            raise SettingError(name, f"and {name}_FILE are both set; keep one")
        given[name] = _file_text(f"{name}_FILE", Path(path))
    return given


def _file_text(name: str, path: Path) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(_MAX_SECRET_FILE + 1)
        text = raw.decode().removesuffix("\n").removesuffix("\r")
    except OSError as exc:
        raise SettingError(name, f"cannot be read: {exc.strerror}") from exc
    except ValueError:
        raise SettingError(name, "points at a file that is not UTF-8 text") from None
    if not text.strip() or len(raw) > _MAX_SECRET_FILE:
        raise SettingError(name, "points at a file that is empty or far too large for a secret")
    return text


# --- plain values


def text(value: str) -> str:
    if not value.isprintable():
        raise ValueError("holds a control character")
    return value


def host(value: str) -> str:
    if not value.isprintable() or any(sign in value for sign in " /@"):
        raise ValueError("must be a host name or an address")
    return value.removeprefix("[").removesuffix("]")


def port(value: str) -> int:
    return _whole(value, 0, 65_535)


def count(value: str) -> int:
    return _whole(value, 1, 1_000_000)


def count_or_none(value: str) -> int:
    return _whole(value, 0, 1_000_000)


def _whole(value: str, least: int, most: int) -> int:
    if re.fullmatch(r"[0-9]{1,7}", value) is None or not least <= int(value) <= most:
        raise ValueError(f"must be a whole number from {least} to {most}")
    return int(value)


def size(value: str) -> int:
    found = _SIZE.fullmatch(value)
    if found is None or int(found[1]) == 0:
        raise ValueError("must be a number of bytes above 0; KiB, MiB and GiB may follow it")
    return int(found[1]) * _SIZES[found[2]]


def duration(value: str) -> float:
    found = grace(value)
    if found == 0:
        raise ValueError("must be longer than 0")
    return found


def grace(value: str) -> float:
    try:
        return seconds(value)
    except ValueError:
        raise ValueError(
            "must be written 30s, 15m, 24h, 30d or as a plain number of seconds"
        ) from None


def cache_ttl(value: str) -> int:
    found = grace(value)
    if not 1 <= found <= MAX_TTL:
        raise ValueError("must be from 1s to 7d")
    return math.floor(found)


def switch(value: str) -> bool:
    lowered = value.lower()
    if lowered in {"1", "true", "yes", "on"}:
        return True
    if lowered in {"0", "false", "no", "off"}:
        return False
    raise ValueError("must be true or false")


def share(value: str) -> float:
    """A part of all, from 0 to 1."""
    if value.lower() == "off":
        return 0.0
    try:
        found = float(value)
    except ValueError:
        found = -1.0
    if not 0 <= found <= 1:
        raise ValueError("must be from 0 to 1, or off")
    return found


def otlp_headers(value: str) -> Secret:
    """Pairs as OpenTelemetry's specification has them."""
    if not all(re.fullmatch(r"[^=\s]+=.*", one.strip()) for one in value.split(",")):
        raise ValueError("must be written name=value,name=value")
    return Secret(value)


def log_level(value: str) -> str:
    return _one_of(value, LOG_LEVELS)


def log_format(value: str) -> str:
    return _one_of(value, LOG_FORMATS)


def _one_of(value: str, words: tuple[str, ...]) -> str:
    if value.lower() not in words:
        raise ValueError(f"must be one of {', '.join(words)}")
    return value.lower()


def path(value: str) -> Path:
    try:
        return Path(value).expanduser().absolute()
    except RuntimeError:
        raise ValueError("begins with ~, but this user has no home directory") from None


def directory(value: str) -> Path:
    found = path(value)
    if not found.is_dir():
        raise ValueError("is not a directory")
    return found


def mail_address(value: str) -> str:
    if not value.isprintable() or "@" not in value:
        raise ValueError("must be a mail address, with a name before it or not")
    return value


# --- URLs


def http_url(value: str) -> str:
    """A base that paths are appended to. Credentials belong into a variable of their own."""
    parts = _url(value, ("http", "https"))
    if parts.query or parts.fragment or "@" in parts.netloc:
        raise ValueError("must hold no user, password, query or fragment")
    return value.rstrip("/")


def database_url(value: str) -> SecretUrl:
    _url(
        value, ("postgresql", "postgres"), needs_host=False
    )  # libpq may take the host from the query
    return SecretUrl(value)


def redis_url(value: str) -> SecretUrl:
    """A cluster may be named by several of its nodes, with commas between them."""
    parts = _url(value, (*REDIS_SCHEMES, *CLUSTER_SCHEMES), needs_host=False)
    hosts = parts.netloc.rpartition("@")[2]
    for host in hosts.split(",") if parts.scheme in CLUSTER_SCHEMES else [hosts]:
        _url(f"redis://{host}", REDIS_SCHEMES)
        if "," in host:
            raise ValueError("may name several hosts only as redis+cluster://")
    if parts.query or parts.fragment or re.fullmatch(r"/?[0-9]{0,4}", parts.path) is None:
        raise ValueError("must end with its host, or with / and the number of a database")
    return SecretUrl(value)


def smtp_url(value: str) -> SecretUrl:
    _url(value, ("smtp", "smtps"))
    return SecretUrl(value)


def sentry_dsn(value: str) -> Secret:
    _url(value, ("http", "https"))
    return Secret(value)


def team_webhooks(value: str) -> tuple[Secret, ...]:
    urls = _listed(value)
    for url in urls:
        _url(url, ("http", "https"))
    return tuple(map(Secret, urls))


def _url(value: str, schemes: tuple[str, ...], *, needs_host: bool = True) -> SplitResult:
    try:
        parts = urlsplit(value)
        whole = not needs_host or (parts.hostname is not None and parts.port != 0)
    except ValueError:
        # What urllib says may quote a piece of the password.
        raise ValueError(
            "is not a URL; are special characters in its password percent-encoded?"
        ) from None
    if any(sign.isspace() or not sign.isprintable() for sign in value):
        raise ValueError("holds a space or a control character")
    if parts.scheme not in schemes:
        raise ValueError(f"must begin with {' or '.join(f'{scheme}://' for scheme in schemes)}")
    if not whole or value[len(parts.scheme) : len(parts.scheme) + 3] != "://":
        raise ValueError(f"must be written {schemes[0]}://host…")
    return parts


# --- secrets


def api_key(value: str) -> Secret:
    """Goes into an HTTP header as it is (RFC 9110 5.5: visible ASCII)."""
    if re.fullmatch(r"[!-~]+", value) is None:
        raise ValueError("holds a space, a line break or another character that no key has")
    return Secret(value)


def webhook_secrets(value: str) -> tuple[Secret, ...]:
    found = _listed(value)
    if not all(re.fullmatch(r"whsec_[!-~]+", one) for one in found):
        raise ValueError("must begin with whsec_, as Stripe shows it")
    return tuple(map(Secret, found))


def master(value: str) -> Secret:
    check_master(value)
    return Secret(value)


def _listed(value: str) -> list[str]:
    found = [one.strip() for one in value.split(",") if one.strip()]
    if not found:
        raise ValueError("holds nothing but commas")
    return found
