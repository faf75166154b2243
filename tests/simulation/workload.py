"""Senders and readers, as DIMSE would let them in: they try again elsewhere until they are told Success.

Among the instances: sent twice at once, other bytes under the same UID, large ones that are staged in a file, and
ones sent again long after they were stored. Now and then an operator deletes one.
"""

from dataclasses import dataclass, field
from random import Random

from replication.api import ConflictRefused, InstanceAbsent, InstanceUnavailable, NotPromised, OnHold
from replication.core.situation import ConflictPolicy
from storage.errors import StorageError
from tests.simulation.cluster import Cluster
from tests.simulation.deletes import Deed, Fates, tombstone_of
from tests.simulation.keeping import dataset_of, hold_for_a_while, undo_something
from tests.simulation.machine import Machine
from tests.simulation.process import Process
from tests.simulation.world import Violation

SIZES = ((0.70, 40, 1500), (0.22, 1500, 8000), (0.06, 8000, 24_000), (0.02, 60_000, 120_000))

LARGEST = 120_000


@dataclass
class Instance:
    """refused: answered with a conflict, which is an answer. tries: numbers the last attempt."""

    uid: str
    dataset: bytes
    done: bool = False
    refused: bool = False
    tries: int = 0


@dataclass(frozen=True)
class Load:
    """pause_ms: of a sender between two instances, on average. bulk: times the usual size. Chances in [0, 1)."""

    senders: int = 3
    pause_ms: int = 60
    bulk: int = 1
    twice: float = 0.05
    conflict: float = 0.05
    again: float = 0.05
    read: float = 0.2
    delete: float = 0.0
    hold: float = field(default=0.0, repr=False)
    undo: float = field(default=0.0, repr=False)
    """Not shown, so that the other runs are what they were. With either, data sets say of what study they are."""


@dataclass
class Workload:
    """Offers instances until told to stop."""

    cluster: Cluster
    load: Load
    instances: list[Instance] = field(default_factory=list[Instance])
    versions: dict[str, list[bytes]] = field(default_factory=dict[str, list[bytes]])
    stopped: bool = False
    reads: int = 0
    absent: int = 0
    refusals: dict[str, int] = field(default_factory=dict[str, int])

    @property
    def chance(self) -> Random:
        return self.cluster.world.random

    @property
    def fates(self) -> Fates:
        return self.cluster.checks.fates

    def begin(self) -> None:
        for number in range(self.load.senders):
            self.cluster.world.after(self.chance.randrange(200_000), None, self._next, number)

    def _pause_us(self) -> int:
        return int(self.chance.expovariate(1 / (self.load.pause_ms * 1000)))

    def _next(self, sender: int) -> None:
        """A sender begins its next instance."""
        if self.stopped:
            return
        drawn = self.chance.random()
        if self.instances and drawn < self.load.again:
            instance = self.chance.choice(self.instances)
        elif self.instances and drawn < self.load.again + self.load.conflict:
            instance = self.make(self.chance.choice(self.instances).uid)
        else:
            instance = self.make(f"1.2.840.{len(self.instances) + 1}")
        if self.chance.random() < self.load.twice:
            self.offer(instance, sender, then=False)
        self.offer(instance, sender, then=True)
        if self.chance.random() < self.load.read:
            self.read_somewhere()
        if self.load.delete and self.chance.random() < self.load.delete:
            self.delete_something()
        if self.load.hold and self.chance.random() < self.load.hold:
            hold_for_a_while(self)
        if self.load.undo and self.chance.random() < self.load.undo:
            undo_something(self)

    def make(self, uid: str) -> Instance:
        """A new instance, its bytes unlike any other's."""
        _, least, most = self.chance.choices(SIZES, [share for share, _, _ in SIZES])[0]
        size = min(LARGEST, self.chance.randrange(least, most) * self.load.bulk)
        filler = self.chance.randbytes(size // 2 * 2)
        instance = Instance(uid, dataset_of(uid, filler) if self.load.hold or self.load.undo else filler)
        self.instances.append(instance)
        self.versions.setdefault(uid, []).append(instance.dataset)
        return instance

    def offer(self, instance: Instance, sender: int, *, then: bool, machine: Machine | None = None) -> None:
        """Send an instance to a node; `then`: go on with the next one once it is answered."""
        world = self.cluster.world
        instance.tries += 1
        if machine is None:
            machine = self.chance.choice(list(self.cluster.machines.values()))
        process = machine.running
        answered = [False]

        def later() -> None:
            """Whoever was not answered tries again; whoever was goes on."""
            if answered[0]:
                return
            answered[0] = True
            if instance.done or instance.refused:
                if then:
                    world.after(self._pause_us(), None, self._next, sender)
            elif not self.stopped:
                self.offer(instance, sender, then=then)

        if process is None or self.refused(process):
            world.after(100_000 + self._pause_us(), None, later)
            return

        async def store() -> None:
            await self._store(process, instance)
            world.after(0 if instance.done else 50_000, None, later)

        process.loop.create_task(store())
        world.after(self.cluster.shape.session_ms * 5000, None, later)

    def refused(self, process: Process) -> bool:
        """As DIMSE: what would be refused is not even received."""
        why = process.replicator.refusal()
        if why is not None:
            self.refusals[why] = self.refusals.get(why, 0) + 1
        return why is not None

    def delete_something(self) -> None:
        """An operator has something deleted that was stored, and takes what he is told for an answer."""
        stored = [instance for instance in self.instances if instance.done]
        process = self.chance.choice(list(self.cluster.machines.values())).running
        if not stored or process is None:
            return
        instance = self.chance.choice(stored)
        process.loop.create_task(self._delete(process, instance, f"{process.name}{self.cluster.world.now_us}"))

    async def _delete(self, process: Process, instance: Instance, request: str) -> None:
        deed = Deed(self.cluster.world.now_us)
        self.fates.of(instance.uid, instance.dataset).deletes.append(deed)
        tombstone = tombstone_of(instance.uid, instance.dataset, request)
        try:
            await process.replicator.deleting.commit(tombstone)
        except (NotPromised, OnHold, StorageError, OSError):
            return  # it may take effect yet
        deed.end_us, deed.done = self.cluster.world.now_us, True
        self.cluster.checks.history.acknowledged.pop(tombstone.covers[0].dataset, None)
        if self.chance.random() < 0.5 and not self.stopped:
            self.offer(instance, 0, then=False)  # sent again at once: a new instance, for whoever is asked

    async def _store(self, process: Process, instance: Instance) -> None:
        deed = Deed(self.cluster.world.now_us)
        self.fates.of(instance.uid, instance.dataset).stores.append(deed)
        await self._stored(process, instance, deed)
        deed.end_us = self.cluster.world.now_us

    async def _stored(self, process: Process, instance: Instance, deed: Deed) -> None:
        try:
            draft = process.draft(instance.uid, instance.dataset)
            self.cluster.checks.history.content[draft.staged.dataset_digest] = instance.dataset
            await process.replicator.commit(draft)
        except ConflictRefused:
            instance.refused = True
        except (NotPromised, StorageError, OSError):
            pass
        else:
            instance.done = deed.done = True

    # Reading

    def read_somewhere(self) -> None:
        process = self.chance.choice(list(self.cluster.machines.values())).running
        if process is not None:
            instance = self.chance.choice(self.instances)
            process.loop.create_task(self.read(process, instance.uid))

    async def read(self, process: Process, uid: str, *, strictly: bool = False) -> bool:
        """Read one instance back. Returns whether it was there. Raises Violation when it is not what was sent, or when
        it must be there and is said to be absent.
        """
        began_us = self.cluster.world.now_us
        self.reads += 1
        try:
            found = await process.replicator.lookups.read(uid)
            content = b"".join(found.parts())
        except InstanceAbsent:
            self.absent += 1
            if self.fates.owed(uid, began_us):
                said = Violation(f"{process.name} says that {uid} is absent, which was acknowledged")
                raise self.cluster.world.found(said) from None
            return False
        except (InstanceUnavailable, StorageError):
            return False
        served = [dataset for dataset in self.versions[uid] if content.endswith(dataset)]
        if strictly and any(self.fates.of(uid, dataset).gone(began_us) for dataset in served):
            raise self.cluster.world.found(Violation(f"{process.name} serves {uid}, which was deleted"))
        first = self.cluster.shape.policy is not ConflictPolicy.NEWEST
        if first and any(self.fates.earlier(uid, dataset, began_us) for dataset in served):
            later = Violation(f"{process.name} serves {uid} with a data set that came after the one that is current")
            raise self.cluster.world.found(later)
        if not served:
            raise self.cluster.world.found(Violation(f"{process.name} serves {uid} with bytes that nobody sent"))
        return True
