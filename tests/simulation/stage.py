"""A cluster on which a scenario is played by hand: nothing befalls it but what the scenario says."""

import logging

from tests.simulation.cluster import Cluster, Shape
from tests.simulation.faults import Faults
from tests.simulation.kinds import KINDS
from tests.simulation.machine import Machine
from tests.simulation.process import Process
from tests.simulation.reckoning import Reckoning
from tests.simulation.workload import Instance, Load, Workload
from tests.simulation.world import World


class Stage:
    """Healthy from the start. Every check of the simulator watches."""

    def __init__(self, nodes: int = 3, *, seed: int = 1, operator: bool = False, shape: Shape | None = None) -> None:
        logging.disable(logging.CRITICAL)
        self.world = World(seed)
        self.lines: list[str] = []
        self.world.trace = self.lines.append
        self.cluster = Cluster(self.world, shape or Shape(nodes=nodes))
        self.workload = Workload(self.cluster, Load())
        self.faults = Faults(self.cluster, {}, 1000, 0.0)
        self.cluster.start_all()
        if operator:
            self.cluster.tour()
        self.until(self.cluster.redundant)
        self.until(lambda: self.takes(self.leader))

    def __enter__(self) -> "Stage":
        return self

    def __exit__(self, *_: object) -> None:
        self.cluster.bury()
        logging.disable(logging.NOTSET)

    def run(self, ms: int) -> None:
        self.cluster.run_ms(ms)

    def until(self, what: object, within_ms: int = 30_000) -> None:
        """Let time pass until `what()` holds; fail with the trace when it does not come to that."""
        assert callable(what)
        held = self.cluster.run_ms(within_ms, lambda: bool(what()))
        assert held, "\n".join(self.lines[-30:])

    @property
    def leader(self) -> Machine:
        found = self.cluster.leader()
        assert found is not None, "\n".join(self.lines[-30:])
        return found

    @property
    def followers(self) -> list[Machine]:
        return [machine for machine in self.cluster.machines.values() if machine is not self.leader]

    def in_sync(self, machine: Machine) -> bool:
        """Whether the in-sync set names this disk."""
        state = self.cluster.state
        return state is not None and machine.member in state.in_sync

    def strike(self, kind: str, machine: Machine) -> None:
        """Something befalls a machine now."""
        assert KINDS[kind](self.faults, machine), f"{kind} cannot be done now"

    def cut(self, machine: Machine) -> None:
        """From all others, both ways, until `heal`."""
        for other in self.cluster.machines.values():
            if other is not machine:
                self.cluster.net.cuts |= {(machine.number, other.number), (other.number, machine.number)}

    def cut_off(self, machine: Machine) -> None:
        """From all others and from the coordination service, until everything heals."""
        self.cut(machine)
        self.cluster.service.cut_off.add(machine.number)
        self.cluster.service.lines_changed()

    def part(self, one: Machine, other: Machine) -> None:
        """Two machines cannot hear each other any more."""
        self.cluster.net.cuts |= {(one.number, other.number), (other.number, one.number)}

    def takes(self, machine: Machine) -> bool:
        """Whether a node would let an instance in."""
        return machine.running is not None and not self.workload.refused(machine.running)

    def offer(self, machine: Machine, uid: str, size: int = 600) -> Instance:
        """Send an instance to a node that lets it in, once."""
        assert self.takes(machine), "refused at the door: the scenario would play without it"
        instance = Instance(uid, self.world.random.randbytes(size))
        self.workload.instances.append(instance)
        self.workload.versions.setdefault(uid, []).append(instance.dataset)
        self.workload.stopped = True  # nobody tries again
        self.workload.offer(instance, 0, then=False, machine=machine)
        return instance

    def stored(self, machine: Machine, uid: str, size: int = 600) -> Instance:
        """Send an instance, and wait until it is promised."""
        self.until(lambda: self.takes(machine))
        instance = self.offer(machine, uid, size)
        self.until(lambda: instance.done)
        return instance

    def reckon(self) -> None:
        """Everything heals; then nothing may be missing."""
        self.workload.stopped = False
        self.faults.heal()
        self.cluster.tour()
        for machine in self.cluster.machines.values():
            self.cluster.start_later(machine, 1000)
        Reckoning(self.cluster, self.workload).reckon()


def process_of(machine: Machine) -> Process:
    assert machine.process is not None
    return machine.process
