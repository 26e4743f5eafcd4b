"""Who watches: told once of every finished request, crash and alarm. What stands still until somebody asks, such as
the size of a cache, is not told but read, through callables that give `Reading`s."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from domain.usage import UsageRecord
from domain.value import value


@value
class Stage:
    """A part of a request: `name` is database, cache or provider. Milliseconds since the request began."""

    name: str
    from_ms: float
    to_ms: float


@value
class Reading:
    """One figure as it stands now. Names ending in `_total` only grow while a process lives."""

    name: str
    value: float
    labels: tuple[tuple[str, str], ...] = ()


Readings = Callable[[], Iterable[Reading]]


class Alarm(Exception):
    """Something of ours has stopped working, or never fitted; told as a crash is, though nothing was raised.

    `urgent` means that it stays so until somebody acts, or that something the house leans on is away; the others follow
    from that, or mend themselves.
    """

    def __init__(self, text: str, *, urgent: bool) -> None:
        super().__init__(text)
        self.urgent = urgent


class Observer(Protocol):
    """Told on the road of requests: returns at once, waits for nothing and never raises."""

    def exchange(self, record: UsageRecord, stages: Sequence[Stage] = (), /) -> None:
        """Called once per request of a known caller, when it is over."""

    def crash(self, error: BaseException, where: str, /, **tags: str) -> None:
        """Called for what nobody expected, and for an `Alarm`, once per change. `where` is a fixed text, `tags` say
        whose request it was."""
