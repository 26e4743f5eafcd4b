"""Whether a webhook's body was signed by Stripe, just now.

The scheme is https://docs.stripe.com/webhooks#verify-manually. It is worked out here and not by the SDK's
`WebhookSignature`, which takes bodies for text, lets dates of the future pass and breaks on letters beyond ASCII.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Sequence
from hashlib import sha256

TOLERANCE = 300.0
"""Seconds that a signature may be old, or our clock late."""

_LONGEST = 4096
_ELEMENTS = 32
_SIGNATURES = 8
_MOMENT = re.compile(r"[0-9]{1,12}")
_SIGNATURE = re.compile(r"[0-9a-f]{64}")


def verify(payload: bytes, header: str, secrets: Sequence[str], now: float) -> None:
    """Any signature made with any of the secrets will do: there are two of each while a secret is replaced.

    Raises ValueError.
    """
    at, signatures = _parts(header)
    if abs(now - int(at)) > TOLERANCE:
        raise ValueError("its signature is not of now")
    signed = at.encode() + b"." + payload
    genuine = False
    for secret in secrets:
        expected = hmac.new(secret.encode(), signed, sha256).hexdigest()
        for signature in signatures:
            genuine |= hmac.compare_digest(expected, signature)
    if not genuine:
        raise ValueError("no signature of it is genuine")


def _parts(header: str) -> tuple[str, list[str]]:
    """When it was signed, and its signatures of the scheme `v1`; `v0` is of tests only, and proves nothing."""
    elements = header.split(",", _ELEMENTS) if len(header) <= _LONGEST else []
    pairs = [element.strip().partition("=")[::2] for element in elements]
    moments = [content for name, content in pairs if name == "t"]
    signatures = [content for name, content in pairs if name == "v1"]
    if len(elements) > _ELEMENTS or len(moments) != 1 or not _MOMENT.fullmatch(moments[0]):
        raise ValueError("its signature header cannot be read")
    return moments[0], [one for one in signatures[:_SIGNATURES] if _SIGNATURE.fullmatch(one)]
