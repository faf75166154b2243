"""What the parts above `replication` may call, and the snapshot that monitoring reads.

`perenne.dimse` offers instances through `Committer`; `monitoring` reads `ReplicatorStatistics` at scrape time.
"""

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from msgspec import Struct

from replication.core.values import Phase, ReplicaId
from storage.dataset import Attributes
from storage.deletion import Note, Tombstone
from storage.position import LogPoint, RecordKind
from storage.staging import Staged
from storage.timing import TimingReport


class Draft(Struct, frozen=True, kw_only=True):
    """An instance offered for commitment: its bytes, staged and hashed, and what names it.

    attributes: what the scan of the header found, where there was one. again: it was stored before, and comes from
    lost+found, a restore or an import; it is dropped when it was deleted meanwhile. small: instead of an instance, a
    tombstone or a note.
    """

    staged: Staged
    sop_class_uid: str = ""
    sop_instance_uid: str = ""
    study_instance_uid: str = ""
    series_instance_uid: str = ""
    transfer_syntax_uid: str = ""
    attributes: Attributes | None = None
    again: bool = False
    small: Tombstone | Note | None = None

    @property
    def kind(self) -> RecordKind:
        if self.small is None:
            return RecordKind.INSTANCE
        return RecordKind.TOMBSTONE if isinstance(self.small, Tombstone) else RecordKind.NOTE


class CommitOutcome(enum.Enum):
    """Why `commit` returned: each means that the bytes offered are committed on the in-sync set."""

    STORED = "stored"
    DUPLICATE = "duplicate"
    CONFLICT_KEPT = "conflict-kept"


class NotPromised(Exception):
    """The instance is not promised; it may yet commit. The text is ASCII, at most 64 characters."""


class ConflictRefused(Exception):
    """The same SOP Instance UID with other bytes, refused by policy; the kept instance is committed."""


class WasDeleted(Exception):
    """It was stored before and deleted since: it does not come back unless somebody stores it anew."""


class OnHold(Exception):
    """A study that is on legal hold: nothing of it is deleted."""


class Committer(Protocol):
    """Where a received instance goes. Implemented by the replicator, and by tests."""

    async def commit(self, draft: Draft) -> CommitOutcome:
        """Return once `draft` is committed. Takes over one reference of `draft.staged`.

        Raises NotPromised, ConflictRefused, or storage.errors.StorageFull; WasDeleted where it was stored before.
        """
        ...

    def refusal(self) -> str | None:
        """Why a store would be refused right now, before its bytes are taken; None when it would be accepted."""
        ...


class Role(enum.Enum):
    """What this node is at this moment. `FENCED`: alive, but not allowed to confirm or lead."""

    LEADER = "leader"
    CANDIDATE = "candidate"
    FOLLOWER = "follower"
    FENCED = "fenced"


@dataclass(frozen=True, slots=True)
class ReplicaLag:
    """How far one other replica is behind this leader. Zero everywhere when it holds everything.

    records: from the last one that it is known to hold to the end. committed: those of them that are committed. bytes:
    as they lie in the log here. seconds: age of the oldest of them.
    """

    replica: ReplicaId
    in_sync: bool
    connected: bool
    records: int
    committed: int
    bytes: int
    seconds: float
    blocked_at: int = 0
    """The damaged record at which its catch-up stands still; 0 when none does."""


@dataclass(frozen=True, slots=True)
class CapacityReport:
    """Where this node's segments lie; bytes are of whole segment files. local: all that are here. tier_only: evicted.

    both: here, and known to be in the tier; None where that is not known: the leader alone lists the tier.
    """

    local_segments: int
    local_bytes: int
    tier_only_segments: int
    tier_only_bytes: int
    both_segments: int | None
    both_bytes: int | None


@dataclass(frozen=True, slots=True)
class PackingReport:
    """What this leader did to make each sealed segment one object (`replication.core.packing`).

    segments: made, or proved. replaced: small objects deleted. kept: small objects that the bucket does not let go.
    spoiled: segments that have something else under their name. failed: why the last attempt came to nothing. outgrown:
    segments of which the tier has payloads that compaction took away here; outgrown_kept: why they stay, if they do.
    """

    segments: int
    replaced: int
    kept: int
    spoiled: int
    failed: str | None
    outgrown: int = 0
    outgrown_kept: str = ""


@dataclass(frozen=True, slots=True)
class AuditReport:
    """What the bucket has lost of what this leader knows to have been there (`replication.core.audit`).

    missing: first and last record of each object's worth that is not back yet. altered: names of objects that are not
    as long as their records. found: how often something was missing since this leadership began. why: why it is not
    put again; empty while that is under way.
    """

    missing: tuple[tuple[int, int], ...] = ()
    altered: tuple[str, ...] = ()
    found: int = 0
    why: str = ""


@dataclass(frozen=True, slots=True)
class TierReport:
    """The tier as this node sees it; what the leader alone knows is None elsewhere.

    usable: it answers, and may enter the in-sync set. complete_upto: the last record below which nothing is missing in
    the bucket. behind: committed records that are not there yet. counted_upto: of `tierfloor` as last read. failed: why
    the last request was not done. orphans: objects of dead branches; None before the whole bucket was listed. lag: as
    of any replica, from record 1 on before the bucket was listed. audit: what became of that since; None elsewhere.
    """

    mode: str
    in_sync: bool
    usable: bool | None
    complete_upto: int | None
    behind: int | None
    counted_upto: int
    failed: str | None
    puts: int
    put_bytes: int
    orphans: int | None
    packing: PackingReport | None
    lag: ReplicaLag | None = None
    audit: AuditReport | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CompactionReport:
    """Since this process began, instances whose payloads were taken away and bytes that became free; and how many
    instances could not be compacted yet although that is permitted.
    """

    instances: int = 0
    bytes: int = 0
    left: int = 0


@dataclass(frozen=True, slots=True)
class ScrubReport:
    """What a node knows from reading its log again.

    ages: since the start of the last complete pass; every older record was read since. underway: `light` or `deep`.
    bytes, damaged, frames, repaired: of this process; frames: segments written anew around their records; repaired:
    records, however their damage was found. faults: what is wrong and cannot be mended here. differs: by replica, the
    first committed record known to have another chain there.
    """

    light_age_seconds: float = 0.0
    deep_age_seconds: float = 0.0
    underway: str | None = None
    bytes: int = 0
    damaged: int = 0
    frames: int = 0
    repaired: int = 0
    faults: tuple[str, ...] = ()
    differs: Mapping[str, int] = field(default_factory=dict[str, int])


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkReport:
    """How long things took since this process began, and what came to nothing. Every name is there from the start.

    stages: of `replication.stages`. failover: by phase (`replication.failover`). operations, operation_errors: by place
    (`local`, `tier`) and operation. troubles: by other registered node and reason (`replication.troubles`). confirmed:
    by other registered node, and `tier`, when it last confirmed something to this node, in Unix seconds; 0 for never.
    """

    stages: Mapping[str, TimingReport]
    failover: Mapping[str, TimingReport]
    operations: Mapping[tuple[str, str], TimingReport]
    operation_errors: Mapping[tuple[str, str], int]
    troubles: Mapping[tuple[ReplicaId, str], int]
    confirmed: Mapping[ReplicaId, float]


@dataclass(frozen=True, slots=True)
class ReplicatorStatistics:
    """A frozen snapshot of replication on one node; durations in seconds, sizes in bytes."""

    cluster_id: str
    node_id: ReplicaId
    incarnation: str
    boot: str
    role: Role
    leader: ReplicaId | None
    epoch: int
    phase: Phase | None
    promise: int
    in_sync: tuple[ReplicaId, ...]
    copies_required: int
    end: LogPoint
    durable: LogPoint
    committed: LogPoint
    indexed: int
    """The last record that the index reflects."""
    floor: LogPoint
    tier: TierReport | None
    """None where there is none."""
    capacity: CapacityReport
    lags: tuple[ReplicaLag, ...]
    """One per other registered node; filled on the leader, empty elsewhere."""
    registered: int
    """Nodes on the register, this one included and retired ones left out; 0 before ZooKeeper said so."""
    connected: Mapping[ReplicaId, bool]
    """By other registered node, whether this one has a connection to it."""
    uncommitted_records: int
    uncommitted_bytes: int
    oldest_uncommitted_seconds: float
    under_replicated_records: int
    coordination_connected: bool
    coordination_fresh_seconds: float
    """Age of the last answered request's send time."""
    coordination_changes: int
    leader_changes: int
    refusal: str | None
    """Why a C-STORE would be refused now; None when this node can acknowledge or relay."""
    frozen: str | None
    """Why the node stopped writing for good (a contradiction in its log); None when it did not."""
    not_standing: str | None
    """Why this node may not lead, while nobody does."""
    data_path_seconds: float
    """Age of the last canary that went through the real data path."""
    stored: int
    duplicates: int
    conflicts: int
    stored_bytes: int
    damaged_records: int
    lost_and_found: int
    strangers: int
    """Connections to the peer port that ended without a handshake, or a greeting that fits."""
    scrub: ScrubReport
    compaction: CompactionReport
    work: WorkReport


class InstanceBytes(Protocol):
    """A stored Part 10 file whose digest was checked before the first byte left."""

    size: int

    def parts(self) -> Iterator[memoryview]: ...


class InstanceAbsent(Exception):
    """No such instance, and the leader agrees."""


class InstanceDeleted(InstanceAbsent):
    """It was deleted, and the leader agrees."""


class InstanceUnavailable(Exception):
    """It cannot be said now: the leader or the replica that holds it does not answer. Retry later."""


class Archive(Protocol):
    """What reads instances and reports on the node: the part of the replicator that HTTP needs."""

    async def read_instance(self, sop_instance_uid: str) -> InstanceBytes:
        """Return the current version, from here or from another replica. Raises InstanceAbsent, InstanceUnavailable."""
        ...

    def statistics(self) -> ReplicatorStatistics: ...

    def conflicts(self) -> tuple[str, ...]:
        """SOP Instance UIDs held with more than one data set, at most 1,000."""
        ...
