"""What scenarios with a tier are made of."""

from replication.core.values import TIER_MEMBER, TierMode
from tests.simulation.cluster import Shape
from tests.simulation.machine import Machine
from tests.simulation.stage import Stage, process_of


def staged(nodes: int = 2, mode: TierMode = TierMode.STANDBY) -> Stage:
    return Stage(shape=Shape(nodes=nodes, tier=mode))


def tier_counts(stage: Stage) -> bool:
    """Whether the in-sync set names the tier."""
    state = stage.cluster.state
    return state is not None and TIER_MEMBER in state.in_sync


def lose(stage: Stage, machine: Machine, *, disk: bool = False) -> None:
    """A machine dies and stays away. disk: it is gone as well."""
    process_of(machine).kill()
    if disk:
        machine.new_disk()
    machine.stops = "on purpose"


def bring_back(stage: Stage, machine: Machine) -> None:
    machine.stops = ""
    stage.cluster.start(machine)


def alone_with_tier(stage: Stage) -> Machine:
    """The follower dies, and the leader goes on with the tier. Returns the follower."""
    (follower,) = stage.followers
    lose(stage, follower)
    stage.until(lambda: tier_counts(stage))
    return follower


def rebuilds(machine: Machine) -> bool:
    """Whether a machine has won through the tier, and was told what the bucket lists."""
    process = machine.running
    leadership = process.core.leadership if process is not None else None
    takeover = leadership.recovery.takeover if leadership is not None else None
    return takeover is not None and takeover.stage.value not in ("reading", "listing")


def committed(stage: Stage) -> int:
    """The last record that is committed, as the simulator knows it."""
    return stage.cluster.checks.history.committed_point.sequence
