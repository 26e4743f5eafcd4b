"""`watchllm serve` as a process that is killed and started again: same folder, same port."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from random import randrange

ROOT = Path(__file__).resolve().parents[2]
START_LIMIT = 25.0
LISTENING = b'"listening"'


class NodeError(Exception):
    """A server did not come up, or did not leave."""


class Node:
    """`broken` names the guard that is taken away from it (`tests.chaos.broken`)."""

    def __init__(
        self, folder: Path, settings: Mapping[str, str], *, processes: int = 1, broken: str = ""
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.data = folder / "data"
        self.log_file = folder / "log"
        self.port = free_port()
        self.processes = processes
        self._program = ["-m", "tests.chaos.broken", broken] if broken else ["-m", "app"]
        self._environment = {
            **{name: os.environ[name] for name in _INHERITED if name in os.environ},
            "HOME": str(folder),
            "WATCHLLM_DATA_DIR": str(self.data),
            "WATCHLLM_PORT": str(self.port),
            "WATCHLLM_PROCESSES": str(processes),
            "WATCHLLM_LOG_FORMAT": "json",
            "PYTHONWARNINGS": "always::ResourceWarning",
            **settings,
        }
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def workers(self) -> list[int]:
        """Who answers: the children, where there are several."""
        return children(self.pid) if self.processes > 1 else [self.pid]

    async def start(self) -> float:
        """Returns when all its processes listen; gives the seconds that took."""
        began = time.monotonic()
        before = self.log_file.stat().st_size if self.log_file.exists() else 0
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, *self._program, "serve"],
                cwd=ROOT,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        while self._said(before).count(LISTENING) < self.processes:
            if not self.running or time.monotonic() - began > START_LIMIT:
                raise NodeError(f"a server did not start: {self.log[-2_000:]}")
            await asyncio.sleep(0.02)
        return time.monotonic() - began

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        """All its processes at once, as a power cut would."""
        if self._process is None:
            return
        parent = self._process
        if parent.poll() is None:
            # The parent first is stopped, so that it starts nobody while its children end.
            os.kill(parent.pid, signal.SIGSTOP)
            for pid in children(parent.pid):
                end(pid)
            parent.kill()
        parent.wait()

    async def wait(self, within: float) -> int:
        """The exit code."""
        assert self._process is not None
        until = time.monotonic() + within
        while self._process.poll() is None:
            if time.monotonic() > until:
                raise NodeError(f"a server did not leave within {within:.0f} s")
            await asyncio.sleep(0.01)
        return self._process.returncode

    def resident(self) -> int:
        """Bytes, of all its processes."""
        pages = [
            int(Path(f"/proc/{pid}/statm").read_text().split()[1])
            for pid in {self.pid, *self.workers()}
        ]
        return sum(pages) * os.sysconf("SC_PAGE_SIZE")

    def sockets(self) -> int:
        found = 0
        for pid in self.workers():
            for link in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    found += os.readlink(link).startswith("socket:")
        return found

    def _said(self, start: int) -> bytes:
        with self.log_file.open("rb") as log:
            log.seek(start)
            return log.read()


_INHERITED = ("PATH", "LANG", "LC_ALL", "TMPDIR", "VIRTUAL_ENV", "PYTHONDONTWRITEBYTECODE")


def children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def end(pid: int, how: signal.Signals = signal.SIGKILL) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, how)


def free_port() -> int:
    """Below the range that the kernel gives to clients, so that it is free again after a restart."""
    while True:
        port = randrange(20_000, 32_000)  # not the seed's: two runs beside each other must differ
        with socket.socket() as one:
            try:
                one.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
