"""The driver: feeds the core everything that happens and carries out what it decides. It decides nothing itself."""

import asyncio
import contextlib
import itertools
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Final

from replication.api import CommitOutcome, ConflictRefused, Draft, NotPromised
from replication.coordination.port import ClusterRecord, Coordination, LiveNode, NodeRegistration, Operation
from replication.coordinator import Coordinator
from replication.core import effects as fx
from replication.core import events as ev
from replication.core.replica import Replica
from replication.core.situation import Ports, Settings
from replication.core.values import Identity, ReplicaId
from replication.feeder import Feeder
from replication.incoming import Payload
from replication.indexing import Indexing
from replication.lookup import Lookups
from replication.mender import Mender
from replication.messages import (
    Append,
    Confirmed,
    Fetched,
    FetchEnd,
    Lookup,
    LookupAnswer,
    Message,
    Propose,
    ProposeResult,
    Segment,
)
from replication.offers import Offer, Offers
from replication.opening import UNSETTLED
from replication.peers import PeerNetwork
from replication.recent import Recent, RecentRecord
from replication.rejoin import saved_instances
from replication.runtime import Runtime
from storage.dataset import UnreadableDataSet, read_meta
from storage.disk import Disk
from storage.errors import StorageError, StorageFull
from storage.index import Index
from storage.indexer import HEAD_BYTES
from storage.log import BytesPayload, Log
from storage.metadata import PromiseFile
from storage.position import LogPoint, LogPosition, RecordHeader, RecordKind
from storage.record import small_member
from storage.staging import Staged, StagingArea

_LOG: Final = logging.getLogger("perenne.replicator")
TICK_S: Final = 0.05
RECENT_BYTES: Final = 128 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicatorSettings:
    """What the driver needs beside the core's settings. Addresses are what other nodes and people use."""

    core: Settings
    cluster: ClusterRecord
    acknowledge_timeout_ms: int
    peer_host: str
    peer_port: int
    advertise_host: str
    dicom_port: int
    http_port: int
    ae_title: str
    version: str
    refusal: str = ""
    """Why this node takes no store at all, by its configuration."""


class Replicator:
    """One node's part in the cluster. Built by the node, driven by one event loop."""

    def __init__(
        self,
        settings: ReplicatorSettings,
        *,
        disk: Disk,
        log: Log,
        promise: PromiseFile,
        index: Index,
        staging: StagingArea,
        coordination: Coordination,
        new_id: Callable[[], str],
        runtime: Runtime,
    ) -> None:
        self.settings = settings
        self.me = settings.core.identity
        self.log = log
        self.index = index
        self.staging = staging
        self._disk = disk
        self._promise = promise
        self._loop = asyncio.get_running_loop()
        self.runtime = runtime
        self._promises = runtime.executor("promise", 1)
        self.readers = runtime.executor("read", 2)
        self.recent = Recent(index, self._let_go, budget_bytes=RECENT_BYTES, unseen=log.end.sequence)
        self.offers = Offers(self._let_go)
        self._indexing = Indexing(log, index, self.recent, self.spawn, runtime.executor("index", 1))
        self.network = PeerNetwork(
            self.me,
            settings.cluster.cluster_id,
            staging,
            disk,
            self,
            self.readers,
            host=settings.peer_host,
            port=settings.peer_port,
            chance=runtime.chance,
        )
        ports = Ports(
            catalogue=self.recent,
            new_id=new_id,
            epoch_record=_epoch_record,
            received_bytes=self.network.received_bytes,
        )
        self.group = runtime.commit_queue(log, self._hop_durable, self._hop_failed)
        value = promise.value
        self.core = Replica(settings.core, log, ports, promise=value.epoch, floor=value.floor, counter=value.counter)
        log.damage.changed = self._hop_damage
        self._feeder = Feeder(
            log,
            disk,
            self.recent,
            self.network,
            self.readers,
            end=lambda: self.core.situation.ledger.end.sequence,
            committed=lambda: self.core.situation.told,
            in_sync=self._is_in_sync,
        )
        self.coordinator = Coordinator(coordination, settings.cluster, self.me, self._describe, self, runtime.wall_us)
        self.lookups = Lookups(self)
        self.mender = Mender(self)
        self.live: Mapping[ReplicaId, LiveNode] = {}
        self._events: deque[ev.Event] = deque()
        self._stepping = False
        self._handles = itertools.count(1)
        self._staged: dict[int, Payload] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._operation: Operation | None = None
        self._handed_over = asyncio.Event()
        self._closed = False
        self.frozen: str | None = None
        self.lost_and_found = _count_saved(disk)
        self.leader_changes = 0
        self.ticked_ms = runtime.now_ms()

    # Life

    async def start(self) -> None:
        """Listen for peers, connect to coordination, begin to tick. Raises OSError when the peer port is taken."""
        await self.network.start()
        await self.coordinator.start()
        self.spawn(self._tick())
        self._indexing.follow(self.core.situation.committed)
        self.mender.wake()

    async def hand_over(self, seconds: float) -> None:
        """Give the lead away before the node stops; returns at once on a follower."""
        self._handed_over.clear()
        self.feed(ev.HandOverRequested(None, self.runtime.wall_us(), final=True))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._handed_over.wait()

    async def close(self) -> None:
        """End everything; what was not answered by now is answered "not promised"."""
        self._closed = True
        for task in list(self._tasks):
            task.cancel()
        await self.coordinator.close()
        await self.network.close()
        self.offers.give_up("the node stops")
        for end in (self.group.close, self._promises.shutdown, self._indexing.close, self.readers.shutdown):
            await asyncio.to_thread(end)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run something beside the steps, and keep hold of it."""
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _tick(self) -> None:
        said: str | None = None
        while True:
            self.ticked_ms = self.runtime.now_ms()
            self.feed(ev.Tick())
            if self.core.leader is None and said != (said := self.core.situation.not_standing) and said is not None:
                _LOG.warning("this node may not lead", extra={"reason": said})
            await asyncio.sleep(TICK_S)

    def _describe(self) -> tuple[NodeRegistration, LiveNode]:
        settings, situation = self.settings, self.core.situation
        live = LiveNode(
            self.me,
            settings.advertise_host,
            self.network.port,
            settings.dicom_port,
            settings.http_port,
            settings.ae_title,
            settings.version,
            situation.ledger.end,
        )
        return NodeRegistration(self.me.id, self.me.incarnation, situation.floor), live

    # Steps

    def feed(self, event: ev.Event) -> None:
        """Hand an event to the core, after those that came before it, and carry out what follows."""
        self._events.append(event)
        if self._stepping:
            return
        self._stepping = True
        try:
            while self._events:
                for effect in self.core.step(self._events.popleft(), self.runtime.now_ms(), self.runtime.wall_us()):
                    self._carry_out(effect)
        finally:
            self._stepping = False
        self._feeder.pump_all()

    def _carry_out(self, effect: fx.Effect) -> None:
        match effect:
            case fx.Send():
                self.network.send(effect.link, effect.message)
            case fx.AppendProposal():
                self._append_offer(effect)
            case fx.AppendStaged():
                self._append_received(effect)
            case fx.AppendOwn():
                payload = BytesPayload(effect.payload)
                self._append(RecentRecord(effect.header, effect.chain, payload), payload)
            case fx.Settle():
                answer = self.offers.settle(effect, self.core.situation.told)
                if answer is not None:
                    self.network.send(*answer)
            case fx.Committed():
                self._committed(effect.point)
            case fx.RelayProposal():
                self.network.send(effect.link, *self.offers.relayed(effect.ticket))
            case fx.Persist():
                self._persist(effect)
            case fx.TailSettled():
                boot = self._promise.value.host_boot.removesuffix(UNSETTLED)
                self._promises.submit(lambda: self._promise.store(host_boot=boot))
            case fx.DropStaged():
                self._drop(self._staged.pop(effect.handle, None))
            case fx.ResumeLog():
                self.spawn(self._resume())
            case fx.StartSending():
                peer = self.core.situation.links[effect.link].peer
                self._feeder.start(effect.link, peer, effect.epoch, effect.after)
            case fx.StopSending():
                self._feeder.stop(effect.link)
            case fx.SendTail():
                self.spawn(self._feeder.send_tail(effect.link, effect.nonce, effect.after, effect.last))
            case fx.CloseLink():
                self.network.close_link(effect.link, effect.reason)
            case fx.Truncate():
                self.spawn(self._truncate(effect.point))
            case fx.InstallSegment():
                self.spawn(self._install(effect))
            case fx.LeadershipChanged():
                self.leader_changes += 1
                who = effect.leader.id if effect.leader else None
                _LOG.info("leadership", extra={"leader": who, "epoch": effect.epoch, "reason": effect.reason})
            case fx.Frozen():
                self.frozen = effect.reason
                _LOG.critical("this node stopped writing: its log contradicts", extra={"reason": effect.reason})
            case fx.HandOverDone():
                self._hand_over_done(effect)
            case _:
                self.coordinator.carry_out(effect)

    # The log

    def _append(self, record: RecentRecord, payload: Staged | BytesPayload) -> None:
        self.recent.add(record)
        self.group.submit(record.header, record.chain, payload)

    def _append_offer(self, effect: fx.AppendProposal) -> None:
        offer = self.offers.get(effect.ticket)
        assert offer is not None, "a ticket is settled once"
        draft, staged = offer.draft, offer.staged
        staged.retain()
        record = RecentRecord(
            effect.header,
            effect.chain,
            staged,
            draft.sop_instance_uid,
            draft.transfer_syntax_uid,
            (offer.origin, offer.ticket_there) if offer.origin is not None else None,
            _head(staged, HEAD_BYTES if draft.attributes is None else staged.meta_length),
            draft.attributes,
        )
        self._append(record, staged)

    def _append_received(self, effect: fx.AppendStaged) -> None:
        staged = self._staged.pop(effect.handle)
        assert isinstance(staged, Staged), "a record has a payload"
        record = RecentRecord(effect.header, effect.chain, staged)
        if effect.header.kind is RecordKind.INSTANCE:
            record.head = _head(staged, HEAD_BYTES)
            with contextlib.suppress(UnreadableDataSet):
                meta = read_meta(record.head)
                record.uid, record.transfer_syntax_uid = meta.sop_instance_uid, meta.transfer_syntax_uid
        self._append(record, staged)

    def _hop_durable(self, point: LogPoint) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._durable, point)

    def _hop_failed(self, error: StorageError) -> None:
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self.log_failed, error)

    def _hop_damage(self) -> None:
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._damage_changed)

    def _damage_changed(self) -> None:
        found = self.log.damaged()
        _LOG.error("known damage in the log changed", extra={"records": len(found), "lowest": list(found[:10])})
        self._feed_open(ev.DamageChanged(frozenset(found)))
        if not self._closed:
            self.mender.wake()

    def _durable(self, point: LogPoint) -> None:
        if not self._closed:
            self.feed(ev.LocalDurable(point))
            self._release()

    def log_failed(self, error: StorageError) -> None:
        """The log cannot be written any more: this node confirms nothing."""
        _LOG.critical("the log cannot be written", extra={"reason": str(error)})
        self.feed(ev.LocalFailed(str(error), full=isinstance(error, StorageFull)))

    async def _resume(self) -> None:
        await asyncio.wrap_future(self.group.resume())
        self.recent.cut_after(self.log.end.sequence)
        _LOG.warning("there is room again: the log is written on", extra={"end": self.log.end.sequence})
        self.feed(ev.LogResumed())

    def _release(self) -> None:
        situation = self.core.situation
        # A follower feeds nobody: what is durable need not stay in memory.
        keep = situation.told.sequence if self.core.leadership is not None else situation.ledger.durable.sequence
        self.recent.release_upto(situation.ledger.durable.sequence, keep)

    def _let_go(self, staged: Staged) -> None:
        if staged.in_memory:
            staged.release()
        else:
            self.readers.submit(staged.release)  # removing its file syncs a directory

    def _drop(self, payload: Payload) -> None:
        if isinstance(payload, Staged):
            self._let_go(payload)
        elif isinstance(payload, str):
            self.readers.submit(self._disk.remove, payload)

    def _persist(self, effect: fx.Persist) -> None:
        def store() -> int:
            return self._promise.store(epoch=effect.promise, floor=effect.floor, counter=effect.counter).epoch

        def stored(future: Future[int]) -> None:
            error = future.exception()
            event = ev.LocalFailed(str(error)) if error else ev.PromiseStored(future.result())
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._feed_open, event)

        self._promises.submit(store).add_done_callback(stored)

    def _feed_open(self, event: ev.Event) -> None:
        if not self._closed:
            self.feed(event)

    async def _truncate(self, point: LogPoint) -> None:
        try:
            names = await asyncio.wrap_future(self.group.call(lambda: self.log.truncate_after(point.sequence)))
        except StorageError as error:
            self.log_failed(error)
            return
        _LOG.warning("records were moved to lost+found", extra={"records": len(names), "after": point.sequence})
        self.lost_and_found += len(names)
        self.recent.cut_after(point.sequence)
        self.feed(ev.Truncated(point))
        for draft in await self._loop.run_in_executor(self.readers, saved_instances, self._disk, names, self.staging):
            self.spawn(self._offer_again(draft))

    async def _offer_again(self, draft: Draft) -> None:
        """What was cut may have been stored nowhere else: it is offered anew, whatever its sender was told."""
        with contextlib.suppress(NotPromised, ConflictRefused, StorageFull):
            await self.commit(draft)

    async def _install(self, effect: fx.InstallSegment) -> None:
        name = self._staged.pop(effect.handle)
        assert isinstance(name, str), "a segment lies in a file"
        end: LogPoint | None = None
        try:
            installed = await asyncio.wrap_future(self.group.call(lambda: self.log.install_segment(name)))
            self.recent.installed_upto(installed.sequence)
            end = installed
            _LOG.info("took over a whole segment", extra={"end": end.sequence})
        except StorageError as error:
            _LOG.error("a segment was refused", extra={"reason": str(error)})
            self._drop(name)
        self.feed(ev.SegmentInstalled(end))

    # Commit point and index

    def _committed(self, point: LogPoint) -> None:
        self._indexing.follow(point)
        self._release()

    def distrust_index(self) -> None:
        """What the index says does not fit the log: forget it, and number and deny nothing until it is built anew."""
        self._indexing.rebuild()
        self.recent.installed_upto(self.core.situation.committed.sequence)

    # Offers

    async def commit(self, draft: Draft) -> CommitOutcome:
        """Offer an instance; return once it is committed. Takes over one reference of `draft.staged`.

        Raises NotPromised, ConflictRefused, StorageFull.
        """
        if self._closed:
            draft.staged.release()
            raise NotPromised("the node stops")
        waiter: asyncio.Future[CommitOutcome] = self._loop.create_future()
        self._offer(Offer(draft.staged, draft, waiter))
        return await waiter

    def _offer(self, offer: Offer) -> None:
        deadline_ms = self.runtime.now_ms() + self.settings.acknowledge_timeout_ms
        self.feed(self.offers.take(offer, now_us=self.runtime.wall_us(), deadline_ms=deadline_ms))

    def refusal(self) -> str | None:
        """Why a store would be refused right now, before its bytes are taken; None when it would be accepted."""
        return "the node stops" if self._closed else self.settings.refusal or self.core.refusal()

    # Peers

    def link_up(self, link: int, peer: Identity, dialled: bool) -> None:
        _LOG.info("connected to a peer", extra={"peer": peer.id, "link": link, "dialled": dialled})
        self.feed(ev.LinkUp(link, peer, dialled))

    def link_down(self, link: int, reason: str) -> None:
        _LOG.info("lost a peer", extra={"link": link, "reason": reason})
        self._feeder.stop(link)
        self.lookups.link_down(link)
        self.mender.link_down(link)
        if not self._closed:
            self.feed(ev.LinkDown(link))

    def writable(self, link: int) -> None:
        self._feeder.pump(link)

    def message(self, link: int, peer: Identity, message: Message, payload: Payload) -> None:
        """Turn what came from a peer into an event."""
        match message:
            case Append():
                self._record_came(link, peer, message, payload)
            case Confirmed():
                self.feed(ev.Received(link, peer, message))
                self._feeder.confirmed(link, message.durable.sequence)
            case Propose() if isinstance(payload, Staged):
                self._propose_came(link, peer, message, payload)
            case ProposeResult():
                self.feed(ev.ProposalAnswered(link, message.ticket, message.outcome, message.reason))
            case Fetched() | FetchEnd() if self.mender.asked(message.nonce):
                self.mender.answered(message, payload)
            case Fetched() if isinstance(payload, Staged):
                record = message.record
                handle = self._hold(payload)
                previous = message.previous.log_point()
                self.feed(ev.RecordFetched(peer, message.nonce, previous, record.header(), record.chain, handle))
            case Segment() if isinstance(payload, str):
                points = (message.previous.log_point(), message.end.log_point(), message.committed.log_point())
                self.feed(ev.SegmentReceived(link, peer, message.epoch, *points, self._hold(payload)))
            case Lookup():
                self.spawn(self.lookups.answer(link, message))
            case LookupAnswer():
                self.lookups.answered(message, payload)
            case _:
                self._drop(payload)
                self.feed(ev.Received(link, peer, message))

    def _hold(self, payload: Payload) -> int:
        handle = next(self._handles)
        self._staged[handle] = payload
        return handle

    def _record_came(self, link: int, peer: Identity, message: Append, payload: Payload) -> None:
        record = message.record
        if message.proposal:
            offer = self.offers.get(message.proposal)
            if offer is None or offer.staged.digest != record.digest:
                self.network.close_link(link, "the instance that was offered is gone: send it whole")
                return
            offer.staged.retain()
            payload = offer.staged
        if not isinstance(payload, Staged):
            self.network.close_link(link, "a record came without its payload")
            return
        previous, committed = message.previous.log_point(), message.committed.log_point()
        header, handle = record.header(), self._hold(payload)
        self.feed(ev.RecordReceived(link, peer, message.epoch, previous, committed, header, record.chain, handle))

    def _propose_came(self, link: int, peer: Identity, message: Propose, payload: Staged) -> None:
        draft = Draft(
            staged=payload,
            sop_class_uid=message.sop_class_uid,
            sop_instance_uid=message.sop_instance_uid,
            study_instance_uid=message.study_instance_uid,
            series_instance_uid=message.series_instance_uid,
            transfer_syntax_uid=message.transfer_syntax_uid,
        )
        self._offer(Offer(payload, draft, link=link, origin=peer, ticket_there=message.ticket))

    def _is_in_sync(self, peer: Identity) -> bool:
        leadership = self.core.leadership
        return leadership is not None and peer.member in leadership.in_sync

    def blocked_at(self, replica: ReplicaId) -> int:
        """The record that keeps a replica from catching up, because it cannot be read here; 0 when none does."""
        return self._feeder.blocked_at(replica)

    # Coordination

    def nodes(self, live: Mapping[ReplicaId, LiveNode]) -> None:
        self.live = live
        self.network.set_members({node.identity.id: (node.host, node.peer_port) for node in live.values()})

    def operation(self, operation: Operation) -> None:
        """An operator asked for something; the leader does it."""
        leadership = self.core.leadership
        if operation.verb != "switchover" or self._operation is not None or leadership is None:
            return
        if operation.arguments.get("epoch", str(leadership.epoch)) != str(leadership.epoch):
            return  # asked of the leader before, who may be at it still, or have done it
        self._operation = operation
        to = operation.arguments.get("to")
        self.feed(ev.HandOverRequested(ReplicaId(to) if to else None, self.runtime.wall_us(), final=False))

    def _hand_over_done(self, effect: fx.HandOverDone) -> None:
        self._handed_over.set()
        operation, self._operation = self._operation, None
        if operation is not None:
            result = f"{effect.to} leads" if effect.to else f"failed: {effect.reason}"
            self.coordinator.finish(operation, result)


def _head(staged: Staged, size: int) -> bytes:
    return bytes(next(staged.parts(), memoryview(b""))[:size])


def _count_saved(disk: Disk) -> int:
    return len(disk.list("lost+found")) if disk.exists("lost+found") else 0


def _epoch_record(position: LogPosition, time_us: int) -> tuple[RecordHeader, bytes]:
    return small_member(position, RecordKind.EPOCH, {"epoch": position.epoch}, time_us)
