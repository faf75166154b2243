"""The tier in the simulator: each trap of protocol section 15 that needs one, and what hospitals buy, as scenarios."""

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


def lose(stage: Stage, machine: Machine) -> None:
    """A machine dies and stays away."""
    process_of(machine).kill()
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


def test_a_follower_dies_and_the_tier_takes_its_place() -> None:
    with staged() as stage:
        stage.stored(stage.leader, "1.1")
        alone_with_tier(stage)
        stage.stored(stage.leader, "1.2")
        stage.reckon()


def test_leader_and_disk_are_lost_and_the_returning_follower_takes_over_from_the_bucket() -> None:
    with staged() as stage:
        stage.stored(stage.leader, "1.1")
        follower = alone_with_tier(stage)
        first = stage.leader
        for number in range(5):
            stage.stored(first, f"1.2.{number}")
        lose(stage, first)
        first.new_disk()
        first.stops = "on purpose"
        bring_back(stage, follower)
        stage.until(lambda: stage.cluster.leader() is follower)
        assert stage.cluster.checks.takeovers == 1
        stage.stored(follower, "1.3")
        stage.reckon()


def test_the_node_that_returns_takes_the_tiers_place_again() -> None:
    with staged() as stage:
        follower = alone_with_tier(stage)
        stage.stored(stage.leader, "1.1")
        bring_back(stage, follower)
        stage.until(lambda: stage.in_sync(follower) and not tier_counts(stage))
        stage.stored(follower, "1.2")
        stage.reckon()


def test_one_node_and_its_tier() -> None:
    with staged(1, TierMode.SYNCHRONOUS) as stage:
        stage.stored(stage.leader, "1.1")
        assert tier_counts(stage)
        stage.reckon()


def test_a_synchronous_tier_is_in_the_set_whenever_it_answers() -> None:
    with staged(2, TierMode.SYNCHRONOUS) as stage:
        stage.until(lambda: tier_counts(stage))
        stage.stored(stage.leader, "1.1")
        stage.cluster.bucket.up = False
        stage.until(lambda: not tier_counts(stage))
        stage.stored(stage.leader, "1.2")
        stage.cluster.bucket.up = True
        stage.until(lambda: tier_counts(stage))
        stage.reckon()


def test_without_peer_and_tier_stores_are_refused() -> None:
    with staged() as stage:
        stage.cluster.bucket.up = False
        (follower,) = stage.followers
        lose(stage, follower)
        stage.until(lambda: stage.workload.refused(process_of(stage.leader)))
        stage.reckon()


def test_the_bucket_follows_within_seconds() -> None:
    with staged() as stage:
        for number in range(5):
            stage.stored(stage.leader, f"1.1.{number}")
        chains = stage.cluster.checks.history.committed[1:]
        stage.until(lambda: all(stage.cluster.bucket.holds(chain) for chain in chains), 3000)
