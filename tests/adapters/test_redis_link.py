"""The link against real and hostile servers: no answer ever reaches another caller, and a sick server costs little."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import gc
import ipaddress
import logging
import random
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from adapters.redis.cluster import open_link
from adapters.redis.connection import MAX_REPLY, NoAnswer, RedisFault, Refused
from adapters.redis.link import MAX_UNANSWERED
from tests.support.relay import relay
from tests.support.valkey import valkey_cluster, valkey_server

Answer = Callable[[int], bytes]


class FakeServer(asyncio.Protocol):
    """Greets as a server does, then answers each read with what `answer(number of its commands)` gives."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.connections = 0
        self.reads: list[bytes] = []

    def connection_made(self, transport):
        self.connections += 1
        self.transport = transport

    def data_received(self, data):
        if data == b"*1\r\n$4\r\nPING\r\n":
            self.transport.write(b"+PONG\r\n")
            return
        self.reads.append(data)
        self.transport.write(self.answer(data.count(b"*")))


@asynccontextmanager
async def fake_server(answer: Answer) -> AsyncIterator[tuple[FakeServer, str]]:
    fake = FakeServer(answer)
    server = await asyncio.get_running_loop().create_server(lambda: fake, "127.0.0.1", 0)
    try:
        yield fake, f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        if fake.connections:
            fake.transport.abort()
        await asyncio.sleep(0.01)


async def timed(awaitable):
    """(what came of it, seconds it took)"""
    began = time.perf_counter()
    try:
        came = await awaitable
    except RedisFault as fault:
        came = fault
    return came, time.perf_counter() - began


async def until(wish: Callable[[], bool], within: float) -> float:
    began = time.perf_counter()
    while not wish():
        assert time.perf_counter() - began < within, "it did not happen in time"
        await asyncio.sleep(0.005)
    return time.perf_counter() - began


async def failures(link, count: int) -> list[float]:
    took = []
    for _ in range(count):
        came, seconds = await timed(link.execute("GET", "k"))
        assert isinstance(came, NoAnswer), came
        took.append(seconds)
    return took


# --- what it carries ------------------------------------------------------------------------------


async def test_it_carries_any_command(valkey_url):
    """Text, bytes and numbers out; bytes, numbers, None and lists back; a refusal with its code."""
    async with aclosing(open_link(valkey_url, command_timeout=2)) as link:
        name = f"t:{random.random()}"
        script = "return {KEYS[1], ARGV[1] + 1}"
        digest = await link.execute("SCRIPT", "LOAD", script)

        assert b"OK" == await link.execute("SET", name, b"\r\n\0\xff", "PX", 60_000)
        assert b"\r\n\0\xff" == await link.execute("GET", name)
        assert None is await link.execute("GET", name + "x")
        assert [name.encode(), 8] == await link.execute("EVALSHA", digest, 1, name, 7)
        with pytest.raises(Refused) as refused:
            await link.execute("EVALSHA", "0" * 40, 0)
        assert "NOSCRIPT" == refused.value.code
        assert b"OK" == await link.execute("SET", name, "still good")
        await link.ping()


async def test_commands_of_one_turn_leave_in_one_write():
    """A hundred callers of the same turn cost one system call."""
    async with fake_server(lambda commands: b"$1\r\nx\r\n" * commands) as (fake, url):
        async with aclosing(open_link(url)) as link:
            await link.ping()
            answers = [link.execute("GET", f"key-{n}") for n in range(100)]

            assert [b"x"] * 100 == [await answer for answer in answers]
            assert (1, 1) == (len(fake.reads), fake.connections)


async def test_nobody_gets_another_ones_answer(valkey_url):
    """Callers leave at any moment, answers come late, connections break: 0 wrong answers."""
    chance = random.Random(7)
    wrong = right = failed = 0

    async def ask(link, number):
        nonlocal wrong, right, failed
        token = b"token-%d" % number
        try:
            async with asyncio.timeout(chance.choice([0.004, 0.01, 10])):
                answer = await link.execute("ECHO", token)
        except TimeoutError:
            return
        except RedisFault:
            failed += 1
            return
        right += answer == token
        wrong += answer != token

    def delay() -> float:
        return 0.12 if chance.random() < 0.03 else chance.random() * 0.004

    async def caller(link, first):
        for number in range(first, first + 100):
            await ask(link, number)
            await asyncio.sleep(chance.random() * 0.004)

    port = int(valkey_url.rpartition(":")[2].partition("/")[0])
    async with relay(port, delay=delay) as near:
        async with aclosing(open_link(f"redis://127.0.0.1:{near}")) as link:
            await asyncio.gather(*(caller(link, n * 100) for n in range(40)))

    assert 0 == wrong
    assert right > 300, (right, failed)
    assert failed > 0, "the relay was to break some"


# --- servers that fail ----------------------------------------------------------------------------


async def test_a_killed_server_costs_nothing_and_is_found_again(valkey, caplog):
    """SIGKILL: what is in flight fails at once, then everything does; a restart heals it within two seconds."""
    async with aclosing(open_link(valkey.url)) as link:
        assert b"OK" == await link.execute("SET", "k", "v")
        valkey.kill()
        took = await failures(link, 10)

        assert max(took) < 0.05
        assert "open" == link.state
        valkey.start()
        assert await until(lambda: link.state == "closed", within=2) < 2
        assert None is await link.execute("GET", "k")
    assert 1 == sum("is away" in line for line in caplog.messages)


async def test_a_stopped_server_costs_one_deadline_each_and_soon_nothing(valkey):
    """SIGSTOP: 50 ms for a caller, for less than half a second, then microseconds; it comes back by itself."""
    async with aclosing(open_link(valkey.url)) as link:
        assert b"OK" == await link.execute("SET", "k", "v")
        valkey.freeze()
        began = time.perf_counter()
        took = []
        while link.state == "closed":
            took += await failures(link, 1)

        assert max(took) < 0.09  # 50 ms, and what two busy cores add
        assert time.perf_counter() - began < 0.5
        assert max(await failures(link, 100)) < 0.01
        valkey.thaw()
        await until(lambda: link.state == "closed", within=2.5)
        assert b"v" == await link.execute("GET", "k")


async def test_a_stopped_server_fails_all_in_flight_together(valkey):
    """They share the connection, so they share its doubt; and that is one failure, not thirty."""
    async with aclosing(open_link(valkey.url)) as link:
        await link.ping()
        valkey.freeze()
        came = await asyncio.gather(*(timed(link.execute("GET", "k")) for _ in range(30)))

        assert all(isinstance(fault, NoAnswer) for fault, _ in came)
        assert max(seconds for _, seconds in came) < 0.09
        assert "closed" == link.state
        valkey.thaw()


async def test_no_server_at_all():
    """Nothing listens: refused at once, and the product still starts."""
    async with fake_server(lambda _: b"") as (_, url):
        pass
    async with aclosing(open_link(url)) as link:
        assert max(await failures(link, 10)) < 0.05
        assert "open" == link.state


async def test_an_idle_connection_may_be_closed_by_the_server(valkey):
    """CLIENT KILL while nobody waits: the next command connects anew, nobody notices."""
    async with aclosing(open_link(valkey.url)) as link:
        for _ in range(10):
            await link.ping()
            valkey.call("CLIENT", "KILL", "TYPE", "normal")
            await asyncio.sleep(0.02)
        assert b"PONG" == await link.execute("PING")
        assert "closed" == link.state


async def test_our_own_standstill_is_not_the_servers_fault(valkey):
    """A turn that blocked the loop for longer than the deadline fails no command that was answered meanwhile."""
    # The relay runs in this loop too, so an answer is some turns away when the loop goes on.
    async with relay(valkey.port) as port:
        async with aclosing(open_link(f"redis://127.0.0.1:{port}")) as link:
            await link.ping()
            for _ in range(3):
                answer = link.execute("PING")
                await asyncio.sleep(0)
                time.sleep(0.08)
                assert b"PONG" == await answer


async def test_an_overloaded_process_still_connects(valkey):
    """Turns of 30 ms each, for as long as it takes: the cache is what could bring the load down."""

    async def hog():
        while True:
            time.sleep(0.03)
            await asyncio.sleep(0)

    load = asyncio.create_task(hog())
    async with aclosing(open_link(valkey.url)) as link:
        began = time.perf_counter()
        while (await timed(link.execute("PING")))[0] != b"PONG":
            assert time.perf_counter() - began < 5
            await asyncio.sleep(0.05)
        assert [b"PONG"] * 10 == [await link.execute("PING") for _ in range(10)]
    load.cancel()


async def test_failures_nobody_asks_about_are_not_told(caplog):
    """A caller may drop its answer; the log is not the place where it turns up."""
    async with fake_server(lambda _: b"") as (_, url):
        pass
    async with aclosing(open_link(url)) as link:
        for _ in range(3):
            link.execute("GET", "k")
        await failures(link, 5)
        link.execute("GET", "k")
        gc.collect()

    assert not [record for record in caplog.records if "never retrieved" in record.getMessage()]


@pytest.mark.parametrize(
    "rubbish",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"+OK\r\n+OK\r\n",
        b"\0\0\0\0",
        b"$-7\r\n",
        b"*1\r\n" * 50,
        b"$3\r\nabcdef\r\n",
        b">2\r\n+invalidate\r\n*0\r\n",
        b":99999999999999999999999\r\n",
        b"-\xff\xfe\r\n+OK\r\n",
    ],
)
async def test_rubbish_ends_the_connection(rubbish):
    """What is no answer, or one answer too many, is told as a failure; the next command has a new connection."""
    async with fake_server(lambda _: rubbish) as (fake, url):
        async with aclosing(open_link(url)) as link:
            with contextlib.suppress(RedisFault):
                await link.execute("GET", "a")
            await until(lambda: link._connection is None, within=1)
            fake.answer = lambda commands: b"$1\r\ny\r\n" * commands

            assert b"y" == await link.execute("GET", "b")
            assert 2 == fake.connections


async def test_a_spare_answer_reaches_no_one():
    """Two answers to one question: the second is not kept for the next one."""
    async with fake_server(lambda _: b"$5\r\nfirst\r\n$6\r\nsecond\r\n") as (fake, url):
        async with aclosing(open_link(url)) as link:
            assert b"first" == await link.execute("GET", "a")
            fake.answer = lambda _: b"$5\r\nthird\r\n"

            assert b"third" == await link.execute("GET", "b")


async def test_an_endless_answer_is_cut():
    """Memory is bounded whatever the server says the length is."""
    huge = b"$%d\r\n" % (1 << 30) + b"x" * (MAX_REPLY + 1)
    async with fake_server(lambda _: huge) as (_, url):
        async with aclosing(open_link(url, command_timeout=10)) as link:
            came, seconds = await timed(link.execute("GET", "a"))

            assert "it sent an endless answer" == str(came)
            assert seconds < 5


async def test_what_waits_is_bounded():
    """A server that takes no more makes callers fail, not our memory grow."""
    async with fake_server(lambda _: b"") as (_, url):
        async with aclosing(open_link(url, command_timeout=5)) as link:
            await link.ping()
            block = b"x" * (MAX_UNANSWERED // 4)
            waiting = [link.execute("SET", "k", block) for _ in range(3)]
            await asyncio.sleep(0)
            came, seconds = await timed(link.execute("SET", "k", block + block))

            assert isinstance(came, NoAnswer)
            assert seconds < 0.01
            assert not any(answer.done() for answer in waiting)


async def test_closing_fails_who_waits():
    """Nobody hangs on a link that was closed."""
    async with fake_server(lambda _: b"") as (_, url):
        link = open_link(url, command_timeout=5)
        await link.ping()
        sent, unsent = link.execute("GET", "a"), None
        await asyncio.sleep(0)
        unsent = link.execute("GET", "b")
        await link.aclose()

        for answer in (sent, unsent, link.execute("GET", "c")):
            with pytest.raises(NoAnswer):
                await answer


# --- who we are -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("credentials", "good"),
    [
        ("app:p%40ss%2Fword", True),
        (":main-word", True),
        ("app:wrong-word", False),
        ("", False),
    ],
)
async def test_signing_in(credentials, good, caplog):
    """With a user or the default one; a refusal is one clear line, without what was refused."""
    options = ("--requirepass", "main-word", "--user", "app", "on", ">p@ss/word", "~*", "+@all")
    with valkey_server(*options) as server:
        url = f"redis://{credentials}@127.0.0.1:{server.port}"
        async with aclosing(open_link(url)) as link:
            came = [(await timed(link.execute("GET", "k")))[0] for _ in range(3)]

    assert good == (came == [None] * 3)
    assert good == (caplog.messages == [])
    if not good:
        [line] = caplog.messages
        assert f"Redis at 127.0.0.1:{server.port} is away: it refused the user" in line
        assert "word" not in line.replace("the password", "")


async def test_a_refused_link_goes_on_asking_quietly(caplog):
    """Whoever mends the password need not restart us; until then the log is not flooded."""
    caplog.set_level(logging.INFO)
    with valkey_server("--requirepass", "old") as server:
        async with aclosing(open_link(f"redis://:new@127.0.0.1:{server.port}")) as link:
            await failures(link, 2)
            await asyncio.sleep(2.2)
            assert ["open", 1] == [link.state, len(caplog.messages)]
            async with aclosing(open_link(f"redis://:old@127.0.0.1:{server.port}")) as admin:
                await admin.execute("CONFIG", "SET", "requirepass", "new")
            await until(lambda: link.state == "closed", within=2)
            await link.ping()


async def test_a_server_that_returns_with_another_password_is_not_back(valkey, caplog):
    """It answers, but not us: one outage, told once."""
    caplog.set_level(logging.INFO)
    async with aclosing(open_link(valkey.url)) as link:
        await link.ping()
        valkey.kill()
        await failures(link, 10)
        valkey.start("--requirepass", "new")
        await asyncio.sleep(2.2)

        assert ["open", 1] == [link.state, len(caplog.messages)]


async def test_a_database_of_its_own(valkey):
    """`/3` at the end of the URL."""
    async with aclosing(open_link(valkey.url + "/3")) as third:
        await third.execute("SET", "k", "three")
        async with aclosing(open_link(valkey.url)) as first:
            assert [b"three", None] == [
                await third.execute("GET", "k"),
                await first.execute("GET", "k"),
            ]


@pytest.fixture
def certificate(tmp_path):
    """A self-made certificate for 127.0.0.1, as (path of the certificate, server context)."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    pem, secret = tmp_path / "cert.pem", tmp_path / "key.pem"
    pem.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    secret.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem, secret)
    return pem, context


@pytest.mark.parametrize("trusted", [True, False])
async def test_tls_is_checked(valkey, certificate, monkeypatch, trusted):
    """rediss:// speaks to whom SSL_CERT_FILE or the system trusts, and to nobody else."""
    pem, context = certificate
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(pem))
    async with relay(valkey.port, tls=context) as port:
        link = open_link(f"rediss://127.0.0.1:{port}", connect_timeout=1, command_timeout=1)
        async with aclosing(link):
            came = [(await timed(link.execute("ECHO", "hush")))[0] for _ in range(2)]
        await asyncio.sleep(0.02)

    assert trusted == (came == [b"hush"] * 2)


@pytest.mark.parametrize(
    "url",
    [
        "http://:hunter2@h",
        "redis://:hunter2@h:0",
        "redis://:hunter2@h:port",
        "redis://:hunter2@",
        "redis://:hunter2@h/one",
        "redis://:hunter2@a,b",
        "redis://:hunter2@h?ssl_cert_reqs=none",
        "redis+cluster://:hunter2@h/1",
        "redis://:hun#ter2@h",
    ],
)
def test_a_bad_url_is_said_without_its_secret(url):
    """Also a password whose special characters were not encoded."""
    with pytest.raises(ValueError) as fault:
        open_link(url)

    assert "hun" not in str(fault.value)


# --- a cluster ------------------------------------------------------------------------------------


async def test_a_cluster_serves_every_slot():
    """Whichever node is named in the URL; commands of one turn go to all nodes at once."""
    with valkey_cluster() as servers:
        url = f"redis+cluster://127.0.0.1:{servers[1].port}"
        async with aclosing(open_link(url, command_timeout=1, connect_timeout=1)) as link:
            await link.ping()
            puts = [link.execute("SET", f"k{n}", n) for n in range(500)]
            assert [b"OK"] * 500 == [await put for put in puts]
            gets = [link.execute("GET", f"k{n}") for n in range(500)]
            assert [b"%d" % n for n in range(500)] == [await get for get in gets]

            sizes = [int(server.call("DBSIZE")[1:]) for server in servers]
            assert 500 == sum(sizes)
            assert min(sizes) > 100
            script = "return redis.call('GET', KEYS[1])"
            assert b"7" == await link.execute("EVAL", script, 1, "k7")


async def test_a_slot_that_moves_is_followed():
    """While it moves (ASK) and after it has moved (MOVED)."""
    with valkey_cluster() as servers:
        url = f"redis+cluster://127.0.0.1:{servers[0].port}"
        ids = [server.call("CLUSTER", "MYID").split(b"\r\n")[1].decode() for server in servers]
        slot = str(int(servers[0].call("CLUSTER", "KEYSLOT", "k")[1:]))
        owner = min(int(slot) // (16_384 // 3), 2)
        other = (owner + 1) % 3
        async with aclosing(open_link(url, command_timeout=1, connect_timeout=1)) as link:
            await link.execute("SET", "k", "v")
            servers[other].call("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[owner])
            servers[owner].call("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[other])
            port = str(servers[other].port)
            servers[owner].call("MIGRATE", "127.0.0.1", port, "k", "0", "1000")
            assert [b"v"] * 3 == [await link.execute("GET", "k") for _ in range(3)]

            for server in (servers[other], servers[owner]):
                server.call("CLUSTER", "SETSLOT", slot, "NODE", ids[other])
            assert [b"v"] * 3 == [await link.execute("GET", "k") for _ in range(3)]


async def test_a_dead_node_costs_only_its_own_slots(caplog):
    """Its keys miss, first after a deadline and then at once; the other nodes answer as ever."""
    with valkey_cluster() as servers:
        for server in servers:
            server.call("CONFIG", "SET", "cluster-require-full-coverage", "no")
        url = f"redis+cluster://127.0.0.1:{servers[0].port}"
        async with aclosing(open_link(url)) as link:
            for n in range(60):
                await link.execute("SET", f"k{n}", n)
            servers[2].kill()
            for _ in range(3):
                came = [await timed(link.execute("GET", f"k{n}")) for n in range(60)]
            served = [answer for answer, _ in came if isinstance(answer, bytes)]

            assert 25 < len(served) < 55
            assert max(seconds for _, seconds in came) < 0.05
            assert "closed" == link.state
