"""What the doctor finds, against real ends of the wire."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from email.utils import formatdate
from pathlib import Path

import pytest
from aiohttp import web

from app import doctor
from app.doctor import BROKEN, OFF, OK, WARNING, Finding
from config.secrets import SettingError
from config.settings import read_settings
from tests.support.fixtures import async_fixture
from tests.support.valkey import valkey_cluster, valkey_server

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
