"""Good answers in Anthropic's dialect (https://docs.anthropic.com/en/api/messages)."""

from __future__ import annotations

from typing import Any

import orjson

from adapters.providers.sandbox_schema import sample
from tests.support.upstream_openai import CACHED, tokens, words
from tests.support.upstream_reply import Call, Reply, Step

WITHOUT_SAMPLING = "2026-10-21"
"""The API version that refuses temperature, top_p and top_k."""

FIELDS = frozenset(
    {
        "model", "messages", "max_tokens", "system", "stop_sequences", "stream", "metadata", "tools",
        "tool_choice", "thinking", "output_config", "service_tier", "speed", "cache_control", "inference_geo",
        "diagnostics", "container", "temperature", "top_p", "top_k",
    }
)  # fmt: skip

Document = dict[str, Any]


def good_answer(call: Call) -> Reply:
    if "anthropic-version" not in call.headers:
        return error(400, "invalid_request_error", "anthropic-version: header is required")
    if not call.headers.get("x-api-key") and not call.headers.get("authorization"):
        return error(401, "authentication_error", "x-api-key header is required")
    if call.path == "/v1/models" and call.method == "GET":
        return models()
    if call.path != "/v1/messages" or call.method != "POST":
        return error(404, "not_found_error", "Not Found")
    fault = _fault(call)
    if fault:
        return error(400, "invalid_request_error", fault)
    if call.stream:
        return Reply.sse(events(call), (("request-id", "req_upstream"),))
    return Reply.json(200, document(call), (("request-id", "req_upstream"),))


def error(
    status: int, kind: str, message: str, headers: tuple[tuple[str, str], ...] = ()
) -> Reply:
    body = {
        "type": "error",
        "error": {"type": kind, "message": message},
        "request_id": "req_upstream",
    }
    return Reply.json(status, body, (("request-id", "req_upstream"), *headers))


def _fault(call: Call) -> str | None:
    """What the Messages API would not take, so that an adapter that lets it through is found."""
    for name in call.body:
        if name not in FIELDS:
            return f"{name}: Extra inputs are not permitted"
    for name in ("model", "max_tokens", "messages"):
        if not call.body.get(name):
            return f"{name}: Field required"
    sampled = [name for name in ("temperature", "top_p", "top_k") if name in call.body]
    if sampled and call.headers["anthropic-version"] >= WITHOUT_SAMPLING:
        return f"{sampled[0]}: not supported in this API version"
    for place, message in enumerate(call.messages):
        if message.get("role") not in ("user", "assistant", "system"):
            return f"messages.{place}.role: Input should be 'user' or 'assistant'"
        if message.get("content") in (None, "", []):
            return f"messages.{place}: content must be non-empty"
        for part in message["content"] if isinstance(message["content"], list) else ():
            if part.get("type") == "text" and not part.get("text"):
                return f"messages.{place}: text content blocks must be non-empty"
    return None


def _spoken(call: Call) -> list[str]:
    wanted = (call.body.get("output_config") or {}).get("format") or {}
    text = words(call)
    if wanted.get("type") == "json_schema":
        text = orjson.dumps(sample(wanted["schema"], "output_config")).decode()
    return tokens(text)


def _tool_used(call: Call) -> Document | None:
    tools = call.body.get("tools")
    choice = call.body.get("tool_choice") or {}
    if (
        not tools
        or choice.get("type") == "none"
        or call.last_role != "user"
        or _result_given(call)
    ):
        return None
    tool = next((one for one in tools if one.get("name") == choice.get("name")), tools[0])
    given = sample(tool.get("input_schema", {"type": "object"}), "tools")
    return {"type": "tool_use", "id": "toolu_up0", "name": tool["name"], "input": given}


def _result_given(call: Call) -> bool:
    content = call.messages[-1].get("content")
    parts = content if isinstance(content, list) else []
    return any(part.get("type") == "tool_result" for part in parts)


def document(call: Call) -> Document:
    tool = _tool_used(call)
    spoken, stop = _ended(call, tool)
    content: list[Document] = [{"type": "text", "text": "".join(spoken), "citations": None}]
    if tool:
        content.append(tool)
    return {**_head(call), "content": content, "stop_reason": stop, "usage": usage(call)}


def _ended(call: Call, tool: Document | None) -> tuple[list[str], str]:
    if tool:
        return tokens("I look it up."), "tool_use"
    spoken = _spoken(call)
    limit = call.body["max_tokens"]
    return (spoken[:limit], "max_tokens") if limit < len(spoken) else (spoken, "end_turn")


def _head(call: Call) -> Document:
    return {
        "id": "msg_upstream",
        "type": "message",
        "role": "assistant",
        "model": call.model,
        "stop_sequence": None,
        "stop_details": None,
    }


def usage(call: Call) -> Document:
    """Cached tokens are not among `input_tokens`."""
    tool = _tool_used(call)
    written = len(_ended(call, tool)[0]) + (5 if tool else 0)
    cached = call.told(CACHED)
    return {
        "input_tokens": 10 + len(orjson.dumps(call.messages)) // 4,
        "cache_creation_input_tokens": 6 if cached else 0,
        "cache_read_input_tokens": 8 if cached else 0,
        "cache_creation": {
            "ephemeral_5m_input_tokens": 4 if cached else 0,
            "ephemeral_1h_input_tokens": 2 if cached else 0,
        },
        "output_tokens": written,
        "output_tokens_details": {"thinking_tokens": 0},
        "service_tier": "standard",
        "server_tool_use": None,
    }


def event(name: str, **fields: Any) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), orjson.dumps({"type": name, **fields}))


def events(call: Call) -> list[Step]:
    """All events; the last one is the end marker."""
    tool = _tool_used(call)
    spoken, stop = _ended(call, tool)
    counted = usage(call)
    started = {
        **_head(call),
        "content": [],
        "stop_reason": None,
        "usage": {**counted, "output_tokens": 1},
    }
    found: list[Step] = [
        event("message_start", message=started),
        event("content_block_start", index=0, content_block={"type": "text", "text": ""}),
        event("ping"),
        *(
            event("content_block_delta", index=0, delta={"type": "text_delta", "text": one})
            for one in spoken
        ),
        event("content_block_stop", index=0),
    ]
    if tool:
        found += _tool_events(tool)
    told = (
        "input_tokens",
        "cache_creation_input_tokens",
        "cache_read_input_tokens",
        "output_tokens",
    )
    delta = {"stop_reason": stop, "stop_sequence": None, "stop_details": None}
    found.append(event("message_delta", delta=delta, usage={name: counted[name] for name in told}))
    found.append(event("message_stop"))
    return found


def _tool_events(tool: Document) -> list[Step]:
    """A tool without input brings no pieces of it, as with the real service."""
    text = orjson.dumps(tool["input"]).decode() if tool["input"] else ""
    half = len(text) // 2
    pieces = ["", text[:half], text[half:]] if text else []
    return [
        event("content_block_start", index=1, content_block={**tool, "input": {}}),
        *(
            event(
                "content_block_delta",
                index=1,
                delta={"type": "input_json_delta", "partial_json": one},
            )
            for one in pieces
        ),
        event("content_block_stop", index=1),
    ]


# --- models ---------------------------------------------------------------------------------------


def models() -> Reply:
    data = [
        _model(
            "claude-opus-5-5",
            thinking=("adaptive",),
            efforts=("low", "medium", "high", "xhigh", "max"),
        ),
        _model("claude-haiku-4-5", 64_000, ("enabled", "disabled"), ()),
    ]
    return Reply.json(
        200,
        {"data": data, "has_more": False, "first_id": data[0]["id"], "last_id": data[-1]["id"]},
    )


def _model(
    name: str, most: int = 128_000, thinking: tuple[str, ...] = (), efforts: tuple[str, ...] = ()
) -> Document:
    def able(yes: bool) -> Document:
        return {"supported": yes}

    kinds = ("adaptive", "between_tools", "disabled", "enabled")
    levels = ("low", "medium", "high", "xhigh", "max")
    return {
        "type": "model",
        "id": name,
        "display_name": name,
        "created_at": "2026-09-01T00:00:00Z",
        "lifecycle": "active",
        "deprecated_at": None,
        "retires_at": None,
        "line": name.split("-")[1],
        "max_input_tokens": 200_000,
        "max_tokens": most,
        "capabilities": {
            "batch": able(True),
            "citations": able(True),
            "code_execution": able(False),
            "context_management": able(False),
            "effort": {
                **able(bool(efforts)),
                **{level: able(level in efforts) for level in levels},
            },
            "image_input": able(True),
            "pdf_input": able(True),
            "server_tools": {
                **able(False),
                "code_execution": able(False),
                "web_search": able(False),
            },
            "structured_outputs": able(True),
            "thinking": {**able(True), "types": {kind: able(kind in thinking) for kind in kinds}},
        },
    }
