"""Guards around what senders are told, and around streams that carry nothing: each by what happens without it."""

from replication.core import events as ev
from replication.core.effects import Verdict
from replication.core.situation import ConflictPolicy
from tests.core.hands import both, met


def test_a_conflict_is_refused_only_once_the_record_that_it_contradicts_is_committed() -> None:
    """The first version reaches no other node and dies with its leader: who was refused for its sake lost an image."""
    cluster = met(policy=ConflictPolicy.REFUSE)
    first, follower = both(cluster)
    for other in set("abc") - {first}:
        cluster.separate(first, other)
    cluster.offer(first, "1.1")
    refused = cluster.offer(first, "1.1", b"other bytes")
    cluster.run(100)
    assert refused not in cluster.nodes[first].settled
    cluster.kill(first)
    cluster.run_until(lambda: cluster.leader is not None)
    again = cluster.offer(follower, "1.1", b"other bytes")
    cluster.run_until(lambda: cluster.nodes[follower].settled.get(again) is Verdict.STORED)
    later = cluster.offer(follower, "1.1")
    cluster.run_until(lambda: later in cluster.nodes[follower].settled)
    assert cluster.nodes[follower].settled[later] is Verdict.CONFLICT_REFUSED


def test_an_answer_that_rested_on_a_record_of_a_lost_lead_is_not_given_by_the_next_one() -> None:
    """Ten records are numbered and never sent; all are cut, and their places are taken by others. Then the same node
    leads again: what it commits at an old place says nothing about the instance that was to lie there.
    """
    cluster = met("ab")
    first, other = both(cluster)
    cluster.separate(first, other)
    tickets = [cluster.offer(first, f"1.{number}") for number in range(10)]
    cluster.run(20)
    cut = cluster.disks[first].log.end
    cluster.pause(first)
    cluster.run_until(lambda: cluster.leader is not None)
    cluster.resume(first)
    cluster.heal()
    cluster.run(5)
    links = set(cluster.links)
    cluster.dial(first, other)
    cluster.slow = cluster.links.keys() - links  # what it offers to the new leader does not arrive
    for number in range(5):
        cluster.offer(other, f"2.{number}")
    cluster.run_until(lambda: len(cluster.promised) == 5)
    assert not set(tickets) & cluster.nodes[first].settled.keys()
    assert cluster.disks[first].log.end.sequence < cut.sequence
    cluster.kill(other)
    cluster.slow = set()
    cluster.run_until(lambda: cluster.leader is not None and cluster.leader.name == first)
    cluster.start(other)
    cluster.run_until(lambda: set(tickets) <= cluster.nodes[first].settled.keys())  # each Success is checked there
    assert {cluster.nodes[first].settled[ticket] for ticket in tickets} == {Verdict.STORED}
    cluster.check()


def test_a_node_that_stopped_writing_cuts_nothing_for_a_new_leader() -> None:
    """What lies on its disk is evidence: the failed disk must not be written to once more."""
    cluster = met()
    first, _ = both(cluster)
    for other in set("abc") - {first}:
        cluster.separate(first, other)
    cluster.offer(first, "9.9")
    cluster.run(10)
    cluster.nodes[first].feed(ev.LocalFailed("EIO"))
    end = cluster.disks[first].log.end
    cluster.run_until(lambda: cluster.leader is not None and cluster.leader.name != first)
    cluster.heal()
    cluster.run(2000)
    assert cluster.nodes[first].replica.situation.fenced
    assert cluster.disks[first].log.end == end
    assert not cluster.disks[first].log.lost_and_found


def test_a_link_on_which_an_offer_found_no_answer_is_not_asked_again() -> None:
    """What a follower offers goes over the newest link that it dialled, and nothing comes over that one."""
    cluster = met()
    leader, follower = both(cluster)
    links = set(cluster.links)
    cluster.dial(follower, leader)
    cluster.slow = cluster.links.keys() - links
    first = cluster.offer(follower, "1.1")
    cluster.run_until(lambda: first in cluster.nodes[follower].settled)
    assert cluster.nodes[follower].settled[first] is Verdict.NOT_PROMISED
    second = cluster.offer(follower, "1.1")
    cluster.run_until(lambda: second in cluster.nodes[follower].settled)
    assert cluster.nodes[follower].settled[second] is Verdict.STORED
