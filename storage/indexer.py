"""Keeps the index at the committed position by reading the log; called in a thread, never on the write path."""

import logging
from collections.abc import Collection, Mapping
from typing import Final

from msgspec import Struct

from storage.buried import IndexedSmall
from storage.dataset import Attributes, FileMeta, NeedMore, UnreadableDataSet, read_meta, scan
from storage.deletion import SMALL_KINDS, NotUnderstood, decode_small
from storage.errors import ForeignIndex, RecordCorrupt, RecordsElsewhere
from storage.index import Index, IndexedRecord
from storage.log import Log
from storage.position import LogPoint, RecordHeader, RecordKind

_LOG: Final = logging.getLogger("perenne.index")
BATCH: Final = 512
HEAD_BYTES: Final = 8 * 1024
"""What a `Fresh` record should carry of a payload that nobody scanned."""
_HEADS: Final = (32 * 1024, 1024 * 1024, 16 * 1024 * 1024)


class Fresh(Struct, frozen=True):
    """What is still in memory of a record, so that the log need not be read for it.

    head: the first payload bytes, the File Meta at least. attributes: None where nobody scanned the data set.
    """

    header: RecordHeader
    head: bytes
    attributes: Attributes | None


class Indexer:
    """Follows the log's committed prefix.

    begins_anew: it makes an index that does not belong to the log anew by itself; else whoever relies on what that
    knows is to be told first.
    """

    def __init__(self, log: Log, index: Index, *, begins_anew: bool = True) -> None:
        self._log = log
        self._index = index
        self._begins_anew = begins_anew

    def advance(self, upto: LogPoint, fresh: Mapping[int, Fresh] | None = None) -> int:
        """Index every committed record up to `upto`; return how many instances were added.

        fresh: by sequence, what need not be read. An index of another branch, or of a log that was cut, is rebuilt
        from the start. Raises ForeignIndex instead where that is not for it to do.
        """
        applied = self._index.applied
        if self._log.point_at(applied.sequence) != applied:
            if not self._begins_anew:
                raise ForeignIndex(f"the index says that it has come to record {applied.position}")
            _LOG.warning("the index does not belong to this log: rebuilding", extra={"applied": applied.sequence})
            self._index.clear()
            applied = self._index.applied
        added, first = 0, applied.sequence + 1
        while first <= upto.sequence:
            last = min(upto.sequence, first + BATCH - 1)
            holes: dict[int, bool] = {}
            found = (self._record(sequence, (fresh or {}).get(sequence), holes) for sequence in range(first, last + 1))
            batch = [record for record in found if record is not None]
            point = self._log.point_at(last)
            if point is None:
                return added
            self._index.apply(batch, point, holes)
            added += sum(isinstance(record, IndexedRecord) for record in batch)
            first = last + 1
        return added

    def fill_holes(self) -> int:
        """Index what could not be read when its turn came and can be read now; return how many holes are left."""
        still: dict[int, bool] = {}
        wanted = sorted(self._index.holes)
        found = [self._record(sequence, None, still) for sequence in wanted]
        batch = [record for record in found if record is not None]
        self._index.fill(batch, frozenset(wanted) - frozenset(still))
        return len(still)

    def _record(
        self, sequence: int, fresh: Fresh | None, holes: dict[int, bool]
    ) -> IndexedRecord | IndexedSmall | None:
        """What is to be indexed of one record; None when it is an EPOCH. One too damaged to tell is a hole."""
        if not fresh and self._log.is_stub(sequence):
            return self._stub(sequence, holes)
        try:
            header, head = (fresh.header, fresh.head) if fresh else self._log.read_head(sequence, _HEADS[0])
            if header.kind in SMALL_KINDS:
                return self._small(sequence, header, fresh)
            return self._instance(sequence, header, head, fresh) if header.kind is RecordKind.INSTANCE else None
        except (RecordCorrupt, NotUnderstood, RecordsElsewhere) as error:
            if isinstance(error, RecordsElsewhere) and not error.gone:
                raise  # the tier does not answer: it is asked again
            _LOG.error("a record cannot be read and is not indexed", extra={"sequence": sequence, "reason": str(error)})
            entry = self._log.entry(sequence)
            # What cannot be told from a tombstone may be one: it must not be taken for an instance that is missing.
            holes[sequence] = entry is None or entry.kind in SMALL_KINDS
            return None

    def _stub(self, sequence: int, holes: dict[int, bool]) -> IndexedRecord | None:
        """What is left of a deleted instance. One that no tombstone here covers, yet or ever, is a hole."""
        try:
            return self._record_of_stub(sequence)
        except RecordCorrupt as error:
            _LOG.warning("a stub is not believed and not indexed", extra={"sequence": sequence, "reason": str(error)})
            holes[sequence] = False
            return None

    def _record_of_stub(self, sequence: int) -> IndexedRecord:
        """Raises as `Log.cover`."""
        stub, covered = self._log.cover(sequence)
        header = stub.header
        attributes = Attributes(
            study_instance_uid=covered.study_instance_uid,
            series_instance_uid=covered.series_instance_uid,
            sop_instance_uid=covered.sop_instance_uid,
        )
        sizes = (header.dataset, header.digest, header.size)
        uid, tombstone = covered.sop_instance_uid, stub.tombstone
        return IndexedRecord(sequence, uid, "", *sizes, attributes, header.time_us, "", tombstone)

    def compacted(self, sequences: Collection[int]) -> None:
        """These records lost their payloads. Raises as `Log.cover`."""
        self._index.strip([self._record_of_stub(sequence) for sequence in sequences], self._described)

    def _described(self, sequence: int) -> Attributes | None:
        found = self._record(sequence, None, {})
        return found.attributes if isinstance(found, IndexedRecord) else None

    def _small(self, sequence: int, header: RecordHeader, fresh: Fresh | None) -> IndexedSmall:
        """Raises RecordCorrupt, NotUnderstood."""
        payload = fresh.head if fresh else b"".join(self._log.read(sequence).payload.parts())
        return IndexedSmall(sequence, header.digest, header.time_us, decode_small(header.kind, payload))

    def _instance(self, sequence: int, header: RecordHeader, head: bytes, fresh: Fresh | None) -> IndexedRecord | None:
        attributes = fresh.attributes if fresh else None
        try:
            meta = read_meta(head)
            if attributes is None:
                attributes = self._attributes(sequence, meta, head, header.size)
        except UnreadableDataSet:
            meta, attributes = None, Attributes()
        uid = meta.sop_instance_uid or attributes.sop_instance_uid if meta else ""
        if not fresh and not _names(header, uid) and self._is_damaged(sequence):
            # Nothing proves what was read but the header, whose path names the instance.
            uid = _named_by(header)
        elif meta is None:
            return None
        sizes = (header.dataset, header.digest, header.size)
        syntax, source = (meta.transfer_syntax_uid, meta.source_ae) if meta else ("", "")
        return IndexedRecord(sequence, uid, syntax, *sizes, attributes, header.time_us, source)

    def _is_damaged(self, sequence: int) -> bool:
        try:
            self._log.read(sequence)
        except RecordCorrupt as error:
            _LOG.error("a record is damaged and indexed by its name", extra={"reason": str(error)})
            return True
        return False

    def _attributes(self, sequence: int, meta: FileMeta, head: bytes, size: int) -> Attributes:
        """Read as much of the head as the scanner asks for; what it cannot read is indexed by its File Meta alone."""
        for more in _HEADS[1:]:
            try:
                return scan(head[meta.meta_length :], meta.transfer_syntax_uid, complete=len(head) >= size)
            except NeedMore:
                _, head = self._log.read_head(sequence, more)
            except (UnreadableDataSet, RecordCorrupt):
                break
        return Attributes(sop_class_uid=meta.sop_class_uid, sop_instance_uid=meta.sop_instance_uid)


def _names(header: RecordHeader, uid: str) -> bool:
    """Whether a record's path is one of an instance `uid`: what is no UID is called `unknown` there."""
    return bool(uid) and _named_by(header) in (uid, "unknown")


def _named_by(header: RecordHeader) -> str:
    stem = header.path.rpartition("/")[2].removesuffix(".dcm")
    return stem.removesuffix(f".v{header.position.sequence}")
