"""Who may do what in PostgreSQL: docs/decisions/0024-rls-and-a-service-role.md."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from typing import TYPE_CHECKING

import attrs
import psycopg2
import pytest

from adapters.sql.billing import SqlBillingBook
from adapters.sql.chores import SqlChores
from adapters.sql.contacts import SqlContacts
from adapters.sql.db import POSTGRES
from adapters.sql.keys import SqlKeys
from adapters.sql.migrate import MONTHS_AHEAD, MigrationError, migrate, packaged, pending
from adapters.sql.postbox import SqlPostbox
from adapters.sql.postgres import PostgresDb
from adapters.sql.projects import SqlProjects
from adapters.sql.reports import SqlUsageReports
from adapters.sql.rls import Rights, rights
from adapters.sql.usage import SqlUsageLog
from domain.billing import PAST_DUE, Account, BillingEvent, Subscription
from domain.errors import Unavailable
from domain.notices import MAIL, PLAN_CHANGED, Contact, Delivery
from domain.project import ApiKey, Project
from domain.reports import Span
from tests.adapters.test_partitions import drop_from, month, name, record
from tests.support.fixtures import async_fixture

if TYPE_CHECKING:
    from tests.support.postgres import PostgresServer

pytestmark = pytest.mark.postgres

NOW = 1_800_000_000.0
ROLES = ("anon", "authenticated", "watchllm_service")
SERVICE = "watchllm_service"
DELIVERY = Delivery(
    "plan_changed:evt_1",
    MAIL,
    "o@shop.example",
    PLAN_CHANGED,
    "p_1",
    {},
    queued_at=NOW,
    due_at=NOW,
    subject="sub_1",
)


def ask_directly(url: str, *statements: str) -> list[tuple[object, ...]]:
    with closing(psycopg2.connect(url)) as connection:
        connection.autocommit = True
        cursor = connection.cursor()
        for statement in statements:
            cursor.execute(statement)
        return list(cursor.fetchall()) if cursor.description else []


@pytest.fixture
def server(own_postgres: PostgresServer) -> Iterator[PostgresServer]:
    """A server without any of the roles, and without our schema."""
    if not own_postgres.running:
        own_postgres.start()
    yield own_postgres
    found = ask_directly(
        own_postgres.url,
        "DROP SCHEMA IF EXISTS watchllm CASCADE",
        "SELECT rolname FROM pg_roles WHERE rolname NOT LIKE 'pg!_%' ESCAPE '!' AND NOT rolsuper",
    )
    for (role,) in found:
        ask_directly(own_postgres.url, f"DROP OWNED BY {role}", f"DROP ROLE {role}")


@pytest.fixture
def roles(server: PostgresServer) -> None:
    ask_directly(server.url, *(f"CREATE ROLE {role} LOGIN" for role in ROLES))


def url_of(server: PostgresServer, role: str) -> str:
    return server.url.replace("//watchllm@", f"//{role}@")


@async_fixture
async def owner(server: PostgresServer) -> AsyncIterator[PostgresDb]:
    db = PostgresDb(server.url)
    yield db
    await db.aclose()


@async_fixture
async def service(server: PostgresServer, roles: None) -> AsyncIterator[PostgresDb]:
    """What runs. Nothing is asked over it before the test does."""
    db = PostgresDb(url_of(server, SERVICE))
    yield db
    await db.aclose()


async def use_everything(db: PostgresDb) -> None:
    """All that the product does with a database."""
    await _use_keys(db)
    await _use_ledger(db)
    await _use_billing(db)
    await _use_postbox(db)


async def _use_keys(db: PostgresDb) -> None:
    assert [] == await pending(db)
    projects, keys = SqlProjects(db), SqlKeys(db, lambda: NOW)
    before = await keys.sequence()
    assert await projects.add(Project("p_1", "shop", "free", 0, NOW))
    await keys.add(ApiKey("k_1", "p_1", "project", "n", "h", NOW, None, None), b"digest")
    await projects.set_budget("p_1", 5)
    assert 1 == await projects.purge_cache("p_1")
    assert await keys.grant(b"digest") is not None
    await keys.note_used({"k_1": NOW})
    assert await keys.end("k_1", at=NOW)
    assert before + 5 <= await keys.sequence()


async def _use_ledger(db: PostgresDb) -> None:
    ledger, reports = SqlUsageLog(db), SqlUsageReports(db)
    in_month, in_rest = record(month(1).timestamp()), record(month(-1).timestamp())
    await ledger.append([in_month, in_rest])
    await ledger.append([in_month])
    span = Span(int(month(-2).timestamp()), int(month(3).timestamp()))
    assert in_month == await reports.find("p_1", in_month.id)
    assert in_rest == await reports.find("p_1", in_rest.id)
    assert 2 == (await reports.sum("p_1", span)).requests
    assert 2 == await reports.served("p_1", span)
    assert 2 == (await reports.months(0))["p_1"].requests


async def _use_billing(db: PostgresDb) -> None:
    contacts = SqlContacts(db, bytes(32))
    await contacts.keep(Contact("p_1", "o@shop.example", "https://x.example/y"))
    book = SqlBillingBook(db, contacts)
    event = BillingEvent("evt_1", "t", NOW, subscription="sub_1", project="p_1")
    async with book.turn() as turn:
        assert await turn.log(event, b"{}", NOW) is not None
        assert await turn.log(event, b"{}", NOW) is None
        await turn.restate(event)
        assert 1 == len(await turn.history("sub_1"))
        await turn.keep(Subscription("sub_1", "p_1", status=PAST_DUE))
        await turn.keep_account(Account("p_1"))
        assert await turn.set_plan("p_1", "pro")
        assert "https://x.example/y" == (await turn.contact("p_1")).channel
        await turn.post([DELIVERY], "sub_1")
    async with book.turn() as turn:
        await turn.post([], "sub_1")
        await turn.post([DELIVERY])
    assert 1 == len(await book.events("p_1", 10))
    assert 1 == len(await book.failing())


async def _use_postbox(db: PostgresDb) -> None:
    postbox = SqlPostbox(db)
    assert 0 == await postbox.add([DELIVERY])
    [taken] = await postbox.take(NOW, 60, 10)
    await postbox.postpone(taken, NOW, "later")
    [taken] = await postbox.take(NOW, 60, 10)
    await postbox.give_up(taken, NOW, "gone")
    assert 1 == await postbox.retry(taken.notice, NOW)
    [taken] = await postbox.take(NOW, 60, 10)
    await postbox.sent(taken, NOW)
    assert 0 == await postbox.forget(NOW + 1)
    assert (0, 0.0) == await postbox.waiting(NOW)
    assert await SqlChores(db).mine("chore", NOW, 60)


async def test_the_service_can_do_all_the_product_does(
    owner: PostgresDb, service: PostgresDb
) -> None:
    """Rows of every table, the counting of changes and both kinds of partition included."""
    await migrate(owner)

    await use_everything(service)

    assert [{"who": SERVICE}] == await service.rows("SELECT current_user::text AS who")


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE mine (id text)",
        "ALTER TABLE projects ADD COLUMN mine text",
        "ALTER TABLE projects DISABLE ROW LEVEL SECURITY",
        "DROP TABLE notices",
        "TRUNCATE notices",
        "DROP POLICY watchllm_rows ON projects",
        "CREATE INDEX mine ON projects (plan)",
        "CREATE FUNCTION mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "SELECT add_usage_partitions(24)",
        "SELECT secure_tables()",
        "INSERT INTO migrations VALUES ('9999_mine', '')",
        "DELETE FROM migrations",
    ],
)
async def test_the_service_changes_no_table(
    owner: PostgresDb, service: PostgresDb, statement: str
) -> None:
    """Whoever takes over what runs gets at rows, and no further."""
    await migrate(owner)
    before = await owner.rows("SELECT relname, relacl::text FROM pg_class ORDER BY oid")

    with pytest.raises(Unavailable):
        await service.run(statement)
    with pytest.raises(Unavailable):
        await migrate(service)

    assert before == await owner.rows("SELECT relname, relacl::text FROM pg_class ORDER BY oid")
    assert [] == await pending(service)


async def test_the_service_lets_nobody_in(owner: PostgresDb, service: PostgresDb) -> None:
    """It cannot pass its rights on. PostgreSQL only warns of that."""
    await migrate(owner)
    await service.run("GRANT SELECT ON projects TO anon, PUBLIC")

    assert () == (await rights(owner)).exposed


async def test_before_the_first_migration(service: PostgresDb) -> None:
    """The service can see that everything is missing."""
    assert await pending(service)


@pytest.mark.parametrize("role", ["anon", "authenticated", "somebody"])
async def test_nobody_else_sees_anything(
    owner: PostgresDb, server: PostgresServer, roles: None, role: str
) -> None:
    """Also if tables had been granted to everybody, and by hand: the next migration takes it back."""
    ask_directly(server.url, "CREATE ROLE somebody LOGIN", f"ALTER ROLE {role} BYPASSRLS")
    await migrate(owner)
    await owner.run(f"GRANT ALL ON SCHEMA watchllm TO {role}, PUBLIC")
    await owner.run("GRANT ALL ON ALL TABLES IN SCHEMA watchllm TO PUBLIC, anon, authenticated")
    await owner.run("GRANT SELECT (name) ON projects TO PUBLIC, anon, authenticated")
    await owner.run("GRANT ALL ON ALL FUNCTIONS IN SCHEMA watchllm TO PUBLIC, anon")
    assert len((await rights(owner)).exposed) > MONTHS_AHEAD

    await migrate(owner)

    found = await rights(owner)
    assert () == found.exposed
    tables = await owner.rows(
        "SELECT relname AS name FROM pg_class WHERE relnamespace = 'watchllm'::regnamespace"
        " AND relkind IN ('r', 'p')"
    )
    assert len(tables) > MONTHS_AHEAD + 10
    for table in tables:
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            ask_directly(url_of(server, role), f"SELECT * FROM watchllm.{table['name']}")
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        ask_directly(url_of(server, role), "SELECT watchllm.add_usage_partitions(24)")


async def test_rows_are_guarded_by_themselves(
    owner: PostgresDb, server: PostgresServer, roles: None
) -> None:
    """A grant that slipped in shows no row: of no table, and of no partition."""
    await migrate(owner)
    await use_everything(owner)
    await owner.run("GRANT USAGE ON SCHEMA watchllm TO anon")
    await owner.run("GRANT SELECT ON ALL TABLES IN SCHEMA watchllm TO anon")

    for table in ("projects", "api_keys", "notices", "usage_log", name(month(1)), "usage_daily"):
        assert await owner.rows(f"SELECT * FROM {table}")
        assert [] == ask_directly(url_of(server, "anon"), f"SELECT * FROM watchllm.{table}")


async def test_partitions_that_come_later(owner: PostgresDb, service: PostgresDb) -> None:
    """Months that are added by a later migration are as the others."""
    await migrate(owner)
    await drop_from(owner, 2)

    await migrate(owner)

    assert Rights((), (), may_create=True) == await rights(owner)
    assert Rights((), (), may_create=False) == await rights(service)
    await service.rows(f"SELECT * FROM {name(month(MONTHS_AHEAD))}")


async def test_a_role_that_comes_later(owner: PostgresDb, server: PostgresServer) -> None:
    """The next migration lets it in, while others write: whoever runs meanwhile waits, and nobody fails."""
    await migrate(owner)
    assert Rights((), (), may_create=True) == await rights(owner)
    ask_directly(server.url, *(f"CREATE ROLE {role} LOGIN" for role in ROLES))
    service, busy = PostgresDb(url_of(server, SERVICE)), PostgresDb(server.url)
    done = asyncio.Event()

    async def work(number: int) -> None:
        keys, ledger = SqlKeys(busy, lambda: NOW), SqlUsageLog(busy)
        count = 0
        while not done.is_set():
            count += 1
            await keys.grant(b"digest")
            used = record(NOW + number * 1e6 + count)
            await ledger.append([attrs.evolve(used, project="p_0")])
            await SqlPostbox(busy).waiting(NOW)
            async with SqlBillingBook(busy, SqlContacts(busy, bytes(32))).turn() as turn:
                await turn.history("sub_1")
                await turn.set_plan("p_1", "pro")

    try:
        workers = [asyncio.ensure_future(work(number)) for number in range(6)]
        await migrate(owner)
        done.set()
        await asyncio.gather(*workers)
        await use_everything(service)
    finally:
        done.set()
        await busy.aclose()
        await service.aclose()


async def test_an_upgrade_while_others_write(owner: PostgresDb, server: PostgresServer) -> None:
    """From the schema before there was any of this: whoever runs meanwhile waits, and nobody fails."""
    [first, *_] = packaged(POSTGRES)
    await migrate(owner, [first])
    await SqlProjects(owner).add(Project("p_0", "old", "free", 0, NOW))
    busy = PostgresDb(server.url)
    done = asyncio.Event()

    async def work(number: int) -> None:
        keys, ledger, projects = SqlKeys(busy, lambda: NOW), SqlUsageLog(busy), SqlProjects(busy)
        count = 0
        while not done.is_set():
            count += 1
            await keys.grant(b"digest")
            await ledger.append([record(NOW + number * 1e6 + count)])
            await projects.set_plan("p_0", "pro")

    try:
        workers = [asyncio.ensure_future(work(number)) for number in range(6)]
        assert await migrate(owner)
        done.set()
        await asyncio.gather(*workers)
    finally:
        done.set()
        await busy.aclose()
    assert () == (await rights(owner)).unguarded


@pytest.mark.parametrize(
    "tables", [("usage_log", "usage_hourly", "usage_daily"), ("api_keys", "projects")]
)
async def test_an_upgrade_in_the_middle_of_a_statement(
    owner: PostgresDb, server: PostgresServer, tables: tuple[str, ...]
) -> None:
    """Whoever has begun with a table gets at the next one, too, and the migration waits for him."""
    await migrate(owner, packaged(POSTGRES)[:1])
    busy = PostgresDb(server.url)
    waits = "SELECT 1 FROM pg_locks WHERE NOT granted AND locktype = 'relation'"
    try:
        async with busy.transaction() as transaction:
            for number, table in enumerate(tables):
                await transaction.run(f"DELETE FROM {table}")
                if number == 0:
                    upgrade = asyncio.ensure_future(migrate(owner))
                while not await transaction.rows(waits):
                    assert not upgrade.done()
                    await asyncio.sleep(0.01)
        assert "0002_billing" in await upgrade
    finally:
        await busy.aclose()


async def test_a_role_of_another_name_keeps_its_rows(
    owner: PostgresDb, server: PostgresServer
) -> None:
    """Whoever was granted tables by name, as before there was row level security, goes on."""
    await migrate(owner)
    ask_directly(
        server.url,
        'CREATE ROLE "runs-it" LOGIN',
        'GRANT USAGE ON SCHEMA watchllm TO "runs-it"',
        'GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA watchllm TO "runs-it"',
        *(
            f"ALTER TABLE watchllm.{one} DISABLE ROW LEVEL SECURITY"
            for one in ("projects", "notices")
        ),
    )
    assert ("notices", "projects") == (await rights(owner)).unguarded

    await migrate(owner)

    runs = PostgresDb(url_of(server, "runs-it"))
    try:
        await use_everything(runs)
    finally:
        await runs.aclose()
        ask_directly(server.url, 'DROP OWNED BY "runs-it"', 'DROP ROLE "runs-it"')


async def test_a_role_that_was_not_let_in_yet(
    owner: PostgresDb, server: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Granted after the last migration it sees no row. It is told so, and does not take the database for a new one; once
    the owner has migrated it may migrate, too, where nothing is missing, and leaves to the owner what is the owner's."""
    await migrate(owner)
    ask_directly(
        server.url,
        "CREATE ROLE late LOGIN",
        "GRANT USAGE, CREATE ON SCHEMA watchllm TO late",
        "GRANT SELECT ON ALL TABLES IN SCHEMA watchllm TO late",
    )
    late = PostgresDb(url_of(server, "late"))
    try:
        assert await pending(late)
        with pytest.raises(MigrationError, match="as their owner"):
            await migrate(late)
        await migrate(owner)

        assert [] == await pending(late)
        assert [] == await migrate(late)
    finally:
        await late.aclose()
    assert "does not own" in caplog.text


async def test_nothing_new_locks_nothing(owner: PostgresDb, service: PostgresDb) -> None:
    """Migrating again passes by whoever reads and writes."""
    await migrate(owner)
    await use_everything(service)
    async with service.transaction() as transaction:
        await transaction.run("UPDATE projects SET plan = 'pro'")
        await transaction.run("UPDATE notices SET fault = ''")
        await transaction.run("UPDATE billing_turn SET arrivals = arrivals")
        await transaction.rows("SELECT * FROM usage_daily")

        assert [] == await asyncio.wait_for(migrate(owner), 10)


async def test_functions_have_a_search_path(owner: PostgresDb) -> None:
    """Nobody can slip a table of his own under one."""
    await migrate(owner)
    found = await owner.rows(
        "SELECT proname AS name, proconfig::text AS config FROM pg_proc"
        " WHERE pronamespace = 'watchllm'::regnamespace"
    )

    assert {
        "add_usage_partitions",
        "count_grant_change",
        "first_usage_id",
        "secure_tables",
    } == {row["name"] for row in found}
    assert {'{"search_path=watchllm, pg_temp"}'} == {row["config"] for row in found}
