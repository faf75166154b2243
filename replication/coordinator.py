"""Everything that the driver asks of the coordination service, in order: reads see what was written before them."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Final, Protocol, TypeVar

from replication.coordination.port import (
    ClusterRecord,
    Coordination,
    CoordinationCorrupt,
    CoordinationUnavailable,
    LiveNode,
    NodeRegistration,
    NodeRetired,
    Operation,
    SessionEvent,
)
from replication.core import effects as fx
from replication.core import events as ev
from replication.core.compaction import Reads
from replication.core.values import CasOutcome, Identity, ReplicaId

_LOG: Final = logging.getLogger("perenne.coordination")
T = TypeVar("T")
_SESSIONS: Final = {
    SessionEvent.CONNECTED: ev.Session.CONNECTED,
    SessionEvent.SUSPENDED: ev.Session.SUSPENDED,
    SessionEvent.LOST: ev.Session.LOST,
}
StateEffect = fx.ReadState | fx.CreateState | fx.WriteState | fx.TakeLead | fx.RecreateLeader | fx.Resign | fx.CountTier


class CoordinatorEvents(Protocol):
    """Called on the event loop."""

    def feed(self, event: ev.Event) -> None: ...

    def nodes(self, live: Mapping[ReplicaId, LiveNode]) -> None: ...

    def operation(self, operation: Operation) -> None: ...


class Coordinator:
    """One worker that carries out one request at a time."""

    def __init__(
        self,
        coordination: Coordination,
        cluster: ClusterRecord,
        me: Identity,
        describe: Callable[[], tuple[NodeRegistration, LiveNode]],
        events: CoordinatorEvents,
        wall_us: Callable[[], int],
        *,
        tiered: bool = False,
        retired: Callable[[str], None] = lambda _: None,
    ) -> None:
        """tiered: whether this cluster may have a tier, so that `tierfloor` is read with `state`.
        retired: called with the reason when this node may not register any more.
        """
        self._coordination = coordination
        self._cluster = cluster
        self._me = me
        self._describe = describe
        self._events = events
        self._wall_us = wall_us
        self._tiered = tiered
        self._retired = retired
        self._queue: asyncio.Queue[Callable[[], Awaitable[None]]] = asyncio.Queue()
        self._queued: set[str] = set()
        self._registered = False
        self.said: Reads | None = None
        """What this node said last of what it reads from the tier, in this session."""
        self._worker: asyncio.Task[None] | None = None
        self.connected = False
        self.changes = 0

    async def start(self) -> None:
        self._worker = asyncio.get_running_loop().create_task(self._work())
        await self._coordination.start(self)

    async def close(self) -> None:
        if self._worker is not None:
            self._worker.cancel()
        await self._coordination.close()

    @property
    def fresh_since_ms(self) -> int:
        return self._coordination.fresh_since_ms()

    async def _work(self) -> None:
        while True:
            job = await self._queue.get()
            try:
                await job()
            except CoordinationUnavailable as error:
                _LOG.warning("coordination does not answer", extra={"reason": str(error)})
            except CoordinationCorrupt as error:
                _LOG.error("coordination holds what cannot be read", extra={"reason": str(error)})
            except NodeRetired as error:
                self._retired(str(error))
            except Exception as error:  # a bug: were the worker to end, this node would never hear of anything again
                _LOG.critical("a request to coordination failed and is tried again", exc_info=error)
                self._retry()

    def _retry(self) -> None:
        """What this node knows may be stale: the core asks again for the state, and live nodes are looked up anew."""
        try:
            self._events.feed(ev.ReadFailed())
        except Exception as error:  # the bug is in what was told, not in what was asked
            _LOG.critical("the core cannot be told of it", exc_info=error)

    def _once(self, name: str, job: Callable[[], Awaitable[None]]) -> None:
        """Queue a job unless the same one waits already."""
        if name in self._queued:
            return
        self._queued.add(name)

        async def run() -> None:
            self._queued.discard(name)
            await job()

        self._queue.put_nowait(run)

    # Watcher

    def session_changed(self, event: SessionEvent) -> None:
        self.connected = event is SessionEvent.CONNECTED
        if event is not SessionEvent.SUSPENDED:
            self._registered, self.said = False, None
        self._events.feed(ev.SessionChanged(_SESSIONS[event]))
        if self.connected:
            self.nodes_changed()
            self.operation_requested()

    def state_changed(self) -> None:
        self._once("read", self._read)

    def nodes_changed(self) -> None:
        self._once("nodes", self._nodes)

    def operation_requested(self) -> None:
        self._once("operations", self._operations)

    # Jobs

    def carry_out(self, effect: StateEffect) -> None:
        """Queue what the core asked for; the answer comes as an event."""
        if isinstance(effect, fx.ReadState):
            self._once("read", self._read)
        elif isinstance(effect, fx.Resign):
            self._queue.put_nowait(lambda: self._coordination.resign(self._me))
        elif isinstance(effect, fx.CountTier):
            self._queue.put_nowait(lambda: self._count_tier(effect))
        else:
            self._queue.put_nowait(lambda: self._write(effect))

    async def _read(self) -> None:
        try:
            if not self._registered:
                await self._register()
            state = await self._coordination.read_state()
            leader = await self._coordination.leader()
            tier_floor = await self._coordination.tier_floor() if self._tiered else None
        except (CoordinationUnavailable, CoordinationCorrupt):
            self._events.feed(ev.ReadFailed())
            raise
        self._events.feed(ev.StateSeen(state, leader, registered=True, tier_floor=tier_floor))

    async def _register(self) -> None:
        found = await self._coordination.cluster(self._cluster)
        if found != self._cluster:
            raise CoordinationCorrupt(
                f"it knows cluster {found.cluster_id}, this node is of {self._cluster.cluster_id}"
            )
        registration, live = self._describe()
        await self._coordination.register(registration)
        await self._coordination.announce(live)
        self._registered, self.said = True, live.reads

    async def _write(self, effect: fx.CreateState | fx.WriteState | fx.TakeLead | fx.RecreateLeader) -> None:
        outcome, version = CasOutcome.UNKNOWN, -1
        try:
            match effect:
                case fx.CreateState():
                    outcome, version = await self._coordination.create_state(effect.state)
                case fx.WriteState():
                    outcome, version = await self._coordination.write_state(effect.state, effect.version)
                case fx.TakeLead():
                    outcome, version = await self._coordination.take_lead(effect.state, effect.version, self._me)
                case fx.RecreateLeader():
                    outcome = await self._coordination.recreate_leader(effect.version, self._me)
        finally:
            self.changes += outcome is CasOutcome.APPLIED
            self._events.feed(ev.StateWritten(effect.request, outcome, version))

    async def _count_tier(self, effect: fx.CountTier) -> None:
        outcome, version = CasOutcome.UNKNOWN, -1
        try:
            outcome, version = await self._coordination.count_tier(
                effect.point, effect.state_version, effect.floor_version
            )
        finally:
            self._events.feed(ev.TierCounted(effect.request, outcome, version))

    async def _nodes(self) -> None:
        self._events.nodes(await self._coordination.live_nodes())

    async def _operations(self) -> None:
        for operation in await self._coordination.operations():
            if operation.result is None and not operation.overdue(self._wall_us()):
                self._events.operation(operation)

    def retire(self, operation: Operation, result: str) -> None:
        """Take this node off the register, then tell whoever asked for it."""

        async def retire() -> None:
            registration, _ = self._describe()
            with contextlib.suppress(NodeRetired):  # it was already
                await self._coordination.register(replace(registration, retired=True))
            await self._coordination.finish_operation(operation, result)
            self._retired(result)

        self._queue.put_nowait(retire)

    def announce(self) -> None:
        """Say anew how this node does, once it is registered."""
        self._once("announce", self._announce)

    async def _announce(self) -> None:
        if self._registered:
            _, live = self._describe()
            await self._coordination.announce(live)
            self.said = live.reads

    async def registrations(self) -> Mapping[ReplicaId, NodeRegistration]:
        """Every registered node. Raises CoordinationUnavailable, CoordinationCorrupt."""
        return await self._answer(self._coordination.registrations)

    async def live(self) -> Mapping[ReplicaId, LiveNode]:
        """Every node that runs, as it says now. Raises as `registrations`."""
        return await self._answer(self._coordination.live_nodes)

    async def _answer(self, question: Callable[[], Awaitable[T]]) -> T:
        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        async def ask() -> None:
            try:
                found = await question()
            except (CoordinationUnavailable, CoordinationCorrupt) as error:
                if not answer.done():
                    answer.set_exception(error)
                return
            if not answer.done():
                answer.set_result(found)

        self._queue.put_nowait(ask)
        return await answer

    def finish(self, operation: Operation, result: str) -> None:
        """Tell whoever asked how an operation ended."""
        self._queue.put_nowait(lambda: self._coordination.finish_operation(operation, result))
