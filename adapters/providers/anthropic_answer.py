"""A whole message as an OpenAI completion, and Anthropic's token counts as ours.

Anthropic's `input_tokens` leave out what was read from or written to its prompt cache, OpenAI's
`prompt_tokens` include both; the buckets of `Usage` are disjoint like Anthropic's.
"""

from __future__ import annotations

from typing import Any

import orjson

from adapters.providers.anthropic_request import Outgoing
from domain.answer import Completion, Document
from domain.errors import UpstreamFailed
from domain.usage import MAX_TOKENS, Usage

_FINISH = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}


def from_message(message: Document, outgoing: Outgoing, created: int) -> Completion:
    """Raises UpstreamFailed if the document is not a whole message. `created` is seconds since the epoch."""
    if type(message) is not dict or message.get("type") != "message":
        raise UpstreamFailed("Anthropic answered something that is not a message.")
    content = message.get("content")
    if type(content) is not list:
        raise UpstreamFailed("Anthropic answered a message without content.")
    blocks = [block for block in content if type(block) is dict]
    usage = read_usage(message.get("usage"))
    document: Document = {
        "id": text_of(message, "id"),
        "object": "chat.completion",
        "created": created,
        "model": text_of(message, "model"),
        "choices": [
            {
                "index": 0,
                "message": _reply(blocks, refusal_of(message), functions=outgoing.functions),
                "logprobs": None,
                "finish_reason": finish_reason(
                    message.get("stop_reason"), functions=outgoing.functions
                ),
            }
        ],
    }
    if usage is not None:
        document["usage"] = usage_document(usage)
    return Completion(document, usage, service_tier_of(message.get("usage")))


def _reply(blocks: list[Document], refusal: str | None, *, functions: bool) -> Document:
    text = "".join(text_of(block, "text") for block in blocks if block.get("type") == "text")
    calls = [_call(block) for block in blocks if block.get("type") == "tool_use"]
    reply: Document = {
        "role": "assistant",
        "content": None if calls and not text else text,
        "refusal": refusal,
    }
    if calls and functions:
        reply["function_call"] = calls[0]["function"]
    elif calls:
        reply["tool_calls"] = calls
    return reply


def _call(block: Document) -> Document:
    return {
        "id": text_of(block, "id"),
        "type": "function",
        "function": {"name": text_of(block, "name"), "arguments": arguments_of(block)},
    }


def text_of(holder: Document, field: str) -> str:
    """A string that must be there."""
    found = holder.get(field)
    if type(found) is not str:
        raise UpstreamFailed(f"Anthropic answered without '{field}' where it belongs.")
    return found


def arguments_of(block: Document) -> str:
    """The input of a `tool_use` block as the JSON text that OpenAI's clients parse."""
    found = block.get("input")
    return orjson.dumps(found if type(found) is dict else {}).decode()


def finish_reason(stop_reason: Any, *, functions: bool) -> str:
    """Reasons yet unknown count as an ordinary end; none at all is a broken answer."""
    if type(stop_reason) is not str:
        raise UpstreamFailed("Anthropic ended an answer without saying why.")
    found = _FINISH.get(stop_reason, "stop")
    return "function_call" if found == "tool_calls" and functions else found


def refusal_of(ending: Document) -> str | None:
    """Why the model refused, in words, from a message or the delta that ends one."""
    details = ending.get("stop_details")
    if ending.get("stop_reason") != "refusal" or type(details) is not dict:
        return None
    found = details.get("explanation")
    return found if type(found) is str and found else None


def service_tier_of(told: Any) -> str | None:
    found = told.get("service_tier") if type(told) is dict else None
    return found if type(found) is str else None


# --- tokens -----------------------------------------------------------------------------------------


def read_usage(told: Any) -> Usage | None:
    """None if a count that is billed is missing or cannot be true: unknown is not zero."""
    if type(told) is not dict:
        return None
    split, details = _part(told, "cache_creation"), _part(told, "output_tokens_details")
    if split is None or details is None:
        return None
    plain, output = _count(told, "input_tokens", -1), _count(told, "output_tokens", -1)
    read, written = (
        _count(told, "cache_read_input_tokens"),
        _count(told, "cache_creation_input_tokens"),
    )
    short = _count(split, "ephemeral_5m_input_tokens")
    long = _count(split, "ephemeral_1h_input_tokens")
    thought = _count(details, "thinking_tokens")
    if min(plain, output, read, written, short, long, thought) < 0:
        return None
    # A stream restates the sum only; without a split, all was written for five minutes.
    return Usage(
        input=plain,
        cache_read=read,
        cache_write=max(written - long, short),
        cache_write_1h=long,
        output=output,
        reasoning=min(thought, output),
    )


def _part(told: Document, field: str) -> Document | None:
    found = told.get(field)
    if found is None:
        return {}
    return found if type(found) is dict else None


def _count(told: Document, field: str, missing: int = 0) -> int:
    """-1 for what is no count."""
    found = told.get(field)
    if found is None:
        return missing
    return found if type(found) is int and 0 <= found <= MAX_TOKENS else -1


def usage_document(usage: Usage) -> Document:
    """OpenAI's usage object: what was cached, written and thought are parts of the two sums."""
    return {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.completion,
        "total_tokens": usage.total,
        "prompt_tokens_details": {
            "cached_tokens": usage.cache_read,
            "cache_write_tokens": usage.cache_write + usage.cache_write_1h,
        },
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning},
    }
