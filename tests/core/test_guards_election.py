"""Who may stand, and what a candidate does first. Each test fails without the guard that names it
(tests/simulation/guards_replication.py).
"""

from dataclasses import replace

from replication.core import events as ev
from replication.core.election import Stage
from replication.core.values import VersionedState
from tests.core.paper_cluster import PaperCluster
from tests.core.puppets import log_of, on_stage, state_of, tell
from tests.core.test_damage import stored
from tests.core.test_guards_rolled_back import back_to, everything_is_held, rolled_back
from tests.core.test_scenarios import follower_of, healthy, leader_of

NEARLY_FULL = ev.DataPathChanged("the disk is nearly full")


def why_not(cluster: PaperCluster, name: str) -> str:
    """Why a node does not stand for election."""
    return cluster.nodes[name].replica.situation.not_standing or ""


def both_down(for_ms: int = 0) -> tuple[PaperCluster, str, str]:
    """Two nodes, neither running: one whose disk was rolled back, named first, and the last leader, which holds all."""
    cluster, victim, before = rolled_back("ab")
    last = leader_of(cluster)
    cluster.kill(victim)
    cluster.kill(last)
    cluster.run(for_ms)
    back_to(cluster, victim, before)
    return cluster, victim, last


def test_who_knows_of_damage_in_its_log_does_not_lead() -> None:
    cluster = healthy("ab")
    leader, follower = leader_of(cluster), follower_of(cluster)
    stored(cluster, "1.1")
    cluster.kill(leader)
    cluster.rot(follower, "1.1")
    cluster.run(10_000)
    assert cluster.leader is None
    assert "damaged" in why_not(cluster, follower)
    cluster.start(leader)
    cluster.run_until(lambda: cluster.leader is not None)
    assert leader_of(cluster) == leader


def test_who_lacks_the_floor_of_the_cluster_does_not_lead() -> None:
    """The site lost power; one host comes back with its disk as it was, and has nobody to ask."""
    cluster, victim, before = rolled_back("abc")
    away = next(name for name in "abc" if name not in (victim, leader_of(cluster)))
    cluster.kill(away)
    cluster.run_until(lambda: away not in cluster.in_sync())
    last = next(name for name in cluster.nodes if name != victim)
    cluster.kill(last)
    cluster.kill(victim)
    back_to(cluster, victim, before)
    cluster.start(victim)
    cluster.run(15_000)
    assert cluster.leader is None
    assert "lacks the floor" in why_not(cluster, victim)
    cluster.start(last)
    cluster.run_until(lambda: cluster.leader is not None)
    cluster.run_until(lambda: everything_is_held(cluster, last, victim))


def test_who_lacks_what_it_knew_to_be_committed_does_not_lead() -> None:
    """Only the log was put back from a backup: the floor beside it tells."""
    cluster, victim, before = rolled_back("ab")
    last = leader_of(cluster)
    cluster.kill(last)
    cluster.kill(victim)
    cluster.disks[victim].log = before.log
    cluster.start(victim)
    cluster.run(15_000)
    assert cluster.leader is None
    assert "its own floor" in why_not(cluster, victim)
    cluster.start(last)
    cluster.run_until(lambda: everything_is_held(cluster, last, victim))


def test_nobody_leads_after_the_coordination_service_went_back_to_an_older_set() -> None:
    """The node that left the set had read so; the state that names it again is one that was overtaken."""
    cluster = healthy("abc")
    old = cluster.service.state
    away = follower_of(cluster)
    others = [name for name in "abc" if name != away]
    for other in others:
        cluster.separate(away, other)
    cluster.run_until(lambda: away not in cluster.in_sync())
    stored(cluster, "1.1")
    for other in others:
        cluster.kill(other)
    assert old is not None
    cluster.service.state = VersionedState(replace(old.state, leader=None), old.version)
    cluster.run(15_000)
    assert cluster.leader is None, "it would lead without what was promised"
    assert "went back" in why_not(cluster, away)


def test_a_candidate_copies_a_longer_tail_from_a_member_that_cannot_lead() -> None:
    cluster, victim, last = both_down()
    cluster.start(last).feed(NEARLY_FULL)
    cluster.start(victim)
    cluster.run_until(lambda: cluster.leader is not None)
    assert leader_of(cluster) == victim
    assert everything_is_held(cluster, *"ab")
    cluster.run(1000)
    cluster.check()


def test_a_candidate_copies_a_longer_tail_from_a_member_that_stopped_writing() -> None:
    """Its disk refused a write: what it confirmed before, it still holds, and can be read."""
    cluster, victim, last = both_down()
    cluster.start(last).feed(ev.LocalFailed("fdatasync failed"))
    cluster.start(victim)
    cluster.run_until(lambda: cluster.leader is not None)
    assert leader_of(cluster) == victim
    assert everything_is_held(cluster, *"ab")


def test_who_held_more_and_went_away_while_it_was_copied_from_is_waited_for() -> None:
    """The copy is interrupted: as if it had never answered, the candidate has what time there is for it to be back."""
    cluster, victim, last = both_down()
    cluster.start(last).feed(NEARLY_FULL)
    replica = cluster.start(victim).replica
    cluster.run_until(lambda: replica.candidacy is not None and replica.candidacy.stage is Stage.COPYING)
    cluster.kill(last)
    cluster.run(2000)
    assert cluster.leader is None
    cluster.start(last).feed(NEARLY_FULL)
    cluster.run_until(lambda: cluster.leader is not None)
    assert leader_of(cluster) == victim
    assert everything_is_held(cluster, *"ab")


def test_a_member_that_comes_while_a_candidate_waits_is_asked() -> None:
    """It holds more, and cannot lead; unasked, it would be led by a node that lacks what was promised."""
    cluster, victim, last = both_down(for_ms=3000)
    cluster.start(victim)
    cluster.run(1000)
    cluster.start(last).feed(NEARLY_FULL)
    cluster.run_until(lambda: cluster.leader is not None)
    assert leader_of(cluster) == victim
    assert everything_is_held(cluster, *"ab")
    cluster.run(1000)
    cluster.check()


def test_a_node_that_has_just_started_meets_the_members_of_the_set_before_it_stands() -> None:
    """The whole site restarts, a rolled-back node a second before the one that holds more."""
    cluster, victim, last = both_down(for_ms=3000)
    cluster.start(victim)
    cluster.run(1000)
    cluster.start(last)
    cluster.run_until(lambda: cluster.leader is not None)
    cluster.run_until(lambda: everything_is_held(cluster, *"ab"))
    cluster.check()


def test_leads_in_vain_of_others_do_not_begin_the_wait_after_a_reboot_anew() -> None:
    """Node a is gone for good. Node c, of no set, leads through the tier again and again, which lacks records."""
    node = on_stage("b", log_of((1, ""), (1, "1.1")), state_of("ab", 1), rebooted=True)
    cluster, service = node.cluster, node.cluster.service
    rounds = cluster.settings.reboot_wait_ms // 5000
    for epoch in range(2, 2 + rounds):
        assert node.replica.leadership is None
        cluster.run(5000)
        tell(node, state_of("ab", epoch, leader="c", counter=epoch))
        cluster.run(1000)
        service.leader = None
        cluster.read(node)
    cluster.run_until(lambda: node.replica.leadership is not None, 5000)
