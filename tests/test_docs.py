"""The pages are true: what they name exists, what exists is named, and what they show runs.

Settings and the table of commands are held to the code in `test_documented`.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import click
import pytest

import ports
from adapters.providers import failures
from adapters.sql.db import Db
from adapters.sql.usage import SqlUsageLog
from app import cli
from app.web.front import MAX_PATH, UriTooLong
from config.settings import every_setting
from domain import cachepolicy, request
from domain.answer import CacheEntry, CacheKey
from domain.cachekey import IGNORED
from domain.errors import ApiError, ProviderRefused
from domain.routing import Catalogue, route
from domain.usage import HIT, MISS, Usage, UsageRecord
from tests.conftest import Clock
from tests.support.fixtures import async_fixture
from tests.support.house import OpenHouse, open_house

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    str(page.relative_to(ROOT))
    for folder, pattern in ((ROOT, "*.md"), (ROOT / "docs", "**/*.md"), (ROOT / "newsfragments", "*.md"))
    for page in folder.glob(pattern)
)  # fmt: skip
INSTALL = "python3 -m venv .venv && .venv/bin/pip install . && .venv/bin/watchllm serve"
TEST = "python3 -m venv .venv && .venv/bin/pip install tox tox-uv && .venv/bin/tox"

_FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`([^`\n]+)`")


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(page: str, language: str) -> list[str]:
    return [code for told, code in _FENCED.findall(text(page)) if told == language]


def prose(page: str) -> str:
    return _FENCED.sub("", text(page))


def code_lines(page: str) -> Iterator[str]:
    for _, code in _FENCED.findall(text(page)):
        yield from code.splitlines()
    yield from _INLINE.findall(prose(page))


def table(page: str, heading: str) -> list[list[str]]:
    """The cells of the table under a heading, without its head."""
    section = re.split(rf"^#+ {re.escape(heading)}$", text(page), flags=re.MULTILINE)[1]
    rows = re.match(r"(?:(?!^#).*\n)*?((?:^\|.*\n)+)", section, re.MULTILINE)
    assert rows is not None
    split = [re.split(r"(?<!\\)\|", line)[1:-1] for line in rows[1].splitlines()]
    return [[cell.strip() for cell in cells] for cells in split[2:]]


# --- links and names ------------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.+)$", _FENCED.sub("", page.read_text(encoding="utf-8")), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in headings}


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page: str) -> None:
    """Within the repository: to a file that is there, and to a heading of it."""
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if target.startswith(("https://", "http://")):
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / page).parent / path if path else ROOT / page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)

    assert [] == broken


def test_every_page_is_in_the_index() -> None:
    """A page or a decision that docs/README.md does not lead to would not be found."""
    linked = set(re.findall(r"\]\(([^)#\s]+)\)", text("docs/README.md")))
    pages = {str(Path(page).relative_to("docs")) for page in PAGES if page.startswith("docs/")}

    assert pages - {"README.md"} == {one for one in linked if not one.startswith("..")}


@pytest.mark.parametrize("page", PAGES)
def test_every_command_that_is_named_exists(page: str) -> None:
    """With its options, wherever a page says `watchllm ...`."""
    for line in code_lines(page):
        for said in re.findall(r"\bwatchllm ((?:[a-z]|--)[^&`\n]*)", line):
            group: click.Command = cli.main
            words = said.split()
            while isinstance(group, click.Group) and words and words[0] in group.commands:
                group = group.commands[words.pop(0)]
            options = {option for one in group.params for option in one.opts} | {"--help"}

            assert not isinstance(group, click.Group) or not words or words[0] in options, said
            assert set() == {
                word.strip("[]") for word in words if word.lstrip("[").startswith("--")
            } - {*options, "--json"}, said


@pytest.mark.parametrize("page", PAGES)
def test_every_variable_that_is_named_exists(page: str) -> None:
    """As a setting, as the file of a secret one, or as a variable that the tests read."""
    known = {"OPENAI_API_KEY_FILE"}
    for setting in every_setting():
        known |= {setting.name, f"{setting.name}_FILE"} if setting.secret else {setting.name}
    support = "".join(path.read_text() for path in (ROOT / "tests" / "support").glob("*.py"))
    ours = (
        r"\b((?:WATCHLLM|DATABASE|REDIS|OPENAI|ANTHROPIC|GROQ|STRIPE|SMTP|SENTRY|DD)_[A-Z0-9_]+)\b"
    )

    unknown = set(re.findall(ours, text(page))) - known
    assert set() == {name for name in unknown if name not in support}


# --- the API --------------------------------------------------------------------------------------


def test_every_header_is_documented() -> None:
    """Those of ours that the code speaks of are those that the API page speaks of."""
    ours = re.compile(r"x-watchllm-[a-z][a-z-]*[a-z]", re.IGNORECASE)
    source = "".join(
        path.read_text(encoding="utf-8")
        for room in ("domain", "app")
        for path in (ROOT / room).rglob("*.py")
    )

    assert {name.lower() for name in ours.findall(source)} == {
        name.lower() for name in ours.findall(text("docs/api.md"))
    }


def kinds(root: type[ApiError]) -> Iterator[type[ApiError]]:
    yield root
    for child in root.__subclasses__():
        yield from kinds(child)


def told(kind: type[ApiError]) -> tuple[str, str, str]:
    statuses = sorted(failures._PASSED_ON) if kind is ProviderRefused else [kind.status]
    code = "–" if kind.default_code is None else f"`{kind.default_code}`"
    return ", ".join(map(str, statuses)), f"`{kind.type}`", code


def test_every_error_is_documented() -> None:
    """Each class is a row with its status, type and code, and there is no row without a class."""
    assert UriTooLong in set(kinds(ApiError))
    rows = {(row[0], row[1], row[2]) for row in table("docs/api.md", "Errors")}

    assert {told(kind) for kind in kinds(ApiError)} == rows


def samples(cell: str) -> list[str]:
    """`gpt-…` stands for every name that begins so."""
    return [name.removesuffix("…") + "9x" for name in _INLINE.findall(cell)]


ROUTES = [
    pytest.param(name, provider, sent, id=name)
    for cell, provider, sent in table("docs/api.md", "Models")
    for name in samples(cell)
]


@pytest.mark.parametrize(("name", "provider", "sent"), ROUTES)
def test_names_go_where_the_table_says(name: str, provider: str, sent: str) -> None:
    """A model that is not in models.toml goes by the beginning of its name."""
    prefix = (_INLINE.findall(sent) or [""])[0]
    expected = {
        "as": name,
        "without": name.removeprefix(prefix),
        "with": prefix + name,
    }[sent.partition(" ")[0]]
    found = route(name, Catalogue((), "test"))

    assert (provider, expected) == (found.provider, found.model)


@pytest.mark.parametrize(
    ("what", "most"),
    [
        ("JSON nesting", f"{request.MAX_DEPTH} levels"),
        ("JSON elements", f"{request.MAX_ELEMENTS:,}"),
        ("a field name", f"{request.MAX_NAME:,} characters"),
        ("`messages`", f"{request.MAX_MESSAGES:,}"),
        ("`input` of embeddings", f"{request.MAX_INPUTS:,}"),
        ("`prompt` of text completions", f"{request.MAX_PROMPTS}"),
        ("address", f"{MAX_PATH >> 10} KiB"),
    ],
)
def test_the_limits_are_those_of_the_code(what: str, most: str) -> None:
    """A number on the page is the number that is enforced."""
    assert most == {row[0]: row[1] for row in table("docs/api.md", "Limits")}[what]


# --- the cache ------------------------------------------------------------------------------------


def test_the_ignored_fields_are_published() -> None:
    """What does not make a difference is a promise to users, to the letter."""
    listed = [
        name
        for row in table("docs/caching.md", "What makes two requests the same")
        for name in _INLINE.findall(row[0])
    ]

    assert sorted({*IGNORED, "encoding_format"}) == sorted(listed)


def literals(node: ast.AST | None) -> Iterator[str]:
    match node:
        case ast.Constant(value=str(said)) if said.strip():
            yield said.strip()
        case ast.IfExp(body=one, orelse=other):
            yield from literals(one)
            yield from literals(other)
        case ast.JoinedStr(values=parts):
            for part in parts:
                yield from literals(part)


def reasons() -> Iterator[str]:
    """The literal words that the cache's rules return, without what is filled into them."""
    for node in ast.walk(ast.parse(inspect.getsource(cachepolicy))):
        if isinstance(node, ast.Return):
            yield from literals(node.value)


def test_every_reason_is_explained() -> None:
    """Whatever says why an answer was not kept can be looked up."""
    explained = " ".join(row[0] for row in table("docs/caching.md", "Reasons"))
    found = set(reasons())

    assert len(found) > 10
    assert set() == {reason for reason in found if reason not in explained}


# --- the house ------------------------------------------------------------------------------------


def test_every_room_is_drawn() -> None:
    """The architecture page names each module of the inner rooms and each port, and none that is gone."""
    drawn = prose("docs/architecture.md")
    rooms = [ROOT / name for name in ("domain", "app", "app/services", "app/web", "adapters")]
    modules = [path.name for room in rooms for path in room.glob("*.py") if path.name[0] != "_"]
    protocols = re.findall(
        r"^class (\w+)\(Protocol\)",
        "".join(path.read_text() for path in Path(ports.__path__[0]).glob("*.py")),
        re.MULTILINE,
    )
    gone = [
        path
        for path in _INLINE.findall(drawn)
        if re.fullmatch(r"(?:domain|ports|adapters|app|config|tests)/[\w/.]+", path)
        and not (ROOT / path).exists()
        and not (ROOT / f"{path}.py").exists()
    ]

    assert [] == [
        name for name in modules if f"{name}`" not in drawn.replace("app/cli`", "cli.py`")
    ]
    assert [] == [name for name in protocols if f"`{name}`" not in drawn]
    assert [] == gone


# --- what the pages show, run ---------------------------------------------------------------------


def test_the_two_commands() -> None:
    """The README's first two commands are the ones that work, and CI runs the second."""
    commands = [line for code in blocks("README.md", "sh") for line in code.splitlines()]

    assert [INSTALL, TEST] == commands[:2]
    assert "watchllm = app.cli:main" in text("setup.py")
    ci = text(".ci/run")
    steps = [ci.index("-m venv .venv"), ci.index("tox tox-uv"), ci.index("exec .venv/bin/tox")]
    assert sorted(steps) == steps


@pytest.mark.parametrize("page", PAGES)
def test_python_on_the_pages_is_python(page: str) -> None:
    for code in blocks(page, "python"):
        compile(code, page, "exec")


async def test_the_readme_adapter_keeps_its_promise(clock: Clock) -> None:
    """The cache that the README shows is one: found again, and gone when its time is over."""
    [code] = [code for code in blocks("README.md", "python") if "class DictCache" in code]
    names: dict[str, Any] = {}
    exec(code, names)
    cache = names["DictCache"](clock)
    key, other = CacheKey("prj_1", b"1" * 32), CacheKey("prj_1", b"2" * 32)
    entry = CacheEntry(b"{}", "openai", "gpt-4o", Usage(), 1, clock())

    await cache.put_many([(key, entry)], 60)
    assert entry == cache.peek(key)
    assert [None, entry] == await cache.get_many([other, key])
    clock.advance(60)
    assert [None] == await cache.get_many([key])


@async_fixture
async def house(tmp_path: Path) -> AsyncIterator[OpenHouse]:
    async with open_house(tmp_path) as opened:
        yield opened


def row(number: int, outcome: str, **money: int | None) -> UsageRecord:
    return UsageRecord(
        id=f"id-{number}",
        project="prj_1",
        key="key_1",
        kind="project",
        at=1_800_000_000.0,
        endpoint="chat/completions",
        model_asked="gpt-4o",
        model_answered="gpt-4o",
        provider="openai",
        streamed=False,
        outcome=outcome,
        status=200,
        usage=Usage(),
        price_version="test",
        first_byte_ms=1.0,
        total_ms=1.0,
        cache_reason="",
        **money,
    )


async def test_the_ledger_query_runs(db: Db) -> None:
    """On both databases, and its sums are dollars."""
    [sql] = blocks("docs/operations.md", "sql")
    await SqlUsageLog(db).append(
        [row(1, MISS, cost=5 * 10**11, avoided=0), row(2, HIT, cost=0, avoided=5 * 10**11)]
    )

    [found] = await db.rows(sql.replace("prj_...", "prj_1"))
    assert ("openai", 2, 1) == (found["provider"], found["requests"], found["hits"])
    assert (0.5, 0.5) == (float(found["cost_usd"]), float(found["saved_usd"]))


EXAMPLES = blocks("docs/examples.md", "python")


@pytest.mark.parametrize("code", EXAMPLES, ids=[f"number-{n}" for n, _ in enumerate(EXAMPLES, 1)])
async def test_the_python_examples_run(house: OpenHouse, code: str) -> None:
    """Each as it stands, with the official SDK, a test key and nothing else."""
    environment = {
        "PATH": os.environ["PATH"],
        "OPENAI_BASE_URL": f"{house.root}/v1",
        "OPENAI_API_KEY": house.test_key,
    }
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        timeout=25,
        check=False,
    )

    assert 0 == done.returncode, done.stderr
    assert done.stdout.strip()
