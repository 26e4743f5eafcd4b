"""Who is asking: a bearer key becomes a grant, or a 401 that looks the same for every wrong key."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from attrs import define, field

from app.services.throttle import Throttle
from domain import apikey
from domain.errors import InvalidKey, Unavailable
from domain.project import Grant
from ports.storage import Keys, KnownGrants

WRITTEN_EVERY = 60.0


@define
class Uses:
    """When each key was last used, kept here until it is written: no request waits for that."""

    keys: Keys
    clock: Callable[[], float]
    _unwritten: dict[str, float] = field(factory=dict)

    def note(self, key: str) -> None:
        self._unwritten[key] = self.clock()

    async def keep_writing(self) -> None:
        """Runs for ever."""
        while True:
            await asyncio.sleep(WRITTEN_EVERY)
            await self.write()

    async def write(self) -> None:
        """What cannot be written now is written the next time."""
        uses, self._unwritten = self._unwritten, {}
        if not uses:
            return
        try:
            await self.keys.note_used(uses)
        except Unavailable:
            self._unwritten = {**uses, **self._unwritten}


@define
class Admission:
    """`pepper` is the secret under which keys are digested; the key itself goes no further than here."""

    grants: KnownGrants
    pepper: bytes
    uses: Uses
    throttle: Throttle

    def known(self, bearer: str) -> Grant | None:
        """The grant if this process can tell without waiting."""
        key = apikey.parse(bearer)
        if key is None:
            return None
        grant = self.grants.peek(self._digest(key))
        if grant is not None:
            self.uses.note(grant.key)
        return grant

    async def admit(self, bearer: str, address: str) -> Grant:
        """Raises InvalidKey, RateLimited for an address that had too many of those, or Unavailable while nobody can tell."""
        key = apikey.parse(bearer)
        digest = None if key is None else self._digest(key)
        # A good key is never made to wait for the wrong ones of its neighbours.
        if digest is None or not self.grants.vouched(digest):
            self.throttle.check(address)
        grant = None if digest is None else await self.grants.grant(digest)
        if grant is None:
            self.throttle.failed(address)
            if not bearer:
                raise InvalidKey(
                    "You didn't provide an API key: send it as 'Authorization: Bearer lgw_...'."
                )
            raise InvalidKey
        self.uses.note(grant.key)
        return grant

    def digest(self, bearer: str) -> bytes:
        """Of an admitted key."""
        key = apikey.parse(bearer)
        assert key is not None
        return self._digest(key)

    def _digest(self, key: str) -> bytes:
        return apikey.digest(self.pepper, key)
