"""The end of a journal that is being written: one segment after the other, and what their disk thinks of it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial

from adapters.journal.records import MAX_FRAME
from adapters.journal.segments import Owner, Position, Segment
from adapters.journal.shipper import Thread

log = logging.getLogger(__name__)


class Writer:
    """Writes inline, makes safe in `thread`. Its first segment is opened by making it. Raises OSError."""

    def __init__(self, owner: Owner, segment_bytes: int, thread: Thread) -> None:
        self.failing = False
        """The disk refused something; nothing new is to be begun until `recover`."""
        self.segment_bytes = segment_bytes
        self._owner = owner
        self._thread = thread
        self._number = 0
        self._segment: Segment | None = None
        self._retired: list[Segment] = []
        self._sizes: dict[int, int] = {}
        """Of all segments but the present one; `_kept` is their sum."""
        self._kept = 0
        self._dirty = self._renamed = False
        self._take(self._new_segment(self._next_number()))

    @property
    def used(self) -> int:
        """Bytes of records in all segments."""
        return self._kept + (0 if self._segment is None else self._segment.used)

    def deleted(self) -> bool:
        """Whether somebody removed the files: what is written to them would not be found again. Raises OSError."""
        return self._owner.deleted(None if self._segment is None else self._segment.number)

    def write(self, frame: bytes, keep: int, *, owed: bool) -> Position | None:
        """Where it ends, once it is in the kernel. `keep` stays free behind it for rows that are still open.

        For a row that is `owed` that room was kept, so it needs no new segment.
        """
        segment = self._segment
        if segment is None or len(frame) > MAX_FRAME:
            return None
        if segment.used and segment.used + len(frame) + keep > segment.size:
            segment = self._next_segment() or (segment if owed else None)
        if segment is None:
            return None
        try:
            segment.append(frame)
        except OSError as exc:
            self._retire()
            self._fail(exc)
            return None
        self._dirty = True
        return segment.number, segment.used

    async def sync(self) -> None:
        """What was written survives a power cut when it returns, unless the disk fails."""
        if not self._dirty and not self._retired:
            return
        retired, self._retired = self._retired, []
        names = self._owner if self._renamed else None
        self._dirty = self._renamed = False
        try:
            await self._thread(partial(_make_safe, retired, self._segment, names))
        except OSError as exc:
            # What the kernel could not write it may have forgotten: this segment gets no more.
            self._retire()
            self._fail(exc)

    async def recover(self) -> bool:
        """A whole new segment is the proof that the disk is well."""
        try:
            segment = await self._thread(partial(self._new_segment, self._next_number()))
        except OSError:
            return False
        self._take(segment)
        self.failing = False
        log.info("the usage journal can be written again")
        return True

    async def forget(self, needed: int) -> None:
        """Removes all segments before the one with this number. Raises OSError."""
        for number in [number for number in self._sizes if number < needed]:
            await self._thread(partial(self._owner.remove, number))
            self._kept -= self._sizes.pop(number, 0)

    def finish(self) -> None:
        """The last word, for the thread. Raises OSError."""
        self._retire()
        _make_safe(self._retired, None, self._owner)

    def _next_segment(self) -> Segment | None:
        """None if there can be none now: the present one then stays."""
        if self.failing:
            return None
        try:
            segment = self._new_segment(self._next_number())
        except OSError as exc:
            self._fail(exc)
            return None
        self._take(segment)
        return segment

    def _next_number(self) -> int:
        self._number += 1
        return self._number

    def _new_segment(self, number: int) -> Segment:
        return Segment(self._owner.segment(number), number, self.segment_bytes)

    def _take(self, segment: Segment) -> None:
        self._retire()
        self._segment = segment
        self._dirty = self._renamed = True

    def _retire(self) -> None:
        if self._segment is None:
            return
        self._sizes[self._segment.number] = self._segment.used
        self._kept += self._segment.used
        self._retired.append(self._segment)
        self._segment = None

    def _fail(self, exc: OSError) -> None:
        if not self.failing:
            log.error("the usage journal cannot be written: %s", exc.strerror)
        self.failing = True


def _make_safe(retired: Sequence[Segment], current: Segment | None, names: Owner | None) -> None:
    """Raises OSError, but only after all were tried."""
    with ExitStack() as rest:
        for segment in retired:
            rest.callback(segment.retire)
        if current is not None:
            rest.callback(current.sync)
        if names is not None:
            rest.callback(names.sync_names)
