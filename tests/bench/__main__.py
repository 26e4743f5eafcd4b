"""`python -m tests.bench [--quick] [--only S1,S2] [--json]`: starts everything, measures, prints, judges.

Exit code 1 means a wrong answer, or a ratio of more than twice its goal; 2 that nothing could be measured. Being
over a goal by less is told and no failure: on a shared machine it may be the neighbours.
"""

from __future__ import annotations

import platform
import socket
import sys
import tempfile
import time
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from shutil import copytree
from statistics import mean

import attrs
import orjson
import pytest
import tornado

from tests.bench import loop
from tests.bench.load import WrongAnswer, answers, ask
from tests.bench.measuring import Figure
from tests.bench.processes import ROOT, BenchError, Server, command
from tests.bench.scenarios import (
    AFTER,
    BEFORE,
    CHAT,
    NAMES,
    STREAMED,
    WHOLE,
    Scenario,
    Sitting,
    post,
    question,
    yardstick,
)
from tests.support.valkey import ValkeyServer, valkey_server

GROSS = 2.0

PRICED = '\n[models."{}"]\nprovider = "openai"\ninput = "2"\noutput = "10"\n'


def main() -> int:
    given = _arguments()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="watchllm-bench-") as folder:
        try:
            figures, h = loop.run(_measure(given, Path(folder)))
        except WrongAnswer as wrong:
            print(f"WRONG ANSWER: {wrong}", file=sys.stderr)
            return 1
        except BenchError as trouble:
            print(trouble, file=sys.stderr)
            return 2
    took = time.monotonic() - began
    print(_document(figures, h, took) if given.json else _table(figures, h, took))
    return int(any(_verdict(figure) == "GROSS LOSS" for figure in figures))


def _arguments() -> Namespace:
    def names(text: str) -> list[str]:
        found = text.split(",")
        strangers = [name for name in found if name not in NAMES]
        if strangers:
            raise ArgumentTypeError(f"there is no {strangers[0]}, only {', '.join(NAMES)}")
        return found

    parser = ArgumentParser(
        prog="python -m tests.bench", description="Speed, as ratios to a yardstick."
    )
    parser.add_argument("--quick", action="store_true", help="a third of the requests")
    parser.add_argument("--only", type=names, default=[*NAMES], help=f"some of {','.join(NAMES)}")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    return parser.parse_args()


async def _measure(given: Namespace, folder: Path) -> tuple[list[Figure], list[float]]:
    """H before, between and after the two halves, so that a drift of the machine is seen and shared."""
    figures: list[Figure] = []
    async with _sitting(given, folder) as sitting:
        try:
            for half in (BEFORE, AFTER):
                figures += await _told(yardstick, sitting)
                for name, scenario in half.items():
                    if name in given.only and not (name == "S2r" and sitting.shared is None):
                        figures += await _told(scenario, sitting)
            figures += await _told(yardstick, sitting)
        except WrongAnswer as wrong:
            raise WrongAnswer(f"{wrong}\nwatchllm said:\n{sitting.watchllm.tail()}") from wrong
    h = mean(sitting.h)
    for figure in figures:
        if figure.unit == "us":
            figure.ratio = figure.measured / h
    return figures, sitting.h


async def _told(scenario: Scenario, sitting: Sitting) -> list[Figure]:
    """Says on stderr what goes on."""
    if sys.stderr.isatty():
        print(f"{scenario.__name__} ...", file=sys.stderr)
    return await scenario(sitting)


# --- what runs ------------------------------------------------------------------------------------------


@asynccontextmanager
async def _sitting(given: Namespace, folder: Path) -> AsyncIterator[Sitting]:
    with ExitStack() as running:

        def started(name: str, *words: str, **environ: str) -> Server:
            server = Server.start(name, words, folder, environ)
            running.callback(server.stop)
            return server

        measure = started("yardstick", "-m", "tests.bench.yardstick", "--port", "{port}")
        upstream = started("upstream", "-m", "tests.support.upstream", "--port", "{port}")
        await measure.listens()
        await upstream.listens()
        environ = _environ(folder, upstream)
        key, test_key = _keys(environ)
        valkey = running.enter_context(_valkey()) if "S2r" in given.only else None
        shared = None
        if valkey is not None:
            copytree(environ["WATCHLLM_DATA_DIR"], folder / "shared")
            own = {
                "WATCHLLM_DATA_DIR": str(folder / "shared"),
                "REDIS_URL": valkey.url,
                # No answer fits, so that every hit comes from Redis.
                "WATCHLLM_CACHE_MEMORY_BYTES": "1",
            }
            shared = started("shared", "-m", "app", "serve", "--port", "{port}", **(environ | own))
            await shared.listens()
        watched = {}
        if "S9" in given.only:
            deaf = running.enter_context(_deaf())
            for name, own in _watchers(deaf).items():
                copytree(environ["WATCHLLM_DATA_DIR"], folder / name)
                own |= {"WATCHLLM_DATA_DIR": str(folder / name)}
                watched[name] = started(
                    name, "-m", "app", "serve", "--port", "{port}", **(environ | own)
                )
                await watched[name].listens()
        began = time.monotonic()
        watchllm = started("watchllm", "-m", "app", "serve", "--port", "{port}", **environ)
        await watchllm.listens()
        try:
            await ask(watchllm.port, post(CHAT, test_key, question(0)), answers(200))
        except WrongAnswer as wrong:
            raise WrongAnswer(f"{wrong}\nwatchllm said:\n{watchllm.tail()}") from wrong
        yield Sitting(
            given.quick,
            measure,
            upstream,
            watchllm,
            shared,
            None if valkey is None else _hit_counter(valkey),
            key,
            time.monotonic() - began,
            watched,
        )


@contextmanager
def _deaf() -> Iterator[int]:
    """A port that takes every connection and never answers: an exporter's receiver at its worst."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as server:
        yield server.getsockname()[1]


def _watchers(deaf: int) -> dict[str, dict[str, str]]:
    """Settings under which nothing watches, the metrics do, and everything does, as if a whole platform hung."""
    everything = {
        "SENTRY_DSN": f"http://key@127.0.0.1:{deaf}/1",
        "DD_TRACE_ENABLED": "true",
        "DD_AGENT_HOST": "127.0.0.1",
        "DD_TRACE_AGENT_PORT": str(deaf),
        "DD_DOGSTATSD_PORT": str(deaf),
    }
    return {"bare": {"WATCHLLM_METRICS": "false"}, "metrics": {}, "everything": everything}


def _environ(folder: Path, upstream: Server) -> dict[str, str]:
    settings = folder / "config"
    settings.mkdir()
    packaged = (ROOT / "config" / "models.toml").read_text(encoding="utf-8")
    # With a price, so that the cost of a miss is worked out and sent.
    priced = "".join(PRICED.format(model) for model in (WHOLE, STREAMED))
    (settings / "models.toml").write_text(packaged + priced, encoding="utf-8")
    return {
        "WATCHLLM_DATA_DIR": str(folder / "data"),
        "WATCHLLM_CONFIG_DIR": str(settings),
        "OPENAI_API_KEY": "sk-bench",
        "OPENAI_BASE_URL": f"http://127.0.0.1:{upstream.port}/v1",
    }


def _keys(environ: dict[str, str]) -> tuple[str, str]:
    """A project without limits, its key and its test key."""
    command(["project", "create", "bench", "--plan", "unlimited"], environ)
    created = [
        command(["key", "create", "bench", "--kind", kind, "--json"], environ)
        for kind in ("project", "test")
    ]
    key, test_key = (str(orjson.loads(text)["key"]) for text in created)
    return key, test_key


@contextmanager
def _valkey() -> Iterator[ValkeyServer | None]:
    """None, and a word, where there is no Valkey to be had."""
    try:
        server = valkey_server()
        valkey = server.__enter__()
    except pytest.skip.Exception as reason:
        print(f"S2r is not measured: {reason}", file=sys.stderr)
        yield None
        return
    try:
        yield valkey
    finally:
        server.__exit__(None, None, None)


def _hit_counter(valkey: ValkeyServer) -> Callable[[], int]:
    def hits() -> int:
        told = valkey.call("INFO", "stats").partition(b"keyspace_hits:")[2]
        return int(told.partition(b"\r")[0])

    return hits


# --- what is told ---------------------------------------------------------------------------------------


def _verdict(figure: Figure) -> str:
    """Twice over the goal is gross for ratios alone: bytes and milliseconds have no yardstick beside them."""
    goal = figure.later if figure.goal is None else figure.goal
    if goal is None:
        return ""
    measured = figure.measured if figure.ratio is None else figure.ratio
    if measured <= goal:
        return "ok"
    if figure.goal is None:
        return "not yet"
    return "GROSS LOSS" if figure.ratio is not None and measured > GROSS * goal else "over"


def _table(figures: list[Figure], h: list[float], took: float) -> str:
    lines = [
        f"WatchLLM bench: Python {platform.python_version()}, Tornado {tornado.version}, {loop.name()}; CPU of the "
        "whole process tree",
        f"H = {mean(h):.0f} us (the mean of {', '.join(f'{one:.0f}' for one in h)}): the least a Tornado "
        "RequestHandler does for a chat request",
        "",
        f"{'':7}{'':46}{'measured':>12}{'x H':>7}{'goal':>7}{'later':>7}{'p50 ms':>8}{'p99 ms':>8}  ",
    ]
    for one in figures:
        cells = (
            f"{one.measured:.{0 if one.unit == 'us' else 2}f} {one.unit}",
            _number(one.ratio, 2),
            "" if one.goal is None else f"{one.goal:g}",
            "" if one.later is None else f"{one.later:g}",
            _number(one.p50, 1),
            _number(one.p99, 1),
        )
        row = "".join(
            f"{cell:>{width}}" for cell, width in zip(cells, (12, 7, 7, 7, 8, 8), strict=True)
        )
        lines.append(f"{one.name:7}{one.title:46}{row}  {_verdict(one)}".rstrip())
        if one.note:
            lines.append(f"{'':7}{one.note}")
    heaviest = max(
        (one for one in figures if one.own), key=lambda one: (one.own or 0) / one.measured
    )
    lines += [
        "",
        f"The load generator took at most {(heaviest.own or 0) / heaviest.measured:.0%} of what it measured "
        f"({heaviest.name}). {took:.0f} s in all.",
    ]
    if max(h) > 1.25 * min(h):
        lines.append(
            "The machine was not quiet: H itself moved by more than a quarter. Run it again."
        )
    return "\n".join(lines)


def _number(found: float | None, digits: int) -> str:
    return "" if found is None else f"{found:.{digits}f}"


def _document(figures: list[Figure], h: list[float], took: float) -> str:
    rows = [{**attrs.asdict(figure), "verdict": _verdict(figure)} for figure in figures]
    return orjson.dumps(
        {
            "python": platform.python_version(),
            "tornado": tornado.version,
            "loop": loop.name(),
            "h_us": h,
            "seconds": round(took, 1),
            "figures": rows,
        },
        option=orjson.OPT_INDENT_2,
    ).decode()


if __name__ == "__main__":
    sys.exit(main())
