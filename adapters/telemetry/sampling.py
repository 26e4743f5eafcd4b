"""Which requests are told of one by one: a share of them, by their id, and every one that failed.

The id decides and not chance, so that all observers, on all nodes, keep the same ones.
"""

from __future__ import annotations

from domain.usage import FAILED, UsageRecord

WHOLE = 1 << 32


def threshold(rate: float) -> int:
    """`rate` is from 0 (failures only) to 1 (all)."""
    return round(rate * WHOLE)


def kept(record: UsageRecord, below: int) -> bool:
    """The last eight digits of a request id are random (RFC 9562, section 5.7)."""
    if below >= WHOLE or record.status >= 500 or record.outcome == FAILED:
        return True
    return below > 0 and int(record.id[-8:], 16) < below
