"""OpenAI's chat body as a body of Anthropic's Messages API: every field is mapped, dropped or refused.

Where silence would mislead the caller (audio that is not heard, logprobs that are not there) the answer is a 400
that names the field; what only hints or keeps books is dropped. The messages themselves are in `anthropic_turns`.
"""

from __future__ import annotations

import re
from hashlib import sha256

from adapters.providers.anthropic_schema import narrow
from adapters.providers.anthropic_tools import functions_of, is_forced, tools_of
from adapters.providers.anthropic_turns import converse
from domain.answer import Document
from domain.errors import InvalidRequest
from domain.models import ClaudeAbilities
from domain.value import value

VERSION = "2026-10-21"
"""Refuses `temperature`, `top_p` and `top_k`, even at their defaults (Anthropic's API versions)."""
SAMPLING_VERSION = "2023-06-01"

_MAPPED = frozenset(
    {
        "model",
        "messages",
        "stream",
        "stream_options",
        "max_tokens",
        "max_completion_tokens",
        "stop",
        "temperature",
        "top_p",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "functions",
        "function_call",
        "response_format",
        "reasoning_effort",
        "user",
        "safety_identifier",
        "thinking",
        "cache_control",
    }
)
_DROPPED = frozenset(
    {
        "seed",
        "presence_penalty",
        "frequency_penalty",
        "logit_bias",
        "store",
        "metadata",
        "prediction",
        "verbosity",
        "service_tier",
        "prompt_cache_key",
        "prompt_cache_retention",
        "prompt_cache_options",
    }
)
_CHECKED = frozenset({"n", "logprobs", "top_logprobs", "modalities"})
_REFUSED = frozenset({"audio", "web_search_options", "moderation"})

_LEVELS = ("low", "medium", "high", "xhigh", "max")
_BUDGETS = {"low": 1_024, "medium": 4_096, "high": 16_384, "xhigh": 24_576, "max": 32_768}
_LEAST_BUDGET = 1_024
_JSON_ONLY = (
    "Answer with one valid JSON object and nothing else: no prose around it, no code fence."
)
_PHONE = re.compile(r"[+(]?[0-9](?:[ ().\-/]*[0-9]){6,14}")
_LONGEST_USER = 256


@value
class Outgoing:
    """A request as it leaves. `version` is the `anthropic-version` header; `functions`: the caller used the
    old functions and reads `function_call` in the answer.
    """

    payload: Document
    version: str
    functions: bool


def to_messages(
    body: Document, model: str, abilities: ClaudeAbilities, *, stream: bool
) -> Outgoing:
    """`body` is a checked chat body and stays as it is. Raises InvalidRequest with the field in `param`."""
    _refuse(body)
    functions = bool(body.get("functions"))
    limit = _limit(body, abilities)
    system, turns = _conversation(body, abilities)
    payload: Document = {"model": model, "max_tokens": limit, "messages": turns}
    if system:
        payload["system"] = system
    tools, choice = functions_of(body) if functions else tools_of(body, abilities)
    if tools:
        payload["tools"] = tools
    forced = is_forced(choice)
    if forced and not abilities.forced_tools:
        raise InvalidRequest(
            "This model decides by itself whether to call a tool.",
            param="function_call" if functions else "tool_choice",
            code="unsupported_value",
        )
    if choice:
        payload["tool_choice"] = choice
    thinking, effort = _thought(body, abilities, limit, may_think=not forced and _fresh(turns))
    if thinking is not None:
        payload["thinking"] = thinking
    if config := _output(body, abilities, effort):
        payload["output_config"] = config
    sampling = _sampling(body, abilities, thinking)
    payload |= sampling | _stop(body) | _caller(body)
    if body.get("cache_control") is not None:
        payload["cache_control"] = body["cache_control"]
    if stream:
        payload["stream"] = True
    return Outgoing(payload, SAMPLING_VERSION if sampling else VERSION, functions)


def _refuse(body: Document) -> None:
    for field, given in body.items():
        if given is None or field in _MAPPED or field in _DROPPED:
            continue
        if field in _REFUSED:
            raise _unsupported(field)
        if field not in _CHECKED:
            raise InvalidRequest(
                f"Unknown parameter for Claude models: '{field}'.",
                param=field,
                code="unknown_parameter",
            )
    if body.get("n") not in (None, 1):
        raise InvalidRequest(
            "Claude models give one choice: 'n' must be 1.", param="n", code="unsupported_value"
        )
    if body.get("logprobs"):
        raise _unsupported("logprobs")
    if body.get("top_logprobs"):
        raise _unsupported("top_logprobs")
    if body.get("modalities") not in (None, [], ["text"]):
        raise InvalidRequest(
            "Claude models answer in text only.", param="modalities", code="unsupported_value"
        )
    if body.get("functions") and body.get("tools"):
        raise InvalidRequest(
            "'functions' are the old form of 'tools'; send one of them.",
            param="functions",
            code="unsupported_parameter",
        )


def _unsupported(field: str) -> InvalidRequest:
    return InvalidRequest(
        f"'{field}' is not supported by Claude models.", param=field, code="unsupported_parameter"
    )


def _limit(body: Document, abilities: ClaudeAbilities) -> int:
    # The Messages API requires max_tokens and OpenAI's does not. Thinking counts against it, so any default
    # below the model's own ceiling would shorten answers. Zero only warms the prompt cache there.
    for field in ("max_completion_tokens", "max_tokens"):
        asked = body.get(field)
        if asked is None:
            continue
        if asked < 1:
            raise InvalidRequest(
                f"'{field}' must be at least 1.", param=field, code="integer_below_min_value"
            )
        return min(int(asked), abilities.max_output)
    return abilities.max_output


def _conversation(
    body: Document, abilities: ClaudeAbilities
) -> tuple[list[Document], list[Document]]:
    said = converse(body["messages"], abilities)
    system = said.system
    if _format(body) == "json_object":
        system = [*system, {"type": "text", "text": _JSON_ONLY}]
    if said.turns:
        return system, said.turns
    if not said.system:
        raise InvalidRequest(
            "'messages' has no text in it.", param="messages", code="invalid_value"
        )
    return [], [{"role": "user", "content": system}]


# --- how it answers ---------------------------------------------------------------------------------


def _thought(
    body: Document, abilities: ClaudeAbilities, limit: int, *, may_think: bool
) -> tuple[Document | None, str | None]:
    """What to send as `thinking`, and as effort."""
    given, asked = body.get("thinking"), body.get("reasoning_effort")
    if given is not None and type(given) is not dict:
        raise InvalidRequest(
            "'thinking' must be an object.", param="thinking", code="invalid_type"
        )
    if asked is None:
        return given, None
    if asked == "none":
        off = next(
            (kind for kind in ("disabled", "between_tools") if kind in abilities.thinking), None
        )
        if given is None and off:
            return {"type": off}, None
        return given, _level("low", abilities.effort)
    wanted = "low" if asked == "minimal" else asked
    if given is not None or abilities.effort or "enabled" not in abilities.thinking:
        return given, _level(wanted, abilities.effort)
    # Half of the limit stays for the text: thinking that eats it all leaves an empty answer.
    budget = min(_BUDGETS[wanted], limit // 2)
    if not may_think or budget < _LEAST_BUDGET:
        return None, None
    return {"type": "enabled", "budget_tokens": budget}, None


def _fresh(turns: list[Document]) -> bool:
    # With a budget, Claude wants its own thinking back beside its tool calls and takes no prefill;
    # OpenAI's shapes carry no thinking, so it starts with a new question only ("Extended thinking").
    last = turns[-1]
    return bool(last["role"] == "user" and last["content"][0]["type"] != "tool_result")


def _level(wanted: str, takes: frozenset[str]) -> str | None:
    """The wanted effort, or the next lower that the model takes, or its lowest."""
    offered = [level for level in _LEVELS if level in takes]
    if not offered:
        return None
    within = _LEVELS[: _LEVELS.index(wanted) + 1]
    return next((level for level in reversed(offered) if level in within), offered[0])


def _output(body: Document, abilities: ClaudeAbilities, effort: str | None) -> Document:
    config: Document = {"effort": effort} if effort else {}
    if _format(body) != "json_schema":
        return config
    if not abilities.structured:
        raise InvalidRequest(
            "This model has no structured outputs.",
            param="response_format.type",
            code="unsupported_value",
        )
    held = body["response_format"].get("json_schema")
    schema = held.get("schema") if type(held) is dict else None
    if type(schema) is not dict:
        raise InvalidRequest(
            "Missing required parameter: 'response_format.json_schema.schema'.",
            param="response_format.json_schema.schema",
            code="missing_required_parameter",
        )
    config["format"] = {"type": "json_schema", "schema": narrow(schema)}
    return config


def _format(body: Document) -> str | None:
    asked = body.get("response_format")
    if asked is None:
        return None
    kind = asked.get("type")
    if kind in ("text", "json_object", "json_schema"):
        return str(kind)
    raise InvalidRequest(
        "'response_format.type' must be text, json_object or json_schema.",
        param="response_format.type",
        code="invalid_value",
    )


def _sampling(body: Document, abilities: ClaudeAbilities, thinking: Document | None) -> Document:
    if not abilities.sampling or (thinking or {}).get("type") in ("adaptive", "enabled"):
        return {}
    found = {
        field: min(body[field], 1)
        for field in ("temperature", "top_p")
        if body.get(field) is not None
    }
    if len(found) == 2 and not abilities.both_samplings:
        del found["top_p"]
    return found


def _stop(body: Document) -> Document:
    asked = body.get("stop")
    entries = [asked] if type(asked) is str else asked or []
    # Only of white space: a 400 there.
    entries = [entry for entry in entries if entry.strip()]
    return {"stop_sequences": entries} if entries else {}


def _caller(body: Document) -> Document:
    field = "safety_identifier" if body.get("safety_identifier") else "user"
    given = body.get(field)
    if not given:
        return {}
    if type(given) is not str:
        raise InvalidRequest(f"'{field}' must be a string.", param=field, code="invalid_type")
    if _names_a_person(given):
        given = sha256(given.encode()).hexdigest()
    return {"metadata": {"user_id": given}}


def _names_a_person(given: str) -> bool:
    # "Do not include any identifying information such as name, email address, or phone number."
    # (Messages API, metadata.user_id; the field holds 256 characters.)
    if len(given) > _LONGEST_USER or "@" in given or _PHONE.fullmatch(given):
        return True
    return any(letter.isspace() for letter in given)
