"""Compaction of the tier, for a node that reads evicted segments from it: it learns the places of the new object of a
segment, and says from which objects it reads no more. Only then may the leader delete these (ADR 0014, 11).
"""

import asyncio
import logging
import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Final

from replication.coordination.port import CoordinationCorrupt, CoordinationUnavailable
from replication.core.compaction import Reads, readers, reads, why_kept
from replication.core.events import TierOutgrown
from replication.core.values import ReplicaId
from replication.packing import Packer
from replication.tier.contents import Link
from replication.tier.keys import Run
from replication.tier.port import NotThere, TierError
from storage.compacted import compactable, next_compactable
from storage.errors import FormatError, LogContradiction, RecordAbsent, RecordCorrupt, RecordsElsewhere
from storage.position import EpochSpan
from storage.relearning import Relearned

if TYPE_CHECKING:
    from replication.replicator import Replicator

_LOG: Final = logging.getLogger("perenne.compacting")
_PATIENT: Final = 64
"""The bucket is asked for a new form of the same segment ever less often, up to so many times less."""


class Relearning:
    """One node's. reads: what others may rely on. permitted(): the last tombstone that may be acted upon, by the notes
    in this log.
    """

    def __init__(self, replicator: "Replicator", permitted: Callable[[], int], thread: Executor) -> None:
        self._replicator = replicator
        self._permitted = permitted
        self._thread = thread
        self._asked: dict[int, tuple[int, int]] = {}
        """When the bucket was asked for a new form of a segment, in ms, and after how long it is asked again."""
        self.reads = Reads()
        self.learned = 0
        """Segments."""
        self.letting_go = 0
        """The segment that is being evicted, by its first record: it counts as one that is."""

    def acts_upto(self) -> int:
        """The last tombstone that this node may act upon; 0 while its index has not come by every note in the log.

        It never falls: what permits is committed, and the floor lies on the disk.
        """
        replicator = self._replicator
        if not replicator.recent.complete:
            return 0
        return min(self._permitted(), replicator.promises.floor.sequence)

    # What others may rely on

    async def look(self) -> None:
        """Find out from which objects this node may still read payloads of what was deleted, and say so."""
        replicator = self._replicator
        upto = self.acts_upto()
        # From here on nothing is evicted that has such payloads (`waits`); what is under way counts as evicted.
        spans = [
            (segment.first, segment.last)
            for segment in replicator.log.segments()
            if segment.last is not None and (segment.evicted or segment.first == self.letting_go)
        ]
        behind = await asyncio.to_thread(self._behind, upto, spans)
        if self.acts_upto() < upto:
            return  # the index is made anew: what it said is worth nothing
        self.reads = reads(upto, behind)
        self._asked = {first: asked for first, asked in self._asked.items() if first in behind}
        if replicator.coordinator.said != self.reads:
            replicator.coordinator.announce()

    def _behind(self, upto: int, spans: Sequence[tuple[int, int]]) -> set[int]:
        index = self._replicator.index
        firsts = [first for first, _ in spans]
        found = {spans[at][0] for hole in index.holes if (at := _span_of(spans, firsts, hole)) is not None}
        after = firsts[0] - 1 if firsts else 0
        while upto and firsts and (sequence := next_compactable(index, upto, after)):
            at = _span_of(spans, firsts, sequence)
            if at is not None:
                found.add(spans[at][0])
                after = spans[at][1]
            elif (following := bisect_left(firsts, sequence)) < len(firsts):
                after = firsts[following] - 1
            else:
                break
        return found

    async def waits(self, span: EpochSpan) -> bool:
        """Whether a segment stays for now: it holds what is to be taken away, or may. `letting_go` is set."""
        if not self._replicator.recent.complete:
            return True
        upto, index = self.acts_upto(), self._replicator.index
        if any(span.first <= hole <= span.last for hole in index.holes):
            return True
        there = await asyncio.to_thread(compactable, index, upto, span.first - 1, span.last)
        return bool(there) or self.acts_upto() < upto

    async def who_reads(self) -> tuple[str, Mapping[ReplicaId, Reads]]:
        """Why nothing in the tier is replaced, empty when something may be; and what each node says that it reads."""
        replicator = self._replicator
        try:
            registered = await replicator.coordinator.registrations()
            live = await replicator.coordinator.live()
        except (CoordinationUnavailable, CoordinationCorrupt) as error:
            return f"it is not known who is registered: {error}", {}
        said = {
            node: its.reads
            for node, its in live.items()
            if node not in registered or registered[node].incarnation == its.identity.incarnation
        }
        said[replicator.me.id] = self.reads
        return why_kept((node.id for node in registered.values() if not node.retired), said), said

    async def outgrown(self, stubs: Mapping[int, int], by: int) -> TierOutgrown:
        """What a leader tells its core of segments that hold stubs. by: the last tombstone that covers one of these."""
        kept, said = await self.who_reads()
        read = readers(stubs, said, by)
        who = sorted({node for nodes in read.values() for node in nodes})
        words = f"they may still read from the tier what they evicted: {' '.join(who)}" if who else ""
        return TierOutgrown(tuple(sorted(stubs.items())), kept, frozenset(read), words)

    # The new places

    def lost(self) -> list[EpochSpan]:
        """Evicted segments of which something could not be indexed, the newest first: their objects may be others now,
        and what one says of another's stubs comes later in the log.
        """
        log, holes = self._replicator.log, sorted(self._replicator.index.holes)
        spans = {span for hole in holes if log.is_evicted(hole) and (span := log.sealed_at(hole)) is not None}
        return sorted(spans, key=lambda span: span.first, reverse=True)

    async def learn(self, span: EpochSpan, again_s: float) -> bool:
        """Learn the places of the form with most stubs that the bucket has of an evicted segment, if it has another,
        and nothing speaks against it. Returns whether it did. again_s: so long the bucket is not asked again, at first.
        """
        replicator = self._replicator
        now_ms, (at_ms, rest_ms) = replicator.runtime.now_ms(), self._asked.get(span.first, (0, 0))
        if replicator.tiering is None or (rest_ms and now_ms < at_ms + rest_ms):
            return False
        once_ms = round(again_s * 1000)
        self._asked[span.first] = now_ms, min(max(once_ms, 2 * rest_ms), _PATIENT * once_ms)
        packer = replicator.tiering.packer
        try:
            own = await asyncio.to_thread(packer.named, span)
            for run in await packer.forms(own):
                if run.form.stubs > own.form.stubs and await self._learn_from(packer, span, own, run):
                    del self._asked[span.first]
                    return True
        except (TierError, RecordAbsent) as error:
            _LOG.info("the tier is asked later for the new form of a segment", extra={"reason": str(error)})
        return False

    def due_s(self) -> float:
        """After how long the bucket is to be asked again, at the soonest."""
        due_ms = min((at_ms + rest_ms for at_ms, rest_ms in self._asked.values()), default=None)
        return max(0.0, (due_ms - self._replicator.runtime.now_ms()) / 1000) if due_ms is not None else math.inf

    async def _learn_from(self, packer: Packer, span: EpochSpan, own: Run, run: Run) -> bool:
        """Raises TierError."""
        replicator, log, loop = self._replicator, self._replicator.log, asyncio.get_running_loop()
        try:
            there = await packer.is_there(own)  # where it is gone a hold protects nothing any more
            links = await packer.contents(run)
            relearned = await loop.run_in_executor(self._thread, self._prepared, span.first, links)
            if there and self._held(relearned):
                await loop.run_in_executor(self._thread, log.drop_relearning, relearned)
                return False
            await asyncio.wrap_future(replicator.group.call(lambda: log.adopt_relearning(relearned)))
        except (RecordCorrupt, RecordsElsewhere, FormatError, LogContradiction, NotThere) as error:
            _LOG.warning("the new form of a segment is not taken", extra={"key": run.key, "reason": str(error)})
            return False
        self.learned += 1
        _LOG.info("learned the places of a new form", extra={"first": span.first, "stubs": run.form.stubs})
        return True

    def _prepared(self, first: int, links: Sequence[Link]) -> Relearned:
        return self._replicator.log.prepare_relearning(first, links)

    def _held(self, relearned: Relearned) -> bool:
        """As in a node's own log: a release counts once it is committed."""
        recent, committed = self._replicator.recent, self._replicator.core.situation.committed.sequence
        studies: Iterable[str] = {covered.study_instance_uid for covered in relearned.stubs.values()}
        return not recent.complete or any(recent.hold(study, committed) for study in studies)


def _span_of(spans: Sequence[tuple[int, int]], firsts: Sequence[int], sequence: int) -> int | None:
    at = bisect_right(firsts, sequence) - 1
    return at if at >= 0 and sequence <= spans[at][1] else None
