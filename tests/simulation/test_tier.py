"""The tier in the simulator: what hospitals buy, as scenarios. Traps are in test_tier_traps.py."""

from collections.abc import AsyncIterator

import pytest

from replication import tiering
from replication.core.values import TierMode
from replication.tier import streaming
from replication.tier.keys import LOG, Run, parse_run, run_name
from tests.simulation.machine import Machine
from tests.simulation.stage import Stage, process_of
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


def test_a_takeover_holds_little_of_a_bucket_that_is_faster_than_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing more is fetched before what came is on the disk; and objects come in ranges."""
    monkeypatch.setattr(tiering, "AHEAD_BYTES", 0)
    monkeypatch.setattr(streaming, "RANGE_BYTES", 3000)
    most = 0
    with staged() as stage:
        follower = alone_with_tier(stage)
        fill_segments(stage, 3, pause_ms=20)
        stage.until(lambda: packed(stage))
        lose(stage, stage.leader)
        bring_back(stage, follower)
        process_of(follower).disk.slow_us = 20_000
        process = process_of(follower)

        def leads() -> bool:
            nonlocal most
            ledger = process.core.situation.ledger
            if process.core.leadership is not None:
                most = max(most, ledger.end.sequence - ledger.durable.sequence)
            return stage.cluster.leader() is follower

        stage.until(leads)
        assert most == 1
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


# Packing


def sealed_keys(machine: Machine) -> list[str]:
    """The objects that the sealed segments of a node should be."""
    log = process_of(machine).log
    spans = [span for segment in log.segments()[:-1] if (span := log.sealed_at(segment.first)) is not None]
    ends = [(span.first, log.point_at(span.last)) for span in spans]
    return [run_name(first, end).key for first, end in ends if end is not None]


def packed(stage: Stage) -> bool:
    """Whether each sealed segment is one object, and nothing else holds its records."""
    wanted = sealed_keys(stage.leader)
    last = parse_run(wanted[-1]) if wanted else None
    there = [key for key in sorted(stage.cluster.bucket.objects) if (run := parse_run(key)) and last and run < last]
    return there == wanted[:-1] and bool(wanted) and wanted[-1] in stage.cluster.bucket.objects


def fill_segments(stage: Stage, count: int, pause_ms: int = 0) -> None:
    number = 0
    while len(sealed_keys(stage.leader)) < count:
        number += 1
        stage.stored(stage.leader, f"1.9.{count}.{number}", 5000)
        stage.run(pause_ms)


def test_each_sealed_segment_becomes_one_object_and_the_small_ones_go() -> None:
    with staged() as stage:
        fill_segments(stage, 4, pause_ms=20)
        stage.until(lambda: packed(stage))
        assert stage.cluster.bucket.deleted > 10
        stage.reckon()


def test_a_tier_that_was_away_gets_whole_segments() -> None:
    with staged() as stage:
        stage.cluster.bucket.up = False
        fill_segments(stage, 4)
        stage.cluster.bucket.up = True
        stage.until(lambda: packed(stage))
        assert stage.cluster.bucket.deleted <= 1
        stage.reckon()


def test_objects_are_replaced_after_a_takeover_has_listed_them() -> None:
    """A GET that fails after a LIST restarts the LIST."""
    with staged() as stage:
        follower = alone_with_tier(stage)
        first, bucket = stage.leader, stage.cluster.bucket
        for number in range(6):
            stage.stored(first, f"1.2.{number}")
        small = sorted(key for key in bucket.objects if key.startswith("log/"))
        epoch = max(run.epoch for key in small if (run := parse_run(key)))
        runs = [run for key in small if (run := parse_run(key)) and run.epoch == epoch][:-1]
        lose(stage, first)
        first.new_disk()
        first.stops = "on purpose"
        bring_back(stage, follower)
        client = process_of(follower).bucket
        listed = client.list

        async def replaced(prefix: str, after: str = "") -> AsyncIterator[str]:
            async for key in listed(prefix, after):
                yield key
            if prefix == LOG and runs:
                whole = Run(epoch, runs[0].first, runs[-1].last, runs[-1].chain_prefix)
                bucket.apply(whole.key, b"".join(bucket.objects[run.key] for run in runs))
                while runs:
                    bucket.remove(runs.pop().key)

        setattr(client, "list", replaced)  # noqa: B010 - a method is replaced on purpose
        stage.until(lambda: stage.cluster.leader() is follower)
        assert not runs
        assert bucket.deleted >= 5
        stage.stored(follower, "1.3")
        stage.reckon()
