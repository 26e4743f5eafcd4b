"""Settings: what is read, what is refused, and that no secret is ever told."""

from __future__ import annotations

import copy
import json
import logging
import stat
from pathlib import Path
from typing import Any

import environ
import pytest

from config.secrets import (
    PURPOSES,
    Secret,
    SecretUrl,
    SettingError,
    derive,
    hkdf,
    kept_master,
)
from config.settings import Settings, every_setting, read_settings

HOME = {"HOME": "/home/someone"}
MASTER = "Zt3vQ8mK1xY7rB5nW2jL9pD4sF6hG0aC"
SERVER = {"DATABASE_URL": "postgresql://u:hunter2@db/x", "WATCHLLM_SECRET_KEY": MASTER}


def read(**given: str) -> Settings:
    return read_settings({**HOME, **given})


def at(settings: Settings, path: str) -> Any:
    found: Any = settings
    for name in path.split("."):
        found = getattr(found, name)
    return found


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("listening.host", "127.0.0.1"),
        ("listening.port", 8787),
        ("listening.processes", 1),
        ("listening.max_connections", 2000),
        ("listening.max_connections_per_ip", 100),
        ("listening.max_in_flight", 500),
        ("listening.max_body_bytes", 16 << 20),
        ("listening.idle_timeout", 10),
        ("listening.body_timeout", 30),
        ("listening.write_timeout", 30),
        ("listening.heartbeat", 15),
        ("listening.drain_grace", 60),
        ("logging.level", "info"),
        ("logging.format", None),
        ("data_dir", Path("/home/someone/.local/share/watchllm")),
        ("config_dir", None),
        ("database.url", None),
        ("redis.url", None),
        ("redis.timeout", 0.05),
        ("openai.base_url", "https://api.openai.com/v1"),
        ("anthropic.base_url", "https://api.anthropic.com"),
        ("groq.base_url", "https://api.groq.com"),
        ("upstream.connect_timeout", 5),
        ("upstream.first_byte_timeout", 120),
        ("upstream.stream_first_byte_timeout", 60),
        ("upstream.idle_timeout", 60),
        ("upstream.total_timeout", 600),
        ("upstream.max_answer_bytes", 32 << 20),
        ("cache.ttl_completions", 3600),
        ("cache.ttl_embeddings", 86_400),
        ("cache.entry_bytes", 1 << 20),
        ("cache.disk_bytes", 1 << 30),
        ("keys.fresh", 60),
        ("keys.stale", 900),
        ("billing.secret_key", None),
        ("telemetry.datadog", False),
    ],
)
def test_a_bare_environment_works(path: str, expected: object) -> None:
    """Nothing needs to be set; the defaults are the documented ones."""
    assert expected == at(read(), path)


@pytest.mark.parametrize(
    ("name", "text", "path", "expected"),
    [
        ("WATCHLLM_HOST", "::", "listening.host", "::"),
        ("WATCHLLM_HOST", "[::1]", "listening.host", "::1"),
        ("WATCHLLM_PORT", "0", "listening.port", 0),
        ("WATCHLLM_PORT", " 80 ", "listening.port", 80),
        ("WATCHLLM_PORT", "", "listening.port", 8787),
        ("WATCHLLM_PORT", "  ", "listening.port", 8787),
        ("WATCHLLM_DATA_DIR", "/data", "data_dir", Path("/data")),
        ("WATCHLLM_LOG_LEVEL", "DEBUG", "logging.level", "debug"),
        ("WATCHLLM_LOG_FORMAT", "console", "logging.format", "console"),
        ("WATCHLLM_MAX_BODY_BYTES", "1048576", "listening.max_body_bytes", 1 << 20),
        ("WATCHLLM_DRAIN_GRACE", "0", "listening.drain_grace", 0),
        ("WATCHLLM_CACHE_TTL_COMPLETIONS", "7d", "cache.ttl_completions", 604_800),
        ("OPENAI_BASE_URL", "http://127.0.0.1:9/v1/", "openai.base_url", "http://127.0.0.1:9/v1"),
        ("DD_TRACE_ENABLED", "True", "telemetry.datadog", True),
    ],
)
def test_a_variable_is_read(name: str, text: str, path: str, expected: object) -> None:
    """Spaces around a value do not matter; an empty value is an unset one."""
    assert expected == at(read(**{name: text}), path)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("WATCHLLM_HOST", "http://host"),
        ("WATCHLLM_HOST", "a b"),
        ("WATCHLLM_PORT", "http"),
        ("WATCHLLM_PORT", "-1"),
        ("WATCHLLM_PORT", "65536"),
        ("WATCHLLM_PORT", "8_787"),
        ("WATCHLLM_PORT", "8787.0"),
        ("WATCHLLM_PROCESSES", "0"),
        ("WATCHLLM_PUBLIC_URL", "watch.example"),
        ("WATCHLLM_CONFIG_DIR", "/nowhere/at/all"),
        ("WATCHLLM_LOG_LEVEL", "loud"),
        ("WATCHLLM_LOG_FORMAT", "xml"),
        ("WATCHLLM_MAX_BODY_BYTES", "0"),
        ("WATCHLLM_MAX_BODY_BYTES", "16MB"),
        ("WATCHLLM_UPSTREAM_TOTAL_TIMEOUT", "0"),
        ("WATCHLLM_UPSTREAM_TOTAL_TIMEOUT", "-5"),
        ("WATCHLLM_UPSTREAM_TOTAL_TIMEOUT", "nan"),
        ("WATCHLLM_CACHE_TTL_COMPLETIONS", "8d"),
        ("WATCHLLM_CACHE_TTL_EMBEDDINGS", "0"),
        ("WATCHLLM_KEY_STALE", "5s"),
        ("OPENAI_BASE_URL", "api.openai.com"),
        ("OPENAI_BASE_URL", "ftp://api.openai.com"),
        ("OPENAI_BASE_URL", "https:///v1"),
        ("OPENAI_BASE_URL", "https://api.openai.com/v1?key=hunter2"),
        ("OPENAI_BASE_URL", "https://user:hunter2@api.openai.com"),
        ("OPENAI_BASE_URL", "https://api.openai.com:hunter2"),
        ("OPENAI_API_KEY", "sk-hunter2 "),
        ("OPENAI_API_KEY", "sk-hunter2\nX-Evil: 1"),
        ("ANTHROPIC_API_KEY", "sk-hünter2"),
        ("GROQ_API_KEY", "gsk\udcffhunter2"),
        ("DATABASE_URL", "mysql://u:hunter2@db/x"),
        ("DATABASE_URL", "postgresql:hunter2"),
        ("DATABASE_URL", "hunter2"),
        ("DATABASE_DIRECT_URL", "postgresql://u:hunter2@db/x"),
        ("REDIS_URL", "http://:hunter2@cache"),
        ("REDIS_URL", "redis://:hunter2/@cache:6379"),
        ("REDIS_URL", "redis://[hunter2"),
        ("REDIS_URL", "redis://"),
        ("REDIS_URL", "redis://a,b"),
        ("REDIS_URL", "redis+cluster://a:7000,,b"),
        ("REDIS_URL", "redis://cache/0?password=hunter2"),
        ("REDIS_URL", "redis://:pass#hunter2@cache"),
        ("SMTP_URL", "imap://u:hunter2@mail"),
        ("STRIPE_WEBHOOK_SECRET", "hunter2"),
        ("STRIPE_WEBHOOK_SECRET", "whsec_a,hunter2"),
        ("STRIPE_WEBHOOK_SECRET", ","),
        ("WATCHLLM_TEAM_WEBHOOKS", "hunter2"),
        ("SENTRY_DSN", "hunter2"),
        ("WATCHLLM_SECRET_KEY", "hunter2"),
        ("WATCHLLM_SECRET_KEY", "hunter2-changeme-0123456789-abcdefghijk"),
        ("WATCHLLM_SECRET_KEY", "hunter2hunter2hunter2hunter2hunter2hunter2"),
        ("DD_TRACE_ENABLED", "maybe"),
    ],
)
def test_a_wrong_value_names_its_variable(name: str, text: str) -> None:
    """One line that begins with the variable and never repeats what was in it."""
    with pytest.raises(SettingError) as caught:
        read(**{name: text})
    told = str(caught.value)

    assert name == caught.value.name
    assert told.startswith(f"{name} ")
    assert told.isprintable()
    assert "hunter2" not in told
    assert "hunter2" not in repr(caught.value)
    assert caught.value.__context__ is None or caught.value.__suppress_context__


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({"DATABASE_URL": "postgresql://db/x"}, "WATCHLLM_SECRET_KEY"),
        ({"WATCHLLM_PROCESSES": "2"}, "WATCHLLM_PROCESSES"),
    ],
)
def test_settings_that_need_each_other(given: dict[str, str], name: str) -> None:
    with pytest.raises(SettingError) as caught:
        read(**given)
    assert name == caught.value.name


def test_several_processes_share_redis() -> None:
    """With a server to share the cache through, more processes are welcome."""
    assert 4 == read(WATCHLLM_PROCESSES="4", REDIS_URL="redis://cache").listening.processes


def test_prices_stand_for_plans() -> None:
    """Whichever of them are set."""
    assert {} == read().billing.prices
    given = {"STRIPE_PRICE_PRO": "price_2", "STRIPE_PRICE_STARTER": "price_1"}
    assert {"price_1": "starter", "price_2": "pro"} == read(**given).billing.prices


@pytest.mark.parametrize(
    "url",
    [
        "postgres://u:p@db/x",
        "postgresql:///x?host=/run/postgresql",
        "postgresql://u@a:1,b:2/x",
        "postgresql://postgres.ref:pw@aws-0-eu.pooler.supabase.com:6543/postgres?sslmode=require",
    ],
)
def test_databases_that_are_known(url: str) -> None:
    settings = read(DATABASE_URL=url, WATCHLLM_SECRET_KEY=MASTER)

    assert settings.database.url == SecretUrl(url)
    assert not settings.embedded


@pytest.mark.parametrize(
    "url",
    [
        "redis://cache",
        "redis://[::1]:6379/1",
        "rediss://u:p,w@cache:6379/1",
        "redis+cluster://:pw@a:7000,b:7001,c",
        "rediss+cluster://a",
    ],
)
def test_servers_that_redis_is_found_at(url: str) -> None:
    assert read(REDIS_URL=url).redis.url == SecretUrl(url)


def test_lists_are_split() -> None:
    """Both signing secrets work while one replaces the other."""
    settings = read(STRIPE_WEBHOOK_SECRET="whsec_new, whsec_old")

    assert (Secret("whsec_new"), Secret("whsec_old")) == settings.billing.webhook_secrets


# --- files


@pytest.mark.parametrize("name", [one.name for one in every_setting() if one.secret])
def test_every_secret_may_come_from_a_file(name: str, tmp_path: Path) -> None:
    """`NAME_FILE` counts as `NAME`: what one refuses or takes, the other does too."""
    file = tmp_path / "secret"
    file.write_text(" \n")

    with pytest.raises(SettingError) as caught:
        read(**{f"{name}_FILE": str(file)})
    assert f"{name}_FILE" == caught.value.name


@pytest.mark.parametrize("ending", ["", "\n", "\r\n"])
def test_a_file_may_end_its_line(tmp_path: Path, ending: str) -> None:
    file = tmp_path / "key"
    file.write_bytes(f"sk-abc{ending}".encode())

    assert Secret("sk-abc") == read(OPENAI_API_KEY_FILE=str(file)).openai.api_key


def test_a_secret_is_given_once(tmp_path: Path) -> None:
    """With both set nobody could say which one counts."""
    (tmp_path / "key").write_text("sk-abc")

    with pytest.raises(SettingError, match="OPENAI_API_KEY_FILE are both set") as caught:
        read(OPENAI_API_KEY="sk-def", OPENAI_API_KEY_FILE=str(tmp_path / "key"))
    assert "OPENAI_API_KEY" == caught.value.name


def test_an_empty_variable_does_not_hide_its_file(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("sk-abc")

    settings = read(OPENAI_API_KEY="", OPENAI_API_KEY_FILE=str(tmp_path / "key"))
    assert Secret("sk-abc") == settings.openai.api_key


@pytest.mark.parametrize("content", [None, b"", b"\n", b"\xff\xfe", b"x" * 70_000])
def test_a_file_that_holds_no_secret(tmp_path: Path, content: bytes | None) -> None:
    """Missing, empty, binary or endless: told, with the variable's name."""
    file = tmp_path / "key"
    if content is not None:
        file.write_bytes(content)

    with pytest.raises(SettingError) as caught:
        read(OPENAI_API_KEY_FILE=str(file))
    assert "OPENAI_API_KEY_FILE" == caught.value.name


def test_a_directory_is_no_secret(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="OPENAI_API_KEY_FILE cannot be read"):
        read(OPENAI_API_KEY_FILE=str(tmp_path))


# --- secrets


def test_a_secret_never_prints() -> None:
    """Whatever shows it, shows `<secret>`; only `reveal` tells."""
    secret = Secret("hunter2")
    shown = [str(secret), repr(secret), f"{secret}", f"{secret:>10}", f"{[secret]}"]
    shown.append(logging.LogRecord("", 0, "", 0, "key %s", (secret,), None).getMessage())
    shown.append(json.dumps({"key": secret}, default=str))

    assert not [one for one in shown if "hunter2" in one]
    assert "<secret>" == str(secret)
    assert "hunter2" == secret.reveal()
    with pytest.raises(TypeError):
        copy.deepcopy(secret)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql://u:hunter2@db:5432/x", "postgresql://u:***@db:5432/x"),
        ("postgresql://db/x?password=hunter2&user=u", "postgresql://db/x"),
        ("redis://:hunter2@cache/0", "redis://:***@cache/0"),
        ("redis://cache", "redis://cache"),
        ("smtp://u:hunter2@a@mail:587", "smtp://u:***@mail:587"),
    ],
)
def test_a_url_prints_without_its_password(url: str, expected: str) -> None:
    assert expected == str(SecretUrl(url)) == f"{SecretUrl(url)}"


def test_settings_print_without_secrets(tmp_path: Path) -> None:
    """The whole value may be logged."""
    settings = read(
        **SERVER,
        REDIS_URL="redis://:hunter2@cache",
        OPENAI_API_KEY="sk-hunter2",
        STRIPE_WEBHOOK_SECRET="whsec_hunter2",
        SMTP_URL="smtp://u:hunter2@mail:587",
        WATCHLLM_MAIL_FROM="a@b.example",
        WATCHLLM_TEAM_WEBHOOKS="https://hooks.example/hunter2",
        SENTRY_DSN="https://hunter2@sentry.example/1",
    )

    assert "hunter2" not in repr(settings)
    assert MASTER not in repr(settings)


def test_a_master_secret_is_made_once(tmp_path: Path) -> None:
    """It survives restarts, and only its owner can read it."""
    data = tmp_path / "data"
    first = kept_master(data)

    assert first == kept_master(data)
    assert 32 <= len(first.reveal())
    assert 0o700 == stat.S_IMODE(data.stat().st_mode)
    assert 0o600 == stat.S_IMODE((data / "secret.key").stat().st_mode)
    assert ["secret.key"] == [one.name for one in data.iterdir()]


def test_two_first_starts_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that lost the race takes the winner's secret, not its own."""
    winner = kept_master(tmp_path)
    monkeypatch.setattr(Path, "exists", lambda self: False)

    assert winner == kept_master(tmp_path)


@pytest.mark.parametrize("content", ["", "short", "changeme" * 8])
def test_a_damaged_master_secret_is_not_replaced(tmp_path: Path, content: str) -> None:
    """A new one in its place would make every key unknown."""
    (tmp_path / "secret.key").write_text(content)

    with pytest.raises(SettingError, match="WATCHLLM_DATA_DIR holds a damaged"):
        kept_master(tmp_path)
    assert content == (tmp_path / "secret.key").read_text()


def test_a_configured_master_secret_leaves_no_file(tmp_path: Path) -> None:
    settings = read(WATCHLLM_SECRET_KEY=MASTER, WATCHLLM_DATA_DIR=str(tmp_path))

    assert Secret(MASTER) == settings.master_secret()
    assert [] == list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("ikm", "salt", "info", "length", "expected"),
    [
        (
            bytes([0x0B] * 22),
            bytes(range(13)),
            bytes(range(0xF0, 0xFA)),
            42,
            "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
        ),
        (
            bytes(range(80)),
            bytes(range(0x60, 0xB0)),
            bytes(range(0xB0, 0x100)),
            82,
            "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41c65e590e09da3275600c"
            "2f09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87",
        ),
        (
            bytes([0x0B] * 22),
            b"",
            b"",
            42,
            "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8",
        ),
    ],
)
def test_derivation_is_hkdf(
    ikm: bytes, salt: bytes, info: bytes, length: int, expected: str
) -> None:
    """RFC 5869, test cases 1 to 3."""
    assert expected == hkdf(ikm, salt=salt, info=info, length=length).hex()


def test_each_purpose_has_a_key_of_its_own() -> None:
    keys = {derive(Secret(MASTER), purpose) for purpose in PURPOSES}

    assert len(PURPOSES) == len(keys)
    assert {32} == {len(key) for key in keys}
    with pytest.raises(ValueError, match="no such purpose"):
        derive(Secret(MASTER), "everything")


def test_derived_keys_never_change() -> None:
    """Stored digests depend on it: a release that changes this locks everybody out."""
    assert (
        "411bef347fa2df42e00e8b723a9e9467bbf6c6a825d731b3a759d6e7f65d0b80"
        == derive(Secret(MASTER), "key-hash").hex()
    )


# --- the table


def test_every_section_is_in_the_table() -> None:
    """`every_setting` forgets none that environ-config reads."""
    read_by_environ = environ.generate_help(
        Settings, formatter=lambda rows: [row["var_name"] for row in rows]
    )

    assert sorted(read_by_environ) == sorted(one.name for one in every_setting())


def test_every_variable_is_declared_once() -> None:
    names = [one.name for one in every_setting()]

    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"HOME": "/h"}, "/h/.local/share/watchllm"),
        ({"HOME": "/h", "XDG_DATA_HOME": "/x"}, "/x/watchllm"),
        ({"HOME": "/h", "XDG_DATA_HOME": "relative"}, "/h/.local/share/watchllm"),
    ],
)
def test_data_lies_where_the_platform_keeps_it(environment: dict[str, str], expected: str) -> None:
    """The XDG base directory specification."""
    assert Path(expected) == read_settings(environment).data_dir


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "http://127.0.0.1:9000"),
        ({"WATCHLLM_HOST": "::1"}, "http://[::1]:9000"),
        ({"WATCHLLM_PUBLIC_URL": "https://llm.example/"}, "https://llm.example"),
    ],
)
def test_our_own_links(given: dict[str, str], expected: str) -> None:
    assert expected == read(**given).public_root(9000)
