"""Counters of several processes as one: a file for each, which only it writes and everybody reads.

A file outlives its process. The next process to start goes on counting in it, so nothing that was told is ever taken
back, and there are as many files as there were processes at once. For processes of one machine.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from attrs import define, field

from adapters.telemetry.labels import Labels
from adapters.telemetry.tally import BOUNDS_MS, SIZE, Cell, Counter, flat
from ports.telemetry import Reading

FORMAT: Final = [1, list(BOUNDS_MS)]
MAX_PROCESSES: Final = 1_000
FRESH: Final = 10.0
"""Seconds after which a process that has not written is taken for dead: its gauges are no longer true."""


@define
class Snapshot:
    """What one process has counted, and how things stood there `at` (epoch seconds)."""

    worker: str
    at: float = 0.0
    cells: dict[Labels, Cell] = field(factory=dict)
    counters: dict[Counter, float] = field(factory=dict)
    gauges: list[Reading] = field(factory=list)


class Slots:
    """One file of `folder` is this process's, until it ends. To be made after forking. Raises OSError."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder
        self.worker, self._lock = _claim(folder)

    @property
    def _own(self) -> Path:
        return self._folder / f"{self.worker}.json"

    def inherited(self) -> Snapshot:
        """What earlier owners of the file have counted."""
        return _read(self._own) or Snapshot(self.worker)

    def write(self, snapshot: Snapshot) -> None:
        """All of it or nothing, whenever somebody reads. Raises OSError."""
        unfinished = self._own.with_suffix(".tmp")
        unfinished.write_text(_packed(snapshot), encoding="utf-8")
        unfinished.replace(self._own)

    def read(self) -> Iterator[Snapshot]:
        """All files, this process's own included."""
        for file in sorted(self._folder.glob("*.json")):
            found = _read(file)
            if found is not None:
                yield found

    def release(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
        self._lock = -1


def _claim(folder: Path) -> tuple[str, int]:
    for number in range(MAX_PROCESSES):
        lock = os.open(folder / f"{number}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            continue
        return str(number), lock
    raise OSError(f"more than {MAX_PROCESSES} processes count in one folder")


def _packed(snapshot: Snapshot) -> str:
    return json.dumps(
        {
            "format": FORMAT,
            "at": snapshot.at,
            "cells": [[flat(labels), cell] for labels, cell in list(snapshot.cells.items())],
            "counters": [[*counter, number] for counter, number in snapshot.counters.items()],
            "gauges": [[one.name, one.labels, one.value] for one in snapshot.gauges],
        },
        separators=(",", ":"),
    )


def _read(file: Path) -> Snapshot | None:
    """None for what is not there, not whole or of another release."""
    try:
        found = json.loads(file.read_bytes())
        if found["format"] != FORMAT:
            return None
        return Snapshot(
            file.stem,
            float(found["at"]),
            {Labels(*labels): _cell(numbers) for labels, numbers in found["cells"]},
            {(str(name), _pairs(labels)): number for name, labels, number in found["counters"]},
            [Reading(name, number, _pairs(labels)) for name, labels, number in found["gauges"]],
        )
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _cell(numbers: Any) -> Cell:
    if len(numbers) != SIZE:
        raise ValueError("another release counted here")
    return list(numbers)


def _pairs(labels: Any) -> tuple[tuple[str, str], ...]:
    return tuple((str(name), str(found)) for name, found in labels)
