"""Who a node is at this moment: leader, candidate, follower or none of them, and how it becomes another.

After each event: end what is over, begin what is due (protocol, section 6).
"""

from abc import ABC, abstractmethod

from replication.core.effects import (
    HandOverDone,
    LeadershipChanged,
    Resign,
    Retired,
)
from replication.core.election import Candidacy
from replication.core.eligibility import through_tier, why_not_eligible
from replication.core.events import (
    HandOverRequested,
    Session,
)
from replication.core.follower import Following
from replication.core.handover import Handover
from replication.core.leader import Leadership
from replication.core.proposals import Proposals
from replication.core.situation import Situation
from replication.core.values import Member, Phase, ReplicaId

TIER_REST_MS = 10_000
"""Before a node tries again to take over through a tier that did not give back what it was counted for."""
GIVE_WAY_MS = 10_000
"""Between two attempts of a damaged leader to hand over: each holds new records back until it is done or given up."""
MENDING_MS = 5_000
"""How long a leader waits for somebody to mend a record of its own that is not committed yet: as long as a member that
cannot supply what it shows delays a candidate (section 6)."""

LEAVE_AGAIN_MS = 500
"""A retiring node says so anew: a stream that was opened again has forgotten it, and so has the next leader."""
RETIRED = "it is retired"
STAND_AGAIN_MS = 100
"""After an attempt that came to nothing, mostly since another node still hears the leader that is gone. Without it a
node would ask anew at each answer: thousands of times a second until the other has noticed as well."""


class Roles(ABC):
    """The parts that a node plays, one at a time. `Replica` tells them what happens."""

    def __init__(self, situation: Situation) -> None:
        self.situation = situation
        self.proposals = Proposals(situation)
        self.following = Following(situation)
        self.leadership: Leadership | None = None
        self.candidacy: Candidacy | None = None
        self._nonce = 0
        self._leaderless_since_ms: int | None = None
        self._knew_a_leader = False
        self._hand_over: HandOverRequested | None = None
        self._hand_over_until_ms = 0
        self._give_way_ms = 0
        self._stuck_since_ms: int | None = None
        self._stand_again_ms = 0
        self._tier_rest_ms = 0
        self._leave_again_ms = 0
        self._retired = False
        self._left = False
        self._stopping = False
        self._vacant_since_ms: int | None = None

    @abstractmethod
    def _move_offers(self) -> None:
        """Number or relay what waits."""

    @property
    def leader(self) -> ReplicaId | None:
        """Who leads, as far as this node can tell."""
        if self.leadership is not None:
            return self.situation.me.id
        if self.following.stream is not None:
            return self.following.stream.leader.id
        return None

    def _leads_actively(self) -> bool:
        active = self.leadership is not None and self.leadership.phase is Phase.ACTIVE
        return active and self.situation.ports.catalogue.complete

    def hand_over_requested(self, event: HandOverRequested) -> None:
        """Give the lead away, or say why not."""
        leadership = self.leadership
        self._stopping = self._stopping or event.final
        if leadership is None:
            self.situation.emit(HandOverDone(None, "" if event.final else "this node does not lead"))
            return
        target = self._successor(leadership, event.to)
        if target is None and not event.final:
            self.situation.emit(HandOverDone(None, "no in-sync follower can take over"))
        elif target is None:
            self._step_down("the node stops")
            self.situation.emit(Resign())
            self.situation.emit(HandOverDone(None, "no in-sync follower to hand over to"))
        else:
            self._hand_over = event
            leadership.handover = Handover(self.situation, target, final=event.final)

    def _successor(self, leadership: Leadership, to: ReplicaId | None) -> ReplicaId | None:
        confirmed = leadership.streams.confirmations()
        sound = leadership.streams.sound() & leadership.in_sync
        fit = [m for m in sound if to is None or m.id == to]
        return max(fit, key=lambda member: (confirmed[member], member.id)).id if fit else None

    def _settle_roles(self) -> None:
        """After each event: end what is over, begin what is due, move waiting offers on."""
        situation = self.situation
        self._end_leadership()
        if self.candidacy is not None and (self.candidacy.over or self._promised_past(self.candidacy)):
            self.candidacy = None
            self._stand_again_ms = situation.now_ms + STAND_AGAIN_MS
        if self.candidacy is not None and self.candidacy.won:
            self._lead(self.candidacy)
        if self.leadership is None and self.candidacy is None:
            self._consider_standing()
        self._move_offers()
        if self.leader is not None:
            self._leaderless_since_ms = None
            self._knew_a_leader |= self.following.stream is not None or self._leads_actively()
        elif self._leaderless_since_ms is None:
            self._leaderless_since_ms = situation.now_ms

    def _end_leadership(self) -> None:
        leadership, situation = self.leadership, self.situation
        if not situation.damaged:
            self._stuck_since_ms = None  # what is found later has its own time
        if situation.fenced and leadership is not None:
            self._step_down(situation.fenced)
            situation.emit(Resign())
        elif situation.fenced and self.following.stream is not None and not self._left:
            self._left = True
            self.following.leave("its disk failed")
        elif leadership is not None and leadership.over is not None:
            if leadership.recovery.failed is not None:
                self._tier_rest_ms = situation.now_ms + TIER_REST_MS
                situation.not_standing = leadership.over
            self._step_down(leadership.over)
            situation.emit(Resign())
            situation.state_fresh = False
        elif leadership is not None and leadership.handover is not None:
            self._tend_hand_over(leadership, leadership.handover)
        elif leadership is not None and (situation.damaged or situation.retiring):
            self._give_way(leadership)
        elif situation.retiring and not self._retired:
            self._retire()

    def _give_way(self, leadership: Leadership) -> None:
        """A node that knows of damage in its log leads only while no sound member of the set can (ADR 0006); one that
        retires goes when it can.
        """
        now = self.situation.now_ms
        if leadership.phase is not Phase.ACTIVE:
            return
        if self._stuck_for_good():
            self._step_down("a record of its log is damaged that is not committed yet, and nobody could replace it")
            self.situation.emit(Resign())
            return
        if now < self._give_way_ms:
            return
        target = self._successor(leadership, None)
        if target is not None:
            self._give_way_ms = now + GIVE_WAY_MS
            leadership.handover = Handover(self.situation, target, final=False)

    def _stuck_for_good(self) -> bool:
        """Whether this leader waits in vain: a record above the commit point is damaged here, so who lacks it is never
        fed beyond it, and no hand-over comes to its end either. Who leads next may do without it, or have it; this
        node cannot stand again before it is mended (ADR 0006).
        """
        situation = self.situation
        if all(sequence <= situation.told.sequence for sequence in situation.damaged):
            self._stuck_since_ms = None
        elif self._stuck_since_ms is None:
            self._stuck_since_ms = situation.now_ms
        return self._stuck_since_ms is not None and situation.now_ms - self._stuck_since_ms >= MENDING_MS

    def _retire(self) -> None:
        """Ask the leader to do without this node, again and again; once the set does not name it, it takes no part."""
        situation, state = self.situation, self.situation.cluster
        if state is None or not situation.state_fresh or self.candidacy is not None:
            return
        if situation.me.member not in state.in_sync:
            situation.fenced = situation.fenced or RETIRED
            self._retired = True
            situation.emit(Retired())
        elif self.following.stream is not None and situation.now_ms >= self._leave_again_ms:
            self._leave_again_ms = situation.now_ms + LEAVE_AGAIN_MS
            self.following.leave(RETIRED)

    def _tend_hand_over(self, leadership: Leadership, handover: Handover) -> None:
        if handover.done or (handover.failed and handover.final):
            self._hand_over_until_ms = self.situation.now_ms + 5000
            self._step_down(f"handed over to {handover.to}")
            self.situation.emit(Resign())
            if handover.final:
                self.situation.emit(HandOverDone(handover.to, handover.failed or ""))
                self._hand_over = None
        elif handover.failed:
            leadership.handover = None
            if self._hand_over is not None:  # somebody asked for it
                self._hand_over = None
                self.situation.emit(HandOverDone(None, handover.failed))

    def _watch_hand_over(self) -> None:
        """A requested switchover is done when the cluster state names another active leader."""
        state = self.situation.cluster
        if self._hand_over is None or self.leadership is not None or state is None or state.leader is None:
            return
        if state.phase is Phase.ACTIVE and state.epoch > self.situation.relinquished:
            self._hand_over = None
            self.situation.emit(HandOverDone(state.leader.id, ""))

    def _step_down(self, reason: str) -> None:
        situation, leadership = self.situation, self.leadership
        if leadership is None:
            return
        leadership.streams.stop_all()
        situation.relinquished = max(situation.relinquished, leadership.epoch)
        self.leadership = None
        self.proposals.leadership_ended()
        situation.emit(LeadershipChanged(None, leadership.epoch, reason))

    def _promised_past(self, candidacy: Candidacy) -> bool:
        """Whether this node has promised a later epoch than it stands for: it must not act in the earlier one, even if
        its write turns out to be applied. `leader` is let go once it is seen to name this node.
        """
        return 0 < candidacy.epoch < self.situation.wanted_promise

    def _lead(self, candidacy: Candidacy) -> None:
        assert candidacy.writer is not None, "an election is won by a write"
        self.candidacy = None
        self.following.stop()
        self._stuck_since_ms = None
        silent: frozenset[Member] = candidacy.silent
        self.leadership = Leadership(self.situation, candidacy.writer, self.proposals, self.following, silent)
        self.proposals.leader_announced(self.situation.me)
        self.leadership.begin()

    def _consider_standing(self) -> None:
        situation = self.situation
        seen = situation.state
        ready = situation.admitted and situation.state_fresh and situation.session is Session.CONNECTED
        barred = situation.fenced or situation.trouble or self._stopping or self.following.working
        if seen is None or not ready or barred or situation.leader_present is not None:
            return
        if situation.promise != situation.wanted_promise:
            return
        state = seen.state
        hinted = state.transfer is not None and state.transfer.to == situation.me.id
        # The pre-vote may delay an election, not prevent it: a leader cut off from the coordination service for good
        # cannot mend the in-sync set.
        vacant_ms = situation.now_ms - (
            self._vacant_since_ms if self._vacant_since_ms is not None else situation.now_ms
        )
        patience_over = vacant_ms > 2 * situation.settings.session_timeout_ms
        # Whose clock the hint goes by, and whether it jumped, nobody knows: it may delay for a while only.
        heeds = state.transfer is not None and not hinted and not patience_over
        if heeds and state.transfer is not None and situation.wall_us < state.transfer.until_us:
            return
        insist = hinted or patience_over
        early = situation.now_ms < self._stand_again_ms
        if not insist and (early or self.following.hears_leader(4 * situation.settings.heartbeat_ms)):
            return
        if through_tier(state, situation.me.member, situation.ledger) and situation.now_ms < self._tier_rest_ms:
            return
        why = situation.not_standing = why_not_eligible(
            state,
            situation.me.member,
            situation.ledger,
            counter=situation.counter,
            own_floor=situation.floor,
            tier_mode=situation.settings.tier_mode,
            tier_floor=situation.tier_floor,
        )
        if why is None:
            self._nonce += 1
            self.candidacy = Candidacy(situation, seen, self._nonce, insist=insist)
            self.candidacy.begin()
