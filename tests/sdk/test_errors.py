"""What goes wrong, as the official Python SDK raises it: the class, the code, when to come back, and no silence."""

from __future__ import annotations

from typing import Any

import openai
import pytest
from openai import (
    APIError,
    APIStatusError,
    APITimeoutError,
    AuthenticationError,
    BadRequestError,
    InternalServerError,
    NotFoundError,
    OpenAI,
    RateLimitError,
)
from openai.types.chat import ChatCompletionMessageParam

from tests.sdk.conftest import MODELS, PROVIDER_KEYS, Script, Told, calls_about
from tests.support.served import Served
from tests.support.upstream import Call, Reply, ScriptedUpstream
from tests.support.upstream_refusals import RETRY_AFTER, SECRET

PREFIXES = {"openai": "gpt-", "anthropic": "claude-", "groq": "openai/gpt-oss-"}
"""A provider is picked by the name's beginning, a fault of the scripted one by its end."""

PROVIDERS = pytest.mark.parametrize("provider", list(PREFIXES))


def asked(prompt: str) -> list[ChatCompletionMessageParam]:
    return [{"role": "user", "content": prompt}]


def faulty(provider: str, fault: str) -> str:
    return f"{PREFIXES[provider]}fault-{fault}"


def has_four_keys(error: APIError) -> bool:
    body = error.body
    return isinstance(body, dict) and {"message", "type", "param", "code"} == set(body)


# --- the caller's own fault -----------------------------------------------------------------------


@pytest.mark.parametrize("key", ["lgw_project_wrong", "lgw_test_wrong", "sk-foreign"])
def test_a_wrong_key(served: Served, prompt: str, key: str) -> None:
    with OpenAI(base_url=f"{served.root}/v1", api_key=key, max_retries=0) as client:
        with pytest.raises(AuthenticationError) as raised:
            client.chat.completions.create(model=MODELS["openai"], messages=asked(prompt))

    error = raised.value
    assert ("invalid_api_key", "invalid_request_error") == (error.code, error.type)
    assert key not in error.message
    assert has_four_keys(error)
    assert error.request_id


@pytest.mark.parametrize("streamed", [False, True])
def test_an_unknown_model(
    client: OpenAI, prompt: str, place: str, streamed: bool, upstream: ScriptedUpstream
) -> None:
    """Nobody is asked on a guess: the prompt would leave to the wrong company."""
    with pytest.raises(NotFoundError) as raised:
        client.chat.completions.create(
            model="nobodys-model", messages=asked(prompt), stream=streamed
        )

    assert "model_not_found" == raised.value.code
    assert [] == calls_about(upstream, place)


@pytest.mark.parametrize("model", ["gpt-6-sol", "claude-opus-5-5", "openai/gpt-oss-120b"])
def test_a_provider_that_is_not_configured(keyless: Served, prompt: str, model: str) -> None:
    """A project key never falls back to the sandbox: made-up answers are for test keys."""
    with OpenAI(
        base_url=f"{keyless.root}/v1", api_key=keyless.keys["project"], max_retries=0
    ) as client:
        with pytest.raises(NotFoundError) as raised:
            client.chat.completions.create(model=model, messages=asked(prompt))

    assert "model_not_found" == raised.value.code


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("given", "param", "code"),
    [
        ({"temperature": 3}, "temperature", "decimal_above_max_value"),
        ({"n": 0}, "n", "integer_below_min_value"),
        ({"messages": []}, "messages", "empty_array"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "missing_required_parameter"),
        ({"stop": ["a"] * 5}, "stop", "array_above_max_length"),
        ({"reasoning_effort": "huge"}, "reasoning_effort", "invalid_value"),
    ],
)
def test_a_bad_request(
    client: OpenAI,
    place: str,
    upstream: ScriptedUpstream,
    given: dict[str, Any],
    param: str,
    code: str,
    streamed: bool,
) -> None:
    """The field is named, and no provider is troubled; a stream that never began is a plain 400."""
    body: dict[str, Any] = {"messages": asked(place), **given}
    with pytest.raises(BadRequestError) as raised:
        client.chat.completions.create(model=MODELS["openai"], stream=streamed, **body)

    error = raised.value
    assert (param, code, "invalid_request_error") == (error.param, error.code, error.type)
    assert has_four_keys(error)
    assert [] == calls_about(upstream, place)


@pytest.mark.parametrize("provider", ["anthropic", "groq"])
@pytest.mark.parametrize(("field", "given"), [("n", 2), ("logprobs", True)])
def test_what_a_provider_does_not_have(
    client: OpenAI, prompt: str, provider: str, field: str, given: Any
) -> None:
    """A 400 that names the field, where silence would mislead."""
    more: dict[str, Any] = {field: given}
    with pytest.raises(BadRequestError) as raised:
        client.chat.completions.create(model=MODELS[provider], messages=asked(prompt), **more)

    assert field == raised.value.param
    assert raised.value.code in ("unsupported_parameter", "unsupported_value")


def test_an_endpoint_that_we_do_not_have(client: OpenAI) -> None:
    """The newer API is not served here, and the error says what is."""
    with pytest.raises(NotFoundError) as raised:
        client.responses.create(model=MODELS["openai"], input="x")

    assert "/v1/chat/completions" in raised.value.message


# --- the provider's fault ---------------------------------------------------------------------------


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("fault", "expected", "status"),
    [
        ("400", BadRequestError, 400),
        ("404", NotFoundError, 404),
        ("409", openai.ConflictError, 409),
        ("422", openai.UnprocessableEntityError, 422),
        ("413", APIStatusError, 413),
        ("401", InternalServerError, 502),
        ("403", InternalServerError, 502),
        ("500", InternalServerError, 502),
        ("502_page", InternalServerError, 502),
        ("503", InternalServerError, 503),
        ("529", InternalServerError, 503),
        ("504", InternalServerError, 504),
        ("redirect", InternalServerError, 502),
        ("html", InternalServerError, 502),
        ("invalid_json", InternalServerError, 502),
        ("reset", InternalServerError, 502),
        ("reset_early", InternalServerError, 502),
        ("close_early", InternalServerError, 502),
    ],
)
@PROVIDERS
def test_a_failure_before_the_first_word(
    client: OpenAI,
    prompt: str,
    provider: str,
    fault: str,
    expected: type[APIStatusError],
    status: int,
    streamed: bool,
) -> None:
    """The status the SDK can act on, streamed or not; our key's trouble is never the caller's 401."""
    with pytest.raises(expected) as raised:
        client.chat.completions.create(
            model=faulty(provider, fault), messages=asked(prompt), stream=streamed
        )

    error = raised.value
    assert status == error.status_code
    assert has_four_keys(error)
    assert "req_upstream" != error.request_id
    for secret in (SECRET, *PROVIDER_KEYS.values()):
        assert secret not in str(error.body)
    if status >= 500:
        assert "api_error" == error.type
    if status == 503:
        assert 0 < int(error.response.headers["retry-after"])
    if fault == "404":
        assert "model_not_found" == error.code


@pytest.mark.parametrize("streamed", [False, True])
@PROVIDERS
def test_the_providers_rate_limit(
    client: OpenAI, prompt: str, provider: str, streamed: bool
) -> None:
    """Passed on at once, with the provider's own word on when to come back."""
    with pytest.raises(RateLimitError) as raised:
        client.chat.completions.create(
            model=faulty(provider, "429"), messages=asked(prompt), stream=streamed
        )

    error = raised.value
    assert ("rate_limit_exceeded", "rate_limit_exceeded") == (error.code, error.type)
    assert str(RETRY_AFTER) == error.response.headers["retry-after"]
    assert SECRET not in error.message


def test_the_sdk_tries_again(
    served: Served, prompt: str, place: str, script: Script, upstream: ScriptedUpstream
) -> None:
    """A 5xx of ours is one that the SDK repeats by itself, and then it goes well; we multiply no tries."""
    failed: list[Call] = []

    def once(call: Call) -> Reply | None:
        if failed or call.method != "POST":
            return None
        failed.append(call)
        return Reply.json(500, {"error": {"message": "x", "type": "server_error"}})

    script(once)
    with OpenAI(
        base_url=f"{served.root}/v1", api_key=served.keys["project"], max_retries=1
    ) as client:
        raw = client.chat.completions.with_raw_response.create(
            model=MODELS["openai"], messages=asked(prompt)
        )

    assert 1 == raw.retries_taken
    assert place in (raw.parse().choices[0].message.content or "")
    assert 2 == len(calls_about(upstream, place))


def test_used_up_is_not_tried_again(
    served: Served, prompt: str, place: str, upstream: ScriptedUpstream
) -> None:
    """With nothing left to spend, asking again is useless, and the SDK is told so."""
    with OpenAI(
        base_url=f"{served.root}/v1", api_key=served.keys["project"], max_retries=2
    ) as client:
        with pytest.raises(RateLimitError) as raised:
            client.chat.completions.create(
                model=faulty("openai", "429_quota"), messages=asked(prompt)
            )

    assert "insufficient_quota" == raised.value.code
    assert 1 == len(calls_about(upstream, place))


@PROVIDERS
def test_a_client_that_loses_patience(client: OpenAI, prompt: str, provider: str) -> None:
    """It hears of its own timeout, and is served again at once. (What is left hanging would hold up the end.)"""
    with pytest.raises(APITimeoutError):
        client.chat.completions.create(
            model=faulty(provider, "hang"), messages=asked(prompt), timeout=0.3
        )

    answer = client.chat.completions.create(model=MODELS[provider], messages=asked(prompt))
    assert answer.choices[0].message.content


# --- in the middle of a stream ------------------------------------------------------------------------


CUTS = pytest.mark.parametrize(
    "fault",
    [
        "reset@5",
        "close_early@5",
        "wrong_length@5",
        "no_end_marker@5",
        "cut_mid_line@5",
        "invalid_json@5",
        "ok_with_error@5",
    ],
)


@CUTS
@PROVIDERS
def test_a_cut_is_raised(client: OpenAI, prompt: str, provider: str, fault: str) -> None:
    """What came before is delivered, then the loop raises: a part is never taken for the whole, and never kept."""
    for _ in range(2):
        raw = client.chat.completions.with_raw_response.create(
            model=faulty(provider, fault), messages=asked(prompt), stream=True
        )
        written = ""
        with pytest.raises(APIError) as raised:
            for chunk in raw.parse():
                written += chunk.choices[0].delta.content or ""

        assert "MISS" == Told.by(raw.headers).cached
        assert written.startswith("This")
        assert "api_error" == raised.value.type
        assert has_four_keys(raised.value)
        assert SECRET not in str(raised.value.body)


@CUTS
@PROVIDERS
def test_the_helper_raises_on_a_cut(
    client: OpenAI, prompt: str, provider: str, fault: str
) -> None:
    with client.chat.completions.stream(
        model=faulty(provider, fault), messages=asked(prompt)
    ) as stream:
        with pytest.raises(APIError):
            stream.get_final_completion()


@PROVIDERS
def test_a_cut_completion_is_raised(client: OpenAI, prompt: str, provider: str) -> None:
    """The legacy endpoint is no quieter."""
    with pytest.raises(APIError):
        for _ in client.completions.create(
            model=faulty(provider, "close_early@5"), prompt=prompt, max_tokens=100, stream=True
        ):
            pass


@PROVIDERS
async def test_a_cut_is_raised_async(served: Served, prompt: str, provider: str) -> None:
    async with openai.AsyncOpenAI(
        base_url=f"{served.root}/v1", api_key=served.keys["project"], max_retries=0
    ) as client:
        stream = await client.chat.completions.create(
            model=faulty(provider, "reset@5"), messages=asked(prompt), stream=True
        )
        with pytest.raises(APIError):
            async for _ in stream:
                pass
