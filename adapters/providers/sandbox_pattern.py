"""A text that a regular expression accepts, written without ever running the expression.

Customers' patterns may be built to run forever, so they are read once, left to right, and each part is
written out with as few repeats as it allows. What is beyond that (look-around, back references) has no example.
"""

from __future__ import annotations

MAX_LENGTH = 4_000
"""Of a pattern, and of its example."""

MAX_NESTING = 30

CLASSES = {
    "d": "0",
    "w": "a",
    "s": " ",
    "D": "a",
    "W": "-",
    "S": "a",
    "t": "\t",
    "n": "\n",
    "r": "\r",
}

WORDS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_"

MEMBERS = {"d": "0123456789", "w": WORDS, "s": " \t\n\r", "t": "\t", "n": "\n", "r": "\r"}

CANDIDATES = WORDS[:62] + " -_.,:;!?@#$%&*()[]{}<>/\\|+=~^'\"`"


class _Beyond(Exception):
    """The pattern uses what is not read here."""


def example(pattern: str, least: int = 0) -> str | None:
    """None when the pattern is beyond us. Open repeats (`+`, `*`, `{2,}`) stretch to reach `least` characters."""
    if len(pattern) > MAX_LENGTH:
        return None
    try:
        found = _Reader(pattern, 0).whole()
        if len(found) < least <= MAX_LENGTH:
            found = _Reader(pattern, least - len(found)).whole()
    except (_Beyond, IndexError, ValueError, OverflowError):
        return None
    return found


class _Reader:
    """Reads a pattern once; the place is its only state, and what is still missing to a wished length."""

    def __init__(self, pattern: str, missing: int) -> None:
        self._pattern = pattern
        self._place = 0
        self._missing = missing

    def whole(self) -> str:
        found = self._either(0)
        if self._place != len(self._pattern):
            raise _Beyond
        return found

    def _either(self, depth: int) -> str:
        """The first of several choices; the others are read and dropped."""
        if depth > MAX_NESTING:
            raise _Beyond
        found = self._row(depth)
        missing = self._missing
        while self._peek() == "|":
            self._place += 1
            self._row(depth)
        self._missing = missing
        return found

    def _row(self, depth: int) -> str:
        found: list[str] = []
        size = 0
        while self._peek() not in ("", "|", ")"):
            part = self._repeated(self._part(depth))
            size += len(part)
            if size > MAX_LENGTH:
                raise _Beyond
            found.append(part)
        return "".join(found)

    def _peek(self) -> str:
        return self._pattern[self._place : self._place + 1]

    def _next(self) -> str:
        letter = self._pattern[self._place]
        self._place += 1
        return letter

    def _part(self, depth: int) -> str:
        letter = self._next()
        if letter == "(":
            return self._group(depth)
        if letter == "[":
            return self._class()
        if letter == "\\":
            return self._escape()
        if letter in "^$":
            return ""
        if letter == ".":
            return "a"
        if letter in "*+?":
            raise _Beyond
        return letter

    def _group(self, depth: int) -> str:
        if self._peek() == "?":
            self._place += 1
            kind = self._next()
            if kind in "P<":
                name = self._pattern.index(">", self._place)
                if self._pattern[self._place] in "=!":
                    raise _Beyond
                self._place = name + 1
            elif kind != ":":
                raise _Beyond
        found = self._either(depth + 1)
        if self._next() != ")":
            raise _Beyond
        return found

    def _escape(self) -> str:
        letter = self._next()
        if letter in CLASSES:
            return CLASSES[letter]
        if letter in "AZzbB":
            return ""
        if letter in "xu":
            return self._code(letter)
        if letter.isalnum():
            raise _Beyond
        return letter

    def _code(self, letter: str) -> str:
        size = 2 if letter == "x" else 4
        digits = self._pattern[self._place : self._place + size]
        self._place += size
        code = int(digits, 16)
        if 0xD800 <= code <= 0xDFFF:
            raise _Beyond
        return chr(code)

    def _class(self) -> str:
        """One letter of `[...]`."""
        negative = self._peek() == "^"
        if negative:
            self._place += 1
        members: list[str] = []
        first = True
        while first or self._peek() != "]":
            first = False
            members.append(self._member())
        self._place += 1
        if not negative:
            return members[0][0]
        barred = "".join(members)
        for letter in CANDIDATES:
            if letter not in barred:
                return letter
        raise _Beyond

    def _member(self) -> str:
        """A letter, a range or a class inside brackets, as the letters it stands for (a range may be cut)."""
        letter = self._next()
        if letter == "\\":
            escaped = self._next()
            if escaped in MEMBERS:
                return MEMBERS[escaped]
            if escaped in "DWS":
                return CLASSES[escaped]
            letter = self._code(escaped) if escaped in "xu" else escaped
        if self._peek() != "-" or self._pattern[self._place + 1] == "]":
            return letter
        self._place += 1
        last = self._next()
        if last == "\\":
            escaped = self._next()
            last = self._code(escaped) if escaped in "xu" else escaped
        size = ord(last) - ord(letter) + 1
        if size < 1:
            raise _Beyond
        return "".join(chr(ord(letter) + place) for place in range(min(size, 256)))

    def _repeated(self, part: str) -> str:
        least, most = self._count()
        if self._peek() in ("?", "+") and (least, most) != (1, 1):
            self._place += 1
        times = least
        if part and self._missing > 0 and most > least:
            more = min(most - least, -(-self._missing // len(part)))
            times += more
            self._missing -= more * len(part)
        if times * len(part) > MAX_LENGTH:
            raise _Beyond
        return part * times

    def _count(self) -> tuple[int, int]:
        letter = self._peek()
        if letter == "*":
            self._place += 1
            return 0, MAX_LENGTH
        if letter == "+":
            self._place += 1
            return 1, MAX_LENGTH
        if letter == "?":
            self._place += 1
            return 0, 1
        if letter != "{":
            return 1, 1
        end = self._pattern.find("}", self._place)
        inside = self._pattern[self._place + 1 : end] if end > 0 else ""
        least, comma, most = inside.partition(",")
        if not least.isdecimal() or (most and not most.isdecimal()):
            raise _Beyond
        self._place = end + 1
        return int(least), int(most) if most else MAX_LENGTH if comma else int(least)
