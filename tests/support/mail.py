"""A mail server on a real socket that keeps what it takes, and is as unhelpful as a test wants."""

from __future__ import annotations

import asyncio
import email.policy
import ssl
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email.message import EmailMessage
from email.parser import BytesParser
from typing import Any

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session
from attrs import define, field


@define
class Taken:
    """One mail as it came: the envelope, the message, its bytes, whether TLS was spoken, who had logged in."""

    sender: str
    recipients: list[str]
    message: EmailMessage
    raw: bytes
    tls: bool
    user: str

    @property
    def text(self) -> str:
        return _content(self.message, "plain")

    @property
    def html(self) -> str:
        return _content(self.message, "html")


@define
class MailSink:
    """`recipients` and `data` are answers to the next RCPTs and DATAs instead of the good one.

    While `hangs` it takes mails and answers nothing. `logins` are those that were tried, with their passwords.
    """

    port: int = 0
    mails: list[Taken] = field(factory=list)
    recipients: deque[str] = field(factory=deque)
    data: deque[str] = field(factory=deque)
    hangs: bool = False
    logins: list[tuple[str, str]] = field(factory=list)
    commands: list[str] = field(factory=list)

    # --- what aiosmtpd calls ----------------------------------------------------------------------

    async def handle_RCPT(
        self, _: SMTP, __: Session, envelope: Envelope, address: str, ___: list[str]
    ) -> str:
        if self.recipients:
            return self.recipients.popleft()
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        if self.data:
            return self.data.popleft()
        raw = envelope.content
        assert isinstance(raw, bytes)
        assert envelope.mail_from is not None
        self.mails.append(
            Taken(
                envelope.mail_from,
                envelope.rcpt_tos,
                BytesParser(EmailMessage, policy=email.policy.SMTP).parsebytes(raw),
                raw,
                session.ssl is not None
                or server.transport.get_extra_info("sslcontext") is not None,
                session.auth_data.login.decode() if session.auth_data else "",
            )
        )
        if self.hangs:
            await asyncio.Event().wait()
        return "250 OK"

    async def handle_QUIT(self, *_: Any) -> str:
        self.commands.append("QUIT")
        return "221 Bye"

    def login(
        self, _: SMTP, __: Session, ___: Envelope, mechanism: str, data: LoginPassword
    ) -> AuthResult:
        self.logins.append((data.login.decode(), data.password.decode()))
        return AuthResult(success=True, auth_data=data)


@asynccontextmanager
async def mail_sink(
    *,
    starttls: ssl.SSLContext | None = None,
    implicit: ssl.SSLContext | None = None,
    port: int = 0,
) -> AsyncIterator[MailSink]:
    """On the test's own loop."""
    sink = MailSink()
    loop = asyncio.get_running_loop()
    open_now: set[SMTP] = set()

    def serve() -> SMTP:
        protocol = SMTP(
            sink,
            hostname="sink.test",
            tls_context=starttls,
            auth_require_tls=False,
            authenticator=sink.login,
            loop=loop,
        )
        open_now.add(protocol)
        return protocol

    server = await loop.create_server(serve, "127.0.0.1", port, ssl=implicit)
    sink.port = server.sockets[0].getsockname()[1]
    try:
        yield sink
    finally:
        server.close()
        for protocol in open_now:
            await _end(protocol)


async def _end(protocol: SMTP) -> None:
    if protocol.transport is not None:
        protocol.transport.abort()
    task = protocol._handler_coroutine
    if task is not None:
        task.cancel()
        await asyncio.wait([task])


def _content(message: EmailMessage, kind: str) -> str:
    part = message.get_body(preferencelist=(kind,))
    assert part is not None
    return part.get_content().replace("\r\n", "\n")
