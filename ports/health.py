"""What can be asked whether it is well."""

from __future__ import annotations

from typing import Protocol


class Pingable(Protocol):
    """A dependency. `ping` returns when it answered and raises anything when it did not."""

    async def ping(self) -> None: ...
