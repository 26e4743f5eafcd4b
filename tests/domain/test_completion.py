"""Streams and whole answers are the same answer: folded, replayed, and cut down to what the caller asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types.chat import ChatCompletionChunk

from domain.completion import StreamFolder, delivered, replay, stored_document
from domain.errors import ApiError, UpstreamFailed
from domain.replay import PIECE
from domain.request import Endpoint, ProxyRequest
from domain.sse import SSEReader

Document = dict[str, Any]
HEAD = {"id": "chatcmpl-1", "created": 1_800_000_000, "model": "gpt-6-luna"}
USAGE = {"prompt_tokens": 9, "completion_tokens": 12, "total_tokens": 21}


def chunk(*choices: Any, **fields: Any) -> Document:
    return {**HEAD, "object": "chat.completion.chunk", "choices": list(choices), **fields}


def piece(delta: Any, finish: Any = None, index: Any = 0, logprobs: Any = None) -> Document:
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}


def fold(chunks: Sequence[Document], limit: int = 1 << 20) -> StreamFolder:
    folder = StreamFolder(limit)
    for one in chunks:
        folder.feed(one)
    return folder


def events(stream: bytes) -> list[bytes]:
    return [data for _, data in SSEReader().feed(stream)]


def replayed(
    document: Document, endpoint: Endpoint = Endpoint.CHAT, usage: bool = False
) -> list[Document]:
    *chunks, end = events(replay(document, endpoint, usage))
    assert b"[DONE]" == end
    return [orjson.loads(one) for one in chunks]


def answer(*choices: Document, **fields: Any) -> Document:
    return {**HEAD, "object": "chat.completion", "choices": list(choices), **fields}


def choice(
    content: str | None = "Hello!", finish: str = "stop", logprobs: Any = None, **more: Any
) -> Document:
    message = {"role": "assistant", "content": content, "refusal": None, **more}
    return {"index": 0, "message": message, "logprobs": logprobs, "finish_reason": finish}


# --- folding ------------------------------------------------------------------------------------------


def test_a_text_in_pieces():
    """The stream of the API reference gives the unstreamed answer."""
    folder = fold(
        [
            chunk(
                piece({"role": "assistant", "content": "", "refusal": None}),
                system_fingerprint="fp",
                usage=None,
            ),
            chunk(piece({"content": "Hel"}), obfuscation="xyz"),
            chunk(piece({"content": "lo!"})),
            chunk(piece({}, "stop")),
            chunk(usage=USAGE),
        ]
    )

    assert answer(choice(), system_fingerprint="fp", usage=USAGE) == folder.document(USAGE)
    assert (True, False, 6, 6) == (
        folder.finished,
        folder.overflowed,
        folder.characters,
        folder.written,
    )


def test_calls_in_pieces():
    """Two calls told alternately, and one without arguments."""
    folder = fold(
        [
            chunk(piece({"role": "assistant", "content": None})),
            chunk(
                piece(
                    {
                        "tool_calls": [
                            {
                                "index": 0,
                                "id": "call_a",
                                "type": "function",
                                "function": {"name": "f", "arguments": ""},
                            }
                        ]
                    }
                )
            ),
            chunk(
                piece(
                    {
                        "tool_calls": [
                            {
                                "index": 1,
                                "id": "call_b",
                                "type": "function",
                                "function": {"name": "g"},
                            }
                        ]
                    }
                )
            ),
            chunk(piece({"tool_calls": [{"index": 0, "function": {"arguments": '{"a"'}}]})),
            chunk(
                piece(
                    {
                        "tool_calls": [
                            {
                                "index": 0,
                                "id": "",
                                "type": "function",
                                "function": {"arguments": ":1}"},
                            }
                        ]
                    }
                )
            ),
            chunk(piece({}, "tool_calls")),
        ]
    )
    calls = [
        {"id": "call_a", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}},
        {"id": "call_b", "type": "function", "function": {"name": "g", "arguments": ""}},
    ]

    assert answer(choice(None, "tool_calls", tool_calls=calls)) == folder.document(None)
    assert folder.written >= len('f{"a":1}g')


def test_choices_that_alternate():
    """Each choice is put together by its number and ends by itself."""
    chunks = [chunk(piece({"content": str(index)}, index=index)) for index in (1, 0, 1, 0)]
    folder = fold([*chunks, chunk(piece({}, "stop", index=1))])

    assert not folder.finished
    folder.feed(chunk(piece({}, "length")))
    assert folder.finished
    assert [(0, "00", "length"), (1, "11", "stop")] == [
        (one["index"], one["message"]["content"], one["finish_reason"])
        for one in folder.document(None)["choices"]
    ]


@pytest.mark.parametrize(
    ("delta", "expected"),
    [
        ({"refusal": "I cannot."}, {"content": None, "refusal": "I cannot."}),
        ({"reasoning_content": "hm"}, {"content": "", "reasoning_content": "hm"}),
        ({"reasoning": "hm", "content": "x"}, {"content": "x", "reasoning": "hm"}),
        ({"annotations": [{"type": "a"}]}, {"content": "", "annotations": [{"type": "a"}]}),
        (
            {"function_call": {"name": "f"}},
            {"content": None, "function_call": {"name": "f", "arguments": ""}},
        ),
        ({}, {"content": ""}),
    ],
)
def test_everything_that_is_said_is_kept(delta, expected):
    """Also what came into fashion later: a hit must lose nothing."""
    message = fold([chunk(piece(delta, "stop"))]).document(None)["choices"][0]["message"]

    assert {"role": "assistant", "refusal": None, **expected} == message


def test_lists_grow():
    """Annotations come one by one."""
    folder = fold([chunk(piece({"annotations": [number]})) for number in (1, 2)])

    assert [1, 2] == folder.document(None)["choices"][0]["message"]["annotations"]


def test_what_is_fed_is_not_changed():
    """The same chunk goes to the caller, and to the fold of the next one."""
    given = chunk(
        piece({"annotations": [1]}, logprobs={"content": [{"token": "a"}], "refusal": None})
    )
    before = orjson.dumps(given)
    fold([given, given])

    assert before == orjson.dumps(given)


def test_fields_told_at_the_end():
    """A chunk without choices may bring fields of the answer."""
    folder = fold([chunk(piece({"content": "a"}, "stop")), chunk(moderation={"flagged": False})])

    assert {"flagged": False} == folder.document(None)["moderation"]


@pytest.mark.parametrize(
    "chunks",
    [
        [chunk(piece({"content": "x" * 11}))],
        [chunk(piece({"content": "x"})) for _ in range(11)],
        [chunk(piece({"tool_calls": [{"index": 0, "function": {"arguments": "x" * 11}}]}))],
        [chunk(piece({"function_call": {"arguments": "x" * 11}}))],
        [chunk(piece({"annotations": ["x" * 11]}))],
        [chunk(piece({}, logprobs={"content": [{"token": "x" * 11}]}))],
        [{**chunk(), "choices": [{"index": 0, "text": "x" * 11}]}],
    ],
)
def test_what_is_too_long_is_counted_but_not_kept(chunks):
    """Memory is bounded, whatever grows."""
    folder = fold(
        [
            *chunks,
            *[chunk(piece({"content": "x" * 1000}, index=0))] * 100,
            chunk(piece({}, "stop")),
        ],
        10,
    )

    assert folder.overflowed
    assert folder.characters > 100_000
    assert folder.written >= 100_000
    assert len(orjson.dumps(folder.document(None))) < 3_000
    assert folder.finished


def test_the_limit_itself_is_not_too_long():
    """As many characters as the limit says are kept whole."""
    assert not fold([chunk(piece({"content": "x" * 10}))], limit=10).overflowed


ODD = {
    "choices as an object": {"choices": {"0": piece({"content": "a"})}},
    "choices as a text": {"choices": "abc"},
    "choices as a number": {"choices": 5},
    "choices true": {"choices": True},
    "a choice of null": chunk(None),
    "a choice as a text": chunk("a"),
    "a choice as a list": chunk([piece({})]),
    "a number as a text": chunk(piece({"content": "a"}, index="0")),
    "a negative number": chunk(piece({"content": "a"}, index=-1)),
    "a number of null": chunk(piece({"content": "a"}, index=None)),
    "a number of true": chunk(piece({"content": "a"}, index=True)),
    "a number as a list": chunk(piece({"content": "a"}, index=[0])),
    "a decimal number": chunk(piece({"content": "a"}, index=0.0)),
    "a delta as a text": chunk(piece("a")),
    "a delta as a list": chunk(piece([1])),
    "content as a list": chunk(piece({"content": [{"type": "text"}]})),
    "content as a number": chunk(piece({"content": 5})),
    "content as an object": chunk(piece({"content": {"a": 1}})),
    "a refusal as a list": chunk(piece({"refusal": []})),
    "calls as an object": chunk(piece({"tool_calls": {"index": 0}})),
    "calls as a text": chunk(piece({"tool_calls": "f"})),
    "a call of null": chunk(piece({"tool_calls": [None]})),
    "a call numbered by a text": chunk(piece({"tool_calls": [{"index": "0"}]})),
    "a call numbered by a list": chunk(piece({"tool_calls": [{"index": []}]})),
    "a negative call": chunk(piece({"tool_calls": [{"index": -1}]})),
    "the millionth call": chunk(piece({"tool_calls": [{"index": 1_000_000}]})),
    "arguments as an object": chunk(
        piece({"tool_calls": [{"index": 0, "function": {"arguments": {}}}]})
    ),
    "function_call as a text": chunk(piece({"function_call": "f"})),
    "arguments of a function_call as a list": chunk(piece({"function_call": {"arguments": []}})),
    "logprobs as a list": chunk(piece({}, logprobs=[1])),
    "a text as a list": chunk({"index": 0, "text": ["a"], "finish_reason": None}),
    "finish_reason as a list": chunk(piece({}, ["stop"])),
    "finish_reason true": chunk(piece({}, True)),
}


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
def test_a_chunk_that_makes_no_sense(odd):
    """It is passed over, but what is put together around it no longer counts as whole."""
    folder = fold([chunk(piece({"content": "Hel"})), odd, chunk(piece({"content": "lo"}, "stop"))])

    assert folder.overflowed
    assert b"Hel" in orjson.dumps(folder.document(None))


@pytest.mark.parametrize(
    "harmless",
    [
        {},
        {"choices": None},
        {"choices": []},
        chunk(usage="odd"),
        chunk(usage={"prompt_tokens": -1}),
        chunk({"index": 0}),
        chunk({"delta": {"content": None}}),
        chunk(piece(None)),
        chunk(piece({"role": None, "tool_calls": None, "function_call": None})),
        chunk(piece({"tool_calls": []})),
        chunk(piece({"role": "assistant"}), id=None, created=None),
    ],
)
def test_a_chunk_that_says_nothing(harmless):
    """Usage is read elsewhere; null is absent."""
    folder = fold(
        [chunk(piece({"content": "Hel"})), harmless, chunk(piece({"content": "lo!"}, "stop"))]
    )

    assert answer(choice()) == folder.document(None)
    assert not folder.overflowed


def test_two_kinds_of_a_field_are_odd():
    """How they fit together nobody can know."""
    for one, other in (
        ({"a": "x"}, {"a": [1]}),
        ({"a": {"b": 1}}, {"a": {"c": 2}}),
        ({"a": 1}, {"a": 2}),
    ):
        assert fold([chunk(piece(one)), chunk(piece(other))]).overflowed


def test_endless_nesting_is_the_providers_fault():
    """What can be read but not be written again is no answer."""
    deep = orjson.loads(b"[" * 900 + b"]" * 900)
    for odd in (
        chunk(piece({"annotations": deep})),
        chunk(piece({}, logprobs={"content": deep})),
        chunk(piece({"tool_calls": [{"index": 0, "id": deep}]})),
        chunk(citations=deep),
    ):
        with pytest.raises(UpstreamFailed):
            fold([odd])


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.floats(allow_nan=False)
    | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "choices",
                    "index",
                    "delta",
                    "content",
                    "tool_calls",
                    "function_call",
                    "function",
                    "finish_reason",
                    "text",
                    "id",
                    "arguments",
                    "name",
                    "logprobs",
                    "tokens",
                    "usage",
                    "role",
                    "refusal",
                    "a",
                ]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)
CHOICES = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "index": st.integers(0, 1),
            "delta": JSON,
            "text": JSON,
            "logprobs": JSON,
            "finish_reason": JSON,
        },
    ),
    max_size=3,
)


@settings(deadline=None, max_examples=50)
@given(
    st.lists(
        st.dictionaries(st.sampled_from(["choices", "usage", "id"]), JSON | CHOICES, max_size=3),
        max_size=6,
    )
)
def test_whatever_a_provider_sends_is_taken_in_stride(chunks):
    """No JSON brings the fold down, and what is held can be written and counted."""
    folder = fold(chunks, limit=200)

    orjson.dumps(folder.document(None))
    assert folder.written <= folder.characters
    assert folder.finished in (True, False)


# --- replaying ------------------------------------------------------------------------------------------

TEXT = st.text(max_size=8) | st.integers(PIECE - 1, 2 * PIECE + 1).map("a".__mul__)
SAID = TEXT.filter(bool)
NAME = st.text(min_size=1, max_size=5)
CALLS = st.lists(
    st.fixed_dictionaries(
        {
            "id": NAME,
            "type": st.just("function"),
            "function": st.fixed_dictionaries({"name": NAME, "arguments": TEXT}),
        }
    )
    | st.fixed_dictionaries(
        {
            "id": NAME,
            "type": st.just("custom"),
            "custom": st.fixed_dictionaries({"name": NAME, "input": TEXT}),
        }
    ),
    min_size=1,
    max_size=3,
)
FINISH = st.sampled_from(["stop", "length", "tool_calls", "function_call", "content_filter"])
EXTRAS = {
    "reasoning_content": TEXT,
    "reasoning": TEXT,
    "annotations": st.lists(st.fixed_dictionaries({"type": st.text(max_size=3)}), max_size=2),
    "thinking_blocks": st.lists(st.text(max_size=3), max_size=2),
    "audio_seconds": st.integers(0, 9),
}


@st.composite
def entries(draw: Any, content: str) -> list[Document]:
    """Logprobs of the tokens of a text, or of tokens that are parts of letters."""
    width = draw(st.integers(1, 3))
    tokens = [content[start : start + width] for start in range(0, len(content), width)][:80]
    tokens = draw(st.just(tokens) | st.just(["\ufffd"] * len(tokens)))
    return [
        {"token": token, "logprob": -0.5, "bytes": None, "top_logprobs": []} for token in tokens
    ]


@st.composite
def chat_choices(draw: Any) -> Document:
    kind = draw(st.sampled_from(["text", "calls", "both", "call", "refusal"]))
    message: Document = {"role": "assistant", "content": None, "refusal": None}
    if kind in ("text", "both"):
        message["content"] = draw(SAID if kind == "both" else TEXT)
    if kind == "refusal":
        message["refusal"] = draw(SAID)
    message |= draw(st.fixed_dictionaries({}, optional=EXTRAS))
    if kind in ("calls", "both"):
        message["tool_calls"] = draw(CALLS)
    if kind == "call":
        message["function_call"] = draw(st.fixed_dictionaries({"name": NAME, "arguments": TEXT}))
    logprobs = None
    if draw(st.booleans()):
        logprobs = {"content": None, "refusal": None}
        for name in ("content", "refusal"):
            logprobs[name] = draw(entries(message[name])) if message[name] else None
    return {"message": message, "logprobs": logprobs, "finish_reason": draw(FINISH)}


@st.composite
def text_choices(draw: Any) -> Document:
    text = draw(TEXT)
    logprobs = None
    if text and draw(st.booleans()):
        tokens = [one["token"] for one in draw(entries(text))]
        logprobs = {
            "tokens": tokens,
            "token_logprobs": [-0.5] * len(tokens),
            "top_logprobs": draw(st.just(None) | st.just([{}] * len(tokens))),
            "text_offset": list(range(len(tokens))),
        }
    return {"text": text, "logprobs": logprobs, "finish_reason": draw(FINISH)}


@st.composite
def documents(draw: Any, choices: Any, kind: str) -> Document:
    found = draw(st.lists(choices, min_size=1, max_size=3))
    top = draw(
        st.fixed_dictionaries(
            {},
            optional={
                "system_fingerprint": st.text(max_size=5),
                "moderation": st.just({"flagged": False}),
            },
        )
    )
    return {
        **HEAD,
        **top,
        "object": kind,
        "choices": [{"index": index, **one} for index, one in enumerate(found)],
        "usage": USAGE,
    }


CHATS = documents(chat_choices(), "chat.completion")
TEXTS = documents(text_choices(), "text_completion")


@settings(deadline=None, max_examples=50)
@given(CHATS, st.booleans())
def test_a_replayed_chat_folds_back(document, usage):
    """The same answer in both shapes, nothing lost, with usage or without."""
    folder = fold(replayed(document, usage=usage))

    assert document == folder.document(USAGE)
    assert folder.finished
    assert not folder.overflowed


@settings(deadline=None, max_examples=50)
@given(TEXTS, st.booleans())
def test_a_replayed_text_completion_folds_back(document, usage):
    """The legacy endpoint, too."""
    folder = fold(replayed(document, Endpoint.COMPLETIONS, usage))

    assert document == folder.document(USAGE)
    assert folder.finished
    assert not folder.overflowed


@settings(deadline=None, max_examples=50)
@given(CHATS, st.booleans())
def test_a_replayed_chat_obeys_the_rules_of_the_clients(document, usage):
    """What the official clients add up is told once, is numbered from 0 and ends."""
    chunks = replayed(document, usage=usage)
    told = [part for one in chunks for part in one["choices"]]
    for given_choice in document["choices"]:
        parts = [part for part in told if part["index"] == given_choice["index"]]
        deltas = [part["delta"] for part in parts]
        calls = [call for delta in deltas for call in delta.get("tool_calls", ())]
        wanted = given_choice["message"].get("tool_calls", [])

        assert "assistant" == deltas[0]["role"]
        assert all("role" not in delta for delta in deltas[1:])
        assert [given_choice["finish_reason"]] == [
            part["finish_reason"] for part in parts if part["finish_reason"] is not None
        ]
        assert {} == deltas[-1]
        assert given_choice["finish_reason"] == parts[-1]["finish_reason"]
        assert [call["id"] for call in wanted] == [call["id"] for call in calls if "id" in call]
        assert list(range(len(wanted))) == sorted({call["index"] for call in calls})
        assert len(wanted) == sum(
            "name" in (call.get("function") or call["custom"]) for call in calls
        )
    assert [HEAD] * len(chunks) == [{name: one[name] for name in HEAD} for one in chunks]
    assert {"chat.completion.chunk"} == {one["object"] for one in chunks}
    assert {True: [USAGE], False: []}[usage] == [
        one["usage"] for one in chunks if one.get("usage")
    ]
    assert usage == all("usage" in one for one in chunks)
    assert usage == any(not one["choices"] for one in chunks)
    assert usage == (not chunks[-1]["choices"])


@settings(deadline=None, max_examples=50)
@given(CHATS)
def test_the_official_client_adds_up_a_replay(document):
    """openai's own accumulator takes every chunk and ends with the same message."""
    state = ChatCompletionStreamState()
    for one in replayed(document):
        list(state.handle_chunk(ChatCompletionChunk.construct(**one)))
    snapshot = state.current_completion_snapshot.to_dict()

    for wanted, found in zip(document["choices"], snapshot["choices"], strict=True):
        message = found["message"]
        assert wanted["finish_reason"] == found["finish_reason"]
        assert "assistant" == message["role"]
        for name in ("content", "refusal", "reasoning_content"):
            assert (wanted["message"].get(name) or "") == (message.get(name) or "")
        calls = [
            {name: field for name, field in call.items() if name != "index" and field is not None}
            for call in message.get("tool_calls") or []
        ]
        for call in calls:
            call.get("function", {}).pop("parsed_arguments", None)
        assert wanted["message"].get("tool_calls", []) == calls
        assert wanted["message"].get("function_call") == message.get("function_call")


@settings(deadline=None, max_examples=50)
@given(CHATS | TEXTS)
def test_no_replayed_line_is_long(document):
    """Clients that read line by line have a bound on a line; only tokens that are parts of letters stay together."""
    endpoint = Endpoint.CHAT if document["object"] == "chat.completion" else Endpoint.COMPLETIONS
    for one in replayed(document, endpoint):
        for part in one["choices"]:
            if part["logprobs"] is None:
                assert len(max(_strings(part), key=len, default="")) <= PIECE


def _strings(found: Any) -> list[str]:
    if type(found) is str:
        return [found]
    inner = found.values() if type(found) is dict else found if type(found) is list else ()
    return [text for one in inner for text in _strings(one)]


def test_a_text_with_logprobs_is_cut_between_tokens():
    """Each chunk has the logprobs of its own text."""
    content = [{"token": "Hello "} for _ in range(100)]
    document = answer(choice("Hello " * 100, logprobs={"content": content, "refusal": None}))
    parts = [one["choices"][0] for one in replayed(document)][1:-1]

    assert [192, 192, 192, 24] == [len(part["delta"]["content"]) for part in parts]
    for part in parts:
        assert part["delta"]["content"] == "".join(
            one["token"] for one in part["logprobs"]["content"]
        )


def test_the_shape_of_a_replay():
    """What a small stored answer looks like on the wire, byte by byte."""
    document = {**answer(choice("Hi")), "usage": USAGE, "service_tier": "default"}

    assert (
        b'data: {"id":"chatcmpl-1","created":1800000000,"model":"gpt-6-luna","service_tier":"default",'
        b'"object":"chat.completion.chunk","choices":[{"index":0,"delta":{"role":"assistant","content":"","refusal":null},'
        b'"logprobs":null,"finish_reason":null}]}\n\n'
        b'data: {"id":"chatcmpl-1","created":1800000000,"model":"gpt-6-luna","object":"chat.completion.chunk",'
        b'"choices":[{"index":0,"delta":{"content":"Hi"},"logprobs":null,"finish_reason":null}]}\n\n'
        b'data: {"id":"chatcmpl-1","created":1800000000,"model":"gpt-6-luna","object":"chat.completion.chunk",'
        b'"choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}]}\n\n'
        b"data: [DONE]\n\n"
    ) == replay(document, Endpoint.CHAT, include_usage=False)


@pytest.mark.parametrize(
    "broken",
    [
        {},
        {"choices": None},
        {"choices": 5},
        {"choices": [None]},
        {"choices": [{}]},
        {"choices": [{"index": 0, "message": None}]},
        {"choices": [{"index": 0, "message": {"content": 5}}]},
        {"choices": [{"index": 0, "message": {"tool_calls": [5]}}]},
        {"choices": [{"index": 0, "message": {"tool_calls": [{"function": 5}]}}]},
        {"choices": [{"index": 0, "message": {"content": "a"}, "logprobs": {"content": [{}]}}]},
    ],
)
def test_an_entry_that_is_no_answer(broken):
    """The four kinds of error that a reader of the cache takes for a miss."""
    with pytest.raises((LookupError, TypeError, AttributeError, ValueError)):
        replay(broken, Endpoint.CHAT, include_usage=False)


# --- what the caller sees of the provider's usage --------------------------------------------------------

WITH = ProxyRequest(Endpoint.CHAT, "gpt", True, True, {})
WITHOUT = ProxyRequest(Endpoint.CHAT, "gpt", True, False, {})
SAYS = {"choices": [{"index": 0}]}


@pytest.mark.parametrize(
    ("given_chunk", "request_", "expected"),
    [
        (SAYS, WITHOUT, SAYS),
        (SAYS, WITH, {**SAYS, "usage": None}),
        ({**SAYS, "usage": None}, WITHOUT, SAYS),
        ({**SAYS, "usage": None}, WITH, {**SAYS, "usage": None}),
        ({**SAYS, "usage": USAGE}, WITHOUT, SAYS),
        ({**SAYS, "usage": USAGE}, WITH, {**SAYS, "usage": USAGE}),
        ({"choices": [], "usage": USAGE}, WITHOUT, None),
        ({"choices": [], "usage": USAGE}, WITH, {"choices": [], "usage": USAGE}),
        ({"usage": USAGE}, WITHOUT, None),
        ({"choices": [], "moderation": {}}, WITHOUT, {"choices": [], "moderation": {}}),
        ({"choices": [], "moderation": {}}, WITH, {"choices": [], "moderation": {}}),
        (
            {"choices": [], "moderation": {}, "usage": None},
            WITHOUT,
            {"choices": [], "moderation": {}},
        ),
        ({"choices": "odd", "usage": 5}, WITHOUT, {"choices": "odd"}),
        ({}, WITHOUT, {}),
        ({}, WITH, {}),
    ],
)
def test_usage_is_shown_to_who_asked(given_chunk, request_, expected):
    """It is always asked of the provider; who did not ask never sees a chunk without choices because of it."""
    shown = delivered(given_chunk, orjson.dumps(given_chunk), request_)

    assert expected == (orjson.loads(events(shown)[0]) if shown else None)


def test_what_need_not_change_is_passed_on_as_it_came():
    """White space, escapes and all."""
    raw = b'{ "choices":[{"index":0,"delta":{"content":"\\u00e9"}}] }'

    assert b"data: " + raw + b"\n\n" == delivered(orjson.loads(raw), raw, WITHOUT)


def test_a_chunk_nested_without_end_is_the_providers_fault():
    """It can be read, but not be written again."""
    raw = b'{"choices":[1],"usage":null,"a":' + b"[" * 900 + b"]" * 900 + b"}"

    with pytest.raises(ApiError) as caught:
        delivered(orjson.loads(raw), raw, WITHOUT)
    assert 502 == caught.value.status


def test_what_is_stored():
    """The echo of who asked and at which tier is not the answer."""
    document = {
        **answer(choice()),
        "service_tier": "flex",
        "metadata": {"a": "b"},
        "x_groq": {"id": "1"},
    }

    assert answer(choice()) == stored_document(document)


def test_log_probabilities_are_not_what_was_written():
    """They fill the space of an answer that is kept, and are billed with the tokens they belong to."""
    logprobs = {
        "content": [{"token": "Hi", "logprob": -0.1, "bytes": [72, 105], "top_logprobs": []}]
    }
    folder = fold([chunk({**piece({"content": "Hi"}), "logprobs": logprobs})] * 100, limit=300)

    assert folder.overflowed
    assert 200 == folder.written
