"""What all promises are tested on: a real PostgreSQL that waits for its disk, a real Valkey, a provider with books."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path

import psycopg2
from attrs import define, field

from app.desk import key_ring, project_book
from app.services.keys import KeyRing
from app.storage import Storage, open_storage
from config.settings import read_settings
from domain.project import PROJECT
from tests.chaos.books import PRICES, Books, Question
from tests.chaos.client import Answer, Client, ask_bytes
from tests.chaos.ledger import Audit
from tests.chaos.node import Node
from tests.chaos.trial import Trial
from tests.support.postgres import PostgresServer
from tests.support.upstream import Call, Reply, ScriptedUpstream
from tests.support.valkey import ValkeyServer, valkey_server

SPREAD = 12
"""Connections of a house's clients to each server, at least."""
SECRET = "chaos-0123456789abcdef-0123456789abcdef-chaos"
DURABLE = ("fsync=on", "synchronous_commit=on", "full_page_writes=on")


@define(eq=False)
class House:
    """One promise's servers. `keys` and `key_ids` are in the same order; a question's number is its key's."""

    trial: Trial
    folder: Path
    url: str
    postgres: PostgresServer
    valkey: ValkeyServer
    upstream: ScriptedUpstream
    books: Books
    settings: dict[str, str]
    storage: Storage
    ring: KeyRing
    projects: list[str]
    keys: list[str]
    key_ids: list[str]
    nodes: list[Node] = field(factory=list)
    clients: dict[int, Client] = field(factory=dict)
    _numbers: count[int] = field(factory=count)

    def node(self, *, processes: int = 1, broken: str = "", **settings: str) -> Node:
        """Not started."""
        folder = self.folder / f"node{len(self.nodes)}"
        node = Node(folder, {**self.settings, **settings}, processes=processes, broken=broken)
        self.nodes.append(node)
        return node

    async def started(self, **how: str | int) -> Node:
        node = self.node(**how)  # type: ignore[arg-type]
        await node.start()
        return node

    def question(self, number: int | None = None) -> Question:
        """A fresh one, or the one with this number."""
        at = next(self._numbers) if number is None else number
        return Question(at % len(self.keys), f"chaos-{at // len(self.keys)}")

    async def ask(
        self, node: Node, question: Question, *, patience: float = 20.0, **more: object
    ) -> Answer:
        client = self.clients.get(node.port)
        if client is None:
            client = self.clients[node.port] = Client(node.port, SPREAD)
        request = ask_bytes(self.keys[question.key], question, **more)  # type: ignore[arg-type]
        return await client.ask(request, question, patience)

    def audit(self) -> Audit:
        return Audit(self.key_ids, self.books)


class Stage:
    """`folder` and the PostgreSQL server are shared by all; each house has a database of its own."""

    def __init__(self, folder: Path, postgres: PostgresServer) -> None:
        self._folder = folder
        self._postgres = postgres
        self._houses = 0

    @asynccontextmanager
    async def house(
        self,
        trial: Trial,
        *,
        keys: int = 1,
        questions: int = 2_000,
        plan: str = "unlimited",
        plans: str = "",
        settings: Mapping[str, str] | None = None,
    ) -> AsyncIterator[House]:
        """`questions` is how many may be asked; `plans` is the text of a `plans.toml`."""
        self._houses += 1
        folder = self._folder / f"{trial.name}-{self._houses}"
        _write_tables(folder / "config", 1 + questions // keys, plans)
        if self._postgres.running:
            self._postgres.resume()
        else:
            await asyncio.to_thread(self._postgres.start, *DURABLE)
        url = await asyncio.to_thread(self._database, f"chaos{self._houses}")
        books = Books(trial.seed)
        with valkey_server() as valkey:
            async with ScriptedUpstream() as upstream:
                upstream.answer = _forgetting(upstream, books)
                given = {
                    "DATABASE_URL": url,
                    "REDIS_URL": valkey.url,
                    "WATCHLLM_SECRET_KEY": SECRET,
                    "WATCHLLM_CONFIG_DIR": str(folder / "config"),
                    "OPENAI_API_KEY": "sk-chaos",
                    "OPENAI_BASE_URL": upstream.openai,
                    **(settings or {}),
                }
                house = await _furnished(
                    trial, folder, url, self._postgres, valkey, upstream, books, given, keys, plan
                )
                try:
                    yield house
                finally:
                    for client in house.clients.values():
                        client.close()
                    for node in house.nodes:
                        node.kill()
                    await house.storage.aclose()

    def _database(self, name: str) -> str:
        connection = psycopg2.connect(self._postgres.url, connect_timeout=5)
        connection.autocommit = True
        connection.cursor().execute(f"CREATE DATABASE {name}")
        connection.close()
        return self._postgres.url.rpartition("/")[0] + f"/{name}"


async def _furnished(
    trial: Trial,
    folder: Path,
    url: str,
    postgres: PostgresServer,
    valkey: ValkeyServer,
    upstream: ScriptedUpstream,
    books: Books,
    given: dict[str, str],
    keys: int,
    plan: str,
) -> House:
    settings = read_settings({**given, "WATCHLLM_DATA_DIR": str(folder / "desk")})
    storage = open_storage(settings)
    await storage.migrate()
    ring, book = key_ring(settings, storage), project_book(storage)
    projects = [(await book.create(f"chaos{at}", plan=plan)).id for at in range((keys + 1) // 2)]
    made = [
        await ring.create(projects[at // 2], kind=PROJECT, name=f"key{at}") for at in range(keys)
    ]
    return House(
        trial,
        folder,
        url,
        postgres,
        valkey,
        upstream,
        books,
        given,
        storage,
        ring,
        projects,
        [one.key for one in made],
        [one.id for one in made],
    )


def _write_tables(folder: Path, models: int, plans: str) -> None:
    folder.mkdir(parents=True)
    names: Sequence[str] = [f'"chaos-{number}"' for number in range(1, models + 1)]
    lines = [
        'as_of = "2026-01-01"',
        '[models."chaos-0"]',
        'provider = "openai"',
        *(f'{bucket} = "{price}"' for bucket, price in PRICES.items()),
        f"snapshots = [{', '.join(names)}]",
    ]
    (folder / "models.toml").write_text("\n".join(lines))
    if plans:
        (folder / "plans.toml").write_text(plans)


def _forgetting(upstream: ScriptedUpstream, books: Books) -> Callable[[Call], Reply | None]:
    """The books are kept for ever, the calls' own bytes are not."""

    def answer(call: Call) -> Reply | None:
        if len(upstream.calls) > 2_000:
            del upstream.calls[:1_000]
        return books.answer(call)

    return answer
