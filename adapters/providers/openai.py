"""OpenAI's dialect, which is the house's own: the checked document goes out as it is, the answer comes back as it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import orjson

from adapters.providers.failures import Failure, event_error, openai_failure
from adapters.providers.streams import ProviderStream, begin_stream
from adapters.providers.upstream import Origin, Reply, Upstream
from domain.answer import Completion, Document, Frame
from domain.errors import ApiError, UpstreamFailed
from domain.models import ListedModel, Route
from domain.pricing import openai_usage
from domain.request import Endpoint, ProxyRequest
from domain.sse import SSEReader
from domain.usage import Usage

Prepare = Callable[[ProxyRequest, Route], Document]
UsageOf = Callable[[Document], Usage | None]


def prepare(request: ProxyRequest, route: Route) -> Document:
    """The caller's document, under the provider's name of the model, with usage always asked for on streams."""
    body = {**request.body, "model": route.model}
    if request.endpoint is Endpoint.EMBEDDINGS:
        return body
    body.pop("stream_options", None)
    body["stream"] = request.stream
    if request.stream:
        options = request.body.get("stream_options") or {}
        body["stream_options"] = {**options, "include_usage": True}
    return body


def usage_of(document: Document) -> Usage | None:
    return openai_usage(document.get("usage"))


class OpenAI:
    """`prepare` and `usage_of` are where another provider's dialect of the same API differs."""

    def __init__(
        self,
        upstream: Upstream,
        origin: Origin,
        *,
        root: str = "",
        prepare: Prepare = prepare,
        usage_of: UsageOf = usage_of,
        failure: Failure = openai_failure,
        stream_first_byte: float = 60.0,
    ) -> None:
        self._upstream = upstream
        self._origin = origin
        self._root = root
        self._prepare = prepare
        self._usage_of = usage_of
        self._failure = failure
        self._stream_first_byte = stream_first_byte

    async def complete(self, request: ProxyRequest, route: Route) -> Completion:
        body = orjson.dumps(self._prepare(request, route))
        path = f"{self._root}/{request.endpoint.value}"
        async with self._upstream.send(
            self._origin, "POST", path, body, first_byte=route.first_byte_timeout
        ) as reply:
            document = await self._document(reply)
        if (
            request.endpoint is not Endpoint.EMBEDDINGS
            and type(document.get("choices")) is not list
        ):
            raise UpstreamFailed(f"{self._origin.provider} answered without choices.")
        return Completion(document, self._usage_of(document), _text(document.get("service_tier")))

    async def _document(self, reply: Reply) -> Document:
        raw = await reply.document()
        if reply.status != 200:
            raise self._failure(self._origin.provider, reply.status, raw, reply.retry_after)
        try:
            document = orjson.loads(raw)
        except orjson.JSONDecodeError as exc:
            raise UpstreamFailed(
                f"{self._origin.provider} answered with something that is not JSON."
            ) from exc
        if type(document) is not dict:
            raise UpstreamFailed(
                f"{self._origin.provider} answered with something that is not an object."
            )
        error = document.get("error")
        if error:
            raise event_error(self._origin.provider, error)
        return document

    async def open_stream(self, request: ProxyRequest, route: Route) -> ProviderStream:
        name = self._origin.provider
        reply = await self._upstream.open(
            self._origin,
            "POST",
            f"{self._root}/{request.endpoint.value}",
            orjson.dumps(self._prepare(request, route)),
            first_byte=route.first_byte_timeout or self._stream_first_byte,
        )
        return await begin_stream(
            name,
            reply,
            lambda raw: self._failure(name, reply.status, raw, reply.retry_after),
            ChunkReader(name, self._usage_of),
        )

    async def models(self) -> Sequence[ListedModel]:
        async with self._upstream.send(
            self._origin, "GET", f"{self._root}/models", first_byte=15
        ) as reply:
            document = await self._document(reply)
        return [
            ListedModel(
                entry["id"],
                self._origin.provider,
                _number(entry.get("created")),
                _text(entry.get("shutdown_date")),
            )
            for entry in _entries(self._origin.provider, document)
            if type(entry) is dict and type(entry.get("id")) is str
        ]

    async def aclose(self) -> None:
        """The session is the upstream's own."""


class ChunkReader:
    """OpenAI's event stream as frames. Ends well only with `[DONE]`."""

    def __init__(self, provider: str, usage_of: UsageOf) -> None:
        self._provider = provider
        self._usage_of = usage_of
        self._reader = SSEReader()
        self._failure: ApiError | None = None
        self.ended = False
        self.service_tier: str | None = None

    @property
    def failed(self) -> bool:
        return self._failure is not None

    def feed(self, read: bytes) -> list[Frame]:
        """A failure never takes back what came before it in the same read: it is raised the next time."""
        if self._failure is not None:
            raise self._failure
        frames: list[Frame] = []
        try:
            for _, text in self._reader.feed(read):
                if text == b"[DONE]":
                    self.ended = True
                    break
                frames.append(self._frame(text))
        except ApiError as exc:
            self._failure = exc
            if not frames:
                raise
        return frames

    def close(self) -> None:
        if self._failure is not None:
            raise self._failure
        if not self.ended:
            raise UpstreamFailed(f"{self._provider} broke the stream off before its end.")

    def _frame(self, text: bytes) -> Frame:
        try:
            chunk: Any = orjson.loads(text)
        except orjson.JSONDecodeError as exc:
            raise UpstreamFailed(f"{self._provider} sent an event that is not JSON.") from exc
        if type(chunk) is not dict:
            raise UpstreamFailed(f"{self._provider} sent an event that is not an object.")
        if chunk.get("error"):
            raise event_error(self._provider, chunk["error"])
        tier = chunk.get("service_tier")
        if tier is not None:
            self.service_tier = _text(tier)
        usage = self._usage_of(chunk)
        return Frame(chunk, text if b"\n" not in text else orjson.dumps(chunk), usage)


def _entries(provider: str, document: Document) -> list[Any]:
    data = document.get("data")
    if type(data) is not list:
        raise UpstreamFailed(f"{provider} answered with a list of models that is none.")
    return data


def _text(found: Any) -> str | None:
    return found if type(found) is str else None


def _number(found: Any) -> int:
    return found if type(found) is int and found >= 0 else 0
