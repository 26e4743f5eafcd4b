"""What one promise's test has seen: figures, and what was wrong. Nothing here knows a server."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from random import Random
from typing import TypeVar

from attrs import define, field

T = TypeVar("T")


@define
class Trial:
    """`full` is the scale that the promise is written in; short is the same in small."""

    name: str
    seed: int
    full: bool = False
    figures: list[str] = field(factory=list)
    wrong: list[str] = field(factory=list)
    pending: str = ""
    """Why it could not be judged, if so."""

    def chance(self, about: object = "") -> Random:
        """The same for the same seed, whatever else was drawn before."""
        return Random(f"{self.seed}/{self.name}/{about}")

    def scale(self, short: T, full: T) -> T:
        return full if self.full else short

    def tell(self, figure: str) -> None:
        self.figures.append(figure)

    def must(self, true: bool, wrong: str) -> None:
        if not true:
            self.wrong.append(wrong)

    def none(self, found: Sequence[object], what: str) -> None:
        """Told in any case, and wrong if there is any."""
        self.tell(f"{len(found)} {what}")
        self.must(not found, f"{len(found)} {what}, such as {list(found)[:2]}")

    @contextmanager
    def control(self, without: str, sign: str) -> Iterator[Trial]:
        """A guard is taken away: the same checks must find something wrong, or they prove nothing.

        `sign` is a word of what they must say.
        """
        broken = Trial(self.name, self.seed)
        yield broken
        noticed = [wrong for wrong in broken.wrong if sign in wrong]
        self.must(bool(noticed), f"nobody noticed that there was no {without}: {broken.figures}")
        if noticed:
            self.tell(f"[without {without}: {noticed[0].partition(', such as')[0]}]")


def percentile(found: Sequence[float], share: float) -> float:
    ordered = sorted(found)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0


def ms(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms"
