"""What a follower owes to its promise and to its log. Node b is real, its leaders are puppets; each test fails without
the guard that names it (tests/simulation/guards.py).
"""

import pytest
from msgspec.structs import replace

from replication.core import events as ev
from replication.messages import Align, Confirmed, Heartbeat, OpenStream, Rejected, StreamEnd, to_point
from storage.position import GENESIS, LogPoint
from tests.core.hands import both, met
from tests.core.paper_disk import PaperRecord
from tests.core.puppets import Puppet, log_of, next_record, on_stage, state_of, tell


def test_a_late_call_of_a_deposed_leader_takes_no_follower_away_from_its_successor() -> None:
    node = on_stage("b", log_of((1, "")), state_of("abc", 2, leader="c"))
    zombie, leader = Puppet(node, "a"), Puppet(node, "c")
    leader.leads(2)
    zombie.says(OpenStream(1, to_point(GENESIS)))
    assert [said.promise for said in zombie.heard(Rejected)] == [2]
    leader.sends(next_record(node.disk.log, 2), node.disk.log.end, 2)
    node.cluster.run(10)
    assert leader.heard(Confirmed)[-1].durable.sequence == 2


def test_a_deposed_leader_neither_adds_to_a_log_nor_cuts_it() -> None:
    """The stream of epoch 1 is still open when the state tells of epoch 2."""
    node = on_stage("b", log_of((1, ""), (1, "1.1")), state_of("abc", 1, leader="a"))
    zombie = Puppet(node, "a")
    zombie.leads(1)
    tell(node, state_of("abc", 2, leader="c", counter=2))
    node.cluster.run(10)
    before = list(node.disk.log.records)
    zombie.says(Align(1, to_point(before[0].point)))
    zombie.sends(next_record(node.disk.log, 1, "1.2"), node.disk.log.end, 1)
    assert node.disk.log.records == before
    assert [said.promise for said in zombie.heard(Rejected)] == [2, 2]


def test_a_log_that_grew_since_it_was_shown_is_not_cut_by_the_answer() -> None:
    """As a candidate the follower copied a longer tail, while what it had said to the leader was held up on its way."""
    node = on_stage("b", log_of((1, ""), (1, "1.1")), state_of("abc", 1, leader="a"))
    leader = Puppet(node, "a")
    leader.leads(1)
    first, last = (record.point for record in node.disk.log.records)
    leader.says(Align(1, to_point(first), to_point(first)))
    assert node.disk.log.end == last
    assert [said.reason for said in leader.heard(Rejected)] == ["its log ends elsewhere by now"]
    leader.says(Align(1, to_point(first), to_point(last)))
    assert node.disk.log.end == first, "what was shown as it is, is cut"


def test_a_leader_is_answered_only_when_its_epoch_is_on_the_disk() -> None:
    """The leader calls before the state tells of its epoch. Whoever follows it must not forget it in a power cut."""
    node = on_stage("b", log_of((1, "")), state_of("abc", 1, leader="a"))
    leader = Puppet(node, "c")
    leader.says(OpenStream(2, to_point(GENESIS)))
    assert leader.heard(StreamEnd)
    assert node.disk.promise == 2


def test_who_calls_before_the_state_was_read_is_not_followed_before_it_is() -> None:
    """The promise of b was rolled back with its disk: only the state tells that epoch 1 is over."""
    node = on_stage("b", log_of((1, "")), state_of("abc", 2, leader="c"), reads=False)
    zombie = Puppet(node, "a")
    zombie.says(OpenStream(1, to_point(GENESIS)))
    node.cluster.run(1000)
    node.cluster.service.up = True
    node.cluster.run(100)
    assert not zombie.heard(StreamEnd)
    assert [said.promise for said in zombie.heard(Rejected)] == [2]


def test_a_record_that_says_it_follows_on_something_else_is_refused() -> None:
    """Its chain fits: such a message contradicts itself, and nothing of it is believed."""
    node = on_stage("b", log_of((1, ""), (1, "1.1")), state_of("abc", 1, leader="a"))
    leader = Puppet(node, "a")
    leader.leads(1)
    leader.sends(next_record(node.disk.log, 1, "1.2"), node.disk.log.records[0].point, 1)
    assert node.disk.log.end.sequence == 2
    assert leader.heard(Rejected)


def test_a_record_whose_header_was_altered_on_its_way_is_refused() -> None:
    """The digest covers the payload only: the chain is what covers the rest, and what the log would hold for ever."""
    node = on_stage("b", log_of((1, ""), (1, "1.1")), state_of("abc", 1, leader="a"))
    leader = Puppet(node, "a")
    leader.leads(1)
    sound = next_record(node.disk.log, 1, "1.2")
    altered = PaperRecord(replace(sound.header, path="study/series/1.3.dcm"), sound.chain, sound.uid)
    leader.sends(altered, node.disk.log.end, 1)
    assert node.disk.log.end.sequence == 2
    assert leader.heard(Rejected)


@pytest.mark.parametrize("of", ["beyond-its-end", "of-an-older-epoch"])
def test_a_rebooted_follower_is_not_settled_by_a_commit_that_proves_nothing(of: str) -> None:
    """Settled, it would not wait for others after its next start, whatever its disk had lost: what was committed may
    lie beyond its end, and a leader that has committed nothing yet names what its predecessors had.
    """
    node = on_stage("b", log_of((1, ""), (1, "1.1")), state_of("abc", 2, leader="a"), rebooted=True)
    leader = Puppet(node, "a")
    leader.leads(2)
    record = next_record(node.disk.log, 2)
    leader.says(Heartbeat(2, to_point(record.point if of == "beyond-its-end" else node.disk.log.end)))
    assert node.replica.situation.unsettled
    leader.sends(record, node.disk.log.end, 2)
    node.cluster.run(10)
    leader.says(Heartbeat(2, to_point(record.point)))
    assert not node.replica.situation.unsettled


def test_a_follower_that_was_told_of_a_commit_freezes_rather_than_cut_it() -> None:
    node = on_stage("b", log_of((1, ""), (1, "1.1"), (1, "1.2")), state_of("abc", 1, leader="a"))
    first = Puppet(node, "a")
    first.leads(1)
    first.says(Heartbeat(1, to_point(node.disk.log.end)))
    tell(node, state_of("abc", 2, leader="c", counter=2))
    wrong = Puppet(node, "c")
    wrong.says(OpenStream(2, to_point(GENESIS)))
    wrong.says(Align(2, to_point(node.disk.log.records[1].point)))
    node.cluster.run(10)
    assert [record.uid for record in node.disk.log.records] == ["", "1.1", "1.2"]
    assert node.frozen is not None


def test_a_cut_that_found_no_room_is_not_waited_for_once_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the node neither follows nor stands again before it is restarted (simulation seed 40258)."""
    cluster = met("ab")
    first, other = both(cluster)
    cluster.separate(first, other)
    cluster.offer(first, "1.1")
    cluster.run(20)
    cluster.pause(first)
    cluster.run_until(lambda: cluster.leader is not None and cluster.leader.name == other)
    node = cluster.node(first)

    def no_room(_: LogPoint) -> None:
        node.feed(ev.LocalFailed("no room", full=True))

    with monkeypatch.context() as full:
        full.setattr(node, "_truncate", no_room)
        cluster.resume(first)
        cluster.heal()
        cluster.run_until(lambda: node.replica.situation.full)
    node.feed(ev.DataPathChanged(None))
    cluster.run_until(lambda: cluster.in_sync() == {first, other} and not node.replica.following.working)
    assert not node.replica.situation.fenced
