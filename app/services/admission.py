"""Who is asking: a bearer key becomes a grant, or a 401 that looks the same for every wrong key."""

from __future__ import annotations

from attrs import define

from domain import apikey
from domain.errors import InvalidKey
from domain.project import Grant
from ports.storage import KnownGrants


@define
class Admission:
    """`pepper` is the secret under which keys are digested; the key itself goes no further than here."""

    grants: KnownGrants
    pepper: bytes

    def known(self, bearer: str) -> Grant | None:
        """The grant if this process can tell without waiting."""
        key = apikey.parse(bearer)
        return None if key is None else self.grants.peek(apikey.digest(self.pepper, key))

    async def admit(self, bearer: str) -> Grant:
        """Raises InvalidKey, or Unavailable while nobody can tell."""
        if not bearer:
            raise InvalidKey(
                "You didn't provide an API key: send it as 'Authorization: Bearer lgw_...'."
            )
        key = apikey.parse(bearer)
        if key is None:
            raise InvalidKey
        grant = await self.grants.grant(apikey.digest(self.pepper, key))
        if grant is None:
            raise InvalidKey
        return grant
