"""A leadership: from the won election to the last answer given under it (protocol, sections 4 to 6).

RECOVERING: the EPOCH record is on its way to the disk; nothing is sent. ACTIVE: streams are open, records are
numbered, and what every member of the maximal in-sync set has confirmed is committed.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import replace

from msgspec import Struct

from replication.core.commit import committed_upto
from replication.core.effects import CloseLink, Committed, LeadershipChanged
from replication.core.events import StateWritten, TierEvent
from replication.core.follower import Following
from replication.core.handover import Handover
from replication.core.membership import TierView, desired_set
from replication.core.proposals import Proposals
from replication.core.recovering import Recovery
from replication.core.situation import Situation
from replication.core.statewriter import StateWriter, Written
from replication.core.streams import Streams
from replication.core.tierside import TierSide
from replication.core.values import TIER_MEMBER, ClusterState, Member, Phase, TierClaim
from replication.messages import Aligned, Confirmed, Damaged, Heartbeat, Leave, Message, Rejected, StreamEnd, to_point
from storage.position import LogPoint

RETRY_MS = 200
"""Pause between two attempts to write `state` while outcomes stay unknown."""
DISK_BYTES_PER_MS = 20_000
"""A follower is granted a second per 20 MB that are on their way to its disk before it counts as stalled."""


class Uncommitted(Struct, frozen=True):
    """One record that waits for its copies."""

    sequence: int
    size: int
    since_ms: int


class Leadership:
    """Everything that one node does as leader of one epoch."""

    def __init__(
        self,
        situation: Situation,
        writer: StateWriter,
        proposals: Proposals,
        following: Following,
        silent: frozenset[Member],
    ) -> None:
        self._situation = situation
        self._writer = writer
        self._proposals = proposals
        self._silent = silent
        self.epoch = writer.confirmed.state.epoch
        self.phase = Phase.RECOVERING
        self.streams = Streams(situation, self.epoch)
        self.active_ms = 0
        self.uncommitted: deque[Uncommitted] = deque()
        self.uncommitted_bytes = 0
        self.handover: Handover | None = None
        self.tier = TierSide(situation)
        self.recovery = Recovery(situation, following, writer.confirmed.state)
        self.over: str | None = None
        """Why this leadership ended; the replica steps down at the end of the step."""
        self._retry_at_ms = 0
        self._heartbeat_at_ms = 0
        self._recreate_at_ms = 0
        self._judged_at_ms = -1
        self._refusal: str | None = None

    def begin(self) -> None:
        """Settle what this leadership stands on."""
        self.recovery.begin()

    @property
    def epoch_record(self) -> int:
        """Sequence of this epoch's EPOCH record; 0 before it is written."""
        return self.recovery.epoch_record

    @property
    def in_sync(self) -> frozenset[Member]:
        return self._writer.confirmed.state.in_sync

    @property
    def knows_commits(self) -> bool:
        """Whether everything that was ever acknowledged is known to be committed: before this epoch's own record is, a
        new leader holds records that its predecessor acknowledged and cannot tell them from others.
        """
        return self.phase is Phase.ACTIVE and self._situation.told.sequence >= self.epoch_record

    def required(self) -> frozenset[Member]:
        """Who must confirm a record before it is committed."""
        members = self._writer.maximal()
        return members | {TIER_MEMBER} if self.tier.entering is not None else members

    # What happens

    def local_durable(self) -> None:
        """The log thread got further."""
        if self.phase is Phase.RECOVERING:
            self._recover()
        else:
            self._advance()

    def _recover(self) -> None:
        """Rebuild, write the EPOCH record, and become active, each once what comes before it is done."""
        self.recovery.tend()
        self.over = self.over or self.recovery.failed
        if self.over is None and self.recovery.durable:
            self._try_to_activate()

    def _try_to_activate(self) -> None:
        situation = self._situation
        if not self._may_write():
            return
        state = self._writer.confirmed.state
        if self.recovery.takeover is not None:
            self._write_active(state, frozenset({situation.me.member, TIER_MEMBER}))
            return
        absent = self.streams.gone(state.in_sync, since_ms=-situation.settings.disconnect_grace_ms, allowance_ms=0)
        unlinked = {m for m in absent if m not in situation.linked_members(state.in_sync)}
        in_sync = desired_set(
            current=state.in_sync,
            own=situation.me.member,
            gone=(unlinked | self._silent) - {TIER_MEMBER},
            behind=(),
            ready=(),
            damaged=(),
            minimum_copies=situation.settings.minimum_copies,
            # Before the bucket was listed nothing is known of it: it stays in the set, or out of it.
            tier=TierView(situation.settings.tier_mode, usable=False, gone=False),
        )
        self._write_active(state, in_sync)

    def _write_active(self, state: ClusterState, in_sync: frozenset[Member]) -> None:
        self._writer.write(
            replace(
                state,
                phase=Phase.ACTIVE,
                in_sync=in_sync,
                tier=state.tier if TIER_MEMBER in in_sync else None,
                floor=self._floor(state),
                transfer=None,
            )
        )

    def _floor(self, state: ClusterState) -> LogPoint:
        """What is known to be committed; it never falls."""
        return max(state.floor, self._situation.told, key=lambda point: point.position)

    def _may_write(self) -> bool:
        situation = self._situation
        return not self._writer.busy and situation.state_fresh and situation.now_ms >= self._retry_at_ms

    def state_written(self, event: StateWritten) -> None:
        """Take the outcome of a write of `state`."""
        written = self._writer.answered(event)
        if written is Written.APPLIED:
            self._state_confirmed()
        elif written is Written.REFUSED:
            self._situation.state_fresh = False
            self._situation.read_state()
        elif written is Written.UNKNOWN:
            self._retry_at_ms = self._situation.now_ms + RETRY_MS
            self._situation.read_state()
        else:
            self._situation.read_state()  # the answer to a re-created `leader`

    def state_seen(self) -> None:
        """`state` was read: do we still lead, and did an unknown write come true?"""
        situation = self._situation
        seen = situation.state
        if seen is None or seen.state.epoch != self.epoch or seen.state.leader != situation.me:
            self.over = "another change of the cluster state deposed it"
            return
        if not self._writer.seen(seen):
            self.over = "the cluster state was changed behind its back"
            return
        self.tier.floor_seen()
        self.recovery.floor_seen()
        self.over = self.recovery.failed
        if self.over is None:
            self._state_confirmed()
        if situation.leader_present is None and situation.now_ms >= self._recreate_at_ms and not self.handover:
            self._recreate_at_ms = situation.now_ms + RETRY_MS
            self._writer.recreate_leader()

    def _state_confirmed(self) -> None:
        state = self._writer.confirmed.state
        if self.phase is Phase.RECOVERING and state.phase is Phase.ACTIVE:
            self._activate()
        if TIER_MEMBER not in self._writer.maximal():
            self.tier.left()
        if self.handover is not None:
            self.handover.state_confirmed(state)
        self.streams.removed(self.required())
        self._judged_at_ms = -1
        self._advance()

    def _activate(self) -> None:
        situation = self._situation
        self.phase = Phase.ACTIVE
        self.active_ms = situation.now_ms
        self._proposals.leadership_began(situation.told.sequence, self.epoch_record)
        situation.emit(LeadershipChanged(situation.me, self.epoch, "elected"))
        self.streams.open_missing()
        self.tend()

    def link_changed(self) -> None:
        if self.phase is Phase.ACTIVE:
            self.streams.open_missing()

    def link_lost(self, link: int) -> None:
        self.streams.lost(link)
        self._judged_at_ms = -1
        self.link_changed()

    def received(self, link: int, message: Message) -> None:
        """A follower's word over one link."""
        if isinstance(message, (StreamEnd, Rejected)) and message.promise > self.epoch:
            if not self._situation.believable(message.promise):
                self._situation.emit(CloseLink(link, f"a promise of {message.promise} is beyond belief"))
                return
            self.over = f"a follower has promised epoch {message.promise}"
            self._situation.persist(message.promise)
            return
        if isinstance(message, Damaged):
            self.streams.told_of_damage(self._situation.links[link].peer, message)
            if self.phase is Phase.ACTIVE:
                self._tend_membership()
            return
        stream = self.streams.by_link.get(link)
        if stream is None or self.phase is not Phase.ACTIVE:
            return
        if isinstance(message, Confirmed):
            self.streams.confirmed(stream, message)
            self._advance()
        elif isinstance(message, StreamEnd):
            self.streams.ended(stream, message)
            self.streams.removed(self.required())
        elif isinstance(message, Aligned):
            self.streams.aligned(stream, message)
        elif isinstance(message, Rejected) and message.epoch == self.epoch:
            self.streams.reopen(stream)
        elif isinstance(message, Leave):
            stream.leaving = True
            self._tend_membership()

    # Committing

    def number_held(self) -> None:
        """Give every waiting offer its place, unless numbering is on hold."""
        situation = self._situation
        if self.phase is not Phase.ACTIVE or self.handover is not None or situation.fenced or situation.trouble:
            return
        if self.tier.entering is not None:
            return  # it is filled up to the end of the log, which must not run away from it
        if not situation.ports.catalogue.complete:
            return  # a duplicate would not be known for one
        for ticket in self._proposals.held():
            before = situation.ledger.end.sequence
            size = self._proposals.number(ticket, self.epoch, self.unsound)
            if situation.ledger.end.sequence > before:
                self.uncommitted.append(Uncommitted(before + 1, size, situation.now_ms))
                self.uncommitted_bytes += size

    def _advance(self) -> None:
        situation = self._situation
        if self.phase is not Phase.ACTIVE:
            return
        if TIER_MEMBER in self.required():
            self._count_tier()
            reached = self._reached(self.tier.counted if self._claim() is not None else 0)
        else:
            reached = self._reached(0)
        if reached <= situation.told.sequence:
            return
        point = situation.ledger.point_at(reached)
        assert point is not None, "what is durable here has a point"
        situation.told = situation.committed = point
        situation.settle_tail()
        while self.uncommitted and self.uncommitted[0].sequence <= reached:
            self.uncommitted_bytes -= self.uncommitted.popleft().size
        situation.emit(Committed(point))
        self._proposals.committed(reached, self.unsound)

    def _reached(self, tier: int) -> int:
        """What would be committed, were the tier counted up to `tier`."""
        situation = self._situation
        confirmed = self.streams.confirmations()
        confirmed[TIER_MEMBER] = tier
        return committed_upto(
            own=situation.me.member,
            own_durable=situation.ledger.durable.sequence,
            confirmed=confirmed,
            maximal=self.required(),
            in_sync_size=self._writer.smallest(),
            minimum_copies=situation.settings.minimum_copies,
            epoch_record=self.epoch_record,
        )

    # The tier

    def _claim(self) -> TierClaim | None:
        """What the tier is claimed for by the `state` in force. While a change that adds it is unresolved, there is no
        claim to count on, and nothing is acknowledged: the tier is required all the same (section 4, rule 3).
        """
        return self._writer.confirmed.state.tier

    def _count_tier(self) -> None:
        """Count the tier for what it and every node of the set hold, once what it holds was put and marked."""
        claim = self._claim()
        idle = not self._writer.busy and not self._writer.unresolved and self._situation.state_fresh
        if claim is None or not idle or not self.tier.marked:
            return
        self.tier.check(self._reached(self.tier.upto(claim.first)), self._writer.confirmed.version)

    def tier_said(self, event: TierEvent) -> None:
        """The bucket, or the transaction that counts it, answered."""
        if self.recovery.rebuilding:
            self.recovery.tier_said(event)
            self._recover()
            return
        if self.tier.said(event, self.epoch, self._writer.confirmed.state.change.counter):
            self._situation.state_fresh = False
            self._situation.read_state()
        self.over = self.over or self.tier.over
        if self.over is None and self.phase is Phase.ACTIVE:
            self._tend_tier()
            self._tend_membership()
            self._advance()

    def truncated(self) -> None:
        """What a takeover asked for is done."""
        if self.recovery.rebuilding:
            self.recovery.truncated()
            self._recover()

    def _tend_tier(self) -> None:
        state = self._writer.confirmed.state
        claimed_from = state.tier.first if state.tier is not None else None
        self.tier.tend(claimed_from, state.change)

    def _let_tier_enter(self, state: ClusterState, wanted: frozenset[Member]) -> None:
        """Fill the tier up to the end of the log, then claim it: in this order, and the end is read with the claim."""
        situation = self._situation
        if self.tier.entering is None:
            self.tier.left()
            self.tier.entering = situation.told
            self._tend_tier()
        since = self.tier.entering
        if self.tier.upto(since.sequence + 1) >= situation.ledger.end.sequence:
            self.tier.entering = None
            self._write_set(replace(state, in_sync=wanted, tier=TierClaim(since.sequence + 1, since.chain)))

    def unsound(self, sequence: int) -> bool:
        """Whether a member that is counted is known to hold this record damaged: then no Success may rest on it."""
        if sequence in self._situation.damaged:
            return True
        said = self.streams.damage()
        return bool(said) and any(
            damage.more or sequence in damage.sequences for member, damage in said.items() if member in self.required()
        )

    # Time

    def tend(self) -> None:
        """Whatever time asks for: heartbeats, questions repeated, the in-sync set, a hand-over."""
        situation = self._situation
        if self.phase is Phase.RECOVERING:
            self._recover()
            return
        if situation.now_ms >= self._heartbeat_at_ms:
            self._heartbeat_at_ms = situation.now_ms + situation.settings.heartbeat_ms
            beat = Heartbeat(self.epoch, to_point(situation.told), self.refusal() or "")
            for link in self.streams.by_link:
                situation.send(link, beat)
        self.streams.ask_again()
        self.streams.hang_up(self.uncommitted_bytes // DISK_BYTES_PER_MS)
        self.streams.removed(self.required())
        self._tend_tier()
        self.over = self.over or self.tier.over
        if self.handover is None:
            self._tend_membership()
        else:
            self.tier.entering = None  # the log must come to an end
            if self._may_write():
                self.handover.tend(self._writer)
        self._advance()

    def _gone(self, members: Iterable[Member]) -> set[Member]:
        allowance = self.uncommitted_bytes // DISK_BYTES_PER_MS
        return self.streams.gone(set(members) - {TIER_MEMBER}, since_ms=self.active_ms, allowance_ms=allowance)

    def _tend_membership(self) -> None:
        if self.phase is not Phase.ACTIVE or self.handover is not None or not self._may_write():
            return
        state = self._writer.confirmed.state
        ready = self.streams.ready(self.epoch_record)
        # Whoever left the set by a stall may hold everything still, and is not taken back before it moves again.
        gone = self._gone(state.in_sync | ready)
        wanted = desired_set(
            current=state.in_sync,
            own=self._situation.me.member,
            gone=gone,
            behind=self.streams.behind() & state.in_sync,
            ready=ready - gone,
            damaged=self.streams.damage().keys(),
            minimum_copies=self._situation.settings.minimum_copies,
            tier=TierView(self._situation.settings.tier_mode, usable=self.tier.usable, gone=self.tier.gone),
        )
        if TIER_MEMBER in wanted - state.in_sync:
            self._let_tier_enter(state, wanted)
            return
        self.tier.entering = None
        if wanted != state.in_sync or self._writer.unresolved:
            self._write_set(replace(state, in_sync=wanted, tier=state.tier if TIER_MEMBER in wanted else None))

    def _write_set(self, state: ClusterState) -> None:
        self._retry_at_ms = self._situation.now_ms + RETRY_MS
        self._writer.write(replace(state, floor=self._floor(state)))

    def refusal(self) -> str | None:
        """Why a store would be refused now: too few replicas could confirm it. Asked for each store, judged anew
        whenever time or a member moved on.
        """
        if self.phase is not Phase.ACTIVE:
            return None
        if self._judged_at_ms != self._situation.ticked_ms:
            self._judged_at_ms = self._situation.ticked_ms
            self._refusal = self._judge()
        return self._refusal

    def _judge(self) -> str | None:
        minimum = self._situation.settings.minimum_copies
        counted = self.in_sync - {TIER_MEMBER}
        reachable = len(counted - self._gone(counted))
        if self.tier.usable or (TIER_MEMBER in self.in_sync and not self.tier.gone):
            reachable += 1
        if reachable < minimum:
            return f"only {reachable} of {minimum} copies could be made durable"
        return None
