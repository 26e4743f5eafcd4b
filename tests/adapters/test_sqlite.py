"""What only the SQLite adapters do: the file, the thread, and the bounded cache in it."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import sqlite3
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from typing import Any

import attrs
import pytest

from adapters.sql.cache import ROW_BYTES, SqliteCache
from adapters.sql.migrate import migrate
from adapters.sql.seen import Seen
from adapters.sql.sqlite import SqliteDb
from adapters.sql.usage import SqlUsageLog
from domain.answer import CacheEntry, CacheKey
from domain.errors import ApiError, Unavailable
from domain.usage import Usage, UsageRecord
from tests.conftest import Clock
from tests.support.fixtures import async_fixture

RECORD = UsageRecord(
    "0190-1",
    "p",
    "k",
    "project",
    1.0,
    "e",
    "m",
    "m",
    "o",
    False,
    "miss",
    200,
    Usage(),
    1,
    None,
    "v",
    1.0,
    1.0,
    "",
)


@async_fixture
async def ledger(tmp_path: Path) -> AsyncIterator[SqliteDb]:
    db = SqliteDb(tmp_path / "new" / "watchllm.db")
    yield db
    await db.aclose()


async def test_nobody_else_may_read_it(ledger: SqliteDb, tmp_path: Path) -> None:
    """The database, its log and its folder are the owner's alone."""
    await migrate(ledger)

    files = [*(tmp_path / "new").iterdir()]
    assert {"watchllm.db", "watchllm.db-wal", "watchllm.db-shm"} == {file.name for file in files}
    assert {0o600} == {stat.S_IMODE(file.stat().st_mode) for file in files}
    assert 0o700 == stat.S_IMODE((tmp_path / "new").stat().st_mode)


async def test_durable_and_shareable(ledger: SqliteDb) -> None:
    """A write-ahead log that is synced at each commit: the ledger survives a power cut."""
    assert [{"journal_mode": "wal"}] == await ledger.rows("PRAGMA journal_mode")
    assert [{"synchronous": 2}] == await ledger.rows("PRAGMA synchronous")


async def test_a_file_that_cannot_be_opened_heals(tmp_path: Path) -> None:
    """Nothing is opened before it is needed, and a trouble that is gone is forgotten."""
    (tmp_path / "here").write_text("not a folder")
    db = SqliteDb(tmp_path / "here" / "watchllm.db")

    with pytest.raises(Unavailable):
        await db.ping()
    (tmp_path / "here").unlink()
    await db.ping()
    await db.aclose()
    await db.aclose()

    with pytest.raises(Unavailable):
        await db.ping()


async def test_not_a_database(tmp_path: Path) -> None:
    """A foreign file is an error of ours and is left as it is."""
    path = tmp_path / "watchllm.db"
    path.write_bytes(b"something else entirely" * 100)
    db = SqliteDb(path)

    with pytest.raises(Unavailable):
        await db.ping()
    await db.aclose()

    assert path.read_bytes().startswith(b"something else")


async def test_money_never_becomes_a_float(ledger: SqliteDb) -> None:
    """What does not fit 64 bits is refused, since SQLite would round it."""
    await migrate(ledger)

    with pytest.raises(ApiError, match="refused"):
        await SqlUsageLog(ledger).append([attrs.evolve(RECORD, cost=10**19)])


async def test_the_loop_runs_on_while_it_works(ledger: SqliteDb) -> None:
    """A slow statement holds its own thread only."""
    slow = asyncio.ensure_future(
        ledger.rows(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300000) SELECT COUNT(*) AS n FROM n"
        )
    )
    turns = 0
    while not slow.done():
        await asyncio.sleep(0)
        turns += 1

    assert [{"n": 300_000}] == slow.result()
    assert turns > 100


async def test_a_cancelled_begin_leaves_no_transaction(ledger: SqliteDb, tmp_path: Path) -> None:
    """Whoever is cancelled while it waits for its turn holds nobody up."""
    await migrate(ledger)
    with closing(sqlite3.connect(tmp_path / "new" / "watchllm.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")

        async def begin() -> None:
            async with ledger.transaction():
                raise AssertionError("somebody else is writing")

        task = asyncio.ensure_future(begin())
        await asyncio.sleep(0.02)  # long enough for the thread to be waiting for the other's lock
        task.cancel()
        other.execute("COMMIT")
        with pytest.raises(asyncio.CancelledError):
            await task

        await SqlUsageLog(ledger).append([RECORD])
        assert [("0190-1",)] == other.execute("SELECT id FROM usage_log").fetchall()


# --- the cache ------------------------------------------------------------------------------------


def key(name: str) -> CacheKey:
    return CacheKey("p_1", sha256(name.encode()).digest())


def entry(body: bytes = b"answer") -> CacheEntry:
    return CacheEntry(body, "openai", "gpt", Usage(), 5, 1.0)


def encode(key: CacheKey, entry: CacheEntry) -> bytes:
    return key.digest + entry.body


def decode(key: CacheKey, blob: bytes) -> CacheEntry | None:
    if blob == b"explosive":
        raise ValueError("a codec that trips")
    return entry(blob[32:]) if blob[:32] == key.digest else None


@async_fixture
async def open_cache(tmp_path: Path, clock: Clock) -> AsyncIterator[Callable[..., SqliteCache]]:
    opened: list[SqliteCache] = []

    def open_one(limit: int = 1 << 20) -> SqliteCache:
        opened.append(SqliteCache(tmp_path / "cache.db", clock, limit, encode, decode))
        return opened[-1]

    yield open_one
    for cache in opened:
        await cache.aclose()


def tamper(tmp_path: Path, sql: str, *params: Any) -> list[Any]:
    with closing(sqlite3.connect(tmp_path / "cache.db", isolation_level=None)) as connection:
        return connection.execute(sql, params).fetchall()


async def test_kept_over_a_restart(open_cache: Callable[..., SqliteCache], clock: Clock) -> None:
    """What was put is there in the next process, in the order asked for, and says when it ends."""
    first = open_cache()
    await first.put_many([(key("a"), entry(b"A")), (key("b"), entry(b"B"))], 60)
    await first.aclose()

    found = await open_cache().get_many([key("b"), key("none"), key("a"), key("b")])

    assert [entry(b"B"), None, entry(b"A"), entry(b"B")] == found
    assert found[0] is not None
    assert clock() + 60 == found[0].expires_at
    assert open_cache().peek(key("a")) is None


async def test_gone_at_its_ttl(open_cache: Callable[..., SqliteCache], clock: Clock) -> None:
    """A reader never gets an entry older than its ttl, and one put anew starts anew."""
    cache = open_cache()
    await cache.put_many([(key("a"), entry())], 60)
    clock.advance(59.9)
    assert [entry()] == await cache.get_many([key("a")])

    clock.advance(0.1)
    assert [None] == await cache.get_many([key("a")])

    await cache.put_many([(key("a"), entry())], 60)
    await cache.put_many([(key("b"), entry())], 0)
    assert [entry(), None] == await cache.get_many([key("a"), key("b")])


async def test_many_at_once(open_cache: Callable[..., SqliteCache]) -> None:
    """As many keys as one embeddings request may have."""
    cache = open_cache()
    items = [(key(str(number)), entry(str(number).encode())) for number in range(2_048)]
    await cache.put_many(items, 60)

    assert [kept for _, kept in items] == await cache.get_many([wanted for wanted, _ in items])
    assert [] == await cache.get_many([])


@pytest.mark.parametrize("blob", [b"", b"other" * 20, b"explosive"])
async def test_a_bad_blob_is_a_miss_and_goes(
    open_cache: Callable[..., SqliteCache], tmp_path: Path, blob: bytes
) -> None:
    """Bytes that are not ours are never served twice to the decoder."""
    cache = open_cache()
    await cache.put_many([(key("a"), entry()), (key("b"), entry())], 60)
    await cache.flush()
    tamper(tmp_path, "UPDATE answers SET blob = ? WHERE digest = ?", blob, key("a").digest)

    assert [None, entry()] == await cache.get_many([key("a"), key("b")])
    assert [(1,)] == tamper(tmp_path, "SELECT COUNT(*) FROM answers")


async def test_bounded_in_bytes(
    open_cache: Callable[..., SqliteCache], tmp_path: Path, clock: Clock
) -> None:
    """The expired go first, then the oldest; what is put again is young again; the count survives a restart."""
    size = ROW_BYTES + 32 + 100
    cache = open_cache(3 * size)
    body = entry(b"x" * 100)
    await cache.put_many([(key("old"), body)], 600)
    await cache.put_many([(key("short"), body)], 5)
    await cache.put_many([(key("new"), body)], 600)
    clock.advance(5)

    await cache.put_many([(key("a"), body)], 600)
    names = ("old", "short", "new", "a", "b")
    after_expiry = await cache.get_many([key(name) for name in names])
    await cache.put_many([(key("old"), body)], 600)
    await cache.aclose()
    cache = open_cache(3 * size)
    await cache.put_many([(key("b"), body), (key("huge"), entry(b"x" * 10_000))], 600)
    after_age = await cache.get_many([key(name) for name in (*names, "huge")])

    assert [body, None, body, body, None] == after_expiry
    assert [body, None, None, body, body, None] == after_age
    assert [(3 * size, 3)] == tamper(tmp_path, "SELECT SUM(size), COUNT(*) FROM answers")


async def test_a_hundred_rounds_stay_within_the_bound(
    open_cache: Callable[..., SqliteCache], tmp_path: Path
) -> None:
    """The running count never drifts from what is there."""
    limit = 20_000
    cache = open_cache(limit)
    for number in range(100):
        items = [
            (key(f"{number * step % 37}"), entry(b"x" * (number * 7 % 900))) for step in (1, 2, 3)
        ]
        await cache.put_many(items, 60)
        await cache.flush()
        [(held,)] = tamper(tmp_path, "SELECT SUM(size) FROM answers")
        assert held <= limit
        assert held == cache._held


async def test_trouble_is_a_miss_and_told_once(
    open_cache: Callable[..., SqliteCache], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """No caller notices; the log has one line when it breaks and one when it works again, and no key in it."""
    cache = open_cache()
    (tmp_path / "cache.db").mkdir()
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            assert [None] == await cache.get_many([key("a")])
            await cache.put_many([(key("a"), entry())], 60)
        (tmp_path / "cache.db").rmdir()
        await cache.put_many([(key("a"), entry())], 60)

        assert [entry()] == await cache.get_many([key("a")])
    assert ["WARNING", "INFO"] == [record.levelname for record in caplog.records]
    assert key("a").digest.hex() not in caplog.text


async def test_a_failed_put_leaves_the_rest(open_cache: Callable[..., SqliteCache]) -> None:
    """A batch that trips half way takes nothing with it, and the count is taken anew."""
    cache = open_cache()
    await cache.put_many([(key("a"), entry())], 60)
    await cache.flush()

    await cache.put_many([(key("b"), entry()), (key("c"), entry("text"))], 60)  # type: ignore[arg-type]
    await cache.flush()

    assert [entry(), None, None] == await cache.get_many([key("a"), key("b"), key("c")])


async def test_strangers_are_not_asked_of_the_file(
    open_cache: Callable[..., SqliteCache], tmp_path: Path
) -> None:
    """Once the file is known, what it cannot hold is a miss without a look; what it holds is found after a restart."""
    cache = open_cache()
    await cache.put_many([(key("a"), entry())], 60)
    await cache.aclose()
    cache = open_cache()
    assert [entry()] == await cache.get_many([key("a")])
    tamper(tmp_path, "DROP TABLE answers")

    assert [None] == await cache.get_many([key("stranger")])
    assert cache.well
    assert [None] == await cache.get_many([key("a")])
    assert not cache.well


def test_seen_forgets_nobody() -> None:
    """No known digest is missed, and few strangers are taken for known."""
    seen = Seen()
    known = [hashlib.sha256(b"%d" % number).digest() for number in range(20_000)]
    for digest in known:
        seen.add(digest)
    strangers = [hashlib.sha256(b"x%d" % number).digest() for number in range(20_000)]

    assert all(digest in seen for digest in known)
    assert sum(digest in seen for digest in strangers) < 20


async def test_after_it_is_closed(open_cache: Callable[..., SqliteCache]) -> None:
    """A late question is a miss."""
    cache = open_cache()
    await cache.aclose()

    assert [None] == await cache.get_many([key("a")])
    await cache.put_many([(key("a"), entry())], 60)


async def test_a_second_connection_keeps_the_first_ones_locks(tmp_path: Path) -> None:
    """POSIX drops all of a process's locks on a file with any descriptor of it: another process would then take itself
    for the last one, and take the write-ahead log away from under us."""
    path = tmp_path / "shared.db"
    first, second = SqliteDb(path), SqliteDb(path)
    await first.run("CREATE TABLE t (x INTEGER)")
    await second.rows("SELECT * FROM t")
    program = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('INSERT INTO t VALUES (1)'); c.commit(); c.close()"

    subprocess.run([sys.executable, "-c", program, str(path)], check=True)
    await first.run("INSERT INTO t VALUES (2)")

    assert [{"x": 1}, {"x": 2}] == await second.rows("SELECT x FROM t ORDER BY x")
    subprocess.run([sys.executable, "-c", program, str(path)], check=True)
    seen = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sqlite3, sys; print(sqlite3.connect(sys.argv[1]).execute('SELECT count(*) FROM t').fetchone())",
            str(path),
        ],
        check=True,
        capture_output=True,
    )
    assert b"(3,)\n" == seen.stdout
    assert (tmp_path / "shared.db-wal").exists()
    await first.aclose()
    await second.aclose()
