"""The driver: feeds the core everything that happens and carries out what it decides. It decides nothing itself."""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, Final

from replication.api import CommitOutcome, Draft, NotPromised
from replication.arriving import ArrivingSegment
from replication.compacting import Compactor, reads_of
from replication.comparing import Comparer
from replication.coordination.port import Coordination, LiveNode, NodeRegistration, Operation
from replication.coordinator import Coordinator
from replication.core import effects as fx
from replication.core import events as ev
from replication.core.replica import Replica
from replication.core.situation import Ports
from replication.core.values import Identity, ReplicaId
from replication.deleting import Deleting
from replication.doorman import Door
from replication.evicting import read_any
from replication.failover import Failovers
from replication.feeder import Feeder
from replication.inbox import Held, Inbox
from replication.incoming import Payload
from replication.indexing import Indexing
from replication.lookup import Lookups
from replication.mender import Mender
from replication.messages import Message
from replication.offers import Offer, Offers
from replication.operations import Operations
from replication.peers import PeerNetwork
from replication.promises import Promises
from replication.recent import Recent
from replication.runtime import Runtime
from replication.settings import ReplicatorSettings
from replication.stages import Stages
from replication.tier.port import ObjectStore
from replication.tier.probe import Trust
from replication.tiering import Tiering, proved
from replication.troubles import Troubles
from replication.writing import Writing
from storage.disk import Disk
from storage.errors import StorageError
from storage.index import Index
from storage.log import Log
from storage.metadata import PromiseFile
from storage.position import LogPoint
from storage.reader import WHOLE_LIMIT
from storage.record import epoch_record
from storage.staging import Staged, StagingArea
from storage.writer import CommitQueue

_LOG: Final = logging.getLogger("perenne.replicator")
TICK_S: Final = 0.05
RECENT_BYTES: Final = 128 * 1024 * 1024


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
        tier: ObjectStore | None = None,
        prove_tier: Callable[[ObjectStore], Awaitable[Trust]] = proved,
        spool: Path | None = None,
        door: Door | None = None,
    ) -> None:
        self.settings = settings
        self.me = settings.core.identity
        self.log, self.index, self.staging, self.disk = log, index, staging, disk
        self._loop = asyncio.get_running_loop()
        self.runtime = runtime
        self.promises = Promises(promise, runtime, self._feed_open)
        self.readers = runtime.executor("read", 2)
        self.distant = runtime.executor("distant", 4)
        end = log.end.sequence
        self.recent = Recent(index, self._let_go, log.last_tombstone, budget_bytes=RECENT_BYTES, unseen=end)
        self.stages = Stages()
        self.troubles = Troubles(runtime.wall_us)
        self.offers = Offers(self._let_go, self.stages.commit)
        self._held = Held()
        self._writing = Writing(self, disk, log, self._held)
        self._inbox = Inbox(self, self._held)
        self._indexing = Indexing(log, index, self.recent, self.spawn, runtime.executor("index", 1))
        self.network = PeerNetwork(
            self.me,
            settings.cluster.cluster_id,
            staging,
            self._writing.arriving,
            self,
            self.readers,
            host=settings.peer_host,
            port=settings.peer_port,
            chance=runtime.chance,
            door=door,
        )
        self.network.on_segment = self._indexing.give_way
        received = self.network.received_bytes
        ports = Ports(catalogue=self.recent, new_id=new_id, epoch_record=epoch_record, received_bytes=received)
        value = promise.value
        self.core = Replica(settings.core, log, ports, promise=value.epoch, floor=value.floor, counter=value.counter)
        self.failovers = Failovers(self.core)
        log.damage.changed = self._hop_damage
        self.feeder = Feeder(
            log,
            self.recent,
            self.network,
            self.readers,
            end=lambda: self.core.situation.ledger.end.sequence,
            committed=lambda: self.core.situation.told,
            in_sync=self._is_in_sync,
            read=lambda sequence: read_any(self, sequence, whole_limit=WHOLE_LIMIT),
            acknowledged=self.stages.peer_ack,
            troubles=self.troubles,
        )
        self.operations = Operations(self)
        self.coordinator = Coordinator(
            coordination,
            settings.cluster,
            self.me,
            self._describe,
            self,
            runtime.wall_us,
            tiered=tier is not None,
            retired=self.operations.off_the_register,
        )
        self.tiering = Tiering(self, tier, prove_tier, spool) if tier is not None else None
        self.lookups = Lookups(self)
        self.deleting = Deleting(self)
        self.compactor: Compactor | None = None  # the node sets it
        self.mender = Mender(self)
        self.comparer = Comparer(self)
        self.live: Mapping[ReplicaId, LiveNode] = {}
        self._events: deque[ev.Event] = deque()
        self._stepping = False
        self._tasks: set[asyncio.Task[Any]] = set()
        self.closed = False
        self.frozen: str | None = None
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
        await self.operations.hand_over(seconds)

    async def close(self) -> None:
        """End everything; what was not answered by now is answered "not promised"."""
        self.closed = True
        for task in list(self._tasks):
            task.cancel()
        await self.coordinator.close()
        await self.network.close()
        if self.tiering is not None:
            await self.tiering.close()
        self.offers.give_up("the node stops")
        for end in (self._writing.close, self.promises.close, self._indexing.close, self.readers.shutdown):
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
            settings.evicts(),
            reads_of(self.compactor),
            settings.machine,
        )
        return NodeRegistration(self.me.id, self.me.incarnation, situation.floor), live

    @property
    def group(self) -> CommitQueue:
        return self._writing.group

    @property
    def lost_and_found(self) -> int:
        return self._writing.lost_and_found

    def log_failed(self, error: StorageError) -> None:
        self._writing.log_failed(error)

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
        self.failovers.look(self.core.situation.now_ms)
        self.feeder.pump_all()

    def _carry_out(self, effect: fx.Effect) -> None:
        match effect:
            case fx.Send():
                self.network.send(effect.link, effect.message)
            case fx.AppendProposal():
                self._writing.append_offer(effect)
            case fx.AppendStaged():
                self._writing.append_received(effect)
            case fx.AppendOwn():
                self._writing.append_own(effect)
            case fx.Settle():
                answer = self.offers.settle(effect, self.core.situation.told)
                if answer is not None:
                    self.network.send(*answer)
            case fx.Committed():
                self._committed(effect.point)
            case fx.RelayProposal():
                self.network.send(effect.link, *self.offers.relayed(effect.ticket))
            case fx.Persist():
                self.promises.persist(effect)
            case fx.TailSettled():
                self.promises.settle_tail()
            case fx.DropStaged():
                self.drop(self._held.take(effect.handle))
            case fx.ResumeLog():
                self.spawn(self._writing.resume())
            case fx.StartSending():
                peer = self.core.situation.links[effect.link].peer
                self.feeder.start(effect.link, peer, effect.epoch, effect.after)
            case fx.StopSending():
                self.feeder.stop(effect.link)
            case fx.SendTail():
                self.spawn(self.feeder.send_tail(effect.link, effect.nonce, effect.after, effect.last))
            case fx.CloseLink():
                self.hang_up(effect.link, effect.reason)
            case fx.Truncate():
                self.spawn(self._writing.truncate(effect.point))
            case fx.InstallSegment():
                self.spawn(self._writing.install(effect))
            case fx.LeadershipChanged():
                self.leader_changes += 1
                who = effect.leader.id if effect.leader else None
                _LOG.info("leadership", extra={"leader": who, "epoch": effect.epoch, "reason": effect.reason})
            case fx.Frozen():
                self.frozen = effect.reason
                _LOG.critical("this node stopped writing: its log contradicts", extra={"reason": effect.reason})
            case fx.HandOverDone():
                self.operations.done(effect)
            case fx.Retired():
                self.operations.left()
            case fx.TierRequest():
                assert self.tiering is not None, "only a configured tier is asked"
                self.tiering.carry_out(effect)
            case _:
                self.coordinator.carry_out(effect)

    # Payloads and damage

    def _hop_damage(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._damage_changed)

    def _damage_changed(self) -> None:
        found = self.log.damaged()
        _LOG.error("known damage in the log changed", extra={"records": len(found), "lowest": list(found[:10])})
        self._feed_open(ev.DamageChanged(frozenset(found)))
        if not self.closed:
            self.mender.wake()
            self._indexing.fill_holes()

    def _let_go(self, staged: Staged) -> None:
        if staged.in_memory:
            staged.release()
        else:
            self.readers.submit(staged.release)  # removing its file syncs a directory

    def hold(self, payload: Payload) -> int:
        """Keep a payload until the core has decided about it; returns its handle."""
        return self._held.add(payload)

    def drop(self, payload: Payload) -> None:
        """Let go of a payload that nobody wants."""
        if isinstance(payload, Staged):
            self._let_go(payload)
        elif isinstance(payload, ArrivingSegment):
            payload.discard()

    def _feed_open(self, event: ev.Event) -> None:
        if not self.closed:
            self.feed(event)

    def release(self) -> None:
        """Let payloads go that are durable here and needed by nobody."""
        situation = self.core.situation
        # A follower feeds nobody: what is durable need not stay in memory.
        keep = situation.told.sequence if self.core.leadership is not None else situation.ledger.durable.sequence
        self.recent.release_upto(situation.ledger.durable.sequence, keep)

    # Commit point and index

    def _committed(self, point: LogPoint) -> None:
        self._indexing.follow(point)
        self.release()

    def distrust_index(self) -> None:
        """What the index says does not fit the log: forget it, and number and deny nothing until it is built anew."""
        self._indexing.rebuild()
        self.recent.installed_upto(self.core.situation.committed.sequence)

    # Offers

    async def commit(self, draft: Draft) -> CommitOutcome:
        """Offer an instance; return once it is committed. Takes over one reference of `draft.staged`.

        Raises NotPromised, ConflictRefused, StorageFull.
        """
        if self.closed:
            draft.staged.release()
            raise NotPromised("the node stops")
        waiter: asyncio.Future[CommitOutcome] = self._loop.create_future()
        self.offer(Offer(draft.staged, draft, waiter))
        return await waiter

    def offer(self, offer: Offer) -> None:
        """Bring an offer before the core."""
        deadline_ms = self.runtime.now_ms() + self.settings.acknowledge_timeout_ms
        self.feed(self.offers.take(offer, now_us=self.runtime.wall_us(), deadline_ms=deadline_ms))

    def refusal(self) -> str | None:
        """Why a store would be refused right now, before its bytes are taken; None when it would be accepted."""
        return "the node stops" if self.closed else self.settings.refusal or self.core.refusal()

    # Peers

    def link_up(self, link: int, peer: Identity, dialled: bool) -> None:
        _LOG.info("connected to a peer", extra={"peer": peer.id, "link": link, "dialled": dialled})
        self.feed(ev.LinkUp(link, peer, dialled))
        self.mender.wake()

    def link_down(self, link: int, reason: str) -> None:
        _LOG.info("lost a peer", extra={"link": link, "reason": reason})
        known = self.core.situation.links.get(link)
        if known is not None and not self.closed:
            self.troubles.ended(link, known.peer.id)
        self.feeder.stop(link)
        self.lookups.link_down(link)
        self.mender.link_down(link)
        self.comparer.link_down(link)
        if not self.closed:
            self.feed(ev.LinkDown(link))

    def hang_up(self, link: int, reason: str) -> None:
        """End a connection over which nothing good can come any more."""
        known = self.core.situation.links.get(link)
        if known is not None:
            self.troubles.hanging_up(link, known.peer.id)
        self.network.close_link(link, reason)

    def writable(self, link: int) -> None:
        self.feeder.pump(link)

    def message(self, link: int, peer: Identity, message: Message, payload: Payload) -> None:
        self._inbox.message(link, peer, message, payload)

    def _is_in_sync(self, peer: Identity) -> bool:
        leadership = self.core.leadership
        return leadership is not None and peer.member in leadership.in_sync

    # Coordination

    def nodes(self, live: Mapping[ReplicaId, LiveNode]) -> None:
        self.live = live
        self.network.set_members({node.identity.id: (node.host, node.peer_port) for node in live.values()})

    def operation(self, operation: Operation) -> None:
        self.operations.requested(operation)
