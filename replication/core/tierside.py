"""The tier as the leader of one epoch sees it: what it holds, what is on its way there, how far it was counted.

The tier is a passive member: what a follower does by confirming, the leader does for it. Every object begins where what
is confirmed ends, so the bucket has no gap, whichever of those under way arrive (ADR 0015); a place is found again by
chain (protocol, sections 4 and 5). Nothing here decides who is in the set.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from replication.core.audit import Audit
from replication.core.coverage import Coverage, listed
from replication.core.effects import AskTier, CountTier, DropStaged, ListTier, PutMarker, PutRun
from replication.core.events import (
    TierAnswered,
    TierAuditDue,
    TierAudited,
    TierCounted,
    TierDeleted,
    TierEvent,
    TierListed,
    TierMarked,
    TierOutgrown,
    TierPacked,
    TierRecord,
    TierStored,
)
from replication.core.packing import Packing
from replication.core.situation import Situation
from replication.core.values import CasOutcome, Change, TierFloor, TierMode, Uncommitted
from replication.tier.keys import Run, run_name
from storage.position import LogPoint

RETRY_MS = 500
"""Between two attempts at a bucket that did not answer, or refused."""
PUTS_AT_ONCE = 3
"""While somebody waits. Each holds again what the ones before it hold."""
AGAIN_BYTES = 256 * 1024
"""Only so much is put more than once."""
NEAR_MS = 8
"""A bucket that answers faster shares this machine: a put beside another would take from it what it gains."""
JUDGED_BY = 32
"""So many of the last puts that began alone; the fastest tells how far the bucket is, whatever the load."""
ASK_MS = 1000
"""A bucket that has had nothing to do for so long is asked whether it is there."""


@dataclass(frozen=True, slots=True)
class _Asked:
    request: int
    first: int = 0
    last: int = 0
    alone_ms: int | None = None
    """When it began, if no other was under way."""


@dataclass(slots=True)
class _Check:
    request: int
    point: LogPoint
    unknown: bool = False


class TierSide:
    """Everything between one leadership and the tier."""

    def __init__(self, situation: Situation, uncommitted: Sequence[Uncommitted]) -> None:
        """uncommitted: what this leadership numbered, oldest first."""
        self._situation = situation
        self._uncommitted = uncommitted
        self.coverage: Coverage | None = None
        """None before the bucket was listed; it may be listed from the claim on alone, at first."""
        self.surveyed = False
        """Whether all of it was listed."""
        self.orphans: tuple[Run, ...] = ()
        """Objects of dead branches."""
        self.packing: Packing | None = None
        self.audit: Audit | None = None
        self.entering: LogPoint | None = None
        """The commit point at which the tier is about to enter: it is filled from there on before it is claimed."""
        self.counted = 0
        """The last record for which the tier was counted: put, and then checked against `state` (section 4, rule 3)."""
        self.asked = 0
        """The last record for which it may have been counted: a transaction without an answer may come true."""
        self.marked = False
        self.failed: str | None = None
        """Why the last thing that was asked of the bucket was not done."""
        self.over: str | None = None
        """Why this leadership must end: the bucket knows of a later epoch, or of a later change of `state`."""
        self._listing: int | None = None
        self._since = 0
        """The lowest epoch that is listed, or was."""
        self._puts: list[_Asked] = []
        """Under way, in the order of their last records."""
        self._took_ms: deque[int] = deque(maxlen=JUDGED_BY)
        self._marking: int | None = None
        self._asking: int | None = None
        self._check: _Check | None = None
        self._retry_at_ms = 0
        self._progress_ms = situation.now_ms

    # How it does

    @property
    def configured(self) -> bool:
        return self._situation.settings.tier_mode is not TierMode.OFF

    @property
    def gone(self) -> bool:
        """Whether it has not moved for longer than a member may."""
        if not self.configured:
            return True
        pending = self._busy or self.failed or self.coverage is None
        stall_ms = self._situation.settings.stall_timeout_ms
        return bool(pending) and self._situation.now_ms - self._progress_ms > stall_ms

    @property
    def _busy(self) -> bool:
        return bool(self._listing or self._puts or self._marking or self._asking)

    @property
    def usable(self) -> bool:
        """Whether it answers, so that it may be asked to enter the in-sync set."""
        return self.configured and self.coverage is not None and self.failed is None and not self.gone

    def upto(self, first: int) -> int:
        """The last record that is in the bucket without a gap from `first` on."""
        return self.coverage.upto(first) if self.coverage is not None else first - 1

    @property
    def complete_upto(self) -> int:
        """The last record below which nothing is missing in the bucket."""
        return self.upto(1)

    # What it is asked for

    def tend(self, claimed_from: int | None, change: Change) -> None:
        """Ask for whatever is due. claimed_from: the first record that the tier must hold as a member, if it is one.

        change: that of the `state` in force.
        """
        situation = self._situation
        if not self.configured or situation.now_ms < self._retry_at_ms:
            return
        if not self.surveyed and self._listing is None:
            self._list(claimed_from)
        if self.coverage is None:
            return
        if claimed_from is not None and not self.marked and self._marking is None:
            self._marking = situation.next_request()
            self._begins()
            situation.emit(PutMarker(self._marking, change.counter, change.id))
        self._put(claimed_from)
        if self.packing is not None and self.surveyed:
            counted = self.counted if claimed_from is not None else situation.told.sequence
            coming = min((put.first for put in self._puts), default=0)
            self.packing.tend(min(situation.told.sequence, counted), coming)
        if self.audit is not None and self.surveyed:
            self.audit.tend(idle=not self._busy)
        if not self._busy and situation.now_ms - self._progress_ms >= ASK_MS:
            self._asking = situation.next_request()
            self._begins()
            situation.emit(AskTier(self._asking))

    def _list(self, claimed_from: int | None) -> None:
        """What decides comes first: from the claim, or the commit point, on. Then whatever is older."""
        situation = self._situation
        self._listing = situation.next_request()
        self._begins()
        if self.coverage is not None:
            situation.emit(ListTier(self._listing, before=self._since))
            return
        told = situation.told
        claimed = situation.ledger.point_at(claimed_from) if claimed_from is not None else told
        self._since = min(told.epoch, claimed.epoch) if claimed is not None else 0
        situation.emit(ListTier(self._listing, since=self._since))

    def _put(self, claimed_from: int | None) -> None:
        """What a member must hold goes first, committed or not; then whatever is committed, from the oldest on."""
        situation = self._situation
        if self.coverage is None or (self._puts and not self._may_overlap(claimed_from)):
            return
        urgent = self.entering.sequence + 1 if self.entering is not None else claimed_from
        gap = self.coverage.gap(urgent, situation.ledger.end.sequence) if urgent is not None else None
        if gap is None and self.surveyed:
            gap = self.coverage.gap(1, situation.told.sequence)
            if gap is not None and self.packing is not None and self.packing.takes(gap):
                return
        if gap is None:
            return
        first, last = gap
        sealed = situation.ledger.sealed_at(first)
        last = min(last, sealed.last) if sealed is not None else last
        span = next((span for span in situation.ledger.epochs() if span.first <= first <= span.last), None)
        assert span is not None, "every record of a log has an epoch"
        alone_ms = None if self._puts else situation.now_ms
        asked = _Asked(situation.next_request(), first, min(last, span.last), alone_ms)
        if self._puts and asked.last <= self._puts[-1].last:
            return
        if not self._puts:
            self._begins()
        self._puts.append(asked)
        situation.emit(PutRun(asked.request, asked.first, asked.last))

    def _may_overlap(self, claimed_from: int | None) -> bool:
        """Whether another object may go up beside those under way: it holds what they hold as well, which is little.

        So there is no gap when they do not arrive.
        """
        if min(self._took_ms, default=0) < NEAR_MS:
            return False
        if claimed_from is None or self.entering is not None or len(self._puts) >= PUTS_AT_ONCE:
            return False
        first, waiting = self.upto(claimed_from) + 1, self._uncommitted
        if not waiting or first < waiting[0].sequence:
            return False
        size = 0
        for record in reversed(waiting):
            size += record.size
            if size > AGAIN_BYTES or record.sequence <= first:
                break
        return size <= AGAIN_BYTES

    def _begins(self) -> None:
        if self.failed is None:
            self._progress_ms = self._situation.now_ms

    def _succeeded(self) -> None:
        self.failed = None
        self._progress_ms = self._situation.now_ms

    def _failed(self, reason: str) -> None:
        self.failed = reason
        self._retry_at_ms = self._situation.now_ms + RETRY_MS

    # What it answered

    def said(self, event: TierEvent, epoch: int, counter: int) -> bool:
        """Take an answer. epoch, counter: of the `state` in force, which the bucket must not be ahead of.

        Returns whether the cluster state must be read again.
        """
        match event:
            case TierListed():
                self._listed(event, epoch, counter)
            case TierStored():
                self._stored(event)
            case TierAuditDue() if self.audit is not None:
                self.audit.want()
            case TierAudited() if self.audit is not None:
                self.audit.audited(event)
            case TierPacked() | TierDeleted() | TierOutgrown():
                if self.packing is not None:
                    self.packing.said(event)
            case TierMarked():
                self._marker_put(event)
            case TierAnswered():
                self._answered(event)
            case TierCounted():
                return self._check_answered(event)
            case TierRecord():
                self._situation.emit(DropStaged(event.handle))  # of a takeover that is over
            case _:
                pass
        return False

    def _listed(self, event: TierListed, epoch: int, counter: int) -> None:
        """Find the place again."""
        if event.request != self._listing:
            return
        situation = self._situation
        self._listing = None
        if event.runs is None:
            self._failed(event.reason)
            return
        situation.tier_epoch = max([situation.tier_epoch, *(run.epoch for run in event.runs)])
        if event.counter > counter:
            situation.counter = max(situation.counter, event.counter)
            self.over = f"the bucket knows of change {event.counter}: the cluster state lost history"
        elif situation.tier_epoch > epoch:
            self.over = f"the bucket holds records of epoch {situation.tier_epoch}"
        found = listed(event.runs, situation.ledger)
        if self.coverage is None or self.packing is None:
            self.coverage = Coverage()
            self.packing = Packing(situation, self.coverage)
            self.audit = Audit(situation, self.coverage, self.packing)
            self.surveyed = self._since <= 1
        else:
            self.surveyed = True
        for run in found.own:
            self.coverage.add(run.first, run.last)
        self.packing.know(found.own)
        self.packing.deletes = event.deletes
        self.orphans += found.orphans
        self._succeeded()

    def _stored(self, event: TierStored) -> None:
        again = self.audit.stored(event) if self.audit is not None else None
        if again is not None:
            self._tell_packing(again, event)
            return
        asked = next((put for put in self._puts if put.request == event.request), None)
        if asked is None or self.coverage is None:
            return
        self._puts.remove(asked)
        if event.last is None:
            self._failed(event.reason)
        else:
            self.coverage.add(asked.first, event.last)
            if asked.alone_ms is not None:
                self._took_ms.append(self._situation.now_ms - asked.alone_ms)
            self._tell_packing(asked.first, event)
            self._succeeded()

    def _tell_packing(self, first: int, event: TierStored) -> None:
        end = self._situation.ledger.point_at(event.last) if event.last is not None else None
        if end is not None and self.packing is not None:
            self.packing.put(run_name(first, end, event.form))

    def _marker_put(self, event: TierMarked) -> None:
        if event.request != self._marking:
            return
        self._marking = None
        if event.reason:
            self._failed(event.reason)
        else:
            self.marked = True
            self._succeeded()

    def _answered(self, event: TierAnswered) -> None:
        if event.request != self._asking:
            return
        self._asking = None
        if event.reason:
            self._failed(event.reason)
        else:
            self._succeeded()

    # Counting

    def left(self) -> None:
        """The tier is no member any more: should it become one again, nothing of what was counted holds."""
        self.counted, self.marked = 0, False
        self._check = self._marking = None

    def check(self, sequence: int, state_version: int) -> None:
        """Count the tier up to `sequence`, unless `state` changed meanwhile. After the puts, never before."""
        situation = self._situation
        if self._check is not None or sequence <= self.counted:
            return
        point = situation.ledger.point_at(sequence)
        assert point is not None, "what is to be committed is in the log"
        self._check = _Check(situation.next_request(), point)
        self.asked = sequence
        floor = situation.tier_floor
        version = floor.version if floor is not None else None
        situation.emit(CountTier(self._check.request, point, state_version, version))

    def _check_answered(self, event: TierCounted) -> bool:
        """Returns whether the cluster state must be read again: the outcome is unknown, or something else was there."""
        check = self._check
        if check is None or event.request != check.request:
            return False
        if event.outcome is CasOutcome.APPLIED:
            self._check = None
            self._situation.tier_floor = TierFloor(check.point, event.version)
            self.counted = max(self.counted, check.point.sequence)
            return False
        if event.outcome is CasOutcome.CONFLICT:
            self._check = None
        check.unknown = True
        return True

    def floor_seen(self) -> None:
        """`tierfloor` was read: did a check whose outcome is unknown come true?

        Not seen, it may be applied still. The next one is at the same version: whichever comes first, the other fails.
        """
        check, floor = self._check, self._situation.tier_floor
        if check is None or not check.unknown:
            return
        self._check = None
        if floor is not None and floor.point == check.point:
            self.counted = max(self.counted, check.point.sequence)
