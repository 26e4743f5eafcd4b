"""Running the house: listen, serve, and on a signal let what is under way end before leaving.

One process serves one core; several are `app.supervisor`'s.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import importlib
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets

from adapters.sql.migrate import pending
from app.build import House, build
from app.desk import greeting, key_ring, project_book
from app.services.projects import first_start
from app.storage import Storage, open_storage, ready_data_dir
from app.supervisor import Supervisor
from app.web.metrics import own_port
from app.web.server import Server
from config.secrets import SettingError
from config.settings import Settings, every_setting
from domain.errors import ApiError, Unavailable

log = logging.getLogger(__name__)

PACKAGES = ("domain", "ports", "adapters", "app", "config")
UNBOUNDED = 1 << 60
"""Tornado's own body bound would close without a word; the front door has a better one."""
HEADER_BYTES = 64 << 10


def run(settings: Settings) -> int:
    """Serves until a signal comes; gives the exit code. Raises SettingError for what cannot be served."""
    check_one_home()
    _forget_secrets()
    sockets = _listen(settings)
    _alone(settings)
    if settings.listening.processes > 1:
        return _supervise(settings, sockets)
    code = _run_one(settings, sockets, greet=True)
    if settings.telemetry.datadog:
        # The interpreter's own end would wait for ddtrace's thread, and that for an agent that hangs.
        logging.shutdown()
        sys.stdout.flush()
        os._exit(code)
    return code


def check_one_home() -> None:
    """The five packages have plain names: one of somebody else's in front of ours must not run unnoticed."""
    homes = {}
    for name in PACKAGES:
        file = importlib.import_module(name).__file__
        assert file is not None
        homes[name] = Path(file).resolve().parent.parent
    strangers = [name for name in PACKAGES if homes[name] != homes["app"]]
    if strangers:
        raise SettingError(
            "PYTHONPATH",
            f"another package named {strangers[0]} hides WatchLLM's own; install it in an environment of its own",
        )


def _alone(settings: Settings) -> None:
    """An embedded house counts limits and holds answers for itself: a second one on its directory would do so, too.

    The lock's descriptor stays open, and ends with the process and its workers.
    """
    if not settings.embedded:
        return
    ready_data_dir(settings.data_dir)
    lock = os.open(settings.data_dir / "serve.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise SettingError(
            "WATCHLLM_DATA_DIR", f"is in use by another server ({settings.data_dir})"
        ) from None


def _forget_secrets() -> None:
    """What was read is in the settings; a child process or a dump of the environment has no need of it."""
    for one in every_setting():
        if one.secret:
            os.environ.pop(one.name, None)


def _listen(settings: Settings) -> list[socket.socket]:
    given = settings.listening
    try:
        return bind_sockets(given.port, given.host, backlog=1024, reuse_port=given.processes > 1)
    except OSError as exc:
        unknown = isinstance(exc, socket.gaierror) or exc.errno == errno.EADDRNOTAVAIL
        name = "WATCHLLM_HOST" if unknown else "WATCHLLM_PORT"
        raise SettingError(
            name, f"cannot listen on {given.host}:{given.port}: {exc.strerror}"
        ) from exc


def _run_one(settings: Settings, sockets: Sequence[socket.socket], *, greet: bool) -> int:
    with asyncio.Runner(loop_factory=_loop_factory(settings)) as runner:
        loop = runner.get_loop()
        if sys.version_info >= (3, 12):
            # A call that never has to wait then ends inside the turn that began it.
            loop.set_task_factory(asyncio.eager_task_factory)
        return runner.run(_serve(settings, sockets, greet=greet))


def _loop_factory(settings: Settings) -> Callable[[], asyncio.AbstractEventLoop]:
    """uvloop where it is installed, but never under aiopg: docs/decisions/0015."""
    if not settings.embedded:
        return asyncio.new_event_loop
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop
    made: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return made


async def _serve(settings: Settings, sockets: Sequence[socket.socket], *, greet: bool) -> int:
    port = sockets[0].getsockname()[1]
    ready_data_dir(settings.data_dir)
    storage = open_storage(settings)
    root = settings.public_root(port)
    await _prepare(settings, storage, root, greet=greet)
    house = build(settings, storage, root)
    stopped = _stop_event()
    server = Server(
        house.front,
        most=settings.listening.max_connections,
        most_per_address=settings.listening.max_connections_per_ip,
        max_body_size=UNBOUNDED,
        max_header_size=HEADER_BYTES,
    )
    house.observers.sources.append(server.readings)
    try:
        house.start()
    except Unavailable as exc:
        raise SettingError("WATCHLLM_DATA_DIR", f"cannot hold the journal: {exc}") from exc
    metrics = None
    try:
        server.add_sockets(sockets)
        metrics = _serve_metrics(settings, house)
        log.info("listening", extra={"address": f"{settings.listening.host}:{port}"})
        await stopped.wait()
        stopped.clear()
        await _drain(house, server, settings.listening.drain_grace, stopped)
    finally:
        if metrics is not None:
            metrics.stop()
        await house.close()
        await storage.aclose()
    log.info("stopped")
    return 0


def _serve_metrics(settings: Settings, house: House) -> HTTPServer | None:
    """On a port of their own. Each process has a socket there; whichever is asked tells of all."""
    given, metrics = settings.listening, house.observers.metrics
    if metrics is None or given.metrics_port is None:
        return None
    try:
        sockets = bind_sockets(
            given.metrics_port, given.metrics_host, reuse_port=given.processes > 1
        )
    except OSError as exc:
        raise SettingError(
            "WATCHLLM_METRICS_PORT",
            f"cannot listen on {given.metrics_host}:{given.metrics_port}: {exc.strerror}",
        ) from exc
    server = HTTPServer(
        own_port(metrics.text, house.front), idle_connection_timeout=75, body_timeout=5
    )
    server.add_sockets(sockets)
    return server


async def _prepare(settings: Settings, storage: Storage, root: str, *, greet: bool) -> None:
    """The embedded database is made ready and greets a newcomer; a server's schema is the operator's to migrate."""
    if not settings.embedded:
        with contextlib.suppress(ApiError):
            if await pending(storage.db):
                log.error("the database lacks the current schema: run `watchllm migrate`")
        return
    await storage.migrate()
    if not greet:
        return
    first = await first_start(project_book(storage), key_ring(settings, storage))
    if first is not None:
        print(greeting(first, root), flush=True)  # noqa: T201  the one time these keys are shown


def _stop_event() -> asyncio.Event:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stopped.set)
    return stopped


async def _drain(house: House, server: Server, grace: float, again: asyncio.Event) -> None:
    """No new work, what runs may end; after the grace it is told to, and a second signal waits for nothing."""
    log.info("draining", extra={"running": len(house.front.running)})
    house.health.draining = house.front.draining = True
    server.stop()
    server.conn_params.no_keep_alive = True
    house.front.close_waiting()
    ends_at = time.monotonic() + grace
    while house.front.running and time.monotonic() < ends_at and not again.is_set():
        await asyncio.sleep(0.02)
    house.front.proxy.ending = True
    for exchange in list(house.front.running):
        exchange.cut()
    # What was just written to the last of them leaves before the process does.
    until = time.monotonic() + 1
    while (house.front.running or server.busy()) and time.monotonic() < until:
        await asyncio.sleep(0.02)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(1):
            await server.close_all_connections()


def _supervise(settings: Settings, sockets: Sequence[socket.socket]) -> int:
    """The port is bound once to find it and to see that it is free; the workers bind it for themselves."""
    addresses = [(int(one.family), one.getsockname()) for one in sockets]
    if settings.embedded:
        asyncio.run(_prepare_once(settings, addresses[0][1][1]))
    for one in sockets:
        one.close()
    supervisor = Supervisor(addresses, lambda own: _run_one(settings, own, greet=False))
    return supervisor.run(settings.listening.processes)


async def _prepare_once(settings: Settings, port: int) -> None:
    storage = open_storage(settings)
    try:
        await _prepare(settings, storage, settings.public_root(port), greet=True)
    finally:
        await storage.aclose()
