"""The front page as a person meets it: in a real browser, with its style and without a complaint."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.served import serving

QUIET = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--enable-logging=stderr", "--virtual-time-budget=3000",
)  # fmt: skip


def browser() -> str:
    found = (
        shutil.which("chromium")
        or shutil.which("chromium-browser")
        or shutil.which("google-chrome")
    )
    if found is None and "CI" in os.environ:
        pytest.fail("a browser is needed here: install chromium")
    if found is None:
        pytest.skip("NO BROWSER, the page was not looked at")
    return found


def visited(tmp_path: Path, address: str) -> tuple[str, str]:
    """The document after all was loaded, and what the browser logged."""
    done = subprocess.run(
        [
            browser(),
            *QUIET,
            f"--user-data-dir={tmp_path / 'profile'}",
            "--dump-dom",
            address,
        ],
        capture_output=True,
        check=True,
        timeout=60,
    )
    return done.stdout.decode(), done.stderr.decode()


def test_the_front_page_says_what_this_is(tmp_path: Path) -> None:
    """Its own address as the base URL, the way on, its style applied, nothing blocked by its own policy."""
    with serving(tmp_path) as served:
        page, log = visited(tmp_path, served.root + "/")

    assert f"<code>http://127.0.0.1:{served.port}/v1</code>" in page
    assert "lgw_test_" in page
    assert '<a href="/health">' in page
    assert "Content Security Policy" not in log
    assert "Failed to load resource" not in log
