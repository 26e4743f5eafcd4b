"""A stream ends with its key: revoked, expired or at the end of a rotation's grace, within a second and not with its last
word."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Protocol

from attrs import define

from domain.errors import ApiError, InvalidKey, Unavailable
from domain.project import Grant
from ports.storage import KnownGrants

EVERY = 0.5
AT_ONCE = 5
"""Keys that are asked for at the same time; requests need the database's connections, too."""


class Stream(Protocol):
    """A streamed answer under way."""

    @property
    def grant(self) -> Grant: ...

    @property
    def digest(self) -> bytes:
        """Of its key."""

    def end(self, error: InvalidKey, /) -> None:
        """Tells its caller and stops what is made for it."""


@define
class Watching:
    """`streams` gives those under way. `clock` is wall-clock seconds.

    A key that memory vouches for costs a look into it; one in doubt, as all are after any change, is asked for again.
    While the database is away nobody can tell, and streams go on.
    """

    grants: KnownGrants
    streams: Callable[[], Iterable[Stream]]
    clock: Callable[[], float]

    async def watch(self) -> None:
        """Runs for ever."""
        while True:
            await self.look()
            await asyncio.sleep(EVERY)

    async def look(self) -> None:
        now = self.clock()
        doubted: dict[bytes, list[Stream]] = {}
        for stream in list(self.streams()):
            if stream.grant.ends_at is not None and now >= stream.grant.ends_at:
                stream.end(InvalidKey())
            elif self.grants.peek(stream.digest) is None:
                doubted.setdefault(stream.digest, []).append(stream)
        digests = list(doubted)
        for start in range(0, len(digests), AT_ONCE):
            asked = digests[start : start + AT_ONCE]
            good = await asyncio.gather(*map(self._good, asked))
            for digest, is_good in zip(asked, good, strict=True):
                for stream in [] if is_good else doubted[digest]:
                    stream.end(InvalidKey())

    async def _good(self, digest: bytes) -> bool:
        try:
            return await self.grants.grant(digest) is not None
        except Unavailable:
            return True
        except ApiError:
            # Its row cannot be read, and so grants nothing; the other streams are looked at all the same.
            return False
