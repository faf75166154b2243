"""Hypothesis hurts a cluster on paper in every order it can think of; the promise must hold at each step."""

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.core.paper_cluster import PaperCluster

NAMES = "abc"
names = st.sampled_from(NAMES)


class ClusterMachine(RuleBasedStateMachine):
    """Kill, pause, separate, expire, wipe one disk, lose answers of the coordination service; then heal everything."""

    def __init__(self) -> None:
        super().__init__()
        self.cluster = PaperCluster(NAMES)
        self.uids = 0

    def up(self, name: str) -> bool:
        return name in self.cluster.nodes and not self.cluster.nodes[name].paused

    @rule(name=names, count=st.integers(1, 8))
    def store(self, name: str, count: int) -> None:
        for _ in range(count):
            if self.up(name):
                self.uids += 1
                self.cluster.offer(name, f"1.{self.uids}")

    @rule(name=names)
    def store_again(self, name: str) -> None:
        if self.up(name) and self.uids:
            self.cluster.offer(name, f"1.{self.uids}")

    @rule(ms=st.sampled_from([5, 10, 20, 50, 300, 1500, 4000]))
    def wait(self, ms: int) -> None:
        self.cluster.run(ms)

    @rule(name=names, host=st.booleans())
    def kill(self, name: str, host: bool) -> None:
        if name in self.cluster.nodes:
            self.cluster.resume(name)
            self.cluster.kill(name, host=host)

    @rule(name=names)
    def start(self, name: str) -> None:
        if name not in self.cluster.nodes:
            self.cluster.start(name)

    @rule(name=names)
    def pause(self, name: str) -> None:
        if self.up(name):
            self.cluster.pause(name)

    @rule(name=names)
    def resume(self, name: str) -> None:
        if name in self.cluster.nodes:
            self.cluster.resume(name)

    @rule(name=names)
    def expire(self, name: str) -> None:
        if self.up(name):
            self.cluster.expire(name)

    @rule(left=names, right=names)
    def separate(self, left: str, right: str) -> None:
        if left != right:
            self.cluster.separate(left, right)

    @rule()
    def heal(self) -> None:
        self.cluster.heal()

    @rule(name=names, fate=st.sampled_from(["lost", "late", "applied"]))
    def next_write_is_unknown(self, name: str, fate: str) -> None:
        if self.up(name):
            self.cluster.nodes[name].unknown_next = fate

    @rule()
    def apply_late(self) -> None:
        self.cluster.apply_late()

    @rule(up=st.booleans())
    def coordination(self, up: bool) -> None:
        self.cluster.service.up = up

    @precondition(lambda self: self.cluster.fully_redundant() and not self.rotten())
    @rule(name=names)
    def lose_one_disk(self, name: str) -> None:
        """The promise is about the loss of any one replica: a disk is lost only while all three hold everything."""
        if name in self.cluster.nodes:
            self.cluster.resume(name)
            self.cluster.kill(name)
            self.cluster.wipe(name)
            self.cluster.start(name)

    @precondition(lambda self: self.cluster.fully_redundant() and not self.rotten())
    @rule(name=names, last=st.integers(0, 3))
    def rot(self, name: str, last: int) -> None:
        """Damage at one node counts as the loss of one replica."""
        if name in self.cluster.nodes:
            self.cluster.rot(name, f"1.{self.uids - last}")

    @rule(name=names)
    def mend(self, name: str) -> None:
        self.cluster.mend(name)

    def rotten(self) -> bool:
        return any(disk.log.rotten for disk in self.cluster.disks.values())

    @invariant()
    def nothing_contradicts(self) -> None:
        self.cluster.check()

    def teardown(self) -> None:
        cluster = self.cluster
        cluster.service.up = True
        cluster.apply_late()
        cluster.heal()
        for name in NAMES:
            cluster.mend(name)
            if name in cluster.nodes:
                cluster.resume(name)
                cluster.nodes[name].unknown_next = ""
            else:
                cluster.start(name)
        cluster.run_until(cluster.fully_redundant, 40_000)
        leader = cluster.leader
        assert leader is not None
        ticket = cluster.offer(leader.name, "last")
        cluster.run_until(lambda: ticket in leader.settled, 5_000)
        cluster.run(200)
        assert "last" in cluster.promised, "writable again once the faults stopped"
        for disk in cluster.disks.values():
            for uid, dataset in cluster.promised.items():
                assert cluster.holds(disk, uid, dataset), f"{uid} was promised and is gone"
        cluster.check()


ClusterMachine.TestCase.settings = settings(
    stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
test_cluster_keeps_its_word = ClusterMachine.TestCase
