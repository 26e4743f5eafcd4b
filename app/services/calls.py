"""What the web hands to the use cases, and what it gets back."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable

from attrs import field

from domain.errors import ApiError
from domain.headers import Headers
from domain.project import Grant
from domain.request import Endpoint
from domain.value import value

JSON = "application/json"
EVENTS = "text/event-stream; charset=utf-8"


@value
class Call:
    """One POST to the proxy, as it came: `bearer` is the presented key, `began` monotonic seconds.

    `address` is the one that the connection comes from.
    """

    id: str
    endpoint: Endpoint
    bearer: str = field(repr=False)
    cache_control: str
    cache_ttl: str
    raw: bytes = field(repr=False)
    began: float
    address: str = ""


@value
class Answer:
    """A whole answer, to be written in one go."""

    headers: Headers
    body: bytes = field(repr=False)
    content_type: str = JSON


@value
class StreamAnswer:
    """An answer that is still being made. The frames raise ApiError; before the first one it is a plain error.

    `digest` is that of its key, for which `grant` was given. Who ends it early, since the key is good no more, says so
    to `revoke` and then closes the frames; False means that all is told already.
    """

    headers: Headers
    frames: AsyncGenerator[bytes, None]
    grant: Grant
    digest: bytes
    revoke: Callable[[ApiError], bool]
