"""Chat completions as one JSON answer, through the official Python SDK."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any

import pytest
from openai import BadRequestError, OpenAI
from openai.types.chat import ChatCompletion, ChatCompletionMessageParam

from tests.sdk.conftest import MODELS, Seat, Told, calls_about
from tests.support.served import Served
from tests.support.upstream import ScriptedUpstream


def asked(prompt: str) -> list[ChatCompletionMessageParam]:
    return [{"role": "user", "content": prompt}]


def test_the_second_call_is_free(
    seat: Seat, prompt: str, place: str, upstream: ScriptedUpstream
) -> None:
    """A miss is priced to the picodollar, the same question again is a hit: cost 0, the tokens saved, the same words."""
    create = seat.client.chat.completions.with_raw_response.create

    raw = create(model=seat.model, messages=asked(prompt))
    first = raw.parse()
    again = create(model=seat.model, messages=asked(prompt))
    second = again.parse()

    assert first.usage is not None
    told = Told.by(raw.headers)
    seat.miss(told)
    assert seat.cost(first.usage.prompt_tokens, first.usage.completion_tokens) == Decimal(
        told.cost or "-1"
    )
    seat.hit(Told.by(again.headers), first.usage.total_tokens)
    [choice] = second.choices
    assert place in (choice.message.content or "")
    assert ("stop", "assistant") == (choice.finish_reason, choice.message.role)
    assert [choice] == first.choices
    assert (first.id, first.model, first.usage) == (second.id, second.model, second.usage)
    assert (0 if seat.provider == "sandbox" else 1) == len(calls_about(upstream, place))


def test_the_request_id_is_ours(seat: Seat, prompt: str) -> None:
    """The SDK finds our id, another one for each request, hit or not; the provider's own is not shown."""
    ids = []
    for _ in range(2):
        raw = seat.client.chat.completions.with_raw_response.create(
            model=seat.model, messages=asked(prompt)
        )
        ids.append(raw.parse()._request_id)
        assert raw.headers["x-request-id"] == raw.request_id == ids[-1]

    assert 2 == len({*ids, "req_upstream"} - {None, "req_upstream"})


def test_read_as_it_arrives(seat: Seat, prompt: str, place: str) -> None:
    """The third way of the SDK to an answer and its headers: the body is read when the caller wants it."""
    for cached in ("MISS", "HIT"):
        with seat.client.chat.completions.with_streaming_response.create(
            model=seat.model, messages=asked(prompt)
        ) as raw:
            assert cached == Told.by(raw.headers).cached
            assert place in (raw.parse().choices[0].message.content or "")


def test_the_answer_fits_the_sdks_types(seat: Seat, prompt: str) -> None:
    """The SDK itself reads whatever comes; here its own types are held against it, hit or miss."""
    for _ in range(2):
        raw = seat.client.chat.completions.with_raw_response.create(
            model=seat.model, messages=asked(prompt)
        )

        assert raw.parse().id == ChatCompletion.model_validate_json(raw.text).id


def test_a_query_in_the_address(seat: Seat, prompt: str, place: str) -> None:
    """Parameters behind the address do not hide it."""
    answer = seat.client.chat.completions.create(
        model=seat.model, messages=asked(prompt), extra_query={"api-version": "x"}
    )

    assert place in (answer.choices[0].message.content or "")


def test_a_base_url_without_v1(seat: Seat, prompt: str, place: str) -> None:
    """Whoever forgets `/v1` is served, and from the same cache."""
    root = str(seat.client.base_url).removesuffix("v1/")
    with OpenAI(base_url=root, api_key=seat.client.api_key, max_retries=0) as client:
        answer = client.chat.completions.create(model=seat.model, messages=asked(prompt))
    raw = seat.client.chat.completions.with_raw_response.create(
        model=seat.model, messages=asked(prompt)
    )

    assert place in (answer.choices[0].message.content or "")
    assert "HIT" == Told.by(raw.headers).cached


async def test_fifty_at_once(seat: Seat, place: str) -> None:
    """Of fifty callers at the same time each has the answer to its own question."""

    async def ask(number: int) -> str:
        answer = await client.chat.completions.create(
            model=seat.model, messages=asked(f"Say {place}x{number:02}.")
        )
        return answer.choices[0].message.content or ""

    async with seat.open_async() as client:
        answers = await asyncio.gather(*(ask(number) for number in range(50)))

    assert all(f"{place}x{number:02}." in text for number, text in enumerate(answers))


def test_the_sample_request_fits_every_model(seat: Seat, prompt: str, place: str) -> None:
    """System prompt, temperature and a limit of tokens: the body of the API document is taken by all of them."""
    answer = seat.client.chat.completions.create(
        model=seat.model,
        messages=[{"role": "system", "content": "You are WatchLLM."}, *asked(prompt)],
        temperature=0.75,
        max_tokens=250,
    )

    assert place in (answer.choices[0].message.content or "")


def test_nulls_are_as_absent(seat: Seat, prompt: str) -> None:
    """The SDK writes `null` where its user gave None; that is the same question."""
    nulls: dict[str, Any] = {"temperature": None, "stop": None, "tools": None, "n": None}
    seat.client.chat.completions.create(model=seat.model, messages=asked(prompt))

    raw = seat.client.chat.completions.with_raw_response.create(
        model=seat.model, messages=asked(prompt), extra_body=nulls
    )

    assert "HIT" == Told.by(raw.headers).cached


def test_cut_at_the_limit(seat: Seat, prompt: str) -> None:
    """An answer that the caller's own limit cut says so, and is kept."""
    create = seat.client.chat.completions.with_raw_response.create
    create(model=seat.model, messages=asked(prompt), max_completion_tokens=3)

    raw = create(model=seat.model, messages=asked(prompt), max_completion_tokens=3)

    answer = raw.parse()
    assert "HIT" == Told.by(raw.headers).cached
    assert "length" == answer.choices[0].finish_reason
    assert answer.usage is not None
    assert 3 == answer.usage.completion_tokens


@pytest.mark.parametrize("seat", ["openai", "sandbox"], indirect=True)
def test_several_choices(seat: Seat, prompt: str) -> None:
    create = seat.client.chat.completions.with_raw_response.create
    first = create(model=seat.model, messages=asked(prompt), n=3).parse()

    raw = create(model=seat.model, messages=asked(prompt), n=3)

    assert "HIT" == Told.by(raw.headers).cached
    assert first.choices == raw.parse().choices
    assert [0, 1, 2] == [choice.index for choice in first.choices]
    assert all(choice.message.content for choice in first.choices)


@pytest.mark.parametrize("seat", ["openai", "sandbox"], indirect=True)
def test_logprobs(seat: Seat, prompt: str) -> None:
    """Token by token they spell the answer, from the cache too."""
    for _ in range(2):
        [choice] = seat.client.chat.completions.create(
            model=seat.model, messages=asked(prompt), logprobs=True, top_logprobs=0
        ).choices

        assert choice.logprobs is not None
        spelt = "".join(token.token for token in choice.logprobs.content or ())
        assert choice.message.content == spelt


@pytest.mark.parametrize(
    ("provider", "name", "expected"),
    [
        ("openai", "stop", ["END", "STOP"]),
        ("groq", "stop", ["END", "STOP"]),
        ("anthropic", "stop_sequences", ["END", "STOP"]),
    ],
)
def test_stop_reaches_the_provider(
    client: OpenAI,
    upstream: ScriptedUpstream,
    prompt: str,
    place: str,
    provider: str,
    name: str,
    expected: list[str],
) -> None:
    client.chat.completions.create(
        model=MODELS[provider], messages=asked(prompt), stop=["END", "STOP"]
    )

    [call] = calls_about(upstream, place)
    assert expected == call.body[name]


@pytest.mark.parametrize("seat", ["sandbox"], indirect=True)
def test_the_sandbox_stops(seat: Seat, prompt: str, place: str) -> None:
    [choice] = seat.client.chat.completions.create(
        model=seat.model, messages=asked(prompt), stop=place
    ).choices

    assert ("stop", True) == (choice.finish_reason, bool(choice.message.content))
    assert place not in (choice.message.content or "")


def test_who_asks_does_not_matter(seat: Seat, prompt: str) -> None:
    """`user` and `metadata` are bookkeeping: another user has the answer for free."""
    create = seat.client.chat.completions.with_raw_response.create
    create(model=seat.model, messages=asked(prompt), user="u-1", metadata={"team": "red"})

    raw = create(model=seat.model, messages=asked(prompt), user="u-2", metadata={"team": "blue"})

    assert "HIT" == Told.by(raw.headers).cached


@pytest.mark.parametrize("seat", ["openai", "groq", "sandbox"], indirect=True)
def test_unknown_fields(seat: Seat, prompt: str, place: str, upstream: ScriptedUpstream) -> None:
    """What we do not know goes to the provider as it is, and makes another question."""
    create = seat.client.chat.completions.with_raw_response.create
    novelties: list[dict[str, object]] = [{"novelty": {"b": 1, "a": [2]}}, {"novelty": 2}, {}]

    found = [
        Told.by(create(model=seat.model, messages=asked(prompt), extra_body=extra).headers).cached
        for extra in (*novelties, *novelties)
    ]

    assert ["MISS"] * 3 + ["HIT"] * 3 == found
    if seat.provider != "sandbox":
        sent = [call.body.get("novelty") for call in calls_about(upstream, place)]
        assert [{"b": 1, "a": [2]}, 2, None] == sent


@pytest.mark.parametrize("seat", ["anthropic"], indirect=True)
def test_claude_names_a_field_it_does_not_know(seat: Seat, prompt: str) -> None:
    """Claude refuses unknown fields; the caller hears which one it was."""
    with pytest.raises(BadRequestError) as raised:
        seat.client.chat.completions.create(
            model=seat.model, messages=asked(prompt), extra_body={"novelty": 1}
        )

    assert ("novelty", "unknown_parameter") == (raised.value.param, raised.value.code)


def test_the_cache_obeys(seat: Seat, prompt: str) -> None:
    """`Cache-Control` of the request steers: no-store keeps nothing, no-cache asks anew and keeps."""
    create = seat.client.chat.completions.with_raw_response.create

    def ask(**headers: str) -> tuple[str, str]:
        raw = create(model=seat.model, messages=asked(prompt), extra_headers=headers)
        told = Told.by(raw.headers)
        return told.cached, told.reason

    found = [
        ask(**headers)
        for headers in (
            {"Cache-Control": "no-store"},
            {"x-WatchLLM-cache-ttl": "60"},
            {},
            {"Cache-Control": "no-cache"},
        )
    ]

    assert [
        ("MISS", "no-store"),
        ("MISS", "stored"),
        ("HIT", "exact"),
        ("MISS", "no-cache"),
    ] == found


def test_streamed_and_plain_share_an_entry(seat: Seat, prompt: str, place: str) -> None:
    """An answer that was streamed is the hit of a plain call, word for word."""
    written = "".join(
        chunk.choices[0].delta.content or ""
        for chunk in seat.client.chat.completions.create(
            model=seat.model, messages=asked(prompt), stream=True
        )
    )

    raw = seat.client.chat.completions.with_raw_response.create(
        model=seat.model, messages=asked(prompt)
    )

    answer = raw.parse()
    assert answer.usage is not None
    seat.hit(Told.by(raw.headers), answer.usage.total_tokens)
    assert place in written
    assert written == answer.choices[0].message.content


def test_a_project_key_and_a_test_key_share_nothing(
    served: Served, client: OpenAI, prompt: str
) -> None:
    """On a server with providers a test key meets the sandbox, never the answers that were paid for."""
    client.chat.completions.create(model=MODELS["openai"], messages=asked(prompt))

    with OpenAI(base_url=f"{served.root}/v1", api_key=served.keys["test"], max_retries=0) as test:
        raw = test.chat.completions.with_raw_response.create(
            model=MODELS["openai"], messages=asked(prompt)
        )

    told = Told.by(raw.headers)
    assert ("MISS", "sandbox", "0") == (told.cached, told.provider, told.cost)
