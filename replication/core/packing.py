"""Packing: each sealed segment becomes one object of the bucket, and the small objects that it replaces go.

A segment is packed once it is committed and, where the tier is a member, counted, and once something that follows it is
in the bucket: the object that reaches furthest is never replaced. A small object goes once each of its records is in
objects that were read back and proved in this leadership. Where a segment is missing altogether, in a tier that was
configured later or was away for long, it goes up as one object at once. The log is looked through once, oldest first.

A segment that was compacted here goes up once more, under the name of its form (ADR 0014). The object with the payloads
goes then, once nobody reads evicted records from it. Nothing with fewer stubs ever takes the place of one with more.
"""

from bisect import insort
from collections.abc import Iterable

from replication.core.coverage import Coverage
from replication.core.effects import DeleteRuns, PackSegment
from replication.core.events import TierDeleted, TierOutgrown, TierPacked
from replication.core.situation import Situation
from replication.tier.keys import Run, run_name
from storage.position import EpochSpan

RETRY_MS = 2000
"""Nobody waits for a segment to be packed."""
AT_ONCE = 256
"""Segments looked at in one step, where there is nothing to do for them."""


class Packing:
    """What one leadership packs. failed: why the last attempt came to nothing.

    packed, deleted: segments and objects so far. kept: small objects that the bucket does not let go; it stays as it is
    until the next leadership.
    """

    def __init__(self, situation: Situation, coverage: Coverage) -> None:
        self._situation = situation
        self._coverage = coverage
        self._waiting: list[Run] = []
        """Objects of this branch that no segment was looked at for yet, in order: epochs rise along a branch."""
        self._near: list[Run] = []
        """Those that hold records of the segment looked at, or of one before it."""
        self._proved = Coverage()
        """Records in whole segments that were read back in this leadership."""
        self._lost: list[EpochSpan] = []
        """Segments that were passed, and of which the bucket has lost something since."""
        self._putting_back = False
        self.not_back = ""
        """Why one of them could not be put again."""
        self._stubs_here: dict[int, int] = {}
        self._objects: dict[int, tuple[Run, ...]] = {}
        """Of each segment that was passed: its first record, and the objects that it is; one, as a rule."""
        self._stubs: dict[int, int] = {}
        """Of segments here that may have more stubs than their objects: how many."""
        self._settled: dict[int, int] = {}
        """With how many stubs a segment was put once more: it is not tried again before it has others."""
        self._own: dict[int, Run] = {}
        """Of each segment that was put or found, the object that was read back and proved last."""
        self._unread: dict[int, int] = {}
        """Of a segment here: nobody reads an object of it that has fewer stubs than this, nor ever will."""
        self._retained: dict[int, int] = {}
        """Objects of a segment with fewer stubs than this stay: the bucket was asked, and does not let go of them."""
        self._repeating = False
        """Whether what was asked for is of a segment that was passed already."""
        self._next = 1
        self._segment: EpochSpan | None = None
        self._doomed: tuple[Run, ...] = ()
        self._request: int | None = None
        self._again_ms = 0
        self._rest_until_ms = 0
        self.deletes = True
        """Whether the store was seen to delete."""
        self.failed: str | None = None
        self.packed = self.deleted = self.kept = 0
        self._spoiled: set[int] = set()
        self.outgrown = 0
        """Segments of which the bucket has payloads that were taken away here, when that was last looked at."""
        self.outgrown_kept = ""
        """Why they stay there; empty when they will go."""

    @property
    def spoiled(self) -> int:
        """Segments that had something else under their name when they were last to be put."""
        return len(self._spoiled)

    def know(self, runs: Iterable[Run]) -> None:
        """A listing showed these objects, on this very branch."""
        self._waiting = sorted({*self._waiting, *runs})

    def put(self, run: Run) -> None:
        """This object was put and confirmed. One that is a segment that was passed is known already, or as good."""
        span = self._situation.ledger.sealed_at(run.first) if run.last < self._next else None
        if span is None or not _is_of(run, span):
            insort(self._waiting, run)

    def takes(self, gap: tuple[int, int]) -> bool:
        """Whether the records of a gap in the bucket begin with a whole segment, which goes up as one object.

        Only the segment that is looked at now: an earlier one may wait for what follows it, and so for this gap.
        """
        span = self._situation.ledger.sealed_at(gap[0])
        return span is not None and self._next == span.first == gap[0] and span.last <= gap[1]

    # What is due

    def tend(self, limit: int, coming: int = 0) -> None:
        """Ask for the next thing. limit: up to where the log is committed and, where the tier is a member, counted.

        coming: the first record of the small object that is being put.
        """
        situation = self._situation
        if self._request is not None or situation.now_ms < self._again_ms:
            return
        if self._doomed:
            self._request = situation.next_request()
            situation.emit(DeleteRuns(self._request, self._doomed))
            return
        for _ in range(AT_ONCE):
            span = situation.ledger.sealed_at(self._next)
            if span is None or span.last > situation.told.sequence or not self._look(span, limit, coming):
                break
            self._pass(span)
        if self._request is None and self._lost:
            self._put_back(self._lost.pop(0))
        if situation.now_ms >= self._rest_until_ms:
            for first in sorted(self._stubs)[:AT_ONCE]:
                if self._request is not None or self._doomed:
                    break
                self._look_again(first, limit)

    def _look(self, span: EpochSpan, limit: int, coming: int) -> bool:
        """Whether there is nothing to do for this segment; else ask for it, unless its time has not come."""
        situation = self._situation
        end = situation.ledger.point_at(span.last)
        if end is None:
            return False  # damaged here: it is repaired first
        missing = self._coverage.gap(span.first, span.last)
        self._gather(span)
        if missing is None:
            if len(self._near) == 1 and _is_of(self._near[0], span):
                return True
            followed = self._coverage.upto(span.last + 1) > span.last
            if span.last > limit or not followed or situation.now_ms < self._rest_until_ms:
                return False
        elif missing != (span.first, span.last) or span.first <= coming <= span.last:
            return False  # small objects fill it up first
        self._ask(span)
        return False

    def _look_again(self, first: int, limit: int) -> None:
        """Put a segment that was passed once more, unless the bucket holds one with more stubs than it has here."""
        stubs = self._stubs.pop(first)
        span = self._situation.ledger.sealed_at(first)
        most = max((run.form.stubs for run in self._objects.get(first, ())), default=0)
        if span is None or not self._fuller(first, stubs) or most > stubs:
            return
        if self._settled.get(first) == stubs:
            self._let_go(span)
        elif span.last <= limit and self._coverage.upto(span.last + 1) > span.last:
            self._settled[first] = stubs
            self._ask(span, repeating=True)

    def holds(self, first: int, last: int) -> bool:
        """Whether these records are in segments that were read back, and that were not lost since."""
        return self._proved.upto(first) >= last

    def lost(self, first: int, last: int) -> bool:
        """The bucket has lost these records, all of one segment. Returns whether that is seen to here: a segment that
        was passed is put again as a whole, and one that was not will be.
        """
        self._proved.remove(first, last)
        self.not_back = ""
        span = self._situation.ledger.sealed_at(first)
        if span is None:
            return False
        # What it was to replace is the last copy there, until it is put again and proved.
        self._own.pop(span.first, None)
        self._settled.pop(span.first, None)
        if self._segment == span and self._doomed and self._request is None:
            self._doomed = ()
            self._pass(span)
        if span.first < self._next and span not in self._lost:
            self._lost.append(span)
        return True

    def _put_back(self, span: EpochSpan) -> None:
        most = max((run.form.stubs for run in self._objects[span.first]), default=0)
        if self._situation.ledger.point_at(span.last) is None:
            self.not_back = f"record {span.last} is damaged here"
        elif most > self._stubs_here.get(span.first, 0):
            self.not_back = f"records {span.first} to {span.last} were compacted in the tier, and not yet here"
        else:
            self._putting_back = True
            self._ask(span, repeating=True)

    def _let_go(self, span: EpochSpan) -> None:
        """Delete what was left beside the object that was put, if nobody reads it any more."""
        own = self._own.get(span.first)
        if own is None or self._retained.get(span.first, 0) >= own.form.stubs:
            return
        doomed = tuple(run for run in self._objects[span.first] if self._replaced(run, own))
        if doomed:
            self._segment, self._repeating, self._doomed = span, True, doomed

    def _ask(self, span: EpochSpan, *, repeating: bool = False) -> None:
        self._segment, self._repeating = span, repeating
        self._request = self._situation.next_request()
        self._situation.emit(PackSegment(self._request, span.first, span.last))

    def _gather(self, span: EpochSpan) -> None:
        """Objects that hold records of this segment."""
        held = 0
        while held < len(self._waiting) and self._waiting[held].first <= span.last:
            held += 1
        self._near.extend(self._waiting[:held])
        del self._waiting[:held]

    def _pass(self, span: EpochSpan) -> None:
        """Go on behind it; what reaches beyond it is looked at with the next one again."""
        if self._repeating:
            self._repeating = self._putting_back = False
            return
        self._objects[span.first] = tuple(run for run in self._near if _is_of(run, span))
        self._next = span.last + 1
        self._near = [run for run in self._near if run.last > span.last]

    # What came of it

    def said(self, event: TierPacked | TierDeleted | TierOutgrown) -> None:
        if isinstance(event, TierOutgrown):
            self._outgrew(event)
            return
        if event.request != self._request:
            return
        self._request = None
        self.failed = event.reason or None
        if isinstance(event, TierPacked):
            self._packed(event)
        else:
            self._deleted(event)
        if event.reason and not event.lasting:
            self._again_ms = self._situation.now_ms + RETRY_MS

    def _outgrew(self, event: TierOutgrown) -> None:
        self._stubs_here = dict(event.stubs)
        why_not = event.kept or ("" if self.deletes else "the tier does not delete")
        fuller = [first for first, stubs in event.stubs if self._fuller(first, stubs)]
        self.outgrown = len(fuller)
        self.outgrown_kept = why_not or (event.readers if any(first in event.read for first in fuller) else "")
        said = {} if why_not else dict(event.stubs)
        self._unread = {first: stubs for first, stubs in said.items() if first not in event.read}
        # Said anew every few seconds: what has nothing left to do must not keep what has from its turn.
        self._stubs = {first: said[first] for first in fuller if first in said}

    def _fuller(self, first: int, stubs: int) -> bool:
        """Whether the bucket has payloads of this segment that it has not got here any more."""
        return any(run.form.stubs < stubs for run in self._objects.get(first, ()))

    def _packed(self, event: TierPacked) -> None:
        span, situation = self._segment, self._situation
        assert span is not None, "asked for"
        if event.reason:
            if self._repeating and not event.lasting:
                self._settled.pop(span.first, None)
            if event.lasting:
                self._spoiled.add(span.first)
            self.not_back = event.reason if self._putting_back else self.not_back
            if self._repeating or event.lasting:
                self._pass(span)
            return
        self._coverage.add(span.first, span.last)
        self._proved.add(span.first, span.last)
        self._spoiled.discard(span.first)
        self.packed += 1
        rate = situation.settings.tier_pack_bytes_per_s
        self._rest_until_ms = situation.now_ms + (event.moved * 1000 // rate if rate else 0)
        end = situation.ledger.point_at(span.last)
        if end is None:
            self._pass(span)  # damaged meanwhile: the next leadership looks at it anew
            return
        own = self._own[span.first] = run_name(span.first, end, event.form)
        held = self._objects[span.first] if self._repeating else self._near
        doomed = tuple(run for run in held if self._replaced(run, own))
        self._keep(span, [*(run for run in held if run != own), own])
        if doomed and self.deletes:
            self._doomed = doomed
            return
        self.kept += len(doomed)
        self._pass(span)

    def _keep(self, span: EpochSpan, runs: list[Run]) -> None:
        """These are what the bucket holds of this segment."""
        if self._repeating:
            self._objects[span.first] = tuple(runs)
        else:
            self._near = sorted(runs)

    def _replaced(self, run: Run, own: Run) -> bool:
        """Whether each record of it is in another object that was proved.

        own: the one of the whole segment, which stays itself; and so does one with more stubs, or one that somebody may
        read evicted records from. The object of another
        segment stays: a put may be answered when what it put is the one object of a segment that was passed already.
        """
        if (run.first, run.last) == (own.first, own.last):
            return run.form.stubs < min(own.form.stubs, self._unread.get(own.first, 0))
        span = self._situation.ledger.sealed_at(run.first)
        of_another = span is not None and _is_of(run, span)
        return not of_another and self._proved.upto(run.first) >= run.last

    def _deleted(self, event: TierDeleted) -> None:
        span = self._segment
        assert span is not None, "what is deleted was packed"
        lost = not self.holds(span.first, span.last)  # since this was asked for: what is left of it stays
        if event.reason and not event.lasting and not lost:
            return
        if event.reason:
            self.kept += len(self._doomed)
            if event.lasting and (own := self._own.get(span.first)) is not None:
                self._retained[span.first] = own.form.stubs
        else:
            self.deleted += len(self._doomed)
        doomed, self._doomed = set(self._doomed), ()
        held = self._objects[span.first] if self._repeating else self._near
        self._keep(span, [run for run in held if run not in doomed or event.reason])
        self._pass(span)
        if lost and span not in self._lost:
            self._lost.append(span)


def _is_of(run: Run, span: EpochSpan) -> bool:
    """Whether it is the object of a whole segment, in whatever form."""
    return (run.first, run.last) == (span.first, span.last)
