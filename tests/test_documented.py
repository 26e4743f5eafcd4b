"""What can be set and typed is written down: a setting or a command without its line fails here."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from app import cli
from config.parts import Setting
from config.settings import every_setting, read_settings

ROOT = Path(__file__).parents[1]
SETTINGS = list(every_setting())
NAMES = [one.name for one in SETTINGS]
# Understood by others that we only pass by, or by every setting alike.
FOREIGN = {
    "NAME",
    "NAME_FILE",
    "XDG_DATA_HOME",
    "LOCALAPPDATA",
    "HOST",
    "PORT",
    "OPENAI_API_KEY_FILE",
}


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def examples() -> dict[str, str]:
    lines = re.findall(r"^#?([A-Z][A-Z0-9_]+)=(.*)$", text(".env.example"), re.MULTILINE)
    assert len(lines) == len(dict(lines)), "a variable stands there twice"
    return dict(lines)


def rows() -> dict[str, tuple[str, str]]:
    """Variable: (default, meaning), of the tables in self-hosting.md."""
    found = re.findall(
        r"^\| `([A-Z][A-Z0-9_]+)`(?: \(secret\))? \| (.+?) \| (.+) \|$",
        text("docs/self-hosting.md"),
        re.MULTILINE,
    )
    return {name: (default, meaning) for name, default, meaning in found}


def leaves(group: click.Group, *path: str) -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from leaves(command, *path, name)
        else:
            yield " ".join((*path, name)), command


@pytest.mark.parametrize("setting", SETTINGS, ids=NAMES)
def test_every_setting_is_documented(setting: Setting) -> None:
    """With its true default, in .env.example and in self-hosting.md."""
    assert (setting.default or "") == examples()[setting.name]
    default, meaning = rows()[setting.name]

    assert (f"`{setting.default}`" if setting.default else "unset") == default
    assert setting.help == meaning
    assert setting.secret == (f"| `{setting.name}` (secret) |" in text("docs/self-hosting.md"))


@pytest.mark.parametrize("page", [".env.example", "docs/self-hosting.md", "docs/operations.md"])
def test_nothing_is_documented_that_does_not_exist(page: str) -> None:
    """A variable that was renamed or removed leaves no trace."""
    ours = (
        r"\b((?:WATCHLLM|DATABASE|REDIS|OPENAI|ANTHROPIC|GROQ|STRIPE|SMTP|SENTRY|DD)_[A-Z0-9_]+)\b"
    )

    assert (
        set()
        == {
            name
            for name in re.findall(ours, text(page))
            if name.removesuffix("_FILE") not in NAMES
        }
        - FOREIGN
    )


def test_the_example_works_as_it_stands() -> None:
    """With every # taken away, the file is a valid configuration: the default one."""
    given = {"HOME": "/home/someone", **examples()}

    assert read_settings({"HOME": "/home/someone"}) == read_settings(given)


@pytest.mark.parametrize(
    ("name", "command"),
    [pytest.param(name, command, id=name) for name, command in leaves(cli.main)],
)
def test_every_command_is_documented(name: str, command: click.Command) -> None:
    """With each of its arguments and options, in operations.md."""
    found = re.search(
        rf"^\| `watchllm {name}((?: [^`]*)?)` \|", text("docs/operations.md"), re.MULTILINE
    )

    assert found is not None
    for one in command.params:
        word = (
            one.opts[0]
            if isinstance(one, click.Option)
            else one.make_metavar(click.Context(command))
        )
        assert word in found[1].split() or f"[{word}" in found[1]


def test_no_command_is_documented_that_does_not_exist() -> None:
    commands = {name for name, _ in leaves(cli.main)}
    written = re.findall(
        r"^\| `watchllm ([a-z ]+?)(?: [A-Z\[][^`]*)?` \|", text("docs/operations.md"), re.MULTILINE
    )

    assert sorted(commands) == sorted(written)
