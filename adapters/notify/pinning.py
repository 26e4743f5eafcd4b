"""Names that lead only to the public Internet.

A name is looked up once, its addresses are judged, and just these are dialled: whoever owns the name cannot give another
answer between the two.
"""

from __future__ import annotations

import ipaddress
import socket

from aiohttp import ThreadedResolver
from aiohttp.abc import AbstractResolver, ResolveResult

# RFC 4291 2.4: nothing else is global unicast. RFC 6052 2.1: an IPv4 address as an IPv6-only network writes it.
_UNICAST = ipaddress.IPv6Network("2000::/3")
_TRANSLATED = ipaddress.IPv6Network("64:ff9b::/96")
# Registries of special addresses (RFC 6890) change, and what Python knows of them with its release.
_SPECIAL = (
    ipaddress.IPv4Network("192.0.0.0/24"),
    ipaddress.IPv4Network("192.88.99.0/24"),
    ipaddress.IPv6Network(
        "2001::/23"
    ),  # Teredo among them, which carries any IPv4 address, as 6to4 does
    ipaddress.IPv6Network("2002::/16"),
    ipaddress.IPv6Network("3fff::/20"),
)


class NotPublic(OSError):
    """The name leads to an address that is nobody's business."""


class PublicAddresses(AbstractResolver):
    """Gives no address at all for a name of which only one is not public."""

    def __init__(self, names: AbstractResolver | None = None) -> None:
        self._names = ThreadedResolver() if names is None else names

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        found = await self._names.resolve(host, port, family)
        if not found or not all(is_public(one["host"]) for one in found):
            raise NotPublic
        return found

    async def close(self) -> None:
        await self._names.close()


def is_public(text: str) -> bool:
    """Whether an address is one that anybody on the Internet may have."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    if any(address in special for special in _SPECIAL):
        return False
    if isinstance(address, ipaddress.IPv4Address):
        return address.is_global and not address.is_multicast
    inner = address.ipv4_mapped
    if address in _TRANSLATED:
        inner = ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    if inner is not None:
        return is_public(str(inner))
    return address in _UNICAST and address.is_global
