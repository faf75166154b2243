"""Goal: an operator's verbs choose the longest verified log, name what is lost, and refuse wherever nodes can go on.

Method: transcripts of what surveyed nodes say; no process, no ZooKeeper.
"""

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import pytest
from blake3 import blake3

from replication.core.coverage import whole_from
from replication.core.loss import after_a_loss
from replication.core.rebuild import MARGIN, rebuilt
from replication.core.rescue import Approval, Bucket, Plan, Refused, Standing, Surroundings
from replication.core.values import (
    TIER_MEMBER,
    AcceptedLoss,
    Change,
    ClusterState,
    Identity,
    Member,
    Phase,
    ReplicaId,
    Restored,
    TierClaim,
)
from replication.tier.keys import Run
from storage.position import GENESIS, EpochSpan, LogPoint, LogPosition

N1, N2, N3 = (Member(ReplicaId(name), f"disk-{name}") for name in ("n1", "n2", "n3"))
YES = Approval("anna@pacs", 1_700_000_000_000_000, "new")


def point(epoch: int, sequence: int) -> LogPoint:
    """One leader per epoch: the same position has the same chain everywhere."""
    return (
        LogPoint(LogPosition(epoch, sequence), blake3(f"{epoch}/{sequence}".encode()).digest()) if sequence else GENESIS
    )


def standing(member: Member, *spans: tuple[int, int, int], told: LogPoint = GENESIS, **other: Any) -> Standing:
    """A node whose log has these records: (epoch, first, last) each."""
    end = point(spans[-1][0], spans[-1][2]) if spans else GENESIS
    plain = Standing(
        member=member,
        end=end,
        told=told,
        floor=told,
        promise=end.epoch,
        counter=7,
        epochs=tuple(EpochSpan(*span) for span in spans),
    )
    return replace(plain, **other)


def state(*members: Member, counter: int = 7, epoch: int = 4, floor: LogPoint = GENESIS) -> ClusterState:
    tier = TierClaim(1, bytes(32)) if TIER_MEMBER in members else None
    return ClusterState(
        Change(counter, "old"),
        epoch,
        Identity(N1.id, N1.incarnation, "b"),
        Phase.ACTIVE,
        frozenset(members),
        tier,
        floor,
    )


AROUND = Surroundings(registered={m.id: m.incarnation for m in (N1, N2, N3)})


def lost(
    cluster: ClusterState, nodes: Sequence[Standing], without: Collection[str], around: Surroundings = AROUND
) -> Plan | Refused:
    return after_a_loss(cluster, around, nodes, without=without, approval=YES)


def planned(outcome: Plan | Refused) -> Plan:
    assert isinstance(outcome, Plan), outcome
    return outcome


def refused(outcome: Plan | Refused) -> str:
    assert isinstance(outcome, Refused), outcome
    return "; ".join(outcome.reasons)


# Nobody is eligible


def test_the_longest_survivor_goes_on_and_what_is_lost_is_named() -> None:
    short = standing(N3, (1, 1, 40), (3, 41, 60), told=point(1, 40))
    longer = standing(N2, (1, 1, 40), (4, 41, 80), told=point(4, 78), promise=6)
    plan = planned(lost(state(N1, floor=point(4, 90)), [short, longer], {"n1"}))
    assert plan.chosen == longer
    assert (plan.loss.first, plan.loss.last, plan.loss.records, plan.loss.unsure) == (81, 90, 10, True)
    new = plan.state
    assert (new.change.counter, new.epoch, new.in_sync) == (8, 7, frozenset({N2}))
    assert (new.floor, new.leader, new.phase, new.tier) == (point(4, 78), None, Phase.RECOVERING, None)
    accepted = new.accepted_loss
    assert accepted is not None
    assert (accepted.upto, accepted.known, accepted.by, accepted.at_us) == (
        longer.end.position,
        90,
        "anna@pacs",
        YES.at_us,
    )
    assert plan.left_out == (N1,)


def test_what_the_survivor_holds_is_not_called_lost() -> None:
    node = standing(N2, (4, 1, 80), told=point(4, 60))
    plan = planned(lost(state(N1, floor=point(4, 70)), [node, standing(N3)], {"n1"}))
    assert (plan.loss.records, plan.loss.unsure) == (0, True)
    assert plan.state.floor == point(4, 70)


def test_a_tail_of_its_own_is_not_taken_for_what_was_committed() -> None:
    # n2 has records 51 to 80 of epoch 3; what was committed from there on was of epoch 4, on the disk that is gone.
    node = standing(N2, (2, 1, 50), (3, 51, 80), told=point(2, 50))
    plan = planned(lost(state(N1, floor=point(4, 70)), [node, standing(N3)], {"n1"}))
    assert (plan.loss.first, plan.loss.last) == (51, 70)
    # The same where more was committed than the tail is long: nothing says that it is the same up to its end.
    plan = planned(lost(state(N1, floor=point(4, 90)), [node, standing(N3)], {"n1"}))
    assert (plan.loss.first, plan.loss.last) == (51, 90)


def test_a_dead_branch_in_the_bucket_is_not_taken_for_what_was_committed() -> None:
    node = standing(N2, (2, 1, 50), told=point(2, 50), tiered=True)
    outcome = after_a_loss(
        state(N1, floor=point(4, 90)),
        AROUND,
        [node, standing(N3)],
        bucket=Bucket(LogPosition(3, 80), 7, 4),
        without={"n1"},
        approval=YES,
    )
    assert (planned(outcome).loss.first, planned(outcome).loss.last) == (51, 90)


def test_the_higher_epoch_wins_over_the_longer_log() -> None:
    longer, later = standing(N2, (1, 1, 90)), standing(N3, (1, 1, 40), (2, 41, 42))
    assert planned(lost(state(N1), [longer, later], {"n1"})).chosen == later


def test_while_somebody_is_eligible_it_refuses_and_names_him() -> None:
    able = standing(N2, (4, 1, 80), told=point(4, 80))
    assert "n2 is in sync and holds everything: it leads by itself" in refused(
        lost(state(N1, N2, floor=point(4, 80)), [able, standing(N3)], {"n1"})
    )
    stuck = replace(able, fenced="the disk failed: EIO")
    assert "n2 is in sync and holds everything, but the disk failed: EIO: mend and restart it" in refused(
        lost(state(N1, N2), [stuck, standing(N3)], {"n1"})
    )
    assert planned(lost(state(N1, N2), [stuck, standing(N3, (4, 1, 9))], {"n1", "n2"})).chosen is not None


def test_somebody_who_leads_or_a_later_state_is_left_alone() -> None:
    node = standing(N2, (4, 1, 80))
    around = replace(AROUND, leader=Identity(N3.id, N3.incarnation, "b"))
    assert "n3 leads" in refused(lost(state(N1), [node], {"n1"}, around))
    assert "coordination rebuild" in refused(lost(state(N1, counter=6), [node], {"n1", "n3"}))


def test_everybody_answers_or_is_given_up_by_name() -> None:
    node = standing(N2, (4, 1, 80))
    said = refused(lost(state(N1), [node], {"n2", "n9"}))
    assert "n1 does not answer" in said
    assert "n3 does not answer" in said
    assert "n2 answers and is not lost" in said
    assert "--without n9: no such node is known" in said


def test_a_replaced_disk_is_seen_as_the_loss_that_it_is() -> None:
    new_disk = standing(Member(N1.id, "disk-new"))
    around = replace(AROUND, registered={**AROUND.registered, N1.id: "disk-new"})
    plan = planned(lost(state(N1), [new_disk, standing(N2, (4, 1, 80)), standing(N3)], (), around))
    assert plan.chosen is not None
    assert plan.chosen.member == N2
    assert plan.left_out == (N1,)


def test_the_tier_is_not_passed_over_unless_it_is_given_up() -> None:
    node = standing(N2, (4, 1, 60), told=point(4, 60), tiered=True)
    cluster, nodes = state(N1, TIER_MEMBER), [node, standing(N3)]
    assert "n2 takes over from it by itself" in refused(lost(cluster, nodes, {"n1"}))
    counted = replace(AROUND, tier_floor=point(4, 75))
    plan = planned(lost(cluster, nodes, {"n1", "tier"}, counted))
    assert (plan.loss.first, plan.loss.last, plan.state.in_sync, plan.state.tier) == (61, 75, frozenset({N2}), None)


def test_a_bucket_that_only_follows_is_asked_and_goes_on_where_it_holds_more() -> None:
    node = standing(N2, (4, 1, 60), told=point(4, 58), tiered=True)
    cluster, nodes = state(N1, floor=point(4, 70)), [node, standing(N3)]
    assert "the tier may hold what no survivor holds" in refused(lost(cluster, nodes, {"n1"}))

    def asked(bucket: Bucket) -> Plan | Refused:
        return after_a_loss(cluster, AROUND, nodes, bucket=bucket, without={"n1"}, approval=YES)

    assert "coordination rebuild" in refused(asked(Bucket(LogPosition(4, 65), 8, 4)))
    plan = planned(asked(Bucket(LogPosition(4, 65), 7, 9)))
    assert plan.chosen is None
    assert (plan.loss.first, plan.loss.last) == (66, 70)
    assert (plan.state.in_sync, plan.state.epoch) == (frozenset({TIER_MEMBER}), 10)
    assert plan.state.tier == TierClaim(59, point(4, 58).chain)
    accepted = plan.state.accepted_loss
    assert accepted is not None
    assert accepted.upto == LogPosition(4, 65)
    whole = planned(asked(Bucket(LogPosition(4, 80), 7, 4)))
    assert whole.loss.records == 0
    assert whole.state.tier == TierClaim(59, point(4, 58).chain, point(4, 70)), "it must be found there still"
    assert planned(asked(Bucket(LogPosition(4, 50), 7, 4))).chosen == node
    assert planned(asked(Bucket(LogPosition(4, 80), 7, 4, whole_from=59))).chosen is None
    lacking = planned(asked(Bucket(LogPosition(4, 80), 7, 4, whole_from=60)))
    assert (lacking.chosen, lacking.loss.first, lacking.loss.last) == (node, 61, 70)


def test_a_member_without_what_the_tier_was_counted_for_is_not_eligible() -> None:
    rolled_back = standing(N1, (4, 1, 60), told=point(4, 60))
    counted = replace(AROUND, tier_floor=point(4, 75))
    plan = planned(lost(state(N1, TIER_MEMBER), [rolled_back, standing(N2), standing(N3)], {"tier"}, counted))
    assert plan.chosen == rolled_back
    assert plan.loss.records == 15
    assert plan.left_out == ()


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        ({"intact": False}, "damaged or unsettled"),
        ({"floor": point(4, 90)}, "its disk was rolled back"),
        ({"fenced": "the disk failed"}, "the disk failed"),
    ],
)
def test_who_cannot_lead_is_not_chosen(broken: dict[str, Any], why: str) -> None:
    sick, sound = replace(standing(N2, (4, 1, 80)), **broken), standing(N3, (4, 1, 20))
    assert planned(lost(state(N1), [sick, sound], {"n1"})).chosen == sound
    assert why in refused(lost(state(N1), [sick], {"n1", "n3"}))


def test_who_knows_of_commits_that_the_chosen_lacks_would_freeze_it() -> None:
    sick = standing(N2, (4, 1, 80), told=point(4, 80), intact=False)
    said = refused(lost(state(N1), [sick, standing(N3, (4, 1, 20))], {"n1"}))
    assert "stop n2, keep its disk, and give it up with --without n2" in said


# The coordination service lost its history


def rebuild(
    cluster: ClusterState | None,
    nodes: Sequence[Standing],
    without: Collection[str] = (),
    *,
    bucket: Bucket | None = None,
    accept_loss: bool = False,
    around: Surroundings = AROUND,
) -> Plan | Refused:
    return rebuilt(cluster, around, nodes, bucket=bucket, without=without, accept_loss=accept_loss, approval=YES)


def three() -> list[Standing]:
    """All had read change 7, in which all were in sync; n2 has the longest log."""
    remembered = state(N1, N2, N3)
    return [
        standing(N1, (4, 1, 70), told=point(4, 70), remembered=remembered),
        standing(N2, (4, 1, 80), told=point(4, 75), remembered=remembered, promise=9),
        standing(N3, (4, 1, 75), told=point(4, 75), remembered=remembered),
    ]


@pytest.mark.parametrize("old", [None, state(N1, counter=3, epoch=2)])
def test_what_was_known_of_earlier_losses_and_restores_stays(old: ClusterState | None) -> None:
    earlier = AcceptedLoss(LogPosition(1, 5), 6, "bob@pacs", 3)
    remembered = replace(state(N1, N2, N3), accepted_loss=earlier, restored=Restored(point(1, 5), "bucket"))
    new = planned(rebuild(old, [replace(node, remembered=remembered) for node in three()])).state
    assert (new.accepted_loss, new.restored) == (earlier, remembered.restored)


@pytest.mark.parametrize("old", [None, state(N1, counter=3, epoch=2)])
def test_the_longest_log_goes_on_above_everything_that_anybody_remembers(old: ClusterState | None) -> None:
    plan = planned(rebuild(old, three()))
    assert plan.chosen is not None
    assert plan.chosen.member == N2
    assert (plan.loss.records, plan.loss.unsure, plan.left_out) == (0, False, ())
    assert (plan.state.change.counter, plan.state.epoch) == (8, 10)
    assert plan.state.in_sync == {N2}
    assert plan.state.floor == point(4, 75)
    assert plan.state.accepted_loss is None


def test_a_cluster_state_that_is_not_behind_is_left_alone() -> None:
    assert "nothing is lost" in refused(rebuild(state(N1, N2, N3), three()))
    assert "no node answers" in refused(rebuild(None, []))
    fresh = [standing(N1, counter=0)]
    assert "no node holds anything" in refused(rebuild(None, fresh, {"n2", "n3"}))
    around = replace(AROUND, leader=Identity(ReplicaId("n4"), "fresh", "b"))
    assert "n4 leads a cluster that knows nothing" in refused(rebuild(state(N1, counter=1), three(), around=around))


def test_a_node_that_is_only_remembered_must_answer_too() -> None:
    nobody = replace(AROUND, registered={})
    nodes = three()
    assert "n3 does not answer" in refused(rebuild(None, nodes[:2], around=nobody))
    plan = planned(rebuild(None, nodes[:2], {"n3"}, around=nobody))
    assert not plan.loss.unsure, "n3 alone was never enough: whatever was acknowledged, n1 or n2 has it"
    assert plan.left_out == (N3,)
    # It may have seen later changes and promised later epochs than those who answer.
    assert (plan.state.change.counter, plan.state.epoch) == (7 + MARGIN, 9 + MARGIN)


def test_so_many_given_up_that_they_may_have_been_a_set_of_their_own_are_a_loss_to_be_accepted() -> None:
    # It was in sync when it read the state last; the set may have gone on without it since.
    node = standing(N2, (4, 1, 60), told=point(4, 60), remembered=state(N1, N2, N3))
    assert "more may be lost" in refused(rebuild(None, [node], {"n1", "n3"}))
    assert planned(rebuild(None, [node], {"n1", "n3"}, accept_loss=True)).loss.unsure
    # With the tier one other replica was enough, and the tier is given up as well.
    two = [replace(one, tiered=True) for one in three()[:2]]
    assert "more may be lost" in refused(rebuild(None, two, {"n3", "tier"}))
    # A node that answers and cannot go on is none that goes on.
    nodes = three()
    assert "more may be lost" in refused(rebuild(None, [replace(nodes[0], intact=False), nodes[1]], {"n3"}))


def test_a_state_that_was_read_and_that_nobody_remembers_is_a_loss_to_be_accepted() -> None:
    """Who was in sync then may hold more, and does not run: its registration went with the cluster state."""
    alone = replace(AROUND, registered={N2.id: N2.incarnation})
    emptied = standing(N2, counter=4)
    assert "change 4 of the cluster state was read, and none is remembered" in refused(
        rebuild(None, [emptied], around=alone)
    )
    plan = planned(rebuild(None, [emptied], around=alone, accept_loss=True))
    assert plan.loss.unsure and plan.state.accepted_loss is not None
    late = [replace(node, counter=8) if node.member == N3 else node for node in three()]
    assert "change 8 of the cluster state was read, and change 7 is remembered" in refused(rebuild(None, late))


def test_without_anybody_who_was_in_sync_a_loss_must_be_accepted() -> None:
    outsider = standing(N2, (4, 1, 60), told=point(4, 60), remembered=state(N1, N3))
    assert "more may be lost" in refused(rebuild(None, [outsider], {"n1", "n3"}))
    plan = planned(rebuild(None, [outsider], {"n1", "n3"}, accept_loss=True))
    assert plan.loss.unsure
    assert plan.state.accepted_loss is not None


def test_a_known_loss_is_counted_from_the_mirrored_floors() -> None:
    nodes = three()[:1]
    around = replace(AROUND, floors=[point(4, 75)])
    assert "records 71 to 75" in refused(rebuild(None, nodes, {"n2", "n3"}, around=around))
    assert planned(rebuild(None, nodes, {"n2", "n3"}, around=around, accept_loss=True)).loss.records == 5


def test_a_tier_that_was_in_sync_is_asked_and_goes_on_where_it_holds_more() -> None:
    remembered = state(N1, TIER_MEMBER)
    node = standing(N2, (4, 1, 60), told=point(4, 58), remembered=remembered, tiered=True)
    assert "the tier may hold what no node holds" in refused(rebuild(None, [node], {"n1", "n3"}))
    standby = [replace(one, tiered=True) for one in three()]
    assert "the tier may hold what no node holds" in refused(rebuild(None, standby))
    assert planned(rebuild(None, standby, bucket=Bucket(LogPosition(4, 70), 20, 4))).state.change.counter == 21
    more = Bucket(LogPosition(4, 90), 11, 6)
    plan = planned(rebuild(None, [node], {"n1", "n3"}, bucket=more, accept_loss=True))
    assert plan.chosen is None
    assert plan.state.in_sync == {TIER_MEMBER}
    assert plan.state.tier == TierClaim(59, point(4, 58).chain, point(4, 58))
    assert plan.state.change.counter > 11
    assert plan.state.epoch > 6
    less = Bucket(LogPosition(4, 50), 11, 6)
    plan = planned(rebuild(None, [node], {"n1", "n3"}, bucket=less, accept_loss=True))
    assert plan.state.in_sync == {N2}


def test_what_the_newest_cluster_state_says_was_committed_counts() -> None:
    # n2 was outside of the set before anybody told it of record 60; who remembers that has a new disk.
    remembered = replace(state(N1, TIER_MEMBER, floor=point(4, 60)), tier=TierClaim(61, point(4, 60).chain))
    left = standing(N2, (4, 1, 60), told=point(4, 58), tiered=True)
    empty = standing(Member(N1.id, "new"), remembered=remembered)
    bucket = Bucket(LogPosition(4, 61), 7, 4, whole_from=61)
    plan = planned(rebuild(None, [left, empty, standing(N3)], bucket=bucket))
    assert (plan.chosen, plan.loss.records, plan.loss.unsure) == (None, 0, False)
    assert (plan.state.tier, plan.state.floor) == (TierClaim(61, point(4, 60).chain, point(4, 60)), point(4, 60))
    behind = standing(N2, (4, 1, 55), told=point(4, 55), tiered=True)
    assert "records 56 to 60 were committed" in refused(rebuild(None, [behind, empty, standing(N3)], bucket=bucket))


def test_a_bucket_that_reaches_further_and_does_not_join_is_a_loss_to_be_accepted() -> None:
    nodes = [replace(node, tiered=True) for node in three()]
    bucket = Bucket(LogPosition(4, 90), 7, 4, whole_from=85)
    why = refused(rebuild(None, nodes, bucket=bucket))
    assert "the bucket ends with record 90 of epoch 4, but is whole only from record 85 on" in why
    assert "so many are given up" not in why
    plan = planned(rebuild(None, nodes, bucket=bucket, accept_loss=True))
    assert plan.chosen == nodes[1]
    assert plan.loss.unsure
    assert any("does not go on" in note for note in plan.notes)
    assert not planned(rebuild(None, nodes, bucket=replace(bucket, tip=LogPosition(4, 80)))).loss.unsure


def test_an_answer_is_read_as_it_was_said() -> None:
    assert standing(N1, (1, 1, 5), (2, 6, 9)).holds(point(2, 9))
    assert not standing(N1, (1, 1, 5), (2, 6, 9)).holds(point(1, 6))
    assert not standing(N1, (1, 1, 5)).holds(point(1, 6))
    assert standing(N1).holds(GENESIS)
    other_branch = LogPoint(LogPosition(2, 9), bytes(32))
    assert not standing(N1, (1, 1, 5), (2, 6, 9)).holds(other_branch)


def test_what_the_bucket_holds_ends_at_the_first_gap_below_its_tip() -> None:
    def run(epoch: int, first: int, last: int) -> Run:
        return Run(epoch, first, last, bytes(8))

    assert whole_from([]) == 1
    assert whole_from([run(1, 1, 9), run(1, 10, 20), run(2, 21, 30)]) == 1
    assert whole_from([run(1, 1, 9), run(1, 11, 20), run(2, 21, 30)]) == 11
    assert whole_from([run(1, 1, 20), run(1, 5, 5), run(2, 21, 21), run(2, 21, 30)]) == 1
    assert whole_from([run(2, 15, 20), run(1, 1, 25), run(3, 21, 30)]) == 1, "a dead branch beside it"
    assert whole_from([run(2, 10, 15), run(1, 16, 20), run(3, 21, 30)]) == 16, "no older epoch lies above a newer one"
