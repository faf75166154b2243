"""The traps of protocol section 15 that need no tier, each as a scenario. The checks of the simulator are the judge."""

from replication.core.situation import ConflictPolicy
from tests.simulation.cluster import Shape
from tests.simulation.stage import Stage, process_of


def test_trap_3_a_write_of_the_state_without_an_answer_may_have_been_applied() -> None:
    """Every write of `state` is applied late and unanswered: acknowledgements count both sets meanwhile."""
    with Stage(3) as stage:
        leader, one = stage.leader, stage.followers[0]
        stage.cluster.service.weights.late = 1.0
        stage.cut(one)
        for number in range(20):
            stage.offer(leader, f"1.{number}")
            stage.run(100)
        stage.cluster.service.weights.late = 0.0
        stage.strike("kill", leader)
        stage.until(lambda: stage.cluster.leader() is not None)
        stage.reckon()


def test_trap_8_a_rolled_back_member_does_not_lead_while_another_holds_more() -> None:
    with Stage(2, shape=Shape(nodes=2, strict=True)) as stage:
        leader, follower = stage.leader, stage.followers[0]
        stage.stored(leader, "1.1")
        stage.cluster.snapshot(follower)
        for number in range(2, 9):
            stage.stored(leader, f"1.{number}")
        stage.strike("kill", leader)
        assert stage.cluster.roll_back(follower)
        stage.run(6000)
        stage.reckon()
        state = stage.cluster.state
        assert state is not None
        assert follower.member in state.in_sync


def test_trap_9_a_promise_that_was_rolled_back_confirms_nothing_to_a_zombie() -> None:
    """The old leader is paused, a new one is elected; the follower that made it so is rolled back to before that."""
    with Stage(3, shape=Shape(nodes=3, strict=True)) as stage:
        old, (one, other) = stage.leader, stage.followers
        stage.stored(old, "1.1")
        stage.cluster.snapshot(one)
        waiting = stage.offer(old, "1.2")
        process_of(old).pause()
        stage.until(lambda: stage.cluster.leader() not in (None, old))
        new = stage.leader
        victim = one if new is other else one
        if victim is not new:
            assert stage.cluster.roll_back(victim)
        stage.part(victim, new)
        process_of(old).resume()
        stage.run(4000)
        stage.reckon()
        assert waiting.tries == 1


def test_trap_10_confirmations_do_not_outlive_a_disk() -> None:
    with Stage(2, operator=True) as stage:
        leader, follower = stage.leader, stage.followers[0]
        for number in range(10):
            stage.stored(leader, f"1.{number}")
        stage.strike("wipe", follower)
        late = [stage.offer(leader, f"2.{number}") for number in range(5)]
        stage.until(lambda: all(instance.done for instance in late))
        stage.reckon()


def test_trap_12_a_conflict_is_not_refused_for_the_sake_of_what_was_never_committed() -> None:
    """The first version is numbered by a leader that is cut off; the second meets the next leader."""
    with Stage(3, shape=Shape(nodes=3, policy=ConflictPolicy.REFUSE)) as stage:
        old = stage.leader
        stage.cut_off(old)
        first = stage.offer(old, "1.1")
        second = stage.offer(old, "1.1")
        # The old one leads on, as far as it knows.
        others = [machine for machine in stage.cluster.machines.values() if machine is not old]
        stage.until(lambda: any(process_of(one).core.leadership for one in others), 40_000)
        assert not first.done
        assert not second.refused
        third = stage.stored(next(one for one in others if process_of(one).core.leadership), "1.1")
        stage.reckon()
        assert third.done


def test_trap_13_an_addition_counts_before_it_is_confirmed() -> None:
    """The write that adds a learner is applied and not answered; the learner's disk grows slow in that moment."""
    with Stage(3) as stage:
        leader, slow = stage.leader, stage.followers[0]
        stage.strike("kill", slow)
        stage.until(lambda: not stage.in_sync(slow))
        stage.cluster.service.weights.unanswered = 1.0
        stage.until(lambda: stage.in_sync(slow))
        process_of(slow).disk.slow_us = 30_000
        for number in range(30):
            stage.offer(leader, f"1.{number}")
            stage.run(2)
        process_of(slow).disk.slow_us = 0
        stage.reckon()


def test_trap_13_a_removal_counts_only_once_it_is_confirmed() -> None:
    """The write that removes a member is lost, so what is acknowledged meanwhile must be there as well."""
    with Stage(3) as stage:
        leader, (one, other) = stage.leader, stage.followers
        stage.cluster.service.weights.lost = 1.0
        stage.cut(one)
        for number in range(40):
            stage.offer(leader, f"1.{number}")
            stage.run(50)
        stage.strike("kill", leader)
        stage.strike("kill", other)
        stage.reckon()
