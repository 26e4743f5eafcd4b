"""Several processes on one port: they serve, they are replaced when they die, and they stop together."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.served import ROOT, Served, serving
from tests.support.valkey import valkey_server


def children(served: Served) -> set[int]:
    found = Path(f"/proc/{served.process.pid}/task/{served.process.pid}/children").read_text()
    return {int(pid) for pid in found.split()}


def until(true: object, within: float = 10) -> None:
    deadline = time.monotonic() + within
    assert callable(true)
    while not true():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.02)


def test_a_dead_worker_is_replaced_and_all_stop_together(tmp_path: Path) -> None:
    """SIGKILL of one is mended; SIGTERM of the parent, even while it mends, ends all of them with 0."""
    with (
        valkey_server() as valkey,
        serving(
            tmp_path, REDIS_URL=valkey.url, WATCHLLM_PROCESSES="2", WATCHLLM_PORT=free_port()
        ) as served,
    ):
        until(lambda: len(children(served)) == 2)
        before = children(served)
        victim = min(before)

        os.kill(victim, signal.SIGKILL)

        until(lambda: len(children(served) - before) == 1)
        os.kill(max(children(served)), signal.SIGKILL)
        served.signal(signal.SIGTERM)
        assert 0 == served.wait(10)


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_setting_that_cannot_be_ends_all_at_once(tmp_path: Path, processes: str) -> None:
    """One line that names the setting, exit code 2, and no loop of restarts."""
    config = tmp_path / "config"
    config.mkdir()
    (config / "plans.toml").write_text("[plans.free]\nrequests_per_minute = 'many'\n")
    done = subprocess.run(
        [sys.executable, "-m", "app", "serve", "--port", "0", "--processes", processes],
        cwd=ROOT,
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "WATCHLLM_DATA_DIR": str(tmp_path / "data"),
            "WATCHLLM_CONFIG_DIR": str(config),
            "WATCHLLM_LOG_FORMAT": "json",
            "REDIS_URL": "redis://127.0.0.1:1",
        },
        capture_output=True,
        check=False,
        timeout=15,
    )

    assert 2 == done.returncode
    lines = done.stderr.decode().splitlines()
    assert any("WATCHLLM_CONFIG_DIR" in line for line in lines)
    assert not any("exception" in json.loads(line) for line in lines if line.startswith("{"))


def test_what_keeps_a_later_worker_from_starting_may_pass(tmp_path: Path) -> None:
    """With nowhere to write, a worker in a dead one's place is tried again and again; the others stay, and all ends well."""
    journal = tmp_path / "data" / "journal"
    with (
        valkey_server() as valkey,
        serving(
            tmp_path, REDIS_URL=valkey.url, WATCHLLM_PROCESSES="2", WATCHLLM_PORT=free_port()
        ) as served,
    ):
        until(lambda: len(list(journal.glob("*.log"))) == 2)
        before = children(served)
        journal.rename(tmp_path / "aside")
        journal.write_text("in the way")

        os.kill(min(before), signal.SIGKILL)

        until(lambda: "cannot hold the journal" in served.log)
        assert max(before) in children(served)
        journal.unlink()
        until(lambda: len(list(journal.glob("*.log"))) == 2)
        assert served.process.poll() is None
        served.signal(signal.SIGTERM)
        assert 0 == served.wait(10)


def free_port() -> str:
    import socket

    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return str(one.getsockname()[1])
