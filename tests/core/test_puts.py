"""Puts that somebody waits for: several beside each other, and no gap in the bucket whatever becomes of each."""

import pytest

from replication.core import effects as fx
from replication.core import tierside
from replication.core.tierside import PUTS_AT_ONCE, TierSide
from tests.core.paper_cluster import STEP_MS
from tests.core.paper_node import PaperNode
from tests.core.test_guards_tier import commits, led_by_a, with_tier
from tests.core.tier_hand import HandBucket, run_of


def counted() -> tuple[PaperNode, HandBucket]:
    """Node a and the tier are the set; everything up to record 4 is committed."""
    node, _, bucket = with_tier()
    bucket.marks()
    bucket.counts()
    assert commits(node) == [3, 4]
    return node, bucket


def offered(node: PaperNode, *uids: str, size: int = 1000) -> None:
    """One after the other, each in a step of its own."""
    for uid in uids:
        node.cluster.offer("a", uid, size=size)
        node.cluster.run(20)


def puts(bucket: HandBucket) -> list[tuple[int, int]]:
    """Behind those that let the tier enter."""
    return [(effect.first, effect.last) for effect in bucket.asked(fx.PutRun) if effect.first > 4]


def tier(node: PaperNode) -> TierSide:
    leadership = node.replica.leadership
    assert leadership is not None
    return leadership.tier


def test_only_a_few_are_under_way_and_each_holds_what_the_ones_before_it_hold() -> None:
    node, bucket = counted()
    offered(node, "2.1", "2.2", "2.3", "2.4", "2.5")
    assert puts(bucket) == [(5, 5), (5, 6), (5, 7)]
    assert len(puts(bucket)) == PUTS_AT_ONCE
    bucket.stores(-3)
    assert puts(bucket)[3:] == [(6, 9)], "the rest, from where the bucket is confirmed"


def test_whichever_of_the_puts_arrives_the_bucket_has_no_gap() -> None:
    node, bucket = counted()
    offered(node, "2.1", "2.2", "2.3")
    bucket.stores(-1)
    assert tier(node).upto(1) == 7
    bucket.counts()
    assert commits(node)[-1] == 7, "it holds the others as well"
    bucket.stores(-3)
    bucket.refuses(-2)
    assert tier(node).upto(1) == 7
    assert tier(node).failed == "no answer"
    offered(node, "2.4")
    node.cluster.run(600)
    assert puts(bucket)[-1] == (8, 8)
    for first, last in puts(bucket):
        assert first <= 5 or first == 8, (first, last)


def test_what_was_refused_is_put_again_when_nothing_else_brought_it() -> None:
    node, bucket = counted()
    offered(node, "2.1", "2.2")
    bucket.refuses(-1)
    assert tier(node).upto(1) == 4
    bucket.stores(-2)
    assert tier(node).upto(1) == 5
    node.cluster.run(600)
    assert puts(bucket)[-1] == (6, 6)


def test_what_is_large_is_put_once() -> None:
    node, bucket = counted()
    offered(node, "2.1", "2.2", size=200_000)
    assert puts(bucket) == [(5, 5)]
    bucket.stores()
    assert puts(bucket) == [(5, 5), (6, 6)]


def test_nobody_waits_for_a_tier_that_only_follows() -> None:
    node, b, bucket = led_by_a()
    bucket.lists(run_of(node.disk.log, 1, 3))
    for number, uid in enumerate(("2.1", "2.2", "2.3"), start=4):
        node.cluster.offer("a", uid)
        node.cluster.run(20)
        b.confirms(number)
        node.cluster.run(20)
    assert puts(bucket) == []
    assert [(effect.first, effect.last) for effect in bucket.asked(fx.PutRun)] == [(4, 4)]


def test_a_bucket_that_stands_still_is_found_out_however_many_puts_wait() -> None:
    node, bucket = counted()
    stall = node.replica.situation.settings.stall_timeout_ms
    began = node.cluster.now
    for number in range(3):
        node.cluster.offer("a", f"2.{number}")
        node.cluster.run(stall // 3)
    assert len(puts(bucket)) == PUTS_AT_ONCE
    node.cluster.run(began + stall + 100 - node.cluster.now)
    assert tier(node).gone


def test_nothing_new_means_no_new_put() -> None:
    node, bucket = counted()
    offered(node, "2.1")
    node.cluster.run(400)
    assert puts(bucket) == [(5, 5)]


def test_a_bucket_that_answers_at_once_gets_one_put_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is put beside another costs processor time on the machine that both share, and gains nothing."""
    monkeypatch.setattr(tierside, "NEAR_MS", STEP_MS + 1)  # nothing on paper is faster than a step
    node, bucket = counted()
    node.cluster.offer("a", "1.9")
    node.cluster.run_until(lambda: bool(puts(bucket)))
    bucket.stores()
    bucket.counts()
    offered(node, "2.1", "2.2", "2.3")
    assert puts(bucket)[1:] == [(6, 6)]
    bucket.stores()
    assert puts(bucket)[2:] == [(7, 8)], "and who came meanwhile goes together"
