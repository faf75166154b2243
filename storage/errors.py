"""What can go wrong with stored bytes, grouped by what the caller does next."""


class StorageError(Exception):
    """Anything that storage reports on purpose."""


class StorageFull(StorageError):
    """No room; nothing of the record is visible. Retry elsewhere or later."""


class RecordCorrupt(StorageError):
    """Stored or received bytes do not match their digest, chain or canonical form. Repair from
    another replica.

    sequence: of the record; 0 where the bytes do not even say which record they are.
    """

    def __init__(self, sequence: int, reason: str = "") -> None:
        super().__init__(f"record {sequence} is damaged" + (f": {reason}" if reason else ""))
        self.sequence = sequence
        self.reason = reason


class MediumUnreadable(StorageError):
    """The disk itself says that it cannot give these bytes back, such as a bad sector."""


class RecordAbsent(StorageError, LookupError):
    """The log does not hold this sequence: beyond its end, or cut meanwhile."""

    def __init__(self, sequence: int) -> None:
        super().__init__(f"no record {sequence} in this log")
        self.sequence = sequence


class RecordsElsewhere(StorageError):
    """The record was evicted from this node, and cannot be had from the tier now. It is not damaged here: another
    replica may have it. sequence: of the record, or of the first one of its segment. gone: the tier answers, and has
    not got it: waiting does not help.
    """

    def __init__(self, sequence: int, reason: str, *, gone: bool = False) -> None:
        super().__init__(f"record {sequence} is not on this node: {reason}")
        self.sequence = sequence
        self.reason = reason
        self.gone = gone


class PayloadGone(StorageError):
    """The instance was deleted, and compaction took its bytes away: here they will not be again.

    tombstone: the sequence of the record that covers it.
    """

    def __init__(self, sequence: int, tombstone: int) -> None:
        super().__init__(f"record {sequence} was deleted by record {tombstone}, and its bytes are gone: compaction")
        self.sequence = sequence
        self.tombstone = tombstone


class SegmentPoisoned(StorageError):
    """A write or fsync failed. What reached the disk is unknown until it is read again by a new process."""


class LogLocked(StorageError):
    """Another process works on this data directory."""


class FormatError(StorageError):
    """A file or value is not what the format allows, such as a segment of another cluster."""


class ForeignIndex(StorageError):
    """The index does not belong to this log, as far as the log can tell."""


class LogContradiction(StorageError):
    """What was asked does not fit the log: a wrong sequence or chain, or a cut below a floor.

    Nothing was written.
    """
