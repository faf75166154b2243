"""Compaction on whole simulated clusters: what was deleted goes everywhere, also when its rewriting is cut short, and
nothing else does.
"""

from collections.abc import Iterable

import pytest

from replication.core.values import TierMode
from storage.buried import HOLD, RELEASE
from storage.errors import StorageFull
from tests.simulation.checks_compacting import leftovers
from tests.simulation.cluster import Shape
from tests.simulation.keeping import dataset_of, note
from tests.simulation.machine import Machine
from tests.simulation.stage import Stage, process_of
from tests.simulation.test_deletes import Deleting, deleted, end_of, instance_at
from tests.simulation.test_scrub import flip, payload_of
from tests.simulation.tier_stage import bring_back, lose
from tests.simulation.workload import Instance

NEVER_US = 3_600_000_000


def staged(nodes: int = 3, *, undo_us: int = 0, tier: TierMode = TierMode.OFF) -> Stage:
    return Stage(shape=Shape(nodes=nodes, undo_us=undo_us, tier=tier))


def filled(stage: Stage, segments: int = 3) -> list[Instance]:
    """Store until so many segments are sealed."""
    found: list[Instance] = []
    while len(process_of(stage.leader).log.segments()) <= segments:
        uid = f"7.{len(found)}"
        stage.until(lambda: stage.takes(stage.leader))
        instance = Instance(uid, dataset_of(uid, stage.world.random.randbytes(9000)))
        stage.workload.instances.append(instance)
        stage.workload.versions.setdefault(uid, []).append(instance.dataset)
        stage.workload.stopped = True
        stage.workload.offer(instance, 0, then=False, machine=stage.leader)
        stage.until(lambda instance=instance: instance.done)
        found.append(instance)
    return found


def stubs(stage: Stage, machine: Machine, instances: Iterable[Instance]) -> list[bool]:
    """Of which of them this node has no payload any more."""
    return [process_of(machine).log.is_stub(instance_at(stage, instance)) for instance in instances]


def compacted(stage: Stage) -> bool:
    """By everybody, everything that may go."""
    return stage.cluster.checks.rewritten > 0 and not leftovers(stage.cluster)


def said(stage: Stage, machine: Machine, what: str) -> None:
    """A note is written, and committed."""
    process, done = process_of(machine), [False]

    async def say() -> None:
        await note(process, what)
        done[0] = True

    process.loop.create_task(say())
    stage.until(lambda: done[0])


@pytest.mark.parametrize("tier", [TierMode.OFF, TierMode.STANDBY])
def test_what_was_deleted_goes_from_every_node_and_nothing_else_does(tier: TierMode) -> None:
    with staged(tier=tier) as stage:
        instances = filled(stage)
        gone = [instances[1], instances[2], instances[8]]
        for instance in gone:
            deleted(stage, stage.leader, instance)
        stage.until(lambda: compacted(stage), 60_000)
        for machine in stage.cluster.machines.values():
            assert all(stubs(stage, machine, gone)), machine.name
            assert sum(stubs(stage, machine, instances)) == 3
            assert not any(machine.medium.holds(instance.dataset) for instance in gone)
        stage.reckon()


@pytest.mark.parametrize("power", [False, True])
@pytest.mark.parametrize("operation", range(11))
def test_a_crash_at_every_disk_operation_of_a_rewriting(operation: int, power: bool) -> None:
    """From the first write of the new form to what comes after its rename."""
    with staged(2) as stage:
        instances = filled(stage, 2)
        victim, struck = process_of(stage.leader), list[str]()

        def strike(process: object) -> None:
            if process is victim and not struck:
                struck.append(victim.name)
                victim.die_in = (operation, power)

        stage.cluster.checks.while_rewriting = strike
        for instance in instances[1:4]:
            deleted(stage, stage.leader, instance)
        stage.until(lambda: struck)
        stage.until(stage.cluster.redundant)
        stage.reckon()
        assert all(all(stubs(stage, machine, instances[1:4])) for machine in stage.cluster.machines.values())


@pytest.mark.parametrize("fault", ["fail_next_sync", "fail_next_rename", "full"])
def test_an_error_of_the_disk_in_the_middle_of_a_rewriting(fault: str) -> None:
    with Stage(shape=Shape(nodes=2, undo_us=0), operator=True) as stage:
        instances = filled(stage, 2)
        victim, struck = process_of(stage.followers[0]), list[str]()

        def strike(process: object) -> None:
            if process is not victim or struck:
                return
            struck.append(victim.name)
            if fault == "full":
                victim.medium.room = 20_000
            else:
                setattr(victim, fault, True)

        stage.cluster.checks.while_rewriting = strike
        for instance in instances[1:4]:
            deleted(stage, stage.leader, instance)
        stage.until(lambda: struck)
        stage.run(1500)
        stage.reckon()
        assert all(all(stubs(stage, machine, instances[1:4])) for machine in stage.cluster.machines.values())


def test_nothing_goes_while_it_can_be_undone() -> None:
    with staged(2, undo_us=NEVER_US) as stage:
        instances = filled(stage, 2)
        deleted(stage, stage.leader, instances[1])
        stage.run(8000)
        assert stage.cluster.checks.reclaimed.permitted == 0 == stage.cluster.checks.rewritten
        stage.reckon()


def test_nothing_goes_while_a_node_that_lacks_the_tombstone_may_come_back() -> None:
    """It was cut off when the tombstone was on its way, and is registered still."""
    with staged() as stage:
        instances = filled(stage, 2)
        stage.run(1500)
        leader, away = stage.leader, stage.followers[1]
        before = end_of(leader)
        deleting = Deleting(stage, leader, instances[1])
        stage.until(lambda: end_of(leader) > before)
        lose(stage, away)
        stage.until(lambda: deleting.outcome is not None, 60_000)
        stage.run(8000)
        assert stage.cluster.checks.reclaimed.permitted == 0
        bring_back(stage, away)
        stage.until(lambda: compacted(stage), 60_000)
        stage.reckon()


def test_what_is_on_hold_stays_until_it_is_let_go() -> None:
    with staged(2, undo_us=2_000_000) as stage:
        instances = filled(stage, 2)
        deleted(stage, stage.leader, instances[1])
        said(stage, stage.followers[0], HOLD)
        stage.run(8000)
        assert stage.cluster.checks.reclaimed.permitted > 0 == stage.cluster.checks.rewritten
        said(stage, stage.leader, RELEASE)
        stage.until(lambda: compacted(stage), 60_000)
        stage.reckon()


def test_nothing_is_compacted_before_the_index_has_come_by_the_last_note() -> None:
    """A node starts alone: its floor lies above the note that permits, and below the one that holds."""
    with staged(2, undo_us=0) as stage:
        instances = filled(stage, 2)
        leader, follower = stage.leader, stage.followers[0]
        process = process_of(follower)

        def no_room(rewriting: object) -> None:
            if rewriting is process:
                raise StorageFull("on purpose")

        stage.cluster.checks.while_rewriting = no_room
        deleted(stage, leader, instances[1])
        stage.until(lambda: 0 < stage.cluster.checks.reclaimed.permitted < process.core.situation.floor.sequence)
        said(stage, leader, HOLD)
        stage.until(stage.cluster.redundant)
        held = stage.cluster.checks.reclaimed.held(process.log.durable.sequence)
        assert process.core.situation.floor.sequence < held, "or the scene shows nothing"
        stage.cut_off(follower)
        stage.strike("kill", follower)
        stage.until(lambda: follower.alive)
        stage.run(5000)
        assert not any(stubs(stage, follower, instances))
        stage.reckon()


def test_a_hold_that_comes_while_a_segment_is_written_anew_is_heeded() -> None:
    with staged(2) as stage:
        instances = filled(stage, 2)
        leader, process = process_of(stage.leader), process_of(stage.followers[0])
        begun: list[int] = []

        def hold(rewriting: object) -> None:
            if rewriting is not process or begun:
                return
            begun.append(stage.world.now_us)
            process.disk.cost_us += 300_000  # its thread takes so long
            stage.world.at(0, None, lambda: leader.loop.create_task(note(leader, HOLD)))

        stage.cluster.checks.while_rewriting = hold
        deleted(stage, stage.leader, instances[1])
        stage.until(lambda: begun)
        stage.run(3000)
        held = stage.cluster.checks.reclaimed.held(end_of(stage.leader))
        assert held and not any(stubs(stage, stage.followers[0], instances))
        assert not [name for name in process.medium.files if name.startswith("log/rewritten")]
        stage.reckon()


def test_nothing_is_rewritten_that_may_still_be_cut() -> None:
    """The note that permits, and the record behind a segment, are committed before the floor on the disk says so."""
    with staged(2) as stage:
        instances = filled(stage, 2)
        for number in range(4):
            deleted(stage, stage.leader, instances[-1])
            stage.run(2500)
            instances += filled(stage, number + 3)  # what held it is sealed now
        stage.until(lambda: compacted(stage), 60_000)
        stage.reckon()


def test_nothing_rests_on_a_tombstone_above_the_floor() -> None:
    """It is deleted and permitted to go just after the floor was written, a second before it is written again."""
    with staged(2) as stage:
        instances = filled(stage, 2)
        process = process_of(stage.leader)
        core, compactor = process.core.situation, process.compactor
        assert compactor is not None
        for instance in instances[1:4]:
            before = core.floor.sequence
            stage.stored(stage.leader, f"8.{instance.uid}")
            stage.until(lambda before=before: core.floor.sequence > before)
            deleted(stage, stage.leader, instance)
            process.loop.create_task(compactor.permit("a test"))
            stage.run(900)
        stage.until(lambda: compacted(stage), 60_000)
        stage.reckon()


def test_a_write_that_the_disk_drops_is_seen_before_the_old_form_goes() -> None:
    with staged(2) as stage:
        instances = filled(stage, 2)
        process, struck = process_of(stage.followers[0]), list[bool]()

        def strike(rewriting: object) -> None:
            if rewriting is process and not struck:
                struck.append(True)
                process.disk.lose_next_write = True

        stage.cluster.checks.while_rewriting = strike
        deleted(stage, stage.leader, instances[1])
        stage.until(lambda: compacted(stage), 60_000)
        assert struck and not process.disk.lose_next_write
        stage.reckon()


def test_nobody_is_asked_for_a_stub_whose_tombstone_may_still_come() -> None:
    with staged() as stage:
        instances = filled(stage)
        for instance in instances[1:6]:
            deleted(stage, stage.leader, instance)
        stage.until(lambda: compacted(stage), 60_000)
        new, waited = stage.followers[0], [0]
        lose(stage, new, disk=True)
        bring_back(stage, new)

        def whole() -> bool:
            process = process_of(new)
            waited[0] += bool(process.log.waiting)
            assert not getattr(process.replicator.mender, "_busy"), "it mends what is not damaged"  # noqa: B009 - as in phases
            return stage.cluster.redundant()

        stage.until(whole, 60_000)
        assert waited[0], "or the scene shows nothing"
        stage.reckon()


def test_damage_in_one_segment_keeps_no_other_from_being_compacted() -> None:
    """Nobody can be asked for the damaged record."""
    with staged(2) as stage:
        instances = filled(stage)
        follower, holding = stage.followers[0], [True]
        process = process_of(follower)

        def wait(rewriting: object) -> None:
            if rewriting is process and holding[0]:
                raise StorageFull("on purpose")

        stage.cluster.checks.while_rewriting = wait
        first, later = instances[1], instances[8]
        for instance in (first, later):
            deleted(stage, stage.leader, instance)
        permitted = stage.cluster.checks.reclaimed
        stage.until(lambda: len(permitted.gone) == 2 and process.core.situation.floor.sequence > permitted.permitted)
        stage.cut_off(follower)
        flip(stage, follower, *payload_of(stage, follower, instances[0].uid))
        holding[0] = False
        stage.until(lambda: stubs(stage, follower, [later]) == [True])
        assert process.log.damaged() == (instance_at(stage, instances[0]),)
        assert stubs(stage, follower, [first]) == [False], "what holds damage is mended first"
        stage.reckon()


def test_a_hold_is_let_go_only_by_what_is_committed() -> None:
    """A leader that is cut off numbers the release; whoever leads next has never heard of it."""
    with staged(3, undo_us=2_000_000) as stage:
        instances = filled(stage, 2)
        leader, heir = stage.leader, stage.followers[0]
        deleted(stage, leader, instances[1])
        said(stage, leader, HOLD)
        stage.until(lambda: stage.cluster.checks.reclaimed.permitted > 0)
        stage.run(2500)
        before = end_of(leader)
        stage.cut(leader)
        process_of(leader).loop.create_task(note(process_of(leader), RELEASE))
        stage.until(lambda: end_of(leader) > before)
        stage.run(1500)
        assert not any(stubs(stage, leader, instances))
        stage.cut_off(leader)
        stage.until(lambda: stage.cluster.leader() in (heir, *stage.followers))
        stage.reckon()


def test_a_new_disk_gets_stubs_and_believes_them_once_the_tombstone_is_there() -> None:
    with staged() as stage:
        instances = filled(stage)
        gone = instances[1:6]
        for instance in gone:
            deleted(stage, stage.leader, instance)
        stage.until(lambda: compacted(stage), 60_000)
        new = stage.followers[0]
        lose(stage, new, disk=True)
        bring_back(stage, new)
        stage.until(lambda: bool(process_of(new).log.waiting))
        assert set(process_of(new).log.waiting) <= set(process_of(new).log.damaged())
        stage.until(stage.cluster.redundant, 60_000)
        assert all(stubs(stage, new, gone)) and not process_of(new).log.damaged()
        stage.reckon()
