"""The one way to Stripe: its SDK's requests over an aiohttp session of our own.

The SDK's own aiohttp client follows redirects with the key in hand, reads answers of any size, and lets errors of the
reading through as they are. Here only the headers that a request needs leave, and only those that an answer is judged by
come in.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import aiohttp
import stripe
from yarl import URL

_LARGEST = 1 << 20
_SENT = ("Authorization", "Content-Type", "Idempotency-Key", "Stripe-Version", "User-Agent")
_HEARD = ("Request-Id", "Retry-After", "Stripe-Should-Retry")


class Transport(stripe.HTTPClient):
    """`patience` is what one attempt may take, in seconds. Raises `stripe.APIConnectionError` and nothing else."""

    name = "aiohttp"

    def __init__(self, patience: float) -> None:
        super().__init__()
        self._patience = aiohttp.ClientTimeout(total=patience, sock_connect=patience / 2)
        self._session: aiohttp.ClientSession | None = None

    async def request_async(
        self, method: str, url: str, headers: Mapping[str, str], post_data: Any = None
    ) -> tuple[bytes, int, Mapping[str, str]]:
        sent = {name: headers[name] for name in _SENT if name in headers}
        try:
            async with self._open().request(
                method, URL(url, encoded=True), data=post_data, headers=sent, allow_redirects=False
            ) as answer:
                body = await _whole(answer.content)
                heard = {n.lower(): answer.headers[n] for n in _HEARD if n in answer.headers}
                return body, answer.status, heard
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as exc:
            raise stripe.APIConnectionError(  # type: ignore[no-untyped-call]
                f"no answer from Stripe: {type(exc).__name__}", should_retry=True
            ) from exc

    def sleep_async(self, secs: float) -> Any:
        return asyncio.sleep(secs)

    async def close_async(self) -> None:
        if self._session is not None:
            await self._session.close()

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                timeout=self._patience, trust_env=False, cookie_jar=aiohttp.DummyCookieJar()
            )
        return self._session


async def _whole(content: aiohttp.StreamReader) -> bytes:
    """Raises ValueError for what has no end."""
    pieces = bytearray()
    async for piece in content.iter_any():
        pieces += piece
        if len(pieces) > _LARGEST:
            raise ValueError("an answer without an end")
    return bytes(pieces)
