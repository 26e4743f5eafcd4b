"""The life of a key: made, rotated with a grace, revoked. Who may ask for that is decided by the caller."""

from __future__ import annotations

from collections.abc import Callable

from attrs import define, evolve

from domain import apikey
from domain.errors import InvalidRequest, NotFound
from domain.project import ApiKey
from domain.scope import check_restrictions
from domain.value import value
from ports.storage import Keys

MAX_NAME = 100


@value
class FreshKey:
    """A key as it is shown to its owner, this once."""

    id: str
    key: str
    kind: str
    project: str


@define
class KeyRing:
    """Makes and ends the keys of projects. `pepper` is the derived secret that digests are made with."""

    keys: Keys
    pepper: bytes
    clock: Callable[[], float]
    random: Callable[[int], bytes]

    async def create(
        self,
        project: str,
        *,
        kind: str,
        name: str = "",
        expires_in: float | None = None,
        models: tuple[str, ...] = (),
        endpoints: tuple[str, ...] = (),
    ) -> FreshKey:
        """`expires_in` seconds from now; None never expires. `models` and `endpoints` are all it may ask for."""
        if len(name) > MAX_NAME or not name.isprintable():
            raise InvalidRequest(
                f"A key's name has up to {MAX_NAME} printable characters.", param="name"
            )
        if expires_in is not None and expires_in <= 0:
            raise InvalidRequest(
                "A key that has expired already is of no use.", param="expires_in"
            )
        check_restrictions(models, endpoints)
        now = self.clock()
        return await self._keep(
            ApiKey(
                id="",
                project=project,
                kind=kind,
                name=name,
                hint="",
                created_at=now,
                expires_at=None if expires_in is None else now + expires_in,
                revoked_at=None,
                models=models,
                endpoints=endpoints,
            )
        )

    async def rotate(self, key_id: str, *, grace: float) -> FreshKey:
        """A new key in the place of the old one, which works until `grace` seconds have passed.

        The new key takes over the old one's kind, name and restrictions; if that one was to expire, the new one lives
        as long as it was given at first.
        """
        old = await self.keys.find(key_id)
        now = self.clock()
        if old is None:
            raise NotFound(f"No key has the id {key_id}.")
        if not is_live(old, now):
            raise InvalidRequest(f"The key {key_id} has ended; create a new one instead.")
        lifetime = None if old.expires_at is None else old.expires_at - old.created_at
        fresh = await self._keep(
            evolve(
                old,
                created_at=now,
                expires_at=None if lifetime is None else now + lifetime,
                revoked_at=None,
            )
        )
        # The new key is kept first: if ending the old one fails, nobody is locked out.
        await self.keys.end(key_id, at=now + grace)
        return fresh

    async def revoke(self, key_id: str) -> None:
        """The key stops now. Revoking it again changes nothing."""
        if not await self.keys.end(key_id, at=self.clock()):
            raise NotFound(f"No key has the id {key_id}.")

    async def _keep(self, key: ApiKey) -> FreshKey:
        text = apikey.mint(key.kind, self.random(apikey.RANDOM_BYTES))
        key = evolve(key, id=f"key_{self.random(10).hex()}", hint=apikey.hint(text))
        await self.keys.add(key, apikey.digest(self.pepper, text))
        return FreshKey(id=key.id, key=text, kind=key.kind, project=key.project)


def ends_at(key: ApiKey) -> float | None:
    """The earlier of expiry and revocation, either of which may still be to come; None for neither."""
    return min((at for at in (key.expires_at, key.revoked_at) if at is not None), default=None)


def is_live(key: ApiKey, now: float) -> bool:
    end = ends_at(key)
    return end is None or now < end
