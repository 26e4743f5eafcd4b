"""When the cache may speak and what it may keep."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.answer import CacheEntry
from domain.cachepolicy import (
    DEFAULT_CONTROLS,
    MAX_TTL,
    Controls,
    Lookup,
    parse_controls,
    plan_lookup,
    why_not_stored,
    young_enough,
)
from domain.errors import InvalidRequest
from domain.request import Endpoint, ProxyRequest, parse_request
from domain.usage import Usage

USAGE = Usage(input=9, output=12)
ALL = Lookup(True, True, 3600, None)


def ask(**fields: Any) -> ProxyRequest:
    body = {"model": "gpt", "messages": [{"role": "user", "content": "Hello"}], **fields}
    return parse_request(Endpoint.CHAT, orjson.dumps(body))


def complete(prompt: Any, **fields: Any) -> ProxyRequest:
    body = {"model": "gpt", "prompt": prompt, **fields}
    return parse_request(Endpoint.COMPLETIONS, orjson.dumps(body))


# --- what a request says ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("", Controls()),
        ("no-cache", Controls(read=False)),
        ("No-Cache", Controls(read=False)),
        ("no-store", Controls(write=False)),
        ("no-cache, no-store", Controls(read=False, write=False)),
        ("no-store,no-cache", Controls(read=False, write=False)),
        (" no-store ; x", Controls()),
        ("max-age=60", Controls(max_age=60)),
        ('max-age="60"', Controls(max_age=60)),
        ("max-age=0", Controls(max_age=0)),
        ("MAX-AGE=60 , no-store", Controls(write=False, max_age=60)),
        ("max-age=60, max-age=10", Controls(max_age=10)),
        ("max-age", Controls()),
        ("max-age=", Controls()),
        ("max-age=-1", Controls()),
        ("max-age=1.5", Controls()),
        ("max-age=٣", Controls()),
        ("max-age=" + "9" * 5000, Controls(max_age=9_999_999_999)),
        ("no-cache=1", Controls()),
        ("only-if-cached, max-stale=5, no-transform, x=y", Controls()),
        (", ,,", Controls()),
        ("no-storex", Controls()),
        ("a," * 1000 + "no-store", Controls(write=False)),
    ],
)
def test_the_words_of_cache_control(words, expected):
    """The standard's words (RFC 9111, section 5.2.1); what is unknown is ignored."""
    assert expected == parse_controls(words, "")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", None),
        ("  ", None),
        ("0", 0),
        ("60", 60),
        (" 60 ", 60),
        ("0060", 60),
        (str(MAX_TTL), MAX_TTL),
        (str(MAX_TTL + 1), MAX_TTL),
        ("9999999999", MAX_TTL),
    ],
)
def test_a_ttl_is_whole_seconds(text, expected):
    """Seven days at most, whatever is asked for."""
    assert Controls(ttl=expected) == parse_controls("", text)


@pytest.mark.parametrize(
    "text", ["-1", "1.5", "60s", "١", "²", "1e3", "1_000", "99999999999", "x"]
)
def test_a_ttl_that_is_no_number_is_a_400(text):
    """Better than another lifetime than was meant."""
    with pytest.raises(InvalidRequest, match="cache-ttl"):
        parse_controls("", text)


@settings(deadline=None)
@given(st.text(), st.text(max_size=3))
def test_any_header_is_read_or_refused(words, ttl):
    """Nothing but a 400 comes of odd headers."""
    try:
        controls = parse_controls(words, ttl)
    except InvalidRequest:
        return

    assert controls.max_age is None or controls.max_age >= 0


# --- what is done with it -------------------------------------------------------------------------------

NEITHER = (False, False, 0, None)


@pytest.mark.parametrize(
    ("fields", "controls", "expected"),
    [
        ({}, DEFAULT_CONTROLS, Lookup(True, True, 100, None)),
        ({}, Controls(read=False), Lookup(False, True, 100, None, "no-cache")),
        ({}, Controls(write=False), Lookup(True, False, 100, None, "no-store")),
        ({}, Controls(read=False, write=False), Lookup(False, False, 100, None, "no-store")),
        ({}, Controls(max_age=5), Lookup(True, True, 100, 5)),
        ({}, Controls(ttl=7), Lookup(True, True, 7, None)),
        ({}, Controls(ttl=0), Lookup(True, False, 0, None, "no-store")),
        ({"store": True}, DEFAULT_CONTROLS, Lookup(*NEITHER, "bypass: store")),
        ({"store": False}, DEFAULT_CONTROLS, Lookup(True, True, 100, None)),
        ({"store": None}, DEFAULT_CONTROLS, Lookup(True, True, 100, None)),
        (
            {"web_search_options": {}},
            DEFAULT_CONTROLS,
            Lookup(*NEITHER, "bypass: web_search_options"),
        ),
        ({"web_search_options": None}, DEFAULT_CONTROLS, Lookup(True, True, 100, None)),
        ({"audio": {"voice": "a"}}, DEFAULT_CONTROLS, Lookup(*NEITHER, "bypass: audio")),
        ({"modalities": ["text", "audio"]}, DEFAULT_CONTROLS, Lookup(*NEITHER, "bypass: audio")),
        ({"modalities": ["text"]}, DEFAULT_CONTROLS, Lookup(True, True, 100, None)),
        ({"modalities": "audio"}, DEFAULT_CONTROLS, Lookup(True, True, 100, None)),
        ({"modalities": [["audio"]]}, DEFAULT_CONTROLS, Lookup(True, True, 100, None)),
        ({"store": True}, Controls(ttl=7, max_age=1), Lookup(*NEITHER, "bypass: store")),
    ],
)
def test_what_a_request_may_do_with_the_cache(fields, controls, expected):
    """Each restriction has the reason it gives."""
    assert expected == plan_lookup(ask(**fields), controls, default_ttl=100)


@pytest.mark.parametrize(
    ("max_age", "age", "expected"),
    [
        (None, 10**9, True),
        (10, 9.9, True),
        (10, 10, True),
        (10, 10.1, False),
        (0, 1, False),
        (0, 0, True),
        (5, -3, True),
    ],
)
def test_nothing_older_than_max_age(max_age, age, expected):
    """A clock that was set back makes nothing old."""
    entry = CacheEntry(b"", "openai", "gpt", USAGE, None, stored_at=1000.0)

    assert expected == young_enough(entry, evolve(ALL, max_age=max_age), 1000.0 + age)


# --- what is kept ----------------------------------------------------------------------------------------


def answer(*choices: Any, **fields: Any) -> dict[str, Any]:
    return {"id": "chatcmpl-1", "object": "chat.completion", "choices": list(choices), **fields}


def choice(
    content: Any = "Hello!", finish: Any = "stop", index: Any = 0, **message: Any
) -> dict[str, Any]:
    return {
        "index": index,
        "message": {"role": "assistant", "content": content, "refusal": None, **message},
        "logprobs": None,
        "finish_reason": finish,
    }


def call(arguments: Any = '{"a":1}', name: Any = "f", **fields: Any) -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {"id": "call_1", "type": "function", "function": function, **fields}


def calling(*calls: Any, finish: Any = "tool_calls", content: Any = None) -> dict[str, Any]:
    return choice(content, finish, tool_calls=list(calls))


def text(words: Any = "upon a time", finish: Any = "stop", index: Any = 0) -> dict[str, Any]:
    return {"index": index, "text": words, "logprobs": None, "finish_reason": finish}


def without(found: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in found.items() if key != name}


def why(request: ProxyRequest, document: Any, usage: Any = USAGE, size: int = 100) -> str:
    return why_not_stored(ALL, request, document, usage, size, most=1000)


PLAIN = ask()
TWO = ask(n=2)
SHORT = ask(max_tokens=5)
JSON = ask(response_format={"type": "json_object"})
SCHEMA = ask(response_format={"type": "json_schema", "json_schema": {"name": "s", "schema": {}}})
SHORT_JSON = ask(response_format={"type": "json_object"}, max_tokens=5)

BAD: dict[str, tuple[ProxyRequest, Any, str]] = {
    "an error in a 200": (PLAIN, answer(choice(), error={"message": "x"}), "error in the answer"),
    "an empty error in a 200": (PLAIN, answer(choice(), error={}), "error in the answer"),
    "an error and nothing else": (PLAIN, {"error": {"message": "x"}}, "error in the answer"),
    "nothing": (PLAIN, {}, "no choices"),
    "choices of null": (PLAIN, {"choices": None}, "no choices"),
    "no choices": (PLAIN, answer(), "no choices"),
    "choices as an object": (PLAIN, {"choices": {"0": choice()}}, "no choices"),
    "choices as a text": (PLAIN, {"choices": "Hello!"}, "no choices"),
    "a choice of null": (PLAIN, answer(None), "malformed choice"),
    "a choice as a text": (PLAIN, answer("Hello!"), "malformed choice"),
    "a choice without a number": (PLAIN, answer(without(choice(), "index")), "malformed choice"),
    "a choice with another number": (PLAIN, answer(choice(index=1)), "choices missing"),
    "a choice numbered by a text": (PLAIN, answer(choice(index="0")), "malformed choice"),
    "a choice numbered by false": (PLAIN, answer(choice(index=False)), "malformed choice"),
    "one choice of two": (TWO, answer(choice()), "choices missing"),
    "the same choice twice": (TWO, answer(choice(), choice()), "choices missing"),
    "one choice too many": (PLAIN, answer(choice(), choice(index=1)), "choices missing"),
    "one bad of two": (
        TWO,
        answer(choice(), choice(index=1, finish="content_filter")),
        "finish_reason content_filter",
    ),
    "one of two prompts": (complete(["a", "b"]), answer(text()), "choices missing"),
    "no finish_reason": (
        PLAIN,
        answer(without(choice(), "finish_reason")),
        "finish_reason missing",
    ),
    "finish_reason null": (PLAIN, answer(choice(finish=None)), "finish_reason missing"),
    "filtered": (PLAIN, answer(choice(finish="content_filter")), "finish_reason content_filter"),
    "filtered, no text": (
        PLAIN,
        answer(choice("", "content_filter")),
        "finish_reason content_filter",
    ),
    "cut, no limit set": (PLAIN, answer(choice(finish="length")), "finish_reason length"),
    "cut before the first word": (SHORT, answer(choice("", "length")), "empty"),
    "cut in a call": (
        SHORT,
        answer(calling(call('{"a'), finish="length")),
        "malformed tool call",
    ),
    "cut in a call after some text": (
        SHORT,
        answer(calling(call(), finish="length", content="Well,")),
        "malformed tool call",
    ),
    "cut in the JSON": (
        SHORT_JSON,
        answer(choice('{"a":', "length")),
        "not the JSON that was asked for",
    ),
    "finish_reason error": (PLAIN, answer(choice(finish="error")), "finish_reason unknown"),
    "finish_reason empty": (PLAIN, answer(choice(finish="")), "finish_reason unknown"),
    "finish_reason as a list": (PLAIN, answer(choice(finish=["stop"])), "finish_reason unknown"),
    "finish_reason true": (PLAIN, answer(choice(finish=True)), "finish_reason unknown"),
    "an empty text": (PLAIN, answer(choice("")), "empty"),
    "no text": (PLAIN, answer(choice(None)), "empty"),
    "no message": (PLAIN, answer(without(choice(), "message")), "malformed choice"),
    "a message as a text": (PLAIN, answer({**choice(), "message": "Hello!"}), "malformed choice"),
    "content as a list": (
        PLAIN,
        answer(choice([{"type": "text", "text": "a"}])),
        "malformed choice",
    ),
    "content as a number": (PLAIN, answer(choice(5)), "malformed choice"),
    "a refusal": (PLAIN, answer(choice(None, refusal="I cannot.")), "refusal"),
    "a refusal beside a text": (PLAIN, answer(choice("Well,", refusal="no.")), "refusal"),
    "a refusal in JSON mode": (SCHEMA, answer(choice(None, refusal="no.")), "refusal"),
    "no call where one was said to be": (
        PLAIN,
        answer(choice("Hello!", "tool_calls")),
        "tool calls missing",
    ),
    "an empty list of calls": (PLAIN, answer(calling()), "empty"),
    "calls as a text": (
        PLAIN,
        answer(choice(None, "tool_calls", tool_calls="f")),
        "malformed tool call",
    ),
    "a call of null": (PLAIN, answer(calling(None)), "malformed tool call"),
    "a call without a function": (
        PLAIN,
        answer(calling(without(call(), "function"))),
        "malformed tool call",
    ),
    "a call without a name": (PLAIN, answer(calling(call(name=""))), "malformed tool call"),
    "arguments as an object": (PLAIN, answer(calling(call({"a": 1}))), "malformed tool call"),
    "broken arguments": (PLAIN, answer(calling(call('{"a":1'))), "malformed tool call"),
    "the second call broken": (PLAIN, answer(calling(call(), call("{"))), "malformed tool call"),
    "a broken function_call": (
        PLAIN,
        answer(choice(None, "function_call", function_call={"name": "f", "arguments": "{"})),
        "malformed tool call",
    ),
    "a function_call as a text": (
        PLAIN,
        answer(choice(None, "function_call", function_call="f")),
        "malformed tool call",
    ),
    "prose for JSON": (
        JSON,
        answer(choice("Sure! Here it is: {}")),
        "not the JSON that was asked for",
    ),
    "fenced JSON": (SCHEMA, answer(choice("```json\n{}\n```")), "not the JSON that was asked for"),
    "half of the JSON": (SCHEMA, answer(choice('{"a":1')), "not the JSON that was asked for"),
    "text completion without text": (complete("a"), answer(text(None)), "malformed choice"),
    "text completion with a message": (complete("a"), answer(choice()), "malformed choice"),
    "an empty text completion": (complete("a"), answer(text("")), "empty"),
    "a filtered text completion": (
        complete("a"),
        answer(text(finish="content_filter")),
        "finish_reason content_filter",
    ),
    "a cut text completion": (
        complete("a"),
        answer(text(finish="length")),
        "finish_reason length",
    ),
    "nothing but the echo": (complete("Once", echo=True), answer(text("Once")), "empty"),
    "nothing but the second echo": (
        complete(["a", "Once"], echo=True),
        answer(text("a b"), text("Once", index=1)),
        "empty",
    ),
}


@pytest.mark.parametrize(("request_", "document", "reason"), BAD.values(), ids=BAD)
def test_a_bad_answer_is_not_kept(request_, document, reason):
    """Only what is proven whole is kept, and the reason is told."""
    assert f"not-cacheable: {reason}" == why(request_, document)


GOOD: dict[str, tuple[ProxyRequest, Any]] = {
    "a plain answer": (PLAIN, answer(choice())),
    "error null": (PLAIN, answer(choice(), error=None)),
    "two choices": (TWO, answer(choice(), choice(index=1))),
    "two choices in another order": (TWO, answer(choice(index=1), choice())),
    "cut at the caller's limit": (SHORT, answer(choice(finish="length"))),
    "cut at the caller's newer limit": (
        ask(max_completion_tokens=5),
        answer(choice(finish="length")),
    ),
    "a limit that was not reached": (SHORT, answer(choice())),
    "an empty refusal": (PLAIN, answer(choice(refusal=""))),
    "a call": (PLAIN, answer(calling(call()))),
    "two calls": (PLAIN, answer(calling(call(), call(name="g")))),
    "a call beside a text": (PLAIN, answer(calling(call(), content="Let me see."))),
    "a forced call": (PLAIN, answer(calling(call(), finish="stop"))),
    "a call without arguments": (PLAIN, answer(calling(call("")))),
    "a call with nothing in its arguments": (PLAIN, answer(calling(call("{}")))),
    "a call of a custom tool": (
        PLAIN,
        answer(calling({"id": "1", "type": "custom", "custom": {"name": "f", "input": "x"}})),
    ),
    "an old call": (
        PLAIN,
        answer(choice(None, "function_call", function_call={"name": "f", "arguments": "{}"})),
    ),
    "JSON": (JSON, answer(choice('{"a": 1}'))),
    "JSON of a schema": (SCHEMA, answer(choice(' [1, "a"]\n'))),
    "whole JSON at the limit": (SHORT_JSON, answer(choice("{}", "length"))),
    "a call instead of JSON": (JSON, answer(calling(call()))),
    "text where text was asked for": (
        ask(response_format={"type": "text"}),
        answer(choice("no JSON")),
    ),
    "more than we know": (
        PLAIN,
        answer(choice(reasoning_content="hm", annotations=[]), moderation={}),
    ),
    "a text completion": (complete("Once"), answer(text())),
    "two prompts": (complete(["a", "b"]), answer(text(), text(index=1))),
    "two prompts, two choices each": (
        complete(["a", "b"], n=2),
        answer(*(text(index=index) for index in range(4))),
    ),
    "one prompt of tokens": (complete([1, 2]), answer(text())),
    "two prompts of tokens": (complete([[1], [2]], echo=True), answer(text(), text(index=1))),
    "an echo and more": (complete("Once", echo=True), answer(text("Once upon"))),
    "a text completion cut at its limit": (
        complete("a", max_tokens=5),
        answer(text(finish="length")),
    ),
}


@pytest.mark.parametrize(("request_", "document"), GOOD.values(), ids=GOOD)
def test_a_good_answer_is_kept(request_, document):
    """The good twins of the bad."""
    assert "" == why(request_, document)


def test_what_was_not_counted_is_not_kept():
    """Without its usage, nobody could say what a hit saved."""
    assert "not-cacheable: no usage" == why(PLAIN, answer(choice()), usage=None)


def test_what_is_too_large_is_not_kept():
    """The bound itself is not too large."""
    assert "" == why(PLAIN, answer(choice()), size=1000)
    assert "not-cacheable: too large" == why(PLAIN, answer(choice()), size=1001)


def test_who_must_not_write_does_not():
    """The lookup's own reason comes first."""
    lookup = plan_lookup(PLAIN, Controls(write=False), 100)

    assert "no-store" == why_not_stored(lookup, PLAIN, answer(choice()), USAGE, 1, 2)


ANY = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=3)
    | st.sampled_from(["stop", "length"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "index",
                    "message",
                    "content",
                    "finish_reason",
                    "tool_calls",
                    "function",
                    "name",
                    "text",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=10,
)


@settings(deadline=None)
@given(
    st.sampled_from([PLAIN, TWO, SHORT, JSON, complete(["a", "b"], echo=True)]),
    st.lists(ANY, max_size=3),
)
def test_whatever_a_provider_sends_there_is_a_verdict(request_, choices):
    """And its reason is of our own words."""
    reason = why(request_, {"choices": choices})

    assert reason == "" or reason.startswith("not-cacheable: ")
    assert reason.isascii()
