"""The older functions through the official Python SDK: asked in the older form, answered in the older form."""

from __future__ import annotations

from typing import Any, cast

import pytest
from attrs import evolve
from openai.types.chat import ChatCompletionMessageParam

from tests.sdk.conftest import Script, Seat, Told
from tests.sdk.test_tools import PARAMETERS, asked, fits
from tests.support.upstream import Call, Reply
from tests.support.upstream_openai import DONE, chat, event, head


def function_called(call: Call) -> Reply | None:
    """OpenAI's answer to the older form, which good answers of the scripted provider do not know."""
    if call.method != "POST" or "functions" not in call.body:
        return None
    if call.last_role == "function":
        return chat(evolve(call, body={**call.body, "messages": [{"role": "user"}]}))
    called = {"name": "get_weather", "arguments": '{"city":"x","days":1,"unit":"celsius"}'}
    counted = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}
    if not call.stream:
        message = {"role": "assistant", "content": None, "function_call": called}
        choice = {"index": 0, "message": message, "finish_reason": "function_call"}
        return Reply.json(
            200, {**head(call, "chat.completion"), "choices": [choice], "usage": counted}
        )
    top = head(call, "chat.completion.chunk")
    deltas: list[tuple[dict[str, Any], str | None]] = [
        (
            {"role": "assistant", "content": None, "function_call": {**called, "arguments": ""}},
            None,
        ),
        ({"function_call": {"arguments": called["arguments"][:9]}}, None),
        ({"function_call": {"arguments": called["arguments"][9:]}}, None),
        ({}, "function_call"),
    ]
    told = [
        event({**top, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})
        for delta, finish in deltas
    ]
    return Reply.sse([*told, event({**top, "choices": [], "usage": counted}), DONE])


def test_functions(seat: Seat, prompt: str, script: Script) -> None:
    """The older form is answered in the older form, and its result is understood."""
    script(function_called)
    create = seat.client.chat.completions.with_raw_response.create
    functions: Any = [{"name": "get_weather", "parameters": PARAMETERS}]
    for cached in ("MISS", "HIT"):
        messages = asked(prompt)
        raw = create(model=seat.model, messages=messages, functions=functions)
        [choice] = raw.parse().choices

        assert cached == Told.by(raw.headers).cached
        assert "function_call" == choice.finish_reason
        assert not choice.message.tool_calls
        assert choice.message.function_call is not None
        assert "get_weather" == choice.message.function_call.name
        assert fits(choice.message.function_call.arguments)

        messages.append(cast("ChatCompletionMessageParam", choice.message))
        messages.append({"role": "function", "name": "get_weather", "content": "rain"})
        last = create(model=seat.model, messages=messages, functions=functions).parse()
        assert last.choices[0].message.content


@pytest.mark.parametrize("first", [False, True])
def test_functions_streamed(seat: Seat, prompt: str, script: Script, first: bool) -> None:
    """The name comes once; a stream may come first or after a plain answer."""
    script(function_called)
    functions: Any = [{"name": "get_weather", "parameters": PARAMETERS}]
    if not first:
        seat.client.chat.completions.create(
            model=seat.model, messages=asked(prompt), functions=functions
        )
    for _ in range(2):
        names, arguments, finish = [], "", None
        for chunk in seat.client.chat.completions.create(
            model=seat.model, messages=asked(prompt), functions=functions, stream=True
        ):
            call = chunk.choices[0].delta.function_call
            finish = chunk.choices[0].finish_reason or finish
            if call is not None:
                names += [call.name] if call.name else []
                arguments += call.arguments or ""

        assert "function_call" == finish
        assert ["get_weather"] == names
        assert fits(arguments)
