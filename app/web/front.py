"""The front door: bytes of the three POST routes in, bytes of their answers out; everything else goes to Tornado's handlers.

A bare `HTTPMessageDelegate` costs two thirds of a RequestHandler. A hit that memory can answer is written inside
`finish`, without a task; all else runs in one task that ends when its client leaves.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from functools import partial

from attrs import define
from tornado.http1connection import HTTP1Connection
from tornado.httputil import (
    HTTPHeaders,
    HTTPMessageDelegate,
    HTTPServerConnectionDelegate,
    RequestStartLine,
    ResponseStartLine,
)
from tornado.iostream import StreamClosedError
from tornado.web import Application

from app.services.calls import EVENTS, Answer, Call, StreamAnswer
from app.services.proxy import Proxy
from app.web import answers
from domain.errors import (
    ApiError,
    InvalidRequest,
    PayloadTooLarge,
    Unavailable,
    UnsupportedMedia,
)
from domain.headers import latency
from domain.project import Grant
from domain.request import Endpoint
from domain.requestid import RANDOM_BYTES, request_id
from domain.sse import HEARTBEAT

log = logging.getLogger(__name__)

ENDPOINTS = {f"{root}/{endpoint.value}": endpoint for endpoint in Endpoint for root in ("/v1", "")}
MAX_OTHER_BODY = 256 * 1024
MAX_PATH = 8 * 1024
DISCARDED = 64 << 20
"""A body over the limit is read and thrown away up to here, so that the client is still there for its 413."""

_JSON_TYPE = re.compile(r'application/json\s*(;\s*charset\s*=\s*"?utf-?8"?\s*)?', re.IGNORECASE)
_LENGTH = re.compile(r"[0-9]{1,18}")
_HOST = re.compile(r"[^\s,/?#@\\]*")
PIECE = 64 * 1024
"""Bytes of a whole answer that are written at once: a caller who does not read is known by the first that stays."""


class UriTooLong(InvalidRequest):
    """The address is longer than any of ours."""

    status = 414


@define
class Limits:
    """Bytes and seconds."""

    body_bytes: int = 16 << 20
    heartbeat: float = 15.0
    write_stall: float = 30.0
    head_timeout: float = 10.0
    body_timeout: float = 30.0


class Front(HTTPServerConnectionDelegate):
    """Makes one Exchange per request and knows all that are under way."""

    def __init__(
        self,
        proxy: Proxy,
        application: Application,
        limits: Limits,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        self.proxy = proxy
        self.application = application
        self.limits = limits
        self.clock = clock
        self.monotonic = monotonic
        self.draining = False
        self.rejected: Counter[int] = Counter()
        """By status: requests that leave no row, for nobody knows whose they were."""
        self.waiting: dict[object, tuple[Exchange, float]] = {}
        """By connection, oldest first: whose request's head is not read yet, and since when."""
        self.reading: dict[object, tuple[Exchange, float]] = {}
        """The same of those whose body is not whole yet."""
        self.running: set[Exchange] = set()
        """Requests of the three routes whose answer is being made."""

    def start_request(self, server_conn: object, request_conn: object) -> HTTPMessageDelegate:
        assert isinstance(request_conn, HTTP1Connection)
        exchange = Exchange(self, server_conn, request_conn)
        if self.draining:
            request_conn.close()
        else:
            self.waiting[server_conn] = exchange, self.monotonic()
        return exchange

    def forget(self, server_conn: object) -> None:
        """The connection is closed."""
        self.waiting.pop(server_conn, None)
        self.reading.pop(server_conn, None)

    def close_waiting(self) -> None:
        for exchange, _ in list(self.waiting.values()):
            exchange.connection.close()
        self.waiting.clear()

    def streams(self) -> Iterator[Exchange]:
        """Those whose streamed answer is being made."""
        return (exchange for exchange in self.running if exchange.streamed is not None)

    def fresh_id(self) -> str:
        return request_id(self.clock(), os.urandom(RANDOM_BYTES))


class Exchange(HTTPMessageDelegate):
    """One request and its answer."""

    def __init__(self, front: Front, server_conn: object, connection: HTTP1Connection) -> None:
        self.front = front
        self.connection = connection
        self._server_conn = server_conn
        self._other: HTTPMessageDelegate | None = None
        self._endpoint: Endpoint | None = None
        self._headers: HTTPHeaders | None = None
        self._problem: ApiError | None = None
        self._pieces: list[bytes] = []
        self._received = 0
        self._most = 0
        self._id = ""
        self._old = self._last = self._bodiless = self._measured = False
        self._blocked = False
        self._task: asyncio.Task[None] | None = None
        self.streamed: StreamAnswer | None = None
        self._ending: ApiError | None = None
        self._head_sent = False
        self._written_at = 0.0
        self._began = 0.0
        self._beat: asyncio.TimerHandle | None = None

    # --- reading ------------------------------------------------------------------------------------

    def headers_received(
        self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders
    ) -> None:
        self.front.waiting.pop(self._server_conn, None)
        self.front.reading[self._server_conn] = self, self.front.monotonic()
        assert isinstance(start_line, RequestStartLine)
        start_line = _in_origin_form(start_line)
        path = start_line.path.partition("?")[0]
        endpoint = ENDPOINTS.get(path) if start_line.method == "POST" else None
        self._headers = headers
        self._endpoint = endpoint
        self._old = start_line.version == "HTTP/1.0"
        self._last = headers.get("Connection", "").lower() == "close"
        self._bodiless = start_line.method == "HEAD"
        self._most = MAX_OTHER_BODY if endpoint is None else self.front.limits.body_bytes
        self._problem = self._fault(start_line, headers)
        if self._problem is not None and (_length(headers) > DISCARDED or "Expect" in headers):
            self._refuse(unread=True)
        if endpoint is None and self._problem is None:
            self._delegate(start_line, headers)

    def _fault(self, start_line: RequestStartLine, headers: HTTPHeaders) -> ApiError | None:
        """What the head alone is refused for."""
        if self.front.draining:
            return Unavailable("This server is going away; ask again.", retry_after=1)
        if len(start_line.path) > MAX_PATH:
            return UriTooLong("The address is too long.")
        if _length(headers) > self._most:
            return PayloadTooLarge(f"The body is larger than {self._most} bytes.")
        if self._endpoint is None:
            return None
        # Tornado checks the others' host. RFC 9112, section 3.2: none, two or a malformed one is a 400.
        if not _HOST.fullmatch(headers.get("Host", "" if self._old else "?")):
            return InvalidRequest("The request needs one valid Host header.")
        if headers.get("Content-Encoding", "identity").lower() != "identity":
            return UnsupportedMedia("Compressed bodies are not taken.")
        if not _JSON_TYPE.fullmatch(headers.get("Content-Type", "")):
            return UnsupportedMedia("Send the body as 'Content-Type: application/json'.")
        return None

    def _delegate(self, start_line: RequestStartLine, headers: HTTPHeaders) -> None:
        self.connection.set_max_body_size(MAX_OTHER_BODY)
        self._other = self.front.application.start_request(self._server_conn, self.connection)
        self._other.headers_received(start_line, headers)

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        if self._other is not None:
            return self._other.data_received(chunk)
        self._received += len(chunk)
        if self._received > self._most and self._problem is None:
            self._problem = PayloadTooLarge(f"The body is larger than {self._most} bytes.")
            self._pieces.clear()
        if self._problem is None:
            self._pieces.append(chunk)
        elif self._received > DISCARDED:
            self._refuse(unread=True)
        return None

    def finish(self) -> None:
        self.front.reading.pop(self._server_conn, None)
        if self._other is not None:
            self._other.finish()
            return
        if self._problem is not None:
            self._refuse()
            return
        call = self._call()
        answer = None
        try:
            answer = self.front.proxy.at_once(call)
        except ApiError as error:
            self._error(error)
            return
        except Exception:  # noqa: BLE001  the last door before a caller: told as a 500, logged whole
            self._crashed()
            return
        if answer is not None and len(answer.body) <= PIECE:
            self._whole(answer)
            return
        self.front.running.add(self)
        self.connection.set_close_callback(self.left)
        self._task = asyncio.get_running_loop().create_task(self._run(call, answer))

    def on_connection_close(self) -> None:
        """The client left before its request was whole."""
        self.front.forget(self._server_conn)
        if self._other is not None:
            self._other.on_connection_close()

    def left(self) -> None:
        """The client left before its answer was whole: what is made for it stops here."""
        if self._task is not None:
            self._task.cancel()

    def _call(self) -> Call:
        headers, endpoint = self._headers, self._endpoint
        assert headers is not None
        assert endpoint is not None
        self._id = self.front.fresh_id()
        self._began = self.front.monotonic()
        scheme, _, bearer = headers.get("Authorization", "").partition(" ")
        return Call(
            self._id,
            endpoint,
            bearer.strip() if scheme.lower() == "bearer" else "",
            headers.get("Cache-Control", ""),
            headers.get("X-Watchllm-Cache-Ttl", ""),
            b"".join(self._pieces),
            self._began,
            getattr(self.connection.context, "remote_ip", ""),
        )

    # --- answering ----------------------------------------------------------------------------------

    async def _run(self, call: Call, known: Answer | None) -> None:
        try:
            answer = known or await self.front.proxy.serve(call)
            if isinstance(answer, StreamAnswer):
                await self._pump(answer)
            elif len(answer.body) <= PIECE:
                self._whole(answer)
            else:
                await self._in_pieces(answer)
        except ApiError as error:
            self._error(error)
        except StreamClosedError:
            pass
        except asyncio.CancelledError:
            # The client's leaving and the end of a drain are told elsewhere; what else cancels this task is its key's end.
            if self._ending is not None:
                self._error(self._ending)
        except Exception:  # noqa: BLE001  as in `finish`
            self._crashed()
        finally:
            self.front.running.discard(self)

    async def _pump(self, answer: StreamAnswer) -> None:
        """Frames to the socket, one at a time, waiting whenever the client reads slower than the provider writes."""
        self.streamed = answer
        loop = asyncio.get_running_loop()
        self._written_at = loop.time()
        self._beat = loop.call_later(self.front.limits.heartbeat, self._heartbeat, answer)
        try:
            async for blob in answer.frames:
                if blob:
                    await self._write(answer, blob)
            self._end(b"")
        finally:
            self._beat.cancel()
            await answer.frames.aclose()

    async def _write(self, answer: StreamAnswer, blob: bytes) -> None:
        self._written_at = asyncio.get_running_loop().time()
        stream = self.connection.stream
        write = self.connection.write if self._head_sent else partial(self._begin, answer)
        flushed = write(blob)
        if stream.writing():
            await self._read(flushed)

    async def _read(self, flushed: asyncio.Future[None]) -> None:
        """Waits until the client has read what was written, as long as it may take for that."""
        self._blocked = True
        try:
            async with asyncio.timeout(self.front.limits.write_stall):
                await flushed
        except TimeoutError:
            self._stalled()
            raise StreamClosedError from None
        finally:
            self._blocked = False

    def _stalled(self) -> None:
        log.info("a client stopped reading its answer", extra={"request": self._id})
        self.connection.close()

    def _begin(self, answer: StreamAnswer, blob: bytes) -> asyncio.Future[None]:
        self._head_sent = True
        if self._old:
            # Such a stream has no end but the connection's, so that cannot be kept.
            assert self._headers is not None
            self._headers.pop("Connection", None)
        return answers.head(
            self.connection,
            200,
            {**answer.headers, **self._waited()},
            EVENTS,
            self._id,
            None,
            blob,
            self.front.draining,
        )

    def _waited(self) -> dict[str, str]:
        """A stream's head leaves long after its headers were made: what it waited is known only now."""
        return latency((self.front.monotonic() - self._began) * 1000)

    def _end(self, last: bytes) -> None:
        flushed = self.connection.write(last) if last or self._old else None
        self.connection.finish()
        if flushed is not None:
            self._see_off(flushed)
        if self._old and flushed is not None:
            flushed.add_done_callback(lambda _: self.connection.close())

    def _heartbeat(self, answer: StreamAnswer) -> None:
        """Keeps a silent stream alive under every balancer's idle limit; the first one commits status 200."""
        loop = asyncio.get_running_loop()
        every = self.front.limits.heartbeat
        silent = loop.time() - self._written_at
        stream = self.connection.stream
        if stream is None or stream.closed():
            return
        # While a write is waited for, another one would take its place and leave it unanswered.
        if silent >= every and not self._blocked and not stream.writing():
            self._written_at = loop.time()
            if self._head_sent:
                self.connection.write(HEARTBEAT)
            else:
                self._begin(answer, HEARTBEAT)
            silent = 0.0
        self._beat = loop.call_later(max(0.05, every - silent), self._heartbeat, answer)

    def cut(self) -> None:
        """The drain's grace is over: a running stream is told so, and ends."""
        self._ending = None
        self._error(Unavailable("This server is going away; ask again.", retry_after=1))
        self.left()

    @property
    def grant(self) -> Grant:
        assert self.streamed is not None
        return self.streamed.grant

    @property
    def digest(self) -> bytes:
        assert self.streamed is not None
        return self.streamed.digest

    def end(self, error: ApiError) -> None:
        """The key of a running stream is good no more: its row is closed first, then its caller is told."""
        if self.streamed is not None and self.streamed.revoke(error):
            self._ending = error
            self.left()

    def _whole(self, answer: Answer) -> None:
        self._see_off(
            answers.whole(
                self.connection,
                200,
                answer.headers,
                answer.body,
                answer.content_type,
                self._id,
                self.front.draining or self._last,
                plain=not self._old,
            )
        )

    async def _in_pieces(self, answer: Answer) -> None:
        """A large answer, as fast as the client reads it."""
        self._measured = True
        body = answer.body
        flushed = answers.head(
            self.connection,
            200,
            answer.headers,
            answer.content_type,
            self._id,
            len(body),
            body[:PIECE],
            self.front.draining,
        )
        for start in range(PIECE, len(body), PIECE):
            await self._read(flushed)
            flushed = self.connection.write(body[start : start + PIECE])
        self.connection.finish()
        self._see_off(flushed)

    def _see_off(self, flushed: asyncio.Future[None]) -> None:
        """What is on its way when an answer is over has the write deadline, too."""
        stream = self.connection.stream
        if stream is None or stream.closed() or not stream.writing():
            return
        loop = asyncio.get_running_loop()
        timer = loop.call_later(self.front.limits.write_stall, self._stalled)
        flushed.add_done_callback(lambda _: timer.cancel())

    def _error(self, error: ApiError, *, closing: bool = False) -> None:
        if not error.recorded:
            self.front.rejected[error.status] += 1
        if self.connection.stream is None or self.connection.stream.closed():
            return
        if self._measured:
            # Its length is promised, and anything else would count as a part of it.
            self.connection.close()
            return
        if not self._head_sent:
            closing = closing or self.front.draining
            self._see_off(
                answers.error(self.connection, error, self._id, closing, bodiless=self._bodiless)
            )
            return
        self._end(answers.error_event(error))

    def _crashed(self) -> None:
        log.exception("a request crashed", extra={"request": self._id})
        self._error(ApiError(f"Something went wrong here; it was recorded under {self._id}."))

    def _refuse(self, *, unread: bool = False) -> None:
        """Answers from the head alone, once; behind an `unread` body the connection is of no more use."""
        problem, self._problem = self._problem, None
        if problem is not None:
            self._id = self.front.fresh_id()
            self._error(problem, closing=unread)


def _in_origin_form(line: RequestStartLine) -> RequestStartLine:
    """A server takes a target in absolute form too (RFC 9112, 3.2.2); whose host it names is not ours to mind."""
    if not line.path.startswith(("http://", "https://")):
        return line
    _, _, rest = line.path.partition("://")
    _, slash, path = rest.partition("/")
    return line._replace(path=slash + path or "/")


def _length(headers: HTTPHeaders) -> int:
    """The announced length; what is no number is left to Tornado's own framing check, which closes."""
    text = headers.get("Content-Length", "")
    return int(text) if _LENGTH.fullmatch(text) else 0
