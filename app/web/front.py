"""The front door: bytes of the three POST routes in, bytes of their answers out; everything else goes to Tornado's handlers.

A bare `HTTPMessageDelegate` costs two thirds of a RequestHandler. A hit that memory can answer is written inside
`finish`, without a task; all else runs in one task that ends when its client leaves.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import Awaitable, Callable

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
    UpstreamTimeout,
)
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


class UriTooLong(InvalidRequest):
    """The address is longer than any of ours."""

    status = 414


@define
class Limits:
    """Bytes and seconds."""

    body_bytes: int = 16 << 20
    heartbeat: float = 15.0
    write_stall: float = 30.0


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
        self.waiting: set[Exchange] = set()
        """On kept connections, before the first byte of a request's head was understood."""
        self.running: set[Exchange] = set()
        """Requests of the three routes whose answer is being made."""

    def start_request(self, server_conn: object, request_conn: object) -> HTTPMessageDelegate:
        assert isinstance(request_conn, HTTP1Connection)
        exchange = Exchange(self, server_conn, request_conn)
        if self.draining:
            request_conn.close()
        else:
            self.waiting.add(exchange)
        return exchange

    def close_waiting(self) -> None:
        for exchange in list(self.waiting):
            exchange.connection.close()
        self.waiting.clear()

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
        self._task: asyncio.Task[None] | None = None
        self._head_sent = False
        self._written_at = 0.0
        self._beat: asyncio.TimerHandle | None = None

    # --- reading ------------------------------------------------------------------------------------

    def headers_received(
        self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders
    ) -> None:
        self.front.waiting.discard(self)
        assert isinstance(start_line, RequestStartLine)
        path = start_line.path.partition("?")[0]
        endpoint = ENDPOINTS.get(path) if start_line.method == "POST" else None
        self._headers = headers
        self._endpoint = endpoint
        self._most = MAX_OTHER_BODY if endpoint is None else self.front.limits.body_bytes
        self._problem = self._fault(start_line, headers)
        if self._problem is not None and _length(headers) > DISCARDED:
            self._refuse()
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
            self._refuse()
        return None

    def finish(self) -> None:
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
        if answer is not None:
            self._whole(answer)
            return
        self.front.running.add(self)
        self.connection.set_close_callback(self.left)
        self._task = asyncio.get_running_loop().create_task(self._run(call))

    def on_connection_close(self) -> None:
        """The client left before its request was whole."""
        self.front.waiting.discard(self)
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
        scheme, _, bearer = headers.get("Authorization", "").partition(" ")
        return Call(
            self._id,
            endpoint,
            bearer.strip() if scheme.lower() == "bearer" else "",
            headers.get("Cache-Control", ""),
            headers.get("X-Watchllm-Cache-Ttl", ""),
            b"".join(self._pieces),
            self.front.monotonic(),
        )

    # --- answering ----------------------------------------------------------------------------------

    async def _run(self, call: Call) -> None:
        try:
            answer = await self.front.proxy.serve(call)
            if isinstance(answer, StreamAnswer):
                await self._pump(answer)
            else:
                self._whole(answer)
        except ApiError as error:
            self._error(error)
        except StreamClosedError:
            pass
        except asyncio.CancelledError:
            # Only the client's leaving, or the end of a drain, cancels this task; both are told elsewhere.
            pass
        except Exception:  # noqa: BLE001  as in `finish`
            self._crashed()
        finally:
            self.front.running.discard(self)

    async def _pump(self, answer: StreamAnswer) -> None:
        """Frames to the socket, one at a time, waiting whenever the client reads slower than the provider writes."""
        loop = asyncio.get_running_loop()
        self._written_at = loop.time()
        self._beat = loop.call_later(self.front.limits.heartbeat, self._heartbeat, answer)
        try:
            async for blob in answer.frames:
                if blob:
                    await self._write(answer, blob)
            self.connection.finish()
        finally:
            self._beat.cancel()
            await answer.frames.aclose()

    async def _write(self, answer: StreamAnswer, blob: bytes) -> None:
        self._written_at = asyncio.get_running_loop().time()
        stream = self.connection.stream
        if not self._head_sent:
            self._begin(answer, blob)
            flushed = None
        else:
            flushed = self.connection.write(blob)
        if not stream.writing():
            return
        try:
            async with asyncio.timeout(self.front.limits.write_stall):
                await (flushed if flushed is not None else self.connection.write(b""))
        except TimeoutError:
            log.info("a client stopped reading its stream", extra={"request": self._id})
            self.connection.close()
            raise StreamClosedError from None

    def _begin(self, answer: StreamAnswer, blob: bytes) -> None:
        self._head_sent = True
        answers.head(
            self.connection, 200, answer.headers, EVENTS, self._id, None, blob, self.front.draining
        )

    def _heartbeat(self, answer: StreamAnswer) -> None:
        """Keeps a silent stream alive under every balancer's idle limit; the first one commits status 200."""
        loop = asyncio.get_running_loop()
        every = self.front.limits.heartbeat
        silent = loop.time() - self._written_at
        stream = self.connection.stream
        if stream is None or stream.closed():
            return
        if silent >= every and not stream.writing():
            self._written_at = loop.time()
            if self._head_sent:
                self.connection.write(HEARTBEAT)
            else:
                self._begin(answer, HEARTBEAT)
            silent = 0.0
        self._beat = loop.call_later(max(0.05, every - silent), self._heartbeat, answer)

    def cut(self) -> None:
        """The drain's grace is over: a running stream is told so, and ends."""
        if self._head_sent:
            self._error(UpstreamTimeout("This server is going away; ask again."))
        self.left()

    def _whole(self, answer: Answer) -> None:
        answers.whole(
            self.connection,
            200,
            answer.headers,
            answer.body,
            answer.content_type,
            self._id,
            self.front.draining,
        )

    def _error(self, error: ApiError) -> None:
        if self.connection.stream is None or self.connection.stream.closed():
            return
        if not self._head_sent:
            answers.error(self.connection, error, self._id, self.front.draining)
            return
        self.connection.write(answers.error_event(error))
        self.connection.finish()

    def _crashed(self) -> None:
        log.exception("a request crashed", extra={"request": self._id})
        self._error(ApiError(f"Something went wrong here; it was recorded under {self._id}."))

    def _refuse(self) -> None:
        """Answers from the head alone, once."""
        problem, self._problem = self._problem, None
        if problem is not None:
            self._id = self.front.fresh_id()
            self._error(problem)


def _length(headers: HTTPHeaders) -> int:
    """The announced length; what is no number is left to Tornado's own framing check, which closes."""
    text = headers.get("Content-Length", "")
    return int(text) if _LENGTH.fullmatch(text) else 0
