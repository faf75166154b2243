"""The port to the coordination service: everything that replication asks of ZooKeeper, and nothing else.

Implementations: `zookeeper.ZooKeeperCoordination`, `standalone.FileCoordination`, and the simulator's.
One conformance suite holds for all. Every call has a deadline; TimeoutError or a lost connection on a write
is `CasOutcome.UNKNOWN`: the request may be applied later.
"""

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from replication.core.compaction import Reads
from replication.core.values import CasOutcome, ClusterState, Identity, ReplicaId, TierFloor, VersionedState
from storage.position import LogPoint


class CoordinationUnavailable(Exception):
    """No answer in time. For a read: try again later. Never raised for a write, whose outcome is then UNKNOWN."""


class CoordinationCorrupt(Exception):
    """A znode holds what no version of Perenne wrote; names the znode and the reason."""


class NodeRetired(Exception):
    """This incarnation was taken off the register by an operator; the text says what to do."""


@dataclass(frozen=True, slots=True)
class ClusterRecord:
    """The znode `cluster`, created once: identity and the format that every node must share."""

    cluster_id: str
    format_version: int
    segment_bytes: int


@dataclass(frozen=True, slots=True)
class NodeRegistration:
    """The znode `nodes/<id>` (persistent)."""

    id: ReplicaId
    incarnation: str
    floor: LogPoint
    retired: bool = False
    """This incarnation was taken off the register: it does not take part any more."""
    former: tuple[str, ...] = ()
    """Earlier incarnations that were: their disks stay what they are, evidence and a source, if they come back."""

    def bars(self, incarnation: str) -> bool:
        return incarnation in self.former or (self.retired and incarnation == self.incarnation)

    def retiring(self, incarnation: str) -> "NodeRegistration":
        """The same with one more incarnation barred."""
        if incarnation == self.incarnation:
            return replace(self, retired=True)
        return replace(self, former=tuple(sorted({*self.former, incarnation})))

    def succeeded_by(self, new: "NodeRegistration") -> "NodeRegistration":
        """What `new` writes in the place of this one. Raises NodeRetired."""
        if self.bars(new.incarnation):
            raise NodeRetired(
                f"{new.id} was retired with this data directory (incarnation {new.incarnation}): keep the directory as"
                " it is, and start the node with an empty one; it comes back as a new incarnation and is filled"
            )
        barred = {self.incarnation} if self.retired else set[str]()
        return replace(new, former=tuple(sorted({*self.former, *barred})))


@dataclass(frozen=True, slots=True)
class LiveNode:
    """The znode `live/<id>` (ephemeral): where a running node is reached, and how it does.

    evicts: it may lack the records of sealed segments, so that nobody relies on it to keep them. reads: from which
    objects of the tier it reads them; an older version does not say, and promises nothing. machine: which boot of which
    kernel it runs on; empty where an older version does not say.
    """

    identity: Identity
    host: str
    peer_port: int
    dicom_port: int
    http_port: int
    ae_title: str
    version: str
    end: LogPoint
    evicts: bool = False
    reads: Reads = Reads()
    machine: str = ""

    def is_at(self, host: str, peer_port: int, machine: str) -> bool:
        """Whether it is in this very place, where the port lets one process run at a time: then it has ended, although
        its session has not. A clone of a machine has the address of the other one, and a boot of its own.
        """
        return (self.host, self.peer_port) == (host, peer_port) and self.machine in ("", machine)


@dataclass(frozen=True, slots=True)
class Operation:
    """A verb that an operator asked for: the znode `ops/<verb>`. `result` is None until the leader carried it out.

    The argument `until_us`, Unix microseconds, is when whoever asked has given up: after that it must not happen.
    """

    verb: str
    id: str
    arguments: Mapping[str, str]
    result: str | None = None

    def overdue(self, wall_us: int) -> bool:
        until = self.arguments.get("until_us", "")
        return until.isdecimal() and int(until) < wall_us


class SessionEvent(enum.Enum):
    """CONNECTED: a session is usable. SUSPENDED: no connection. LOST: a new session follows; ephemerals are gone."""

    CONNECTED = "connected"
    SUSPENDED = "suspended"
    LOST = "lost"


class Watcher(Protocol):
    """Called on the event loop; never blocks."""

    def session_changed(self, event: SessionEvent) -> None: ...

    def state_changed(self) -> None:
        """`state` or `leader` may have changed (a watch fired, or the poll saw another version): re-read."""
        ...

    def nodes_changed(self) -> None:
        """`live/` or `nodes/` may have changed."""
        ...

    def operation_requested(self) -> None:
        """Something under `ops/` may have changed."""
        ...


class Coordination(Protocol):
    """One session after another with the coordination service."""

    async def start(self, watcher: Watcher) -> None:
        """Begin connecting, in the background; returns at once. `watcher` hears of the session."""
        ...

    async def close(self) -> None:
        """End the session; its ephemeral znodes vanish at once."""
        ...

    def session_timeout_ms(self) -> int:
        """As negotiated with the server, not as asked for."""
        ...

    def fresh_since_ms(self) -> int:
        """Monotonic time, in ms, just before the send of the last request that was answered; 0 before the first."""
        ...

    async def cluster(self, propose: ClusterRecord) -> ClusterRecord:
        """Create `cluster` if absent; return what is there. Raises CoordinationUnavailable, CoordinationCorrupt."""
        ...

    async def register(self, registration: NodeRegistration) -> None:
        """Write `nodes/<id>`; who was retired stays so. Raises CoordinationUnavailable, NodeRetired."""
        ...

    async def announce(self, live: LiveNode) -> None:
        """Create or update `live/<id>` in this session. A leftover of one's own older session is replaced; raises
        NodeRetired where it is of another process, which may run.
        """
        ...

    async def read_state(self) -> VersionedState | None:
        """After a `sync`; None when `state` does not exist. Raises CoordinationUnavailable, CoordinationCorrupt."""
        ...

    async def leader(self) -> Identity | None:
        """The ephemeral `leader`: a hint of liveness, without authority. Raises CoordinationUnavailable."""
        ...

    async def tier_floor(self) -> TierFloor | None:
        """`tierfloor`, in the order of the reads before it. Raises CoordinationUnavailable, CoordinationCorrupt."""
        ...

    async def count_tier(
        self, point: LogPoint, state_version: int, floor_version: int | None
    ) -> tuple[CasOutcome, int]:
        """One transaction: check the version of `state`, and CAS `tierfloor`, which must not exist for None.

        Returns the outcome and, if applied, the new version of `tierfloor` (else -1).
        """
        ...

    async def create_state(self, state: ClusterState) -> tuple[CasOutcome, int]:
        """Create `state` where none exists (first start of a cluster). Returns the outcome and the version."""
        ...

    async def write_state(self, state: ClusterState, version: int) -> tuple[CasOutcome, int]:
        """CAS of `state`. Returns the outcome and, if applied, the new version (else -1). Version 0 is a version."""
        ...

    async def take_lead(self, state: ClusterState, version: int, who: Identity) -> tuple[CasOutcome, int]:
        """One transaction: create the ephemeral `leader` and CAS `state`. CONFLICT when either fails.

        An own `leader` left by an older session of `who` is no obstacle: it is deleted in the same transaction
        only if it names `who` and `state` at `version` does too.
        """
        ...

    async def recreate_leader(self, version: int, who: Identity) -> CasOutcome:
        """One transaction: check the version of `state` and create `leader` in this session (it expired)."""
        ...

    async def resign(self, who: Identity) -> None:
        """Delete `leader` if it names `who`. Best effort: the session's end does the same."""
        ...

    async def live_nodes(self) -> Mapping[ReplicaId, LiveNode]: ...

    async def registrations(self) -> Mapping[ReplicaId, NodeRegistration]: ...

    async def request_operation(self, operation: Operation) -> None:
        """Write `ops/<verb>`. Raises CoordinationUnavailable."""
        ...

    async def operations(self) -> tuple[Operation, ...]: ...

    async def finish_operation(self, operation: Operation, result: str) -> None: ...


ConnectionFactory = Callable[[], Coordination]
