"""The operator's verbs on whole simulated clusters: what is left goes on, and nothing is lost but what was named."""

import pytest

from perenne.rescue import Seen, plan_rebuild
from replication.coordination.surgery import Interfered
from replication.core.coverage import whole_from
from replication.core.rescue import Refused
from replication.standing import read
from replication.tier.keys import parse_run
from tests.simulation.machine import Machine
from tests.simulation.rescuer import answer
from tests.simulation.stage import Stage, process_of
from tests.simulation.tier_stage import alone_with_tier, bring_back, committed, lose, staged, tier_counts
from tests.simulation.tree import Hand, Tree


def nobody_leads(stage: Stage) -> None:
    stage.run(8000)
    assert stage.cluster.leader() is None, "it goes on by itself, and nobody needs the verb"


def epoch(stage: Stage) -> int:
    state = stage.cluster.state
    return state.epoch if state is not None else 0


def named(stage: Stage) -> Machine:
    """Who leads by the cluster state: one that is cut off may believe that it still does."""
    state = stage.cluster.state
    assert state is not None and state.leader is not None
    return stage.cluster.checks.by_name[state.leader.id]


@pytest.mark.parametrize("kind", ["old_backup", "lose_history"])
@pytest.mark.parametrize("nodes", [2, 3])
def test_a_coordination_service_that_lost_its_data_is_rebuilt_and_nothing_is_lost(kind: str, nodes: int) -> None:
    with Stage(nodes, operator=True) as stage:
        stage.strike("kill", stage.leader)
        stage.until(lambda: stage.cluster.leader() is not None and stage.cluster.redundant())
        for number in range(6):
            stage.stored(stage.leader, f"1.{number}")
        stage.strike(kind, stage.leader)
        nobody_leads(stage)
        stage.reckon()
        assert (stage.cluster.rescuer.rebuilt, stage.cluster.rescuer.forgotten) == (1, 0)


def test_who_names_a_lost_node_that_the_empty_service_never_heard_of_is_told_to_leave_it_out() -> None:
    """Seed 40037728 at 8e938ed: its disk does not open, so it never registered there."""
    with Stage(3, operator=True) as stage:
        stage.stored(stage.leader, "1.1")
        lost = stage.followers[0]
        lost.stops, lost.harm = "its disk does not open", "played"
        stage.strike("kill", lost)
        stage.strike("lose_history", stage.leader)
        nobody_leads(stage)
        stage.reckon()
        assert (stage.cluster.rescuer.rebuilt, stage.cluster.rescuer.unknown) == (1, {lost.name})


def test_a_plan_is_not_carried_out_when_somebody_wrote_after_it_was_made() -> None:
    """The person who reads the plan takes his time, and somebody is elected and gone again."""
    with Stage(2) as stage:
        service = stage.cluster.service
        hand = Hand(Tree(service, lambda: None))
        stage.strike("kill", stage.leader)
        stage.until(lambda: service.now.leader is None)
        found = hand.look()
        assert found.state is not None and found.cluster is not None
        stage.until(lambda: stage.cluster.leader() is not None)
        stage.strike("kill", stage.leader)
        stage.until(lambda: service.now.leader is None)
        before = service.now
        with pytest.raises(Interfered):
            hand.write(found, cluster=found.cluster, state=found.state.state, left_out=())
        assert service.now == before


def test_the_node_that_holds_most_goes_on() -> None:
    """One of the three is behind when the coordination service is lost."""
    with Stage(3, operator=True) as stage:
        stage.stored(stage.leader, "1.1")
        behind = stage.followers[0]
        lose(stage, behind)
        stage.until(lambda: not stage.in_sync(behind))
        stage.stored(stage.leader, "1.2")
        stage.cut(behind)
        bring_back(stage, behind)
        stage.run(500)
        stage.strike("lose_history", stage.leader)
        stage.cluster.net.heal()
        nobody_leads(stage)
        stage.reckon()
        assert (stage.cluster.rescuer.rebuilt, stage.cluster.rescuer.forgotten) == (1, 0)


def test_a_cluster_state_is_rebuilt_from_the_bucket_where_that_holds_more() -> None:
    """The leader is alone with the tier, and loses its disk; then the coordination service goes back to before that."""
    with staged() as stage:
        stage.cluster.tour()
        stage.stored(stage.leader, "1.1")
        before, leader = stage.cluster.service.now, stage.leader
        follower = alone_with_tier(stage)
        stage.stored(leader, "1.2")
        stage.until(lambda: stage.cluster.bucket.holds(stage.cluster.checks.history.committed[-1]))
        stage.cut(follower)
        bring_back(stage, follower)
        stage.run(1000)  # it has heard that the tier is in the set
        lose(stage, leader, disk=True)
        stage.cluster.checks.restored = True
        stage.cluster.service.restore(before)
        bring_back(stage, leader)
        nobody_leads(stage)
        stage.reckon()
        assert (stage.cluster.rescuer.rebuilt, stage.cluster.rescuer.forgotten) == (1, 0)
        assert stage.cluster.checks.takeovers


def test_a_bucket_goes_on_from_what_the_lost_cluster_state_says_was_committed() -> None:
    """docs/proof.md, 36: who is left holds the record before the tier's first, and was never told that it counts."""
    with staged() as stage:
        stage.cluster.tour()
        stage.stored(stage.leader, "1.1")
        leader, bucket = stage.leader, stage.cluster.bucket
        bucket.up = False
        for number in range(2, 80):
            stage.stored(leader, f"1.{number}")
        (follower,) = stage.followers
        told, last = process_of(follower).core.situation.told.sequence, committed(stage)
        lose(stage, follower)
        assert told < last, "the scenario would play without it"
        bucket.up = True
        stage.until(lambda: tier_counts(stage))
        stage.stored(leader, "2.1")
        runs = [run for key in bucket.objects if (run := parse_run(key)) is not None]
        assert whole_from(runs) == last + 1, "what the tier was not claimed with has come there already"
        lose(stage, leader, disk=True)
        bring_back(stage, leader)
        stage.run(1000)  # its new disk has heard that the tier is in the set
        stage.strike("lose_history", leader)
        bring_back(stage, follower)
        nobody_leads(stage)
        stage.reckon()
        assert (stage.cluster.rescuer.rebuilt, stage.cluster.rescuer.forgotten) == (1, 0)
        assert stage.cluster.checks.takeovers


def test_a_node_that_read_an_older_state_and_started_anew_tells_the_newest_all_the_same() -> None:
    with Stage(3) as stage:
        before, node = stage.cluster.service.now, stage.leader
        away = stage.followers[0]
        lose(stage, away)
        stage.until(lambda: not stage.in_sync(away))
        stage.run(1000)
        state = stage.cluster.state
        assert state is not None
        newest = state.change.counter
        stage.cluster.checks.restored = True
        stage.cluster.service.restore(before)
        stage.run(1500)
        lose(stage, node)
        bring_back(stage, node)
        stage.run(1500)
        _, standing = read(process_of(node).reported.facts())
        assert standing.remembered is not None
        assert standing.remembered.change.counter == newest


def test_a_node_that_read_who_was_in_sync_and_forgot_it_does_not_say_that_nothing_is_lost() -> None:
    """Seed 620350379135 at 6c3e9a1: the disk is new, and the coordination service lost everything within the half
    second after which the node writes down what it read. The other member, which holds everything, does not run.
    """
    with Stage(2) as stage:
        stage.stored(stage.leader, "1.1")
        emptied, (holder,) = stage.leader, stage.followers
        lose(stage, holder)
        lose(stage, emptied, disk=True)
        bring_back(stage, emptied)
        stage.until(lambda: emptied.counter > 0)
        stage.strike("lose_history", emptied)
        stage.run(1500)
        hand = Hand(Tree(stage.cluster.service, lambda: None))
        answers = [answer(process_of(emptied))]
        assert answers[0].standing is not None and answers[0].standing.remembered is None
        plan = plan_rebuild(Seen(found=hand.look(), answers=answers), (), None, accept_loss=False)
        assert isinstance(plan, Refused) and "none is remembered" in plan.reasons[0]


def test_a_set_that_lost_its_disks_is_given_up_and_what_was_named_is_lost() -> None:
    with Stage(3, operator=True) as stage:
        stage.stored(stage.leader, "1.1")
        survivor = stage.followers[0]
        lose(stage, survivor)
        stage.until(lambda: not stage.in_sync(survivor))
        for number in range(2, 6):
            stage.stored(stage.leader, f"1.{number}")
        stage.cut(survivor)
        bring_back(stage, survivor)
        stage.run(500)
        stage.strike("lose_the_set", stage.leader)
        stage.cluster.net.heal()
        nobody_leads(stage)
        stage.reckon()
        assert stage.cluster.rescuer.failed_over == 1
        assert stage.cluster.rescuer.forgotten >= 4


def test_a_tail_of_an_older_epoch_is_not_taken_for_what_was_committed_later() -> None:
    """The survivor led once, and wrote what nobody confirmed: other records were committed in those places."""
    with Stage(3, operator=True) as stage:
        stage.stored(stage.leader, "1.1")
        survivor = stage.leader
        stage.cut_off(survivor)
        before = committed(stage)
        for number in range(5):
            stage.offer(survivor, f"2.{number}")
        stage.until(lambda: epoch(stage) == 2 and not stage.in_sync(survivor), 60_000)
        for number in range(9):
            stage.stored(named(stage), f"3.{number}")
        assert survivor.durable.sequence > before + 2
        assert committed(stage) > survivor.durable.sequence
        other = next(m for m in stage.cluster.machines.values() if m not in (survivor, named(stage)))
        stage.strike("switchover", other)  # a hand-over writes into the state what is known to be committed
        stage.until(lambda: epoch(stage) == 3 and stage.cluster.service.operations["switchover"].result is not None)
        stage.strike("lose_the_set", survivor)
        stage.cluster.service.cut_off.clear()
        stage.cluster.service.lines_changed()
        stage.cluster.net.heal()
        nobody_leads(stage)
        stage.reckon()
        assert stage.cluster.rescuer.failed_over == 1
