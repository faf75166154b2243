"""A disk that a snapshot took back, promise and all: such a node may neither lead nor be counted before it was filled.
The other way to read it: whoever knows more than a leader does must not lose it to him.
"""

from copy import deepcopy

from tests.core.paper_cluster import PaperCluster
from tests.core.paper_disk import PaperDisk
from tests.core.test_damage import stored
from tests.core.test_scenarios import healthy, leader_of


def rolled_back(names: str, *, count: int = 20) -> tuple[PaperCluster, str, PaperDisk]:
    """A healthy cluster, one of its followers, and what that one's disk held before `count` more were stored."""
    cluster = healthy(names)
    follower = max(name for name in names if name != leader_of(cluster))
    stored(cluster, "1.0")
    cluster.run(100)
    before = deepcopy(cluster.disks[follower])
    for number in range(1, count + 1):
        stored(cluster, f"1.{number}")
    cluster.run(1100)
    return cluster, follower, before


def back_to(cluster: PaperCluster, name: str, disk: PaperDisk) -> None:
    """The node is down; its host comes back with the disk as it was."""
    assert name not in cluster.nodes
    cluster.disks[name] = disk


def everything_is_held(cluster: PaperCluster, *names: str) -> bool:
    disks = [cluster.disks[name] for name in names]
    return all(cluster.holds(disk, uid, dataset) for disk in disks for uid, dataset in cluster.promised.items())


def test_a_member_that_lacks_commits_is_out_of_the_set_before_it_is_fed() -> None:
    """While it is being fed again, all others die: what it holds by then is not enough to lead."""
    cluster, victim, before = rolled_back("abc")
    cluster.kill(victim)
    back_to(cluster, victim, before)
    cluster.start(victim)
    log = cluster.disks[victim].log
    held = len(log.records)
    cluster.run_until(lambda: len(log.records) > held)
    assert not everything_is_held(cluster, victim)
    others = [name for name in cluster.nodes if name != victim]
    for name in others:
        cluster.kill(name)
    cluster.run(15_000)
    assert cluster.leader is None, "it would lead without what was promised"
    for name in others:
        cluster.start(name)
    cluster.run_until(cluster.fully_redundant)
    assert everything_is_held(cluster, *"abc")
    cluster.check()


def test_a_leader_that_lacks_what_a_follower_knows_to_be_committed_gives_up_the_lead() -> None:
    """It waited for the other member, which was stopped, for as long as it must. It freezes; the other does not."""
    cluster = healthy("ab")
    victim = leader_of(cluster)
    other = "b" if victim == "a" else "a"
    stored(cluster, "1.0")
    before = deepcopy(cluster.disks[victim])
    for number in range(1, 6):
        stored(cluster, f"1.{number}")
    cluster.run(200)
    cluster.pause(other)
    cluster.kill(victim)
    back_to(cluster, victim, before)
    cluster.start(victim)
    cluster.run_until(lambda: cluster.leader is not None)
    cluster.resume(other)
    cluster.run_until(lambda: cluster.leader is not None and leader_of(cluster) == other)
    assert cluster.nodes[victim].frozen is not None
    assert cluster.nodes[other].frozen is None
    assert everything_is_held(cluster, other)
