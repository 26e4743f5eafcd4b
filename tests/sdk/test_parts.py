"""Pictures, files and sound in messages, through the official Python SDK."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import pytest
from openai import BadRequestError
from openai.types.chat import ChatCompletionMessageParam

from tests.sdk.conftest import Seat, Told, calls_about
from tests.support.upstream import ScriptedUpstream

PNG = b64encode(b"\x89PNG\r\n\x1a\n").decode()
PDF = b64encode(b"%PDF-1.7 x").decode()


@pytest.mark.parametrize("seat", ["anthropic"], indirect=True)
def test_pictures_and_files_reach_claude(
    seat: Seat, prompt: str, place: str, upstream: ScriptedUpstream
) -> None:
    """OpenAI's parts become Claude's blocks; the same picture again is a hit."""
    messages: list[ChatCompletionMessageParam] = [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": prompt},
                {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}},
                {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
                {
                    "type": "file",
                    "file": {
                        "filename": "a.pdf",
                        "file_data": f"data:application/pdf;base64,{PDF}",
                    },
                },
            ],
        }
    ]
    create = seat.client.chat.completions.with_raw_response.create

    found = [Told.by(create(model=seat.model, messages=messages).headers).cached for _ in range(2)]

    assert ["MISS", "HIT"] == found
    [call] = calls_about(upstream, place)
    text, inline, linked, document = call.messages[0]["content"]
    assert {"type": "text", "text": prompt} == text
    assert {"type": "base64", "media_type": "image/png", "data": PNG} == inline["source"]
    assert {"type": "url", "url": "https://example.com/a.png"} == linked["source"]
    assert "document" == document["type"]
    assert {
        "type": "base64",
        "media_type": "application/pdf",
        "data": PDF,
    } == document["source"]


@pytest.mark.parametrize("seat", ["anthropic"], indirect=True)
def test_claude_does_not_listen(seat: Seat, prompt: str) -> None:
    """Sound is refused with the place of the part, and not left out in silence."""
    with pytest.raises(BadRequestError) as raised:
        seat.client.chat.completions.create(
            model=seat.model,
            messages=[
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": prompt},
                        {"type": "input_audio", "input_audio": {"data": PNG, "format": "wav"}},
                    ],
                }
            ],
        )

    assert "messages[0].content[1].type" == raised.value.param


@pytest.mark.parametrize("seat", ["openai", "groq"], indirect=True)
def test_parts_go_on_as_they_are(
    seat: Seat, prompt: str, place: str, upstream: ScriptedUpstream
) -> None:
    """Who speaks OpenAI's language is given the caller's own words."""
    parts: list[Any] = [
        {"type": "text", "text": prompt},
        {"type": "image_url", "image_url": {"url": "https://example.com/a.png", "detail": "low"}},
    ]
    seat.client.chat.completions.create(
        model=seat.model, messages=[{"role": "user", "content": parts}]
    )

    [call] = calls_about(upstream, place)
    assert [{"role": "user", "content": parts}] == call.messages
