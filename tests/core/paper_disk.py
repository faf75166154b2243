"""A disk on paper: what a log in memory holds, what of it is durable or rotten; and a coordination service on paper."""

from collections.abc import Callable
from dataclasses import dataclass, field

from replication.core.ports import KnownTombstone, KnownVersion
from replication.core.values import Identity, TierFloor, VersionedState
from storage.deletion import SMALL_KINDS
from storage.position import GENESIS, EpochSpan, LogPoint, RecordHeader


@dataclass
class PaperRecord:
    """uid: of an instance. covers: of a tombstone, UIDs and data sets. holds: the study of a note that holds it."""

    header: RecordHeader
    chain: bytes
    uid: str = ""
    covers: tuple[tuple[str, bytes], ...] = ()
    holds: str = ""

    @property
    def point(self) -> LogPoint:
        return LogPoint(self.header.position, self.chain)


@dataclass
class PaperLog:
    """What a disk holds: records, the first `durable_count` of them on stable storage."""

    records: list[PaperRecord] = field(default_factory=list[PaperRecord])
    durable_count: int = 0
    lost_and_found: list[PaperRecord] = field(default_factory=list[PaperRecord])
    rotten: set[int] = field(default_factory=set[int])
    unknown: set[int] = field(default_factory=set[int])
    """Records whose place in the log cannot be told: their entries, and those beside them, are damaged."""
    sealed: list[EpochSpan] = field(default_factory=list[EpochSpan])
    """Segments that are sealed once a record follows them."""

    @property
    def end(self) -> LogPoint:
        return self.records[-1].point if self.records else GENESIS

    @property
    def durable(self) -> LogPoint:
        return self.records[self.durable_count - 1].point if self.durable_count else GENESIS

    def point_at(self, sequence: int) -> LogPoint | None:
        if sequence == 0:
            return GENESIS
        if sequence in self.unknown:
            return None
        return self.records[sequence - 1].point if sequence <= len(self.records) else None

    def epochs(self) -> list[EpochSpan]:
        spans: list[EpochSpan] = []
        for record in self.records:
            position = record.header.position
            if spans and spans[-1].epoch == position.epoch:
                spans[-1] = EpochSpan(position.epoch, spans[-1].first, position.sequence)
            else:
                spans.append(EpochSpan(position.epoch, position.sequence, position.sequence))
        return spans

    def sealed_at(self, sequence: int) -> EpochSpan | None:
        span = next((span for span in self.sealed if span.first <= sequence <= span.last), None)
        return span if span is not None and span.last < len(self.records) else None

    @property
    def intact(self) -> bool:
        return not self.rotten

    def damaged(self) -> list[int]:
        return sorted(self.rotten)

    complete = True

    def versions(self, sop_instance_uid: str) -> list[KnownVersion]:
        return [
            KnownVersion(r.header.position.sequence, r.header.dataset, "1.2.840.10008.1.2.1")
            for r in self.records
            if r.uid == sop_instance_uid
        ]

    def tombstones(self, sop_instance_uid: str) -> list[KnownTombstone]:
        return [
            KnownTombstone(r.header.position.sequence, dataset)
            for r in self.records
            for uid, dataset in r.covers
            if uid == sop_instance_uid
        ]

    def recorded(self, digest: bytes) -> int:
        small = (r for r in self.records if r.header.kind in SMALL_KINDS and r.header.digest == digest)
        return min((r.header.position.sequence for r in small), default=0)

    def hold(self, study_instance_uid: str) -> int:
        return max((r.header.position.sequence for r in self.records if r.holds == study_instance_uid), default=0)


@dataclass
class PaperDisk:
    log: PaperLog = field(default_factory=PaperLog)
    incarnation: str = ""
    promise: int = 0
    floor: LogPoint = GENESIS
    counter: int = 0


@dataclass
class Coordination:
    """`state` and `leader`, and what the next writes are to suffer."""

    state: VersionedState | None = None
    leader: Identity | None = None
    leader_session: int = 0
    tier_floor: TierFloor | None = None
    up: bool = True
    late: list[Callable[[], None]] = field(default_factory=list[Callable[[], None]])
