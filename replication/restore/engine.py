"""The restore itself: list, plan, read, prove, append; around what is damaged; until the tip or the first gap."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from replication.restore.beyond import keep
from replication.restore.cutting import CutRecord, Cutter
from replication.restore.fetching import Arrived, Fetching
from replication.restore.filling import Filling
from replication.restore.plan import AskHead, Plan, Planner, below
from replication.restore.report import Report
from replication.restore.segments import Assembling, Hands
from replication.tier.keys import LOG, PREFIX_BYTES, Run, parse_run
from replication.tier.port import NotThere, ObjectDamaged, ObjectStore, Refused, Unreachable
from replication.tier.tip import Piece
from storage.errors import FormatError, RecordCorrupt

LISTINGS: Final = 4
"""Listings that must agree before a gap is believed: a late one becomes true within seconds."""
LIST_AGAIN_S: Final = 0.5
STRETCH: Final = 256
"""So many objects are read in a row before it is looked for segments again."""


@dataclass(frozen=True, slots=True)
class Until:
    """How far to go. sequence: the last record wanted. time_us: stop before the first record that is later."""

    sequence: int | None = None
    time_us: int | None = None

    def ends_before(self, record: CutRecord) -> bool:
        late = self.time_us is not None and record.header.time_us > self.time_us
        return late or (self.sequence is not None and record.header.position.sequence > self.sequence)


Progress = Callable[[int, int, int], None]
"""Told now and then how far it is: records done, records in all, bytes that arrived."""


class Engine:
    """One run over one tier into one directory."""

    def __init__(
        self,
        store: ObjectStore,
        filling: Filling,
        until: Until,
        progress: Progress,
        *,
        keep_beyond: bool = True,
        hands: Hands | None = None,
    ) -> None:
        """hands: processes that make whole segments, where there are any to spare; `run` closes them."""
        self._store = store
        self._fetching = Fetching(store)
        self._filling = filling
        self._until = until
        self._progress = progress
        self._keep_beyond = keep_beyond
        # Up to a time: which record is too late is found record by record.
        self._assembling = Assembling(store, hands, filling) if hands is not None and until.time_us is None else None
        self._assembled_bytes = 0
        self._bad: dict[Run, str] = {}
        """Objects that supply nothing any more."""
        self._doubtful: dict[Run, str] = {}
        """Damaged ones whose sound records are still wanted."""
        self._damaged: set[Run] = set()
        self._prover = ThreadPoolExecutor(1, "perenne-restore-prove")
        self._writer = ThreadPoolExecutor(1, "perenne-restore-write")
        self._stopped = ""
        self._records = self._objects = 0
        self._total = 0

    async def run(self) -> Report:
        """Raises Unreachable and Refused when the tier cannot be asked, StorageError when the directory cannot take it:
        run it again, and it goes on where it stopped.
        """
        began = time.monotonic()
        filling = self._filling
        try:
            filling.sync()  # what the run before this one could not release any more
            try:
                plan = await self._to_the_end()
            finally:
                if self._assembling is not None:
                    await self._assembling.close()
            filling.sync()
            wanted = self._until.sequence
            if wanted is not None and filling.end.sequence == wanted < plan.tip.sequence:
                self._stopped = f"record {wanted} is the last that was wanted"
            marker = filling.marker
            report = Report(
                kind=marker.kind,
                source=marker.source,
                directory=str(filling.root),
                cluster_id=marker.cluster_id,
                segment_bytes=marker.segment_bytes,
                end=filling.end,
                tip=plan.tip,
                records=self._records,
                objects=self._objects,
                bytes=self._bytes,
                seconds=time.monotonic() - began,
                resumed=filling.resumed,
                stopped_at=self._stopped,
            )
            if self._assembling is not None and self._assembling.lost:
                report.notes.append(f"{self._assembling.lost}: the rest was restored by one process")
            if plan.hole is not None and not self._stopped:
                report.holes = (plan.hole, *plan.holes)
                await self._set_aside(plan, report)
            self._sort(plan, report)
            report.released = filling.releasing.removed
            told = {kept.saved for kept in report.kept}
            left = filling.releasing.staying.items()
            report.staying = {name: why for name, why in left if name not in told and filling.disk.exists(name)}
            return report
        finally:
            self._prover.shutdown()
            self._writer.shutdown()

    async def _to_the_end(self) -> Plan:
        """Go on until nothing more can be read. What fails is planned around; a gap is believed when it stays."""
        listings = 0
        while True:
            runs = [run async for key in self._store.list(LOG) if (run := parse_run(key)) is not None]
            for run in set(self._bad) - self._damaged:
                del self._bad[run]  # not there when it was asked for: the listing decides anew
            before = self._filling.end
            plan = await self._along(runs)
            if self._stopped or (plan.hole is None and plan.reaches <= self._filling.end.sequence):
                return plan
            listings = listings + 1 if self._filling.end == before else 0
            if listings >= LISTINGS:
                return plan
            await asyncio.sleep(LIST_AGAIN_S)

    async def _along(self, runs: list[Run]) -> Plan:
        """Follow plans over one listing until one of them is done, or only a new listing can help."""
        while True:
            end = self._filling.end.sequence
            plan = await plan_over(self._fetching, runs, end, self._bad, self._failed, self._doubtful)
            if self._until.sequence is not None:
                plan = below(plan, self._until.sequence)
            if self._stopped or not plan.pieces or await self._read(plan):
                return plan

    @property
    def _bytes(self) -> int:
        return self._fetching.bytes + self._assembled_bytes

    async def _read(self, plan: Plan) -> bool:
        """Append what the plan's pieces hold. Returns whether all of it went well."""
        self._total = plan.tip.sequence if self._until.sequence is None else min(plan.tip.sequence, plan.reaches)
        if self._assembling is None:
            return await self._read_along(plan.pieces)
        self._assembling.follow(plan.pieces)
        ordinary: list[Piece] = []
        for piece in plan.pieces:
            takes = await self._assembling.takes(piece)
            if ordinary and (takes or len(ordinary) >= STRETCH):
                if not await self._read_along(ordinary):
                    return False
                if self._stopped:
                    return True
                ordinary = []
            if not takes or not await self._take_over(self._assembling, piece):
                ordinary.append(piece)
        return await self._read_along(ordinary)

    async def _take_over(self, assembling: Assembling, piece: Piece) -> bool:
        """Have a whole segment, made elsewhere. False where the ordinary way must have its records."""
        made = await assembling.take(piece)
        if made is None:
            return False
        taken = await asyncio.get_running_loop().run_in_executor(self._writer, self._filling.take_over, made)
        if taken:
            self._objects += 1
            self._records += made.records
            self._assembled_bytes += made.bytes
            self._progress(self._filling.end.sequence, self._total, self._bytes)
        return taken

    async def _read_along(self, wanted: Sequence[Piece]) -> bool:
        """The ordinary way: record by record."""
        pieces = {piece.run: piece for piece in wanted}
        reading: _Reading | None = None
        writing: _Writing | None = None
        async with contextlib.aclosing(self._fetching.all(pieces)) as coming:
            async for arrived in coming:
                self._objects += arrived.last and arrived.error is None
                if reading is None or reading.piece.run != arrived.run:
                    reading = _Reading(pieces[arrived.run], self._filling, self._until)
                cut: _Cut | None = None
                if arrived.error is None:  # proved while what was proved before is being written
                    loop = asyncio.get_running_loop()
                    cut = await loop.run_in_executor(self._prover, reading.cut, arrived)
                if (end := await self._written(writing)) is not None:
                    return end
                if cut is None:
                    return self._lost(arrived)
                writing = self._write(reading, cut)
                assert cut.damage or reading.done or not arrived.last, "what an object lacks is found at its end"
        end = await self._written(writing)
        return True if end is None else end

    def _write(self, reading: "_Reading", cut: "_Cut") -> "_Writing":
        return _Writing(reading, cut, asyncio.get_running_loop().run_in_executor(self._writer, reading.append, cut))

    async def _written(self, writing: "_Writing | None") -> bool | None:
        """Wait for it. Returns whether all went well where this was the end, None where it goes on."""
        if writing is None:
            return None
        reading = writing.reading
        why = writing.cut.damage
        try:
            await writing.under_way
        except (RecordCorrupt, FormatError) as error:
            why = str(error)
        finally:
            self._records += reading.counted()
            self._progress(self._filling.end.sequence, self._total, self._bytes)
        if reading.stopped_at:
            self._stopped = reading.stopped_at
            return True
        if why:
            self._failed(reading.piece.run, why, True)
            return False
        return None

    def _lost(self, arrived: Arrived) -> bool:
        """Raises Unreachable, Refused. Otherwise only a new listing, or another object, can help."""
        error = arrived.error
        assert error is not None, "there is one"
        if isinstance(error, (Unreachable, Refused)):
            raise error
        self._failed(arrived.run, str(error), not isinstance(error, NotThere))
        return False

    def _failed(self, run: Run, why: str, damaged: bool) -> None:
        self._bad[run] = why
        if damaged:
            self._damaged.add(run)

    def _altered(self) -> dict[Run, str]:
        """Objects that do not hold what their names say, and what was found in them."""
        return self._doubtful | {run: self._bad[run] for run in self._damaged}

    async def _set_aside(self, plan: Plan, report: Report) -> None:
        """Nothing behind the gap is thrown away."""
        if not self._keep_beyond:
            report.notes.append("what lies beyond the gap was left in the tier, and is not copied")
            return
        wanted = {piece.run: False for piece in plan.beyond} | dict.fromkeys(self._altered(), True)
        for run in sorted(wanted):
            report.kept.append(await keep(self._fetching, self._filling.disk, run, damaged=wanted[run]))

    def _sort(self, plan: Plan, report: Report) -> None:
        """Of the objects that were not used: which hold the same records again, and which are of dead branches?"""
        orphans: list[Run] = []
        known = {kept.run for kept in report.kept}
        altered = self._altered()
        report.damaged = dict(sorted(altered.items()))
        for run in set(plan.unused) - set(altered):
            point = self._filling.log.point_at(run.last)
            if run in known or run.last > report.end.sequence:
                if run not in known and not report.holes and not self._stopped:
                    orphans.append(run)
            elif point is not None and point.position == run.end and point.chain[:PREFIX_BYTES] == run.chain_prefix:
                report.spare += 1
            else:
                orphans.append(run)
        report.orphans = tuple(sorted(orphans))


async def plan_over(
    fetching: Fetching,
    runs: list[Run],
    base: int = 0,
    bad: dict[Run, str] | None = None,
    failed: Callable[[Run, str, bool], None] | None = None,
    doubtful: dict[Run, str] | None = None,
) -> Plan:
    """Answer a planner's questions. Raises Unreachable, Refused.

    failed(object, why, damaged): it cannot be read. doubtful: takes those of which only the record asked for cannot be.
    """
    planner = Planner(runs, base, bad)
    while (question := planner.wanted) is not None:
        run = question.run
        try:
            if isinstance(question, AskHead):
                planner.head(await fetching.head(run))
                continue
            chain = await fetching.chain(run, question.sequence, question.above)
            if chain is None and doubtful is not None:
                doubtful[run] = f"record {question.sequence} in it cannot be read"
            planner.chain(chain)
        except (NotThere, ObjectDamaged, RecordCorrupt, FormatError) as error:
            if failed is not None:
                failed(run, str(error), not isinstance(error, NotThere))
            if isinstance(question, AskHead):
                planner.head(None)
            else:
                planner.unreadable(str(error))
    assert planner.plan is not None, "a planner that asks nothing has its plan"
    return planner.plan


async def planned(store: ObjectStore) -> Plan:
    """What a restore would take, as far as names and a few headers say. Raises TierError."""
    runs = [run async for key in store.list(LOG) if (run := parse_run(key)) is not None]
    return await plan_over(Fetching(store), runs)


@dataclass(frozen=True, slots=True)
class _Cut:
    """Records of one object that are proved. damage: why nothing behind them can be read; empty when all is well."""

    records: Sequence[CutRecord]
    damage: str = ""


class _Reading:
    """One object of a plan, while its pieces come in: cut in the prover's thread, appended in the writer's."""

    def __init__(self, piece: Piece, filling: Filling, until: Until) -> None:
        self.piece = piece
        self.stopped_at = ""
        self._filling = filling
        self._until = until
        self._cutter = Cutter(piece.run, filling.spool)
        self._counted = 0

    @property
    def done(self) -> bool:
        """Whether everything that is wanted of the object was cut."""
        return self._cutter.next > self.piece.last

    def counted(self) -> int:
        """Records appended since this was last asked."""
        counted, self._counted = self._counted, 0
        return counted

    def cut(self, arrived: Arrived) -> _Cut:
        """The records that the piece completes, as far as they are wanted and sound. Raises StorageError (a spool)."""
        found: list[CutRecord] = []
        try:
            for record in self._records(arrived):
                sequence = record.header.position.sequence
                if sequence > self.piece.last:
                    break
                if sequence >= self.piece.first:
                    found.append(record)
        except (RecordCorrupt, FormatError) as error:
            return _Cut(found, str(error))
        return _Cut(found)

    def append(self, cut: _Cut) -> None:
        """Raises RecordCorrupt when the object does not continue the log; StorageError when it cannot be written."""
        for record in cut.records:
            sequence = record.header.position.sequence
            if self._until.ends_before(record):
                self.stopped_at = f"record {sequence} is later"
                return
            # Within an object the cutter has proved it, and the log proves it once more.
            if sequence == self.piece.first and not record.link.follows(self._filling.end.chain):
                raise RecordCorrupt(sequence, f"it does not continue record {sequence - 1} as restored")
            self._filling.take(record)
            self._counted += 1

    def _records(self, arrived: Arrived) -> Iterator[CutRecord]:
        if self._cutter.next > self.piece.last:
            return
        yield from self._cutter.feed(arrived.data)
        if arrived.last:
            yield from self._cutter.finish()


@dataclass(frozen=True, slots=True)
class _Writing:
    """Records on their way to the disk."""

    reading: _Reading
    cut: _Cut
    under_way: "asyncio.Future[None]"
