"""Incoming webhooks of chat channels: whose a URL is, and which ones a customer may name.

What the operator names may be anywhere. What a customer types is dialled from inside the operator's network, so it is
held to the hosts of the chat services themselves. Posting is the adapters' matter.
"""

from __future__ import annotations

import hashlib
import re
from urllib.parse import urlsplit

from domain.errors import InvalidRequest
from domain.notices import Undelivered

SLACK, DISCORD, TEAMS, OTHER = "slack", "discord", "teams", "other"

LONGEST_URL = 2_048

# https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks; the second is GovSlack's.
_SLACK = ("hooks.slack.com", "hooks.slack-gov.com")
# https://discord.com/developers/docs/resources/webhook#execute-webhook, with its test clients' names.
_DISCORD = ("discord.com", "discordapp.com", "ptb.discord.com", "canary.discord.com")
# Connectors of Office 365, then workflows:
# https://learn.microsoft.com/en-us/microsoftteams/platform/webhooks-and-connectors/how-to/connectors-using
# https://learn.microsoft.com/en-us/troubleshoot/power-platform/power-automate/flow-run-issues/triggers-troubleshoot
_TEAMS = (".webhook.office.com", ".logic.azure.com", ".api.powerplatform.com")

_HOST = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?")
_SAFE = re.compile(r"[!#-;=?-\[\]^_a-z|~]+")
"""What may stand in a URL (RFC 3986) and means the same to every reader of URLs; a backslash, for one, does not."""
_DISCORD_PATH = re.compile(r"/api(/v[0-9]+)?/webhooks/[0-9]+/[A-Za-z0-9_-]+")


class TooMany(Undelivered):
    """The channel takes no more just now; `wait` is for how many seconds it asks, 0 if it does not say."""

    def __init__(self, reason: str, wait: float) -> None:
        super().__init__(reason)
        self.wait = wait


def digest(url: str) -> str:
    """By which a channel of the operator's is known: its URL is a secret and not kept with what is sent there."""
    return hashlib.sha256(url.encode()).hexdigest()[:12]


def service(url: str) -> str:
    """Whose channel it is, by the URL's host."""
    try:
        host = (urlsplit(url).hostname or "").lower()
    except ValueError:
        return OTHER
    if host in _SLACK:
        return SLACK
    if host in _DISCORD:
        return DISCORD
    return TEAMS if host.endswith(_TEAMS) else OTHER


def check_channel(text: str) -> str:
    """The URL that a customer has typed. Raises InvalidRequest, which never repeats it."""
    url = text.strip()
    if len(url) > LONGEST_URL or _SAFE.fullmatch(url) is None:
        raise _refused("A channel's URL has no spaces and no unusual characters.")
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").lower(), parts.port
    except ValueError:
        raise _refused("This is not a URL.") from None
    if parts.scheme != "https":
        raise _refused("A channel's URL begins with https://.")
    if "@" in parts.netloc or parts.fragment or _HOST.fullmatch(host) is None:
        raise _refused("A channel's URL has a host and a path, and neither a user nor a fragment.")
    if port not in (None, 443):
        raise _refused("A channel's URL names no port of its own.")
    found = service(url)
    if found == OTHER:
        raise _refused("A channel is an incoming webhook of Slack, Discord or Microsoft Teams.")
    if found == DISCORD and _DISCORD_PATH.fullmatch(parts.path) is None:
        raise _refused("A Discord webhook is written https://discord.com/api/webhooks/….")
    if parts.path in ("", "/"):
        raise _refused("This is only the beginning of a channel's URL; copy the whole of it.")
    return url


def _refused(message: str) -> InvalidRequest:
    return InvalidRequest(message, param="channel")
