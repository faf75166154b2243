"""The log of one node: append, group commit, truncation, repair, and whole segments from a peer.

`append`, `sync`, `truncate_after`, `repair`, `install_segment`, `cut_torn_tail` and `close` belong to one
thread (`storage.writer`); everything of `LogReader` may be called from any thread at any time.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from storage.appender import LogAppender, LogIdentity
from storage.damage import DamageRegister
from storage.disk import Disk
from storage.errors import LogContradiction, RecordCorrupt
from storage.evicted import EvictedFile, Stub, stub_content
from storage.frame import Stretch, wrong_stretches
from storage.install import verified_segment
from storage.position import EpochSpan, LogPoint, LogPosition, RecordHeader, chain_after
from storage.rawrecord import InnerPayload, after, in_pages
from storage.reader import BytesPayload, Payload, StoredRecord
from storage.record import decode_header
from storage.recovery import RecoveryReport, Tail, recover
from storage.segment import Segment, SegmentInfo, verify_payload
from storage.table import (
    ENTRIES_OFFSET,
    ENTRY_BYTES,
    PAGE,
    Entry,
    encode_entry,
)

__all__ = [
    "BytesPayload",
    "Entry",
    "EpochSpan",
    "Log",
    "LogIdentity",
    "Payload",
    "RecoveryReport",
    "SegmentInfo",
    "StoredRecord",
    "Tail",
]

_LOCK: Final = "lock"


class Log(LogAppender):
    """An open log. One per data directory: a second process is refused."""

    @classmethod
    def open(
        cls,
        disk: Disk,
        identity: LogIdentity,
        *,
        host_rebooted: bool,
        direct: bool = False,
        floor: int = 0,
        spares: int = 2,
    ) -> tuple["Log", RecoveryReport]:
        """Lock, recover and open. `floor`: the highest sequence known to be committed: never a torn tail.

        Raises LogLocked, FormatError, LogContradiction, SegmentPoisoned, StorageFull.
        """
        started = time.monotonic()
        disk.lock(_LOCK)
        disk.make_directory("log")
        found = recover(
            disk,
            identity.cluster_id,
            identity.segment_bytes,
            host_rebooted=host_rebooted,
            floor=floor,
            direct=direct,
        )
        damage = DamageRegister(disk)
        remembered = damage.known - found.damaged
        damage.note(*found.damaged)
        log = cls(disk, identity, found, damage, spares, direct)
        for sequence in sorted(remembered):
            log._judge_anew(sequence)
        report = RecoveryReport(
            end=log.end,
            durable=log.durable,
            damaged=log.damaged(),
            repaired_entries=tuple(found.repaired),
            torn_tail=found.tail,
            saved=tuple(found.saved),
            clean=found.clean,
            seconds=time.monotonic() - started,
            segments=len(found.segments),
        )
        return log, report

    def truncate_after(self, sequence: int) -> list[str]:
        """Cut every record after `sequence`, each saved to lost+found first; return the names there.

        Whether that is allowed (agreement, commit point) is the caller's to know. A damaged record
        is saved as
        the bytes that lie there.
        """
        self.sync()
        if not 0 <= sequence <= self._end.sequence:
            raise LogContradiction(f"cannot cut after {sequence}, the log ends at {self._end.sequence}")
        point = self.point_at(sequence)
        if point is None:
            raise LogContradiction(f"cannot cut after {sequence}: it is damaged")
        if sequence < self._end.sequence and self.is_evicted(sequence + 1):
            raise LogContradiction(f"cannot cut after {sequence}: it was evicted, and so committed")
        if self._tail is not None:
            self._cut_tail(self._tail)
        names = [self._save(number) for number in range(sequence + 1, self._end.sequence + 1)]
        self._guarded(lambda: self._cut(sequence, point))
        return names

    def cut_torn_tail(self) -> list[str]:
        """Save and cut the torn tail, after the other replicas were asked.

        Raises LogContradiction for corruption.
        """
        self._refuse_if_poisoned()
        if self._tail is None:
            return []
        if not self._tail.torn:
            raise LogContradiction("the tail is corrupt, not torn: repair it from another replica")
        return self._cut_tail(self._tail)

    def repair(self, sequence: int, raw: bytes | Payload) -> None:
        """Put another replica's bytes of a whole record in place of damaged ones, once chain and
        digest prove them.

        The first record of an unsettled tail may be repaired too: it becomes the new end.
        Raises RecordCorrupt when the bytes offered are wrong, LogContradiction when they cannot be
        proved here.
        """
        source: Payload = BytesPayload(raw) if isinstance(raw, bytes) else raw
        self.sync()
        decoded = decode_header(next(iter(source.parts())))
        header = decoded.header
        previous = self.point_at(sequence - 1)
        if previous is None:
            raise LogContradiction(f"record {sequence - 1} must be repaired first")
        if header.position.sequence != sequence or decoded.length != source.size:
            raise RecordCorrupt(sequence, "the bytes offered are of another record")
        if chain_after(previous.chain, header) != decoded.chain:
            raise RecordCorrupt(sequence, "the bytes offered do not follow from the record before")
        verify_payload(header, (bytes(part) for part in after(source, decoded.payload_offset)))
        if self._tail is not None and sequence == self._tail.first:
            self._cut_tail(self._tail)
            self.append(
                header,
                decoded.chain,
                InnerPayload(source, decoded.payload_offset, header.size),
            )
            self.sync()
            return
        self._overwrite(sequence, header, decoded.chain, source)

    def install_segment(self, staged_name: str) -> LogPoint:
        """Verify a whole sealed segment that continues this log, and take it over. Returns the new end.

        Raises RecordCorrupt, FormatError or LogContradiction and leaves the staged file.
        """
        self._refuse_if_unfit()
        self.sync()
        segment, end = verified_segment(
            self._disk,
            staged_name,
            self._identity.cluster_id,
            self._identity.segment_bytes,
            self._end,
        )
        self._guarded(lambda: self._take_over(staged_name, segment, end))
        return self._end

    def evict(self, sequence: int) -> int:
        """Let go of the records of the sealed segment that holds this one; return the bytes that become free.

        Whether they lie elsewhere, proved, is the caller's to know, and that the record after them is committed: then
        the log is never cut back to here. Table and chain digests stay. Whoever reads the
        segment right now reads on in the old file. Raises RecordAbsent, RecordCorrupt, LogContradiction, StorageFull.
        """
        self._refuse_if_unfit()
        sealed = self.sealed_records(sequence)
        segment, span = sealed.segment, sealed.span
        end = self.point_at(span.last)
        if end is None or any(span.first <= number <= span.last for number in self.damage.known):
            raise LogContradiction(f"{segment.name} has damage in it: it is repaired before it is evicted")
        stub = Stub(span.first, end, segment.size, sealed.offset, sealed.offset + sealed.size)
        content = stub_content(segment.file.pread(segment.data_offset, 0), stub)
        self._disk.write_atomically(segment.name, content)
        file = EvictedFile(self._disk.open(segment.name), stub, self.elsewhere)
        evicted = replace(segment, file=file, end_offset=stub.end, armed=False, evicted=True)
        with self._lock:
            self._segments = tuple(evicted if each is segment else each for each in self._segments)
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

    def close(self) -> None:
        """Sync, mark the end as clean, and let go. After a failure only let go."""
        self._spares.close()
        try:
            if self._failure is None:
                self.sync()
                if self._segments and self._tail is None:
                    self._disarm(self._segments[-1])
        finally:
            for segment in self._segments:
                segment.file.close()
            self._disk.close()

    def _cut(self, sequence: int, point: LogPoint) -> None:
        keep = tuple(segment for segment in self._segments if segment.first <= sequence)
        gone = self._segments[len(keep) :]
        end_offset = old_end = 0
        if keep:
            last = keep[-1].entry(keep[-1].last)
            old_end = last.offset + last.length if last else keep[-1].size
            end_offset = self._extent(keep[-1], sequence)[1]
        with self._lock:
            self._segments = keep
            self._end = self._durable = point
            if keep:
                keep[-1].last, keep[-1].end_offset = sequence, end_offset
        for segment in reversed(gone):  # the newest first: what is left is always a log
            self._disk.remove(segment.name)
        if keep:
            self._erase(keep[-1], old_end)
        self.damage.cut_after(sequence)

    def _cut_tail(self, tail: Tail) -> list[str]:
        segment = self._segments[-1]
        names: list[str] = []
        for sequence in range(tail.first, tail.last + 1):
            entry = segment.entry(sequence)
            try:
                if entry is not None:
                    decoded = segment.verify(entry.offset, sequence, None)
                    point = LogPoint(decoded.header.position, decoded.chain)
                    names.append(self._lost.save_record(point, segment.raw(entry.offset, entry.length)))
            except RecordCorrupt:
                continue
        if tail.end_offset > tail.offset:
            pieces = segment.raw(tail.offset, tail.end_offset - tail.offset)
            names.append(self._lost.save_damaged(tail.first, pieces))
        self._guarded(lambda: self._erase(segment, tail.end_offset))
        self._tail = None
        return names

    def _erase(self, segment: Segment, old_end: int) -> None:
        """Write zeros again after the segment's last record.

        Entries go first: none is left without its record.
        """
        self._rearm(segment)
        used = (segment.last - segment.first + 1) * ENTRY_BYTES
        page = used // PAGE * PAGE
        self._table[used:] = bytes(len(self._table) - used)
        segment.file.pwrite([memoryview(self._table)[page:]], ENTRIES_OFFSET + page)
        segment.zero(segment.end_offset, old_end)
        segment.file.sync()

    def _extent(self, segment: Segment, sequence: int) -> tuple[int, int]:
        """Return where a record begins and ends, from its entry or its neighbours'."""
        if entry := segment.entry(sequence):
            return entry.offset, entry.offset + entry.length
        before = segment.entry(sequence - 1) if sequence > segment.first else None
        start = segment.data_offset if sequence == segment.first else before.offset + before.length if before else None
        after = segment.entry(sequence + 1) if sequence < segment.last else None
        end = segment.end_offset if sequence == segment.last and segment.end_offset else after.offset if after else None
        if start is not None and end is None:
            end = start + segment.record_header(start).length
        if start is None or end is None:
            raise RecordCorrupt(sequence, "its place is unknown until its neighbours are repaired")
        return start, end

    def _save(self, sequence: int) -> str:
        """Save one record to lost+found, whole or as the bytes that are left of it."""
        segment = self._segment_of(sequence)
        try:
            point = self.point_at(sequence)
            if point is not None:
                return self._lost.save_record(point, self.read_raw_parts(sequence))
        except RecordCorrupt:
            pass
        start, end = self._extent(segment, sequence)
        return self._lost.save_damaged(sequence, segment.salvaged(start, end - start))

    def _overwrite(self, sequence: int, header: RecordHeader, chain: bytes, source: Payload) -> None:
        segment = self._segment_of(sequence)
        start, end = self._extent(segment, sequence)
        expected = self.point_at(sequence) if segment.entry(sequence) or sequence == self._end.sequence else None
        if expected is None:
            expected = self._proved_by_next(segment, sequence, chain)
        if expected != LogPoint(header.position, chain) or end - start != source.size:
            raise RecordCorrupt(sequence, "the bytes offered are of another branch")
        self._lost.save_damaged(sequence, segment.salvaged(start, end - start))
        entry = Entry(
            header.position,
            header.kind,
            start,
            source.size,
            header.digest,
            chain,
            segment.first,
        )
        self._guarded(lambda: self._put_back(segment, entry, source))
        self.damage.clear(sequence)

    def _put_back(self, segment: Segment, entry: Entry, source: Payload) -> None:
        # Whole pages only: a part of one would have to be read first, and the disk may not give it back.
        offset = entry.offset
        for pages in in_pages(source):
            segment.file.pwrite([pages], offset)
            offset += len(pages)
        slot = (entry.position.sequence - segment.first) * ENTRY_BYTES
        page, within = ENTRIES_OFFSET + slot // PAGE * PAGE, slot % PAGE
        table = bytearray(b"".join(segment.salvaged(page, PAGE)))
        if segment is self._segments[-1] and segment.armed:
            table[:] = self._table[page - ENTRIES_OFFSET : page - ENTRIES_OFFSET + PAGE]
        table[within : within + ENTRY_BYTES] = encode_entry(entry)
        self._write_frame(segment, Stretch(page, PAGE, bytes(table)))
        segment.file.sync()

    def _rewrite(self, segment: Segment, wrong: Sequence[Stretch]) -> None:
        for one in wrong:
            self._write_frame(segment, one)
        segment.file.sync()

    def _write_frame(self, segment: Segment, one: Stretch) -> None:
        if one.data is None:
            segment.zero(one.offset, one.offset + one.size)
            return
        segment.file.pwrite([one.data], one.offset)
        if segment is self._segments[-1] and segment.armed and one.offset >= ENTRIES_OFFSET:
            # The newest segment's table is written from memory.
            self._table[one.offset - ENTRIES_OFFSET : one.offset - ENTRIES_OFFSET + PAGE] = one.data

    def _proved_by_next(self, segment: Segment, sequence: int, chain: bytes) -> LogPoint | None:
        """Return the point of a record whose entry is lost, when what follows it says that its
        chain is `chain`.
        """
        position = LogPosition(segment.header.epoch, sequence)
        if sequence == segment.last:
            after = self._segments[self._segments.index(segment) + 1]
            return LogPoint(position, after.header.chain_before)
        entry = segment.entry(sequence + 1)
        if entry is None:
            raise LogContradiction(f"record {sequence} cannot be proved before {sequence + 1} is readable")
        following = segment.record_header(entry.offset)
        return LogPoint(position, chain) if chain_after(chain, following.header) == entry.chain else None

    def _take_over(self, staged_name: str, segment: Segment, end: LogPoint) -> None:
        segment.file.sync()
        self._retire_last()
        self._disk.rename(staged_name, segment.name)
        with self._lock:
            self._segments = (*self._segments, segment)
            self._end = self._durable = end
        self._durable_offset = segment.end_offset

    def _judge_anew(self, sequence: int) -> None:
        """Damage that an earlier process found: only a read from the medium, or the lack of the record, clears it."""
        if sequence > self._end.sequence:
            self.damage.clear(sequence)
            return
        self.judge(sequence)

    def _segment_of(self, sequence: int) -> Segment:
        found = self._find(sequence)
        assert isinstance(found, Segment), f"record {sequence} is not in a segment"
        return found
