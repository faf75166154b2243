"""Guards around what counts toward a Success: each by what is promised without it, on too few disks."""

import pytest

from replication.core.effects import Verdict
from replication.messages import Rejected, to_point
from tests.core.hands import HandCluster, both, met
from tests.core.paper_disk import PaperDisk
from tests.core.test_guards_leader import led_by_a


def test_what_the_leaders_own_disk_does_not_hold_is_not_committed_by_two_others_that_do() -> None:
    """It is a member of the set as they are: after a power cut it would lead without what it promised."""
    cluster = met("abc")
    leader, _ = both(cluster)
    cluster.node(leader).disk_hangs = True
    ticket = cluster.offer(leader, "1.1")
    cluster.run(50)
    held = [name for name in "abc" if len(cluster.disks[name].log.records) == cluster.disks[name].log.durable_count]
    assert set(held) == set("abc") - {leader}
    assert ticket not in cluster.nodes[leader].settled
    cluster.node(leader).disk_turns_again()
    cluster.offer(leader, "1.2")
    cluster.run_until(lambda: cluster.nodes[leader].settled.get(ticket) is Verdict.STORED)


def test_what_a_follower_has_written_and_not_synced_does_not_count() -> None:
    cluster = met("ab")
    leader, follower = both(cluster)
    cluster.node(follower).disk_hangs = True
    ticket = cluster.offer(leader, "1.1")
    cluster.run(50)
    assert len(cluster.disks[follower].log.records) > cluster.disks[follower].log.durable_count
    assert ticket not in cluster.nodes[leader].settled
    cluster.node(follower).disk_turns_again()
    cluster.offer(leader, "1.2")
    cluster.run_until(lambda: cluster.nodes[leader].settled.get(ticket) is Verdict.STORED)


def test_one_copy_is_not_enough_though_the_set_names_nobody_else() -> None:
    """A cluster that was just made, of which one node is there."""
    cluster = HandCluster("a")
    cluster.run_until(lambda: cluster.leader is not None)
    ticket = cluster.offer("a", "1.1")
    cluster.run(3000)
    assert ticket not in cluster.nodes["a"].settled
    cluster.disks["b"] = PaperDisk(incarnation="disk-b")
    cluster.start("b")
    cluster.run_until(lambda: cluster.nodes["a"].settled.get(ticket) is Verdict.STORED)


def test_who_has_confirmed_nothing_is_not_taken_into_the_set() -> None:
    node, (member, joiner) = led_by_a("ab", "b", "c")
    member.confirms(3)
    node.cluster.run(300)
    assert node.cluster.in_sync() == {"a", "b"}
    joiner.confirms(3)
    node.cluster.run_until(lambda: node.cluster.in_sync() == {"a", "b", "c"}, 1000)


def test_a_leader_that_hears_of_a_later_promise_leads_no_longer() -> None:
    """Somebody stands, or has stood: what is acknowledged now may be cut by whoever won."""
    node, (follower,) = led_by_a("ab", "b")
    follower.confirms(3)
    assert node.replica.leadership is not None
    follower.says(Rejected(2, 7, to_point(follower.log.end), "a later epoch was promised here"))
    leadership = node.replica.leadership
    assert leadership is None or leadership.epoch > 7


def test_a_duplicate_of_what_only_the_leader_holds_is_no_success() -> None:
    cluster = met("ab")
    leader, follower = both(cluster)
    cluster.pause(follower)
    first = cluster.offer(leader, "1.1")
    again = cluster.offer(leader, "1.1")
    cluster.run(50)
    assert not {first, again} & cluster.nodes[leader].settled.keys()
    cluster.resume(follower)
    cluster.run_until(lambda: cluster.nodes[leader].settled.get(again) is Verdict.DUPLICATE)


def copies(cluster: HandCluster, uid: str) -> int:
    """How many disks hold an instance in a record that is not rotten."""
    return sum(cluster.holds(disk, uid, cluster.promised[uid]) for disk in cluster.disks.values())


@pytest.mark.parametrize("leaders", [False, True])
def test_no_success_rests_on_a_copy_that_its_holder_knows_to_be_damaged(leaders: bool) -> None:
    """Nobody can leave a set of two. Sent again, the instance is written again, though by their index both have it.

    leaders: the leader's copy, and the follower cannot take the lead from it, since another record is damaged there.
    """
    cluster = met("ab")
    leader, follower = both(cluster)
    first = {cluster.offer(leader, uid) for uid in ("1.1", "1.2")}
    cluster.run_until(lambda: first <= cluster.nodes[leader].settled.keys())
    cluster.rot(follower, "1.2" if leaders else "1.1")
    cluster.run(50)
    if leaders:
        cluster.rot(leader, "1.1")
    again = cluster.offer(leader, "1.1")
    cluster.run_until(lambda: again in cluster.nodes[leader].settled)
    assert cluster.leader is cluster.nodes[leader]
    assert cluster.nodes[leader].settled[again] is Verdict.STORED
    assert copies(cluster, "1.1") == 2
