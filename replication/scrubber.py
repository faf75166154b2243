"""The scrub of a running node: reads its log again from the medium, bit by bit, and hands on what it finds damaged.

`storage.scrub.ScrubPlan` decides what to read and when; a thread reads. What looks damaged is read once more by the log
itself: only then is it known to be damaged (ADR 0006), and mended from another replica. What lies around the records
is written anew at once.
"""

import asyncio
import contextlib
import logging
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from replication.api import ScrubReport
from storage.disk import Disk
from storage.errors import StorageError
from storage.log import Log
from storage.scrub import Depth, Read, ScrubPlan, ScrubSettings, Wait, read_progress, write_progress
from storage.segment import SegmentInfo
from storage.walk import Fault, Found, Walk

if TYPE_CHECKING:
    from replication.replicator import Replicator

_LOG: Final = logging.getLogger("perenne.scrub")
HEADER_COST: Final = 8192
"""Bytes read of a record besides its payload, about."""
RECORDS: Final = 500
"""Looked at in one step at most, so that the interpreter is free for others."""
SAVE_S: Final = 60.0
NICENESS: Final = 10


@dataclass(slots=True)
class _Open:
    """A segment that is being read. last: its last record so far. newest: somebody may write there."""

    first: int
    last: int
    newest: bool
    found: Iterator[Found | Fault]
    bytes: int
    read: int = 0
    faults: list[Fault] = field(default_factory=list[Fault])

    def contradicts(self, now: Sequence[SegmentInfo]) -> bool:
        """Whether its faults are more than of the moment: nobody wrote there or cut it while it was read."""
        known = any(one.first == self.first and one.last == self.last and one.sealed for one in now)
        return bool(self.faults) and known and not self.newest


@dataclass(frozen=True, slots=True)
class Step:
    """size: bytes read. segment: when it was read to its end. damaged: records newly known to be."""

    size: int
    segment: _Open | None = None
    nothing_left: bool = False
    damaged: int = 0


class ScrubReading:
    """What the scrub's thread does: one step after the other through the segments of a log."""

    def __init__(self, log: Log, directory: Path) -> None:
        self._log = log
        self._directory = directory
        self._open: dict[Depth, _Open] = {}

    def forget(self, depth: Depth) -> None:
        """The next step of this depth begins anew."""
        self._open.pop(depth, None)

    def step(self, read: Read) -> Step:
        """Read on where the last step of this depth ended, or begin at `read.following`."""
        segment = self._open.get(read.depth) or self._begin(read)
        if segment is None:
            return Step(0, nothing_left=True)
        size = records = 0
        suspects: list[int] = []
        finished = True
        with contextlib.suppress(FileNotFoundError):  # cut since it was listed, or not kept here any more
            for one in segment.found:
                if isinstance(one, Fault):
                    self._fault(segment, one, suspects)
                    continue
                size += HEADER_COST + (one.payload.size if read.depth is Depth.DEEP else 0)
                records += 1
                if one.damage is not None or one.tombstone:  # whether a stub is covered, the log itself must say
                    suspects.append(one.header.position.sequence)
                if size >= read.bytes or records >= RECORDS:
                    finished = False
                    break
        damaged = sum(self._judged(sequence) for sequence in suspects)
        segment.read += size
        if not finished:
            self._open[read.depth] = segment
            return Step(size, damaged=damaged)
        self._open.pop(read.depth, None)
        rest = max(0, segment.bytes - segment.read) if read.depth is Depth.DEEP else 0
        return Step(size + rest, segment, damaged=damaged)

    def _begin(self, read: Read) -> _Open | None:
        known = [one for one in self._log.segments() if one.last is not None]
        for number, one in enumerate(known):
            if one.last is not None and one.last >= read.following and one.first <= read.upto:
                after = known[number + 1].first if number + 1 < len(known) else None
                walk = Walk(self._directory, read.depth is Depth.DEEP, medium=True)
                before = self._log.point_at(one.first - 1)
                walk.reached(one.first - 1, before.chain if before is not None else None)
                path = self._directory / one.name
                found = walk.once(path, after if one.sealed else None)
                return _Open(one.first, one.last, not one.sealed, found, one.bytes)
        return None

    def _fault(self, segment: _Open, fault: Fault, suspects: list[int]) -> None:
        if fault.lost and fault.sequence is not None:
            suspects.extend(range(fault.sequence, fault.sequence + fault.lost))
        elif not fault.note:
            segment.faults.append(fault)

    def _judged(self, sequence: int) -> bool:
        """The log's own word counts: it knows what was cut, repaired or not yet written when the scrub came by."""
        return sequence not in self._log.damage.known and self._log.judge(sequence)


def _step_back() -> None:
    """Let everybody else have the processor first."""
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)


class Scrubber:
    """One node's scrub. `report` is for metrics and `/status`."""

    def __init__(
        self,
        replicator: "Replicator",
        disk: Disk,
        settings: ScrubSettings,
        *,
        reading: ScrubReading | None = None,
        step_back: Callable[[], None] = _step_back,
    ) -> None:
        """reading: of a disk without files. step_back: what its thread does first."""
        self._replicator = replicator
        self._disk = disk
        self._step_back = step_back
        root = disk.path("")
        self._reading = reading or (ScrubReading(replicator.log, root) if root is not None else None)
        self._thread = replicator.runtime.executor("scrub", 1)
        self.plan = ScrubPlan(settings, read_progress(disk, self._wall_s()))
        self._saved_s = 0.0
        self._bytes = 0
        self._found = 0
        self._frames = 0
        self._wanted: set[Depth] = set()
        self._wake = asyncio.Event()
        replicator.operations.scrub = self.ordered
        self._faults: dict[int, str] = {}
        """By segment, what is wrong with it and could not be written anew."""

    def start(self) -> None:
        """Nothing happens on a disk without files."""
        if self._reading is not None:
            self._replicator.spawn(self._run(self._reading))

    def ordered(self, depth: str, *, begin: bool) -> dict[str, Any]:
        """An operator wants a pass of this depth, or asks how far it is. Raises ValueError for another word."""
        wanted = Depth(depth)
        if begin and self._reading is not None:
            self._wanted.add(wanted)
            self._wake.set()
        one, upto = self.plan.progress.passes[wanted], self._replicator.log.durable.sequence
        waits = wanted in self._wanted
        running = waits or one.began_s is not None
        return {
            "running": running,
            "done": 0 if waits or not running else max(0, one.following - 1),
            "upto": one.upto if running and not waits else upto,
            "verified_s": one.verified_s,
            "found": self._found,
            "damaged": list(self._replicator.log.damaged()[:100]),
            "faults": list(self.report().faults),
        }

    def close(self) -> None:
        """Wait for the step under way; before the log is closed."""
        self._thread.shutdown()

    def report(self) -> ScrubReport:
        wall_s = self._wall_s()
        underway = next((d.value for d, one in self.plan.progress.passes.items() if one.began_s is not None), None)
        return ScrubReport(
            light_age_seconds=self.plan.age_s(Depth.LIGHT, wall_s),
            deep_age_seconds=self.plan.age_s(Depth.DEEP, wall_s),
            underway=underway,
            bytes=self._bytes,
            damaged=self._found,
            frames=self._frames,
            repaired=self._replicator.mender.repaired,
            faults=tuple(f"segment {first}: {text}" for first, text in sorted(self._faults.items())),
            differs={str(replica): at for replica, at in self._replicator.comparer.differs.items()},
        )

    async def _run(self, reading: ScrubReading) -> None:
        loop, replicator = asyncio.get_running_loop(), self._replicator
        await loop.run_in_executor(self._thread, self._step_back)
        while True:
            durable = replicator.log.durable.sequence
            while self._wanted:
                depth = self._wanted.pop()
                if self.plan.ask(depth, self._wall_s(), durable=durable):
                    reading.forget(depth)
                    _LOG.info("a scrub was asked for", extra={"depth": depth.value})
            activity = replicator.log.end.sequence + replicator.lookups.reads
            now = self.plan.next(self._now_s(), self._wall_s(), durable=durable, activity=activity)
            if isinstance(now, Wait):
                self._wake.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(now.seconds):
                        await self._wake.wait()
                continue
            try:
                done = await loop.run_in_executor(self._thread, reading.step, now)
                await self.after(now.depth, done)
            except (StorageError, OSError) as error:
                _LOG.error("the scrub met an error and goes on later", extra={"reason": str(error)})
                await asyncio.sleep(SAVE_S)

    async def after(self, depth: Depth, done: Step) -> None:
        self.plan.read(self._now_s(), done.size)
        self._bytes += done.size
        self._found += done.damaged
        if done.damaged:
            _LOG.error("the scrub found damaged records", extra={"records": done.damaged})
        complete = False
        if done.nothing_left:
            self.plan.nothing_left(depth)
            complete = True
        elif done.segment is not None:
            await self._frame(done.segment)
            complete = self.plan.segment_done(depth, done.segment.last)
        if complete:
            _LOG.info("a scrub is complete", extra={"depth": depth.value})
            if depth is Depth.LIGHT and self._replicator.tiering is not None:
                self._replicator.tiering.audit()
            await self._replicator.comparer.compare()
        if complete or (done.segment is not None and self._now_s() - self._saved_s >= SAVE_S):
            self._saved_s = self._now_s()
            content = self.plan.progress.encode()
            await asyncio.get_running_loop().run_in_executor(self._thread, write_progress, self._disk, content)

    async def _frame(self, segment: _Open) -> None:
        """Something besides a record is damaged: write it anew, or keep saying what is wrong."""
        self._faults.pop(segment.first, None)
        if not segment.faults:
            return
        replicator = self._replicator
        facts = {"segment": segment.first, "found": segment.faults[0].text}
        names = await asyncio.wrap_future(replicator.group.call(lambda: replicator.log.mend_frame(segment.first)))
        self._frames += bool(names)
        if names:
            _LOG.error("a segment was damaged around its records: written anew", extra={**facts, "saved": names})
        elif segment.contradicts(replicator.log.segments()):
            _LOG.critical("a segment contradicts, and nothing here can mend it", extra=facts)
            self._faults[segment.first] = segment.faults[0].text

    def _now_s(self) -> float:
        return self._replicator.runtime.now_ms() / 1000

    def _wall_s(self) -> float:
        return self._replicator.runtime.wall_us() / 1_000_000
