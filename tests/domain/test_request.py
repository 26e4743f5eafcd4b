"""The one door for a customer's JSON: what comes in, what is turned away and with which words."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.errors import InvalidRequest
from domain.request import (
    MAX_DEPTH,
    MAX_ELEMENTS,
    MAX_NAME,
    Endpoint,
    load_object,
    parse_request,
    prompt_text,
)

GOOD = {
    Endpoint.CHAT: {"model": "gpt-6-luna", "messages": [{"role": "user", "content": "Hello"}]},
    Endpoint.COMPLETIONS: {"model": "gpt-6-luna", "prompt": "Once"},
    Endpoint.EMBEDDINGS: {"model": "text-embedding-3-small", "input": "Hello"},
}


def parse(endpoint: Endpoint, **fields: Any):
    return parse_request(endpoint, orjson.dumps({**GOOD[endpoint], **fields}))


def refusal(endpoint: Endpoint, body: dict[str, Any]) -> tuple[str | None, str | None]:
    with pytest.raises(InvalidRequest) as caught:
        parse_request(endpoint, orjson.dumps(body))
    assert 400 == caught.value.status
    assert "invalid_request_error" == caught.value.type
    return caught.value.param, caught.value.code


# --- good requests ---------------------------------------------------------------------------------


@pytest.mark.parametrize("endpoint", Endpoint)
def test_a_plain_request_is_let_in(endpoint):
    """The body stays the caller's own document, unknown fields included."""
    request = parse(endpoint, brand_new={"a": [1, None]}, temperature=None)

    assert endpoint is request.endpoint
    assert GOOD[endpoint]["model"] == request.model
    assert {**GOOD[endpoint], "brand_new": {"a": [1, None]}, "temperature": None} == request.body
    assert (False, False) == (request.stream, request.include_usage)


@pytest.mark.parametrize(
    ("endpoint", "fields", "expected"),
    [
        (Endpoint.CHAT, {"stream": True}, (True, False)),
        (Endpoint.CHAT, {"stream": None}, (False, False)),
        (Endpoint.CHAT, {"stream": True, "stream_options": {"include_usage": True}}, (True, True)),
        (Endpoint.CHAT, {"stream": True, "stream_options": {"include_usage": 1}}, (True, False)),
        (Endpoint.CHAT, {"stream": True, "stream_options": None}, (True, False)),
        (Endpoint.COMPLETIONS, {"stream": True}, (True, False)),
        (Endpoint.EMBEDDINGS, {"stream": True}, (False, False)),
    ],
)
def test_the_wishes_for_delivery(endpoint, fields, expected):
    """Only true is true; embeddings never stream."""
    request = parse(endpoint, **fields)

    assert expected == (request.stream, request.include_usage)


@pytest.mark.parametrize(
    ("endpoint", "fields"),
    [
        (Endpoint.CHAT, {"temperature": 0, "top_p": 1.0, "n": 128, "seed": -(2**63)}),
        (Endpoint.CHAT, {"temperature": 2, "presence_penalty": -2, "frequency_penalty": 2.0}),
        (Endpoint.CHAT, {"stop": ["a", "b", "c", "d"], "max_tokens": 0}),
        (Endpoint.CHAT, {"stop": "end", "logit_bias": {"50256": -100}}),
        (Endpoint.CHAT, {"logprobs": True, "top_logprobs": 20, "max_completion_tokens": 1}),
        (Endpoint.CHAT, {"messages": [{"role": "assistant", "content": None}]}),
        (Endpoint.CHAT, {"messages": [{"role": "function", "name": "f", "content": None}]}),
        (Endpoint.CHAT, {"messages": [{"role": "assistant"}]}),
        (
            Endpoint.CHAT,
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}]},
        ),
        (Endpoint.CHAT, {"tools": [{"type": "function", "function": {"name": "f"}}]}),
        (Endpoint.CHAT, {"response_format": {"type": "json_object"}, "store": True}),
        (Endpoint.COMPLETIONS, {"prompt": ""}),
        (Endpoint.COMPLETIONS, {"prompt": ["a", ""]}),
        (Endpoint.COMPLETIONS, {"prompt": [1, 2, 3] * 1000}),
        (Endpoint.COMPLETIONS, {"prompt": [[1, 2], [3]]}),
        (Endpoint.COMPLETIONS, {"best_of": 0, "logprobs": 5, "echo": True, "suffix": "."}),
        (Endpoint.EMBEDDINGS, {"input": ["a"] * 2048}),
        (Endpoint.EMBEDDINGS, {"input": [1, 2, 3], "dimensions": 1}),
        (Endpoint.EMBEDDINGS, {"input": [[1], [2, 3]], "encoding_format": "base64"}),
        (Endpoint.EMBEDDINGS, {"encoding_format": None}),
    ],
)
def test_what_the_api_allows_is_let_in(endpoint, fields):
    """Bounds are inclusive, and null is absent."""
    assert {**GOOD[endpoint], **fields} == parse(endpoint, **fields).body


@pytest.mark.parametrize("effort", ["none", "minimal", "low", "medium", "high", "xhigh", "max"])
def test_every_effort_is_known(effort):
    """All efforts of the API pass; which of them a model takes is the provider's to say."""
    assert effort == parse(Endpoint.CHAT, reasoning_effort=effort).body["reasoning_effort"]


@pytest.mark.parametrize("role", ["developer", "system", "user", "assistant", "tool", "function"])
def test_every_role_is_known(role):
    """The legacy role too."""
    parse(Endpoint.CHAT, messages=[{"role": role, "content": "x"}])


@pytest.mark.parametrize(
    "model", ["gpt-4o", "openai/gpt-oss-120b", "ft:gpt-4o:org::id", "a" * 256, "1", "a_b@c"]
)
def test_model_names_that_models_have(model):
    """Slashes, colons and at signs are in real names."""
    assert model == parse(Endpoint.CHAT, model=model).model


# --- refusals --------------------------------------------------------------------------------------

MESSAGE = {"role": "user", "content": "Hello"}
TEXT = "invalid_type"
MISSING = "missing_required_parameter"
LONG = "array_above_max_length"

CHAT_REFUSALS = [
    ({"model": None}, "model", None),
    ({"model": ""}, "model", None),
    ({"model": 4}, "model", TEXT),
    ({"model": ["gpt"]}, "model", TEXT),
    ({"model": "gpt 4"}, "model", None),
    ({"model": "-gpt"}, "model", None),
    ({"model": "gpt\r\nx: y"}, "model", None),
    ({"model": "gpt\n"}, "model", None),
    ({"model": "../../etc/passwd"}, "model", None),
    ({"model": "gpt\u0000"}, "model", None),
    ({"model": "gpt-é"}, "model", None),
    ({"model": "a" * 257}, "model", None),
    ({"messages": None}, "messages", MISSING),
    ({"messages": "Hello"}, "messages", TEXT),
    ({"messages": {"0": MESSAGE}}, "messages", TEXT),
    ({"messages": []}, "messages", "empty_array"),
    ({"messages": [MESSAGE] * 10_001}, "messages", LONG),
    ({"messages": ["Hello"]}, "messages[0]", TEXT),
    ({"messages": [MESSAGE, None]}, "messages[1]", TEXT),
    ({"messages": [{"content": "x"}]}, "messages[0].role", MISSING),
    ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role", "invalid_value"),
    ({"messages": [{"role": ["user"], "content": "x"}]}, "messages[0].role", "invalid_value"),
    ({"messages": [MESSAGE, {"role": "user"}]}, "messages[1].content", MISSING),
    ({"messages": [{"role": "tool", "content": None}]}, "messages[0].content", MISSING),
    ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content", TEXT),
    ({"messages": [{"role": "user", "content": {}}]}, "messages[0].content", TEXT),
    ({"messages": [{"role": "user", "content": ["x"]}]}, "messages[0].content[0]", TEXT),
    ({"messages": [{"role": "user", "content": [{}]}]}, "messages[0].content[0].type", MISSING),
    (
        {"messages": [{"role": "user", "content": [{"type": "text", "text": ""}, {"type": 1}]}]},
        "messages[0].content[1].type",
        MISSING,
    ),
    ({"reasoning_effort": "enormous"}, "reasoning_effort", "invalid_value"),
    ({"reasoning_effort": 3}, "reasoning_effort", "invalid_value"),
    ({"max_completion_tokens": 0}, "max_completion_tokens", "integer_below_min_value"),
    ({"top_logprobs": 21}, "top_logprobs", "integer_above_max_value"),
    ({"top_logprobs": -1}, "top_logprobs", "integer_below_min_value"),
    ({"logprobs": 1}, "logprobs", TEXT),
    ({"parallel_tool_calls": "yes"}, "parallel_tool_calls", TEXT),
    ({"store": 0}, "store", TEXT),
    ({"tools": {}}, "tools", TEXT),
    ({"tools": ["f"]}, "tools", TEXT),
    ({"functions": "f"}, "functions", TEXT),
    ({"functions": [None]}, "functions", TEXT),
    ({"response_format": "json"}, "response_format", TEXT),
    ({"metadata": []}, "metadata", TEXT),
]
SAMPLING_REFUSALS = [
    ({"temperature": 2.1}, "temperature", "decimal_above_max_value"),
    ({"temperature": -0.1}, "temperature", "decimal_below_min_value"),
    ({"temperature": "1"}, "temperature", TEXT),
    ({"temperature": True}, "temperature", TEXT),
    ({"temperature": [1]}, "temperature", TEXT),
    ({"top_p": 1.01}, "top_p", "decimal_above_max_value"),
    ({"top_p": -1}, "top_p", "decimal_below_min_value"),
    ({"presence_penalty": 3}, "presence_penalty", "decimal_above_max_value"),
    ({"presence_penalty": -3}, "presence_penalty", "decimal_below_min_value"),
    ({"frequency_penalty": 2.5}, "frequency_penalty", "decimal_above_max_value"),
    ({"frequency_penalty": {}}, "frequency_penalty", TEXT),
    ({"max_tokens": -1}, "max_tokens", "integer_below_min_value"),
    ({"max_tokens": 2**53 + 1}, "max_tokens", "integer_above_max_value"),
    ({"max_tokens": 16.0}, "max_tokens", TEXT),
    ({"max_tokens": 1e30}, "max_tokens", TEXT),
    ({"max_tokens": True}, "max_tokens", TEXT),
    ({"n": 0}, "n", "integer_below_min_value"),
    ({"n": 129}, "n", "integer_above_max_value"),
    ({"n": True}, "n", TEXT),
    ({"n": "2"}, "n", TEXT),
    ({"seed": 2**63}, "seed", "integer_above_max_value"),
    ({"seed": 0.5}, "seed", TEXT),
    ({"stream": "true"}, "stream", TEXT),
    ({"stream": 1}, "stream", TEXT),
    ({"stream_options": True}, "stream_options", TEXT),
    ({"logit_bias": [1]}, "logit_bias", TEXT),
    ({"stop": 5}, "stop", TEXT),
    ({"stop": ["a", 1]}, "stop", TEXT),
    ({"stop": ["a", None]}, "stop", TEXT),
    ({"stop": ["a"] * 5}, "stop", LONG),
]
COMPLETIONS_REFUSALS = [
    ({"prompt": None}, "prompt", MISSING),
    ({"prompt": 5}, "prompt", TEXT),
    ({"prompt": {}}, "prompt", TEXT),
    ({"prompt": []}, "prompt", "empty_array"),
    ({"prompt": ["a"] * 129}, "prompt", LONG),
    ({"prompt": ["a", 1]}, "prompt", TEXT),
    ({"prompt": [True, False]}, "prompt", TEXT),
    ({"prompt": [[1], []]}, "prompt", TEXT),
    ({"prompt": [[1], ["a"]]}, "prompt", TEXT),
    ({"prompt": [1.5]}, "prompt", TEXT),
    ({"best_of": 21}, "best_of", "integer_above_max_value"),
    ({"logprobs": 6}, "logprobs", "integer_above_max_value"),
    ({"logprobs": True}, "logprobs", TEXT),
    ({"echo": "yes"}, "echo", TEXT),
    ({"suffix": 1}, "suffix", TEXT),
    ({"response_format": "json"}, "response_format", TEXT),
    ({"tools": 5}, "tools", TEXT),
]
EMBEDDINGS_REFUSALS = [
    ({"input": None}, "input", MISSING),
    ({"input": 5}, "input", TEXT),
    ({"input": ""}, "input", "invalid_value"),
    ({"input": []}, "input", "empty_array"),
    ({"input": ["a"] * 2049}, "input", LONG),
    ({"input": ["a", ""]}, "input", "invalid_value"),
    ({"input": ["a", 1]}, "input", TEXT),
    ({"input": [True]}, "input", TEXT),
    ({"input": [[]]}, "input", TEXT),
    ({"input": [[1], ["a"]]}, "input", TEXT),
    ({"dimensions": 0}, "dimensions", "integer_below_min_value"),
    ({"dimensions": "256"}, "dimensions", TEXT),
    ({"encoding_format": "hex"}, "encoding_format", "invalid_value"),
    ({"encoding_format": ["float"]}, "encoding_format", "invalid_value"),
    ({"encoding_format": 1}, "encoding_format", "invalid_value"),
]
REFUSALS = [
    *((Endpoint.CHAT, *row) for row in CHAT_REFUSALS + SAMPLING_REFUSALS),
    *((Endpoint.COMPLETIONS, *row) for row in COMPLETIONS_REFUSALS + SAMPLING_REFUSALS),
    *((Endpoint.EMBEDDINGS, *row) for row in EMBEDDINGS_REFUSALS),
]


@pytest.mark.parametrize(("endpoint", "fields", "param", "code"), REFUSALS)
def test_a_bad_field_is_named(endpoint, fields, param, code):
    """A 400 says which field is at fault and how, as OpenAI does."""
    assert (param, code) == refusal(endpoint, {**GOOD[endpoint], **fields})


def test_an_integer_of_more_than_64_bits_is_none():
    """It would lose digits on its way to a provider."""
    raw = b'{"model":"text-embedding-3-small","input":[18446744073709551616]}'

    with pytest.raises(InvalidRequest) as caught:
        parse_request(Endpoint.EMBEDDINGS, raw)
    assert ("input", TEXT) == (caught.value.param, caught.value.code)


@pytest.mark.parametrize("endpoint", Endpoint)
def test_a_missing_field_is_a_missing_field(endpoint):
    """Absent and null are refused alike."""
    for field in GOOD[endpoint]:
        without = {name: value for name, value in GOOD[endpoint].items() if name != field}

        assert refusal(endpoint, {**without, field: None}) == refusal(endpoint, without)


def test_a_refusal_repeats_nothing_of_the_body():
    """Neither prompts nor keys get into messages and from there into logs."""
    for raw in (
        b'{"model":"gpt","messages":[{"role":"canary"}]}',
        b'{"model":"canary x","messages":[]}',
        b'{"model":"gpt","messages":"canary"}',
        b'{"canary',
        b'{"a": canary}',
    ):
        with pytest.raises(InvalidRequest) as caught:
            parse_request(Endpoint.CHAT, raw)
        assert "canary" not in caught.value.message


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
FIELDS = sorted(
    {name for rows in (CHAT_REFUSALS, SAMPLING_REFUSALS) for fields, *_ in rows for name in fields}
    | {"prompt", "input", "best_of", "echo", "dimensions", "encoding_format", "unknown"}
)


@settings(deadline=None)
@given(st.sampled_from(Endpoint), st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=5))
def test_any_document_is_let_in_or_refused(endpoint, fields):
    """Whatever JSON comes, there is a request or a 400, and its text can always be estimated."""
    try:
        request = parse_request(endpoint, orjson.dumps({**GOOD[endpoint], **fields}))
    except InvalidRequest:
        return

    assert type(prompt_text(request.body)) is str


# --- hostile JSON ----------------------------------------------------------------------------------

HOSTILE = {
    "NaN": b'{"a":NaN}',
    "Infinity": b'{"a":Infinity}',
    "-Infinity": b'{"a":-Infinity}',
    "1e999": b'{"a":1e999}',
    "4,301 digits": b'{"a":' + b"1" * 4301 + b"}",
    "byte order mark": b"\xef\xbb\xbf{}",
    "UTF-16": '{"a":1}'.encode("utf-16"),
    "UTF-16 without a mark": '{"a":1}'.encode("utf-16-le"),
    "UTF-32": '{"a":1}'.encode("utf-32"),
    "Latin-1": '{"a":"é"}'.encode("latin-1"),
    "overlong": b'{"a":"\xc0\xaf"}',
    "escaped lone surrogate": b'{"a":"\\ud800"}',
    "escaped reversed surrogates": b'{"a":"\\udc00\\ud800"}',
    "raw surrogate": b'{"a":"\xed\xa0\x80"}',
    "raw control byte": b'{"a":"\x01"}',
    "raw line end": b'{"a":"\n"}',
    "NUL around": b"\x00{}",
    "trailing garbage": b"{}x",
    "two documents": b"{}{}",
    "trailing comma": b'{"a":1,}',
    "comment": b'{"a":1/**/}',
    "single quotes": b"{'a':1}",
    "bare name": b"{a:1}",
    "leading zero": b'{"a":01}',
    "plus": b'{"a":+1}',
    "hexadecimal": b'{"a":0x1}',
    "no end": b'{"a":',
    "no end of a string": b'{"a":"x',
    "empty": b"",
    "blank": b"  \n ",
    "form": b"model=gpt&messages=hello",
    "multipart": b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\ngpt\r\n--x--',
    "array": b'[{"model":"gpt"}]',
    "string": b'"model"',
    "number": b"42",
    "null": b"null",
    "true": b"true",
    "unbalanced": b'{"a":' + b"[" * 70 + b"]" * 20 + b"}",
    "closed too often": b'{"a":' + b"[" * 70 + b"]" * 90 + b"}",
    "unclosed string after many brackets": b"[" * 70 + b'"' + b'\\"' * 100_000,
    "arrays, 65 deep": b'{"a":' + b"[" * 64 + b"]" * 64 + b"}",
    "objects, 65 deep": b'{"a":' * 65 + b"1" + b"}" * 65,
    "arrays, 1,000 deep": b'{"a":' + b"[" * 1000 + b"]" * 1000 + b"}",
    "arrays, 100,000 deep": b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "objects, 100,000 deep": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "open arrays": b"[" * 1_000_000,
    "open objects": b'{"a":' * 200_000,
    "100,001 elements": b'{"a":[' + b"1," * 99_999 + b"1]}",
    "100,001 strings": b'{"a":[' + b'"",' * 99_999 + b'""]}',
    "empty arrays": b'{"a":[' + b"[ ]," * 100_000 + b"[]]}",
    "a name of 1,025": b'{"' + b"n" * (MAX_NAME + 1) + b'":1}',
}


@pytest.mark.parametrize("raw", HOSTILE.values(), ids=HOSTILE)
def test_hostile_json_is_a_clear_400(raw):
    """No Python version's own parser decides: the answer is the same on all of them."""
    with pytest.raises(InvalidRequest) as caught:
        load_object(raw)

    assert (400, None, None) == (caught.value.status, caught.value.param, caught.value.code)
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 250


HARMLESS = {
    "NUL in a string": (b'{"a":"\\u0000"}', {"a": "\x00"}),
    "delete": (b'{"a":"\x7f"}', {"a": "\x7f"}),
    "the last of two wins": (b'{"a":1,"b":2,"a":3}', {"a": 3, "b": 2}),
    "nested, the last of two wins": (b'{"a":{"b":1,"b":{"c":2}}}', {"a": {"b": {"c": 2}}}),
    "a pair of surrogates": (b'{"a":"\\ud83d\\ude00"}', {"a": "😀"}),
    "white space around": (b' \r\n\t{"a" : 1 }\n', {"a": 1}),
    "largest integer": (b'{"a":18446744073709551615}', {"a": 18446744073709551615}),
    "larger ones are decimals": (b'{"a":18446744073709551616}', {"a": 18446744073709551616.0}),
    "brackets in strings": (b'{"a":"' + b"[{" * 1000 + b'"}', {"a": "[{" * 1000}),
    "brackets after quotes in strings": (
        b'{"a":"\\"' + b"[" * 1000 + b'\\\\","b":[]}',
        {"a": '"' + "[" * 1000 + "\\", "b": []},
    ),
    "commas in strings": (b'{"a":"' + b"," * 200_000 + b'"}', {"a": "," * 200_000}),
    "a name of 1,024": (b'{"' + b"n" * MAX_NAME + b'":1}', {"n" * MAX_NAME: 1}),
}


@pytest.mark.parametrize(("raw", "expected"), HARMLESS.values(), ids=HARMLESS)
def test_odd_but_good_json(raw, expected):
    """What the standard allows is read as everyone reads it."""
    assert expected == load_object(raw)


@pytest.mark.parametrize("way", ["arrays", "objects", "mixed"])
def test_64_levels_are_deep_enough(way):
    """The body itself is the first of them."""
    raw = {
        "arrays": b'{"a":' + b"[" * (MAX_DEPTH - 1) + b"]" * (MAX_DEPTH - 1) + b"}",
        "objects": b'{"a":' * MAX_DEPTH + b"1" + b"}" * MAX_DEPTH,
        "mixed": b'{"a":[' * (MAX_DEPTH // 2) + b"]}" * (MAX_DEPTH // 2),
    }[way]

    assert "a" in load_object(raw)
    with pytest.raises(InvalidRequest, match="nested deeper than 64"):
        load_object(b'{"a":' + raw + b"}")


def test_many_shallow_levels_are_not_deep():
    """Depth counts what is open at once."""
    body = {"a": [[[]] for _ in range(10_000)]}

    assert body == load_object(orjson.dumps(body))


def test_100000_elements_are_not_too_many():
    """The array itself is one of them, and so is every field."""
    body = {"a": [1] * (MAX_ELEMENTS - 1)}

    assert body == load_object(orjson.dumps(body))
    with pytest.raises(InvalidRequest, match="more than 100000 elements"):
        load_object(orjson.dumps({**body, "b": 1}))


def test_empty_containers_count_once():
    """An empty array is one element of what holds it and has none of its own."""
    body = {"a": [[]] * (MAX_ELEMENTS // 2), "b": [{}] * (MAX_ELEMENTS // 2 - 2)}

    assert body == load_object(orjson.dumps(body, option=orjson.OPT_INDENT_2))


@settings(deadline=None)
@given(JSON)
def test_everything_that_json_can_say_arrives(found):
    """Reading what was written gives the same, by the value of numbers."""
    assert {"a": found} == load_object(orjson.dumps({"a": found}))


# --- the text of a request -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, ""),
        ({"prompt": "Once"}, "Once"),
        ({"prompt": ["a", "b"]}, "a\nb"),
        ({"prompt": [1, 2]}, "xxxx\nxxxx"),
        ({"prompt": [[1, 2], [3]]}, "xxxxxxxx\nxxxx"),
        ({"input": "Hello"}, "Hello"),
        ({"input": [[1, 2, 3]]}, "xxxxxxxxxxxx"),
        ({"messages": [{"content": "a"}, {"content": None}, {"content": "b"}]}, "a\nb"),
        (
            {"messages": [{"content": [{"text": "a"}, {"image_url": {}}, {"text": 1}]}]},
            "a\n\n",
        ),
        ({"prompt": "Once", "messages": 5}, "Once"),
        ({"prompt": "Once", "messages": [5, {"content": [7]}]}, "Once\n"),
    ],
)
def test_the_text_that_is_asked_about(body, expected):
    """Tokens that come as numbers count as four letters each, however they are grouped."""
    assert expected == prompt_text(body)
