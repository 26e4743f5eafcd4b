"""A provider whose successes and failures are told as they come, for somebody else to make sense of.

What breaks a stream that had begun well is not judged here: the request's own row tells it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from adapters.providers.failures import KeyRefused
from domain.answer import Completion
from domain.errors import Unavailable, UpstreamFailed, UpstreamTimeout
from domain.models import ListedModel, Route
from domain.request import ProxyRequest
from ports.providers import FrameStream, Provider

T = TypeVar("T")


class Watched:
    """A Provider over another. `key` is told (name, refused, status), `calls` (name, answered); both return at once."""

    def __init__(
        self,
        provider: Provider,
        name: str,
        key: Callable[[str, bool, int], None],
        calls: Callable[[str, bool], None],
    ) -> None:
        self._provider = provider
        self._name = name
        self._key = key
        self._calls = calls

    async def complete(self, request: ProxyRequest, route: Route) -> Completion:
        return await self._told(self._provider.complete(request, route))

    async def open_stream(self, request: ProxyRequest, route: Route) -> FrameStream:
        return await self._told(self._provider.open_stream(request, route))

    async def models(self) -> Sequence[ListedModel]:
        return await self._told(self._provider.models())

    async def aclose(self) -> None:
        await self._provider.aclose()

    async def _told(self, call: Awaitable[T]) -> T:
        try:
            found = await call
        except KeyRefused as refusal:
            self._key(self._name, True, refusal.refused_with)
            raise
        except (UpstreamFailed, UpstreamTimeout, Unavailable):
            self._calls(self._name, False)
            raise
        # Any other error is the request's own fault or a limit, which is neither good news nor bad.
        self._key(self._name, False, 200)
        self._calls(self._name, True)
        return found
