"""What must not leave: keys, credentials, and any text that may hold a caller's words.

Pure functions over texts and over an event of Sentry's, whose form is its developer documentation's ("Event Payloads").
"""

from __future__ import annotations

import re
from typing import Any, Final

from ports.telemetry import Alarm

CUT: Final = "<secret>"
WITHHELD: Final = "<withheld>"
CAP: Final = 1024
DEPTH: Final = 20

_KEYS: Final = re.compile(
    r"(lgw_(?:proj(?:ect)?|test)_|\b(?:sk|rk|gsk|whsec)[-_])[0-9A-Za-z_-]{8,}"
    r"|((?i:bearer|basic)\s+)[0-9A-Za-z._~+/=-]{8,}"
    r"|(://[^\s/:@]*:)[^\s@]+(?=@)"
)
_NAMES: Final = re.compile(
    r"authorization|cookie|password|passwd|secret|credential|token$|dsn$|api[-_]?key",
    re.IGNORECASE,
)
_NEVER: Final = ("breadcrumbs", "extra", "server_name", "user", "modules")


def scrubbed(text: str) -> str:
    """Without anything that looks like a key, and no longer than a field may be."""
    if len(text) > 64 * CAP:
        text = text[: 64 * CAP]
    text = _KEYS.sub(lambda found: next(filter(None, found.groups()), "") + CUT, text)
    return text if len(text) <= CAP else text[: CAP - 3] + "..."


def said(error: BaseException) -> str:
    """What may be told of an exception besides its type: the system's own words and those of our log, nobody else's.

    A message quotes what was wrong, and what was wrong may be a prompt.
    """
    if isinstance(error, Alarm):
        return scrubbed(str(error))
    if isinstance(error, OSError) and error.strerror:
        return scrubbed(error.strerror)
    return WITHHELD


def scrubbed_event(event: dict[str, Any], error: BaseException | None = None) -> dict[str, Any]:
    """`error` is the exception the event was made of, if it is known."""
    kept = {name: found for name, found in event.items() if name not in _NEVER}
    if "request" in kept:
        kept["request"] = _request(kept["request"])
    if "logentry" in kept:
        kept["logentry"] = {"message": _template(kept["logentry"])}
    for one in _exceptions(kept):
        one["value"] = WITHHELD
    last = _exceptions(kept)[-1:]
    if error is not None and last:
        last[0]["value"] = said(error)
    return dict(_clean(kept, 0))


def _exceptions(event: dict[str, Any]) -> list[dict[str, Any]]:
    found = (event.get("exception") or {}).get("values") or []
    return [one for one in found if isinstance(one, dict)]


def _request(request: Any) -> dict[str, str]:
    """Neither body nor headers, cookies or query."""
    if not isinstance(request, dict):
        return {}
    kept = {"method": str(request.get("method", ""))}
    if url := str(request.get("url", "")):
        kept["url"] = re.split(r"[?#]", url)[0]
    return kept


def _template(entry: Any) -> str:
    return str(entry.get("message", "")) if isinstance(entry, dict) else ""


def _clean(found: Any, depth: int) -> Any:
    if isinstance(found, str):
        return scrubbed(found)
    if depth > DEPTH:
        return WITHHELD
    if isinstance(found, dict):
        return {
            name: CUT if _secret(name, inside) else _clean(inside, depth + 1)
            for name, inside in found.items()
            if name != "vars"
        }
    if isinstance(found, list | tuple):
        return [_clean(one, depth + 1) for one in found]
    if isinstance(found, bytes | bytearray):
        return WITHHELD
    return found


def _secret(name: object, inside: object) -> bool:
    return isinstance(name, str) and isinstance(inside, str) and bool(_NAMES.search(name))
