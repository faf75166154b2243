"""What a leader may count, and whom it may feed. Node a is real, its followers are puppets; each test fails without the
guard that names it (tests/simulation/guards_replication.py).
"""

from replication.core import effects as fx
from replication.core.effects import Verdict
from replication.messages import Confirmed, Point, Rejected, to_point
from tests.core.hands import met
from tests.core.paper_node import PaperNode
from tests.core.puppets import Puppet, elected, log_of, on_stage, state_of


def led_by_a(members: str, *followers: str) -> tuple[PaperNode, list[Puppet]]:
    """Node a leads epoch 2, with its EPOCH record at 3 behind an instance that only it holds."""
    node = on_stage("a", log_of((1, ""), (1, "1.1")), state_of(members, 1))
    puppets = [Puppet(node, name, log_of((1, ""))) for name in followers]
    elected(node, *puppets)
    assert node.disk.log.end.position.epoch == 2
    assert node.disk.log.end.sequence == 3
    return node, puppets


def commits(node: PaperNode) -> list[int]:
    return [effect.point.sequence for effect in node.effects if isinstance(effect, fx.Committed)]


def test_what_an_older_epoch_left_is_not_committed_before_the_new_epoch_is() -> None:
    node, (one, other) = led_by_a("abc", "b", "c")
    one.confirms(2)
    other.confirms(2)
    assert commits(node) == []
    one.confirms(3)
    other.confirms(3)
    assert commits(node) == [3]


def test_a_confirmation_of_another_record_at_the_same_place_is_none() -> None:
    node, (follower,) = led_by_a("ab", "b")
    follower.confirms(3)
    ticket = node.cluster.offer("a", "1.2")
    node.cluster.run(10)
    follower.says(Confirmed(2, Point(2, 4, b"\0" * 32), 0))
    assert ticket not in node.settled
    assert follower.hung_up_on, "what it holds is not what the leader wrote"


def test_a_late_confirmation_of_an_older_epoch_neither_counts_nor_ends_a_stream() -> None:
    node, (follower,) = led_by_a("ab", "b")
    follower.confirms(3)
    ticket = node.cluster.offer("a", "1.2")
    node.cluster.run(10)
    follower.says(Confirmed(1, to_point(node.disk.log.end), 0))
    follower.says(Confirmed(1, to_point(node.disk.log.records[0].point), 0))
    assert ticket not in node.settled
    assert not follower.hung_up_on
    follower.confirms(4)
    assert node.settled[ticket] is Verdict.STORED


def test_what_a_follower_confirmed_does_not_count_any_more_when_it_begins_anew() -> None:
    """It had confirmed the instance, and comes back without it; the third member's word must not commit it."""
    node, (follower, other) = led_by_a("abc", "b", "c")
    follower.confirms(3)
    other.confirms(3)
    ticket = node.cluster.offer("a", "1.2")
    node.cluster.run(10)
    follower.confirms(4)
    del follower.log.records[3:]
    follower.log.durable_count = 3
    follower.says(Rejected(2, 2, to_point(follower.log.end), "it does not continue this log"))
    follower.follows()
    other.confirms(4)
    assert ticket not in node.settled
    follower.confirms(4)
    assert node.settled[ticket] is Verdict.STORED


def test_a_leader_whose_znode_is_gone_puts_it_back_though_the_first_attempt_is_lost() -> None:
    """Seeds 1006472 and 1008691: nobody told it to try again, and two sessions later the others elected somebody."""
    cluster = met("ab")
    leader = cluster.leader
    assert leader is not None
    epoch = cluster.state.epoch
    leader.unknown_next = "lost"
    cluster.drop_leader()
    cluster.run_until(lambda: cluster.service.leader == leader.identity, 1500)
    assert cluster.state.epoch == epoch
