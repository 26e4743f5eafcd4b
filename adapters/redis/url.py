"""What REDIS_URL says: which servers, how to sign in, whether it is a cluster."""

from __future__ import annotations

import ssl
from urllib.parse import unquote, urlsplit

from attrs import field

from domain.value import value

DEFAULT_PORT = 6379
_TLS_SCHEMES = frozenset({"rediss", "rediss+cluster"})
_CLUSTER_SCHEMES = frozenset({"redis+cluster", "rediss+cluster"})


@value
class Target:
    """One server and how it is talked to. The password is not in its repr."""

    host: str
    port: int = DEFAULT_PORT
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    db: int = 0
    tls: ssl.SSLContext | None = field(default=None, repr=False, eq=False)

    @property
    def name(self) -> str:
        """For logs."""
        return f"Redis at {self.host}:{self.port}"


@value
class RedisUrl:
    """`targets` has one server, or the first known ones of a cluster."""

    targets: tuple[Target, ...]
    cluster: bool


def read_url(text: str) -> RedisUrl:
    """`redis://[[user]:password@]host[:port][/db]`, `rediss://` for TLS, `redis+cluster://host:port,host:port`.

    Raises ValueError whose words hold nothing of the URL's secrets.
    """
    parts = urlsplit(text)
    cluster = parts.scheme in _CLUSTER_SCHEMES
    tls = parts.scheme in _TLS_SCHEMES
    if not (cluster or tls or parts.scheme == "redis"):
        raise ValueError("a Redis URL begins with redis://, rediss:// or redis+cluster://")
    if parts.query or parts.fragment:
        raise ValueError("a Redis URL takes no options behind '?' or '#' (write them as %3F, %23)")
    credentials, _, hosts = parts.netloc.rpartition("@")
    user, _, password = credentials.partition(":")
    addresses = hosts.split(",")
    if len(addresses) > 1 and not cluster:
        raise ValueError("only redis+cluster:// takes several hosts")
    # The system's trust, or what SSL_CERT_FILE names; host names are checked.
    context = ssl.create_default_context() if tls else None
    db = _db(parts.path.strip("/"), cluster)
    targets = tuple(
        Target(
            *_address(address),
            unquote(user) or None,
            unquote(password) or None,
            db,
            context,
        )
        for address in addresses
    )
    return RedisUrl(targets, cluster)


def _address(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):
        host, port = text, str(DEFAULT_PORT)
    host = host.removeprefix("[").removesuffix("]")
    if not host:
        raise ValueError("a Redis URL names a host")
    if not port.isdecimal() or not 0 < int(port) < 65_536:
        raise ValueError("the port of a Redis URL is a number from 1 to 65535")
    return host, int(port)


def _db(path: str, cluster: bool) -> int:
    if not path:
        return 0
    if not path.isdecimal():
        raise ValueError("the path of a Redis URL is the number of a database")
    if cluster and int(path):
        raise ValueError("a Redis cluster has database 0 only")
    return int(path)
