"""Guards around winning the lead and losing it: what each keeps from happening, played by hand."""

from dataclasses import replace

from msgspec.structs import replace as with_fields

from replication.core import effects as fx
from replication.core import events as ev
from replication.core.effects import Verdict
from replication.core.values import Phase, VersionedState
from storage.position import NO_DIGEST, chain_after
from tests.core.hands import HandCluster, HeldNode, both, met
from tests.core.paper_disk import PaperLog


def chains_hold(log: PaperLog) -> bool:
    """Whether each record's chain is what its header and the record before make it."""
    before = NO_DIGEST
    for record in log.records:
        if record.chain != chain_after(before, record.header):
            return False
        before = record.chain
    return True


def test_nobody_leads_an_epoch_before_its_own_promise_of_it_is_on_disk() -> None:
    """Killed in between, it would come back and confirm to the leader that it had put in the past."""
    cluster = met("ab")
    leader, follower = both(cluster)
    epoch = cluster.state.epoch
    cluster.kill(leader)
    cluster.node(follower).disk_hangs = True
    cluster.run(10_000)
    assert cluster.node(follower).replica.candidacy is not None
    assert (cluster.state.epoch, cluster.service.leader) == (epoch, None)
    cluster.node(follower).disk_turns_again()
    cluster.run_until(lambda: cluster.leader is cluster.node(follower))
    assert cluster.disks[follower].promise == cluster.state.epoch > epoch


def test_a_candidate_takes_no_record_of_a_longer_tail_that_its_chain_does_not_prove() -> None:
    """One field of the record's header was changed on its way, or on the other's disk; its chain is the old one."""
    cluster = met("ab")
    holder, candidate = both(cluster)
    cluster.separate(holder, candidate)
    cluster.offer(holder, "1.1")
    cluster.run(20)
    cluster.kill(holder)
    tail = cluster.disks[holder].log.records[-1]
    tail.header = with_fields(tail.header, time_us=tail.header.time_us + 1)
    cluster.start(holder).feed(ev.DataPathChanged("its disk is nearly full: it may not lead"))
    cluster.heal()
    cluster.run_until(lambda: cluster.leader is not None and cluster.leader.name == candidate)
    assert chains_hold(cluster.disks[candidate].log)


def test_a_leader_that_was_deposed_in_its_sleep_stops_though_no_other_node_can_tell_it() -> None:
    """It would go on to say of what its successor promised that there is no such instance."""
    cluster = met()
    first, _ = both(cluster)
    cluster.pause(first)
    cluster.run_until(lambda: cluster.leader is not None)
    for other in set("abc") - {first}:
        cluster.separate(first, other)
    cluster.resume(first)
    cluster.run(200)
    assert [node.name for node in cluster.active_leaders()] == [cluster.state.leader.id if cluster.state.leader else ""]


def test_a_leader_promises_nothing_more_when_the_cluster_state_goes_back_within_its_epoch() -> None:
    """The state is restored from a backup that names a member which was removed, and lacks what came afterwards."""
    cluster = met()
    leader, removed = both(cluster)
    backup = cluster.service.state
    cluster.kill(removed)
    cluster.run_until(lambda: removed not in cluster.in_sync())
    cluster.service.state = backup
    for node in cluster.nodes.values():
        cluster.read(node)
    cluster.run(50)
    ticket = cluster.offer(leader, "1.1")
    cluster.run(500)
    assert ticket not in cluster.nodes[leader].settled
    for name in list(cluster.nodes):
        cluster.kill(name)
    cluster.start(removed)
    cluster.run_until(lambda: cluster.leader is not None)
    for name in set("abc") - {removed}:
        cluster.start(name)
    cluster.run_until(cluster.fully_redundant)
    assert not cluster.lost()


def test_a_new_session_writes_nothing_before_it_has_read_what_it_writes_upon() -> None:
    """The service was restored, another change followed, and the version is the one that the leader knows."""
    cluster = met()
    leader, removed = both(cluster)
    cluster.kill(removed)
    cluster.run_until(lambda: removed not in cluster.in_sync())
    cluster.run(50)
    known = cluster.service.state
    assert known is not None
    leadership = cluster.nodes[leader].replica.leadership
    foreign = replace(known.state, change=replace(known.state.change, id="of somebody else"))
    cluster.answers_come = False
    cluster.service.state = VersionedState(foreign, known.version)
    cluster.expire(leader)
    cluster.start(removed)
    cluster.run(1000)
    assert cluster.state.change == foreign.change
    cluster.answers_come = True
    cluster.run(600)
    assert cluster.nodes[leader].replica.leadership is not leadership, "the state was changed behind its back"


def test_a_lead_is_not_active_before_its_epoch_record_is_on_disk() -> None:
    cluster = met("ab")
    leader, follower = both(cluster)
    cluster.kill(leader)
    cluster.run_until(lambda: cluster.disks[follower].promise > cluster.state.epoch)
    cluster.node(follower).disk_hangs = True
    cluster.start(leader)
    cluster.run(3000)
    assert cluster.node(follower).replica.leadership is not None
    assert cluster.state.phase is Phase.RECOVERING
    assert not cluster.active_leaders()
    cluster.node(follower).disk_turns_again()
    cluster.run_until(lambda: cluster.state.phase is Phase.ACTIVE)
    assert cluster.disks[follower].log.durable.epoch == cluster.state.epoch


def commits_before_it_led(node: HeldNode) -> int:
    """How many commit points a process announced before it announced its lead."""
    led = next(at for at, effect in enumerate(node.effects) if isinstance(effect, fx.LeadershipChanged))
    return sum(isinstance(effect, fx.Committed) for effect in node.effects[:led])


def test_a_lead_that_is_not_active_commits_nothing() -> None:
    """One copy is enough, its record is on disk, and whether the state says "active" is not known."""
    cluster = HandCluster("a", allow_solo=True)
    cluster.unanswered = lambda state: state.phase is Phase.ACTIVE
    cluster.run(3000)
    node = cluster.node("a")
    assert node.replica.leadership is not None
    assert cluster.state.phase is Phase.RECOVERING
    assert not [effect for effect in node.effects if isinstance(effect, fx.Committed)]
    cluster.unanswered = lambda state: False
    ticket = cluster.offer("a", "1.1")
    cluster.run_until(lambda: node.settled.get(ticket) is Verdict.STORED)
    assert commits_before_it_led(node) == 0
