"""One node's decisions: events in, effects out, time as an argument (docs/architecture.md).

`Replica` holds no clock, socket, disk or thread. The driver feeds it everything that happens, in order, and carries
out what it returns, in order; the simulator drives this very class.
"""

from replication.core.effects import (
    CreateState,
    DropStaged,
    Effect,
    HandOverDone,
    LeadershipChanged,
    Resign,
    SendTail,
)
from replication.core.election import Candidacy
from replication.core.eligibility import why_not_eligible
from replication.core.events import (
    DamageChanged,
    DataPathChanged,
    Event,
    HandOverRequested,
    LinkDown,
    LinkUp,
    LocalDurable,
    LocalFailed,
    PromiseStored,
    ProposalAnswered,
    Proposed,
    ReadFailed,
    Received,
    RecordFetched,
    RecordReceived,
    SegmentInstalled,
    SegmentReceived,
    Session,
    SessionChanged,
    StateSeen,
    StateWritten,
    Tick,
    Truncated,
)
from replication.core.follower import Following
from replication.core.handover import TRANSFER_US, Handover
from replication.core.leader import Leadership
from replication.core.ledger import Ledger
from replication.core.ports import LogView
from replication.core.proposals import Proposals
from replication.core.situation import Link, Ports, Settings, Situation
from replication.core.values import Change, ClusterState, Member, Phase, ReplicaId
from replication.messages import Fetch, FetchEnd, OpenStream, Survey, SurveyAnswer, to_point
from storage.position import GENESIS, LogPoint

READ_RETRY_MS = 500
GIVE_WAY_MS = 10_000
"""Between two attempts of a damaged leader to hand over: each holds new records back until it is done or given up."""
NO_LEADER_PATIENCE = 3
"""Session time-outs without a leader after which a store is refused before its bytes are taken."""


class Replica:
    """The state machine of one node. `step` is its only way in."""

    def __init__(
        self, settings: Settings, log: LogView, ports: Ports, *, promise: int, floor: LogPoint, counter: int
    ) -> None:
        self.situation = Situation(settings, Ledger(log), ports, promise=promise, floor=floor)
        self.situation.counter = counter
        if not self.situation.ledger.holds(floor):
            self.situation.committed = GENESIS
        self.proposals = Proposals(self.situation)
        self.following = Following(self.situation)
        self.leadership: Leadership | None = None
        self.candidacy: Candidacy | None = None
        self._nonce = 0
        self._read_at_ms = 0
        self._floor_at_ms = 0
        self._leaderless_since_ms: int | None = None
        self._knew_a_leader = False
        self._hand_over: HandOverRequested | None = None
        self._hand_over_until_ms = 0
        self._give_way_ms = 0
        self._left = False
        self._stopping = False
        self._registered = False
        self._vacant_since_ms: int | None = None

    def step(self, event: Event, now_ms: int, wall_us: int) -> list[Effect]:
        """Take one event; return what is to be done about it, in order.

        now_ms: monotonic milliseconds, never falling. wall_us: Unix microseconds, for record times and hints only.
        """
        situation = self.situation
        situation.now_ms, situation.wall_us = now_ms, wall_us
        self._take(event)
        self._settle_roles()
        effects, situation.out = situation.out, []
        return effects

    # Read by the driver for statistics and admission

    @property
    def leader(self) -> ReplicaId | None:
        """Who leads, as far as this node can tell."""
        if self.leadership is not None:
            return self.situation.me.id
        if self.following.stream is not None:
            return self.following.stream.leader.id
        return None

    def refusal(self) -> str | None:
        """Why a store would be refused right now, before its bytes are taken; None while it may be accepted."""
        situation = self.situation
        if situation.trouble:
            return situation.trouble
        if situation.fenced and self.following.stream is None:
            return "this node stopped writing"
        if self._leads_actively():
            return self.leadership.refusal() if self.leadership is not None else None
        if self.following.stream is not None:
            return self.following.stream.refusal or None
        since = self._leaderless_since_ms
        patience = NO_LEADER_PATIENCE * situation.settings.session_timeout_ms
        if not self._knew_a_leader or (since is not None and situation.now_ms - since > patience):
            return "no leader is known"
        return None

    def _leads_actively(self) -> bool:
        active = self.leadership is not None and self.leadership.phase is Phase.ACTIVE
        return active and self.situation.ports.catalogue.complete

    # Events

    def _take(self, event: Event) -> None:
        match event:
            case LocalDurable():
                self._on_local_durable(event)
            case Received():
                self._on_received(event)
            case RecordReceived():
                self._on_record_received(event)
            case Proposed():
                self._on_proposed(event)
            case ProposalAnswered():
                self._on_proposal_answered(event)
            case Tick():
                self._on_tick(event)
            case LinkUp():
                self._on_link_up(event)
            case LinkDown():
                self._on_link_down(event)
            case StateSeen():
                self._on_state_seen(event)
            case StateWritten():
                self._on_state_written(event)
            case PromiseStored():
                self._on_promise_stored(event)
            case SessionChanged():
                self._on_session_changed(event)
            case ReadFailed():
                self._on_read_failed(event)
            case SegmentReceived():
                self._on_segment_received(event)
            case SegmentInstalled():
                self._on_segment_installed(event)
            case RecordFetched():
                self._on_record_fetched(event)
            case Truncated():
                self._on_truncated(event)
            case DamageChanged():
                self._on_damage_changed(event)
            case LocalFailed():
                self._on_local_failed(event)
            case DataPathChanged():
                self._on_data_path_changed(event)
            case HandOverRequested():
                self._on_hand_over_requested(event)

    def _on_tick(self, event: Tick) -> None:
        situation = self.situation
        situation.ticked_ms = situation.now_ms
        self.proposals.expire("not committed in time" if self.leadership else "no leader committed it in time")
        if self.leadership is not None:
            self.leadership.tend()
        if self.candidacy is not None:
            self.candidacy.tend()
        if not situation.state_fresh and situation.session is Session.CONNECTED:
            self._read_again()
        if situation.now_ms >= self._floor_at_ms and situation.committed.sequence > situation.floor.sequence:
            self._floor_at_ms = situation.now_ms + 1000
            situation.persist(situation.wanted_promise)

    def _read_again(self) -> None:
        if self.situation.now_ms >= self._read_at_ms:
            self._read_at_ms = self.situation.now_ms + READ_RETRY_MS
            self.situation.read_state()

    def _on_session_changed(self, event: SessionChanged) -> None:
        situation = self.situation
        situation.session = event.session
        if event.session is not Session.SUSPENDED:
            situation.state_fresh = False
        if event.session is Session.CONNECTED:
            self._read_at_ms = situation.now_ms + READ_RETRY_MS
            situation.read_state()
        else:
            self.candidacy = None

    def _on_read_failed(self, event: ReadFailed) -> None:
        self.situation.state_fresh = False

    def _on_state_seen(self, event: StateSeen) -> None:
        situation = self.situation
        situation.state_fresh = True
        situation.leader_present = event.leader
        if event.state is None:
            self._no_state(event)
            return
        state = event.state.state
        newer = state.change.counter > situation.counter
        situation.counter = max(situation.counter, state.change.counter)
        situation.state = event.state
        if newer or state.epoch > situation.wanted_promise or not situation.admitted:
            situation.persist(state.epoch)
        self._admit(event.registered)
        if self.leadership is not None:
            self.leadership.state_seen()
        if self.candidacy is not None:
            self.candidacy.state_seen()
        elif self.leadership is None and event.leader == situation.me:
            # Won by a write whose answer came too late: let go, and stand again properly.
            situation.emit(Resign())
        if event.leader is not None:
            self._vacant_since_ms = None
        elif self._vacant_since_ms is None:
            self._vacant_since_ms = situation.now_ms
        self._watch_hand_over()

    def _no_state(self, event: StateSeen) -> None:
        """The cluster starts for the first time, or the coordination service lost everything."""
        situation = self.situation
        situation.state = None
        self.candidacy = None
        untouched = situation.ledger.end == GENESIS and situation.counter == 0 and situation.promise == 0
        if untouched and event.registered:
            state = ClusterState(
                change=Change(1, situation.ports.new_id()),
                epoch=0,
                leader=None,
                phase=Phase.RECOVERING,
                in_sync=frozenset({situation.me.member}),
            )
            situation.emit(CreateState(situation.next_request(), state))

    def _admit(self, registered: bool) -> None:
        situation = self.situation
        state = situation.cluster
        self._registered = registered
        if state is not None and registered and situation.promise >= state.epoch and not situation.admitted:
            situation.admitted = True
            self._answer_waiting_leader()

    def _on_promise_stored(self, event: PromiseStored) -> None:
        situation = self.situation
        situation.promise = max(situation.promise, event.promise)
        self._admit(self._registered)
        if self.candidacy is not None:
            self.candidacy.promise_stored()
        self._answer_waiting_leader()
        self.following.confirm()

    def _answer_waiting_leader(self) -> None:
        if self.following.retry_waiting() and self.following.stream is not None:
            self.proposals.leader_announced(self.following.stream.leader)

    def _on_state_written(self, event: StateWritten) -> None:
        if self.leadership is not None:
            self.leadership.state_written(event)
        elif self.candidacy is not None:
            self.candidacy.state_written(event)
        else:
            self.situation.read_state()

    def _on_link_up(self, event: LinkUp) -> None:
        self.situation.links[event.link] = Link(event.link, event.peer, event.dialled, self.situation.now_ms)
        if self.leadership is not None:
            self.leadership.link_changed()

    def _on_link_down(self, event: LinkDown) -> None:
        situation = self.situation
        link = situation.links.pop(event.link, None)
        if link is None:
            return
        if situation.link_to(link.peer.id) is None:
            situation.lost_links_ms[link.peer.id] = situation.now_ms
        self.following.link_lost(event.link)
        self.proposals.link_lost(event.link)
        if self.leadership is not None:
            self.leadership.link_lost(event.link)
        if self.candidacy is not None:
            self.candidacy.link_lost(event.link)

    def _on_received(self, event: Received) -> None:
        situation = self.situation
        link = situation.links.get(event.link)
        if link is None:
            return
        link.heard_ms = situation.now_ms
        message = event.message
        if isinstance(message, Survey):
            self._answer_survey(event.link, message)
        elif isinstance(message, SurveyAnswer):
            if self.candidacy is not None:
                self.candidacy.answered(event.sender.member, message)
        elif isinstance(message, Fetch):
            self._answer_fetch(event.link, message)
        elif isinstance(message, FetchEnd):
            if self.candidacy is not None:
                self.candidacy.fetch_ended(message)
        elif isinstance(message, OpenStream):
            self._open_stream(event, message)
        elif self.leadership is not None:
            self.leadership.received(event.link, message)
        else:
            self.following.received(event.link, message)

    def _open_stream(self, event: Received, message: OpenStream) -> None:
        if self.leadership is not None and message.epoch > self.leadership.epoch:
            self._step_down(f"{event.sender.id} leads epoch {message.epoch}")
        elif self.leadership is not None:
            return
        if self.following.open_stream(event.link, event.sender, message):
            self.candidacy = None
            self.proposals.leader_announced(event.sender)

    def _answer_survey(self, link: int, message: Survey) -> None:
        situation = self.situation
        if not situation.admitted:
            return
        beat = situation.settings.heartbeat_ms
        active = self.leadership is not None and self.leadership.phase is Phase.ACTIVE
        answer = SurveyAnswer(
            nonce=message.nonce,
            promise=situation.wanted_promise,
            end=to_point(situation.ledger.durable),
            # Damage elsewhere takes nothing from the tail: whoever copies it proves each record.
            verified=situation.fenced is None,
            sees_leader=active or self.following.hears_leader(4 * beat),
            state_counter=situation.counter,
        )
        situation.send(link, answer)

    def _answer_fetch(self, link: int, message: Fetch) -> None:
        situation = self.situation
        after = message.after.log_point()
        if situation.ledger.holds(after) and message.last <= situation.ledger.durable.sequence:
            situation.emit(SendTail(link, message.nonce, after, message.last))
        else:
            situation.send(link, FetchEnd(message.nonce, "that is not a prefix of this log"))

    def _on_record_received(self, event: RecordReceived) -> None:
        self._heard(event.link)
        self.following.record(event)

    def _on_segment_received(self, event: SegmentReceived) -> None:
        self._heard(event.link)
        self.following.segment(event)

    def _heard(self, link: int) -> None:
        if link in self.situation.links:
            self.situation.links[link].heard_ms = self.situation.now_ms

    def _on_record_fetched(self, event: RecordFetched) -> None:
        if self.candidacy is not None:
            self.candidacy.fetched(event)
        else:
            self.situation.emit(DropStaged(event.handle))

    def _on_local_durable(self, event: LocalDurable) -> None:
        self.situation.ledger.became_durable(event.point)
        if self.leadership is not None:
            self.leadership.local_durable()
        else:
            self.following.confirm()

    def _on_damage_changed(self, event: DamageChanged) -> None:
        if event.sequences != self.situation.damaged:
            self.situation.damaged = event.sequences
            self.situation.damage_changes += 1
            self.following.tell_damage()

    def _on_local_failed(self, event: LocalFailed) -> None:
        situation = self.situation
        situation.fenced = situation.fenced or f"the disk failed: {event.reason}"

    def _on_truncated(self, event: Truncated) -> None:
        self.following.truncated(event.point)
        self._answer_waiting_leader()

    def _on_segment_installed(self, event: SegmentInstalled) -> None:
        self.following.installed(event)
        self._answer_waiting_leader()

    def _on_proposed(self, event: Proposed) -> None:
        self.proposals.offer(event)

    def _on_proposal_answered(self, event: ProposalAnswered) -> None:
        self.proposals.answered(event)

    def _on_data_path_changed(self, event: DataPathChanged) -> None:
        self.situation.trouble = event.trouble

    def _on_hand_over_requested(self, event: HandOverRequested) -> None:
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

    # Roles

    def _settle_roles(self) -> None:
        """After each event: end what is over, begin what is due, move waiting offers on."""
        situation = self.situation
        self._end_leadership()
        if self.candidacy is not None and self.candidacy.over:
            self.candidacy = None
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
        if situation.fenced and leadership is not None:
            self._step_down(situation.fenced)
            situation.emit(Resign())
        elif situation.fenced and self.following.stream is not None and not self._left:
            self._left = True
            self.following.leave("its disk failed")
        elif leadership is not None and leadership.over is not None:
            self._step_down(leadership.over)
            situation.emit(Resign())
            situation.state_fresh = False
        elif leadership is not None and leadership.handover is not None:
            self._tend_hand_over(leadership, leadership.handover)
        elif leadership is not None and situation.damaged:
            self._give_way(leadership)

    def _give_way(self, leadership: Leadership) -> None:
        """A node that knows of damage in its log leads only while no sound member of the set can (ADR 0006)."""
        now = self.situation.now_ms
        if leadership.phase is not Phase.ACTIVE or now < self._give_way_ms:
            return
        target = self._successor(leadership, None)
        if target is not None:
            self._give_way_ms = now + GIVE_WAY_MS
            leadership.handover = Handover(self.situation, target, final=False)

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

    def _lead(self, candidacy: Candidacy) -> None:
        assert candidacy.writer is not None, "an election is won by a write"
        self.candidacy = None
        self.following.stop()
        silent: frozenset[Member] = candidacy.silent
        self.leadership = Leadership(self.situation, candidacy.writer, self.proposals, silent)
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
        vacant_ms = situation.now_ms - (
            self._vacant_since_ms if self._vacant_since_ms is not None else situation.now_ms
        )
        # The leader's clock may have been hours ahead: whoever saw the place empty for as long as a transfer lasts
        # need not believe it.
        awaited = state.transfer is not None and situation.wall_us < state.transfer.until_us
        if awaited and not hinted and vacant_ms < TRANSFER_US // 1000:
            return
        # The pre-vote may delay an election, not prevent it: a leader cut off from the coordination service for good
        # cannot mend the in-sync set.
        insist = hinted or vacant_ms > 2 * situation.settings.session_timeout_ms
        if not insist and self.following.hears_leader(4 * situation.settings.heartbeat_ms):
            return
        why = why_not_eligible(
            state, situation.me.member, situation.ledger, counter=situation.counter, own_floor=situation.floor
        )
        if why is None:
            self._nonce += 1
            self.candidacy = Candidacy(situation, seen, self._nonce, insist=insist)
            self.candidacy.begin()

    def _move_offers(self) -> None:
        if self.leadership is not None:
            self.leadership.number_held()
            return
        stream = self.following.stream
        held = self.proposals.held() if stream is not None else ()
        if stream is None or not held:
            return
        link = self.situation.link_to(stream.leader.id)
        if link is not None:
            if self.situation.damaged:
                # A duplicate must not overtake the news that this node lost its copy.
                self.following.tell_damage(link.number)
            for ticket in held:
                self.proposals.relay(ticket, link.number)
