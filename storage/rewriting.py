"""Segments that are written anew: let go of, compacted, mended around their records.

Compaction takes the payloads of deleted instances away (docs/format.md, Stub). The new form of a segment is written
beside the old one, read back whole, and only then takes its name: at each moment there is one of them, complete.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from msgspec import structs

from storage.appender import LogAppender
from storage.disk import DiskFile
from storage.errors import LogContradiction, RecordCorrupt, StorageError
from storage.evicted import EvictedFile, Stub, stub_content
from storage.frame import Stretch, wrong_stretches
from storage.install import SegmentProof
from storage.position import EpochSpan, LogPoint, LogPosition
from storage.rawrecord import in_pages
from storage.reader import BytesPayload, Payload
from storage.record import DecodedRecord, decode_header, encode_stub
from storage.sealed import SealedRecords
from storage.segment import Segment
from storage.spare import REWRITTEN
from storage.table import (
    ENTRIES_OFFSET,
    ENTRY_BYTES,
    PAGE,
    Entry,
    capacity,
    encode_entry,
    encode_segment_header,
    entry_of,
)

_GATHERED: Final = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Compacted:
    """The new form of a segment, whole and read back, that waits to take the old one's place. stubs: new ones.

    freed: bytes of the file. old: what it was made of. An evicted segment comes back with it.
    """

    segment: Segment
    name: str
    repairs: int
    stubs: tuple[int, ...]
    freed: int
    old: Segment


class Rewriter(LogAppender):
    """The part of the log that changes what is sealed."""

    def evict(self, sequence: int, proved: SealedRecords | None = None) -> int:
        """Let go of the records of the sealed segment that holds this one; return the bytes that become free.

        Whether they lie elsewhere is the caller's to know, in the very form that `proved` has, and that the record
        after them is committed: then the log is never cut back to here. Table and chain digests stay. Whoever reads the
        segment right now reads on in the old file. Raises RecordAbsent, RecordCorrupt, LogContradiction, StorageFull.
        """
        self._refuse_if_unfit()
        sealed = self.sealed_records(sequence)
        segment, span = sealed.segment, sealed.span
        if proved is not None and proved.segment is not segment:
            raise LogContradiction(f"{segment.name} was written anew since it was proved elsewhere")
        end = self.point_at(span.last)
        if end is None or self._damaged_in(span):
            raise LogContradiction(f"{segment.name} has damage in it: it is repaired before it is evicted")
        stub = Stub(span.first, end, segment.size, sealed.offset, sealed.offset + sealed.size)
        content = stub_content(segment.file.pread(segment.data_offset, 0), stub)
        self._disk.write_atomically(segment.name, content)
        file = EvictedFile(self._disk.open(segment.name), stub, self.elsewhere)
        evicted = replace(segment, file=file, end_offset=stub.end, armed=False, evicted=True)
        self._exchange(segment, evicted)
        return segment.size - len(content)

    def mend_frame(self, first: int) -> list[str]:
        """Write header, marks, table and zeros of the segment that begins with `first` anew, where they are damaged.

        Returns the names in lost+found of what lay there; none when nothing is wrong.
        """
        self._refuse_if_unfit()
        self.sync()
        number = next((at for at, one in enumerate(self._segments) if one.first == first), None)
        if number is None:
            return []  # cut meanwhile
        segment, newest = self._segments[number], number + 1 == len(self._segments)
        if segment.evicted:
            return []  # what is left of it is another shape
        end_chain = self._end.chain if newest else self._segments[number + 1].header.chain_before
        segment.file.drop_cache()  # what is in memory may be right, and the medium without it
        wrong = wrong_stretches(segment, end_chain, newest=newest)
        names = [self._lost.save_damaged(first, segment.salvaged(one.offset, one.size)) for one in wrong]
        if wrong:
            self._guarded(lambda: self._rewrite(segment, wrong))
        return names

    # Compaction

    def prepare_compaction(self, first: int, covered: Mapping[int, int], *, bring_back: bool = False) -> Compacted:
        """Write the compacted form of the sealed segment that begins with `first` beside it, and read it back. covered:
        instances in it, and the tombstones that cover them; what is a stub already stays one. bring_back: also of an
        evicted segment, whose records are read where they lie.

        For any thread. Whether the tombstones may be acted upon is the caller's to know; that they cover these records
        is proved here, from this log. Raises RecordAbsent, RecordCorrupt, RecordsElsewhere, LogContradiction,
        StorageFull, SegmentPoisoned; nothing is left behind.
        """
        sealed = self.sealed_records(first, evicted=bring_back)
        segment, span = sealed.segment, sealed.span
        if span.first != first or self._damaged_in(span):
            raise LogContradiction(f"{segment.name} has damage in it: it is repaired before it is compacted")
        if not all(span.first <= sequence <= span.last for sequence in covered):
            raise LogContradiction(f"{segment.name} does not hold these records")
        repairs = segment.repairs
        new: dict[int, Payload] = {}
        for sequence, tombstone in sorted(covered.items()):
            _, decoded = self._locate(segment, sequence)
            self._believed.cover(decoded.header, tombstone)
            if not decoded.tombstone:
                new[sequence] = BytesPayload(encode_stub(decoded.header, decoded.chain, tombstone))
        if not new:
            raise LogContradiction(f"{segment.name} has nothing to take away")
        name = f"log/{REWRITTEN}{first:012d}"
        written = self._written(name, sealed, new, ())
        freed = 0 if segment.evicted else segment.size - written.size
        return Compacted(written, name, repairs, tuple(new), freed, segment)

    def may_take(self, sequence: int, tombstone: int) -> bool:
        """Whether `prepare_compaction` would take this payload away: it is there, and this very log covers it."""
        segment = self._segment_of(sequence)
        try:
            _, decoded = self._locate(segment, sequence)
            self._believed.cover(decoded.header, tombstone)
        except StorageError:
            return False
        return not decoded.tombstone

    def adopt_compaction(self, compacted: Compacted) -> int:
        """Put the compacted form in the place of the old one; return how many bytes became free. Whoever reads the
        segment right now reads on in the old file.

        Raises LogContradiction when something was mended in it meanwhile: then it is to be prepared anew; and
        RecordsElsewhere, RecordAbsent, RecordCorrupt.
        """
        self._refuse_if_unfit()
        first = compacted.segment.first
        try:
            sealed = self.sealed_records(first, evicted=compacted.old.evicted)
        except StorageError:  # evicted since
            self.drop_compaction(compacted)
            raise
        old = sealed.segment
        if old is not compacted.old or old.repairs != compacted.repairs or self._damaged_in(sealed.span):
            self.drop_compaction(compacted)
            raise LogContradiction(f"{old.name} was mended while it was compacted: it is done anew")
        self._guarded(lambda: self._disk.rename(compacted.name, old.name))
        self._exchange(old, compacted.segment)
        return compacted.freed

    def drop_compaction(self, compacted: Compacted) -> None:
        """Nobody wants it any more."""
        compacted.segment.file.close()
        self._disk.remove(compacted.name)

    def wait_for_tombstones(self) -> None:
        """After a start: which damaged records are stubs whose tombstones may still come."""
        for sequence in self.damage.known:
            if self.is_stub(sequence):
                segment = self._segment_of(sequence)
                entry = segment.entry(sequence)
                try:
                    if entry is not None:
                        self.waiting[sequence] = segment.record_header(entry.offset).tombstone
                except RecordCorrupt:
                    continue  # damaged indeed
        self.believe_stubs()

    def _replace(self, segment: Segment, decoded: DecodedRecord, source: Payload, start: int, end: int) -> None:
        """Put another form of a damaged record in its place: one has the payload, and the other is the stub."""
        sequence = decoded.header.position.sequence
        if segment is self._segments[-1] or segment.evicted:
            raise RecordCorrupt(sequence, "the bytes offered are of another form, and its segment is not sealed")
        self._lost.save_damaged(sequence, segment.salvaged(start, end - start))
        name = f"log/{REWRITTEN}{segment.first:012d}"
        sealed = self.sealed_records(segment.first)
        written = self._written(name, sealed, {sequence: source}, self._damaged_in(sealed.span) - {sequence})
        self._guarded(lambda: self._disk.rename(name, segment.name))
        self._exchange(segment, written)
        self.damage.clear(sequence)

    def _written(
        self, name: str, sealed: SealedRecords, new: Mapping[int, Payload], damaged: Collection[int]
    ) -> Segment:
        """Write a segment with some records replaced, and read it back: the same chain, to the same end."""
        segment, identity = sealed.segment, self._identity
        file = self._disk.open(name, create=True)
        try:
            file.truncate(0)
            self._copy(file, segment, new)
            file.sync()
            file.drop_cache()
            before = LogPoint(LogPosition(0, segment.first - 1), segment.header.chain_before)
            place = (file.size(), identity.cluster_id, identity.segment_bytes)
            proved = SegmentProof(self._disk, name, *place, damaged).finish()
            proved.check_continues(before)
            if proved.end != self.point_at(segment.last):
                raise RecordCorrupt(segment.last, "the segment that was written anew ends with another chain")
        except (StorageError, OSError):
            file.close()
            self._disk.remove(name)
            raise
        file.close()
        return proved.segment

    def _copy(self, file: DiskFile, segment: Segment, new: Mapping[int, Payload]) -> None:
        """Raises RecordCorrupt when an entry is damaged, which says where a record lies."""
        table = bytearray(capacity(self._identity.segment_bytes) * ENTRY_BYTES)
        written = offset = segment.data_offset
        held = bytearray()
        for sequence in range(segment.first, segment.last + 1):
            entry = segment.entry(sequence)
            if entry is None and sequence not in new:
                raise RecordCorrupt(sequence, "its entry is damaged: it is repaired first")
            if sequence in new:
                entry = _entry_of(new[sequence], offset, segment.first)
            assert entry is not None, "of one or the other"
            for piece in _pages(segment, entry, new.get(sequence)):
                held += piece
                if len(held) >= _GATHERED:
                    file.pwrite([bytes(held)], written)
                    written += len(held)
                    held.clear()
            slot = (sequence - segment.first) * ENTRY_BYTES
            table[slot : slot + ENTRY_BYTES] = encode_entry(structs.replace(entry, offset=offset))
            offset += entry.length
        file.pwrite([bytes(held), bytes(PAGE)], written)
        head = encode_segment_header(segment.header)
        file.pwrite([head, bytes(ENTRIES_OFFSET - len(head)), bytes(table)], 0)

    def _segment_of(self, sequence: int) -> Segment:
        found = self._find(sequence)
        assert isinstance(found, Segment), f"record {sequence} is not in a segment"
        return found

    def _exchange(self, old: Segment, new: Segment) -> None:
        with self._lock:
            self._segments = tuple(new if each is old else each for each in self._segments)

    def _damaged_in(self, span: EpochSpan) -> frozenset[int]:
        return frozenset(number for number in self.damage.known if span.first <= number <= span.last)

    # Around the records

    def _rewrite(self, segment: Segment, wrong: Sequence[Stretch]) -> None:
        for one in wrong:
            self._write_frame(segment, one)
        segment.file.sync()
        segment.repairs += 1

    def _write_frame(self, segment: Segment, one: Stretch) -> None:
        if one.data is None:
            segment.zero(one.offset, one.offset + one.size)
            return
        segment.file.pwrite([one.data], one.offset)
        if segment is self._segments[-1] and segment.armed and one.offset >= ENTRIES_OFFSET:
            # The newest segment's table is written from memory.
            self._table[one.offset - ENTRIES_OFFSET : one.offset - ENTRIES_OFFSET + PAGE] = one.data


def _pages(segment: Segment, entry: Entry, source: Payload | None) -> Iterator[bytes]:
    """A whole record: as it lies there, in zeros what the disk does not give back, or the other form of it."""
    if source is not None:
        return in_pages(source)
    return segment.salvaged(entry.offset, entry.length)


def _entry_of(source: Payload, offset: int, segment: int) -> Entry:
    return entry_of(decode_header(next(iter(source.parts()))), offset, segment)
