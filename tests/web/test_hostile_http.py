"""Hostile HTTP on raw sockets: each input is answered once, in the API's form or by closing, and harms nobody else."""

from __future__ import annotations

import asyncio
import logging
import os
import random
from collections.abc import AsyncIterator
from contextlib import closing, suppress
from pathlib import Path
from time import monotonic

import orjson
import pytest
from attrs import field, frozen

from domain.apikey import RANDOM_BYTES, mint
from tests.support.fixtures import async_fixture
from tests.support.house import QUESTION, OpenHouse, asked, open_house
from tests.support.upstream import ScriptedUpstream

KEY = b"%KEY%"
"""Stands for a good key until the house is open."""

CHAT = "/v1/chat/completions"
GOOD = orjson.dumps(QUESTION)
AT_ONCE = 20
STRANGER = mint("project", bytes(range(RANDOM_BYTES)))
MIB = 1 << 20


@frozen
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes = field(repr=False)


@frozen
class Heard:
    """All answers that came to one input, those of status 1xx left out."""

    answers: list[Answer]
    probed: list[Answer]
    """What came to a `GET /health` on the same connection, where that was still open."""


# --- the client -----------------------------------------------------------------------------------


async def talk(house: OpenHouse, sent: bytes) -> Heard:
    """Says this, hears one answer, and asks for the health behind it: no other answer may lie in between."""
    reader, writer = await asyncio.open_connection("127.0.0.1", house.port, limit=4 * MIB)
    method = sent.split(b" ", 1)[0]
    with closing(writer):
        reading = asyncio.ensure_future(read_answer(reader, method))
        with suppress(ConnectionError):
            writer.write(sent.replace(KEY, house.key.encode()))
            await writer.drain()
        first = await reading
        if first is None:
            return Heard([], [])
        with suppress(ConnectionError):
            writer.write(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            await writer.drain()
        probed = []
        while (answer := await read_answer(reader, b"GET")) is not None:
            probed.append(answer)
        return Heard([first], probed)


async def read_answer(reader: asyncio.StreamReader, method: bytes) -> Answer | None:
    """None when the connection ends instead."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        while head.startswith(b"HTTP/1.1 1"):
            head = await reader.readuntil(b"\r\n\r\n")
        status, headers = parsed(head)
        if method == b"HEAD" or "content-length" not in headers:
            chunked = headers.get("transfer-encoding") == "chunked"
            body = await chunks(reader) if chunked else b""
            return Answer(status, headers, body)
        return Answer(status, headers, await reader.readexactly(int(headers["content-length"])))
    except (asyncio.IncompleteReadError, ConnectionError) as exc:
        if getattr(exc, "partial", b""):
            raise AssertionError("half an answer") from exc
        return None


async def chunks(reader: asyncio.StreamReader) -> bytes:
    found = []
    while size := int(await reader.readuntil(b"\r\n"), 16):
        found.append((await reader.readexactly(size + 2))[:-2])
    await reader.readexactly(2)
    return b"".join(found)


def parsed(head: bytes) -> tuple[int, dict[str, str]]:
    line, *lines = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    headers: dict[str, str] = {}
    for one in lines:
        name, _, content = one.partition(": ")
        assert name.lower() not in headers, f"{name} twice"
        headers[name.lower()] = content
    assert line.startswith("HTTP/1.1 "), line
    return int(line.split(" ")[1]), headers


# --- what is expected -----------------------------------------------------------------------------


@frozen
class Case:
    """`status` 0: closed without a word. `bare`: the framing error that Tornado answers itself, without a body."""

    sent: bytes = field(repr=False)
    status: int
    code: str | None = None
    bare: bool = False


def ok(sent: bytes) -> Case:
    return Case(sent, 200)


def bare(sent: bytes) -> Case:
    return Case(sent, 400, bare=True)


def closed(sent: bytes) -> Case:
    return Case(sent, 0)


def wrong(house: OpenHouse, case: Case, heard: Heard) -> str:
    """What is wrong with the answers to a case; empty if nothing is."""
    if case.status == 0:
        return f"answered {heard.answers}" if heard.answers else ""
    if not heard.answers:
        return "closed without a word"
    [answer] = heard.answers
    told = f"{answer.status} {answer.headers} {answer.body!r}"
    if answer.status != case.status:
        return told
    if house.key in told or "Traceback" in told or "x-injected" in answer.headers:
        return f"tells too much: {told}"
    if len(heard.probed) > 1:
        return f"more than one answer: {heard.probed}"
    for probe in heard.probed:
        if probe.status == 200 and b'"service":"watchllm"' not in probe.body:
            return f"the next request was answered by {probe}"
    if case.bare:
        return "" if answer.body == b"" and not heard.probed else told
    if "x-request-id" not in answer.headers:
        return f"no request id: {told}"
    return wrong_body(case, answer)


def wrong_body(case: Case, answer: Answer) -> str:
    if case.status == 200 or case.sent.startswith(b"HEAD"):
        return ""
    told = f"{answer.headers} {answer.body!r}"
    if answer.headers["content-type"] != "application/json":
        return f"no JSON: {told}"
    error = orjson.loads(answer.body)["error"]
    if set(error) != {"message", "type", "param", "code"} or not error["message"]:
        return f"another form: {told}"
    if (error["type"], error["code"]) != ("invalid_request_error", case.code):
        return f"another type or code: {told}"
    return ""


# --- making requests ------------------------------------------------------------------------------


def request(
    *lines: str | bytes,
    line: str | bytes = f"POST {CHAT} HTTP/1.1",
    body: bytes = GOOD,
    host: bool = True,
    key: bool = True,
    kind: bool = True,
    length: bool = True,
) -> bytes:
    """A good request, these header lines added to it, and with what is switched off left out."""
    found: list[str | bytes] = [line]
    found += ["Host: x"] * host
    found += [b"Authorization: Bearer " + KEY] * key
    found += ["Content-Type: application/json"] * kind
    found += [f"Content-Length: {len(body)}"] * length
    found += lines
    raw = [one if isinstance(one, bytes) else one.encode("latin-1") for one in found]
    return b"\r\n".join([*raw, b"", b""]) + body


def get(path: str | bytes, *lines: str | bytes, method: str = "GET", key: bool = True) -> bytes:
    target = path if isinstance(path, bytes) else path.encode()
    line = b"%b %b HTTP/1.1" % (method.encode(), target)
    return request(*lines, line=line, body=b"", kind=False, length=False, key=key)


def post(path: str) -> bytes:
    return request(line=f"POST {path} HTTP/1.1")


def chunked(body: bytes, *lines: str, version: str = "1.1") -> bytes:
    line = f"POST {CHAT} HTTP/{version}"
    return request("Transfer-Encoding: chunked", *lines, line=line, body=body, length=False)


def chunk(body: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(body), body)


def authorized(*lines: str | bytes) -> bytes:
    return request(*lines, key=False)


def denied(sent: bytes) -> Case:
    return Case(sent, 401, "invalid_api_key")


def typed(kind: str) -> bytes:
    return request(f"Content-Type: {kind}", kind=False)


LAST = b"0\r\n\r\n"
N = len(GOOD)
SMUGGLED = b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n"

FRAMING = {
    "length and chunks": bare(request("Transfer-Encoding: chunked", body=chunk(GOOD) + LAST)),
    "length zero and chunks": bare(chunked(chunk(GOOD) + LAST, "Content-Length: 0")),
    "giant length and chunks": Case(
        chunked(chunk(GOOD) + LAST, "Content-Length: 99999999999"), 413
    ),
    "length, chunks and another request": bare(
        chunked(LAST + SMUGGLED, f"Content-Length: {len(LAST + SMUGGLED)}")
    ),
    "chunked twice": bare(chunked(chunk(GOOD) + LAST, "Transfer-Encoding: chunked")),
    "chunked after gzip": bare(request("Transfer-Encoding: gzip, chunked", length=False)),
    "gzip as transfer": bare(request("Transfer-Encoding: gzip", length=False)),
    "identity as transfer": bare(request("Transfer-Encoding: identity", length=False)),
    "nearly chunked": bare(request("Transfer-Encoding: xchunked", length=False)),
    "chunked behind a tab": bare(request("Transfer-Encoding: \x0bchunked", length=False)),
    "chunked, comma": bare(request("Transfer-Encoding: chunked,", length=False)),
    "CHUNKED": ok(request("Transfer-Encoding: CHUNKED", length=False, body=chunk(GOOD) + LAST)),
    "no length": Case(request(length=False, body=b""), 400),
    "two lengths": bare(request(f"Content-Length: {N + 1}")),
    "one length twice": ok(request(f"Content-Length: {N}")),
    "two lengths in one line": bare(request(f"Content-Length: {N}, 5", length=False)),
    **{
        f"length {text!r}": bare(request(f"Content-Length: {text}", length=False))
        for text in ("-1", "+5", "0x10", "", "1e3", "5;5", "5 5", "\xb2", "1_0", "9" * 30, "five")
    },
    "length too short": Case(request(f"Content-Length: {N - 5}", length=False), 400),
    "length too long": closed(request(f"Content-Length: {N + 5}", length=False)),
    "good chunks": ok(chunked(chunk(GOOD[:9]) + chunk(GOOD[9:]) + LAST)),
    "a chunk a byte": ok(chunked(b"".join(chunk(b"%c" % one) for one in GOOD) + LAST)),
    **{
        f"chunk size {text!r}": bare(chunked(text + b"\r\n" + GOOD + b"\r\n" + LAST))
        for text in (b"-5", b"+5", b"0x5", b"5_0", b"g", b"", b" 5", b"5 ", b"%x;a=b" % N, b"\xb2")
    },
    "chunk size endless": closed(chunked(b"f" * 80 + b"\r\n" + GOOD)),
    "chunk size giant": closed(chunked(b"f" * 12 + b"\r\n" + GOOD)),
    "chunk longer than it says": bare(chunked(b"5\r\n" + GOOD + b"\r\n" + LAST)),
    "chunk with a lone LF": closed(chunked(b"%x\n" % N + GOOD + b"\n0\n\n" + b" " * 64)),
    "chunks without an end": closed(chunked(chunk(GOOD))),
    "trailers": bare(chunked(chunk(GOOD) + b"0\r\nX-Injected: 1\r\n\r\n")),
    "no body at all": Case(request(body=b""), 400),
    "chunks of nothing": Case(chunked(LAST), 400),
}

VERSIONS = {
    "HTTP/1.0": ok(request(line=f"POST {CHAT} HTTP/1.0")),
    "HTTP/1.0 kept": ok(request("Connection: keep-alive", line=f"POST {CHAT} HTTP/1.0")),
    "HTTP/1.0 without a host": ok(request(line=f"POST {CHAT} HTTP/1.0", host=False)),
    "HTTP/1.0 in chunks": ok(chunked(chunk(GOOD) + LAST, version="1.0")),
    **{
        f"version {text!r}": bare(request(line=f"POST {CHAT} {text}"))
        for text in ("HTTP/2.0", "HTTP/0.9", "http/1.1", "HTTP/1.1x", "HTTP/11", "ICY/1.0", "")
    },
    "HTTP/2 preface": bare(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "TLS": closed(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200)),
}

LINES = {
    "no target": bare(b"GET\r\nHost: x\r\n\r\n"),
    "two spaces": bare(request(line=f"POST  {CHAT}  HTTP/1.1")),
    "tabs": bare(request(line=f"POST\t{CHAT}\tHTTP/1.1")),
    "space in the target": bare(request(line="POST /v1/chat /completions HTTP/1.1")),
    "NUL in the target": bare(request(line=f"POST {CHAT}\0 HTTP/1.1")),
    "CR in the target": bare(request(line=f"POST {CHAT}\rX HTTP/1.1")),
    "a header in the target": bare(request(line=f"POST {CHAT}\r\nX-Injected: 1 HTTP/1.1")),
    "spaces only": bare(b"   \r\nHost: x\r\n\r\n"),
    "an empty line before": ok(b"\r\n" + request()),
    "lone LFs": ok(request().replace(b"\r\n", b"\n")),
    "a method in lower case": Case(request(line=f"post {CHAT} HTTP/1.1"), 405),
    "a method of letters": Case(request(line=f"{'A' * 1_000} {CHAT} HTTP/1.1"), 405),
    "a method with a bracket": bare(request(line=f"PO(ST {CHAT} HTTP/1.1")),
    "a line without end": closed(b"GET /" + b"a" * 100_000),
    "nothing": closed(b""),
    "two empty lines": bare(b"\r\n\r\n"),
    "noise": closed(bytes(range(256)) * 8),
}

HEADERS = {
    "no colon": bare(request("Nonsense")),
    "a blank before the colon": bare(request("X-Odd : 1")),
    "a blank before the length's colon": bare(request(f"Content-Length : {N}", length=False)),
    "no name": bare(request(": 1")),
    "a name with blanks": bare(request("X Odd: 1")),
    "a name with letters beyond": bare(request("X-Odd\xe9: 1")),
    "a name with a bracket": bare(request("X-(Odd): 1")),
    "NUL": bare(request("X-Odd: a\0b")),
    "CR": bare(request("X-Odd: a\rX-Injected: 1")),
    "a folded line": bare(request("X-Odd: a\r\n b")),
    "a folded first line": bare(request(" X-Odd: a", line=f"POST {CHAT} HTTP/1.1", host=False)),
    "letters beyond": ok(request("X-Odd: \xe9\xff")),
    "one of 70 KiB": closed(request("X-Odd: " + "a" * 70_000)),
    "one of 30 KiB": ok(request("X-Odd: " + "a" * 30_000)),
    "ninety": ok(request(*(f"X-Odd-{number}: 1" for number in range(90)))),
    "ten thousand": closed(request(*(f"X-Odd-{number}: 1" for number in range(10_000)))),
    "a hundred cookies": ok(request("Cookie: " + "; ".join(f"a{n}=b" for n in range(100)))),
    "underscores": ok(
        request("Content_Length: 5", "Transfer_Encoding: chunked", "Content_Type: text/html")
    ),
    "underscores for the key": denied(authorized(b"Author_ization: Bearer " + KEY)),
    "no host": Case(request(host=False), 400),
    "two hosts": Case(request("Host: y"), 400),
    "an empty host": ok(request("Host:", host=False)),
    "somebody's host": ok(request("Host: evil.example", host=False)),
    "a host with a path": Case(request("Host: x/admin?y", host=False), 400),
    "a host with a user": Case(request("Host: a@b", host=False), 400),
    "a forwarded host": ok(request("X-Forwarded-Host: evil.example", "Forwarded: host=evil")),
    "another URL": denied(get("/v1/models", "X-Original-URL: /health", key=False)),
    "a rewritten URL": denied(get("/v1/models", "X-Rewrite-URL: /health", key=False)),
    "a method for a method": Case(
        get("/v1/models", "X-HTTP-Method-Override: GET", method="POST"), 405
    ),
    "a request id": ok(request("X-Request-Id: lgw\t<script>")),
    "a cache word": ok(request('Cache-Control: max-age="0", ,=, no-cache=x')),
    "a lifetime": ok(request("X-WatchLLM-Cache-Ttl: 5")),
    **{
        f"lifetime {text!r}": Case(request(f"X-WatchLLM-Cache-Ttl: {text}"), 400)
        for text in ("-1", "1.5", "1e3", "\xb2", "forever", "9" * 300, "5, 5")
    },
    "100-continue": ok(request("Expect: 100-continue")),
    "100-continue for too much": Case(
        request(f"Content-Length: {17 * MIB}", "Expect: 100-continue", length=False, body=b""), 413
    ),
    "an upgrade": ok(request("Upgrade: websocket", "Connection: Upgrade")),
    "h2c": ok(request("Upgrade: h2c", "Connection: Upgrade, HTTP2-Settings")),
    "a range": ok(request("Range: bytes=0-1")),
    "a condition": ok(request('If-None-Match: "x", *')),
    "gzip for the answer": ok(request("Accept-Encoding: gzip", "TE: trailers")),
    "close": ok(request("Connection: close")),
    "connection words": ok(request("Connection: close, X-Odd", "X-Odd: 1")),
}

PATHS = {
    **{
        f"path {path}": Case(post(path), 404)
        for path in (
            "//v1/chat/completions",
            "/v1//chat/completions",
            "/v1/../v1/chat/completions",
            "/./v1/chat/completions",
            "/v1/%2e%2e/v1/chat/completions",
            "/v1/chat%2fcompletions",
            "/v1/chat%2Fcompletions",
            "/v1/%63hat/completions",
            "/v1/chat/completions/",
            "/v1/chat/completions;x=1",
            "/v1/chat/completions%00",
            "/v1/chat/completions%20",
            "/v1/chat/completions%0d%0aX-Injected:%201",
            "/v1\\chat\\completions",
            "/V1/CHAT/COMPLETIONS",
            "/v1/v1/chat/completions",
            "/v2/chat/completions",
            "/v1/responses",
            "/v1/proxy/chat/completions",
            "/v1/%zz",
            "/.env",
            "/admin",
            "/static/../../../etc/passwd",
            "/static/%2e%2e/%2e%2e/etc/passwd",
            "chat/completions",
            "x:y",
        )
    },
    "a path of letters beyond": Case(request(line="POST /v1/caf\xe9 HTTP/1.1"), 404),
    "the key in the path": Case(get(b"/v1/" + KEY), 404),
    "a query": ok(post(f"{CHAT}?a=b&a=c&=&%00=%ff&{'a&' * 500}")),
    "a query of a thousand fields for health": bare(get(f"/health?{'a=b&' * 1_000}")),
    "a query for nothing": Case(get("/nothing?a=b&" + KEY.decode()), 404),
    "the other root": ok(post("/chat/completions")),
    "9 KiB": Case(post("/" + "a" * 9_000), 414),
    "9 KiB of query": Case(post(f"{CHAT}?{'a' * 9_000}"), 414),
    "60 KiB": Case(post("/" + "a" * 60_000), 414),
    "9 KiB, head only": Case(get("/" + "a" * 9_000, method="HEAD"), 414),
    "9 KiB with a body": Case(request(line=f"PUT /{'a' * 9_000} HTTP/1.1"), 414),
    "a model that is no UTF-8": Case(get("/v1/models/%ff"), 400),
    "a model with a header": Case(
        get("/v1/models/x%0d%0aX-Injected:%201"), 404, "model_not_found"
    ),
    "a model elsewhere": Case(get("/v1/models/../../etc/passwd"), 404, "model_not_found"),
    "a model of 7 KiB": Case(get("/v1/models/" + "a" * 7_000), 404, "model_not_found"),
    "models without a key": denied(get("/v1/models", key=False)),
    "one model without a key": denied(get("/v1/models/gpt-4o", key=False)),
    "the star": Case(get("*", method="OPTIONS"), 404),
    "a tunnel": Case(get("evil.example:443", method="CONNECT"), 405),
}

METHODS = {
    **{
        f"{method} {path}": Case(get(path, method=method), 405)
        for path in (CHAT, "/embeddings", "/v1/completions")
        for method in ("GET", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "TRACE", "PROPFIND")
    },
    **{
        f"{method} {path}": Case(
            request(line=f"{method} {path} HTTP/1.1"), 405
        )
        for path in ("/v1/models", "/v1/models/gpt-4o", "/health", "/")
        for method in ("POST", "DELETE")
    },
    "a form for health": Case(
        request(
            "Content-Type: application/x-www-form-urlencoded",
            line="POST /health HTTP/1.1",
            kind=False,
            body=b"&a=%ff" * 30_000,
        ),
        400,
    ),
    "parts for health": Case(
        request(
            "Content-Type: multipart/form-data; boundary=x",
            line="POST /health HTTP/1.1",
            kind=False,
            body=b"--x\r\nContent-Disposition: nonsense\r\n\r\n1\r\n" * 2_000 + b"--x--",
        ),
        400,
    ),
    "too much for health": Case(
        request(line="POST /health HTTP/1.1", body=b" " * 300_000), 413
    ),
    "too much for nothing": Case(
        request(line="POST /nothing HTTP/1.1", body=b" " * 300_000), 413
    ),
    "too much, head only": Case(
        request(line="HEAD /health HTTP/1.1", body=b" " * 300_000), 413
    ),
}  # fmt: skip

AUTH = {
    "no key": denied(authorized()),
    "an empty header": denied(authorized("Authorization:")),
    "a scheme alone": denied(authorized("Authorization: Bearer")),
    "a scheme and a blank": denied(authorized("Authorization: Bearer ")),
    "basic": denied(authorized("Authorization: Basic dXNlcjpwYXNz")),
    "basic with the key": denied(authorized(b"Authorization: Basic " + KEY)),
    "token": denied(authorized(b"Authorization: Token " + KEY)),
    "no scheme": denied(authorized(b"Authorization: " + KEY)),
    "bearer": ok(authorized(b"Authorization: bearer " + KEY)),
    "BEARER": ok(authorized(b"AUTHORIZATION: BEARER " + KEY)),
    "two blanks": ok(authorized(b"Authorization: Bearer  " + KEY)),
    "a tab": denied(authorized(b"Authorization: Bearer\t" + KEY)),
    "quoted": denied(authorized(b'Authorization: Bearer "' + KEY + b'"')),
    "two headers": denied(request("Authorization: Bearer x")),
    "two headers, the good one last": denied(
        authorized("Authorization: Bearer x", b"Authorization: Bearer " + KEY)
    ),
    "the good one twice": denied(request(b"Authorization: Bearer " + KEY)),
    "two in one": denied(authorized(b"Authorization: Bearer " + KEY + b", Bearer " + KEY)),
    "a word behind": denied(authorized(b"Authorization: Bearer " + KEY + b" x")),
    "a letter behind": denied(authorized(b"Authorization: Bearer " + KEY + b"x")),
    "a letter before": denied(authorized(b"Authorization: Bearer x" + KEY)),
    "a line behind": bare(authorized(b"Authorization: Bearer " + KEY + b"\r\n x")),
    "NUL behind": bare(authorized(b"Authorization: Bearer " + KEY + b"\0")),
    "letters beyond": denied(authorized("Authorization: Bearer lgw_project_\xe9\xff")),
    "letters in UTF-8": denied(authorized("Authorization: Bearer lgw_project_日本".encode())),
    "8 KiB": denied(authorized("Authorization: Bearer lgw_project_" + "a" * 8_000)),
    "60 KiB": denied(authorized("Authorization: Bearer lgw_project_" + "a" * 60_000)),
    "another's key": denied(authorized(f"Authorization: Bearer {STRANGER}")),
    "a wrong checksum": denied(authorized(f"Authorization: Bearer {STRANGER[:-1]}~")),
    "a key of OpenAI's": denied(authorized("Authorization: Bearer sk-proj-abcdefghijkl")),
    "SQL": denied(authorized("Authorization: Bearer ' OR '1'='1")),
    "a template": denied(authorized("Authorization: Bearer {{7*7}}${7*7}%s%n")),
    "x-api-key": denied(authorized(b"X-Api-Key: " + KEY)),
    "api-key": denied(authorized(b"Api-Key: " + KEY)),
    "a proxy's": denied(authorized(b"Proxy-Authorization: Bearer " + KEY)),
    "a cookie": denied(authorized(b"Cookie: authorization=" + KEY)),
    "the query": denied(
        request(line=b"POST " + CHAT.encode() + b"?api_key=" + KEY + b" HTTP/1.1", key=False)
    ),
    "the URL's user": denied(
        request(line=b"POST http://" + KEY + b"@x/v1/chat/completions HTTP/1.1", key=False)
    ),
    "no key, no JSON": denied(request(key=False, body=b"{")),
    "no key, unknown model": denied(request(key=False, body=b'{"model":"x"}')),
}

TYPES = {
    **{
        f"type {kind!r}": Case(typed(kind), 415)
        for kind in (
            "",
            "text/plain",
            "text/json",
            "application/jsonx",
            "application/json-seq",
            "application/vnd.api+json",
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=x",
            "multipart/form-data; boundary=" + "x" * 5_000,
            "application/json; charset=utf-16",
            "application/json; charset=latin-1",
            "application/json; charset=utf-7",
            "application/json, application/json",
            "application/json; charset=utf-8; charset=utf-16",
            "*/*",
            "application/json" + ";" * 5_000,
        )
    },
    **{
        f"type {kind!r}": ok(typed(kind))
        for kind in (
            "application/json; charset=utf-8",
            "application/json;charset=UTF-8",
            'application/json; charset="utf-8"',
            "APPLICATION/JSON",
        )
    },
    "no type": Case(request(kind=False), 415),
    "two types": Case(request("Content-Type: application/json"), 415),
    **{
        f"encoding {coding!r}": Case(request(f"Content-Encoding: {coding}"), 415)
        for coding in ("gzip", "br", "deflate", "zstd", "gzip, identity", "x", "GZIP")
    },
    "encoding identity": ok(request("Content-Encoding: identity")),
}

SIZES = {
    "17 MiB": Case(request(body=b" " * (17 * MIB)), 413),
    "17 MiB in chunks": Case(chunked(chunk(b" " * MIB) * 17 + LAST), 413),
    "17 MiB without a key": Case(request(body=b" " * (17 * MIB), key=False), 413),
    "65 MiB announced": Case(request(f"Content-Length: {65 * MIB}", length=False), 413),
    "an exabyte announced": Case(request(f"Content-Length: {10**17}", length=False), 413),
    "an exabyte announced in text": Case(
        request(f"Content-Length: {10**17}", "Content-Type: text/html", length=False, kind=False),
        413,
    ),
    "1 MiB of blanks": ok(request(body=GOOD + b" " * MIB)),
}

TABLES = {
    "framing": FRAMING,
    "version": VERSIONS,
    "line": LINES,
    "header": HEADERS,
    "path": PATHS,
    "method": METHODS,
    "auth": AUTH,
    "type": TYPES,
    "size": SIZES,
}
CASES = {
    f"{table}: {name}": case for table, cases in TABLES.items() for name, case in cases.items()
}


# --- the tests ------------------------------------------------------------------------------------


@async_fixture
async def house(tmp_path: Path, upstream: ScriptedUpstream) -> AsyncIterator[OpenHouse]:
    async with open_house(
        tmp_path, upstream, WATCHLLM_IDLE_TIMEOUT="1s", WATCHLLM_BODY_TIMEOUT="2s"
    ) as opened:
        yield opened


async def test_every_hostile_input_is_answered_as_promised(
    house: OpenHouse, caplog: pytest.LogCaptureFixture
) -> None:
    """Shuffled, twenty at once: one answer each, no key told back, no traceback, and the house is well after each."""
    seed = int(os.environ.get("WATCHLLM_TEST_SEED", random.randrange(10**6)))
    print(f"WATCHLLM_TEST_SEED={seed}")
    order = list(CASES)
    random.Random(seed).shuffle(order)
    assert (await house.ask(QUESTION)).status == 200
    turn = asyncio.Semaphore(AT_ONCE)
    faults: dict[str, str] = {}

    async def one(name: str) -> None:
        async with turn:
            try:
                async with asyncio.timeout(15):
                    heard = await talk(house, CASES[name].sent)
                found = wrong(house, CASES[name], heard)
            except TimeoutError:
                found = "no end"
            well = await house.ask(None, "/health", method="GET")
            if found or well.status != 200:
                faults[name] = found or "the house is ill"

    await asyncio.gather(*(one(name) for name in order))

    assert not faults, "\n".join(f"{name}: {found}" for name, found in faults.items())
    check_quiet(house, caplog)


def check_quiet(house: OpenHouse, caplog: pytest.LogCaptureFixture) -> None:
    loud = [one for one in caplog.records if one.levelno >= logging.ERROR or one.exc_info]
    assert [] == [(one.getMessage(), one.exc_info) for one in loud]
    assert house.key not in caplog.text


async def test_short_spelling_and_test_keys(house: OpenHouse, upstream: ScriptedUpstream) -> None:
    """`lgw_proj_` means the same key; a test key is answered without a provider."""
    short = house.key.replace("lgw_project_", "lgw_proj_")

    assert 200 == (await house.ask(QUESTION, key=short)).status
    before = len(asked(upstream))
    tested = await house.ask(QUESTION, key=house.test_key)
    assert (200, "sandbox") == (tested.status, tested.headers["x-WatchLLM-provider"])
    assert before == len(asked(upstream))


async def test_wrong_keys_look_the_same(house: OpenHouse) -> None:
    """Whether a key is malformed, mistyped or unknown cannot be told from the answer."""
    keys = [STRANGER, STRANGER[:-1] + "!", "x", "lgw_project_", "a" * 5_000]

    bodies = {(await house.ask(QUESTION, key=key)).body for key in keys}

    assert 1 == len(bodies)


async def test_pipelined_requests_are_answered_in_order(house: OpenHouse) -> None:
    """Each once, and none before the one in front of it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", house.port)
    with closing(writer):
        sent = request() + get("/nothing") + request(body=b"{") + get("/health")
        writer.write(sent.replace(KEY, house.key.encode()))
        found = [await read_answer(reader, b"GET") for _ in range(4)]

    assert [200, 404, 400, 200] == [one.status if one else 0 for one in found]


async def test_nothing_follows_a_framing_error(
    house: OpenHouse, upstream: ScriptedUpstream
) -> None:
    """What stands behind a message whose end is in doubt is never read as a request."""
    hidden = request().replace(KEY, house.key.encode())
    for front in (
        chunked(LAST, "Content-Length: 5"),
        chunked(b"zz\r\n" + LAST),
        request("Content-Length: 1"),
        request("Nonsense"),
    ):
        before = len(asked(upstream))
        heard = await talk(house, front + hidden)
        assert [400] == [answer.status for answer in heard.answers]
        assert [] == heard.probed
        assert before == len(asked(upstream))


async def test_what_is_too_large_by_far_is_answered_at_once(house: OpenHouse) -> None:
    """Nobody reads 65 MiB to say no: the answer comes before the body, and the connection ends."""
    began = monotonic()
    heard = await talk(house, CASES["size: 65 MiB announced"].sent)

    assert [413] == [answer.status for answer in heard.answers]
    assert "close" == heard.answers[0].headers["connection"]
    assert monotonic() - began < 1


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("cut", [False, True])
async def test_a_stream_over_http_1_0_ends_with_its_connection(
    tmp_path: Path, upstream: ScriptedUpstream, kept: bool, cut: bool
) -> None:
    """It has no other end there, whole or cut, even when the client would like to keep the connection."""
    if cut:
        await upstream.break_with("close_early", 3)
    lines = ["Connection: keep-alive"] * kept
    body = orjson.dumps({**QUESTION, "stream": True})
    sent = request(*lines, line=f"POST {CHAT} HTTP/1.0", body=body)
    async with open_house(tmp_path, upstream) as house:
        reader, writer = await asyncio.open_connection("127.0.0.1", house.port)
        with closing(writer):
            writer.write(sent.replace(KEY, house.key.encode()))
            async with asyncio.timeout(3):
                heard = await reader.read()

    head, _, streamed = heard.partition(b"\r\n\r\n")
    assert b"keep-alive" not in head.lower()
    assert b"transfer-encoding" not in head.lower()
    assert cut != streamed.endswith(b"data: [DONE]\n\n")
    assert cut == (b'"error"' in heard)


SLOW = {
    "a head": [b"POST /v1/chat/completions HTTP/1.1\r\n", *(b"X-%d: 1\r\n" % n for n in range(99))],
    "a line": [b"GET /", *(b"a" for _ in range(99))],
    "a body": [request("Content-Length: 500", length=False, body=b""), *(b" " for _ in range(99))],
    "chunks": [chunked(b""), *(b"1\r\n \r\n" for _ in range(99))],
    "a long no": [
        request("Content-Length: 20000000", length=False, body=b""),
        *(b" " for _ in range(99)),
    ],
}  # fmt: skip


async def test_a_trickle_is_cut_off(house: OpenHouse) -> None:
    """A byte at a time keeps neither a head nor a body open past its deadline, and others do not feel it."""
    times = await asyncio.gather(*(trickled(house, pieces) for pieces in SLOW.values()))

    assert 0.9 < min(times)
    assert 3.5 > max(times)


async def trickled(house: OpenHouse, pieces: list[bytes]) -> float:
    """Seconds until the connection ended, without a word."""
    reader, writer = await asyncio.open_connection("127.0.0.1", house.port)
    with closing(writer):
        began = monotonic()
        trickling = asyncio.ensure_future(trickle(writer, pieces))
        async with asyncio.timeout(5):
            with suppress(ConnectionError):
                assert b"" == await reader.read()
        took = monotonic() - began
        trickling.cancel()
        assert 200 == (await house.ask(None, "/health", method="GET")).status
    return took


async def trickle(writer: asyncio.StreamWriter, pieces: list[bytes]) -> None:
    with suppress(ConnectionError):
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.05)


async def test_an_idle_connection_is_closed(house: OpenHouse) -> None:
    """Between requests a connection is kept for the idle time and no longer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", house.port)
    with closing(writer):
        writer.write(get("/health"))
        assert await read_answer(reader, b"GET")
        async with asyncio.timeout(3):
            assert b"" == await reader.read()
