"""Whether it is worth asking a server that has just failed. A state machine: no socket, no timer of its own."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Literal

OPENS_AFTER = 5
PROBE_EVERY = 1.0

_log = logging.getLogger(__name__)


class Breaker:
    """Closed lets everything pass; open lets one probe pass each second. `clock` is monotonic seconds."""

    def __init__(self, clock: Callable[[], float], name: str) -> None:
        self.state: Literal["closed", "open"] = "closed"
        self.failures = 0
        self._clock = clock
        self._name = name
        self._opened_at = 0.0
        self._next_probe = 0.0

    def allows(self) -> bool:
        """While open, True is one leave to try; the next comes a second later."""
        if self.state == "closed":
            return True
        now = self._clock()
        if now < self._next_probe:
            return False
        self._next_probe = now + PROBE_EVERY
        return True

    def probe_in(self) -> float:
        """Seconds until an open breaker lets a probe pass."""
        return max(0.0, self._next_probe - self._clock())

    def failed(self, reason: str) -> None:
        self.failures += 1
        if self.failures >= OPENS_AFTER:
            self.trip(reason)

    def trip(self, reason: str) -> None:
        """Opens at once: for failures that a second try cannot mend."""
        if self.state == "open":
            return
        self.state = "open"
        self._opened_at = self._clock()
        self._next_probe = self._opened_at + PROBE_EVERY
        _log.warning(
            "%s is away: %s. Asking again each second.",
            self._name,
            reason,
            extra={"state": "away"},
        )

    def succeeded(self) -> None:
        self.failures = 0
        if self.state == "closed":
            return
        self.state = "closed"
        after = self._clock() - self._opened_at
        _log.info("%s is back after %.1f s.", self._name, after, extra={"state": "back"})
