"""What a caller gets when a provider breaks: one table, held for plain answers, before a stream and inside one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import pytest
from attrs import evolve, frozen

from tests.support.fixtures import async_fixture
from tests.support.house import QUESTION, OpenHouse, Reply, asked, events, open_house
from tests.support.upstream import Call, Ending, ScriptedUpstream, good_answer
from tests.support.upstream import Reply as Sent
from tests.support.upstream_faults import FAULTS, Fault, drip
from tests.support.upstream_refusals import SECRET

IMPATIENT = {
    "WATCHLLM_UPSTREAM_CONNECT_TIMEOUT": "500ms",
    "WATCHLLM_UPSTREAM_FIRST_BYTE_TIMEOUT": "400ms",
    "WATCHLLM_UPSTREAM_STREAM_FIRST_BYTE_TIMEOUT": "400ms",
    "WATCHLLM_UPSTREAM_IDLE_TIMEOUT": "400ms",
    "WATCHLLM_UPSTREAM_TOTAL_TIMEOUT": "800ms",
    "WATCHLLM_MAX_ANSWER_BYTES": "2MiB",
}
MODELS = {"openai": "gpt-4o", "anthropic": "claude-opus-5-5", "groq": "openai/gpt-oss-120b"}
BEGUN = {"openai": 2, "anthropic": 4, "groq": 2}
"""Events after which the caller has something in hand."""

NOT_TOLD = (SECRET, "canary", "Traceback", "/_trap", "<script>", "<h1>", "Sign in")


@frozen
class Ends:
    """How a call ends: what its status, headers and error say. `passed_on` is the provider's own text."""

    status: int
    type: str = "api_error"
    code: str | None = "api_error"
    retry_after: str | None = None
    should_retry: str | None = None
    passed_on: bool = False


BROKEN = Ends(502)
LATE = Ends(504)
BUSY = Ends(503, retry_after="1")
LIMITED = Ends(429, "rate_limit_exceeded", "rate_limit_exceeded", "1")


def refused(status: int, code: str | None = None) -> Ends:
    return Ends(status, "invalid_request_error", code, passed_on=True)


# --- the table ------------------------------------------------------------------------------------

ANYWHERE = {
    "stall_mid_body": LATE,
    "reset": BROKEN,
    "close_early": BROKEN,
    "wrong_length": BROKEN,
    "invalid_json": BROKEN,
    "not_an_object": BROKEN,
    "html": BROKEN,
    "ok_with_error": BUSY,
    "ok_with_rate_limit": LIMITED,
    "ok_with_bad_request": refused(400),
    "drip": LATE,
    "gzip": BROKEN,
}
"""Before the first byte of an answer and, but for the last one, inside a stream."""

AT_ONCE = {
    "hang": LATE,
    "reset_early": BROKEN,
    "json_for_stream": BROKEN,
    "wrong_type": BROKEN,
    "redirect": BROKEN,
    "400": refused(400),
    "401": BROKEN,
    "403": BROKEN,
    "404": refused(404, "model_not_found"),
    "408": LATE,
    "409": refused(409),
    "413": refused(413),
    "422": refused(422),
    "429": Ends(429, "rate_limit_exceeded", "rate_limit_exceeded", "7"),
    "429_quota": Ends(
        429, "insufficient_quota", "insufficient_quota", retry_after="3600", should_retry="false"
    ),
    "498": BUSY,
    "500": BROKEN,
    "502": BROKEN,
    "502_page": BROKEN,
    "503": evolve(BUSY, retry_after="7"),
    "504": LATE,
    "529": BUSY,
}
"""Where the whole answer is something else than was asked for."""

INSIDE = {
    "no_end_marker": BROKEN,
    "cut_mid_line": BROKEN,
    "giant_line": BROKEN,
    "giant_answer": BROKEN,
    **{name: ends for name, ends in ANYWHERE.items() if name != "gzip"},
}

BEFORE = {**ANYWHERE, **AT_ONCE, "giant_answer": BROKEN}
STREAM_BEFORE = {**ANYWHERE, **AT_ONCE, "giant_line": BROKEN, "cut_mid_line": BROKEN}

# Anthropic's 409 and 413 have no code of their own, a spent balance is a 400 about our account, and a
# rate limit without a time to come back is a monthly cap.
CLAUDE_BEFORE = {
    **{
        name: BEFORE[name]
        for name in (
            "hang",
            "stall_mid_body",
            "reset",
            "close_early",
            "wrong_length",
            "invalid_json",
            "not_an_object",
            "html",
            "wrong_type",
            "redirect",
            "gzip",
            "400",
            "401",
            "403",
            "404",
            "500",
            "502_page",
            "503",
            "504",
            "529",
            "429",
            "ok_with_error",
        )
    },
    "429_quota": BROKEN,
}
CLAUDE_INSIDE = {
    name: INSIDE[name]
    for name in (
        "stall_mid_body",
        "reset",
        "wrong_length",
        "no_end_marker",
        "cut_mid_line",
        "invalid_json",
        "ok_with_error",
        "giant_line",
        "giant_answer",
    )
}
GROQ_BEFORE = {
    name: BEFORE[name]
    for name in (
        "hang",
        "reset",
        "html",
        "redirect",
        "401",
        "404",
        "429",
        "498",
        "500",
        "ok_with_error",
    )
}
GROQ_INSIDE = {name: INSIDE[name] for name in ("stall_mid_body", "reset", "ok_with_error")}

CASES = [
    *(("openai", False, 0, name, ends) for name, ends in BEFORE.items()),
    *(("openai", True, 0, name, ends) for name, ends in STREAM_BEFORE.items()),
    *(("openai", True, 2, name, ends) for name, ends in INSIDE.items()),
    *(("anthropic", stream, 0, name, ends) for stream in (False, True) for name, ends in CLAUDE_BEFORE.items()),
    *(("anthropic", True, 4, name, ends) for name, ends in CLAUDE_INSIDE.items()),
    *(("groq", stream, 0, name, ends) for stream in (False, True) for name, ends in GROQ_BEFORE.items()),
    *(("groq", True, 2, name, ends) for name, ends in GROQ_INSIDE.items()),
]  # fmt: skip


@async_fixture
async def house(tmp_path: Path, upstream: ScriptedUpstream) -> AsyncIterator[OpenHouse]:
    upstream.answer = no_models
    async with open_house(tmp_path, upstream, **IMPATIENT) as opened:
        yield opened


@pytest.mark.parametrize(
    ("provider", "stream", "after", "name", "ends"),
    CASES,
    ids=lambda part: part if isinstance(part, str) else "" if isinstance(part, Ends) else None,
)
async def test_a_fault_ends_as_promised(
    house: OpenHouse,
    upstream: ScriptedUpstream,
    caplog: pytest.LogCaptureFixture,
    provider: str,
    stream: bool,
    after: int,
    name: str,
    ends: Ends,
) -> None:
    """Status or error event in the API's form, the provider's words kept back, one call, one row, nothing kept."""
    question = {**QUESTION, "model": MODELS[provider], "stream": stream}
    breaks(upstream, name, after)

    answer = await house.ask(question)

    if after:
        check_event(answer, ends)
    else:
        check_error(answer, ends)
    assert 1 == len(asked(upstream)) == len(upstream.calls) - looks(upstream)
    [row] = await house.rows()
    assert (answer.headers["x-request-id"], "failed", ends.status) == (
        str(row["id"]),
        row["outcome"],
        row["status"],
    )
    check_quiet(caplog)
    await check_forgotten(house, upstream, question)


# --- what the table cannot say --------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
async def test_a_refused_connection_is_tried_once_more(
    house: OpenHouse,
    upstream: ScriptedUpstream,
    monkeypatch: pytest.MonkeyPatch,
    stream: bool,
) -> None:
    """Nothing can have reached the provider, so the one retry is safe; then 502."""
    dialled = count_dials(monkeypatch, upstream.port)
    await upstream.refuse()
    dialled.clear()

    answer = await house.ask({**QUESTION, "stream": stream})

    check_error(answer, BROKEN)
    assert 2 == len(dialled)
    [row] = await house.rows()
    assert ("failed", 502) == (row["outcome"], row["status"])
    await upstream.heal()
    assert "MISS" == (await house.ask({**QUESTION, "stream": stream})).cached


@pytest.mark.parametrize("provider", MODELS)
async def test_what_came_before_an_error_event_is_not_taken_back(
    house: OpenHouse, upstream: ScriptedUpstream, provider: str
) -> None:
    """Good events and the error in one read, then silence: all events, then that error, and no wait for more."""
    begun = BEGUN[provider]

    def fault(call: Call, after: int) -> Sent:
        steps = FAULTS["ok_with_error"](call, after).steps
        return Sent.sse([b"".join(one for one in steps if isinstance(one, bytes)), Ending.HANG])

    breaks_with(upstream, fault, begun)

    answer = await house.ask({**QUESTION, "model": MODELS[provider], "stream": True})

    check_event(answer, BUSY)
    assert 503 == (await row_of(house, answer))["status"]
    assert "This" == "".join(
        choice["delta"].get("content") or ""
        for event in events(answer.body)[:-1]
        for choice in event["choices"]
    )


async def test_a_host_without_an_address_is_a_502(tmp_path: Path) -> None:
    """A name that does not resolve is a provider that cannot be reached."""
    async with open_house(
        tmp_path,
        OPENAI_API_KEY="sk-canary",
        OPENAI_BASE_URL="http://nowhere.invalid/v1",
        WATCHLLM_UPSTREAM_FIRST_BYTE_TIMEOUT="10s",
    ) as house:
        check_error(await house.ask(QUESTION), BROKEN)


async def test_a_kept_connection_that_died_is_no_fault(
    house: OpenHouse, upstream: ScriptedUpstream
) -> None:
    """A provider may close a connection at rest at any time: the caller never hears of it."""
    await upstream.heal()
    first = await house.ask(QUESTION)
    for connection in tuple(upstream.connections):
        connection.drop()

    second = await house.ask({**QUESTION, "temperature": 0.5})

    assert (200, 200) == (first.status, second.status)


async def test_a_broken_connection_is_not_tried_again(
    house: OpenHouse, upstream: ScriptedUpstream
) -> None:
    """A fresh connection may have brought the request home: asking again could be paid for twice."""
    breaks(upstream, "reset_early")

    await asyncio.gather(
        *(house.ask({**QUESTION, "temperature": number / 10}) for number in range(5))
    )

    assert 5 == len(asked(upstream))


async def test_early_hints_without_end_are_cut_by_the_first_byte_deadline(
    house: OpenHouse, upstream: ScriptedUpstream
) -> None:
    """A handful of 1xx responses is borne as HTTP asks; an endless row of them is no beginning of an answer: 504."""
    breaks(upstream, "many_1xx")
    borne = await house.ask({**QUESTION, "temperature": 0.1})
    hint = b"HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\n\r\n"
    upstream.answer = lambda call: Sent.raw(step for _ in range(1_000) for step in (hint, 0.005))

    answer = await house.ask(QUESTION)

    assert 200 == borne.status
    check_error(answer, LATE)


@pytest.mark.parametrize("provider", MODELS)
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", ["odd_events", "split_utf8"])
async def test_what_the_standards_allow_is_borne(
    house: OpenHouse, upstream: ScriptedUpstream, provider: str, stream: bool, name: str
) -> None:
    """Unknown events and fields, comments, lone CRs, a BOM, letters cut in two: the answer is whole, and kept."""
    question = {**QUESTION, "model": MODELS[provider], "stream": stream}
    breaks(upstream, name)

    first = await house.ask(question)
    second = await house.ask(question)

    assert (200, "MISS", "HIT") == (first.status, first.cached, second.cached)
    assert "naïve as ever: 日本 😀" in said(first) == said(second)


@pytest.mark.parametrize("provider", MODELS)
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "name",
    [
        "bad_usage",
        "usage_as_text",
        "usage_as_null",
        "usage_as_fraction",
        "giant_usage",
        "no_usage",
    ],
)
async def test_nonsense_for_usage_is_estimated_and_flagged(
    house: OpenHouse, upstream: ScriptedUpstream, provider: str, stream: bool, name: str
) -> None:
    """The answer is passed on; the row holds our own count, marked as such, and the cache nothing."""
    question = {**QUESTION, "model": MODELS[provider], "stream": stream}
    breaks(upstream, name)

    answer = await house.ask(question)

    assert 200 == answer.status
    assert "naïve as ever" in said(answer)
    [row] = await house.rows()
    assert ("miss", 200, True) == (row["outcome"], row["status"], bool(row["estimated"]))
    assert 0 < row["input_tokens"] < 1_000
    assert 0 < row["output_tokens"] < 1_000
    await check_forgotten(house, upstream, question)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("header", "told"),
    [
        ("0", "1"),
        ("0.2", "1"),
        ("3.1", "4"),
        ("86400", "120"),
        ("-5", "1"),
        ("nan", "1"),
        ("1e999", "1"),
        ("soon", "1"),
        ("Wed, 21 Oct 2026 07:28:00 GMT", "120"),
        ("", "1"),
    ],
)
async def test_the_time_to_come_back_is_whole_and_bounded(
    house: OpenHouse, upstream: ScriptedUpstream, header: str, told: str, stream: bool
) -> None:
    """Whatever a provider writes into Retry-After, ours is a whole number of seconds from 1 to 120."""
    error = {"error": {"message": "slow down", "type": "requests", "code": "rate_limit_exceeded"}}
    upstream.answer = lambda call: Sent.json(429, error, (("retry-after", header),))

    answer = await house.ask({**QUESTION, "stream": stream})

    assert (429, told) == (answer.status, answer.headers["Retry-After"])


MALFORMED: dict[str, Any] = {
    "choices is a number": {"choices": 5},
    "choices is an object": {"choices": {"0": {}}},
    "a choice is null": {"choices": [None]},
    "a choice is text": {"choices": ["x"]},
    "delta is text": {"choices": [{"index": 0, "delta": "x"}]},
    "delta is a list": {"choices": [{"index": 0, "delta": [1]}]},
    "index is a list": {"choices": [{"index": [], "delta": {"content": "x"}}]},
    "index is text": {"choices": [{"index": "one", "delta": {"content": "x"}}]},
    "a call's index is a list": {
        "choices": [{"index": 0, "delta": {"tool_calls": [{"index": [], "id": "a"}]}}]
    },
    "a call's index is text": {
        "choices": [
            {"index": 0, "delta": {"tool_calls": [{"index": 0, "id": "a"}, {"index": "x"}]}}
        ]
    },
    "a call's function is text, then an object": {
        "choices": [
            {
                "index": 0,
                "delta": {
                    "tool_calls": [
                        {"index": 0, "function": "f"},
                        {"index": 0, "function": {"name": "f"}},
                    ]
                },
            }
        ]
    },
    "a call is null": {"choices": [{"index": 0, "delta": {"tool_calls": [None]}}]},
    "logprobs is text": {"choices": [{"index": 0, "delta": {}, "logprobs": "x"}]},
    "content is a number": {"choices": [{"index": 0, "delta": {"content": 5}}]},
    "content is a list": {"choices": [{"index": 0, "delta": {"content": [{"a": 1}]}}]},
    "finish is a list": {"choices": [{"index": 0, "delta": {}, "finish_reason": ["stop"]}]},
    "usage is text": {"choices": [], "usage": "many"},
    "usage is a list": {"choices": [], "usage": [1]},
    "service_tier is a number": {"choices": [], "service_tier": 5},
    "x_groq is text": {"choices": [], "x_groq": "x"},
}


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
@pytest.mark.parametrize("provider", ["openai", "groq"])
async def test_a_malformed_chunk_never_crashes(
    house: OpenHouse,
    upstream: ScriptedUpstream,
    caplog: pytest.LogCaptureFixture,
    provider: str,
    path: str,
) -> None:
    """JSON of an unknown shape is passed on or ends the stream with an error; one row each, never a traceback."""
    for seed, (name, chunk) in enumerate(MALFORMED.items()):
        question = {**ask_for(path, MODELS[provider]), "stream": True, "seed": seed}
        breaks_with(upstream, partial(with_chunk, chunk))

        answer = await house.ask(question, path)

        row = await row_of(house, answer)
        ended = b"[DONE]" in answer.body
        assert ("miss" if ended else "failed") == row["outcome"], name
        assert answer.status in ((200,) if ended else (200, 502)), name
        check_quiet(caplog)
        if not ended:
            await check_forgotten(house, upstream, question, path)


def with_chunk(chunk: Any, call: Call, after: int) -> Sent:
    """A good stream with this chunk behind its first two."""
    steps = list(good_answer(call).steps)
    return Sent.sse([*steps[:2], b"data: " + orjson.dumps(chunk) + b"\n\n", *steps[2:]])


MISSHAPEN: dict[str, Any] = {
    "no choices": {"id": "x"},
    "choices is null": {"choices": None},
    "choices is text": {"choices": "x"},
    "choices is an object": {"choices": {}},
    "a choice is null": {"choices": [None]},
    "a choice is text": {"choices": ["x"]},
    "message is null": {"choices": [{"index": 0, "message": None, "finish_reason": "stop"}]},
    "message is text": {"choices": [{"index": 0, "message": "x", "finish_reason": "stop"}]},
    "content is a list": {
        "choices": [{"index": 0, "message": {"content": [1]}, "finish_reason": "stop"}]
    },
    "a call is text": {
        "choices": [{"index": 0, "message": {"tool_calls": ["x"]}, "finish_reason": "tool_calls"}]
    },
    "calls is a number": {
        "choices": [{"index": 0, "message": {"tool_calls": 7}, "finish_reason": "tool_calls"}]
    },
    "finish is an object": {
        "choices": [{"index": 0, "message": {"content": "x"}, "finish_reason": {}}]
    },
    "index is text": {
        "choices": [{"index": "0", "message": {"content": "x"}, "finish_reason": "stop"}]
    },
    "service_tier is a list": {"choices": [], "service_tier": []},
    "error is text": {"choices": [], "error": "boom"},
    "error is a list": {"error": ["boom"]},
    "error is a number": {"error": 5},
    "error's code is an object": {"error": {"code": {}, "message": 5, "type": []}},
    "error's status is 200": {"error": {"status": 200}},
    "error's code is 401": {"error": {"code": 401, "message": "key sk-canary"}},
}


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_misshapen_answer_never_crashes(
    house: OpenHouse,
    upstream: ScriptedUpstream,
    caplog: pytest.LogCaptureFixture,
    stream: bool,
    path: str,
) -> None:
    """An object that is no answer is passed on as it is or a 502; one row, nothing kept, no traceback."""
    for seed, (name, body) in enumerate(MISSHAPEN.items()):
        question = {**ask_for(path, "gpt-4o"), "stream": stream, "seed": seed}
        breaks_with(upstream, partial(with_body, body))

        answer = await house.ask(question, path)

        assert answer.status in (200, 502), name
        assert b"canary" not in answer.body
        if answer.status == 502:
            assert "api_error" == answer.error["type"]
        row = await row_of(house, answer)
        assert row["outcome"] in ("miss", "failed"), name
        check_quiet(caplog)
        await check_forgotten(house, upstream, question, path)


def with_body(body: Any, call: Call, after: int) -> Sent:
    """This object as the whole answer, with a count, so that nothing else keeps it out of the cache."""
    told = {"usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}, **body}
    if call.stream:
        return Sent.sse([b"data: " + orjson.dumps(told) + b"\n\n", b"data: [DONE]\n\n"])
    return Sent.json(200, told)


# --- checks ---------------------------------------------------------------------------------------


def check_error(answer: Reply, ends: Ends) -> None:
    assert ends.status == answer.status, answer.body
    assert "application/json" == answer.headers["Content-Type"]
    check_words(answer, answer.error, ends)
    assert ends.retry_after == answer.headers.get("Retry-After")
    assert ends.should_retry == answer.headers.get("x-should-retry")


def check_event(answer: Reply, ends: Ends) -> None:
    """The good events, then the error, then nothing."""
    assert 200 == answer.status
    *good, last = events(answer.body)
    assert good
    assert all("choices" in event for event in good)
    assert {"error"} == set(last), last
    assert {"message", "type", "param", "code"} == set(last["error"])
    assert b"[DONE]" not in answer.body
    check_words(answer, last["error"], ends)


def check_words(answer: Reply, error: dict[str, Any], ends: Ends) -> None:
    assert (ends.type, ends.code) == (error["type"], error["code"])
    told = answer.body.decode() + str(dict(answer.headers))
    assert not [word for word in NOT_TOLD if word in told]
    if ends.passed_on:
        assert error["message"].startswith(("Upstream says", "Overloaded")), error
    else:
        assert "Upstream says" not in error["message"]
        assert "Overloaded" not in error["message"]


def check_quiet(caplog: pytest.LogCaptureFixture) -> None:
    """An error in the log is only what an operator must mend; a traceback never."""
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert {"a provider refused our key"} >= {record.getMessage() for record in errors}
    assert not [record for record in caplog.records if record.exc_info]


async def check_forgotten(
    house: OpenHouse,
    upstream: ScriptedUpstream,
    question: dict[str, Any],
    path: str = "/v1/chat/completions",
) -> None:
    """The same question asks the provider again, and its good answer is the caller's."""
    before = len(asked(upstream))
    await upstream.heal()

    again = await house.ask(question, path)

    assert (200, "MISS") == (again.status, again.cached)
    assert before + 1 == len(asked(upstream))


async def row_of(house: OpenHouse, answer: Reply) -> dict[str, Any]:
    [row] = [row for row in await house.rows() if answer.headers["x-request-id"] == str(row["id"])]
    return row


# --- how providers break ----------------------------------------------------------------------------


def breaks(upstream: ScriptedUpstream, name: str, after: int = 0) -> None:
    """As `break_with`, but what came before the break has arrived by then, and no connection is kept."""
    make: Fault = partial(drip, seconds=0.02) if name == "drip" else FAULTS[name]

    def fault(call: Call, after: int) -> Sent:
        found = make(call, after)
        return settled(found, after) if after and name in UNSETTLED else found

    breaks_with(upstream, fault, after)


def breaks_with(upstream: ScriptedUpstream, fault: Fault, after: int = 0) -> None:
    upstream.answer = lambda call: no_models(call) or fault(call, after)


UNSETTLED = frozenset({"close_early", "wrong_length"})
"""These break in the same breath, and a client may see the end of a connection before its bytes."""


def settled(reply: Sent, after: int) -> Sent:
    steps = list(reply.steps)
    place = after if reply.chunked else after + 1
    return evolve(reply, steps=[*steps[:place], 0.05, *steps[place:]])


def no_models(call: Call) -> Sent | None:
    """The look at the model lists leaves no connection behind that a call could be sent over."""
    if call.method == "POST":
        return None
    return Sent(200, (("content-type", "application/json"),), (b'{"data": []}',))


def looks(upstream: ScriptedUpstream) -> int:
    return sum(call.path.endswith("/models") for call in upstream.calls)


def count_dials(monkeypatch: pytest.MonkeyPatch, port: int) -> list[Any]:
    loop = asyncio.get_running_loop()
    dial: Callable[..., Any] = loop.sock_connect
    dialled: list[Any] = []

    async def counted(sock: Any, address: Any) -> None:
        if address[1] == port:
            dialled.append(address)
        await dial(sock, address)

    monkeypatch.setattr(loop, "sock_connect", counted)
    return dialled


def ask_for(path: str, model: str) -> dict[str, Any]:
    if path.endswith("chat/completions"):
        return {**QUESTION, "model": model}
    return {"model": model, "prompt": "How far is the moon?"}


def said(answer: Reply) -> str:
    if not answer.headers["Content-Type"].startswith("text/event-stream"):
        return str(answer.document["choices"][0]["message"]["content"])
    return "".join(
        choice["delta"].get("content") or ""
        for event in events(answer.body)
        if event != "[DONE]"
        for choice in event["choices"]
    )
