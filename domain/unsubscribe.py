"""The token in a mail's unsubscribe link: it names a project and cannot be made by who has none. It never ends, since
mails are kept for years, and all it is good for is to get no more of them."""

from __future__ import annotations

import base64
import binascii
import hmac

_TAG_BYTES = 16


def token(key: bytes, project: str) -> str:
    """Fit for a URL. `key` is for this purpose alone."""
    named = project.encode()
    return base64.urlsafe_b64encode(_tag(key, named) + named).decode().rstrip("=")


def read_token(key: bytes, text: str) -> str | None:
    """The project's id; None for what `token` never gave with this key."""
    try:
        whole = base64.b64decode(
            text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True
        )
        tag, named = whole[:_TAG_BYTES], whole[_TAG_BYTES:]
        project = named.decode()
    except (binascii.Error, ValueError):
        return None
    return project if project and hmac.compare_digest(tag, _tag(key, named)) else None


def _tag(key: bytes, project: bytes) -> bytes:
    return hmac.digest(key, project, "sha256")[:_TAG_BYTES]
