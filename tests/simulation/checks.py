"""The invariants of protocol section 14, judged while a cluster runs. Numbers are those of the section.

Number 11 is for the end to say: while a node is cut off, it may show what was deleted meanwhile.
"""

from collections.abc import Callable, Mapping

from replication.coordination.port import NodeRegistration
from replication.core import effects as fx
from replication.core import events as ev
from replication.core.rescue import Plan
from replication.core.values import TIER_MEMBER, ClusterState, Identity, Member, Phase, ReplicaId
from replication.tier.contents import Link
from storage.deletion import Tombstone
from storage.position import LogPoint, RecordHeader
from storage.relearning import Relearned
from storage.rewriting import Compacted
from tests.simulation.bucket import Bucket
from tests.simulation.checks_apart import elected, gone_with_reason, rescued
from tests.simulation.checks_compacting import knows_its_stubs, leads_with_all, may_go, rewritten
from tests.simulation.checks_copies import count_at_answer, count_at_commit
from tests.simulation.checks_relearning import nobody_reads, relearned
from tests.simulation.deletes import Fates
from tests.simulation.history import History
from tests.simulation.machine import Machine
from tests.simulation.observer import Observer
from tests.simulation.process import Process
from tests.simulation.reclaimed import Reclaimed
from tests.simulation.world import Violation, World


class Checks(Observer):
    """Watches every step of every process, and every change of the cluster state."""

    def __init__(
        self,
        world: World,
        machines: Mapping[int, Machine],
        bucket: Bucket,
        copies_required: int,
        state: Callable[[], ClusterState | None],
    ) -> None:
        self.world = world
        self.machines = machines
        self.bucket = bucket
        self.takeovers = 0
        self.counted = 0
        self.by_name = {machine.name: machine for machine in machines.values()}
        self.copies_required = copies_required
        self.state = state
        self.history = History()
        self.held_by = [frozenset[str]()]
        """By committed sequence, who held it when it was committed."""
        self.fates = Fates()
        self.reclaimed = Reclaimed(self.history)
        self.leaders: dict[int, Identity] = {}
        self.epoch = 0
        self.last_state: ClusterState | None = None
        self.elections = 0
        self.acknowledgements = 0
        self.deletes = 0
        self.truncations = 0
        self.evictions = 0
        self.scrubs = 0
        self.mended = 0
        self.frozen = 0
        self.rewritten = 0
        self.stubs = self.relearnings = self.brought_back = 0
        self.undone = 0
        self.segments = 0
        self.verdicts: dict[str, int] = {}
        self.after_step: Callable[[Process, list[fx.Effect]], None] = lambda process, effects: None
        self.while_rewriting: Callable[[Process], None] = lambda process: None
        self.registered: Callable[[], Mapping[ReplicaId, NodeRegistration]] = dict
        self.restored = False
        """The coordination service lost history: what it says about epochs may go back."""
        self.bereft = False
        """More disks were lost than the promise covers: nobody may be eligible any more."""
        self.highest_epoch = 0
        self.forgotten = 0
        """Committed records that a person gave up."""

    @property
    def astray(self) -> bool:
        """Whether the cluster cannot go on by its own rules: the operator's verbs are for that."""
        return self.restored or self.bereft

    # From the log

    def appended(self, process: Process, header: RecordHeader, chain: bytes) -> None:
        machine = self.machines[process.number]
        try:
            self.history.appended(header, chain, machine.tip.chain)  # 4
        except Violation as violation:
            raise self.world.found(violation) from None
        machine.tip = LogPoint(header.position, chain)

    def said(self, header: RecordHeader, payload: bytes) -> None:
        self.reclaimed.said(header, payload)

    def _durable(self, machine: Machine, point: LogPoint) -> None:
        """Note what is durable, back to what was noted before."""
        if point.sequence <= machine.durable.sequence:
            return
        machine.durable = point
        chain, sequence = point.chain, point.sequence
        while sequence and chain not in machine.kept:
            machine.kept[chain] = None
            chain = self.history.before[chain]
            sequence -= 1

    # From the core

    def stepped(self, process: Process, event: ev.Event, effects: list[fx.Effect]) -> None:
        try:
            self._judge(process, event, effects)
        except Violation as violation:
            raise self.world.found(violation) from None
        self.after_step(process, effects)

    def _judge(self, process: Process, event: ev.Event, effects: list[fx.Effect]) -> None:
        machine = self.machines[process.number]
        machine.by = process.core.situation.me
        if isinstance(event, ev.LocalDurable):
            self._durable(machine, event.point)
            knows_its_stubs(self, machine, process)
        elif isinstance(event, ev.Truncated):
            machine.tip = machine.durable = event.point
            machine.cutting = None
        elif isinstance(event, ev.SegmentInstalled) and event.end is not None:
            machine.tip = event.end
            self.segments += 1
            self._durable(machine, event.end)
            knows_its_stubs(self, machine, process)
        elif isinstance(event, ev.LogResumed):
            machine.tip = process.replicator.core.situation.ledger.end
        elif isinstance(event, ev.PromiseStored):
            self._promised(machine, process)
        for effect in effects:
            match effect:
                case fx.Committed():
                    self._committed(machine, process, effect.point)
                case fx.Settle():
                    self._settled(process, effect)
                case fx.Truncate():
                    self._truncates(machine, effect.point)
                case fx.LeadershipChanged():
                    self._leadership(machine, process, effect)
                case fx.Frozen():
                    self.frozen += 1
                    self.world.say(process.name, f"FROZEN: {effect.reason}")
                    if not any(m.harm for m in self.machines.values()):
                        raise Violation(f"{process.name} froze without a reason: {effect.reason}")
                case _:
                    pass

    def _promised(self, machine: Machine, process: Process) -> None:
        value = process.promise.value
        fell = value.epoch < machine.promise or value.counter < machine.counter
        if (fell or value.floor.sequence < machine.floor.sequence) and not machine.harm:  # 3
            raise Violation(f"{machine.name}: promise, counter or floor fell: {value}")
        machine.promise, machine.counter, machine.floor = value.epoch, value.counter, value.floor

    def evicted(self, process: Process) -> None:
        """A segment went: its bytes are in the bucket, and enough other nodes keep them."""
        self.evictions += 1
        try:
            gone_with_reason(self, process)
        except Violation as violation:
            raise self.world.found(violation) from None

    def may_go(self, process: Process, upto: int) -> None:
        """A leader is about to permit this."""
        self._found_by(lambda: may_go(self, process, upto))

    def rewriting(self, process: Process) -> None:
        """A segment begins to be written anew."""
        self.while_rewriting(process)

    def compacted(self, process: Process, compacted: Compacted) -> None:
        """A segment has its new form."""
        self.rewritten += 1
        self.stubs += len(compacted.stubs)
        self.brought_back += compacted.old.evicted
        self.world.say(process.name, f"compacts {compacted.segment.name}: {len(compacted.stubs)} payloads")
        self._found_by(lambda: rewritten(self, process, compacted))

    def relearned(self, process: Process, what: Relearned) -> None:
        """An evicted segment has new places."""
        self.relearnings += 1
        self.world.say(process.name, f"learns where {what.old.name} lies now: {len(what.stubs)} payloads less")
        self._found_by(lambda: relearned(self, process, what))

    def object_goes(self, key: str) -> None:
        """The bucket deletes it."""
        self._found_by(lambda: nobody_reads(self, key))

    def stub_in_bucket(self, key: str, link: Link) -> None:
        """An object holds a stub."""
        if not self.reclaimed.justified(link.chain, link.sequence, link.tombstone):
            said = f"{key} lacks the payload of record {link.sequence}, and nothing says why"
            raise self.world.found(Violation(said))

    def _found_by(self, judge: Callable[[], None]) -> None:
        try:
            judge()
        except Violation as violation:
            raise self.world.found(violation) from None

    def scrubbed(self, process: Process) -> None:
        """A pass is over, and chains were compared."""
        self.scrubs += 1
        differs = process.replicator.comparer.differs
        harmed = any(machine.harm for machine in self.machines.values())
        if differs and not harmed and not self.forgotten:
            raise self.world.found(Violation(f"{process.name} says that logs differ: {differs}"))

    def _truncates(self, machine: Machine, point: LogPoint) -> None:
        self.truncations += 1
        machine.cutting = point
        self.world.say(machine.name, f"cuts its log after {point.sequence}, from {machine.tip.sequence}")
        lost = self.history.cuts_committed(machine.tip, point.sequence)
        if lost is not None:  # 8
            raise Violation(f"{machine.name} cuts the committed record {lost}")

    def _leadership(self, machine: Machine, process: Process, effect: fx.LeadershipChanged) -> None:
        who = effect.leader.id if effect.leader is not None else "nobody"
        self.world.say(machine.name, f"follows {who} in epoch {effect.epoch}: {effect.reason}")
        leadership = process.core.leadership
        if leadership is None or leadership.phase is not Phase.ACTIVE or effect.leader != process.core.situation.me:
            return
        if self.leaders.setdefault(effect.epoch, process.core.situation.me) != process.core.situation.me:  # 3
            raise Violation(f"two leaders of epoch {effect.epoch}")

    def _committed(self, machine: Machine, process: Process, point: LogPoint) -> None:
        leadership = process.core.leadership
        if leadership is None or leadership.phase is not Phase.ACTIVE:
            if self.history.committed[point.sequence : point.sequence + 1] != [point.chain]:  # 9
                raise Violation(f"{machine.name} serves record {point.sequence}, which is not committed")
            return
        self._commits(point, machine.name, process)

    def tier_counted(self, point: LogPoint) -> None:
        """The transaction that counts the tier took effect: what it counts is committed, whoever hears of it."""
        try:
            self._commits(point, "the leader", None)
        except Violation as violation:
            raise self.world.found(violation) from None

    def _commits(self, point: LogPoint, who: str, leader: Process | None) -> None:
        before = len(self.history.committed)
        if not self.history.commits(point, who):  # 5
            return
        state, holders = self.state(), frozenset[str]()
        if state is not None:
            if not self.restored:  # an old set names whom it named then
                self._all_hold(state, point)
            holders = count_at_commit(self, point, who, leader)  # 2
        self.held_by[before:] = [holders] * (len(self.history.committed) - before)

    def holds(self, machine: Machine, point: LogPoint) -> bool:
        """Whether the present disk's log contains it, as far as its processes saw it synced."""
        return self.history.branch_holds(machine.durable, point)

    def _all_hold(self, state: ClusterState, point: LogPoint) -> None:
        """6: every member holds everything that is committed. A harmed disk is what the other members are for."""
        if TIER_MEMBER in state.in_sync:
            self._tier_holds(state, point)
        for member in state.in_sync - {TIER_MEMBER}:
            machine = self._machine_of(member)
            if machine is not None and not machine.harm and not self.holds(machine, point):
                raise Violation(f"{member.id} is in the in-sync set without the committed record {point.sequence}")

    def _tier_holds(self, state: ClusterState, point: LogPoint) -> None:
        """6 and 15: the tier holds everything committed from its claim on, and the claim is on the committed branch."""
        if state.tier is None:
            raise Violation("the tier is in the set without a claim")
        committed = self.history.committed
        before = state.tier.first - 1
        if before < len(committed) and committed[before] != state.tier.chain_before:
            raise Violation(f"the tier's claim from {state.tier.first} on is of another branch")
        if before >= len(committed):
            raise Violation(f"the tier's claim from {state.tier.first} on begins above what is committed")
        for sequence in range(state.tier.first, min(point.sequence, len(committed) - 1) + 1):
            if not self.bucket.had(committed[sequence]):
                raise Violation(f"the tier is in the in-sync set without the committed record {sequence}")

    def _machine_of(self, member: Member) -> Machine | None:
        """None when the disk that the set names is gone."""
        machine = self.by_name[member.id]
        return machine if machine.incarnation == member.incarnation else None

    def _settled(self, process: Process, effect: fx.Settle) -> None:
        offer = process.replicator.offers.get(effect.ticket)
        if offer is None or offer.link:
            return
        verdict = effect.verdict
        self.verdicts[verdict.value] = self.verdicts.get(verdict.value, 0) + 1
        uid, digest = offer.draft.sop_instance_uid, offer.staged.dataset_digest
        if verdict is fx.Verdict.CONFLICT_REFUSED:
            committed = {self.history.headers[chain].path for chain in self.history.committed[1:]}
            if not any(uid in path for path in committed):  # 9
                raise Violation(f"{process.name} refuses {uid} for the sake of what is not committed")
        if verdict not in fx.COMMITTED:
            return
        if offer.draft.small is not None:
            if offer.staged.digest not in self.history.committed_at:  # 9
                raise Violation(f"{process.name} answers Success for a delete or a note that is not committed")
            self.deletes += isinstance(offer.draft.small, Tombstone)
            return
        sequence = self.history.committed_at.get(digest)
        if sequence is None:  # 9
            raise Violation(f"{process.name} answers Success for {uid}, which is not committed")
        count_at_answer(self, process.name, uid, digest, sequence)
        self.acknowledgements += 1
        self.history.acknowledged[digest] = uid

    def started(self, machine: Machine, process: Process) -> None:
        """A process opened its disk: what was synced must be there. Raises Violation."""
        end = process.log.end
        # A truncation that a crash ended may have come to its end or not, or have ended before what stays was synced.
        wanted = min(machine.cutting or machine.durable, machine.durable, key=lambda point: point.sequence)
        machine.cutting = None
        if not machine.harm and not self.history.branch_holds(end, wanted):  # 7
            raise Violation(
                f"{machine.name} lost synced records in a restart: {machine.durable.sequence} to {end.sequence}"
            )
        machine.tip = machine.durable = end
        machine.copied_promise = 0
        self._promised(machine, process)
        knows_its_stubs(self, machine, process)

    # From the operator

    def rescued(self, plan: Plan, tip: LogPoint) -> int:
        """The operator's verb writes a plan: what was acknowledged and is not on its log is lost from now on, and the
        plan must have named that. Returns how many committed records it was. Raises Violation.
        """
        try:
            return rescued(self, plan, tip)
        except Violation as violation:
            raise self.world.found(violation) from None

    # From the coordination service

    def state_changed(self, state: ClusterState) -> None:
        try:
            self._judge_state(state)
        except Violation as violation:
            raise self.world.found(violation) from None

    def _judge_state(self, state: ClusterState) -> None:
        names = ",".join(sorted(f"{m.id}/{m.incarnation}" for m in state.in_sync))
        leader = state.leader.id if state.leader is not None else "nobody"
        what = f"change {state.change.counter}: epoch {state.epoch}, {leader} {state.phase.value}, set {names}"
        self.world.say("zk", what)
        if state.epoch < self.epoch and not self.restored:  # 3
            raise Violation(f"the epoch fell from {self.epoch} to {state.epoch}")
        point = self.history.committed_point
        if state.epoch > self.epoch and state.leader is not None:
            self.elections += 1
            machine = self._machine_of(state.leader.member)
            through_tier = state.leader.member not in state.in_sync
            self.takeovers += through_tier
            if self.last_state is not None and not self.restored:
                elected(self, self.last_state, state)
            if through_tier:
                pass  # it rebuilds first: judged when it is active
            elif machine is not None and not machine.harm and not self.holds(machine, point):  # 5
                raise Violation(f"{state.leader.id} won epoch {state.epoch} without record {point.sequence}")
            if machine is not None and machine.harm and not self.holds(machine, point):
                self.world.say("zk", f"{state.leader.id} leads after harm to its disk")
        self.epoch, self.last_state = state.epoch, state
        self.highest_epoch = max(self.highest_epoch, state.epoch)
        if not self.restored:  # what was put back tells of a time when less was committed
            self._judge_active(state, point)
            self._all_hold(state, point)

    def _judge_active(self, state: ClusterState, point: LogPoint) -> None:
        """5: whoever is active has everything that was committed, whatever way it won."""
        if state.leader is None or state.phase is not Phase.ACTIVE:
            return
        machine = self._machine_of(state.leader.member)
        if machine is not None:
            leads_with_all(self, machine)
        if machine is not None and not machine.harm and not self.holds(machine, point):
            raise Violation(f"{state.leader.id} is active in epoch {state.epoch} without record {point.sequence}")

    def failed(self, process: Process, message: str, error: BaseException | None) -> None:
        if isinstance(error, Violation):
            raise self.world.found(error)
        found = Violation(f"{process.name}: an exception nobody caught: {message}: {error!r}")
        raise self.world.found(found) from error
