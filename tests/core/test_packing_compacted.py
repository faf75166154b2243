"""Segments that were compacted after they were packed: the object with the payloads goes, and nothing else ever does.

Node a leads, as in `test_packing`; what its log thread and its bucket would say is said by hand.
"""

import pytest

from replication.core import effects as fx
from replication.core import events as ev
from replication.tier.keys import Form, Run, form_of
from storage.position import EpochSpan
from tests.core.paper_node import PaperNode
from tests.core.puppets import Puppet
from tests.core.test_packing import asked, deleted, led_by_a, packing, small, wait
from tests.core.tier_hand import HandBucket, run_of

ONE, TWO = form_of([2]), form_of([2, 3])
NONE: frozenset[int] = frozenset()


def packed() -> tuple[PaperNode, Puppet, HandBucket]:
    """Both segments are one object each, and were passed."""
    node, b, bucket = led_by_a()
    bucket.lists(*small(node, (1, 3), (4, 5), (6, 6)))
    assert asked(bucket) == []
    return node, b, bucket


def of_first(node: PaperNode, form: Form) -> Run:
    return run_of(node.disk.log, 1, 3, form)


def compacted(bucket: HandBucket, *stubs: tuple[int, int], kept: str = "", read: frozenset[int] = NONE) -> None:
    bucket.says(ev.TierOutgrown(stubs, kept, read, "n2 reads it" if read else ""))


def test_a_segment_that_was_compacted_goes_up_once_more_and_the_object_with_the_payloads_goes() -> None:
    node, b, bucket = packed()
    compacted(bucket, (1, 1))
    assert asked(bucket) == [(1, 3)]
    assert packing(node).outgrown == 1
    assert not deleted(bucket), "not before the new one was read back"
    bucket.packs(form=ONE)
    assert deleted(bucket) == small(node, (1, 3))
    bucket.deletes()
    compacted(bucket, (1, 1))
    wait(b, 3000)
    assert asked(bucket) == [(1, 3)]
    assert packing(node).outgrown == 0
    compacted(bucket, (1, 2))
    bucket.packs(form=TWO)
    assert deleted(bucket) == [*small(node, (1, 3)), of_first(node, ONE)]


def test_the_segment_behind_goes_on_as_ever() -> None:
    node, _, bucket = led_by_a()
    bucket.lists(*small(node, (1, 3), (4, 4), (5, 5)))
    compacted(bucket, (1, 1))
    assert asked(bucket) == [(1, 3)], "the second is not followed by anything yet"
    bucket.packs(form=ONE)
    bucket.deletes()
    bucket.stores()
    assert asked(bucket) == [(1, 3), (4, 5)]
    bucket.packs()
    assert deleted(bucket) == small(node, (1, 3), (4, 4), (5, 5))


def test_what_could_not_be_put_is_put_the_next_time_that_it_is_said() -> None:
    node, b, bucket = packed()
    compacted(bucket, (1, 1))
    assert asked(bucket) == [(1, 3)]
    bucket.packs("no answer")
    assert not deleted(bucket)
    compacted(bucket, (1, 1))
    wait(b, 3000)
    bucket.packs(form=ONE)
    assert deleted(bucket) == small(node, (1, 3))


def test_a_bucket_that_does_not_let_go_is_asked_once_for_each_form() -> None:
    node, b, bucket = packed()
    compacted(bucket, (1, 1))
    node.cluster.run(100)
    bucket.packs(form=ONE)
    node.cluster.run(100)
    bucket.deletes("retained", lasting=True)
    for _ in range(3):
        compacted(bucket, (1, 1))
        wait(b, 1000)
    assert asked(bucket) == [(1, 3)]
    assert (packing(node).kept, packing(node).outgrown) == (1, 1)
    compacted(bucket, (1, 2))
    bucket.packs(form=TWO)
    assert deleted(bucket) == [*small(node, (1, 3)), *small(node, (1, 3)), of_first(node, ONE)]


@pytest.mark.parametrize("deletes", [True, False])
def test_while_somebody_may_read_the_old_object_nothing_is_replaced(deletes: bool) -> None:
    node, b, bucket = led_by_a()
    bucket.lists(*small(node, (1, 3), (4, 5), (6, 6)), deletes=deletes)
    compacted(bucket, (1, 1), kept="n2 evicts" if deletes else "")
    wait(b, 3000)
    assert asked(bucket) == []
    assert packing(node).outgrown == 1
    assert packing(node).outgrown_kept == ("n2 evicts" if deletes else "the tier does not delete")


def test_while_somebody_reads_evicted_records_from_it_the_old_object_stays_beside_the_new_one() -> None:
    node, b, bucket = packed()
    reads = frozenset({1})
    compacted(bucket, (1, 1), read=reads)
    assert asked(bucket) == [(1, 3)], "the reader learns the new places there"
    bucket.packs(form=ONE)
    assert not deleted(bucket)
    for _ in range(2):
        compacted(bucket, (1, 1), read=reads)
        wait(b, 1000)
        assert not deleted(bucket)
        assert (packing(node).outgrown, packing(node).outgrown_kept) == (1, "n2 reads it")
    compacted(bucket, (1, 1))
    assert deleted(bucket) == small(node, (1, 3))
    bucket.deletes()
    compacted(bucket, (1, 1))
    assert asked(bucket) == [(1, 3)], "it was put once"
    assert (packing(node).outgrown, packing(node).outgrown_kept) == (0, "")


@pytest.mark.parametrize("read", [frozenset({1}), NONE], ids=["kept for a reader", "about to go"])
def test_a_new_form_that_the_bucket_lost_takes_no_other_with_it(read: frozenset[int]) -> None:
    """What it was to replace is the last copy there, until the new one is put again and read back."""
    node, b, bucket = packed()
    compacted(bucket, (1, 1), read=read)
    assert asked(bucket) == [(1, 3)]
    packing(node).said(ev.TierPacked(bucket.asked(fx.PackSegment)[-1].request, 0, form=ONE))
    assert packing(node).lost(1, 3)
    compacted(bucket, (1, 1))
    wait(b, 3000)
    assert not deleted(bucket)
    assert asked(bucket) == [(1, 3), (1, 3)], "it is put again"
    bucket.packs(form=ONE)
    compacted(bucket, (1, 1))
    wait(b, 3000)
    bucket.packs(form=ONE)
    assert deleted(bucket) == small(node, (1, 3))


def test_a_new_form_that_is_lost_and_cannot_be_put_again_takes_no_other_with_it() -> None:
    node, b, bucket = packed()
    compacted(bucket, (1, 1), read=frozenset({1}))
    bucket.packs(form=ONE)
    assert packing(node).lost(1, 3)
    wait(b, 3000)
    for _ in range(2):  # as what was lost, and as what was compacted
        bucket.packs("it is damaged on the way", lasting=True)
        compacted(bucket, (1, 1))
        wait(b, 3000)
    assert len(asked(bucket)) == 3
    compacted(bucket, (1, 1))
    assert not deleted(bucket)


def test_who_has_learned_the_places_of_one_form_may_read_it_until_he_says_otherwise() -> None:
    """What was put in between has more stubs than those that all promised."""
    node, b, bucket = packed()
    compacted(bucket, (1, 1))
    assert asked(bucket) == [(1, 3)]
    bucket.packs(form=TWO)  # compacted further since
    assert deleted(bucket) == small(node, (1, 3))
    bucket.deletes()
    node, b, bucket = led_by_a()
    bucket.lists(of_first(node, ONE), *small(node, (1, 3), (4, 5), (6, 6)))
    compacted(bucket, (1, 1))
    assert asked(bucket) == [(1, 3)]
    bucket.packs(form=TWO)
    assert deleted(bucket) == small(node, (1, 3)), "of the other one nobody has promised anything"
    bucket.deletes()
    compacted(bucket, (1, 2), read=frozenset({1}))
    bucket.packs(form=TWO)
    wait(b, 3000)
    assert deleted(bucket) == small(node, (1, 3))
    compacted(bucket, (1, 2))
    assert deleted(bucket) == [*small(node, (1, 3)), of_first(node, ONE)]


def test_a_new_leader_deletes_no_form_before_it_knows_who_reads_it() -> None:
    """The former one crashed before it deleted."""
    node, b, bucket = led_by_a()
    bucket.lists(of_first(node, ONE), *small(node, (1, 3), (4, 5), (6, 6)))
    assert asked(bucket) == [(1, 3)]
    bucket.packs(form=ONE)
    wait(b, 3000)
    assert not deleted(bucket)
    compacted(bucket, (1, 1))
    assert asked(bucket) == [(1, 3), (1, 3)]
    bucket.packs(form=ONE)
    assert deleted(bucket) == small(node, (1, 3))


def test_a_segment_that_waits_keeps_no_other_from_its_turn_however_often_it_is_said() -> None:
    """Seeds 1002 and 1004 with --compact: what outgrew its object was said faster than it was looked at."""
    node, _, bucket = led_by_a(EpochSpan(1, 1, 1), EpochSpan(1, 2, 2), EpochSpan(1, 3, 3), EpochSpan(1, 4, 5))
    bucket.lists(*small(node, (1, 1), (2, 2), (3, 3), (4, 5), (6, 6)))
    stubs, read = ((1, 1), (2, 1), (3, 1)), frozenset({1, 2, 3})
    for first, last in ((1, 1), (2, 2), (3, 3)):
        compacted(bucket, *stubs, read=read)
        assert asked(bucket)[-1] == (first, last)
        bucket.packs(form=ONE)
    for _ in range(3):
        compacted(bucket, *stubs, (4, 1), read=read)
    assert bucket.asked(fx.PackSegment)[-1].last == 5


def test_what_a_former_leader_compacted_further_is_not_replaced_by_more() -> None:
    """It crashed before it deleted; this node has come less far with its own log."""
    node, b, bucket = led_by_a()
    bucket.lists(of_first(node, TWO), *small(node, (1, 3), (4, 5), (6, 6)))
    assert asked(bucket) == [(1, 3)], "two objects of one segment: one of them is proved"
    bucket.packs()
    assert not deleted(bucket)
    compacted(bucket, (1, 1))
    wait(b, 3000)
    assert asked(bucket) == [(1, 3)]
    compacted(bucket, (1, 2))
    bucket.packs(form=TWO)
    assert deleted(bucket) == small(node, (1, 3))


def test_nothing_is_replaced_before_what_follows_it_is_there() -> None:
    node, _, bucket = led_by_a()
    bucket.lists(*small(node, (1, 3), (4, 5)))
    compacted(bucket, (4, 1))
    assert asked(bucket) == [], "the object that reaches furthest stays"
    bucket.stores()
    compacted(bucket, (4, 1))
    assert asked(bucket) == [(4, 5)]
    assert [effect.last for effect in bucket.asked(fx.PackSegment)] == [5]
    assert not deleted(bucket)
    assert node.replica.leadership is not None
