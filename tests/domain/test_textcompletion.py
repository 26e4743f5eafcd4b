"""The legacy endpoint over chat: what is asked, what is refused, and how the answers become one."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.errors import InvalidRequest, UpstreamFailed
from domain.models import Route
from domain.request import Endpoint, ProxyRequest, parse_request
from domain.textcompletion import (
    DEFAULT_MAX_TOKENS,
    REASONING_MAX_TOKENS,
    chat_requests,
    chunk_head,
    prompts,
    text_chunk,
    text_document,
)

ROUTE = Route("luna", "openai", "gpt-6-luna")
THINKER = Route("sol", "openai", "gpt-6-sol", reasoning=True)
CHAT = {"id": "chatcmpl-1", "object": "chat.completion", "created": 18, "model": "gpt-6-luna"}
HEAD = {"id": "cmpl-1", "object": "text_completion", "created": 18, "model": "gpt-6-luna"}


def ask(prompt: Any = "Once", **fields: Any) -> ProxyRequest:
    body = {"model": "luna", "prompt": prompt, **fields}
    return parse_request(Endpoint.COMPLETIONS, orjson.dumps(body))


def said(
    content: Any = " upon", finish: Any = "stop", index: Any = 0, **message: Any
) -> dict[str, Any]:
    return {
        "index": index,
        "message": {"role": "assistant", "content": content, **message},
        "finish_reason": finish,
    }


def text(words: str, index: int = 0, finish: str | None = "stop") -> dict[str, Any]:
    return {"text": words, "index": index, "logprobs": None, "finish_reason": finish}


# --- asked ----------------------------------------------------------------------------------------------


def test_each_prompt_is_a_chat():
    """The user's message is the prompt; what both endpoints know goes along."""
    first, second = chat_requests(
        ask(
            ["a", "b"],
            temperature=0.5,
            stop="x",
            n=2,
            user="ann",
            stream=True,
            echo=True,
            max_tokens=5,
        ),
        ROUTE,
    )

    assert (Endpoint.CHAT, "luna", True) == (first.endpoint, first.model, first.stream)
    assert {
        "model": "luna",
        "temperature": 0.5,
        "stop": "x",
        "n": 2,
        "user": "ann",
        "stream": True,
        "max_tokens": 5,
        "messages": [{"role": "user", "content": "a"}],
    } == first.body
    assert [{"role": "user", "content": "b"}] == second.body["messages"]


@pytest.mark.parametrize(
    ("fields", "route", "expected"),
    [
        ({}, ROUTE, {"max_tokens": DEFAULT_MAX_TOKENS}),
        ({"max_tokens": None}, ROUTE, {"max_tokens": DEFAULT_MAX_TOKENS}),
        ({"max_tokens": 0}, ROUTE, {"max_tokens": 0}),
        ({"max_tokens": 5}, ROUTE, {"max_tokens": 5}),
        ({"max_tokens": 5}, THINKER, {"max_completion_tokens": 5}),
        ({}, THINKER, {"max_completion_tokens": REASONING_MAX_TOKENS}),
        ({"max_completion_tokens": 7}, THINKER, {"max_completion_tokens": 7}),
        ({"max_completion_tokens": 7}, ROUTE, {"max_tokens": 7}),
        ({"max_completion_tokens": 7, "max_tokens": 5}, ROUTE, {"max_tokens": 5}),
    ],
)
def test_the_limit(fields, route, expected):
    """16 as the endpoint says, but enough to think for a model that thinks; one word for it, not two."""
    [request] = chat_requests(ask(**fields), route)

    assert expected == {name: limit for name, limit in request.body.items() if "tokens" in name}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"suffix": "."}, "suffix"),
        ({"logprobs": 0}, "logprobs"),
        ({"logprobs": 5}, "logprobs"),
        ({"logit_bias": {"1": 1}}, "logit_bias"),
        ({"best_of": 2}, "best_of"),
    ],
)
def test_what_chat_cannot_do_is_refused(fields, param):
    """A clear 400, never a silent loss."""
    with pytest.raises(InvalidRequest) as caught:
        chat_requests(ask(**fields), ROUTE)

    assert (param, "unsupported_parameter") == (caught.value.param, caught.value.code)


@pytest.mark.parametrize(
    "fields",
    [
        {"suffix": None},
        {"suffix": ""},
        {"logprobs": None},
        {"logit_bias": {}},
        {"best_of": 1},
        {"best_of": 0},
    ],
)
def test_what_means_nothing_is_not_refused(fields):
    """Clients send their defaults."""
    [request] = chat_requests(ask(**fields), ROUTE)

    assert set(fields) & set(request.body) == set()


@pytest.mark.parametrize("prompt", [[1, 2], [[1], [2]]])
def test_prompts_of_tokens_are_refused(prompt):
    """They mean nothing outside the tokenizer they were made with."""
    with pytest.raises(InvalidRequest) as caught:
        prompts(ask(prompt).body)

    assert ("prompt", "unsupported_value") == (caught.value.param, caught.value.code)


# --- answered --------------------------------------------------------------------------------------------


def test_one_answer():
    """The shape of the legacy endpoint."""
    document = {**CHAT, "system_fingerprint": "fp", "choices": [said()], "usage": {"x": 1}}

    assert {
        **HEAD,
        "system_fingerprint": "fp",
        "choices": [text(" upon")],
        "usage": {"total_tokens": 3},
    } == text_document([document], ask(), {"total_tokens": 3})
    assert {**HEAD, "choices": [text(" upon")]} == text_document(
        [{**CHAT, "choices": [said()]}], ask(), None
    )


def test_choices_are_numbered_prompt_by_prompt():
    """Prompt 1, choice 0 of two is number 2; the echo is each prompt's own."""
    answers = [
        {**CHAT, "choices": [said("1"), said("2", "length", 1)]},
        {**CHAT, "choices": [said("4", index=1), said("3")]},
    ]

    assert [
        text("a1", 0),
        text("a2", 1, "length"),
        text("b4", 3),
        text("b3", 2),
    ] == text_document(answers, ask(["a", "b"], n=2, echo=True), None)["choices"]


def test_a_refusal_is_a_filtered_text():
    """The endpoint has no other word for it."""
    document = {**CHAT, "choices": [said(None, refusal="I cannot.")]}

    assert [text("", 0, "content_filter")] == text_document([document], ask(), None)["choices"]


def delta(fields: Any, finish: Any = None, index: Any = 0) -> dict[str, Any]:
    return {**CHAT, "choices": [{"index": index, "delta": fields, "finish_reason": finish}]}


@pytest.mark.parametrize(
    ("chunk", "echo", "place", "expected"),
    [
        (delta({"role": "assistant", "content": ""}), False, 0, None),
        (delta({"role": "assistant", "content": ""}), True, 0, text("a", 0, None)),
        (delta({"role": "assistant", "content": "x"}, index=1), True, 1, text("bx", 3, None)),
        (delta({"content": "x"}), True, 0, text("x", 0, None)),
        (delta({"content": "x"}, index=1), False, 1, text("x", 3, None)),
        (delta({"reasoning_content": "hm"}), False, 0, None),
        (delta({}, "stop"), False, 1, text("", 2, "stop")),
        (delta(None, "stop"), False, 0, text("", 0, "stop")),
        ({**CHAT, "choices": []}, False, 0, None),
        ({**CHAT, "choices": None}, False, 0, None),
        ({**CHAT}, False, 0, None),
    ],
)
def test_a_chunk(chunk, echo, place, expected):
    """Chunks that say nothing to this endpoint are left out."""
    found = text_chunk(chunk, ask(["a", "b"], n=2, echo=echo), place, chunk_head(chunk))

    assert found == (None if expected is None else {**HEAD, "choices": [expected]})


MALFORMED = [
    {"choices": {"0": 1}},
    {"choices": "x"},
    {"choices": [None]},
    {"choices": ["x"]},
    {"choices": [{"index": "0"}]},
    {"choices": [{"index": -1}]},
    {"choices": [{"index": 1}]},
    {"choices": [{"index": None}]},
    {"choices": [{"index": 0, "message": "x", "delta": "x"}]},
    {"choices": [{"index": 0, "message": {"content": ["x"]}, "delta": {"content": ["x"]}}]},
    {"choices": [{"index": 0, "message": {"content": 5}, "delta": {"content": 5}}]},
]


@pytest.mark.parametrize("odd", MALFORMED)
def test_a_malformed_answer_is_the_providers_fault(odd):
    """Whole or in pieces."""
    with pytest.raises(UpstreamFailed):
        text_document([odd], ask(), None)
    for one in odd["choices"] if type(odd["choices"]) is list else ():
        if type(one) is dict:
            one["finish_reason"] = "stop"
    with pytest.raises(UpstreamFailed):
        text_chunk(odd, ask(), 0, HEAD)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.text(max_size=2),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(
                ["index", "message", "delta", "content", "role", "finish_reason", "refusal"]
            ),
            inner,
        )
    ),
    max_leaves=8,
)


@settings(deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["id", "created", "choices", "system_fingerprint"]), JSON | st.lists(JSON)
    )
)
def test_whatever_a_provider_sends(chat):
    """There is an answer that can be written, or a 502."""
    for make in (
        lambda: text_document([chat], ask(), None),
        lambda: text_chunk(chat, ask(echo=True), 0, chunk_head(chat)),
    ):
        try:
            orjson.dumps(make())
        except UpstreamFailed:
            continue
