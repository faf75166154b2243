"""One seed: a cluster of a shape, a load and faults drawn from it, then healing, then the final reckoning."""

import gc
import logging
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from tests.simulation.cluster import Cluster
from tests.simulation.faults import Faults
from tests.simulation.plan import Order, Plan
from tests.simulation.reckoning import Reckoning
from tests.simulation.workload import Workload
from tests.simulation.world import Violation, World

HEAD_START_MS = 20_000
"""At most: requests that are lost by chance hold a cluster up from its first moment on."""


@dataclass
class Result:
    """What one run was like. trace_hash: equal for equal seeds."""

    order: Order
    trace_hash: int = 0
    cpu_seconds: float = 0.0
    steps: int = 0
    simulated_ms: int = 0
    elections: int = 0
    acknowledgements: int = 0
    before_healing: int = 0
    """Of them, those that faults could still take back."""
    reads: int = 0
    truncations: int = 0
    segments: int = 0
    takeovers: int = 0
    packed: int = 0
    replaced: int = 0
    deletes: int = 0
    scrubs: int = 0
    mended: int = 0
    evicted: int = 0
    rewritten: int = 0
    stubs: int = 0
    relearned: int = 0
    brought_back: int = 0
    undone: int = 0
    ranges: int = 0
    rebuilt: int = 0
    failovers: int = 0
    forgotten: int = 0
    unsure: int = 0
    struck: dict[tuple[str, str], int] = field(default_factory=dict[tuple[str, str], int])
    violation: str = ""


def run(order: Order | int, *, trace: Callable[[str], None] | None = None) -> Result:
    """Simulate one seed from beginning to end; never raises Violation."""
    order = Order(order) if isinstance(order, int) else order
    begun = time.process_time()
    logging.disable(logging.CRITICAL)
    collecting = gc.isenabled()
    gc.disable()  # what is collected when must not matter
    world = World(order.seed)
    world.trace = trace
    plan = Plan.of(order)
    cluster = Cluster(world, plan.shape)
    workload = Workload(cluster, plan.load)
    faults = Faults(cluster, plan.weights, plan.pause_ms, plan.ambush, plan.quarry, lured=order.quarry is not None)
    result = Result(order)
    try:
        result.before_healing = _play(plan, cluster, workload, faults, head_start=order.head_start)
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
    result.evicted, result.ranges = checks.evictions, cluster.bucket.ranges
    result.scrubs, result.mended = checks.scrubs, checks.mended
    result.rewritten, result.stubs, result.undone = checks.rewritten, checks.stubs, checks.undone
    result.relearned, result.brought_back = checks.relearnings, checks.brought_back
    rescuer = cluster.rescuer
    result.rebuilt, result.failovers, result.forgotten = rescuer.rebuilt, rescuer.failed_over, rescuer.forgotten
    result.unsure = rescuer.unsure
    result.struck = faults.struck
    result.cpu_seconds = time.process_time() - begun
    return result


def _play(plan: Plan, cluster: Cluster, workload: Workload, faults: Faults, *, head_start: bool) -> int:
    """Returns how much was acknowledged before everything healed."""
    world = cluster.world
    world.say(
        "!!", f"{plan.shape}, {plan.load}, a fault each {plan.pause_ms} ms, ambush {plan.ambush}, quarry {plan.quarry}"
    )
    _draw_background(cluster, plan)
    cluster.start_all()
    cluster.tour()
    workload.begin()
    if head_start:
        faults.active = False
        cluster.run_ms(HEAD_START_MS, lambda: cluster.checks.acknowledgements > 0)
        faults.active = True
    faults.begin()
    cluster.run_ms(plan.faulty_ms)
    acknowledged = cluster.checks.acknowledgements
    faults.heal()
    Reckoning(cluster, workload).reckon()
    return acknowledged


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
    if chance.random() < 0.4:
        cluster.bucket.away_us = chance.randrange(8000, 30_000)


def run_and_collect(order: Order) -> Result:
    """For a pool of processes, which do not import what runs as `__main__`."""
    result = run(order)
    if order.seed % 10 == 0:
        gc.collect()
    return result
