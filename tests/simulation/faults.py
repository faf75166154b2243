"""What befalls a cluster, drawn with weights of each seed's own (swarm testing), and what the promise does not cover.

Network: `cut_one_way`, `cut_two_ways`, `isolate`, `mend`, `slow_way`, `reset`, `half_open`, `flip_on_wire`.
Process: `kill`, `kill_in_write` (in the middle of some later disk operation), `power_cut`, `power_in_write`,
`site_power` (every machine at once), `pause` (any length), `hang_disk` (the data path stands still, the session goes
on), `clock_jump`, `stop` (as a service manager does), `switchover` (the operator verb).
Disk: `slow_disk`, `fail_sync` (EIO, pages marked clean), `fill_disk` (ENOSPC), `drop_cache`; and those that one disk
may suffer at a time: `flip_bit`, `rot` (of an instance that is then read there, and sent there again: ADR 0006),
`lost_write`, `misdirected_write`, `wipe`, `snapshot` and `roll_back`.
Coordination: `expire`, `outage`, `cut_off`; and once per run at most, `old_backup`, `lose_history`.

An ambush lets one of them strike in the very step in which a node decides something.
"""

import contextlib
from collections.abc import Callable

from replication.api import ConflictRefused, InstanceAbsent, InstanceUnavailable, NotPromised
from replication.coordination.port import Operation
from replication.core import effects as fx
from storage.errors import StorageError
from tests.simulation.cluster import Cluster
from tests.simulation.disk import ROOM
from tests.simulation.machine import Machine
from tests.simulation.network import Transport
from tests.simulation.phases import phase_of
from tests.simulation.process import Process
from tests.simulation.world import Violation
from tests.simulation.zookeeper import Snapshot

Fault = Callable[["Faults", Machine], bool]
AMBUSHED = (
    fx.Persist,
    fx.TakeLead,
    fx.WriteState,
    fx.AppendOwn,
    fx.Truncate,
    fx.StartSending,
    fx.InstallSegment,
    fx.Settle,
    fx.RecreateLeader,
    fx.SendTail,
)
HARMING = ("flip_bit", "rot", "lost_write", "misdirected_write", "wipe", "roll_back")


class Faults:
    """Strikes one cluster. weights: by kind; a kind without one never strikes."""

    def __init__(self, cluster: Cluster, weights: dict[str, float], pause_ms: float, ambush: float) -> None:
        self.cluster = cluster
        self.weights = weights
        self.pause_ms = pause_ms
        self.ambush = ambush
        self.struck: dict[tuple[str, str], int] = {}
        self.active = True
        self._verbs = 0
        cluster.service.struck = self._by_chance
        cluster.net.lagged = lambda: self._by_chance("a segment lags")
        cluster.checks.after_step = self._ambush
        cluster.crash_starting = self._crash_starting

    def begin(self) -> None:
        if self.weights:
            self._later()

    def _later(self) -> None:
        delay = self.cluster.chance.expovariate(1 / self.pause_ms)
        self.cluster.world.after(int(delay * 1000), None, self._strike_and_go_on)

    def _strike_and_go_on(self) -> None:
        if self.active:
            self._strike(self.cluster.chance.choice(list(self.cluster.machines.values())))
            self._later()

    def _strike(self, machine: Machine) -> None:
        kinds = list(self.weights)
        kind = self.cluster.chance.choices(kinds, [self.weights[kind] for kind in kinds])[0]
        self.strike(kind, machine)

    def strike(self, kind: str, machine: Machine) -> bool:
        """Do it, if it can be done and the promise covers it. Returns whether it was done."""
        if not self.active:
            return False
        cluster = self.cluster
        phase = phase_of(cluster)
        cluster.notice_recovery()
        if kind in HARMING and not cluster.may_lose(machine):
            return False
        if not KINDS[kind](self, machine):
            return False
        cluster.world.say("!!", f"{kind.replace('_', ' ')} {machine.name} while {phase}")
        self._count(kind, phase)
        return True

    def _count(self, kind: str, phase: str) -> None:
        self.struck[kind, phase] = self.struck.get((kind, phase), 0) + 1

    def _by_chance(self, kind: str) -> None:
        """A fault that another part drew by itself."""
        self._count(kind, phase_of(self.cluster))

    def _ambush(self, process: Process, effects: list[fx.Effect]) -> None:
        if not self.active or not self.ambush or not effects:
            return
        chance = self.cluster.chance
        for effect in effects:
            if isinstance(effect, AMBUSHED) and chance.random() < self.ambush:
                machines = list(self.cluster.machines.values())
                target = self.cluster.machines[process.number] if chance.random() < 0.6 else chance.choice(machines)
                delay = 0 if chance.random() < 0.5 else chance.randrange(1, 3000)
                self.cluster.world.after(delay, None, self._strike, target)

    def _crash_starting(self, machine: Machine) -> tuple[int, bool] | None:
        chance = self.cluster.chance
        if not self.active or not self.weights or chance.random() > 0.05:
            return None
        self._count("crash while starting", "starting")
        return chance.randrange(1, 25), chance.random() < 0.5

    def undo(self, least_ms: int, most_ms: int, what: Callable[[], None]) -> None:
        """Let a fault end by itself, sometime."""
        self.cluster.world.after(self.cluster.chance.randrange(least_ms, most_ms) * 1000, None, what)

    def another(self, machine: Machine) -> Machine:
        return self.cluster.chance.choice([m for m in self.cluster.machines.values() if m is not machine])

    def heal(self) -> None:
        """Every fault ends now; what it did remains."""
        self.active = False
        cluster = self.cluster
        cluster.healing = True
        cluster.net.heal()
        cluster.net.lag_probability = 0.0
        weights = cluster.service.weights
        weights.lost = weights.unanswered = weights.late = weights.stale = weights.late_watch = 0.0
        cluster.service.up = True
        cluster.service.cut_off.clear()
        cluster.service.lines_changed()
        for machine in cluster.machines.values():
            machine.medium.room = ROOM
            process = machine.process
            if process is not None and not process.loop.dead:
                process.resume()
                process.hung_until_us = 0
                process.disk.slow_us = 0
                process.die_in = None
                process.fail_next_sync = False
                process.disk.lose_next_write = process.disk.misdirect_next_write = False
        cluster.world.say("!!", "everything heals")

    def verb(self, machine: Machine) -> bool:
        self._verbs += 1
        arguments = {"to": machine.name} if self.cluster.chance.random() < 0.7 else {}
        self.cluster.service.request(Operation("switchover", f"op-{self._verbs}", arguments))
        return True


# Network


def _cut(faults: Faults, pairs: set[tuple[int, int]]) -> bool:
    net = faults.cluster.net
    net.cuts |= pairs

    def mend() -> None:
        net.cuts -= pairs
        for transport in net.transports():
            transport.deliver_later()

    faults.undo(20, 6000, mend)
    return True


def _cut_one_way(faults: Faults, machine: Machine) -> bool:
    pair = (machine.number, faults.another(machine).number)
    return _cut(faults, {pair if faults.cluster.chance.random() < 0.5 else (pair[1], pair[0])})


def _cut_two_ways(faults: Faults, machine: Machine) -> bool:
    other = faults.another(machine)
    return _cut(faults, {(machine.number, other.number), (other.number, machine.number)})


def _isolate(faults: Faults, machine: Machine) -> bool:
    others = [m.number for m in faults.cluster.machines.values() if m is not machine]
    return _cut(faults, {(machine.number, n) for n in others} | {(n, machine.number) for n in others})


def _mend(faults: Faults, machine: Machine) -> bool:
    if not faults.cluster.net.cuts:
        return False
    faults.cluster.net.heal()
    return True


def _slow_way(faults: Faults, machine: Machine) -> bool:
    faults.cluster.net.slow_us[machine.number, faults.another(machine).number] = faults.cluster.chance.randrange(
        200_000
    )
    return True


def _one_transport(faults: Faults, machine: Machine, what: Callable[[Transport], object]) -> bool:
    transports = [t for t in faults.cluster.net.transports() if t.loop.number == machine.number and t.other is not None]
    if not transports:
        return False
    what(faults.cluster.chance.choice(transports))
    return True


def _reset(faults: Faults, machine: Machine) -> bool:
    return _one_transport(faults, machine, faults.cluster.net.reset)


def _half_open(faults: Faults, machine: Machine) -> bool:
    return _one_transport(faults, machine, faults.cluster.net.silence)


def _flip_on_wire(faults: Faults, machine: Machine) -> bool:
    return _one_transport(faults, machine, lambda t: setattr(t, "flip_next", True))


# Processes


def _with_process(what: Callable[[Faults, Process], None]) -> Fault:
    def fault(faults: Faults, machine: Machine) -> bool:
        process = machine.running
        if process is None:
            return False
        what(faults, process)
        return True

    return fault


def _pause(faults: Faults, process: Process) -> None:
    process.pause()
    longest = faults.cluster.chance.choice((100, 1000, 3 * faults.cluster.shape.session_ms))
    faults.undo(1, longest, process.resume)


def _hang_disk(faults: Faults, process: Process) -> None:
    process.hung_until_us = process.world.now_us + faults.cluster.chance.randrange(50_000, 8_000_000)


def _clock_jump(faults: Faults, process: Process) -> None:
    process.skew_us += faults.cluster.chance.randrange(-3_600_000_000, 3_600_000_000)


def _stop(faults: Faults, process: Process) -> None:
    async def hand_over() -> None:
        await process.replicator.hand_over(5.0)
        process.world.at(0, None, process.kill)

    process.loop.create_task(hand_over())


def _die_later(power: bool) -> Callable[[Faults, Process], None]:
    def what(faults: Faults, process: Process) -> None:
        process.die_in = (faults.cluster.chance.randrange(12), power)

    return what


def _site_power(faults: Faults, machine: Machine) -> bool:
    for each in faults.cluster.machines.values():
        if each.process is not None:
            each.process.kill(power=True)
    return True


# Disks


def _slow_disk(faults: Faults, process: Process) -> None:
    process.disk.slow_us = faults.cluster.chance.randrange(30_000)
    faults.undo(200, 3000, lambda: setattr(process.disk, "slow_us", 0))


def _fill_disk(faults: Faults, machine: Machine) -> bool:
    medium = machine.medium
    medium.room = min(medium.room, faults.cluster.chance.choice((0, 70_000, 400_000)))
    faults.undo(200, 4000, lambda: setattr(medium, "room", ROOM))
    return True


def _drop_cache(faults: Faults, machine: Machine) -> bool:
    machine.medium.evict()
    return True


def _flip_bit(faults: Faults, machine: Machine) -> bool:
    """One to three bits, in log files nine times out of ten."""
    chance = faults.cluster.chance
    wanted = ("log/0",) if chance.random() < 0.9 else ("promise", "log/")
    names = [n for n in machine.medium.files if n.startswith(wanted)]
    if not names:
        return False
    content = machine.medium.files[chance.choice(names)]
    used = len(content.medium.rstrip(b"\0"))
    if not used:
        return False
    machine.harm = "flipped bits"
    for _ in range(chance.randrange(1, 4)):
        at, bit = chance.randrange(used), 1 << chance.randrange(8)
        content.medium[at] ^= bit
        if at < len(content.cached):
            content.cached[at] ^= bit
    return True


def _rot(faults: Faults, machine: Machine) -> bool:
    """Flip a bit of an acknowledged instance, let the node notice, and send the instance there again."""
    cluster, process = faults.cluster, machine.running
    history = cluster.checks.history
    known = [
        (digest, uid) for digest, uid in history.acknowledged.items() if machine.medium.holds(history.content[digest])
    ]
    if process is None or not known:
        return False
    digest, uid = cluster.chance.choice(known)
    dataset = history.content[digest]
    for name, content in machine.medium.files.items():
        at = content.medium.find(dataset)
        if name.startswith("log/0") and at >= 0:
            content.medium[at] ^= 1
            content.cached[at] ^= 1
    machine.harm = "rotten record"
    process.loop.create_task(_notice_and_send_again(cluster, process, uid, dataset))
    return True


async def _notice_and_send_again(cluster: Cluster, process: Process, uid: str, dataset: bytes) -> None:
    """Success must rest on copies that can be read, once the node that says it knew of the damage."""
    with contextlib.suppress(InstanceAbsent, InstanceUnavailable, StorageError):
        await process.replicator.lookups.read(uid)
    if not process.log.damaged() or process.replicator.refusal() is not None:
        return
    try:
        await process.replicator.commit(process.draft(uid, dataset))
    except (NotPromised, ConflictRefused, StorageError, OSError):
        return
    machines = cluster.machines.values()
    holders = [m.name for m in machines if m.medium.holds(dataset) or any(d.holds(dataset) for d, _ in m.lost)]
    if len(holders) < cluster.shape.copies_required:
        said = f"{process.name} answers Success for {uid} again, with readable copies at {holders} only"
        raise cluster.world.found(Violation(said))


def _lying_disk(attribute: str) -> Callable[[Faults, Machine], bool]:
    def fault(faults: Faults, machine: Machine) -> bool:
        process = machine.running
        if process is None:
            return False
        setattr(process.disk, attribute, True)
        machine.harm = attribute.replace("_", " ")
        return True

    return fault


def _wipe(faults: Faults, machine: Machine) -> bool:
    if machine.process is not None:
        machine.process.kill(power=True)
    faults.cluster.replace_disk(machine)
    return True


def _snapshot(faults: Faults, machine: Machine) -> bool:
    if not machine.alive or machine.harm:
        return False
    faults.cluster.snapshot(machine)
    return True


def _roll_back(faults: Faults, machine: Machine) -> bool:
    return faults.cluster.roll_back(machine)


# Coordination


def _expire(faults: Faults, process: Process) -> None:
    faults.cluster.service.expire(process.client.session)


def _outage(faults: Faults, machine: Machine) -> bool:
    service = faults.cluster.service
    service.up = False
    service.lines_changed()

    def back() -> None:
        service.up = True
        service.lines_changed()

    faults.undo(50, 3 * service.session_ms, back)
    return True


def _cut_off(faults: Faults, machine: Machine) -> bool:
    service = faults.cluster.service
    service.cut_off.add(machine.number)
    service.lines_changed()

    def back() -> None:
        service.cut_off.discard(machine.number)
        service.lines_changed()

    faults.undo(50, 3 * service.session_ms, back)
    return True


def _old_backup(faults: Faults, machine: Machine) -> bool:
    """Each node has heard of a later change: a restore that went unheard of cannot be noticed (section 9)."""
    cluster = faults.cluster
    if cluster.checks.restored or any(m.harm for m in cluster.machines.values()):
        return False
    known = min(m.counter for m in cluster.machines.values())
    old = [s for s in cluster.service.history if s.state is not None and s.state.state.change.counter < known]
    if not old:
        return False
    cluster.checks.restored = True
    cluster.service.restore(cluster.chance.choice(old))
    return True


def _lose_history(faults: Faults, machine: Machine) -> bool:
    cluster = faults.cluster
    if cluster.checks.restored or any(not m.counter for m in cluster.machines.values()):
        return False
    cluster.checks.restored = True
    cluster.service.restore(Snapshot())
    return True


KINDS: dict[str, Fault] = {
    "cut_one_way": _cut_one_way,
    "cut_two_ways": _cut_two_ways,
    "isolate": _isolate,
    "mend": _mend,
    "slow_way": _slow_way,
    "reset": _reset,
    "half_open": _half_open,
    "flip_on_wire": _flip_on_wire,
    "kill": _with_process(lambda faults, process: process.kill()),
    "kill_in_write": _with_process(_die_later(power=False)),
    "power_cut": _with_process(lambda faults, process: process.kill(power=True)),
    "power_in_write": _with_process(_die_later(power=True)),
    "site_power": _site_power,
    "pause": _with_process(_pause),
    "hang_disk": _with_process(_hang_disk),
    "clock_jump": _with_process(_clock_jump),
    "stop": _with_process(_stop),
    "switchover": lambda faults, machine: faults.verb(machine),
    "slow_disk": _with_process(_slow_disk),
    "fail_sync": _with_process(lambda faults, process: setattr(process, "fail_next_sync", True)),
    "fill_disk": _fill_disk,
    "drop_cache": _drop_cache,
    "flip_bit": _flip_bit,
    "rot": _rot,
    "lost_write": _lying_disk("lose_next_write"),
    "misdirected_write": _lying_disk("misdirect_next_write"),
    "wipe": _wipe,
    "snapshot": _snapshot,
    "roll_back": _roll_back,
    "expire": _with_process(_expire),
    "outage": _outage,
    "cut_off": _cut_off,
    "old_backup": _old_backup,
    "lose_history": _lose_history,
}
