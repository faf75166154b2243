"""What one node knows at this moment: the facts that every part of the core shares.

Parts read it freely; each fact has one writer, named beside it. Nothing here decides anything.
"""

import enum
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from replication.core.effects import Effect, Frozen, Persist, ReadState, Send, TailSettled
from replication.core.events import Session
from replication.core.ledger import Ledger
from replication.core.ports import Catalogue
from replication.core.values import ClusterState, Identity, Member, ReplicaId, TierFloor, TierMode, VersionedState
from replication.messages import Message
from storage.position import LogPoint, LogPosition, RecordHeader


class ConflictPolicy(enum.Enum):
    """What happens to other bytes under a SOP Instance UID that is already held."""

    KEEP_FIRST = "keep-first"
    NEWEST = "newest"
    REFUSE = "refuse"


EPOCH_LEAP = 1_000_000
"""More elections than this do not pass unnoticed by a node: an epoch further ahead is no leader's."""

EpochRecord = Callable[[LogPosition, int], tuple[RecordHeader, bytes]]
"""Make the EPOCH record at a position and a time in Unix microseconds: its header and payload."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What does not change while the process lives; times in milliseconds.

    host_rebooted: the host restarted since this node last ran, so its disk may have lost what it had promised.
    tier_pack_bytes_per_s: how fast sealed segments replace small objects; 0 for as fast as it goes.
    """

    identity: Identity
    copies_required: int = 2
    allow_solo: bool = False
    session_timeout_ms: int = 6000
    stall_timeout_ms: int = 3000
    disconnect_grace_ms: int = 250
    reboot_wait_ms: int = 30_000
    conflict_policy: ConflictPolicy = ConflictPolicy.KEEP_FIRST
    host_rebooted: bool = False
    tier_mode: TierMode = TierMode.OFF
    tier_pack_bytes_per_s: int = 0

    @property
    def minimum_copies(self) -> int:
        """The smallest in-sync set that may acknowledge."""
        return 1 if self.allow_solo else self.copies_required

    @property
    def heartbeat_ms(self) -> int:
        return max(50, self.session_timeout_ms // 20)


@dataclass(slots=True)
class Link:
    """One connection that passed its greeting. heard_ms: when anything last came over it."""

    number: int
    peer: Identity
    dialled: bool
    heard_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """Pure look-ups and makers that the core is given."""

    catalogue: Catalogue
    new_id: Callable[[], str]
    epoch_record: EpochRecord
    received_bytes: Callable[[int], int]
    """Payload bytes that came over a link so far, unfinished records included."""


class Situation:
    """Shared facts of one node, and the list of effects that the present step produces."""

    def __init__(self, settings: Settings, ledger: Ledger, ports: Ports, *, promise: int, floor: LogPoint) -> None:
        self.settings = settings
        self.me = settings.identity
        self.ledger = ledger
        self.ports = ports
        self.out: list[Effect] = []
        self.now_ms = 0
        self.started_ms = 0
        """When this process took its first step."""
        self.ticked_ms = 0
        """When the last `Tick` came: what only time changes needs no closer look."""
        self.wall_us = 0
        self.links: dict[int, Link] = {}
        self.lost_links_ms: dict[ReplicaId, int] = {}
        """When the last link to a replica went down."""
        self.session = Session.LOST
        self.state: VersionedState | None = None
        self.leader_present: Identity | None = None
        """The ephemeral `leader` as last read."""
        self.tier_floor: TierFloor | None = None
        """As last read, or written by this node as leader."""
        self.tier_epoch = 0
        """The highest epoch that the bucket was seen to hold, dead branches included: a new one must be above it."""
        self.state_fresh = False
        """Whether `state` was read in the present session: no CAS before that (protocol: a new session re-reads)."""
        self.admitted = False
        """Registered, state read, promise at least its epoch: before that the node confirms and answers nothing."""
        self.promise = promise
        self.counter = 0
        self.floor = floor
        self.wanted_promise = promise
        self.told = floor
        """The highest commit point this node was ever told, or reached as leader."""
        self.committed = floor
        """What of `told` is durable here: may be served and indexed."""
        self.unsettled = settings.host_rebooted
        """The host rebooted, and nothing has shown yet that this log lost nothing that was committed."""
        self.waited_ms = 0
        """How long this node, standing, has waited since for members that do not answer."""
        self.damaged = ledger.damaged()
        """Records that are known to be damaged here: this node is no holder of them."""
        self.damage_changes = 0
        self.fenced: str | None = None
        self.full = False
        """Whether it is fenced for want of room alone."""
        self.retiring = False
        """An operator wants this node out: it leaves the set as soon as the others hold everything."""
        self.trouble: str | None = None
        self.not_standing: str | None = None
        """Why this node would not lead when it last came to stand for election: for people, decides nothing."""
        self.relinquished = -1
        """The highest epoch in which this process led and stopped leading: it never acts in it again."""
        self._requests = 0

    def emit(self, effect: Effect) -> None:
        self.out.append(effect)

    def send(self, link: int, message: Message) -> None:
        self.out.append(Send(link, message))

    def next_request(self) -> int:
        self._requests += 1
        return self._requests

    def read_state(self) -> None:
        self.emit(ReadState())

    def persist(self, promise: int) -> None:
        """Raise the promise on disk (it never falls); floor and counter go along."""
        self.wanted_promise = max(self.wanted_promise, promise)
        self.floor = max(self.floor, self.committed, key=lambda point: point.position)
        self.emit(Persist(self.wanted_promise, self.floor, self.counter))

    def settle_tail(self) -> None:
        """This log holds everything that is committed, a record of the present epoch included."""
        if self.unsettled:
            self.unsettled = False
            self.emit(TailSettled())

    def freeze(self, reason: str) -> None:
        """Stop writing for good: the log contradicts what was promised. Evidence stays where it is."""
        self.full = False
        if self.fenced is None:
            self.fenced = reason
            self.emit(Frozen(reason))

    def believable(self, epoch: int) -> bool:
        """Whether an epoch that somebody names can come from elections. A promise never falls, so one that is made to
        a stranger's absurd number would outlast him.
        """
        return 0 <= epoch <= max(self.wanted_promise, self.cluster.epoch if self.cluster else 0) + EPOCH_LEAP

    def link_to(self, replica: ReplicaId) -> Link | None:
        """The best connection to a replica: one that this node dialled where there is one."""
        found = [link for link in self.links.values() if link.peer.id == replica]
        return max(found, key=lambda link: (link.dialled, link.number), default=None)

    def linked_members(self, members: Iterable[Member]) -> set[Member]:
        """Those that a connection leads to now, by id and incarnation."""
        return {link.peer.member for link in self.links.values()} & set(members)

    @property
    def cluster(self) -> ClusterState | None:
        return self.state.state if self.state else None
