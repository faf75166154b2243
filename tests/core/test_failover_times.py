"""Goal: the phases of a change of leader are told by the node that leads afterwards, once, and add up to what it took.

Method: the paper cluster, whose clock is exact; each node is looked at after each step, as its driver does.
"""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

from replication.core import events as ev
from replication.core.replica import Replica
from replication.core.values import Phase
from replication.failover import Failovers
from tests.core.paper_cluster import STEP_MS, PaperCluster


class Watched:
    """A paper cluster of three with a stopwatch on each node. led_ms: when the present leader took the lead."""

    def __init__(self) -> None:
        self.cluster = PaperCluster()
        self.of = {name: Failovers(node.replica) for name, node in self.cluster.nodes.items()}

    def start(self, name: str) -> None:
        self.of[name] = Failovers(self.cluster.start(name).replica)

    def run(self, ms: int = STEP_MS) -> None:
        for _ in range(0, ms, STEP_MS):
            self.cluster.run(STEP_MS)
            for name in self.cluster.nodes:
                self.of[name].look(self.cluster.now)

    def led_by(self, *names: str) -> str:
        """Run until one of these leads; return it."""
        for _ in range(30_000 // STEP_MS):
            self.run()
            if (leader := self.cluster.leader) is not None and leader.name in names:
                return leader.name
        raise AssertionError("nobody of them leads")

    def counted(self, name: str) -> list[int]:
        return [sum(timing.counts) for timing in self.of[name].report().values()]

    def ms(self, name: str) -> list[int]:
        return [round(timing.total * 1000) for timing in self.of[name].report().values()]


def test_the_first_leader_detects_nothing_and_the_others_tell_nothing() -> None:
    watched = Watched()
    first = watched.led_by(*"abc")
    assert watched.counted(first) == [0, 1, 1]
    assert [watched.counted(name) for name in "abc" if name != first] == [[0, 0, 0], [0, 0, 0]]
    watched.run(3000)
    assert watched.counted(first) == [0, 1, 1], "a leader that goes on leading counts once"


def test_the_phases_of_a_killed_leader_add_up_to_the_gap_and_its_successor_alone_tells_them() -> None:
    watched = Watched()
    first = watched.led_by(*"abc")
    watched.run(3000)
    killed_ms = watched.cluster.now
    watched.cluster.kill(first)
    rest = [name for name in "abc" if name != first]
    second = watched.led_by(*rest)
    gap_ms = watched.cluster.now - killed_ms
    (third,) = (name for name in rest if name != second)
    assert (watched.counted(second), watched.counted(third)) == ([1, 1, 1], [0, 0, 0])
    heartbeat_ms = watched.cluster.settings.heartbeat_ms
    assert gap_ms <= sum(watched.ms(second)) <= gap_ms + heartbeat_ms + STEP_MS
    detect_ms, elect_ms, recover_ms = watched.ms(second)
    assert detect_ms >= watched.cluster.settings.session_timeout_ms, "its session has to end first"
    assert 0 < elect_ms < detect_ms and 0 <= recover_ms < detect_ms


def test_a_switchover_counts_and_what_a_node_led_before_is_no_time_without_a_leader() -> None:
    watched = Watched()
    first = watched.led_by(*"abc")
    watched.run(3000)
    watched.cluster.nodes[first].feed(ev.HandOverRequested(None, 0, final=False))
    second = watched.led_by(*(name for name in "abc" if name != first))
    watched.run(3000)
    assert watched.counted(second) == [1, 1, 1]
    watched.cluster.nodes[second].feed(ev.HandOverRequested(watched.cluster.nodes[first].name, 0, final=False))
    assert watched.led_by(first) == first
    assert watched.counted(first) == [1, 2, 2]
    assert watched.ms(first)[0] < 3000


@dataclass
class Part:
    """In place of a core: the parts that a node plays, as a test says, and the stopwatch on it."""

    leadership: Any = None
    candidacy: Any = None
    following: Any = field(default_factory=lambda: SimpleNamespace(stream=None))
    situation: Any = field(
        default_factory=lambda: SimpleNamespace(ports=SimpleNamespace(catalogue=SimpleNamespace(complete=True)))
    )

    def __post_init__(self) -> None:
        self.watch = Failovers(cast(Replica, self))

    def follows(self, now_ms: int) -> None:
        self.leadership, self.candidacy = None, None
        self.following = SimpleNamespace(stream=SimpleNamespace(heard_ms=now_ms))
        self.watch.look(now_ms)

    def nobody_leads(self, now_ms: int) -> None:
        self.leadership, self.candidacy = None, None
        self.following = SimpleNamespace(stream=None)
        self.watch.look(now_ms)

    def stands(self, now_ms: int) -> None:
        self.candidacy = SimpleNamespace()
        self.watch.look(now_ms)

    def leads(self, now_ms: int, phase: Phase = Phase.ACTIVE) -> None:
        self.candidacy = None
        if self.leadership is None:
            self.leadership = SimpleNamespace()
        self.leadership.phase = phase
        self.watch.look(now_ms)

    def ms(self) -> list[int]:
        return [round(timing.total * 1000) for timing in self.watch.report().values()]


def test_several_attempts_are_one_election_and_one_that_another_won_counts_nowhere() -> None:
    node = Part()
    node.follows(1000)
    node.stands(4000)
    node.nobody_leads(4100)
    node.follows(5000)  # another one won
    assert node.ms() == [0, 0, 0]
    node.nobody_leads(9000)
    node.stands(9010)
    node.nobody_leads(9100)
    node.stands(9300)
    node.leads(9500, Phase.RECOVERING)
    assert node.ms() == [0, 0, 0]
    node.leads(9900)
    assert node.ms() == [4010, 490, 400]


def test_who_steps_down_and_leads_again_counts_from_its_own_stepping_down() -> None:
    node = Part()
    node.follows(1000)
    node.stands(2000)
    node.leads(3000)
    before = node.ms()
    node.nobody_leads(60_000)
    node.stands(60_500)
    node.leads(61_000)
    assert [now - then for now, then in zip(node.ms(), before, strict=True)] == [500, 500, 0]


def test_a_catalogue_that_is_not_complete_yet_is_part_of_the_recovery() -> None:
    node = Part()
    node.situation.ports.catalogue.complete = False
    node.leads(1000)
    assert node.ms() == [0, 0, 0]
    node.situation.ports.catalogue.complete = True
    node.leads(1700)
    assert node.ms() == [0, 0, 700]
