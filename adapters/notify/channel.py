"""Chat channels by their incoming webhooks: one POST of JSON, whose form the URL's host decides.

Whether a customer may name a URL is `domain.channels`' rule, and where it may lead `adapters.notify.pinning`'s.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from math import isfinite
from typing import Any

import aiohttp
import orjson
from aiohttp.abc import AbstractResolver
from yarl import URL

from adapters.notify.pinning import NotPublic, PublicAddresses
from domain import channels
from domain.channels import DISCORD, OTHER, SLACK, TEAMS, TooMany
from domain.errors import InvalidRequest
from domain.notices import LONGEST_PAUSE, Delivery, Undelivered
from domain.words import Words

DEADLINE = 5.0
ANSWER = 64 << 10
LONGEST = 1_000
"""Characters of a message, so that it fits everywhere when each of them is escaped: Discord takes 2,000."""

GONE = (404, 410)
"""The webhook was removed, or its channel archived; no other answer is for good."""

HEADERS = {"Content-Type": "application/json", "Accept-Encoding": "identity"}

Document = dict[str, Any]

_MARKUP = re.compile(r"([\\`*_~|\[\]<>#@])")
_URL = re.compile(r"(https?://\S+)")


class Channel:
    """`by_customer` says who has named the URL: the operator may name any address, a customer only a chat service's."""

    def __init__(
        self,
        url: str,
        *,
        by_customer: bool,
        names: AbstractResolver | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._url = url
        self._by_customer = by_customer
        self._names = names
        self._tls = tls
        self._service = channels.service(url)

    async def send(self, _: Delivery, words: Words, /) -> None:
        url = self._checked()
        body = orjson.dumps(_body(self._service, words.message[:LONGEST]))
        try:
            async with (
                asyncio.timeout(DEADLINE),
                self._session() as session,
                session.post(url, data=body, headers=HEADERS, allow_redirects=False) as answer,
            ):
                await self._judge(answer)
        except (aiohttp.ClientError, OSError, ValueError) as exc:
            raise _undelivered(exc) from exc

    async def aclose(self) -> None:
        """No connection outlives its message."""

    def _checked(self) -> URL:
        if self._by_customer:
            try:
                channels.check_channel(self._url)
            except InvalidRequest as exc:
                raise Undelivered(
                    "the project's channel is none that may be used", permanent=True
                ) from exc
        # A signature in the query is sent as it was given.
        url = URL(self._url, encoded=self._url.isascii())
        # Otherwise Discord answers well before it knows whether the message can be shown.
        return url.update_query(wait="true") if self._service == DISCORD else url

    def _session(self) -> aiohttp.ClientSession:
        names = PublicAddresses(self._names) if self._by_customer else self._names
        connector = aiohttp.TCPConnector(
            resolver=names, use_dns_cache=False, force_close=True, ssl=self._tls or True
        )
        return aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            auto_decompress=False,
        )

    async def _judge(self, answer: aiohttp.ClientResponse) -> None:
        if answer.status == 429:
            raise TooMany("the channel takes no more just now (429)", _wait(answer))
        if not 200 <= answer.status < 300:
            raise Undelivered(
                f"the channel answered {answer.status}", permanent=answer.status in GONE
            )
        # Connectors of Teams answer 200 and say in words what went wrong behind them. Nobody else's answer is read.
        if self._service == TEAMS and b"returned HTTP error" in await answer.content.read(ANSWER):
            raise Undelivered("Teams took the message and could not show it")


def _undelivered(error: Exception) -> Undelivered:
    if isinstance(error, TimeoutError):
        return Undelivered(f"the channel did not answer within {DEADLINE:.0f} s")
    if isinstance(error.__cause__, NotPublic):
        return Undelivered("the channel's host leads to an address that is not public")
    return Undelivered("the channel cannot be reached, or broke off")


def _wait(answer: aiohttp.ClientResponse) -> float:
    """Seconds (RFC 9110 10.2.3); who answers with a date is asked again as anybody else."""
    try:
        said = float(answer.headers.get("Retry-After", ""))
    except ValueError:
        return 0.0
    return min(max(said, 0.0), LONGEST_PAUSE) if isfinite(said) else 0.0


# --- forms ----------------------------------------------------------------------------------------


def _body(service: str, message: str) -> Document:
    if service == DISCORD:
        # https://discord.com/developers/docs/resources/message#allowed-mentions-object: nobody is called.
        return {"content": _plain_markdown(message), "allowed_mentions": {"parse": []}}
    if service == TEAMS:
        return _card(message)
    assert service in (SLACK, OTHER)
    # Whoever else takes Slack's form escapes as Slack does:
    # https://docs.slack.dev/messaging/formatting-message-text/#escaping.
    return {
        "text": message.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;"),
    }


def _card(message: str) -> Document:
    """What both connectors and workflows take: a message with an Adaptive Card attached.

    https://learn.microsoft.com/en-us/microsoftteams/platform/webhooks-and-connectors/how-to/connectors-using
    """
    lines = [
        {"type": "TextBlock", "text": _plain_markdown(line), "wrap": True}
        for line in message.splitlines()
    ]
    card = {
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.2",
        "body": lines,
    }
    attachment = {
        "contentType": "application/vnd.microsoft.card.adaptive",
        "contentUrl": None,
        "content": card,
    }
    return {"type": "message", "attachments": [attachment]}


def _plain_markdown(text: str) -> str:
    """Text that looks like itself where Markdown is read. URLs stay as they are, or they would be none."""
    pieces = _URL.split(text)
    pieces[::2] = [_MARKUP.sub(r"\\\1", piece) for piece in pieces[::2]]
    return "".join(pieces)
