"""What befalls a cluster, drawn with weights of each seed's own (swarm testing), and what the promise does not cover.

The faults are in `kinds`. An ambush lets one of them strike in the very step in which a node decides something; a
crash while starting cuts the recovery short; what other parts draw by chance is counted here as well.
"""

from collections.abc import Callable

from replication.coordination.port import Operation
from replication.core import effects as fx
from replication.core.values import TierMode
from tests.simulation.cluster import Cluster
from tests.simulation.disk import ROOM
from tests.simulation.hunt import Hunt, Quarry
from tests.simulation.kinds import HARMING, KINDS, OF_THE_BUCKET
from tests.simulation.machine import Machine
from tests.simulation.phases import AT_START, phase_at, phase_of
from tests.simulation.process import Process

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
    fx.PutRun,
    fx.PackSegment,
    fx.DeleteRuns,
    fx.PutMarker,
    fx.CountTier,
    fx.FetchRun,
)
AT_REWRITING = 0.5
"""How likely something strikes while a segment is written anew."""
REWRITING_STEPS = 9
"""Operations of the disk from the first one of a new form until a little after it has its name."""


class Faults:
    """Strikes one cluster. weights: by kind; a kind without one never strikes."""

    def __init__(
        self,
        cluster: Cluster,
        weights: dict[str, float],
        pause_ms: float,
        ambush: float,
        quarry: Quarry | None = None,
        *,
        lured: bool = False,
    ) -> None:
        """quarry: a kind that strikes wherever the cluster comes into a phase that time alone seldom hits. lured: the
        cluster is led there.
        """
        self.cluster = cluster
        self._hunt = Hunt(cluster, quarry, self.strike, lured=lured) if quarry is not None else None
        self.weights = weights
        self.pause_ms = pause_ms
        self.ambush = ambush
        self.struck: dict[tuple[str, str], int] = {}
        self.active = True
        self._verbs = 0
        cluster.service.struck = cluster.bucket.struck = self._by_chance
        cluster.net.lagged = lambda: self._by_chance("a segment lags", None)
        cluster.checks.after_step = self._ambush
        cluster.checks.while_rewriting = self._while_rewriting
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
        if kind in OF_THE_BUCKET and cluster.shape.tier is TierMode.OFF:
            return False
        if kind in HARMING and not cluster.may_lose(machine):
            return False
        if not KINDS[kind](self, machine):
            return False
        cluster.world.say("!!", f"{kind.replace('_', ' ')} {machine.name} while {phase}")
        self._count(kind, phase)
        return True

    def _count(self, kind: str, phase: str) -> None:
        self.struck[kind, phase] = self.struck.get((kind, phase), 0) + 1

    def _by_chance(self, kind: str, node: int | None) -> None:
        """A fault that another part drew by itself. node: whose request it struck."""
        phase = phase_of(self.cluster) if node is None else phase_at(self.cluster, node, kind)
        self._count(kind, phase)
        if self._hunt is not None:
            self._hunt.struck(kind, phase)

    def _ambush(self, process: Process, effects: list[fx.Effect]) -> None:
        if not self.active:
            return
        if self._hunt is not None:
            self._hunt.look(process, effects)
        if not self.ambush or not effects:
            return
        chance = self.cluster.chance
        for effect in effects:
            if isinstance(effect, AMBUSHED) and chance.random() < self.ambush:
                machines = list(self.cluster.machines.values())
                target = self.cluster.machines[process.number] if chance.random() < 0.6 else chance.choice(machines)
                delay = 0 if chance.random() < 0.5 else chance.randrange(1, 3000)
                self.cluster.world.after(delay, None, self._strike, target)

    def _while_rewriting(self, process: Process) -> None:
        """A thread is about to write a segment anew: something strikes in the middle of it, or before the new form has
        its name, or just after.
        """
        chance, machine = self.cluster.chance, self.cluster.machines[process.number]
        if not self.active or not self.weights or chance.random() > AT_REWRITING:
            return
        drawn = chance.random()
        if drawn < 0.5:
            power = chance.random() < 0.5
            process.die_in = (chance.randrange(REWRITING_STEPS), power)
            self._count("power cut while rewriting" if power else "kill while rewriting", phase_of(self.cluster))
        elif drawn < 0.6:
            process.fail_next_sync = True
            self._count("failed sync while rewriting", phase_of(self.cluster))
        elif drawn < 0.7:
            process.fail_next_rename = True
            self._count("failed rename while rewriting", phase_of(self.cluster))
        elif drawn < 0.8:
            machine.medium.room = min(machine.medium.room, chance.randrange(80_000))
            self.undo(200, 4000, lambda: setattr(machine.medium, "room", ROOM))
            self._count("full disk while rewriting", phase_of(self.cluster))
        else:
            self.cluster.world.after(chance.randrange(1, 2000), None, self._strike, machine)

    def _crash_starting(self, machine: Machine) -> tuple[int, bool] | None:
        chance = self.cluster.chance
        if not self.active or not self.weights or chance.random() > 0.05:
            return None
        self._count(*AT_START)
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
        cluster.service.up, cluster.service.slow_us = True, 0
        cluster.service.cut_off.clear()
        cluster.service.lines_changed()
        cluster.bucket.heal()
        for machine in cluster.machines.values():
            machine.medium.room = ROOM
            process = machine.process
            if process is not None and not process.loop.dead:
                process.resume()
                process.hung_until_us = 0
                process.disk.slow_us = 0
                process.die_in = None
                process.fail_next_sync = process.fail_next_rename = False
                process.disk.lose_next_write = process.disk.misdirect_next_write = False
        cluster.world.say("!!", "everything heals")

    def verb(self, machine: Machine) -> bool:
        self._verbs += 1
        arguments = {"to": machine.name} if self.cluster.chance.random() < 0.7 else {}
        self.cluster.service.request(Operation("switchover", f"op-{self._verbs}", arguments))
        return True
