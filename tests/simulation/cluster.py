"""A simulated cluster: machines, their processes, and the supervisor and operator that people would be.

The supervisor starts a process that ended, after a while. The operator restarts a node that reports that it stopped
writing, and replaces the disk of a node that cannot use it any more, when the promise allows it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from random import Random

from replication.core.situation import ConflictPolicy, Settings
from replication.core.values import TIER_MEMBER, ClusterState, Identity, Phase, ReplicaId, TierMode
from storage.errors import StorageError
from storage.position import GENESIS, LogPoint
from tests.simulation.bucket import Bucket
from tests.simulation.checks import Checks
from tests.simulation.disk import ROOM, Medium
from tests.simulation.machine import MENDABLE, SUPERVISOR_US, Machine
from tests.simulation.network import Network
from tests.simulation.process import Process
from tests.simulation.rescuer import Rescuer
from tests.simulation.scrubbing import Mirror
from tests.simulation.world import PowerCut, Violation, World
from tests.simulation.zookeeper import Service

OPERATOR_US = (1_000_000, 4_000_000)
STRICT_MS = 1_000_000_000


@dataclass(frozen=True)
class Shape:
    """What kind of cluster. strict: a rebooted candidate waits for silent members without limit (section 6)."""

    nodes: int = 3
    session_ms: int = 2000
    stall_ms: int = 1000
    copies_required: int = 2
    policy: ConflictPolicy = ConflictPolicy.KEEP_FIRST
    strict: bool = False
    tier: TierMode = TierMode.OFF
    scrubs: bool = False
    evicting: frozenset[int] = frozenset()
    """Numbers of the machines whose nodes let go of what the bucket holds."""
    undo_us: int | None = field(default=None, repr=False)
    """Nodes compact; a delete can be undone for so long. Not shown, so that the other runs are what they were."""


class Cluster:
    """Everything that exists in one world."""

    def __init__(self, world: World, shape: Shape) -> None:
        self.world = world
        self.shape = shape
        self.net = Network(world)
        self.service = Service(world, shape.session_ms)
        self.machines = {number: Machine(number, "abcdefgh"[number - 1]) for number in range(1, shape.nodes + 1)}
        self.bucket = Bucket(world)
        self.checks = Checks(world, self.machines, self.bucket, shape.copies_required, lambda: self.service.state)
        self.service.changed = self.checks.state_changed
        self.service.counted = self.checks.tier_counted
        self.rescuer = Rescuer(self)
        self.checks.registered = lambda: self.service.now.registrations
        self.bucket.stubbed, self.bucket.deleting = self.checks.stub_in_bucket, self.checks.object_goes
        self.mirror = Mirror() if shape.scrubs or shape.undo_us is not None else None
        self.healing = False
        self.buried: list[Process] = []
        self.crash_starting: Callable[[Machine], tuple[int, bool] | None] = lambda machine: None
        self.settings = Settings(
            identity=Identity(ReplicaId(""), "", ""),
            copies_required=shape.copies_required,
            session_timeout_ms=shape.session_ms,
            stall_timeout_ms=shape.stall_ms,
            reboot_wait_ms=STRICT_MS if shape.strict else 3000,
            conflict_policy=shape.policy,
            tier_mode=shape.tier,
        )

    @property
    def chance(self) -> Random:
        return self.world.random

    def start_all(self) -> None:
        for machine in self.machines.values():
            self.start(machine)

    def run_ms(self, ms: int, stop: Callable[[], bool] | None = None) -> bool:
        """Let time pass. Returns whether `stop` came to hold."""
        return self.world.run(self.world.now_us + ms * 1000, stop)

    # Processes

    def start(self, machine: Machine) -> None:
        """Start a process on what lies on the disk, unless one runs or an operator must act first."""
        if machine.alive or machine.stops:
            return
        machine.starts += 1
        process: Process | None = None
        try:
            process = Process(
                self.world,
                self.net,
                self.service,
                self.checks,
                number=machine.number,
                name=machine.name,
                medium=machine.medium,
                host_boot=machine.host_boot,
                settings=self.settings,
                boot=f"{machine.name}{machine.starts}",
                bucket=self.bucket,
                mirror=self.mirror if self.shape.scrubs else None,
                compacts_us=self.shape.undo_us,
                evicts=machine.number in self.shape.evicting,
                die_in=None if self.healing else self.crash_starting(machine),
                died=lambda gone: self._died(machine, gone),
            )
        except PowerCut:
            return  # `_died` was told
        except (StorageError, FileNotFoundError) as error:
            self.world.say(machine.name, f"cannot start: {error}")
            if not machine.harm and machine.medium.room > ROOM // 2:
                raise self.world.found(Violation(f"{machine.name} does not open its own disk: {error!r}")) from error
            machine.stops = str(error)
            self._operator_later(machine)
            return
        machine.process = process
        machine.incarnation = process.incarnation
        self.net.back(machine.number)
        self.checks.started(machine, process)
        tail = " with damage" if not process.log.intact else ""
        self.world.say(
            machine.name, f"starts as {machine.name}{machine.starts} at record {process.log.end.sequence}{tail}"
        )

    def _died(self, machine: Machine, process: Process) -> None:
        """A process is gone, by whatever means."""
        self.buried.append(process)
        self.service.unheard(process.client.session)
        self.net.died(process.loop, tell=not process.power_lost)
        process.loop.bury()
        lost = ""
        if process.power_lost:
            lost = f", {machine.lose_power(self.chance)} unsynced sectors gone"
        self.world.say(machine.name, f"{'loses power' if process.power_lost else 'dies'}{lost}")
        machine.stops = machine.stops or process.barred
        self.start_later(machine)

    def start_later(self, machine: Machine, delay_us: int | None = None) -> None:
        if delay_us is None:
            delay_us = self.chance.randrange(*SUPERVISOR_US)
        self.world.after(delay_us, None, self.start, machine)

    # The operator

    def _operator_later(self, machine: Machine) -> None:
        self.world.after(self.chance.randrange(*OPERATOR_US), None, self.operate, machine)

    def tour(self) -> None:
        """The operator looks at every node, again and again."""
        for machine in self.machines.values():
            self.operate(machine)
        self.world.after(1_500_000, None, self.tour)

    def operate(self, machine: Machine) -> None:
        """Do to a node what its alarms ask for."""
        process = machine.process
        if machine.stops:
            machine.medium.room = ROOM
            if machine.name in self.rescuer.given_up:
                return
            if process is not None and process.barred == machine.stops:
                self.replace_disk(machine)
            elif not machine.harm:
                machine.stops = ""
            elif self.may_lose(machine):
                self.replace_disk(machine)
            self.start(machine)
            return
        if process is None or process.loop.dead or process.loop.paused:
            return
        situation = process.core.situation
        if machine.harm and (self.healing or situation.fenced) and self.may_lose(machine):
            # Only what was read is known and repaired: without a scrub a harmed disk is replaced as a whole. A corrupt
            # tail is repaired on a stopped node alone, and what is left of an evicted segment not at all.
            beyond = situation.fenced or process.log.tail is not None or process.hopeless
            if beyond or not self._mends(machine):
                process.kill()
                self.replace_disk(machine)
        elif situation.fenced:
            self.world.say(machine.name, f"is restarted: {situation.fenced}")
            machine.medium.room = ROOM
            process.kill()
        elif self.healing and self.shape.strict and self._waits_for_the_lost(process):
            self.world.say(machine.name, "is told that the disk it waits for is gone for good")
            self.settings = replace(self.settings, reboot_wait_ms=3000)
            process.kill()

    def _waits_for_the_lost(self, process: Process) -> bool:
        candidacy = process.core.candidacy
        if process.core.situation.settings.reboot_wait_ms != STRICT_MS:
            return False
        present = {machine.member for machine in self.machines.values()}
        return candidacy is not None and bool(candidacy.silent - present)

    def replace_disk(self, machine: Machine) -> None:
        self.world.say(machine.name, "gets a new disk")
        machine.new_disk()
        machine.harm = ""
        self.start_later(machine)

    def may_lose(self, machine: Machine) -> bool:
        """Whether the promise covers the loss of this disk now: no other disk that counts was lost or harmed.

        A disk that the in-sync set names and that was replaced is lost until the set names its successor.
        """
        state = self.service.state
        if state is None or self.checks.astray:
            return False
        others = [m for m in self.machines.values() if m is not machine]
        if any(other.harm for other in others) or self.bucket.harm:
            return False
        members = [member for member in state.in_sync if member.id != machine.name]
        present = {other.member for other in others} | {TIER_MEMBER}
        return bool(members) and all(member in present for member in members) and self._beginning_is_safe(others, state)

    def _beginning_is_safe(self, others: list[Machine], state: ClusterState) -> bool:
        """Whether what lies below the tier's claim is held by somebody else, or by the bucket: else the set is not
        redundant yet, and its one node must not be lost.
        """
        if state.tier is None or len(state.in_sync - {TIER_MEMBER}) > 1:
            return True
        history = self.checks.history
        below = history.committed[: state.tier.first]
        if all(self.bucket.holds(chain) for chain in below[1:]):
            return True
        chain = below[-1]
        base = LogPoint(history.headers[chain].position, chain) if len(below) > 1 else GENESIS
        return any(history.branch_holds(other.durable, base) for other in others)

    def may_lose_object(self) -> bool:
        """Whether the promise covers the loss of an object now."""
        state = self.service.state
        if state is None or self.checks.astray or any(machine.harm for machine in self.machines.values()):
            return False
        present = {machine.member for machine in self.machines.values()}
        members = state.in_sync - {TIER_MEMBER}
        if self.shape.evicting and not present <= members:
            return False  # who is being filled may be the one who is to keep what the others let go of
        return bool(members) and members <= present

    def _mends(self, machine: Machine) -> bool:
        """Whether scrub and mender make good what was done to a disk."""
        return self.shape.scrubs and machine.harm in MENDABLE

    def notice_mended(self) -> None:
        """A disk of which bits were flipped, and which was scrubbed since and has no known damage left, is sound: that
        is judged here by reading all of it. What it had confirmed is committed by now, or never will be. Raises
        Violation.
        """
        state, point = self.service.state, self.checks.history.committed_point
        for machine in self.machines.values():
            process = machine.running
            if not self._mends(machine) or process is None or process.scrubber is None or self.mirror is None:
                continue
            if process.hopeless or process.log.tail is not None:
                continue  # neither is mended here: the operator replaces the disk
            covered = process.scrubber.covered >= machine.confirmed
            scrubbed = covered and process.scrubber.verified_us > machine.harm_us and not process.log.damaged()
            member = state is not None and machine.member in state.in_sync and point.sequence >= machine.confirmed
            looked = process.scrubber.judged_us == process.scrubber.verified_us
            if looked or not scrubbed or not member or not self.checks.history.branch_holds(machine.durable, point):
                continue
            process.scrubber.judged_us = process.scrubber.verified_us
            wrong, around = self.mirror.damage(machine.name, machine.medium, machine.durable.sequence)
            if wrong:
                raise self.world.found(Violation(f"{machine.name} was scrubbed and mended, and is damaged: {wrong}"))
            if around:
                continue  # an entry whose record was mended since, or marks of a moment: the next pass writes them anew
            self.world.say(machine.name, f"is mended: {machine.harm}")
            machine.harm = ""
            self.checks.mended += 1
            # What was cut meanwhile went to lost+found as it lay there, flipped bits included.
            history = self.checks.history
            points = ((chain, LogPoint(history.headers[chain].position, chain)) for chain in machine.kept)
            machine.kept = {chain: None for chain, at in points if history.branch_holds(machine.durable, at)}

    def notice_recovery(self) -> None:
        """A disk that was rolled back and has caught up is as good as any: with what is committed, and with what it had
        confirmed before, which may be committed on the strength of it.
        """
        self.notice_mended()
        state, point = self.service.state, self.checks.history.committed_point
        for machine in self.machines.values():
            if machine.harm != "rolled back" or state is None or machine.member not in state.in_sync:
                continue
            confirmed = machine.lost[-1].durable.sequence
            caught_up = point.sequence >= confirmed and self.checks.history.branch_holds(machine.durable, point)
            if caught_up and machine.durable != GENESIS:
                machine.harm = ""

    # What holds now

    @property
    def state(self) -> ClusterState | None:
        return self.service.state

    def leader(self) -> Machine | None:
        """The machine whose process leads actively."""
        for machine in self.machines.values():
            process = machine.running
            leadership = process.core.leadership if process is not None else None
            if leadership is not None and leadership.phase is Phase.ACTIVE:
                return machine
        return None

    def redundant(self) -> bool:
        """Every machine runs on a disk without harm, is in the in-sync set, and holds everything committed. A process
        that has just started is no member yet, although the set names its disk: it follows the leader first.
        """
        state, leader = self.service.state, self.leader()
        if state is None or leader is None:
            return False
        point = self.checks.history.committed_point
        return all(
            machine.running is not None
            and machine.running.core.leader == leader.name
            and not machine.harm
            and machine.member in state.in_sync
            and self.checks.history.branch_holds(machine.durable, point)
            for machine in self.machines.values()
        )

    def snapshot(self, machine: Machine) -> None:
        """Remember the disk as a hypervisor would."""
        machine.snapshot = machine.medium.snapshot()
        machine.snapshot_point = machine.durable
        machine.snapshot_promise = machine.promised

    def roll_back(self, machine: Machine) -> bool:
        """The virtual machine is restored from its snapshot: promise and floor go back as well."""
        medium: Medium | None = machine.snapshot
        if medium is None:
            return False
        if machine.process is not None:
            machine.process.kill(power=True)
        machine.disk_goes(harmed=False)
        machine.medium, machine.snapshot = medium, None
        machine.harm = "rolled back"
        machine.durable = machine.tip = machine.snapshot_point
        machine.promise = machine.counter = 0
        machine.copied_promise = machine.snapshot_promise
        machine.floor = GENESIS
        machine.kept = {}
        return True

    def bury(self) -> None:
        """End everything, so that nothing of this world wakes up in the next."""
        for process in [*self.buried, *(m.process for m in self.machines.values() if m.process is not None)]:
            process.disk.dead = True
            process.loop.bury()
        if self.mirror is not None:
            self.mirror.close()
