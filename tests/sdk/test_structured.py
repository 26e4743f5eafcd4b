"""Structured output through the official Python SDK: `parse`, JSON schemas, the helper, every provider."""

from __future__ import annotations

import json
from typing import Literal

import openai
from openai.types.chat import ChatCompletionMessageParam
from openai.types.shared_params import ResponseFormatJSONSchema
from pydantic import BaseModel, Field

from tests.sdk.conftest import Seat, Told, calls_about
from tests.support.upstream import ScriptedUpstream


class Day(BaseModel):
    name: Literal["today", "tomorrow"]
    degrees: float


class Forecast(BaseModel):
    """What the model is to fill in; nested, with words of a list and an option."""

    zone: str
    city: str = Field(description="Where.")
    days: list[Day]
    warning: str | None


SCHEMA: dict[str, object] = {
    "type": "object",
    "properties": {"zone": {"type": "string"}, "city": {"type": "string"}},
    "required": ["zone", "city"],
    "additionalProperties": False,
}
FORMAT: ResponseFormatJSONSchema = {
    "type": "json_schema",
    "json_schema": {"name": "forecast", "schema": SCHEMA, "strict": True},
}


def asked(prompt: str) -> list[ChatCompletionMessageParam]:
    return [{"role": "user", "content": prompt}]


def test_parse(seat: Seat, prompt: str, place: str, upstream: ScriptedUpstream) -> None:
    """`parse` gives the caller's own class, and the second time for free."""
    parse = seat.client.chat.completions.with_raw_response.parse
    found = []
    for cached in ("MISS", "HIT"):
        raw = parse(model=seat.model, messages=asked(prompt), response_format=Forecast)
        answer = raw.parse()

        assert cached == Told.by(raw.headers).cached
        assert "stop" == answer.choices[0].finish_reason
        assert isinstance(answer.choices[0].message.parsed, Forecast)
        assert answer.choices[0].message.parsed.days
        found.append(answer.choices[0].message.parsed)

    assert found[0] == found[1]
    assert (0 if seat.provider == "sandbox" else 1) == len(calls_about(upstream, place))


def test_the_helper_parses(seat: Seat, prompt: str) -> None:
    """The stream helper gives the class, too; plain, streamed and cached are one answer."""
    found = []
    for _ in range(2):
        with seat.client.chat.completions.stream(
            model=seat.model, messages=asked(prompt), response_format=Forecast
        ) as stream:
            done = [one for one in stream if one.type == "content.done"]
            found.append(stream.get_final_completion().choices[0].message.parsed)
        assert found[-1] == done[0].parsed
    plain = seat.client.chat.completions.parse(
        model=seat.model, messages=asked(prompt), response_format=Forecast
    )

    assert isinstance(found[0], Forecast)
    assert [plain.choices[0].message.parsed] * 2 == found


async def test_async_parse(seat: Seat, prompt: str) -> None:
    async with seat.open_async() as client:
        answer = await client.chat.completions.parse(
            model=seat.model, messages=asked(prompt), response_format=Forecast
        )

    assert isinstance(answer.choices[0].message.parsed, Forecast)


def test_json_schema(seat: Seat, prompt: str) -> None:
    """The answer has the schema's properties in the schema's order, streamed or not."""
    create = seat.client.chat.completions.create
    [choice] = create(model=seat.model, messages=asked(prompt), response_format=FORMAT).choices
    written = "".join(
        chunk.choices[0].delta.content or ""
        for chunk in create(
            model=seat.model, messages=asked(prompt), response_format=FORMAT, stream=True
        )
    )

    assert ["zone", "city"] == list(json.loads(choice.message.content or ""))
    assert written == choice.message.content


def test_the_order_of_properties_is_keyed(seat: Seat, prompt: str) -> None:
    """Another order is another output, so it is another question; another user is not."""
    turned: ResponseFormatJSONSchema = {
        "type": "json_schema",
        "json_schema": {
            "name": "forecast",
            "schema": {
                **SCHEMA,
                "properties": {"city": {"type": "string"}, "zone": {"type": "string"}},
            },
            "strict": True,
        },
    }
    create = seat.client.chat.completions.with_raw_response.create
    found = [
        create(model=seat.model, messages=asked(prompt), response_format=form, user=user)
        for form, user in ((FORMAT, "a"), (turned, "a"), (FORMAT, "b"))
    ]

    assert ["MISS", "MISS", "HIT"] == [Told.by(raw.headers).cached for raw in found]
    orders = [list(json.loads(raw.parse().choices[0].message.content or "")) for raw in found]
    assert [["zone", "city"], ["city", "zone"], ["zone", "city"]] == orders


def test_the_schema_reaches_the_provider(
    seats: dict[str, Seat], place: str, upstream: ScriptedUpstream
) -> None:
    """Each provider is given it where it looks for it."""
    for provider in ("openai", "groq", "anthropic"):
        seats[provider].client.chat.completions.create(
            model=seats[provider].model, messages=asked(place), response_format=FORMAT
        )

    openai_call, groq, claude = (call.body for call in calls_about(upstream, place))
    assert FORMAT == openai_call["response_format"] == groq["response_format"]
    form = claude["output_config"]["format"]
    assert "json_schema" == form["type"]
    assert SCHEMA["properties"] == form["schema"]["properties"]


def test_json_object(seat: Seat, prompt: str) -> None:
    """Any JSON object will do; Claude has no such mode and is told so in words, so its text may be no JSON here."""
    [choice] = seat.client.chat.completions.create(
        model=seat.model, messages=asked(prompt), response_format={"type": "json_object"}
    ).choices

    if seat.provider != "anthropic":
        assert isinstance(json.loads(choice.message.content or ""), dict)


class Weather(BaseModel):
    """Tells the weather."""

    city: str
    days: int


def test_parse_with_tools(seat: Seat, prompt: str) -> None:
    """`parse` reads the arguments of a strict tool into its class; hit or miss."""
    for cached in ("MISS", "HIT"):
        raw = seat.client.chat.completions.with_raw_response.parse(
            model=seat.model,
            messages=asked(prompt),
            tools=[openai.pydantic_function_tool(Weather, name="get_weather")],
        )
        [call] = raw.parse().choices[0].message.tool_calls or []

        assert cached == Told.by(raw.headers).cached
        assert isinstance(call.function.parsed_arguments, Weather)
