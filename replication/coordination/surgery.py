"""An operator's hand in ZooKeeper: look at everything, and write what a person agreed to, in one transaction.

Nodes never use this. It blocks, and lives as long as one command.
"""

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from kazoo.client import KazooClient
from kazoo.exceptions import KazooException, NodeExistsError, NoNodeError
from kazoo.handlers.threading import KazooTimeoutError

from replication.coordination import codec
from replication.coordination.access import Access
from replication.coordination.port import ClusterRecord, CoordinationUnavailable, LiveNode, NodeRegistration, Operation
from replication.core.values import ClusterState, Identity, Member, ReplicaId, TierFloor, VersionedState
from storage.position import GENESIS

T = TypeVar("T")
CONNECT_S: Final = 10.0
_GUARD: Final = b"an operator's hand"


class Interfered(Exception):
    """What was looked at is not what is there any more: nothing was written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Everything that ZooKeeper has of a cluster. versions: of the znodes that may be written again."""

    cluster: ClusterRecord | None
    state: VersionedState | None
    tier_floor: TierFloor | None
    leader: Identity | None
    registrations: Mapping[ReplicaId, NodeRegistration]
    live: Mapping[ReplicaId, LiveNode]
    versions: Mapping[str, int]


class Surgery:
    """A session under `root` of an ensemble. Every method raises CoordinationUnavailable, CoordinationCorrupt."""

    def __init__(
        self, hosts: str, *, root: str = "/perenne", access: Access | None = None, patience_s: float = CONNECT_S
    ) -> None:
        self._root = root
        self._hosts = hosts
        self._patience_s = patience_s
        options = (access or Access()).options()
        self._client: Any = KazooClient(hosts=hosts, timeout=6.0, logger=logging.getLogger("perenne.kazoo"), **options)

    def __enter__(self) -> Self:
        try:
            self._client.start(timeout=self._patience_s)
        except (KazooTimeoutError, KazooException) as error:
            self._close()
            raise CoordinationUnavailable(f"ZooKeeper at {self._hosts} does not answer: {error}") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _close(self) -> None:
        self._client.stop()
        self._client.close()

    def _path(self, *parts: str) -> str:
        return "/".join((self._root, *parts))

    def _read(self, decode: Callable[[bytes], T], *parts: str) -> tuple[T, int] | None:
        try:
            data, stat = self._client.get(self._path(*parts))
        except NoNodeError:
            return None
        return decode(data), int(stat.version)

    def _children(self, name: str, decode: Callable[[bytes], T]) -> dict[str, tuple[T, int]]:
        try:
            names: list[str] = self._client.get_children(self._path(name))
        except NoNodeError:
            return {}
        found = ((child, self._read(decode, name, child)) for child in names)
        return {child: read for child, read in found if read is not None}

    def look(self) -> Found:
        """Read everything, after a `sync`."""
        try:
            if self._client.exists(self._root):
                self._client.sync(self._root)
            cluster = self._read(codec.decode_cluster, "cluster")
            state = self._read(codec.decode_state, "state")
            floor = self._read(codec.decode_tier_floor, "tierfloor")
            leader = self._read(codec.decode_leader, "leader")
            nodes = self._children("nodes", codec.decode_registration)
            live = self._children("live", codec.decode_live)
        except KazooException as error:
            raise CoordinationUnavailable(f"ZooKeeper does not answer, or refuses: {type(error).__name__}") from error
        versions = {f"nodes/{name}": version for name, (_, version) in nodes.items()}
        versions |= {
            name: read[1] for name, read in (("cluster", cluster), ("state", state), ("tierfloor", floor)) if read
        }
        return Found(
            cluster=cluster[0] if cluster else None,
            state=VersionedState(*state) if state else None,
            tier_floor=TierFloor(*floor) if floor else None,
            leader=leader[0] if leader else None,
            registrations={node.id: node for node, _ in nodes.values()},
            live={node.identity.id: node for node, _ in live.values()},
            versions=versions,
        )

    def write(self, found: Found, *, cluster: ClusterRecord, state: ClusterState, left_out: Iterable[Member]) -> None:
        """Write all of it, or nothing: only if everything is as it was found, and nobody leads.

        `tierfloor` goes with the state that it was counted under, unless the new one rests on the tier.
        Raises Interfered.
        """
        transaction = self._begin()
        if found.cluster != cluster:
            self._put(transaction, found, "cluster", codec.encode_cluster(cluster))
        self._put(transaction, found, "state", codec.encode_state(state))
        if found.tier_floor is not None and state.tier is None:
            transaction.delete(self._path("tierfloor"), found.versions["tierfloor"])
        self._retire(transaction, found, left_out)
        self._commit(transaction)

    def retire(self, found: Found, left_out: Iterable[Member]) -> None:
        """Take incarnations off the register: they may not take part any more. Raises Interfered."""
        transaction = self._client.transaction()
        self._retire(transaction, found, left_out)
        self._commit(transaction)

    def operation(self, verb: str) -> Operation | None:
        """What was asked for last."""
        try:
            read = self._read(codec.decode_operation, "ops", verb)
        except KazooException as error:
            raise CoordinationUnavailable(f"ZooKeeper does not answer, or refuses: {type(error).__name__}") from error
        return read[0] if read is not None else None

    def request(self, operation: Operation) -> None:
        """Ask whoever it concerns for an operation."""
        path, data = self._path("ops", operation.verb), codec.encode_operation(operation)
        try:
            try:
                self._client.set(path, data)
            except NoNodeError:
                self._client.create(path, data, makepath=True)
        except KazooException as error:
            raise CoordinationUnavailable(f"ZooKeeper does not answer, or refuses: {type(error).__name__}") from error

    def _begin(self) -> Any:
        try:
            for name in ("nodes", "live", "ops"):
                self._client.ensure_path(self._path(name))
        except KazooException as error:
            raise CoordinationUnavailable(
                f"ZooKeeper does not answer, or refuses ({type(error).__name__}): nothing was written"
            ) from error
        transaction = self._client.transaction()
        # Fails where somebody leads, and leaves nothing behind where nobody does.
        transaction.create(self._path("leader"), _GUARD, ephemeral=True)
        transaction.delete(self._path("leader"))
        return transaction

    def _retire(self, transaction: Any, found: Found, left_out: Iterable[Member]) -> None:
        changed: dict[ReplicaId, NodeRegistration] = {}
        for member in left_out:
            known = changed.get(member.id) or found.registrations.get(member.id)
            known = known or NodeRegistration(member.id, member.incarnation, GENESIS)
            changed[member.id] = known.retiring(member.incarnation)
        for name, registration in changed.items():
            self._put(transaction, found, f"nodes/{name}", codec.encode_registration(registration))

    def _put(self, transaction: Any, found: Found, name: str, data: bytes) -> None:
        version = found.versions.get(name)
        if version is None:
            transaction.create(self._path(name), data)
        else:
            transaction.set_data(self._path(name), data, version)

    def _commit(self, transaction: Any) -> None:
        try:
            answers: list[object] = transaction.commit()
        except KazooException as error:
            raise CoordinationUnavailable(
                f"ZooKeeper did not answer ({type(error).__name__}): whether this was written is not known; look again"
            ) from error
        failed = [answer for answer in answers if isinstance(answer, Exception)]
        if any(isinstance(answer, NodeExistsError) for answer in failed):
            raise Interfered("somebody leads, or wrote meanwhile: nothing was written; look again")
        if failed:
            raise Interfered("something changed since it was looked at: nothing was written; look again")

    def wait_for(self, met: Callable[[Found], bool], seconds: float, every: float = 0.2) -> Found | None:
        """Look until `met`, or until time is over."""
        deadline = time.monotonic() + seconds
        while True:
            found = self.look()
            if met(found):
                return found
            if time.monotonic() > deadline:
                return None
            time.sleep(every)
