"""Measuring: a load in slices, what the server's CPU spent on each, and the line of the report it becomes."""

from __future__ import annotations

import time
from functools import partial
from statistics import median

from attrs import define, field

from tests.bench.load import Check, Load, Request, drive, percentile
from tests.bench.processes import Server

SLICES = 3


@define
class Figure:
    """One line of the report. Over twice its `goal` a `ratio` is a gross loss; `later` is what we want in the end."""

    name: str
    title: str
    unit: str
    measured: float
    goal: float | None = None
    later: float | None = None
    ratio: float | None = None
    p50: float | None = None
    p99: float | None = None
    own: float | None = None
    """CPU microseconds of the load generator, per request or chunk."""
    slices: list[float] = field(factory=list)
    note: str = ""


@define
class Cost:
    """What a load took: CPU microseconds per answer, the server's of each slice and our own."""

    load: Load
    slices: list[float]
    own: float

    @property
    def server(self) -> float:
        return median(self.slices)

    def figure(self, name: str, title: str, *, parts: int = 1, **goals: float) -> Figure:
        """`parts` is what an answer consists of, if the figure is of one part."""
        return Figure(
            name,
            title,
            "us",
            self.server / parts,
            p50=percentile(self.load.latencies, 0.5) * 1e3,
            p99=percentile(self.load.latencies, 0.99) * 1e3,
            own=self.own / parts,
            slices=[one / parts for one in self.slices],
            goal=goals.get("goal"),
            later=goals.get("later"),
        )


async def measure(
    server: Server,
    request: Request,
    check: Check,
    count: int,
    *,
    connections: int = 32,
    keep_reads: bool = False,
) -> Cost:
    """The load in slices, each read to the last of what the server put off; the median is little moved by a neighbour.

    A request's number goes on from slice to slice, so that what is unique stays so.
    """
    loads: list[Load] = []
    slices: list[float] = []
    own, before = 0.0, await server.settled_cpu()
    size = count // SLICES
    for number in range(SLICES):
        ours = time.process_time()
        load = await drive(
            server.port,
            partial(_offset, request, number * size),
            check,
            count=size,
            connections=connections,
            keep_reads=keep_reads,
        )
        own += time.process_time() - ours
        after = await server.settled_cpu()
        slices.append((after - before) / len(load.latencies) * 1e6)
        loads.append(load)
        before = after
    whole = loads[0]
    for load in loads[1:]:
        whole.latencies += load.latencies
        whole.reads += load.reads
    return Cost(whole, slices, own / len(whole.latencies) * 1e6)


def _offset(request: Request, start: int, number: int) -> bytes:
    return request(start + number)
