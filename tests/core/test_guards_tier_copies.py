"""What may rest on the tier's copy, and who may stand beside it. Node a is real, the rest by hand."""

import pytest

from replication.core import effects as fx
from tests.core.puppets import Puppet
from tests.core.test_guards_tier import alone, in_set, led_by_a, members, with_tier
from tests.core.tier_hand import run_of


def test_a_node_enters_only_with_all_that_the_tier_may_have_been_counted_for() -> None:
    """The transaction that counts record 4 is on its way, and may be applied just before the change that adds b."""
    node, b, bucket = with_tier()
    bucket.marks()
    assert [effect.point.sequence for effect in bucket.asked(fx.CountTier)] == [4]
    again = Puppet(node, "b", b.log)
    node.cluster.run(20)
    again.follows()
    again.confirms(3)
    node.cluster.run(1000)
    assert members(node) == {"a", "tier"}
    again.confirms(4)
    node.cluster.run_until(lambda: "b" in members(node), 2000)


@pytest.mark.parametrize("followed", [True, False])
def test_no_success_rests_on_a_record_that_the_tier_has_not_got(followed: bool) -> None:
    """What b had is sent again while node a and the tier, which is claimed from later on, are all that counts."""
    node, b, bucket = led_by_a()
    node.cluster.offer("a", "1.2")
    node.cluster.run(10)
    b.confirms(4)
    node.cluster.offer("a", "1.3")
    node.cluster.run(10)
    bucket.lists(*([run_of(node.disk.log, 1, 4)] if followed else []))
    alone(node, b)
    for _ in range(1 if followed else 2):
        bucket.stores()
        node.cluster.run(300)
    assert in_set(node)
    assert [effect.first for effect in bucket.asked(fx.PutRun)][:2] == ([5] if followed else [1, 5])
    bucket.marks()
    bucket.counts()
    ticket = node.cluster.offer("a", "1.2")
    node.cluster.run(50)
    assert (node.disk.log.end.sequence == 6) is not followed
    assert (ticket in node.settled) is followed
