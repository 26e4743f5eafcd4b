"""Datadog, against an agent on real sockets, in a process of its own: ddtrace changes whatever imports it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from adapters.telemetry.statsd import DATAGRAM, Statsd
from domain.usage import HIT, MISS, Usage
from tests.support.telemetry import Receiver, dead_port, hanging, receiving, record

ROOT = Path(__file__).parents[2]

TELL = """
import json, os, sys, time
from adapters.telemetry.datadog import Datadog
from domain.usage import DENIED, FAILED, HIT, MISS
from ports.telemetry import Alarm, Stage
from tests.support.telemetry import record

assert "ddtrace" not in sys.modules
rate, statsd, many = float(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
datadog = Datadog("127.0.0.1", statsd, {"gpt-4o"}, rate, "watchllm", "tests", "1", time.time)
stages = (Stage("database", 0, 1), Stage("cache", 1, 3), Stage("provider", 4, 900))
canary = "sk-canary-0123456789abcdef"
began = time.monotonic()
for number in range(many):
    datadog.exchange(record(number * (-(-(2**32) // many))))
told = time.monotonic() - began
datadog.exchange(record(1 << 40, outcome=MISS, total_ms=1000.0, model_asked=canary), stages)
datadog.exchange(record(2 << 40, outcome=FAILED, status=502, cache_reason="api_error",
    model_asked="gpt-x", model_answered="gpt-x"), stages)
datadog.crash(Alarm("Redis is away", urgent=False), "adapters.redis.breaker: %s is away")
try:
    raise RuntimeError("a prompt " + canary)
except RuntimeError as error:
    datadog.crash(error, "app.web.front: a request crashed", request=record(2 << 40).id)
began = time.monotonic()
datadog.close()
patched = [name for name in ("tornado", "aiohttp", "redis", "aiopg") if name in sys.modules]
print(json.dumps({"told": told, "closed": time.monotonic() - began, "patched": patched}), flush=True)
if sys.argv[4:]:
    os._exit(0)  # as a server ends: ddtrace's own thread would wait for an agent that hangs
"""


def tell(port: int, statsd: int, *words: str, rate: float = 1.0, many: int = 10) -> dict[str, Any]:
    environment = {
        name: text for name, text in os.environ.items() if not name.startswith(("DD_", "COV_"))
    }
    environment |= {"DD_AGENT_HOST": "127.0.0.1", "DD_TRACE_AGENT_PORT": str(port)}
    done = subprocess.run(
        [sys.executable, "-c", TELL, str(rate), str(statsd), str(many), *words],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr.decode()
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def named(traces: list[list[dict[str, Any]]], name: str) -> list[dict[str, Any]]:
    return [span for trace in traces for span in trace if span["name"] == name]


def test_the_agent_gets_spans_on_our_terms() -> None:
    """One trace per request, its stages as children, an error with its stack; no patch, no chatter, no secrets."""
    with receiving() as agent:
        done = tell(agent.port, agent.udp_port)
        traces = agent.traces()

    assert {"/info", "/v0.5/traces"} == {one.path for one in agent.received}
    assert [] == [name for name in done["patched"] if name != "tornado"]
    assert 12 == len(named(traces, "watchllm.request"))
    assert {2} == {
        span["metrics"]["_sampling_priority_v1"] for span in named(traces, "watchllm.request")
    }
    [miss] = [trace for trace in traces if len(trace) == 4 and trace[0]["error"] == 0]
    request, database, cache, provider = miss
    assert {request["span_id"]} == {span["parent_id"] for span in (database, cache, provider)}
    assert ["watchllm.database", "watchllm.cache", "watchllm.provider"] == [
        span["name"] for span in miss[1:]
    ]
    assert (1000, 896) == (round(request["duration"] / 1e6), round(provider["duration"] / 1e6))
    assert "chat gpt-4o" == provider["resource"]
    assert 100 == provider["metrics"]["gen_ai.usage.input_tokens"]
    assert ["chat other"] == [
        span["resource"] for span in named(traces, "watchllm.provider") if span["error"]
    ]
    [crash] = named(traces, "watchllm.crash")
    assert ("RuntimeError", "<withheld>") == tuple(
        crash["meta"][name] for name in ("error.type", "error.message")
    )
    assert 'File "<string>"' in crash["meta"]["error.stack"]
    [alarm] = named(traces, "watchllm.alarm")
    assert (1, "adapters.redis.breaker: %s is away", "Redis is away") == (
        alarm["error"],
        alarm["resource"],
        alarm["meta"]["error.message"],
    )
    [failed] = [span for span in named(traces, "watchllm.request") if span["error"]]
    assert failed["trace_id"] == crash["trace_id"]
    assert b"canary" not in agent.everything
    assert b"a prompt" not in agent.everything


def test_all_are_counted_where_few_are_traced() -> None:
    """A sample rate of a tenth: every request is in the counters, a tenth is a span, and so is every error."""
    with receiving() as agent:
        tell(agent.port, agent.udp_port, rate=0.1, many=500)
        traces = agent.traces()

    assert 50 + 2 == len(named(traces, "watchllm.request"))
    assert 502 == counted(agent, "watchllm.requests")
    assert 502 == sum(
        line.split("|")[0].count(":") for line in agent.lines() if ".request.ms:" in line
    )
    assert 1 == counted(agent, "watchllm.crashes")
    assert 1 == counted(agent, "watchllm.alarms")


def counted(agent: Receiver, name: str) -> float:
    return sum(
        float(line.split(":")[1].split("|")[0])
        for line in agent.lines()
        if line.startswith(name + ":")
    )


def test_a_dead_or_hanging_agent_costs_nothing() -> None:
    """Neither a request's time nor the end's."""
    dead = tell(dead_port(), dead_port(), "leave", many=5_000)
    with hanging() as port:
        hung = tell(port, dead_port(), "leave", many=5_000)

    for done in (dead, hung):
        assert done["told"] < 1.5
        assert done["closed"] < 5


TORNADO = """
import sys, time
from tornado.web import RequestHandler
before = RequestHandler._execute
from adapters.telemetry.datadog import Datadog
Datadog("127.0.0.1", 9, set(), 1.0, "watchllm", None, "1", time.time, tornado=sys.argv[1] == "on")
import ddtrace
print(RequestHandler._execute is not before, flush=True)
import os
os._exit(0)
"""


@pytest.mark.parametrize(("setting", "patched"), [("off", "False"), ("on", "True")])
def test_tornado_is_left_alone_unless_asked(setting: str, patched: str) -> None:
    """ddtrace's patch changes Tornado's own handlers; `DD_TRACE_TORNADO_ENABLED` in the environment is ours to read."""
    done = subprocess.run(
        [sys.executable, "-c", TORNADO, setting],
        cwd=ROOT,
        env={**os.environ, "DD_TRACE_TORNADO_ENABLED": "true"},
        capture_output=True,
        check=False,
        timeout=60,
    )

    assert patched == done.stdout.decode().strip(), done.stderr.decode()


def test_datagrams_fit_their_way() -> None:
    """However many lines there are."""
    with receiving() as agent:
        statsd = Statsd("127.0.0.1", agent.udp_port, ["service:watchllm"])
        lines = statsd.counts(
            [record(at, outcome=(HIT, MISS)[at % 2]) for at in range(900)], {"gpt-4o"}
        )
        statsd.send(lines)
        statsd.close()
        agent.wait(lambda: len(agent.lines()) == len(lines))

    assert max(map(len, agent.datagrams)) <= DATAGRAM
    assert 900 == counted(agent, "watchllm.requests")


def test_money_is_told_in_dollars() -> None:
    """And what is nothing is not told."""
    lines = Statsd("", 0, []).counts(
        [record(at, outcome=MISS, usage=Usage(input=1), cost=250_000_000_000) for at in range(3)],
        (),
    )

    assert [
        "watchllm.requests:3",
        "watchllm.tokens.prompt:3",
        "watchllm.cost.dollars:0.750000000000",
    ] == [line.split("|")[0] for line in lines if "|c|" in line]
    assert {"model:other"} == {
        tag for line in lines for tag in line.split(",") if tag.startswith("model:")
    }
