"""What the driver tells the core: everything that happens to one node, as plain values.

`link` is the driver's handle of one connection; a handle is never reused.
"""

import enum

from msgspec import Struct

from replication.core.values import CasOutcome, Identity, Member, ReplicaId, TierFloor, VersionedState
from replication.messages import Message
from replication.tier.contents import Link as RunLink
from replication.tier.keys import WHOLE, Form, Run
from storage.position import LogPoint, RecordHeader, RecordKind


class Tick(Struct, frozen=True):
    """Time passed. Sent at least every 50 ms."""


class Session(enum.Enum):
    """Of the coordination service. LOST: ephemerals are gone and a new session follows."""

    CONNECTED = "connected"
    SUSPENDED = "suspended"
    LOST = "lost"


class SessionChanged(Struct, frozen=True):
    session: Session


class StateSeen(Struct, frozen=True):
    """`state` and the ephemeral `leader`, read after a `sync` in the present session.

    registered: this node's own znode was written in this session before the read.
    """

    state: VersionedState | None
    leader: Identity | None
    registered: bool
    tier_floor: TierFloor | None = None


class RegisteredSeen(Struct, frozen=True):
    """The nodes that are registered and not retired, asked for while this node led `epoch`: whoever led an older one
    is among them.
    """

    epoch: int
    members: frozenset[Member]


class ReadFailed(Struct, frozen=True):
    """The read that `ReadState` asked for had no answer in time."""


class StateWritten(Struct, frozen=True):
    """Outcome of `WriteState`, `TakeLead`, `CreateState` or `RecreateLeader` number `request`."""

    request: int
    outcome: CasOutcome
    version: int


class PromiseStored(Struct, frozen=True):
    """Promise, floor and counter of `Persist` are on stable storage."""

    promise: int


class LinkUp(Struct, frozen=True):
    """A connection to `peer` passed its greeting. `dialled`: this node opened it and may send requests on it."""

    link: int
    peer: Identity
    dialled: bool


class LinkDown(Struct, frozen=True):
    link: int


class Received(Struct, frozen=True):
    """A message without a record came over `link`."""

    link: int
    sender: Identity
    message: Message


class RecordReceived(Struct, frozen=True):
    """An `Append` came, its record checked against its own digest. `handle` names the staged payload."""

    link: int
    sender: Identity
    epoch: int
    previous: LogPoint
    committed: LogPoint
    header: RecordHeader
    chain: bytes
    handle: int


class SegmentReceived(Struct, frozen=True):
    """A whole segment came and lies staged under `handle`; nothing in it was checked yet."""

    link: int
    sender: Identity
    epoch: int
    previous: LogPoint
    end: LogPoint
    committed: LogPoint
    handle: int


class RecordFetched(Struct, frozen=True):
    """An answer to `Fetch`: one record of a longer tail, checked against its own digest."""

    sender: Identity
    nonce: int
    previous: LogPoint
    header: RecordHeader
    chain: bytes
    handle: int


class TierListed(Struct, frozen=True):
    """What the bucket holds. runs: None when it could not be listed, for this `reason`.

    counter: of the highest marker. deletes: whether the store was seen to delete what it is told to.
    """

    request: int
    runs: tuple[Run, ...] | None
    counter: int = 0
    reason: str = ""
    deletes: bool = True


class TierAuditDue(Struct, frozen=True):
    """It is time to see whether the bucket still holds everything."""


class TierAudited(Struct, frozen=True):
    """Every object of the bucket. runs: None when it could not be listed or measured, for this `reason`.

    altered: those of them that are not as long as their records.
    """

    request: int
    runs: tuple[Run, ...] | None
    altered: tuple[Run, ...] = ()
    reason: str = ""


class TierStored(Struct, frozen=True):
    """Everything from the asked record to `last` was put and confirmed; None when it was not, for this `reason`.

    form: that of the object.
    """

    request: int
    last: int | None
    reason: str = ""
    form: Form = WHOLE


class TierPacked(Struct, frozen=True):
    """The segment is one object, read back and proved; or it is not, for this `reason`.

    moved: bytes that went to the bucket. lasting: trying again will not help; what lies there is not what should. form:
    that of the object.
    """

    request: int
    moved: int = 0
    reason: str = ""
    lasting: bool = False
    form: Form = WHOLE


class TierOutgrown(Struct, frozen=True):
    """How many stubs the sealed segments that hold any have in this node's log: first sequence, number.

    kept: why their objects stay as they are all the same; empty when nothing speaks against new ones. read: of which of
    them somebody may read an object that has not all of these stubs; it stays beside the new one. readers: who.
    """

    stubs: tuple[tuple[int, int], ...]
    kept: str = ""
    read: frozenset[int] = frozenset()
    readers: str = ""


class TierDeleted(Struct, frozen=True):
    """The objects are gone; or not all are, for this `reason`. lasting: the bucket keeps them, whoever asks."""

    request: int
    reason: str = ""
    lasting: bool = False


class TierMarked(Struct, frozen=True):
    """The marker is in the bucket, or is not, for this `reason`."""

    request: int
    reason: str = ""


class TierAnswered(Struct, frozen=True):
    """The bucket answers, or does not, for this `reason`."""

    request: int
    reason: str = ""


class TierCounted(Struct, frozen=True):
    """Outcome of `CountTier`. version: of `tierfloor` now, where it was applied."""

    request: int
    outcome: CasOutcome
    version: int


class TierRead(Struct, frozen=True):
    """The records of one object, proved by their digests and by each other; none when it could not be read."""

    request: int
    links: tuple[RunLink, ...]
    reason: str = ""


class TierRecord(Struct, frozen=True):
    """One record of what `FetchRun` asked for. `handle` names the staged payload."""

    request: int
    header: RecordHeader
    chain: bytes
    handle: int


class TierFetched(Struct, frozen=True):
    """No more records come for `FetchRun`. reason: why not all came; empty when they did."""

    request: int
    reason: str = ""


class LocalDurable(Struct, frozen=True):
    """This node's log is on stable storage up to `point`."""

    point: LogPoint


class DamageChanged(Struct, frozen=True):
    """Every record that is known to be damaged here, now: sent at each change, also when one was repaired."""

    sequences: frozenset[int]


class LocalFailed(Struct, frozen=True):
    """A write or fsync of the log failed; the segment is poisoned. Nothing more is confirmed by this process.

    full: there was no room for a new segment. What is on the disk is whole; writing may begin again when room is back.
    """

    reason: str
    full: bool = False


class LogResumed(Struct, frozen=True):
    """The log takes records again, after it was full. Whatever had been queued behind its end is gone."""


class Truncated(Struct, frozen=True):
    """The log was cut back to `point`; what was cut lies in lost+found, fsynced."""

    point: LogPoint


class SegmentInstalled(Struct, frozen=True):
    """The segment was verified record by record and is part of the log now; None when it was refused."""

    end: LogPoint | None


class Proposed(Struct, frozen=True):
    """An instance, tombstone or note is offered. `relayed_from`: the link it came over, None when it was received here.

    stem: member path without `.dcm`. deadline_ms: when the sender is told A700 instead. named: whether the stem ends in
    the instance's UID, and so is nobody else's; what has no proper UID is called `unknown`. again: the instance was
    stored before (lost+found, a restore): it must not come back when it was deleted. studies: of all that a tombstone
    covers.
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
    named: bool = True
    kind: RecordKind = RecordKind.INSTANCE
    again: bool = False
    studies: frozenset[str] = frozenset()


class ProposalAnswered(Struct, frozen=True):
    """The leader at the other end of `link` answered a relayed proposal. `outcome` as in messages.ProposeResult."""

    link: int
    ticket: int
    outcome: str
    reason: str


class HandOverRequested(Struct, frozen=True):
    """Give the lead to `to`, or to the most advanced in-sync follower when None. `final`: this node then stops."""

    to: ReplicaId | None
    now_us: int
    final: bool


class RetireRequested(Struct, frozen=True):
    """An operator wants this node out of the cluster for good, under this incarnation."""


class DataPathChanged(Struct, frozen=True):
    """The canary stalls (a reason) or turns again (None); also used when the disk is nearly full."""

    trouble: str | None


TierEvent = (
    TierListed
    | TierAuditDue
    | TierAudited
    | TierStored
    | TierPacked
    | TierOutgrown
    | TierDeleted
    | TierMarked
    | TierAnswered
    | TierCounted
    | TierRead
    | TierRecord
    | TierFetched
)

Event = (
    Tick
    | SessionChanged
    | StateSeen
    | RegisteredSeen
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
    | DamageChanged
    | LocalFailed
    | Truncated
    | SegmentInstalled
    | Proposed
    | ProposalAnswered
    | HandOverRequested
    | RetireRequested
    | DataPathChanged
    | LogResumed
    | TierEvent
)
