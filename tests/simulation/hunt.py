"""A hunt: one kind of fault strikes wherever the cluster comes into one phase, which chance seldom brings together."""

from collections.abc import Callable, Mapping

from replication.core.values import TIER_MEMBER
from tests.simulation.cluster import Cluster
from tests.simulation.machine import Machine
from tests.simulation.phases import phase_at, phase_of
from tests.simulation.process import Process

Quarry = tuple[str, str]
"""A kind of fault and a phase of the protocol."""
PAUSE_US = 400_000
LEAD_US = 1_200_000
THROUGH_THE_TIER = "rebuilding from the tier"
STIRRED = 0.8
"""How likely a fault of the background is while it is hunted for."""
Dial = tuple[object, str]
BACKGROUND: Mapping[str, Callable[[Cluster], Dial]] = {
    "a write is lost": lambda cluster: (cluster.service.weights, "lost"),
    "a write applies without an answer": lambda cluster: (cluster.service.weights, "unanswered"),
    "a write applies late": lambda cluster: (cluster.service.weights, "late"),
    "a read is stale": lambda cluster: (cluster.service.weights, "stale"),
    "a watch comes late": lambda cluster: (cluster.service.weights, "late_watch"),
    "a segment lags": lambda cluster: (cluster.net, "lag_probability"),
    "a put applies without an answer": lambda cluster: (cluster.bucket.weights, "unanswered"),
    "a put applies late": lambda cluster: (cluster.bucket.weights, "late"),
    "a put is refused": lambda cluster: (cluster.bucket.weights, "refused"),
    "a listing is stale": lambda cluster: (cluster.bucket.weights, "stale"),
    "a delete applies late": lambda cluster: (cluster.bucket.weights, "late"),
}
"""What strikes by chance per request, and where its chance is set."""
AT_THE_BUCKET = frozenset(kind for kind in BACKGROUND if kind.startswith(("a put", "a listing", "a delete")))


class Hunt:
    """Of one run. strike(kind, machine): carries a fault out."""

    def __init__(self, cluster: Cluster, quarry: Quarry, strike: Callable[[str, Machine], bool]) -> None:
        self._cluster = cluster
        self._kind, self._phase = quarry
        self._strike = strike
        self._again_us = 0
        self._lead_us = LEAD_US
        self._before: float | None = None
        """The chance of a fault of the background while another one is set."""

    def look(self, process: Process) -> None:
        """After each step. Once per visit to the phase, more or less: what strikes again in the same moment shows
        nothing new.
        """
        cluster = self._cluster
        if self._phase == THROUGH_THE_TIER and cluster.world.now_us >= self._lead_us:
            self._lead_us = cluster.world.now_us + LEAD_US
            cluster.world.at(0, None, self._lead)
        if cluster.world.now_us < self._again_us or not self._comes(process):
            self.calm()
            return
        if self._kind in BACKGROUND:
            self._stir()
            return
        target = cluster.machines[process.number]
        if cluster.chance.random() < 0.4:
            target = cluster.chance.choice(list(cluster.machines.values()))
        self._pause()
        cluster.world.at(0, None, self._strike, self._kind, target)

    def _comes(self, process: Process) -> bool:
        cluster = self._cluster
        if self._kind not in BACKGROUND or self._kind == "a segment lags":
            return phase_of(cluster) == self._phase
        return any(phase_at(cluster, node) == self._phase for node in cluster.machines)

    def _lead(self) -> None:
        """Towards a takeover through the tier: the leader alone with it, and then no leader any more."""
        leader, state = self._cluster.leader(), self._cluster.state
        if leader is None or state is None:
            return
        if state.in_sync != frozenset({leader.member, TIER_MEMBER}):
            self._strike("isolate", leader)
        elif self._strike("wipe", leader):
            self._strike("mend", leader)

    def struck(self, kind: str) -> None:
        """A fault of the background struck."""
        if kind == self._kind and self._before is not None:
            self._pause()
            self.calm()

    def _pause(self) -> None:
        self._again_us = self._cluster.world.now_us + self._cluster.chance.randrange(1000, PAUSE_US)

    def _stir(self) -> None:
        if self._before is None:
            where, name = BACKGROUND[self._kind](self._cluster)
            self._before = float(getattr(where, name))
            setattr(where, name, STIRRED)

    def calm(self) -> None:
        """The background is as it was drawn."""
        if self._before is not None:
            where, name = BACKGROUND[self._kind](self._cluster)
            setattr(where, name, self._before)
            self._before = None
