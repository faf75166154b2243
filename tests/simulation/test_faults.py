"""Every fault that the simulator knows, one at a time, on leader and follower, in a cluster that is at work."""

import pytest

from replication.core.values import TierMode
from tests.simulation.cluster import Shape
from tests.simulation.kinds import BEYOND, KINDS, OF_THE_BUCKET
from tests.simulation.stage import Stage

NEEDS_SNAPSHOT = "roll_back"


@pytest.mark.parametrize("victim", ["leader", "follower"])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("mend", *BEYOND)])
def test_one_fault(kind: str, victim: str) -> None:
    """Struck twice while senders are at work; then the cluster heals, and everything promised is there."""
    tier = TierMode.SYNCHRONOUS if kind in OF_THE_BUCKET else TierMode.OFF
    with Stage(3, seed=7, operator=True, shape=Shape(nodes=3, strict=kind == NEEDS_SNAPSHOT, tier=tier)) as stage:
        stage.workload.begin()
        stage.until(lambda: stage.cluster.checks.acknowledgements >= 5)
        machine = stage.leader if victim == "leader" else stage.followers[0]
        if kind == NEEDS_SNAPSHOT:
            stage.strike("snapshot", machine)
            stage.run(400)
        stage.run(1000)
        stage.strike(kind, machine)
        stage.run(3000)
        stage.reckon()
        assert stage.cluster.checks.acknowledgements > 10


@pytest.mark.parametrize("operations", range(1, 25, 3))
def test_a_crash_at_every_disk_operation_of_a_start(operations: int) -> None:
    """The power fails while a node recovers, again and again a little later."""
    with Stage(2, operator=True) as stage:
        for number in range(6):
            stage.stored(stage.leader, f"1.{number}")
        follower = stage.followers[0]
        stage.cluster.crash_starting = lambda machine: (operations, True)
        stage.strike("power_in_write", follower)
        stage.run(4000)
        stage.reckon()


@pytest.mark.parametrize("power", [False, True])
@pytest.mark.parametrize("operation", range(0, 16, 3))
def test_a_crash_at_every_disk_operation_of_the_leader(operation: int, power: bool) -> None:
    """A write is cut short in the middle, wherever it was."""
    with Stage(3, operator=True) as stage:
        stage.stored(stage.leader, "1.1")
        leader = stage.leader
        assert leader.process is not None
        leader.process.die_in = (operation, power)
        stage.workload.begin()
        stage.workload.stopped = False
        stage.run(5000)
        stage.reckon()
