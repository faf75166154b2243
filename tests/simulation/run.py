"""One seed: a cluster of a shape, a load and faults drawn from it, then healing, then the final reckoning."""

import gc
import logging
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from random import Random

from replication.core.situation import ConflictPolicy
from replication.core.values import TierMode
from tests.simulation.cluster import Cluster, Shape
from tests.simulation.faults import Faults
from tests.simulation.kinds import KINDS, OF_THE_BUCKET
from tests.simulation.phases import PHASES
from tests.simulation.reckoning import Reckoning
from tests.simulation.workload import Load, Workload
from tests.simulation.world import Violation, World

RARE = {"old_backup": 0.04, "lose_history": 0.02, "site_power": 0.3}
"""Chance that a seed knows such a fault at all; 0.5 for the others."""
ONCE = ("old_backup", "lose_history")
"""Strike once per run at most."""
OF_THE_TIER = ("rebuilding from the tier", "filling the tier")
SELDOM = {
    "truncating or installing": 12,
    "rebuilding from the tier": 6,
    "taking the lead": 4,
    "filling the tier": 3,
    "promising": 2,
    "handing over": 2,
    "leader recovering": 2,
}
"""How much more often than the others a phase is hunted for."""
LEADS_TO = {
    "truncating or installing": ("wipe", "depose", "power_in_write", "isolate"),
    "rebuilding from the tier": ("isolate", "wipe", "site_power"),
    "filling the tier": ("isolate", "kill"),
    "taking the lead": ("kill", "expire"),
    "promising": ("kill", "expire"),
    "leader recovering": ("kill", "depose"),
    "handing over": ("switchover", "stop"),
}
"""Faults that bring a cluster into a phase."""


@dataclass
class Result:
    """What one run was like. trace_hash: equal for equal seeds."""

    seed: int
    trace_hash: int = 0
    steps: int = 0
    simulated_ms: int = 0
    elections: int = 0
    acknowledgements: int = 0
    reads: int = 0
    truncations: int = 0
    segments: int = 0
    takeovers: int = 0
    packed: int = 0
    replaced: int = 0
    deletes: int = 0
    struck: dict[tuple[str, str], int] = field(default_factory=dict[tuple[str, str], int])
    violation: str = ""


@dataclass(frozen=True)
class Plan:
    """Everything that is drawn from a seed before the clock starts."""

    shape: Shape
    load: Load
    weights: dict[str, float]
    pause_ms: float
    ambush: float
    faulty_ms: int
    quarry: tuple[str, str] | None

    @classmethod
    def of(cls, seed: int) -> "Plan":
        """Draw the weights themselves, so that one seed is all partitions and another all power cuts."""
        chance = Random(f"plan {seed}")
        weights = {kind: chance.expovariate(1) for kind in KINDS if chance.random() < RARE.get(kind, 0.5)}
        for kind in RARE.keys() & weights.keys():
            weights[kind] *= 0.1
        if "roll_back" in weights:
            weights["snapshot"] = weights["roll_back"]
        dangerous = {"roll_back", "lost_write", "misdirected_write", "flip_bit", "rot"} & weights.keys()
        nodes = chance.choice((2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3, 4, 4, 5))
        shape = Shape(
            nodes=nodes,
            session_ms=chance.choice((1000, 2000, 2000, 4000)),
            stall_ms=chance.choice((400, 1000, 2000)),
            copies_required=3 if nodes > 2 and chance.random() < 0.1 else 2,
            policy=chance.choice(list(ConflictPolicy)),
            strict=bool(dangerous),
            tier=chance.choice((TierMode.OFF, TierMode.OFF, TierMode.STANDBY, TierMode.STANDBY, TierMode.SYNCHRONOUS)),
        )
        load = Load(
            senders=chance.choice((1, 1, 2, 3)),
            pause_ms=chance.choice((40, 100, 250)),
            bulk=chance.choice((1, 1, 1, 6)),
        )
        plan = cls(
            shape=shape,
            load=load,
            weights=weights,
            pause_ms=chance.choice((15, 25, 40, 60, 120, 400)),
            ambush=chance.choice((0.0, 0.0, 0.01, 0.05)),
            faulty_ms=chance.choice((1500, 2500, 4000, 8000, 16_000)),
            quarry=_quarry(chance, weights, shape.tier),
        )
        if plan.quarry is not None:
            # What is hunted shows itself only where not too much else goes wrong, and only if something leads to it.
            for kind in LEADS_TO.get(plan.quarry[1], ()):
                weights.setdefault(kind, 1.0)
            calmer = max(plan.pause_ms, chance.choice((120.0, 250.0, 400.0)))
            plan = replace(plan, pause_ms=calmer, faulty_ms=16_000)
        return plan.deleting(chance.choice((0.0, 0.05, 0.15, 0.4)))

    def deleting(self, share: float) -> "Plan":
        return replace(self, load=replace(self.load, delete=share))


def _quarry(chance: Random, weights: dict[str, float], tier: TierMode) -> tuple[str, str] | None:
    """One seed in three hunts for a pair of kind and phase, the ones that chance seldom brings together most often."""
    if chance.random() > 1 / 3:
        return None
    kinds = [kind for kind in KINDS if tier is not TierMode.OFF or kind not in OF_THE_BUCKET]
    kind = chance.choices(kinds, [6 if kind in ONCE else 1 for kind in kinds])[0]
    phases = [phase for phase in PHASES if tier is not TierMode.OFF or phase not in OF_THE_TIER]
    phase = chance.choices(phases, [SELDOM.get(phase, 1) for phase in phases])[0]
    if kind in ONCE:
        weights.pop(kind, None)
    if kind == "roll_back":
        weights.setdefault("snapshot", 1.0)
    return kind, phase


def run(seed: int, *, trace: Callable[[str], None] | None = None) -> Result:
    """Simulate one seed from beginning to end; never raises Violation."""
    logging.disable(logging.CRITICAL)
    collecting = gc.isenabled()
    gc.disable()  # what is collected when must not matter
    world = World(seed)
    world.trace = trace
    plan = Plan.of(seed)
    cluster = Cluster(world, plan.shape)
    workload = Workload(cluster, plan.load)
    faults = Faults(cluster, plan.weights, plan.pause_ms, plan.ambush, plan.quarry)
    result = Result(seed)
    try:
        _play(plan, cluster, workload, faults)
    except Violation as violation:
        result.violation = str(violation)
        world.say("!!", f"VIOLATION: {violation}")
    except Exception as error:  # noqa: BLE001 - whatever nobody caught is a finding as well
        result.violation = f"an exception nobody caught: {error!r}"
        world.say("!!", "".join(traceback.format_exception(error)))
    finally:
        cluster.bury()
        if collecting:
            gc.enable()
        logging.disable(logging.NOTSET)
    checks = cluster.checks
    result.trace_hash, result.steps, result.simulated_ms = world.digest, world.steps, world.now_us // 1000
    result.elections, result.acknowledgements = checks.elections, checks.acknowledgements
    result.reads, result.truncations, result.segments = workload.reads, checks.truncations, checks.segments
    result.packed, result.replaced = cluster.bucket.packed, cluster.bucket.deleted
    result.takeovers, result.deletes = checks.takeovers, checks.deletes
    result.struck = faults.struck
    return result


def _play(plan: Plan, cluster: Cluster, workload: Workload, faults: Faults) -> None:
    world = cluster.world
    world.say(
        "!!", f"{plan.shape}, {plan.load}, a fault each {plan.pause_ms} ms, ambush {plan.ambush}, quarry {plan.quarry}"
    )
    _draw_background(cluster, plan)
    cluster.start_all()
    cluster.tour()
    workload.begin()
    faults.begin()
    cluster.run_ms(plan.faulty_ms)
    faults.heal()
    Reckoning(cluster, workload).reckon()


def _draw_background(cluster: Cluster, plan: Plan) -> None:
    """Faults that strike by chance per request or segment, rather than one by one."""
    chance = Random(f"background {cluster.world.seed}")
    weights = cluster.service.weights
    for name in ("lost", "unanswered", "late", "stale", "late_watch"):
        if chance.random() < 0.3:
            setattr(weights, name, chance.random() * 0.25)
    bucket = cluster.bucket.weights
    for name in ("unanswered", "late", "refused", "stale"):
        if chance.random() < 0.3:
            setattr(bucket, name, chance.random() * 0.25)
    if chance.random() < 0.3:
        cluster.net.lag_probability = chance.random() * 0.1


def run_and_collect(seed: int) -> Result:
    """For a pool of processes, which do not import what runs as `__main__`."""
    result = run(seed)
    if seed % 10 == 0:
        gc.collect()
    return result
