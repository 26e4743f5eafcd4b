"""Several processes on one port: started, started again when one dies, stopped together.

Each worker has a listening socket of its own, so that the kernel spreads the connections. The parent takes none; it
holds the port's number only while its workers do.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence

from attrs import define, field

from config.secrets import SettingError

log = logging.getLogger(__name__)

RESTART_PAUSE = 1.0
MISCONFIGURED = 2
SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT})

Address = tuple[int, tuple[str, int]]
"""A socket's family and what it is bound to."""


@define
class Supervisor:
    """`work` runs one worker on its sockets and gives its exit code."""

    addresses: Sequence[Address]
    work: Callable[[list[socket.socket]], int]
    _workers: dict[int, float] = field(factory=dict)
    _stopping: bool = False

    def run(self, processes: int) -> int:
        """Returns when all workers have ended: 0 after a signal, 2 when one of the first found a setting that cannot be.

        What a later one finds, such as a full disk, may pass, and the others serve meanwhile.
        """
        for number in SIGNALS:
            signal.signal(number, self._stop)
        for _ in range(processes):
            self._start()
        first, code = frozenset(self._workers), 0
        while self._workers:
            worker, status = os.wait()
            began = self._workers.pop(worker, 0.0)
            ended = os.waitstatus_to_exitcode(status)
            if ended == MISCONFIGURED and worker in first and not self._stopping:
                # It would find the same again, for ever.
                code = MISCONFIGURED
                self._stop(signal.SIGTERM)
            if not self._stopping:
                self._restart(began, ended)
        return code

    def _restart(self, began: float, ended: int) -> None:
        log.error("a worker ended and is started again", extra={"status": ended})
        if time.monotonic() - began < RESTART_PAUSE:
            time.sleep(RESTART_PAUSE)
        if not self._stopping:
            self._start()

    def _stop(self, number: int, _: object = None) -> None:
        self._stopping = True
        for worker in list(self._workers):
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker, number)

    def _start(self) -> None:
        # A signal between the fork and its entry in the list would miss the worker, or be taken by it as the parent's.
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        worker = os.fork()
        if worker == 0:
            self._be_worker()
        self._workers[worker] = time.monotonic()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    def _be_worker(self) -> None:
        code = 1
        try:
            for number in SIGNALS:
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            code = self.work([_own_socket(*one) for one in self.addresses])
        except SettingError as exc:
            print(f"Error: {exc}", file=sys.stderr, flush=True)  # noqa: T201  as a single process tells it
            code = MISCONFIGURED
        except Exception:
            log.exception("a worker could not start")
        finally:
            logging.shutdown()
            os._exit(code)


def _own_socket(family: int, address: tuple[str, int]) -> socket.socket:
    one = socket.socket(family, socket.SOCK_STREAM)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    if family == socket.AF_INET6:
        one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    one.setblocking(False)
    one.bind(address)
    one.listen(1024)
    return one
