"""Known damage (ADR 0006): no Success rests on a record that a node in charge of it knows to be damaged, and no such
node leads while a sound one can.
"""

import pytest

from replication.core.effects import Verdict
from replication.core.membership import desired_set
from replication.core.roles import MENDING_MS
from replication.core.values import Identity, Member, ReplicaId
from replication.messages import Damaged
from tests.core.paper_cluster import PaperCluster
from tests.core.test_scenarios import follower_of, healthy, leader_of

A, B, C = (Member(ReplicaId(name), "disk") for name in "abc")
NOBODY = set[Member]()


def stored(cluster: PaperCluster, uid: str, at: str | None = None) -> Verdict:
    name = at or leader_of(cluster)
    ticket = cluster.offer(name, uid)
    cluster.run_until(lambda: ticket in cluster.nodes[name].settled)
    return cluster.nodes[name].settled[ticket]


def sound_copies(cluster: PaperCluster, uid: str) -> int:
    return sum(cluster.holds(disk, uid, cluster.promised[uid]) for disk in cluster.disks.values())


@pytest.mark.parametrize("names", ["ab", "abc"])
def test_a_leader_that_learns_of_damage_hands_over(names: str) -> None:
    cluster = healthy(names)
    first = leader_of(cluster)
    stored(cluster, "1.2")
    assert cluster.rot(first, "1.2") == 1
    cluster.run_until(lambda: cluster.leader is not None and leader_of(cluster) != first, 2000)
    cluster.run(500)
    assert cluster.in_sync() == ({"a", "b"} if names == "ab" else set(names) - {first})
    cluster.check()


def test_the_same_instance_again_is_stored_anew_where_one_copy_of_two_is_damaged() -> None:
    """The review's case: Success was given while the leader knew that its own copy was gone."""
    cluster = healthy("ab")
    first = leader_of(cluster)
    stored(cluster, "1.2")
    cluster.rot(first, "1.2")
    assert stored(cluster, "1.2") is Verdict.STORED
    assert sound_copies(cluster, "1.2") == 2
    other = follower_of(cluster) if leader_of(cluster) == first else leader_of(cluster)
    cluster.kill(other)
    cluster.wipe(other)
    assert sound_copies(cluster, "1.2") == 1


def test_damage_at_a_follower_that_cannot_leave_counts_as_well() -> None:
    cluster = healthy("ab")
    follower = follower_of(cluster)
    stored(cluster, "1.2")
    cluster.rot(follower, "1.2")
    cluster.run(50)
    assert cluster.in_sync() == {"a", "b"}
    assert stored(cluster, "1.2") is Verdict.STORED
    assert sound_copies(cluster, "1.2") == 2
    assert stored(cluster, "1.2") is Verdict.DUPLICATE


def test_a_duplicate_does_not_overtake_the_news_of_damage() -> None:
    """A proposal takes the link that its node dialled, the stream that of the leader: here the stream's is slow."""
    cluster = healthy("ab")
    leader, follower = leader_of(cluster), follower_of(cluster)
    stored(cluster, "1.2")
    cluster.dial(follower, leader)
    cluster.run(200)
    stream = cluster.nodes[follower].replica.following.stream
    assert stream is not None
    end = cluster.disks[leader].log.end.sequence
    cluster.slow = {stream.link}
    cluster.rot(follower, "1.2")
    again = cluster.offer(follower, "1.2")
    cluster.run(100)
    assert again not in cluster.nodes[follower].settled
    assert cluster.disks[leader].log.end.sequence == end + 1, "it was stored anew"
    cluster.slow = set()
    cluster.run_until(lambda: again in cluster.nodes[follower].settled)
    assert sound_copies(cluster, "1.2") == 2


def test_the_last_word_on_damage_counts_whichever_link_it_takes() -> None:
    cluster = healthy()
    leader, follower = leader_of(cluster), follower_of(cluster)
    leadership = cluster.nodes[leader].replica.leadership
    assert leadership is not None
    peer = cluster.nodes[follower].identity
    leadership.streams.told_of_damage(peer, Damaged(2, []))
    leadership.streams.told_of_damage(peer, Damaged(1, [5]))
    assert leadership.streams.damage() == {}
    leadership.streams.told_of_damage(peer, Damaged(3, [5]))
    assert leadership.streams.damage().keys() == {peer.member}
    restarted = Identity(peer.id, peer.incarnation, "later")
    leadership.streams.told_of_damage(restarted, Damaged(0, []))
    assert leadership.streams.damage() == {}


def test_a_new_leader_learns_of_damage_before_it_answers_for_a_duplicate() -> None:
    cluster = healthy("ab")
    leader, follower = leader_of(cluster), follower_of(cluster)
    stored(cluster, "1.2")
    cluster.rot(follower, "1.2")
    cluster.kill(leader)
    cluster.run(100)
    cluster.start(leader)
    again = cluster.offer(leader, "1.2")
    cluster.run_until(lambda: again in cluster.nodes[leader].settled)
    assert cluster.nodes[leader].settled[again] is Verdict.STORED
    assert sound_copies(cluster, "1.2") == 2


def test_a_new_leader_answers_for_no_duplicate_before_every_member_said_what_it_lacks() -> None:
    cluster = healthy("ab")
    leader, follower = leader_of(cluster), follower_of(cluster)
    stored(cluster, "1.2")
    cluster.run(1500)
    cluster.rot(follower, "1.2")
    cluster.kill(leader)
    cluster.separate(leader, follower)
    cluster.start(leader)
    cluster.run_until(lambda: cluster.leader is not None)
    again = cluster.offer(leader, "1.2")
    cluster.run(1000)
    assert again not in cluster.nodes[leader].settled
    cluster.heal()
    cluster.run_until(lambda: again in cluster.nodes[leader].settled)
    assert cluster.nodes[leader].settled[again] is Verdict.STORED
    assert sound_copies(cluster, "1.2") == 2


def test_a_record_found_damaged_before_it_is_committed_is_written_again() -> None:
    cluster = healthy("ab")
    leader, follower = leader_of(cluster), follower_of(cluster)
    cluster.pause(follower)
    ticket = cluster.offer(leader, "1.2")
    cluster.run(10)
    assert cluster.rot(leader, "1.2") == 1
    cluster.resume(follower)
    cluster.run_until(lambda: ticket in cluster.nodes[leader].settled)
    assert cluster.nodes[leader].settled[ticket] is Verdict.STORED
    assert sound_copies(cluster, "1.2") == 2


def test_a_leader_waits_for_each_repair_of_what_is_not_committed_and_not_for_all_together() -> None:
    """The first was mended in time, long ago; the second has its own five seconds."""
    cluster = healthy("ab")
    leader, follower = leader_of(cluster), follower_of(cluster)
    stored(cluster, "1.1")
    cluster.pause(follower)
    cluster.offer(leader, "1.2")
    cluster.run(10)
    assert cluster.rot(leader, "1.2") == 1
    cluster.run(100)
    cluster.mend(leader)
    cluster.run(MENDING_MS)
    assert leader_of(cluster) == leader
    assert cluster.rot(leader, "1.2") == 1
    cluster.run(MENDING_MS // 2)
    assert leader_of(cluster) == leader
    cluster.mend(leader)
    cluster.run(MENDING_MS)
    assert cluster.rot(leader, "1.2") == 1
    cluster.run_until(lambda: cluster.leader is None, 2 * MENDING_MS)


def test_a_damaged_follower_leaves_the_set_and_returns_when_it_is_mended() -> None:
    cluster = healthy()
    follower = follower_of(cluster)
    stored(cluster, "1.2")
    cluster.rot(follower, "1.2")
    cluster.run_until(lambda: follower not in cluster.in_sync(), 1000)
    assert stored(cluster, "1.2") is Verdict.DUPLICATE, "two sound copies are left"
    cluster.kill(follower)
    cluster.start(follower)
    cluster.run(2000)
    assert follower not in cluster.in_sync()
    cluster.mend(follower)
    cluster.run_until(lambda: follower in cluster.in_sync(), 1000)


def test_a_damaged_follower_takes_the_place_of_one_that_is_away() -> None:
    cluster = healthy()
    leader = leader_of(cluster)
    damaged, away = set("abc") - {leader}
    stored(cluster, "1.2")
    cluster.rot(damaged, "1.2")
    cluster.run_until(lambda: damaged not in cluster.in_sync(), 1000)
    cluster.kill(away)
    cluster.run_until(lambda: cluster.in_sync() == {leader, damaged}, 1000)
    assert stored(cluster, "1.3") is Verdict.STORED
    assert stored(cluster, "1.2") is Verdict.STORED
    cluster.start(away)
    cluster.run_until(lambda: cluster.in_sync() == {leader, away})


def test_a_wiped_follower_is_filled_by_a_sound_member_when_the_leader_cannot() -> None:
    cluster = healthy()
    first, wiped = leader_of(cluster), follower_of(cluster)
    stored(cluster, "1.2")
    cluster.kill(wiped)
    cluster.run_until(lambda: wiped not in cluster.in_sync())
    cluster.wipe(wiped)
    cluster.rot(first, "1.2")
    cluster.start(wiped)
    cluster.run_until(lambda: cluster.holds(cluster.disks[wiped], "1.2", cluster.promised["1.2"]), 10_000)
    cluster.run_until(lambda: cluster.in_sync() == set("abc") - {first})


def test_where_nobody_is_sound_the_leader_stays() -> None:
    cluster = healthy("ab")
    first = leader_of(cluster)
    for name in "ab":
        stored(cluster, f"1.{name}")
    cluster.rot("b" if first == "a" else "a", "1.a")
    cluster.run(100)
    cluster.rot(first, "1.b")
    before = cluster.service.state
    cluster.run(30_000)
    assert cluster.service.state == before
    assert stored(cluster, "1.3") is Verdict.STORED


@pytest.mark.parametrize(
    ("current", "gone", "ready", "damaged", "wanted"),
    [
        ({A, B, C}, NOBODY, {B, C}, {B}, {A, C}),
        ({A, B}, NOBODY, {B}, {B}, {A, B}),
        ({A, C}, {C}, {B}, {B}, {A, B}),
        ({A, C}, NOBODY, {B, C}, {B}, {A, C}),
        ({A, B}, NOBODY, {B, C}, {B}, {A, C}),
        ({A, B, C}, {C}, {B}, {B}, {A, B}),
        ({A, B, C}, NOBODY, {B, C}, {A, B, C}, {A, B, C}),
    ],
)
def test_damaged_members_are_in_the_set_only_to_reach_the_minimum(
    current: set[Member], gone: set[Member], ready: set[Member], damaged: set[Member], wanted: set[Member]
) -> None:
    found = desired_set(
        current=frozenset(current), own=A, gone=gone, behind=(), ready=ready, damaged=damaged, minimum_copies=2
    )
    assert found == wanted
