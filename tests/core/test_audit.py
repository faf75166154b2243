"""What the bucket loses without a word: found by listing it again, never by one listing alone, and put again.

Node a is real and leads epoch 2; records 1 to 3 and 4 to 5 are sealed segments, 6 is still written (test_packing.py).
"""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from replication.core import effects as fx
from replication.core import events as ev
from replication.core.audit import Audit, lost
from replication.core.coverage import Coverage
from replication.core.ledger import Ledger
from replication.tier.keys import Form, Run
from tests.core.paper_node import PaperNode
from tests.core.puppets import Puppet
from tests.core.test_packing import asked, deleted, led_by_a, packing, small, wait
from tests.core.tier_hand import HandBucket, run_of

EVERYTHING = ((1, 3), (4, 5), (6, 6))


def audit(node: PaperNode) -> Audit:
    leadership = node.replica.leadership
    assert leadership is not None and leadership.tier.audit is not None
    return leadership.tier.audit


def looked(bucket: HandBucket) -> int:
    return len(bucket.asked(fx.AuditTier))


def shows(bucket: HandBucket, runs: list[Run] | None, altered: tuple[Run, ...] = (), reason: str = "") -> None:
    request = bucket.asked(fx.AuditTier)[-1].request
    bucket.says(ev.TierAudited(request, tuple(runs) if runs is not None else None, altered, reason))


def audited(bucket: HandBucket, runs: list[Run], altered: tuple[Run, ...] = ()) -> None:
    """Both looks show the same."""
    bucket.says(ev.TierAuditDue())
    before = looked(bucket)
    shows(bucket, runs, altered)
    if looked(bucket) > before:
        shows(bucket, runs, altered)


def whole() -> tuple[PaperNode, Puppet, HandBucket]:
    """Everything is there: two segments, each one object, and what is still written."""
    node, b, bucket = led_by_a()
    bucket.lists(*small(node, *EVERYTHING))
    assert asked(bucket) == []
    return node, b, bucket


def test_a_bucket_that_holds_everything_is_looked_at_once() -> None:
    node, _, bucket = whole()
    audited(bucket, small(node, *EVERYTHING))
    assert looked(bucket) == 1
    assert (audit(node).missing, audit(node).found, asked(bucket)) == ([], 0, [])


def test_a_segment_that_is_gone_is_put_again_and_counted() -> None:
    node, _, bucket = whole()
    audited(bucket, small(node, (4, 5), (6, 6)))
    assert looked(bucket) == 2
    assert (audit(node).missing, audit(node).found) == ([(1, 3)], 1)
    assert asked(bucket) == [(1, 3)]
    bucket.packs()
    assert (audit(node).missing, audit(node).found, audit(node).why) == ([], 1, "")
    assert not deleted(bucket)


def test_what_one_listing_shows_and_the_other_does_not_is_not_lost() -> None:
    """Packing puts one object in the place of many while a listing comes: it may show neither."""
    node, _, bucket = whole()
    bucket.says(ev.TierAuditDue())
    shows(bucket, small(node, (4, 5), (6, 6)))
    assert audit(node).missing == [], "not yet"
    shows(bucket, small(node, (1, 3), (6, 6)))
    assert (audit(node).missing, audit(node).found, asked(bucket)) == ([], 0, [])


def test_what_comes_while_it_looks_is_not_missed() -> None:
    """Only what was known when the listing was asked for can be lost."""
    node, _, bucket = led_by_a()
    bucket.lists(*small(node, (1, 3), (4, 5)))
    bucket.says(ev.TierAuditDue())
    bucket.stores()
    shows(bucket, small(node, (1, 3), (4, 5)))
    assert looked(bucket) == 1 and audit(node).found == 0


def test_what_is_still_written_is_put_again_as_small_objects() -> None:
    node, _, bucket = whole()
    audited(bucket, small(node, (1, 3), (4, 5)))
    assert audit(node).missing == [(6, 6)] and asked(bucket) == []
    assert [(put.first, put.last) for put in bucket.asked(fx.PutRun)] == [(6, 6)]
    bucket.stores()
    assert (audit(node).missing, audit(node).found) == ([], 1)


def test_what_cannot_be_put_again_is_said_and_tried_with_the_next_look() -> None:
    node, b, bucket = whole()
    audited(bucket, small(node, (4, 5)))
    bucket.packs("its segment is evicted")
    bucket.refuses()
    assert audit(node).missing == [(1, 3), (6, 6)]
    assert audit(node).why == "no answer"
    wait(b, 5000)
    assert (len(asked(bucket)), len(bucket.asked(fx.PutRun))) == (1, 1)
    audited(bucket, small(node, (4, 5), (6, 6)))
    assert (audit(node).missing, audit(node).found) == ([(1, 3)], 2)
    bucket.packs("its segment is evicted")
    assert audit(node).why == "its segment is evicted"


def test_the_tier_is_counted_as_before() -> None:
    """What was acknowledged on its word was there then; stores do not wait for what is put again."""
    node, _, bucket = whole()
    assert node.replica.leadership is not None
    side = node.replica.leadership.tier
    audited(bucket, small(node, (4, 5)))
    bucket.packs("its segment is evicted")
    bucket.refuses()
    assert side.complete_upto == 6 and side.usable and side.failed is None


def test_small_objects_are_not_deleted_on_the_strength_of_a_segment_that_is_gone() -> None:
    node, _, bucket = led_by_a()
    bucket.lists(*small(node, (1, 1), (2, 3), (4, 4), (5, 5), (6, 6)), deletes=True)
    bucket.packs()
    assert deleted(bucket) == small(node, (1, 1), (2, 3))
    bucket.deletes()
    assert asked(bucket)[-1] == (4, 5)
    bucket.says(ev.TierAuditDue())
    for _ in range(2):
        shows(bucket, small(node, (4, 4), (5, 5), (6, 6)))
    assert packing(node).holds(1, 1) is False and audit(node).missing == [(1, 3)]
    bucket.packs("no answer")
    assert len(deleted(bucket)) == 2


def test_an_object_of_another_length_is_named_and_its_records_are_missing() -> None:
    node, _, bucket = whole()
    (short,) = small(node, (4, 5))
    audited(bucket, small(node, *EVERYTHING), altered=(short,))
    assert (audit(node).altered, audit(node).missing) == ((short,), [(4, 5)])
    bucket.packs("it differs", lasting=True)
    assert audit(node).why == "it differs"
    assert not deleted(bucket), "it stays as evidence"
    audited(bucket, small(node, (1, 3), (6, 6)))
    assert audit(node).altered == () and asked(bucket) == [(4, 5), (4, 5)]


def test_what_lay_under_the_name_of_a_segment_is_said_until_it_was_taken_away_and_the_segment_is_back() -> None:
    node, _, bucket = whole()
    altered = tuple(small(node, (1, 3)))
    audited(bucket, small(node, *EVERYTHING), altered)
    bucket.packs("its name has something else", lasting=True)
    audited(bucket, small(node, *EVERYTHING), altered)
    bucket.packs("its name has something else", lasting=True)
    assert packing(node).spoiled == 1, "one segment, however often it was looked at"
    audited(bucket, small(node, (4, 5), (6, 6)))
    assert packing(node).spoiled == 1
    bucket.packs()
    assert (packing(node).spoiled, audit(node).altered, audit(node).missing) == (0, (), [])


def test_a_form_with_fewer_stubs_is_not_put_in_the_place_of_one_that_is_gone() -> None:
    node, _, bucket = led_by_a()
    form = Form(2, bytes(8))
    bucket.lists(run_of(node.disk.log, 1, 3, form), *small(node, (4, 5), (6, 6)))
    audited(bucket, small(node, (4, 5), (6, 6)))
    assert asked(bucket) == [] and "compacted in the tier" in audit(node).why
    bucket.says(ev.TierOutgrown(((1, 2),), "n2 evicts"))
    audited(bucket, small(node, (4, 5), (6, 6)))
    assert asked(bucket) == [(1, 3)]
    bucket.packs(form=form)
    assert audit(node).missing == []


def test_what_is_put_again_replaces_nothing() -> None:
    """An altered object of an older form stays as evidence, beside the new one."""
    node, _, bucket = whole()
    form = Form(1, bytes(8))
    (old,) = small(node, (1, 3))
    bucket.says(ev.TierOutgrown(((1, 1),), "n2 evicts"))
    audited(bucket, small(node, *EVERYTHING), altered=(old,))
    bucket.packs(form=form)
    assert audit(node).missing == [] and deleted(bucket) == []


def test_a_bucket_that_does_not_answer_is_asked_again_later() -> None:
    node, b, bucket = whole()
    bucket.says(ev.TierAuditDue())
    shows(bucket, None, reason="no answer")
    wait(b, 30_000)
    assert looked(bucket) == 1
    wait(b, 31_000)
    assert looked(bucket) == 2
    shows(bucket, small(node, *EVERYTHING))
    assert audit(node).found == 0


def test_an_object_whose_last_record_is_damaged_here_is_not_called_lost() -> None:
    node, _, _ = whole()
    node.disk.log.unknown.add(5)
    ledger = Ledger(node.disk.log)
    expected = Coverage([(1, 6)])
    assert lost(expected, small(node, *EVERYTHING), (), ledger) == []


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_spans_are_sets_of_numbers(seed: int) -> None:
    chance = random.Random(seed)
    held, numbers = Coverage(), set[int]()
    for _ in range(12):
        first = chance.randrange(1, 40)
        last = first + chance.randrange(6)
        if chance.random() < 0.6:
            held.add(first, last)
            numbers |= set(range(first, last + 1))
        else:
            held.remove(first, last)
            numbers -= set(range(first, last + 1))
    assert {n for a, b in held.spans() for n in range(a, b + 1)} == numbers
    low, high = sorted((chance.randrange(1, 50), chance.randrange(1, 50)))
    assert {n for a, b in held.within(low, high).spans() for n in range(a, b + 1)} == numbers & set(
        range(low, high + 1)
    )
    assert {n for a, b in held.gaps(low, high) for n in range(a, b + 1)} == set(range(low, high + 1)) - numbers
