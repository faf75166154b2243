"""The values that decisions are made of: replicas, the cluster state, and points of the log.

Terms are those of docs/glossary.md. All values are frozen; a change is a new value.
"""

import enum
from dataclasses import dataclass
from typing import Final, NewType

from msgspec import Struct

from storage.position import GENESIS, LogPoint, LogPosition

ReplicaId = NewType("ReplicaId", str)
"""A node's id, or `TIER`."""

TIER: Final = ReplicaId("tier")
"""The object tier: a passive replica that holds and never leads."""


class Member(Struct, frozen=True, order=True):
    """A replica as the in-sync set names it: a new disk is a new incarnation, and in no set.

    incarnation: random id of the formatted data directory; empty for the tier.
    """

    id: ReplicaId
    incarnation: str


TIER_MEMBER: Final = Member(TIER, "")


class Identity(Struct, frozen=True, order=True):
    """One process of one replica: confirmations belong to exactly this."""

    id: ReplicaId
    incarnation: str
    boot: str

    @property
    def member(self) -> Member:
        return Member(self.id, self.incarnation)


class TierMode(enum.Enum):
    """Of the tier. SYNCHRONOUS: in the in-sync set whenever it answers. STANDBY: it follows within seconds, and enters
    the set when too few nodes are left. OFF: there is none.
    """

    SYNCHRONOUS = "synchronous"
    STANDBY = "standby"
    OFF = "off"


class Phase(enum.Enum):
    """Of a leadership: `RECOVERING` until its own EPOCH record is durable and the CAS to `ACTIVE` confirmed."""

    RECOVERING = "recovering"
    ACTIVE = "active"


@dataclass(frozen=True, slots=True)
class Change:
    """Names one write of the state: a counter that rises by one per write, and a random id."""

    counter: int
    id: str


@dataclass(frozen=True, slots=True)
class TierClaim:
    """The tier is a member of the in-sync set from `first` on, below which it may have gaps.

    first: the first sequence that the tier must hold. chain_before: 32 bytes, the chain at `first - 1`.
    upto: nothing above it can have been committed before the claim, and the bucket held all of it then. Until the tier
    is counted for the first time, nothing else says what a takeover must find there (ADR 0017).
    """

    first: int
    chain_before: bytes
    upto: LogPoint = GENESIS


@dataclass(frozen=True, slots=True)
class Transfer:
    """A hint of a planned switchover: other candidates wait until `until_us` (leader's clock, Unix microseconds)."""

    to: ReplicaId
    until_us: int


@dataclass(frozen=True, slots=True)
class AcceptedLoss:
    """A person had the cluster go on without a replica that may have held more (section 12: said exactly).

    upto: where the log that went on ended. known: the last sequence that anybody knew to be committed;
    what lies between the two is lost. by, at_us: who, and when, in Unix microseconds.
    """

    upto: LogPosition
    known: int
    by: str
    at_us: int


@dataclass(frozen=True, slots=True)
class Restored:
    """The log was brought back from the tier up to `upto`; nobody knows what was acknowledged after it. source: which
    tier, for people.
    """

    upto: LogPoint
    source: str


@dataclass(frozen=True, slots=True)
class ClusterState:
    """The znode `state`: the sole authority on who leads and who must hold a record before it is committed.

    leader: None only before an election: the first, or the one after an operator chose who goes on or restored.
    tier: set exactly when `TIER_MEMBER` is in `in_sync`. restored: by the operator's verb, and kept for good.
    """

    change: Change
    epoch: int
    leader: Identity | None
    phase: Phase
    in_sync: frozenset[Member]
    tier: TierClaim | None = None
    floor: LogPoint = GENESIS
    transfer: Transfer | None = None
    accepted_loss: AcceptedLoss | None = None
    """The last one; it stays, for whoever asks later why something is missing."""
    restored: Restored | None = None


@dataclass(frozen=True, slots=True)
class VersionedState:
    """The state as read, with the version to compare in a CAS. Versions may repeat after a restore of ZooKeeper."""

    state: ClusterState
    version: int


@dataclass(frozen=True, slots=True)
class TierFloor:
    """The znode `tierfloor`, as read: up to where the tier was counted in a commit. version: to compare in a CAS."""

    point: LogPoint
    version: int


class CasOutcome(enum.Enum):
    """Of a compare-and-set. `UNKNOWN`: the request may still be applied, now or later."""

    APPLIED = "applied"
    CONFLICT = "conflict"
    UNKNOWN = "unknown"


class Uncommitted(Struct, frozen=True):
    """One record that waits for its copies. size: of its payload, in bytes."""

    sequence: int
    size: int
    since_ms: int
