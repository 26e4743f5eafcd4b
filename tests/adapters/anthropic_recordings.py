"""Answers of the Messages API, each as the events of its stream and as the message that the same answer is unstreamed.

Written after Anthropic's published event shapes; a test holds every one of them to the types of Anthropic's own SDK.
"""

from __future__ import annotations

from typing import Any

import orjson

from domain.answer import Document
from domain.value import value

Event = Document


@value
class Recording:
    """`message` is None where the stream fails, so that there is no whole answer. `tools`: some were offered."""

    name: str
    events: list[Event]
    message: Document | None
    tools: bool = False


def wire(events: list[Event], newline: bytes = b"\n") -> bytes:
    """The events as they travel: all named, data on one line."""
    return b"".join(
        b"event: "
        + event["type"].encode()
        + newline
        + b"data: "
        + orjson.dumps(event)
        + newline * 2
        for event in events
    )


def start(usage: Document | None = None, model: str = "claude-sonnet-5-5") -> Event:
    return {
        "type": "message_start",
        "message": {
            "id": "msg_01Recorded",
            "type": "message",
            "role": "assistant",
            "model": model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {**USAGE, "output_tokens": 1} if usage is None else usage,
        },
    }


def opened(index: int, block: Document) -> Event:
    return {"type": "content_block_start", "index": index, "content_block": block}


def delta(index: int, kind: str, **held: Any) -> Event:
    return {"type": "content_block_delta", "index": index, "delta": {"type": kind, **held}}


def shut(index: int) -> Event:
    return {"type": "content_block_stop", "index": index}


def finish(stop_reason: str, usage: Document | None = None, **held: Any) -> Event:
    return {
        "type": "message_delta",
        "delta": {"stop_reason": stop_reason, "stop_sequence": None, **held},
        "usage": {"output_tokens": USAGE["output_tokens"]} if usage is None else usage,
    }


def message(content: list[Document], stop_reason: str, **held: Any) -> Document:
    return {
        "id": "msg_01Recorded",
        "type": "message",
        "role": "assistant",
        "model": "claude-sonnet-5-5",
        "content": content,
        "stop_reason": stop_reason,
        "stop_sequence": None,
        "usage": USAGE,
        **held,
    }


def text_events(index: int, *texts: str) -> list[Event]:
    return [
        opened(index, {"type": "text", "text": ""}),
        *(delta(index, "text_delta", text=text) for text in texts),
        shut(index),
    ]


def tool_events(index: int, call: str, name: str, *pieces: str) -> list[Event]:
    return [
        opened(index, {"type": "tool_use", "id": call, "name": name, "input": {}}),
        *(delta(index, "input_json_delta", partial_json=piece) for piece in pieces),
        shut(index),
    ]


def tool(call: str, name: str, **given: Any) -> Document:
    return {"type": "tool_use", "id": call, "name": name, "input": given}


USAGE: Document = {
    "input_tokens": 25,
    "cache_read_input_tokens": 100,
    "cache_creation_input_tokens": 40,
    "cache_creation": {"ephemeral_5m_input_tokens": 30, "ephemeral_1h_input_tokens": 10},
    "output_tokens": 15,
    "service_tier": "standard",
    "output_tokens_details": None,
}
PING: Event = {"type": "ping"}
STOP: Event = {"type": "message_stop"}
OVERLOADED: Event = {
    "type": "error",
    "error": {"type": "overloaded_error", "message": "Overloaded"},
}

TEXT = Recording(
    "text",
    [
        start(),
        opened(0, {"type": "text", "text": ""}),
        PING,
        delta(0, "text_delta", text="Grüß"),
        delta(0, "text_delta", text=""),
        delta(0, "text_delta", text=" Gott, 🐈!\r\nDone."),
        shut(0),
        finish("end_turn"),
        STOP,
    ],
    message([{"type": "text", "text": "Grüß Gott, 🐈!\r\nDone."}], "end_turn"),
)

TEXTS = Recording(
    "two texts",
    [
        start(),
        *text_events(0, "One, "),
        *text_events(1, "two."),
        finish("stop_sequence", stop_sequence="STOP"),
        STOP,
    ],
    message(
        [{"type": "text", "text": "One, "}, {"type": "text", "text": "two."}],
        "stop_sequence",
        stop_sequence="STOP",
    ),
)

TOOL = Recording(
    "tool",
    [
        start(),
        *text_events(0, "Let me look."),
        *tool_events(1, "toolu_1", "weather", "", '{"city": "Wi', 'en", "days": 3}'),
        finish("tool_use"),
        STOP,
    ],
    message(
        [
            {"type": "text", "text": "Let me look."},
            tool("toolu_1", "weather", city="Wien", days=3),
        ],
        "tool_use",
    ),
    tools=True,
)

TOOL_WITHOUT_INPUT = Recording(
    "tool without input",
    [start(), *tool_events(0, "toolu_1", "now"), finish("tool_use"), STOP],
    message([tool("toolu_1", "now")], "tool_use"),
    tools=True,
)

PARALLEL = Recording(
    "parallel tools",
    [
        start(),
        opened(0, {"type": "thinking", "thinking": "", "signature": ""}),
        delta(0, "thinking_delta", thinking="Two cities."),
        delta(0, "signature_delta", signature="c2ln"),
        shut(0),
        *tool_events(1, "toolu_1", "weather", '{"city":"Wien"}'),
        *tool_events(2, "toolu_2", "now", ""),
        *tool_events(3, "toolu_3", "weather", '{"city":', '"Graz"}'),
        finish("tool_use"),
        STOP,
    ],
    message(
        [
            {"type": "thinking", "thinking": "Two cities.", "signature": "c2ln"},
            tool("toolu_1", "weather", city="Wien"),
            tool("toolu_2", "now"),
            tool("toolu_3", "weather", city="Graz"),
        ],
        "tool_use",
    ),
    tools=True,
)

THINKING = Recording(
    "thinking",
    [
        start(),
        opened(0, {"type": "thinking", "thinking": "", "signature": ""}),
        delta(0, "thinking_delta", thinking="Hm, "),
        delta(0, "thinking_delta", thinking="nine."),
        delta(0, "signature_delta", signature="c2ln"),
        shut(0),
        opened(1, {"type": "redacted_thinking", "data": "aGlkZGVu"}),
        shut(1),
        *text_events(2, "Nine."),
        finish(
            "end_turn", {"output_tokens": 15, "output_tokens_details": {"thinking_tokens": 11}}
        ),
        STOP,
    ],
    message(
        [
            {"type": "thinking", "thinking": "Hm, nine.", "signature": "c2ln"},
            {"type": "redacted_thinking", "data": "aGlkZGVu"},
            {"type": "text", "text": "Nine."},
        ],
        "end_turn",
        usage={**USAGE, "output_tokens_details": {"thinking_tokens": 11}},
    ),
)

_DETAILS = {"type": "refusal", "category": "cyber", "explanation": "That would do harm."}
REFUSAL = Recording(
    "refusal",
    [start(), *text_events(0, "I can"), finish("refusal", stop_details=_DETAILS), STOP],
    message([{"type": "text", "text": "I can"}], "refusal", stop_details=_DETAILS),
)

LENGTH = Recording(
    "max_tokens",
    [start(), *text_events(0, "Once upon a"), finish("max_tokens"), STOP],
    message([{"type": "text", "text": "Once upon a"}], "max_tokens"),
)

SILENT = Recording(
    "no content",
    [start(), finish("end_turn"), STOP],
    message([], "end_turn"),
)

UNKNOWN = Recording(
    "unknown events",
    [
        {"type": "weather_report", "sun": True},
        start(),
        opened(
            0, {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {}}
        ),
        delta(0, "input_json_delta", partial_json='{"query":"x"}'),
        shut(0),
        opened(1, {"type": "text", "text": ""}),
        delta(1, "text_delta", text="Hi."),
        delta(1, "citations_delta", citation={"type": "page_location"}),
        delta(1, "hologram_delta", light="green"),
        shut(1),
        {"type": "vendor_note", "index": "none"},
        finish("end_turn"),
        STOP,
    ],
    message(
        [
            {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {}},
            {"type": "text", "text": "Hi."},
        ],
        "end_turn",
    ),
)

CUMULATIVE = Recording(
    "cumulative usage",
    [
        start({"input_tokens": 9, "output_tokens": 3, "cache_read_input_tokens": None}),
        *text_events(0, "Half, "),
        finish("end_turn", {"output_tokens": 4, "input_tokens": 9}),
        *text_events(1, "whole."),
        finish(
            "end_turn",
            {
                "output_tokens": 8,
                "input_tokens": 12,
                "cache_read_input_tokens": 7,
                "cache_creation_input_tokens": None,
            },
        ),
        STOP,
    ],
    message(
        [{"type": "text", "text": "Half, "}, {"type": "text", "text": "whole."}],
        "end_turn",
        usage={"input_tokens": 12, "output_tokens": 8, "cache_read_input_tokens": 7},
    ),
)

ERROR_LATER = Recording(
    "error mid-stream",
    [start(), *text_events(0, "Once")[:2], OVERLOADED],
    None,
)

WHOLE = (
    TEXT,
    TEXTS,
    TOOL,
    TOOL_WITHOUT_INPUT,
    PARALLEL,
    THINKING,
    REFUSAL,
    LENGTH,
    SILENT,
    UNKNOWN,
    CUMULATIVE,
)
ALL = (*WHOLE, ERROR_LATER)
