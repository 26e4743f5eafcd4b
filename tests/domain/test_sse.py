"""Server-sent events: however the bytes are cut, the events are the same (WHATWG HTML, section 9.2)."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.errors import UpstreamFailed
from domain.sse import DONE, HEARTBEAT, MAX_LINE, SSEReader, comment, frame

Events = list[tuple[bytes, bytes]]

CASES: dict[str, tuple[bytes, Events]] = {
    "LF": (b'data: {"a":1}\n\ndata: [DONE]\n\n', [(b"", b'{"a":1}'), (b"", b"[DONE]")]),
    "CRLF": (b"data: 1\r\n\r\ndata: 2\r\n\r\n", [(b"", b"1"), (b"", b"2")]),
    "CR": (b"data: 1\r\rdata: 2\r\r", [(b"", b"1"), (b"", b"2")]),
    "mixed line ends": (
        b"data: 1\r\n\ndata: 2\r\r\ndata: 3\n\r",
        [(b"", b"1"), (b"", b"2"), (b"", b"3")],
    ),
    "no space": (b"data:1\n\n", [(b"", b"1")]),
    "one space of two": (b"data:  1\n\n", [(b"", b" 1")]),
    "named": (b"event: ping\ndata: {}\n\ndata: 1\n\n", [(b"ping", b"{}"), (b"", b"1")]),
    "a name alone is no event": (b"event: ping\n\ndata: 1\n\n", [(b"", b"1")]),
    "several data lines": (b"data: 1\ndata: 2\ndata\n\n", [(b"", b"1\n2\n")]),
    "empty data": (b"data:\n\n", [(b"", b"")]),
    "comments": (b": hello\n\n:\ndata: 1\n: in between\n\n", [(b"", b"1")]),
    "unknown fields": (b"id: 7\nretry: 10\nfoo\ndata: 1\n\n", [(b"", b"1")]),
    "a colon in the data": (b"data: a: b\n\n", [(b"", b"a: b")]),
    "byte order mark": (b"\xef\xbb\xbfdata: 1\n\n", [(b"", b"1")]),
    "a mark in the middle": (
        b"data: \xef\xbb\xbf1\n\n\xef\xbb\xbfdata: 2\n\n",
        [(b"", b"\xef\xbb\xbf1")],
    ),
    "letters of several bytes": ("data: é😀\n\n".encode(), [(b"", "é😀".encode())]),
    "no blank line at the end": (b"data: 1\n\ndata: 2\n", [(b"", b"1")]),
    "no line end at the end": (b"data: 1\n\ndata: 2", [(b"", b"1")]),
    "blank lines": (b"\n\n\r\n\rdata: 1\n\n\n\n", [(b"", b"1")]),
    "nothing": (b"", []),
}


def read(pieces: list[bytes], max_line: int = MAX_LINE) -> Events:
    reader = SSEReader(max_line)
    return [event for piece in pieces for event in reader.feed(piece)]


@pytest.mark.parametrize(("text", "expected"), CASES.values(), ids=CASES)
def test_events_of_a_whole_text(text, expected):
    """Every line end and every kind of line, in one read."""
    assert expected == read([text])


@pytest.mark.parametrize(("text", "expected"), CASES.values(), ids=CASES)
def test_cut_at_every_byte(text, expected):
    """Cut anywhere, also between CR and LF and inside a letter."""
    for cut in range(len(text) + 1):
        assert expected == read([text[:cut], text[cut:]])
        assert expected == read([text[:cut], b"", text[cut:], b""])


@pytest.mark.parametrize(("text", "expected"), CASES.values(), ids=CASES)
def test_byte_by_byte(text, expected):
    """As slow as a network can be."""
    assert expected == read([text[place : place + 1] for place in range(len(text))])


LINES = st.lists(
    st.sampled_from([b"data: 1", b"data:", b"data", b"event: x", b": c", b"id: 1", b""])
)
ENDS = st.sampled_from([b"\n", b"\r", b"\r\n"])


@settings(deadline=None)
@given(LINES, st.data())
def test_cut_anywhere(lines, data):
    """However many reads there are, the events are those of one."""
    text = b"".join(line + data.draw(ENDS) for line in lines)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)))) | {0, len(text)})

    assert read([text]) == read([text[start:end] for start, end in pairwise(cuts)])


def test_an_event_comes_with_the_read_that_ends_it():
    """Nothing is held back once its blank line is there, and nothing comes twice."""
    reader = SSEReader()

    assert [] == reader.feed(b"data: 1")
    assert [] == reader.feed(b"\n")
    assert [(b"", b"1")] == reader.feed(b"\ndata: 2")
    assert [] == reader.feed(b"")
    assert [(b"", b"2")] == reader.feed(b"\n\n")


def test_a_cr_is_not_waited_for():
    """After CR CR the event is complete; the LF that follows belongs to it."""
    reader = SSEReader()

    assert [(b"", b"1")] == reader.feed(b"data: 1\r\r")
    assert [] == reader.feed(b"\n")
    assert [(b"", b"2")] == reader.feed(b"data: 2\n\n")


@pytest.mark.parametrize(
    "text",
    [
        b"data: " + b"x" * 100,
        b"data: " + b"x" * 100 + b"\n\n",
        b": " + b"x" * 100 + b"\n",
        b"x" * 101,
        b"data: xxxxxxxxxxxxxxxx\n" * 10,
        b"data:\n" * 200,
    ],
)
def test_what_never_ends_is_the_providers_fault(text):
    """Lines and events have a bound, be they large or many."""
    with pytest.raises(UpstreamFailed):
        read([text], max_line=100)
    with pytest.raises(UpstreamFailed):
        read([text[place : place + 1] for place in range(len(text))], max_line=100)


def test_the_bound_is_for_one_line_and_one_event():
    """A long stream of short events is no endless one."""
    text = b": note\ndata: " + b"x" * 80 + b"\n\n"

    assert [(b"", b"x" * 80)] * 1000 == read([text] * 1000, max_line=100)


def test_a_line_of_a_mebibyte_passes():
    """In reads as small as they come: a line is put together once."""
    data = b"x" * (MAX_LINE - len(b"data: "))
    pieces = [data[start : start + 16] for start in range(0, len(data), 16)]

    assert [(b"", data)] == read([b"data: ", *pieces, b"\n\n"])


def test_what_we_write_can_be_read():
    """Frames are events; comments and the heartbeat are none."""
    assert [(b"", b'{"a":1}'), (b"", b"[DONE]")] == read(
        [comment(b"x-watchllm {}"), frame(b'{"a":1}'), HEARTBEAT, DONE]
    )
