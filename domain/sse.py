"""Server-sent events without a socket (WHATWG HTML, section 9.2): bytes in, events out, and back.

Cut the input anywhere and the events are the same: CR, LF and CRLF line ends, a UTF-8 letter split over two
reads, comments and unknown fields are all taken in stride.
"""

from __future__ import annotations

from domain.errors import UpstreamFailed

MAX_LINE = 1 << 20
BOM = b"\xef\xbb\xbf"
DONE = b"data: [DONE]\n\n"
HEARTBEAT = b": keep-alive\n\n"


class SSEReader:
    """Feed it reads; it gives whole events as (event name, data). Raises UpstreamFailed on an endless line or event."""

    def __init__(self, max_line: int = MAX_LINE) -> None:
        self._pieces: list[bytes] = []
        self._waiting = 0
        self._max = max_line
        self._name = b""
        self._data: list[bytes] = []
        self._held = 0
        self._after_cr = False
        self._begun = False

    def feed(self, read: bytes) -> list[tuple[bytes, bytes]]:
        """The events that this read completes, in order. One without its blank line is none (section 9.2.6)."""
        if self._after_cr and read:
            # The LF of a CRLF that was cut in two ends no further line.
            self._after_cr = False
            read = read.removeprefix(b"\n")
        if not self._begun:
            read = b"".join([*self._pieces, read])
            self._pieces = [read]
            if len(read) < len(BOM) and BOM.startswith(read):
                return []
            self._begun = True
            self._pieces = []
            read = read.removeprefix(BOM)
        if b"\r" in read:
            self._after_cr = read.endswith(b"\r")
            read = read.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        if b"\n" not in read:
            # Joined when the line ends: a line that drips in is not copied at each drop.
            self._wait(read)
            return []
        *lines, rest = b"".join([*self._pieces, read]).split(b"\n")
        self._pieces, self._waiting = [], 0
        events: list[tuple[bytes, bytes]] = []
        for line in lines:
            if line:
                self._take(line)
                continue
            if self._data:
                events.append((self._name, b"\n".join(self._data)))
            self._name, self._data, self._held = b"", [], 0
        self._wait(rest)
        return events

    def _wait(self, piece: bytes) -> None:
        self._pieces.append(piece)
        self._waiting += len(piece)
        if self._waiting > self._max:
            raise UpstreamFailed("The provider sent an endless line.")

    def _take(self, line: bytes) -> None:
        if len(line) > self._max:
            raise UpstreamFailed("The provider sent an endless line.")
        field, _, content = line.partition(b":")
        content = content.removeprefix(b" ")
        if field == b"data":
            self._held += len(content) + 1
            if self._held > self._max:
                raise UpstreamFailed("The provider sent an endless event.")
            self._data.append(content)
        elif field == b"event":
            self._name = content


def frame(text: bytes) -> bytes:
    """One event around a JSON text (which has no line ends of its own)."""
    return b"data: " + text + b"\n\n"


def comment(text: bytes) -> bytes:
    """A line that every client skips."""
    return b": " + text + b"\n\n"
