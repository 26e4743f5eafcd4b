"""A script that lives in the package and, by its hash, in the server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from hashlib import sha1
from importlib.resources import files
from typing import Any

from adapters.redis.connection import Argument, RedisFault, Refused
from adapters.redis.link import Link

Ended = Callable[[Any, RedisFault | None], None]


class Script:
    """Leaves with this turn of the loop, as a hash; a server that does not know it gets the text, once.

    Who asks is called back and awaits a future of its own, so that leaving early cannot lose what the script did.
    """

    def __init__(self, link: Link, name: str) -> None:
        self._link = link
        self._text = files("adapters.redis").joinpath(name).read_text(encoding="utf-8")
        # Redis names scripts by this hash; no secret hangs on it.
        self._hash = sha1(self._text.encode(), usedforsecurity=False).hexdigest()

    def run(self, ended: Ended, keys: Sequence[str], *args: Argument) -> None:
        """`ended` gets the answer, or the fault; it must not raise."""

        def heard(sent: asyncio.Future[Any]) -> None:
            fault = sent.exception()
            if isinstance(fault, Refused) and fault.code == "NOSCRIPT":
                whole = self._link.execute("EVAL", self._text, len(keys), *keys, *args)
                whole.add_done_callback(hand_over)
            else:
                hand_over(sent)

        def hand_over(sent: asyncio.Future[Any]) -> None:
            fault = sent.exception()
            if fault is None:
                ended(sent.result(), None)
            elif isinstance(fault, RedisFault):
                ended(None, fault)
            else:
                raise fault

        sent = self._link.execute("EVALSHA", self._hash, len(keys), *keys, *args)
        sent.add_done_callback(heard)
