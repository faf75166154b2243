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
from tests.simulation.kinds import KINDS
from tests.simulation.reckoning import Reckoning
from tests.simulation.workload import Load, Workload
from tests.simulation.world import Violation, World

RARE = {"old_backup": 0.04, "lose_history": 0.02, "site_power": 0.3}
"""Chance that a seed knows such a fault at all; 0.5 for the others."""


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
        return cls(
            shape=shape,
            load=load,
            weights=weights,
            pause_ms=chance.choice((15, 25, 40, 60, 120, 400)),
            ambush=chance.choice((0.0, 0.0, 0.01, 0.05)),
            faulty_ms=chance.choice((1500, 2500, 4000, 8000, 16_000)),
        ).deleting(chance.choice((0.0, 0.05, 0.15, 0.4)))

    def deleting(self, share: float) -> "Plan":
        return replace(self, load=replace(self.load, delete=share))


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
    faults = Faults(cluster, plan.weights, plan.pause_ms, plan.ambush)
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
    result.takeovers, result.deletes = checks.takeovers, checks.deletes
    result.struck = faults.struck
    return result


def _play(plan: Plan, cluster: Cluster, workload: Workload, faults: Faults) -> None:
    world = cluster.world
    world.say("!!", f"{plan.shape}, {plan.load}, a fault each {plan.pause_ms} ms, ambush {plan.ambush}")
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
