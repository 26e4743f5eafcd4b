"""Metrics: exact over processes that come and go, bounded in series, and named as the dashboard names them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets

from adapters.telemetry.families import COUNTERS, GAUGES, HISTOGRAMS, SUMS
from adapters.telemetry.prometheus import CONTENT_TYPE, Prometheus
from adapters.telemetry.shared import Slots
from adapters.telemetry.tally import MAX_CELLS, MAX_NAMES, Tally
from app.web.front import Front, Limits
from app.web.metrics import own_port
from domain.usage import CLIENT_GONE, DENIED, FAILED, MISS, Usage
from ports.telemetry import Reading
from tests.conftest import Clock
from tests.support.telemetry import record

ROOT = Path(__file__).parents[2]
MODELS = frozenset({"gpt-4o", "claude-x"})


def readings() -> Iterable[Reading]:
    yield Reading("watchllm_cache_bytes", 1000, (("tier", "memory"),))
    yield Reading("watchllm_in_flight_requests", 3)
    yield Reading("watchllm_cache_evictions_total", 5, (("tier", "memory"),))


def metrics(clock: Clock, folder: Path | None = None) -> Prometheus:
    slots = None if folder is None else Slots(folder)
    return Prometheus(Tally(MODELS), [readings], clock, "1.2", slots)


async def samples(prometheus: Prometheus) -> dict[str, float]:
    """By name and labels, as Prometheus's own parser reads the page."""
    page = (await prometheus.text()).decode()
    return {
        sample.name
        + "".join(f" {name}={text}" for name, text in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


async def test_requests_are_counted_by_all_that_is_asked_of_them(clock: Clock) -> None:
    """Endpoint, provider, outcome and status; tokens and money by model; limits and failures."""
    prometheus = metrics(clock)
    for told in (
        record(1),
        record(2),
        record(3, outcome=MISS, usage=Usage(input=7, cache_read=3, output=5)),
        record(4, outcome=DENIED, status=429, usage=Usage(), cache_reason="rate_limit_exceeded"),
        record(5, outcome=DENIED, status=429, usage=Usage(), cache_reason="insufficient_quota"),
        record(6, outcome=FAILED, status=502, usage=Usage(), cache_reason="api_error"),
        record(7, outcome=MISS, cost=None, usage=Usage(input=1), model_answered="ft:mine"),
        record(8, outcome=CLIENT_GONE, status=499, usage=Usage()),
    ):
        prometheus.tally.exchange(told)
    prometheus.tally.crash(ValueError(), "app.web.front: a request crashed", request="r")
    found = await samples(prometheus)

    chat = "endpoint=chat/completions"
    expected = {
        f"watchllm_requests_total {chat} outcome=hit provider=openai status=200": 2,
        f"watchllm_requests_total {chat} outcome=miss provider=openai status=200": 2,
        f"watchllm_requests_total {chat} outcome=denied provider=openai status=429": 2,
        f"watchllm_requests_total {chat} outcome=failed provider=openai status=502": 1,
        f"watchllm_requests_total {chat} outcome=client_gone provider=openai status=499": 1,
        "watchllm_limiter_decisions_total decision=admitted": 6,
        "watchllm_limiter_decisions_total decision=rate_limited": 1,
        "watchllm_limiter_decisions_total decision=out_of_budget": 1,
        "watchllm_upstream_errors_total provider=openai reason=api_error status=502": 1,
        "watchllm_tokens_total kind=prompt model=gpt-4o provider=openai source=cache": 200,
        "watchllm_tokens_total kind=prompt model=gpt-4o provider=openai source=provider": 10,
        "watchllm_tokens_total kind=prompt model=other provider=openai source=provider": 1,
        "watchllm_cost_dollars_total model=gpt-4o provider=openai": 0.00045,
        "watchllm_saved_dollars_total model=gpt-4o provider=openai": 0.0009,
        "watchllm_unpriced_requests_total model=other provider=openai": 1,
        "watchllm_crashes_total where=app.web.front": 1,
        "watchllm_cache_bytes tier=memory worker=0": 1000,
        "watchllm_cache_evictions_total tier=memory": 5,
        "watchllm_in_flight_requests worker=0": 3,
        "watchllm_build_info version=1.2": 1,
        "watchllm_workers": 1,
    }
    assert expected == {name: found.get(name) for name in expected}


@pytest.mark.parametrize(
    ("took", "within", "not_within"),
    [(0.0, "0.001", None), (1.0, "0.001", None), (1.1, "0.0025", "0.001"), (4_000, "5.0", "2.5"), (1e9, "+Inf", "300.0")],
)  # fmt: skip
async def test_times_are_cumulative_histograms(
    clock: Clock, took: float, within: str, not_within: str | None
) -> None:
    """In seconds; a bound belongs to its own bucket."""
    prometheus = metrics(clock)
    prometheus.tally.exchange(record(total_ms=took, first_byte_ms=0.1))
    found = await samples(prometheus)

    name = "watchllm_request_seconds_bucket endpoint=chat/completions le={} outcome=hit provider=openai"
    assert 1 == found[name.format(within)] == found[name.format("+Inf")]
    assert not_within is None or found[name.format(not_within)] == 0
    sums = "watchllm_request_seconds_{} endpoint=chat/completions outcome=hit provider=openai"
    assert (1, took / 1000) == (found[sums.format("count")], found[sums.format("sum")])


async def test_callers_cannot_make_series(clock: Clock) -> None:
    """Names of models, reasons and statuses that are not ours end in one series, and memory in a bound."""
    tally = Tally(MODELS)
    for number in range(30_000):
        tally.exchange(
            record(
                number,
                outcome=FAILED,
                status=400,
                model_answered=f"gpt-{number}",
                cache_reason=f"r{number}",
            )
        )
    assert 1 == len(tally.cells)
    assert len(tally._by_record) <= MAX_NAMES

    for status in range(3_000):
        tally.exchange(record(status, outcome=FAILED, status=status))
    assert len(tally.cells) == MAX_CELLS + 1


# --- several processes -------------------------------------------------------------------------------

HITS = "watchllm_requests_total endpoint=chat/completions outcome=hit provider=openai status=200"


async def test_any_process_tells_of_all(clock: Clock, tmp_path: Path) -> None:
    """Whichever is asked; gauges keep apart whose they are."""
    one, two = metrics(clock, tmp_path), metrics(clock, tmp_path)
    one.tally.exchange(record())
    for number in range(5):
        two.tally.exchange(record(number))
    await two.text()

    found = await samples(one)
    assert (6, 2) == (found[HITS], found["watchllm_workers"])
    assert {"0", "1"} == {name[-1] for name in found if name.startswith("watchllm_cache_bytes")}
    assert 10 == found["watchllm_cache_evictions_total tier=memory"]
    assert 6 == (await samples(two))[HITS]


async def test_no_counter_ever_goes_back(clock: Clock, tmp_path: Path) -> None:
    """Asked in turn while both count, as a balancer would: Prometheus takes a step back for a restart."""
    both = metrics(clock, tmp_path), metrics(clock, tmp_path)
    told = 0.0
    for step in range(20):
        for number in range(9):
            both[0].tally.exchange(record(number))
        both[1].tally.exchange(record(step))
        now = (await samples(both[step % 2])).get(HITS, 0)
        assert now >= told
        told = now


async def test_who_dies_leaves_its_counts(clock: Clock, tmp_path: Path) -> None:
    """The next process goes on with the file: nothing is lost, nothing counted twice, and there is no file more."""
    one, two = metrics(clock, tmp_path), metrics(clock, tmp_path)
    for number in range(4):
        one.tally.exchange(record(number))
    await one.text()
    one._slots.release()  # type: ignore[union-attr]  as the kernel does for the dead
    clock.advance(60)

    found = await samples(two)
    assert (4, 1) == (found[HITS], found["watchllm_workers"])
    assert {"1"} == {name[-1] for name in found if name.startswith("watchllm_cache_bytes")}

    three = metrics(clock, tmp_path)
    three.tally.exchange(record())
    assert 5 == (await samples(three))[HITS]
    assert 5 == (await samples(two))[HITS]
    assert 2 == len(list(tmp_path.glob("*.json")))


COUNT_AND_HANG = """
import asyncio, sys, time
from pathlib import Path
from adapters.telemetry.prometheus import Prometheus
from adapters.telemetry.shared import Slots
from adapters.telemetry.tally import Tally
from tests.support.telemetry import record

async def main():
    metrics = Prometheus(Tally({"gpt-4o"}), [], time.time, "1", Slots(Path(sys.argv[1])))
    for number in range(100):
        metrics.tally.exchange(record(number))
    await metrics.text()
    print("ready", flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


async def test_a_killed_process_is_no_loss(clock: Clock, tmp_path: Path) -> None:
    """SIGKILL: what it had written stays, and its place is free at once."""
    for round in (1, 2):
        process = subprocess.Popen(
            [sys.executable, "-c", COUNT_AND_HANG, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        assert b"ready\n" == process.stdout.readline()
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        assert ["0.json"] == [file.name for file in tmp_path.glob("*.json")], round

    assert 200 == (await samples(metrics(clock, tmp_path)))[HITS]


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"format":[0,[]]}', b'{"format":null,"at":1}', b"\xff"]
)
async def test_a_file_that_is_not_ours_is_no_trouble(
    clock: Clock, tmp_path: Path, content: bytes
) -> None:
    """Cut by a power loss, or of another release: it counts for nothing and is written over."""
    (tmp_path / "0.json").write_bytes(content)
    (tmp_path / "7.json").write_bytes(content)
    prometheus = metrics(clock, tmp_path)
    prometheus.tally.exchange(record())

    assert 1 == (await samples(prometheus))[HITS]


async def test_a_full_disk_hides_nothing(
    clock: Clock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What cannot be shared is logged once; the page still comes."""
    prometheus = metrics(clock, tmp_path / "metrics")
    prometheus.tally.exchange(record())
    for file in (tmp_path / "metrics").iterdir():
        file.unlink()
    (tmp_path / "metrics").rmdir()

    assert 1 == (await samples(prometheus))[HITS]
    assert 1 == (await samples(prometheus))[HITS]
    assert 1 == caplog.text.count("metrics cannot be shared")


async def test_a_source_that_fails_hides_only_itself(clock: Clock) -> None:
    def broken() -> Iterable[Reading]:
        raise RuntimeError

    prometheus = Prometheus(Tally(MODELS), [broken, readings], clock, "1")
    found = await samples(prometheus)

    assert 3 == found["watchllm_in_flight_requests worker=0"]


# --- over HTTP, and in the files beside it -------------------------------------------------------------


async def test_a_port_of_its_own_tells_nothing_else(clock: Clock) -> None:
    """`GET /metrics` as Prometheus asks for it; the rest is an error in the API's form, with an id."""
    nobody: Any = None
    front = Front(nobody, nobody, Limits(), clock, clock)
    server = HTTPServer(own_port(metrics(clock).text, front))
    [socket] = bind_sockets(0, "127.0.0.1")
    server.add_sockets([socket])
    root = f"http://127.0.0.1:{socket.getsockname()[1]}"
    async with aiohttp.ClientSession() as http:
        async with http.get(root + "/metrics") as answer:
            assert (200, CONTENT_TYPE) == (answer.status, answer.headers["Content-Type"])
            assert "Server" not in answer.headers
            assert b"watchllm_build_info" in await answer.read()
            assert 36 == len(answer.headers["X-Request-Id"])
        for method, path, status in (
            ("GET", "/health", 404),
            ("POST", "/v1/chat/completions", 404),
            ("POST", "/metrics", 405),
            ("DELETE", "/metrics/x", 404),
        ):
            async with http.request(method, root + path) as answer:
                assert status == answer.status
                assert "application/json" == answer.headers["Content-Type"]
                assert 36 == len(answer.headers["X-Request-Id"])
                error = (await answer.json())["error"]
                assert {"message", "type", "param", "code"} == set(error)
                assert "invalid_request_error" == error["type"]
        async with http.head(root + "/metrics") as answer:
            assert (405, "GET") == (answer.status, answer.headers["Allow"])
    server.stop()
    await server.close_all_connections()


NAMES = {*GAUGES, *COUNTERS, *SUMS, *HISTOGRAMS, "watchllm_workers", "watchllm_build_info"}


@pytest.mark.parametrize(
    "page", ["docs/grafana-dashboard.json", "docs/alerts.yml", "docs/observability.md"]
)
def test_what_is_drawn_and_watched_exists(page: str) -> None:
    """Every name in the dashboard, in the alerts and on the page is exported."""
    text = (ROOT / page).read_text()
    used = {
        re.sub(r"_(bucket|sum|count)$", "", name) if name not in NAMES else name
        for name in re.findall(r"\bwatchllm_[a-z_]*[a-z]", text)
    }

    assert used
    assert set() == used - NAMES


def test_every_metric_is_on_the_page() -> None:
    """And the dashboard draws most of them."""
    text = (ROOT / "docs/observability.md").read_text()

    assert [] == [name for name in sorted(NAMES) if f"`{name}`" not in text]


def test_the_dashboard_can_be_imported() -> None:
    """JSON with a title, panels with one query at least and a data source that the importer chooses."""
    dashboard = json.loads((ROOT / "docs/grafana-dashboard.json").read_text())
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]

    assert "WatchLLM" == dashboard["title"]
    assert len({panel["id"] for panel in panels}) == len(panels) >= 15
    assert all(target["expr"] for panel in panels for target in panel["targets"])
    assert {"${datasource}"} == {panel["datasource"]["uid"] for panel in panels}


def test_alerts_are_whole() -> None:
    """Each has an expression, a duration, a severity and says what to do."""
    text = (ROOT / "docs/alerts.yml").read_text()
    rules = text.split("- alert: ")[1:]

    assert len(rules) >= 10
    for rule in rules:
        assert all(
            part in rule for part in ("expr:", "for:", "severity:", "summary:", "description:")
        )
        assert rule.count("(") == rule.count(")")
