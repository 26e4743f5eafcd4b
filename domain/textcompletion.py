"""Text completions over chat: the legacy endpoint's shapes (OpenAI API reference, "Completions"), both ways.

No provider has a live text-completion model any more, so each prompt becomes one chat call whose user message is
the prompt. What has no counterpart in chat is refused with a clear 400, never dropped.
"""

from __future__ import annotations

from typing import Any

from attrs import evolve

from domain.answer import Document
from domain.errors import InvalidRequest, UpstreamFailed
from domain.models import Route
from domain.request import Endpoint, ProxyRequest

DEFAULT_MAX_TOKENS = 16
REASONING_MAX_TOKENS = 4_096
"""A reasoning model would think through the endpoint's default of 16 and write nothing."""

_REFUSED = ("suffix", "logprobs", "logit_bias")
_OWN = frozenset({"prompt", "echo", "suffix", "best_of", "logprobs", "logit_bias", "max_tokens"})


def chat_requests(request: ProxyRequest, route: Route) -> list[ProxyRequest]:
    """One chat request a prompt. Raises InvalidRequest for what chat cannot do."""
    body = request.body
    for field in _REFUSED:
        if body.get(field) not in (None, "", {}):
            raise _unsupported(field)
    if (body.get("best_of") or 1) > 1:
        raise _unsupported("best_of")
    shared = {
        name: field for name, field in body.items() if name not in _OWN and field is not None
    }
    given = shared.pop("max_completion_tokens", None)
    limit = body.get("max_tokens")
    if limit is None:
        limit = given
    if limit is None:
        limit = REASONING_MAX_TOKENS if route.reasoning else DEFAULT_MAX_TOKENS
    # Reasoning models refuse max_tokens; the others take both words.
    shared["max_completion_tokens" if route.reasoning else "max_tokens"] = limit
    return [
        evolve(
            request,
            endpoint=Endpoint.CHAT,
            body={**shared, "messages": [{"role": "user", "content": prompt}]},
        )
        for prompt in prompts(body)
    ]


def prompts(body: Document) -> list[str]:
    """The prompts as text; token arrays mean nothing outside the tokenizer they were made with."""
    given = body["prompt"]
    if type(given) is str:
        return [given]
    if all(type(item) is str for item in given):
        return list(given)
    raise InvalidRequest(
        "Prompts of tokens are not supported for this model; send text.",
        param="prompt",
        code="unsupported_value",
    )


def _unsupported(field: str) -> InvalidRequest:
    return InvalidRequest(
        f"'{field}' is not supported for this model.", param=field, code="unsupported_parameter"
    )


def text_document(
    answers: list[Document], request: ProxyRequest, usage: Document | None
) -> Document:
    """The text completion made of one chat completion per prompt; choices are numbered prompt by prompt."""
    found = _head(answers[0])
    found["choices"] = [
        _text_choice(choice, request, place)
        for place, answer in enumerate(answers)
        for choice in _listed(answer)
    ]
    if usage is not None:
        found["usage"] = usage
    return found


def text_chunk(
    chunk: Document, request: ProxyRequest, place: int, head: Document
) -> Document | None:
    """The text chunk of a chat chunk of prompt number `place`; None when it says nothing to this endpoint."""
    choices = [_text_delta(choice, request, place) for choice in _listed(chunk)]
    told = [choice for choice in choices if choice is not None]
    return {**head, "choices": told} if told else None


def _listed(chat: Document) -> list[Any]:
    choices = chat.get("choices") or []
    if type(choices) is not list:
        raise _malformed()
    return choices


def _text_choice(choice: Any, request: ProxyRequest, place: int) -> Document:
    message = _part(choice, "message")
    text = _echoes(request)[place] + _said(message)
    return _numbered(text, choice, message, request, place)


def _text_delta(choice: Any, request: ProxyRequest, place: int) -> Document | None:
    delta = _part(choice, "delta")
    text = _said(delta)
    if delta.get("role"):
        text = _echoes(request)[place] + text
    if not text and choice.get("finish_reason") is None:
        return None
    return _numbered(text, choice, delta, request, place)


def _numbered(
    text: str, choice: Document, message: Document, request: ProxyRequest, place: int
) -> Document:
    per_prompt = request.body.get("n") or 1
    index = choice.get("index", 0)
    if type(index) is not int or not 0 <= index < per_prompt:
        raise _malformed()
    finish = choice.get("finish_reason")
    return {
        "text": text,
        "index": place * per_prompt + index,
        "logprobs": None,
        # This endpoint has no other word for a refusal.
        "finish_reason": "content_filter" if finish and message.get("refusal") else finish,
    }


def _part(choice: Any, name: str) -> Document:
    part = choice.get(name) or {} if type(choice) is dict else None
    if type(part) is not dict:
        raise _malformed()
    return part


def _said(message: Document) -> str:
    content = message.get("content") or ""
    if type(content) is not str:
        raise _malformed()
    return content


def _malformed() -> UpstreamFailed:
    return UpstreamFailed("The provider's answer is malformed.")


def chunk_head(chunk: Document) -> Document:
    """What all chunks of one text stream share, taken from the first chat chunk."""
    return _head(chunk)


def _head(chat: Document) -> Document:
    found = {
        "id": "cmpl-" + str(chat.get("id", "")).removeprefix("chatcmpl-"),
        "object": "text_completion",
        "created": chat.get("created", 0),
        "model": chat.get("model", ""),
    }
    if chat.get("system_fingerprint") is not None:
        found["system_fingerprint"] = chat["system_fingerprint"]
    return found


def _echoes(request: ProxyRequest) -> list[str]:
    texts = prompts(request.body)
    return texts if request.body.get("echo") is True else [""] * len(texts)
