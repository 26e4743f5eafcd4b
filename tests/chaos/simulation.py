"""R23: the whole journey of requests in memory and in virtual time, with faults at every port, thousands of times.

`python -m tests.chaos.simulation SEED [STEPS]` replays one seed and tells each step.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

from app.services.gate import Gate
from tests.chaos.stage import Stage
from tests.chaos.trial import Trial
from tests.chaos.world import VirtualLoop, built

STEPS = 200
BATCH = 25
LONGEST = 300.0


def simulated(seeds: range, steps: int, broken: str = "") -> list[tuple[int, str]]:
    """Seeds whose world broke a promise, and which. For a process of its own."""
    logging.disable()
    if broken:
        _break()
    found = []
    for seed in seeds:
        try:
            _play(seed, steps, lambda _: None)
        except Exception as exc:
            found.append((seed, f"{type(exc).__name__}: {exc}"))
    return found


def _play(seed: int, steps: int, log: Callable[[str], None]) -> None:
    """Raises what went wrong. Each world has a loop of its own, so that its time begins with it."""
    loop = VirtualLoop()
    if sys.version_info >= (3, 12):
        # As the server does.
        loop.set_task_factory(asyncio.eager_task_factory)
    asyncio.set_event_loop(loop)
    try:
        loop.run_until_complete(built(seed, loop, log).run(steps))
    finally:
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        if left:
            loop.run_until_complete(asyncio.wait(left))
        loop.close()


def _break() -> None:
    """Nobody gives anything back."""
    Gate.leave = lambda self, line: None  # type: ignore[method-assign]


async def r23(_: Stage, trial: Trial) -> None:
    count = trial.scale(150, 10_000)
    first = trial.chance("seeds").randrange(10**9)
    began = time.monotonic()
    with ProcessPoolExecutor(min(2, os.cpu_count() or 1)) as pool:
        loop = asyncio.get_running_loop()
        found = await asyncio.gather(
            *[
                loop.run_in_executor(
                    pool, simulated, range(start, min(start + BATCH, first + count)), STEPS
                )
                for start in range(first, first + count, BATCH)
            ]
        )
        took = time.monotonic() - began
        broken = [one for part in found for one in part]
        trial.tell(f"{count} seeds from {first}, {STEPS} steps each, in {took:.1f} s")
        trial.none(broken, "broken promises")
        trial.must(took <= LONGEST, f"it took {took:.0f} s")
    with ProcessPoolExecutor(1) as pool, trial.control("giving back", "back") as without:
        part = await loop.run_in_executor(pool, simulated, range(first, first + 5), STEPS, "leave")
        without.wrong += [wrong for _, wrong in part]


def main() -> None:
    seed, steps = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else STEPS
    _play(seed, steps, print)
    print(f"seed {seed} keeps all promises")


if __name__ == "__main__":
    main()
