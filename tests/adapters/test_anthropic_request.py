"""What leaves for Claude: every field of OpenAI's chat body is mapped, dropped or refused."""

from __future__ import annotations

import base64
from copy import deepcopy
from hashlib import sha256
from typing import Any

import orjson
import pytest
from anthropic.types.message_create_params import (
    MessageCreateParamsNonStreaming,
    MessageCreateParamsStreaming,
)
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from adapters.providers.anthropic_dialect import Outgoing, to_messages
from domain.answer import Document
from domain.errors import InvalidRequest
from domain.models import ClaudeAbilities
from domain.request import Endpoint, parse_request

NEW = ClaudeAbilities()
SWITCHABLE = ClaudeAbilities(thinking=frozenset({"adaptive", "disabled"}), forced_tools=True)
BETWEEN = ClaudeAbilities(thinking=frozenset({"adaptive", "between_tools"}))
OF_46 = ClaudeAbilities(
    sampling=True,
    thinking=frozenset({"adaptive", "enabled", "disabled"}),
    forced_tools=True,
    effort=frozenset({"low", "medium", "high", "max"}),
)
OF_45 = ClaudeAbilities(
    max_output=64_000,
    sampling=True,
    thinking=frozenset({"enabled", "disabled"}),
    forced_tools=True,
    prefill=True,
    effort=frozenset(),
)
OPUS_45 = ClaudeAbilities(
    max_output=64_000,
    sampling=True,
    thinking=frozenset({"enabled", "disabled"}),
    forced_tools=True,
    prefill=True,
    effort=frozenset({"low", "medium", "high"}),
)
BOTH = ClaudeAbilities(sampling=True, both_samplings=True)
BARE = ClaudeAbilities(structured=False, images=False, pdf=False)

HELLO: list[Document] = [{"role": "user", "content": "Hello"}]
PNG = "data:image/png;base64,iVBORw0="
PDF = "data:application/pdf;base64,JVBERi0="
NOTE = "data:text/plain;charset=utf-8;base64," + base64.b64encode("Grüße".encode()).decode()
WEATHER: Document = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells the weather.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
NOW: Document = {"type": "function", "function": {"name": "now"}}

# What the newest type no longer knows, since the version of the API that it describes refuses it.
SAMPLING = ("temperature", "top_p")
PARAMETERS: Any = TypeAdapter(MessageCreateParamsNonStreaming)
STREAMED: Any = TypeAdapter(MessageCreateParamsStreaming)


def outgoing(abilities: ClaudeAbilities = NEW, *, stream: bool = False, **fields: Any) -> Outgoing:
    """The request as it leaves, after the promises that hold for each were checked."""
    raw = orjson.dumps({"model": "claude-asked", "messages": HELLO, **fields})
    body = parse_request(Endpoint.CHAT, raw).body
    before = deepcopy(body)
    found = to_messages(body, "claude-sent", abilities, stream=stream)

    assert body == before
    typed = {key: held for key, held in found.payload.items() if key not in SAMPLING}
    assert typed == _whole((STREAMED if stream else PARAMETERS).validate_python(typed))
    return found


def payload(abilities: ClaudeAbilities = NEW, **fields: Any) -> Document:
    return outgoing(abilities, **fields).payload


def refused(abilities: ClaudeAbilities = NEW, **fields: Any) -> tuple[str | None, str | None]:
    with pytest.raises(InvalidRequest) as raised:
        outgoing(abilities, **fields)
    assert raised.value.status == 400
    return raised.value.param, raised.value.code


def _whole(found: Any) -> Any:
    """Pydantic validates inner lists as they are read, and leaves out keys the type does not have."""
    if isinstance(found, dict):
        return {key: _whole(held) for key, held in found.items()}
    if found is None or isinstance(found, str | int | float):
        return found
    return [_whole(held) for held in found]


def text(said: str) -> Document:
    return {"type": "text", "text": said}


def user(*parts: Any) -> Document:
    return {"role": "user", "content": list(parts)}


def call(
    name: str = "weather", made: str = "call_1", arguments: str = '{"city":"Wien"}'
) -> Document:
    return {"id": made, "type": "function", "function": {"name": name, "arguments": arguments}}


def use(name: str = "weather", made: str = "call_1", **given: Any) -> Document:
    return {"type": "tool_use", "id": made, "name": name, "input": given or {"city": "Wien"}}


def result(made: str = "call_1", *content: Document) -> Document:
    found: Document = {"type": "tool_result", "tool_use_id": made}
    return {**found, "content": list(content)} if content else found


async def test_the_least_request() -> None:
    """The model's id and ceiling, one turn, the newest version, and nothing else."""
    found = outgoing()

    assert found.payload == {
        "model": "claude-sent",
        "max_tokens": 128_000,
        "messages": [user(text("Hello"))],
    }
    assert found.version == "2026-10-21"
    assert found.functions is False
    assert outgoing(stream=True).payload == {**found.payload, "stream": True}


# --- messages ---------------------------------------------------------------------------------------

SYSTEM = {"role": "system", "content": "Be kind."}
IMAGE = {"type": "image_url", "image_url": {"url": PNG, "detail": "high"}}
PNG_BLOCK = {
    "type": "image",
    "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0="},
}
DIGEST = "call_" + sha256(b"functions.weather:0").hexdigest()[:24]
CONVERSATIONS: list[tuple[str, list[Document], list[Document] | None, list[Document]]] = [
    (
        "systems are hoisted, in order, from wherever they stand",
        [
            SYSTEM,
            {"role": "developer", "content": [text("Be brief."), text("Be true.")]},
            *HELLO,
            {"role": "system", "content": "Be late."},
        ],
        [text("Be kind."), text("Be brief."), text("Be true."), text("Be late.")],
        [user(text("Hello"))],
    ),
    (
        "blank texts are left out",
        [{"role": "system", "content": " \n"}, user(text(""), text("Hi"), text("\t"))],
        None,
        [user(text("Hi"))],
    ),
    (
        "turns of nothing but blanks are left out",
        [*HELLO, {"role": "assistant", "content": ""}, {"role": "user", "content": "Again"}],
        None,
        [user(text("Hello"), text("Again"))],
    ),
    (
        "a conversation of systems only is a question",
        [SYSTEM, {"role": "user", "content": ""}],
        None,
        [user(text("Be kind."))],
    ),
    (
        "names of participants are dropped",
        [{"role": "user", "name": "ann", "content": "Hello"}],
        None,
        [user(text("Hello"))],
    ),
    (
        "a refusal is text",
        [
            *HELLO,
            {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
            {"role": "user", "content": "Why?"},
            {"role": "assistant", "content": None, "refusal": "Because."},
            {"role": "user", "content": "Oh."},
        ],
        None,
        [
            user(text("Hello")),
            {"role": "assistant", "content": [text("No.")]},
            user(text("Why?")),
            {"role": "assistant", "content": [text("Because.")]},
            user(text("Oh.")),
        ],
    ),
    (
        "an answer begun is passed on",
        [*HELLO, {"role": "assistant", "content": "It is ("}],
        None,
        [user(text("Hello")), {"role": "assistant", "content": [text("It is (")]}],
    ),
    (
        "an image in the request",
        [user(text("What?"), IMAGE)],
        None,
        [user(text("What?"), PNG_BLOCK)],
    ),
    (
        "an image by its address is not fetched",
        [user({"type": "image_url", "image_url": {"url": "HTTPS://example.com/a.png"}})],
        None,
        [user({"type": "image", "source": {"type": "url", "url": "HTTPS://example.com/a.png"}})],
    ),
    (
        "jpg is jpeg",
        [user({"type": "image_url", "image_url": {"url": "DATA:image/JPG;base64,/9j/"}})],
        None,
        [
            user(
                {
                    "type": "image",
                    "source": {"type": "base64", "media_type": "image/jpeg", "data": "/9j/"},
                }
            )
        ],
    ),
    (
        "a PDF",
        [user({"type": "file", "file": {"file_data": PDF, "filename": "a.pdf"}})],
        None,
        [
            user(
                {
                    "type": "document",
                    "source": {
                        "type": "base64",
                        "media_type": "application/pdf",
                        "data": "JVBERi0=",
                    },
                    "title": "a.pdf",
                }
            )
        ],
    ),
    (
        "a text file",
        [user({"type": "file", "file": {"file_data": NOTE}})],
        None,
        [
            user(
                {
                    "type": "document",
                    "source": {"type": "text", "media_type": "text/plain", "data": "Grüße"},
                }
            )
        ],
    ),
    (
        "marks for the prompt cache are passed on",
        [user({**text("Long."), "cache_control": {"type": "ephemeral"}}, text("Short."))],
        None,
        [user({**text("Long."), "cache_control": {"type": "ephemeral"}}, text("Short."))],
    ),
    (
        "a tool's round",
        [
            *HELLO,
            {"role": "assistant", "content": "Let me look.", "tool_calls": [call()]},
            {"role": "tool", "tool_call_id": "call_1", "content": "Rain."},
        ],
        None,
        [
            user(text("Hello")),
            {"role": "assistant", "content": [text("Let me look."), use()]},
            user(result("call_1", text("Rain."))),
        ],
    ),
    (
        "all results in one turn, first, with what the user says behind them",
        [
            *HELLO,
            {"role": "assistant", "tool_calls": [call(), call("now", "call_2", "")]},
            {"role": "tool", "tool_call_id": "call_1", "content": [text("Rain."), text("Wind.")]},
            {"role": "user", "content": "Hurry"},
            {"role": "tool", "tool_call_id": "call_2", "content": ""},
            {"role": "user", "content": "please"},
        ],
        None,
        [
            user(text("Hello")),
            {
                "role": "assistant",
                "content": [
                    use(),
                    {"type": "tool_use", "id": "call_2", "name": "now", "input": {}},
                ],
            },
            user(
                result("call_1", text("Rain."), text("Wind.")),
                result("call_2"),
                text("Hurry"),
                text("please"),
            ),
        ],
    ),
    (
        "ids that Claude refuses become digests, the same on both sides",
        [
            *HELLO,
            {"role": "assistant", "tool_calls": [call(made="functions.weather:0")]},
            {"role": "tool", "tool_call_id": "functions.weather:0", "content": "Rain."},
        ],
        None,
        [
            user(text("Hello")),
            {"role": "assistant", "content": [use(made=DIGEST)]},
            user(result(DIGEST, text("Rain."))),
        ],
    ),
    (
        "functions of the old kind get ids",
        [
            *HELLO,
            {"role": "assistant", "content": None, "function_call": call()["function"]},
            {"role": "function", "name": "weather", "content": "Rain."},
            {"role": "assistant", "content": None, "function_call": call()["function"]},
            {"role": "function", "name": "weather", "content": "Sun."},
        ],
        None,
        [
            user(text("Hello")),
            {"role": "assistant", "content": [use(made="call_function_1")]},
            user(result("call_function_1", text("Rain."))),
            {"role": "assistant", "content": [use(made="call_function_2")]},
            user(result("call_function_2", text("Sun."))),
        ],
    ),
]


@pytest.mark.parametrize(
    ("messages", "system", "turns"),
    [row[1:] for row in CONVERSATIONS],
    ids=[row[0] for row in CONVERSATIONS],
)
async def test_conversations(
    messages: list[Document], system: list[Document] | None, turns: list[Document]
) -> None:
    """Messages become a system prompt and turns."""
    found = payload(messages=messages)

    assert found.get("system") == system
    assert found["messages"] == turns


def assistant(**held: Any) -> list[Document]:
    return [*HELLO, {"role": "assistant", "content": None, **held}]


PART = "messages[0].content[0]"
CALL = "messages[1].tool_calls[0]"
BAD_MESSAGES: list[tuple[str, list[Document], str, str]] = [
    ("no text at all", [{"role": "user", "content": " "}], "messages", "invalid_value"),
    (
        "audio",
        [user({"type": "input_audio", "input_audio": {"data": "", "format": "wav"}})],
        f"{PART}.type",
        "unsupported_value",
    ),
    ("unknown part", [user({"type": "hologram"})], f"{PART}.type", "unsupported_value"),
    (
        "image of a system",
        [{"role": "system", "content": [IMAGE]}],
        f"{PART}.type",
        "unsupported_value",
    ),
    (
        "image of an assistant",
        [{"role": "assistant", "content": [IMAGE]}],
        f"{PART}.type",
        "unsupported_value",
    ),
    ("no text", [user({"type": "text"})], f"{PART}.text", "missing_required_parameter"),
    ("odd text", [user({"type": "text", "text": 7})], f"{PART}.text", "invalid_type"),
    (
        "no image",
        [user({"type": "image_url"})],
        f"{PART}.image_url.url",
        "missing_required_parameter",
    ),
    (
        "image as string",
        [user({"type": "image_url", "image_url": PNG})],
        f"{PART}.image_url.url",
        "missing_required_parameter",
    ),
    *(
        (
            f"image {url[:20]}",
            [user({"type": "image_url", "image_url": {"url": url}})],
            f"{PART}.image_url.url",
            "invalid_image_format",
        )
        for url in (
            "data:image/svg+xml;base64,PHN2Zz4=",
            "data:image/png,raw",
            "data:image/png;base64,",
            "data:image/png",
            "file:///etc/passwd",
            "ftp://example.com/a.png",
            "iVBORw0=",
        )
    ),
    ("no file", [user({"type": "file"})], f"{PART}.file", "missing_required_parameter"),
    (
        "no file data",
        [user({"type": "file", "file": {}})],
        f"{PART}.file.file_data",
        "missing_required_parameter",
    ),
    (
        "file by id",
        [user({"type": "file", "file": {"file_id": "file-1"}})],
        f"{PART}.file.file_id",
        "unsupported_parameter",
    ),
    (
        "zip file",
        [user({"type": "file", "file": {"file_data": "data:application/zip;base64,UEs="}})],
        f"{PART}.file.file_data",
        "unsupported_value",
    ),
    *(
        (
            f"text file {content}",
            [user({"type": "file", "file": {"file_data": f"data:text/plain;base64,{content}"}})],
            f"{PART}.file.file_data",
            "invalid_value",
        )
        for content in ("/w==", "a", "%%%%")
    ),
    (
        "assistant's audio",
        assistant(audio={"id": "a"}),
        "messages[1].audio",
        "unsupported_parameter",
    ),
    ("odd refusal", assistant(refusal=[]), "messages[1].refusal", "invalid_type"),
    ("odd calls", assistant(tool_calls={}), "messages[1].tool_calls", "invalid_type"),
    ("odd call", assistant(tool_calls=[7]), CALL, "invalid_type"),
    (
        "custom call",
        assistant(tool_calls=[{"id": "a", "type": "custom", "custom": {}}]),
        f"{CALL}.type",
        "unsupported_value",
    ),
    (
        "no function",
        assistant(tool_calls=[{"id": "a"}]),
        f"{CALL}.function",
        "missing_required_parameter",
    ),
    (
        "no call id",
        assistant(tool_calls=[{"function": {"name": "x"}}]),
        f"{CALL}.id",
        "missing_required_parameter",
    ),
    (
        "no call name",
        assistant(tool_calls=[{"id": "a", "function": {}}]),
        f"{CALL}.function.name",
        "missing_required_parameter",
    ),
    *(
        (
            f"arguments {arguments}",
            assistant(tool_calls=[call(arguments=arguments)]),
            f"{CALL}.function.arguments",
            "invalid_value",
        )
        for arguments in ("{oops", "[]", '"x"', "NaN")
    ),
    (
        "arguments no text",
        assistant(tool_calls=[call(arguments={})]),  # type: ignore[arg-type]
        f"{CALL}.function.arguments",
        "invalid_type",
    ),
    (
        "no result id",
        [*HELLO, {"role": "tool", "content": "x"}],
        "messages[1].tool_call_id",
        "missing_required_parameter",
    ),
    (
        "function out of the blue",
        [*HELLO, {"role": "function", "name": "weather", "content": "x"}],
        "messages[1].name",
        "invalid_value",
    ),
]


@pytest.mark.parametrize(
    ("messages", "param", "code"),
    [row[1:] for row in BAD_MESSAGES],
    ids=[row[0] for row in BAD_MESSAGES],
)
async def test_messages_that_cannot_be_sent(
    messages: list[Document], param: str, code: str
) -> None:
    """What Claude has no counterpart of is refused, with its place."""
    assert refused(messages=messages) == (param, code)


async def test_what_a_model_cannot_see() -> None:
    """Images and PDFs are refused for a model without eyes; text files are not."""
    pdf = user({"type": "file", "file": {"file_data": PDF}})
    note = user({"type": "file", "file": {"file_data": NOTE}})

    assert refused(BARE, messages=[user(IMAGE)]) == (f"{PART}.type", "unsupported_value")
    assert refused(BARE, messages=[pdf]) == (f"{PART}.file.file_data", "unsupported_value")
    assert payload(BARE, messages=[note])["messages"][0]["content"][0]["type"] == "document"


# --- fields -----------------------------------------------------------------------------------------

GREETING = {
    "type": "json_schema",
    "json_schema": {
        "name": "greeting",
        "description": "A greeting.",
        "strict": True,
        "schema": {
            "type": "object",
            "properties": {"zeal": {"type": "integer", "minimum": 1}, "all": {"type": "boolean"}},
            "required": ["zeal"],
        },
    },
}
NARROWED = {
    "type": "object",
    "properties": {
        "zeal": {"type": "integer", "description": "{minimum: 1}"},
        "all": {"type": "boolean"},
    },
    "required": ["zeal"],
    "additionalProperties": False,
}
HASHED = "ff8d9819fc0e12bf0d24892e45987e249a28dce836a85cad60e28eaaa8c6d976"
MAPPED: list[tuple[ClaudeAbilities, Document, Document]] = [
    (NEW, {"max_completion_tokens": 50, "max_tokens": 70}, {"max_tokens": 50}),
    (NEW, {"max_tokens": 70}, {"max_tokens": 70}),
    (NEW, {"max_completion_tokens": None, "max_tokens": 70}, {"max_tokens": 70}),
    (NEW, {"max_tokens": 500_000}, {"max_tokens": 128_000}),
    (OF_45, {"max_tokens": 100_000}, {"max_tokens": 64_000}),
    (OF_45, {}, {"max_tokens": 64_000}),
    (NEW, {"stop": "END"}, {"stop_sequences": ["END"]}),
    (NEW, {"stop": ["END", "\n ", "", "###"]}, {"stop_sequences": ["END", "###"]}),
    (NEW, {"stop": "\n"}, {}),
    (NEW, {"stop": []}, {}),
    (NEW, {"user": "u-17"}, {"metadata": {"user_id": "u-17"}}),
    (NEW, {"user": "a", "safety_identifier": "b"}, {"metadata": {"user_id": "b"}}),
    (NEW, {"user": ""}, {}),
    (NEW, {"user": "alice@example.com"}, {"metadata": {"user_id": HASHED}}),
    (NEW, {"thinking": {"type": "adaptive"}}, {"thinking": {"type": "adaptive"}}),
    (NEW, {"cache_control": {"type": "ephemeral"}}, {"cache_control": {"type": "ephemeral"}}),
    (NEW, {"response_format": {"type": "text"}}, {}),
    (
        NEW,
        {"response_format": GREETING},
        {"output_config": {"format": {"type": "json_schema", "schema": NARROWED}}},
    ),
    (
        NEW,
        {"response_format": GREETING, "reasoning_effort": "low"},
        {
            "output_config": {
                "effort": "low",
                "format": {"type": "json_schema", "schema": NARROWED},
            }
        },
    ),
    (NEW, {"n": 1, "logprobs": False, "top_logprobs": 0, "modalities": ["text"]}, {}),
]


@pytest.mark.parametrize(("abilities", "given", "expected"), MAPPED)
async def test_mapped_fields(
    abilities: ClaudeAbilities, given: Document, expected: Document
) -> None:
    """Each field of the table comes out as its counterpart, and as nothing else."""
    assert payload(abilities, **given) == {**payload(abilities), **expected}


@pytest.mark.parametrize(
    ("field", "given"),
    [
        ("seed", 7),
        ("presence_penalty", 1),
        ("frequency_penalty", -1),
        ("logit_bias", {"50256": -100}),
        ("store", True),
        ("metadata", {"a": "b"}),
        ("prediction", {"type": "content", "content": "x"}),
        ("verbosity", "low"),
        ("service_tier", "flex"),
        ("prompt_cache_key", "k"),
        ("prompt_cache_retention", "24h"),
        ("prompt_cache_options", {"mode": "auto"}),
        ("stream_options", {"include_usage": True}),
        ("parallel_tool_calls", False),
        ("tool_choice", "auto"),
        ("function_call", "auto"),
        ("temperature", 0.75),
        ("top_p", 0.5),
        ("audio", None),
        ("an_unknown_one", None),
    ],
)
async def test_dropped_fields(field: str, given: Any) -> None:
    """What only hints or keeps books leaves nothing behind."""
    assert outgoing(**{field: given}) == outgoing()


REFUSED: list[tuple[ClaudeAbilities, Document, str, str]] = [
    (NEW, {"n": 2}, "n", "unsupported_value"),
    (NEW, {"logprobs": True}, "logprobs", "unsupported_parameter"),
    (NEW, {"top_logprobs": 3}, "top_logprobs", "unsupported_parameter"),
    (NEW, {"audio": {"voice": "ash", "format": "mp3"}}, "audio", "unsupported_parameter"),
    (NEW, {"modalities": ["text", "audio"]}, "modalities", "unsupported_value"),
    (NEW, {"web_search_options": {}}, "web_search_options", "unsupported_parameter"),
    (NEW, {"moderation": {"model": "x"}}, "moderation", "unsupported_parameter"),
    (NEW, {"an_unknown_one": 1}, "an_unknown_one", "unknown_parameter"),
    (NEW, {"max_tokens": 0}, "max_tokens", "integer_below_min_value"),
    (NEW, {"user": 7}, "user", "invalid_type"),
    (NEW, {"thinking": "hard"}, "thinking", "invalid_type"),
    (NEW, {"response_format": {"type": "xml"}}, "response_format.type", "invalid_value"),
    (NEW, {"response_format": {}}, "response_format.type", "invalid_value"),
    (
        NEW,
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
        "response_format.json_schema.schema",
        "missing_required_parameter",
    ),
    (BARE, {"response_format": GREETING}, "response_format.type", "unsupported_value"),
    (NEW, {"tools": [WEATHER], "tool_choice": "required"}, "tool_choice", "unsupported_value"),
    (
        NEW,
        {"functions": [WEATHER["function"]], "function_call": {"name": "weather"}},
        "function_call",
        "unsupported_value",
    ),
    (NEW, {"tool_choice": "required"}, "tool_choice", "invalid_value"),
    (NEW, {"tools": [WEATHER], "tool_choice": "any"}, "tool_choice", "invalid_value"),
    (
        NEW,
        {"tools": [WEATHER], "tool_choice": {"type": "function"}},
        "tool_choice",
        "invalid_value",
    ),
    (
        NEW,
        {"tools": [WEATHER], "tool_choice": {"type": "custom", "custom": {"name": "x"}}},
        "tool_choice",
        "unsupported_value",
    ),
    (
        NEW,
        {"tools": [WEATHER], "tool_choice": {"type": "allowed_tools", "allowed_tools": {}}},
        "tool_choice",
        "invalid_value",
    ),
    (
        NEW,
        {"tools": [WEATHER], "functions": [{"name": "x"}]},
        "functions",
        "unsupported_parameter",
    ),
    (NEW, {"tools": [{"type": "custom", "custom": {}}]}, "tools[0].type", "unsupported_value"),
    (
        NEW,
        {"tools": [WEATHER, {"type": "function"}]},
        "tools[1].function.name",
        "missing_required_parameter",
    ),
    (
        NEW,
        {"tools": [{"type": "function", "function": {"name": "x", "parameters": "y"}}]},
        "tools[0].function.parameters",
        "invalid_type",
    ),
    (NEW, {"functions": [{}]}, "functions[0].name", "missing_required_parameter"),
]


@pytest.mark.parametrize(("abilities", "given", "param", "code"), REFUSED)
async def test_refused_fields(
    abilities: ClaudeAbilities, given: Document, param: str, code: str
) -> None:
    """Where silence would mislead, the caller is told which field it was."""
    assert refused(abilities, **given) == (param, code)


@pytest.mark.parametrize(
    ("given", "hashed"),
    [
        ("8f14e45f-ceea-467f-a6d9-6b1e2a1c0f5d", False),
        ("user_17", False),
        ("auth0|5f7c", False),
        ("12345", False),
        ("a" * 256, False),
        ("alice@example.com", True),
        ("+43 660 1234567", True),
        ("(555) 123-4567", True),
        ("06601234567", True),
        ("Ann Example", True),
        ("a" * 257, True),
    ],
)
async def test_no_person_is_named(given: str, hashed: bool) -> None:
    """An identifier that may name a person leaves as a digest, the same one each time."""
    expected = sha256(given.encode()).hexdigest() if hashed else given

    assert payload(user=given)["metadata"] == {"user_id": expected}


async def test_json_by_instruction() -> None:
    """json_object is one more line of the system prompt, or of the question that stands in for it."""
    asked: dict[str, Any] = {"response_format": {"type": "json_object"}}
    (line,) = payload(**asked)["system"]
    behind = payload(messages=[SYSTEM, *HELLO], **asked)["system"]
    alone = payload(messages=[SYSTEM], **asked)

    assert "JSON" in line["text"]
    assert behind == [text("Be kind."), line]
    assert alone["messages"] == [user(text("Be kind."), line)]
    assert "system" not in alone


# --- sampling and effort ----------------------------------------------------------------------------

OLD, LATEST = "2023-06-01", "2026-10-21"
SAMPLINGS: list[tuple[ClaudeAbilities, Document, str, Document]] = [
    (OF_46, {}, LATEST, {}),
    (OF_46, {"temperature": 0}, OLD, {"temperature": 0}),
    (OF_46, {"temperature": 1.7}, OLD, {"temperature": 1}),
    (OF_46, {"top_p": 0.9}, OLD, {"top_p": 0.9}),
    (OF_46, {"temperature": 0.5, "top_p": 0.9}, OLD, {"temperature": 0.5}),
    (BOTH, {"temperature": 0.5, "top_p": 0.9}, OLD, {"temperature": 0.5, "top_p": 0.9}),
    (NEW, {"temperature": 0.5, "top_p": 0.9}, LATEST, {}),
    (OF_46, {"temperature": None}, LATEST, {}),
    (OF_46, {"temperature": 0.5, "thinking": {"type": "adaptive"}}, LATEST, {}),
    (OF_46, {"temperature": 0.5, "reasoning_effort": "none"}, OLD, {"temperature": 0.5}),
    (OF_45, {"temperature": 0.5, "reasoning_effort": "high"}, LATEST, {}),
]


@pytest.mark.parametrize(("abilities", "given", "version", "expected"), SAMPLINGS)
async def test_sampling(
    abilities: ClaudeAbilities, given: Document, version: str, expected: Document
) -> None:
    """Sampling parameters go only to models that take them, under the version that does."""
    found = outgoing(abilities, **given)

    assert found.version == version
    assert {key: held for key, held in found.payload.items() if key in SAMPLING} == expected


OFF, BETWEEN_TOOLS = {"type": "disabled"}, {"type": "between_tools"}
EFFORTS: list[tuple[ClaudeAbilities, Document, Any, Any]] = [
    (NEW, {}, None, None),
    (NEW, {"reasoning_effort": "minimal"}, None, "low"),
    (NEW, {"reasoning_effort": "low"}, None, "low"),
    (NEW, {"reasoning_effort": "medium"}, None, "medium"),
    (NEW, {"reasoning_effort": "high"}, None, "high"),
    (NEW, {"reasoning_effort": "xhigh"}, None, "xhigh"),
    (NEW, {"reasoning_effort": "max"}, None, "max"),
    (NEW, {"reasoning_effort": "none"}, None, "low"),
    (SWITCHABLE, {"reasoning_effort": "none"}, OFF, None),
    (BETWEEN, {"reasoning_effort": "none"}, BETWEEN_TOOLS, None),
    (OF_46, {"reasoning_effort": "xhigh"}, None, "high"),
    (OF_46, {"reasoning_effort": "max"}, None, "max"),
    (OPUS_45, {"reasoning_effort": "max"}, None, "high"),
    (OF_45, {"reasoning_effort": "none"}, OFF, None),
    (OF_45, {"reasoning_effort": "minimal"}, 1_024, None),
    (OF_45, {"reasoning_effort": "medium"}, 4_096, None),
    (OF_45, {"reasoning_effort": "high"}, 16_384, None),
    (OF_45, {"reasoning_effort": "max"}, 32_000, None),
    (OF_45, {"reasoning_effort": "high", "max_tokens": 5_000}, 2_500, None),
    (OF_45, {"reasoning_effort": "high", "max_tokens": 2_047}, None, None),
    (OF_45, {"reasoning_effort": "high", "tools": [NOW], "tool_choice": "required"}, None, None),
    (OF_45, {"reasoning_effort": "high", "messages": assistant(content="It is")}, None, None),
    (
        OF_45,
        {
            "reasoning_effort": "high",
            "messages": [
                *assistant(tool_calls=[call()]),
                {"role": "tool", "tool_call_id": "call_1", "content": "x"},
            ],
        },
        None,
        None,
    ),
    (SWITCHABLE, {"reasoning_effort": "high", "thinking": OFF}, OFF, "high"),
    (SWITCHABLE, {"reasoning_effort": "none", "thinking": {"type": "adaptive"}}, {"type": "adaptive"}, "low"),
    (ClaudeAbilities(thinking=frozenset(), effort=frozenset()), {"reasoning_effort": "high"}, None, None),
    (ClaudeAbilities(effort=frozenset({"high"})), {"reasoning_effort": "low"}, None, "high"),
]  # fmt: skip


@pytest.mark.parametrize(("abilities", "given", "thinking", "effort"), EFFORTS)
async def test_effort(
    abilities: ClaudeAbilities, given: Document, thinking: Any, effort: Any
) -> None:
    """Effort by what the model takes: a level, a budget that leaves room for text, or thinking off."""
    found = payload(abilities, **given)
    if type(thinking) is int:
        thinking = {"type": "enabled", "budget_tokens": thinking}

    assert found.get("thinking") == thinking
    assert found.get("output_config") == ({"effort": effort} if effort else None)


# --- tools ------------------------------------------------------------------------------------------

WEATHER_SENT = {
    "name": "weather",
    "description": "Tells the weather.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
}
NOW_SENT = {"name": "now", "input_schema": {"type": "object", "properties": {}}}


def allowed(mode: str, *names: str) -> Document:
    tools = [{"type": "function", "function": {"name": name}} for name in names]
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}


NAMED = {"type": "function", "function": {"name": "now"}}
SINGLE = {"disable_parallel_tool_use": True}
CHOICES: list[tuple[Document, list[Document], Any]] = [
    ({}, [WEATHER_SENT, NOW_SENT], None),
    ({"tool_choice": "auto"}, [WEATHER_SENT, NOW_SENT], {"type": "auto"}),
    ({"tool_choice": "none"}, [WEATHER_SENT, NOW_SENT], {"type": "none"}),
    ({"tool_choice": "required"}, [WEATHER_SENT, NOW_SENT], {"type": "any"}),
    ({"tool_choice": NAMED}, [WEATHER_SENT, NOW_SENT], {"type": "tool", "name": "now"}),
    ({"tool_choice": allowed("auto", "now")}, [NOW_SENT], {"type": "auto"}),
    ({"tool_choice": allowed("required", "now")}, [NOW_SENT], {"type": "any"}),
    ({"tool_choice": allowed("auto")}, [], None),
    ({"parallel_tool_calls": True}, [WEATHER_SENT, NOW_SENT], None),
    ({"parallel_tool_calls": False}, [WEATHER_SENT, NOW_SENT], {"type": "auto", **SINGLE}),
    (
        {"parallel_tool_calls": False, "tool_choice": "required"},
        [WEATHER_SENT, NOW_SENT],
        {"type": "any", **SINGLE},
    ),
    (
        {"parallel_tool_calls": False, "tool_choice": "none"},
        [WEATHER_SENT, NOW_SENT],
        {"type": "none"},
    ),
]


@pytest.mark.parametrize(("given", "tools", "choice"), CHOICES)
async def test_tool_choice(given: Document, tools: list[Document], choice: Any) -> None:
    """Tools and the choice among them, with parallel calls switched off inside the choice."""
    found = payload(SWITCHABLE, tools=[WEATHER, NOW], **given)

    assert found.get("tools", []) == tools
    assert found.get("tool_choice") == choice


@pytest.mark.parametrize(
    ("asked", "choice"),
    [
        (None, {"type": "auto", **SINGLE}),
        ("auto", {"type": "auto", **SINGLE}),
        ("none", {"type": "none"}),
        ({"name": "now"}, {"type": "tool", "name": "now", **SINGLE}),
    ],
)
async def test_functions_of_the_old_kind(asked: Any, choice: Document) -> None:
    """They are tools, called one at a time, and the answer will be of the old kind."""
    found = outgoing(
        SWITCHABLE, functions=[WEATHER["function"], {"name": "now"}], function_call=asked
    )

    assert found.functions is True
    assert found.payload["tools"] == [WEATHER_SENT, NOW_SENT]
    assert found.payload["tool_choice"] == choice


async def test_strict_tools() -> None:
    """A strict schema keeps to what is compiled; a model that compiles none gets it as it is, not strict."""
    parameters = {"properties": {"days": {"type": "integer", "maximum": 9}}}
    tool = {
        "type": "function",
        "function": {"name": "weather", "strict": True, "parameters": parameters},
        "cache_control": {"type": "ephemeral"},
    }
    (found,) = payload(tools=[tool])["tools"]
    (loose,) = payload(BARE, tools=[tool])["tools"]

    assert found == {
        "name": "weather",
        "strict": True,
        "input_schema": {
            "type": "object",
            "properties": {"days": {"type": "integer", "description": "{maximum: 9}"}},
            "additionalProperties": False,
        },
        "cache_control": {"type": "ephemeral"},
    }
    assert loose["input_schema"] == {"type": "object", **parameters}
    assert "strict" not in loose


# --- whatever else a caller sends -------------------------------------------------------------------

WORDS = (
    "type", "text", "role", "content", "name", "function", "arguments", "id", "image_url", "url",
    "file", "file_data", "tool_calls", "function_call", "tool_call_id", "json_schema", "schema",
    "properties", "anyOf", "parameters", "allowed_tools", "mode", "tools", "user", "assistant",
    "tool", "auto", "required", "json_object", PNG, NOTE,
)  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from(WORDS),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=4)
    ),
    max_leaves=12,
)
FIELDS = (
    "messages", "tools", "tool_choice", "functions", "function_call", "response_format", "stop",
    "thinking", "user", "modalities", "reasoning_effort", "cache_control", "parallel_tool_calls",
)  # fmt: skip


@settings(max_examples=150, deadline=None, database=None)
@drawn(
    fields=st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=4),
    message=st.dictionaries(st.sampled_from(WORDS), JSON, max_size=4),
    part=st.dictionaries(st.sampled_from(WORDS), JSON, max_size=4),
    abilities=st.sampled_from([NEW, OF_45, OF_46, BARE]),
)
def test_anything_is_sent_or_refused(
    fields: Document, message: Document, part: Document, abilities: ClaudeAbilities
) -> None:
    """Whatever a caller sends, it is a request or a 400, and never a crash."""
    body = {
        "model": "claude-asked",
        "messages": [
            *HELLO,
            {"role": "assistant", **message},
            user({"type": "text", **part}),
        ],
        **fields,
    }
    try:
        checked = parse_request(Endpoint.CHAT, orjson.dumps(body)).body
        found = to_messages(checked, "claude-sent", abilities, stream=False)
    except InvalidRequest:
        return
    orjson.dumps(found.payload)
