"""A repair that is cut short: what was damaged is known to be damaged until the medium itself has it again."""

from random import Random

import pytest

from replication.api import InstanceUnavailable
from storage.errors import StorageError
from tests.simulation.machine import Machine
from tests.simulation.stage import Stage, process_of
from tests.simulation.test_rescue import nobody_leads
from tests.simulation.test_scrub import flip, payload_of
from tests.simulation.tier_stage import bring_back, lose
from tests.simulation.world import PowerCut, Violation

UID = "1.2"


class NothingStays(Random):
    """Of a power cut: no unsynced write reached the medium."""

    def random(self) -> float:
        return 0.25


def staged() -> Stage:
    stage = Stage(2)
    for number in range(12):
        stage.stored(stage.leader, f"1.{number}", size=9000)
    return stage


def read(stage: Stage, machine: Machine) -> bool:
    process, served = process_of(machine), list[bool]()

    async def ask() -> None:
        try:
            found = await process.replicator.lookups.read(UID)
            served.append(b"".join(found.parts()).endswith(stage.workload.versions[UID][0]))
        except (InstanceUnavailable, StorageError):
            served.append(False)

    process.loop.create_task(ask())
    stage.until(lambda: served or process.loop.dead)
    return bool(served) and served[0]


def cut_short(machine: Machine, *, kill: bool) -> None:
    """The next repair is written, and its sync does not come about: the process dies there, or it fails."""
    process = process_of(machine)
    before, written = process.disk.before, list[str]()

    def strike(operation: str, name: str) -> None:
        before(operation, name)
        if operation == "write" and name.startswith("log/") and process.log.damaged():
            written.append(name)
        if operation == "sync" and name in written:
            process.disk.before = before
            if kill:
                process.kill()
                raise PowerCut
            raise OSError(5, "Input/output error")

    process.disk.before = strike


def known_or_there(stage: Stage, machine: Machine) -> bool:
    """What a node must hold to: it has the record on its medium, or knows that it is damaged."""
    return bool(process_of(machine).log.damaged()) or machine.medium.holds(stage.workload.versions[UID][0])


def test_a_repair_that_was_killed_before_its_sync_is_no_repair_yet() -> None:
    with staged() as stage:
        (machine,) = stage.followers
        flip(stage, machine, *payload_of(stage, machine, UID))
        cut_short(machine, kill=True)
        machine.stops = "until it is brought back"
        read(stage, machine)
        stage.until(lambda: process_of(machine).loop.dead)
        stage.run(1)
        bring_back(stage, machine)
        stage.run(200)
        assert known_or_there(stage, machine)
        lose(stage, machine)
        stage.run(1)
        machine.lose_power(NothingStays())
        bring_back(stage, machine)
        stage.until(stage.cluster.leader)
        assert known_or_there(stage, machine), "it may lead, and count as a copy"


def test_a_read_from_memory_does_not_make_up_for_a_repair_whose_sync_failed() -> None:
    """12. The kernel marks such pages as clean, and shows them until it forgets them."""
    with staged() as stage:
        (machine,) = stage.followers
        flip(stage, machine, *payload_of(stage, machine, UID))
        process = process_of(machine)
        untouched = process.disk.before
        cut_short(machine, kill=False)
        read(stage, machine)
        stage.until(lambda: process.disk.before == untouched)
        assert process.log.damaged()
        assert read(stage, machine)
        assert known_or_there(stage, machine)


def test_a_disk_with_a_repair_that_was_cut_short_is_not_the_only_copy() -> None:
    """What follows: the one other disk is lost later, and with it an instance that was acknowledged."""
    with staged() as stage:
        (machine,) = stage.followers
        (other,) = (one for one in stage.cluster.machines.values() if one is not machine)
        flip(stage, machine, *payload_of(stage, machine, UID))
        untouched = process_of(machine).disk.before
        cut_short(machine, kill=False)
        process = process_of(machine)
        read(stage, machine)
        stage.until(lambda: process.disk.before == untouched)
        read(stage, machine)
        lose(stage, machine)
        stage.run(1)
        machine.medium.evict()
        bring_back(stage, machine)
        stage.until(lambda: process_of(machine).core.leader is not None and stage.takes(machine))
        stage.run(10_000)  # a node that knows of damage has mended it by then
        lose(stage, other, disk=True)
        stage.until(lambda: stage.cluster.leader() is machine)
        assert read(stage, machine), "acknowledged, and nobody has it"


def test_who_comes_is_asked_at_once_for_what_is_damaged() -> None:
    """A leader that waits for a repair resigns after five seconds: whoever comes meanwhile is not to come in vain."""
    with staged() as stage:
        leader = stage.leader
        (other,) = stage.followers
        lose(stage, other)
        flip(stage, leader, *payload_of(stage, leader, UID))
        read(stage, leader)
        stage.until(lambda: process_of(leader).log.damaged())
        stage.run(500)
        bring_back(stage, other)
        stage.until(lambda: not process_of(leader).log.damaged(), within_ms=2500)


def alone_with_a_rotten_record(stage: Stage) -> tuple[Machine, Machine]:
    """The leader has one record that nobody else ever saw, and no memory of it; it rots once its process has begun.
    Returns the leader and the other, who is away.
    """
    leader = stage.leader
    (other,) = stage.followers
    stage.stored(leader, "1.1", size=9000)
    lose(stage, other)
    before = leader.durable.sequence
    stage.offer(leader, UID, size=9000)
    stage.until(lambda: leader.durable.sequence > before)
    stage.strike("kill", leader)
    bring_back(stage, leader)
    flip(stage, leader, *payload_of(stage, leader, UID))
    return leader, other


def test_a_leader_that_cannot_feed_its_own_newest_record_lets_another_lead() -> None:
    """33. The other has everything that was committed, and would never be fed what nobody has any more."""
    with Stage(2) as stage:
        leader, other = alone_with_a_rotten_record(stage)
        stage.until(lambda: stage.cluster.leader() is leader)
        bring_back(stage, other)
        stage.until(lambda: stage.cluster.leader() is other)
        stage.stored(other, "1.3")
        stage.until(lambda: stage.in_sync(leader) and not process_of(leader).log.damaged())
        stage.reckon()


def test_a_leader_that_nobody_can_follow_does_not_bar_the_operators_verb() -> None:
    """33, with a coordination service that was rebuilt from the longest log: nobody else is in the set."""
    with Stage(2, operator=True) as stage:
        leader, other = alone_with_a_rotten_record(stage)
        stage.strike("lose_history", leader)
        bring_back(stage, other)
        nobody_leads(stage)
        stage.reckon()
        rescuer = stage.cluster.rescuer
        assert (rescuer.rebuilt, rescuer.failed_over, rescuer.forgotten) == (1, 1, 0)


def test_where_damage_alone_keeps_everybody_from_leading_no_committed_record_is_given_up() -> None:
    """Both members damaged the same record, and a third, which is in no set, lacks it: the operator's verb may make it
    lead, and what it lacks was acknowledged. That is a broken promise, whatever the plan says.
    """
    with Stage(3) as stage:
        third = stage.followers[0]
        stage.stored(stage.leader, "1.1", size=9000)
        lose(stage, third)
        stage.until(lambda: not stage.in_sync(third))
        stage.stored(stage.leader, UID, size=9000)
        members = [machine for machine in stage.cluster.machines.values() if machine is not third]
        for machine in members:
            stage.strike("kill", machine)
        for machine in members:
            flip(stage, machine, *payload_of(stage, machine, UID))
        with pytest.raises(Violation, match="given up"):
            stage.reckon()


def test_nodes_that_are_damaged_at_different_places_mend_each_other_before_anybody_leads() -> None:
    """Neither may lead before it is whole, so a repair that waited for a leader would wait for ever."""
    with Stage(2) as stage:
        for uid in ("1.1", UID, "1.3"):
            stage.stored(stage.leader, uid, size=9000)
        one, other = stage.leader, stage.followers[0]
        stage.part(one, other)
        for machine, uid in ((one, "1.1"), (other, UID)):
            flip(stage, machine, *payload_of(stage, machine, uid))
            log = process_of(machine).log
            damaged = [sequence for sequence in range(1, log.end.sequence + 1) if log.judge(sequence)]
            assert len(damaged) == 1 and not log.intact
        for machine in (one, other):
            lose(stage, machine)
        stage.cluster.net.heal()
        for machine in (one, other):
            bring_back(stage, machine)
        stage.until(lambda: stage.cluster.leader() is not None)
        assert not any(process_of(machine).log.damaged() for machine in (one, other))
