"""Coordination of a standalone node: the same state in a local file, which fences nothing. With a tier, a fence does.

The file goes with the disk: a disk that was rolled back, or cloned, brings its old state with it. So with a tier in the
set, each start leads on the strength of what the bucket holds, as a node does whose disk is new (ADR 0013): until it
leads in phase active, its own membership is not shown.
"""

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Final, Protocol

from replication.coordination import codec
from replication.coordination.orderbox import OrderBox
from replication.coordination.port import (
    ClusterRecord,
    CoordinationUnavailable,
    LiveNode,
    NodeRegistration,
    NodeRetired,
    Operation,
    SessionEvent,
    Watcher,
)
from replication.core.values import (
    TIER_MEMBER,
    CasOutcome,
    ClusterState,
    Identity,
    Member,
    Phase,
    ReplicaId,
    TierFloor,
    VersionedState,
)
from storage.disk import Disk
from storage.errors import StorageError
from storage.position import LogPoint

_LOG: Final = logging.getLogger("perenne.coordination")
_STATE: Final = "standalone-state.json"
_TIER_FLOOR: Final = "standalone-tierfloor.json"
_CLUSTER: Final = "standalone-cluster.json"
_SESSION_MS: Final = 6000
RETRY_S: Final = 0.5
"""Until a failed write is answered."""
LOOK_S: Final = 0.25
"""Between two looks for orders."""
FENCE_S: Final = 5.0
"""Between two looks whether somebody else has taken the tier over, while nothing is counted."""


class Fence(Protocol):
    """What keeps two standalone nodes apart that share a tier."""

    async def hold(self, epoch: int, boot: str, *, alone: bool) -> None:
        """Return when this start alone has the tier. alone: whether it leads by its own log, not through the tier.

        Raises NodeRetired (another has it, or this disk is an old copy), CoordinationUnavailable.
        """
        ...


class FileCoordination:
    """`state` and `cluster` in the data directory; `leader` lives as long as the process does."""

    def __init__(self, disk: Disk, fence: Fence | None = None) -> None:
        self._disk = disk
        self._fence = fence
        self._epoch = 0
        """That this process leads, or led last."""
        self._claimed = 0
        """The last epoch in which it held the tier."""
        self.unclaimed: str | None = None
        """Why it was not to be had when it was asked for last."""
        self._proved = fence is None
        """Whether this start has led in phase active: what its log holds is what the tier holds."""
        self._alone: bool | None = None
        """Whether the tier was not in the set when this process began; None until it was asked for."""
        self._deposed = ""
        self._watcher: Watcher | None = None
        self._leader: Identity | None = None
        self._version = 0
        self._floor_version = 0
        self._live: dict[ReplicaId, LiveNode] = {}
        self._registrations: dict[ReplicaId, NodeRegistration] = {}
        self._operations: dict[str, Operation] = {}
        self._box: OrderBox | None = None
        self._looking: asyncio.Task[None] | None = None
        self._guarding: asyncio.Task[None] | None = None

    async def start(self, watcher: Watcher) -> None:
        self._watcher = watcher
        self._box = await asyncio.to_thread(OrderBox, self._disk)
        self._looking = asyncio.get_running_loop().create_task(self._look(self._box, watcher))
        if self._fence is not None:
            self._guarding = asyncio.get_running_loop().create_task(self._guard(watcher))
        asyncio.get_running_loop().call_soon(watcher.session_changed, SessionEvent.CONNECTED)

    async def _look(self, box: OrderBox, watcher: Watcher) -> None:
        seen: frozenset[str] = frozenset()
        while True:
            await asyncio.sleep(LOOK_S)
            if (names := await asyncio.to_thread(box.names)) - seen:
                watcher.operation_requested()
            seen = names

    async def _guard(self, watcher: Watcher) -> None:
        """Notice a successor also where nothing is counted: one copy was allowed, or nobody stores."""
        while not self._deposed:
            await asyncio.sleep(FENCE_S)
            if self._leader is not None:
                try:
                    await self._hold(self._epoch, self._leader.boot)
                except CoordinationUnavailable:
                    continue  # whoever puts something says that the tier is away
                except NodeRetired:
                    watcher.state_changed()  # whoever reads next is told

    async def _hold(self, epoch: int, boot: str) -> None:
        """Raises NodeRetired, CoordinationUnavailable."""
        assert self._fence is not None, "asked for where there is one"
        if self._alone is None:
            filed = self._filed()
            self._alone = filed is None or TIER_MEMBER not in filed.in_sync
        try:
            await self._fence.hold(epoch, boot, alone=self._alone)
        except NodeRetired as error:
            self._deposed = str(error)
            raise
        except CoordinationUnavailable as error:
            if self.unclaimed != (why := str(error)):
                _LOG.error("this node leads nobody through the tier, and counts it for nothing", extra={"reason": why})
            self.unclaimed = why
            raise
        self._claimed, self.unclaimed = max(self._claimed, epoch), None

    async def claimed(self) -> None:
        """Return when the tier is claimed for the leadership that goes on.

        Raises NodeRetired, CoordinationUnavailable.
        """
        if self._deposed:
            raise NodeRetired(self._deposed)
        if self._leader is None:
            raise CoordinationUnavailable("this node does not lead")
        if self._claimed < self._epoch:
            try:
                await self._hold(self._epoch, self._leader.boot)
            except NodeRetired:
                if self._watcher is not None:
                    self._watcher.state_changed()  # whoever reads next is told
                raise

    async def close(self) -> None:
        self._leader = None
        for task in (self._looking, self._guarding):
            if task is not None:
                task.cancel()

    def session_timeout_ms(self) -> int:
        return _SESSION_MS

    def fresh_since_ms(self) -> int:
        return int(time.monotonic() * 1000)

    async def cluster(self, propose: ClusterRecord) -> ClusterRecord:
        if not self._disk.exists(_CLUSTER):
            await asyncio.to_thread(self._disk.write_atomically, _CLUSTER, codec.encode_cluster(propose))
        return codec.decode_cluster(self._disk.read(_CLUSTER))

    async def register(self, registration: NodeRegistration) -> None:
        known = self._registrations.get(registration.id)
        self._registrations[registration.id] = known.succeeded_by(registration) if known else registration

    async def announce(self, live: LiveNode) -> None:
        self._live[live.identity.id] = live

    async def read_state(self) -> VersionedState | None:
        if self._deposed:
            raise NodeRetired(self._deposed)
        state = self._filed()
        if state is None:
            return None
        return VersionedState(replace(state, in_sync=state.in_sync - self._unproved(state)), self._version)

    def _filed(self) -> ClusterState | None:
        return codec.decode_state(self._disk.read(_STATE)) if self._disk.exists(_STATE) else None

    def _unproved(self, state: ClusterState) -> frozenset[Member]:
        """Members that the file names and that do not count yet. In the file they stay: the tier may be lost."""
        if self._proved or TIER_MEMBER not in state.in_sync:
            return frozenset()
        return state.in_sync - {TIER_MEMBER}

    async def leader(self) -> Identity | None:
        return self._leader

    async def tier_floor(self) -> TierFloor | None:
        if not self._disk.exists(_TIER_FLOOR):
            return None
        return TierFloor(codec.decode_tier_floor(self._disk.read(_TIER_FLOOR)), self._floor_version)

    async def count_tier(
        self, point: LogPoint, state_version: int, floor_version: int | None
    ) -> tuple[CasOutcome, int]:
        known = self._floor_version if self._disk.exists(_TIER_FLOOR) else None
        if state_version != self._version or floor_version != known:
            return CasOutcome.CONFLICT, -1
        if self._fence is not None and self._leader is not None:
            try:
                await self._hold(self._epoch, self._leader.boot)
            except CoordinationUnavailable:
                await asyncio.sleep(RETRY_S)
                return CasOutcome.CONFLICT, -1
        try:
            await asyncio.to_thread(self._disk.write_atomically, _TIER_FLOOR, codec.encode_tier_floor(point))
        except (StorageError, OSError):
            return CasOutcome.UNKNOWN, -1
        self._floor_version += 1
        return CasOutcome.APPLIED, self._floor_version

    async def create_state(self, state: ClusterState) -> tuple[CasOutcome, int]:
        if self._disk.exists(_STATE):
            return CasOutcome.CONFLICT, -1
        return await self._store(state, self._version)

    async def write_state(self, state: ClusterState, version: int) -> tuple[CasOutcome, int]:
        if version != self._version:
            return CasOutcome.CONFLICT, -1
        filed = self._filed()
        if state.phase is Phase.RECOVERING and filed is not None and TIER_MEMBER in state.in_sync:
            state = replace(state, in_sync=state.in_sync | self._unproved(filed))
        outcome, written = await self._store(state, version + 1)
        self._proved = self._proved or (outcome is CasOutcome.APPLIED and state.phase is Phase.ACTIVE)
        return outcome, written

    async def _store(self, state: ClusterState, version: int) -> tuple[CasOutcome, int]:
        try:
            await asyncio.to_thread(self._disk.write_atomically, _STATE, codec.encode_state(state))
        except (StorageError, OSError):
            # Whoever asked tries again at once, at the version that it knows: a full disk is not to be hammered.
            await asyncio.sleep(RETRY_S)
            return CasOutcome.UNKNOWN, -1
        self._version = version
        if self._watcher is not None:
            self._watcher.state_changed()
        return CasOutcome.APPLIED, version

    async def take_lead(self, state: ClusterState, version: int, who: Identity) -> tuple[CasOutcome, int]:
        if self._leader not in (None, who):
            return CasOutcome.CONFLICT, -1
        if self._fence is not None:
            try:
                await self._hold(state.epoch, who.boot)
            except CoordinationUnavailable:
                if TIER_MEMBER in state.in_sync:
                    await asyncio.sleep(RETRY_S)
                    return CasOutcome.CONFLICT, -1
        outcome, written = await self.write_state(state, version)
        if outcome is CasOutcome.APPLIED:
            self._leader, self._epoch = who, state.epoch
        return outcome, written

    async def recreate_leader(self, version: int, who: Identity) -> CasOutcome:
        if version != self._version:
            return CasOutcome.CONFLICT
        self._leader = who
        return CasOutcome.APPLIED

    async def resign(self, who: Identity) -> None:
        if self._leader == who:
            self._leader = None
            if self._watcher is not None:
                self._watcher.state_changed()

    async def live_nodes(self) -> Mapping[ReplicaId, LiveNode]:
        return dict(self._live)

    async def registrations(self) -> Mapping[ReplicaId, NodeRegistration]:
        return dict(self._registrations)

    async def request_operation(self, operation: Operation) -> None:
        self._operations[operation.verb] = operation

    async def operations(self) -> tuple[Operation, ...]:
        found = await asyncio.to_thread(self._box.orders) if self._box is not None else []
        return (*self._operations.values(), *found)

    async def finish_operation(self, operation: Operation, result: str) -> None:
        done = Operation(operation.verb, operation.id, operation.arguments, result)
        known = self._operations.get(operation.verb)
        if known is not None and known.id == operation.id:
            self._operations[operation.verb] = done
        elif self._box is not None:
            await asyncio.to_thread(self._box.finish, operation, result)
