"""`python -m tests.chaos [--seconds short|full] [--only R1,R8b] [--seed N]`: keeps the promises, or says which it breaks.

One line for each promise; exit code 1 if one of them is broken. The same seed draws the same questions, faults and
moments again; what the machine makes of them is its own.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import tempfile
import time
import traceback
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Awaitable, Callable
from pathlib import Path
from secrets import randbelow

from tests.chaos.ending import r20, r21
from tests.chaos.leaving import r6
from tests.chaos.ledgerless import r10
from tests.chaos.limits import r8b
from tests.chaos.money import r18
from tests.chaos.outages import r9
from tests.chaos.power import r2
from tests.chaos.revoking import r11
from tests.chaos.secrets import r13
from tests.chaos.simulation import r23
from tests.chaos.soak import r22, r24
from tests.chaos.stage import DURABLE, Stage
from tests.chaos.storm import r1
from tests.chaos.trial import Trial
from tests.chaos.webhooks import r12
from tests.support.postgres import new_server

PROMISES: dict[str, Callable[[Stage, Trial], Awaitable[None]]] = {
    "R1": r1,
    "R2": r2,
    "R6": r6,
    "R8b": r8b,
    "R9": r9,
    "R10": r10,
    "R11": r11,
    "R12": r12,
    "R13": r13,
    "R18": r18,
    "R20": r20,
    "R21": r21,
    "R22": r22,
    "R23": r23,
    "R24": r24,
}
LIMITS = {"short": 90.0, "full": 1_500.0}
"""Seconds that any one of them may take."""


def main() -> int:
    given = _arguments()
    # What the product would log here, in the driver's own process, is part of the play.
    logging.disable()
    print(f"seed {given.seed}, {given.seconds}", flush=True)
    postgres = new_server()
    try:
        with tempfile.TemporaryDirectory(prefix="watchllm-chaos-") as folder:
            postgres.start(*DURABLE)
            with asyncio.Runner() as runner:
                return runner.run(_run(given, Stage(Path(folder), postgres)))
    finally:
        postgres.remove()


def _arguments() -> Namespace:
    def names(text: str) -> list[str]:
        known = {name.lower(): name for name in PROMISES}
        strangers = [one for one in text.split(",") if one.lower() not in known]
        if strangers:
            raise ArgumentTypeError(f"there is no {strangers[0]}, only {', '.join(PROMISES)}")
        return [known[one.lower()] for one in text.split(",")]

    parser = ArgumentParser(prog="python -m tests.chaos", description="Promises under chaos.")
    parser.add_argument("--seconds", choices=[*LIMITS], default="short", help="how long")
    parser.add_argument(
        "--only", type=names, default=[*PROMISES], help="some of them, with commas"
    )
    parser.add_argument("--seed", type=int, default=randbelow(10**6), help="to replay a run")
    return parser.parse_args()


async def _run(given: Namespace, stage: Stage) -> int:
    # A driver that is told to go takes its servers along.
    own = asyncio.current_task()
    assert own is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, own.cancel)
    failed = passed = 0
    for name in given.only:
        kept = await _tried(name, given, stage)
        if not kept and given.seconds == "short":
            # A short run shares its machine; what is really broken is broken twice.
            print(f"     RERUN {name}", flush=True)
            kept = await _tried(name, given, stage)
        failed += not kept
        passed += kept
    print(f"{passed} passed, {failed} failed", flush=True)
    return int(failed > 0)


async def _tried(name: str, given: Namespace, stage: Stage) -> bool:
    """Whether the promise was kept, after telling its figures."""
    trial = Trial(name, given.seed, given.seconds == "full")
    began = time.monotonic()
    try:
        async with asyncio.timeout(LIMITS[given.seconds]):
            await PROMISES[name](stage, trial)
    except (
        Exception
    ) as exc:  # whatever it was, the promise was not kept and the others are still to be looked at
        traceback.print_exc()
        trial.wrong.append(f"{type(exc).__name__}: {exc}"[:300])
    told = "FAIL" if trial.wrong else "PENDING" if trial.pending else "PASS"
    took = time.monotonic() - began
    figures = "; ".join(trial.figures)
    print(f"{name:4} {told} seed {trial.seed} {took:.0f} s: {figures}", flush=True)
    for wrong in trial.wrong:
        print(f"     WRONG: {wrong}", flush=True)
    if trial.pending:
        print(f"     PENDING: {trial.pending}", flush=True)
    return not trial.wrong


if __name__ == "__main__":
    sys.exit(main())
