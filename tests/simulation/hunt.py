"""A hunt: one kind of fault strikes wherever the cluster comes into one phase, which chance seldom brings together."""

from collections.abc import Callable

from replication.core import effects as fx
from replication.core.values import TIER_MEMBER
from tests.simulation.cluster import Cluster
from tests.simulation.lure import Lure
from tests.simulation.machine import Machine
from tests.simulation.phases import phase_at, phase_of
from tests.simulation.process import Process

Quarry = tuple[str, str]
"""A kind of fault and a phase of the protocol."""
PAUSE_US = 400_000
LEAD_US = 1_200_000
PROVOKED_US = 20_000
THROUGH_THE_TIER = "rebuilding from the tier"
LIKELY = 0.8
"""How likely a fault of the background is in the phase in which it is hunted for."""
AT_THE_BUCKET = frozenset(
    {
        "a put applies without an answer",
        "a put applies late",
        "a put is refused",
        "a listing is stale",
        "a delete applies late",
    }
)
BACKGROUND = AT_THE_BUCKET | {
    "a write is lost",
    "a write applies without an answer",
    "a write applies late",
    "a read is stale",
    "a watch comes late",
    "a segment lags",
}
"""What strikes by chance per request: hunted for on request alone."""


class Hunt:
    """Of one run. strike(kind, machine): carries a fault out. lured: asked for, and helped along."""

    def __init__(
        self, cluster: Cluster, quarry: Quarry, strike: Callable[[str, Machine], bool], *, lured: bool = False
    ) -> None:
        self._cluster = cluster
        self._lure = Lure(cluster, *quarry, strike) if lured else None
        self._kind, self._phase = quarry
        self._strike = strike
        self._again_us = self._provoke_us = 0
        self._lead_us = LEAD_US
        if self._kind in BACKGROUND:
            cluster.service.lean = cluster.bucket.lean = cluster.net.lean = self._lean

    def look(self, process: Process, effects: list[fx.Effect]) -> None:
        """After each step. Once per visit to the phase, more or less: what strikes again in the same moment shows
        nothing new.
        """
        cluster = self._cluster
        now_us = cluster.world.now_us
        if self._lure is not None:
            self._lure.lead()
            self._lure.begins(process, effects)
        elif self._phase == THROUGH_THE_TIER and now_us >= self._lead_us:
            self._lead_us = now_us + LEAD_US
            cluster.world.at(0, None, self._lead)
        if now_us < self._again_us:
            return
        if self._kind in BACKGROUND:
            if self._lure is not None and now_us >= self._provoke_us and self._at(process.number):
                self._provoke_us = now_us + PROVOKED_US
                self._lure.provoke(cluster.machines[process.number])
        elif phase_of(cluster) == self._phase:
            target = cluster.machines[process.number]
            if cluster.chance.random() < 0.4:
                target = cluster.chance.choice(list(cluster.machines.values()))
            self._pause()
            cluster.world.at(0, None, self._strike_one if self._lure is not None else self._strike, self._kind, target)

    def _strike_one(self, kind: str, first: Machine) -> None:
        """Whichever machine can be struck."""
        machines = list(self._cluster.machines.values())
        self._cluster.chance.shuffle(machines)
        if not any(self._strike(kind, machine) for machine in [first, *machines]):
            self._again_us = self._cluster.world.now_us

    def _at(self, node: int | None) -> bool:
        """Whether this node is in the phase; the cluster, where a fault is no node's."""
        found = phase_of(self._cluster) if node is None else phase_at(self._cluster, node, self._kind)
        return found == self._phase

    def _lean(self, kind: str, node: int | None) -> float:
        """What is added to the chance of a fault of the background."""
        if kind != self._kind or self._cluster.healing or self._cluster.world.now_us < self._again_us:
            return 0.0
        return LIKELY if self._at(node) else 0.0

    def _lead(self) -> None:
        """Towards a takeover through the tier: the leader alone with it, and then no leader any more."""
        leader, state = self._cluster.leader(), self._cluster.state
        if leader is None or state is None:
            return
        if state.in_sync != frozenset({leader.member, TIER_MEMBER}):
            self._strike("isolate", leader)
        elif self._strike("wipe", leader):
            self._strike("mend", leader)

    def struck(self, kind: str, phase: str) -> None:
        """A fault of the background struck."""
        if kind == self._kind and phase == self._phase:
            self._pause()

    def _pause(self) -> None:
        self._again_us = self._cluster.world.now_us + self._cluster.chance.randrange(1000, PAUSE_US)
