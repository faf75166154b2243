"""Whether the bucket still holds what it was seen to hold: objects can be lost without a word, and nobody asks for
them.

A whole listing is compared with what was known when it was asked for. While it comes, packing puts one object in the
place of many, and a listing may show neither; so only what a second listing lacks as well counts as lost. What counts
as held, confirmed or counted does not change by it: the protocol rests on what was put. What is lost is put again from
this node's log, a sealed segment by the packer, which proves it, and each piece once for each audit.
"""

from collections.abc import Iterable

from replication.core.coverage import Coverage, listed
from replication.core.effects import AuditTier, PutRun
from replication.core.events import TierAudited, TierStored
from replication.core.ledger import Ledger
from replication.core.packing import Packing
from replication.core.situation import Situation
from replication.tier.keys import Run

AGAIN_MS = 60_000
"""Until a bucket that could not be listed is asked again."""
Span = tuple[int, int]


class Audit:
    """One leadership's. missing: records that no object holds, cut at the ends of segments, in order.

    altered: objects that have not the length that their records have. found: places that were ever missing. failed: why
    a piece that is missing could not be put again, or the bucket not be looked at.
    """

    def __init__(self, situation: Situation, coverage: Coverage, packing: Packing) -> None:
        self._situation = situation
        self._coverage = coverage
        self._packing = packing
        self.missing: list[Span] = []
        self.altered: tuple[Run, ...] = ()
        self.found = 0
        self.failed = ""
        self._due = False
        self._looking: int | None = None
        self._expected = Coverage()
        self._again = False
        """Whether it is the second look."""
        self._again_ms = 0
        self._waiting: list[Span] = []
        """Missing in what is still written: to be put again one by one."""
        self._putting: tuple[int, Span] | None = None

    @property
    def why(self) -> str:
        """Why something is still missing; empty when nothing is, or it is under way."""
        return (self.failed or self._packing.not_back) if self.missing else ""

    def want(self) -> None:
        """Look at the bucket as soon as may be."""
        self._due = True

    def tend(self, *, idle: bool) -> None:
        """Ask for the next thing. idle: whether nothing else is asked of the bucket."""
        situation = self._situation
        self._see_what_is_back()
        if self._looking is None and self._due and situation.now_ms >= self._again_ms:
            if not self._again:
                self._expected = self._coverage.within(1, situation.told.sequence)
            self._looking = situation.next_request()
            situation.emit(AuditTier(self._looking))
        if idle and self._putting is None and self._waiting:
            first, last = span = self._waiting.pop(0)
            self._putting = situation.next_request(), span
            situation.emit(PutRun(self._putting[0], first, last))

    def _see_what_is_back(self) -> None:
        """A segment is back once the packer proved it; until then the packer says why it is not."""
        self.missing = [span for span in self.missing if not self._packing.holds(*span)]
        if not self.missing:
            self.failed = ""

    def audited(self, event: TierAudited) -> None:
        if event.request != self._looking:
            return
        self._looking = None
        if event.runs is None:
            self.failed, self._again_ms = event.reason, self._situation.now_ms + AGAIN_MS
            return
        lacking = lost(self._expected, event.runs, event.altered, self._situation.ledger)
        if lacking and not self._again:
            self._again, self._expected = True, Coverage(lacking)
            return
        self._due = self._again = False
        self.altered = event.altered
        self._take([place for span in lacking for place in places(span, self._situation.ledger)])

    def _take(self, missing: list[Span]) -> None:
        """These are what is lost: put them again."""
        self.failed = ""
        self.found += len(set(missing) - set(self.missing))
        self.missing, self._waiting = missing, []
        for first, last in missing:
            if not self._packing.lost(first, last):
                self._waiting.append((first, last))

    def stored(self, event: TierStored) -> int | None:
        """The first record of what was put again, or should have been; None when the answer is not to this audit."""
        if self._putting is None or event.request != self._putting[0]:
            return None
        first, last = self._putting[1]
        self._putting = None
        if event.last is None:
            self.failed = event.reason
            return first
        self.missing = [span for span in self.missing if span != (first, last)]
        if event.last < last:
            self.missing.append((event.last + 1, last))
            self._waiting.insert(0, (event.last + 1, last))
        self.missing.sort()
        return first


def lost(expected: Coverage, runs: Iterable[Run], altered: Iterable[Run], ledger: Ledger) -> list[Span]:
    """Which of the records that were known to be in the bucket none of these objects holds.

    An object whose last record is damaged here may be of this log: it says nothing against itself.
    """
    spoiled = set(altered)
    sound = [run for run in runs if run not in spoiled]
    held = Coverage((run.first, run.last) for run in listed(sound, ledger).own)
    for run in sound:
        if run.last <= ledger.end.sequence and ledger.point_at(run.last) is None:
            held.add(run.first, run.last)
    return [gap for first, last in expected.spans() for gap in held.gaps(first, last)]


def places(span: Span, ledger: Ledger) -> list[Span]:
    """Cut where segments end, and epochs: what one object may hold."""
    found: list[Span] = []
    first, last = span
    epochs = ledger.epochs()
    while first <= last:
        sealed = ledger.sealed_at(first)
        epoch = next(one for one in epochs if one.first <= first <= one.last)
        found.append((first, min(last, sealed.last if sealed is not None else epoch.last)))
        first = found[-1][1] + 1
    return found
