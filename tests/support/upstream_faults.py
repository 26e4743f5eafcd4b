"""The ways a provider breaks, by name, each in the dialect and the delivery (plain or stream) of the call.

A fault is a function of the call and of how many good events a stream brings before it; plain answers pass over that
number. `refuse` has no entry: it needs the listening socket, see `ScriptedUpstream.break_with`. Faults of `STREAM_ONLY`
leave plain answers good. Errors by status are in `upstream_refusals`, whole
answers that are not to be kept in `upstream_shapes`.
"""

from __future__ import annotations

import asyncio
import gzip as gzip_codec
import re
import socket
import struct
from collections.abc import Callable, Iterator
from functools import lru_cache, partial

import orjson
from attrs import evolve

from tests.support import upstream_anthropic, upstream_openai
from tests.support.upstream_refusals import KINDS, SECRET, out_of_quota, page, redirect, status
from tests.support.upstream_reply import Call, Ending, Reply, Step
from tests.support.upstream_shapes import SHAPES

Fault = Callable[[Call, int], Reply]

NAMED = re.compile(r"fault-([a-z0-9_]+)(?:@(\d+))?$")

DRIP_SECONDS = 5.0

STREAM_ONLY = frozenset({"no_end_marker", "giant_line", "cut_mid_line"})

HOLD = 0.05
"""Between the last good bytes and a reset, which would otherwise overtake them on their way."""


def named(call: Call) -> Reply | None:
    """The fault that the model's name asks for."""
    found = NAMED.search(call.model) if call.method == "POST" else None
    return FAULTS[found[1]](call, int(found[2] or 0)) if found and found[1] in FAULTS else None


def reset(transport: asyncio.Transport) -> None:
    """Closes with RST instead of FIN."""
    sock = transport.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


def _good(call: Call) -> Reply:
    if call.dialect == "anthropic":
        return upstream_anthropic.good_answer(call)
    return upstream_openai.good_answer(call)


def _body(call: Call) -> bytes:
    (body,) = _good(call).steps
    assert isinstance(body, bytes)
    return body


def _events(call: Call) -> list[bytes]:
    return [step for step in _good(call).steps if isinstance(step, bytes)]


def _error_event(call: Call, kind: str, message: str) -> bytes:
    if call.dialect == "anthropic":
        return upstream_anthropic.event("error", error={"type": kind, "message": message})
    return upstream_openai.event(
        {"error": {"message": message, "type": kind, "param": None, "code": None}}
    )


# --- the connection -------------------------------------------------------------------------------


def _cut(call: Call, after: int, *ending: Step) -> Reply:
    """Half of a plain body, or some events of a stream, and then what `ending` says."""
    good = _good(call)
    if call.stream:
        return evolve(good, steps=[*_events(call)[:after], *ending])
    body = _body(call)
    return evolve(good, steps=[body[: len(body) // 2], *ending])


def hang(call: Call, after: int) -> Reply:
    if call.stream and after:
        return stall_mid_body(call, after)
    return Reply.raw([Ending.HANG])


def stall_mid_body(call: Call, after: int) -> Reply:
    return _cut(call, after, Ending.HANG)


def reset_mid_body(call: Call, after: int) -> Reply:
    return _cut(call, after, HOLD, Ending.RESET)


def reset_early(call: Call, after: int) -> Reply:
    return Reply.raw([Ending.RESET])


def close_early(call: Call, after: int) -> Reply:
    return _cut(call, after, Ending.CLOSE)


def wrong_length(call: Call, after: int) -> Reply:
    """More is announced than comes: in a stream, by the size of an HTTP chunk."""
    good = _good(call)
    if not call.stream:
        body = _body(call)
        kind = ("content-type", "application/json")
        return evolve(
            good,
            headers=(kind, ("content-length", str(len(body) + 10))),
            steps=[body, Ending.CLOSE],
        )
    head = evolve(good, steps=()).head()
    sent = [b"%x\r\n%b\r\n" % (len(one), one) for one in _events(call)[:after]]
    return Reply.raw([head, *sent, b"fff\r\ndata: {", Ending.CLOSE])


def no_end_marker(call: Call, after: int) -> Reply:
    """The stream ends as HTTP ends it, but the provider's own last event is missing."""
    good = _good(call)
    return (
        evolve(good, steps=_events(call)[:after] if after else _events(call)[:-1])
        if call.stream
        else good
    )


def cut_mid_line(call: Call, after: int) -> Reply:
    if not call.stream:
        return _good(call)
    events = _events(call)
    cut = events[min(after, len(events) - 1)]
    return evolve(_good(call), steps=[*events[:after], cut[: len(cut) // 2]])


def drip(call: Call, after: int, seconds: float = DRIP_SECONDS) -> Reply:
    """One byte at a time; `partial(drip, seconds=...)` for the impatient."""
    good = _good(call)
    begun = _events(call)[:after] if call.stream else []
    rest = b"".join(_events(call)[after:]) if call.stream else _body(call)

    def steps() -> Iterator[Step]:
        yield from begun
        for place in range(len(rest)):
            yield rest[place : place + 1]
            yield seconds

    return evolve(good, steps=steps())


# --- the content ----------------------------------------------------------------------------------


def _instead(call: Call, after: int, body: bytes, kind: str = "application/json") -> Reply:
    """A plain answer of this body; in a stream that has begun, the body in its middle."""
    if not call.stream or not after:
        return Reply.text(200, body, kind)
    return evolve(_good(call), steps=[*_events(call)[:after], body])


def invalid_json(call: Call, after: int) -> Reply:
    if call.stream:
        return evolve(
            _good(call), steps=[*_events(call)[:after], b'data: {"id": "x", "choices": [\n\n']
        )
    return _instead(call, after, b'{"id": "x", "choices": [')


def not_an_object(call: Call, after: int) -> Reply:
    if call.stream:
        return evolve(_good(call), steps=[*_events(call)[:after], b'data: ["a", 5]\n\n'])
    return _instead(call, after, b'["a", 5]')


def html(call: Call, after: int) -> Reply:
    page = b"<!doctype html><title>Sign in</title><script>alert(1)</script>\n\n"
    return _instead(call, after, page, "text/html; charset=utf-8")


def json_for_stream(call: Call, after: int) -> Reply:
    """A good plain answer, whatever was asked for; plain calls get a good stream."""
    turned = evolve(call, body={**call.body, "stream": not call.stream})
    return _good(turned)


def ok_with_error(call: Call, after: int, kind: str = "overloaded_error") -> Reply:
    message = f"Overloaded, {SECRET}"
    if call.stream:
        return evolve(
            _good(call), steps=[*_events(call)[:after], _error_event(call, kind, message)]
        )
    error = {"type": kind, "message": message, "param": None, "code": None}
    return Reply.json(
        200, {"type": "error", "error": error} if call.dialect == "anthropic" else {"error": error}
    )


def giant_line(call: Call, after: int) -> Reply:
    """An SSE line of more than a mebibyte."""
    if not call.stream:
        return _good(call)
    return evolve(
        _good(call),
        steps=[*_events(call)[:after], b'data: {"x": "' + b"x" * 1_100_000 + b'"}\n\n'],
    )


def giant_answer(call: Call, after: int) -> Reply:
    """More than 32 MiB, each part of it well formed."""
    if not call.stream:
        filler = b'{"x": "' + b"x" * (33 << 20) + b'", '
        return Reply.text(200, filler + _body(call)[1:], "application/json")
    text = "x" * 65_536
    if call.dialect == "anthropic":
        delta = {"type": "text_delta", "text": text}
        piece = upstream_anthropic.event("content_block_delta", index=0, delta=delta)
    else:
        choice = {"index": 0, "delta": {"content": text}, "logprobs": None, "finish_reason": None}
        top = upstream_openai.head(call, "chat.completion.chunk")
        piece = upstream_openai.event({**top, "choices": [choice]})

    def steps() -> Iterator[Step]:
        # Not before the third event, where every dialect has opened its text.
        yield from _events(call)[: max(after, 3)]
        yield from [piece] * (33 * 16)
        yield from _events(call)[max(after, 3) :]

    return evolve(_good(call), steps=steps())


def many_1xx(call: Call, after: int) -> Reply:
    good = _good(call)
    hint = b"HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\n\r\n"
    if call.stream:
        body = b"".join(b"%x\r\n%b\r\n" % (len(one), one) for one in _events(call)) + b"0\r\n\r\n"
    else:
        body = _body(call)
    return Reply.raw([hint * 20, good.head(), body])


def gzip(call: Call, after: int) -> Reply:
    """A bomb: 50 KiB that unpack to 48 MiB, though nobody asked for a compressed answer."""
    kind = "text/event-stream" if call.stream else "application/json"
    return Reply.text(200, _bomb(), kind, (("content-encoding", "gzip"),))


@lru_cache(maxsize=1)
def _bomb() -> bytes:
    return gzip_codec.compress(b" " * (48 << 20), compresslevel=6)


# --- what must be borne ---------------------------------------------------------------------------


def odd_events(call: Call, after: int) -> Reply:
    """Good, with what the standards allow around it: unknown events and fields, comments, lone CRs, a BOM."""
    if not call.stream:
        body = orjson.loads(_body(call))
        return Reply.json(200, {**body, "novelty": {"a": [1]}})
    events = [event.replace(b"\n", b"\r") for event in _events(call)]
    odd = [b": a comment\r\r", b"id: 7\rretry: 10\r\r", b"x-odd\r\r"]
    if call.dialect == "anthropic":
        odd.append(b'event: novelty\rdata: {"type": "novelty", "x": 1}\r\r')
        odd.append(
            b'event: content_block_delta\rdata: {"type": "content_block_delta", "index": 0, '
            b'"delta": {"type": "novelty_delta", "novelty": "x"}}\r\r'
        )
    begun = 2 if call.dialect == "anthropic" else 0
    return evolve(_good(call), steps=[b"\xef\xbb\xbf", *events[:begun], *odd, *events[begun:]])


def split_utf8(call: Call, after: int) -> Reply:
    """Good, but in pieces that cut letters of several bytes in two."""
    good = _good(call)
    whole = b"".join(_events(call)) if call.stream else _body(call)
    cuts = [place for place, byte in enumerate(whole) if byte >= 0x80 and byte & 0xC0 == 0x80]
    steps: list[Step] = []
    begun = 0
    for cut in cuts:
        steps += [whole[begun:cut], 0.002]
        begun = cut
    return evolve(good, steps=[*steps, whole[begun:]])


# --- usage ----------------------------------------------------------------------------------------


COUNTS = re.compile(rb'"(prompt|completion|input|output)_tokens":\d+')


def _counted(call: Call, after: int, written: bytes) -> Reply:
    """Good, with this in the place of every count."""
    steps = [COUNTS.sub(rb'"\1_tokens":' + written, step) for step in _events(call)]
    if call.stream:
        return evolve(_good(call), steps=steps)
    return Reply.text(200, steps[0], "application/json")


def no_usage(call: Call, after: int) -> Reply:
    good = _good(call)
    if not call.stream:
        body = orjson.loads(_body(call))
        body.pop("usage", None)
        return Reply.json(200, body)
    steps = [
        re.sub(rb'"usage":\{(?:[^{}]|\{[^{}]*\})*\}', b'"usage":null', step)
        for step in _events(call)
    ]
    return evolve(good, steps=steps)


# --- by name --------------------------------------------------------------------------------------

FAULTS: dict[str, Fault] = {
    "hang": hang,
    "stall_mid_body": stall_mid_body,
    "reset": reset_mid_body,
    "reset_early": reset_early,
    "close_early": close_early,
    "wrong_length": wrong_length,
    "no_end_marker": no_end_marker,
    "cut_mid_line": cut_mid_line,
    "drip": drip,
    "invalid_json": invalid_json,
    "not_an_object": not_an_object,
    "html": html,
    "json_for_stream": json_for_stream,
    "ok_with_error": ok_with_error,
    "ok_with_rate_limit": partial(ok_with_error, kind="rate_limit_error"),
    "ok_with_bad_request": partial(ok_with_error, kind="invalid_request_error"),
    "giant_line": giant_line,
    "giant_answer": giant_answer,
    "many_1xx": many_1xx,
    "gzip": gzip,
    "odd_events": odd_events,
    "split_utf8": split_utf8,
    "bad_usage": partial(_counted, written=b"-1"),
    "usage_as_text": partial(_counted, written=b'"12"'),
    "usage_as_null": partial(_counted, written=b"null"),
    "usage_as_fraction": partial(_counted, written=b"1.5"),
    "giant_usage": partial(_counted, written=b"1000000000000"),
    "no_usage": no_usage,
    **SHAPES,
    "redirect": redirect,
    "429_quota": out_of_quota,
    "502_page": partial(page, number=502),
    **{str(number): partial(status, number=number) for number in KINDS},
}
