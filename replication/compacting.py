"""Compaction in a running node: what a leader permits, every node carries out in its own log, slowly and by itself.

The leader says with a note which tombstones may be acted upon (`replication.core.compaction`). A node acts by that
note, by its own floor, and by the tombstones in its own log; it leaves alone what is on hold, evicted, or not sealed.
"""

import asyncio
import logging
import os
import threading
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from replication.api import CompactionReport, NotPromised, OnHold
from replication.coordination.port import CoordinationCorrupt, CoordinationUnavailable
from replication.core.compaction import (
    COMPACTION,
    Permission,
    Reads,
    Standing,
    Tombstones,
    permitted,
)
from replication.relearning import Relearning
from storage.compacted import Compactable, compactable, covered_stubs, extent, next_compactable, tombstones
from storage.deletion import Note
from storage.errors import (
    FormatError,
    LogContradiction,
    RecordAbsent,
    RecordCorrupt,
    RecordsElsewhere,
    StorageError,
)
from storage.indexer import Indexer
from storage.position import EpochSpan
from storage.rewriting import Compacted

if TYPE_CHECKING:
    from replication.replicator import Replicator

_LOG: Final = logging.getLogger("perenne.compacting")
NICENESS: Final = 10
BROUGHT_BACK: Final = 4
"""So many evicted segments come back to a leader in one pass: each has to go up, and be evicted anew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compaction:
    """undo_us: for so long a delete can be undone. daily: the leader permits what may be permitted once a day.

    bytes_per_s: what is read and written in a second at most; 0 for as fast as it goes. keep_free_bytes: no evicted
    segment comes back where less room would be left.
    """

    undo_us: int = 30 * 86_400_000_000
    daily: bool = False
    bytes_per_s: int = 100 * 1024 * 1024
    keep_free_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How often a node looks for something to do, and how quiet it has to be, in seconds.

    left: the same, where something had to be left: on hold, evicted, damaged, or in a segment that is not sealed yet.
    patience: so long one segment waits for a quiet moment; then it is written all the same.
    first, daily: when the leader permits what may be permitted, after the start and from then on.
    """

    look: float = 5.0
    left: float = 60.0
    quiet: float = 1.0
    patience: float = 60.0
    first: float = 3600.0
    daily: float = 86_400.0


class Plan(Struct, frozen=True):
    """What could be permitted now. instances, size: payloads that would go, held ones left out. left: of those that are
    permitted already, what this node still has.
    """

    permission: Permission
    permitted: int
    instances: int
    size: int
    held: int
    left: int


def _step_back() -> None:
    """Let everybody else have the processor first."""
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)


class Compactor:
    """One node's. `report` is for metrics and `/status`. step_back(): what its thread does first."""

    def __init__(
        self,
        replicator: "Replicator",
        settings: Compaction,
        *,
        pace: Pace = Pace(),
        step_back: Callable[[], None] = _step_back,
    ) -> None:
        self._replicator = replicator
        self.settings = settings
        self._pace = pace
        self._step_back = step_back
        self._thread = replicator.runtime.executor("compact", 1)
        self._indexer = Indexer(replicator.log, replicator.index)
        self.relearning = Relearning(replicator, self._permitted, self._thread)
        self._woken = asyncio.Event()
        self._instances = self._bytes = self._left = 0
        self._idle = False
        self._passed = 0
        """The last pass went by tombstones up to here."""
        self._stubs: dict[int, int] = {}
        """Of each sealed segment that holds any, by its first record: how many, when they were last counted."""
        self._by = 0
        """The last tombstone that covers one of them."""
        self._counted: tuple[int, int] | None = None
        """In which epoch that was, and how many instances had been compacted then."""
        self._brought_back = 0
        """Evicted segments that came back in this pass."""
        self._tier_kept: str | None = None
        """Why nothing in the tier may be replaced; None before it was asked for in this pass."""

    def start(self) -> None:
        self._replicator.spawn(self._run())
        if self.settings.daily:
            self._replicator.spawn(self._permit_daily())

    def close(self) -> None:
        """Wait for the segment under way; before the log is closed."""
        self._thread.shutdown()

    def wake(self) -> None:
        self._woken.set()

    @property
    def waits(self) -> bool:
        """Whether this node has gone through its log for all that is permitted, and what is left must wait."""
        return self._idle and not self._woken.is_set() and self._passed >= self._permitted()

    def report(self) -> CompactionReport:
        return CompactionReport(instances=self._instances, bytes=self._bytes, left=self._left)

    # What a leader permits

    async def plan(self) -> Plan:
        """What may be permitted now, by this leader's word. Raises NotPromised."""
        replicator = self._replicator
        standing = await self._standing()
        known = Tombstones(await asyncio.to_thread(tombstones, replicator.index))
        now_us, undo_us = replicator.runtime.wall_us(), self.settings.undo_us
        found = permitted(known, standing, now_us=now_us, undo_us=undo_us)
        before = self._permitted()
        there = await asyncio.to_thread(extent, replicator.index, max(found.upto, before))
        free = [one for one in there if not replicator.recent.hold(one.study)]
        left = await asyncio.to_thread(extent, replicator.index, before)
        return Plan(
            found,
            before,
            sum(one.instances for one in free),
            sum(one.size for one in free),
            sum(one.instances for one in there) - sum(one.instances for one in free),
            sum(one.instances for one in left if not replicator.recent.hold(one.study)),
        )

    async def permit(self, by: str) -> Plan:
        """Say that what may go goes; return what that is. Raises NotPromised, OnHold."""
        plan = await self.plan()
        if plan.permission.upto > plan.permitted:
            await self._replicator.deleting.commit(Note(COMPACTION, str(plan.permission.upto), {"by": by}))
            _LOG.warning("compaction permitted", extra={"upto": plan.permission.upto, "by": by})
        self.wake()
        return plan

    def permitted_us(self, tombstone: int) -> int:
        """When it was permitted to act upon this tombstone, in Unix microseconds; 0 when it was not."""
        times = [note.time_us for note in self._notes() if int(note.subject) >= tombstone]
        return min(times, default=0)

    async def _standing(self) -> Standing:
        """A node that is connected and fed holds what it has confirmed; one that is away, what it said last."""
        replicator = self._replicator
        leadership = replicator.core.leadership
        if leadership is None:
            raise NotPromised("this node does not lead")
        try:
            registered = await replicator.coordinator.registrations()
        except (CoordinationUnavailable, CoordinationCorrupt) as error:
            raise NotPromised(f"it is not known who is registered: {error}") from error
        committed = replicator.core.situation.told.sequence
        confirmed = {member.id: at for member, at in leadership.streams.confirmations().items()}
        confirmed[replicator.me.id] = replicator.log.durable.sequence
        nodes = {
            node.id: max(node.floor.sequence, min(committed, confirmed.get(node.id, 0)))
            for node in registered.values()
            if not node.retired
        }
        tier = leadership.tier.complete_upto if replicator.tiering is not None else None
        return Standing(committed, nodes, tier)

    async def _permit_daily(self) -> None:
        """An hour after the start, and every day from then on, if this node leads then."""
        await asyncio.sleep(self._pace.first)
        while True:
            if self._replicator.core.leadership is not None:
                try:
                    await self.permit("daily")
                except (NotPromised, OnHold) as error:
                    _LOG.warning("nothing is compacted today", extra={"reason": str(error)})
            await asyncio.sleep(self._pace.daily)

    # What every node does

    def _notes(self) -> list["_Said"]:
        found = self._replicator.index.burials.notes(COMPACTION)
        return [_Said(note.subject, note.time_us) for note in found if note.subject.isdecimal()]

    def _permitted(self) -> int:
        return max((int(note.subject) for note in self._notes()), default=0)

    async def _run(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._step_back)
        while True:
            self._woken.clear()
            self._idle = False
            try:
                self._left = await self._pass()
                await self.relearning.look()
                await self._tell_tier()
            except (StorageError, OSError) as error:
                self._left = max(self._left, 1)
                _LOG.error("compaction met an error and goes on later", extra={"reason": str(error)})
            self._idle = True
            behind = self._passed < self._permitted()  # the floor, or the index, has not come that far yet
            pace = self._pace
            try:
                left = max(pace.quiet, min(pace.left, self.relearning.due_s()))
                async with asyncio.timeout(pace.quiet if behind else left if self._left else pace.look):
                    await self._woken.wait()
            except TimeoutError:
                continue

    async def _pass(self) -> int:
        """Go through the log once; return how many instances had to be left."""
        replicator = self._replicator
        # Durably known to be committed: neither the tombstone nor the record behind a segment is ever cut.
        floor = replicator.promises.floor.sequence
        upto, after, left, self._brought_back = min(self._permitted(), floor), 0, 0, 0
        self._tier_kept = None
        for lost in self.relearning.lost():
            await self.relearning.learn(lost, self._pace.look)
        self._passed = upto if replicator.recent.complete else 0
        while upto and (found := await asyncio.to_thread(next_compactable, replicator.index, upto, after)):
            span = replicator.log.sealed_at(found)
            last = span.last if span is not None else replicator.log.end.sequence
            there = await asyncio.to_thread(compactable, replicator.index, upto, found - 1, last)
            done = await self._segment(span, there) if span is not None and span.last < floor else 0
            left, after = left + len(there) - done, last
        return left

    async def _tell_tier(self) -> None:
        """Say which segments have fewer payloads here than their objects in the tier may have."""
        replicator = self._replicator
        leadership = replicator.core.leadership
        if leadership is None or replicator.tiering is None:
            return
        now = (leadership.epoch, self._instances)
        if self._counted != now:
            (self._stubs, self._by), self._counted = await asyncio.to_thread(self._count), now
        if not self._stubs:
            return
        replicator.feed(await self.relearning.outgrown(self._stubs, self._by))

    def _count(self) -> tuple[dict[int, int], int]:
        log = self._replicator.log
        sealed = [segment for segment in log.segments() if segment.sealed]
        firsts = [segment.first for segment in sealed]
        found: dict[int, int] = {}
        last = 0
        for sequence, tombstone in covered_stubs(self._replicator.index):
            last = max(last, tombstone)
            at = bisect_right(firsts, sequence) - 1
            if at >= 0 and sequence <= (sealed[at].last or 0):
                found[firsts[at]] = found.get(firsts[at], 0) + 1
        return found, last

    async def _segment(self, span: EpochSpan, there: list[Compactable]) -> int:
        """Take the payloads of these instances away, where nothing speaks against it; return of how many."""
        replicator, loop = self._replicator, asyncio.get_running_loop()
        bring_back = replicator.log.is_evicted(span.first)
        if bring_back and await self.relearning.learn(span, self._pace.look):
            await self._rest(self._size_of(span))
            return await self._stripped(there)
        if bring_back and not await self._may_come_back(span):
            return await self._stripped(there)
        if not self._unheld(there):
            return 0
        await self._quiet()
        covered = self._unheld(there)
        freed = 0
        try:
            compacted = await loop.run_in_executor(self._thread, self._prepare, span, covered, bring_back)
            if compacted is not None:
                if self._unheld(there) != covered:
                    await loop.run_in_executor(self._thread, replicator.log.drop_compaction, compacted)
                    return 0  # held since: it is looked at anew
                ready = compacted
                freed = await asyncio.wrap_future(replicator.group.call(lambda: replicator.log.adopt_compaction(ready)))
        except (LogContradiction, RecordsElsewhere, RecordAbsent, RecordCorrupt, FormatError) as error:
            # Of this segment alone: it is damaged, evicted or cut by now. Those behind it need not wait.
            _LOG.info("a segment is compacted later", extra={"first": span.first, "reason": str(error)})
            return 0
        if compacted is not None:
            self._brought_back += bring_back
            _LOG.info("compacted a segment", extra={"first": span.first, "bytes": freed, "brought_back": bring_back})
        taken = await self._stripped(there)
        self._bytes += freed
        if compacted is not None:
            await self._rest(2 * compacted.segment.size + compacted.freed)
        return taken

    async def _may_come_back(self, span: EpochSpan) -> bool:
        """Whether an evicted segment is to be compacted here, where it was not elsewhere: a leader puts what it has."""
        replicator = self._replicator
        leadership = replicator.core.leadership
        packing = leadership.tier.packing if leadership is not None else None
        if packing is None or not packing.deletes or self._brought_back >= BROUGHT_BACK:
            return False
        if replicator.disk.free_bytes() < self.settings.keep_free_bytes + self._size_of(span):
            _LOG.warning("an evicted segment is compacted when there is room for it", extra={"first": span.first})
            return False
        if self._tier_kept is None:
            self._tier_kept = (await self.relearning.who_reads())[0]
        return not self._tier_kept

    def _size_of(self, span: EpochSpan) -> int:
        return next((one.bytes for one in self._replicator.log.segments() if one.first == span.first), 0)

    async def _rest(self, size: int) -> None:
        """So many bytes were moved."""
        if self.settings.bytes_per_s:
            await asyncio.sleep(size / self.settings.bytes_per_s)

    async def _stripped(self, there: list[Compactable]) -> int:
        """Tell the index which of these are stubs by now; return of how many."""
        taken = await asyncio.get_running_loop().run_in_executor(self._thread, self._strip, there)
        self._instances += len(taken)
        return len(taken)

    def _unheld(self, there: list[Compactable]) -> dict[int, int]:
        """Nothing is known to be free of holds before the index has come by every note in the log. A release counts
        once it is committed: before, whoever leads next may never have heard of it.
        """
        recent, committed = self._replicator.recent, self._replicator.core.situation.committed.sequence
        if not recent.complete:
            return {}
        return {one.sequence: one.tombstone for one in there if not recent.hold(one.study, committed)}

    def _prepare(self, span: EpochSpan, covered: Mapping[int, int], bring_back: bool) -> Compacted | None:
        """None when there is nothing that can be taken away now."""
        log = self._replicator.log
        free = {sequence: tombstone for sequence, tombstone in covered.items() if log.may_take(sequence, tombstone)}
        if not free:
            return None
        try:
            return log.prepare_compaction(span.first, free, bring_back=bring_back)
        except RecordCorrupt as error:
            log.judge(error.sequence)
            raise

    def _strip(self, there: list[Compactable]) -> list[int]:
        """Tell the index which of these are stubs by now; after a crash in between, those of an earlier process too."""
        stubs = [one.sequence for one in there if self._replicator.log.is_stub(one.sequence)]
        if stubs:
            self._indexer.compacted(stubs)
        return stubs

    async def _quiet(self) -> None:
        """Wait until nobody stores or reads, for a while."""
        replicator = self._replicator
        quiet = self._pace.quiet
        for _ in range(int(self._pace.patience / quiet)):
            activity = replicator.log.end.sequence + replicator.lookups.reads
            await asyncio.sleep(quiet)
            if activity == replicator.log.end.sequence + replicator.lookups.reads:
                return


def reads_of(compactor: Compactor | None) -> Reads:
    """What a node says of the objects that it reads from the tier; nothing before it can."""
    return compactor.relearning.reads if compactor is not None else Reads()


class _Said(Struct, frozen=True):
    subject: str
    time_us: int
