"""The tier as a member: filled, claimed, marked, put, checked, and taken over from. Node a is real, the rest by hand;
each test fails without the guard that names it (tests/simulation/guards_tier.py).
"""

from replication.core import effects as fx
from replication.core import events as ev
from replication.core.values import TIER_MEMBER, CasOutcome, TierMode
from replication.messages import OpenStream
from storage.position import GENESIS, LogPoint
from tests.core.paper_disk import PaperLog
from tests.core.paper_node import PaperNode
from tests.core.puppets import Puppet, elected, log_of, next_record, on_stage, state_of
from tests.core.tier_hand import HandBucket, claimed, floor, run_of

BEFORE = log_of((1, ""), (1, "1.1"))
"""What was committed while node b was a member: records 1 and 2."""


def copy(log: PaperLog, count: int | None = None) -> PaperLog:
    kept = log.records[:count]
    return PaperLog(list(kept), len(kept))


def led_by_a(tier: TierMode = TierMode.STANDBY) -> tuple[PaperNode, Puppet, HandBucket]:
    """Node a leads epoch 2 with b, which has confirmed everything; the bucket has not answered yet."""
    node = on_stage("a", copy(BEFORE), state_of("ab", 1), tier=tier)
    b = Puppet(node, "b", copy(BEFORE))
    elected(node, b)
    b.confirms(3)
    assert commits(node) == [3]
    return node, b, HandBucket(node)


def commits(node: PaperNode) -> list[int]:
    return [effect.point.sequence for effect in node.effects if isinstance(effect, fx.Committed)]


def in_set(node: PaperNode) -> bool:
    state = node.cluster.service.state
    return state is not None and TIER_MEMBER in state.state.in_sync


def members(node: PaperNode) -> set[str]:
    state = node.cluster.service.state
    assert state is not None
    return {member.id for member in state.state.in_sync}


def alone(node: PaperNode, b: Puppet) -> None:
    """The one follower is gone for good."""
    node.cluster.break_link(b.link)
    node.feed(ev.LinkDown(b.link))
    node.cluster.run(500)


def with_tier() -> tuple[PaperNode, Puppet, HandBucket]:
    """Node a goes on with the tier: claimed from record 4 on, which is put; not marked, and not counted."""
    node, b, bucket = led_by_a()
    node.cluster.offer("a", "1.2")
    node.cluster.run(10)
    bucket.lists(run_of(node.disk.log, 1, 3))
    alone(node, b)
    bucket.stores()
    node.cluster.run(50)
    assert in_set(node)
    return node, b, bucket


def taking_over(
    log: PaperLog, bucket_log: PaperLog, first: int, counted: int, upto: LogPoint = GENESIS
) -> tuple[PaperNode, HandBucket]:
    """Node a is in no set; the tier was claimed from `first` on and counted up to `counted`. a has won, and asked.

    upto: what may have been committed before the claim.
    """
    before = bucket_log.point_at(first - 1)
    assert before is not None
    state = claimed(state_of("b", bucket_log.records[-1].point.epoch), first, before.chain, upto)
    node = on_stage("a", log, state, reads=False, tier=TierMode.STANDBY)
    point = bucket_log.point_at(counted)
    assert point is not None
    node.cluster.service.tier_floor = floor(point)
    node.cluster.service.up = True
    bucket = HandBucket(node)
    node.cluster.run_until(lambda: bool(bucket.asked(fx.ListTier)), 10_000)
    return node, bucket


def epochs_written(node: PaperNode) -> int:
    return sum(isinstance(effect, fx.AppendOwn) for effect in node.effects)


# Entering


def test_nothing_is_numbered_while_the_tier_is_filled() -> None:
    node, b, bucket = led_by_a()
    waiting = node.cluster.offer("a", "1.2")
    node.cluster.run(10)
    bucket.lists(run_of(node.disk.log, 1, 3))
    alone(node, b)
    assert not in_set(node)
    assert bucket.asked(fx.PutRun)[-1].first == 4
    node.cluster.offer("a", "1.3")
    node.cluster.run(50)
    assert node.disk.log.end.sequence == 4
    bucket.stores()
    node.cluster.run(50)
    assert in_set(node)
    assert node.disk.log.end.sequence == 5
    assert waiting not in node.settled


def test_the_tier_is_claimed_only_once_it_holds_everything_to_the_end_of_the_log() -> None:
    node, b, bucket = led_by_a()
    node.cluster.offer("a", "1.2")
    node.cluster.run(10)
    bucket.lists(run_of(node.disk.log, 1, 3))
    alone(node, b)
    node.cluster.run(500)
    assert not in_set(node)
    bucket.stores()
    node.cluster.run(50)
    assert in_set(node)


def test_the_tier_is_claimed_from_the_commit_point_on() -> None:
    node, _, _ = with_tier()
    state = node.cluster.service.state
    assert state is not None and state.state.tier is not None
    assert state.state.tier.first == 4


def test_a_claim_names_all_that_a_predecessor_may_have_committed() -> None:
    """Node a cannot tell what b's leadership acknowledged: its own EPOCH record is not committed."""
    node = on_stage("a", copy(BEFORE), state_of("ab", 1), tier=TierMode.STANDBY)
    b = Puppet(node, "b", copy(BEFORE))
    elected(node, b)
    bucket = HandBucket(node)
    bucket.lists()
    alone(node, b)
    bucket.stores()
    bucket.stores()
    node.cluster.run(50)
    state = node.cluster.service.state
    assert state is not None and state.state.tier is not None
    assert (state.state.tier.first, state.state.tier.upto) == (1, BEFORE.point_at(2))


def test_a_claim_of_a_leader_that_knows_its_commits_names_the_last() -> None:
    node, _, _ = with_tier()
    state = node.cluster.service.state
    assert state is not None and state.state.tier is not None
    assert state.state.tier.upto == node.disk.log.point_at(3)


def test_what_is_in_the_bucket_does_not_count_before_the_claim_is_confirmed() -> None:
    """The change that adds the tier is lost without an answer; the follower is back, and the bucket has everything."""
    node, b, bucket = led_by_a()
    node.cluster.offer("a", "1.2")
    node.cluster.run(10)
    bucket.lists(run_of(node.disk.log, 1, 3))
    node.cluster.break_link(b.link)
    node.feed(ev.LinkDown(b.link))
    node.cluster.run(300)
    node.unknown_next = "late"
    bucket.stores()
    again = Puppet(node, "b", b.log)
    node.cluster.run(20)
    again.follows()
    again.confirms(4)
    assert commits(node) == [3]


# Counting


def test_a_put_counts_only_after_the_check() -> None:
    node, _, bucket = with_tier()
    bucket.marks()
    node.cluster.run(100)
    assert commits(node) == [3]
    bucket.counts()
    assert commits(node) == [3, 4]


def test_the_check_counts_no_more_than_was_put() -> None:
    node, _, bucket = with_tier()
    bucket.marks()
    bucket.counts()
    node.cluster.offer("a", "1.3")
    node.cluster.run(100)
    assert bucket.asked(fx.PutRun)[-1].first == 5
    assert [effect.point.sequence for effect in bucket.asked(fx.CountTier)] == [4]


def test_nothing_is_counted_before_the_marker_is_in_the_bucket() -> None:
    node, _, bucket = with_tier()
    node.cluster.run(100)
    assert not bucket.asked(fx.CountTier)
    bucket.marks()
    assert bucket.asked(fx.CountTier)


def test_a_tier_that_left_and_enters_again_is_marked_again() -> None:
    node, b, bucket = with_tier()
    bucket.marks()
    bucket.counts()
    again = Puppet(node, "b", b.log)
    node.cluster.run(20)
    again.follows()
    again.confirms(4)
    node.cluster.run_until(lambda: not in_set(node), 2000)
    alone(node, again)
    node.cluster.run_until(lambda: in_set(node), 2000)
    node.cluster.run(50)
    markers = [effect.counter for effect in bucket.asked(fx.PutMarker)]
    assert len(markers) == 2 and markers[0] < markers[1]


def test_a_count_without_an_answer_is_believed_when_it_is_seen_and_not_before() -> None:
    node, _, bucket = with_tier()
    bucket.marks()
    bucket.counts(CasOutcome.UNKNOWN)
    node.cluster.run(100)
    assert commits(node) == [3]
    node.cluster.service.tier_floor = floor(bucket.asked(fx.CountTier)[-1].point)
    bucket.counts(CasOutcome.UNKNOWN)
    node.cluster.run(100)
    assert commits(node) == [3, 4]


# What the bucket knows


def test_a_place_in_the_bucket_is_found_by_chain() -> None:
    """Record 3 in the bucket is of a dead branch: it is not this log's."""
    dead = copy(BEFORE)
    dead.records.append(next_record(dead, 2, "9.9"))
    node, _, bucket = led_by_a()
    bucket.lists(run_of(BEFORE, 1, 2), run_of(dead, 3, 3))
    node.cluster.run(50)
    assert bucket.asked(fx.PutRun)[-1].first == 3


def test_a_bucket_with_records_of_a_later_epoch_ends_the_lead() -> None:
    later = copy(BEFORE)
    later.records.append(next_record(later, 7))
    node, _, bucket = led_by_a()
    bucket.lists(run_of(later, 3, 3))
    assert node.replica.leadership is None
    node.cluster.run_until(lambda: node.replica.situation.wanted_promise > 7, 10_000)


def test_a_bucket_with_the_marker_of_a_later_change_ends_the_lead() -> None:
    node, _, bucket = led_by_a()
    bucket.lists(counter=1000)
    assert node.replica.leadership is None
    node.cluster.run(6000)
    assert "went back" in str(node.replica.situation.not_standing)


# Who leads, and on what


def test_a_member_that_lacks_what_the_tier_was_counted_for_gives_up_the_lead() -> None:
    """Its predecessor counted record 3 after this node had read `tierfloor`, and before it won."""
    whole = log_of((1, ""), (1, "1.1"), (1, "1.2"))
    before = whole.point_at(1)
    assert before is not None
    state = claimed(state_of("a", 1), 2, before.chain)
    node = on_stage("a", copy(whole, 2), state, reads=False, tier=TierMode.STANDBY)
    node.cluster.service.up = True
    node.cluster.run_until(lambda: any(isinstance(effect, fx.TakeLead) for effect in node.effects), 10_000)
    node.cluster.service.tier_floor = floor(whole.end)
    node.cluster.run(6000)
    assert epochs_written(node) == 0


def test_a_takeover_lists_from_the_epoch_that_it_builds_on() -> None:
    """Older epochs hold no record above it, and may be a million objects."""
    whole = log_of((1, ""), (1, "1.1"), (3, ""), (3, "3.1"), (3, "3.2"))
    _, bucket = taking_over(copy(whole, 4), whole, 5, 5)
    assert [effect.since for effect in bucket.asked(fx.ListTier)] == [3]
    _, bucket = taking_over(PaperLog(), whole, 5, 5)
    assert [effect.since for effect in bucket.asked(fx.ListTier)] == [0]


def test_a_takeover_lists_the_bucket_after_the_election_and_after_tierfloor_was_read() -> None:
    whole = log_of((1, ""), (1, "1.1"), (1, "1.2"))
    before = whole.point_at(1)
    assert before is not None
    state = claimed(state_of("b", 1), 2, before.chain)
    node = on_stage("a", copy(whole, 1), state, reads=False, tier=TierMode.STANDBY)
    bucket = HandBucket(node)
    node.cluster.service.up = True
    node.cluster.run_until(lambda: bool(bucket.asked(fx.TakeLead)), 10_000)
    node.cluster.run_until(lambda: node.replica.leadership is not None, 100)
    node.cluster.service.up = False
    node.cluster.run(300)
    assert not bucket.asked(fx.ListTier)
    node.cluster.service.up = True
    node.cluster.run_until(lambda: bool(bucket.asked(fx.ListTier)), 2000)


def test_a_takeover_rebuilds_the_log_and_leads_with_it() -> None:
    whole = log_of((1, ""), (1, "1.1"), (1, "1.2"))
    node, bucket = taking_over(copy(whole, 1), whole, 2, 3)
    bucket.lists(run_of(whole, 2, 3))
    bucket.shows(whole)
    bucket.sends(whole)
    node.cluster.run(100)
    assert [record.uid for record in node.disk.log.records] == ["", "1.1", "1.2", ""]
    assert node.replica.leadership is not None
    state = node.cluster.service.state
    assert state is not None and {member.id for member in state.state.in_sync} == {"a", "tier"}


def test_a_takeover_that_does_not_find_what_was_counted_leads_nobody() -> None:
    whole = log_of((1, ""), (1, "1.1"), (1, "1.2"))
    node, bucket = taking_over(copy(whole, 1), whole, 2, 3)
    bucket.lists(run_of(whole, 2, 2))
    bucket.shows(whole)
    node.cluster.run(100)
    assert epochs_written(node) == 0
    assert not bucket.asked(fx.FetchRun)


def test_a_takeover_that_does_not_find_what_was_committed_before_the_claim_leads_nobody() -> None:
    """The tier was filled with record 3, and not counted yet when its object was lost."""
    whole = log_of((1, ""), (1, "1.1"), (1, "1.2"))
    node, bucket = taking_over(copy(whole), whole, 2, 1, whole.records[2].point)
    bucket.lists(run_of(whole, 2, 2))
    bucket.shows(whole)
    node.cluster.run(100)
    assert epochs_written(node) == 0
    assert [record.uid for record in node.disk.log.records] == ["", "1.1", "1.2"]


def test_a_takeover_does_without_a_tail_that_a_later_epoch_has_cut() -> None:
    """Record 3 of epoch 1 was not committed after all: a member without it led epoch 2."""
    cut = log_of((1, ""), (1, "1.1"), (1, "9.9"))
    whole = log_of((1, ""), (1, "1.1"), (2, ""))
    node, bucket = taking_over(copy(whole, 1), whole, 2, 1, cut.records[2].point)
    bucket.lists(run_of(cut, 2, 3), run_of(whole, 2, 2), run_of(whole, 3, 3))
    bucket.shows(whole)
    bucket.shows(whole)
    node.cluster.run(20)
    bucket.sends(whole)
    bucket.sends(whole)
    node.cluster.run(100)
    assert [record.uid for record in node.disk.log.records] == ["", "1.1", "", ""]


def test_a_takeover_stands_on_the_claims_beginning_only_where_its_own_log_has_it() -> None:
    """Record 2 of this log is of a dead branch: the bucket must have what lies below the claim, and has it."""
    whole = log_of((1, ""), (1, "1.1"), (1, "1.2"))
    own = log_of((1, ""), (1, "9.9"))
    node, bucket = taking_over(own, whole, 3, 3)
    bucket.lists(run_of(whole, 1, 2), run_of(whole, 3, 3))
    bucket.shows(whole)
    bucket.shows(whole)
    node.cluster.run(20)
    bucket.sends(whole)
    bucket.sends(whole)
    node.cluster.run(100)
    assert [record.uid for record in node.disk.log.records] == ["", "1.1", "1.2", ""]
    assert [record.uid for record in own.lost_and_found] == ["9.9"]


def test_what_is_not_on_the_branch_is_cut_before_the_rebuild_goes_on() -> None:
    whole = log_of((1, ""), (1, "1.1"), (1, "1.2"))
    own = log_of((1, ""), (1, "1.1"), (1, "9.9"))
    node, bucket = taking_over(own, whole, 3, 3)
    bucket.lists(run_of(whole, 3, 3))
    bucket.shows(whole)
    node.cluster.run(20)
    bucket.sends(whole)
    node.cluster.run(100)
    assert [record.uid for record in node.disk.log.records] == ["", "1.1", "1.2", ""]
    assert [record.uid for record in own.lost_and_found] == ["9.9"]


def test_a_record_from_the_bucket_that_its_chain_does_not_prove_is_not_taken() -> None:
    whole = log_of((1, ""), (1, "1.1"), (1, "1.2"))
    node, bucket = taking_over(copy(whole, 1), whole, 2, 3)
    bucket.lists(run_of(whole, 2, 3))
    bucket.shows(whole)
    bucket.sends(whole, chain=bytes(32))
    node.cluster.run(100)
    assert node.disk.log.end.sequence == 1


def test_nothing_is_written_in_the_new_epoch_before_the_rebuild_is_on_the_disk() -> None:
    whole = log_of((1, ""), (1, "1.1"), (1, "1.2"))
    node, bucket = taking_over(copy(whole, 1), whole, 2, 3)
    bucket.lists(run_of(whole, 2, 3))
    bucket.shows(whole)
    node.paused = True  # nothing becomes durable; what the bucket says is taken all the same
    asked = bucket.asked(fx.FetchRun)[-1]
    for record in whole.records[1:]:
        handle = node.cluster.fresh()
        node.staged[handle] = record
        node.replica.step(ev.TierRecord(asked.request, record.header, record.chain, handle), node.cluster.now, 0)
    effects = node.replica.step(ev.TierFetched(asked.request), node.cluster.now, 0)
    assert not any(isinstance(effect, fx.AppendOwn) for effect in effects)


def test_trap_4_a_leader_that_rebuilds_speaks_to_no_member_before_it_is_active() -> None:
    """Node b holds a record that only it holds: told where to cut before the rebuild is done, it would cut it."""
    whole = log_of((1, ""), (1, "1.1"), (1, "1.2"))
    node, bucket = taking_over(copy(whole, 1), whole, 2, 3)
    b = Puppet(node, "b", copy(whole))
    bucket.lists(run_of(whole, 2, 3))
    bucket.shows(whole)
    node.cluster.run(500)
    assert not b.heard(OpenStream)
    bucket.sends(whole)
    node.cluster.run_until(lambda: bool(b.heard(OpenStream)), 2000)
    assert node.disk.log.end.sequence == 4
