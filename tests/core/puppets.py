"""One real node among puppets: peers that say what the test puts into their mouths, and hear all that is sent to them.

A puppet has a disk, so that copies are counted, and no will: what it does not say is held back, or was lost.
"""

from dataclasses import replace
from typing import TypeVar

from blake3 import blake3

from replication.core import effects as fx
from replication.core import events as ev
from replication.core.ledger import Ledger
from replication.core.reconcile import epoch_table
from replication.core.values import Change, ClusterState, Identity, Member, Phase, ReplicaId, TierMode, VersionedState
from replication.messages import (
    Align,
    Aligned,
    Confirmed,
    Message,
    OpenStream,
    StreamEnd,
    Survey,
    SurveyAnswer,
    to_point,
)
from storage.position import GENESIS, LogPoint, LogPosition, RecordHeader, RecordKind, chain_after
from tests.core.paper_cluster import STEP_MS, PaperCluster
from tests.core.paper_disk import PaperDisk, PaperLog, PaperRecord
from tests.core.paper_node import PaperNode, epoch_record

M = TypeVar("M", bound=Message)


def identity(name: str) -> Identity:
    return Identity(ReplicaId(name), f"disk-{name}", f"boot-{name}")


def next_record(log: PaperLog, epoch: int, uid: str = "") -> PaperRecord:
    """The record that continues a log: an instance, or the EPOCH record where there is no `uid`."""
    position = LogPosition(epoch, log.end.sequence + 1)
    header, _ = epoch_record(position, 0)
    if uid:
        digest = blake3(uid.encode()).digest()
        header = RecordHeader(position, RecordKind.INSTANCE, digest, digest, 0, f"study/series/{uid}.dcm", 1000)
    return PaperRecord(header, chain_after(log.end.chain, header), uid)


def log_of(*records: tuple[int, str]) -> PaperLog:
    """A log whose records all are durable, each given as its epoch and UID."""
    log = PaperLog()
    for epoch, uid in records:
        log.records.append(next_record(log, epoch, uid))
        log.durable_count += 1
    return log


def state_of(members: str, epoch: int, leader: str = "", counter: int = 1) -> ClusterState:
    in_sync = frozenset(Member(ReplicaId(name), f"disk-{name}") for name in members)
    leads = identity(leader) if leader else None
    return ClusterState(Change(counter, f"change-{counter}"), epoch, leads, Phase.ACTIVE, in_sync)


def on_stage(
    name: str,
    log: PaperLog,
    state: ClusterState,
    *,
    reads: bool = True,
    tier: TierMode = TierMode.OFF,
    rebooted: bool = False,
) -> PaperNode:
    """The one real node, which has read `state` unless the coordination service is away: then that must come `up`.

    Its disk has promised the epoch that its log ends in; whom `state` names as the leader is alive.
    """
    cluster = PaperCluster("")
    cluster.settings = replace(cluster.settings, tier_mode=tier, host_rebooted=rebooted)
    cluster.disks[name] = PaperDisk(log, f"disk-{name}", promise=log.end.epoch)
    node = cluster.start(name)
    tell(node, state)
    cluster.service.up = reads
    cluster.run(50)
    return node


def tell(node: PaperNode, state: ClusterState) -> None:
    """The coordination service has this state from now on, and says so."""
    service = node.cluster.service
    version = service.state.version + 1 if service.state else 1
    service.state, service.leader = VersionedState(state, version), state.leader
    if node.connected:
        node.cluster.read(node)


class Puppet:
    """A peer of the real node, over one link."""

    def __init__(self, node: PaperNode, name: str, log: PaperLog | None = None) -> None:
        self.node = node
        self.cluster = node.cluster
        self.identity = identity(name)
        self.log = log or PaperLog()
        self.cluster.disks[name] = PaperDisk(self.log, self.identity.incarnation)
        self.link = self.cluster.fresh()
        node.feed(ev.LinkUp(self.link, self.identity, dialled=True))

    def says(self, message: Message) -> None:
        self.node.feed(ev.Received(self.link, self.identity, message))
        self.cluster.run(STEP_MS)

    def heard(self, kind: type[M]) -> list[M]:
        """Everything of one kind that the node ever sent here."""
        sent = [e.message for e in self.node.effects if isinstance(e, fx.Send) and e.link == self.link]
        return [message for message in sent if isinstance(message, kind)]

    @property
    def hung_up_on(self) -> bool:
        return any(isinstance(e, fx.CloseLink) and e.link == self.link for e in self.node.effects)

    # As a leader

    def leads(self, epoch: int) -> None:
        """Open a stream, and align it where the node's log ends."""
        self.says(OpenStream(epoch, to_point(GENESIS)))
        self.says(Align(epoch, self.heard(StreamEnd)[-1].end))
        assert self.heard(Aligned)[-1].epoch == epoch

    def sends(self, record: PaperRecord, previous: LogPoint, epoch: int) -> None:
        handle = self.cluster.fresh()
        self.node.staged[handle] = record
        arrived = ev.RecordReceived(
            self.link, self.identity, epoch, previous, GENESIS, record.header, record.chain, handle
        )
        self.node.feed(arrived)
        self.cluster.run(STEP_MS)

    # As a member that a candidate asks, and a follower that a leader feeds

    def answers_the_survey(self) -> None:
        asked = self.heard(Survey)[-1]
        self.says(SurveyAnswer(asked.nonce, 0, to_point(self.log.durable), True, False, 0))

    def follows(self) -> None:
        """Answer the last `OpenStream`, and align as told."""
        epoch = self.heard(OpenStream)[-1].epoch
        table = epoch_table(Ledger(self.log))
        self.says(StreamEnd(epoch, epoch, to_point(self.log.end), table, to_point(GENESIS)))
        point = self.heard(Align)[-1].point
        del self.log.records[point.sequence :]
        self.log.durable_count = point.sequence
        self.says(Aligned(epoch, point))

    def confirms(self, sequence: int) -> None:
        """Write what the leader has up to there, and say so."""
        self.log.records = self.node.disk.log.records[:sequence]
        self.log.durable_count = sequence
        self.says(Confirmed(self.heard(OpenStream)[-1].epoch, to_point(self.log.end), 0))


def elected(node: PaperNode, *puppets: Puppet) -> None:
    """The node asks, they all answer, it leads, they follow."""
    node.cluster.run_until(lambda: all(puppet.heard(Survey) for puppet in puppets), 1000)
    for puppet in puppets:
        puppet.answers_the_survey()
    node.cluster.run_until(lambda: all(puppet.heard(OpenStream) for puppet in puppets), 2000)
    for puppet in puppets:
        puppet.follows()
