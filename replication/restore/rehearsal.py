"""A drill: objects of the tier restored into a scratch place, proved, written, and read back from there. Nothing stays.

Whole objects are taken as they lie; each record is proved by its digests and by the chain from the one before. What is
timed is what a restore does: fetch, prove, write, sync.
"""

import asyncio
import contextlib
import os
import random
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Final

from replication.restore.cutting import CutRecord, Cutter, Unkept
from replication.restore.engine import Progress
from replication.restore.fetching import Fetching
from replication.restore.plan import Plan
from replication.tier.keys import Run
from replication.tier.port import NotThere, ObjectDamaged, ObjectStore
from replication.tier.tip import Piece
from storage.errors import FormatError, RecordCorrupt
from storage.position import RecordHeader, RecordKind

COMPARED: Final = 50
"""Instances that a drill remembers, so that they can be compared with what the cluster serves."""
_PIECE: Final = 8 * 1024 * 1024


@dataclass(slots=True)
class Rehearsed:
    """records, bytes, seconds: of what was restored. wrong: one line for each object that is not what its name says.

    instances: some of those that came back, drawn at random.
    """

    tip: int
    objects: int = 0
    records: int = 0
    bytes: int = 0
    seconds: float = 0.0
    studies: set[str] = field(default_factory=set[str])
    wrong: list[str] = field(default_factory=list[str])
    instances: list[RecordHeader] = field(default_factory=list[RecordHeader])

    @property
    def rate(self) -> float:
        return self.bytes / self.seconds if self.seconds > 0 else 0.0

    @property
    def whole_bytes(self) -> int:
        """Of the whole archive, as far as this sample tells."""
        return self.bytes * self.tip // self.records if self.records else 0

    @property
    def whole_seconds(self) -> float:
        """How long a restore of everything would take at this rate."""
        return self.whole_bytes / self.rate if self.rate else 0.0

    def remember(self, header: RecordHeader, chance: random.Random) -> None:
        """Count a record, and keep a fair sample of the instances."""
        self.records += 1
        if header.kind is not RecordKind.INSTANCE:
            return
        self.studies.add(header.path.split("/", 1)[0])
        if len(self.instances) < COMPARED:
            self.instances.append(header)
        elif (slot := chance.randrange(self.records)) < COMPARED:
            self.instances[slot] = header


def newest(plan: Plan, count: int) -> tuple[Piece, ...]:
    """The last objects of the log."""
    return plan.pieces[-count:]


def drawn(plan: Plan, count: int, chance: random.Random) -> tuple[Piece, ...]:
    """The objects that hold `count` positions drawn at random: large ones are drawn as often as they have records."""
    wanted = sorted(chance.sample(range(1, plan.reaches + 1), min(count, plan.reaches)))
    found: list[Piece] = []
    pieces = iter(plan.pieces)
    piece = next(pieces, None)
    for sequence in wanted:
        while piece is not None and piece.last < sequence:
            piece = next(pieces, None)
        if piece is not None and (not found or found[-1] != piece):
            found.append(piece)
    return tuple(found)


async def rehearse(
    store: ObjectStore, plan: Plan, pieces: Sequence[Piece], scratch: Path, progress: Progress, chance: random.Random
) -> Rehearsed:
    """Restore the objects into `scratch`, and read them back. Raises TierError when it cannot be asked, OSError."""
    found = Rehearsed(plan.tip.sequence)
    total = sum(piece.last - piece.first + 1 for piece in pieces)
    loop = asyncio.get_running_loop()
    began = time.monotonic()
    fetching = Fetching(store)
    before: CutRecord | None = None
    taking: _Taking | None = None
    async with contextlib.aclosing(fetching.all(piece.run for piece in pieces)) as coming:
        async for arrived in coming:
            if taking is None or taking.run != arrived.run:
                taking = _Taking(arrived.run, scratch, before)
            if arrived.error is not None:
                if not isinstance(arrived.error, (NotThere, ObjectDamaged)):
                    raise arrived.error
                taking.wrong = str(arrived.error)
            else:
                await loop.run_in_executor(None, taking.take, arrived.data, arrived.last)
            if arrived.last:
                before = taking.newest
                _count(found, taking, chance)
            progress(found.records, total, fetching.bytes)
    found.bytes, found.seconds = fetching.bytes, time.monotonic() - began
    for piece in pieces:
        path = scratch / _flat(piece.run)
        if path.exists() and (wrong := await loop.run_in_executor(None, _read_back, piece.run, path)):
            found.wrong.append(f"{piece.run.key}: read back from {path}: {wrong}")
    return found


def _count(found: Rehearsed, taking: "_Taking", chance: random.Random) -> None:
    found.objects += 1
    for header in taking.headers:
        found.remember(header, chance)
    if taking.wrong:
        found.wrong.append(f"{taking.run.key}: {taking.wrong}")


class _Taking:
    """One object on its way into the scratch place. newest: its last record; None once something is wrong."""

    def __init__(self, run: Run, scratch: Path, before: CutRecord | None) -> None:
        self.run = run
        self.wrong = ""
        self.headers: list[RecordHeader] = []
        self.newest: CutRecord | None = None
        self._before = before if before is not None and before.link.sequence == run.first - 1 else None
        self._cutter = Cutter(run, lambda _: Unkept())
        self._file = (scratch / _flat(run)).open("wb")

    def take(self, data: bytes, last: bool) -> None:
        """Raises OSError."""
        self._file.write(data)
        try:
            if not self.wrong:
                for record in chain(self._cutter.feed(data), self._cutter.finish() if last else ()):
                    self._check(record)
        except (RecordCorrupt, FormatError) as error:
            self.wrong, self.newest = str(error), None
        if last:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()

    def _check(self, record: CutRecord) -> None:
        if self._before is not None and not record.link.follows(self._before.chain):
            raise RecordCorrupt(record.link.sequence, "it does not continue the object before it")
        self._before = None
        self.newest = CutRecord(record.header, record.chain, Unkept().payload(), record.length)
        self.headers.append(record.header)


def _read_back(run: Run, path: Path) -> str:
    """Why the file does not hold what was restored; empty when it does. Raises OSError."""
    cutter = Cutter(run, lambda _: Unkept())
    try:
        with path.open("rb") as file:
            while piece := file.read(_PIECE):
                _exhaust(cutter.feed(piece))
        _exhaust(cutter.finish())
    except (RecordCorrupt, FormatError) as error:
        return str(error)
    return ""


def _exhaust(records: Iterable[CutRecord]) -> None:
    for _ in records:
        pass


def _flat(run: Run) -> str:
    return run.key.replace("/", "-")
