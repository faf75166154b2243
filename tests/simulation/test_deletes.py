"""Who may show what was deleted, and who may not: scenes with real drivers (ADR 0011)."""

from replication.api import CommitOutcome, NotPromised
from tests.simulation.deletes import Deed, Fate, tombstone_of
from tests.simulation.machine import Machine
from tests.simulation.stage import Stage, process_of
from tests.simulation.test_absence import asked
from tests.simulation.workload import Instance


class Deleting:
    """A delete under way at one node. outcome: of the last attempt."""

    def __init__(self, stage: Stage, machine: Machine, instance: Instance, request: str = "r1") -> None:
        self.outcome: CommitOutcome | None = None
        self.refused = ""
        self._deed = Deed(stage.world.now_us)
        stage.workload.fates.of(instance.uid, instance.dataset).deletes.append(self._deed)
        process = process_of(machine)

        async def delete() -> None:
            try:
                self.outcome = await process.replicator.deleting.commit(
                    tombstone_of(instance.uid, instance.dataset, request)
                )
            except NotPromised as error:
                self.refused = str(error)
                return
            self._deed.end_us, self._deed.done = stage.world.now_us, True
            stage.cluster.checks.history.acknowledged.clear()

        process.loop.create_task(delete())


def deleted(stage: Stage, machine: Machine, instance: Instance) -> None:
    deleting = Deleting(stage, machine, instance)
    stage.until(lambda: deleting.outcome or deleting.refused)
    assert deleting.outcome is CommitOutcome.STORED, deleting.refused


def end_of(machine: Machine) -> int:
    return process_of(machine).core.situation.ledger.end.sequence


def test_what_is_deleted_is_gone_at_every_node_and_comes_back_only_when_it_is_stored_again() -> None:
    with Stage(3) as stage:
        instance = stage.stored(stage.followers[0], "1.1")
        deleted(stage, stage.followers[1], instance)
        for machine in stage.cluster.machines.values():
            stage.until(lambda machine=machine: not asked(stage, machine, "1.1"))
        again = stage.cluster.checks.acknowledgements
        stage.workload.offer(instance, 0, then=False, machine=stage.followers[0])
        stage.until(lambda: stage.cluster.checks.acknowledgements > again)
        stage.reckon()
        assert asked(stage, stage.leader, "1.1")


def test_a_follower_asks_the_leader_about_what_a_tombstone_on_its_way_covers() -> None:
    """It has the tombstone and does not know whether it is committed; the leader cannot be asked: nobody can tell."""
    with Stage(3) as stage:
        leader, (one, other) = stage.leader, stage.followers
        instance = stage.stored(one, "1.1")
        stage.run(1500)
        process_of(other).hung_until_us = stage.world.now_us + 600_000
        Deleting(stage, leader, instance)
        stage.until(lambda: end_of(one) > instance_at(stage, instance))
        assert process_of(one).core.situation.told.sequence < end_of(one)
        stage.part(one, leader)
        assert not asked(stage, one, "1.1")
        stage.reckon()


def instance_at(stage: Stage, instance: Instance) -> int:
    digests = {content: digest for digest, content in stage.cluster.checks.history.content.items()}
    return stage.cluster.checks.history.committed_at[digests[instance.dataset]]


def test_nothing_is_served_before_the_index_has_come_by_the_last_tombstone() -> None:
    """It starts anew, alone, and is told of no commit: its floor lies below the tombstone that its log holds."""
    with Stage(3) as stage:
        one = stage.followers[0]
        instance = stage.stored(one, "1.1")
        stage.run(2500)
        assert process_of(one).core.situation.floor.sequence >= instance_at(stage, instance)
        deleted(stage, stage.leader, instance)
        stage.until(lambda: end_of(one) > instance_at(stage, instance))
        stage.cut_off(one)
        stage.strike("kill", one)
        stage.until(lambda: one.alive and process_of(one).replicator.recent.versions("1.1"))
        stage.run(500)
        assert process_of(one).core.situation.committed.sequence < end_of(one), "or the scene shows nothing"
        assert not asked(stage, one, "1.1")
        stage.reckon()


def test_what_the_leader_calls_deleted_is_not_asked_of_a_node_that_lags_behind() -> None:
    """It was cut off after the tombstone was numbered and before it came, and has the instance still."""
    with Stage(3) as stage:
        leader, (one, other) = stage.leader, stage.followers
        instance = stage.stored(one, "1.1")
        stage.run(1500)
        before = end_of(leader)
        deleting = Deleting(stage, leader, instance)
        stage.until(lambda: end_of(leader) > before)
        stage.part(leader, other)
        stage.cluster.service.cut_off.add(other.number)
        stage.cluster.service.lines_changed()
        stage.until(lambda: deleting.outcome is CommitOutcome.STORED)
        assert end_of(other) == before
        assert process_of(other).core.situation.link_to(process_of(one).core.situation.me.id) is not None
        assert not asked(stage, one, "1.1")
        stage.reckon()


def test_while_a_node_is_away_nothing_is_deleted() -> None:
    with Stage(3) as stage:
        leader, (one, other) = stage.leader, stage.followers
        instance = stage.stored(one, "1.1")
        stage.cut_off(other)
        stage.until(lambda: not stage.in_sync(other))
        deleting = Deleting(stage, leader, instance)
        stage.until(lambda: deleting.refused)
        assert deleting.refused == f"not in sync: {other.name}"
        assert asked(stage, one, "1.1")
        stage.reckon()


def test_nobody_is_owed_what_is_promised_in_the_moment_in_which_he_asks() -> None:
    fate = Fate(stores=[Deed(1, end_us=5, done=True)])
    assert not fate.owed(5)
    assert fate.owed(6)
    fate.deletes.append(Deed(7, end_us=9, done=True))
    assert not fate.gone(9)
    assert fate.gone(10)
