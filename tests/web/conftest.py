"""The whole product with scripted providers, for the tests that speak HTTP to it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

from tests.support.fixtures import async_fixture
from tests.support.house import OpenHouse, open_house
from tests.support.upstream import ScriptedUpstream


@async_fixture
async def upstream() -> AsyncIterator[ScriptedUpstream]:
    async with ScriptedUpstream() as scripted:
        yield scripted


@async_fixture
async def house(tmp_path: Path, upstream: ScriptedUpstream) -> AsyncIterator[OpenHouse]:
    async with open_house(tmp_path, upstream) as opened:
        yield opened
