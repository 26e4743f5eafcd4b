"""The provider behind test keys: asks nobody, costs nothing, and gives the same answer to the same request.

Every shape of the chat and embeddings endpoints is served (streams, tools, JSON schemas, logprobs), so that a
first request and a customer's own tests need no provider key. What to say is in `sandbox_chat`.
"""

from __future__ import annotations

import asyncio
from array import array
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from hashlib import shake_256
from math import sqrt
from typing import Any

import orjson

from adapters.providers.sandbox_chat import Said, say, tokens_of
from domain.answer import Completion, Document, Frame
from domain.embeddings import items
from domain.errors import InvalidRequest
from domain.models import ListedModel, Route
from domain.request import Endpoint, ProxyRequest
from domain.usage import Usage

FRAMES_IN_A_READ = 4

DELIVERY = frozenset({"stream", "stream_options"})
"""Fields that change how an answer travels, not what it says."""

MAX_DIMENSIONS = 3_072


class Sandbox:
    """Implements ports.providers.Provider without any I/O."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock

    async def complete(self, request: ProxyRequest, route: Route, /) -> Completion:
        if request.endpoint is Endpoint.EMBEDDINGS:
            return await _embeddings(request.body, route.model)
        said = say(request.body, _seed(request.body))
        document = {
            **self._head(said, route, "chat.completion"),
            "choices": said.choices,
            "usage": _told(said.usage),
        }
        return Completion(document, said.usage)

    async def open_stream(self, request: ProxyRequest, route: Route, /) -> SandboxStream:
        said = say(request.body, _seed(request.body))
        head = self._head(said, route, "chat.completion.chunk")
        return SandboxStream(_frames(head, said, request.include_usage))

    def _head(self, said: Said, route: Route, kind: str) -> Document:
        return {
            "id": f"chatcmpl-sandbox{said.seed[:24]}",
            "object": kind,
            "created": int(self._clock()),
            "model": route.model,
            "system_fingerprint": "fp_sandbox",
        }

    async def models(self) -> Sequence[ListedModel]:
        """None of its own: it answers to every name."""
        return []

    async def aclose(self) -> None:
        """Holds nothing."""


class SandboxStream:
    """Implements ports.providers.FrameStream over frames that are all known."""

    service_tier: str | None = None

    def __init__(self, frames: Iterator[Frame]) -> None:
        self._frames = frames
        self._closed = False

    async def __aiter__(self) -> AsyncIterator[Sequence[Frame]]:
        read: list[Frame] = []
        for frame in self._frames:
            read.append(frame)
            if len(read) == FRAMES_IN_A_READ:
                yield read
                read = []
                # A long answer shares the loop, as one that comes from a socket does.
                await asyncio.sleep(0)
            if self._closed:
                return
        if read:
            yield read

    async def aclose(self) -> None:
        self._closed = True


def _seed(body: Document) -> str:
    asked = {name: field for name, field in body.items() if name not in DELIVERY}
    return shake_256(orjson.dumps(asked, option=orjson.OPT_SORT_KEYS)).hexdigest(16)


def _told(usage: Usage) -> Document:
    return {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.completion,
        "total_tokens": usage.total,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def _frames(head: Document, said: Said, include_usage: bool) -> Iterator[Frame]:
    """Role, pieces, finish for every choice, then the usage; the choices of one answer take turns."""
    if include_usage:
        head["usage"] = None
    for delta in said.deltas():
        chunk = {**head, "choices": [delta]}
        yield Frame(chunk, orjson.dumps(chunk))
    chunk = {**head, "choices": [], "usage": _told(said.usage)}
    yield Frame(chunk, orjson.dumps(chunk), said.usage)


# --- embeddings -----------------------------------------------------------------------------------


async def _embeddings(body: Document, model: str) -> Completion:
    dimensions = body.get("dimensions") or (3_072 if model.endswith("-large") else 1_536)
    if dimensions > MAX_DIMENSIONS:
        raise InvalidRequest(
            f"The sandbox writes {MAX_DIMENSIONS} dimensions at most.",
            param="dimensions",
            code="integer_above_max_value",
        )
    given = items(body["input"])
    signs = _signs(dimensions)
    base64 = body.get("encoding_format") == "base64"
    data: list[Document] = []
    for index, item in enumerate(given):
        vector = _vector(item, model, dimensions, signs, base64)
        data.append({"object": "embedding", "index": index, "embedding": vector})
        if index % 64 == 63:
            await asyncio.sleep(0)
    read = sum(tokens_of(item) for item in given)
    document = {
        "object": "list",
        "data": data,
        "model": model,
        "usage": {"prompt_tokens": read, "total_tokens": read},
    }
    return Completion(document, Usage(input=read))


def _signs(dimensions: int) -> list[tuple[float, ...]]:
    """Eight numbers for each byte of a digest: plus or minus one number, so that every vector has length one.

    Few number objects, however long the answer: the largest batch allowed stays small in memory.
    """
    (size,) = array("f", [1 / sqrt(dimensions)])
    return [tuple(size if byte >> bit & 1 else -size for bit in range(8)) for byte in range(256)]


def _vector(
    item: Any, model: str, dimensions: int, signs: list[tuple[float, ...]], base64: bool
) -> list[float] | str:
    digest = shake_256(orjson.dumps([model, item])).digest((dimensions + 7) // 8)
    numbers = [number for byte in digest for number in signs[byte]][:dimensions]
    if not base64:
        return numbers
    return b64encode(_little_endian(numbers)).decode()


def _little_endian(numbers: list[float]) -> bytes:
    packed = array("f", numbers)
    if array("H", [1]).tobytes() != b"\x01\x00":
        packed.byteswap()
    return packed.tobytes()
