"""What the core wants done, as plain values. The driver carries them out in order and decides nothing."""

import enum
from dataclasses import dataclass

from replication.core.values import ClusterState, Identity, ReplicaId
from replication.messages import Message
from storage.position import LogPoint, RecordHeader


@dataclass(frozen=True, slots=True)
class ReadState:
    """Register if this session did not yet, then read `state` and `leader`; answer with StateSeen or ReadFailed."""


@dataclass(frozen=True, slots=True)
class CreateState:
    request: int
    state: ClusterState


@dataclass(frozen=True, slots=True)
class WriteState:
    request: int
    state: ClusterState
    version: int


@dataclass(frozen=True, slots=True)
class TakeLead:
    request: int
    state: ClusterState
    version: int


@dataclass(frozen=True, slots=True)
class RecreateLeader:
    request: int
    version: int


@dataclass(frozen=True, slots=True)
class Resign:
    """Delete the ephemeral `leader` if it is ours."""


@dataclass(frozen=True, slots=True)
class Persist:
    """Fsync promise, floor and change counter; answer with PromiseStored. None of them ever falls."""

    promise: int
    floor: LogPoint
    counter: int


@dataclass(frozen=True, slots=True)
class TailSettled:
    """Whatever a reboot of the host may have lost is here again: remember that this boot has no more to wait for."""


@dataclass(frozen=True, slots=True)
class AppendProposal:
    """Leader: write the instance of `ticket` as this record."""

    ticket: int
    header: RecordHeader
    chain: bytes


@dataclass(frozen=True, slots=True)
class AppendOwn:
    """Leader: write a small record of its own making, such as EPOCH."""

    header: RecordHeader
    chain: bytes
    payload: bytes


@dataclass(frozen=True, slots=True)
class AppendStaged:
    """Follower or candidate: write the received record that lies staged under `handle`."""

    handle: int
    header: RecordHeader
    chain: bytes


@dataclass(frozen=True, slots=True)
class DropStaged:
    """The received record or segment under `handle` is not wanted."""

    handle: int


@dataclass(frozen=True, slots=True)
class InstallSegment:
    """Verify the staged segment from `previous` on, make it part of the log; answer with SegmentInstalled."""

    handle: int
    previous: LogPoint


@dataclass(frozen=True, slots=True)
class Truncate:
    """Move everything after `point` to lost+found, fsync, cut; answer with Truncated."""

    point: LogPoint


@dataclass(frozen=True, slots=True)
class Send:
    link: int
    message: Message


@dataclass(frozen=True, slots=True)
class StartSending:
    """Stream the log over `link` from the record after `after` on, in `epoch`, until StopSending or the link's end."""

    link: int
    epoch: int
    after: LogPoint


@dataclass(frozen=True, slots=True)
class StopSending:
    link: int


@dataclass(frozen=True, slots=True)
class SendTail:
    """Answer a Fetch: the records after `after` up to `last`, then FetchEnd."""

    link: int
    nonce: int
    after: LogPoint
    last: int


@dataclass(frozen=True, slots=True)
class CloseLink:
    link: int
    reason: str


@dataclass(frozen=True, slots=True)
class RelayProposal:
    """Send the instance of `ticket` to the leader over `link`."""

    ticket: int
    link: int


class Verdict(enum.Enum):
    """How a proposal ended. All but the last four mean: committed."""

    STORED = "stored"
    DUPLICATE = "duplicate"
    CONFLICT_KEPT = "conflict-kept"
    CONFLICT_REFUSED = "conflict-refused"
    NOT_LEADER = "not-leader"
    NOT_PROMISED = "not-promised"
    FULL = "full"


COMMITTED = frozenset({Verdict.STORED, Verdict.DUPLICATE, Verdict.CONFLICT_KEPT})


@dataclass(frozen=True, slots=True)
class Settle:
    """Answer whoever waits for `ticket`. `reason` is ASCII, at most 64 characters, empty on success."""

    ticket: int
    verdict: Verdict
    reason: str


@dataclass(frozen=True, slots=True)
class Committed:
    """Everything up to `point` is committed and may be indexed and served here."""

    point: LogPoint


@dataclass(frozen=True, slots=True)
class LeadershipChanged:
    """For logs and metrics: who leads now, as far as this node knows."""

    leader: Identity | None
    epoch: int
    reason: str


@dataclass(frozen=True, slots=True)
class Frozen:
    """The log contradicts what was promised: no writes, evidence kept, an alarm."""

    reason: str


@dataclass(frozen=True, slots=True)
class HandOverDone:
    """The requested hand-over ended; `to` is None and `reason` says why when it did not happen."""

    to: ReplicaId | None
    reason: str


Effect = (
    ReadState
    | CreateState
    | WriteState
    | TakeLead
    | RecreateLeader
    | Resign
    | Persist
    | TailSettled
    | AppendProposal
    | AppendOwn
    | AppendStaged
    | DropStaged
    | InstallSegment
    | Truncate
    | Send
    | StartSending
    | StopSending
    | SendTail
    | CloseLink
    | RelayProposal
    | Settle
    | Committed
    | LeadershipChanged
    | Frozen
    | HandOverDone
)
