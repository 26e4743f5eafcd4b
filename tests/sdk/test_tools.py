"""Tools through the official Python SDK: the round trip, plain and streamed, and the older functions."""

from __future__ import annotations

import json
from typing import Any, cast

import openai
import orjson
import pytest
from openai.types.chat import (
    ChatCompletion,
    ChatCompletionMessageParam,
    ChatCompletionToolUnionParam,
)
from pydantic import BaseModel

from tests.sdk.conftest import Script, Seat, Told, calls_about
from tests.support.upstream import Call, Reply, ScriptedUpstream
from tests.support.upstream_openai import DONE, event, head

PARAMETERS: dict[str, object] = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "days": {"type": "integer", "minimum": 1},
        "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
    },
    "required": ["city", "days", "unit"],
    "additionalProperties": False,
}
TOOLS: list[ChatCompletionToolUnionParam] = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Tells the weather.",
            "parameters": PARAMETERS,
        },
    }
]


def asked(prompt: str) -> list[ChatCompletionMessageParam]:
    return [{"role": "user", "content": prompt}]


def fits(arguments: str) -> bool:
    found = json.loads(arguments)
    return (
        list(found) == ["city", "days", "unit"]
        and type(found["city"]) is str
        and type(found["days"]) is int
        and found["unit"] in ("celsius", "fahrenheit")
    )


def test_the_round_trip(seat: Seat, prompt: str, place: str, upstream: ScriptedUpstream) -> None:
    """The model calls, the caller answers under the call's id, the model speaks; the whole again is free."""
    told = []

    def ask(messages: list[ChatCompletionMessageParam]) -> ChatCompletion:
        raw = seat.client.chat.completions.with_raw_response.create(
            model=seat.model, messages=messages, tools=TOOLS
        )
        told.append(Told.by(raw.headers))
        return raw.parse()

    for _ in range(2):
        messages = asked(prompt)
        [choice] = ask(messages).choices
        [call] = choice.message.tool_calls or []

        assert "tool_calls" == choice.finish_reason
        assert call.type == "function"
        assert "get_weather" == call.function.name
        assert fits(call.function.arguments)

        # The SDK's own object goes back as it came, as its documentation shows.
        messages.append(cast("ChatCompletionMessageParam", choice.message))
        messages.append({"role": "tool", "tool_call_id": call.id, "content": '{"sky": "blue"}'})
        last = ask(messages)

        assert "stop" == last.choices[0].finish_reason
        assert last.choices[0].message.content
        assert not last.choices[0].message.tool_calls

    assert ["MISS", "MISS", "HIT", "HIT"] == [one.cached for one in told]
    assert ["0", "0"] == [one.cost for one in told[2:]]
    assert all(one.saved > 0 for one in told[2:])
    if seat.provider != "sandbox":
        first, second = calls_about(upstream, place)
        assert PARAMETERS == parameters(first)
        assert results(second) == {call.id: '{"sky": "blue"}'}


def parameters(call: Call) -> Any:
    """The schema, as the provider was given it."""
    [tool] = call.body["tools"]
    return tool["input_schema"] if call.dialect == "anthropic" else tool["function"]["parameters"]


def results(call: Call) -> dict[str, str]:
    """What the provider was told of its calls, by id."""
    if call.dialect != "anthropic":
        return {
            message["tool_call_id"]: message["content"]
            for message in call.messages
            if message["role"] == "tool"
        }
    return {
        block["tool_use_id"]: block["content"][0]["text"]
        for block in call.messages[-1]["content"]
        if block["type"] == "tool_result"
    }


def test_streamed_by_hand(seat: Seat, prompt: str) -> None:
    """Id and name come once, the pieces of the arguments add up to the plain answer's; hit or miss."""
    folded = []
    for cached in ("MISS", "HIT"):
        raw = seat.client.chat.completions.with_raw_response.create(
            model=seat.model, messages=asked(prompt), tools=TOOLS, stream=True
        )
        assert cached == Told.by(raw.headers).cached
        ids, names, arguments, finish = [], [], "", None
        for chunk in raw.parse():
            finish = chunk.choices[0].finish_reason or finish
            for call in chunk.choices[0].delta.tool_calls or ():
                assert 0 == call.index
                ids += [call.id] if call.id else []
                assert call.function is not None
                names += [call.function.name] if call.function.name else []
                arguments += call.function.arguments or ""
        assert "tool_calls" == finish
        assert ["get_weather"] == names
        assert fits(arguments)
        [identity] = ids
        folded.append((identity, arguments))

    [choice] = seat.client.chat.completions.create(
        model=seat.model, messages=asked(prompt), tools=TOOLS
    ).choices
    [call_] = choice.message.tool_calls or []
    assert call_.type == "function"
    assert [(call_.id, call_.function.arguments)] * 2 == folded


class Weather(BaseModel):
    """Tells the weather."""

    city: str
    days: int


def test_the_helper(seat: Seat, prompt: str) -> None:
    """The stream helper parses the arguments into the tool's own model; hit or miss."""
    tools = [openai.pydantic_function_tool(Weather, name="get_weather")]
    for _ in range(2):
        with seat.client.chat.completions.stream(
            model=seat.model, messages=asked(prompt), tools=tools
        ) as stream:
            kinds = {found.type for found in stream}
            [choice] = stream.get_final_completion().choices
        [call] = choice.message.tool_calls or []

        assert "tool_calls.function.arguments.done" in kinds
        assert ("get_weather", "assistant") == (call.function.name, choice.message.role)
        assert isinstance(call.function.parsed_arguments, Weather)


async def test_async_round_trip(seat: Seat, prompt: str) -> None:
    async with seat.open_async() as client:
        messages = asked(prompt)
        async with client.chat.completions.stream(
            model=seat.model, messages=messages, tools=TOOLS
        ) as stream:
            message = (await stream.get_final_completion()).choices[0].message
        [call] = message.tool_calls or []
        messages.append(cast("ChatCompletionMessageParam", message))
        messages.append({"role": "tool", "tool_call_id": call.id, "content": "rain"})
        last = await client.chat.completions.create(
            model=seat.model, messages=messages, tools=TOOLS
        )

    assert "stop" == last.choices[0].finish_reason
    assert last.choices[0].message.content


def test_another_order_in_the_schema_is_another_question(seat: Seat, prompt: str) -> None:
    """Models write arguments in the schema's order, so the order of its properties is kept and keyed."""
    create = seat.client.chat.completions.with_raw_response.create
    properties = cast("dict[str, object]", PARAMETERS["properties"])
    turned = {**PARAMETERS, "properties": dict(reversed(properties.items()))}

    found = [
        create(
            model=seat.model,
            messages=asked(prompt),
            tools=[
                {"type": "function", "function": {"name": "get_weather", "parameters": schema}}
            ],
        )
        for schema in (PARAMETERS, turned)
    ]

    assert ["MISS", "MISS"] == [Told.by(raw.headers).cached for raw in found]
    names = []
    for raw in found:
        [call] = raw.parse().choices[0].message.tool_calls or []
        assert call.type == "function"
        names.append(list(json.loads(call.function.arguments)))
    assert [["city", "days", "unit"], ["unit", "days", "city"]] == names


@pytest.mark.parametrize("choice", ["none", "get_weather"])
@pytest.mark.parametrize("provider", ["openai", "anthropic", "groq", "sandbox"])
def test_the_choice_of_tools(
    seats: dict[str, Seat], provider: str, choice: str, place: str
) -> None:
    """`none` forbids, a name forces, with every provider. (The newest Claude models cannot be forced.)"""
    seat = seats[provider]
    model = "claude-haiku-4-5" if provider == "anthropic" else seat.model
    wanted: Any = choice
    if choice != "none":
        wanted = {"type": "function", "function": {"name": choice}}

    [found] = seat.client.chat.completions.create(
        model=model, messages=asked(f"Weather? {place}"), tools=TOOLS, tool_choice=wanted
    ).choices

    called = [
        call.type == "function" and call.function.name for call in found.message.tool_calls or ()
    ]
    assert ([] if choice == "none" else [choice]) == called


# --- two calls in one turn ------------------------------------------------------------------------


def two_calls(call: Call) -> Reply | None:
    """A stream with two tool calls whose pieces come in turns."""
    if call.method != "POST" or call.last_role != "user":
        return None
    top = head(call, "chat.completion.chunk")
    pieces: list[list[dict[str, Any]]] = [
        [opening(0, "Rome"), opening(1, "Oslo")],
        [{"index": 1, "function": {"arguments": '{"city": '}}],
        [{"index": 0, "function": {"arguments": '{"city": '}}],
        [{"index": 0, "function": {"arguments": '"Rome"}'}}],
        [{"index": 1, "function": {"arguments": '"Oslo"}'}}],
    ]
    told = [
        event({**top, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})
        for delta, finish in [
            ({"role": "assistant", "content": None}, None),
            *(({"tool_calls": piece}, None) for piece in pieces),
            ({}, "tool_calls"),
        ]
    ]
    counted = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}
    return Reply.sse([*told, event({**top, "choices": [], "usage": counted}), DONE])


def opening(index: int, city: str) -> dict[str, Any]:
    function = {"name": "get_weather", "arguments": ""}
    return {"index": index, "id": f"call_{city}", "type": "function", "function": function}


@pytest.mark.parametrize("seat", ["openai", "groq"], indirect=True)
def test_two_calls_in_turns(seat: Seat, prompt: str, script: Script) -> None:
    """Each call keeps its own pieces, whether they come from the provider or from the cache."""
    script(two_calls)
    for _ in range(2):
        with seat.client.chat.completions.stream(
            model=seat.model, messages=asked(prompt), tools=TOOLS
        ) as stream:
            [choice] = stream.get_final_completion().choices

        assert [("call_Rome", '{"city": "Rome"}'), ("call_Oslo", '{"city": "Oslo"}')] == [
            (call.id, call.function.arguments) for call in choice.message.tool_calls or ()
        ]


# --- odd ones ------------------------------------------------------------------------------------


@pytest.mark.parametrize("seat", ["sandbox"], indirect=True)
def test_custom_tools_in_the_sandbox(seat: Seat, prompt: str) -> None:
    for _ in range(2):
        [choice] = seat.client.chat.completions.create(
            model=seat.model,
            messages=asked(prompt),
            tools=[{"type": "custom", "custom": {"name": "weather_query"}}],
            tool_choice={"type": "custom", "custom": {"name": "weather_query"}},
        ).choices

        [call] = choice.message.tool_calls or []
        assert call.type == "custom"
        assert "weather_query" == call.custom.name
        assert call.custom.input


def test_a_call_without_arguments(seat: Seat, prompt: str) -> None:
    """A tool that takes nothing is called with an empty object, which every client can parse; streamed too."""
    tools: list[ChatCompletionToolUnionParam] = [
        {
            "type": "function",
            "function": {
                "name": "get_weather",
                "parameters": {"type": "object", "properties": {}, "additionalProperties": False},
            },
        }
    ]
    for _ in range(2):
        with seat.client.chat.completions.stream(
            model=seat.model, messages=asked(prompt), tools=tools
        ) as stream:
            [choice] = stream.get_final_completion().choices
        [call] = choice.message.tool_calls or []

        assert {} == orjson.loads(call.function.arguments)
