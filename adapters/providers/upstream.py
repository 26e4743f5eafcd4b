"""The one way out to the providers: a session over aiohttp, an origin bound to its key, deadlines on everything.

No redirects (they would carry the key elsewhere), no proxies from the environment, no decompression; the headers that
leave are a short list of our own. Leaving a call in any way closes its socket, which stops the provider's work.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from contextvars import ContextVar
from io import BytesIO
from typing import Any
from urllib.parse import urlsplit
from weakref import WeakSet

import aiohttp
from attrs import define, frozen
from multidict import CIMultiDict
from yarl import URL

from domain.errors import ApiError, UpstreamFailed, UpstreamTimeout

USER_AGENT = "watchllm"
_JSON = re.compile(r"application/(?:[\w.-]+\+)?json", re.IGNORECASE)
LARGE_BODY = 256 * 1024
RETRY_SHARE = 0.1
RETRY_BURST = 10.0
"""A tenth of the calls may be tried again, and ten in a row: more would double an outage's load."""


@frozen
class Deadlines:
    """Seconds."""

    connect: float = 5.0
    first_byte: float = 120.0
    idle: float = 60.0
    total: float = 600.0


class Origin:
    """A provider's base URL and the key that may go there and nowhere else."""

    def __init__(self, provider: str, base_url: str, headers: Mapping[str, str]) -> None:
        self.provider = provider
        self._base = base_url.rstrip("/")
        self._secret = headers
        self.sent = CIMultiDict(
            {
                "Accept": "application/json",
                "Accept-Encoding": "identity",
                "Content-Type": "application/json",
                "User-Agent": USER_AGENT,
                **headers,
            }
        )
        """All headers that leave, the same for every call."""

    def __repr__(self) -> str:
        return f"Origin({self.provider!r}, {self._base!r}, <secret>)"

    def speaking(self, headers: Mapping[str, str]) -> Origin:
        """The same place and key, with further headers."""
        return Origin(self.provider, self._base, {**self._secret, **headers})

    def url(self, path: str) -> URL:
        """`path` is appended to the base, and must stay on its host."""
        base, target = urlsplit(self._base), urlsplit(self._base + path)
        assert (base.scheme, base.netloc) == (target.scheme, target.netloc), (
            "a key left its origin"
        )
        return URL(self._base + path, encoded=True)


class Reply:
    """A provider's answer whose head has arrived. `read` gives the body piece by piece, b"" at its end."""

    def __init__(
        self,
        origin: Origin,
        response: aiohttp.ClientResponse,
        idle: float,
        ends_at: float,
        most: int,
    ) -> None:
        self.status = response.status
        self.content_type = response.content_type
        self.retry_after = response.headers.get("Retry-After")
        self._origin = origin
        self._response = response
        self._idle = idle
        self._ends_at = ends_at
        self._left = most

    async def read(self) -> bytes:
        """What has arrived; waits for the first byte of it. Raises UpstreamTimeout or UpstreamFailed."""
        now = asyncio.get_running_loop().time()
        with failures(self._origin.provider):
            async with asyncio.timeout_at(min(now + self._idle, self._ends_at)):
                read = await self._response.content.readany()
        self._left -= len(read)
        if self._left < 0:
            raise UpstreamFailed(f"{self._origin.provider} sent an answer without an end.")
        return read

    async def document(self) -> bytes:
        """The whole body of a good answer, which must call itself JSON: a sign-in page is none, whatever it holds."""
        if self.status == 200 and not _JSON.fullmatch(self.content_type):
            raise UpstreamFailed(
                f"{self._origin.provider} answered with something that is not JSON."
            )
        return await self.whole()

    async def whole(self) -> bytes:
        pieces = [await self.read()]
        while not self._response.content.at_eof():
            pieces.append(await self.read())
        return b"".join(pieces)

    def close(self) -> None:
        """Frees the connection: back to the pool after a whole body, closed otherwise."""
        self._response.close() if not self._response.content.at_eof() else self._response.release()


class Upstream:
    """`most` is the largest answer in bytes. `at_once` calls may be under way to one origin: a further one waits, and
    its wait counts as the provider's."""

    def __init__(self, deadlines: Deadlines, most: int = 32 << 20, at_once: int = 500) -> None:
        self._deadlines = deadlines
        self._at_once = at_once
        self._most = most
        self._session: aiohttp.ClientSession | None = None
        self._retries = RETRY_BURST

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=Connector(
                    limit=0, limit_per_host=self._at_once, keepalive_timeout=30, ttl_dns_cache=30
                ),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._deadlines.connect),
                auto_decompress=False,
                trust_env=False,
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session

    @asynccontextmanager
    async def send(
        self,
        origin: Origin,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        first_byte: float | None = None,
    ) -> AsyncIterator[Reply]:
        """The reply's head, within the first-byte deadline. The body's own deadlines run from there."""
        reply = await self.open(origin, method, path, body, first_byte=first_byte)
        try:
            yield reply
        finally:
            reply.close()

    async def open(
        self,
        origin: Origin,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        first_byte: float | None = None,
    ) -> Reply:
        """As `send`; the caller closes the reply."""
        began = asyncio.get_running_loop().time()
        patience = self._deadlines.first_byte if first_byte is None else first_byte
        ends_at = began + max(self._deadlines.total, patience)
        with failures(origin.provider):
            async with asyncio.timeout_at(began + patience):
                response = await self._request(origin, method, path, body)
        if 300 <= response.status < 400:
            response.close()
            raise UpstreamFailed(
                f"{origin.provider} answered with a redirect, which is not followed."
            )
        if response.headers.get("Content-Encoding", "identity") != "identity":
            response.close()
            raise UpstreamFailed(
                f"{origin.provider} answered in an encoding that was not asked for."
            )
        return Reply(origin, response, self._deadlines.idle, ends_at, self._most)

    async def _request(
        self, origin: Origin, method: str, path: str, body: bytes | None
    ) -> aiohttp.ClientResponse:
        url = origin.url(path)
        self._retries = min(RETRY_BURST, self._retries + RETRY_SHARE)
        attempt = Attempt()
        try:
            return await self._dial(method, url, body, origin.sent, attempt)
        except aiohttp.ClientConnectorError:
            if self._retries < 1:
                raise
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
            # Only a kept connection that had died meanwhile; a fresh one may have brought the request home.
            if not attempt.reused or self._retries < 1:
                raise
        self._retries -= 1
        return await self._dial(method, url, body, origin.sent, Attempt())

    async def _dial(
        self,
        method: str,
        url: URL,
        body: bytes | None,
        headers: CIMultiDict[str],
        attempt: Attempt,
    ) -> aiohttp.ClientResponse:
        _attempt.set(attempt)
        # Bytes go to the socket in one piece; a file in parts, with the loop's other work in between.
        large = body is not None and len(body) > LARGE_BODY
        return await self._open().request(
            method,
            url,
            data=BytesIO(body or b"") if large else body,
            headers=headers,
            allow_redirects=False,
        )

    async def aclose(self) -> None:
        if self._session is not None:
            await self._session.close()


@define
class Attempt:
    """One try of a request; told whether it went over a kept connection."""

    reused: bool = False


_attempt: ContextVar[Attempt] = ContextVar("attempt")


class Connector(aiohttp.TCPConnector):
    """Tells each attempt whether its connection was used before; aiohttp's tracing would, at five times the price."""

    _seen: WeakSet[object]

    async def connect(self, *request: Any, **more: Any) -> aiohttp.connector.Connection:
        connection = await super().connect(*request, **more)
        protocol = connection.protocol
        seen = self.__dict__.setdefault("_seen", WeakSet())
        if protocol in seen:
            _attempt.get().reused = True
        elif protocol is not None:
            seen.add(protocol)
        return connection


class failures:
    """Foreign exceptions stop here: what broke on the wire becomes a domain error."""

    def __init__(self, provider: str) -> None:
        self._provider = provider

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: object
    ) -> None:
        if error is None or isinstance(error, ApiError):
            return
        if isinstance(error, TimeoutError):
            raise UpstreamTimeout(f"{self._provider} did not answer in time.") from error
        if isinstance(error, aiohttp.ClientConnectorError):
            raise UpstreamFailed(f"{self._provider} cannot be reached.") from error
        if isinstance(error, aiohttp.ClientError | OSError | ssl.SSLError | ValueError):
            raise UpstreamFailed(f"{self._provider} broke off or answered nonsense.") from error
