"""What only the PostgreSQL adapter does: waits that end, connections that heal, nothing left in a session."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from typing import TYPE_CHECKING

import psycopg2
import pytest

from adapters.sql.migrate import migrate
from adapters.sql.pool import Connection
from adapters.sql.postgres import PostgresDb
from adapters.sql.projects import SqlProjects
from domain.errors import Unavailable
from domain.project import Project
from tests.support.fixtures import async_fixture

if TYPE_CHECKING:
    from tests.support.postgres import PostgresServer

pytestmark = pytest.mark.postgres


@pytest.fixture
def server(own_postgres: PostgresServer) -> Iterator[PostgresServer]:
    """A running server that the test may hurt."""
    if not own_postgres.running:
        own_postgres.start()
    yield own_postgres
    if own_postgres.running:
        own_postgres.resume()


@async_fixture
async def db(server: PostgresServer) -> AsyncIterator[PostgresDb]:
    db = PostgresDb(server.url, connections=4, connect_timeout=1.0, statement_timeout=0.5)
    yield db
    await db.aclose()


def ask_directly(server: PostgresServer, sql: str) -> list[tuple[object, ...]]:
    with closing(psycopg2.connect(server.url)) as connection:
        connection.autocommit = True
        cursor = connection.cursor()
        cursor.execute(sql)
        return list(cursor.fetchall()) if cursor.description else []


async def ask_all(db: PostgresDb, times: int = 4) -> list[int]:
    """One question on each connection at the same time."""
    found = await asyncio.gather(
        *(db.rows("SELECT :n::int AS n", {"n": number}) for number in range(times))
    )
    return [row["n"] for [row] in found]


async def test_down_at_the_start(server: PostgresServer, db: PostgresDb) -> None:
    """It boots while the database is down, says so at once and for how long, and heals by itself."""
    server.stop()
    for _ in range(3):
        with pytest.raises(Unavailable) as caught:
            await db.ping()
        assert 1 == caught.value.retry_after

    server.start()

    await db.ping()


async def test_a_restart_costs_nobody_an_answer(server: PostgresServer, db: PostgresDb) -> None:
    """All connections are dead after it, and yet the next questions are answered."""
    await ask_all(db)

    server.restart()

    assert [0, 1, 2, 3] == await ask_all(db)

    server.restart()
    for _ in range(4):
        await asyncio.sleep(0)  # the loop sees that they are dead
    async with db.transaction() as transaction:
        assert [{"n": 1}] == await transaction.rows("SELECT 1 AS n")


async def test_closed_twice(server: PostgresServer) -> None:
    """Closing a connection again does no harm to the one that has its descriptor now."""
    first = Connection(server.url, 1.0, enable_hstore=False)
    await first
    descriptor = first.raw.fileno()
    first.close()
    second = Connection(server.url, 1.0, enable_hstore=False)
    await second
    assert descriptor == second.raw.fileno()

    first.close()

    cursor = await second.cursor()
    await cursor.execute("SELECT 1", timeout=1.0)
    assert (1,) == await cursor.fetchone()
    second.close()


async def test_a_dead_connection_is_tried_once_more(
    server: PostgresServer, db: PostgresDb
) -> None:
    """A question that finds out that its connection died goes out again on a new one."""
    await ask_all(db)
    ask_directly(
        server,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'watchllm'",
    )

    # The loop has not turned since, so nobody has noticed yet.
    assert [{"n": 7}] == await db.rows("SELECT 7 AS n")


async def test_a_power_cut_under_a_question(server: PostgresServer, db: PostgresDb) -> None:
    """A question that is cut off ends at once as `Unavailable`; afterwards all is well."""
    slow = [asyncio.ensure_future(db.rows("SELECT pg_sleep(20)")) for _ in range(4)]
    while (
        len(
            ask_directly(server, "SELECT 1 FROM pg_stat_activity WHERE query LIKE '%pg_sleep(20)'")
        )
        < 4
    ):
        await asyncio.sleep(0.005)

    server.kill()
    ended = await asyncio.gather(*slow, return_exceptions=True)
    server.start()

    assert all(isinstance(error, Unavailable) for error in ended), ended
    assert [0, 1, 2, 3] == await ask_all(db)


async def test_a_frozen_server(server: PostgresServer, db: PostgresDb) -> None:
    """Where nothing answers any more, every wait ends by itself; when it thaws, so do we."""
    await ask_all(db)
    server.pause()

    began = time.monotonic()
    for _ in range(2):
        with pytest.raises(Unavailable):
            await db.ping()
    waited = time.monotonic() - began
    server.resume()

    assert waited < 2 * 1.5 + 1.0
    assert [0, 1, 2, 3] == await ask_all(db)


async def test_a_slow_statement(server: PostgresServer, db: PostgresDb) -> None:
    """The server stops it by itself: the caller is told, is not cancelled, and the connection is kept."""
    [[before]] = [[row["pid"] for row in await db.rows("SELECT pg_backend_pid() AS pid")]]

    with pytest.raises(Unavailable):
        await db.rows("SELECT pg_sleep(20)")

    task = asyncio.current_task()
    assert task is not None
    assert 0 == task.cancelling()
    assert [{"pid": before}] == await db.rows("SELECT pg_backend_pid() AS pid")
    assert [] == ask_directly(
        server,
        "SELECT 1 FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%pg_sleep(20)'",
    )


async def test_cancelled_questions_poison_nothing(db: PostgresDb) -> None:
    """However many callers go away at whatever moment, the others get their own answers."""
    wrong = 0
    for turn in range(60):
        tasks = [
            asyncio.ensure_future(
                db.rows("SELECT :n::int AS n, pg_sleep(0.002)", {"n": 10 * turn + number})
            )
            for number in range(4)
        ]
        for _ in range(turn % 12):
            await asyncio.sleep(0)
        if turn % 3:
            await asyncio.sleep(0.001)
        for task in tasks[::2]:
            task.cancel()
        for number, found in enumerate(await asyncio.gather(*tasks, return_exceptions=True)):
            if isinstance(found, asyncio.CancelledError):
                continue
            assert not isinstance(found, BaseException), found
            wrong += found[0]["n"] != 10 * turn + number

    assert 0 == wrong
    assert [0, 1, 2, 3] == await ask_all(db)


async def test_all_connections_in_use(server: PostgresServer) -> None:
    """Who finds none free waits a short while only, and the others are not disturbed."""
    db = PostgresDb(server.url, connections=2, pool_wait=0.05)
    busy = [asyncio.ensure_future(db.rows("SELECT 1 AS n, pg_sleep(0.5)")) for _ in range(2)]
    await asyncio.sleep(0)

    began = time.monotonic()
    with pytest.raises(Unavailable, match="in use"):
        await db.ping()
    waited = time.monotonic() - began

    assert waited < 0.4
    assert [1, 1] == [row["n"] for [row] in await asyncio.gather(*busy)]
    await db.ping()
    await db.aclose()


async def test_the_server_takes_no_more_connections(
    server: PostgresServer, db: PostgresDb
) -> None:
    """The server's own limit is `Unavailable` too, and passes."""
    server.restart(
        "max_connections=5", "superuser_reserved_connections=0", "reserved_connections=0"
    )
    others = [psycopg2.connect(server.url) for _ in range(5)]
    try:
        with pytest.raises(Unavailable):
            await db.ping()
    finally:
        for other in others:
            other.close()
        server.restart()

    await db.ping()


async def test_a_failover_to_a_reader(server: PostgresServer, db: PostgresDb) -> None:
    """A server that takes no writes any more is `Unavailable` for them, and its connections are not kept."""
    await migrate(db)
    projects = SqlProjects(db)
    ask_directly(server, "ALTER DATABASE postgres SET default_transaction_read_only = on")
    for pid in ask_directly(
        server, "SELECT pid FROM pg_stat_activity WHERE application_name = 'watchllm'"
    ):
        ask_directly(server, f"SELECT pg_terminate_backend({pid[0]})")
    try:
        with pytest.raises(Unavailable):
            await projects.add(Project("p_1", "shop", "free", 0, 1.0))
        assert [] == list(await projects.all())
        [[reader]] = [[row["pid"] for row in await db.rows("SELECT pg_backend_pid() AS pid")]]
    finally:
        with closing(
            psycopg2.connect(server.url, options="-c default_transaction_read_only=off")
        ) as connection:
            connection.autocommit = True
            connection.cursor().execute(
                "ALTER DATABASE postgres RESET default_transaction_read_only"
            )

    # The connection that read is still one that cannot write: it is given up for a new one.
    assert await projects.add(Project("p_1", "shop", "free", 0, 1.0)) is True
    assert [{"pid": reader}] != await db.rows("SELECT pg_backend_pid() AS pid")


async def test_descriptors_above_what_select_takes(server: PostgresServer, db: PostgresDb) -> None:
    """In a process with thousands of sockets a dead connection is noticed and its number may be used again."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4_096, hard), hard))
    taken = [os.open(os.devnull, os.O_RDONLY) for _ in range(1_100)]
    try:
        await ask_all(db)
        server.restart()
        assert [0, 1, 2, 3] == await ask_all(db)

        slow = asyncio.ensure_future(db.rows("SELECT pg_sleep(20)"))
        await asyncio.sleep(0)
        server.kill()
        with pytest.raises(Unavailable):
            await slow
        with pytest.raises(Unavailable):
            await db.ping()
        server.start()
        assert [0, 1, 2, 3] == await ask_all(db)
    finally:
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_nothing_is_left_in_the_session(db: PostgresDb) -> None:
    """Settings end with each statement, as a pooler that hands sessions around needs it."""
    inside = "SELECT current_setting('search_path') AS path, current_setting('statement_timeout') AS wait"
    assert [{"path": "watchllm, pg_temp", "wait": "500ms"}] == await db.rows(inside)

    async with db.transaction() as transaction:
        assert [{"path": "watchllm, pg_temp", "wait": "500ms"}] == await transaction.rows(inside)
        await transaction.script("COMMIT")
        assert [{"path": '"$user", public', "wait": "0"}] == await transaction.rows(inside)


async def test_nothing_is_made_in_public(server: PostgresServer, db: PostgresDb) -> None:
    """All tables are in the schema of our own."""
    await migrate(db)

    found = ask_directly(
        server,
        "SELECT DISTINCT schemaname FROM pg_tables WHERE tablename IN ('projects', 'usage_log')",
    )
    assert [("watchllm",)] == found


async def test_a_change_by_hand_is_numbered(server: PostgresServer, db: PostgresDb) -> None:
    """An operator's own session, with another search path, changes a plan and every node learns of it."""
    await migrate(db)
    before = await db.rows("SELECT number FROM grant_changes")

    ask_directly(server, "UPDATE watchllm.projects SET plan = 'pro'")

    assert before != await db.rows("SELECT number FROM grant_changes")


async def test_a_role_that_may_not_create_schemas(server: PostgresServer, db: PostgresDb) -> None:
    """Where the schema is there, migrating asks for no right to create one."""
    await migrate(db)
    ask_directly(
        server,
        "DROP ROLE IF EXISTS worker; CREATE ROLE worker LOGIN; GRANT USAGE, CREATE ON SCHEMA watchllm TO worker;"
        "GRANT SELECT ON ALL TABLES IN SCHEMA watchllm TO worker",
    )
    # Whoever was granted tables since sees their rows from here on.
    await migrate(db)
    worker = PostgresDb(server.url.replace("watchllm@", "worker@"))
    try:
        assert [] == await migrate(worker)
    finally:
        await worker.aclose()
        ask_directly(server, "DROP OWNED BY worker; DROP ROLE worker")


async def test_parameters_and_percent_signs(db: PostgresDb) -> None:
    """What looks like a parameter inside quotes or a cast is none, and a percent sign is itself."""
    found = await db.rows(
        "SELECT ':a 100%' AS quoted, 'it''s :a' AS doubled, :a::text AS given, 7 % 4 AS rest",
        {"a": "%(a)s :a 'x' \\ %"},
    )

    assert [
        {"quoted": ":a 100%", "doubled": "it's :a", "given": "%(a)s :a 'x' \\ %", "rest": 3}
    ] == found
    assert [{"rest": 3, "like": "%"}] == await db.rows("SELECT 7 % 4 AS rest, '%' AS like")


async def test_told_once(
    server: PostgresServer, db: PostgresDb, caplog: pytest.LogCaptureFixture
) -> None:
    """One line when the database goes and one when it is back, without a name of anything."""
    server.stop()
    with caplog.at_level(logging.INFO, logger="adapters"):
        for _ in range(3):
            with pytest.raises(Unavailable):
                await db.ping()
        server.start()
        await db.ping()
        await db.ping()

    assert ["WARNING", "INFO"] == [record.levelname for record in caplog.records]
    assert "127.0.0.1" not in caplog.text


@pytest.mark.parametrize(
    "url", ["postgresql://u:s3cret@[::1/db", "http://u:s3cret@host/db", "s3cret"]
)
def test_a_wrong_url_is_not_repeated(url: str) -> None:
    """It is refused when read, in words that hold none of it."""
    with pytest.raises(ValueError, match="PostgreSQL URL") as caught:
        PostgresDb(url)

    assert "s3cret" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


async def test_no_password_in_an_error(server: PostgresServer) -> None:
    """An unreachable or unwilling server is told of without what we know of it."""
    for url in (
        f"postgresql://nobody:s3cret@127.0.0.1:{server.port}/postgres",
        "postgresql://u:s3cret@127.0.0.1:1/db",
        "postgresql://u:s3cret@host.invalid/db",
    ):
        db = PostgresDb(url)
        with pytest.raises(Unavailable) as caught:
            await db.ping()
        await db.aclose()

        error: BaseException | None = caught.value
        while error is not None:
            assert "s3cret" not in str(error)
            error = error.__cause__


async def test_closed(server: PostgresServer) -> None:
    """Closing ends what is under way, lets no connection behind, and later questions are refused."""
    db = PostgresDb(server.url)
    await db.ping()
    slow = asyncio.ensure_future(db.rows("SELECT pg_sleep(3)"))
    await asyncio.sleep(0)

    await db.aclose()

    with pytest.raises(Unavailable):
        await slow
    with pytest.raises(Unavailable, match="closed"):
        await db.ping()
    await db.aclose()
