"""Compaction on whole simulated clusters in which nodes evict: what was deleted goes from the bucket as well, and
nobody loses what he reads there.
"""

import pytest

from replication.core.values import TierMode
from storage.buried import HOLD, RELEASE
from tests.simulation.checks_compacting import leftovers
from tests.simulation.checks_relearning import left_in_bucket, missing, read_by
from tests.simulation.cluster import Shape
from tests.simulation.machine import Machine
from tests.simulation.stage import Stage, process_of
from tests.simulation.test_compaction import filled, said
from tests.simulation.test_deletes import deleted
from tests.simulation.test_eviction import evicted, reads
from tests.simulation.tier_stage import bring_back, lose
from tests.simulation.workload import Instance


def staged(*evicting: int, nodes: int = 2, undo_us: int = 0) -> Stage:
    shape = Shape(nodes=nodes, tier=TierMode.STANDBY, evicting=frozenset(evicting), undo_us=undo_us)
    return Stage(shape=shape)


def lean_of(stage: Stage, number: int = 1) -> Machine:
    return stage.cluster.machines[number]


def in_bucket(stage: Stage, instances: list[Instance]) -> list[bool]:
    return [stage.cluster.bucket.holds_dataset(instance.dataset) for instance in instances]


def left_anywhere(stage: Stage) -> list[str]:
    return leftovers(stage.cluster) + left_in_bucket(stage.cluster)


def until_gone(stage: Stage, instances: list[Instance]) -> None:
    """From every node and from the bucket."""
    left = ["not looked at"]
    for _ in range(240):
        stage.run(250)
        if not any(in_bucket(stage, instances)) and not (left := left_anywhere(stage)):
            return
    raise AssertionError(f"{in_bucket(stage, instances)} in the bucket; {left}: {told(stage)}")


def leads(stage: Stage, *wanted: Machine) -> None:
    """One of these leads."""
    while (former := stage.leader) not in wanted:
        lose(stage, former)
        stage.until(lambda: stage.cluster.leader() not in (None, former), 60_000)
        bring_back(stage, former)
        stage.until(stage.cluster.redundant, 60_000)
        stage.run(2000)  # until the leader has heard of it


def told(stage: Stage) -> str:
    """Why the bucket keeps what it has, by the leader's word."""
    leadership = process_of(stage.leader).core.leadership
    packing = leadership.tier.packing if leadership is not None else None
    return packing.outgrown_kept if packing is not None else ""


def scene(stage: Stage, lean: Machine) -> list[Instance]:
    """Somebody stored, and a node let go of the oldest segments."""
    instances = filled(stage)
    stage.until(lambda: len(evicted(lean)) >= 2)
    return instances


@pytest.mark.parametrize("leader_evicts", [False, True])
def test_what_was_deleted_goes_from_the_bucket_and_who_evicts_reads_the_rest(leader_evicts: bool) -> None:
    with staged(1) as stage:
        lean = lean_of(stage)
        instances = scene(stage, lean)
        leads(stage, *(machine for machine in stage.cluster.machines.values() if (machine is lean) == leader_evicts))
        doomed = [instances[1], instances[2]]
        for instance in doomed:
            deleted(stage, stage.leader, instance)
        until_gone(stage, doomed)
        checks = stage.cluster.checks
        assert (checks.relearnings > 0) == (not leader_evicts), "nobody else had put the new form"
        assert (checks.brought_back > 0) == leader_evicts
        stage.until(lambda: len(evicted(lean)) >= 2, 60_000)
        stage.cut(stage.followers[0])
        kept = [instance.uid for instance in instances if instance not in doomed]
        assert reads(stage, lean, kept) == len(kept)
        assert told(stage) == ""
        stage.reckon()


def test_while_a_node_that_evicted_is_away_the_old_object_stays_and_it_learns_when_it_is_back() -> None:
    with staged(1, nodes=3) as stage:
        lean = lean_of(stage)
        instances = scene(stage, lean)
        doomed = [instances[1]]
        leads(stage, *(machine for machine in stage.cluster.machines.values() if machine is not lean))
        deleted(stage, stage.leader, instances[1])
        permitted = stage.cluster.checks.reclaimed
        floor = process_of(lean).core.situation
        stage.until(lambda: 0 < permitted.permitted <= floor.floor.sequence)
        lose(stage, lean)
        stage.run(12_000)
        assert in_bucket(stage, doomed) == [True]
        assert lean.name in told(stage) or not told(stage)
        bring_back(stage, lean)
        until_gone(stage, doomed)
        stage.reckon()


def test_a_node_that_comes_back_after_the_old_object_went_learns_the_new_places() -> None:
    """It was on a disk that was restored: what it said is not true any more."""
    with staged(1, nodes=3) as stage:
        lean = lean_of(stage)
        instances = scene(stage, lean)
        leads(stage, *(machine for machine in stage.cluster.machines.values() if machine is not lean))
        doomed = [instances[1]]
        old = lean.medium.snapshot()
        deleted(stage, stage.leader, instances[1])
        until_gone(stage, doomed)
        before = dict(read_by(process_of(lean)))
        lose(stage, lean)
        names = [name for name in old.files if name == "log/000000000001.tar"]
        assert names, "its first segment was evicted"
        for name in names:  # the old table alone: everything else is as it was
            lean.medium.files[name] = old.files[name]
        bring_back(stage, lean)
        stage.until(lambda: lean.running is not None)
        assert missing(stage.cluster, process_of(lean)), "or the scene shows nothing"
        until_gone(stage, doomed)
        assert read_by(process_of(lean)) == before
        assert not process_of(lean).log.damaged()
        kept = [instance.uid for instance in instances if instance not in doomed]
        assert reads(stage, lean, kept) == len(kept)
        stage.reckon()


def test_a_hold_keeps_what_only_the_old_object_has() -> None:
    """It comes after everybody but the node that evicted has compacted."""
    with staged(1, undo_us=2_000_000) as stage:
        lean = lean_of(stage)
        instances = scene(stage, lean)
        deleted(stage, stage.leader, instances[1])
        said(stage, stage.followers[0], HOLD)
        stage.run(10_000)
        assert stage.cluster.checks.reclaimed.permitted > 0
        assert in_bucket(stage, [instances[1]]) == [True] and not stage.cluster.checks.relearnings
        said(stage, stage.leader, RELEASE)
        until_gone(stage, [instances[1]])
        stage.reckon()


def test_a_hold_that_comes_once_the_new_form_is_there_keeps_the_old_object_for_who_reads_it() -> None:
    """The leader has no payload any more; the node that evicted has it, in the bucket."""
    with staged(1) as stage:
        lean = lean_of(stage)
        instances = scene(stage, lean)
        leads(stage, *(machine for machine in stage.cluster.machines.values() if machine is not lean))
        bucket, doomed = stage.cluster.bucket, [instances[1]]
        bucket.cut_off.add(lean.number)
        deleted(stage, stage.leader, instances[1])
        stage.until(lambda: any("_000001-" in key for key in bucket.objects), 60_000)
        assert in_bucket(stage, doomed) == [True]
        said(stage, stage.leader, HOLD)
        bucket.cut_off.clear()
        stage.run(10_000)
        assert in_bucket(stage, doomed) == [True] and not stage.cluster.checks.relearnings
        assert lean.name in told(stage)
        said(stage, stage.leader, RELEASE)
        until_gone(stage, doomed)
        stage.reckon()


def test_a_table_that_the_disk_drops_is_seen_before_the_old_one_goes() -> None:
    with staged(1) as stage:
        lean = lean_of(stage)
        instances = scene(stage, lean)
        leads(stage, *(machine for machine in stage.cluster.machines.values() if machine is not lean))
        process, struck = process_of(lean), list[bool]()

        def strike(rewriting: object) -> None:
            if rewriting is process and not struck:
                struck.append(True)
                process.disk.lose_next_write = True

        stage.cluster.checks.while_rewriting = strike
        deleted(stage, stage.leader, instances[1])
        until_gone(stage, [instances[1]])
        assert struck and not process.disk.lose_next_write
        stage.reckon()


@pytest.mark.parametrize("power", [False, True])
@pytest.mark.parametrize("operation", range(5))
def test_a_crash_at_every_disk_operation_while_new_places_are_learned(operation: int, power: bool) -> None:
    with staged(1) as stage:
        lean = lean_of(stage)
        instances = scene(stage, lean)
        leads(stage, *(machine for machine in stage.cluster.machines.values() if machine is not lean))
        victim, struck = process_of(lean), list[str]()

        def strike(process: object) -> None:
            if process is victim and not struck:
                struck.append(victim.name)
                victim.die_in = (operation, power)

        stage.cluster.checks.while_rewriting = strike
        deleted(stage, stage.leader, instances[1])
        stage.until(lambda: struck, 60_000)
        until_gone(stage, [instances[1]])
        stage.reckon()


def test_an_evicting_leader_brings_back_what_it_compacts_and_another_node_learns_it_from_the_bucket() -> None:
    with staged(1, 2, nodes=3) as stage:
        instances = filled(stage)
        lean = [lean_of(stage, 1), lean_of(stage, 2)]
        stage.until(lambda: all(len(evicted(machine)) >= 2 for machine in lean))
        leads(stage, *lean)
        doomed = [instances[1], instances[4]]
        for instance in doomed:
            deleted(stage, stage.leader, instance)
        until_gone(stage, doomed)
        assert stage.cluster.checks.relearnings and stage.cluster.checks.brought_back
        stage.reckon()
