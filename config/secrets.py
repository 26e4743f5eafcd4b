"""Secrets: the type that never prints itself, the master secret and the keys derived from it.

Settings are read in `config.settings`; nothing here knows what a secret is for, except by its purpose's name.
"""

from __future__ import annotations

import hmac
import os
import secrets
import tempfile
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

MASTER_BYTES: Final = 32
PURPOSES: Final = ("key-hash", "cache-key", "cache-mac", "channel-seal", "unsubscribe")

_FILE: Final = "secret.key"
_PLACEHOLDERS: Final = (
    "changeme",
    "change-me",
    "change_me",
    "placeholder",
    "example",
    "replace",
    "insecure",
    "your-secret",
    "your_secret",
    "yoursecret",
)


class SettingError(Exception):
    """A setting that cannot be used. The message names the variable and never holds its value."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(f"{name} {message}")
        self.name = name


class Secret:
    """A text that only `reveal` tells; whatever prints, formats or logs it sees `<secret>`."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        return self._text

    def __str__(self) -> str:
        return "<secret>"

    def __repr__(self) -> str:
        return str(self)

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._text.encode(), other._text.encode())

    def __hash__(self) -> int:
        return hash((Secret, self._text))

    def __reduce__(self) -> str:
        raise TypeError("a secret is not pickled")


class SecretUrl(Secret):
    """A URL that may hold a password: printed without it, and without the query, where drivers look for one too."""

    __slots__ = ()

    def __str__(self) -> str:
        parts = urlsplit(self._text)
        account, at, place = parts.netloc.rpartition("@")
        user, colon, _ = account.partition(":")
        return f"{parts.scheme}://{user}{':***' if colon else ''}{at}{place}{parts.path}"


def check_master(text: str) -> None:
    """ValueError if this cannot be a master secret."""
    if len(text.encode()) < MASTER_BYTES:
        raise ValueError(
            f"must be {MASTER_BYTES} bytes or more; `openssl rand -base64 48` makes a good one"
        )
    plain = text.lower()
    if any(word in plain for word in _PLACEHOLDERS) or len(set(text)) < 10:
        raise ValueError("is a placeholder; `openssl rand -base64 48` makes a good one")


def kept_master(data_dir: Path, *, beside: Path | None = None) -> Secret:
    """The master secret of this data directory, made at first use and readable by its owner only.

    A database that is there already was written under a secret that is not: a new one would make all its keys unknown.
    """
    path = data_dir / _FILE
    if beside is not None and beside.exists() and not path.exists():
        raise SettingError(
            "WATCHLLM_DATA_DIR", f"has {beside.name} but no {_FILE}; put its backup back ({path})"
        )
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            _write_once(path, secrets.token_urlsafe(48))
        text = path.read_text("ascii").strip()
        check_master(text)
    except OSError as exc:
        raise SettingError("WATCHLLM_DATA_DIR", f"is not usable: {exc.strerror} ({path})") from exc
    except ValueError:
        raise SettingError(
            "WATCHLLM_DATA_DIR", f"holds a damaged {_FILE}; put its backup back"
        ) from None
    return Secret(text)


def hkdf(master: bytes, *, salt: bytes, info: bytes, length: int) -> bytes:
    """HKDF with SHA-256 (RFC 5869): extract, then expand."""
    key = hmac.digest(salt or bytes(32), master, "sha256")
    block = output = b""
    for number in range(1, -(-length // 32) + 1):
        block = hmac.digest(key, block + info + bytes([number]), "sha256")
        output += block
    return output[:length]


def derive(master: Secret, purpose: str) -> bytes:
    """The 32-byte key of one purpose. Knowing one says nothing about another, nor about the master."""
    if purpose not in PURPOSES:
        raise ValueError(f"no such purpose: {purpose}")
    return hkdf(
        master.reveal().encode(), salt=b"watchllm", info=f"{purpose}/1".encode(), length=32
    )


def _write_once(path: Path, text: str) -> None:
    """Whole or not at all, and never over another process's: both would keep a different secret."""
    handle, draft = tempfile.mkstemp(dir=path.parent, prefix=".secret-")  # O_EXCL, mode 0600
    try:
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        os.unlink(draft)
