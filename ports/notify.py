"""What tells people things outside of any request, and what keeps it until they were told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from domain.notices import Contact, Delivery
from domain.words import Words


class Notifier(Protocol):
    """One way to reach somebody: mail, a team's channel, the log."""

    async def send(self, delivery: Delivery, words: Words, /) -> None:
        """Returns when it was taken for good, within seconds. Raises `Undelivered`, and nothing else.

        It may be called again for what was taken, when nobody lived to note that; mails carry an id by which they
        are known.
        """

    async def aclose(self) -> None: ...


class Postbox(Protocol):
    """Deliveries until they are sent or given up. Raises `Unavailable`."""

    async def add(self, deliveries: Sequence[Delivery], /) -> int:
        """Queues those that were never queued before; how many these were."""

    async def take(self, now: float, lease: float, limit: int, /) -> Sequence[Delivery]:
        """Due ones, oldest first, their attempts counted. Nobody else gets them for `lease` seconds."""

    async def sent(self, delivery: Delivery, at: float, /) -> None: ...

    async def postpone(self, delivery: Delivery, due_at: float, fault: str, /) -> None: ...

    async def give_up(self, delivery: Delivery, at: float, fault: str, /) -> None: ...

    async def retry(self, notice: str, now: float, /) -> int:
        """What was given up of a notice is due again, with all its patience; how many deliveries that are."""

    async def find(self, states: Sequence[str], limit: int, /) -> Sequence[Delivery]:
        """Newest first. States are `waiting`, `sent` and `dead`."""

    async def waiting(self, now: float, /) -> tuple[int, float]:
        """How many are not sent, and for how many seconds the oldest is due; dead ones aside."""

    async def forget(self, before: float, /) -> int:
        """Removes what was sent or given up before then and will never be told again, such as last month's quotas.

        How many these were. What a subscription's history tells stays, or it would be sent anew.
        """


class Contacts(Protocol):
    """Where projects' owners want to be told. Raises `Unavailable`."""

    async def contact(self, project: str, /) -> Contact:
        """An empty one if they gave none."""

    async def keep(self, contact: Contact, /) -> None:
        """Raises NotFound for a project that is not there."""


class Chores(Protocol):
    """Work that one of all processes does now and then. Raises `Unavailable`."""

    async def mine(self, name: str, now: float, every: float, /) -> bool:
        """Whether it is due, and the asker's to do; nobody else is told so for `every` seconds."""
