"""Mail by SMTP: one connection for each, within five seconds, over TLS wherever the server speaks it.

A mail may go out twice when nobody lived to note the first time. Its Message-ID is the same then, and most mail
systems show only one of them.
"""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import re
import ssl
from contextlib import suppress
from datetime import UTC, datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime, parseaddr
from urllib.parse import quote, unquote, urlsplit

import aiosmtplib

from domain.notices import Delivery, Undelivered
from domain.reports import printable
from domain.words import Words

DEADLINE = 5.0
SUBMISSION, SUBMISSIONS = 587, 465
"""Ports of RFC 8314."""

# A dot-atom and a host (RFC 5321 4.1.2). Quoted local parts are valid, and nobody has one.
_ADDRESS = re.compile(r"([^\s@<>()\[\],;:\\\"]{1,64})@([^\s@<>()\[\],;:\\\"]{1,255})")


class Smtp:
    """`url` is smtp://user:password@host:587 or smtps://…, `sender` a mail address with a name before it or not."""

    def __init__(self, url: str, sender: str, *, tls: ssl.SSLContext | None = None) -> None:
        parts = urlsplit(url)
        self._implicit = parts.scheme == "smtps"
        self._host = parts.hostname or ""
        self._port = parts.port or (SUBMISSIONS if self._implicit else SUBMISSION)
        self._user, self._password = unquote(parts.username or ""), unquote(parts.password or "")
        self._sender = _sender(sender)
        self._tls = ssl.create_default_context() if tls is None else tls

    async def send(self, delivery: Delivery, words: Words, /) -> None:
        recipient = _recipient(delivery.recipient)
        mail = _written(delivery, words, self._sender, recipient)
        client = aiosmtplib.SMTP(
            hostname=self._host,
            port=self._port,
            # Asking the resolver for our own name, as is the library's habit, may take longer than all the rest.
            local_hostname="localhost",
            timeout=DEADLINE,
            use_tls=self._implicit,
            start_tls=False,
            tls_context=self._tls,
        )
        ends_at = asyncio.get_running_loop().time() + DEADLINE
        try:
            async with asyncio.timeout_at(ends_at):
                await self._open(client)
                await client.sendmail(self._sender.addr_spec, [recipient.addr_spec], mail)
        except (OSError, aiosmtplib.SMTPException, ValueError) as exc:
            client.close()
            raise _undelivered(exc) from exc
        except asyncio.CancelledError:
            client.close()
            raise
        await _part(client, ends_at)

    async def aclose(self) -> None:
        """No connection outlives its mail."""

    async def _open(self, client: aiosmtplib.SMTP) -> None:
        await client.connect()
        client.local_hostname = _literal(client.get_transport_info("sockname")[0])
        await client.ehlo()
        if not self._implicit and client.supports_extension("starttls"):
            await client.starttls()
            await client.ehlo()
        if not self._user:
            return
        if client.get_transport_info("sslcontext") is None and not _loopback(client):
            raise Undelivered("the mail server offers no TLS, and no password is sent without")
        await client.login(self._user, self._password)


async def _part(client: aiosmtplib.SMTP, ends_at: float) -> None:
    """The mail is taken: whatever goes wrong from here on changes nothing of that."""
    with suppress(OSError, aiosmtplib.SMTPException):
        async with asyncio.timeout_at(ends_at):
            await client.quit()
    client.close()


def _undelivered(error: Exception) -> Undelivered:
    """In words that hold nothing of what the server said: it likes to repeat addresses."""
    if isinstance(error, aiosmtplib.SMTPRecipientsRefused):
        code = error.recipients[0].code
        return Undelivered(
            f"the mail server refuses the recipient ({code})", permanent=code >= 500
        )
    if isinstance(error, aiosmtplib.SMTPResponseException):
        return Undelivered(f"the mail server answered {error.code}")
    if isinstance(error, TimeoutError):
        return Undelivered(f"the mail server did not answer within {DEADLINE:.0f} s")
    if isinstance(error, ssl.SSLError):
        return Undelivered("the mail server's TLS is broken, or its certificate not to be trusted")
    return Undelivered("the mail server cannot be reached, or broke off")


# --- the mail -------------------------------------------------------------------------------------


def _written(delivery: Delivery, words: Words, sender: Address, recipient: Address) -> bytes:
    mail = EmailMessage(policy=SMTP)
    mail["From"] = sender
    mail["To"] = recipient
    mail["Subject"] = printable(" ".join(words.subject.split()))
    mail["Date"] = format_datetime(datetime.fromtimestamp(int(delivery.queued_at), UTC))
    mail["Message-ID"] = f"<{_identity(delivery)}@{sender.domain}>"
    # RFC 3834: nobody's holiday answers this.
    mail["Auto-Submitted"] = "auto-generated"
    mail.set_content(words.text, cte="quoted-printable")
    mail.add_alternative(words.html, subtype="html", cte="quoted-printable")
    return _unsubscribe(words.unsubscribe) + mail.as_bytes()


def _unsubscribe(url: str) -> bytes:
    """Written by hand: the library folds a long URL until it is none. One click asks for no more (RFC 8058)."""
    if not url:
        return b""
    plain = quote(url, safe="%/:?#[]@!$&'()*+,;=-._~")
    return (
        f"List-Unsubscribe: <{plain}>\r\nList-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n"
    ).encode("ascii")


def _identity(delivery: Delivery) -> str:
    named = "\0".join((delivery.notice, delivery.channel, delivery.recipient))
    return hashlib.sha256(named.encode()).hexdigest()[:32]


def _sender(text: str) -> Address:
    name, spec = parseaddr(text)
    try:
        return _address(spec if text.isprintable() else "", name)
    except ValueError:
        raise ValueError(
            "the sender must be a mail address, with a name before it or not"
        ) from None


def _recipient(text: str) -> Address:
    try:
        return _address(text)
    except ValueError:
        raise Undelivered("its recipient is no mail address", permanent=True) from None


def _address(spec: str, name: str = "") -> Address:
    """ASCII, after the host's international letters were spelt out (RFC 5891). Raises ValueError."""
    found = _ADDRESS.fullmatch(spec)
    if found is None or not spec.isprintable() or not found[1].isascii():
        raise ValueError
    host = found[2] if found[2].isascii() else found[2].encode("idna").decode()
    return Address(name, found[1], host)


# --- the connection -------------------------------------------------------------------------------


def _literal(address: str) -> str:
    """Who we are, for a client that may have no name (RFC 5321 4.1.3)."""
    return f"[IPv6:{address.partition('%')[0]}]" if ":" in address else f"[{address}]"


def _loopback(client: aiosmtplib.SMTP) -> bool:
    peer = client.get_transport_info("peername")[0]
    return ipaddress.ip_address(peer.partition("%")[0]).is_loopback
