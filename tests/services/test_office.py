"""How bills and notices are put together from the settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.billing import open_office
from app.storage import open_storage
from config.secrets import SettingError
from config.settings import read_settings


async def opened(folder: Path, public_url: str, **more: str) -> None:
    settings = read_settings(
        {"WATCHLLM_DATA_DIR": str(folder), "SMTP_URL": "smtp://127.0.0.1:1", **more}
    )
    storage = open_storage(settings)
    try:
        office = open_office(settings, storage, {}, public_url, lambda: 0.0)
        await office.aclose()
    finally:
        await storage.aclose()


@pytest.mark.parametrize(
    "public_url",
    ["http://127.0.0.1:8787", "http://[::1]:8787", "https://[2001:db8::1]", "https://llm.example"],
)
async def test_mails_have_a_sender_by_themselves(tmp_path: Path, public_url: str) -> None:
    """Whatever the address is, at which the service is reached."""
    await opened(tmp_path, public_url)


@pytest.mark.parametrize("given", ["x@", "@example.com", "a b@example.com"])
async def test_a_sender_that_is_none(tmp_path: Path, given: str) -> None:
    """The setting is named."""
    with pytest.raises(SettingError, match=r"^WATCHLLM_MAIL_FROM must be a mail address"):
        await opened(tmp_path, "http://127.0.0.1", WATCHLLM_MAIL_FROM=given)
