"""Records that were just appended: their bytes for the followers, their identifiers until the index knows them."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Final

from msgspec import Struct

from replication.core.ports import KnownTombstone, KnownVersion
from replication.core.values import Identity
from storage.buried import HOLD, RELEASE
from storage.dataset import Attributes
from storage.deletion import Note, Tombstone
from storage.index import Index
from storage.indexer import Fresh
from storage.position import LogPoint, RecordHeader
from storage.reader import Payload
from storage.staging import Staged

FRESH_RECORDS: Final = 4096


class RecentRecord(Struct):
    """payload: None once its bytes were let go, and of a stub; what there is of them is in the log.

    origin: the process that offered it and its ticket there. head, attributes: for the index, see `Fresh`.
    small: what a tombstone or note says.
    """

    header: RecordHeader
    chain: bytes
    payload: Payload | None
    uid: str = ""
    transfer_syntax_uid: str = ""
    origin: tuple[Identity, int] | None = None
    head: bytes = b""
    attributes: Attributes | None = None
    small: Tombstone | Note | None = None

    @property
    def point(self) -> LogPoint:
        return LogPoint(self.header.position, self.chain)


class Reach(Struct, frozen=True):
    """How far the index had come. Taken before it is asked: it goes on in a thread of its own, and its answer lacks
    what it came by later.

    deletes: every tombstone in the log is known, so that what none of them covers may be served.
    """

    complete: bool
    deletes: bool
    unseen: int
    applied: int

    def current(self, sequence: int, *, newest: bool) -> bool:
        """Whether a record is current of those with its UID: no other that the index has not reached could be.

        newest: whether the last one is current, else the first.
        """
        return self.complete or (sequence > self.unseen if newest else sequence <= self.applied + 1)


class Recent:
    """Records appended lately. Also the core's catalogue: the index, and what it does not know yet.

    unseen: sequence up to which the log holds records that were not added here, such as those from before the start.
    let_go(staged): gives a reference back; removing a file takes time, so that is the caller's business.
    last_tombstone(first): of the log, the last one from `first` on; 0 when there is none.
    """

    def __init__(
        self,
        index: Index,
        let_go: Callable[[Staged], None],
        last_tombstone: Callable[[int], int],
        *,
        budget_bytes: int,
        unseen: int = 0,
    ) -> None:
        self._unseen = unseen
        self._last_tombstone = last_tombstone
        self._shadow = last_tombstone(index.applied.sequence + 1)
        """A tombstone in the log that was not added here: what it covers is not known before the index reaches it."""
        self.doubtful = False
        """The index was caught in a lie and is about to be made anew."""
        self._index = index
        self._let_go = let_go
        self._budget = budget_bytes
        self._records: OrderedDict[int, RecentRecord] = OrderedDict()
        self._by_uid: dict[str, list[int]] = {}
        self._buried: dict[str, list[KnownTombstone]] = {}
        """By SOP Instance UID, what tombstones cover that the index may not know yet."""
        self._small: dict[int, RecentRecord] = {}
        """Tombstones and notes that the index may not know yet: rarely any."""
        self._held: OrderedDict[int, int] = OrderedDict()
        self._held_bytes = 0

    def add(self, record: RecentRecord) -> None:
        """Take a record in, with one reference of its payload."""
        sequence = record.header.position.sequence
        if len(self._records) > FRESH_RECORDS:
            record.head, record.attributes = b"", None  # the index is far behind: it reads the log
        self._records[sequence] = record
        if record.uid:
            self._by_uid.setdefault(record.uid, []).append(sequence)
        if record.small is not None:
            self._small[sequence] = record
            for covered in record.small.covers if isinstance(record.small, Tombstone) else ():
                tombstone = KnownTombstone(sequence, covered.dataset)
                self._buried.setdefault(covered.sop_instance_uid, []).append(tombstone)
        if record.payload is not None:
            self._held[sequence] = record.header.size
            self._held_bytes += record.header.size

    def get(self, sequence: int) -> RecentRecord | None:
        return self._records.get(sequence)

    def release_upto(self, durable: int, committed: int) -> None:
        """Let bytes go that are committed; beyond the budget also those that are merely durable here."""
        while self._held:
            sequence = next(iter(self._held))
            if sequence > durable or (sequence > committed and self._held_bytes <= self._budget):
                break
            self._release(sequence)

    def _release(self, sequence: int) -> None:
        self._held_bytes -= self._held.pop(sequence)
        record = self._records[sequence]
        payload, record.payload = record.payload, None
        if isinstance(payload, Staged):
            self._let_go(payload)

    def indexed_upto(self, sequence: int) -> None:
        """The index knows these now."""
        while self._records:
            known = next(iter(self._records))
            if known > sequence or known in self._held:
                break
            self._forget(known)

    def fresh(self, first: int, last: int) -> dict[int, Fresh]:
        """What is known of these records without reading the log."""
        found = ((sequence, self._records.get(sequence)) for sequence in range(first, last + 1))
        return {sequence: Fresh(r.header, r.head, r.attributes) for sequence, r in found if r is not None and r.head}

    @property
    def complete(self) -> bool:
        return self.reach.complete

    @property
    def knows_deletes(self) -> bool:
        return self.reach.deletes

    @property
    def reach(self) -> Reach:
        """How far the index has come by now."""
        applied = self._index.applied.sequence  # before `blind`, which it says first
        known = not self.doubtful and not self._index.blind
        return Reach(known and applied >= self._unseen, known and applied >= self._shadow, self._unseen, applied)

    def installed_upto(self, sequence: int) -> None:
        """A whole segment was taken over, or the index begins anew: only the index will know what is in it."""
        self._unseen = max(self._unseen, sequence)  # what is committed may be less than what lay here at the start
        unknown = sequence if self.doubtful else self._last_tombstone(self._index.applied.sequence + 1)
        self._shadow = max(self._shadow, unknown)

    def cut_after(self, sequence: int) -> None:
        """The log was truncated."""
        self._unseen, self._shadow = min(self._unseen, sequence), min(self._shadow, sequence)
        for known in [k for k in self._records if k > sequence]:
            if known in self._held:
                self._release(known)
            self._forget(known)

    def _forget(self, sequence: int) -> None:
        record = self._records.pop(sequence)
        left = [known for known in self._by_uid.get(record.uid, ()) if known != sequence]
        if left:
            self._by_uid[record.uid] = left
        else:
            self._by_uid.pop(record.uid, None)
        if self._small.pop(sequence, None) is not None and isinstance(record.small, Tombstone):
            for uid in {covered.sop_instance_uid for covered in record.small.covers}:
                kept = [tombstone for tombstone in self._buried.pop(uid) if tombstone.sequence != sequence]
                if kept:
                    self._buried[uid] = kept

    def versions(self, sop_instance_uid: str) -> Sequence[KnownVersion]:
        """Everything held of one instance, oldest first, deleted or not."""
        found = {
            location.sequence: KnownVersion(location.sequence, location.dataset, location.transfer_syntax_uid)
            for location in self._index.find(sop_instance_uid)
        }
        for sequence in self._by_uid.get(sop_instance_uid, ()):
            record = self._records[sequence]
            found[sequence] = KnownVersion(sequence, record.header.dataset, record.transfer_syntax_uid)
        return [found[sequence] for sequence in sorted(found)]

    def tombstones(self, sop_instance_uid: str) -> Sequence[KnownTombstone]:
        """Everything that covers a data set of this UID, committed or not, oldest first."""
        found = {KnownTombstone(*known) for known in self._index.burials.of(sop_instance_uid)}
        found.update(self._buried.get(sop_instance_uid, ()))
        return sorted(found, key=lambda tombstone: tombstone.sequence)

    def recorded(self, digest: bytes) -> int:
        """Where the tombstone or note with this content lies; 0 when there is none."""
        fresh = (sequence for sequence, record in self._small.items() if record.header.digest == digest)
        return self._index.burials.recorded(digest) or min(fresh, default=0)

    def hold(self, study_instance_uid: str, released_upto: int | None = None) -> int:
        """The note that puts a study on legal hold; 0 when none does. released_upto: a release behind this record does
        not count yet.
        """
        for sequence in sorted(self._small, reverse=True):
            note = self._small[sequence].small
            early = released_upto is not None and sequence > released_upto
            if early and isinstance(note, Note) and note.what == RELEASE:
                continue
            if isinstance(note, Note) and note.subject == study_instance_uid and note.what in (HOLD, RELEASE):
                return sequence if note.what == HOLD else 0
        return self._index.burials.hold(study_instance_uid)
