"""Servers as processes of their own, and what the kernel says they used. Linux only: it is read from /proc."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from attrs import define

ROOT = Path(__file__).parents[2]
_TICKS = os.sysconf("SC_CLK_TCK")
SETTLED = 0.25
"""Seconds a server must be idle before its CPU time is read: what it put off belongs to the request too."""


class BenchError(Exception):
    """The benchmark could not be set up."""


@define
class Server:
    """One process with its children. `log` holds all that it printed."""

    port: int
    log: Path
    _process: subprocess.Popen[bytes]

    @classmethod
    def start(
        cls, name: str, command: Sequence[str], folder: Path, environ: Mapping[str, str]
    ) -> Server:
        """Does not wait for it. `{port}` in the command becomes a free one."""
        port = _free_port()
        log = folder / f"{name}.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, *(word.format(port=port) for word in command)],
                cwd=ROOT,
                env={**_inherited(), **environ},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )
        return cls(port, log, process)

    async def listens(self, patience: float = 20.0) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + patience
        while loop.time() < until and self._process.poll() is None:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", self.port)
            except OSError:
                await asyncio.sleep(0.005)
                continue
            writer.close()
            return
        raise BenchError(f"{self.log.stem} does not listen:\n{self.tail()}")

    def cpu(self) -> float:
        """Seconds of user and system time so far, children included."""
        return sum(_ticks(pid) for pid in self._tree()) / _TICKS

    async def settled_cpu(self) -> float:
        """The same, once what was put off is done."""
        last = self.cpu()
        for _ in range(20):
            await asyncio.sleep(SETTLED)
            now = self.cpu()
            if now - last < 0.02:
                return now
            last = now
        return last

    def rss(self) -> int:
        """Resident bytes."""
        return sum(_resident(pid) for pid in self._tree())

    def tail(self) -> str:
        return self.log.read_text(errors="replace")[-2_000:]

    def stop(self) -> None:
        if self._process.poll() is not None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _tree(self) -> Iterator[int]:
        waiting = [self._process.pid]
        while waiting:
            pid = waiting.pop()
            yield pid
            for children in Path(f"/proc/{pid}/task").glob("*/children"):
                waiting += map(int, children.read_text().split())


def command(words: Sequence[str], environ: Mapping[str, str]) -> str:
    """Runs `watchllm ...` to its end and gives what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "app", *words],
        cwd=ROOT,
        env={**_inherited(), **environ},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise BenchError(f"watchllm {' '.join(words)}: {done.stderr.strip()[-2_000:]}")
    return done.stdout


def _inherited() -> dict[str, str]:
    """What a program needs to start; no setting of the caller's own WatchLLM."""
    kept = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "VIRTUAL_ENV", "PYTHONDONTWRITEBYTECODE")
    return {name: os.environ[name] for name in kept if name in os.environ}


def _ticks(pid: int) -> int:
    # The second field, the name, may hold blanks and brackets; user and system time are fields 14 and 15.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def _resident(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
