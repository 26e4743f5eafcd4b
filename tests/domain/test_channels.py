"""Which channels a customer may name, and whose a URL is."""

from __future__ import annotations

import pytest

from domain.channels import DISCORD, OTHER, SLACK, TEAMS, check_channel, digest, service
from domain.errors import InvalidRequest

SLACK_URL = "https://hooks.slack.com/services/T00/B00/XXXX"
DISCORD_URL = "https://discord.com/api/webhooks/123/abc_DEF-1"
WORKFLOW = (
    "https://prod-1.westeurope.logic.azure.com:443/workflows/0a/triggers/manual/paths/invoke"
    "?api-version=2016-06-01&sp=%2Ftriggers%2Fmanual%2Frun&sv=1.0&sig=a_B-c"
)


@pytest.mark.parametrize(
    ("url", "whose"),
    [
        (SLACK_URL, SLACK),
        ("https://HOOKS.slack.com/services/T00/B00/XXXX", SLACK),
        ("https://hooks.slack-gov.com/services/T00/B00/XXXX", SLACK),
        (DISCORD_URL, DISCORD),
        ("https://discordapp.com/api/webhooks/123/abc", DISCORD),
        ("https://canary.discord.com/api/v10/webhooks/123/abc?thread_id=5", DISCORD),
        ("https://contoso.webhook.office.com/webhookb2/a@b/IncomingWebhook/c/d", TEAMS),
        (WORKFLOW, TEAMS),
        ("https://0a.09.environment.api.powerplatform.com:443/powerautomate/x?sig=y", TEAMS),
    ],
)
def test_chat_services(url, whose):
    """What they hand out to be pasted is taken as it is, without spaces around it."""
    assert url == check_channel(f" {url}\n")
    assert whose == service(url)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "hooks.slack.com/services/T00",
        "http://hooks.slack.com/services/T00",
        "ftp://hooks.slack.com/services/T00",
        "https://hooks.slack.com",
        "https://hooks.slack.com/",
        "https://hooks.slack.com:8443/services/T00",
        "https://hooks.slack.com:0/services/T00",
        "https://hooks.slack.com:99999/services/T00",
        "https://user@hooks.slack.com/services/T00",
        "https://hooks.slack.com@127.0.0.1/services/T00",
        "https://127.0.0.1\\@hooks.slack.com/services/T00",
        "https://127.0.0.1#@hooks.slack.com/services/T00",
        "https://hooks.slack.com/services/T00#x",
        "https://hooks.slack.com./services/T00",
        "https://hooks.slack.com.evil.test/services/T00",
        "https://evil-hooks.slack.com/services/T00",
        "https://hooks.slack.com%2f.evil.test/services/T00",
        "https://hooks。slack。com/services/T00",
        "https://ｈooks.slack.com/services/T00",
        "https://hooks.slack.com/services/T00\r\nX: y",
        "https://hooks.slack.com/serv ices/T00",
        "https://hooks.slack.com/services/\x00",
        "https://webhook.office.com/x",
        "https://.logic.azure.com/x",
        "https://evil.test/.logic.azure.com",
        "https://discord.com/api/users/@me",
        "https://discord.com/api/webhooks/123/abc/slack",
        "https://discord.com/api/webhooks/123/../../users",
        "https://127.0.0.1/services/T00",
        "https://2130706433/services/T00",
        "https://[::1]/services/T00",
        "https://[::ffff:127.0.0.1]/services/T00",
        "https://[hooks.slack.com]/services/T00",
        "https://[hooks.slack.com/services/T00",
        "https://localhost/services/T00",
        "https://metadata.google.internal/computeMetadata",
        "https://hooks.slack.com/" + "x" * 2_048,
    ],
)
def test_nothing_else(url):
    """A customer's URL is dialled from inside the operator's network. The refusal says why and never repeats it."""
    with pytest.raises(InvalidRequest) as caught:
        check_channel(url)

    assert "channel" == caught.value.param
    assert not url or url not in caught.value.message


def test_others_are_others():
    """For the operator, whose URLs may be anything."""
    for url in ("http://10.0.0.1:9/x", "http://[::1", "https://chat.corp.test/hooks/1", "x"):
        assert OTHER == service(url)


def test_a_digest_is_short_and_its_own():
    """It stands for a URL where the URL must not be."""
    first, other = digest(SLACK_URL), digest(DISCORD_URL)

    assert first == digest(SLACK_URL)
    assert first != other
    assert 12 == len(first)
