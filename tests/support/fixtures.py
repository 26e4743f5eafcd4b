"""Async fixtures, which pytest itself refuses."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import pytest
from tornado.ioloop import IOLoop


def async_fixture(function: Callable[..., Any]) -> Any:
    """`@async_fixture` on an `async def`, or on an async generator with one `yield`.

    pytest itself refuses async fixtures; both halves run on the test's own loop.
    """
    signature = inspect.signature(function)
    wanted = [*signature.parameters.values()]
    if "io_loop" not in signature.parameters:
        wanted.append(inspect.Parameter("io_loop", inspect.Parameter.POSITIONAL_OR_KEYWORD))

    def run(io_loop: IOLoop, arguments: dict[str, Any]) -> Any:
        if "io_loop" in signature.parameters:
            arguments["io_loop"] = io_loop
        if not inspect.isasyncgenfunction(function):
            yield io_loop.run_sync(lambda: function(**arguments))
            return
        halves = function(**arguments)
        yield io_loop.run_sync(lambda: halves.__anext__())

        async def second() -> None:
            async for _ in halves:
                raise AssertionError("an async fixture yields once")

        io_loop.run_sync(second)

    @functools.wraps(function)
    def fixture(**arguments: Any) -> Any:
        io_loop = arguments.pop("io_loop")
        yield from run(io_loop, arguments)

    fixture.__signature__ = signature.replace(parameters=wanted)
    del fixture.__wrapped__  # type: ignore[attr-defined]
    return pytest.fixture(fixture)
