"""Reading the log from any thread: points, entries and records, each proved before it is believed."""

import threading
from bisect import bisect_right
from collections.abc import Callable, Iterator
from typing import Final, TypeVar

from storage.damage import DamageRegister
from storage.deletion import Covered
from storage.errors import PayloadGone, RecordAbsent, RecordCorrupt, RecordsElsewhere, StorageError
from storage.noting import NotingDamage
from storage.payload import BytesPayload, FilePayload, Payload, Pending, StoredRecord, StoredStub, checked
from storage.position import GENESIS, EpochSpan, LogPoint, LogPosition, RecordHeader, RecordKind, chain_after
from storage.record import DecodedRecord, encode_header, encode_stub, trailing_padding
from storage.sealed import SealedRecords, sealed_records, span_of, stubs_in
from storage.segment import PIECE as SEGMENT_PIECE
from storage.segment import Segment, SegmentInfo, verify_rest
from storage.stubs import Believed
from storage.table import Entry, entry_of

__all__ = [
    "WHOLE_LIMIT",
    "BytesPayload",
    "FilePayload",
    "LogReader",
    "Payload",
    "Pending",
    "StoredRecord",
    "StoredStub",
    "checked",
]

T = TypeVar("T")
WHOLE_LIMIT: Final = 16 * 1024 * 1024
"""Payloads up to this size are read once, into memory; larger ones are hashed first and then read again."""

PIECE: Final = 256 * 1024
TOMBSTONE_SCAN: Final = 100_000
"""Entries that are looked at for a tombstone; where there are more, the index has to come by first."""
"""What one reader of a large payload holds in memory at a time, or twice that."""


def _info(segment: Segment, *, sealed: bool) -> SegmentInfo:
    return SegmentInfo(
        segment.name,
        segment.first,
        segment.last if segment.last >= segment.first else None,
        segment.header.epoch,
        segment.header.chain_before,
        sealed,
        segment.size,
        segment.evicted,
    )


class LogReader:
    """The reading half of `Log`. The log thread publishes under `_lock`; readers take snapshots."""

    def __init__(self, segments: tuple[Segment, ...], end: LogPoint, damage: DamageRegister) -> None:
        self._lock = threading.Lock()
        self._segments = segments
        self._described: tuple[tuple[Segment, ...], tuple[SegmentInfo, ...]] = ((), ())
        self._pending: dict[int, Pending] = {}
        self._end = end
        self._durable = end
        self.damage = damage
        self._believed = Believed(self)

    @property
    def end(self) -> LogPoint:
        """The last record appended, durable or not."""
        return self._end

    @property
    def durable(self) -> LogPoint:
        """The last record on stable storage."""
        return self._durable

    def damaged(self) -> tuple[int, ...]:
        """Sequences known to be damaged: found at start or by a read, in this process or an earlier one, and not
        repaired yet.
        """
        return tuple(sorted(self.damage.known))

    def segments(self) -> tuple[SegmentInfo, ...]:
        """All but the last are described once for each change of their list: a scrape asks, and there may be many."""
        segments = self._segments
        of, described = self._described
        if of is not segments:
            described = tuple(_info(segment, sealed=True) for segment in segments[:-1])
            self._described = segments, described
        return (*described, *(_info(segment, sealed=False) for segment in segments[-1:]))

    def epochs(self) -> tuple[EpochSpan, ...]:
        """Oldest first; the newest span ends at the log end."""
        spans: list[EpochSpan] = []
        with self._lock:
            segments = self._segments
            lasts = [segment.last for segment in segments]
            if segments:
                lasts[-1] = self._end.sequence
        for segment, last in zip(segments, lasts, strict=True):
            if last < segment.first:
                continue
            if spans and spans[-1].epoch == segment.header.epoch:
                spans[-1] = EpochSpan(segment.header.epoch, spans[-1].first, last)
            else:
                spans.append(EpochSpan(segment.header.epoch, segment.first, last))
        return tuple(spans)

    def sealed_at(self, sequence: int) -> EpochSpan | None:
        """The records of the sealed segment that holds this one; None where the segment is still written, or beyond."""
        segment = self._sealed(sequence)
        return span_of(segment) if segment is not None else None

    def sealed_records(self, sequence: int, *, evicted: bool = False) -> SealedRecords:
        """The bytes of the sealed segment that holds this record. evicted: they may lie elsewhere. Raises RecordAbsent,
        RecordCorrupt, RecordsElsewhere.
        """
        segment = self._sealed(sequence)
        if segment is None:
            raise RecordAbsent(sequence)
        return sealed_records(segment, evicted=evicted)

    def stubs_of(self, sequence: int) -> list[int]:
        """Which records of the sealed segment that holds this one are stubs, as the table says. Raises RecordAbsent."""
        segment = self._sealed(sequence)
        if segment is None:
            raise RecordAbsent(sequence)
        return stubs_in(segment)

    def lend_segment(self, sequence: int) -> Segment:
        """The sealed segment that holds this record, as it is now. Raises RecordAbsent, RecordsElsewhere."""
        return self.sealed_records(sequence).segment

    def is_evicted(self, sequence: int) -> bool:
        """Whether reading this record means to ask the tier: it may take long, and fail."""
        found = self._find(sequence)
        return isinstance(found, Segment) and found.evicted

    def distrusts(self, sequence: int) -> bool:
        """Whether what was read came from the tier: it is fetched anew the next time, and nothing is damaged here."""
        found = self._find(sequence)
        if not isinstance(found, Segment) or not found.evicted:
            return False
        found.file.drop_cache()
        return True

    def _sealed(self, sequence: int) -> Segment | None:
        with self._lock:
            index = bisect_right(self._segments, sequence, key=lambda segment: segment.first) - 1
            return self._segments[index] if 0 <= index < len(self._segments) - 1 else None

    def entry(self, sequence: int) -> Entry | None:
        """Return the facts of one record; None beyond the end, or where the entry is damaged."""
        found = self._find(sequence)
        if isinstance(found, Pending):
            return found.entry
        return None if found is None else found.entry(sequence)

    def bytes_after(self, sequence: int) -> int:
        """Bytes of the records after this one as they lie here, headers included. One entry is read, and no record:
        where the entry is damaged, all of its segment counts.
        """
        segments = self._segments
        if sequence >= self._end.sequence or not segments:
            return 0
        tail = segments[max(0, bisect_right(segments, sequence + 1, key=lambda segment: segment.first) - 1) :]
        size = sum(segment.extent for segment in tail)
        entry = self.entry(sequence + 1)
        before = entry.offset - tail[0].data_offset if entry is not None and entry.segment == tail[0].first else 0
        return max(0, size - before)

    def time_of(self, sequence: int) -> int | None:
        """When a record was numbered, as its header says and nothing proves, in Unix microseconds. None where it is not
        here or cannot be read; nothing is noted as damaged.
        """
        found = self._find(sequence)
        if isinstance(found, Pending):
            return found.header.time_us
        entry = found.entry(sequence) if found is not None and not found.evicted else None
        if found is None or entry is None:
            return None
        try:
            header = found.record_header(entry.offset).header
        except RecordCorrupt:
            return None
        return header.time_us if header.position == entry.position else None

    def point_at(self, sequence: int) -> LogPoint | None:
        """Return `GENESIS` for 0, None beyond the end or where neither entry nor record can be believed."""
        if sequence == 0:
            return GENESIS
        if sequence == (end := self._end).sequence:
            return end
        found = self._find(sequence)
        if found is None or isinstance(found, Pending):
            return None if found is None else found.entry.point
        if entry := found.entry(sequence):
            return entry.point
        if sequence == found.last and (after := self._find(sequence + 1)) is not None and isinstance(after, Segment):
            return LogPoint(LogPosition(found.header.epoch, sequence), after.header.chain_before)
        if found.evicted:
            return None  # whoever asks for a point does not wait for a tier
        try:
            decoded = self._locate(found, sequence)[1]
        except RecordCorrupt:
            return None
        return LogPoint(decoded.header.position, decoded.chain)

    def read(self, sequence: int, *, whole_limit: int = WHOLE_LIMIT) -> StoredRecord:
        """Return a verified record. Raises RecordCorrupt (and remembers it), RecordAbsent.

        whole_limit: a larger payload stays in its file and comes in pieces, for readers that may be many and slow.
        """
        found = self.read_any(sequence, whole_limit=whole_limit)
        if isinstance(found, StoredStub):
            raise PayloadGone(sequence, found.tombstone)
        return found

    def read_any(self, sequence: int, *, whole_limit: int = WHOLE_LIMIT) -> StoredRecord | StoredStub:
        """Like `read`; of a record whose payload was taken away, what is left of it. A stub that no tombstone in this
        log covers is damaged.
        """
        return self._from_where_it_lies(sequence, lambda found: self._read_in(found, sequence, whole_limit))

    def _from_where_it_lies(self, sequence: int, read: Callable[[Segment | Pending], T]) -> T:
        """An evicted segment may be given other places while it is read, and the object of the old ones may go: then it
        is read once more, by the new ones.
        """
        found = self._find(sequence)
        if found is None:
            raise RecordAbsent(sequence)
        try:
            return read(found)
        except RecordsElsewhere:
            again = self._find(sequence)
            if again is None or again is found:
                raise
            return read(again)

    def _read_in(self, found: Segment | Pending, sequence: int, whole_limit: int) -> StoredRecord | StoredStub:
        if isinstance(found, Pending):
            return self._pending_record(found)
        with NotingDamage(self, sequence):
            offset, decoded = self._locate(found, sequence)
            header = decoded.header
            start = offset + decoded.payload_offset
            length = decoded.length - decoded.payload_offset
            payload: Payload = BytesPayload(b"")
            if decoded.tombstone:
                verify_rest(decoded, found.raw(start, length))
                self._believed.cover(header, decoded.tombstone)
            elif header.size > whole_limit:
                verify_rest(decoded, found.raw(start, length))
                piece = PIECE if whole_limit < WHOLE_LIMIT else SEGMENT_PIECE
                payload = FilePayload(header, found, start, piece)
            else:
                data = found.file.pread(length, start)
                verify_rest(decoded, iter((data,)))
                payload = BytesPayload(data[: header.size])
        if decoded.tombstone:
            return StoredStub(header, decoded.chain, decoded.tombstone)
        return StoredRecord(header, decoded.chain, payload)

    def judge(self, sequence: int) -> bool:
        """Read a record from the medium, not from memory; return whether it is damaged. Remembers, either way.

        Nothing but this and a repair clears known damage: memory may show a repair that was cut short before its sync.
        """
        found, known = self._find(sequence), sequence in self.damage.known
        if isinstance(found, Segment):
            if known:
                try:
                    found.file.sync()
                except StorageError:
                    return True
            found.file.drop_cache()
        try:
            self.read_any(sequence)
        except RecordCorrupt:
            return not self.is_evicted(sequence)
        except (RecordAbsent, RecordsElsewhere):
            return False
        if known:
            self.damage.clear(sequence)
        return False

    def read_raw_parts(self, sequence: int) -> Iterator[bytes | memoryview]:
        """Yield the whole record's bytes, verified before the first piece leaves. Raises as `read`."""
        record = self.read_any(sequence)
        if isinstance(record, StoredStub):
            yield encode_stub(record.header, record.chain, record.tombstone)
            return
        yield encode_header(record.header, record.chain)
        yield from record.payload.parts()
        yield bytes(trailing_padding(record.header.size))

    def read_raw(self, sequence: int) -> bytes:
        """Return the whole record's bytes, verified. For large records use `read_raw_parts`."""
        return b"".join(self.read_raw_parts(sequence))

    def read_head(self, sequence: int, size: int) -> tuple[RecordHeader, bytes]:
        """Return the header, proved by the chain, and the first `size` payload bytes, which
        nothing proves yet.

        For rebuilding the index: reading every pixel would take hours. Raises as `read`.
        """
        if self.is_stub(sequence):
            raise PayloadGone(sequence, self._covered_by(sequence).tombstone)
        return self._from_where_it_lies(sequence, lambda found: self._head_in(found, sequence, size))

    def _head_in(self, found: Segment | Pending, sequence: int, size: int) -> tuple[RecordHeader, bytes]:
        if isinstance(found, Pending):
            payload = self._pending_payload(found)
            return (found.header, payload[:size]) if payload is not None else self.read_head(sequence, size)
        with NotingDamage(self, sequence):
            offset, decoded = self._locate(found, sequence)
            if decoded.tombstone:
                raise PayloadGone(sequence, decoded.tombstone)  # since it was looked at
            size = min(size, decoded.header.size)
            return decoded.header, found.file.pread(size, offset + decoded.payload_offset)

    def last_tombstone(self, first: int) -> int:
        """The last record from `first` on that is, or may be, a tombstone; 0 when none is."""
        end = self._end.sequence
        if end - first > TOMBSTONE_SCAN:
            return end
        for sequence in range(end, max(first, 1) - 1, -1):
            entry = self.entry(sequence)
            if entry is None or entry.kind is RecordKind.TOMBSTONE:
                return sequence
        return 0

    def iterate(self, first: int) -> Iterator[Entry]:
        """Yield the entries from `first` to the end as it is now; damaged ones are left out."""
        for sequence in range(max(first, 1), self._end.sequence + 1):
            if entry := self.entry(sequence):
                yield entry

    def _find(self, sequence: int) -> Segment | Pending | None:
        with self._lock:
            if not 1 <= sequence <= self._end.sequence:
                return None
            if pending := self._pending.get(sequence):
                return pending
            index = bisect_right(self._segments, sequence, key=lambda segment: segment.first) - 1
            return self._segments[index] if index >= 0 else None

    def is_stub(self, sequence: int) -> bool:
        """Whether its payload was taken away, as its entry says."""
        entry = self.entry(sequence)
        return entry is not None and entry.stub

    def cover(self, sequence: int) -> tuple[StoredStub, Covered]:
        """What is left of a deleted instance, and the instance as the tombstone names it. Raises as `read`."""
        stub = self._covered_by(sequence)
        return stub, self._believed.cover(stub.header, stub.tombstone)

    def _covered_by(self, sequence: int) -> StoredStub:
        found = self.read_any(sequence)
        if isinstance(found, StoredRecord):
            raise RecordCorrupt(sequence, "its entry says that it is a stub")
        return found

    def _pending_record(self, pending: Pending) -> StoredRecord | StoredStub:
        header, chain = pending.header, pending.entry.chain
        if not pending.tombstone:
            payload = self._pending_payload(pending)
            if payload is None:
                return self.read_any(header.position.sequence)
            return StoredRecord(header, chain, BytesPayload(payload))
        self._believed.cover(header, pending.tombstone)
        return StoredStub(header, chain, pending.tombstone)

    def _pending_payload(self, pending: Pending) -> bytes | None:
        """Copy a payload that still lies with its sender: its buffer may be reused as soon as it is
        durable. None where it was written since it was found: it may be cut by now, and another have its number.
        """
        if pending.payload.size > WHOLE_LIMIT:
            raise RecordAbsent(pending.entry.position.sequence)
        with self._lock:
            if self._pending.get(pending.entry.position.sequence) is pending:
                return b"".join(pending.payload.parts())
        return None

    def _locate(self, segment: Segment, sequence: int) -> tuple[int, DecodedRecord]:
        """Return offset and header of a record, the header proved by its entry and the chain before it."""
        entry = segment.entry(sequence)
        before = segment.entry(sequence - 1) if sequence > segment.first else None
        previous = before.chain if before else segment.header.chain_before if sequence == segment.first else None
        if entry is not None:
            offset = entry.offset
        elif before is not None:
            offset = before.offset + before.length
        elif sequence == segment.first:
            offset = segment.data_offset
        else:
            raise RecordCorrupt(sequence, "its entry and the one before it are damaged")
        decoded = segment.record_header(offset)
        header = decoded.header
        if header.position.sequence != sequence or (entry is None and previous is None):
            raise RecordCorrupt(sequence, "another record lies in its place")
        if entry is not None and entry != entry_of(decoded, offset, entry.segment):
            raise RecordCorrupt(sequence, "its header contradicts its entry")
        if previous is not None and chain_after(previous, header) != decoded.chain:
            raise RecordCorrupt(sequence, "its chain does not follow from the record before")
        return offset, decoded

    def note_damage(self, sequence: int) -> None:
        """Remember that a record is damaged, as a scrub found."""
        if sequence <= self._end.sequence:
            self.damage.note(sequence)
            if sequence > self._end.sequence:
                self.damage.clear(sequence)  # cut meanwhile
