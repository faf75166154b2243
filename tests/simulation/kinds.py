"""The faults themselves, by name.

Network: `cut_one_way`, `cut_two_ways`, `isolate`, `depose` (the leader, also from coordination), `mend`, `slow_way`,
`reset`, `half_open`, `flip_on_wire`.
Process: `kill`, `kill_in_write` (in the middle of some later disk operation), `power_cut`, `power_in_write`,
`site_power` (every machine at once), `pause` (any length), `hang_disk` (the data path stands still, the session goes
on), `clock_jump`, `stop` (as a service manager does), `switchover` (the operator verb).
Disk: `slow_disk`, `fail_sync` (EIO, pages marked clean), `fill_disk` (ENOSPC), `drop_cache`; and those that one disk
may suffer at a time: `flip_bit`, `rot`, `lost_write`, `misdirected_write`, `wipe`, `snapshot` and `roll_back`.
Coordination: `expire`, `outage`, `cut_off`; and once per run at most, `old_backup`, `lose_history`.
Beyond the promise, once per run at most: `lose_the_set` (every disk that the in-sync set names).
Bucket: `bucket_outage`, `bucket_cut_off` (one node), `bucket_slow`, `lose_object`.
"""

from collections.abc import Callable
from typing import Protocol

from replication.core.values import TIER_MEMBER
from storage.position import GENESIS
from tests.simulation.cluster import Cluster
from tests.simulation.disk import ROOM
from tests.simulation.machine import Machine
from tests.simulation.network import Transport
from tests.simulation.process import Process
from tests.simulation.rot import rot
from tests.simulation.zookeeper import Snapshot

HARMING = ("flip_bit", "rot", "lost_write", "misdirected_write", "wipe", "roll_back")
"""Those that the promise covers on one disk at a time."""
BEYOND = ("lose_the_set",)
"""More than the promise covers; drawn apart from the others."""
OF_THE_BUCKET = ("bucket_outage", "bucket_cut_off", "bucket_slow", "lose_object")


class Striker(Protocol):
    """What a fault needs of whoever strikes."""

    cluster: Cluster

    def undo(self, least_ms: int, most_ms: int, what: Callable[[], None]) -> None: ...

    def another(self, machine: Machine) -> Machine: ...

    def verb(self, machine: Machine) -> bool: ...


Fault = Callable[[Striker, Machine], bool]


# Network


def _cut(faults: Striker, pairs: set[tuple[int, int]]) -> bool:
    net = faults.cluster.net
    net.cuts |= pairs

    def mend() -> None:
        net.cuts -= pairs
        for transport in net.transports():
            transport.deliver_later()

    faults.undo(20, 6000, mend)
    return True


def _cut_one_way(faults: Striker, machine: Machine) -> bool:
    pair = (machine.number, faults.another(machine).number)
    return _cut(faults, {pair if faults.cluster.chance.random() < 0.5 else (pair[1], pair[0])})


def _cut_two_ways(faults: Striker, machine: Machine) -> bool:
    other = faults.another(machine)
    return _cut(faults, {(machine.number, other.number), (other.number, machine.number)})


def _isolate(faults: Striker, machine: Machine) -> bool:
    others = [m.number for m in faults.cluster.machines.values() if m is not machine]
    return _cut(faults, {(machine.number, n) for n in others} | {(n, machine.number) for n in others})


def _depose(faults: Striker, machine: Machine) -> bool:
    """The leader is cut off from all others and from the coordination service, for long enough to lose the lead; or who
    is about to lead.
    """
    leader = faults.cluster.leader()
    process = machine.running
    if leader is None and process is not None and (process.core.candidacy or process.core.leadership):
        leader = machine
    return leader is not None and _cut_off(faults, leader) and _isolate(faults, leader)


def _mend(faults: Striker, machine: Machine) -> bool:
    if not faults.cluster.net.cuts:
        return False
    faults.cluster.net.heal()
    return True


def _slow_way(faults: Striker, machine: Machine) -> bool:
    faults.cluster.net.slow_us[machine.number, faults.another(machine).number] = faults.cluster.chance.randrange(
        200_000
    )
    return True


def _one_transport(faults: Striker, machine: Machine, what: Callable[[Transport], object]) -> bool:
    transports = [t for t in faults.cluster.net.transports() if t.loop.number == machine.number and t.other is not None]
    if not transports:
        return False
    what(faults.cluster.chance.choice(transports))
    return True


def _reset(faults: Striker, machine: Machine) -> bool:
    return _one_transport(faults, machine, faults.cluster.net.reset)


def _half_open(faults: Striker, machine: Machine) -> bool:
    return _one_transport(faults, machine, faults.cluster.net.silence)


def _flip_on_wire(faults: Striker, machine: Machine) -> bool:
    return _one_transport(faults, machine, lambda t: setattr(t, "flip_next", True))


# Processes


def _with_process(what: Callable[[Striker, Process], None]) -> Fault:
    def fault(faults: Striker, machine: Machine) -> bool:
        process = machine.running
        if process is None:
            return False
        what(faults, process)
        return True

    return fault


def _pause(faults: Striker, process: Process) -> None:
    process.pause()
    longest = faults.cluster.chance.choice((100, 1000, 3 * faults.cluster.shape.session_ms))
    faults.undo(1, longest, process.resume)


def _hang_disk(faults: Striker, process: Process) -> None:
    process.hung_until_us = process.world.now_us + faults.cluster.chance.randrange(50_000, 8_000_000)


def _clock_jump(faults: Striker, process: Process) -> None:
    process.skew_us += faults.cluster.chance.randrange(-3_600_000_000, 3_600_000_000)


def _stop(faults: Striker, process: Process) -> None:
    async def hand_over() -> None:
        await process.replicator.hand_over(5.0)
        process.world.at(0, None, process.kill)

    # Kept, so that a process which dies before it begins leaves no coroutine behind that was never awaited.
    process.stopping_task = process.loop.create_task(hand_over())


def _die_later(power: bool) -> Callable[[Striker, Process], None]:
    def what(faults: Striker, process: Process) -> None:
        process.die_in = (faults.cluster.chance.randrange(12), power)

    return what


def _site_power(faults: Striker, machine: Machine) -> bool:
    for each in faults.cluster.machines.values():
        if each.process is not None:
            each.process.kill(power=True)
    return True


# Disks


def _slow_disk(faults: Striker, process: Process) -> None:
    process.disk.slow_us = faults.cluster.chance.randrange(30_000)
    faults.undo(200, 3000, lambda: setattr(process.disk, "slow_us", 0))


def _fill_disk(faults: Striker, machine: Machine) -> bool:
    medium = machine.medium
    medium.room = min(medium.room, faults.cluster.chance.choice((0, 70_000, 400_000)))
    faults.undo(200, 4000, lambda: setattr(medium, "room", ROOM))
    return True


def _drop_cache(faults: Striker, machine: Machine) -> bool:
    machine.medium.evict()
    return True


def _flip_bit(faults: Striker, machine: Machine) -> bool:
    """One to three bits, in log files nine times out of ten."""
    chance = faults.cluster.chance
    wanted = ("log/0",) if chance.random() < 0.9 else ("promise", "log/")
    names = [n for n in machine.medium.files if n.startswith(wanted)]
    if not names:
        return False
    name = chance.choice(names)
    content = machine.medium.files[name]
    used = len(content.medium.rstrip(b"\0"))
    if not used:
        return False
    log = name.startswith("log/0")
    machine.bits_flipped("flipped bits" if log else "flipped bits elsewhere", faults.cluster.world.now_us)
    for _ in range(chance.randrange(1, 4)):
        at, bit = chance.randrange(used), 1 << chance.randrange(8)
        content.medium[at] ^= bit
        if at < len(content.cached):
            content.cached[at] ^= bit
    return True


def _lying_disk(attribute: str) -> Callable[[Striker, Machine], bool]:
    def fault(faults: Striker, machine: Machine) -> bool:
        process = machine.running
        if process is None:
            return False
        setattr(process.disk, attribute, True)
        machine.harm = attribute.replace("_", " ")
        return True

    return fault


def _wipe(faults: Striker, machine: Machine) -> bool:
    if machine.process is not None:
        machine.process.kill(power=True)
    faults.cluster.replace_disk(machine)
    return True


def _snapshot(faults: Striker, machine: Machine) -> bool:
    if not machine.alive or machine.harm:
        return False
    faults.cluster.snapshot(machine)
    return True


def _roll_back(faults: Striker, machine: Machine) -> bool:
    return faults.cluster.roll_back(machine)


# Coordination


def _expire(faults: Striker, process: Process) -> None:
    faults.cluster.service.expire(process.client.session)


def _outage(faults: Striker, machine: Machine) -> bool:
    service = faults.cluster.service
    service.up = False
    service.lines_changed()

    def back() -> None:
        service.up = True
        service.lines_changed()

    faults.undo(50, 3 * service.session_ms, back)
    return True


def _cut_off(faults: Striker, machine: Machine) -> bool:
    service = faults.cluster.service
    service.cut_off.add(machine.number)
    service.lines_changed()

    def back() -> None:
        service.cut_off.discard(machine.number)
        service.lines_changed()

    faults.undo(50, 3 * service.session_ms, back)
    return True


def _old_backup(faults: Striker, machine: Machine) -> bool:
    """Each node has heard of a later change: a restore that went unheard of cannot be noticed (section 9)."""
    cluster = faults.cluster
    if cluster.checks.astray or any(m.harm for m in cluster.machines.values()):
        return False
    known = min(m.counter for m in cluster.machines.values())
    old = [s for s in cluster.service.history if s.state is not None and s.state.state.change.counter < known]
    if not old:
        return False
    cluster.checks.restored = True
    cluster.service.restore(cluster.chance.choice(old))
    return True


def _lose_history(faults: Striker, machine: Machine) -> bool:
    cluster = faults.cluster
    if cluster.checks.astray or any(not m.counter for m in cluster.machines.values()):
        return False
    cluster.checks.restored = True
    cluster.service.restore(Snapshot())
    return True


def _lose_the_set(faults: Striker, machine: Machine) -> bool:
    """More than the promise covers: whoever holds everything loses it at once. Somebody is left who holds something."""
    cluster = faults.cluster
    state, machines = cluster.service.state, cluster.machines.values()
    if state is None or cluster.checks.astray or cluster.bucket.harm or any(m.harm for m in machines):
        return False
    lost = [m for m in machines if m.member in state.in_sync]
    left = [m for m in machines if m not in lost and m.durable != GENESIS]
    if TIER_MEMBER in state.in_sync or not lost or not left:
        return False
    cluster.checks.bereft = True
    for each in lost:
        _wipe(faults, each)
    return True


# The bucket


def _bucket_outage(faults: Striker, machine: Machine) -> bool:
    bucket = faults.cluster.bucket
    bucket.up = False
    faults.undo(50, 8000, lambda: setattr(bucket, "up", True))
    return True


def _bucket_cut_off(faults: Striker, machine: Machine) -> bool:
    bucket = faults.cluster.bucket
    bucket.cut_off.add(machine.number)
    faults.undo(50, 8000, lambda: bucket.cut_off.discard(machine.number))
    return True


def _bucket_slow(faults: Striker, machine: Machine) -> bool:
    bucket = faults.cluster.bucket
    bucket.slow_us = faults.cluster.chance.randrange(600_000)
    faults.undo(50, 4000, lambda: setattr(bucket, "slow_us", 0))
    return True


def _lose_object(faults: Striker, machine: Machine) -> bool:
    """One that nobody is about to need, or the newest."""
    cluster = faults.cluster
    runs = sorted(key for key in cluster.bucket.objects if key.startswith("log/"))
    if not runs or not cluster.may_lose_object():
        return False
    cluster.bucket.lose(runs[-1] if cluster.chance.random() < 0.5 else cluster.chance.choice(runs))
    return True


KINDS: dict[str, Fault] = {
    "cut_one_way": _cut_one_way,
    "cut_two_ways": _cut_two_ways,
    "isolate": _isolate,
    "depose": _depose,
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
    "rot": lambda faults, machine: rot(faults.cluster, machine),
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
    "lose_the_set": _lose_the_set,
    "bucket_outage": _bucket_outage,
    "bucket_cut_off": _bucket_cut_off,
    "bucket_slow": _bucket_slow,
    "lose_object": _lose_object,
}
