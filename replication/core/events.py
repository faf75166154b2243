"""What the driver tells the core: everything that happens to one node, as plain values.

`link` is the driver's handle of one connection; a handle is never reused.
"""

import enum
from dataclasses import dataclass

from replication.core.values import CasOutcome, Identity, ReplicaId, VersionedState
from replication.messages import Message
from storage.position import LogPoint, RecordHeader


@dataclass(frozen=True, slots=True)
class Tick:
    """Time passed. Sent at least every 50 ms."""


class Session(enum.Enum):
    """Of the coordination service. LOST: ephemerals are gone and a new session follows."""

    CONNECTED = "connected"
    SUSPENDED = "suspended"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class SessionChanged:
    session: Session


@dataclass(frozen=True, slots=True)
class StateSeen:
    """`state` and the ephemeral `leader`, read after a `sync` in the present session.

    registered: this node's own znode was written in this session before the read.
    """

    state: VersionedState | None
    leader: Identity | None
    registered: bool


@dataclass(frozen=True, slots=True)
class ReadFailed:
    """The read that `ReadState` asked for had no answer in time."""


@dataclass(frozen=True, slots=True)
class StateWritten:
    """Outcome of `WriteState`, `TakeLead`, `CreateState` or `RecreateLeader` number `request`."""

    request: int
    outcome: CasOutcome
    version: int


@dataclass(frozen=True, slots=True)
class PromiseStored:
    """Promise, floor and counter of `Persist` are on stable storage."""

    promise: int


@dataclass(frozen=True, slots=True)
class LinkUp:
    """A connection to `peer` passed its greeting. `dialled`: this node opened it and may send requests on it."""

    link: int
    peer: Identity
    dialled: bool


@dataclass(frozen=True, slots=True)
class LinkDown:
    link: int


@dataclass(frozen=True, slots=True)
class Received:
    """A message without a record came over `link`."""

    link: int
    sender: Identity
    message: Message


@dataclass(frozen=True, slots=True)
class RecordReceived:
    """An `Append` came, its record checked against its own digest. `handle` names the staged payload."""

    link: int
    sender: Identity
    epoch: int
    previous: LogPoint
    committed: LogPoint
    header: RecordHeader
    chain: bytes
    handle: int


@dataclass(frozen=True, slots=True)
class SegmentReceived:
    """A whole segment came and lies staged under `handle`; nothing in it was checked yet."""

    link: int
    sender: Identity
    epoch: int
    previous: LogPoint
    end: LogPoint
    committed: LogPoint
    handle: int


@dataclass(frozen=True, slots=True)
class RecordFetched:
    """An answer to `Fetch`: one record of a longer tail, checked against its own digest."""

    sender: Identity
    nonce: int
    previous: LogPoint
    header: RecordHeader
    chain: bytes
    handle: int


@dataclass(frozen=True, slots=True)
class LocalDurable:
    """This node's log is on stable storage up to `point`."""

    point: LogPoint


@dataclass(frozen=True, slots=True)
class LocalFailed:
    """A write or fsync of the log failed; the segment is poisoned. Nothing more is confirmed by this process."""

    reason: str


@dataclass(frozen=True, slots=True)
class Truncated:
    """The log was cut back to `point`; what was cut lies in lost+found, fsynced."""

    point: LogPoint


@dataclass(frozen=True, slots=True)
class SegmentInstalled:
    """The segment was verified record by record and is part of the log now; None when it was refused."""

    end: LogPoint | None


@dataclass(frozen=True, slots=True)
class Proposed:
    """An instance is offered for commitment. `relayed_from`: the link it came over, None when it was received here.

    stem: member path without `.dcm`. deadline_ms: when the sender is told A700 instead.
    """

    ticket: int
    sop_instance_uid: str
    transfer_syntax_uid: str
    stem: str
    dataset: bytes
    digest: bytes
    size: int
    time_us: int
    deadline_ms: int
    relayed_from: int | None = None


@dataclass(frozen=True, slots=True)
class ProposalAnswered:
    """The leader at the other end of `link` answered a relayed proposal. `outcome` as in messages.ProposeResult."""

    link: int
    ticket: int
    outcome: str
    reason: str


@dataclass(frozen=True, slots=True)
class HandOverRequested:
    """Give the lead to `to`, or to the most advanced in-sync follower when None. `final`: this node then stops."""

    to: ReplicaId | None
    now_us: int
    final: bool


@dataclass(frozen=True, slots=True)
class DataPathChanged:
    """The canary stalls (a reason) or turns again (None); also used when the disk is nearly full."""

    trouble: str | None


Event = (
    Tick
    | SessionChanged
    | StateSeen
    | ReadFailed
    | StateWritten
    | PromiseStored
    | LinkUp
    | LinkDown
    | Received
    | RecordReceived
    | SegmentReceived
    | RecordFetched
    | LocalDurable
    | LocalFailed
    | Truncated
    | SegmentInstalled
    | Proposed
    | ProposalAnswered
    | HandOverRequested
    | DataPathChanged
)
