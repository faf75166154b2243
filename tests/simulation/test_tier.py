"""The tier in the simulator: what hospitals buy, as scenarios. Traps are in test_tier_traps.py."""

from replication.core.values import TierMode
from tests.simulation.stage import process_of
from tests.simulation.tier_stage import alone_with_tier, bring_back, lose, staged, tier_counts


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
        lose(stage, first, disk=True)
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
