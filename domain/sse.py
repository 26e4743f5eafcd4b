"""Server-sent events without a socket (WHATWG HTML, section 9.2): bytes in, events out, and back.

Cut the input anywhere and the events are the same: CR, LF and CRLF line ends, a UTF-8 letter split over two
reads, comments and unknown fields are all taken in stride.
"""

from __future__ import annotations

from domain.errors import UpstreamFailed

MAX_LINE = 1 << 20
DONE = b"data: [DONE]\n\n"
HEARTBEAT = b": keep-alive\n\n"


class SSEReader:
    """Feed it reads; it gives whole events as (event name, data). Raises UpstreamFailed on an endless line or event."""

    def __init__(self, max_line: int = MAX_LINE) -> None:
        self._rest = b""
        self._max = max_line
        self._name = b""
        self._data: list[bytes] = []
        self._held = 0
        self._after_cr = False
        self._begun = False

    def feed(self, read: bytes) -> list[tuple[bytes, bytes]]:
        """The events that this read completes, in order."""
        if self._after_cr and read:
            # The LF of a CRLF that was cut in two ends no further line.
            self._after_cr = False
            if read[:1] == b"\n":
                read = read[1:]
        text = self._rest + read if self._rest else read
        if not self._begun and text:
            if len(text) < 3 and b"\xef\xbb\xbf".startswith(text):
                self._rest = text
                return []
            self._begun = True
            text = text.removeprefix(b"\xef\xbb\xbf")
        if b"\r" in text:
            self._after_cr = text.endswith(b"\r")
            text = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *lines, self._rest = text.split(b"\n")
        if len(self._rest) > self._max:
            raise UpstreamFailed("The provider sent an endless line.")
        events: list[tuple[bytes, bytes]] = []
        for line in lines:
            if not line:
                if self._data:
                    events.append((self._name, b"\n".join(self._data)))
                self._name, self._data, self._held = b"", [], 0
                continue
            self._take(line)
        return events

    def _take(self, line: bytes) -> None:
        if len(line) > self._max:
            raise UpstreamFailed("The provider sent an endless line.")
        field, _, content = line.partition(b":")
        content = content.removeprefix(b" ")
        if field == b"data":
            self._held += len(content)
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
