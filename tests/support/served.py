"""`watchllm serve` as a process of its own, started from the tree or the installed package, stopped by its pid."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from attrs import define, field

START_LIMIT = 20.0
ROOT = Path(__file__).resolve().parents[2]


@define
class Served:
    """A running server. `keys` are those that the first start printed, by kind."""

    process: subprocess.Popen[bytes]
    port: int
    keys: Mapping[str, str]
    log_file: Path
    environment: Mapping[str, str] = field(repr=False)

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return self.log_file.read_text()

    def signal(self, number: int = signal.SIGTERM) -> None:
        os.kill(self.process.pid, number)

    def wait(self, timeout: float = 80) -> int:
        """The exit code."""
        return self.process.wait(timeout)

    def stop(self) -> int:
        self.signal()
        return self.wait()

    def command(self, *words: str) -> str:
        """Another `watchllm` command under the same settings; gives its stdout."""
        done = subprocess.run(
            [sys.executable, "-m", "app", *words],
            cwd=ROOT,
            env=dict(self.environment),
            capture_output=True,
            check=False,
            timeout=30,
        )
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()


@contextmanager
def serving(data_dir: Path, *, name: str = "serve", **settings: str) -> Iterator[Served]:
    """Killed at the end if the test has not stopped it."""
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(data_dir),
        "WATCHLLM_DATA_DIR": str(data_dir / "data"),
        "WATCHLLM_PORT": "0",
        "WATCHLLM_LOG_FORMAT": "json",
        **settings,
    }
    data_dir.mkdir(parents=True, exist_ok=True)
    log_file, out_file = data_dir / f"{name}.log", data_dir / f"{name}.out"
    with log_file.open("wb") as log, out_file.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "app", "serve"],
            cwd=ROOT,
            env=environment,
            stdout=out,
            stderr=log,
        )
    try:
        port = _port(process, log_file)
        yield Served(process, port, _keys(out_file.read_text()), log_file, environment)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def _port(process: subprocess.Popen[bytes], log_file: Path) -> int:
    """Reads the log until it tells the address."""
    until = time.monotonic() + START_LIMIT
    while time.monotonic() < until:
        for line in log_file.read_text().splitlines():
            if '"listening"' in line:
                return int(json.loads(line)["address"].rpartition(":")[2])
        if process.poll() is not None:
            break
        time.sleep(0.02)
    raise AssertionError(f"the server did not start:\n{log_file.read_text()}")


def _keys(printed: str) -> dict[str, str]:
    return {key.split("_")[1]: key for key in re.findall(r"lgw_(?:project|test)_\w+", printed)}
