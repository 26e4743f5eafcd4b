"""The composition root: settings in, a house out. The only place that knows every room.

The scheme of a URL, or its absence, picks the adapter, and what it needs is imported only then: the embedded house
starts without Redis, PostgreSQL or any provider's client.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from attrs import define, field

from adapters.entry_codec import EntryCodec
from adapters.held import HeldGrants
from adapters.journal.disk import FULL, SEGMENT, DiskJournal
from adapters.memory.cache import MemoryCache
from adapters.memory.limits import MemoryBudgets, MemoryLimits
from adapters.providers.sandbox import Sandbox
from adapters.tiered import TieredCache
from app import version
from app.billing import open_office, tell_of_keys
from app.observers import Observers, open_observers
from app.services.admission import Admission, Uses
from app.services.alarms import Alarms
from app.services.background import Background
from app.services.embedding import Embedding
from app.services.gate import Gate, Spending
from app.services.health import Health
from app.services.listing import Listing
from app.services.metering import Metering
from app.services.proxy import Proxy
from app.services.reports import Reports
from app.services.throttle import Throttle
from app.services.watching import Watching
from app.storage import Storage
from app.web.api import Rooms
from app.web.front import Front, Limits
from app.web.routes import application
from app.web.server import sweep
from config.catalogue import CatalogueError, read_catalogue, read_plans
from config.secrets import Secret, SettingError, derive
from config.settings import Settings
from domain.models import ANTHROPIC, GROQ, OPENAI, SANDBOX
from domain.plans import Plan
from domain.rates import held_for
from domain.request import Endpoint
from domain.routing import Catalogue
from ports.cache import CacheStore
from ports.providers import Provider
from ports.telemetry import Reading, Readings

if TYPE_CHECKING:
    from adapters.redis.link import Link
    from adapters.sql.cache import SqliteCache

log = logging.getLogger(__name__)

Clock = Callable[[], float]
Close = Callable[[], Awaitable[None]]
T = TypeVar("T")


@define
class House:
    """What `main` runs. `loops` never end by themselves; `closers` run at the end, in order."""

    front: Front
    health: Health
    journal: DiskJournal
    background: Background
    observers: Observers
    loops: list[Callable[[], Coroutine[Any, Any, None]]]
    closers: list[Close]
    _tasks: list[asyncio.Task[None]] = field(factory=list)

    def start(self) -> None:
        """Raises Unavailable if the journal cannot be written."""
        self.journal.start()
        self.observers.start()
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(_for_ever(work)) for work in self.loops]

    async def close(self) -> None:
        """What was measured reaches the ledger before anything it needs is taken away."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=1)
        await self.journal.drain(5.0)
        await self.background.drain(2.0)
        await self.journal.aclose()
        for close in self.closers:
            with suppress(Exception):
                await close()
        await self.observers.aclose()


async def _for_ever(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """A loop that crashes is told of and begins again: without it, something would quietly stop being true."""
    while True:
        try:
            await work()
        except Exception:
            log.exception("a background loop crashed and begins again")
            await asyncio.sleep(1)


def build(settings: Settings, storage: Storage, public_url: str) -> House:
    """Raises SettingError. Opens nothing and waits for nothing: every connection is made when it is needed."""
    clock: Clock = time.time
    monotonic: Clock = time.monotonic
    master = settings.master_secret()
    catalogue = _read(read_catalogue, settings)
    cache_secret = derive(master, "cache-key")
    link = _redis(settings)
    near = MemoryCache(clock, settings.cache.memory_bytes)
    observers = open_observers(settings, _names(catalogue), clock, monotonic)
    alarms = Alarms(monotonic)
    cache, held_far, close_cache = _cache(settings, near, link, derive(master, "cache-mac"), clock)
    makers, close_providers = _providers(settings, clock, alarms)
    held = HeldGrants(
        storage.keys, clock, monotonic, fresh=settings.keys.fresh, stale=settings.keys.stale
    )
    journal = _journal(settings, storage, clock)
    plans = _read(read_plans, settings)
    gate = _gate(settings, plans, link, clock, Spending(storage.reports, journal))
    metering = Metering(journal, clock, monotonic, catalogue.version, observers.told)
    background = Background()
    uses = Uses(storage.keys, clock)
    throttle = Throttle(settings.keys.auth_failures, clock)
    admission = Admission(held, derive(master, "key-hash"), uses, throttle)
    listing = Listing(
        {name: maker for name, maker in makers.items() if name != SANDBOX}, catalogue
    )
    health = Health(
        {"redis": link, "supabase": None if settings.embedded else storage.keys},
        journal,
        version(),
        clock,
        held.knows_any,
        journal_full=lambda: journal.state == FULL,
    )
    proxy = Proxy(
        admission=admission,
        cache=cache,
        providers=makers,
        catalogue=catalogue,
        gate=gate,
        metering=metering,
        embedding=Embedding(cache, gate, metering, background, clock, monotonic, cache_secret),
        background=background,
        clock=clock,
        monotonic=monotonic,
        cache_secret=cache_secret,
        ttls=_ttls(settings),
        entry_bytes=settings.cache.entry_bytes,
        most_in_flight=settings.listening.max_in_flight,
    )
    reports = Reports(storage.reports, clock)
    office = open_office(settings, storage, plans, public_url, clock)
    tell_of_keys(alarms, office, background, clock)
    rooms = Rooms(
        admission=admission,
        listing=listing,
        reports=reports,
        health=health,
        billing=office.billing,
        contacts=storage.contacts,
        unsubscribe_secret=derive(master, "unsubscribe"),
        clock=clock,
        version=version(),
    )
    handlers = application(rooms, observers.metrics_here(settings), public_url=public_url)
    front = Front(proxy, handlers, _limits(settings), clock, monotonic)
    handlers.settings["front"] = front
    observers.sources.append(lambda: _readings(near, journal, background, front, link))
    observers.sources += [
        held_far,
        alarms.readings,
        office.outbox.readings,
        lambda: _states(health),
    ]
    return House(
        front=front,
        health=health,
        journal=journal,
        background=background,
        observers=observers,
        loops=[
            held.watch,
            Watching(held, front.streams, clock).watch,
            uses.keep_writing,
            listing.keep_fresh,
            health.watch,
            journal.run,
            partial(sweep, front),
            *observers.loops,
            *office.loops,
        ],
        closers=[uses.write, office.aclose, held.aclose, close_providers, close_cache],
    )


def _names(catalogue: Catalogue) -> frozenset[str]:
    return frozenset(name for model in catalogue.models for name in (model.id, model.sent_as))


def _readings(
    near: MemoryCache,
    journal: DiskJournal,
    background: Background,
    front: Front,
    link: Link | None,
) -> Iterable[Reading]:
    held, memory = near.stats(), (("tier", "memory"),)
    yield Reading("watchllm_cache_bytes", held.bytes, memory)
    yield Reading("watchllm_cache_entries", held.entries, memory)
    yield Reading("watchllm_cache_evictions_total", held.evictions, memory)
    yield Reading("watchllm_journal_backlog_rows", journal.backlog)
    yield Reading("watchllm_journal_oldest_seconds", journal.oldest)
    yield Reading("watchllm_journal_bytes", journal.used)
    yield Reading("watchllm_journal_dropped_total", journal.dropped)
    yield Reading("watchllm_in_flight_requests", len(front.running))
    yield Reading("watchllm_background_tasks", background.running)
    yield Reading("watchllm_draining", front.draining)
    for status, number in front.rejected.items():
        yield Reading("watchllm_rejected_total", number, (("status", str(status)),))
    if link is not None:
        yield Reading("watchllm_breaker_open", link.state == "open", (("name", "redis"),))


def _states(health: Health) -> Iterable[Reading]:
    for name, told in health.report()["dependencies"].items():
        if told["status"] in ("up", "down"):
            yield Reading("watchllm_dependency_up", told["status"] == "up", (("name", name),))


def _read(read: Callable[[Path | None], T], settings: Settings) -> T:
    try:
        return read(settings.config_dir)
    except CatalogueError as exc:
        raise SettingError("WATCHLLM_CONFIG_DIR", str(exc)) from exc


def _redis(settings: Settings) -> Link | None:
    if settings.redis.url is None:
        return None
    from adapters.redis.cluster import open_link

    try:
        return open_link(
            settings.redis.url.reveal(),
            connect_timeout=settings.redis.connect_timeout,
            command_timeout=settings.redis.timeout,
        )
    except ValueError as exc:
        raise SettingError("REDIS_URL", "is not a Redis URL") from exc


def _cache(
    settings: Settings, near: MemoryCache, link: Link | None, mac_key: bytes, clock: Clock
) -> tuple[CacheStore, Readings, Close]:
    """Memory in front of Redis, or of a SQLite file that outlives the process. What Redis holds, Redis tells."""
    codec = EntryCodec(mac_key)
    if link is not None:
        from adapters.redis.cache import RedisCache

        return TieredCache(near, RedisCache(link, codec, clock), clock), tuple, link.aclose
    from adapters.sql.cache import SqliteCache

    file = SqliteCache(
        settings.data_dir / "cache.db",
        clock,
        settings.cache.disk_bytes,
        codec.encode,
        codec.decode,
    )
    return TieredCache(near, file, clock), lambda: _on_disk(file), file.aclose


def _on_disk(file: SqliteCache) -> Iterable[Reading]:
    disk = (("tier", "disk"),)
    yield Reading("watchllm_cache_bytes", file.size, disk)
    yield Reading("watchllm_cache_entries", file.entries, disk)
    yield Reading("watchllm_cache_evictions_total", file.evictions, disk)


def _journal(settings: Settings, storage: Storage, clock: Clock) -> DiskJournal:
    """A segment counts until all of it is in the ledger, so all processes' present ones may fill a quarter at most."""
    cap = settings.ledger.journal_bytes
    return DiskJournal(
        settings.data_dir / "journal",
        storage.usage_log,
        clock,
        cap=cap,
        segment_bytes=min(SEGMENT, cap // (4 * settings.listening.processes)),
    )


def _gate(
    settings: Settings, plans: Mapping[str, Plan], link: Link | None, clock: Clock, spent: Spending
) -> Gate:
    """Limits counted in Redis where there is one, and exactly; else in the one process there is."""
    given = settings.upstream
    waits = given.total_timeout, given.first_byte_timeout, given.stream_first_byte_timeout
    lease = held_for(max(waits))
    if link is None:
        return Gate(MemoryLimits(), MemoryBudgets(spent, lease), plans, clock)
    from adapters.redis.budgets import RedisBudgets
    from adapters.redis.limits import RedisLimits

    processes = settings.listening.processes
    budgets = RedisBudgets(link, processes, spent, lease)
    return Gate(RedisLimits(link, processes), budgets, plans, clock)


def _providers(
    settings: Settings, clock: Clock, alarms: Alarms
) -> tuple[dict[str, Provider], Close]:
    """The configured providers, all over one session; each key goes with its origin. Of all but ours it is told how
    they do."""
    makers: dict[str, Provider] = {SANDBOX: Sandbox(clock)}
    keys = (settings.openai.api_key, settings.anthropic.api_key, settings.groq.api_key)
    if not any(keys):
        return makers, _nothing
    from adapters.providers.upstream import Deadlines, Origin, Upstream
    from adapters.providers.watched import Watched

    given = settings.upstream
    upstream = Upstream(
        Deadlines(
            given.connect_timeout,
            given.first_byte_timeout,
            given.idle_timeout,
            given.total_timeout,
        ),
        given.max_answer_bytes,
        settings.listening.max_in_flight,
    )
    patience = given.stream_first_byte_timeout
    if settings.openai.api_key is not None:
        from adapters.providers.openai import OpenAI

        origin = Origin(OPENAI, settings.openai.base_url, _bearer(settings.openai.api_key))
        makers[OPENAI] = OpenAI(upstream, origin, stream_first_byte=patience)
    if settings.anthropic.api_key is not None:
        from adapters.providers.anthropic import Anthropic

        secret = {"x-api-key": settings.anthropic.api_key.reveal()}
        origin = Origin(ANTHROPIC, settings.anthropic.base_url, secret)
        makers[ANTHROPIC] = Anthropic(upstream, origin, clock, stream_first_byte=patience)
    if settings.groq.api_key is not None:
        from adapters.providers import groq
        from adapters.providers.openai import OpenAI

        origin = Origin(GROQ, settings.groq.base_url, _bearer(settings.groq.api_key))
        makers[GROQ] = OpenAI(
            upstream,
            origin,
            root=groq.ROOT,
            prepare=groq.prepare_groq,
            usage_of=groq.groq_usage,
            stream_first_byte=patience,
        )
    for name, maker in makers.items():
        if name != SANDBOX:
            makers[name] = Watched(maker, name, alarms.provider_key, alarms.provider)
    return makers, upstream.aclose


def _bearer(key: Secret) -> dict[str, str]:
    return {"Authorization": f"Bearer {key.reveal()}"}


async def _nothing() -> None:
    return None


def _ttls(settings: Settings) -> dict[Endpoint, int]:
    completions = int(settings.cache.ttl_completions)
    return {
        Endpoint.CHAT: completions,
        Endpoint.COMPLETIONS: completions,
        Endpoint.EMBEDDINGS: int(settings.cache.ttl_embeddings),
    }


def _limits(settings: Settings) -> Limits:
    given = settings.listening
    return Limits(
        given.max_body_bytes,
        given.heartbeat,
        given.write_timeout,
        given.idle_timeout,
        given.body_timeout,
    )
