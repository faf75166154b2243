"""What nodes say to each other, as plain values. `wire` puts them into frames, `peers` carries them.

A node sends requests only on connections that it dialled, and answers on the connection that asked.
Points travel as (epoch, sequence, chain). A `payload` travels behind the message in the same frame, as raw bytes.
"""

from typing import Final

import msgspec

from storage.position import LogPoint, LogPosition, RecordHeader, RecordKind

DAMAGED_LIMIT: Final = 10_000


class Point(msgspec.Struct, frozen=True, array_like=True):
    epoch: int
    sequence: int
    chain: bytes

    def log_point(self) -> LogPoint:
        return LogPoint(LogPosition(self.epoch, self.sequence), self.chain)


def to_point(point: LogPoint) -> Point:
    return Point(point.position.epoch, point.position.sequence, point.chain)


class Record(msgspec.Struct, frozen=True, array_like=True):
    """Everything that the chain proves of one record, and its chain. The payload travels behind the message.

    tombstone: of a deleted instance whose payload was taken away; then none travels. It is believed by whoever has the
    tombstone.
    """

    epoch: int
    sequence: int
    kind: str
    dataset: bytes
    digest: bytes
    time_us: int
    path: str
    size: int
    chain: bytes
    tombstone: int = 0

    def header(self) -> RecordHeader:
        """Raises ValueError on a kind that this version does not know."""
        position = LogPosition(self.epoch, self.sequence)
        kind = RecordKind(self.kind)
        return RecordHeader(position, kind, self.dataset, self.digest, self.time_us, self.path, self.size)


def to_record(header: RecordHeader, chain: bytes, tombstone: int = 0) -> Record:
    position = header.position
    return Record(
        position.epoch,
        position.sequence,
        header.kind.value,
        header.dataset,
        header.digest,
        header.time_us,
        header.path,
        header.size,
        chain,
        tombstone,
    )


class EpochEnd(msgspec.Struct, frozen=True, array_like=True):
    """The last record that a log holds of one epoch."""

    epoch: int
    first: int
    last: int
    chain_at_last: bytes


class _Message(msgspec.Struct, frozen=True, array_like=True, tag=True):
    pass


class Hello(_Message, frozen=True):
    """First in both directions: at once from who dialled, and in answer to one that fits from who was called.

    A version or a name that does not fit is told why and cut off. Strangers and other clusters are told nothing.
    """

    cluster_id: str
    node_id: str
    incarnation: str
    boot: str
    version_min: int
    version_max: int


class Goodbye(_Message, frozen=True):
    """The sender closes; `reason` is for the log."""

    reason: str


class Survey(_Message, frozen=True):
    """A candidate asks: what do you hold, what have you promised, do you see a leader? (pre-vote, longest tail)"""

    nonce: int


class SurveyAnswer(_Message, frozen=True):
    nonce: int
    promise: int
    end: Point
    verified: bool
    sees_leader: bool
    state_counter: int


class OpenStream(_Message, frozen=True):
    """The active leader of `epoch` asks a follower where its log ends. `committed` is the leader's commit point."""

    epoch: int
    committed: Point


class StreamEnd(_Message, frozen=True):
    """The follower's answer, and its table of epochs (newest 1,000, oldest first) for KIP-279 reconciliation."""

    epoch: int
    promise: int
    end: Point
    epochs: list[EpochEnd]
    in_memory_commit: Point


class Align(_Message, frozen=True):
    """Cut back to `point`, the last common one by the leader's reckoning, and follow from there.

    end: where the follower's log ended by the StreamEnd that this answers; an older leader does not say it.
    """

    epoch: int
    point: Point
    end: Point | None = None


class Aligned(_Message, frozen=True):
    epoch: int
    end: Point


class Append(_Message, frozen=True):
    """One record, its payload behind it.

    Where `proposal` is not 0 there is no payload: it is the instance that the follower itself offered under that
    ticket, and still has staged.
    """

    epoch: int
    previous: Point
    committed: Point
    record: Record
    proposal: int = 0


class Segment(_Message, frozen=True):
    """A whole sealed, committed segment follows as the payload, byte for byte."""

    epoch: int
    previous: Point
    end: Point
    committed: Point


class Heartbeat(_Message, frozen=True):
    """From the leader, several times per second, also while nothing is written.

    refusal: why the leader would refuse a store now, so that a follower can say so before it takes the bytes.
    """

    epoch: int
    committed: Point
    refusal: str = ""


class Confirmed(_Message, frozen=True):
    """Follower: everything up to `durable` is on stable storage here. `received` counts payload bytes."""

    epoch: int
    durable: Point
    received: int


class Rejected(_Message, frozen=True):
    """Follower: not accepted. A promise above the leader's epoch deposes it; else it opens the stream again."""

    epoch: int
    promise: int
    end: Point
    reason: str


class Leave(_Message, frozen=True):
    """Follower: take me out of the in-sync set (failing disk, disk nearly full, draining)."""

    reason: str


class Damaged(_Message, frozen=True):
    """Follower: these records are known to be damaged here, so do not count this node as their
    holder; none: it is sound.

    Said before each StreamEnd, at every change, and before an instance is proposed, over the link that it takes.
    number: rises with each change in one process, since one link may overtake another. Lowest first, at most
    DAMAGED_LIMIT; `more`: there are others.
    """

    number: int
    sequences: list[int]
    more: bool = False


class Propose(_Message, frozen=True):
    """Follower to leader: number this instance. The payload is the whole Part 10 file."""

    ticket: int
    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str
    transfer_syntax_uid: str
    meta_length: int
    dataset: bytes
    digest: bytes
    again: bool = False
    """It was stored before, and is not to come back when it was deleted."""


class ProposeSmall(_Message, frozen=True):
    """Follower to leader: number this tombstone or note, which is the payload.

    A message of its own: a node that knows no deletes hangs up on it, and does not take it for an instance.
    """

    ticket: int
    kind: str
    digest: bytes


class ProposeResult(_Message, frozen=True):
    """outcome: a CommitOutcome value, or "not-promised", "not-leader", "conflict-refused", "full", "deleted",
    "on-hold".
    """

    ticket: int
    outcome: str
    reason: str
    committed: Point


class Fetch(_Message, frozen=True):
    """Send the records after `after` up to `last` (candidate copying a longer tail; repair)."""

    nonce: int
    after: Point
    last: int


class Fetched(_Message, frozen=True):
    """One record of a longer tail, its payload behind it."""

    nonce: int
    previous: Point
    record: Record


class FetchEnd(_Message, frozen=True):
    """Nothing more follows; `reason` is empty when all was sent."""

    nonce: int
    reason: str


class Lookup(_Message, frozen=True):
    """Is there an instance with this UID? Asked of the leader before "absent" is said."""

    nonce: int
    sop_instance_uid: str
    send_bytes: bool


class LookupAnswer(_Message, frozen=True):
    """outcome: "present", "absent" or "deleted" (both said by an active, fresh leader only), "unknown". The payload is
    the Part 10 file where bytes were asked for and are here."""

    nonce: int
    outcome: str
    digest: bytes
    meta_length: int


class Chains(_Message, frozen=True):
    """What are your chains at these records? Asked while scrubbing: two committed logs never differ."""

    nonce: int
    sequences: list[int]


class ChainsAnswer(_Message, frozen=True):
    """points: of those asked for, the ones that are committed here, as far as this node knows, and can be read."""

    nonce: int
    points: list[Point]


Message = (
    Hello
    | Goodbye
    | Survey
    | SurveyAnswer
    | OpenStream
    | StreamEnd
    | Align
    | Aligned
    | Append
    | Segment
    | Heartbeat
    | Confirmed
    | Rejected
    | Leave
    | Damaged
    | Propose
    | ProposeSmall
    | ProposeResult
    | Fetch
    | Fetched
    | FetchEnd
    | Lookup
    | LookupAnswer
    | Chains
    | ChainsAnswer
)
