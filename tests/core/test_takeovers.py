"""How much of a bucket a takeover reads; what it must not believe is in tests/core/test_guards_tier.py."""

from replication.core import effects as fx
from tests.core.puppets import log_of
from tests.core.test_guards_tier import copy, taking_over
from tests.core.tier_hand import run_of


def test_a_takeover_reads_no_further_than_its_own_log_goes() -> None:
    """The tier was claimed long ago, as a synchronous one always was: reading back to the claim would read it all."""
    whole = log_of((1, ""), *((1, f"1.{number}") for number in range(1, 9)))
    node, bucket = taking_over(copy(whole, 7), whole, 2, 9)
    bucket.lists(*(run_of(whole, number, number) for number in range(1, 10)))
    bucket.shows(whole)
    bucket.shows(whole)
    assert [effect.run.first for effect in bucket.asked(fx.ReadRun)] == [9, 8]
    bucket.sends(whole)
    bucket.sends(whole)
    node.cluster.run(100)
    assert [record.uid for record in node.disk.log.records] == [*(record.uid for record in whole.records), ""]
