"""Sealed segments as one object each: when they may be put, what may be deleted then, and what never.

Node a is real and leads epoch 2 (tests/core/test_guards_tier.py); its log is cut into segments by hand.
"""

from dataclasses import replace

import pytest

from replication.core import effects as fx
from replication.core.packing import Packing
from replication.core.values import TierMode
from replication.tier.keys import Run
from storage.position import EpochSpan
from tests.core.paper_disk import PaperLog
from tests.core.paper_node import PaperNode
from tests.core.puppets import Puppet, elected, log_of, next_record, on_stage, state_of
from tests.core.tier_hand import HandBucket, claimed, floor, run_of

BEFORE = log_of((1, ""), (1, "1.1"), (1, "1.2"), (1, "1.3"), (1, "1.4"))
"""Committed before a leads: two segments, of records 1 to 3, and of 4 and 5. Record 6 is a's own."""
FIRST, SECOND = EpochSpan(1, 1, 3), EpochSpan(1, 4, 5)


def led_by_a(*sealed: EpochSpan, confirmed: bool = True) -> tuple[PaperNode, Puppet, HandBucket]:
    log = PaperLog(list(BEFORE.records), len(BEFORE.records), sealed=list(sealed or (FIRST, SECOND)))
    node = on_stage("a", log, state_of("ab", 1), tier=TierMode.STANDBY)
    b = Puppet(node, "b", PaperLog(list(BEFORE.records), len(BEFORE.records)))
    elected(node, b)
    if confirmed:
        b.confirms(6)
    return node, b, HandBucket(node)


def small(node: PaperNode, *spans: tuple[int, int]) -> list[Run]:
    return [run_of(node.disk.log, first, last) for first, last in spans]


def asked(bucket: HandBucket) -> list[tuple[int, int]]:
    bucket.node.cluster.run(100)
    return [(effect.first, effect.last) for effect in bucket.asked(fx.PackSegment)]


def deleted(bucket: HandBucket) -> list[Run]:
    bucket.node.cluster.run(100)
    return [run for effect in bucket.asked(fx.DeleteRuns) for run in effect.runs]


def wait(b: Puppet, ms: int) -> None:
    """Let time pass for a follower that keeps up."""
    for _ in range(ms // 100):
        b.cluster.run(100)
        b.confirms(6)


def packing(node: PaperNode) -> Packing:
    leadership = node.replica.leadership
    assert leadership is not None and leadership.tier.packing is not None
    return leadership.tier.packing


def test_small_objects_go_once_the_segment_was_read_back() -> None:
    node, _, bucket = led_by_a()
    bucket.lists(*small(node, (1, 1), (2, 3), (4, 5), (6, 6)))
    assert asked(bucket) == [(1, 3)]
    assert not deleted(bucket)
    bucket.packs()
    assert deleted(bucket) == small(node, (1, 1), (2, 3))
    bucket.deletes()
    assert asked(bucket) == [(1, 3)], "records 4 and 5 are one object already"
    assert (packing(node).packed, packing(node).deleted) == (1, 2)


def test_a_segment_that_could_not_be_proved_replaces_nothing_and_is_tried_again() -> None:
    node, b, bucket = led_by_a()
    bucket.lists(*small(node, (1, 1), (2, 3), (4, 5), (6, 6)))
    bucket.packs("no answer")
    assert not deleted(bucket)
    assert packing(node).failed == "no answer"
    wait(b, 2500)
    assert asked(bucket) == [(1, 3), (1, 3)]


def test_what_has_other_bytes_under_its_name_is_left_and_so_are_the_small_objects() -> None:
    node, _, bucket = led_by_a()
    bucket.lists(*small(node, (1, 1), (2, 3), (4, 4), (5, 5), (6, 6)))
    bucket.packs("altered", lasting=True)
    assert asked(bucket) == [(1, 3), (4, 5)]
    bucket.packs()
    assert deleted(bucket) == small(node, (4, 4), (5, 5))
    assert packing(node).spoiled == 1


def test_the_object_that_reaches_furthest_is_never_replaced() -> None:
    node, _, bucket = led_by_a()
    bucket.lists(*small(node, (1, 3), (4, 4), (5, 5)))
    assert asked(bucket) == [], "record 6 is not in the bucket yet"
    bucket.stores()
    assert asked(bucket) == [(4, 5)]


def test_nothing_is_packed_before_it_is_committed() -> None:
    _, b, bucket = led_by_a(confirmed=False)
    bucket.lists()
    assert asked(bucket) == []
    b.confirms(6)
    assert asked(bucket) == [(1, 3)]


def test_nothing_is_replaced_before_a_leader_that_needs_the_tier_has_counted_it_itself() -> None:
    """The tier is the other member, and holds everything; what was committed is known from this node's own floor."""
    log = PaperLog(list(BEFORE.records), len(BEFORE.records), sealed=[FIRST, SECOND])
    before = log.point_at(3)
    assert before is not None
    node = on_stage("a", log, claimed(state_of("a", 1), 4, before.chain), reads=False, tier=TierMode.STANDBY)
    node.replica.situation.told = log.end
    node.cluster.service.tier_floor = floor(log.end)
    node.cluster.service.up = True
    bucket = HandBucket(node)
    node.cluster.run_until(lambda: bool(bucket.asked(fx.ListTier)), 10_000)
    bucket.lists(*small(node, (1, 1), (2, 3), (4, 5)))
    bucket.stores()
    assert asked(bucket) == []
    bucket.marks()
    bucket.counts()
    assert asked(bucket) == [(1, 3)]


def test_an_object_over_two_segments_goes_once_both_were_proved() -> None:
    node, _, bucket = led_by_a()
    bucket.lists(*small(node, (1, 2), (3, 4), (5, 5), (6, 6)))
    bucket.packs()
    assert deleted(bucket) == small(node, (1, 2))
    bucket.deletes()
    assert asked(bucket) == [(1, 3), (4, 5)]
    bucket.packs()
    assert deleted(bucket) == small(node, (1, 2), (3, 4), (5, 5))


def test_where_the_store_does_not_delete_small_objects_stay() -> None:
    node, _, bucket = led_by_a()
    bucket.lists(*small(node, (1, 1), (2, 3), (4, 5), (6, 6)), deletes=False)
    bucket.packs()
    assert not deleted(bucket)
    assert packing(node).kept == 2


def test_what_the_bucket_retains_stays_and_the_next_segment_is_packed() -> None:
    node, _, bucket = led_by_a()
    bucket.lists(*small(node, (1, 1), (2, 3), (4, 4), (5, 5), (6, 6)))
    bucket.packs()
    node.cluster.run(100)
    bucket.deletes("retained", lasting=True)
    assert asked(bucket) == [(1, 3), (4, 5)]
    assert packing(node).kept == 2


def test_a_delete_that_nobody_answered_is_asked_for_again() -> None:
    node, b, bucket = led_by_a()
    bucket.lists(*small(node, (1, 1), (2, 3), (4, 5), (6, 6)))
    bucket.packs()
    node.cluster.run(100)
    bucket.deletes("no answer")
    wait(b, 2500)
    assert deleted(bucket) == 2 * small(node, (1, 1), (2, 3))


def test_an_empty_bucket_gets_whole_segments_oldest_first_and_small_objects_behind_them() -> None:
    node, _, bucket = led_by_a()
    bucket.lists()
    assert asked(bucket) == [(1, 3)]
    assert not bucket.asked(fx.PutRun), "nothing is put with a gap below it"
    bucket.packs()
    assert asked(bucket) == [(1, 3), (4, 5)]
    bucket.packs()
    node.cluster.run(100)
    assert [effect.first for effect in bucket.asked(fx.PutRun)] == [6]
    assert not deleted(bucket)


def test_a_segment_of_which_a_part_is_there_is_filled_up_with_small_objects_first() -> None:
    node, _, bucket = led_by_a()
    bucket.lists(*small(node, (1, 1), (3, 3), (4, 5), (6, 6)))
    assert asked(bucket) == []
    assert [(effect.first, effect.last) for effect in bucket.asked(fx.PutRun)] == [(2, 2)]
    bucket.stores()
    assert asked(bucket) == [(1, 3)]


def test_a_missing_segment_does_not_wait_for_one_that_waits_for_it() -> None:
    """The bucket was away while the second segment filled; the first is not replaced before something follows it."""
    node, _, bucket = led_by_a()
    bucket.lists(*small(node, (1, 1), (2, 3)))
    assert asked(bucket) == []
    assert [(effect.first, effect.last) for effect in bucket.asked(fx.PutRun)] == [(4, 5)]
    bucket.stores()
    assert asked(bucket) == [(1, 3)]


def test_a_rate_is_kept() -> None:
    node, b, bucket = led_by_a()
    node.replica.situation.settings = replace(node.replica.situation.settings, tier_pack_bytes_per_s=1000)
    bucket.lists(*small(node, (1, 1), (2, 3), (4, 4), (5, 5), (6, 6)))
    bucket.packs(moved=3000)
    node.cluster.run(100)
    bucket.deletes()
    wait(b, 2500)
    assert asked(bucket) == [(1, 3)]
    wait(b, 600)
    assert asked(bucket) == [(1, 3), (4, 5)]


def test_what_decides_is_listed_first_and_the_rest_of_the_bucket_then() -> None:
    """The log has three epochs; the commit point that a new leader knows is in the second."""
    log = log_of((1, ""), (1, "1.1"), (2, ""), (2, "2.1"))
    dead = log_of((1, ""), (1, "1.1"))
    dead.records.append(next_record(dead, 1, "9.9"))
    node = on_stage("a", log, state_of("ab", 2), tier=TierMode.STANDBY)
    node.replica.situation.told = log.end  # as its floor said
    b = Puppet(node, "b", PaperLog(list(log.records), len(log.records)))
    elected(node, b)
    bucket = HandBucket(node)
    side = node.replica.leadership.tier if node.replica.leadership is not None else None
    assert side is not None
    node.cluster.run(100)
    assert bucket.asked(fx.ListTier)[-1].since == 2
    bucket.lists(*small(node, (3, 4)))
    assert side.usable and not side.surveyed
    assert side.upto(3) == 4
    assert bucket.asked(fx.ListTier)[-1].before == 2
    bucket.lists(*small(node, (1, 2)), run_of(dead, 3, 3))
    assert side.surveyed
    assert side.upto(1) == 4
    assert side.orphans == (run_of(dead, 3, 3),)


def test_a_segment_that_is_one_small_object_is_not_deleted() -> None:
    """Its own object is listed beside one that reaches over both segments, which goes."""
    node, _, bucket = led_by_a()
    bucket.lists(*small(node, (1, 3), (3, 4), (4, 5), (6, 6)))
    bucket.packs()
    assert asked(bucket) == [(1, 3), (4, 5)]
    bucket.packs()
    assert deleted(bucket) == small(node, (3, 4))


def test_a_put_that_is_answered_late_may_have_put_the_object_of_a_segment() -> None:
    """The simulator found it gone (seed 6100006246): the put was one of several beside each other."""
    node, _, bucket = led_by_a()
    bucket.lists(*small(node, (1, 1), (2, 3), (4, 4), (5, 5), (6, 6)))
    assert asked(bucket) == [(1, 3)]
    packing(node).put(small(node, (1, 3))[0])
    bucket.packs()
    node.cluster.run(100)
    bucket.deletes()
    packing(node).put(small(node, (1, 3))[0])
    assert asked(bucket) == [(1, 3), (4, 5)]
    bucket.packs()
    assert deleted(bucket) == small(node, (1, 1), (2, 3), (4, 4), (5, 5))


@pytest.mark.parametrize("answer", ["no answer", ""], ids=["and not yet deleted", "and deleted"])
def test_a_segment_that_is_lost_while_its_small_objects_go_is_put_again_before_more_is_deleted(answer: str) -> None:
    """The audit may find it so while the delete is under way: what that left is the last copy in the bucket."""
    node, b, bucket = led_by_a()
    bucket.lists(*small(node, (1, 1), (2, 3), (4, 5), (6, 6)))
    bucket.packs()
    assert deleted(bucket) == small(node, (1, 1), (2, 3))
    assert packing(node).lost(1, 3)
    bucket.deletes(answer)
    wait(b, 2500)
    assert deleted(bucket) == small(node, (1, 1), (2, 3)), "not asked for again"
    assert asked(bucket) == [(1, 3), (1, 3)], "it is put again"
