"""What every test stands on: a loop of its own, and a clock that only moves when told."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any, cast

import pytest
from tornado.ioloop import IOLoop

from app.log import OWN


@pytest.fixture(autouse=True)
def _loop_of_its_own(io_loop: IOLoop) -> Iterator[None]:
    """Without it, tests would share the process's loop. Generators that were left half way end on it, too."""
    yield
    io_loop.run_sync(cast(Any, io_loop).asyncio_loop.shutdown_asyncgens)


@pytest.fixture(autouse=True)
def _logs_as_they_were() -> Iterator[None]:
    """What a command's run sets up for its logs would keep other tests from seeing theirs."""
    root = logging.getLogger()
    before = root.level, root.handlers[:]
    yield
    root.setLevel(before[0])
    root.handlers[:] = before[1]
    for name in OWN:
        logging.getLogger(name).setLevel(logging.NOTSET)
    logging.getLogger("tornado.access").disabled = False


class Clock:
    """Wall-clock seconds that stand still until `advance`."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()
