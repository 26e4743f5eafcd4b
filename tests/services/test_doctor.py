"""What the doctor finds, against real ends of the wire."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import closing
from email.utils import formatdate
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg2
import pytest
from aiohttp import web

from adapters.sql.migrate import migrate
from adapters.sql.postgres import PostgresDb
from app import doctor
from app.commands.desk import told
from app.findings import BROKEN, OFF, OK, WARNING, Finding
from config.secrets import SettingError
from config.settings import read_settings
from domain.errors import Unavailable
from tests.support.fixtures import async_fixture
from tests.support.valkey import valkey_cluster, valkey_server

if TYPE_CHECKING:
    from tests.support.postgres import PostgresServer

MASTER = "Zt3vQ8mK1xY7rB5nW2jL9pD4sF6hG0aC"
KEY = "sk-hunter2hunter2"

Examine = Callable[..., Awaitable[dict[str, Finding]]]


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


@pytest.fixture
def examine(tmp_path: Path) -> Examine:
    async def run(**given: str) -> dict[str, Finding]:
        environment = {"HOME": "/", "WATCHLLM_DATA_DIR": str(tmp_path / "data"), **given}
        findings = await doctor.examine(read_settings(environment), environment)
        assert "hunter2" not in json.dumps(doctor.report(findings))
        assert "hunter2" not in "\n".join(doctor.lines(findings))
        return {one.name: one for one in findings}

    return run


@async_fixture
async def provider() -> AsyncIterator[str]:
    """A provider that takes one key, and whose answer can be asked for by path."""

    async def models(request: web.Request) -> web.Response:
        given = request.headers.get("Authorization") or request.headers.get("x-api-key") or ""
        if not given.endswith(KEY):
            return web.Response(status=401, text=f"bad key {given}")
        return web.json_response({"data": []})

    async def answer(request: web.Request) -> web.Response:
        return web.Response(
            status=int(request.match_info["status"]), headers={"Location": "/v1/models"}
        )

    async def late(_: web.Request) -> web.Response:
        return web.json_response({}, headers={"Date": formatdate(1_000_000_000, usegmt=True)})

    app = web.Application()
    for path in ("/v1/models", "/openai/v1/models"):
        app.router.add_get(path, models)
    app.router.add_get("/late/models", late)
    app.router.add_get("/{status}/models", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    yield f"http://127.0.0.1:{port}"
    await runner.cleanup()


async def test_a_fresh_machine_is_well(examine: Examine) -> None:
    """With nothing set, nothing is broken; what is missing is said."""
    found = await examine()

    assert OK == found["configuration"].state
    assert OK == found["data directory"].state
    assert OK == found["database"].state
    assert OFF == found["redis"].state
    assert OFF == found["billing"].state
    assert OFF == found["mail"].state
    assert WARNING == found["providers"].state


async def test_providers_that_answer(examine: Examine, provider: str) -> None:
    """Each is asked in its own way, with its key."""
    found = await examine(
        OPENAI_API_KEY=KEY,
        OPENAI_BASE_URL=f"{provider}/v1",
        ANTHROPIC_API_KEY=KEY,
        ANTHROPIC_BASE_URL=provider,
        GROQ_API_KEY=KEY,
        GROQ_BASE_URL=provider,
    )

    assert [OK] * 4 == [found[name].state for name in ("openai", "anthropic", "groq", "clock")]


@pytest.mark.parametrize(
    ("path", "key", "state", "word"),
    [
        ("v1", "sk-wrong", BROKEN, "OPENAI_API_KEY"),
        ("403", KEY, BROKEN, "OPENAI_API_KEY"),
        ("404", KEY, BROKEN, "OPENAI_BASE_URL"),
        ("302", KEY, BROKEN, "OPENAI_BASE_URL"),
        ("429", KEY, WARNING, "later"),
        ("500", KEY, WARNING, "later"),
    ],
)
async def test_providers_that_refuse(
    examine: Examine, provider: str, path: str, key: str, state: str, word: str
) -> None:
    """The mend names the variable to look at; a redirect is not followed with the key in hand."""
    found = await examine(OPENAI_API_KEY=key, OPENAI_BASE_URL=f"{provider}/{path}")

    assert state == found["openai"].state
    assert word in found["openai"].mend


async def test_a_clock_that_is_off(examine: Examine, provider: str) -> None:
    found = await examine(OPENAI_API_KEY=KEY, OPENAI_BASE_URL=f"{provider}/late")

    assert WARNING == found["clock"].state


async def test_servers_that_are_away(examine: Examine) -> None:
    """Each one is told apart, with the setting that points at it."""
    port = free_port()
    found = await examine(
        DATABASE_URL=f"postgresql://u:hunter2@127.0.0.1:{port}/x",
        WATCHLLM_SECRET_KEY=MASTER,
        REDIS_URL=f"redis://:hunter2@127.0.0.1:{port}",
        OPENAI_API_KEY=KEY,
        OPENAI_BASE_URL=f"http://127.0.0.1:{port}",
    )

    assert [BROKEN] * 3 == [found[name].state for name in ("database", "redis", "openai")]
    assert "DATABASE_URL" in found["database"].mend
    assert "REDIS_URL" in found["redis"].mend
    assert "OPENAI_BASE_URL" in found["openai"].mend


@pytest.mark.valkey
@pytest.mark.parametrize(
    ("options", "state", "word"),
    [((), OK, "answers"), (("--requirepass", "other"), BROKEN, "NOAUTH")],
)
async def test_a_redis_server(
    examine: Examine, options: tuple[str, ...], state: str, word: str
) -> None:
    """It is asked over the link that the proxy will use."""
    with valkey_server(*options) as server:
        found = await examine(REDIS_URL=server.url)

    assert state == found["redis"].state
    assert word in found["redis"].message


@pytest.mark.valkey
async def test_a_redis_cluster(examine: Examine) -> None:
    with valkey_cluster() as servers:
        hosts = ",".join(f"127.0.0.1:{server.port}" for server in servers)
        found = await examine(REDIS_URL=f"redis+cluster://{hosts}")

    assert OK == found["redis"].state


async def test_a_data_directory_that_is_none(examine: Examine, tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    found = await examine()

    assert BROKEN == found["data directory"].state
    assert found["data directory"].message.startswith("WATCHLLM_DATA_DIR")
    assert BROKEN == found["database"].state


async def test_a_secret_that_others_read(examine: Examine, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "secret.key").write_text(MASTER)
    (tmp_path / "data" / "secret.key").chmod(0o644)
    found = await examine()

    assert WARNING == found["data directory"].state
    assert "chmod 600" in found["data directory"].mend


@pytest.mark.parametrize(
    ("given", "mend"),
    [
        ({"WATCHLLM_CACHE_TLL_COMPLETIONS": "1h"}, "Did you mean WATCHLLM_CACHE_TTL_COMPLETIONS?"),
        ({"WATCHLLM_PORT_FILE": "/x"}, "Did you mean"),
        ({"OPENAI_BASE_URL": "http://proxy.example/v1"}, "Use https"),
    ],
)
async def test_settings_that_are_doubtful(
    examine: Examine, given: dict[str, str], mend: str
) -> None:
    """A misspelt name is silent everywhere else; here it is told, with the nearest real one."""
    found = await examine(**given)

    assert WARNING == found["configuration"].state
    assert found["configuration"].mend.startswith(mend)


async def test_tables_that_cannot_be_read(examine: Examine, tmp_path: Path) -> None:
    (tmp_path / "plans.toml").write_text("[plans.free]\nrequests_per_minute = 'many'\n")
    found = await examine(WATCHLLM_CONFIG_DIR=str(tmp_path))

    assert BROKEN == found["configuration"].state


@pytest.fixture
def postgres(own_postgres: PostgresServer) -> Iterator[PostgresServer]:
    """A server of this module alone: roles belong to the whole of it."""
    if not own_postgres.running:
        own_postgres.start()
    yield own_postgres
    ask(own_postgres, "DROP SCHEMA IF EXISTS watchllm CASCADE")
    for role in ("anon", "late", "watchllm_service"):
        ask(own_postgres, f"DROP ROLE IF EXISTS {role}")


def ask(server: PostgresServer, *statements: str) -> None:
    with closing(psycopg2.connect(server.url)) as connection:
        connection.autocommit = True
        for statement in statements:
            connection.cursor().execute(statement)


async def migrated(server: PostgresServer) -> None:
    db = PostgresDb(server.url)
    try:
        await migrate(db)
    finally:
        await db.aclose()


async def database_found(server: PostgresServer, tmp_path: Path, role: str) -> list[Finding]:
    environment = {
        "WATCHLLM_DATA_DIR": str(tmp_path),
        "WATCHLLM_SECRET_KEY": MASTER,
        "DATABASE_URL": server.url.replace("//watchllm@", f"//{role}@"),
    }
    findings = await doctor.examine(read_settings(environment), environment)
    return [one for one in findings if one.name.startswith("database")]


async def rights_found(server: PostgresServer, tmp_path: Path, role: str) -> list[Finding]:
    found = await database_found(server, tmp_path, role)
    return [one for one in found if one.name == "database rights"]


@pytest.mark.postgres
async def test_rights_that_are_as_they_should_be(postgres: PostgresServer, tmp_path: Path) -> None:
    """The owner hears that there is a role that may do less; that role hears nothing. Without a schema there is no word."""
    ask(postgres, "CREATE ROLE anon LOGIN", "CREATE ROLE watchllm_service LOGIN")
    assert [] == await rights_found(postgres, tmp_path, "watchllm")
    await migrated(postgres)

    [owner] = await rights_found(postgres, tmp_path, "watchllm")
    [service] = await rights_found(postgres, tmp_path, "watchllm_service")

    assert (OK, OK) == (owner.state, service.state)
    assert "watchllm_service" in owner.mend
    assert not service.mend


@pytest.mark.postgres
@pytest.mark.parametrize(
    ("mistake", "state", "word"),
    [
        ("ALTER TABLE watchllm.api_keys DISABLE ROW LEVEL SECURITY", WARNING, "api_keys"),
        ("CREATE TABLE watchllm.a_backup (id text)", WARNING, "a_backup"),
        ("GRANT SELECT ON watchllm.projects TO anon", BROKEN, "projects"),
        ("GRANT UPDATE ON watchllm.projects TO PUBLIC", BROKEN, "projects"),
        ("GRANT SELECT (name) ON watchllm.projects TO PUBLIC", BROKEN, "projects"),
        ("GRANT SELECT ON watchllm.usage_log_rest TO PUBLIC", BROKEN, "usage_log_rest"),
        ("GRANT SELECT ON ALL TABLES IN SCHEMA watchllm TO anon", BROKEN, " more"),
    ],
)
async def test_rights_that_are_not(
    postgres: PostgresServer, tmp_path: Path, mistake: str, state: str, word: str
) -> None:
    """The table is named, also to the role that may not mend it; and what is said to mend it does."""
    ask(postgres, "CREATE ROLE anon LOGIN", "CREATE ROLE watchllm_service LOGIN")
    await migrated(postgres)
    ask(postgres, mistake)

    for role in ("watchllm", "watchllm_service"):
        [found] = await rights_found(postgres, tmp_path, role)
        assert state == found.state
        assert word in found.message
        assert "watchllm migrate" in found.mend
    await migrated(postgres)
    [found] = await rights_found(postgres, tmp_path, "watchllm_service")
    assert OK == found.state


ALL = "ALL TABLES IN SCHEMA watchllm"


@pytest.mark.postgres
@pytest.mark.parametrize(
    "grants",
    [
        (),
        ("GRANT USAGE ON SCHEMA watchllm TO late",),
        (f"GRANT SELECT, INSERT, UPDATE, DELETE ON {ALL} TO late",),
        (
            "GRANT USAGE ON SCHEMA watchllm TO late",
            f"GRANT SELECT, INSERT, UPDATE, DELETE ON {ALL} TO late",
        ),
    ],
)
async def test_a_role_that_was_not_let_in(
    postgres: PostgresServer, tmp_path: Path, grants: tuple[str, ...]
) -> None:
    """A database that shows a role nothing is not taken for an empty one, nor for one that is away."""
    await migrated(postgres)
    ask(postgres, "CREATE ROLE late LOGIN", *grants)

    [found] = await database_found(postgres, tmp_path, "late")

    assert (BROKEN, "database") == (found.state, found.name)
    assert "nothing of them" in found.message
    assert "as the owner of the tables" in found.mend


@pytest.mark.postgres
async def test_grants_that_were_made_by_hand(postgres: PostgresServer, tmp_path: Path) -> None:
    """Tables that came later are named until they are granted, and until their rows are seen; partitions are nobody's need."""
    await migrated(postgres)
    ask(
        postgres,
        "CREATE ROLE late LOGIN",
        "GRANT USAGE ON SCHEMA watchllm TO late",
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON {ALL} TO late",
        "REVOKE ALL ON watchllm.notices, watchllm.usage_log_rest FROM late",
        "REVOKE DELETE ON watchllm.chores FROM late",
    )
    await migrated(postgres)

    [_, barred] = await database_found(postgres, tmp_path, "late")
    ask(
        postgres,
        "GRANT SELECT, INSERT, UPDATE, DELETE ON watchllm.notices, watchllm.chores TO late",
    )
    [_, unseen] = await database_found(postgres, tmp_path, "late")
    await migrated(postgres)
    [_, well] = await database_found(postgres, tmp_path, "late")

    assert [BROKEN, BROKEN, OK] == [barred.state, unseen.state, well.state]
    assert "on chores, notices" in barred.message
    assert "sees no row of notices" in unseen.message


@pytest.mark.postgres
async def test_a_command_that_the_role_may_not_run(postgres: PostgresServer) -> None:
    """It is told from a database that is away, and who may run it is said."""
    await migrated(postgres)
    ask(postgres, "CREATE ROLE watchllm_service LOGIN")
    await migrated(postgres)
    db = PostgresDb(postgres.url.replace("//watchllm@", "//watchllm_service@"))
    try:
        with pytest.raises(Unavailable) as refused:
            await migrate(db)
    finally:
        await db.aclose()

    said = told(refused.value)

    assert (1, True) == (said.exit_code, "owner of the tables" in said.message)
    assert "not available" in told(Unavailable("The database is not available.")).message


@async_fixture
async def listener() -> AsyncIterator[int]:
    """Somebody who takes connections, and says and hears nothing."""
    runner = web.AppRunner(web.Application())
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    yield port
    await runner.cleanup()


PAID = {"STRIPE_SECRET_KEY": "sk_test_hunter2", "STRIPE_WEBHOOK_SECRET": "whsec_hunter2"}
PRICES = {"STRIPE_PRICE_STARTER": "price_1", "STRIPE_PRICE_PRO": "price_2"}
PLAN = "[plans.{}]\nrequests_per_minute = 1\nrequests_per_month = 1\nconcurrent_requests = 0\nprice_usd_per_month = {}\n"


async def billing_found(listener: int, tmp_path: Path, **given: str) -> list[Finding]:
    environment = {
        "WATCHLLM_DATA_DIR": str(tmp_path / "data"),
        "STRIPE_API_BASE": f"http://127.0.0.1:{listener}",
        **given,
    }
    findings = await doctor.examine(read_settings(environment), environment)
    assert "hunter2" not in json.dumps(doctor.report(findings))
    return [one for one in findings if one.name == "billing"]


async def test_billing_that_is_set_up(listener: int, tmp_path: Path) -> None:
    [found] = await billing_found(listener, tmp_path, **PAID, **PRICES)

    assert OK == found.state
    assert "2 plans" in found.message


@pytest.mark.parametrize(
    ("given", "without", "state", "words"),
    [
        ({}, ["STRIPE_WEBHOOK_SECRET"], BROKEN, ["STRIPE_WEBHOOK_SECRET"]),
        ({}, ["STRIPE_SECRET_KEY"], WARNING, ["STRIPE_SECRET_KEY"]),
        ({}, ["STRIPE_SECRET_KEY", "STRIPE_WEBHOOK_SECRET"], WARNING, ["STRIPE_PRICE_PRO"]),
        ({}, ["STRIPE_PRICE_PRO"], WARNING, ["the plan pro", "Set STRIPE_PRICE_PRO"]),
        ({"STRIPE_PRICE_PRO": "price_1"}, [], BROKEN, ["same price id", "STRIPE_PRICE_STARTER"]),
    ],
)
async def test_billing_half_way(
    listener: int,
    tmp_path: Path,
    given: dict[str, str],
    without: list[str],
    state: str,
    words: list[str],
) -> None:
    """Each half that is missing is named."""
    whole = {**PAID, **PRICES, **given}
    [found] = await billing_found(
        listener, tmp_path, **{name: text for name, text in whole.items() if name not in without}
    )

    assert state == found.state
    for word in words:
        assert word in f"{found.message} {found.mend}"


@pytest.mark.parametrize(
    ("plans", "words"),
    [
        ({"free": 0, "starter": 9}, ["STRIPE_PRICE_PRO is set", "no such plan"]),
        ({"starter": 9, "pro": 0}, ["STRIPE_PRICE_PRO is set", "for nothing"]),
        ({"starter": 9, "pro": 19, "gold": 99}, ["the plan gold", "Only starter and pro"]),
    ],
)
async def test_plans_that_do_not_fit_their_prices(
    listener: int, tmp_path: Path, plans: dict[str, int], words: list[str]
) -> None:
    """Prices are for plans of plans.toml, and who pays must be able to."""
    text = "".join(PLAN.format(name, price) for name, price in plans.items())
    (tmp_path / "plans.toml").write_text(text)
    [found] = await billing_found(
        listener, tmp_path, WATCHLLM_CONFIG_DIR=str(tmp_path), **PAID, **PRICES
    )

    assert WARNING == found.state
    for word in words:
        assert word in f"{found.message} {found.mend}"


async def test_who_carries_mails_and_money(examine: Examine, listener: int) -> None:
    """They are connected to, and nothing more; whoever is away is named by its setting."""
    mails = {"WATCHLLM_MAIL_FROM": "us@shop.example"}
    there = await examine(
        **PAID,
        **mails,
        STRIPE_API_BASE=f"http://127.0.0.1:{listener}",
        SMTP_URL=f"smtp://u:hunter2@127.0.0.1:{listener}",
    )
    away = await examine(
        **PAID,
        **mails,
        STRIPE_API_BASE=f"http://127.0.0.1:{free_port()}",
        SMTP_URL=f"smtps://u:hunter2@127.0.0.1:{free_port()}",
    )
    no_mail = await examine(**PAID, STRIPE_API_BASE=f"http://127.0.0.1:{listener}")

    assert [OK, OK] == [there[name].state for name in ("mail", "stripe")]
    assert [BROKEN, BROKEN] == [away[name].state for name in ("mail", "stripe")]
    assert "SMTP_URL" in away["mail"].mend
    assert "STRIPE_API_BASE" in away["stripe"].mend
    assert WARNING == no_mail["mail"].state


async def test_mails_without_a_sender(examine: Examine, listener: int) -> None:
    """They have one made of our own address, which not every server takes."""
    found = await examine(SMTP_URL=f"smtp://u:hunter2@127.0.0.1:{listener}")

    assert WARNING == found["mail"].state
    assert "WATCHLLM_MAIL_FROM" in found["mail"].message


@pytest.mark.parametrize(
    ("states", "expected"),
    [([], OK), ([OK, OFF], OK), ([OK, WARNING], WARNING), ([WARNING, BROKEN, OK], BROKEN)],
)
def test_the_report_says_the_worst(states: list[str], expected: str) -> None:
    findings = [Finding("x", state, "said") for state in states]

    assert expected == doctor.report(findings)["status"]


def test_settings_that_cannot_be_read_at_all() -> None:
    [finding] = doctor.misconfigured(SettingError("WATCHLLM_PORT", "must be a number"))

    assert BROKEN == finding.state
    assert "WATCHLLM_PORT must be a number" == finding.message
