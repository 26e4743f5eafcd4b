"""The official Node SDK before the same servers: one script per group, whose findings are judged here.

The scripts and their one dependency are put into a folder of this session; the tree stays as it is.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from math import isclose
from pathlib import Path
from typing import Any, NoReturn
from uuid import uuid4

import pytest

from tests.sdk.conftest import EMBEDDING_MODEL, MODELS, Seat, Told
from tests.support.upstream_refusals import RETRY_AFTER

SCRIPTS = Path(__file__).parent / "node"
PREFIXES = {"openai": "gpt-", "anthropic": "claude-", "groq": "openai/gpt-oss-"}
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

Found = dict[str, Any]
Run = Callable[..., Found]


def unable(why: str) -> NoReturn:
    """These tests prove a promise: leaving them out is for a developer's machine alone."""
    if os.environ.get("CI"):
        pytest.fail(f"the Node SDK cannot be tested: {why}")
    pytest.skip(f"THE NODE SDK IS NOT TESTED: {why}")


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripts with the SDK installed beside them."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        unable("node or npm is not there")
    folder = tmp_path_factory.mktemp("node") / "scripts"
    shutil.copytree(SCRIPTS, folder, ignore=shutil.ignore_patterns("node_modules"))
    flags = (
        "--no-audit",
        "--no-fund",
        "--ignore-scripts",
        "--no-package-lock",
        "--prefer-offline",
    )
    try:
        done = subprocess.run(
            ["npm", "install", *flags], cwd=folder, capture_output=True, timeout=90, check=False
        )
    except subprocess.TimeoutExpired:
        unable("npm does not come back")
    if done.returncode:
        unable(done.stderr.decode()[-500:])
    return folder


@pytest.fixture(scope="session")
def run(folder: Path, seats: dict[str, Seat]) -> Run:
    """Runs a script for every seat named; `more` is added to each."""

    def run(script: str, *providers: str, **more: str) -> Found:
        given: list[dict[str, Any]] = [
            {
                "provider": provider,
                "model": seats[provider].model,
                "base_url": str(seats[provider].client.base_url),
                "api_key": seats[provider].client.api_key,
                "prompt": f"How is the weather in canary-{uuid4().hex[:12]}?",
                "prefix": PREFIXES.get(provider),
                **more,
            }
            for provider in providers or MODELS
        ]
        done = subprocess.run(
            ["node", script],
            cwd=folder,
            input=json.dumps(given).encode(),
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert 0 == done.returncode, done.stderr.decode()
        found: Found = json.loads(done.stdout)
        assert [seat["provider"] for seat in given] == list(found)
        for seat in given:
            found[seat["provider"]] = {"prompt": seat["prompt"], "found": found[seat["provider"]]}
        return found

    return run


def place(prompt: str) -> str:
    return prompt.rpartition(" ")[2].rstrip("?")


def test_chat(run: Run, seats: dict[str, Seat]) -> None:
    """Miss, hit, and a hit without `/v1` in the base URL; our headers and our id on each."""
    for provider, seen in run("chat.mjs").items():
        first, second, rootless = seen["found"]

        seats[provider].miss(Told.by(first["told"]))
        for hit in (second, rootless):
            seats[provider].hit(Told.by(hit["told"]), first["total"])
            assert (first["text"], first["finish"]) == (hit["text"], hit["finish"])
        assert place(seen["prompt"]) in first["text"]
        assert "stop" == first["finish"]
        ids = [one["ids"] for one in (first, second, rootless)]
        assert all(len(own) == 1 and UUID.fullmatch(own[0]) for own in ids)
        assert 3 == len({own[0] for own in ids})


def test_stream(run: Run, seats: dict[str, Seat]) -> None:
    """The popular loop over `choices[0]` runs through, hit or miss; the usage comes when it is asked for."""
    for provider, seen in run("stream.mjs").items():
        first, second, usage = (seen["found"][name] for name in ("first", "second", "usage"))

        seats[provider].miss(Told.by(first["told"]), basis="prompt-estimate", reason="stream")
        seats[provider].hit(Told.by(second["told"]), usage["total"])
        for one in (first, second):
            assert place(seen["prompt"]) in one["text"]
            assert (["assistant"], "stop", 0) == (one["roles"], one["finish"], one["usages"])
        assert first["text"] == second["text"]
        assert 0 == usage["choices"]


def test_the_stream_helper(run: Run) -> None:
    for seen in run("helper.mjs").values():
        first, second = seen["found"]

        assert place(seen["prompt"]) in first["text"] == first["pieces"]
        assert ("assistant", "stop") == (first["role"], first["finish"])
        assert first["total"] > 0
        assert first == second


def test_tools(run: Run) -> None:
    """The round trip plain, from the cache, streamed and replayed as a stream, and the helper that runs it all."""
    for seen in run("tools.mjs").values():
        found = seen["found"]

        assert ["MISS", "MISS"] == found["first"]["cached"]
        assert ["HIT", "HIT"] == found["second"]["cached"]
        for trip in ("first", "second", "replayed", "streamed"):
            one = found[trip]
            assert ("tool_calls", 1, "get_weather") == (one["finish"], one["calls"], one["name"])
            assert ["city", "days"] == list(one["arguments"])
            assert type(one["arguments"]["days"]) is int
            assert one["text"]
        assert found["first"]["id"] == found["second"]["id"] == found["replayed"]["id"]
        assert 1 == len(found["run"]["given"])
        assert found["run"]["text"]


def test_structured_output(run: Run) -> None:
    for seen in run("structured.mjs").values():
        first, second = seen["found"]

        assert ("MISS", "HIT") == (first.pop("cached"), second.pop("cached"))
        assert first == second
        parsed = json.loads(first["text"])
        assert ["zone", "days"] == list(parsed)
        assert parsed == first["parsed"] == first["streamed"]


def test_embeddings(run: Run, seats: dict[str, Seat]) -> None:
    """The default is base64 here, and floats in its place would become garbage silently: length and norm tell."""
    for provider, seen in run(
        "embeddings.mjs", "openai", "sandbox", model=EMBEDDING_MODEL
    ).items():
        found = seen["found"]
        first, second, floats, batch = (Told.by(headers) for headers in found["told"])

        for vector in (found, found["other"]):
            assert 1536 == vector["length"]
            assert isclose(1, vector["norm"], abs_tol=1e-6)
        assert [True, True, True] == found["same"]
        seats[provider].miss(first, reason=first.reason)
        seats[provider].hit(second, found["total"])
        seats[provider].hit(floats, found["total"])
        assert ("MISS", "partial: 1 of 2") == (batch.cached, batch.reason)


def test_completions(run: Run, seats: dict[str, Seat]) -> None:
    for provider, seen in run("completions.mjs").items():
        found = seen["found"]
        plain, streamed = (Told.by(headers) for headers in found["told"])

        seats[provider].miss(plain)
        seats[provider].hit(streamed, found["total"])
        assert place(seen["prompt"]) in found["text"] == found["streamed"]


def test_models(run: Run) -> None:
    """The list, and one whose name has a slash."""
    for seen in run("models.mjs").values():
        found = seen["found"]

        assert set(MODELS.values()) <= set(found["listed"])
        assert ["openai/gpt-oss-120b", "groq", "model"] == found["slashed"]


REFUSALS = {
    "key": ("AuthenticationError", 401, "invalid_request_error", "invalid_api_key", None),
    "model": ("NotFoundError", 404, "invalid_request_error", "model_not_found", None),
    "streamedModel": ("NotFoundError", 404, "invalid_request_error", "model_not_found", None),
    "request": (
        "BadRequestError", 400, "invalid_request_error", "decimal_above_max_value", "temperature",
    ),
    "limit": ("RateLimitError", 429, "rate_limit_exceeded", "rate_limit_exceeded", None),
    "refused": ("BadRequestError", 400, "invalid_request_error", None, None),
    "credentials": ("InternalServerError", 502, "api_error", "api_error", None),
    "broken": ("InternalServerError", 502, "api_error", "api_error", None),
    "overloaded": ("InternalServerError", 503, "api_error", "api_error", None),
    "late": ("InternalServerError", 504, "api_error", "api_error", None),
}  # fmt: skip


def test_errors(run: Run) -> None:
    """The SDK's own classes with code and param, and streams that were cut throw: by hand and in the helper."""
    for seen in run("errors.mjs", *PREFIXES).values():
        found = seen["found"]

        assert REFUSALS == {
            name: tuple(found[name][word] for word in ("class", "status", "type", "code", "param"))
            for name in REFUSALS
        }
        assert all(UUID.fullmatch(found[name]["id"]) for name in REFUSALS)
        assert str(RETRY_AFTER) == found["limit"]["retryAfter"]
        assert found["overloaded"]["retryAfter"]
        for name, cut in found["cuts"].items():
            assert (name, True, "api_error") == (name, cut.get("api"), cut.get("type"))
            assert cut["text"].startswith("This")
        for name, cut in found["helperCuts"].items():
            assert cut is not None, f"{name} was taken for the whole"
