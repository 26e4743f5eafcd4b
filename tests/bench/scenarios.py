"""The scenarios: what is asked of the product, what must come back, and what it may cost.

A scenario is a function of the sitting (the servers that run side by side) and gives its figures. Goals are those of
docs/performance.md.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping
from itertools import pairwise
from statistics import median

import orjson
from attrs import define, field

from domain import apikey
from tests.bench.load import (
    Load,
    Request,
    WrongAnswer,
    answers,
    ask,
    drive,
    pace,
    percentile,
)
from tests.bench.measuring import SLICES, Figure, measure
from tests.bench.processes import Server

CHAT = "/v1/chat/completions"
EMBEDDINGS = "/v1/embeddings"
WHOLE = "gpt-bench-150x0"
"""The scripted provider answers it at once, with about 1 kB."""
STREAMED = "gpt-bench-100x5"
"""A stream of 100 chunks, 5 ms apart."""
CHUNKS = 100
STREAMS = 20
BODIES = 64
"""Different questions whose answers are asked for again and again."""
VECTOR = 1536
TURNS = 5
WARM = 16_000
"""Hits after which memory is read: by then the database's own page cache has its full size."""

LATE = 0.035
"""Seconds between two chunks sent 5 ms apart that speak of Nagle's algorithm: it waits for an ACK, 40 ms on Linux."""
HELD_BACK = 0.25
"""The share of streams with a late second chunk that no busy machine explains."""


@define
class Sitting:
    """What runs. `watchllm` is the embedded product, `shared` the one whose answers are in Redis only."""

    quick: bool
    yardstick: Server
    upstream: Server
    watchllm: Server
    shared: Server | None
    redis_hits: Callable[[], int] | None
    key: str
    started_in: float
    watched: dict[str, Server]
    """By what watches them: nothing, the metrics, everything."""
    h: list[float] = field(factory=list)

    def many(self, default: int) -> int:
        return default // 3 if self.quick else default


Scenario = Callable[[Sitting], Awaitable[list[Figure]]]


# --- what is asked --------------------------------------------------------------------------------------


def post(path: str, key: str, document: Mapping[str, object]) -> bytes:
    body = orjson.dumps(document)
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: bench\r\nAccept: application/json\r\n"
        f"Authorization: Bearer {key}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def question(number: int | str, model: str = WHOLE, **more: object) -> dict[str, object]:
    """About 0.9 kB, of which `number` is the only difference."""
    system = "You are a helpful assistant who answers in one short paragraph. " * 9
    return {
        "model": model,
        "temperature": 0.2,
        "messages": [
            {"role": "system", "content": system},
            {"role": "user", "content": f"What is the distance to star number {number}?"},
        ],
        **more,
    }


def unique(key: str, model: str = WHOLE, path: str = CHAT, **more: object) -> Request:
    """A question that nobody asked before, each time."""
    mark = "000000000"
    before, _, after = post(
        path, key, question(f"{mark}{os.urandom(4).hex()}", model, **more)
    ).partition(mark.encode())
    return lambda number: b"%b%09d%b" % (before, number, after)


def repeated(requests: list[bytes]) -> Request:
    return lambda number: requests[number % len(requests)]


# --- what is measured --------------------------------------------------------------------------------------------


async def yardstick(sitting: Sitting) -> list[Figure]:
    request = repeated([post(CHAT, sitting.key, question(0))])
    check = answers(200, "HIT")
    await drive(sitting.yardstick.port, request, check, count=500)
    cost = await measure(sitting.yardstick, request, check, sitting.many(12_000))
    sitting.h.append(cost.server)
    return [cost.figure("H", "yardstick: a bare RequestHandler")]


async def _filled(server: Server, requests: list[bytes]) -> bytes:
    """Asks each once; the body they are all answered with from now on."""
    for request in requests:
        await ask(server.port, request, answers(200))
    _, body = await ask(server.port, requests[0], answers(200, "HIT"))
    return body


async def miss(sitting: Sitting) -> list[Figure]:
    check = answers(200, "MISS")
    server = sitting.watchllm
    await drive(server.port, unique(sitting.key), check, count=300)
    cost = await measure(server, unique(sitting.key), check, sitting.many(6_000))
    return [cost.figure("S1", "miss: plain chat, instant provider, stored", goal=3.0, later=2.5)]


async def memory_hit(sitting: Sitting) -> list[Figure]:
    server = sitting.watchllm
    requests = [post(CHAT, sitting.key, question(n)) for n in range(BODIES)]
    check = answers(200, "HIT", await _filled(server, requests))
    request = repeated(requests)
    await drive(server.port, request, check, count=1_000)
    cost = await measure(server, request, check, sitting.many(WARM))
    done = len(cost.load.latencies)
    if done < WARM:
        await drive(server.port, request, check, count=WARM - done)
        await server.settled_cpu()
    before = server.rss()
    await drive(server.port, request, check, count=10_000)
    await server.settled_cpu()
    after = server.rss()
    return [
        cost.figure("S2", "hit from memory", goal=1.5, later=1.0),
        Figure("RSS", "memory after S2", "MB", before / 1e6, goal=110, later=90),
        Figure(
            "growth", "more memory after 10,000 further hits", "MB", (after - before) / 1e6, goal=2
        ),
    ]


async def redis_hit(sitting: Sitting) -> list[Figure]:
    server, hits = sitting.shared, sitting.redis_hits
    assert server is not None
    assert hits is not None
    requests = [post(CHAT, sitting.key, question(n)) for n in range(BODIES)]
    check = answers(200, "HIT", await _filled(server, requests))
    request = repeated(requests)
    await drive(server.port, request, check, count=500)
    before = hits()
    cost = await measure(server, request, check, sitting.many(8_000))
    done, read = len(cost.load.latencies), hits() - before
    if read < done:
        raise WrongAnswer(f"of {done} hits only {read} were read from Redis")
    return [cost.figure("S2r", "hit from Redis only", later=1.5)]


async def stream_miss(sitting: Sitting) -> list[Figure]:
    server = sitting.watchllm
    await drive(
        server.port, unique(sitting.key, STREAMED, stream=True), stream_check, count=STREAMS
    )
    cost = await measure(
        server,
        unique(sitting.key, STREAMED, stream=True),
        stream_check,
        STREAMS * SLICES * sitting.many(8),
        connections=STREAMS,
        keep_reads=True,
    )
    title = "streamed miss, per chunk (20 streams at once)"
    found = cost.figure("S3", title, parts=CHUNKS, goal=0.8, later=0.6)
    gap, late, alone, held = rhythm(cost.load)
    found.note = f"a chunk each {gap * 1e3:.1f} ms, {alone:.0%} alone, {late:.2%} more than {LATE * 1e3:.0f} ms after the last"
    if held > HELD_BACK:
        raise WrongAnswer(
            f"chunks are held back after the first in {held:.0%} of streams; {found.note}"
        )
    return [found]


def stream_check(head: bytes, body: bytes) -> str | None:
    wrong = answers(200, "MISS")(head, body)
    if wrong is None and b"\r\ncontent-type: text/event-stream" not in head:
        wrong = "no event stream"
    chunks = body.count(b'"word "')
    if wrong is None and chunks != CHUNKS:
        wrong = f"{chunks} chunks of {CHUNKS}"
    if wrong is None and not body.endswith(b"data: [DONE]\n\n"):
        wrong = f"a stream without its end: {body[-200:]!r}"
    return wrong


def rhythm(load: Load) -> tuple[float, float, float, float]:
    """The median gap between arrivals, the share of late ones, of reads with one chunk alone, of streams held back.

    Nagle's algorithm lets a stream's first chunk go and keeps the next ones until the client's kernel has confirmed
    it, which on a kept connection it is slow to do.
    """
    gaps: list[list[float]] = []
    counts: list[int] = []
    for reads in load.reads:
        told = [(at, events) for at, events in reads if events]
        gaps.append([later - sooner for (sooner, _), (later, _) in pairwise(told)])
        # The first read may bring the head too, the last the ending.
        counts += [events for _, events in told[1:-1]]
    every = [gap for stream in gaps for gap in stream]
    if not every:
        raise WrongAnswer("whole streams came in one piece")
    late = sum(gap >= LATE for gap in every) / len(every)
    held = sum(not stream or stream[0] >= LATE for stream in gaps) / len(gaps)
    return percentile(every, 0.5), late, counts.count(1) / len(counts), held


async def stream_hit(sitting: Sitting) -> list[Figure]:
    server = sitting.watchllm
    asked = question("in a stream", STREAMED, stream=True)
    body = await _filled(server, [post(CHAT, sitting.key, asked)])
    if b"word " * CHUNKS not in body or not body.endswith(b"data: [DONE]\n\n"):
        raise WrongAnswer(f"not the whole stream: {body[-200:]!r}")
    request, check = repeated([post(CHAT, sitting.key, asked)]), answers(200, "HIT", body)
    await drive(server.port, request, check, count=500)
    cost = await measure(server, request, check, sitting.many(8_000))
    return [cost.figure("S4", "streamed hit, the whole stream of 100 chunks", later=1.5)]


async def embeddings_hit(sitting: Sitting) -> list[Figure]:
    server = sitting.watchllm
    asked = {
        "model": "text-embedding-3-small",
        "input": "The distance to a star. " * 20,
        "encoding_format": "base64",
    }
    requests = [post(EMBEDDINGS, sitting.key, asked)]
    body = await _filled(server, requests)
    if len(orjson.loads(body)["data"][0]["embedding"]) != VECTOR * 4 * 4 / 3:
        raise WrongAnswer(f"no vector of {VECTOR} numbers")
    check = answers(200, "HIT", body)
    await drive(server.port, repeated(requests), check, count=500)
    cost = await measure(server, repeated(requests), check, sitting.many(8_000))
    return [cost.figure("S5", "embeddings hit, base64, 1536 numbers", later=1.2)]


async def rejected(sitting: Sitting) -> list[Figure]:
    keys = {
        "S6": ("rejected: a well-formed key nobody has", apikey.mint("project", os.urandom(48))),
        "S6m": ("rejected: not a key at all", "sk-this-is-somebody-elses-key"),
    }
    found = []
    for name, (title, key) in keys.items():
        request = repeated([post(CHAT, key, question(0))])
        check = answers(401)
        await drive(sitting.watchllm.port, request, check, count=500)
        cost = await measure(sitting.watchllm, request, check, sitting.many(8_000))
        found.append(cost.figure(name, title, later=0.8))
    return found


async def added_latency(sitting: Sitting) -> list[Figure]:
    count = sitting.many(800)
    ports = [sitting.watchllm.port, sitting.upstream.port]
    direct, through = unique(sitting.key), unique(sitting.key)
    checks = [answers(200, "MISS"), answers(200)]
    await pace(ports, [through, direct], checks, rate=50, count=20)
    through, direct = unique(sitting.key), unique(sitting.key)
    before = sitting.watchllm.cpu()
    proxied, plain = await pace(ports, [through, direct], checks, rate=50, count=count)
    used = (await sitting.watchllm.settled_cpu() - before) / count * 1e6
    shares = {0.5: ("p50", 1.5), 0.99: ("p99", 5.0)}
    found = []
    for share, (name, later) in shares.items():
        added = (percentile(proxied, share) - percentile(plain, share)) * 1e3
        found.append(
            Figure("S8", f"added latency at 50 a second, {name}", "ms", added, later=later)
        )
    found[0].note = f"{used:.0f} us of CPU a request with caches cold"
    return found


async def observers(sitting: Sitting) -> list[Figure]:
    """In turns, so that a drift of the machine is everybody's."""
    requests = [post(CHAT, sitting.key, question(n)) for n in range(BODIES)]
    request = repeated(requests)
    checks = {}
    for name, server in sitting.watched.items():
        checks[name] = answers(200, "HIT", await _filled(server, requests))
        await drive(server.port, request, checks[name], count=sitting.many(6_000))
    spent: dict[str, list[float]] = {name: [] for name in sitting.watched}
    for _ in range(TURNS):
        for name, server in sitting.watched.items():
            cost = await measure(server, request, checks[name], sitting.many(6_000))
            spent[name] += cost.slices
    bare = median(spent["bare"])
    return [
        Figure(
            "S9m",
            "hit with metrics on, against nothing on",
            "x",
            median(spent["metrics"]) / bare,
            goal=1.05,
        ),
        Figure(
            "S9",
            "... with Sentry and Datadog, too, which hang",
            "x",
            median(spent["everything"]) / bare,
            goal=1.3,
        ),
    ]


async def start(sitting: Sitting) -> list[Figure]:
    title = "`watchllm serve` to its first answer"
    return [Figure("start", title, "s", sitting.started_in, later=1.5)]


BEFORE: dict[str, Scenario] = {
    "start": start,
    "S2": memory_hit,
    "S4": stream_hit,
    "S5": embeddings_hit,
    "S6": rejected,
}
"""Memory is read before thousands of different answers have filled the cache."""
AFTER: dict[str, Scenario] = {
    "S2r": redis_hit,
    "S1": miss,
    "S3": stream_miss,
    "S8": added_latency,
    "S9": observers,
}
NAMES = (*BEFORE, *AFTER)
