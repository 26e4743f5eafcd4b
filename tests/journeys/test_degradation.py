"""What the operations page promises of each thing that may fail, row by row: real servers, real faults, no restart.

Each test carries the name of its row. Its project must find both servers well when it ends, and one row in the ledger for
each of its requests.
"""

from __future__ import annotations

import asyncio
import re
import resource
import shutil
import socket
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from tests.support.fixtures import async_fixture
from tests.support.full import ROLE, Full, Tenant, tenant_of, until
from tests.support.house import Reply as Answer
from tests.support.house import events
from tests.support.served import Served, serving
from tests.support.telemetry import dead_port, hanging
from tests.support.upstream import Call, Reply, good_answer
from tests.test_docs import table

pytestmark = [pytest.mark.postgres, pytest.mark.valkey]

SETTINGS = {
    "WATCHLLM_DATABASE_CONNECT_TIMEOUT": "500ms",
    "WATCHLLM_DATABASE_STATEMENT_TIMEOUT": "1s",
    "WATCHLLM_UPSTREAM_FIRST_BYTE_TIMEOUT": "2s",
    "WATCHLLM_UPSTREAM_STREAM_FIRST_BYTE_TIMEOUT": "2s",
}
"""Tests have less patience than people."""
PROMPT = 2.0
"""Seconds within which everybody is answered, however slow the machine is."""
OPENAI, ANTHROPIC = "gpt-4o", "claude-sonnet-4-5"

WELL = (200, "ok", "up", "up")
NO_REDIS = (200, "degraded", "down", "up")
NO_DATABASE = (200, "degraded", "up", "down")
NEITHER = (200, "degraded", "down", "down")
NO_JOURNAL = (503, "down", "up", "up")


def test_each_row_has_its_test_and_each_test_its_row() -> None:
    """A promise that nobody tries is none, and neither is one that nobody can read."""
    rows = [
        re.sub(r"\W+", "_", f"test {depends} {fails}".lower()).rstrip("_")
        for depends, fails, *_ in table("docs/operations.md", "When something it depends on fails")
    ]
    here = test_each_row_has_its_test_and_each_test_its_row.__name__

    assert sorted({name for name in globals() if name.startswith("test_")} - {here}) == sorted(
        rows
    )


@pytest.fixture(scope="module")
def tight(full: Full, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A third server, whose journal takes some hundred rows."""
    folder = tmp_path_factory.mktemp("tight")
    with full.third(folder, WATCHLLM_JOURNAL_BYTES="64KiB") as served:
        yield served


@async_fixture
async def tenant(full: Full) -> AsyncIterator[Tenant]:
    """`known` was asked of both servers, `stored` of the first one alone."""
    async with tenant_of(full) as tenant:
        before = full.valkey.call("DBSIZE")

        async def both_stored() -> bool:
            return int(full.valkey.call("DBSIZE")[1:]) == int(before[1:]) + 2

        assert "MISS" == await tenant.cached(full.one, "known")
        assert "MISS" == await tenant.cached(full.one, "stored")
        await until(both_stored)
        assert "HIT" == await tenant.cached(full.other, "known")
        yield tenant
        await all_well(tenant)


async def all_well(tenant: Tenant) -> None:
    """Both processes live, say so, take a key that they never saw, share their answers, and have recorded everything."""
    for served in tenant.full.both:
        await tenant.told(served, *WELL)
        assert served.process.poll() is None
        await tenant.introduce(tenant.stranger, served)
    questions = iter(range(1_000))

    async def shared() -> bool:
        question = f"shared {next(questions)}"
        await tenant.cached(tenant.full.one, question)
        return await tenant.cached(tenant.full.other, question) == "HIT"

    await until(shared)
    await tenant.settled()


@contextmanager
def broken(hurt: Callable[[], Any], heal: Callable[[], Any]) -> Iterator[None]:
    hurt()
    try:
        yield
    finally:
        heal()


def refused(answer: Answer, status: int, kind: str = "api_error") -> bool:
    """In our form, and told when to come back."""
    assert (status, kind) == (answer.status, answer.error["type"]), answer.body
    return int(answer.headers["Retry-After"]) >= 1


async def promptly(tenant: Tenant, served: Served, *questions: str) -> list[str]:
    """Hit or miss, of questions asked one after the other."""
    found = []
    for question in questions:
        began = time.monotonic()
        found.append(await tenant.cached(served, question))
        assert time.monotonic() - began < PROMPT
    return found


# --- Redis ----------------------------------------------------------------------------------------


async def serves_alone(tenant: Tenant, *servers: Served) -> None:
    """Hits come from the process's own memory, all else is a miss; nobody fails, and nobody waits for long."""
    for served in servers:
        new = [f"alone {number} {served.port}" for number in range(6)]
        assert ["HIT", *["MISS"] * 6] == await promptly(tenant, served, "known", *new)
        assert "HIT" == await tenant.cached(served, new[0])


async def stored_answers_only(tenant: Tenant) -> None:
    """What Redis has is found; what is new stays in the memory of who was told it."""
    one, other = tenant.full.both
    assert ["HIT", "HIT"] == await promptly(tenant, other, "known", "stored")
    assert ["MISS", "HIT"] == await promptly(tenant, one, "new", "new")
    assert ["MISS"] == await promptly(tenant, other, "new")
    limited = await tenant.new_key("free")
    await tenant.introduce(limited, one)
    await limit_by_process(tenant, limited)


async def limit_by_process(tenant: Tenant, limited: str) -> None:
    """Ten a minute, which each server counts by itself."""
    answers = [await tenant.ask(tenant.full.one, "known", key=limited) for _ in range(12)]
    assert [200] * 10 == [answer.status for answer in answers[:10]]
    assert refused(answers[-1], 429, "rate_limit_exceeded")


async def test_redis_down(tenant: Tenant, full: Full) -> None:
    """Killed. A plan's limit goes on per process; a budget that was not heard of is closed."""
    limited, thrifty = await tenant.new_key("free"), await tenant.new_key("unlimited", 10**12)
    await tenant.introduce(limited, full.one)
    await tenant.introduce(thrifty, full.one)
    with broken(full.valkey.kill, full.valkey.start):
        await serves_alone(tenant, *full.both)
        assert "MISS" == await tenant.cached(full.other, "stored")
        await limit_by_process(tenant, limited)
        assert refused(await tenant.ask(full.one, "money", key=thrifty), 503)
        for served in full.both:
            await tenant.told(served, *NO_REDIS)

    async def open_again() -> bool:
        return (await tenant.ask(full.one, "money", key=thrifty)).status == 200

    await until(open_again)


async def test_redis_slow(tenant: Tenant, full: Full) -> None:
    """Five times 50 ms, then nobody waits any more; who reaches it quickly does not notice."""
    full.far.redis_lag = 0.2
    with broken(lambda: None, lambda: setattr(full.far, "redis_lag", 0.0)):
        await serves_alone(tenant, full.other)
        assert ["HIT", "MISS"] == await promptly(tenant, full.one, "known", "quick")
        await tenant.told(full.other, *NO_REDIS)
        assert WELL == await tenant.health(full.one)


async def test_redis_stopped(tenant: Tenant, full: Full) -> None:
    """The kernel still takes what is sent, and nobody answers."""
    with broken(full.valkey.freeze, full.valkey.thaw):
        await serves_alone(tenant, *full.both)
        for served in full.both:
            await tenant.told(served, *NO_REDIS)


async def test_redis_restarted(tenant: Tenant, full: Full) -> None:
    """With its data: what was stored is found again, by a process that had not seen it."""
    assert full.valkey.call("SAVE").startswith(b"+OK")
    full.valkey.kill()
    full.valkey.start()

    async def found() -> bool:
        return await tenant.cached(full.other, "stored", max_tokens=None) == "HIT"

    assert ["HIT"] == await promptly(tenant, full.other, "known")
    await until(found)


async def test_redis_restarted_empty(tenant: Tenant, full: Full) -> None:
    """What no process remembers is asked of the provider again, once."""
    full.valkey.kill()
    full.valkey.start("--dbfilename", "none.rdb")

    assert ["HIT", "MISS", "HIT"] == await promptly(
        tenant, full.other, "known", "stored", "stored"
    )


async def test_redis_full(tenant: Tenant, full: Full) -> None:
    """At `maxmemory`, without a policy: what is there is read, nothing is added."""
    with broken(
        lambda: full.valkey.call("CONFIG", "SET", "maxmemory", "1"),
        lambda: full.valkey.call("CONFIG", "SET", "maxmemory", "0"),
    ):
        await stored_answers_only(tenant)
        for served in full.both:
            assert WELL == await tenant.health(served)


async def test_redis_without_a_free_connection(tenant: Tenant, full: Full) -> None:
    """At `maxclients`, after all were thrown out."""
    with socket.create_connection(("127.0.0.1", full.valkey.port)) as held:
        said = b"CONFIG SET maxclients 1\r\nCLIENT KILL TYPE normal SKIPME yes\r\n"
        with broken(
            lambda: held.sendall(said),
            lambda: held.sendall(b"CONFIG SET maxclients 10000\r\n"),
        ):
            await serves_alone(tenant, *full.both)
            for served in full.both:
                await tenant.told(served, *NO_REDIS)


async def test_redis_read_only(tenant: Tenant, full: Full) -> None:
    """It has become a replica, of somebody who is not there."""
    with broken(
        lambda: full.valkey.call("REPLICAOF", "127.0.0.1", str(dead_port())),
        lambda: full.valkey.call("REPLICAOF", "NO", "ONE"),
    ):
        await stored_answers_only(tenant)
        for served in full.both:
            assert WELL == await tenant.health(served)


async def test_redis_away_at_the_start(tenant: Tenant, full: Full, tmp_path: Path) -> None:
    """The start waits for nothing."""
    full.valkey.kill()
    with broken(lambda: None, full.valkey.start):
        third = full.third(tmp_path)
        served = third.__enter__()
        assert ["MISS", "MISS", "HIT"] == await promptly(tenant, served, "known", "3rd", "3rd")
        await tenant.told(served, *NO_REDIS)
    await tenant.told(served, *WELL)
    third.__exit__(None, None, None)


# --- PostgreSQL -----------------------------------------------------------------------------------


async def known_keys_only(tenant: Tenant, *servers: Served) -> None:
    """Keys that a process knows are served as ever; of others nobody can tell, nor of what was used."""
    for served in servers:
        new = [f"new {number} {served.port}" for number in range(5)]
        assert ["HIT", *["MISS"] * 5] == await promptly(tenant, served, "known", *new)
        assert refused(await tenant.send(served, "known", key=tenant.stranger), 503)
        assert refused(await tenant.look(served, "/v1/usage", tenant.key), 503)
        assert 200 == (await tenant.look(served, "/v1/models", tenant.key)).status


async def all_keys(tenant: Tenant) -> None:
    """Reading goes on, so nobody is refused."""
    for served in tenant.full.both:
        new = [f"new {number} {served.port}" for number in range(5)]
        assert ["HIT", *["MISS"] * 5] == await promptly(tenant, served, "known", *new)
        assert 200 == (await tenant.ask(served, "known", key=tenant.stranger)).status
        assert WELL == await tenant.health(served)


async def test_postgresql_down(tenant: Tenant, full: Full) -> None:
    """Told to stop: new connections are refused."""
    with broken(full.postgres.stop, full.postgres.start):
        await known_keys_only(tenant, *full.both)
        for served in full.both:
            await tenant.told(served, *NO_DATABASE)


async def test_postgresql_slow(tenant: Tenant, full: Full) -> None:
    """Slower than its deadlines: as if it were down, for those who reach it so slowly."""
    full.far.database_lag = 2.2
    with broken(lambda: None, lambda: setattr(full.far, "database_lag", 0.0)):
        await known_keys_only(tenant, full.other)
        await tenant.told(full.other, *NO_DATABASE)
        assert WELL == await tenant.health(full.one)


async def test_postgresql_stopped(tenant: Tenant, full: Full) -> None:
    """The kernel still takes connections, and nobody answers."""
    with broken(full.postgres.pause, full.postgres.resume):
        await known_keys_only(tenant, *full.both)
        for served in full.both:
            await tenant.told(served, *NO_DATABASE)


async def test_postgresql_restarted(tenant: Tenant, full: Full) -> None:
    """Each kept connection is dead, and nobody notices."""
    full.postgres.restart()
    for served in full.both:
        assert 200 == (await tenant.ask(served, "known", key=tenant.stranger)).status
        assert ["HIT", "MISS"] == await promptly(tenant, served, "known", f"new {served.port}")


async def test_postgresql_restarted_empty(tenant: Tenant, full: Full) -> None:
    """Its tables are gone: as good as down, until they are back."""
    with broken(
        lambda: full.sql("ALTER SCHEMA watchllm RENAME TO gone"),
        lambda: full.sql("ALTER SCHEMA gone RENAME TO watchllm"),
    ):
        await known_keys_only(tenant, *full.both)
        for served in full.both:
            await tenant.told(served, *NO_DATABASE)


async def test_postgresql_full(tenant: Tenant, full: Full) -> None:
    """Its disk is: what it answers to each row then is said by a trigger."""
    with broken(
        lambda: full.sql(
            "CREATE FUNCTION watchllm.full() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN RAISE EXCEPTION 'no space left' USING ERRCODE = 'disk_full'; END $$",
            "CREATE TRIGGER disk BEFORE INSERT ON watchllm.usage_log"
            " FOR EACH ROW EXECUTE FUNCTION watchllm.full()",
        ),
        lambda: full.sql("DROP FUNCTION watchllm.full CASCADE"),
    ):
        await all_keys(tenant)


async def test_postgresql_without_a_free_connection(tenant: Tenant, full: Full) -> None:
    """All were thrown out, and nobody comes in."""
    with broken(
        lambda: full.sql(
            f"ALTER ROLE {ROLE} CONNECTION LIMIT 0",
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{ROLE}'",
        ),
        lambda: full.sql(f"ALTER ROLE {ROLE} CONNECTION LIMIT -1"),
    ):
        await known_keys_only(tenant, *full.both)
        for served in full.both:
            await tenant.told(served, *NO_DATABASE)


async def test_postgresql_read_only(tenant: Tenant, full: Full) -> None:
    """As after another server was promoted."""
    setting = "default_transaction_read_only"
    reload = "SELECT pg_reload_conf()"
    with broken(
        lambda: full.sql(f"ALTER SYSTEM SET {setting} = on", reload),
        lambda: full.sql(f"ALTER SYSTEM RESET {setting}", reload),
    ):
        await all_keys(tenant)


async def away_at_the_start(tenant: Tenant, folder: Path, heal: Callable[[], Any]) -> None:
    """No key can be known yet, so nobody can be served; then everybody is."""
    with tenant.full.third(folder) as served:
        assert refused(await tenant.send(served, "known", key=tenant.key), 503)
        status, word, _, database = await tenant.health(served)
        assert (503, "down", "down") == (status, word, database)
        heal()
        await tenant.told(served, *WELL)
        assert 200 == (await tenant.ask(served, "known")).status
        await tenant.settled()


async def test_postgresql_away_at_the_start(tenant: Tenant, full: Full, tmp_path: Path) -> None:
    """The start waits for nothing."""
    full.postgres.stop()
    await away_at_the_start(tenant, tmp_path, full.postgres.start)


# --- both -----------------------------------------------------------------------------------------


async def test_redis_and_postgresql_down(tenant: Tenant, full: Full) -> None:
    """What is left is memory: known keys, and answers of the process's own."""
    with (
        broken(full.postgres.stop, full.postgres.start),
        broken(full.valkey.kill, full.valkey.start),
    ):
        await serves_alone(tenant, *full.both)
        await known_keys_only(tenant, *full.both)
        for served in full.both:
            await tenant.told(served, *NEITHER)


async def test_redis_and_postgresql_away_at_the_start(
    tenant: Tenant, full: Full, tmp_path: Path
) -> None:
    """It is there, says that it cannot serve, and heals with them."""
    full.postgres.stop()
    full.valkey.kill()

    def heal() -> None:
        full.valkey.start()
        full.postgres.start()

    await away_at_the_start(tenant, tmp_path, heal)


# --- the journal ----------------------------------------------------------------------------------


async def serves_again(tenant: Tenant, served: Served) -> None:
    async def served_again() -> bool:
        answer = await tenant.send(served, "known", key=tenant.key)
        if answer.status == 200:
            tenant.asked.append(answer.headers["x-request-id"])
        return answer.status == 200

    await until(served_again)
    await tenant.told(served, *WELL)
    assert served.process.poll() is None
    await tenant.settled()


async def test_the_journal_full(tenant: Tenant, full: Full, tight: Served) -> None:
    """The database was away for too long: whoever would leave a row is refused, hits too."""
    await tenant.introduce(tenant.key, tight)
    with broken(full.postgres.stop, full.postgres.start):
        for number in range(1_000):
            answer = await tenant.send(tight, f"waiting {number}", key=tenant.key)
            if answer.status != 200:
                break
            tenant.asked.append(answer.headers["x-request-id"])
        assert number > 50
        assert refused(answer, 503)
        assert refused(await tenant.send(tight, "waiting 1", key=tenant.key), 503)
        status, word, *_ = await tenant.health(tight)
        assert (503, "down") == (status, word)
        assert ["HIT"] == await promptly(tenant, full.one, "known")
    await serves_again(tenant, tight)


async def test_the_journal_not_writable(tenant: Tenant, full: Full, tight: Served) -> None:
    """A file that cannot grow, as on a full disk. The one request that found it out has its row all the same."""
    await tenant.introduce(tenant.key, tight)
    assert ["HIT"] == await promptly(tenant, tight, "known")
    pid = tight.process.pid
    _, most = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    with broken(
        lambda: resource.prlimit(pid, resource.RLIMIT_FSIZE, (1, most)),
        lambda: resource.prlimit(pid, resource.RLIMIT_FSIZE, (most, most)),
    ):
        assert refused(await tenant.ask(tight, "billed"), 503)
        assert refused(await tenant.send(tight, "known", key=tenant.key), 503)
        await tenant.told(tight, *NO_JOURNAL)
        assert ["HIT"] == await promptly(tenant, full.one, "known")
    await serves_again(tenant, tight)


async def test_the_journal_not_writable_at_the_start(tenant: Tenant, tmp_path: Path) -> None:
    """One line says so, and the start has failed."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "journal").write_text("in the way")
    with pytest.raises(AssertionError, match="cannot hold the journal"):
        tenant.full.third(tmp_path).__enter__()


async def test_the_journal_deleted(tenant: Tenant, full: Full, tight: Served) -> None:
    """By somebody who tidied up. New files are made, and what was in memory is recorded."""
    await tenant.introduce(tenant.key, tight)
    with broken(full.postgres.stop, full.postgres.start):
        assert ["HIT", "MISS"] == await promptly(tenant, tight, "known", "before")
        shutil.rmtree(Path(tight.environment["WATCHLLM_DATA_DIR"]) / "journal")

        async def told() -> bool:
            return "deleted" in tight.log

        await until(told)
        assert ["HIT", "MISS"] == await promptly(tenant, tight, "known", "after")
    await serves_again(tenant, tight)


# --- providers ------------------------------------------------------------------------------------


async def test_a_provider_down(tenant: Tenant, full: Full) -> None:
    """Refuses connections."""
    with provider_breaks(full, "refuse"):
        await one_provider_fails(tenant, 502)


async def test_a_provider_slow(tenant: Tenant, full: Full) -> None:
    """Within its deadlines it may take its time."""
    full.far.openai.answer = lambda call: evolve(
        good_answer(call), steps=[0.5, *good_answer(call).steps]
    )
    with broken(lambda: None, lambda: full.far.do(full.far.openai.heal())):
        assert ["MISS", "HIT"] == await promptly(tenant, full.one, "slow", "slow")
        assert WELL == await tenant.health(full.one)


async def test_a_provider_silent(tenant: Tenant, full: Full) -> None:
    """Takes the request and says nothing."""
    with provider_breaks(full, "hang"):
        await one_provider_fails(tenant, 504)


async def test_a_provider_restarted(tenant: Tenant, full: Full) -> None:
    """Kept connections have died meanwhile: the request is sent once more."""
    assert ["MISS"] == await promptly(tenant, full.one, "before")
    with provider_breaks(full, "refuse"):
        pass
    assert ["MISS"] == await promptly(tenant, full.one, "after")


async def test_a_provider_at_its_limit(tenant: Tenant, full: Full) -> None:
    """Its 429 and 503 are passed on, with its time to come back."""
    with provider_says(full, 429, ("retry-after", "7")):
        answer = await one_provider_fails(tenant, 429, "rate_limit_exceeded")
        assert "7" == answer.headers["Retry-After"]
    with provider_says(full, 503):
        assert refused(await tenant.ask(full.one, "overloaded"), 503)


async def test_a_provider_refusing_our_key(tenant: Tenant, full: Full) -> None:
    """Never a 401, by which clients would throw their own good keys away."""
    with provider_says(full, 401):
        await one_provider_fails(tenant, 502)


async def test_a_provider_breaking_off(tenant: Tenant, full: Full) -> None:
    """In the middle of an answer; a stream that has begun is told by an event."""
    with provider_breaks(full, "reset", 2):
        await one_provider_fails(tenant, 502)
        stream = await tenant.ask(full.one, "streamed", stream=True)
        assert 200 == stream.status
        assert "error" in events(stream.body)[-1]


@contextmanager
def provider_breaks(full: Full, fault: str, after: int = 0) -> Iterator[None]:
    openai = full.far.openai
    full.far.do(openai.break_with(fault, after))
    with broken(lambda: None, lambda: full.far.do(openai.heal())):
        yield


@contextmanager
def provider_says(full: Full, status: int, *headers: tuple[str, str]) -> Iterator[None]:
    def answer(call: Call) -> Reply | None:
        if call.method != "POST":
            return None
        return Reply.json(status, {"error": {"message": "no", "type": "no"}}, headers)

    full.far.openai.answer = answer
    with broken(lambda: None, lambda: full.far.do(full.far.openai.heal())):
        yield


async def one_provider_fails(tenant: Tenant, status: int, kind: str = "api_error") -> Answer:
    """Its models do; what is stored of them is served, and so are all others."""
    one = tenant.full.one
    answer = await tenant.ask(one, "failing")
    assert (status, kind) == (answer.status, answer.error["type"])
    assert ["HIT"] == await promptly(tenant, one, "known")
    assert "MISS" == await tenant.cached(one, "elsewhere", model=ANTHROPIC)
    assert WELL == await tenant.health(one)
    return answer


# --- the embedded house ---------------------------------------------------------------------------


async def embedded_rows(served: Served, expected: int) -> None:
    database = Path(served.environment["WATCHLLM_DATA_DIR"]) / "watchllm.db"

    async def written() -> bool:
        connection = sqlite3.connect(database)
        [(rows,)] = connection.execute("SELECT count(*) FROM usage_log").fetchall()
        connection.close()
        return int(rows) == expected

    await until(written)


async def test_cache_db_damaged(tenant: Tenant, tmp_path: Path) -> None:
    """Answers live in memory alone; once the file is out of the way, there is a new one."""
    (tmp_path / "data").mkdir()
    file = tmp_path / "data" / "cache.db"
    file.write_bytes(b"in the way" * 1_000)
    with serving(tmp_path) as served:
        key = served.keys["test"]
        for expected in ("MISS", "HIT"):
            assert expected == (await tenant.send(served, "damaged", key=key)).cached
        async with tenant.http.get(f"{served.root}/health") as answer:
            assert (200, "ok") == (answer.status, (await answer.json())["status"])
        file.unlink()
        assert "MISS" == (await tenant.send(served, "mended", key=key)).cached

        async def new() -> bool:
            return file.exists() and file.read_bytes().startswith(b"SQLite format 3")

        await until(new)
        await embedded_rows(served, 3)


async def test_watchllm_db_locked(tenant: Tenant, tmp_path: Path) -> None:
    """By another program that writes: rows wait in the journal."""
    with serving(tmp_path) as served:
        key = served.keys["test"]
        assert "MISS" == (await tenant.send(served, "before", key=key)).cached
        await embedded_rows(served, 1)
        lock = sqlite3.connect(tmp_path / "data" / "watchllm.db", isolation_level=None)
        lock.execute("BEGIN IMMEDIATE")
        for expected in ("MISS", "HIT"):
            assert expected == (await tenant.send(served, "locked", key=key)).cached
        await embedded_rows(served, 1)
        lock.close()
        await embedded_rows(served, 3)


# --- who watches ----------------------------------------------------------------------------------


async def watched_by(tenant: Tenant, folder: Path, port: int) -> None:
    """Nobody who asks notices, and neither does the end of the process."""
    watchers = {
        "SENTRY_DSN": f"http://public@127.0.0.1:{port}/1",
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
        "DD_TRACE_ENABLED": "true",
        "DD_AGENT_HOST": "127.0.0.1",
        "DD_DOGSTATSD_PORT": str(port),
    }
    with tenant.full.third(folder, **watchers) as served:
        new = [f"watched {number}" for number in range(20)]
        assert ["HIT", *["MISS"] * 20] == await promptly(tenant, served, "known", *new)
        await tenant.told(served, *WELL)
        served.signal()
        assert 0 == await asyncio.to_thread(served.wait, 20)


async def test_sentry_datadog_and_opentelemetry_down(tenant: Tenant, tmp_path: Path) -> None:
    """Refuse connections."""
    await watched_by(tenant, tmp_path, dead_port())


async def test_sentry_datadog_and_opentelemetry_silent(tenant: Tenant, tmp_path: Path) -> None:
    """Take connections and never answer."""
    with hanging() as port:
        await watched_by(tenant, tmp_path, port)
