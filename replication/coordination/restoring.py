"""What a restore asks of the coordination service: to see what is there, and to put a restored state in its place."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from kazoo.exceptions import NoNodeError

from replication.coordination import codec
from replication.coordination.access import Access
from replication.coordination.port import ClusterRecord, CoordinationUnavailable, SessionEvent
from replication.coordination.standalone import FileCoordination
from replication.coordination.zookeeper import ZooKeeperCoordination
from replication.core.values import CasOutcome, ClusterState, Identity, TierFloor, VersionedState
from storage.position import LogPoint

CONNECT_S: Final = 20.0


@dataclass(frozen=True, slots=True)
class Seen:
    """What the service holds; all None when it is empty. live: ids of nodes that run."""

    cluster: ClusterRecord | None = None
    state: VersionedState | None = None
    tier_floor: TierFloor | None = None
    leader: Identity | None = None
    live: tuple[str, ...] = ()
    floors: tuple[tuple[str, LogPoint], ...] = ()
    """What each registered node once knew to be committed."""


class Rebuilding(Protocol):
    """Where a restored cluster's state goes."""

    async def see(self) -> Seen:
        """Raises CoordinationUnavailable, CoordinationCorrupt."""
        ...

    async def install(self, cluster: ClusterRecord, state: ClusterState, seen: Seen) -> CasOutcome:
        """Put `state` where `seen` was, all or nothing; CONFLICT when anything moved, or somebody leads."""
        ...

    async def close(self) -> None: ...


class ZooKeeperRebuilding(ZooKeeperCoordination):
    """One session that sees and installs. Nothing is registered: it is no node."""

    @classmethod
    async def connected(cls, hosts: str, *, session_timeout_ms: int, access: Access) -> "ZooKeeperRebuilding":
        """access: that of the nodes, who are to own what is made here. Raises CoordinationUnavailable."""
        service = cls(hosts, session_timeout_ms=session_timeout_ms, access=access)
        waiter = _Connected()
        await service.start(waiter)
        try:
            async with asyncio.timeout(CONNECT_S):
                await waiter.event.wait()
        except TimeoutError as error:
            await service.close()
            raise CoordinationUnavailable(f"ZooKeeper at {hosts} does not answer") from error
        return service

    async def see(self) -> Seen:
        state = await self.read_state()
        cluster = await self._get("cluster")
        floor = await self.tier_floor()
        leader = await self.leader()
        record = codec.decode_cluster(cluster) if cluster is not None else None
        if await self._get("") is None:
            return Seen(record, state, floor, leader)
        live = tuple(sorted(await self.live_nodes()))
        registered = await self.registrations()
        floors = tuple((node.id, node.floor) for node in registered.values() if node.floor.sequence)
        return Seen(record, state, floor, leader, live, floors)

    async def _get(self, name: str) -> bytes | None:
        try:
            data, _ = await self._ask(self._client.get_async(self._path(name) if name else self._root))
        except NoNodeError:
            return None
        return bytes(data or b"")

    async def install(self, cluster: ClusterRecord, state: ClusterState, seen: Seen) -> CasOutcome:
        await self._prepare()

        def send() -> Any:
            transaction = self._client.transaction()
            # Made and unmade: it fails if anybody leads.
            transaction.create(self._path("leader"), b"", ephemeral=True)
            transaction.delete(self._path("leader"))
            if seen.cluster is None:
                transaction.create(self._path("cluster"), codec.encode_cluster(cluster))
            if seen.state is None:
                transaction.create(self._path("state"), codec.encode_state(state))
            else:
                transaction.set_data(self._path("state"), codec.encode_state(state), seen.state.version)
            if seen.tier_floor is not None:
                # What was counted belongs to the history that is given up.
                transaction.delete(self._path("tierfloor"), seen.tier_floor.version)
            return transaction.commit_async()

        outcome, _ = await self._cas(send, lambda _: 0)
        return outcome


class FileRebuilding:
    """The same for a standalone node: files in the restored directory, which is new."""

    def __init__(self, files: FileCoordination) -> None:
        self._files = files

    async def see(self) -> Seen:
        state = await self._files.read_state()
        return Seen(state=state)

    async def install(self, cluster: ClusterRecord, state: ClusterState, seen: Seen) -> CasOutcome:
        await self._files.cluster(cluster)
        if seen.state is None:
            outcome, _ = await self._files.create_state(state)
        else:
            outcome, _ = await self._files.write_state(state, seen.state.version)
        return outcome

    async def close(self) -> None:
        await self._files.close()


class _Connected:
    """Waits for the first session."""

    def __init__(self) -> None:
        self.event = asyncio.Event()

    def session_changed(self, event: SessionEvent) -> None:
        if event is SessionEvent.CONNECTED:
            self.event.set()

    def state_changed(self) -> None: ...

    def nodes_changed(self) -> None: ...

    def operation_requested(self) -> None: ...


def told(seen: Seen) -> str:
    """One line on what a restore would put another state in the place of."""
    if seen.state is None:
        return "no state"
    state = seen.state.state
    leader = state.leader.id if state.leader is not None else "nobody"
    members: Sequence[str] = sorted(member.id for member in state.in_sync)
    return (
        f"the state of change {state.change.counter}: epoch {state.epoch}, led by {leader},"
        f" in sync {json.dumps(members)}, committed at least to record {state.floor.sequence}"
    )
