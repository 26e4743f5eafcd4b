"""What an operator has to hear of: said once when it begins and once when it is over, never once per request.

Redis and PostgreSQL tell of themselves where they are asked; here is what only many requests together can say.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from attrs import define, field

from ports.telemetry import Reading

log = logging.getLogger(__name__)

IN_A_ROW = 5
"""Failures without a good answer in between, after which a provider is said to fail."""
QUIET = 5.0
"""Seconds without bad news before good news counts: answers that were under way must not make it flap."""


def _nobody(_provider: str, _refused: bool) -> None:
    return None


@define
class Trouble:
    """Whether something is wrong, from news of it. `limit` pieces of bad news in a row begin it."""

    limit: int
    present: bool = False
    since: float = 0.0
    _bad: int = 0
    _last: float = 0.0

    def heard(self, wrong: bool, now: float) -> bool:
        """Whether this changed it."""
        if not wrong:
            return self._good(now)
        self._bad += 1
        self._last = now
        if self.present or self._bad < self.limit:
            return False
        self.present, self.since = True, now
        return True

    def _good(self, now: float) -> bool:
        self._bad = 0
        if not self.present or now - self._last < QUIET:
            return False
        self.present = False
        return True


@define
class Alarms:
    """`on_provider_key` hears of each change too, in the process where it was noticed: it must return at once."""

    monotonic: Callable[[], float]
    on_provider_key: Callable[[str, bool], None] = _nobody
    _keys: dict[str, Trouble] = field(factory=dict)
    _failing: dict[str, Trouble] = field(factory=dict)

    def provider_key(self, provider: str, refused: bool, status: int = 0) -> None:
        """A provider has refused our key or account, which only the operator can mend, or has taken it."""
        key = self._keys.setdefault(provider, Trouble(1))
        now = self.monotonic()
        if not key.heard(refused, now):
            return
        if refused:
            log.error("a provider refused our key", extra={"provider": provider, "status": status})
        else:
            after = round(now - key.since, 1)
            log.info(
                "a provider takes our key again", extra={"provider": provider, "after": after}
            )
        self.on_provider_key(provider, refused)

    def provider(self, provider: str, answered: bool) -> None:
        """A provider has answered, or has failed in a way that says nothing of the request."""
        calls = self._failing.setdefault(provider, Trouble(IN_A_ROW))
        now = self.monotonic()
        if not calls.heard(not answered, now):
            return
        if answered:
            after = round(now - calls.since, 1)
            log.info(
                "a provider answers again",
                extra={"provider": provider, "after": after, "state": "back"},
            )
        else:
            log.warning(
                "a provider fails",
                extra={"provider": provider, "in_a_row": IN_A_ROW, "state": "away"},
            )

    def readings(self) -> Iterable[Reading]:
        for name, found in (
            ("watchllm_provider_key_refused", self._keys),
            ("watchllm_provider_failing", self._failing),
        ):
            for provider, trouble in found.items():
                yield Reading(name, trouble.present, (("provider", provider),))
