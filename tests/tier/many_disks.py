"""Many standalone nodes over one bucket, on paper: disks are cloned and put back, archives restored, machines paused.

What claims, fences and files the state is production (`Claims`, `ClaimedStore`, `FileCoordination`). What leads is a
sketch of the core: promise, claim, then the log of the bucket or its own, the tier enters, put, count. The bucket loses
answers, does what was asked later, and is away for some. The same seed gives the same run, if `to_thread` runs at once.

Judged at each acknowledgement and at the end: what was ever counted is on the branch that a restore would follow.
"""

import asyncio
import json
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from replication.coordination.port import ClusterRecord, CoordinationUnavailable, NodeRetired
from replication.coordination.standalone import FileCoordination
from replication.core.values import (
    TIER_MEMBER,
    CasOutcome,
    Change,
    ClusterState,
    Identity,
    Member,
    Phase,
    ReplicaId,
    TierClaim,
)
from replication.tier.claims import ClaimedStore, Claims
from replication.tier.keys import LOG, MARKER, parse_marker
from replication.tier.port import TierError
from tests.storage.memory_disk import MemoryDisk
from tests.tier.shared_bucket import Broken, Log, Reach, Record, World, branch_of, end_of, holds

CLUSTER = ClusterRecord("0123456789abcdef", 1, 1 << 22)
LEAP = 3
"""Epochs between a restore and what came before it: so few that a node that starts often gets beyond."""
MACHINES = 6


class Machine:
    """A disk, a way to the bucket, and a process that is killed and started."""

    def __init__(self, world: World, disk: MemoryDisk) -> None:
        self.world = world
        self.disk = disk
        self.reach = Reach(world)
        self.process: asyncio.Task[None] | None = None

    @property
    def runs(self) -> bool:
        return self.process is not None and not self.process.done()

    async def kill(self) -> None:
        if self.process is not None and self.runs:
            self.process.cancel()
            await asyncio.sleep(0)

    def start(self) -> None:
        self.process = asyncio.ensure_future(self._life())

    def check(self) -> None:
        """Raises what the process ended with."""
        if self.process is not None and self.process.done() and not self.process.cancelled():
            self.process.result()

    async def _life(self) -> None:
        life = Life(self)
        try:
            while await life.lead():
                await self.world.pause()
        except NodeRetired:
            self.world.done["retired"] += 1

    def number(self, name: str) -> int:
        return int(self.disk.read(name)) if self.disk.exists(name) else 0

    def raise_number(self, name: str, number: int) -> None:
        self.disk.write_atomically(name, str(max(number, self.number(name))).encode())

    @property
    def log(self) -> Log:
        rows: list[Any] = json.loads(self.disk.read("log")) if self.disk.exists("log") else []
        return tuple(Record(*row) for row in rows)

    def write_log(self, log: Sequence[Record]) -> None:
        rows = [[r.epoch, r.sequence, r.before, r.name] for r in log]
        self.disk.write_atomically("log", json.dumps(rows).encode())

    def append(self, epoch: int, name: str = "") -> None:
        log = self.log
        before = log[-1].chain if log else ""
        self.write_log((*log, Record(epoch, len(log) + 1, before, name)))


class Life:
    """One process: as much of a node as decides what the bucket holds."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._world = machine.world
        self._reach = machine.reach
        self.me = Identity(ReplicaId("solo"), machine.disk.read("disk").decode(), machine.world.new_id())
        claims = Claims(machine.disk, machine.reach, CLUSTER)
        self._files = FileCoordination(machine.disk, claims)
        self._store = ClaimedStore(machine.reach, claims, self._files.claimed)
        self._tier_epoch = 0
        self._version = 0

    async def _write(self, state: ClusterState, **changed: Any) -> ClusterState:
        wanted = replace(state, change=Change(state.change.counter + 1, self._world.new_id()), **changed)
        outcome, self._version = await self._files.write_state(wanted, self._version)
        assert outcome is CasOutcome.APPLIED, "nobody else writes the file"
        self._machine.raise_number("counter", wanted.change.counter)
        return wanted

    async def lead(self) -> bool:
        """Stand, and lead as long as that goes well. Returns whether to stand again."""
        machine, files = self._machine, self._files
        seen = await files.read_state()
        if seen is None:
            first = Change(1, self._world.new_id())
            members = frozenset({self.me.member})
            await files.create_state(ClusterState(first, 0, None, Phase.RECOVERING, members))
            return True
        if seen.state.change.counter < machine.number("counter"):
            return False
        epoch = 1 + max(seen.state.epoch, machine.number("promise"), self._tier_epoch)
        machine.raise_number("promise", epoch)
        await self._world.pause()
        change = Change(seen.state.change.counter + 1, self._world.new_id())
        won = replace(seen.state, change=change, epoch=epoch, leader=self.me, phase=Phase.RECOVERING)
        while True:
            outcome, self._version = await files.take_lead(won, seen.version, self.me)
            if outcome is CasOutcome.APPLIED:
                break
            await files.read_state()
        through = self.me.member not in won.in_sync
        if not through or await self._rebuilt(won):
            machine.append(epoch)
            await self._world.pause()
            members = frozenset({self.me.member, TIER_MEMBER} if won.tier is not None else {self.me.member})
            await self._active(await self._write(won, phase=Phase.ACTIVE, in_sync=members))
        await files.resign(self.me)
        return True

    async def _listed(self) -> tuple[int, list[str]]:
        """The highest counter of a marker, and the objects of the log."""
        while True:
            try:
                markers = [parse_marker(key) async for key in self._reach.list(MARKER)]
                keys = [key async for key in self._reach.list(LOG)]
            except TierError:
                await self._files.read_state()
                await self._world.pause()
            else:
                return max((marker.counter for marker in markers if marker is not None), default=0), keys

    def _outdone(self, state: ClusterState, counter: int, keys: Sequence[str]) -> bool:
        """Whether the bucket knows of something later than this lead."""
        highest = max((int(key.split("/")[1]) for key in keys), default=0)
        self._tier_epoch = max(self._tier_epoch, highest)
        self._machine.raise_number("counter", counter)
        own = highest == state.epoch and state.phase is Phase.ACTIVE
        return counter > state.change.counter or (highest >= state.epoch and not own)

    async def _rebuilt(self, won: ClusterState) -> bool:
        """Make the log what the bucket says it is."""
        counter, keys = await self._listed()
        if self._outdone(won, counter, keys):
            return False
        branch = branch_of(self._world.objects[key] for key in keys)
        floor = await self._files.tier_floor()
        known = [won.floor, *([floor.point] if floor is not None else [])]
        if branch is None or not all(holds(branch, point) for point in known):
            raise Broken(f"epoch {won.epoch}: the tier does not give back what it was counted for")
        self._machine.write_log(branch)
        self._world.done["takeovers"] += 1
        return True

    async def _active(self, state: ClusterState) -> None:
        world, machine, files = self._world, self._machine, self._files
        counter, keys = await self._listed()
        if self._outdone(state, counter, keys):
            return
        covered, marked = {record.sequence for record in machine.log if record.key in set(keys)}, False
        while True:
            await world.pause()
            log, tiered = machine.log, state.tier is not None
            try:
                if tiered and not marked:
                    await self._store.put(f"{MARKER}{state.change.counter:012d}-{state.change.id}", b"{}\n")
                    marked = True
                for record in log:
                    if record.sequence not in covered:
                        await self._store.put(record.key, record.encoded())
                        covered.add(record.sequence)
            except TierError:
                await files.read_state()
                if self._reach.away and world.chance.random() < 0.05:
                    machine.append(state.epoch, f"alone-{world.new_id()}")
                    if tiered:
                        members = frozenset({self.me.member})
                        state, marked = await self._write(state, in_sync=members, tier=None), False
                continue
            if not tiered:
                members = frozenset({self.me.member, TIER_MEMBER})
                claim = TierClaim(1, bytes(32), end_of(log))
                state = await self._write(state, in_sync=members, tier=claim)
                continue
            await self._count(log)
            if world.chance.random() < 0.5:
                machine.append(state.epoch, f"stored-{world.new_id()}")

    async def _count(self, log: Log) -> None:
        floor = await self._files.tier_floor()
        version = floor.version if floor is not None else None
        outcome, _ = await self._files.count_tier(end_of(log), self._version, version)
        if outcome is not CasOutcome.APPLIED:
            await self._files.read_state()
            return
        self._world.promised |= {record.name for record in log if record.name.startswith("stored")}
        self._world.judge(f"epoch {log[-1].epoch} acknowledges")


async def restored(world: World) -> Machine | None:
    """As `perenne restore --cluster` does it. None where it was refused."""
    machine = Machine(world, MemoryDisk())
    machine.disk.write_atomically("disk", world.new_id().encode())
    claims = Claims(machine.disk, machine.reach, CLUSTER)
    try:
        claimed = await claims.adopt() + 1
        await claims.hold(claimed, world.new_id())
    except (TierError, CoordinationUnavailable, NodeRetired):
        return None
    world.judge("a restore")
    bodies = world.bodies()
    branch = branch_of(bodies) or ()
    counters = [marker.counter for marker in map(parse_marker, world.objects) if marker is not None]
    epoch = max([claimed, *(int(json.loads(body)[0]) for body in bodies)]) + LEAP
    member = Member(ReplicaId("solo"), machine.disk.read("disk").decode())
    change = Change(max(counters, default=0) + 1_000_000, world.new_id())
    state = ClusterState(change, epoch, None, Phase.RECOVERING, frozenset({member}), floor=end_of(branch))
    machine.write_log(branch)
    await FileCoordination(machine.disk).create_state(state)
    return machine


async def play(seed: int, steps: int = 300) -> World:
    """Raises Broken."""
    chance = random.Random(seed)
    world = World(chance, unknown=chance.choice((0, 0.02, 0.1)))
    kills, outages = chance.choice((0.01, 0.03, 0.1)), chance.choice((0.01, 0.02, 0.1))
    disk = MemoryDisk()
    disk.write_atomically("disk", world.new_id().encode())
    machines, copies = [Machine(world, disk)], list[MemoryDisk]()
    for _ in range(steps):
        for _ in range(chance.randint(1, 40)):
            await asyncio.sleep(0)
        for machine in machines:
            machine.check()
        machine, dice = chance.choice(machines), chance.random()
        if dice < kills:
            await machine.kill()
        elif dice < 0.3:
            if not machine.runs:
                machine.start()
        elif dice < 0.36:
            copies = [*copies[-5:], machine.disk.copy()]
        elif dice < 0.36 + outages:
            machine.reach.away = not machine.reach.away
        elif dice < 0.48 and copies:
            other = machine
            if chance.random() < 0.5 and len(machines) < MACHINES:
                other = Machine(world, MemoryDisk())
                other.reach.away = chance.random() < 0.3
                machines.append(other)
            await other.kill()
            other.disk = chance.choice(copies).copy()
            other.start()
            world.done["copies"] += 1
        elif dice < 0.49 and world.promised and (new := await restored(world)) is not None:
            new.reach.away = chance.random() < 0.3
            machines = [*machines, new][-MACHINES:]
            copies = [*copies[-5:], new.disk.copy()]
            new.start()
            world.done["restores"] += 1
    for machine in machines:
        machine.check()
        await machine.kill()
    await asyncio.gather(*world.late)
    world.judge("at the end")
    return world
