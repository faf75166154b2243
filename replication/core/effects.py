"""What the core wants done, as plain values. The driver carries them out in order and decides nothing."""

import enum

from msgspec import Struct

from replication.core.values import ClusterState, Identity, ReplicaId
from replication.messages import Message
from replication.tier.keys import Run
from storage.position import LogPoint, RecordHeader


class ReadState(Struct, frozen=True):
    """Register if this session did not yet, then read `state` and `leader`; answer with StateSeen or ReadFailed."""


class CreateState(Struct, frozen=True):
    request: int
    state: ClusterState


class WriteState(Struct, frozen=True):
    request: int
    state: ClusterState
    version: int


class TakeLead(Struct, frozen=True):
    request: int
    state: ClusterState
    version: int


class RecreateLeader(Struct, frozen=True):
    request: int
    version: int


class Resign(Struct, frozen=True):
    """Delete the ephemeral `leader` if it is ours."""


class Persist(Struct, frozen=True):
    """Fsync promise, floor and change counter; answer with PromiseStored. None of them ever falls."""

    promise: int
    floor: LogPoint
    counter: int


class TailSettled(Struct, frozen=True):
    """Whatever a reboot of the host may have lost is here again: remember that this boot has no more to wait for."""


class AppendProposal(Struct, frozen=True):
    """Leader: write the instance, tombstone or note of `ticket` as this record."""

    ticket: int
    header: RecordHeader
    chain: bytes


class AppendOwn(Struct, frozen=True):
    """Leader: write a small record of its own making, such as EPOCH."""

    header: RecordHeader
    chain: bytes
    payload: bytes


class AppendStaged(Struct, frozen=True):
    """Follower or candidate: write the received record that lies staged under `handle`."""

    handle: int
    header: RecordHeader
    chain: bytes


class DropStaged(Struct, frozen=True):
    """The received record or segment under `handle` is not wanted."""

    handle: int


class ResumeLog(Struct, frozen=True):
    """There is room again: drop what was queued behind the log's end, take records anew; answer with LogResumed."""


class InstallSegment(Struct, frozen=True):
    """Verify the staged segment from `previous` on, make it part of the log; answer with SegmentInstalled."""

    handle: int
    previous: LogPoint


class Truncate(Struct, frozen=True):
    """Move everything after `point` to lost+found, fsync, cut; answer with Truncated."""

    point: LogPoint


class Send(Struct, frozen=True):
    link: int
    message: Message


class StartSending(Struct, frozen=True):
    """Stream the log over `link` from the record after `after` on, in `epoch`, until StopSending or the link's end."""

    link: int
    epoch: int
    after: LogPoint


class StopSending(Struct, frozen=True):
    link: int


class SendTail(Struct, frozen=True):
    """Answer a Fetch: the records after `after` up to `last`, then FetchEnd."""

    link: int
    nonce: int
    after: LogPoint
    last: int


class CloseLink(Struct, frozen=True):
    link: int
    reason: str


class RelayProposal(Struct, frozen=True):
    """Send the instance of `ticket` to the leader over `link`."""

    ticket: int
    link: int


class Verdict(enum.Enum):
    """How a proposal ended. The first three mean: committed. Each of the others but the last three rests on a record
    that is.
    """

    STORED = "stored"
    DUPLICATE = "duplicate"
    CONFLICT_KEPT = "conflict-kept"
    CONFLICT_REFUSED = "conflict-refused"
    DELETED = "deleted"
    ON_HOLD = "on-hold"
    NOT_LEADER = "not-leader"
    NOT_PROMISED = "not-promised"
    FULL = "full"


COMMITTED = frozenset({Verdict.STORED, Verdict.DUPLICATE, Verdict.CONFLICT_KEPT})


class Settle(Struct, frozen=True):
    """Answer whoever waits for `ticket`. `reason` is ASCII, at most 64 characters, empty on success."""

    ticket: int
    verdict: Verdict
    reason: str


class TierRequest(Struct, frozen=True):
    """Something that is asked of the bucket. request: the answer carries the same number."""

    request: int


class ListTier(TierRequest, frozen=True):
    """List the objects with records of epochs from `since` on, and before `before` where that is not 0, and every
    marker; answer with TierListed.
    """

    since: int = 0
    before: int = 0


class AuditTier(TierRequest, frozen=True):
    """List every object, and measure those whose length this node's log knows; answer with TierAudited."""


class PutRun(TierRequest, frozen=True):
    """Put the records from `first` on, up to `last` at most, as one object; answer with TierStored.

    They are all of one epoch. How many go at once is the driver's choice. One put is under way at a time: what is put
    later is not there before what was put earlier, so that whatever is in the bucket has no gap below it.
    """

    first: int
    last: int


class PackSegment(TierRequest, frozen=True):
    """See to it that the records of one sealed segment are one object: put it where it is not, then read it back and
    prove every record of it; answer with TierPacked. It gives way to every put that somebody waits for.
    """

    first: int
    last: int


class DeleteRuns(TierRequest, frozen=True):
    """Delete these objects; answer with TierDeleted. Each record in them is in a larger one that was proved."""

    runs: tuple[Run, ...]


class PutMarker(TierRequest, frozen=True):
    """Put the marker of a change of `state` that counts the tier; answer with TierMarked."""

    counter: int
    change: str


class AskTier(TierRequest, frozen=True):
    """Ask the bucket for anything at all, to learn whether it answers; answer with TierAnswered."""


class CountTier(Struct, frozen=True):
    """One transaction: `state` is still at `state_version`, and `tierfloor` becomes `point`; answer with TierCounted.

    floor_version: that of `tierfloor`, None where it must not exist yet.
    """

    request: int
    point: LogPoint
    state_version: int
    floor_version: int | None


class ReadRun(TierRequest, frozen=True):
    """Read an object and prove what it holds; answer with TierRead."""

    run: Run


class FetchRun(TierRequest, frozen=True):
    """Read records `first` to `last` of an object; answer with a TierRecord for each, then TierFetched."""

    run: Run
    first: int
    last: int


class Committed(Struct, frozen=True):
    """Everything up to `point` is committed and may be indexed and served here."""

    point: LogPoint


class LeadershipChanged(Struct, frozen=True):
    """For logs and metrics: who leads now, as far as this node knows."""

    leader: Identity | None
    epoch: int
    reason: str


class Frozen(Struct, frozen=True):
    """The log contradicts what was promised: no writes, evidence kept, an alarm."""

    reason: str


class HandOverDone(Struct, frozen=True):
    """The requested hand-over ended; `to` is None and `reason` says why when it did not happen."""

    to: ReplicaId | None
    reason: str


class Retired(Struct, frozen=True):
    """This node left the in-sync set, confirms nothing any more, and may be taken off the register."""


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
    | ResumeLog
    | InstallSegment
    | Truncate
    | Send
    | StartSending
    | StopSending
    | SendTail
    | CloseLink
    | RelayProposal
    | Settle
    | ListTier
    | AuditTier
    | PutRun
    | PackSegment
    | DeleteRuns
    | PutMarker
    | AskTier
    | CountTier
    | ReadRun
    | FetchRun
    | Committed
    | LeadershipChanged
    | Frozen
    | HandOverDone
    | Retired
)
