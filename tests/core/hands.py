"""A cluster on paper whose disks can hang and whose coordination service can be slow to answer, by a test's hand."""

from collections.abc import Callable
from dataclasses import replace

from replication.core import effects as fx
from replication.core import events as ev
from replication.core.situation import ConflictPolicy
from replication.core.values import CasOutcome, ClusterState
from tests.core.paper_cluster import PaperCluster
from tests.core.paper_disk import PaperDisk
from tests.core.paper_node import PaperNode


class HeldNode(PaperNode):
    """disk_hangs: neither the log nor the promise reaches the medium, and the process waits for both."""

    disk_hangs = False

    def __init__(self, cluster: PaperCluster, name: str, disk: PaperDisk, boot: str) -> None:
        super().__init__(cluster, name, disk, boot)
        self.unsynced: list[fx.Persist] = []

    def _do(self, event: ev.Event) -> None:
        if isinstance(event, ev.LocalDurable) and self.disk_hangs:
            self.disk.log.durable_count = self.replica.situation.ledger.durable.sequence
            return
        super()._do(event)

    def _carry_out(self, effect: fx.Effect) -> None:
        if isinstance(effect, fx.Persist) and self.disk_hangs:
            self.unsynced.append(effect)
            return
        super()._carry_out(effect)

    def disk_turns_again(self) -> None:
        self.disk_hangs = False
        waiting, self.unsynced = self.unsynced, []
        for effect in waiting:
            self._carry_out(effect)


class HandCluster(PaperCluster):
    """answers_come: whether what was read from the coordination service arrives.
    unanswered(state): whether a write of that state is lost without an answer.
    """

    def __init__(
        self, names: str = "abc", *, allow_solo: bool = False, policy: ConflictPolicy = ConflictPolicy.KEEP_FIRST
    ) -> None:
        super().__init__("", allow_solo=allow_solo)
        self.settings = replace(self.settings, conflict_policy=policy)
        self.answers_come = True
        self.unanswered: Callable[[ClusterState], bool] = lambda state: False
        self.disks = {name: PaperDisk(incarnation=f"disk-{name}") for name in names}
        for name in names:
            self.start(name)

    def start(self, name: str) -> HeldNode:
        node = HeldNode(self, name, self.disks[name], f"boot-{self.fresh()}")
        self.nodes[name] = node
        return node

    def node(self, name: str) -> HeldNode:
        found = self.nodes[name]
        assert isinstance(found, HeldNode)
        return found

    def read(self, node: PaperNode) -> None:
        if self.answers_come:
            super().read(node)

    def write(self, node: PaperNode, effect: fx.CreateState | fx.WriteState | fx.TakeLead | fx.RecreateLeader) -> None:
        if not isinstance(effect, fx.RecreateLeader) and self.unanswered(effect.state):
            unknown = ev.StateWritten(effect.request, CasOutcome.UNKNOWN, -1)
            self.wire.append((self.now, node, lambda: unknown))
        else:
            super().write(node, effect)

    # What holds now

    @property
    def state(self) -> ClusterState:
        assert self.service.state is not None
        return self.service.state.state

    def lost(self) -> list[str]:
        """Instances that were promised and are not on every disk."""
        return [
            uid
            for uid, dataset in self.promised.items()
            if not all(self.holds(disk, uid, dataset) for disk in self.disks.values())
        ]


def met(names: str = "abc", policy: ConflictPolicy = ConflictPolicy.KEEP_FIRST) -> HandCluster:
    """A healthy cluster whose processes are old enough not to wait any more for members that they never met."""
    cluster = HandCluster(names, policy=policy)
    cluster.run_until(lambda: cluster.leader is not None and cluster.in_sync() == set(names))
    cluster.run(6000)
    return cluster


def both(cluster: HandCluster) -> tuple[str, str]:
    """The leader, and one follower."""
    leader = cluster.leader
    assert leader is not None
    return leader.name, next(name for name in cluster.nodes if name != leader.name)
