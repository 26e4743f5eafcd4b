"""Good answers in OpenAI's dialect, and in Groq's, which differs from it a little.

Shapes: https://platform.openai.com/docs/api-reference/chat and https://console.groq.com/docs/openai.
"""

from __future__ import annotations

from array import array
from base64 import b64encode
from hashlib import shake_256
from math import sqrt
from typing import Any

import orjson

from adapters.providers.sandbox_schema import sample
from tests.support.upstream_reply import Call, Reply, Step

CREATED = 1_790_000_000

CACHED = "from-the-provider-cache"
"""A word in the prompt after which a part of it counts as read from the provider's own cache."""

LONG = "a-long-answer"
"""A word in the prompt after which the answer has 2,000 words."""

DONE = b"data: [DONE]\n\n"

MODELS = ("gpt-6-sol", "gpt-6-luna", "gpt-5.2", "text-embedding-3-small")
GROQ_MODELS = ("openai/gpt-oss-120b", "openai/gpt-oss-20b", "qwen/qwen3.8-27b")

Document = dict[str, Any]


def good_answer(call: Call) -> Reply:
    path = call.path.removeprefix("/openai").removeprefix("/v1")
    if call.dialect == "openai" and not call.headers.get("authorization", "").startswith(
        "Bearer "
    ):
        return error(
            401, "You didn't provide an API key.", "invalid_request_error", "invalid_api_key"
        )
    if path == "/models":
        return models(call)
    if call.method != "POST":
        return error(
            404, f"Unknown request URL: {call.method} {call.path}.", "invalid_request_error"
        )
    if path == "/chat/completions":
        return chat(call)
    if path == "/completions" and call.dialect == "openai":
        return completions(call)
    if path == "/embeddings" and call.dialect == "openai":
        return embeddings(call)
    return error(404, f"Unknown request URL: {call.method} {call.path}.", "invalid_request_error")


def error(
    status: int,
    message: str,
    kind: str,
    code: str | None = None,
    param: str | None = None,
    headers: tuple[tuple[str, str], ...] = (),
) -> Reply:
    body = {"error": {"message": message, "type": kind, "param": param, "code": code}}
    return Reply.json(status, body, (("x-request-id", "req_upstream"), *headers))


def words(call: Call) -> str:
    """What a good model says: some words of its own, the canary it was shown, and a letter of every width."""
    canary = call.canary()
    text = f"This is {call.model} speaking, naïve as ever: 日本 😀."
    if canary:
        text += f" You said {canary}."
    return text + " and on" * 1_000 if call.told(LONG) else text


def tokens(text: str) -> list[str]:
    """Words with the blank before them, as a model's tokens are."""
    first, *others = text.split(" ")
    return [first, *(f" {word}" for word in others)]


# --- chat -----------------------------------------------------------------------------------------


def chat(call: Call) -> Reply:
    refusal = _refusal(call)
    if refusal is not None:
        return refusal
    headers = _headers(call)
    if call.stream:
        return Reply.sse([*events(call), DONE], headers)
    return Reply.json(200, document(call), headers)


def _headers(call: Call) -> tuple[tuple[str, str], ...]:
    return (
        ("x-request-id", "req_upstream"),
        ("x-ratelimit-limit-requests", "14400" if call.dialect == "groq" else "500"),
        ("x-ratelimit-remaining-requests", "499"),
        ("x-ratelimit-reset-requests", "120ms"),
        ("openai-organization", "org-upstream"),
    )


def _refusal(call: Call) -> Reply | None:
    """What the provider would not take, so that an adapter that lets it through is found."""
    if not call.messages:
        return error(
            400,
            "Missing 'messages'.",
            "invalid_request_error",
            "missing_required_parameter",
            "messages",
        )
    if call.dialect != "groq":
        return None
    barred: list[str] = [
        name for name in ("logprobs", "top_logprobs", "logit_bias") if name in call.body
    ]
    if call.body.get("n") not in (None, 1):
        barred.append("n")
    if any(
        "name" in message
        for message in call.messages
        if message.get("role") not in ("tool", "function")
    ):
        barred.append("messages.name")
    if not barred:
        return None
    return Reply.json(
        400,
        {
            "error": {
                "message": f"property '{barred[0]}' is unsupported",
                "type": "invalid_request_error",
            }
        },
    )


def tool_called(call: Call) -> tuple[str, str] | None:
    """Name and arguments: a tool is called when there is one and a user speaks."""
    tools = [tool for tool in call.body.get("tools") or () if tool.get("type") == "function"]
    choice = call.body.get("tool_choice")
    if not tools or choice == "none" or call.last_role != "user":
        return None
    if isinstance(choice, dict) and "function" in choice:
        tools = [tool for tool in tools if tool["function"]["name"] == choice["function"]["name"]]
    function = tools[0]["function"]
    parameters = function.get("parameters") or {"type": "object"}
    return function["name"], orjson.dumps(sample(parameters, "tools")).decode()


def _content(call: Call) -> str:
    wanted = call.body.get("response_format") or {}
    if wanted.get("type") == "json_schema":
        return orjson.dumps(sample(wanted["json_schema"]["schema"], "response_format")).decode()
    return '{"ok": true}' if wanted.get("type") == "json_object" else words(call)


def _spoken(call: Call) -> tuple[list[str], str]:
    """The tokens of each choice, and why they end."""
    called = tool_called(call)
    if called:
        return tokens(called[1]), "tool_calls"
    found = tokens(_content(call))
    limit = call.body.get("max_completion_tokens") or call.body.get("max_tokens")
    return (found[:limit], "length") if limit and limit < len(found) else (found, "stop")


def document(call: Call) -> Document:
    called = tool_called(call)
    spoken, finish = _spoken(call)
    message: Document = {"role": "assistant", "content": None if called else "".join(spoken)}
    if call.dialect == "openai":
        message |= {"refusal": None, "annotations": []}
    if called:
        function = {"name": called[0], "arguments": called[1]}
        message["tool_calls"] = [{"id": "call_up0", "type": "function", "function": function}]
    wanted = call.body.get("logprobs") and not called
    choices = [
        {
            "index": index,
            "message": message,
            "logprobs": {"content": [_logprob(token) for token in spoken], "refusal": None}
            if wanted
            else None,
            "finish_reason": finish,
        }
        for index in range(call.body.get("n") or 1)
    ]
    found = {**head(call, "chat.completion"), "choices": choices, "usage": usage(call)}
    if call.dialect == "groq":
        found["x_groq"] = {"id": "req_groq"}
    return found


def head(call: Call, kind: str) -> Document:
    found = {
        "id": "chatcmpl-upstream",
        "object": kind,
        "created": CREATED,
        "model": call.model,
        "system_fingerprint": "fp_upstream",
    }
    tier = call.body.get("service_tier")
    if call.dialect == "openai":
        found["service_tier"] = "default" if tier in (None, "auto") else tier
    return found


def usage(call: Call) -> Document:
    """Ten tokens and one for each four bytes of prompt; a token of the answer is a word of it."""
    read = 10 + len(orjson.dumps(call.messages)) // 4
    written = len(_spoken(call)[0]) * (call.body.get("n") or 1)
    found: Document = {
        "prompt_tokens": read,
        "completion_tokens": written,
        "total_tokens": read + written,
        "prompt_tokens_details": {"cached_tokens": 8 if call.told(CACHED) else 0},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }
    if call.dialect == "groq":
        return found | {
            "queue_time": 0.01,
            "prompt_time": 0.002,
            "completion_time": 0.1,
            "total_time": 0.102,
        }
    found["prompt_tokens_details"] |= {"audio_tokens": 0, "cache_write_tokens": 0}
    found["completion_tokens_details"] |= {
        "audio_tokens": 0,
        "accepted_prediction_tokens": 0,
        "rejected_prediction_tokens": 0,
    }
    return found


def _logprob(token: str) -> Document:
    return {"token": token, "logprob": -0.1, "bytes": list(token.encode()), "top_logprobs": []}


# --- chat, streamed -------------------------------------------------------------------------------


def event(chunk: Document) -> bytes:
    return b"data: %b\n\n" % orjson.dumps(chunk)


def events(call: Call) -> list[Step]:
    """All chunks but the `[DONE]`."""
    options = call.body.get("stream_options") or {}
    top = head(call, "chat.completion.chunk")
    if call.dialect == "openai" and options.get("include_usage"):
        top["usage"] = None
    chunks = [{**top, "choices": [choice]} for choice in _stream_choices(call)]
    if call.dialect == "groq":
        chunks[0]["x_groq"] = {"id": "req_groq"}
        chunks[-1]["x_groq"] = {"id": "req_groq", "usage": usage(call)}
    elif options.get("include_obfuscation") is not False:
        for number, chunk in enumerate(chunks):
            chunk["obfuscation"] = "aB3dE5gH"[number % 8 :]
    if options.get("include_usage"):
        chunks.append({**top, "choices": [], "usage": usage(call)})
    return [event(chunk) for chunk in chunks]


def _stream_choices(call: Call) -> list[Document]:
    called = tool_called(call)
    spoken, finish = _spoken(call)
    several = range(call.body.get("n") or 1)
    deltas: list[Document] = []
    if called:
        opened = {
            "index": 0,
            "id": "call_up0",
            "type": "function",
            "function": {"name": called[0], "arguments": ""},
        }
        deltas.append({"role": "assistant", "content": None, "tool_calls": [opened]})
        deltas += [
            {"tool_calls": [{"index": 0, "function": {"arguments": one}}]} for one in spoken
        ]
    else:
        deltas.append({"role": "assistant", "content": "", "refusal": None})
        deltas += [{"content": one} for one in spoken]
    if call.dialect == "groq":
        deltas[0].pop("refusal", None)
    found = [_choice(index, delta, None, call) for delta in deltas for index in several]
    return found + [_choice(index, {}, finish, call) for index in several]


def _choice(index: int, delta: Document, finish: str | None, call: Call) -> Document:
    token = delta.get("content")
    wanted = call.body.get("logprobs") and token
    logprobs = {"content": [_logprob(token)], "refusal": None} if wanted and token else None
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}


# --- the other routes -----------------------------------------------------------------------------


def completions(call: Call) -> Reply:
    top = {
        "id": "cmpl-upstream",
        "object": "text_completion",
        "created": CREATED,
        "model": call.model,
    }
    spoken = tokens(words(call))
    counted = {
        "prompt_tokens": 10,
        "completion_tokens": len(spoken),
        "total_tokens": 10 + len(spoken),
    }

    def choice(text: str, finish: str | None) -> Document:
        return {"text": text, "index": 0, "logprobs": None, "finish_reason": finish}

    if not call.stream:
        return Reply.json(
            200, {**top, "choices": [choice("".join(spoken), "stop")], "usage": counted}
        )
    chunks: list[Document] = [{**top, "choices": [choice(one, None)]} for one in spoken]
    chunks.append({**top, "choices": [choice("", "stop")]})
    if (call.body.get("stream_options") or {}).get("include_usage"):
        chunks.append({**top, "choices": [], "usage": counted})
    return Reply.sse([*(event(chunk) for chunk in chunks), DONE])


def embeddings(call: Call) -> Reply:
    given = call.body["input"]
    single = isinstance(given, str) or isinstance(given[0], int)
    base64 = call.body.get("encoding_format") == "base64"
    dimensions = call.body.get("dimensions") or 1536
    data = [
        {"object": "embedding", "index": index, "embedding": _vector(item, dimensions, base64)}
        for index, item in enumerate([given] if single else given)
    ]
    read = len(orjson.dumps(given)) // 4
    counted = {"prompt_tokens": read, "total_tokens": read}
    return Reply.json(200, {"object": "list", "data": data, "model": call.model, "usage": counted})


def _vector(item: Any, dimensions: int, base64: bool) -> Any:
    """Bytes of a digest as numbers, scaled to length one."""
    raw = [byte - 127.5 for byte in shake_256(orjson.dumps(item)).digest(dimensions)]
    length = sqrt(sum(number * number for number in raw))
    packed = array("f", [number / length for number in raw])
    return b64encode(packed.tobytes()).decode() if base64 else packed.tolist()


def models(call: Call) -> Reply:
    groq = call.dialect == "groq"
    data: list[Document] = [
        {
            "id": name,
            "object": "model",
            "created": CREATED,
            "owned_by": "Groq" if groq else "system",
        }
        for name in (GROQ_MODELS if groq else MODELS)
    ]
    for model in data:
        model |= {"active": True, "context_window": 131_072} if groq else {"shutdown_date": None}
    if not groq:
        data[2]["shutdown_date"] = "2027-04-01"
    return Reply.json(200, {"object": "list", "data": data})
