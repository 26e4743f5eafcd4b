"""Reports of the ledger: which hours they span, where a page goes on, and how they look as JSON and as CSV.

Reading the ledger is the adapters' matter, when to is the use cases'.
"""

from __future__ import annotations

import base64
import binascii
import csv
import io
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import orjson

from domain import durations
from domain.errors import InvalidRequest
from domain.pricing import dollars
from domain.usage import UsageRecord, UsageSums, UsageTotal
from domain.value import value

HOUR, DAY = 3_600, 86_400
WIDTHS = {"hour": HOUR, "day": DAY}
DEFAULT_SINCE = "24h"

COLUMNS = (
    "day",
    "provider",
    "model",
    "requests",
    "hits",
    "prompt_tokens",
    "completion_tokens",
    "cost_usd",
    "saved_usd",
    "unpriced",
)

Document = dict[str, Any]


@value
class Span:
    """Whole hours, epoch seconds: `since` inclusive, `until` exclusive."""

    since: int
    until: int


@value
class Place:
    """After which total a page begins; the very first one is after no total at all."""

    start: int = -1
    provider: str = ""
    model: str = ""


START = Place()


def span(since: float, until: float) -> Span:
    """The smallest whole hours around it: sums are kept by the hour."""
    first = max(0, int(since // HOUR)) * HOUR
    return Span(first, max(-int(-until // HOUR) * HOUR, first + HOUR))


def read_span(since: str | None, until: str | None, now: float) -> Span:
    """Each a duration before `now`, a day or a moment (ISO 8601). Raises InvalidRequest."""
    first = _moment("since", DEFAULT_SINCE if since is None else since, now)
    # Nothing is written of the future, but for what another machine's clock makes of it.
    last = now if until is None else min(_moment("until", until, now), now + DAY)
    if first >= last:
        raise InvalidRequest("'since' must be in the past, and before 'until'.", param="since")
    return span(first, last)


def _moment(name: str, text: str, now: float) -> float:
    try:
        return now - durations.seconds(text)
    except ValueError:
        pass
    try:
        # Without a zone it is UTC, as the report's own days are.
        said = datetime.fromisoformat(text)
        return (said if said.tzinfo else said.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError) as exc:
        raise InvalidRequest(
            f"'{name}' must be a duration (24h, 30d), a day (2026-11-30) or a moment"
            " (2026-11-30T12:00:00Z).",
            param=name,
        ) from exc


def cursor(total: UsageTotal) -> str:
    """Opaque to those who page, and fit for a URL."""
    place = orjson.dumps([total.start, total.provider, total.model])
    return base64.urlsafe_b64encode(place).decode().rstrip("=")


def read_cursor(text: str) -> Place:
    """Raises InvalidRequest for what `cursor` never wrote."""
    try:
        found = orjson.loads(base64.urlsafe_b64decode(text.encode() + b"=" * (-len(text) % 4)))
    except (binascii.Error, ValueError) as exc:
        raise _not_a_cursor() from exc
    match found:
        case [int(start), str(provider), str(model)] if 0 <= start < 1 << 40:
            return Place(start, provider, model)
    raise _not_a_cursor()


def _not_a_cursor() -> InvalidRequest:
    return InvalidRequest("'after' must be the 'next' of an earlier page.", param="after")


# --- JSON -----------------------------------------------------------------------------------------


def report(
    project: str, spanned: Span, rows: Sequence[UsageTotal], total: UsageSums, by: str = "day"
) -> Document:
    return {
        "project": project,
        "since": moment(spanned.since),
        "until": moment(spanned.until),
        "rows": [row(one, by) for one in rows],
        "total": sums(total),
    }


def row(total: UsageTotal, by: str = "day") -> Document:
    start = moment(total.start)
    named = {"day": start[:10]} if by == "day" else {"hour": start}
    return {**named, "provider": total.provider, "model": total.model, **sums(total.sums)}


def sums(of: UsageSums) -> Document:
    """Money is what is known of it, a plain decimal; `unpriced` says how many requests are not in it."""
    return {
        "requests": of.requests,
        "hits": of.hits,
        "prompt_tokens": of.prompt_tokens,
        "completion_tokens": of.completion_tokens,
        "cost_usd": dollars(of.cost),
        "saved_usd": dollars(of.avoided),
        "unpriced": of.unpriced,
    }


def request(record: UsageRecord) -> Document:
    """One row of the ledger. Money is null where no price is known."""
    usage = record.usage
    return {
        "id": record.id,
        "project": record.project,
        "key": record.key,
        "kind": record.kind,
        "at": moment(record.at, "milliseconds"),
        "endpoint": record.endpoint,
        "model_asked": record.model_asked,
        "model_answered": record.model_answered,
        "provider": record.provider,
        "streamed": record.streamed,
        "outcome": record.outcome,
        "status": record.status,
        "cache_reason": record.cache_reason,
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.completion,
        "tokens": {
            "input": usage.input,
            "cache_read": usage.cache_read,
            "cache_write": usage.cache_write,
            "cache_write_1h": usage.cache_write_1h,
            "audio_input": usage.audio_input,
            "output": usage.output,
            "audio_output": usage.audio_output,
            "reasoning": usage.reasoning,
        },
        "estimated": usage.estimated,
        "cost_usd": None if record.cost is None else dollars(record.cost),
        "saved_usd": None if record.avoided is None else dollars(record.avoided),
        "price_version": record.price_version,
        "first_byte_ms": record.first_byte_ms,
        "total_ms": record.total_ms,
    }


def moment(at: float, precision: str = "seconds") -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec=precision).replace("+00:00", "Z")


# --- CSV and plain text ---------------------------------------------------------------------------

# A cell that a spreadsheet would take for a formula, also after a separator of another locale: what is written with
# commas may be read with semicolons. https://owasp.org/www-community/attacks/CSV_Injection
_FORMULA = re.compile(r"(^|[,;|])([\s\"']*)(?=[=+\-@＝＋－＠])")


def csv_text(rows: Sequence[UsageTotal]) -> str:
    """A line of names and one for each total, as RFC 4180 has them but for the line ends."""
    written = io.StringIO()
    table = csv.writer(written, lineterminator="\n")
    table.writerow(COLUMNS)
    for one in rows:
        found = row(one)
        table.writerow([cell(str(found[name])) for name in COLUMNS])
    return written.getvalue()


def cell(text: str) -> str:
    """A model's name may come from anybody: an apostrophe before what looks like a formula makes it text."""
    return _FORMULA.sub(r"\1'\2", printable(text))


def printable(text: str) -> str:
    """Without what would steer a terminal or begin a new line."""
    return "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in text)
