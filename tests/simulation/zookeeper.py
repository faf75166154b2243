"""The coordination service: one truth, sessions, ephemerals, watches. `client.Client` is how a process sees it.

Faults: outage, a client cut off, expiry, watches that come late, everything restored from an old backup, everything
lost; `Weights` are those that clients meet per request.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from replication.coordination.port import ClusterRecord, LiveNode, NodeRegistration, Operation, Watcher
from replication.core.values import ClusterState, Identity, ReplicaId, TierFloor, VersionedState
from storage.position import LogPoint
from tests.simulation.world import Handle, ProcessLoop, World

LATENCY_US = 400


class Session(Protocol):
    """The client's end of a session."""

    loop: ProcessLoop

    def fire(self, what: Callable[[Watcher], None]) -> None: ...

    def line_changed(self) -> None: ...

    def drop_line(self) -> None: ...


@dataclass
class Weights:
    """Chances per request, in [0, 1)."""

    lost: float = 0.0
    unanswered: float = 0.0
    late: float = 0.0
    stale: float = 0.0
    late_watch: float = 0.0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the service holds after its transaction number `zxid`."""

    zxid: int = 0
    state: VersionedState | None = None
    leader: Identity | None = None
    leader_session: int = 0
    tier_floor: TierFloor | None = None
    registrations: Mapping[ReplicaId, NodeRegistration] = field(default_factory=dict[ReplicaId, NodeRegistration])


class Service:
    """The ensemble as its leader sees it.

    struck(kind, node): told of each fault drawn by chance, and whose request it struck. lean(kind, node): what is to be
    added to its chance.
    changed(state): told of each state that was written.
    counted(point): told of each `tierfloor` that was written.
    """

    def __init__(self, world: World, session_ms: int) -> None:
        self.world = world
        self.session_ms = session_ms
        self.now = Snapshot()
        self.history: list[Snapshot] = [self.now]
        self.cluster: ClusterRecord | None = None
        self.live: dict[ReplicaId, tuple[LiveNode, int]] = {}
        self.operations: dict[str, Operation] = {}
        self.registered: dict[ReplicaId, int] = {}
        """Version of each znode of a registration."""
        self.up = True
        self.cut_off: set[int] = set()
        self.weights = Weights()
        self.slow_us = 0
        """What each way takes beside LATENCY_US."""
        self.clients: dict[int, Session] = {}
        self.sessions: dict[int, Session] = {}
        self.struck: Callable[[str, int], None] = lambda kind, node: None
        self.lean: Callable[[str, int | None], float] = lambda kind, node: 0.0
        self.changed: Callable[[ClusterState], None] = lambda state: None
        self.counted: Callable[[LogPoint], None] = lambda point: None
        self._sessions = 0
        self._expiries: dict[int, Handle] = {}

    @property
    def state(self) -> ClusterState | None:
        return self.now.state.state if self.now.state is not None else None

    def reaches(self, node: int) -> bool:
        return self.up and node not in self.cut_off

    def put(self, snapshot: Snapshot) -> None:
        before = self.now
        self.now = replace(snapshot, zxid=before.zxid + 1)
        self.history.append(self.now)
        if snapshot.state is not None and snapshot.state != before.state:
            self.changed(snapshot.state.state)
        if (snapshot.state, snapshot.leader) != (before.state, before.leader):
            self.tell(lambda watcher: watcher.state_changed())

    def tell(self, what: Callable[[Watcher], None]) -> None:
        """Watches fire, each client in its own time."""
        chance = self.world.random
        for client in list(self.sessions.values()):
            delay = chance.randrange(LATENCY_US // 2, LATENCY_US * 2)
            late_watch = self.weights.late_watch + self.lean("a watch comes late", client.loop.number)
            if late_watch and chance.random() < late_watch:
                self.struck("a watch comes late", client.loop.number)
                delay += chance.randrange(10_000, 400_000)
            self.world.after(delay, client.loop, client.fire, what)

    # Sessions

    def open_session(self, client: Session) -> int:
        self._sessions += 1
        self.sessions[self._sessions] = client
        return self._sessions

    def unheard(self, session: int) -> None:
        """Nothing comes from this session any more: it expires unless `heard` is called in time."""
        if session in self.sessions and session not in self._expiries:
            self._expiries[session] = self.world.after(self.session_ms * 1000, None, self._time_out, session)

    def heard(self, session: int) -> bool:
        """Return whether the session still exists."""
        handle = self._expiries.pop(session, None)
        if handle is not None:
            handle.cancel()
        return session in self.sessions

    def _time_out(self, session: int) -> None:
        self._expiries.pop(session, None)
        if self.up:
            self.expire(session)
        else:
            self.unheard(session)  # sessions do not age while nobody leads the ensemble

    def expire(self, session: int) -> None:
        """Forget a session and its ephemerals."""
        if self.sessions.pop(session, None) is None:
            return
        self.heard(session)
        gone = [replica for replica, (_, owner) in self.live.items() if owner == session]
        for replica in gone:
            del self.live[replica]
        if gone:
            self.tell(lambda watcher: watcher.nodes_changed())
        if self.now.leader_session == session:
            self.put(replace(self.now, leader=None, leader_session=0))

    # Faults and operators

    def lines_changed(self) -> None:
        """`up` or `cut_off` changed: clients notice."""
        for client in list(self.clients.values()):
            client.line_changed()

    def restore(self, snapshot: Snapshot) -> None:
        """Everything as in an old backup; every session is unknown to it."""
        for session in list(self.sessions):
            client = self.sessions[session]
            self.expire(session)
            client.drop_line()
        self.put(replace(snapshot, leader=None, leader_session=0))
        self.registered = dict.fromkeys(snapshot.registrations, 0)
        if snapshot.state is None:
            self.cluster = None

    def request(self, operation: Operation) -> None:
        self.operations[operation.verb] = operation
        self.tell(lambda watcher: watcher.operation_requested())
