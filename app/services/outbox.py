"""Notices on their way out: each is sent once, or more often if nobody lives to note it, and none is lost in silence.

What is to be said is written in the same transaction as what it tells of (`app.services.billing`) or by `post`. Every
process delivers: a lease keeps two of them from sending the same.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

from attrs import define, field

from domain import notices
from domain.channels import TooMany
from domain.errors import Unavailable
from domain.notices import CHANNEL, MAIL, Contact, Delivery, Notice, Undelivered
from domain.words import Words
from ports.notify import Chores, Contacts, Notifier, Postbox
from ports.telemetry import Reading

log = logging.getLogger(__name__)

LEASE = 60.0
MOST = 10
AT_ONCE = 5
EVERY, EVERY_AWAY = 2.0, 10.0
"""Seconds between looks for something to deliver, and while the database is away."""
LOOK = 15.0
"""Seconds between looks at how much is waiting."""
CLEAN, KEPT = 3_600.0, 90 * 86_400.0
STALE, NOTING = 15.0, 35.0
"""Seconds after which nothing more of a batch is sent, and for how long it is tried to note what was: both end well
within the lease, after which somebody else sends it."""


@define
class Outbox:
    """`team` are the operator's channels by their digests, `channel` opens one that a customer has named.

    `words` are those for a delivery, `chance` is in [0, 1), `clock` wall-clock seconds.
    """

    postbox: Postbox
    contacts: Contacts
    chores: Chores
    mail: Notifier
    team: Mapping[str, Notifier]
    channel: Callable[[str], Notifier]
    words: Callable[[Delivery], Awaitable[Words]]
    clock: Callable[[], float]
    chance: Callable[[], float]
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep
    _woken: asyncio.Event = field(factory=asyncio.Event)
    _round: asyncio.Task[int] | None = None
    _away_since: float | None = None
    _seen: tuple[int, float] = (0, 0.0)
    _seen_at: float = float("-inf")
    _cleaned_at: float = float("-inf")
    _counts: Counter[tuple[str, str]] = field(factory=Counter)

    # --- in ---------------------------------------------------------------------------------------

    async def post(self, told: Iterable[Notice]) -> int:
        """How many deliveries that makes; none for what was posted before. Raises Unavailable."""
        found: list[Delivery] = []
        for notice in told:
            contact = Contact("")
            if notice.project:
                contact = await self.contacts.contact(notice.project)
            found += notices.deliveries(notice, contact, self.team, self.clock())
        added = await self.postbox.add(found) if found else 0
        if added:
            self.wake()
        return added

    def wake(self) -> None:
        """There is something to deliver: it is looked for at once."""
        self._woken.set()

    # --- out --------------------------------------------------------------------------------------

    async def keep_delivering(self) -> None:
        """Runs for ever. What is under way when it is cancelled goes on; `aclose` waits for it."""
        while True:
            self._woken.clear()
            self._round = asyncio.get_running_loop().create_task(self.deliver_due())
            if await asyncio.shield(self._round) == MOST:
                continue
            await self._pause()

    async def deliver_due(self) -> int:
        """How many were due. A database that is away ends it early, and is told once."""
        try:
            began = asyncio.get_running_loop().time()
            due = await self.postbox.take(self.clock(), LEASE, MOST)
            self._there()
            await self._send_all(due, began + STALE)
            await self._look()
        except Unavailable:
            self._away()
            return 0
        return len(due)

    async def aclose(self) -> None:
        """Waits for what is being sent, so that its end is noted, and closes every channel."""
        if self._round is not None:
            await asyncio.wait([self._round], timeout=10)
            self._round.cancel()
        for notifier in (self.mail, *self.team.values()):
            await notifier.aclose()

    async def _pause(self) -> None:
        if self._away_since is not None:
            await self.sleep(EVERY_AWAY)
            return
        try:
            async with asyncio.timeout(EVERY):
                await self._woken.wait()
        except TimeoutError:
            return

    async def _send_all(self, due: Sequence[Delivery], until: float) -> None:
        gate = asyncio.Semaphore(AT_ONCE)
        loop = asyncio.get_running_loop()

        async def send(delivery: Delivery) -> None:
            async with gate:
                # A process that stood still meanwhile must not send what is another's by now.
                if loop.time() < until:
                    await self._deliver(delivery)

        # Each to its end, whatever becomes of the others.
        ends = await asyncio.gather(*map(send, due), return_exceptions=True)
        for end in ends:
            if isinstance(end, BaseException):
                raise end

    async def _deliver(self, delivery: Delivery) -> None:
        try:
            await self._send(delivery)
        except Unavailable:
            raise  # its lease ends, and somebody tries again
        except Undelivered as exc:
            await self._failed(delivery, exc)
        except Exception as exc:  # noqa: BLE001  one notice that cannot be written must not hold up all others
            await self._give_up(delivery, "it cannot be written", exc)
        else:
            self._count("sent", delivery)
            await self._note(lambda: self.postbox.sent(delivery, self.clock()))

    async def _send(self, delivery: Delivery) -> None:
        words = await self.words(delivery)
        if delivery.channel == MAIL:
            await self.mail.send(delivery, words)
        elif delivery.channel == CHANNEL:
            await self._send_to_project(delivery, words)
        elif delivery.recipient in self.team:
            await self.team[delivery.recipient].send(delivery, words)
        else:
            # Perhaps another process knows it: settings change on one after the other.
            raise Undelivered("no such team channel is configured")

    async def _send_to_project(self, delivery: Delivery, words: Words) -> None:
        contact = await self.contacts.contact(delivery.recipient)
        if not contact.channel:
            raise Undelivered("the project has no channel any more", permanent=True)
        channel = self.channel(contact.channel)
        try:
            await channel.send(delivery, words)
        finally:
            await channel.aclose()

    async def _failed(self, delivery: Delivery, fault: Undelivered) -> None:
        self._count("failed", delivery)
        pause = notices.pause(delivery.attempts, self.chance())
        if isinstance(fault, TooMany):
            pause = max(pause, fault.wait)
        due_at = self.clock() + pause
        if fault.permanent or notices.given_up(delivery, due_at):
            await self._give_up(delivery, fault.reason)
            return
        await self._note(lambda: self.postbox.postpone(delivery, due_at, fault.reason))

    async def _give_up(
        self, delivery: Delivery, fault: str, crash: Exception | None = None
    ) -> None:
        await self._note(lambda: self.postbox.give_up(delivery, self.clock(), fault))
        self._count("dead", delivery)
        log.error(
            "a notice could not be delivered",
            exc_info=crash,
            extra={
                "kind": delivery.kind,
                "channel": delivery.channel,
                "notice": delivery.notice,
                "fault": fault,
            },
        )

    async def _note(self, write: Callable[[], Awaitable[None]]) -> None:
        """What was done must be known before the lease ends, or it is done again."""
        try:
            async with asyncio.timeout(NOTING):
                while not await self._noted(write):
                    await self.sleep(1.0)
        except TimeoutError:
            raise Unavailable("The database is away.") from None

    async def _noted(self, write: Callable[[], Awaitable[None]]) -> bool:
        try:
            await write()
        except Unavailable:
            self._away()
            return False
        return True

    # --- how it stands ----------------------------------------------------------------------------

    def readings(self) -> Iterable[Reading]:
        """As of the last look: metrics never wait for the database."""
        waiting, oldest = self._seen
        yield Reading("watchllm_notices_waiting", waiting)
        yield Reading("watchllm_notices_oldest_due_seconds", oldest)
        for (what, channel), number in self._counts.items():
            yield Reading(f"watchllm_notices_{what}_total", number, (("channel", channel),))

    async def _look(self) -> None:
        now = self.clock()
        if now - self._seen_at >= LOOK:
            self._seen = await self.postbox.waiting(now)
            self._seen_at = now
        if now - self._cleaned_at >= CLEAN:
            self._cleaned_at = now
            if await self.chores.mine("forget-notices", now, CLEAN):
                await self.postbox.forget(now - KEPT)

    def _count(self, what: str, delivery: Delivery) -> None:
        self._counts[what, delivery.channel] += 1

    def _away(self) -> None:
        if self._away_since is None:
            self._away_since = self.clock()
            log.warning("notices wait: the database is away")

    def _there(self) -> None:
        if self._away_since is not None:
            after = round(self.clock() - self._away_since, 1)
            self._away_since = None
            log.info("notices are delivered again", extra={"after": after})
