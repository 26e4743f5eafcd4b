"""What every test stands on: a loop of its own, and a clock that only moves when told."""

from __future__ import annotations

import pytest
from tornado.ioloop import IOLoop


@pytest.fixture(autouse=True)
def _loop_of_its_own(io_loop: IOLoop) -> None:
    """Without it, tests would share the process's loop."""


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
