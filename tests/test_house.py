"""The house itself: everything that is in the tree is also in the wheel."""

from __future__ import annotations

import ast
import fnmatch
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TOPS = ("domain", "ports", "adapters", "app", "config")


def told(name: str) -> object:
    """The value of a keyword of `setup(...)`."""
    tree = ast.parse((ROOT / "setup.py").read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg == name:
            return ast.literal_eval(node.value)
    raise AssertionError(name)


def test_every_package_is_shipped() -> None:
    """The list in setup.py is written by hand; a folder that it forgets would be missing after an install."""
    found = {
        ".".join(file.parent.relative_to(ROOT).parts)
        for top in TOPS
        for file in (ROOT / top).rglob("*.py")
    }
    packages = set(told("packages"))  # type: ignore[call-overload]

    assert set() == found - packages
    assert packages - found <= {"adapters.sql.schema"}


def test_every_data_file_is_shipped() -> None:
    """Templates, schema, tables and scripts go along."""
    patterns = {
        str(Path(*package.split("."), pattern))
        for package, globs in told("package_data").items()  # type: ignore[attr-defined]
        for pattern in globs
    }
    files = {
        str(file.relative_to(ROOT))
        for top in TOPS
        for file in (ROOT / top).rglob("*")
        if file.is_file() and file.suffix not in (".py", ".pyc")
    }

    assert set() == {
        file for file in files if not any(fnmatch.fnmatch(file, pattern) for pattern in patterns)
    }


def test_the_installed_command_runs(tmp_path: Path) -> None:
    """From anywhere, without the tree: the console script of this environment."""
    script = shutil.which("watchllm", path=str(Path(sys.executable).parent))
    if script is None and "CI" in os.environ:
        pytest.fail("the wheel is not installed in this environment")
    if script is None:
        pytest.skip("not installed here; tox installs the wheel")

    done = subprocess.run(
        [script, "doctor", "--json"],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        capture_output=True,
        check=False,
        timeout=30,
    )

    assert b"Traceback" not in done.stderr
    assert done.stdout.startswith(b"{")
