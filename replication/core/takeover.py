"""Taking over through the tier: the log is rebuilt from the bucket before anything is said in its name (section 6).

The compare-and-set comes first, the listing after it: whatever was acknowledged was put before its check, and the check
came before that compare-and-set, so the listing shows it. A listing that does not (an object is lost, or it is an old
one) is asked for again, and then given up: nobody leads on a guess.
"""

import enum

from replication.core.effects import AppendStaged, DropStaged, FetchRun, ListTier, ReadRun
from replication.core.eligibility import takeover_base
from replication.core.events import TierEvent, TierFetched, TierListed, TierRead, TierRecord
from replication.core.follower import Following
from replication.core.situation import Situation
from replication.core.values import ClusterState
from replication.tier.tip import Branch, Broken, Piece, TipSearch
from storage.position import LogPoint

LIST_AGAIN_MS = 300
ATTEMPTS = 10
"""Listings without a result after which the lead is given up: a few seconds, in which a late listing becomes true."""


class Stage(enum.Enum):
    """READING: `tierfloor` is read once more, since the predecessor may have counted until this node won.
    LISTING: the bucket is asked what it holds. SEARCHING: objects are read, from the tip back along the chain.
    CUTTING: records that are not on the branch go to lost+found. FETCHING: what is missing comes from the bucket.
    WRITING: it is on its way to the disk. DONE: the log is the bucket's branch.
    """

    READING = "reading"
    LISTING = "listing"
    SEARCHING = "searching"
    CUTTING = "cutting"
    FETCHING = "fetching"
    WRITING = "writing"
    DONE = "done"


class Takeover:
    """One attempt to make this log what the tier says it is. `state`: as won."""

    def __init__(self, situation: Situation, following: Following, state: ClusterState) -> None:
        assert state.tier is not None, "only a claim makes it eligible"
        self._situation = situation
        self._following = following
        self._state = state
        self._claim = state.tier
        self._base = takeover_base(state.tier, situation.ledger, situation.told)
        self.stage = Stage.READING
        self.failed: str | None = None
        """Why the lead is to be given up."""
        self._attempts = 0
        self._request: int | None = None
        self._again_ms = 0
        self._search: TipSearch | None = None
        self._branch: Branch | None = None
        self._pieces: list[Piece] = []

    def state_seen(self) -> None:
        """`state` and `tierfloor` were read after the election."""
        if self.stage is Stage.READING:
            self.stage = Stage.LISTING
            self.tend()

    def tend(self) -> None:
        """List the bucket, at first or again."""
        situation = self._situation
        if self.stage is Stage.LISTING and self._request is None and situation.now_ms >= self._again_ms:
            self._request = situation.next_request()
            situation.emit(ListTier(self._request, since=self._base.epoch))

    def _start_over(self, reason: str) -> None:
        self._attempts += 1
        self.stage, self._request = Stage.LISTING, None
        self._again_ms = self._situation.now_ms + LIST_AGAIN_MS
        if self._attempts >= ATTEMPTS:
            self.failed = f"the tier does not give back what it was counted for: {reason}"

    def said(self, event: TierEvent) -> None:
        """The bucket answered."""
        match event:
            case TierListed():
                self._listed(event)
            case TierRead():
                self._read(event)
            case TierRecord():
                self._record(event)
            case TierFetched():
                self._fetched(event)
            case _:
                pass  # an answer to an earlier leadership of this process

    # Listing and searching

    def _listed(self, event: TierListed) -> None:
        situation = self._situation
        if self.stage is not Stage.LISTING or event.request != self._request:
            return
        self._request = None
        if event.runs is None:
            self._start_over(event.reason)
            return
        highest = max((run.epoch for run in event.runs), default=0)
        situation.tier_epoch = max(situation.tier_epoch, highest)
        if event.counter > self._state.change.counter:
            situation.counter = max(situation.counter, event.counter)
            self.failed = f"the bucket knows of change {event.counter}: the cluster state lost history"
        elif highest >= self._state.epoch:
            self.failed = f"the bucket holds records of epoch {highest}"
        else:
            self.stage = Stage.SEARCHING
            self._search = TipSearch(event.runs, self._base, situation.ledger.point_at)
            self._go_on_searching()

    def _go_on_searching(self) -> None:
        search = self._search
        assert search is not None, "SEARCHING has a search"
        if search.wanted is not None:
            self._request = self._situation.next_request()
            self._situation.emit(ReadRun(self._request, search.wanted))
        elif isinstance(search.outcome, Branch):
            self._found(search.outcome)
        else:
            assert isinstance(search.outcome, Broken), "a search that wants nothing has ended"
            self._start_over(f"record {search.outcome.sequence}: {'; '.join(search.outcome.why)}")

    def _read(self, event: TierRead) -> None:
        if self.stage is not Stage.SEARCHING or event.request != self._request or self._search is None:
            return
        self._request = None
        if event.links:
            self._search.found(event.links)
        else:
            self._search.unreadable(event.reason)
        self._go_on_searching()

    def _found(self, branch: Branch) -> None:
        """The branch must hold everything that is known to be committed."""
        situation = self._situation
        claim = self._claim
        start, base = claim.first - 1, branch.base
        own = situation.ledger.point_at(start) if start <= base.sequence else None
        if (own.chain if own is not None else branch.chains.get(start)) != claim.chain_before:
            self._start_over(f"the bucket is not complete down to record {base.sequence} of this log")
            return
        known = [self._state.floor, situation.floor, situation.told]
        if situation.tier_floor is not None:
            known.append(situation.tier_floor.point)
        if branch.tip.epoch <= claim.upto.epoch:  # whoever led a later epoch held all that was committed
            known.append(claim.upto)
        for point in known:
            below = point.sequence <= base.sequence
            if not (situation.ledger.holds(point) if below else branch.contains(point)):
                self._start_over(f"record {point.sequence}, which was committed, is not on the branch")
                return
        self._branch = branch
        common = self._common(branch)
        if common != situation.ledger.end:
            self.stage = Stage.CUTTING
            self._following.cut(common)
        else:
            self._fetch()

    def _common(self, branch: Branch) -> LogPoint:
        """The last point of this log that is on the branch: above it this log has records that nobody promised."""
        ledger = self._situation.ledger
        found = branch.base
        for sequence in range(branch.base.sequence + 1, min(branch.tip.sequence, ledger.end.sequence) + 1):
            point = ledger.point_at(sequence)
            if point is None or point.chain != branch.chains[sequence]:
                break
            found = point
        return found

    def truncated(self) -> None:
        """What is not on the branch lies in lost+found."""
        if self.stage is Stage.CUTTING:
            self._fetch()

    # Fetching

    def _fetch(self) -> None:
        assert self._branch is not None, "found"
        end = self._situation.ledger.end.sequence
        self.stage = Stage.FETCHING
        self._pieces = [
            Piece(piece.run, max(piece.first, end + 1), piece.last) for piece in self._branch.pieces if piece.last > end
        ]
        self._fetch_next()

    def _fetch_next(self) -> None:
        if not self._pieces:
            self.stage = Stage.WRITING
            self.durable()
            return
        piece = self._pieces[0]
        self._request = self._situation.next_request()
        self._situation.emit(FetchRun(self._request, piece.run, piece.first, piece.last))

    def _record(self, event: TierRecord) -> None:
        """One record from the bucket, proved by the chain."""
        situation = self._situation
        fits = (
            self.stage is Stage.FETCHING
            and event.request == self._request
            and situation.ledger.continued_by(event.header, event.chain)
        )
        if not fits:
            situation.emit(DropStaged(event.handle))
            return
        situation.ledger.appended(event.header, event.chain)
        situation.emit(AppendStaged(event.handle, event.header, event.chain))

    def _fetched(self, event: TierFetched) -> None:
        if self.stage is not Stage.FETCHING or event.request != self._request:
            return
        self._request = None
        if event.reason or self._situation.ledger.end.sequence != self._pieces[0].last:
            self._start_over(event.reason or "the object holds other records than it did")
            return
        del self._pieces[0]
        self._fetch_next()

    def durable(self) -> None:
        """The log thread got further: the log is rebuilt once all of it is on the disk."""
        situation = self._situation
        if self.stage is not Stage.WRITING or situation.ledger.durable != situation.ledger.end:
            return
        self.stage = Stage.DONE
        # All of it was put and counted, or may have been: nothing of it may be cut by this node any more.
        situation.told = max(situation.told, self._state.floor, *self._counted(), key=lambda point: point.position)

    def _counted(self) -> list[LogPoint]:
        floor = self._situation.tier_floor
        return [floor.point] if floor is not None else []
