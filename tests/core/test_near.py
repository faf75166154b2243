"""Goal: a follower knows how far it is behind, and says it is near only while it does know (`/replica?max_lag=`).

Method: node b is real, its leader is a puppet.
"""

from replication.messages import Align, Heartbeat, OpenStream, StreamEnd, to_point
from storage.position import GENESIS, LogPoint, LogPosition
from tests.core.paper_node import PaperNode
from tests.core.puppets import Puppet, log_of, next_record, on_stage, state_of

FAR = LogPoint(LogPosition(1, 9), bytes(32))


def near(node: PaperNode, most: int | None, reached: int | None = None) -> str | None:
    following = node.replica.following
    return following.why_not_near(node.disk.log.end.sequence if reached is None else reached, most, 1000)


def test_it_hears_no_leader_before_one_calls_and_after_it_fell_silent() -> None:
    node = on_stage("b", log_of((1, ""), (1, "1.1")), state_of("abc", 1, leader="a"))
    assert near(node, None) == "this node hears no leader"
    leader = Puppet(node, "a")
    leader.leads(1)
    leader.says(Heartbeat(1, to_point(node.disk.log.end), ""))
    assert near(node, 0) is None
    node.cluster.run(1100)
    assert near(node, None) == "this node hears no leader"


def test_it_is_not_near_before_the_leader_has_said_how_far_it_is() -> None:
    node = on_stage("b", log_of((1, ""), (1, "1.1")), state_of("abc", 1, leader="a"))
    leader = Puppet(node, "a")
    leader.says(OpenStream(1, to_point(GENESIS)))
    comparing = "this node does not follow yet: it and the leader are comparing their logs"
    assert near(node, None) == comparing
    leader.says(Heartbeat(1, to_point(node.disk.log.end), ""))
    assert near(node, None) == comparing, "its tail may be about to be cut"
    leader.says(Align(1, leader.heard(StreamEnd)[-1].end))
    assert near(node, 0) is None


def test_it_counts_what_is_committed_and_not_here() -> None:
    node = on_stage("b", log_of((1, ""), (1, "1.1")), state_of("abc", 1, leader="a"))
    leader = Puppet(node, "a")
    leader.leads(1)
    leader.says(Heartbeat(1, to_point(FAR), ""))
    assert near(node, 6) == "this node is 7 records behind, more than 6"
    assert near(node, 7) is None
    assert near(node, None) is None
    leader.sends(next_record(node.disk.log, 1, "1.2"), node.disk.log.end, 1)
    assert near(node, 6) is None
    assert near(node, 6, reached=2) == "this node is 7 records behind, more than 6", "what is not indexed is not here"
