"""The traps of protocol section 15 that need a tier, each as a scenario. The checks of the simulator are the judge.

Each fails without a guard of tests/simulation/guards_tier.py or guards_replication.py: docs/proof.md says which.
"""

import asyncio

from replication.core.values import TierFloor
from replication.tier.keys import LOG
from tests.simulation.machine import Machine
from tests.simulation.stage import Stage, process_of
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


def test_a_member_that_was_rolled_back_as_the_tier_entered_leads_through_it() -> None:
    """35. It holds the floor, and nothing was counted yet: only the claim says what may be committed besides."""
    with staged() as stage:
        first, (second,) = stage.leader, stage.followers
        stage.cluster.bucket.cut_off.add(first.number)
        stage.stored(first, "1.0")
        stage.run(2000)
        stage.strike("snapshot", second)
        stage.stored(first, "1.1")
        lose(stage, first, disk=True)  # before the second is told that it was committed
        stage.until(lambda: tier_counts(stage))
        stage.strike("roll_back", second)
        stage.until(lambda: stage.cluster.leader() is second)
        stage.until(lambda: committed(stage) > 3)
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
    """The follower is back and has confirmed, and the bucket has everything; but which set holds nobody knows yet."""
    with staged() as stage:
        leader, (follower,) = stage.leader, stage.followers
        stage.cluster.service.weights.lost = 1.0
        lose(stage, follower)
        waiting = [stage.offer(leader, f"1.{number}") for number in range(5)]
        stage.until(lambda: stage.cluster.bucket.holds(leader.durable.chain))
        bring_back(stage, follower)
        stage.until(lambda: follower.durable == leader.durable)
        stage.run(1000)
        assert not any(instance.done for instance in waiting)
        stage.cluster.service.weights.lost = 0.0
        stage.until(lambda: all(instance.done for instance in waiting))
        stage.reckon()


def test_trap_3_a_count_without_an_answer_is_not_taken_as_applied() -> None:
    """It never was: what rests on it is put, but the next leader would not miss it."""
    with staged() as stage:
        follower = alone_with_tier(stage)
        leader = stage.leader
        stage.stored(leader, "1.1")
        stage.cluster.service.weights.lost = 1.0
        waiting = stage.offer(leader, "1.2")
        stage.until(lambda: stage.cluster.bucket.holds(leader.durable.chain))
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
        following = process_of(leader).core.following
        stage.until(lambda: stage.cluster.leader() is follower or following.stream is not None)
        assert stage.cluster.leader() is follower, "it spoke before its log was rebuilt"
        stage.until(lambda: following.stream is not None)
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
        bring_back(stage, follower)
        found_late(stage, follower)
        stage.reckon()


def found_late(stage: Stage, successor: Machine) -> None:
    """A takeover during which the newest object of the log is not listed for a while."""
    objects = stage.cluster.bucket.objects
    newest = max(key for key in objects if key.startswith(LOG))
    hidden = objects.pop(newest)
    stage.until(lambda: rebuilds(successor) or stage.cluster.leader() is successor)
    stage.run(500)
    objects[newest] = hidden
    stage.until(lambda: stage.cluster.leader() is successor)


def epoch_of(stage: Stage) -> int:
    state = stage.cluster.state
    assert state is not None
    return state.epoch


def test_trap_11_an_orphan_does_not_stand_for_records_with_the_same_numbers() -> None:
    """The successor's first record never reached the bucket; a zombie's late put has its number."""
    with staged() as stage:
        follower = alone_with_tier(stage)
        zombie, bucket = stage.leader, stage.cluster.bucket
        stage.stored(zombie, "1.1")
        bucket.holding.add(zombie.number)
        stage.offer(zombie, "1.2")
        stage.until(lambda: bool(bucket.held))
        orphans = dict(bucket.held)
        lose(stage, zombie)
        bucket.holding.add(follower.number)
        bring_back(stage, follower)
        stage.until(lambda: len(bucket.held) > len(orphans))
        lose(stage, follower)
        bucket.held = orphans
        bucket.let_through()
        bring_back(stage, follower)
        stage.until(lambda: stage.cluster.leader() is follower)
        stage.stored(follower, "1.3")
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
    """The leader counts once more after its successor has read how far it counted, and the object is listed late."""
    with staged() as stage:
        follower = alone_with_tier(stage)
        leader = stage.leader
        stage.stored(leader, "1.1")
        stage.part(leader, follower)
        bring_back(stage, follower)
        epoch, old = epoch_of(stage), stage.cluster.service.now.tier_floor
        client = process_of(follower).client
        fresh = client.tier_floor

        async def as_before() -> TierFloor | None:
            """As old as it may be, while the server that it asks has seen no write of its own; and then slow."""
            if epoch_of(stage) == epoch:
                return old
            await asyncio.sleep(1)
            return await fresh()

        setattr(client, "tier_floor", as_before)  # noqa: B010
        stage.stored(leader, "1.2")
        lose(stage, leader, disk=True)
        found_late(stage, follower)
        stage.reckon()
