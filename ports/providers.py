"""Who makes answers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from domain.answer import Completion, Frame
from domain.models import ListedModel, Route
from domain.request import ProxyRequest


class FrameStream(Protocol):
    """OpenAI-shaped chunks, one list per read of the provider's socket.

    Ends normally only after the provider's own end marker was seen; anything else raises a domain error.
    `aclose` at any time frees the connection within a millisecond and stops the provider's work.
    """

    @property
    def service_tier(self) -> str | None:
        """The tier that was billed, as far as it is known by now."""

    def __aiter__(self) -> AsyncIterator[Sequence[Frame]]: ...

    async def aclose(self) -> None: ...


class Provider(Protocol):
    """Speaks OpenAI's shapes on this side and its own dialect on the other. Raises domain errors only."""

    async def complete(self, request: ProxyRequest, route: Route, /) -> Completion: ...

    async def open_stream(self, request: ProxyRequest, route: Route, /) -> FrameStream:
        """Returns when the provider has answered with a good status and a first event, so that its refusals raise."""

    async def models(self) -> Sequence[ListedModel]:
        """The models this provider offers now."""

    async def aclose(self) -> None: ...
