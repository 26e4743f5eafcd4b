"""Facts as people write them: money, days, shares, and texts of others as one line.

Facts come from events that others wrote. What is not of its type is nothing, and no text steers a terminal, the head of
a mail or a page. Which sentences are made of them is `domain.words`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from urllib.parse import urlsplit

from domain.pricing import PICODOLLARS
from domain.value import value

LONGEST_FACT, LONGEST_URL = 80, 2_000
_YEAR_10000 = 253_402_300_800

_MONTHS = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)
_MONTH = re.compile(r"([0-9]{4})-(0[1-9]|1[0-2])")
_URL = re.compile(r"https?://[^\s<>\"'\\`]+")

# Currencies whose amounts do not come in hundredths. https://docs.stripe.com/currencies#zero-decimal
_WHOLE = re.compile("bif|clp|djf|gnf|jpy|kmf|krw|mga|pyg|rwf|vnd|vuv|xaf|xof|xpf")
_THOUSANDTHS = re.compile("bhd|jod|kwd|omr|tnd")
_SIGNS = {"usd": "$", "eur": "€", "gbp": "£", "jpy": "¥", "inr": "₹", "krw": "₩"}


@value
class Facts:
    """What is known, in words. Each is empty if the fact is missing or is none."""

    facts: Mapping[str, object]
    project: str

    @property
    def of_project(self) -> str:
        return f" for the project {self.project}" if self.project else ""

    @property
    def the_project(self) -> str:
        return f"The project {self.project}" if self.project else "Your project"

    def text(self, name: str) -> str:
        found = self.facts.get(name)
        return clean(found, LONGEST_FACT) if isinstance(found, str) else ""

    def plan(self, name: str = "plan") -> str:
        found = self.text(name)
        return f"{found} plan" if found else ""

    def number(self, name: str) -> int | None:
        found = self.facts.get(name)
        if isinstance(found, bool) or not isinstance(found, int) or abs(found) >= 10**30:
            return None
        return found

    def count(self, name: str) -> str:
        found = self.number(name)
        return "" if found is None else f"{found:,}"

    def day(self, name: str, before: float = 0) -> str:
        """The day at that time or, where it is an end, that many seconds before."""
        found = self.facts.get(name)
        if isinstance(found, bool) or not isinstance(found, int | float):
            return ""
        return day(found - before) if before <= found < _YEAR_10000 else ""

    def month(self, name: str) -> str:
        found = _MONTH.fullmatch(self.text(name))
        return f"{_MONTHS[int(found[2]) - 1]} {found[1]}" if found else ""

    def bill(self) -> str:
        """What is to be paid, "of" ahead."""
        amount = self.number("amount")
        written = "" if amount is None else money(amount, self.text("currency"))
        return f" of {written}" if written else ""

    def dollars(self, name: str) -> str:
        found = self.number(name)
        return "" if found is None else dollars(found)

    def share(self, part: str, whole: str) -> str:
        """A percentage, rounded down: nothing is full before it is."""
        some, most = self.number(part), self.number(whole)
        return "" if some is None or not most or most < 0 else f"{some * 100 // most} %"


def day(at: float) -> str:
    """In UTC, and in English wherever it runs."""
    found = datetime.fromtimestamp(at, UTC)
    return f"{found.day} {_MONTHS[found.month - 1]} {found.year}"


def money(amount: int, currency: str) -> str:
    """An amount in the currency's smallest unit, as its people write it; empty if it is in no currency."""
    code = currency.lower()
    if not re.fullmatch("[a-z]{3}", code):
        return ""
    digits = 0 if _WHOLE.fullmatch(code) else 3 if _THOUSANDTHS.fullmatch(code) else 2
    whole, rest = divmod(abs(amount), 10**digits)
    number = f"{whole:,}.{rest:0{digits}}" if digits else f"{whole:,}"
    minus = "-" if amount < 0 else ""
    sign = _SIGNS.get(code)
    return f"{minus}{sign}{number}" if sign else f"{minus}{number} {code.upper()}"


def dollars(picodollars: int) -> str:
    """To the nearest cent; what is less than one is not nothing."""
    cents = (abs(picodollars) * 100 + PICODOLLARS // 2) // PICODOLLARS
    if picodollars > 0 and not cents:
        return "less than $0.01"
    return money(-cents if picodollars < 0 else cents, "usd")


def clean(text: str, longest: int) -> str:
    """One line that shows what it says: nothing invisible, nothing that turns the direction of writing."""
    shown = "".join(one for one in " ".join(text.split()) if one.isprintable())
    return cut(" ".join(shown.split()), longest)


def cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: longest - 1].rstrip() + "…"


def url_of(found: object) -> str:
    if not isinstance(found, str) or not found.isascii() or len(found) > LONGEST_URL:
        return ""
    return found if found.isprintable() and _URL.fullmatch(found) else ""


def secure_url(found: object) -> str:
    """Empty for one that names a user, too: that is how a URL looks like another host's."""
    url = url_of(found)
    if not url.startswith("https://"):
        return ""
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    return url if parts.hostname and "@" not in parts.netloc else ""
