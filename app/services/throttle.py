"""Who tries key after key is told to wait. Only strangers are counted: behind a private address stands a balancer, with
everybody behind it."""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from collections.abc import Callable

from attrs import define, field

from domain.errors import RateLimited
from domain.plans import Plan
from domain.rates import MICROSECONDS, Standing, Verdict, take

MOST_STRANGERS = 10_000
"""Addresses that are remembered; one that has not failed for longest is forgotten first."""


def stranger(address: str) -> str | None:
    """A public address; of IPv6 the /64, of which one customer has all addresses (RFC 6177)."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return None
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
        found = found.ipv4_mapped
    if not found.is_global:
        return None
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    return str(ipaddress.IPv6Network((int(found), 64), strict=False))


@define
class Throttle:
    """`per_minute` wrong keys are let through, 0 counts none. `clock` is wall-clock seconds.

    `name_of` gives the name under which an address is counted, None for one that is not.
    """

    per_minute: int
    clock: Callable[[], float]
    name_of: Callable[[str], str | None] = stranger
    _failures: OrderedDict[str, Standing] = field(factory=OrderedDict)

    def check(self, address: str) -> None:
        """Raises RateLimited while the next wrong key would be one too many."""
        name = self._counted(address)
        if name is None or name not in self._failures:
            return
        verdict, _ = self._take(name)
        if verdict.refused:
            raise _too_many(verdict)

    def failed(self, address: str) -> None:
        """Counts a wrong key. Raises RateLimited if others failed while this one was looked up."""
        name = self._counted(address)
        if name is None:
            return
        verdict, there = self._take(name)
        if verdict.refused:
            raise _too_many(verdict)
        self._failures[name] = there
        self._failures.move_to_end(name)
        if len(self._failures) > MOST_STRANGERS:
            self._failures.popitem(last=False)

    def _counted(self, address: str) -> str | None:
        return self.name_of(address) if self.per_minute else None

    def _take(self, name: str) -> tuple[Verdict, Standing]:
        plan = Plan("", self.per_minute, 0, 0, 0)
        now = int(self.clock() * MICROSECONDS)
        return take(plan, self._failures.get(name, Standing()), now)


def _too_many(verdict: Verdict) -> RateLimited:
    return RateLimited(
        "Too many wrong API keys came from this address.", retry_after=verdict.retry_after
    )
