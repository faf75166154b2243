"""One node's decisions: events in, effects out, time as an argument (docs/architecture.md).

`Replica` holds no clock, socket, disk or thread. The driver feeds it everything that happens, in order, and carries
out what it returns, in order; the simulator drives this very class.
"""

from replication.core.effects import (
    CloseLink,
    CreateState,
    DropStaged,
    Effect,
    Resign,
    ResumeLog,
)
from replication.core.events import (
    DamageChanged,
    DataPathChanged,
    Event,
    HandOverRequested,
    LinkDown,
    LinkUp,
    LocalDurable,
    LocalFailed,
    LogResumed,
    PromiseStored,
    ProposalAnswered,
    Proposed,
    ReadFailed,
    Received,
    RecordFetched,
    RecordReceived,
    RegisteredSeen,
    RetireRequested,
    SegmentInstalled,
    SegmentReceived,
    Session,
    SessionChanged,
    StateSeen,
    StateWritten,
    Tick,
    TierEvent,
    TierRecord,
    Truncated,
)
from replication.core.ledger import Ledger
from replication.core.ports import LogView
from replication.core.roles import Roles
from replication.core.situation import Link, Ports, Settings, Situation
from replication.core.surveys import answer_fetch, answer_survey
from replication.core.values import Change, ClusterState, Phase
from replication.messages import Fetch, FetchEnd, OpenStream, Survey, SurveyAnswer
from storage.position import GENESIS, LogPoint

READ_RETRY_MS = 500
NO_LEADER_PATIENCE = 3
"""Session time-outs without a leader after which a store is refused before its bytes are taken."""


class Replica(Roles):
    """The state machine of one node. `step` is its only way in."""

    def __init__(
        self, settings: Settings, log: LogView, ports: Ports, *, promise: int, floor: LogPoint, counter: int
    ) -> None:
        situation = Situation(settings, Ledger(log), ports, promise=promise, floor=floor)
        situation.counter = counter
        if not situation.ledger.holds(floor):
            situation.committed = GENESIS
        super().__init__(situation)
        self._read_at_ms = 0
        self._floor_at_ms = 0
        self._registered = False

    def step(self, event: Event, now_ms: int, wall_us: int) -> list[Effect]:
        """Take one event; return what is to be done about it, in order.

        now_ms: monotonic milliseconds, never falling. wall_us: Unix microseconds, for record times and hints only.
        """
        situation = self.situation
        situation.started_ms = situation.started_ms or now_ms
        situation.now_ms, situation.wall_us = now_ms, wall_us
        self._take(event)
        self._settle_roles()
        effects, situation.out = situation.out, []
        return effects

    # Read by the driver for statistics and admission

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
            case LogResumed():
                self._on_log_resumed(event)
            case RegisteredSeen():
                if self.leadership is not None and self.leadership.epoch == event.epoch:
                    self.leadership.registered = event.members
            case HandOverRequested():
                self.hand_over_requested(event)
            case RetireRequested():
                self.situation.retiring = True
            case _:
                self._on_tier(event)

    def _on_tick(self, event: Tick) -> None:
        situation = self.situation
        situation.ticked_ms = situation.now_ms
        self.proposals.expire("not committed in time" if self.leadership else "no leader committed it in time")
        if self.leadership is not None:
            self.leadership.tend()
        if self.candidacy is not None:
            self.candidacy.tend()
        # A request to let the lead go can be lost in a session that goes on: while `leader` names a node that does not
        # lead, nobody stands. Each reading that shows it lets go anew.
        clinging = situation.leader_present == situation.me and self.leadership is None
        if (clinging or not situation.state_fresh) and situation.session is Session.CONNECTED:
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
        situation.tier_floor = event.tier_floor
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
        elif not untouched:
            situation.not_standing = "the cluster state is gone, and this node holds data"
        if self.leadership is not None:
            self.leadership.state_seen()  # nobody leads without it, before an operator has it rebuilt (section 9)

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
            answer_survey(self, event.link, message)
        elif isinstance(message, SurveyAnswer):
            if self.candidacy is not None:
                self.candidacy.answered(event.sender.member, message)
        elif isinstance(message, Fetch):
            answer_fetch(self.situation, event.link, message)
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
        if not self.situation.believable(message.epoch):
            self.situation.emit(CloseLink(event.link, f"epoch {message.epoch} is beyond belief"))
            return
        if self.leadership is not None and message.epoch > self.leadership.epoch:
            self._step_down(f"{event.sender.id} leads epoch {message.epoch}")
            # If it does not, `leader` must not go on naming this node, which would keep everybody from standing.
            self.situation.emit(Resign())
            self.situation.state_fresh = False
        elif self.leadership is not None:
            return
        if self.following.open_stream(event.link, event.sender, message):
            self.candidacy = None
            self.proposals.leader_announced(event.sender)

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
        situation.full = event.full and (situation.full or situation.fenced is None)
        situation.fenced = situation.fenced or f"the disk failed: {event.reason}"

    def _on_truncated(self, event: Truncated) -> None:
        self.following.truncated(event.point)
        if self.leadership is not None:
            self.leadership.truncated()
        self._answer_waiting_leader()

    def _on_tier(self, event: TierEvent) -> None:
        if self.leadership is not None:
            self.leadership.tier_said(event)
        elif isinstance(event, TierRecord):
            self.situation.emit(DropStaged(event.handle))

    def _on_segment_installed(self, event: SegmentInstalled) -> None:
        self.following.installed(event)
        self._answer_waiting_leader()

    def _on_proposed(self, event: Proposed) -> None:
        self.proposals.offer(event)

    def _on_proposal_answered(self, event: ProposalAnswered) -> None:
        self.proposals.answered(event)

    def _on_data_path_changed(self, event: DataPathChanged) -> None:
        self.situation.trouble = event.trouble
        if event.trouble is None and self.situation.full:
            self.situation.emit(ResumeLog())

    def _on_log_resumed(self, event: LogResumed) -> None:
        """Only what want of room had fenced: whatever else failed meanwhile stands."""
        situation = self.situation
        if situation.full:
            situation.full, situation.fenced, self._left = False, None, False
            situation.ledger.resync()
            self.following.begin_anew("there is room again")

    # Offers

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
