"""The command line: its words in the test's own process, its journeys in processes of their own."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import os
import re
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Any

import click
import pytest
from attrs import define, evolve
from click.testing import CliRunner, Result

from adapters.sql.sqlite import SqliteDb
from adapters.sql.usage import SqlUsageLog
from app import cli, desk
from app.services.keys import FreshKey
from app.services.projects import FirstStart
from domain import apikey
from domain.project import Project
from domain.usage import Usage, UsageRecord
from tests.support.postgres import new_server

ROOT = Path(__file__).parents[2]
MASTER = "Zt3vQ8mK1xY7rB5nW2jL9pD4sF6hG0aC"
SECRET = "hunter2"

Invoke = Callable[..., Result]


@pytest.fixture
def invoke(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Invoke]:
    """Runs a command here, in an environment of its own and an empty data directory."""
    import logging

    root = logging.getLogger()
    before = root.handlers[:], root.level
    for name in list(os.environ):
        if name.startswith(("WATCHLLM_", "OPENAI_", "ANTHROPIC_", "GROQ_", "DATABASE_", "REDIS_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("WATCHLLM_DATA_DIR", str(tmp_path / "data"))

    def run(*words: str, **given: str) -> Result:
        # A command ends the loop it ran in; in this thread that would be the other tests' loop too.
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(CliRunner().invoke, cli.main, words, env=given).result()

    yield run
    root.handlers, root.level = before
    logging.captureWarnings(False)
    logging.getLogger("tornado.access").disabled = False


def document(result: Result) -> Any:
    assert 0 == result.exit_code, result.output
    return json.loads(result.stdout)


@define
class Shell:
    """Runs `python -m app` as an operator would."""

    data: Path

    def environment(self, given: dict[str, str]) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "SYSTEMROOT") if name in os.environ}
        return {
            **kept,
            "HOME": str(self.data),
            "WATCHLLM_DATA_DIR": str(self.data / "wl"),
            **given,
        }

    def __call__(self, *words: str, **given: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "app", *words],
            cwd=ROOT,
            env=self.environment(given),
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    def json(self, *words: str, **given: str) -> Any:
        done = self(*words, "--json", **given)
        assert 0 == done.returncode, done.stderr
        return json.loads(done.stdout)


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


def commands(group: click.Group, *path: str) -> Iterator[tuple[str, ...]]:
    for name, command in group.commands.items():
        yield (*path, name)
        if isinstance(command, click.Group):
            yield from commands(command, *path, name)


# --- words


@pytest.mark.parametrize("path", [(), *commands(cli.main)], ids=" ".join)
def test_every_command_explains_itself(invoke: Invoke, path: tuple[str, ...]) -> None:
    result = invoke(*path, "--help")

    assert 0 == result.exit_code
    assert "Usage:" in result.stdout


def test_the_version_is_told(invoke: Invoke) -> None:
    assert re.fullmatch(r"watchllm \S+\n", invoke("--version").stdout)


def test_a_project_is_made_and_listed(invoke: Invoke) -> None:
    """`{"id","name","plan","budget_usd"}`, and nothing else on stdout."""
    made = document(invoke("project", "create", "acme", "--plan", "pro", "--json"))

    assert {"id": made["id"], "name": "acme", "plan": "pro", "budget_usd": None} == made
    assert [made] == document(invoke("project", "list", "--json"))


@pytest.mark.parametrize("by", ["id", "name"])
def test_a_project_changes_its_plan(invoke: Invoke, by: str) -> None:
    made = document(invoke("project", "create", "acme", "--json"))
    assert 0 == invoke("project", "plan", made[by], "starter").exit_code

    assert "starter" == document(invoke("project", "list", "--json"))[0]["plan"]


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("25", "25"),
        ("0.50", "0.5"),
        ("1e3", "1000"),
        ("0.000000000001", "0.000000000001"),
        ("4000000", "4000000"),
        ("0", None),
        ("0.00", None),
        ("none", None),
    ],
)
def test_a_project_gets_a_budget(invoke: Invoke, said: str, told: str | None) -> None:
    """Dollars as people write them, to the picodollar; nothing and none take it away."""
    invoke("project", "create", "acme")
    invoke("project", "budget", "acme", "7")
    result = invoke("project", "budget", "acme", said)
    [listed] = document(invoke("project", "list", "--json"))

    assert 0 == result.exit_code, result.output
    assert told == listed["budget_usd"]
    assert (f"${told} a month" if told else "no budget") in result.stdout
    assert (told or "-") == invoke("project", "list").stdout.split()[-1]


def test_a_key_is_limited(invoke: Invoke) -> None:
    """To models and endpoints, each named once; the list shows them, and when the key was last used."""
    invoke("project", "create", "acme")
    limits = ("--models", "gpt-4o, gpt-4o-mini,gpt-4o", "--endpoints", "chat,embeddings")
    invoke("key", "create", "acme", *limits)
    [listed] = document(invoke("key", "list", "acme", "--json"))
    words = invoke("key", "list", "acme").stdout.split()

    assert (["gpt-4o", "gpt-4o-mini"], ["chat", "embeddings"], None) == (
        listed["models"],
        listed["endpoints"],
        listed["last_used_at"],
    )
    assert ["-", "-", "gpt-4o,gpt-4o-mini", "chat,embeddings"] == words[-4:]


@pytest.mark.parametrize("kind", ["project", "test"])
def test_a_key_is_made(invoke: Invoke, kind: str) -> None:
    """`{"id","key","kind","project"}`; the list shows everything but the key."""
    project = document(invoke("project", "create", "acme", "--json"))
    made = document(invoke("key", "create", "acme", "--kind", kind, "--name", "ci", "--json"))
    [listed] = document(invoke("key", "list", project["id"], "--json"))

    assert {"id", "key", "kind", "project"} == made.keys()
    assert (kind, project["id"]) == (made["kind"], made["project"])
    assert made["key"] == apikey.parse(made["key"])
    assert (made["id"], "ci", "live", None) == (
        listed["id"],
        listed["name"],
        listed["state"],
        listed["ends_at"],
    )
    assert made["key"] not in json.dumps(listed)


def test_a_script_can_take_the_key(invoke: Invoke) -> None:
    """Without `--json` stdout is the key and nothing else; the words around it are on stderr."""
    invoke("project", "create", "acme")
    result = invoke("key", "create", "acme")

    assert result.stdout.strip() == apikey.parse(result.stdout.strip())
    assert "this once" in result.stderr


def test_a_key_is_rotated_and_revoked(invoke: Invoke) -> None:
    invoke("project", "create", "acme")
    old = document(invoke("key", "create", "acme", "--expires-in", "30d", "--json"))
    new = document(invoke("key", "rotate", old["id"], "--grace", "1h", "--json"))
    assert 0 == invoke("key", "revoke", new["id"]).exit_code
    listed = {one["id"]: one for one in document(invoke("key", "list", "acme", "--json"))}

    assert old["key"] != new["key"]
    assert ("live", "ended") == (listed[old["id"]]["state"], listed[new["id"]]["state"])


def test_lists_are_readable_without_json(invoke: Invoke) -> None:
    invoke("project", "create", "acme")
    result = invoke("project", "list")
    head, row = result.stdout.splitlines()

    assert ["id", "name", "plan", "budget_usd"] == head.split()
    assert ["acme", "unlimited", "-"] == row.split()[1:]


def test_a_cache_is_purged(invoke: Invoke, tmp_path: Path) -> None:
    """The project's epoch moves on, which is part of every cache key."""
    invoke("project", "create", "acme")
    assert 0 == invoke("cache", "purge", "acme").exit_code

    connection = sqlite3.connect(tmp_path / "data" / "watchllm.db")
    assert [(1,)] == connection.execute("SELECT cache_epoch FROM projects").fetchall()
    connection.close()


USED = UsageRecord(
    "0190-1", "p", "k", "project", 0.0, "chat/completions", "m", "=cmd", "groq", False, "miss", 200,
    Usage(7, output=5), 1_500_000_000, 0, "v", 1.0, 1.0, "",
)  # fmt: skip


@pytest.fixture
def used(invoke: Invoke, tmp_path: Path) -> str:
    """The id of a project that used something: now, three hours ago and two days ago; another one used more."""
    project: str = document(invoke("project", "create", "acme", "--json"))["id"]
    other = document(invoke("project", "create", "other", "--json"))["id"]
    mine = evolve(USED, project=project, at=time.time())
    records = [
        mine,
        evolve(mine, id="0190-2", at=mine.at - 3 * 3600, outcome="hit", cost=0, avoided=1),
        evolve(mine, id="0190-3", cost=None),
        evolve(mine, id="0190-4", at=mine.at - 48 * 3600),
        evolve(mine, id="0190-5", project=other),
    ]

    async def write() -> None:
        db = SqliteDb(tmp_path / "data" / "watchllm.db")
        await SqlUsageLog(db).append(records)
        await db.aclose()

    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, write()).result()
    return project


@pytest.mark.parametrize(
    ("words", "requests"),
    [((), 3), (("--since", "1h"), 2), (("--since", "30d"), 4), (("--since", "1000000d"), 4)],
    ids=str,
)
def test_usage_as_json(invoke: Invoke, used: str, words: tuple[str, ...], requests: int) -> None:
    """One document: rows by day, provider and model, and their sum; money is a decimal text, tokens are integers."""
    report = document(invoke("usage", "acme", *words, "--json"))

    total = report["total"]
    rows = report["rows"]
    assert used == report["project"]
    assert {"project", "since", "until", "rows", "total"} == report.keys()
    assert {"day", "provider", "model", *total} == rows[0].keys()
    assert (requests, 1, 7 * requests) == (
        total["requests"],
        total["unpriced"],
        total["prompt_tokens"],
    )
    for name in ("requests", "hits", "prompt_tokens", "completion_tokens", "unpriced"):
        assert total[name] == sum(row[name] for row in rows)
    for name in ("cost_usd", "saved_usd"):
        assert Decimal(total[name]) == sum(Decimal(row[name]) for row in rows)
    assert sorted(rows, key=lambda row: row["day"]) == rows


def test_usage_as_a_sheet(invoke: Invoke, used: str) -> None:
    """Plain CSV, in which no name of a model is a formula."""
    result = invoke("usage", used, "--since", "30d", "--csv")
    found = list(csv.DictReader(io.StringIO(result.stdout)))

    assert 0 == result.exit_code
    assert 4 == sum(int(row["requests"]) for row in found)
    assert {"'=cmd"} == {row["model"] for row in found}
    assert Decimal("0.003") == sum(Decimal(row["cost_usd"]) for row in found)


def test_usage_for_people(invoke: Invoke, used: str) -> None:
    """Columns and, last, the sum; a project without usage has a sum as well."""
    head, *_, total = invoke("usage", "acme", "--since", "30d").stdout.splitlines()
    empty = document(invoke("project", "create", "idle", "--json"))

    assert ["day", "provider", "model", "requests"] == head.split()[:4]
    assert [
        "total",
        "-",
        "-",
        "4",
        "1",
        "28",
        "20",
        "0.003",
        "0.000000000001",
        "1",
    ] == total.split()
    assert ["total", "-", "-", *["0"] * 7] == invoke("usage", "idle").stdout.split()[-10:]
    assert [] == document(invoke("usage", empty["id"], "--json"))["rows"]


def test_migrating_twice_is_fine(invoke: Invoke) -> None:
    assert "applied" in invoke("migrate").stdout
    assert "already" in invoke("migrate").stdout


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("project", "plan", "nobody", "pro"), 1, "nobody"),
        (("key", "create", "nobody"), 1, "nobody"),
        (("key", "list", "nobody"), 1, "nobody"),
        (("key", "rotate", "key_none"), 1, "key_none"),
        (("key", "revoke", "key_none"), 1, "key_none"),
        (("cache", "purge", "nobody"), 1, "nobody"),
        (("project", "create", "acme"), 1, "exists already"),
        (("project", "create", "prj_x"), 2, "prj_"),
        (("project", "create", "new", "--plan", "gold"), 2, "free, starter, pro, unlimited"),
        (("project", "plan", "acme", "gold"), 2, "free, starter, pro, unlimited"),
        (("project", "create"), 2, "NAME"),
        (("project", "budget", "nobody", "5"), 1, "nobody"),
        (("project", "budget", "acme", "much"), 2, "USD"),
        (("project", "budget", "acme", "--", "-1"), 2, "USD"),
        (("project", "budget", "acme", "nan"), 2, "USD"),
        (("project", "budget", "acme", "inf"), 2, "USD"),
        (("project", "budget", "acme", "4000000.01"), 2, "4,000,000"),
        (("project", "budget", "acme", "0.0000000000001"), 2, "twelve decimals"),
        (("project", "budget", "acme", "1e-999999"), 2, "twelve decimals"),
        (("key", "create", "acme", "--models", ""), 2, "--models"),
        (("key", "create", "acme", "--models", "gpt-4o,"), 2, "--models"),
        (("key", "create", "acme", "--models", "gpt 4o"), 2, "models"),
        (("key", "create", "acme", "--endpoints", "images"), 2, "chat, completions, embeddings"),
        (("key", "create", "acme", "--kind", "admin"), 2, "--kind"),
        (("key", "create", "acme", "--expires-in", "soon"), 2, "--expires-in"),
        (("key", "rotate", "key_none", "--grace", "-1s"), 2, "--grace"),
        (("serve", "--port", "http"), 2, "WATCHLLM_PORT"),
        (("serve", "--processes", "2"), 2, "WATCHLLM_PROCESSES"),
        (("usage", "nobody"), 1, "nobody"),
        (("usage", "acme", "--since", "yesterday"), 2, "--since"),
        (("usage", "acme", "--json", "--csv"), 2, "--csv"),
        (("nonsense",), 2, "nonsense"),
    ],
    ids=str,
)
def test_failures_say_why(invoke: Invoke, words: tuple[str, ...], code: int, told: str) -> None:
    """2 for wrong words and settings, 1 for the rest; the reason is on stderr and stdout stays empty."""
    invoke("project", "create", "acme")
    result = invoke(*words)

    assert code == result.exit_code
    assert told in result.stderr
    assert "" == result.stdout


def test_a_crash_is_one_line_without_secrets(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What nobody foresaw ends with 1, and not with a traceback or a stranger's words."""

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError(f"bad {SECRET}")

    monkeypatch.setattr(desk, "open_storage", broken)
    result = invoke("project", "list")

    assert 1 == result.exit_code
    assert "Error: RuntimeError; WATCHLLM_LOG_LEVEL=debug shows where\n" == result.stderr


def test_the_doctor_reports(invoke: Invoke) -> None:
    report = document(invoke("doctor", "--json"))

    assert "warning" == report["status"]
    names = {
        "configuration",
        "data directory",
        "database",
        "redis",
        "providers",
        "billing",
        "mail",
    }
    assert names == {one["name"] for one in report["checks"]}
    assert "database: SQLite answers" in invoke("doctor").stdout


def test_the_doctor_exits_1_for_what_is_broken(invoke: Invoke) -> None:
    result = invoke("doctor", "--json", REDIS_URL="redis://127.0.0.1:1")

    assert 1 == result.exit_code
    assert "broken" == json.loads(result.stdout)["status"]


def test_the_doctor_reports_settings_it_cannot_read(invoke: Invoke) -> None:
    result = invoke("doctor", "--json", WATCHLLM_PORT="http")

    assert 2 == result.exit_code
    assert "broken" == json.loads(result.stdout)["status"]
    assert "WATCHLLM_PORT" in result.stderr


def test_the_greeting_is_ready_to_paste() -> None:
    """Both keys, and a curl line that needs no provider's key."""
    project = Project("prj_1", "default", "unlimited", 0, 0.0)
    keys = [
        FreshKey(f"key_{kind}", apikey.mint(kind, bytes(48)), kind, "prj_1")
        for kind in ("project", "test")
    ]
    text = desk.greeting(FirstStart(project, *keys), "http://127.0.0.1:8787")
    [line] = [one for one in text.splitlines() if one.startswith("curl ")]

    assert all(key.key in text for key in keys)
    assert line.startswith("curl -i http://127.0.0.1:8787/v1/chat/completions")
    assert f"Bearer {keys[1].key}" in line
    assert json.loads(line[line.index("'") + 1 : line.rindex("'")])["messages"]


# --- journeys


def test_help_is_quick(shell: Shell) -> None:
    """Nothing heavy is imported to explain a command; the bound leaves room for a busy machine."""
    took = []
    for _ in range(3):
        began = time.monotonic()
        assert 0 == shell("--help").returncode
        took.append(time.monotonic() - began)
    loaded = subprocess.run(
        [sys.executable, "-c", "import app.cli, sys; print(*sys.modules)"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()

    assert min(took) < 1
    assert not {
        "tornado",
        "aiohttp",
        "redis",
        "aiopg",
        "psycopg2",
        "sqlite3",
        "environ",
        "asyncio",
    } & set(loaded)


def test_a_key_is_rotated_by_an_operator(shell: Shell) -> None:
    """Each command is a process of its own; what one keeps, the next one finds, and nobody else can read it."""
    project = shell.json("project", "create", "acme")
    old = shell.json("key", "create", "acme", "--kind", "test")
    new = shell.json("key", "rotate", old["id"], "--grace", "0s")
    assert 0 == shell("key", "revoke", new["id"]).returncode
    listed = shell.json("key", "list", project["id"])
    stored = b"".join(file.read_bytes() for file in (shell.data / "wl").iterdir())

    assert ["ended", "ended"] == [one["state"] for one in listed]
    for key in (old["key"], new["key"]):
        assert key.encode() not in stored
        assert key[9:39].encode() not in stored
    for file in (shell.data / "wl").iterdir():
        assert 0 == file.stat().st_mode & 0o077, file


def test_two_commands_at_once(shell: Shell) -> None:
    """First commands on an empty data directory do not trip over each other, and share one secret."""
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "app", "project", "create", f"team-{number}"],
            cwd=ROOT,
            env=shell.environment({}),
            stderr=subprocess.PIPE,
        )
        for number in range(3)
    ]
    failures = [one.communicate(timeout=30)[1].decode() for one in running]

    assert [0, 0, 0] == [one.returncode for one in running], failures
    assert 3 == len(shell.json("project", "list"))


@pytest.mark.parametrize("command", ["serve", "migrate", "project list", "doctor"])
@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({"WATCHLLM_SECRET_KEY": f"short-{SECRET}"}, "WATCHLLM_SECRET_KEY"),
        (
            {"WATCHLLM_SECRET_KEY": f"changeme-{SECRET}-0123456789abcdefghijk"},
            "WATCHLLM_SECRET_KEY",
        ),
        ({"DATABASE_URL": f"postgresql://u:{SECRET}@db/x"}, "WATCHLLM_SECRET_KEY"),
        (
            {"DATABASE_URL": f"mysql://u:{SECRET}@db/x", "WATCHLLM_SECRET_KEY": MASTER},
            "DATABASE_URL",
        ),
        ({"REDIS_URL": f"redis://:{SECRET}/@cache"}, "REDIS_URL"),
        ({"OPENAI_API_KEY": f"sk {SECRET}"}, "OPENAI_API_KEY"),
        ({"GROQ_API_KEY_FILE": "/nowhere"}, "GROQ_API_KEY_FILE"),
        ({"WATCHLLM_UPSTREAM_TOTAL_TIMEOUT": "ten"}, "WATCHLLM_UPSTREAM_TOTAL_TIMEOUT"),
    ],
)
def test_wrong_settings_stop_every_command(
    invoke: Invoke, command: str, given: dict[str, str], name: str
) -> None:
    """Exit code 2 and one line on stderr that names the setting and never its value."""
    result = invoke(*command.split(), **given)
    [line] = result.stderr.splitlines()

    assert 2 == result.exit_code
    assert line.startswith(f"Error: {name} ")
    assert SECRET not in result.output


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({"WATCHLLM_SECRET_KEY": f"short-{SECRET}"}, "WATCHLLM_SECRET_KEY"),
        ({"DATABASE_URL": f"postgresql://u:{SECRET}@db/x"}, "WATCHLLM_SECRET_KEY"),
        ({"WATCHLLM_DATA_DIR": "/dev/null/data"}, "WATCHLLM_DATA_DIR"),
        ({"WATCHLLM_PORT": "TAKEN"}, "WATCHLLM_PORT"),
    ],
)
def test_a_server_that_cannot_start_says_so_at_once(
    shell: Shell, given: dict[str, str], name: str
) -> None:
    """Within three seconds, with exit code 2 and one line."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        given = {key: port if value == "TAKEN" else value for key, value in given.items()}
        began = time.monotonic()
        done = shell("serve", **given)
        took = time.monotonic() - began
    [line] = done.stderr.splitlines()

    assert 2 == done.returncode
    assert line.startswith(f"Error: {name} ")
    assert SECRET not in done.stdout + done.stderr
    assert took < 3


def test_a_database_that_is_away(shell: Shell) -> None:
    """Exit code 1, in our words and without the password."""
    done = shell(
        "project",
        "list",
        DATABASE_URL=f"postgresql://u:{SECRET}@127.0.0.1:1/x",
        WATCHLLM_SECRET_KEY=MASTER,
    )

    assert 1 == done.returncode
    assert done.stderr.endswith("Error: The database is not available.\n")
    assert SECRET not in done.stderr


@pytest.mark.postgres
def test_a_database_server_is_migrated_by_hand(shell: Shell) -> None:
    """Until `migrate` ran, every other command says so; migrating goes over the direct URL where there is one."""
    server = new_server()
    try:
        server.start()
        settings = {"DATABASE_URL": server.url, "WATCHLLM_SECRET_KEY": MASTER}
        early = shell("project", "list", **settings)
        sick = shell("doctor", **settings)
        away = "postgresql://u@127.0.0.1:1/pooler"
        first = shell(
            "migrate", **{**settings, "DATABASE_URL": away, "DATABASE_DIRECT_URL": server.url}
        )
        second = shell("migrate", **settings)
        project = shell.json("project", "create", "acme", **settings)
        key = shell.json("key", "create", "acme", **settings)
        listed = shell.json("key", "list", project["id"], **settings)
        well = shell("doctor", **settings)
    finally:
        server.remove()

    assert (
        2,
        "Error: DATABASE_URL has no current schema yet; run `watchllm migrate` first\n",
    ) == (
        early.returncode,
        early.stderr,
    )
    assert 1 == sick.returncode
    assert "Run: watchllm migrate" in sick.stdout
    assert (0, True) == (first.returncode, "applied" in first.stdout), first.stderr
    assert "already" in second.stdout
    assert [key["id"]] == [one["id"] for one in listed]
    assert (0, True) == (well.returncode, "database: PostgreSQL answers" in well.stdout)
    assert not (shell.data / "wl" / "watchllm.db").exists()
