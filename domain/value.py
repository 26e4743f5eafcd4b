"""How values are written: frozen for the type checker, plain at run time.

A frozen attrs class pays for every attribute it sets; on the road of a hit that is a tenth
of our own work. mypy sees `frozen`, so an assignment is an error before it ever runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from attrs import frozen as value
else:
    from functools import partial

    from attrs import define

    value = partial(define, unsafe_hash=True)

__all__ = ["value"]
