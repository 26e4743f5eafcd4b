"""The journey of one request: who asks, what is asked, is it known, else who makes it, what did it cost, may it be kept.

`at_once` answers what memory alone can answer, without a task or a wait. `serve` does the rest. Every decision is a
function of the domain; this module only puts them in order.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Mapping

import orjson
from attrs import define, field

from app.services.admission import Admission
from app.services.background import BUSY, Background
from app.services.calls import EVENTS, Answer, Call, StreamAnswer
from app.services.embedding import Embedding
from app.services.gate import Gate
from app.services.metering import KEY_REVOKED, NOTHING, Line, Metering
from app.services.textcompletions import TextCompletions
from domain.answer import CacheEntry, CacheKey, Completion, Document
from domain.cachekey import cache_key, raw_digest
from domain.cachepolicy import (
    DEFAULT_CONTROLS,
    TOO_LARGE,
    Lookup,
    parse_controls,
    plan_lookup,
    why_not_stored,
    young_enough,
)
from domain.completion import StreamFolder, delivered, replay, stored_document, written_out
from domain.errors import ApiError, ModelNotFound, Unavailable, UpstreamFailed
from domain.headers import closing_comment, for_hit, for_miss
from domain.models import COMPLETION, Route
from domain.pricing import estimate_tokens, prompt_estimate, tokens_in
from domain.project import TEST, Grant
from domain.request import Endpoint, ProxyRequest, parse_request, prompt_text
from domain.routing import Catalogue, route, sandbox_route
from domain.scope import check_endpoint, check_model
from domain.sse import DONE
from domain.usage import CLIENT_GONE, FAILED, INTERRUPTED, MISS, Usage
from domain.value import value
from ports.cache import CacheStore
from ports.providers import FrameStream, Provider

RECALLS = 20_000
LARGEST_RECALLED = 128 * 1024
"""Bytes of a body that is looked up by its own digest; a longer one would hold up the loop for its neighbours."""


@value
class Recall:
    """What an equal body meant last time, so that it need not be parsed again."""

    key: CacheKey
    lookup: Lookup
    request: ProxyRequest
    route: Route


@define
class Proxy:
    """`ttls` are seconds by endpoint, `entry_bytes` the largest answer that is kept."""

    admission: Admission
    cache: CacheStore
    providers: Mapping[str, Provider]
    catalogue: Catalogue
    gate: Gate
    metering: Metering
    embedding: Embedding
    background: Background
    clock: Callable[[], float]
    monotonic: Callable[[], float]
    cache_secret: bytes
    ttls: Mapping[Endpoint, int]
    entry_bytes: int = 1 << 20
    most_in_flight: int = 500
    in_flight: int = 0
    ending: bool = False
    """What is cancelled from now on is cut off by us, not left by its client."""
    _recalls: OrderedDict[bytes, Recall] = field(factory=OrderedDict)

    def at_once(self, call: Call) -> Answer | None:
        """The answer, if who asks and what is asked are both in this process's memory."""
        if len(call.raw) > LARGEST_RECALLED:
            return None
        grant = self.admission.known(call.bearer)
        if grant is None:
            return None
        recall = self._recalls.get(self._raw_digest(call, grant))
        if recall is None:
            return None
        entry = self.cache.peek(recall.key)
        if entry is None or not young_enough(entry, recall.lookup, self.clock()):
            return None
        if (grant.models or grant.endpoints) and not self._permitted(grant, recall.request):
            return None
        line = self.metering.line(call.id, grant, call.endpoint, call.began)
        line.ask(recall.request, recall.route)
        try:
            if not self.gate.at_once(line):
                return None
        except ApiError as error:
            self._refuse(line, error)
            raise
        hit = self._hit(line, recall.request, entry)
        self.gate.leave(line)
        return hit

    async def serve(self, call: Call) -> Answer | StreamAnswer:
        """Raises ApiError. A call whose caller is known leaves exactly one row in the ledger."""
        grant = await self.admission.admit(call.bearer, call.address)
        line = self.metering.line(call.id, grant, call.endpoint, call.began)
        line.known_at = self.monotonic()
        try:
            return await self._answer(call, grant, line)
        except ApiError as error:
            self._refuse(line, error)
            raise
        except asyncio.CancelledError:
            line.outcome, line.status = (INTERRUPTED, 503) if self.ending else (CLIENT_GONE, 499)
            raise
        finally:
            if line.status != STREAMING:
                self._close(line)

    def _refuse(self, line: Line, error: ApiError) -> None:
        line.refused(error)
        error.limits = line.limits
        error.recorded = True
        self._close(line)

    def _close(self, line: Line) -> None:
        """The end of every request whose caller was known: its row, its place, its money."""
        self.metering.close(line)
        self.gate.leave(line)

    async def _answer(self, call: Call, grant: Grant, line: Line) -> Answer | StreamAnswer:
        try:
            request, to, lookup = self._understood(call, grant, line)
        except ApiError:
            # It counts as every request does, and its refusal tells the plan's numbers.
            await self.gate.admit(line)
            raise
        admitted = self.gate.admit(line)
        if call.endpoint is Endpoint.EMBEDDINGS:
            await admitted
            with self._slot():
                return await self.embedding.answer(
                    request, to, grant, lookup, line, self.providers[to.provider]
                )
        key = cache_key(self.cache_secret, grant, to, request)
        if lookup.read:
            self._recall(call, grant, Recall(key, lookup, _delivery_only(request), to))
            # Both questions are on their way before either is waited for.
            asked = self.monotonic()
            found = self.cache.get_many([key])
            try:
                await admitted
            finally:
                # What was asked is waited for, also by who is refused.
                [entry] = await found
                line.looked_up = asked, self.monotonic()
            if entry is not None and young_enough(entry, lookup, self.clock()):
                hit = self._hit(line, request, entry)
                if hit is not None:
                    return hit
        else:
            await admitted
        tokens = estimate_tokens(prompt_text(request.body))
        journey = Journey(request, to, lookup, key, line, self._maker(request, to), tokens)
        if request.stream:
            line.status = STREAMING
            return StreamAnswer(
                self._stream_headers(journey),
                self._stream(journey),
                grant,
                self.admission.digest(call.bearer),
                line.revoked,
            )
        with self._slot():
            return await self._complete(journey)

    def _understood(
        self, call: Call, grant: Grant, line: Line
    ) -> tuple[ProxyRequest, Route, Lookup]:
        check_endpoint(grant, call.endpoint)
        request = parse_request(call.endpoint, call.raw)
        line.asked = request.model
        to = self._route(grant, request)
        check_model(grant, request.model, self.catalogue)
        controls = DEFAULT_CONTROLS
        if call.cache_control or call.cache_ttl:
            controls = parse_controls(call.cache_control, call.cache_ttl)
        lookup = plan_lookup(request, controls, self.ttls[call.endpoint])
        line.ask(request, to)
        return request, to, lookup

    def _permitted(self, grant: Grant, request: ProxyRequest) -> bool:
        try:
            check_endpoint(grant, request.endpoint)
            check_model(grant, request.model, self.catalogue)
        except ApiError:
            return False
        return True

    def _route(self, grant: Grant, request: ProxyRequest) -> Route:
        if grant.kind == TEST:
            return sandbox_route(request.model)
        found = route(request.model, self.catalogue)
        if found.provider not in self.providers:
            raise ModelNotFound(
                request.model,
                f"The model '{request.model}' belongs to {found.provider}, which is not configured here.",
            )
        return found

    def _maker(self, request: ProxyRequest, to: Route) -> Provider:
        provider = self.providers[to.provider]
        if request.endpoint is Endpoint.COMPLETIONS and to.kind != COMPLETION:
            return TextCompletions(provider)
        return provider

    # --- from the cache --------------------------------------------------------------------------

    def _raw_digest(self, call: Call, grant: Grant) -> bytes:
        controls = f"{call.cache_control}\n{call.cache_ttl}"
        return raw_digest(self.cache_secret, grant, call.endpoint, controls, call.raw)

    def _recall(self, call: Call, grant: Grant, recall: Recall) -> None:
        if len(call.raw) > LARGEST_RECALLED:
            return
        digest = self._raw_digest(call, grant)
        self._recalls[digest] = recall
        self._recalls.move_to_end(digest)
        if len(self._recalls) > RECALLS:
            self._recalls.popitem(last=False)

    def _hit(self, line: Line, request: ProxyRequest, entry: CacheEntry) -> Answer | None:
        """None when the entry cannot be told as an answer: a bad entry is a miss."""
        body, content_type = entry.body, "application/json"
        if request.stream:
            try:
                body = replay(orjson.loads(entry.body), request.endpoint, request.include_usage)
            except (ValueError, LookupError, TypeError, AttributeError):
                return None
            content_type = EVENTS
        line.hit(entry)
        self.metering.close(line)
        elapsed = (self.monotonic() - line.began) * 1000
        headers = for_hit(entry.provider, entry.usage.total, elapsed)
        return Answer({**headers, **line.limits}, body, content_type)

    def _keep(self, journey: Journey, document: Document, usage: Usage) -> str:
        """Stores the answer if it is proven whole; says why not otherwise."""
        kept = orjson.dumps(stored_document(document))
        reason = why_not_stored(
            journey.lookup,
            journey.request,
            document,
            None if usage.estimated else usage,
            len(kept),
            self.entry_bytes,
        )
        if reason:
            return reason
        line = journey.line
        entry = CacheEntry(
            kept, line.provider, journey.route.model, usage, line.cost, self.clock()
        )
        put = self.cache.put_many([(journey.key, entry)], journey.lookup.ttl)
        return journey.lookup.reason if self.background.own(put) else BUSY

    def _keep_stream(self, journey: Journey, folder: StreamFolder, told: Told) -> str:
        if folder.overflowed:
            return TOO_LARGE
        return self._keep(journey, folder.document(told.document), journey.line.usage)

    # --- from a provider ---------------------------------------------------------------------------

    def _slot(self) -> Slot:
        return Slot(self)

    async def _complete(self, journey: Journey) -> Answer:
        line, request = journey.line, journey.request
        await self.gate.reserve(line, request)
        self.metering.open(line, journey.prompt_tokens)
        try:
            completion = await journey.maker.complete(request, journey.route)
        except ApiError as error:
            line.paid(error.spent or NOTHING, None)
            raise
        usage = completion.usage or _estimated(journey, _written(completion))
        cost = line.paid(usage, completion.service_tier)
        body = written_out(completion.document)
        line.reason = self._keep(journey, completion.document, usage)
        line.outcome, line.status = MISS, 200
        self.metering.close(line)
        elapsed = (self.monotonic() - line.began) * 1000
        headers = for_miss(line.provider, cost, elapsed, line.reason)
        return Answer({**headers, **line.limits}, body)

    def _stream_headers(self, journey: Journey) -> dict[str, str]:
        line, price = journey.line, journey.route.price
        cost = None if price is None else prompt_estimate(journey.prompt_tokens, price)
        elapsed = (self.monotonic() - line.began) * 1000
        reason = journey.lookup.reason or "stream"
        headers = for_miss(line.provider, cost, elapsed, reason, basis="prompt-estimate")
        return {**headers, **line.limits}

    async def _stream(self, journey: Journey) -> AsyncGenerator[bytes, None]:
        """SSE bytes, as they come. The row is closed before the last of them, however it ends."""
        line, request = journey.line, journey.request
        folder = StreamFolder(self.entry_bytes)
        told = Told()
        line.outcome, line.status = CLIENT_GONE, 499
        stream: FrameStream | None = None
        try:
            with self._slot():
                await self.gate.reserve(line, request)
                self.metering.open(line, journey.prompt_tokens)
                stream = await journey.maker.open_stream(request, journey.route)
                async for frames in stream:
                    if line.first_byte is None:
                        line.first_byte = self.monotonic()
                    written = []
                    for frame in frames:
                        folder.feed(frame.chunk)
                        if frame.usage is not None:
                            told.usage, told.document = frame.usage, frame.chunk.get("usage")
                        written.append(delivered(frame.chunk, frame.raw, request))
                    yield b"".join(written)
            line.outcome, line.status = MISS, 200
            yield self._settle(journey, folder, told, stream) + DONE
        except ApiError as error:
            line.refused(error)
            error.limits = line.limits
            error.recorded = True
            raise
        except (asyncio.CancelledError, GeneratorExit):
            if self.ending and line.reason != KEY_REVOKED:
                line.outcome, line.status = INTERRUPTED, 503
            raise
        except Exception:
            line.outcome, line.status = FAILED, 500
            raise
        finally:
            self._settle(journey, folder, told, stream)
            if stream is not None:
                await stream.aclose()

    def _settle(
        self, journey: Journey, folder: StreamFolder, told: Told, stream: FrameStream | None
    ) -> bytes:
        """Prices what was used, closes the row and, after a whole stream, keeps the answer. Gives the closing comment."""
        line = journey.line
        if line.closed:
            return b""
        if line.dispatched:
            tier = None if stream is None else stream.service_tier
            usage = told.usage
            left = line.outcome in (CLIENT_GONE, INTERRUPTED) or line.reason == KEY_REVOKED
            if usage is None and (left or folder.characters):
                usage = _estimated(journey, folder.written)
            line.paid(usage or NOTHING, tier)
            if line.outcome == MISS:
                line.reason = self._keep_stream(journey, folder, told)
        self._close(line)
        elapsed = (self.monotonic() - line.began) * 1000
        return closing_comment(line.cost, elapsed, line.usage)


STREAMING = 0
"""A line's status while its answer is a stream that will close it itself."""


@value
class Journey:
    """What the stations of one miss share."""

    request: ProxyRequest
    route: Route
    lookup: Lookup
    key: CacheKey
    line: Line
    maker: Provider
    prompt_tokens: int


@define
class Told:
    """What a stream's provider has said of its usage so far."""

    usage: Usage | None = None
    document: Document | None = None


@define
class Slot:
    """One of the calls that may be under way at once; raises Unavailable when all are taken."""

    proxy: Proxy

    def __enter__(self) -> None:
        if self.proxy.in_flight >= self.proxy.most_in_flight:
            raise Unavailable("Too many requests are under way here.", retry_after=1)
        self.proxy.in_flight += 1

    def __exit__(self, *error: object) -> None:
        self.proxy.in_flight -= 1


def _delivery_only(request: ProxyRequest) -> ProxyRequest:
    """The request without its document, which a recall does not need to hold in memory."""
    return ProxyRequest(request.endpoint, request.model, request.stream, request.include_usage, {})


def _estimated(journey: Journey, written: int) -> Usage:
    """Our own count, marked as such, where the provider gave none. `written` is characters."""
    return Usage(input=journey.prompt_tokens, output=tokens_in(written), estimated=True)


def _written(completion: Completion) -> int:
    choices = completion.document.get("choices")
    if type(choices) is not list:
        raise UpstreamFailed("The provider's answer has no choices.")
    return len(written_out(choices))
