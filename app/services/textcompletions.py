"""The legacy endpoint over chat: one chat call a prompt, and one answer made of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from functools import reduce

import orjson
from attrs import define, evolve, fields

from domain.answer import Completion, Document, Frame
from domain.errors import ApiError
from domain.models import ListedModel, Route
from domain.request import ProxyRequest
from domain.textcompletion import chat_requests, chunk_head, text_chunk, text_document
from domain.usage import Usage
from ports.providers import FrameStream, Provider

AT_ONCE = 8
"""Chat calls of one request under way together."""


@define
class TextCompletions:
    """A Provider for text completions whose work is done by `chat`."""

    chat: Provider

    async def complete(self, request: ProxyRequest, route: Route) -> Completion:
        asked = chat_requests(request, route)
        answers = await self._all(asked, route)
        usages = [answer.usage for answer in answers]
        usage = _sum(usages)
        told = _sum_documents([answer.document.get("usage") for answer in answers])
        document = text_document([answer.document for answer in answers], request, told)
        return Completion(document, usage, answers[0].service_tier)

    async def _all(self, asked: Sequence[ProxyRequest], route: Route) -> list[Completion]:
        if len(asked) == 1:
            return [await self.chat.complete(asked[0], route)]
        turn = asyncio.Semaphore(AT_ONCE)

        async def one(request: ProxyRequest) -> Completion:
            async with turn:
                return await self.chat.complete(request, route)

        tasks = [asyncio.ensure_future(one(request)) for request in asked]
        try:
            return list(await asyncio.gather(*tasks))
        except ApiError as error:
            # What the other prompts cost was spent all the same.
            error.spent = _sum([task.result().usage for task in tasks if _brought(task)])
            raise
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def open_stream(self, request: ProxyRequest, route: Route) -> FrameStream:
        asked = chat_requests(request, route)
        return TextStream(
            self.chat, request, asked, route, await self.chat.open_stream(asked[0], route)
        )

    async def models(self) -> Sequence[ListedModel]:
        return await self.chat.models()

    async def aclose(self) -> None:
        await self.chat.aclose()


def _brought(task: asyncio.Future[Completion]) -> bool:
    return task.done() and not task.cancelled() and task.exception() is None


class TextStream:
    """The chat streams of all prompts, one after the other, as one stream of text chunks."""

    def __init__(
        self,
        chat: Provider,
        request: ProxyRequest,
        asked: Sequence[ProxyRequest],
        route: Route,
        first: FrameStream,
    ) -> None:
        self._chat = chat
        self._request = request
        self._asked = asked
        self._route = route
        self._now = first
        self._head: Document = {}
        self._usages: list[Usage | None] = []
        self._documents: list[Document | None] = []

    @property
    def service_tier(self) -> str | None:
        return self._now.service_tier

    async def __aiter__(self) -> AsyncIterator[Sequence[Frame]]:
        for place, request in enumerate(self._asked):
            if place:
                self._now = await self._chat.open_stream(request, self._route)
            async for frames in self._now:
                told = [frame for one in frames for frame in self._frame(place, one)]
                if told:
                    yield told
            await self._now.aclose()
        usage, document = _sum(self._usages), _sum_documents(self._documents)
        if usage is not None:
            chunk = {**self._head, "choices": [], "usage": document}
            yield [Frame(chunk, orjson.dumps(chunk), usage)]

    def _frame(self, place: int, frame: Frame) -> list[Frame]:
        if not self._head:
            self._head = chunk_head(frame.chunk)
        if frame.usage is not None:
            self._usages.append(frame.usage)
            self._documents.append(frame.chunk.get("usage"))
        chunk = text_chunk(frame.chunk, self._request, place, self._head)
        return [] if chunk is None else [Frame(chunk, orjson.dumps(chunk))]

    async def aclose(self) -> None:
        await self._now.aclose()


def _sum(usages: Sequence[Usage | None]) -> Usage | None:
    """None when nothing was told, or a part of it was not."""
    if not usages or any(usage is None for usage in usages):
        return None
    return reduce(_plus, [usage for usage in usages if usage is not None])


def _plus(one: Usage, other: Usage) -> Usage:
    sums = {
        each.name: getattr(one, each.name) + getattr(other, each.name)
        for each in fields(Usage)
        if each.name != "estimated"
    }
    return evolve(one, **sums, estimated=one.estimated or other.estimated)


def _sum_documents(documents: Sequence[Document | None]) -> Document | None:
    told = [document for document in documents if type(document) is dict]
    if len(told) < 2:
        return told[0] if told else None
    names = ("prompt_tokens", "completion_tokens", "total_tokens")
    return {name: sum(document.get(name) or 0 for document in told) for name in names}
