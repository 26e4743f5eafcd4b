"""What comes back from Claude: whole messages, streams and refusals, in OpenAI's shapes."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from anthropic.types import Message, RawMessageStreamEvent
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import TypeAdapter

from adapters.providers.anthropic_dialect import MessageStream, Outgoing, failure, from_message
from adapters.providers.failures import CAPPED, KeyRefused
from domain.answer import Document, Frame
from domain.errors import (
    ApiError,
    ModelNotFound,
    ProviderRefused,
    RateLimited,
    Unavailable,
    UpstreamFailed,
    UpstreamTimeout,
)
from domain.usage import MAX_TOKENS, Usage
from tests.adapters.anthropic_recordings import (
    ALL,
    CUMULATIVE,
    ERROR_LATER,
    LENGTH,
    OVERLOADED,
    PARALLEL,
    REFUSAL,
    STOP,
    TEXT,
    THINKING,
    TOOL,
    TOOL_WITHOUT_INPUT,
    UNKNOWN,
    USAGE,
    WHOLE,
    Recording,
    finish,
    message,
    opened,
    shut,
    start,
    text_events,
    wire,
)

CREATED = 1_800_000_000
by_name = pytest.mark.parametrize("recording", WHOLE, ids=lambda recording: recording.name)


def outgoing(*, tools: bool = False, functions: bool = False) -> Outgoing:
    return Outgoing({"tools": [{}]} if tools else {}, "2026-10-21", functions)


def replay(
    events: list[Document] | bytes, sent: Outgoing, size: int = 1 << 20
) -> tuple[list[Frame], ApiError | None]:
    """The frames, and what it ended with."""
    stream = MessageStream(sent, CREATED)
    raw = events if isinstance(events, bytes) else wire(events)
    frames: list[Frame] = []
    try:
        for place in range(0, len(raw), size):
            frames += stream.feed(raw[place : place + size])
        stream.close()
    except ApiError as exc:
        return frames, exc
    return frames, None


def cut(raw: bytes, place: int, sent: Outgoing) -> tuple[list[Frame], ApiError | None]:
    stream = MessageStream(sent, CREATED)
    frames: list[Frame] = []
    try:
        frames += stream.feed(raw[:place])
        frames += stream.feed(raw[place:])
        stream.close()
    except ApiError as exc:
        return frames, exc
    return frames, None


def deltas(frames: list[Frame]) -> list[Document]:
    return [frame.chunk["choices"][0]["delta"] for frame in frames if frame.chunk["choices"]]


def fold(frames: list[Frame]) -> Document:
    """The chunks put together by OpenAI's own SDK."""
    state = ChatCompletionStreamState()
    for frame in frames:
        state.handle_chunk(ChatCompletionChunk.model_validate(frame.chunk))
    found = state.current_completion_snapshot
    return found.model_dump()


# --- recordings -------------------------------------------------------------------------------------


@by_name
async def test_recordings_are_what_anthropic_sends(recording: Recording) -> None:
    """Every recorded message and event fits the types of Anthropic's SDK, unknown ones aside."""
    Message.model_validate(recording.message)
    known: Any = TypeAdapter(RawMessageStreamEvent)
    odd = ("ping", "error", "weather_report", "vendor_note")
    for event in recording.events:
        delta = event.get("delta", {}).get("type")
        if event["type"] not in odd and delta not in ("hologram_delta", "citations_delta"):
            known.validate_python(event)


@pytest.mark.parametrize("recording", ALL, ids=lambda recording: recording.name)
@pytest.mark.parametrize("newline", [b"\n", b"\r\n", b"\r"], ids=["LF", "CRLF", "CR"])
async def test_a_cut_anywhere_changes_nothing(recording: Recording, newline: bytes) -> None:
    """However the network slices a stream, the frames and the end are the same."""
    sent = outgoing(tools=recording.tools)
    raw = wire(recording.events, newline)
    frames, end = replay(recording.events, sent)

    assert (frames, repr(end)) == _told(replay(raw, sent))
    assert (frames, repr(end)) == _told(replay(raw, sent, 1))
    for place in range(1, len(raw)):
        assert (frames, repr(end)) == _told(cut(raw, place, sent))


def _told(found: tuple[list[Frame], ApiError | None]) -> tuple[list[Frame], str]:
    return found[0], repr(found[1])


@by_name
async def test_chunks_are_openais(recording: Recording) -> None:
    """Every chunk fits the types of OpenAI's SDK, says the same head, and its raw text is the chunk."""
    frames, end = replay(recording.events, outgoing(tools=recording.tools))

    assert end is None
    for frame in frames:
        ChatCompletionChunk.model_validate(frame.chunk)
        assert frame.chunk == orjson.loads(frame.raw)
        assert frame.chunk["id"] == "msg_01Recorded"
        assert frame.chunk["model"] == "claude-sonnet-5-5"
        assert frame.chunk["created"] == CREATED


@by_name
async def test_the_order_of_chunks(recording: Recording) -> None:
    """The role comes once and first, one finish reason after all deltas, the usage alone and last."""
    frames, _ = replay(recording.events, outgoing(tools=recording.tools))
    *body, last = frames

    assert [place for place, delta in enumerate(deltas(frames)) if "role" in delta] == [0]
    assert [bool(frame.chunk["choices"][0]["finish_reason"]) for frame in body] == [False] * (
        len(body) - 1
    ) + [True]
    assert deltas(frames)[-1] == {}
    assert last.chunk["choices"] == []
    assert last.chunk["usage"]["total_tokens"] == last.usage.total if last.usage else False
    assert not any("usage" in frame.chunk or frame.usage for frame in body)


@by_name
async def test_streamed_and_whole_are_one_answer(recording: Recording) -> None:
    """The same answer has the same content, calls, ending and count of tokens, streamed or not."""
    sent = outgoing(tools=recording.tools)
    frames, _ = replay(recording.events, sent)
    whole = from_message(recording.message or {}, sent, CREATED)
    folded = fold(frames)
    ChatCompletion.model_validate(whole.document)

    assert frames[-1].usage == whole.usage
    assert frames[-1].chunk["usage"] == whole.document["usage"]
    expected, found = whole.document["choices"][0], folded["choices"][0]
    assert found["finish_reason"] == expected["finish_reason"]
    assert (found["message"]["content"] or None) == (expected["message"]["content"] or None)
    assert found["message"]["refusal"] == expected["message"]["refusal"]
    assert _calls(found["message"]) == _calls(expected["message"])
    for field in ("id", "model", "created"):
        assert folded[field] == whole.document[field]


def _calls(said: Document) -> list[tuple[str, str, Any]]:
    return [
        (call["id"], call["function"]["name"], orjson.loads(call["function"]["arguments"]))
        for call in said.get("tool_calls") or []
    ]


# --- one message ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("recording", "content", "finish_reason"),
    [
        (TEXT, "Grüß Gott, 🐈!\r\nDone.", "stop"),
        (TOOL, "Let me look.", "tool_calls"),
        (TOOL_WITHOUT_INPUT, None, "tool_calls"),
        (PARALLEL, None, "tool_calls"),
        (THINKING, "Nine.", "stop"),
        (REFUSAL, "I can", "content_filter"),
        (LENGTH, "Once upon a", "length"),
        (UNKNOWN, "Hi.", "stop"),
    ],
    ids=lambda given: given.name if isinstance(given, Recording) else "",
)
async def test_content_and_ending(
    recording: Recording, content: str | None, finish_reason: str
) -> None:
    """Texts are joined with nothing between; thinking and unknown blocks are not content."""
    found = from_message(recording.message or {}, outgoing(), CREATED)
    choice = found.document["choices"][0]

    assert choice["message"]["content"] == content
    assert choice["finish_reason"] == finish_reason
    assert found.document["object"] == "chat.completion"
    assert found.service_tier == (recording.message or {})["usage"].get("service_tier")


@pytest.mark.parametrize(
    ("stop_reason", "expected"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("pause_turn", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("tool_use", "tool_calls"),
        ("refusal", "content_filter"),
        ("something_new", "stop"),
    ],
)
async def test_finish_reasons(stop_reason: str, expected: str) -> None:
    """Every stop reason has a finish reason, streamed or not."""
    whole = from_message(message([], stop_reason), outgoing(), CREATED)
    frames, _ = replay([start(), finish(stop_reason), STOP], outgoing())

    assert whole.document["choices"][0]["finish_reason"] == expected
    assert frames[-2].chunk["choices"][0]["finish_reason"] == expected


async def test_old_functions_are_answered_in_kind() -> None:
    """Who asked with functions reads function_call, and only the first call."""
    sent = outgoing(tools=True, functions=True)
    whole = from_message(PARALLEL.message or {}, sent, CREATED).document["choices"][0]
    frames, _ = replay(PARALLEL.events, sent)
    folded = "".join(
        delta.get("function_call", {}).get("arguments", "") for delta in deltas(frames)
    )
    for frame in frames:
        ChatCompletionChunk.model_validate(frame.chunk)

    assert whole["message"]["function_call"] == {"name": "weather", "arguments": '{"city":"Wien"}'}
    assert "tool_calls" not in whole["message"]
    assert whole["finish_reason"] == "function_call"
    assert folded == '{"city":"Wien"}'
    assert [delta["function_call"]["name"] for delta in deltas(frames) if "name" in delta.get("function_call", {})] == ["weather"]  # fmt: skip
    assert frames[-2].chunk["choices"][0]["finish_reason"] == "function_call"


async def test_tool_calls_are_counted_from_zero() -> None:
    """The index is the call's, not the block's; id and name come once; no input is `{}`."""
    frames, _ = replay(PARALLEL.events, outgoing(tools=True))
    found = [delta["tool_calls"][0] for delta in deltas(frames) if "tool_calls" in delta]

    assert found == [
        _opened(0, "toolu_1", "weather"),
        {"index": 0, "function": {"arguments": '{"city":"Wien"}'}},
        _opened(1, "toolu_2", "now"),
        {"index": 1, "function": {"arguments": "{}"}},
        _opened(2, "toolu_3", "weather"),
        {"index": 2, "function": {"arguments": '{"city":'}},
        {"index": 2, "function": {"arguments": '"Graz"}'}},
    ]
    assert deltas(frames)[0] == {"role": "assistant", "content": None, "refusal": None}


def _opened(index: int, call: str, name: str) -> Document:
    return {
        "index": index,
        "id": call,
        "type": "function",
        "function": {"name": name, "arguments": ""},
    }


async def test_a_call_left_open_is_closed() -> None:
    """A tool whose block never ended still has arguments that parse."""
    events = [
        start(),
        opened(0, {"type": "tool_use", "id": "toolu_1", "name": "now", "input": {"zone": "UTC"}}),
        finish("tool_use"),
        STOP,
    ]
    frames, end = replay(events, outgoing(tools=True))

    assert end is None
    assert deltas(frames)[2] == {
        "tool_calls": [{"index": 0, "function": {"arguments": '{"zone":"UTC"}'}}]
    }


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"type": "error", "error": {"type": "api_error", "message": "x"}},
        {**message([], "end_turn"), "content": "text"},
        {**message([], "end_turn"), "id": None},
        {**message([], "end_turn"), "model": 7},
        {**message([], "end_turn"), "stop_reason": None},
        message([{"type": "text", "text": None}], "end_turn"),
        message([{"type": "tool_use", "name": "x", "input": {}}], "tool_use"),
        [],
        None,
    ],
)
async def test_nonsense_is_a_failure(document: Any) -> None:
    """What is not a whole message is the provider's failure, never a half answer."""
    with pytest.raises(UpstreamFailed):
        from_message(document, outgoing(), CREATED)


# --- tokens -----------------------------------------------------------------------------------------

PLAIN = {"input_tokens": 5, "output_tokens": 3}
USAGES: list[tuple[str, Any, Usage | None]] = [
    ("all", USAGE, Usage(25, 100, 30, 10, output=15)),
    ("plain", PLAIN, Usage(5, output=3)),
    ("zero is data", {"input_tokens": 0, "output_tokens": 0}, Usage()),
    (
        "nulls",
        {
            **PLAIN,
            "cache_read_input_tokens": None,
            "cache_creation_input_tokens": None,
            "cache_creation": None,
            "output_tokens_details": None,
        },
        Usage(5, output=3),
    ),
    ("no split", {**PLAIN, "cache_creation_input_tokens": 40}, Usage(5, cache_write=40, output=3)),
    (
        "only 1h",
        {
            **PLAIN,
            "cache_creation_input_tokens": 40,
            "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 40},
        },
        Usage(5, cache_write_1h=40, output=3),
    ),
    (
        "only the split",
        {
            **PLAIN,
            "cache_creation": {"ephemeral_5m_input_tokens": 4, "ephemeral_1h_input_tokens": 6},
        },
        Usage(5, cache_write=4, cache_write_1h=6, output=3),
    ),
    (
        "thinking",
        {**PLAIN, "output_tokens_details": {"thinking_tokens": 2}},
        Usage(5, output=3, reasoning=2),
    ),
    (
        "thinking above output",
        {**PLAIN, "output_tokens_details": {"thinking_tokens": 9}},
        Usage(5, output=3, reasoning=3),
    ),
    ("largest", {**PLAIN, "input_tokens": MAX_TOKENS}, Usage(MAX_TOKENS, output=3)),
    ("too large", {**PLAIN, "input_tokens": MAX_TOKENS + 1}, None),
    ("negative", {**PLAIN, "output_tokens": -1}, None),
    ("negative read", {**PLAIN, "cache_read_input_tokens": -4}, None),
    ("fraction", {**PLAIN, "output_tokens": 3.5}, None),
    ("text", {**PLAIN, "input_tokens": "5"}, None),
    ("truth", {**PLAIN, "input_tokens": True}, None),
    ("input unknown", {"output_tokens": 3}, None),
    ("output unknown", {"input_tokens": 5, "output_tokens": None}, None),
    ("odd split", {**PLAIN, "cache_creation": [1]}, None),
    ("odd thinking", {**PLAIN, "output_tokens_details": {"thinking_tokens": "2"}}, None),
    ("none", None, None),
    ("list", [], None),
]


@pytest.mark.parametrize(
    ("told", "expected"), [row[1:] for row in USAGES], ids=[row[0] for row in USAGES]
)
async def test_usage(told: Any, expected: Usage | None) -> None:
    """Disjoint buckets; what is missing or cannot be true makes the usage unknown, not zero."""
    whole = from_message(message([], "end_turn", usage=told), outgoing(), CREATED)
    frames, end = replay(
        [start({}), {**finish("end_turn"), "usage": told}, STOP],
        outgoing(),
    )

    assert whole.usage == expected
    assert frames[-1].usage == expected
    assert end is None
    assert ("usage" in whole.document) == (expected is not None)


async def test_openais_usage_contains_the_cached_tokens() -> None:
    """prompt_tokens is all that was read, completion_tokens all that was written."""
    found = from_message(
        message([], "end_turn", usage={**USAGE, "output_tokens_details": {"thinking_tokens": 6}}),
        outgoing(),
        CREATED,
    )

    assert found.document["usage"] == {
        "prompt_tokens": 165,
        "completion_tokens": 15,
        "total_tokens": 180,
        "prompt_tokens_details": {"cached_tokens": 100, "cache_write_tokens": 40},
        "completion_tokens_details": {"reasoning_tokens": 6},
    }


async def test_counts_are_replaced_not_added() -> None:
    """The last count stands; a null says nothing; the count at the start is only a placeholder."""
    frames, _ = replay(CUMULATIVE.events, outgoing())
    silent, _ = replay([start(), {**finish("end_turn"), "usage": None}, STOP], outgoing())

    told_null = {"output_tokens": 2, "input_tokens": None, "cache_read_input_tokens": None}
    kept, _ = replay([start(), finish("end_turn", told_null), STOP], outgoing())

    assert frames[-1].usage == Usage(12, 7, output=8)
    assert kept[-1].usage == Usage(25, 100, 30, 10, output=2)
    assert silent[-1].usage is None
    assert silent[-1].chunk["choices"][0]["finish_reason"] == "stop"


async def test_the_tier_of_a_stream() -> None:
    """The billed tier is known from the start of a stream."""
    stream = MessageStream(outgoing(), CREATED)
    stream.feed(wire([start()]))

    assert stream.service_tier == "standard"
    assert not stream.ended


# --- broken streams ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "expected", "status"),
    [
        ("overloaded_error", Unavailable, 503),
        ("rate_limit_error", RateLimited, 429),
        ("invalid_request_error", ProviderRefused, 400),
        ("api_error", UpstreamFailed, 502),
        ("authentication_error", UpstreamFailed, 502),
        ("timeout_error", UpstreamFailed, 502),
        ("something_new", UpstreamFailed, 502),
        (None, UpstreamFailed, 502),
    ],
)
async def test_error_events(kind: str | None, expected: type[ApiError], status: int) -> None:
    """An error event raises at once if it is the first, and after the frames before it if not."""
    event = {"type": "error", "error": {"type": kind, "message": "why"}}
    alone = MessageStream(outgoing(), CREATED)
    with pytest.raises(expected) as raised:
        alone.feed(wire([event]))
    later = MessageStream(outgoing(), CREATED)
    frames = later.feed(wire([start(), event, *text_events(0, "lost")]))

    assert raised.value.status == status
    assert raised.value.should_retry is None
    assert len(frames) == 1
    assert later.failed
    assert not later.ended
    for ask in (later.close, lambda: later.feed(b"")):
        with pytest.raises(expected):
            ask()


async def test_an_error_without_a_shape() -> None:
    """An error event that tells nothing is still a failure."""
    _, end = replay([{"type": "error", "error": "boom"}], outgoing())

    assert type(end) is UpstreamFailed


async def test_what_came_before_an_error_is_kept() -> None:
    """Text that was sent is passed on, then the error, and no finish."""
    frames, end = replay(ERROR_LATER.events, outgoing())

    assert deltas(frames)[1:] == [{"content": "Once"}]
    assert type(end) is Unavailable


@by_name
async def test_an_early_end_is_a_failure(recording: Recording) -> None:
    """Without message_stop no stream ends well, wherever it was cut."""
    for count in range(len(recording.events)):
        _, end = replay(recording.events[:count], outgoing())
        assert type(end) is UpstreamFailed
    _, end = replay(wire(recording.events)[:-1], outgoing())
    assert type(end) is UpstreamFailed


async def test_nothing_counts_after_the_end() -> None:
    """What follows message_stop changes nothing, not even an error."""
    frames, end = replay([*TEXT.events, OVERLOADED, start()], outgoing())

    assert end is None
    assert frames == replay(TEXT.events, outgoing())[0]


BROKEN: list[tuple[str, bytes]] = [
    ("not JSON", b"data: {oops\n\n"),
    ("text before the start", wire(text_events(0, "x"))),
    ("stop before the start", wire([finish("end_turn"), STOP])),
    ("no message", wire([{"type": "message_start"}])),
    ("no id", wire([{"type": "message_start", "message": {"model": "x"}}])),
    ("no reason", wire([start(), STOP])),
    ("no delta", wire([start(), {"type": "content_block_delta", "index": 0}])),
    ("no text", wire([start(), {**text_events(0, "x")[1], "delta": {"type": "text_delta"}}])),
    ("no name", wire([start(), opened(0, {"type": "tool_use", "id": "a"})])),
    (
        "no index",
        wire([start(), {"type": "content_block_start", "content_block": {"type": "tool_use"}}]),
    ),
    ("odd index", wire([start(), {**shut(0), "index": []}])),
    ("an endless line", b"data: " + b"x" * (1 << 20) + b"xxxxxxxxx"),
]


@pytest.mark.parametrize("raw", [row[1] for row in BROKEN], ids=[row[0] for row in BROKEN])
async def test_broken_streams(raw: bytes) -> None:
    """Nonsense is the provider's failure, never a crash of ours."""
    _, end = replay(raw, outgoing())

    assert type(end) is UpstreamFailed


async def test_events_that_are_no_objects_are_passed_over() -> None:
    """JSON that is no object has no type, so it is an unknown event."""
    raw = b"data: []\n\ndata: 7\n\ndata: null\n\n" + wire(TEXT.events)

    assert replay(raw, outgoing())[1] is None


ODD: st.SearchStrategy[Any] = (
    st.none() | st.integers(-1, 2) | st.sampled_from(["x", "tool_use", "text"]) | st.just([])
)
HELD = ODD | st.dictionaries(
    st.sampled_from(["type", "id", "name", "input", "text", "index", "usage", "stop_reason"]),
    ODD,
    max_size=4,
)
NAMES = st.sampled_from([event["type"] for recording in ALL for event in recording.events])


@settings(max_examples=150, deadline=None, database=None)
@drawn(
    recording=st.sampled_from(ALL),
    place=st.integers(0, 12),
    event=st.fixed_dictionaries(
        {"type": NAMES},
        optional=dict.fromkeys(
            ("message", "delta", "content_block", "index", "usage", "error"), HELD
        ),
    ),
)
def test_any_event_is_taken_or_a_failure(
    recording: Recording, place: int, event: Document
) -> None:
    """Whatever an event holds, the stream goes on or fails in our words."""
    events = [*recording.events[:place], event, *recording.events[place:]]
    frames, _ = replay(events, outgoing())

    for frame in frames:
        assert frame.chunk == orjson.loads(frame.raw)
    odd = event.get("message")
    document = {**message([event], "end_turn"), **(odd if isinstance(odd, dict) else {})}
    try:
        from_message(document, outgoing(), CREATED)
    except UpstreamFailed:
        pass


# --- refusals ---------------------------------------------------------------------------------------


def refusal(kind: str, text: str) -> bytes:
    return orjson.dumps(
        {"type": "error", "error": {"type": kind, "message": text}, "request_id": "req_1"}
    )


LONG = "prompt is too long: 210000 tokens > 200000 maximum"
SPENT = "You have reached your specified API usage limits."
POOR = "Your credit balance is too low to access the Anthropic API."
FAILURES: list[tuple[int, str, str, type[ApiError], int, str | None, bool]] = [
    (400, "invalid_request_error", "bad", ProviderRefused, 400, None, True),
    (400, "invalid_request_error", LONG, ProviderRefused, 400, "context_length_exceeded", True),
    (400, "invalid_request_error", SPENT, KeyRefused, 502, "api_error", False),
    (400, "invalid_request_error", POOR, KeyRefused, 502, "api_error", False),
    (401, "authentication_error", "invalid x-api-key", KeyRefused, 502, "api_error", False),
    (402, "billing_error", "no money", KeyRefused, 502, "api_error", False),
    (403, "permission_error", "not allowed", KeyRefused, 502, "api_error", False),
    (404, "not_found_error", "model: claude-x", ModelNotFound, 404, "model_not_found", True),
    (409, "conflict_error", "twice", ProviderRefused, 409, None, True),
    (413, "request_too_large", "too big", ProviderRefused, 413, None, True),
    (422, "invalid_request_error", "nay", ProviderRefused, 422, None, True),
    (429, "rate_limit_error", "org_9 is busy", RateLimited, 429, "rate_limit_exceeded", False),
    (405, "invalid_request_error", "nay", UpstreamFailed, 502, "api_error", False),
    (408, "timeout_error", "slow", UpstreamFailed, 502, "api_error", False),
    (500, "api_error", "oops", UpstreamFailed, 502, "api_error", False),
    (503, "api_error", "away", Unavailable, 503, "api_error", False),
    (504, "timeout_error", "slow", UpstreamTimeout, 504, "api_error", False),
    (529, "overloaded_error", "busy", Unavailable, 503, "api_error", False),
]


@pytest.mark.parametrize(("status", "kind", "text", "expected", "ours", "code", "shown"), FAILURES)
async def test_failures(
    status: int,
    kind: str,
    text: str,
    expected: type[ApiError],
    ours: int,
    code: str | None,
    shown: bool,
) -> None:
    """Each refusal is one of ours; only those about the caller's own request keep the provider's words."""
    found = failure(status, refusal(kind, text), None)

    assert type(found) is expected
    assert found.status == ours
    assert found.code == code
    assert (text in found.message) == shown
    assert ("own account" in found.message) == (status in (401, 402, 403) or text in (SPENT, POOR))


@pytest.mark.parametrize(
    ("header", "expected", "should_retry"),
    [
        ("7", 7.0, None),
        ("0.5", 1.0, None),
        ("0", 1.0, None),
        ("-1", 1.0, None),
        ("86400", 120.0, None),
        (None, CAPPED, False),
        ("", CAPPED, False),
        ("nan", CAPPED, False),
        ("inf", CAPPED, False),
        ("soon", CAPPED, False),
    ],
)
async def test_when_to_come_back(
    header: str | None, expected: float, should_retry: bool | None
) -> None:
    """Anthropic's own time is passed on, a second at least; without one, a 429 is not worth asking again soon."""
    limited = failure(429, refusal("rate_limit_error", "busy"), header)
    overloaded = failure(529, refusal("overloaded_error", "busy"), header)

    assert (limited.retry_after, limited.should_retry) == (expected, should_retry)
    assert overloaded.retry_after == (1 if expected == CAPPED else expected)
    assert overloaded.should_retry is None


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"error": "x"}', b'{"error": {"message": 7}}', b"\xff"])  # fmt: skip
async def test_refusals_without_a_shape(body: bytes) -> None:
    """Whatever stands in the body, the status decides."""
    assert failure(400, body, None).message == "Anthropic refused the request."
    assert failure(500, body, None).status == 502


async def test_no_key_in_a_message() -> None:
    """Passed-on words are short and hold no key."""
    found = failure(
        400, refusal("invalid_request_error", "sk-ant-api03-abcdef " + "x" * 5000), None
    )

    assert "abcdef" not in found.message
    assert len(found.message) == 1000
