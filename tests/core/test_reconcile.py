"""Two logs that share more than a damaged table of epochs shows: nothing is cut for want of an entry."""

from replication.core.ledger import Ledger
from replication.core.reconcile import epoch_table
from replication.messages import Align, OpenStream, StreamEnd, to_point
from storage.position import GENESIS
from tests.core.paper_disk import PaperLog
from tests.core.puppets import Puppet, log_of, on_stage, state_of

OURS = log_of((1, ""), (1, "1.1"), (1, "1.2"))


def longer() -> PaperLog:
    """The same, and what a leader of epoch 2 wrote that nobody else has."""
    log = log_of((1, ""), (1, "1.1"), (1, "1.2"), (2, ""), (3, ""))
    assert log.records[:3] == OURS.records
    return log


def test_the_table_ends_where_the_end_of_an_epoch_is_unknown() -> None:
    log = longer()
    assert [end.epoch for end in epoch_table(Ledger(log))] == [1, 2, 3]
    log.unknown = {2}
    assert [end.epoch for end in epoch_table(Ledger(log))] == [1, 2, 3], "no epoch ends there"
    log.unknown = {3}
    assert [end.epoch for end in epoch_table(Ledger(log))] == [2, 3]
    log.unknown = {4}
    assert [end.epoch for end in epoch_table(Ledger(log))] == [3], "what lies below is not joined to what lies above"


def test_a_follower_that_cannot_show_its_oldest_epoch_is_not_told_to_cut_everything() -> None:
    """Found by the simulator: a write that went astray hit the entries of a sealed segment (docs/proof.md, 24)."""
    log = longer()
    for unknown, cuts in ((set[int](), [3]), ({3}, list[int]())):
        log.unknown = unknown
        node = on_stage("a", PaperLog(list(OURS.records), 3), state_of("a", 3))
        b = Puppet(node, "b", log)
        node.cluster.run(10_000)
        epoch = b.heard(OpenStream)[-1].epoch
        table = epoch_table(Ledger(log))
        b.says(StreamEnd(epoch, epoch, to_point(log.end), table, to_point(GENESIS)))
        node.cluster.run(100)
        assert [align.point.sequence for align in b.heard(Align)] == cuts
