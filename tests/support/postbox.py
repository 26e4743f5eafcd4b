"""What keeps notices, contacts and chores, in memory; away whenever a test wants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from attrs import define, evolve, field

from domain.billing import Account
from domain.errors import Unavailable
from domain.notices import Contact, Delivery, Notice
from domain.project import Project
from domain.reports import Span
from domain.usage import UsageSums

Key = tuple[str, str, str]


def key(delivery: Delivery) -> Key:
    return delivery.notice, delivery.channel, delivery.recipient


@define
class Store:
    """`away` is for how many more calls it is away; `calls` names all that came."""

    away: int = 0
    calls: list[str] = field(factory=list)

    def called(self, name: str) -> None:
        self.calls.append(name)
        if self.away:
            self.away -= 1
            raise Unavailable("The database is away.")


@define
class MemoryPostbox:
    store: Store = field(factory=Store)
    kept: dict[Key, Delivery] = field(factory=dict)
    forgotten: list[float] = field(factory=list)

    async def add(self, deliveries: Sequence[Delivery], /) -> int:
        self.store.called("add")
        before = len(self.kept)
        for one in deliveries:
            self.kept.setdefault(key(one), one)
        return len(self.kept) - before

    async def take(self, now: float, lease: float, limit: int, /) -> Sequence[Delivery]:
        self.store.called("take")
        due = [one for one in self.kept.values() if one.state == "waiting" and one.due_at <= now]
        due.sort(key=lambda one: one.due_at)
        taken = [evolve(one, attempts=one.attempts + 1) for one in due[:limit]]
        for one in taken:
            self.kept[key(one)] = evolve(one, due_at=now + lease)
        return taken

    async def sent(self, delivery: Delivery, at: float, /) -> None:
        self.store.called("sent")
        self._change(delivery, sent_at=at)

    async def postpone(self, delivery: Delivery, due_at: float, fault: str, /) -> None:
        self.store.called("postpone")
        self._change(delivery, due_at=due_at, fault=fault)

    async def give_up(self, delivery: Delivery, at: float, fault: str, /) -> None:
        self.store.called("give_up")
        self._change(delivery, dead_at=at, fault=fault)

    async def retry(self, notice: str, now: float, /) -> int:
        raise NotImplementedError

    async def find(self, states: Sequence[str], limit: int, /) -> Sequence[Delivery]:
        raise NotImplementedError

    async def waiting(self, now: float, /) -> tuple[int, float]:
        self.store.called("waiting")
        due = [one.due_at for one in self.kept.values() if one.state == "waiting"]
        return len(due), max(0.0, now - min(due, default=now))

    async def forget(self, before: float, /) -> int:
        self.store.called("forget")
        self.forgotten.append(before)
        return 0

    def _change(self, delivery: Delivery, **changes: object) -> None:
        self.kept[key(delivery)] = evolve(self.kept[key(delivery)], **changes)


@define
class MemoryContacts:
    kept: dict[str, Contact] = field(factory=dict)

    async def contact(self, project: str, /) -> Contact:
        return self.kept.get(project, Contact(project))

    async def keep(self, contact: Contact, /) -> None:
        self.kept[contact.project] = contact


@define
class MemoryChores:
    """Shared by all processes of a test."""

    free_at: dict[str, float] = field(factory=dict)

    async def mine(self, name: str, now: float, every: float, /) -> bool:
        if now < self.free_at.get(name, now):
            return False
        self.free_at[name] = now + every
        return True


@define
class Posts:
    """An outbox's `post` that keeps what it is told, each notice once."""

    store: Store = field(factory=Store)
    told: dict[str, Notice] = field(factory=dict)
    asked: int = 0

    async def __call__(self, notices: Sequence[Notice]) -> int:
        self.store.called("post")
        self.asked += len(notices)
        new = {notice.id: notice for notice in notices if notice.id not in self.told}
        self.told |= new
        return len(new)


@define
class MemoryBooks:
    """Projects, accounts and sums of usage, as far as reports on them need."""

    projects: list[Project] = field(factory=list)
    accounts: dict[str, Account] = field(factory=dict)
    sums: dict[str, UsageSums] = field(factory=dict)
    refused: dict[str, int] = field(factory=dict)
    counted: list[str] = field(factory=list)
    spans: list[Span] = field(factory=list)

    async def all(self) -> Sequence[Project]:
        return self.projects

    async def account(self, project: str, /) -> Account | None:
        return self.accounts.get(project)

    async def months(self, since: int, /) -> Mapping[str, UsageSums]:
        return self.sums

    async def served(self, project: str, span: Span, /) -> int:
        self.counted.append(project)
        self.spans.append(span)
        return self.sums[project].requests - self.refused.get(project, 0)

    async def sum(self, project: str, span: Span, /) -> UsageSums:
        self.spans.append(span)
        return self.sums.get(project, UsageSums(0, 0, 0, 0, 0, 0, 0))

    async def tokens_saved(self, project: str, span: Span, /) -> int:
        return 12_345
