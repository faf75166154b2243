"""A leadership: from the won election to the last answer given under it (protocol, sections 4 to 6).

RECOVERING: the EPOCH record is on its way to the disk; nothing is sent. ACTIVE: streams are open, records are
numbered, and what every member of the maximal in-sync set has confirmed is committed.
"""

from collections import deque

from replication.core.commit import committed_upto
from replication.core.effects import CloseLink, Committed, LeadershipChanged
from replication.core.events import StateWritten, TierEvent
from replication.core.follower import Following
from replication.core.handover import Handover
from replication.core.insync import RETRY_MS, InSyncSet
from replication.core.proposals import Proposals
from replication.core.recovering import Recovery
from replication.core.situation import Situation
from replication.core.statewriter import StateWriter, Written
from replication.core.streams import Streams
from replication.core.tierside import TierSide
from replication.core.values import TIER_MEMBER, Member, Phase, TierClaim, Uncommitted
from replication.messages import Aligned, Confirmed, Damaged, Heartbeat, Leave, Message, Rejected, StreamEnd, to_point
from storage.position import RecordKind


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
        self.uncommitted: deque[Uncommitted] = deque()
        self.handover: Handover | None = None
        self.tier = TierSide(situation, self.uncommitted)
        self.set = InSyncSet(situation, writer, self.streams, self.tier)
        self.recovery = Recovery(situation, following, writer.confirmed.state)
        self.over: str | None = None
        """Why this leadership ended; the replica steps down at the end of the step."""
        self.registered: frozenset[Member] | None = None
        """Every node that is registered, asked for in this epoch; None before."""
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
        return self.set.members

    @property
    def uncommitted_bytes(self) -> int:
        return self.set.on_their_way

    @property
    def knows_commits(self) -> bool:
        """Whether everything that was ever acknowledged is known to be committed: before this epoch's own record is, a
        new leader holds records that its predecessor acknowledged and cannot tell them from others.
        """
        return self.phase is Phase.ACTIVE and self._situation.told.sequence >= self.epoch_record

    @property
    def named(self) -> bool:
        """Whether `leader` names this node, as read in the session that goes on. Only while that session lives nobody
        else can lead: a new session that was answered tells nothing of what was decided between the two.
        """
        return self._situation.state_fresh and self._situation.leader_present == self._situation.me

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
            self.set.activate(taken_over=self.recovery.takeover is not None, silent=self._silent)

    def state_written(self, event: StateWritten) -> None:
        """Take the outcome of a write of `state`."""
        written = self._writer.answered(event)
        if written is Written.APPLIED:
            self._state_confirmed()
        elif written is Written.REFUSED:
            self._situation.state_fresh = False
            self._situation.read_state()
        elif written is Written.UNKNOWN:
            self.set.wait()
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
        self._be_seen()

    def _be_seen(self) -> None:
        """Put `leader` back where it is missing, again and again: an attempt may be lost, and nothing else tells so."""
        situation = self._situation
        vacant = situation.leader_present is None and situation.state_fresh
        if vacant and situation.now_ms >= self._recreate_at_ms and not self.handover:
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
        self.streams.removed(self.set.required())
        self._judged_at_ms = -1
        self._advance()

    def _activate(self) -> None:
        situation = self._situation
        self.phase = Phase.ACTIVE
        self.set.active_ms = situation.now_ms
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
            self.streams.removed(self.set.required())
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
        end = situation.ledger.end.sequence
        self._number()
        if situation.ledger.end.sequence > end and self._claim() is not None:
            self.set.tend_tier()  # somebody waits for it

    def _number(self) -> None:
        situation = self._situation
        for ticket in self._proposals.held():
            before = situation.ledger.end.sequence
            kind = self._proposals.kind_of(ticket)
            if kind is RecordKind.TOMBSTONE and (absent := self._absent()) is not None:
                self._proposals.refuse(ticket, absent)
                continue
            size = self._proposals.number(ticket, self.epoch, self.unsound)
            if situation.ledger.end.sequence > before:
                self.uncommitted.append(Uncommitted(before + 1, size, situation.now_ms))
                self.set.on_their_way += size
            if kind is not RecordKind.INSTANCE:
                return  # the catalogue knows it after this step: what follows is judged by it

    def _absent(self) -> str | None:
        """Why nothing may be deleted now. A node that was deposed without knowing it may still answer "duplicate" for
        what is about to be deleted: not one that has promised this epoch, and every node that can be one is registered.
        """
        if self.registered is None:
            return "it is not known who is registered"
        follow = (self.streams.ready(self.epoch_record) & self.in_sync) | {self._situation.me.member}
        absent = sorted({member.id for member in self.registered - follow})
        return f"not in sync: {' '.join(absent)}"[:64] if absent else None

    def _advance(self) -> None:
        situation = self._situation
        if self.phase is not Phase.ACTIVE:
            return
        if TIER_MEMBER in self.set.required():
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
            self.set.on_their_way -= self.uncommitted.popleft().size
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
            maximal=self.set.required(),
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
            self.set.tend_tier()
            self._tend_membership()
            self._advance()

    def truncated(self) -> None:
        """What a takeover asked for is done."""
        if self.recovery.rebuilding:
            self.recovery.truncated()
            self._recover()

    def unsound(self, sequence: int) -> bool:
        """Whether no Success may rest on this record: a member that is counted is known to hold it damaged, or the
        tier, which took a node's place later, has not got it, and without the tier the copies are too few.
        """
        if sequence in self._situation.damaged:
            return True
        situation, required = self._situation, self.set.required()
        lacking = (
            TIER_MEMBER in required and sequence <= situation.told.sequence and self.tier.upto(sequence) < sequence
        )
        if lacking and len(required) - 1 < situation.settings.minimum_copies:
            return True
        said = self.streams.damage()
        return bool(said) and any(
            damage.more or sequence in damage.sequences for member, damage in said.items() if member in required
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
        self._be_seen()
        self.streams.ask_again()
        self.streams.hang_up(self.set.allowance_ms)
        self.streams.removed(self.set.required())
        self.set.tend_tier()
        self.over = self.over or self.tier.over
        if self.handover is None:
            self._tend_membership()
        else:
            self.tier.entering = None  # the log must come to an end
            if self.set.may_write():
                self.handover.tend(self._writer)
        self._advance()

    def _tend_membership(self) -> None:
        if self.phase is Phase.ACTIVE and self.handover is None:
            self.set.tend(self.epoch_record)

    def refusal(self) -> str | None:
        """Why a store would be refused now: too few replicas could confirm it. Asked for each store, judged anew
        whenever time or a member moved on.
        """
        if self.phase is not Phase.ACTIVE:
            return None
        if self._judged_at_ms != self._situation.ticked_ms:
            self._judged_at_ms = self._situation.ticked_ms
            self._refusal = self.set.why_too_few()
        return self._refusal
