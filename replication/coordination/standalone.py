"""Coordination of a standalone node: the same state in a local file, which fences nothing."""

import asyncio
import time
from collections.abc import Mapping
from typing import Final

from replication.coordination import codec
from replication.coordination.port import (
    ClusterRecord,
    LiveNode,
    NodeRegistration,
    Operation,
    SessionEvent,
    Watcher,
)
from replication.core.values import CasOutcome, ClusterState, Identity, ReplicaId, TierFloor, VersionedState
from storage.disk import Disk
from storage.errors import StorageError
from storage.position import LogPoint

_STATE: Final = "standalone-state.json"
_TIER_FLOOR: Final = "standalone-tierfloor.json"
_CLUSTER: Final = "standalone-cluster.json"
_SESSION_MS: Final = 6000
RETRY_S: Final = 0.5
"""Until a failed write is answered."""


class FileCoordination:
    """`state` and `cluster` in the data directory; `leader` lives as long as the process does."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._watcher: Watcher | None = None
        self._leader: Identity | None = None
        self._version = 0
        self._floor_version = 0
        self._live: dict[ReplicaId, LiveNode] = {}
        self._registrations: dict[ReplicaId, NodeRegistration] = {}
        self._operations: dict[str, Operation] = {}

    async def start(self, watcher: Watcher) -> None:
        self._watcher = watcher
        asyncio.get_running_loop().call_soon(watcher.session_changed, SessionEvent.CONNECTED)

    async def close(self) -> None:
        self._leader = None

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
        if not self._disk.exists(_STATE):
            return None
        return VersionedState(codec.decode_state(self._disk.read(_STATE)), self._version)

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
        return await self._store(state, version + 1)

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
        outcome, written = await self.write_state(state, version)
        if outcome is CasOutcome.APPLIED:
            self._leader = who
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
        return tuple(self._operations.values())

    async def finish_operation(self, operation: Operation, result: str) -> None:
        self._operations[operation.verb] = Operation(operation.verb, operation.id, operation.arguments, result)
