"""The cache key: what changes it, what does not, and that it is the same on every machine."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any, get_type_hints

import orjson
import pytest
from attrs import evolve
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from domain.cachekey import (
    BOOKKEEPING,
    DELIVERY,
    IGNORED,
    KEYED,
    cache_key,
    item_keys,
    raw_digest,
)
from domain.errors import InvalidRequest
from domain.models import Route
from domain.project import Grant
from domain.request import Endpoint, parse_request

SECRET = bytes(range(32))
GRANT = Grant("prj_1", "key_1", "project", "free", 1, None)
ROUTE = Route("luna", "openai", "gpt-6-luna")
ROOT = Path(__file__).parents[2]
VECTORS = Path(__file__).with_name("cachekey_vectors.json")

QUESTION = {"model": "luna", "messages": [{"role": "user", "content": "Hello"}]}
PROMPT = {"model": "luna", "prompt": "Once"}
INPUT = {"model": "small", "input": "Hello"}
BODIES = {Endpoint.CHAT: QUESTION, Endpoint.COMPLETIONS: PROMPT, Endpoint.EMBEDDINGS: INPUT}


def key(
    body: dict[str, Any] | bytes, grant=GRANT, route=ROUTE, endpoint=Endpoint.CHAT, secret=SECRET
):
    raw = body if type(body) is bytes else orjson.dumps(body)
    return cache_key(secret, grant, route, parse_request(endpoint, raw)).digest


def ask(**fields: Any) -> bytes:
    return key({**QUESTION, **fields})


def say(*messages: Any) -> bytes:
    return ask(messages=list(messages))


# --- the same everywhere -----------------------------------------------------------------------------


def digests() -> list[str]:
    """The digest of each vector, as this process makes it."""
    found = []
    for vector in orjson.loads(VECTORS.read_bytes()):
        grant = evolve(
            GRANT, project=vector["project"], kind=vector["kind"], cache_epoch=vector["epoch"]
        )
        route = Route("any", vector["provider"], vector["model"])
        request = parse_request(Endpoint(vector["endpoint"]), vector["body"].encode())
        if request.endpoint is Endpoint.EMBEDDINGS:
            keys = item_keys(SECRET, grant, route, request, [request.body["input"]])
        else:
            keys = [cache_key(SECRET, grant, route, request)]
        found.append(keys[0].digest.hex())
    return found


def test_the_vectors():
    """A digest that changes makes what is stored unreachable: then VERSION must change, and this file with it."""
    assert [vector["digest"] for vector in orjson.loads(VECTORS.read_bytes())] == digests()


@pytest.mark.parametrize("seed", ["0", "1", "random"])
def test_the_vectors_in_another_process(seed):
    """Neither the hash seed nor the order in which things were made can be seen in a key."""
    script = "from tests.domain.test_cachekey import digests; print(digests() == %r)"
    expected = [vector["digest"] for vector in orjson.loads(VECTORS.read_bytes())]
    done = subprocess.run(
        [sys.executable, "-c", script % expected],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=True,
        timeout=60,
    )

    assert b"True" == done.stdout.strip()


def test_every_vector_differs():
    """Each of them is another request."""
    assert len(digests()) == len(set(digests()))


# --- whose it is ------------------------------------------------------------------------------------

OTHERS = {
    "project": {"grant": evolve(GRANT, project="prj_2")},
    "kind": {"grant": evolve(GRANT, kind="test")},
    "epoch": {"grant": evolve(GRANT, cache_epoch=2)},
    "provider": {"route": Route("luna", "groq", "gpt-6-luna")},
    "model": {"route": Route("luna", "openai", "gpt-6-sol")},
    "secret": {"secret": bytes(32)},
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_whose_it_is_and_who_answers_are_in_the_key(other):
    """No tenant, kind of key, purge, provider or model shares with another."""
    assert key(QUESTION) != key(QUESTION, **other)


def test_the_endpoint_is_in_the_key():
    """A text completion is no chat, even of the same fields."""
    body = {**QUESTION, **PROMPT}

    assert key(body) != key(body, endpoint=Endpoint.COMPLETIONS)


def test_what_is_asked_for_by_another_name_is_the_same():
    """An alias and its model share; so do a project's keys, old and new."""
    assert key(QUESTION) == ask(model="gpt-6-luna")
    assert key(QUESTION) == key(
        QUESTION, grant=evolve(GRANT, key="key_2", plan="pro", ends_at=1.0)
    )


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"project": "a", "kind": "b"}, {"project": "ab", "kind": ""}),
        ({"project": "a", "kind": '","b'}, {"project": 'a","', "kind": "b"}),
        ({"project": 'p","project",1', "kind": "x"}, {"project": "p", "kind": 'project",1,"x'}),
        ({"project": "a\n", "kind": "b"}, {"project": "a", "kind": "\nb"}),
        ({"project": "1", "cache_epoch": 11}, {"project": "11", "cache_epoch": 1}),
    ],
)
def test_no_field_borrows_from_its_neighbour(one, other):
    """However names are chosen, in both digests."""
    grants = [evolve(GRANT, **one), evolve(GRANT, **other)]

    assert key(QUESTION, grant=grants[0]) != key(QUESTION, grant=grants[1])
    first, second = (raw_digest(SECRET, grant, Endpoint.CHAT, "", b"{}") for grant in grants)
    assert first != second


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("gpt", "x"), ("gp", "tx")),
        (("openai", 'm",{"n":2}'), ("openai", "m")),
    ],
)
def test_a_model_cannot_pretend_to_be_a_body(one, other):
    """Nor a provider to be a model."""
    routes = [Route("any", *names) for names in (one, other)]

    assert key(QUESTION, route=routes[0]) != key(QUESTION, route=routes[1])


# --- the body as it came ------------------------------------------------------------------------------


def test_equal_bytes_are_an_equal_request():
    """One byte, one tenant, one endpoint or one word to the cache more, and it is another."""
    base = (GRANT, Endpoint.CHAT, "no-cache\n60", b'{"model":"m"}')
    variants = [
        base,
        (evolve(GRANT, project="prj_2"), *base[1:]),
        (evolve(GRANT, kind="test"), *base[1:]),
        (evolve(GRANT, cache_epoch=2), *base[1:]),
        (GRANT, Endpoint.COMPLETIONS, *base[2:]),
        (*base[:2], "no-cache\n6", b'{"model":"m"}'),
        (*base[:2], "no-cache\n60", b'{"model":"m"} '),
        (*base[:2], "", b'no-cache\n60\n\n{"model":"m"}'),
        (*base[:2], "no-cache\n60\n", b'\n{"model":"m"}'),
        (*base[:2], 'no-cache\n60"]', b'{"model":"m"}'),
    ]
    found = [raw_digest(SECRET, *variant) for variant in variants]

    assert len(set(found)) == len(variants)
    assert found[0] == raw_digest(SECRET, evolve(GRANT, key="key_2"), *base[1:])
    assert found[0] != raw_digest(bytes(32), *base)


# --- which fields speak --------------------------------------------------------------------------------

SPOKEN: dict[str, tuple[Any, Any]] = {
    "temperature": (0.5, 0.6),
    "top_p": (0.5, 0.6),
    "n": (2, 3),
    "max_completion_tokens": (5, 6),
    "max_tokens": (5, 6),
    "stop": ("a", "b"),
    "presence_penalty": (0.5, 1),
    "frequency_penalty": (0.5, 1),
    "logit_bias": ({"1": 1}, {"1": 2}),
    "logprobs": (True, False),
    "top_logprobs": (1, 2),
    "seed": (1, 2),
    "tools": ([{"type": "function"}], [{"type": "custom"}]),
    "tool_choice": ("auto", "none"),
    "parallel_tool_calls": (True, False),
    "functions": ([{"name": "f"}], [{"name": "g"}]),
    "function_call": ("auto", {"name": "f"}),
    "response_format": ({"type": "text"}, {"type": "json_object"}),
    "reasoning_effort": ("low", "high"),
    "verbosity": ("low", "high"),
    "prediction": ({"content": "a"}, {"content": "b"}),
    "modalities": (["text"], ["text", "audio"]),
    "audio": ({"voice": "a"}, {"voice": "b"}),
    "web_search_options": ({}, {"search_context_size": "low"}),
    "moderation": ({"model": "a"}, {"model": "b"}),
    "prompt": ("a", "b"),
    "best_of": (1, 2),
    "echo": (True, False),
    "suffix": ("a", "b"),
    "messages": ([{"role": "user", "content": "a"}], [{"role": "user", "content": "b"}]),
    "input": ("a", "b"),
    "dimensions": (1, 2),
    "enable_thinking": (True, False),
    "encoding_format": ("float", "base64"),
}


@pytest.mark.parametrize("name", SPOKEN)
def test_a_field_that_speaks_changes_the_key(name):
    """Every known field that can change an answer, and every unknown one."""
    one, other = SPOKEN[name]

    assert 3 == len({key(QUESTION), ask(**{name: one}), ask(**{name: other})})


def test_every_spoken_field_was_tried():
    """The table above has no gap."""
    assert set() == KEYED - set(SPOKEN)


@pytest.mark.parametrize("name", sorted(IGNORED - {"model", "stream", "stream_options"}))
def test_who_asks_and_how_it_travels_is_not_in_the_key(name):
    """One entry serves every user, form and tier."""
    value: Any = {"metadata": {"a": "b"}, "store": False}.get(name, "anything")

    assert key(QUESTION) == ask(**{name: value})


def test_one_entry_serves_streams_and_whole_answers():
    """With or without usage at the end."""
    assert key(QUESTION) == ask(stream=True)
    assert key(QUESTION) == ask(stream=True, stream_options={"include_usage": True})


def test_no_field_is_in_two_lists():
    """Each is placed once."""
    assert set() == KEYED & IGNORED
    assert IGNORED == DELIVERY | BOOKKEEPING | {"model"}


@pytest.mark.parametrize(
    ("module", "params", "travels"),
    [
        ("openai.types.chat.completion_create_params", "CompletionCreateParamsStreaming", set()),
        (
            "openai.types.chat.completion_create_params",
            "CompletionCreateParamsNonStreaming",
            set(),
        ),
        ("openai.types.completion_create_params", "CompletionCreateParamsStreaming", set()),
        ("openai.types.completion_create_params", "CompletionCreateParamsNonStreaming", set()),
        ("openai.types.embedding_create_params", "EmbeddingCreateParams", {"encoding_format"}),
    ],
)
def test_every_field_of_the_official_client_is_placed(module, params, travels):
    """A new field of the API is put in or out of the key by somebody who read what it does."""
    fields = set(get_type_hints(getattr(import_module(module), params)))

    assert set() == fields - KEYED - IGNORED - travels


# --- equal meaning, equal key --------------------------------------------------------------------------

SAME: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "null is absent": ({"temperature": None, "tools": None, "brand_new": None}, {}),
    "one choice is the default": ({"n": 1}, {}),
    "a stop and its list": ({"stop": "a"}, {"stop": ["a"]}),
    "1 and 1.0": ({"temperature": 1}, {"temperature": 1.0}),
    "0 and -0.0": ({"temperature": 0}, {"temperature": -0.0}),
    "numbers inside": ({"logit_bias": {"1": 5}}, {"logit_bias": {"1": 5.0}}),
    "the order of names inside": (
        {"logit_bias": {"1": 5, "2": 6}},
        {"logit_bias": {"2": 6, "1": 5}},
    ),
    "the order in a tool, but for its schema": (
        {
            "tools": [
                {"type": "function", "function": {"name": "f", "parameters": {"a": 1, "b": 2}}}
            ]
        },
        {
            "tools": [
                {"function": {"parameters": {"a": 1, "b": 2}, "name": "f"}, "type": "function"}
            ]
        },
    ),
    "a text and its only part": (
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}]},
        {},
    ),
    "a provider's cache mark": (
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"text": "Hello", "type": "text", "prompt_cache_breakpoint": {"ttl": "1h"}}
                    ],
                }
            ]
        },
        {},
    ),
    "nulls in a message": (
        {"messages": [{"role": "user", "content": "Hello", "name": None, "refusal": None}]},
        {},
    ),
}


@pytest.mark.parametrize(("one", "other"), SAME.values(), ids=SAME)
def test_equal_meaning_equal_key(one, other):
    """What no provider can tell apart shares one entry."""
    assert ask(**one) == ask(**other)


USER = {"role": "user", "content": "Hello"}


def schema(*names: str) -> dict[str, Any]:
    return {"type": "object", "properties": {name: {"type": "string"} for name in names}}


def form(of: Any) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": of}}}


def tool(of: Any) -> dict[str, Any]:
    return {"tools": [{"type": "function", "function": {"name": "f", "parameters": of}}]}


DIFFERENT: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "1 and true, unknown": ({"brand_new": 1}, {"brand_new": True}),
    "1 and true, inside": ({"tool_choice": {"a": 1}}, {"tool_choice": {"a": True}}),
    "0 and false": ({"brand_new": 0}, {"brand_new": False}),
    "1 and '1'": ({"brand_new": 1}, {"brand_new": "1"}),
    "an object and its text": ({"brand_new": {"a": 1}}, {"brand_new": '{"a":1}'}),
    "case": ({"messages": [USER]}, {"messages": [{"role": "user", "content": "hello"}]}),
    "white space": ({"messages": [USER]}, {"messages": [{"role": "user", "content": "Hello "}]}),
    "composed letters": (
        {"messages": [{"role": "user", "content": "\u00e9"}]},
        {"messages": [{"role": "user", "content": "e\u0301"}]},
    ),
    "the order of messages": (
        {"messages": [USER, {"role": "user", "content": "b"}]},
        {"messages": [{"role": "user", "content": "b"}, USER]},
    ),
    "who says it": (
        {"messages": [USER]},
        {"messages": [{"role": "system", "content": "Hello"}]},
    ),
    "a name": ({"messages": [USER]}, {"messages": [{**USER, "name": "Ann"}]}),
    "one message or two": (
        {"messages": [{"role": "user", "content": "ab"}]},
        {"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]},
    ),
    "one part or two": (
        {"messages": [{"role": "user", "content": "ab"}]},
        {
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
                }
            ]
        },
    ),
    "a text part with something more": (
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hello", "x": 1}]}]},
        {"messages": [USER]},
    ),
    "a part that is no text": (
        {"messages": [{"role": "user", "content": [{"type": "text", "text": [{"type": "a"}]}]}]},
        {"messages": [{"role": "user", "content": [{"type": "a"}]}]},
    ),
    "a part without text": (
        {"messages": [{"role": "assistant", "content": [{"type": "text", "text": None}]}]},
        {"messages": [{"role": "assistant"}]},
    ),
    "an empty text and none": (
        {"messages": [{"role": "assistant", "content": ""}]},
        {"messages": [{"role": "assistant"}]},
    ),
    "stops in another order": ({"stop": ["a", "b"]}, {"stop": ["b", "a"]}),
    "no stop and an empty one": ({"stop": ""}, {}),
    "properties in another order, answer": (form(schema("a", "b")), form(schema("b", "a"))),
    "properties in another order, tool": (tool(schema("a", "b")), tool(schema("b", "a"))),
    "properties in another order, function": (
        {"functions": [{"name": "f", "parameters": schema("a", "b")}]},
        {"functions": [{"name": "f", "parameters": schema("b", "a")}]},
    ),
    "properties in another order, unknown": (
        {"guided_json": schema("a", "b")},
        {"guided_json": schema("b", "a")},
    ),
    "a schema and its text": (form({"a": 1}), form('{"a":1}')),
    "tools in another order": (
        {"tools": [{"type": "function", "function": {"name": n}} for n in "ab"]},
        {"tools": [{"type": "function", "function": {"name": n}} for n in "ba"]},
    ),
    "a field in another place": ({"top_p": 0.5}, {"temperature": 0.5}),
}


@pytest.mark.parametrize(("one", "other"), DIFFERENT.values(), ids=DIFFERENT)
def test_another_meaning_another_key(one, other):
    """What could change an answer never shares."""
    assert ask(**one) != ask(**other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Hello", [1]),
        ([1, 2], "[1,2]"),
        ([1, 2], ["1", "2"]),
        ([[1], [2]], [[1, 2]]),
        ([1, 2], [[1, 2], [1, 2]]),
        (["a", "b"], ["ab"]),
        (["a,b"], ["a", "b"]),
    ],
)
def test_prompts_of_text_and_of_tokens_differ(one, other):
    """Structure is part of the key; nothing is joined with a separator."""
    found = [
        key({**PROMPT, "prompt": prompt}, endpoint=Endpoint.COMPLETIONS) for prompt in (one, other)
    ]

    assert found[0] != found[1]


@pytest.mark.parametrize("endpoint", Endpoint)
@pytest.mark.parametrize("value", [5, "x", [1], [[1]], {"a": 1}, True])
def test_another_endpoints_fields_are_no_trap(endpoint, value):
    """Fields that an endpoint does not look at may hold anything, and speak."""
    for name in (
        "messages",
        "tools",
        "functions",
        "response_format",
        "stop",
        "input",
        "prompt",
        "n",
    ):
        body = {**BODIES[endpoint], name: value}
        try:
            request = parse_request(endpoint, orjson.dumps(body))
        except InvalidRequest:
            continue
        plain = parse_request(endpoint, orjson.dumps(BODIES[endpoint]))

        assert cache_key(SECRET, GRANT, ROUTE, request) != cache_key(SECRET, GRANT, ROUTE, plain)


# --- properties ----------------------------------------------------------------------------------------

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(-1e9, 1e9) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
UNTYPED = sorted(
    {
        "tool_choice",
        "verbosity",
        "prediction",
        "modalities",
        "moderation",
        "prompt",
        "input",
        "unknown",
    }
)
SETS = st.dictionaries(st.sampled_from(UNTYPED), VALUES, max_size=5)


@settings(deadline=None)
@given(SETS, st.randoms())
def test_the_order_of_fields_says_nothing(fields, random):
    """Bodies are not canonical: clients write their fields in any order."""
    body = {**QUESTION, **fields}
    names = list(body)
    random.shuffle(names)

    assert key(body) == key({name: body[name] for name in names})


@settings(deadline=None)
@given(SETS, SETS)
def test_different_documents_have_different_keys(one, other):
    """Equal keys only for what is equal, nulls and the value of numbers apart."""
    assume(_typed(one) != _typed(other))

    assert ask(**one) != ask(**other)


def _typed(value: Any) -> Any:
    """Python says that True is 1; here it is not."""
    if type(value) is dict:
        return {name: _typed(field) for name, field in value.items() if field is not None}
    if type(value) is list:
        return [_typed(field) for field in value]
    if type(value) is float and value.is_integer():
        return "number", int(value)
    return ("number" if type(value) in (int, float) else type(value).__name__), value


@settings(deadline=None)
@given(SETS)
def test_the_question_is_not_touched(fields):
    """Making a key changes nothing of what goes to the provider."""
    raw = orjson.dumps({**QUESTION, **fields, **form({"b": 1.0, "a": None}), **tool({"b": 1.0})})
    request = parse_request(Endpoint.CHAT, raw)
    cache_key(SECRET, GRANT, ROUTE, request)

    assert raw == orjson.dumps(request.body)


# --- embeddings ----------------------------------------------------------------------------------------


def items(given: list[Any], **fields: Any) -> list[bytes]:
    request = parse_request(Endpoint.EMBEDDINGS, orjson.dumps({**INPUT, "input": given, **fields}))
    return [found.digest for found in item_keys(SECRET, GRANT, ROUTE, request, given)]


def test_each_item_has_its_key():
    """A batch shares what any earlier one brought, in whatever order and company."""
    assert items(["a", "b"]) == [*items(["a"]), *items(["b"])]
    assert items(["b", "a"]) == items(["a", "b"])[::-1]


def test_the_form_of_delivery_is_not_in_an_items_key():
    """Floats and base64 are the same vector."""
    assert items(["a"]) == items(["a"], encoding_format="base64") == items(["a"], user="ann")


@pytest.mark.parametrize("fields", [{"dimensions": 256}, {"brand_new": 1}])
def test_what_changes_a_vector_is_in_its_key(fields):
    """The dimensions and whatever we do not know."""
    assert items(["a"]) != items(["a"], **fields)


def test_texts_and_tokens_are_different_items():
    """A token array is no text that looks like it, and no list of one-token texts."""
    assert 4 == len({*items(["[1,2]"]), *items([[1, 2]]), *items(["1,2"]), *items([[12]])})


def test_an_items_key_is_never_a_requests():
    """One item's vector is no answer to the whole request of another shape."""
    body = {**INPUT, "input": "a"}

    assert items(["a"]) == [key(body, endpoint=Endpoint.EMBEDDINGS)]
    assert items(["a"]) != [key({**INPUT, "input": ["a"]}, endpoint=Endpoint.EMBEDDINGS)]
