"""Anthropic over HTTP: the Messages API behind OpenAI's shapes. The translation itself is in the dialect."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import orjson
from attrs import evolve

from adapters.providers.anthropic_dialect import (
    MessageStream,
    Outgoing,
    abilities_from_listing,
    failure,
    from_message,
    to_messages,
)
from adapters.providers.anthropic_faults import event_failure
from adapters.providers.anthropic_request import SAMPLING_VERSION, VERSION
from adapters.providers.failures import clean
from adapters.providers.streams import ProviderStream, begin_stream
from adapters.providers.upstream import Origin, Reply, Upstream
from domain.answer import Completion
from domain.errors import ApiError, UpstreamFailed
from domain.models import ANTHROPIC, ClaudeAbilities, ListedModel, Route
from domain.request import ProxyRequest

PATH = "/v1/messages"
PAGES = 10
"""The model list is paged by a hundred; this many pages are read at most."""


class Anthropic:
    """`clock` is wall-clock seconds, for `created`."""

    def __init__(
        self,
        upstream: Upstream,
        origin: Origin,
        clock: Callable[[], float],
        *,
        stream_first_byte: float = 60.0,
    ) -> None:
        self._upstream = upstream
        self._clock = clock
        self._stream_first_byte = stream_first_byte
        self._speaking = {
            version: origin.speaking({"anthropic-version": version})
            for version in (VERSION, SAMPLING_VERSION)
        }
        self._listed: dict[str, ClaudeAbilities] = {}

    def _outgoing(self, request: ProxyRequest, route: Route, *, stream: bool) -> Outgoing:
        return to_messages(request.body, route.model, self._abilities(route), stream=stream)

    def _abilities(self, route: Route) -> ClaudeAbilities:
        """What the provider's list says of the model, and for what it does not say, the packaged table."""
        listed, packaged = self._listed.get(route.model), route.claude
        if listed is None or packaged is None:
            return listed or packaged or ClaudeAbilities()
        return evolve(
            listed,
            sampling=packaged.sampling,
            both_samplings=packaged.both_samplings,
            forced_tools=packaged.forced_tools,
            prefill=packaged.prefill,
        )

    async def complete(self, request: ProxyRequest, route: Route) -> Completion:
        outgoing = self._outgoing(request, route, stream=False)
        async with self._upstream.send(
            self._speaking[outgoing.version],
            "POST",
            PATH,
            orjson.dumps(outgoing.payload),
            first_byte=route.first_byte_timeout,
        ) as reply:
            raw = await reply.document()
        if reply.status != 200:
            raise _refusal(reply, raw)
        message = _object(raw)
        if message.get("type") == "error":
            raise event_failure(message)
        return from_message(message, outgoing, int(self._clock()))

    async def open_stream(self, request: ProxyRequest, route: Route) -> ProviderStream:
        outgoing = self._outgoing(request, route, stream=True)
        reply = await self._upstream.open(
            self._speaking[outgoing.version],
            "POST",
            PATH,
            orjson.dumps(outgoing.payload),
            first_byte=route.first_byte_timeout or self._stream_first_byte,
        )
        return await begin_stream(
            ANTHROPIC,
            reply,
            lambda raw: _refusal(reply, raw),
            MessageStream(outgoing, int(self._clock())),
        )

    async def models(self) -> Sequence[ListedModel]:
        """Every page of the list; what it says of a model's abilities is used from then on."""
        found: list[ListedModel] = []
        after = ""
        for _ in range(PAGES):
            page = await self._page(after)
            data = page.get("data")
            entries = (
                [entry for entry in data if type(entry) is dict] if type(data) is list else []
            )
            found.extend(_listed(entry) for entry in entries if type(entry.get("id")) is str)
            after = page.get("last_id") or ""
            if page.get("has_more") is not True or not after:
                break
        self._listed.update({one.id: one.claude for one in found if one.claude is not None})
        return found

    async def _page(self, after: str) -> dict[str, Any]:
        query = "?limit=100" + (f"&after_id={after}" if after else "")
        async with self._upstream.send(
            self._speaking[VERSION], "GET", "/v1/models" + query, first_byte=15
        ) as reply:
            raw = await reply.document()
        if reply.status != 200:
            raise _refusal(reply, raw)
        return _object(raw)

    async def aclose(self) -> None:
        """The session is the upstream's own."""


def _refusal(reply: Reply, raw: bytes) -> ApiError:
    error = failure(reply.status, raw, reply.retry_after)
    error.message = clean(error.message)
    return error


def _object(raw: bytes) -> dict[str, Any]:
    try:
        document = orjson.loads(raw)
    except orjson.JSONDecodeError as exc:
        raise UpstreamFailed("anthropic answered with something that is not JSON.") from exc
    if type(document) is not dict:
        raise UpstreamFailed("anthropic answered with something that is not an object.")
    return document


def _listed(entry: dict[str, Any]) -> ListedModel:
    created = entry.get("created_at")
    try:
        seconds = int(datetime.fromisoformat(str(created)).timestamp())
    except (ValueError, OverflowError):
        seconds = 0
    return ListedModel(
        entry["id"], ANTHROPIC, max(0, seconds), None, abilities_from_listing(entry)
    )
