"""Writing answers and errors on a connection of Tornado's, without a RequestHandler."""

from __future__ import annotations

import time
from asyncio import Future
from collections.abc import Mapping
from email.utils import formatdate
from http.client import responses

from tornado.http1connection import HTTP1Connection
from tornado.httputil import HTTPHeaders, ResponseStartLine

from app.services.calls import JSON
from domain.errors import ApiError


class Date:
    """The Date header (RFC 9110, 6.6.1), made once a second."""

    def __init__(self) -> None:
        self._second = 0
        self._text = ""

    def __call__(self) -> str:
        second = int(time.time())
        if second != self._second:
            self._second, self._text = second, formatdate(second, usegmt=True)
        return self._text


_date = Date()


def head(
    connection: HTTP1Connection,
    status: int,
    headers: Mapping[str, str],
    content_type: str,
    request_id: str,
    length: int | None,
    chunk: bytes,
    closing: bool,
) -> Future[None]:
    """Writes the status line, the headers and the first bytes in one go; done when the client has them."""
    found = HTTPHeaders()
    for name, item in headers.items():
        found[name] = item
    found["Content-Type"] = content_type
    found["Date"] = _date()
    found["X-Request-Id"] = request_id
    if length is None:
        found["Cache-Control"] = "no-store"
        # nginx holds streams back unless it is told not to.
        found["X-Accel-Buffering"] = "no"
    else:
        found["Content-Length"] = str(length)
    if closing:
        found["Connection"] = "close"
    return connection.write_headers(
        ResponseStartLine("HTTP/1.1", status, responses.get(status, "Unknown")), found, chunk
    )


def whole(
    connection: HTTP1Connection,
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    content_type: str,
    request_id: str,
    closing: bool,
    *,
    bodiless: bool = False,
    plain: bool = False,
) -> Future[None]:
    """`bodiless` answers a HEAD: the headers of the same answer to a GET, and nothing behind them.

    `plain` says that it is an ordinary HTTP/1.1 exchange, whose head needs none of what Tornado decides about heads:
    it is written as one block, at a third of the price.
    """
    if plain:
        written = connection.write(
            _block(status, headers, body, content_type, request_id, closing)
        )
        connection.finish()
        return written
    sent = b"" if bodiless else body
    written = head(connection, status, headers, content_type, request_id, len(body), sent, closing)
    connection.finish()
    return written


def _block(
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    content_type: str,
    request_id: str,
    closing: bool,
) -> bytes:
    """A whole answer as it goes over the wire. Raises ValueError for a header that would end its line early."""
    lines = [f"{name}: {item}" for name, item in headers.items()]
    head = "\r\n".join(
        (
            f"HTTP/1.1 {status} {responses.get(status, 'Unknown')}",
            *lines,
            f"Content-Type: {content_type}",
            f"Date: {_date()}",
            f"X-Request-Id: {request_id}",
            f"Content-Length: {len(body)}",
            "Connection: close\r\n\r\n" if closing else "\r\n",
        )
    )
    ends = len(lines) + (7 if closing else 6)
    if head.count("\n") != ends or head.count("\r") != ends:
        raise ValueError("A header holds a line end.")
    return head.encode("latin-1") + body


def error(
    connection: HTTP1Connection,
    failed: ApiError,
    request_id: str,
    closing: bool,
    *,
    bodiless: bool = False,
) -> Future[None]:
    return whole(
        connection,
        failed.status,
        failed.headers(),
        failed.body(),
        JSON,
        request_id,
        closing,
        bodiless=bodiless,
    )


def error_event(failed: ApiError) -> bytes:
    """A fault after the head has left: the SDKs raise on it, and no `[DONE]` follows."""
    return b"event: error\ndata: " + failed.body() + b"\n\n"
