"""One node of a cluster on paper: the production core, and a driver that carries its effects out at the next step."""

from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING

from blake3 import blake3

from replication.core import effects as fx
from replication.core import events as ev
from replication.core.replica import Replica
from replication.core.situation import Ports
from replication.core.values import Identity, ReplicaId
from storage.position import NO_DIGEST, LogPoint, LogPosition, RecordHeader, RecordKind
from tests.core.paper_disk import PaperDisk, PaperRecord

if TYPE_CHECKING:
    from tests.core.paper_cluster import PaperCluster


class PaperNode:
    """One process of one node: the core, and a driver that carries its effects out at the next step."""

    def __init__(self, cluster: "PaperCluster", name: str, disk: PaperDisk, boot: str) -> None:
        self.cluster = cluster
        self.name = ReplicaId(name)
        self.disk = disk
        self.identity = Identity(self.name, disk.incarnation, boot)
        self.session = cluster.fresh()
        self.connected = False
        self.paused = False
        self.unknown_next = ""
        self.uids: dict[int, ev.Proposed] = {}
        self.staged: dict[int, PaperRecord] = {}
        self.senders: dict[int, tuple[int, int]] = {}
        self.inbox: deque[ev.Event] = deque()
        self.settled: dict[int, fx.Verdict] = {}
        self.relayed: dict[int, tuple[int, int]] = {}
        self.frozen: str | None = None
        self.effects: list[fx.Effect] = []
        settings = replace(cluster.settings, identity=self.identity)
        ports = Ports(
            catalogue=disk.log, new_id=cluster.fresh_id, epoch_record=epoch_record, received_bytes=lambda link: 0
        )
        self.replica = Replica(settings, disk.log, ports, promise=disk.promise, floor=disk.floor, counter=disk.counter)

    def feed(self, event: ev.Event) -> None:
        self.inbox.append(event)

    def turn(self) -> None:
        """One step of virtual time: what arrived, then fsync, then the sender."""
        while self.inbox and not self.paused:
            self._do(self.inbox.popleft())
        if self.paused:
            return
        log = self.disk.log
        if log.durable_count < len(log.records):
            log.durable_count = len(log.records)
            self._do(ev.LocalDurable(log.durable))
        if self.cluster.now % 50 == 0:
            self._do(ev.Tick())
        for link in list(self.senders):
            self._send_records(link)

    def _do(self, event: ev.Event) -> None:
        for effect in self.replica.step(event, self.cluster.now, self.cluster.now * 1000):
            self.effects.append(effect)
            self._carry_out(effect)

    def _send_records(self, link: int) -> None:
        epoch, upto = self.senders[link]
        log = self.disk.log
        for _ in range(4):
            if upto >= len(log.records) or upto + 1 in log.rotten:
                break  # what fails its digest is not sent
            previous, record = log.point_at(upto), log.records[upto]
            assert previous is not None
            self.cluster.transmit_record(self, link, epoch, previous, record, self.replica.situation.told)
            upto += 1
        self.senders[link] = (epoch, upto)

    def _append(self, record: PaperRecord) -> None:
        log = self.disk.log
        assert record.header.position.sequence == len(log.records) + 1
        log.records.append(record)

    def _carry_out(self, effect: fx.Effect) -> None:  # noqa: PLR0912 - one case per effect
        cluster, disk = self.cluster, self.disk
        match effect:
            case fx.ReadState():
                cluster.read(self)
            case fx.CreateState() | fx.WriteState() | fx.TakeLead() | fx.RecreateLeader():
                cluster.write(self, effect)
            case fx.ResumeLog():
                self.feed(ev.LogResumed())
            case fx.Resign():
                if cluster.service.leader == self.identity:
                    cluster.drop_leader()
            case fx.Persist():
                disk.promise = max(disk.promise, effect.promise)
                disk.floor = max(disk.floor, effect.floor, key=lambda p: p.position)
                disk.counter = max(disk.counter, effect.counter)
                self.feed(ev.PromiseStored(disk.promise))
            case fx.AppendProposal():
                offer = self.uids[effect.ticket]
                covers, holds = cluster.small.get(offer.digest, ((), ""))
                self._append(PaperRecord(effect.header, effect.chain, offer.sop_instance_uid, covers, holds))
            case fx.AppendOwn():
                self._append(PaperRecord(effect.header, effect.chain))
            case fx.AppendStaged():
                self._append(self.staged.pop(effect.handle))
            case fx.DropStaged():
                self.staged.pop(effect.handle, None)
            case fx.Truncate():
                self._truncate(effect.point)
            case fx.Send():
                cluster.transmit(self, effect.link, effect.message)
            case fx.StartSending():
                self.senders[effect.link] = (effect.epoch, effect.after.sequence)
            case fx.StopSending():
                self.senders.pop(effect.link, None)
            case fx.SendTail():
                cluster.transmit_tail(self, effect)
            case fx.CloseLink():
                cluster.break_link(effect.link)
            case fx.RelayProposal():
                cluster.relay(self, effect)
            case fx.Settle():
                self._settle(effect)
            case fx.Frozen():
                self.frozen = effect.reason
            case _:
                pass  # of no consequence on paper, where there is no tier either

    def _truncate(self, point: LogPoint) -> None:
        log = self.disk.log
        log.lost_and_found += log.records[point.sequence :]
        del log.records[point.sequence :]
        log.durable_count = min(log.durable_count, point.sequence)
        log.rotten = {sequence for sequence in log.rotten if sequence <= point.sequence}
        self.feed(ev.Truncated(point))
        self.feed(ev.DamageChanged(frozenset(log.rotten)))

    def _settle(self, effect: fx.Settle) -> None:
        relayed = self.relayed.pop(effect.ticket, None)
        if relayed is not None:
            link, ticket = relayed
            self.cluster.answer(self, link, ticket, effect)
        else:
            assert effect.ticket not in self.settled, "settled twice"
            self.settled[effect.ticket] = effect.verdict
            self.cluster.acknowledged(self, effect)


def epoch_record(position: LogPosition, time_us: int) -> tuple[RecordHeader, bytes]:
    payload = b"{}"
    path = f"perenne/epoch-{position.epoch}"
    digest = blake3(payload).digest()
    return RecordHeader(position, RecordKind.EPOCH, NO_DIGEST, digest, time_us, path, len(payload)), payload
