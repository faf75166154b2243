"""The traps of protocol section 15 that need a tier, each as a scenario. The checks of the simulator are the judge.

Each fails without the guard that tests/simulation/guards_tier.py names for it.
"""

from tests.simulation.stage import process_of
from tests.simulation.tier_stage import (
    alone_with_tier,
    bring_back,
    committed,
    lose,
    rebuilds,
    staged,
    tier_counts,
)


def test_trap_1_the_tier_is_filled_before_it_is_claimed() -> None:
    """What the last leader acknowledged lies above what its successor was told, and is not in the bucket yet."""
    with staged() as stage:
        first, (second,) = stage.leader, stage.followers
        stage.cluster.bucket.cut_off.add(first.number)
        for number in range(5):
            stage.stored(first, f"1.{number}")
        lose(stage, first)
        stage.cluster.bucket.slow_us = 300_000
        stage.until(lambda: stage.cluster.leader() is second)
        stage.until(lambda: tier_counts(stage))
        stage.reckon()


def test_trap_1_the_end_of_the_fill_does_not_run_away() -> None:
    """Senders go on while a slow bucket is filled: it holds everything up to the end of the log when it is claimed."""
    with staged() as stage:
        leader, (follower,) = stage.leader, stage.followers
        stage.cluster.bucket.slow_us = 200_000
        lose(stage, follower)
        for number in range(200):
            if tier_counts(stage):
                break
            if stage.takes(leader):
                stage.offer(leader, f"1.{number}")
            stage.run(20)
        assert tier_counts(stage)
        stage.reckon()


def test_trap_2_the_tier_does_not_count_while_the_change_that_adds_it_is_unresolved() -> None:
    with staged() as stage:
        leader, (follower,) = stage.leader, stage.followers
        stage.cluster.service.weights.lost = 1.0
        lose(stage, follower)
        waiting = [stage.offer(leader, f"1.{number}") for number in range(5)]
        stage.until(lambda: bool(stage.cluster.bucket.holds(leader.durable.chain)))
        stage.run(3000)
        assert not any(instance.done for instance in waiting)
        lose(stage, leader)
        stage.reckon()


def test_trap_3_a_count_without_an_answer_is_not_taken_as_applied() -> None:
    """It never was: what rests on it is put, but the next leader would not miss it."""
    with staged() as stage:
        follower = alone_with_tier(stage)
        leader = stage.leader
        stage.stored(leader, "1.1")
        stage.cluster.service.weights.lost = 1.0
        waiting = stage.offer(leader, "1.2")
        stage.until(lambda: bool(stage.cluster.bucket.holds(leader.durable.chain)))
        stage.run(1000)
        assert not waiting.done
        stage.cluster.service.weights.lost = 0.0
        lose(stage, leader, disk=True)
        bring_back(stage, follower)
        stage.until(lambda: stage.cluster.leader() is follower)
        stage.reckon()


def test_trap_4_a_leader_that_rebuilds_speaks_to_no_member() -> None:
    """The old leader, stopped for a while, holds more than its successor, which is still asking the bucket."""
    with staged() as stage:
        follower = alone_with_tier(stage)
        leader = stage.leader
        for number in range(5):
            stage.stored(leader, f"1.{number}")
        process_of(leader).pause()
        stage.cluster.bucket.slow_us = 700_000
        bring_back(stage, follower)
        stage.until(lambda: rebuilds(follower))
        process_of(leader).resume()
        stage.run(5000)
        stage.cluster.bucket.slow_us = 0
        stage.until(lambda: stage.cluster.leader() is follower)
        stage.reckon()


def test_trap_5_an_orphan_with_higher_numbers_does_not_outrank_a_newer_epoch() -> None:
    """A zombie's put comes late, on top of numbers that its successor has used otherwise; then that is lost."""
    with staged() as stage:
        follower = alone_with_tier(stage)
        zombie = stage.leader
        stage.stored(zombie, "1.1")
        stage.cluster.bucket.holding.add(zombie.number)
        for number in range(8):
            stage.offer(zombie, f"2.{number}")
        stage.until(lambda: bool(stage.cluster.bucket.held))
        lose(stage, zombie)
        bring_back(stage, follower)
        stage.until(lambda: stage.cluster.leader() is follower)
        stage.stored(follower, "3.1")
        stage.cluster.bucket.let_through()
        lose(stage, follower, disk=True)
        bring_back(stage, zombie)
        stage.until(lambda: stage.cluster.leader() is zombie)
        stage.reckon()


def test_trap_6_nothing_older_counts_before_this_epochs_own_record_is_in_the_bucket() -> None:
    """Two late puts: a record of epoch 1, which epoch 3 finds and builds on, and the EPOCH record of epoch 2, which
    outranks it as long as that of epoch 3 is not there.
    """
    with staged() as stage:
        other = alone_with_tier(stage)
        leader, bucket = stage.leader, stage.cluster.bucket
        stage.stored(leader, "1.1")
        bucket.holding.add(leader.number)
        stage.offer(leader, "1.2")
        stage.until(lambda: bool(bucket.held))
        older = dict(bucket.held)
        bucket.held.clear()
        lose(stage, leader)
        bucket.holding.add(other.number)
        bring_back(stage, other)
        stage.until(lambda: bool(bucket.held))
        newer = dict(bucket.held)
        lose(stage, other)
        for key, data in older.items():
            bucket.apply(key, data)
        before = committed(stage)
        bring_back(stage, leader)
        stage.until(lambda: stage.cluster.leader() is leader)
        stage.run(3000)
        assert committed(stage) == before
        bucket.held.clear()
        for key, data in newer.items():
            bucket.apply(key, data)
        lose(stage, leader, disk=True)
        bring_back(stage, other)
        stage.until(lambda: stage.cluster.leader() is other)
        stage.reckon()


def test_trap_7_a_takeover_by_an_old_listing_leads_nobody() -> None:
    with staged() as stage:
        follower = alone_with_tier(stage)
        leader = stage.leader
        for number in range(5):
            stage.stored(leader, f"1.{number}")
        lose(stage, leader, disk=True)
        shown = dict(stage.cluster.bucket.objects)
        newest = max(key for key in shown if key.startswith("log/"))
        hidden = stage.cluster.bucket.objects.pop(newest)
        bring_back(stage, follower)
        stage.until(lambda: rebuilds(follower) or stage.cluster.leader() is follower)
        stage.run(500)
        stage.cluster.bucket.objects[newest] = hidden
        stage.until(lambda: stage.cluster.leader() is follower)
        stage.reckon()


def test_trap_11_an_orphan_does_not_stand_for_records_with_the_same_numbers() -> None:
    """The successor's own records never reached the bucket; a zombie's late put has their numbers."""
    with staged() as stage:
        follower = alone_with_tier(stage)
        zombie, bucket = stage.leader, stage.cluster.bucket
        stage.stored(zombie, "1.1")
        bucket.holding.add(zombie.number)
        for number in range(8):
            stage.offer(zombie, f"2.{number}")
        stage.until(lambda: bool(bucket.held))
        orphans = dict(bucket.held)
        lose(stage, zombie)
        bring_back(stage, follower)
        stage.until(lambda: stage.cluster.leader() is follower)
        stage.until(lambda: stage.takes(follower))
        bucket.holding.add(follower.number)
        stage.offer(follower, "3.1")
        stage.until(lambda: len(bucket.held) > len(orphans))
        lose(stage, follower)
        bucket.held = orphans
        bucket.let_through()
        bring_back(stage, follower)
        stage.until(lambda: stage.cluster.leader() is follower)
        stage.stored(follower, "3.2")
        stage.reckon()


def test_trap_14_the_check_comes_after_the_put() -> None:
    with staged() as stage:
        alone_with_tier(stage)
        leader = stage.leader
        stage.stored(leader, "1.1")
        stage.cluster.bucket.slow_us = 300_000
        stage.stored(leader, "1.2")
        stage.reckon()


def test_trap_14_the_list_comes_after_the_election_and_after_the_last_count() -> None:
    """The leader counts once more after its successor looked, and the newest object is listed late."""
    with staged() as stage:
        follower = alone_with_tier(stage)
        leader = stage.leader
        stage.stored(leader, "1.1")
        bring_back(stage, follower)
        stage.part(leader, follower)
        stage.run(300)
        stage.stored(leader, "1.2")
        lose(stage, leader, disk=True)
        newest = max(key for key in stage.cluster.bucket.objects if key.startswith("log/"))
        hidden = stage.cluster.bucket.objects.pop(newest)
        stage.until(lambda: rebuilds(follower) or stage.cluster.leader() is follower)
        stage.run(500)
        stage.cluster.bucket.objects[newest] = hidden
        stage.until(lambda: stage.cluster.leader() is follower)
        stage.reckon()
