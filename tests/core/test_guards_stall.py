"""A follower whose connection carries nothing any more, as after a flipped bit in the length of a frame: both ends
believe in it, and each waits for what never comes.
"""

from tests.core.hands import HandCluster, both, met


def silenced() -> tuple[HandCluster, str, str]:
    """A cluster in which nothing comes over the present links between the leader and a follower any more."""
    cluster = met()
    leader, follower = both(cluster)
    pair = {leader, follower}
    cluster.slow = {number for number, ends in cluster.links.items() if {ends[0].name, ends[1].name} == pair}
    return cluster, leader, follower


def test_a_follower_that_stalls_is_not_taken_back_before_it_moves_again() -> None:
    """Nothing is stored meanwhile, so it holds everything; it was taken in and thrown out five times a second."""
    cluster, _, follower = silenced()
    cluster.run_until(lambda: follower not in cluster.in_sync())
    without = cluster.state
    cluster.run(1500)
    assert cluster.state == without


def test_a_follower_whose_connection_carries_nothing_gets_a_new_one_and_is_in_the_set_again() -> None:
    cluster, _, follower = silenced()
    cluster.run_until(lambda: follower not in cluster.in_sync())
    cluster.run_until(cluster.fully_redundant, 5000)
    cluster.run(1000)
    assert cluster.fully_redundant()
