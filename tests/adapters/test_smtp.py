"""Mail by SMTP, to a real server on a real socket."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest

from adapters.notify import smtp
from adapters.notify.smtp import Smtp
from domain.notices import MAIL, WEEKLY_REPORT, Delivery, Undelivered
from domain.words import Words
from tests.support.certificates import contexts
from tests.support.mail import mail_sink

SENDER = "WatchLLM <billing@watchllm.test>"
WORDS = Words(
    "Your payment of $49.00 failed",
    "Hello,\n\nit did not work. Schöne Grüße\n" + "a long line " * 40 + "\n",
    "<p>It did not <b>work</b>.</p>\n",
    "A payment failed.",
)
LINK = "https://watchllm.test/unsubscribe?token=" + "aB3_-" * 40


def delivery(recipient="ann@customer.test", notice="payment_failed:evt_1", **more):
    return Delivery(
        notice, MAIL, recipient, WEEKLY_REPORT, "prj_1", {}, 1_800_000_000.0, 0.0, **more
    )


def url(sink, scheme="smtp", login=""):
    return f"{scheme}://{login}127.0.0.1:{sink.port}"


async def refused(notifier, what=None, words=WORDS):
    with pytest.raises(Undelivered) as caught:
        await notifier.send(what or delivery(), words)
    return caught.value


async def test_a_mail_is_whole():
    """Text and HTML, who it is from and to, when it was written, and that a machine did."""
    async with mail_sink() as sink:
        await Smtp(url(sink), SENDER).send(delivery(), WORDS)

    [taken] = sink.mails
    assert ("billing@watchllm.test", ["ann@customer.test"]) == (taken.sender, taken.recipients)
    assert WORDS.text == taken.text
    assert WORDS.html == taken.html
    assert SENDER == taken.message["From"]
    assert "ann@customer.test" == taken.message["To"]
    assert WORDS.subject == taken.message["Subject"]
    assert "Fri, 15 Jan 2027 08:00:00 +0000" == taken.message["Date"]
    assert "auto-generated" == taken.message["Auto-Submitted"]
    assert "multipart/alternative" == taken.message.get_content_type()
    assert "List-Unsubscribe" not in taken.message
    assert ["QUIT"] == sink.commands


async def test_the_message_id_is_the_deliverys():
    """The same however often it is sent, and another one for another recipient or notice."""
    async with mail_sink() as sink:
        notifier = Smtp(url(sink), SENDER)
        for one in (
            delivery(),
            delivery(attempts=7),
            delivery("bob@customer.test"),
            delivery(notice="payment_failed:evt_2"),
        ):
            await notifier.send(one, WORDS)

    first, again, *others = [taken.message["Message-ID"] for taken in sink.mails]
    assert first == again
    assert first.startswith("<")
    assert first.endswith("@watchllm.test>")
    assert 3 == len({first, *others})


async def test_an_optional_mail_can_be_stopped():
    """With one click (RFC 8058), however long the link is: a folded or encoded one would be none."""
    async with mail_sink() as sink:
        words = Words("s", "t\n", "h\n", "m", unsubscribe=LINK)
        await Smtp(url(sink), SENDER).send(delivery(), words)

    [taken] = sink.mails
    assert f"List-Unsubscribe: <{LINK}>\r\n".encode() in taken.raw
    assert b"List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n" in taken.raw


@pytest.mark.parametrize(
    "words",
    [
        Words("Hello\r\nBcc: eve@evil.test", "t\n", "h\n", "m"),
        Words("Hello\nBcc: eve@evil.test", "t\n", "h\n", "m"),
        Words("Hello\x0bBcc: eve@evil.test\x85X: y\u2028Z: z", "t\n", "h\n", "m"),
        Words("Hello", "t\r\n.\r\nBcc: eve@evil.test\r\n", "h\r\n.\r\nQUIT\r\n", "m"),
        Words("Hello", "t\n", "h\n", "m", "https://x.test/>\r\nBcc: eve@evil.test"),
        Words("Grüße " * 40 + "\nBcc: eve@evil.test", "t\n", "h\n", "m"),
    ],
)
async def test_nobody_writes_a_header(words):
    """Whatever stands in names and texts, the mail has the headers and the recipient that it was given here."""
    known = {
        *("From", "To", "Subject", "Date", "Message-ID", "Auto-Submitted", "MIME-Version"),
        *("Content-Type", "List-Unsubscribe", "List-Unsubscribe-Post"),
    }
    async with mail_sink() as sink:
        await Smtp(url(sink), SENDER).send(delivery(), words)

    [taken] = sink.mails
    assert set() == set(taken.message.keys()) - known
    assert ["ann@customer.test"] == taken.recipients
    assert 1 == len(taken.message.get_all("Subject"))
    assert b"\nBcc:" not in taken.raw.partition(b"\r\n\r\n")[0]


@pytest.mark.parametrize(
    "recipient",
    [
        "",
        "ann",
        "ann@",
        "@customer.test",
        "ann@customer.test, eve@evil.test",
        "ann@customer.test\r\nRCPT TO:<eve@evil.test>",
        "ann@customer.test> SIZE=1",
        "<ann@customer.test>",
        "ann\x00@customer.test",
        '"ann b"@customer.test',
        "änn@customer.test",
        "ann@customer\u2028.test",
        "a" * 65 + "@customer.test",
        "ann@" + "ü" * 70 + ".test",
    ],
)
async def test_what_is_no_address_is_never_tried(recipient):
    """Trying again would not make it one. The server is not even asked."""
    fault = await refused(Smtp("smtp://127.0.0.1:1", SENDER), delivery(recipient))

    assert fault.permanent
    assert recipient not in fault.reason or not recipient


async def test_a_host_in_other_letters():
    """As the DNS knows it."""
    async with mail_sink() as sink:
        await Smtp(url(sink), SENDER).send(delivery("ann@müller.test"), WORDS)

    assert ["ann@xn--mller-kva.test"] == sink.mails[0].recipients


@pytest.mark.parametrize("sender", ["", "nobody", "a@b@c", "x\r\nBcc: eve@evil.test"])
def test_a_sender_must_be_one(sender):
    """Found out when the house is built, not with the first mail."""
    with pytest.raises(ValueError):
        Smtp("smtp://127.0.0.1", sender)


# --- TLS and passwords ----------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["smtp", "smtps"])
async def test_the_password_goes_over_tls(scheme):
    """STARTTLS when it is offered, TLS from the first byte on with smtps. What is percent-encoded is read."""
    server, client = contexts("127.0.0.1")
    offered = {"starttls": server} if scheme == "smtp" else {"implicit": server}
    async with mail_sink(**offered) as sink:
        await Smtp(url(sink, scheme, "ann%40x:p%3Aw%2F%C3%BC@"), SENDER, tls=client).send(
            delivery(), WORDS
        )

    assert [(True, "ann@x")] == [(taken.tls, taken.user) for taken in sink.mails]
    assert [("ann@x", "p:w/ü")] == sink.logins


@pytest.mark.parametrize(("scheme", "name"), [("smtp", "localhost"), ("smtps", "other.test")])
async def test_a_wrong_certificate(scheme, name):
    """No mail and no password go to somebody else."""
    server, client = contexts(name)
    offered = {"starttls": server} if scheme == "smtp" else {"implicit": server}
    async with mail_sink(**offered) as sink:
        fault = await refused(Smtp(url(sink, scheme, "ann:pw@"), SENDER, tls=client))

    assert ([], []) == (sink.mails, sink.logins)
    assert not fault.permanent
    assert "pw" not in fault.reason


async def test_no_tls_no_password(monkeypatch):
    """To another machine. Whoever stands in between can take the offer of TLS away, and would read along."""
    async with mail_sink() as sink:
        monkeypatch.setattr(smtp, "_loopback", lambda _: False)
        fault = await refused(Smtp(url(sink, login="ann:pw@"), SENDER))
        await Smtp(url(sink), SENDER).send(delivery(), WORDS)
        monkeypatch.undo()
        await Smtp(url(sink, login="ann:pw@"), SENDER).send(delivery(), WORDS)

    assert "no TLS" in fault.reason
    assert not fault.permanent
    assert ["", "ann"] == [taken.user for taken in sink.mails]
    assert [("ann", "pw")] == sink.logins


# --- servers that are no help ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "permanent"),
    [
        ("450 4.2.1 ann@customer.test: come back later", False),
        ("550 5.1.1 ann@customer.test: never heard of", True),
    ],
)
async def test_a_refused_recipient(answer, permanent):
    """For good or for now, as the server says; what it says else is not repeated, for it holds addresses."""
    async with mail_sink() as sink:
        sink.recipients.append(answer)
        notifier = Smtp(url(sink), SENDER)
        fault = await refused(notifier)
        assert [] == sink.mails
        await notifier.send(delivery(), WORDS)

    assert (permanent, f"the mail server refuses the recipient ({answer[:3]})") == (
        fault.permanent,
        fault.reason,
    )
    assert 1 == len(sink.mails)


@pytest.mark.parametrize("answer", ["451 later", "554 5.7.1 over quota"])
async def test_a_refused_mail_is_tried_again(answer):
    """Only the recipient's own 5xx is for good: an operator can mend the others within the day."""
    async with mail_sink() as sink:
        sink.data.append(answer)
        notifier = Smtp(url(sink), SENDER)
        fault = await refused(notifier)
        await notifier.send(delivery(), WORDS)

    assert (False, f"the mail server answered {answer[:3]}") == (fault.permanent, fault.reason)
    assert 1 == len(sink.mails)


async def test_nobody_listens():
    fault = await refused(Smtp("smtp://127.0.0.1:1", SENDER))

    assert (False, "the mail server cannot be reached, or broke off") == (
        fault.permanent,
        fault.reason,
    )


async def test_a_server_that_is_none():
    """It answers something, but no SMTP."""

    async def serve(_, writer):
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        fault = await refused(Smtp(f"smtp://127.0.0.1:{port_of(server)}", SENDER))

    assert not fault.permanent


def port_of(server):
    return server.sockets[0].getsockname()[1]


@pytest.mark.parametrize("taken", [True, False])
async def test_a_server_that_hangs(monkeypatch, taken):
    """Before it says a word, or after it has the mail: a deadline ends it either way."""
    monkeypatch.setattr(smtp, "DEADLINE", 0.5)
    began = time.monotonic()
    if taken:
        async with mail_sink() as sink:
            sink.hangs = True
            fault = await refused(Smtp(url(sink), SENDER))
    else:
        with socket.create_server(("127.0.0.1", 0)) as mute:
            fault = await refused(Smtp(f"smtp://127.0.0.1:{mute.getsockname()[1]}", SENDER))

    assert "did not answer within" in fault.reason
    assert not fault.permanent
    assert time.monotonic() - began < 10


async def test_a_slow_goodbye_changes_nothing(monkeypatch):
    """The mail was taken. To send it again would be worse than to leave without a word."""
    monkeypatch.setattr(smtp, "DEADLINE", 1.0)
    async with mail_sink() as sink:

        async def mute(*_):
            await asyncio.Event().wait()

        monkeypatch.setattr(type(sink), "handle_QUIT", mute)
        await Smtp(url(sink), SENDER).send(delivery(), WORDS)

    assert 1 == len(sink.mails)
