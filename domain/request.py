"""The one door for a customer's JSON: bytes in, a request we can trust out, or a clear 400.

The body stays the customer's own document, unknown fields included; we check the fields we read, with the
`param` and `code` that OpenAI gives. What goes to a provider is written anew from the checked document and never
the raw bytes, so that cache, price and provider see the same request (duplicate keys: the last one wins).
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable
from enum import Enum
from itertools import accumulate
from typing import Any

import orjson
from attrs import field

from domain.answer import Document
from domain.errors import InvalidRequest
from domain.value import value

MAX_DEPTH = 64
MAX_ELEMENTS = 100_000
MAX_NAME = 1_024
MAX_MESSAGES = 10_000
MAX_INPUTS = 2_048
MAX_PROMPTS = 128
MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]{0,255}")
_KEY = re.compile(r"(?:lgw|gsk)_|sk-")

ROLES = frozenset({"developer", "system", "user", "assistant", "tool", "function"})
EFFORTS = frozenset({"none", "minimal", "low", "medium", "high", "xhigh", "max"})


class Endpoint(Enum):
    """The three routes that cost money; the value is the path below `/v1`."""

    CHAT = "chat/completions"
    COMPLETIONS = "completions"
    EMBEDDINGS = "embeddings"


@value
class ProxyRequest:
    """A checked request. `include_usage` and `stream` are the caller's wishes for delivery, not for the answer."""

    endpoint: Endpoint
    model: str
    stream: bool
    include_usage: bool
    body: Document = field(repr=False)


def parse_request(endpoint: Endpoint, raw: bytes) -> ProxyRequest:
    """Raises InvalidRequest, with the field at fault in `param`."""
    body = load_object(raw)
    model = body.get("model")
    if model is None or model == "":
        raise InvalidRequest("You must provide a model parameter.", param="model")
    if type(model) is not str:
        raise _wrong_type("model", "a string")
    if not MODEL_NAME.fullmatch(model):
        raise InvalidRequest(
            "The model name has characters or a length no model has.", param="model"
        )
    if _KEY.match(model):
        # It would be repeated in errors and written to the ledger.
        raise InvalidRequest("The model parameter holds an API key.", param="model")
    _CHECKS[endpoint](body)
    stream = body.get("stream") is True and endpoint is not Endpoint.EMBEDDINGS
    options = body.get("stream_options")
    include_usage = type(options) is dict and options.get("include_usage") is True
    return ProxyRequest(endpoint, model, stream, include_usage, body)


def load_object(raw: bytes) -> Document:
    """Strict JSON (RFC 8259): UTF-8, no NaN, no lone surrogates, bounded in depth and size."""
    opened = raw.count(b"[") + raw.count(b"{")
    if opened > MAX_DEPTH or opened + raw.count(b",") > MAX_ELEMENTS:
        _bound_structure(raw)
    try:
        body = orjson.loads(raw)
    except (orjson.JSONDecodeError, RecursionError) as exc:
        raise InvalidRequest(f"The body is not valid JSON: {_reason(exc)}") from None
    if type(body) is not dict:
        raise InvalidRequest("The body must be a JSON object.")
    _bound_names(body)
    return body


def _reason(exc: Exception) -> str:
    # orjson's words name a place, never the text around it, so nothing of a prompt is repeated.
    text = str(exc)
    return text if len(text) < 200 and text.isprintable() else "malformed."


def _bound_structure(raw: bytes) -> None:
    """Counts what stands outside strings before a parser makes objects of it, at a few nanoseconds a byte."""
    plain, strings = _STRING.subn(b"0", raw, 2 * MAX_ELEMENTS + 1)
    plain = plain.translate(None, b" \t\r\n")
    opened = plain.count(b"[") + plain.count(b"{")
    filled = opened - plain.count(b"[]") - plain.count(b"{}")
    # Each value is a name and a string at most.
    if strings > 2 * MAX_ELEMENTS or plain.count(b",") + filled > MAX_ELEMENTS:
        raise InvalidRequest(f"The JSON has more than {MAX_ELEMENTS} elements.")
    if opened <= MAX_DEPTH or opened != plain.count(b"]") + plain.count(b"}"):
        return  # the parser will say what is wrong with brackets that do not match
    steps = array("b", plain.translate(_STEPS, _NO_BRACKETS))
    if max(accumulate(steps)) > MAX_DEPTH:
        raise InvalidRequest(f"The JSON is nested deeper than {MAX_DEPTH} levels.")


# A string may lack its end: then it takes the rest, and no later quote is tried as another beginning.
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def _bound_names(body: Document) -> None:
    for name in body:
        if len(name) > MAX_NAME:
            raise InvalidRequest(f"A field name is longer than {MAX_NAME} characters.")


# --- checks, one function an endpoint -------------------------------------------------------------


def _check_chat(body: Document) -> None:
    messages = _required(body, "messages")
    if type(messages) is not list:
        raise _wrong_type("messages", "an array of message objects")
    if not messages:
        raise InvalidRequest("'messages' must not be empty.", param="messages", code="empty_array")
    if len(messages) > MAX_MESSAGES:
        raise InvalidRequest(
            f"'messages' may hold {MAX_MESSAGES} at most.",
            param="messages",
            code="array_above_max_length",
        )
    for place, message in enumerate(messages):
        _check_message(place, message)
    _integer(body, "top_logprobs", 0, 20)
    _boolean(body, "logprobs")
    _check_sampling(body)
    _check_chat_options(body)


def _check_message(place: int, message: Any) -> None:
    where = f"messages[{place}]"
    if type(message) is not dict:
        raise _wrong_type(where, "an object")
    role = message.get("role")
    if role is None:
        raise _missing(f"{where}.role")
    if type(role) is not str or role not in ROLES:
        raise InvalidRequest(
            f"'{where}.role' must be one of {', '.join(sorted(ROLES))}.",
            param=f"{where}.role",
            code="invalid_value",
        )
    content = message.get("content")
    if type(content) is str:
        return
    if content is None:
        if role not in ("assistant", "function"):
            raise _missing(f"{where}.content")
        return
    if type(content) is not list:
        raise _wrong_type(f"{where}.content", "a string or an array of content parts")
    for number, part in enumerate(content):
        if type(part) is not dict:
            raise _wrong_type(f"{where}.content[{number}]", "an object")
        if type(part.get("type")) is not str:
            raise _missing(f"{where}.content[{number}].type")


def _check_completions(body: Document) -> None:
    prompt = _required(body, "prompt")
    if type(prompt) is list:
        _check_prompts(prompt)
    elif type(prompt) is not str:
        raise _wrong_type("prompt", "a string, an array of strings or an array of tokens")
    _check_sampling(body)
    # Text completions become chat calls, and then these fields speak.
    _check_chat_options(body)
    _integer(body, "best_of", 0, 20)
    _integer(body, "logprobs", 0, 5)
    _boolean(body, "echo")
    _string(body, "suffix")


def _check_prompts(prompts: list[Any]) -> None:
    if not prompts:
        raise InvalidRequest("'prompt' must not be empty.", param="prompt", code="empty_array")
    if all(type(item) is int for item in prompts):
        return
    if len(prompts) > MAX_PROMPTS:
        raise InvalidRequest(
            f"'prompt' may hold {MAX_PROMPTS} at most.",
            param="prompt",
            code="array_above_max_length",
        )
    if all(type(item) is str for item in prompts) or all(_tokens(item) for item in prompts):
        return
    raise _wrong_type("prompt", "an array of strings, of tokens, or of token arrays")


def _check_embeddings(body: Document) -> None:
    given = _required(body, "input")
    if type(given) is list:
        _check_inputs(given)
    elif type(given) is not str:
        raise _wrong_type("input", "a string, an array of strings, or token arrays")
    elif not given:
        raise InvalidRequest(
            "'input' must not be an empty string.", param="input", code="invalid_value"
        )
    _integer(body, "dimensions", 1)
    form = body.get("encoding_format")
    if form not in (None, "float", "base64"):
        raise InvalidRequest(
            "'encoding_format' must be float or base64.",
            param="encoding_format",
            code="invalid_value",
        )


def _check_inputs(inputs: list[Any]) -> None:
    if not inputs:
        raise InvalidRequest("'input' must not be empty.", param="input", code="empty_array")
    if len(inputs) > MAX_INPUTS:
        raise InvalidRequest(
            f"'input' may hold {MAX_INPUTS} at most.", param="input", code="array_above_max_length"
        )
    if all(type(item) is int for item in inputs):
        return
    if all(type(item) is str for item in inputs):
        if not all(inputs):
            raise InvalidRequest(
                "'input' must not hold an empty string.", param="input", code="invalid_value"
            )
        return
    if all(_tokens(item) for item in inputs):
        return
    raise _wrong_type("input", "an array of strings, of tokens, or of token arrays")


def _tokens(item: Any) -> bool:
    return type(item) is list and bool(item) and all(type(token) is int for token in item)


def _check_sampling(body: Document) -> None:
    _number(body, "temperature", 0, 2)
    _number(body, "top_p", 0, 1)
    _number(body, "presence_penalty", -2, 2)
    _number(body, "frequency_penalty", -2, 2)
    _integer(body, "max_tokens", 0)
    _integer(body, "n", 1, 128)
    _integer(body, "seed", -(2**63), 2**63 - 1)
    _boolean(body, "stream")
    _object(body, "stream_options")
    _object(body, "logit_bias")
    stop = body.get("stop")
    if stop is None or type(stop) is str:
        return
    if type(stop) is not list or not all(type(item) is str for item in stop):
        raise _wrong_type("stop", "a string or an array of strings")
    if len(stop) > 4:
        raise InvalidRequest(
            "'stop' may hold 4 at most.", param="stop", code="array_above_max_length"
        )


def _check_chat_options(body: Document) -> None:
    _integer(body, "max_completion_tokens", 1)
    _boolean(body, "parallel_tool_calls")
    _boolean(body, "store")
    _list_of_objects(body, "tools")
    _list_of_objects(body, "functions")
    _object(body, "response_format")
    _object(body, "metadata")
    effort = body.get("reasoning_effort")
    if effort is not None and (type(effort) is not str or effort not in EFFORTS):
        raise InvalidRequest(
            f"'reasoning_effort' must be one of {', '.join(sorted(EFFORTS))}.",
            param="reasoning_effort",
            code="invalid_value",
        )


# --- one field ------------------------------------------------------------------------------------


def _required(body: Document, field: str) -> Any:
    found = body.get(field)
    if found is None:
        raise _missing(field)
    return found


def _missing(field: str) -> InvalidRequest:
    return InvalidRequest(
        f"Missing required parameter: '{field}'.", param=field, code="missing_required_parameter"
    )


def _wrong_type(field: str, wanted: str) -> InvalidRequest:
    return InvalidRequest(f"'{field}' must be {wanted}.", param=field, code="invalid_type")


def _number(body: Document, field: str, least: float, most: float) -> None:
    found = body.get(field)
    if found is None:
        return
    if type(found) not in (int, float):
        raise _wrong_type(field, "a number")
    _bounds(field, found, least, most, "decimal")


def _integer(body: Document, field: str, least: int, most: int = 2**53) -> None:
    found = body.get(field)
    if found is None:
        return
    if type(found) is not int:
        raise _wrong_type(field, "an integer")
    _bounds(field, found, least, most, "integer")


def _bounds(field: str, found: float, least: float, most: float, kind: str) -> None:
    if found < least:
        raise InvalidRequest(
            f"'{field}' must be at least {least}.", param=field, code=f"{kind}_below_min_value"
        )
    if found > most:
        raise InvalidRequest(
            f"'{field}' must be at most {most}.", param=field, code=f"{kind}_above_max_value"
        )


def _typed(wanted: type, words: str) -> Callable[[Document, str], None]:
    def check(body: Document, field: str) -> None:
        found = body.get(field)
        if found is not None and type(found) is not wanted:
            raise _wrong_type(field, words)

    return check


_boolean = _typed(bool, "true or false")
_object = _typed(dict, "an object")
_string = _typed(str, "a string")


def _list_of_objects(body: Document, field: str) -> None:
    found = body.get(field)
    if found is None:
        return
    if type(found) is not list or not all(type(item) is dict for item in found):
        raise _wrong_type(field, "an array of objects")


_CHECKS: dict[Endpoint, Callable[[Document], None]] = {
    Endpoint.CHAT: _check_chat,
    Endpoint.COMPLETIONS: _check_completions,
    Endpoint.EMBEDDINGS: _check_embeddings,
}


def prompt_text(body: Document) -> str:
    """All text a request asks about, for an estimate of its tokens; pictures and files are not counted."""
    found: list[str] = []
    prompt = body.get("prompt", body.get("input"))
    for item in prompt if type(prompt) is list else [prompt]:
        if type(item) is str:
            found.append(item)
        elif item is not None:
            found.append(_FOUR_LETTERS * (len(item) if type(item) is list else 1))
    messages = body.get("messages")
    for message in messages if type(messages) is list else ():
        content = message.get("content") if type(message) is dict else None
        if type(content) is str:
            found.append(content)
        elif type(content) is list:
            found.extend(_text(part) for part in content)
        if type(message) is dict:
            found.extend(_written_out(message, ("tool_calls", "function_call")))
    # The model reads a caller's tools and schemas as it reads any text.
    found.extend(_written_out(body, ("tools", "functions", "response_format")))
    return "\n".join(found)


def _written_out(document: Document, names: tuple[str, ...]) -> list[str]:
    return [orjson.dumps(document[name]).decode() for name in names if document.get(name)]


_FOUR_LETTERS = "xxxx"
"""Stands for a token that came as a number."""


def _text(part: Any) -> str:
    text = part.get("text") if type(part) is dict else None
    return text if type(text) is str else ""
