"""The log of one node: append, group commit, truncation, repair, and whole segments from a peer.

`append`, `sync`, `truncate_after`, `repair`, `install_segment`, `cut_torn_tail` and `close` belong to one
thread (`storage.writer`); everything of `LogReader` may be called from any thread at any time.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from storage.disk import Buffer, Disk
from storage.errors import FormatError, LogContradiction, RecordCorrupt, SegmentPoisoned, StorageError
from storage.install import verified_segment
from storage.lostfound import LostAndFound
from storage.position import LogPoint, RecordHeader, chain_after
from storage.reader import BytesPayload, LogReader, Payload, Pending
from storage.record import RECORD_ALIGNMENT, decode_header, encode_header, trailing_padding
from storage.recovery import Recovered, RecoveryReport, Tail, recover
from storage.segment import Segment, open_segment, segment_name, verify_payload
from storage.spare import Spares
from storage.table import (
    ENTRIES_OFFSET,
    ENTRY_BYTES,
    MARK_OFFSETS,
    OPEN_END,
    PAGE,
    Entry,
    GroupMark,
    SegmentHeader,
    capacity,
    data_offset,
    encode_entry,
    encode_mark,
    encode_segment_header,
    segment_file_bytes,
)

DEFAULT_SEGMENT_BYTES: Final = 256 * 1024 * 1024
_FLUSH_BYTES: Final = 8 * 1024 * 1024
_BATCH_BYTES: Final = 4 * 1024 * 1024
_LOCK: Final = "lock"


@dataclass(frozen=True, slots=True)
class LogIdentity:
    """Fixed when the cluster was created; the same on every node."""

    cluster_id: str
    segment_bytes: int = DEFAULT_SEGMENT_BYTES

    def __post_init__(self) -> None:
        if (
            self.segment_bytes % RECORD_ALIGNMENT
            or self.segment_bytes < data_offset(self.segment_bytes) + 8192
        ):
            raise FormatError(f"segment_bytes: {self.segment_bytes} is too small or no multiple of 4096")
        if len(self.cluster_id.encode()) > 64:
            raise FormatError("the cluster id is longer than 64 bytes")


class Log(LogReader):
    """An open log. One per data directory: a second process is refused."""

    def __init__(
        self, disk: Disk, identity: LogIdentity, found: Recovered, spares: int, direct: bool
    ) -> None:
        super().__init__(tuple(found.segments), found.end, found.damaged)
        self._disk = disk
        self._identity = identity
        self._direct = direct
        self._tail = found.tail
        self._failure: str | None = None
        self._table = bytearray()
        self._group: list[Pending] = []
        self._group_bytes = 0
        self._durable_offset = found.segments[-1].end_offset if found.segments else 0
        self._lost = LostAndFound(disk)
        self._spares = Spares(disk, identity.segment_bytes, spares)

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
        log = cls(disk, identity, found, spares, direct)
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

    @property
    def intact(self) -> bool:
        """False while a record is known to be damaged or the tail is not settled: such a node may not lead."""
        return self._tail is None and not self._damaged and self._failure is None

    @property
    def tail(self) -> Tail | None:
        """What lies unsettled after the end, if anything."""
        return self._tail

    @property
    def spare_segments(self) -> int:
        """Zeroed segments ready. Leave the in-sync set before it stays at 0 (protocol, disk rules)."""
        return self._spares.ready

    def append(self, header: RecordHeader, chain: bytes, payload: Payload) -> None:
        """Add the next record to the group. `payload` must stay valid until `sync` has returned.

        Raises LogContradiction when it does not fit; StorageFull, with nothing visible; SegmentPoisoned.
        """
        self._refuse_if_unfit()
        end = self._end
        position = header.position
        if position.sequence != end.sequence + 1 or position.epoch < end.epoch:
            raise LogContradiction(f"record {position} cannot follow {end.position}")
        if chain_after(end.chain, header) != chain or payload.size != header.size:
            raise LogContradiction(f"record {position}: chain or size does not fit")
        head = encode_header(header, chain)
        length = len(head) + header.size + trailing_padding(header.size)
        segment = self._segment_for(position.epoch, length)
        entry = Entry(position, header.kind, segment.end_offset, length, header.digest, chain, segment.first)
        pending = Pending(entry, header, head, payload)
        with self._lock:
            segment.last = position.sequence
            segment.end_offset += length
            self._pending[position.sequence] = pending
            self._end = entry.point
        self._group.append(pending)
        self._group_bytes += length
        if self._group_bytes >= _FLUSH_BYTES:
            self._guarded(lambda: self._flush(whole=False))

    def sync(self) -> LogPoint:
        """Write what is pending and make it durable; return the new durable point. Raises SegmentPoisoned."""
        self._refuse_if_poisoned()
        if self._durable != self._end:
            self._guarded(self._sync)
        return self._durable

    def truncate_after(self, sequence: int) -> list[str]:
        """Cut every record after `sequence`, each saved to lost+found first; return the names there.

        Whether that is allowed (agreement, commit point) is the caller's to know. A damaged record is saved as
        the bytes that lie there.
        """
        self.sync()
        if not 0 <= sequence <= self._end.sequence:
            raise LogContradiction(f"cannot cut after {sequence}, the log ends at {self._end.sequence}")
        point = self.point_at(sequence)
        if point is None:
            raise LogContradiction(f"cannot cut after {sequence}: it is damaged")
        if self._tail is not None:
            self._cut_tail(self._tail)
        names = [self._save(number) for number in range(sequence + 1, self._end.sequence + 1)]
        self._guarded(lambda: self._cut(sequence, point))
        return names

    def cut_torn_tail(self) -> list[str]:
        """Save and cut the torn tail, after the other replicas were asked. Raises LogContradiction for corruption."""
        self._refuse_if_poisoned()
        if self._tail is None:
            return []
        if not self._tail.torn:
            raise LogContradiction("the tail is corrupt, not torn: repair it from another replica")
        return self._cut_tail(self._tail)

    def repair(self, sequence: int, raw: bytes | Payload) -> None:
        """Put another replica's bytes of a whole record in place of damaged ones, once chain and digest prove them.

        The first record of an unsettled tail may be repaired too: it becomes the new end.
        Raises RecordCorrupt when the bytes offered are wrong, LogContradiction when they cannot be proved here.
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
        verify_payload(header, (bytes(part) for part in _after(source, decoded.payload_offset)))
        if self._tail is not None and sequence == self._tail.first:
            self._cut_tail(self._tail)
            self.append(header, decoded.chain, _Inner(source, decoded.payload_offset, header.size))
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
            self._disk, staged_name, self._identity.cluster_id, self._identity.segment_bytes, self._end
        )
        self._guarded(lambda: self._take_over(staged_name, segment, end))
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

    # Writing ------------------------------------------------------------------------------------------------

    def _sync(self) -> None:
        self._flush(whole=True)
        segment = self._segments[-1]
        segment.file.sync()
        segment.marks += 1
        self._durable = self._end
        self._durable_offset = segment.end_offset

    def _flush(self, *, whole: bool) -> None:
        """Write mark, records and entries, in this order: a process killed in between leaves no entry without record.

        whole: the group ends here; otherwise its mark leaves the end open.
        """
        segment = self._segments[-1]
        end, end_offset = (self._end, segment.end_offset) if whole else (OPEN_END, 0)
        self._write_mark(segment, end, end_offset)
        if self._group:
            self._write_records(segment)
            first, last = self._group[0].entry, self._group[-1].entry
            for pending in self._group:
                at = (pending.entry.position.sequence - segment.first) * ENTRY_BYTES
                self._table[at : at + ENTRY_BYTES] = encode_entry(pending.entry)
            low = (first.position.sequence - segment.first) * ENTRY_BYTES // PAGE * PAGE
            high = -(-(last.position.sequence - segment.first + 1) * ENTRY_BYTES // PAGE) * PAGE
            segment.file.pwrite([memoryview(self._table)[low:high]], ENTRIES_OFFSET + low)
        with self._lock:
            self._pending.clear()
        self._group = []
        self._group_bytes = 0

    def _write_mark(self, segment: Segment, end: LogPoint, end_offset: int) -> None:
        # Both writes of one group go to one page: the other page still holds the group before.
        number = segment.marks + 1
        mark = GroupMark(number, self._durable, self._durable_offset, end, end_offset)
        segment.file.pwrite([encode_mark(mark)], MARK_OFFSETS[number % 2])

    def _write_records(self, segment: Segment) -> None:
        offset = self._group[0].entry.offset
        batch: list[Buffer] = []
        size = 0
        for piece in _pieces(self._group):
            batch.append(piece)
            size += len(piece)
            if size >= _BATCH_BYTES:
                # Whole pages only, so that O_DIRECT can take them; the rest begins the next batch.
                rest = size % PAGE
                view = memoryview(batch[-1])
                if rest >= len(view):
                    continue
                batch[-1] = view[: len(view) - rest]
                segment.file.pwrite(batch, offset)
                offset += size - rest
                batch = []
                if rest:
                    batch.append(view[len(view) - rest :])
                size = rest
        if batch:
            segment.file.pwrite(batch, offset)

    def _segment_for(self, epoch: int, length: int) -> Segment:
        """Return the segment of the next record: a pure function of sizes and epochs."""
        if self._segments:
            segment = self._segments[-1]
            room = segment.end_offset + length + RECORD_ALIGNMENT <= segment.size
            slots = segment.last - segment.first + 1 < capacity(self._identity.segment_bytes)
            if segment.header.epoch == epoch and room and slots:
                self._arm(segment)
                return segment
        size = segment_file_bytes(self._identity.segment_bytes, length)
        temporary = f"log/next-{self._end.sequence + 1}"
        self._spares.take(temporary, size)
        self._guarded(lambda: self._roll(temporary, epoch))
        return self._segments[-1]

    def _roll(self, temporary: str, epoch: int) -> None:
        """Seal the last segment and begin the next in the file `temporary`."""
        self._retire_last()
        first = self._end.sequence + 1
        identity = self._identity
        header = SegmentHeader(identity.cluster_id, identity.segment_bytes, first, epoch, self._end.chain)
        segment = open_segment(self._disk, temporary, header, direct=self._direct)
        segment.end_offset = segment.data_offset
        self._durable_offset = segment.end_offset
        segment.file.pwrite([encode_segment_header(header)], 0)
        self._write_mark(segment, self._durable, self._durable_offset)
        segment.file.sync()
        segment.marks += 1
        segment.armed = True
        self._disk.rename(temporary, segment_name(first))
        self._table = bytearray(capacity(identity.segment_bytes) * ENTRY_BYTES)
        with self._lock:
            self._segments = (*self._segments, segment)

    def _retire_last(self) -> None:
        if not self._segments:
            return
        segment = self._segments[-1]
        if self._durable != self._end:
            self._sync()
        if segment.last >= segment.first:
            self._disarm(segment)
            return
        with self._lock:
            self._segments = self._segments[:-1]
        self._disk.remove(segment.name)

    def _arm(self, segment: Segment) -> None:
        """Make sure that a mark is durable before the first group after an open, a cut or an install."""
        if not segment.armed:
            self._guarded(lambda: self._rearm(segment))

    def _rearm(self, segment: Segment) -> None:
        self._durable_offset = segment.end_offset
        self._write_mark(segment, self._durable, self._durable_offset)
        segment.file.sync()
        segment.marks += 1
        segment.armed = True
        self._table = bytearray(
            segment.file.pread(capacity(self._identity.segment_bytes) * ENTRY_BYTES, ENTRIES_OFFSET)
        )

    def _disarm(self, segment: Segment) -> None:
        segment.file.pwrite([bytes(2 * PAGE)], MARK_OFFSETS[0])
        segment.file.sync()
        segment.armed = False

    # Cutting and repairing ------------------------------------------------------------------------------------

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
            self._damaged = {number for number in self._damaged if number <= sequence}
            if keep:
                keep[-1].last, keep[-1].end_offset = sequence, end_offset
        for segment in reversed(gone):  # the newest first: what is left is always a log
            self._disk.remove(segment.name)
        if keep:
            self._erase(keep[-1], old_end)

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
        """Write zeros again after the segment's last record. Entries go first: none is left without its record."""
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
        start = (
            segment.data_offset
            if sequence == segment.first
            else before.offset + before.length
            if before
            else None
        )
        after = segment.entry(sequence + 1) if sequence < segment.last else None
        end = (
            segment.end_offset
            if sequence == segment.last and segment.end_offset
            else after.offset
            if after
            else None
        )
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
        return self._lost.save_damaged(sequence, segment.raw(start, end - start))

    def _overwrite(self, sequence: int, header: RecordHeader, chain: bytes, source: Payload) -> None:
        segment = self._segment_of(sequence)
        start, end = self._extent(segment, sequence)
        expected = (
            self.point_at(sequence) if segment.entry(sequence) or sequence == self._end.sequence else None
        )
        if expected is None:
            expected = self._proved_by_next(segment, sequence, chain)
        if expected != LogPoint(header.position, chain) or end - start != source.size:
            raise RecordCorrupt(sequence, "the bytes offered are of another branch")
        self._lost.save_damaged(sequence, segment.raw(start, end - start))
        entry = Entry(header.position, header.kind, start, source.size, header.digest, chain, segment.first)
        self._guarded(lambda: self._put_back(segment, entry, source))
        with self._lock:
            self._damaged.discard(sequence)

    def _put_back(self, segment: Segment, entry: Entry, source: Payload) -> None:
        offset = entry.offset
        for part in source.parts():
            segment.file.pwrite([part], offset)
            offset += len(part)
        slot = (entry.position.sequence - segment.first) * ENTRY_BYTES
        segment.file.pwrite([encode_entry(entry)], ENTRIES_OFFSET + slot)
        if segment is self._segments[-1] and segment.armed:
            self._table[slot : slot + ENTRY_BYTES] = encode_entry(entry)
        segment.file.sync()

    def _proved_by_next(self, segment: Segment, sequence: int, chain: bytes) -> LogPoint | None:
        """Return the point of a record whose entry is lost, when what follows it says that its chain is `chain`."""
        position = type(self._end.position)(segment.header.epoch, sequence)
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

    def _segment_of(self, sequence: int) -> Segment:
        found = self._find(sequence)
        assert isinstance(found, Segment), f"record {sequence} is not in a segment"
        return found

    # Refusals -------------------------------------------------------------------------------------------------

    def _guarded(self, work: Callable[[], None]) -> None:
        """Do what touches the disk. After any failure this log writes nothing more."""
        try:
            work()
        except (StorageError, OSError) as error:
            self._failure = str(error)
            raise SegmentPoisoned(f"the log stopped writing: {error}") from error

    def _refuse_if_poisoned(self) -> None:
        if self._failure is not None:
            raise SegmentPoisoned(f"the log stopped writing: {self._failure}")

    def _refuse_if_unfit(self) -> None:
        self._refuse_if_poisoned()
        if self._tail is not None:
            raise LogContradiction("the tail is not settled")


@dataclass(frozen=True, slots=True)
class _Inner:
    """The payload inside the raw bytes of a whole record."""

    source: Payload
    offset: int
    size: int

    def parts(self) -> Iterator[memoryview]:
        left = self.size
        for part in _after(self.source, self.offset):
            yield part[:left]
            left -= min(left, len(part))
            if not left:
                return


def _after(source: Payload, offset: int) -> Iterator[memoryview]:
    """Yield the bytes of `source` from `offset` on."""
    for part in source.parts():
        skipped = min(offset, len(part))
        offset -= skipped
        if skipped < len(part):
            yield part[skipped:]


def _pieces(group: Sequence[Pending]) -> Iterator[Buffer]:
    for pending in group:
        yield pending.head
        yield from pending.payload.parts()
        if padding := trailing_padding(pending.header.size):
            yield bytes(padding)
