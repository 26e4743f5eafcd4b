"""Incoming webhooks, to a real server on a real socket."""

from __future__ import annotations

import socket
import time

import pytest

from adapters.notify import channel
from adapters.notify.channel import Channel
from adapters.notify.pinning import PublicAddresses, is_public
from domain.channels import TooMany
from domain.notices import CHANNEL, PLAN_CHANGED, Delivery, Undelivered
from domain.words import Words
from tests.support.certificates import contexts
from tests.support.hooks import Answer, Names, hook_sink

DELIVERY = Delivery("plan_changed:evt_1", CHANNEL, "prj_1", PLAN_CHANGED, "prj_1", {}, 0.0, 0.0)
SLACK = "https://hooks.slack.com/services/T00/B00/XXXX?a=%2Fb"
DISCORD = "https://discord.com/api/webhooks/123/abc"
TEAMS = "https://x.webhook.office.com/webhookb2/1?sig=%2Fx"
NASTY = "Ann & <!channel> *shop* @everyone\n[x](https://a.test/b_c) `1`_2_ 49$"


def words(message="A plan has changed."):
    return Words("s", "t", "h", message)


async def refused(notifier, message="m"):
    with pytest.raises(Undelivered) as caught:
        await notifier.send(DELIVERY, words(message))
    return caught.value


@pytest.fixture
def loopback_is_public(monkeypatch):
    """Or no socket of a test could be reached."""
    monkeypatch.setattr("adapters.notify.pinning.is_public", lambda address: True)


async def sent_to(url, message, **more):
    """What a chat service got of it, when a customer has named it: over TLS, at the address that its name gave."""
    host = url.split("/")[2]
    server, client = contexts(host)
    async with hook_sink(tls=server) as sink:
        names = Names(("127.0.0.1",), sink.port)
        one = Channel(url, by_customer=True, names=names, tls=client)
        await one.send(DELIVERY, words(message))
        await one.aclose()
    assert [host] == names.asked
    [posted] = sink.posts
    assert ("POST", host, "application/json") == (
        posted.method,
        posted.host,
        posted.headers["Content-Type"],
    )
    return posted


# --- forms ----------------------------------------------------------------------------------------


async def test_slack(loopback_is_public):
    """Its three signs are escaped, so that nobody is called and nothing is a link. The URL is sent as it was given."""
    posted = await sent_to(SLACK, NASTY)

    assert "/services/T00/B00/XXXX?a=%2Fb" == posted.path
    assert {
        "text": "Ann &amp; &lt;!channel&gt; *shop* @everyone\n[x](https://a.test/b_c) `1`_2_ 49$"
    } == posted.document


async def test_discord(loopback_is_public):
    """Nobody is called, and it answers only when the message is there."""
    posted = await sent_to(DISCORD, NASTY)

    assert "/api/webhooks/123/abc?wait=true" == posted.path
    assert {
        "content": r"Ann & \<!channel\> \*shop\* \@everyone"
        "\n"
        r"\[x\](https://a.test/b_c) \`1\`\_2\_ 49$",
        "allowed_mentions": {"parse": []},
    } == posted.document


async def test_teams(loopback_is_public):
    """An Adaptive Card, which connectors and workflows both take; a block for each line."""
    posted = await sent_to(TEAMS, "One_1\nTwo")

    assert "message" == posted.document["type"]
    [attachment] = posted.document["attachments"]
    assert "application/vnd.microsoft.card.adaptive" == attachment["contentType"]
    assert ("AdaptiveCard", [r"One\_1", "Two"]) == (
        attachment["content"]["type"],
        [block["text"] for block in attachment["content"]["body"]],
    )


@pytest.mark.parametrize("url", [SLACK, DISCORD, TEAMS])
async def test_a_long_message_fits(loopback_is_public, url):
    """Discord, the strictest, takes 2,000 characters."""
    posted = await sent_to(url, "*" * 5_000)

    assert len(posted.document.get("content", "")) <= 2_000


async def test_the_operators_own_may_be_anywhere():
    """Without TLS, on a private address, in the form that Slack made common."""
    async with hook_sink() as sink:
        await Channel(sink.url, by_customer=False).send(DELIVERY, words("a < b"))

    [posted] = sink.posts
    assert ({"text": "a &lt; b"}, "/hook?sig=a%2Fb") == (posted.document, posted.path)


# --- answers --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "permanent"),
    [
        (Answer(400, body=b"invalid_payload"), False),
        (Answer(403), False),
        (Answer(404, body=b"no_service"), True),
        (Answer(410, body=b"channel_is_archived"), True),
        (Answer(500), False),
        (Answer(503), False),
        (Answer(301, {"Location": "/elsewhere"}), False),
        (Answer(307, {"Location": "http://127.0.0.1:1/"}), False),
    ],
)
async def test_refusals(answer, permanent):
    """A webhook that was removed is gone for good. No redirect is followed, and nothing of the URL is repeated."""
    async with hook_sink() as sink:
        sink.answers.append(answer)
        fault = await refused(Channel(sink.url, by_customer=False))

    assert (f"the channel answered {answer.status}", permanent) == (fault.reason, fault.permanent)
    assert 1 == len(sink.posts)


@pytest.mark.parametrize("status", [200, 201, 202, 204])
async def test_taken(status):
    async with hook_sink() as sink:
        sink.answers.append(Answer(status, body=b"" if status == 204 else b"ok"))
        await Channel(sink.url, by_customer=False).send(DELIVERY, words())

    assert 1 == len(sink.posts)


@pytest.mark.parametrize(
    ("said", "wait"),
    [
        ({"Retry-After": "30"}, 30.0),
        ({"Retry-After": "0.5"}, 0.5),
        ({"Retry-After": "-5"}, 0.0),
        ({"Retry-After": "1e9"}, 3_600.0),
        ({"Retry-After": "nan"}, 0.0),
        ({"Retry-After": "inf"}, 0.0),
        ({"Retry-After": "Fri, 31 Dec 2027 23:59:59 GMT"}, 0.0),
        ({}, 0.0),
    ],
)
async def test_too_many(said, wait):
    """It says itself when to come back, within reason."""
    async with hook_sink() as sink:
        sink.answers.append(Answer(429, said))
        fault = await refused(Channel(sink.url, by_customer=False))

    assert isinstance(fault, TooMany)
    assert (wait, False) == (fault.wait, fault.permanent)


async def test_teams_says_yes_and_means_no(loopback_is_public):
    """A connector answers 200 whatever happens behind it, and tells in words."""
    host = "x.webhook.office.com"
    server, client = contexts(host)
    async with hook_sink(tls=server) as sink:
        sink.answers.append(
            Answer(body=b"Webhook message delivery failed with error: returned HTTP error 429")
        )
        fault = await refused(
            Channel(TEAMS, by_customer=True, names=Names(("127.0.0.1",), sink.port), tls=client)
        )

    assert not fault.permanent


async def test_a_large_answer_is_not_read():
    """What a stranger answers fills nobody's memory."""
    async with hook_sink() as sink:
        sink.answers.append(Answer(body=b"x" * (32 << 20)))
        await Channel(sink.url, by_customer=False).send(DELIVERY, words())

    assert 1 == len(sink.posts)


async def test_it_hangs(monkeypatch):
    """Before the connection is of use, or after the message was sent."""
    monkeypatch.setattr(channel, "DEADLINE", 0.3)
    began = time.monotonic()
    async with hook_sink() as sink:
        sink.hangs = True
        fault = await refused(Channel(sink.url, by_customer=False))
    assert "did not answer within" in fault.reason
    with socket.create_server(("127.0.0.1", 0)) as mute:
        url = f"http://127.0.0.1:{mute.getsockname()[1]}/secret"
        fault = await refused(Channel(url, by_customer=False))

    assert "did not answer within" in fault.reason
    assert not fault.permanent
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/secret", "https://[::1]:1/secret"])
async def test_nobody_listens(url):
    fault = await refused(Channel(url, by_customer=False))

    assert ("the channel cannot be reached, or broke off", False) == (
        fault.reason,
        fault.permanent,
    )


# --- where a customer's may lead ------------------------------------------------------------------


@pytest.mark.parametrize(
    "addresses",
    [
        ("127.0.0.1",),
        (),
        ("10.0.0.1",),
        ("169.254.169.254",),
        ("::1",),
        ("::ffff:127.0.0.1",),
        ("fd00::1",),
        ("52.0.0.1", "192.168.0.1"),
        ("52.0.0.1", "::ffff:10.0.0.1"),
    ],
)
async def test_a_name_that_leads_inside_is_not_dialled(addresses):
    """Nor is any of its other addresses: whoever mixes them has something in mind. Each send looks anew."""
    server, client = contexts("hooks.slack.com")
    async with hook_sink(tls=server) as sink:
        names = Names(addresses, sink.port)
        one = Channel(SLACK, by_customer=True, names=names, tls=client)
        faults = [await refused(one) for _ in range(2)]

    assert [] == sink.posts
    assert 2 == len(names.asked)
    assert ["the channel's host leads to an address that is not public"] * 2 == [
        fault.reason for fault in faults
    ]
    # Somebody's resolver may be broken for an hour.
    assert not any(fault.permanent for fault in faults)


async def test_the_address_that_was_judged_is_dialled(monkeypatch):
    """A name that answers publicly once and privately ever after gets no second question."""
    monkeypatch.setattr(
        "adapters.notify.pinning.is_public", lambda address: address != "127.0.0.2"
    )
    server, client = contexts("hooks.slack.com")
    async with hook_sink(tls=server) as sink:

        class Rebinding(Names):
            async def resolve(self, host, port=0, family=socket.AF_UNSPEC):
                found = await super().resolve(host, port, family)
                self.addresses = ("127.0.0.2",)
                return found

        names = Rebinding(("127.0.0.1",), sink.port)
        await Channel(SLACK, by_customer=True, names=names, tls=client).send(DELIVERY, words())
        assert 1 == len(sink.posts)
        await refused(Channel(SLACK, by_customer=True, names=names, tls=client))

    assert 1 == len(sink.posts)


async def test_a_stranger_at_the_address(loopback_is_public):
    """The certificate must be the host's: nobody reads a customer's notices by answering for Slack's name."""
    server, client = contexts("evil.test")
    async with hook_sink(tls=server) as sink:
        names = Names(("127.0.0.1",), sink.port)
        fault = await refused(Channel(SLACK, by_customer=True, names=names, tls=client))

    assert [] == sink.posts
    assert not fault.permanent


@pytest.mark.parametrize(
    "url",
    [
        "http://hooks.slack.com/services/T00",
        "https://127.0.0.1/x",
        "https://[::1]/x",
        "https://evil.test/x",
        "https://hooks.slack.com:8443/x",
    ],
)
async def test_a_kept_url_is_judged_again(url):
    """The rules may have grown stricter since it was typed, and the database is not trusted with what is dialled."""
    names = Names(("127.0.0.1",), 1)
    fault = await refused(Channel(url, by_customer=True, names=names))

    assert fault.permanent
    assert [] == names.asked


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("52.1.2.3", True),
        ("8.8.8.8", True),
        ("2606:4700::1111", True),
        ("::ffff:8.8.8.8", True),
        ("64:ff9b::808:808", True),
        ("0.0.0.0", False),
        ("10.1.2.3", False),
        ("100.64.0.1", False),
        ("127.0.0.1", False),
        ("127.8.8.8", False),
        ("169.254.169.254", False),
        ("172.16.0.1", False),
        ("192.0.0.8", False),
        ("192.0.2.1", False),
        ("192.168.1.1", False),
        ("198.18.0.1", False),
        ("224.0.0.1", False),
        ("239.1.2.3", False),
        ("240.0.0.1", False),
        ("255.255.255.255", False),
        ("::", False),
        ("::1", False),
        ("::ffff:10.0.0.1", False),
        ("::ffff:169.254.169.254", False),
        ("::127.0.0.1", False),
        ("64:ff9b::a00:1", False),
        ("64:ff9b::7f00:1", False),
        ("64:ff9b:1::808:808", False),
        ("2002:7f00:1::1", False),
        ("2002:808:808::1", False),
        ("2001:0:53aa:64c::1", False),
        ("2001:db8::1", False),
        ("3fff::1", False),
        ("fc00::1", False),
        ("fe80::1", False),
        ("fe80::1%eth0", False),
        ("fec0::1", False),
        ("ff02::1", False),
        ("2130706433", False),
        ("127.1", False),
        ("localhost", False),
        ("", False),
    ],
)
def test_public_addresses(address, public):
    """Those that anybody on the Internet may have; an IPv4 address in IPv6's clothes is judged as what it is."""
    assert public == is_public(address)


async def test_its_own_resolver_asks_the_machine():
    """Where a test gives none."""
    names = PublicAddresses()
    try:
        with pytest.raises(OSError):
            await names.resolve("localhost", 443)
    finally:
        await names.close()
