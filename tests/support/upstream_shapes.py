"""Answers that are whole and must reach the caller or be refused, but never be kept: by name, as faults are."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial

from attrs import evolve

from tests.support import upstream_anthropic, upstream_openai
from tests.support.upstream_reply import Call, Reply

REASON = re.compile(rb'"(finish_reason|stop_reason)":"\w+"')

TEXT = re.compile(rb'"(content|text)":"(?:[^"\\]|\\.)*"')


def _changed(call: Call, change: Callable[[bytes], bytes]) -> Reply:
    """The good answer, each of its pieces changed."""
    if call.dialect == "anthropic":
        good = upstream_anthropic.good_answer(call)
    else:
        good = upstream_openai.good_answer(call)
    steps = [change(step) for step in good.steps if isinstance(step, bytes)]
    if call.stream:
        return evolve(good, steps=steps)
    return Reply.text(200, steps[0], "application/json")


def ends_with(call: Call, after: int, openai: bytes, claude: bytes) -> Reply:
    """The good answer, but with another reason for its end."""
    reason = claude if call.dialect == "anthropic" else openai
    return _changed(call, lambda piece: REASON.sub(rb'"\1":' + reason, piece))


def without_choices(call: Call, after: int) -> Reply:
    """No choices at all; in Anthropic's dialect no content."""
    inner = rb'"(choices|content)":\[\{.*\}\](?=[,}])'
    return _changed(call, lambda piece: re.sub(inner, rb'"\1":[]', piece))


def without_text(call: Call, after: int) -> Reply:
    return _changed(call, lambda piece: TEXT.sub(rb'"\1":""', piece))


def refusal(call: Call, after: int) -> Reply:
    """The model declines, in the field that the dialect has for it."""
    if call.dialect == "anthropic":
        return ends_with(call, after, b"", b'"refusal"')
    if call.stream:
        return _changed(call, lambda piece: TEXT.sub(rb'"refusal":"I will not."', piece))
    told = rb'"content":null,"refusal":"I will not."'
    return _changed(
        call, lambda piece: re.sub(rb'"content":"[^"]*"(,"refusal":null)?', told, piece)
    )


def wrong_type(call: Call, after: int) -> Reply:
    """A good answer under the name of something else."""
    good = _changed(call, lambda piece: piece)
    headers = tuple(
        (name, "text/plain" if name == "content-type" else content)
        for name, content in good.headers
    )
    return evolve(good, headers=headers)


SHAPES: dict[str, Callable[[Call, int], Reply]] = {
    "no_choices": without_choices,
    "no_text": without_text,
    "no_finish": partial(ends_with, openai=b"null", claude=b"null"),
    "unknown_finish": partial(ends_with, openai=b'"novelty"', claude=b'"novelty"'),
    "content_filter": partial(ends_with, openai=b'"content_filter"', claude=b'"refusal"'),
    "length_unasked": partial(
        ends_with, openai=b'"length"', claude=b'"model_context_window_exceeded"'
    ),
    "refusal": refusal,
    "wrong_type": wrong_type,
}
