"""The log of one node: append, group commit, truncation, repair, and whole segments from a peer.

`append`, `sync`, `truncate_after`, `repair`, `install_segment`, `install_assembled`, `cut_torn_tail` and `close` belong
to one thread (`storage.writer`); everything of `LogReader` may be called from any thread at any time.
"""

import time
from collections.abc import Mapping
from typing import Final

from storage.appender import LogIdentity
from storage.assembling import Assembled, headed
from storage.damage import DamageRegister
from storage.disk import Disk
from storage.errors import LogContradiction, RecordCorrupt
from storage.frame import Stretch
from storage.install import ProvedSegment, SegmentProof
from storage.position import EpochSpan, LogPoint, LogPosition, chain_after
from storage.rawrecord import InnerPayload, after, in_pages
from storage.reader import BytesPayload, Payload, StoredRecord
from storage.record import DecodedRecord, decode_header
from storage.recovery import RecoveryReport, Tail, recover
from storage.relearning import Relearner
from storage.seams import measure
from storage.segment import Segment, SegmentInfo, open_segment, verify_rest
from storage.table import (
    ENTRIES_OFFSET,
    ENTRY_BYTES,
    PAGE,
    Entry,
    encode_entry,
    entry_of,
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


class Log(Relearner):
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
        for sequence in sorted(remembered | found.suspected):
            log._judge_anew(sequence)
        log.wait_for_tombstones()
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

        The first record of an unsettled tail may be repaired too, and then what followed it: each is the new end.
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
        verify_rest(decoded, (bytes(part) for part in after(source, decoded.payload_offset)))
        if sequence == self._end.sequence + 1:
            if self._tail is not None:
                self._cut_tail(self._tail)
            if decoded.tombstone:
                self.append_stub(header, decoded.chain, decoded.tombstone)
            else:
                payload = InnerPayload(source, decoded.payload_offset, header.size)
                self.append(header, decoded.chain, payload)
            self.sync()
            return
        if decoded.tombstone:
            self._believed.cover(header, decoded.tombstone)
        self._overwrite(sequence, decoded, source)

    def proof(self, staged_name: str, size: int) -> SegmentProof:
        """Begin to check a whole sealed segment of `size` bytes that comes in, on any thread."""
        return SegmentProof(self._disk, staged_name, size, self._identity.cluster_id, self._identity.segment_bytes)

    def install_segment(self, proved: ProvedSegment) -> LogPoint:
        """Take over a whole sealed segment that continues this log. Returns the new end.

        Raises LogContradiction when it does not continue this log, and leaves the staged file; StorageFull.
        """
        self._refuse_if_unfit()
        self.sync()
        proved.check_continues(self._end)
        return self._installed(proved.name, proved.segment, proved.end, proved.stubs)

    def install_assembled(self, made: Assembled) -> LogPoint:
        """Take over a segment that was made of proved records, as the next one. Returns the new end.

        Raises LogContradiction when it does not continue this log, and leaves the staged file; StorageFull.
        """
        self._refuse_if_unfit()
        self.sync()
        self._refuse_if_no_successor(made.head, made.chain)
        header = headed(self._disk, made, self._identity.cluster_id, self._identity.segment_bytes, self._end)
        segment = open_segment(self._disk, made.staged, header, direct=False)
        segment.last, segment.end_offset = made.end.sequence, made.end_offset
        return self._installed(made.staged, segment, made.end, made.stubs)

    def _installed(self, staged_name: str, segment: Segment, end: LogPoint, stubs: Mapping[int, int]) -> LogPoint:
        measure(segment, self._identity.segment_bytes)
        self.damage.note(*stubs)  # before they are there: after a crash no stub is believed unseen
        self.waiting.update(stubs)
        self._guarded(lambda: self._take_over(staged_name, segment, end))
        self.believe_stubs()
        return self._end

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
                measure(keep[-1], self._identity.segment_bytes)
        for segment in reversed(gone):  # the newest first: what is left is always a log
            self._disk.remove(segment.name)
        if keep:
            self._erase(keep[-1], old_end)
        self.damage.cut_after(sequence)
        self.waiting = {stub: by for stub, by in self.waiting.items() if stub <= sequence}

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

    def _extent(self, segment: Segment, sequence: int, offered: DecodedRecord | None = None) -> tuple[int, int]:
        """Return where a record begins and ends, from its entry or its neighbours', or from what is left of it.

        offered: the same record, proved, from elsewhere.
        """
        if entry := segment.entry(sequence):
            return entry.offset, entry.offset + entry.length
        before = segment.entry(sequence - 1) if sequence > segment.first else None
        start = segment.data_offset if sequence == segment.first else before.offset + before.length if before else None
        after = segment.entry(sequence + 1) if sequence < segment.last else None
        end = segment.end_offset if sequence == segment.last and segment.end_offset else after.offset if after else None
        if start is not None and end is None:
            end = start + self._length_at(segment, sequence, start, offered)
        if start is None or end is None:
            raise RecordCorrupt(sequence, "its place is unknown until its neighbours are repaired")
        return start, end

    @staticmethod
    def _length_at(segment: Segment, sequence: int, start: int, offered: DecodedRecord | None) -> int:
        """How long a record is that no entry tells of: by its own header, or as the offered one where the record after
        it, proved by its chain, begins just there. Raises RecordCorrupt.
        """
        try:
            own = segment.record_header(start)
            if own.header.position.sequence == sequence:
                return own.length
        except RecordCorrupt:
            if offered is None:
                raise
        if offered is not None:
            after = segment.record_header(start + offered.length)
            follows = after.header.position.sequence == sequence + 1
            if follows and chain_after(offered.chain, after.header) == after.chain:
                return offered.length
        raise RecordCorrupt(sequence, "its place is unknown until its neighbours are repaired")

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

    def _overwrite(self, sequence: int, decoded: DecodedRecord, source: Payload) -> None:
        segment = self._segment_of(sequence)
        header, chain = decoded.header, decoded.chain
        start, end = self._extent(segment, sequence, decoded)
        before = segment.entry(sequence)
        expected = self.point_at(sequence) if before or sequence == self._end.sequence else None
        if expected is None:
            expected = self._proved_by_next(segment, sequence, chain, end)
        if expected != LogPoint(header.position, chain):
            raise RecordCorrupt(sequence, "the bytes offered are of another branch")
        if end - start != source.size:
            self._replace(segment, decoded, source, start, end)
            return
        self._lost.save_damaged(sequence, segment.salvaged(start, end - start))
        self._guarded(lambda: self._put_back(segment, entry_of(decoded, start, segment.first), source))
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
        segment.repairs += 1

    def _proved_by_next(self, segment: Segment, sequence: int, chain: bytes, end: int) -> LogPoint | None:
        """Return the point of a record whose entry is lost, when what follows it, or lies at `end`, says that its chain
        is `chain`.
        """
        position = LogPosition(segment.header.epoch, sequence)
        if sequence == segment.last:
            after = self._segments[self._segments.index(segment) + 1]
            return LogPoint(position, after.header.chain_before)
        entry = segment.entry(sequence + 1)
        following = segment.record_header(entry.offset if entry is not None else end)
        if following.header.position.sequence != sequence + 1:
            raise LogContradiction(f"record {sequence} cannot be proved before {sequence + 1} is readable")
        expected = entry.chain if entry is not None else following.chain
        return LogPoint(position, chain) if chain_after(chain, following.header) == expected else None

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
