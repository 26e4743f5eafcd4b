"""A Redis cluster: one link per node, and the redirects between them.

Which node has a slot is learnt from the cluster's own MOVED answers (cluster specification, "Redirection and
resharding"), one per slot and move; there is no map to fetch and none to go stale after a failover.
"""

from __future__ import annotations

import asyncio
import time
from binascii import crc_hqx
from collections.abc import Callable
from functools import partial
from typing import Any

from attrs import evolve

from adapters.redis.connection import Argument, NoAnswer, Refused, fail
from adapters.redis.link import COMMAND_TIMEOUT, CONNECT_TIMEOUT, Link, RedisLink
from adapters.redis.url import Target, read_url
from domain.value import value

SLOTS = 16_384
MAX_REDIRECTS = 3
_SCRIPTS = frozenset({"EVAL", "EVALSHA"})

Node = tuple[str, int]


def open_link(
    url: str,
    *,
    connect_timeout: float = CONNECT_TIMEOUT,
    command_timeout: float = COMMAND_TIMEOUT,
    clock: Callable[[], float] = time.monotonic,
) -> Link:
    """The link that a REDIS_URL asks for; connects when first used. Raises ValueError for a bad URL."""
    read = read_url(url)
    make = partial(
        RedisLink, connect_timeout=connect_timeout, command_timeout=command_timeout, clock=clock
    )
    if read.cluster:
        return RedisCluster(read.targets, make)
    return make(read.targets[0])


@value
class _Errand:
    args: tuple[Argument, ...]
    slot: int | None
    answer: asyncio.Future[Any]


class RedisCluster:
    """A Link over many. Commands name one key, or keys of one slot; those without a key go to any node."""

    def __init__(self, seeds: tuple[Target, ...], make: Callable[[Target], RedisLink]) -> None:
        self._make = make
        self._pattern = seeds[0]
        self._seeds = frozenset((seed.host, seed.port) for seed in seeds)
        self._links: dict[Node, RedisLink] = {(seed.host, seed.port): make(seed) for seed in seeds}
        self._slots: dict[int, Node] = {}

    @property
    def state(self) -> str:
        """Open when no node is left to ask."""
        return "open" if all(link.state == "open" for link in self._links.values()) else "closed"

    def execute(self, *args: Argument) -> asyncio.Future[Any]:
        errand = _Errand(args, _slot(args), asyncio.get_running_loop().create_future())
        self._send(self._node(errand.slot), errand, MAX_REDIRECTS)
        return errand.answer

    async def ping(self) -> None:
        if await self.execute("PING") != b"PONG":
            raise NoAnswer("The Redis cluster does not answer a PING.")

    async def aclose(self) -> None:
        for link in self._links.values():
            await link.aclose()

    def _node(self, slot: int | None) -> Node:
        node = self._slots.get(slot) if slot is not None else None
        if node is not None and self._links[node].state == "closed":
            return node
        # Unknown, or its node is away: any other will say who has the slot now.
        for other, link in self._links.items():
            if link.state == "closed":
                return other
        return next(iter(self._links))

    def _send(self, node: Node, errand: _Errand, redirects: int) -> None:
        sent = self._links[node].execute(*errand.args)
        sent.add_done_callback(partial(self._answered, node, errand, redirects))

    def _answered(
        self, node: Node, errand: _Errand, redirects: int, sent: asyncio.Future[Any]
    ) -> None:
        fault = sent.exception()
        if fault is None:
            if not errand.answer.done():
                errand.answer.set_result(sent.result())
            return
        there = _redirect(fault, node) if isinstance(fault, Refused) else None
        if there is None or redirects == 0:
            fail(errand.answer, fault)
            return
        self._know(there)
        if str(fault).startswith("ASK"):
            # Holds for the next command of that connection only; both leave in one write, side by side.
            self._links[there].execute("ASKING")
        elif errand.slot is not None:
            self._slots[errand.slot] = there
        self._send(there, errand, redirects - 1)

    def _know(self, node: Node) -> None:
        if node in self._links:
            return
        used = set(self._slots.values()) | self._seeds
        for old in [old for old in self._links if old not in used]:
            if self._links[old].state == "open":
                self._links.pop(old).close()
        self._links[node] = self._make(evolve(self._pattern, host=node[0], port=node[1]))


def _slot(args: tuple[Argument, ...]) -> int | None:
    """CRC16 (XMODEM) of the key, or of what stands in its first non-empty braces."""
    at = 3 if args[0] in _SCRIPTS else 1
    if len(args) <= at or args[0] == "SCRIPT":
        return None
    key = args[at]
    raw = key if isinstance(key, bytes) else str(key).encode()
    _, brace, behind = raw.partition(b"{")
    tag, closing, _ = behind.partition(b"}")
    if brace and closing and tag:
        raw = tag
    return crc_hqx(raw, 0) % SLOTS


def _redirect(fault: Refused, node: Node) -> Node | None:
    """`MOVED 3999 127.0.0.1:6381`, `ASK` alike; an empty host means the host that said so."""
    words = str(fault).split(" ")
    if words[0] not in ("MOVED", "ASK") or len(words) < 3:
        return None
    host, _, port = words[2].rpartition(":")
    if host == "?" or not port.isdecimal():
        return None
    return host or node[0], int(port)
