"""Scenarios of the protocol, each a short transcript: what happens, and what must hold then."""

from dataclasses import replace

from replication.core import events as ev
from replication.core.effects import Verdict
from replication.core.values import Identity, Phase, ReplicaId, Transfer, VersionedState
from replication.messages import Message, OpenStream, StreamEnd, Survey, to_point
from storage.position import GENESIS
from tests.core.paper_cluster import PaperCluster
from tests.core.paper_node import PaperNode


def healthy(names: str = "abc") -> PaperCluster:
    cluster = PaperCluster(names)
    cluster.run_until(lambda: cluster.leader is not None and cluster.in_sync() == set(names))
    return cluster


def leader_of(cluster: PaperCluster) -> str:
    assert cluster.leader is not None
    return cluster.leader.name


def follower_of(cluster: PaperCluster) -> str:
    return next(name for name in cluster.nodes if name != leader_of(cluster))


def test_three_empty_nodes_become_a_cluster_that_acknowledges() -> None:
    cluster = healthy()
    ticket = cluster.offer(leader_of(cluster), "1.2.3")
    cluster.run(200)
    assert cluster.nodes[leader_of(cluster)].settled[ticket] is Verdict.STORED
    cluster.check()


def test_a_follower_takes_writes_and_answers_when_they_are_committed() -> None:
    cluster = healthy()
    follower = follower_of(cluster)
    ticket = cluster.offer(follower, "1.2.3")
    cluster.run(200)
    assert cluster.nodes[follower].settled[ticket] is Verdict.STORED
    assert cluster.promised.keys() == {"1.2.3"}


def test_the_leader_is_killed_and_a_store_at_a_follower_survives_it() -> None:
    cluster = healthy()
    first, follower = leader_of(cluster), follower_of(cluster)
    ticket = cluster.offer(follower, "1.2.3")
    cluster.run(10)
    cluster.kill(first)
    cluster.run_until(lambda: ticket in cluster.nodes[follower].settled)
    assert cluster.nodes[follower].settled[ticket] in (Verdict.STORED, Verdict.DUPLICATE)
    assert leader_of(cluster) != first
    cluster.check()


def test_a_paused_leader_steps_down_and_is_not_believed() -> None:
    cluster = healthy()
    first, follower = leader_of(cluster), follower_of(cluster)
    late = cluster.offer(first, "1.1")
    cluster.pause(first)
    cluster.run_until(lambda: cluster.leader is not None)
    ticket = cluster.offer(follower, "1.2")
    cluster.run_until(lambda: ticket in cluster.nodes[follower].settled)
    assert cluster.nodes[follower].settled[ticket] is Verdict.STORED
    cluster.resume(first)
    cluster.run_until(lambda: cluster.in_sync() == {"a", "b", "c"})
    assert cluster.nodes[first].replica.leadership is None
    assert late in cluster.nodes[first].settled
    cluster.check()


def test_a_wiped_follower_returns_as_a_new_incarnation_and_is_filled() -> None:
    cluster = healthy()
    follower = follower_of(cluster)
    for number in range(20):
        cluster.offer(leader_of(cluster), f"1.{number}")
    cluster.run(500)
    cluster.kill(follower)
    cluster.run_until(lambda: follower not in cluster.in_sync())
    cluster.wipe(follower)
    cluster.start(follower)
    cluster.run_until(lambda: follower in cluster.in_sync())
    disk = cluster.disks[follower]
    assert all(cluster.holds(disk, uid, dataset) for uid, dataset in cluster.promised.items())
    assert len(cluster.promised) == 20


def test_two_nodes_refuse_writes_while_one_is_away_and_take_them_again_when_it_is_wiped_and_back() -> None:
    cluster = healthy("ab")
    leader, follower = leader_of(cluster), follower_of(cluster)
    cluster.kill(follower)
    cluster.run(2000)
    assert cluster.in_sync() == {"a", "b"}
    assert "copies" in (cluster.nodes[leader].replica.refusal() or "")
    cluster.wipe(follower)
    cluster.start(follower)
    cluster.run_until(lambda: cluster.nodes[leader].replica.refusal() is None)
    ticket = cluster.offer(follower, "1.2")
    cluster.run_until(lambda: ticket in cluster.nodes[follower].settled)
    assert cluster.nodes[follower].settled[ticket] is Verdict.STORED


def test_a_divergent_tail_goes_to_lost_and_found() -> None:
    cluster = healthy()
    first = leader_of(cluster)
    for other in set("abc") - {first}:
        cluster.separate(first, other)
    cluster.offer(first, "9.9")
    cluster.run(10)
    cluster.kill(first)
    cluster.heal()
    cluster.run_until(lambda: cluster.leader is not None)
    cluster.start(first)
    cluster.run_until(lambda: cluster.in_sync() == {"a", "b", "c"})
    assert [r.uid for r in cluster.disks[first].log.lost_and_found] == ["9.9"]
    cluster.check()


def test_the_same_instance_again_is_answered_when_the_original_is_committed() -> None:
    cluster = healthy()
    leader = leader_of(cluster)
    first, again = cluster.offer(leader, "1.2.3"), cluster.offer(follower_of(cluster), "1.2.3")
    cluster.run(200)
    verdicts = {cluster.nodes[leader].settled[first], cluster.nodes[follower_of(cluster)].settled[again]}
    assert verdicts == {Verdict.STORED, Verdict.DUPLICATE}


def test_other_bytes_under_the_same_uid_are_kept_beside_the_first() -> None:
    cluster = healthy()
    leader = leader_of(cluster)
    cluster.offer(leader, "1.2.3")
    other = cluster.offer(leader, "1.2.3", b"other")
    cluster.run(200)
    assert cluster.nodes[leader].settled[other] is Verdict.CONFLICT_KEPT
    paths = [r.header.path for r in cluster.disks[leader].log.records if r.uid]
    assert len(paths) == len(set(paths)) == 2


def test_an_unknown_write_of_the_set_holds_answers_back_until_it_is_settled() -> None:
    cluster = healthy()
    leader, follower = leader_of(cluster), follower_of(cluster)
    cluster.nodes[leader].unknown_next = "late"
    cluster.kill(follower)
    cluster.run(1000)
    cluster.apply_late()
    ticket = cluster.offer(leader, "1.2.3")
    cluster.run_until(lambda: ticket in cluster.nodes[leader].settled)
    assert cluster.nodes[leader].settled[ticket] is Verdict.STORED
    assert follower not in cluster.in_sync()


def test_a_leader_whose_session_expired_goes_on_in_the_same_epoch() -> None:
    cluster = healthy()
    leader = leader_of(cluster)
    epoch = cluster.service.state.state.epoch if cluster.service.state else 0
    cluster.expire(leader)
    cluster.run(1000)
    assert leader_of(cluster) == leader
    assert cluster.service.state is not None and cluster.service.state.state.epoch == epoch


def test_a_switchover_names_the_follower_and_loses_nothing() -> None:
    from replication.core.events import HandOverRequested

    cluster = healthy()
    first, target = leader_of(cluster), follower_of(cluster)
    for number in range(5):
        cluster.offer(first, f"1.{number}")
    cluster.nodes[first].feed(HandOverRequested(ReplicaId(target), cluster.now * 1000, final=False))
    cluster.run_until(lambda: cluster.leader is not None and leader_of(cluster) == target)
    cluster.run(500)
    assert len(cluster.promised) == 5
    cluster.check()


def test_nothing_happens_for_a_minute_and_no_epoch_grows() -> None:
    cluster = healthy()
    before = cluster.service.state
    cluster.run(60_000)
    assert cluster.service.state == before


def test_a_leader_numbers_nothing_while_it_does_not_know_everything_that_it_holds() -> None:
    """Else the same instance, sent again, would be stored again, and other bytes under its UID not be noticed."""
    cluster = healthy()
    leader = leader_of(cluster)
    log = cluster.nodes[leader].disk.log
    log.complete = False
    end = log.end
    ticket = cluster.offer(leader, "1.2.3")
    cluster.run(300)
    assert ticket not in cluster.nodes[leader].settled
    assert log.end == end
    log.complete = True
    cluster.run(300)
    assert cluster.nodes[leader].settled[ticket] is Verdict.STORED
    cluster.check()


def test_a_new_leader_does_not_know_what_was_acknowledged_until_its_own_record_is_committed() -> None:
    cluster = healthy()
    first = leader_of(cluster)
    cluster.offer(first, "1.2")
    cluster.run(200)
    cluster.kill(first)
    seen: list[bool] = []

    def led() -> bool:
        for node in cluster.nodes.values():
            leadership = node.replica.leadership
            if leadership is not None and node.name != first and leadership.phase is Phase.ACTIVE:
                proven = node.replica.situation.committed.sequence >= leadership.epoch_record
                assert leadership.knows_commits is proven
                seen.append(proven)
        return True in seen

    cluster.run_until(led)
    assert False in seen, "it was active before it knew"


def test_an_epoch_that_no_election_can_have_reached_binds_nobody() -> None:
    """Whoever gets as far as the peer port must not be able to spend all epochs there are."""
    cluster = healthy()
    stranger = Identity(ReplicaId("x"), "disk", "boot")
    for number, node in enumerate(cluster.nodes.values(), 900):
        promised = node.replica.situation.promise
        node.feed(ev.LinkUp(number, stranger, dialled=False))
        node.feed(ev.Received(number, stranger, OpenStream(2**64 - 1, to_point(GENESIS))))
        node.feed(ev.Received(number, stranger, StreamEnd(1, 2**64 - 1, to_point(GENESIS), [], to_point(GENESIS))))
        cluster.run(100)
        assert node.replica.situation.wanted_promise == promised
    ticket = cluster.offer(leader_of(cluster), "1.2.3")
    cluster.run(200)
    assert cluster.nodes[leader_of(cluster)].settled[ticket] is Verdict.STORED


def test_a_leader_that_was_told_of_a_higher_epoch_does_not_stand_in_the_way() -> None:
    cluster = healthy()
    stranger = Identity(ReplicaId("x"), "disk", "boot")
    first = cluster.nodes[leader_of(cluster)]
    first.feed(ev.LinkUp(900, stranger, dialled=False))
    first.feed(ev.Received(900, stranger, OpenStream(50, to_point(GENESIS))))
    first.feed(ev.LinkDown(900))
    cluster.run(1)
    assert first.replica.leadership is None
    assert cluster.service.leader is None, "the seat is empty at once"
    cluster.run_until(lambda: cluster.leader is not None and cluster.in_sync() == {"a", "b", "c"}, 10_000)
    ticket = cluster.offer(leader_of(cluster), "1.2.3")
    cluster.run(500)
    assert cluster.nodes[leader_of(cluster)].settled[ticket] is Verdict.STORED


def test_no_two_records_are_called_alike() -> None:
    """UID `1.2` with other bytes, then a UID that ends like a sequence; and what has no UID worth the name."""
    cluster = healthy()
    leader = leader_of(cluster)
    for uid, content in (("1.2", b""), ("1.2", b"other"), *((f"1.2.{number}", b"") for number in range(12))):
        cluster.offer(leader, uid, content)
        cluster.run(100)
    paths = [record.header.path for record in cluster.disks[leader].log.records]
    assert len(paths) >= 14
    assert len(paths) == len(set(paths)), sorted(paths)


def test_a_node_that_may_not_lead_knows_why() -> None:
    cluster = healthy("ab")
    first, follower = leader_of(cluster), follower_of(cluster)
    cluster.kill(first)
    cluster.kill(follower)
    cluster.wipe(follower)
    cluster.start(follower)
    cluster.run(8000)
    assert cluster.leader is None
    assert cluster.nodes[follower].replica.situation.not_standing == "not in the in-sync set"


def test_a_node_whose_disk_was_full_follows_again_when_there_is_room_and_no_other_failure_is_forgiven() -> None:
    cluster = healthy()
    follower = cluster.nodes[follower_of(cluster)]
    follower.feed(ev.DataPathChanged("the disk is nearly full"))
    follower.feed(ev.LocalFailed("no room", full=True))
    cluster.run_until(lambda: follower.name not in cluster.in_sync())
    cluster.offer(leader_of(cluster), "1.2.3")
    cluster.run(500)
    follower.feed(ev.DataPathChanged(None))
    cluster.run_until(lambda: follower.name in cluster.in_sync())
    assert cluster.holds(follower.disk, "1.2.3", cluster.promised["1.2.3"])

    follower.feed(ev.LocalFailed("no room", full=True))
    follower.feed(ev.LocalFailed("fsync failed"))
    follower.feed(ev.DataPathChanged(None))
    cluster.run(2000)
    assert follower.replica.situation.fenced is not None
    assert follower.name not in cluster.in_sync()


def test_a_transfer_by_a_clock_that_was_hours_ahead_delays_an_election_by_seconds_only() -> None:
    cluster = healthy("ab")
    leader, target = leader_of(cluster), follower_of(cluster)
    cluster.kill(target)
    cluster.run(100)
    cluster.kill(leader)
    seen = cluster.service.state
    assert seen is not None
    transfer = Transfer(ReplicaId(target), cluster.now * 1000 + 3_600_000_000)
    cluster.service.state = VersionedState(replace(seen.state, transfer=transfer), seen.version)
    cluster.start(leader)
    cluster.run_until(lambda: cluster.leader is not None, 10_000)


def test_a_candidate_does_not_ask_again_and_again_while_another_still_hears_the_leader_that_is_gone() -> None:
    asked: list[int] = []

    class Listening(PaperCluster):
        def transmit(self, sender: PaperNode, link: int, message: Message) -> None:
            if isinstance(message, Survey):
                asked.append(self.now)
            super().transmit(sender, link, message)

    cluster = Listening()
    cluster.run_until(lambda: cluster.leader is not None and cluster.in_sync() == {"a", "b", "c"})
    first = leader_of(cluster)
    deaf, hearing = (name for name in cluster.nodes if name != first)
    cluster.run(6000)
    cluster.separate(first, deaf)
    cluster.run(5)
    cluster.pause(first)
    asked.clear()
    cluster.drop_leader()
    cluster.run_until(lambda: cluster.leader is not None)
    assert leader_of(cluster) in {deaf, hearing}
    assert 0 < len(asked) < 10, "a round trip takes 10 ms, and the leader is heard for 400 more"
    cluster.check()
