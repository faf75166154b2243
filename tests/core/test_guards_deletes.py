"""Guards around deletes: each by what happens without it (protocol, section 11; ADR 0011)."""

from replication.core import events as ev
from replication.core.effects import Verdict
from replication.core.situation import ConflictPolicy
from tests.core.hands import HandCluster, both, met
from tests.core.paper_deletes import STUDY, bury, hold, live, registered, tell_who_is_registered


def answered(cluster: HandCluster, name: str, ticket: int) -> Verdict:
    node = cluster.node(name)
    cluster.run_until(lambda: ticket in node.settled)
    return node.settled[ticket]


def stored(cluster: HandCluster, name: str, uid: str, content: bytes = b"") -> None:
    assert answered(cluster, name, cluster.offer(name, uid, content)) is Verdict.STORED


def deleted(cluster: HandCluster, name: str, uid: str) -> None:
    tell_who_is_registered(cluster)
    assert answered(cluster, name, bury(cluster, name, uid)) is Verdict.STORED


def hang_the_others(cluster: HandCluster, leader: str) -> None:
    """What is numbered from now on is committed nowhere."""
    for other in set("abc") - {leader}:
        cluster.node(other).disk_hangs = True


def test_a_delete_is_committed_on_every_member_and_hides_the_instance() -> None:
    cluster = met()
    leader, follower = both(cluster)
    stored(cluster, follower, "1.1")
    deleted(cluster, follower, "1.1")
    assert not any(live(cluster, name, "1.1") for name in "abc")
    assert live(cluster, leader, "1.1") == []


def test_what_is_stored_after_a_delete_is_a_new_instance_and_no_duplicate() -> None:
    cluster = met()
    leader, follower = both(cluster)
    stored(cluster, follower, "1.1")
    deleted(cluster, leader, "1.1")
    stored(cluster, follower, "1.1")
    assert all(len(live(cluster, name, "1.1")) == 1 for name in "abc")
    names = [record.header.path for record in cluster.disks[leader].log.records if record.uid == "1.1"]
    assert len(set(names)) == 2, "tar would let one overwrite the other"
    again = cluster.offer(follower, "1.1")
    assert answered(cluster, follower, again) is Verdict.DUPLICATE


def test_a_delete_on_its_way_hides_what_it_covers_from_whoever_stores_meanwhile() -> None:
    """Both are numbered and neither is committed: the store must not rest on what the tombstone before it covers."""
    cluster = met()
    leader, follower = both(cluster)
    stored(cluster, follower, "1.1")
    tell_who_is_registered(cluster)
    cluster.run(5)
    hang_the_others(cluster, leader)
    tombstone = bury(cluster, leader, "1.1")
    cluster.run(5)
    store = cluster.offer(leader, "1.1")
    cluster.run(20)
    assert not {tombstone, store} & cluster.node(leader).settled.keys()
    for other in set("abc") - {leader}:
        cluster.node(other).disk_turns_again()
    cluster.run_until(lambda: store in cluster.node(leader).settled)
    assert len(live(cluster, leader, "1.1")) == 1


def test_what_was_deleted_does_not_come_back_out_of_lost_and_found() -> None:
    cluster = met()
    leader, follower = both(cluster)
    stored(cluster, follower, "1.1")
    deleted(cluster, leader, "1.1")
    again = cluster.offer(follower, "1.1", again=True)
    assert answered(cluster, follower, again) is Verdict.DELETED
    assert not live(cluster, leader, "1.1")
    other = cluster.offer(follower, "1.2", again=True)
    assert answered(cluster, follower, other) is Verdict.STORED


def test_nothing_is_dropped_for_the_sake_of_a_delete_that_is_not_committed() -> None:
    cluster = met()
    leader, follower = both(cluster)
    stored(cluster, follower, "1.1")
    tell_who_is_registered(cluster)
    cluster.run(5)
    hang_the_others(cluster, leader)
    bury(cluster, leader, "1.1")
    cluster.run(5)
    again = cluster.offer(leader, "1.1", again=True)
    cluster.run(100)
    assert again not in cluster.node(leader).settled


def test_nothing_is_deleted_while_a_registered_node_does_not_follow() -> None:
    """It may lead an older epoch, deposed without knowing it, and call a store a duplicate of what is deleted."""
    cluster = met()
    leader, follower = both(cluster)
    stored(cluster, follower, "1.1")
    everybody = registered(cluster)
    cluster.pause(leader)
    cluster.run_until(lambda: cluster.leader is not None and cluster.leader.name != leader)
    second = cluster.leader
    assert second is not None
    cluster.run_until(lambda: leader not in cluster.in_sync())
    tell_who_is_registered(cluster, everybody)
    assert answered(cluster, second.name, bury(cluster, second.name, "1.1")) is Verdict.NOT_PROMISED
    cluster.resume(leader)
    duplicate = cluster.offer(leader, "1.1")
    assert answered(cluster, leader, duplicate) is Verdict.DUPLICATE
    assert live(cluster, second.name, "1.1"), "and so it is there"
    cluster.run_until(lambda: leader in cluster.in_sync())
    deleted(cluster, second.name, "1.1")


def test_nothing_is_deleted_before_the_leader_knows_who_is_registered() -> None:
    cluster = met()
    leader, follower = both(cluster)
    stored(cluster, follower, "1.1")
    assert answered(cluster, leader, bury(cluster, leader, "1.1")) is Verdict.NOT_PROMISED
    assert live(cluster, leader, "1.1")


def test_who_was_registered_in_an_older_epoch_says_nothing_in_this_one() -> None:
    """Whoever led between the two may have been registered since, and be deposed without knowing it."""
    cluster = met()
    leader, follower = both(cluster)
    stored(cluster, follower, "1.1")
    epoch = cluster.state.epoch
    cluster.node(leader).feed(ev.RegisteredSeen(epoch - 1, registered(cluster)))
    assert answered(cluster, leader, bury(cluster, leader, "1.1")) is Verdict.NOT_PROMISED
    cluster.node(leader).feed(ev.RegisteredSeen(epoch, registered(cluster)))
    assert answered(cluster, leader, bury(cluster, leader, "1.1", request="r2")) is Verdict.STORED


def test_a_delete_offered_again_to_the_next_leader_is_numbered_once() -> None:
    """Else an instance that was stored after the first would be gone with the second."""
    cluster = met()
    first, follower = both(cluster)
    stored(cluster, follower, "1.1")
    deleted(cluster, first, "1.1")
    stored(cluster, follower, "1.1")
    tell_who_is_registered(cluster)
    again = bury(cluster, first, "1.1")
    assert answered(cluster, first, again) is Verdict.DUPLICATE
    assert all(len(live(cluster, name, "1.1")) == 1 for name in "abc")


def test_a_study_on_hold_is_not_deleted_from_the_moment_that_the_hold_is_numbered() -> None:
    cluster = met()
    leader, follower = both(cluster)
    stored(cluster, follower, "1.1")
    tell_who_is_registered(cluster)
    cluster.run(5)
    cluster.node(leader).feed(ev.DataPathChanged("the disk does not answer"))
    held = hold(cluster, leader)
    refused = bury(cluster, leader, "1.1")
    cluster.run(20)
    assert cluster.disks[leader].log.hold(STUDY) == 0, "both wait, and will be numbered in one step"
    cluster.node(leader).feed(ev.DataPathChanged(None))
    assert answered(cluster, leader, refused) is Verdict.ON_HOLD
    assert cluster.node(leader).settled[held] is Verdict.STORED
    assert live(cluster, leader, "1.1")


def test_other_bytes_are_no_conflict_with_what_is_deleted() -> None:
    cluster = met(policy=ConflictPolicy.REFUSE)
    leader, follower = both(cluster)
    stored(cluster, follower, "1.1")
    assert answered(cluster, follower, cluster.offer(follower, "1.1", b"other")) is Verdict.CONFLICT_REFUSED
    deleted(cluster, leader, "1.1")
    stored(cluster, follower, "1.1", b"other")
    assert len(live(cluster, leader, "1.1")) == 1
