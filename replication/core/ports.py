"""What the core may ask of its surroundings while it decides: pure look-ups, answered at once, with no side effect."""

from collections.abc import Sequence
from typing import Protocol

from msgspec import Struct

from storage.position import EpochSpan, LogPoint


class LogView(Protocol):
    """This node's log, read-only."""

    @property
    def end(self) -> LogPoint:
        """The last record appended, durable or not."""
        ...

    @property
    def durable(self) -> LogPoint: ...

    def point_at(self, sequence: int) -> LogPoint | None:
        """`GENESIS` for 0; None beyond the end."""
        ...

    def epochs(self) -> Sequence[EpochSpan]:
        """Oldest first; the newest span ends at the log end."""
        ...

    def sealed_at(self, sequence: int) -> EpochSpan | None:
        """The records of the sealed segment that holds this one, all of one epoch; None where it is still written."""
        ...

    @property
    def intact(self) -> bool:
        """False while a record is known to be damaged or the tail is unsettled: such a node may not lead."""
        ...

    def damaged(self) -> Sequence[int]:
        """Sequences of the records that are known to be damaged; changes are told by `DamageChanged`."""
        ...


class KnownVersion(Struct, frozen=True):
    """One data set held under a SOP Instance UID, committed or not."""

    sequence: int
    dataset: bytes
    transfer_syntax_uid: str


class KnownTombstone(Struct, frozen=True):
    """One data set that a tombstone covers, committed or not, wherever it lies below the tombstone."""

    sequence: int
    dataset: bytes


class Catalogue(Protocol):
    """What the log holds of one SOP Instance UID: the index and everything appended since."""

    @property
    def complete(self) -> bool:
        """False while there are records in the log that it does not know yet: "unheard of" cannot be said then."""
        ...

    def versions(self, sop_instance_uid: str) -> Sequence[KnownVersion]:
        """Oldest first, deleted ones included: what covers them is asked for separately."""
        ...

    def tombstones(self, sop_instance_uid: str) -> Sequence[KnownTombstone]:
        """Those that cover a data set of this UID, committed or not, oldest first."""
        ...

    def recorded(self, digest: bytes) -> int:
        """Sequence of the tombstone or note with exactly this content, committed or not; 0 when there is none."""
        ...

    def hold(self, study_instance_uid: str) -> int:
        """Sequence of the note that puts a study on legal hold, committed or not; 0 when none does."""
        ...
