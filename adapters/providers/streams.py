"""A provider's event stream as frames, whatever its dialect: begun only after a good status and a first event."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Protocol

from adapters.providers.upstream import Reply
from domain.answer import Frame
from domain.errors import ApiError, UpstreamFailed

EVENT_STREAM = "text/event-stream"


class Translation(Protocol):
    """A dialect as a machine: bytes in, OpenAI frames out."""

    @property
    def ended(self) -> bool:
        """The provider's own end marker was seen."""

    @property
    def failed(self) -> bool:
        """The next `feed` or `close` raises: a failure waits behind the frames that came before it."""

    @property
    def service_tier(self) -> str | None: ...

    def feed(self, read: bytes, /) -> list[Frame]:
        """Raises the domain error of what the provider reports instead of an answer, once frames are out."""

    def close(self) -> None:
        """Raises the failure held back, or UpstreamFailed unless the stream has ended."""


class ProviderStream:
    """A FrameStream over one reply."""

    def __init__(self, reply: Reply, translation: Translation) -> None:
        self._reply = reply
        self._translation = translation
        self._first: list[Frame] = []

    @property
    def service_tier(self) -> str | None:
        return self._translation.service_tier

    async def begin(self) -> None:
        """Waits for the first event, so that an error in its place can still become a status."""
        while not self._first and not self._translation.ended:
            self._first = await self._next()

    async def __aiter__(self) -> AsyncIterator[Sequence[Frame]]:
        if self._first:
            yield self._first
        while not self._translation.ended:
            frames = await self._next()
            if frames:
                yield frames

    async def _next(self) -> list[Frame]:
        # After an error event a provider may stay silent; nobody waits for it to speak again.
        read = b"" if self._translation.failed else await self._reply.read()
        if not read:
            self._translation.close()
        return self._translation.feed(read)

    async def aclose(self) -> None:
        self._reply.close()


async def begin_stream(
    provider: str, reply: Reply, refusal: Callable[[bytes], ApiError], translation: Translation
) -> ProviderStream:
    """The reply as a stream. Raises, and closes the reply, when it is none."""
    stream = ProviderStream(reply, translation)
    try:
        await _check(provider, reply, refusal)
        await stream.begin()
    except BaseException:
        reply.close()
        raise
    return stream


async def _check(provider: str, reply: Reply, refusal: Callable[[bytes], ApiError]) -> None:
    if reply.status != 200:
        raise refusal(await reply.whole())
    if reply.content_type != EVENT_STREAM:
        raise UpstreamFailed(f"{provider} did not answer with a stream.")
