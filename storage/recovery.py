"""What a log directory holds after a stop of any kind: decided by the two places of each record
(docs/format.md).

Only the last segment is examined record by record; older ones were synced before the next was begun.
"""

import re
from dataclasses import dataclass, field
from typing import Final

from storage.disk import Disk
from storage.errors import FormatError, LogContradiction, RecordCorrupt
from storage.evicted import Elsewhere, EvictedFile, decode_stub
from storage.lostfound import LostAndFound
from storage.position import GENESIS, LogPoint, LogPosition
from storage.segment import Segment, open_segment
from storage.table import (
    ENTRIES_OFFSET,
    ENTRY_BYTES,
    MARK_OFFSETS,
    OPEN_END,
    PAGE,
    Entry,
    SegmentHeader,
    capacity,
    decode_segment_header,
    encode_entry,
    encode_segment_header,
    entry_of,
)

_NAME: Final = re.compile(r"\d{12}\.tar")


@dataclass(frozen=True, slots=True)
class Tail:
    """Bytes after the log's end that are not settled; nothing is appended until they are.

    torn: the last group after a reboot of the host: ask the other replicas, then `Log.repair` or
    `Log.cut_torn_tail`. Otherwise it is corruption: only `Log.repair` helps. first: the record that should
    lie at `offset`; records: highest sequence with a trace; end_offset: where the traces end.
    """

    torn: bool
    first: int
    last: int
    offset: int
    end_offset: int


@dataclass(frozen=True, slots=True)
class RecoveryReport:
    """What `Log.open` found.

    seconds: how long it took. saved: names in lost+found of a killed process's half writes.
    """

    end: LogPoint
    durable: LogPoint
    damaged: tuple[int, ...]
    repaired_entries: tuple[int, ...]
    torn_tail: Tail | None
    saved: tuple[str, ...]
    clean: bool
    seconds: float
    segments: int


@dataclass(slots=True)
class Recovered:
    """The raw material of an open log."""

    segments: list[Segment]
    end: LogPoint = GENESIS
    damaged: set[int] = field(default_factory=lambda: set[int]())
    repaired: list[int] = field(default_factory=lambda: list[int]())
    saved: list[str] = field(default_factory=lambda: list[str]())
    tail: Tail | None = None
    clean: bool = True
    elsewhere: Elsewhere = field(default_factory=Elsewhere)
    suspected: set[int] = field(default_factory=lambda: set[int]())
    """Records of sealed segments of which no table has anything: to be read before this log counts as sound."""


def recover(
    disk: Disk, cluster_id: str, segment_bytes: int, *, host_rebooted: bool, floor: int, direct: bool
) -> Recovered:
    """Open every segment and settle the last one. Raises FormatError, LogContradiction, SegmentPoisoned."""
    names = [name for name in disk.list("log") if _NAME.fullmatch(name)]
    result = Recovered([])
    for number, name in enumerate(names):
        first = int(name[:12])
        newest = number + 1 == len(names)  # nothing is appended to the others: one descriptor is enough
        segment = _open(disk, f"log/{name}", first, cluster_id, segment_bytes, result, direct=direct and newest)
        if not newest:
            segment.last = int(names[number + 1][:12]) - 1
            if segment.last - first >= capacity(segment_bytes) or segment.last < first:
                raise LogContradiction(f"a segment after {name} is missing")
        result.segments.append(segment)
    if result.segments and result.segments[-1].evicted:
        raise LogContradiction(f"{names[-1]} is evicted, and nothing follows it: the newest segments are missing")
    if result.segments:
        _Last(disk, result, host_rebooted=host_rebooted, floor=floor).settle()
    return result


def _open(
    disk: Disk, name: str, first: int, cluster: str, segment_bytes: int, so_far: Recovered, *, direct: bool
) -> Segment:
    before = so_far.segments[-1] if so_far.segments else None
    if before is None and first != 1:
        raise LogContradiction(f"the log begins with record {first}")
    last_before = before.entry(first - 1) if before else None
    placeholder = SegmentHeader(cluster, segment_bytes, first, 0, bytes(32))
    segment = open_segment(disk, name, placeholder, direct=direct)
    page = segment.file.pread(PAGE, 0)
    try:
        header = decode_segment_header(page)
    except FormatError:
        chain = last_before.chain if last_before else bytes(32) if before is None else None
        header = _rebuilt_header(segment, cluster, segment_bytes, first, chain)
        segment.file.pwrite([encode_segment_header(header)], 0)
        segment.file.sync()
        so_far.repaired.append(first)
    if (header.cluster_id, header.segment_bytes, header.first) != (cluster, segment_bytes, first):
        raise FormatError(f"{name} belongs to another log: {header}")
    if last_before is not None and last_before.chain != header.chain_before:
        raise LogContradiction(f"{name} does not follow from the segment before it")
    segment.header = header
    if before is not None and last_before is not None:
        before.found_end = last_before.offset + last_before.length
    elif before is not None:
        # Damage, or the segment that held them is missing, and the one before it seems to reach up to here.
        so_far.suspected |= _without_trace(before)
    stub = decode_stub(segment.file.pread(2 * PAGE, MARK_OFFSETS[0]), segment.data_offset)
    if stub is not None and stub.first == first:
        segment.file = EvictedFile(segment.file, stub, so_far.elsewhere)
        segment.size, segment.end_offset, segment.evicted = stub.size, stub.end, True
    return segment


def _without_trace(segment: Segment) -> set[int]:
    count = segment.last - segment.first + 1
    used = -(-len(b"".join(segment.salvaged(ENTRIES_OFFSET, count * ENTRY_BYTES)).rstrip(b"\0")) // ENTRY_BYTES)
    return set(range(segment.first + used, segment.last + 1))


def _rebuilt_header(
    segment: Segment, cluster: str, segment_bytes: int, first: int, chain: bytes | None
) -> SegmentHeader:
    """Return the header as the first record proves it. Raises FormatError when it cannot be known."""
    if chain is None:
        raise FormatError(f"{segment.name}: the header and the last entry before it are damaged")
    try:
        point = LogPoint(LogPosition(0, first - 1), chain)
        decoded = segment.verify(segment.data_offset, first, point)
    except RecordCorrupt as error:
        raise FormatError(f"{segment.name}: the header and the first record are damaged") from error
    return SegmentHeader(cluster, segment_bytes, first, decoded.header.position.epoch, chain)


class _Last:
    """The walk through the last segment."""

    def __init__(self, disk: Disk, result: Recovered, *, host_rebooted: bool, floor: int) -> None:
        self.disk = disk
        self.result = result
        self.segment = result.segments[-1]
        self.rebooted = host_rebooted
        self.floor = floor
        self.changed = False

    def settle(self) -> None:
        segment = self.segment
        marks = segment.marks_found()
        self.result.clean = not marks
        if marks:
            # What a killed process left in the page cache goes to the medium; what a failed fsync left there
            # as "clean" is dropped, so that the checks below read the medium.
            segment.file.sync()
            segment.file.drop_cache()
            segment.marks = marks[-1].number
        slots = capacity(segment.header.segment_bytes)
        table = segment.file.pread(slots * ENTRY_BYTES, ENTRIES_OFFSET)
        self.used = len(table.rstrip(b"\0")) + ENTRY_BYTES - 1
        self.used //= ENTRY_BYTES  # slots up to the last that is not empty
        self.entries = segment.entries(table, self.used)
        self.table = table
        self.settled: LogPoint | None = None
        self.settled_offset = 0
        if marks:
            mark = marks[-1]
            closed = mark.end != OPEN_END
            later = closed and (
                segment.first + self.used - 1 > mark.end.sequence or segment.first_nonzero(mark.end_offset) is not None
            )
            # A later group was begun only after this one was durable.
            self.settled = mark.end if later else mark.start
            self.settled_offset = mark.end_offset if later else mark.start_offset
        self._walk()
        if self.changed or marks:
            segment.file.sync()

    def _walk(self) -> None:
        segment, sequence = self.segment, self.segment.first
        offset: int | None = segment.data_offset
        point: LogPoint | None = self._before()
        known = point
        while True:
            entry = self._entry(sequence)
            durable = self.settled is None or sequence <= self.settled.sequence
            if durable and entry is not None and offset in (None, entry.offset):
                # Synced before the last group began: its entry is believed until a read proves otherwise.
                offset, point = entry.offset + entry.length, entry.point
            elif (found := self._verified(offset, sequence, point)) is not None:
                if found != entry:
                    self._write_entry(found)
                offset, point = found.offset + found.length, found.point
            elif not self._past_damage(sequence, offset, entry, durable=durable):
                break
            elif entry is not None:
                offset, point = entry.offset + entry.length, entry.point
            elif self.settled is not None and sequence == self.settled.sequence:
                offset, point = self.settled_offset, self.settled
            else:
                offset, point = None, None
            segment.last = sequence
            if offset is not None:
                segment.end_offset = offset
            if point is not None:
                known = point
            sequence += 1
        if segment.last < segment.first:
            segment.end_offset = segment.data_offset
        assert known is not None
        self.result.end = known

    def _past_damage(self, sequence: int, offset: int | None, entry: Entry | None, *, durable: bool) -> bool:
        """Judge a record that is bad, or not there.

        True: marked as damaged, go on; False: the log ends before it.
        """
        segment = self.segment
        last_trace = segment.first + self.used - 1
        promised = self.settled is not None and sequence <= self.settled.sequence
        usable = entry is not None or promised or any(self.entries[sequence - segment.first + 1 :])
        if durable or not self.rebooted or sequence <= self.floor:
            if usable:
                self.result.damaged.add(sequence)
                return True
            if offset is None or (sequence > last_trace and self.result.clean):
                return False
            end = segment.last_nonzero(offset)
            if sequence <= last_trace:
                self.result.tail = Tail(False, sequence, last_trace, offset, end)
            elif end > offset:
                # No entry: the process was killed inside the write, so the group was never synced
                # nor confirmed.
                pieces = segment.raw(offset, end - offset)
                self.result.saved.append(LostAndFound(self.disk).save_damaged(sequence, pieces))
                segment.zero(offset, end)
                self.changed = True
            return False
        assert offset is not None
        end = segment.last_nonzero(offset)
        if end > offset or sequence <= last_trace:
            self.result.tail = Tail(True, sequence, max(last_trace, sequence), offset, end)
        return False

    def _before(self) -> LogPoint:
        """Return the point before the segment; its epoch is that of the segment before."""
        first = self.segment.first
        if first == 1:
            return GENESIS
        epoch = self.result.segments[-2].header.epoch
        return LogPoint(LogPosition(epoch, first - 1), self.segment.header.chain_before)

    def _entry(self, sequence: int) -> Entry | None:
        slot = sequence - self.segment.first
        return self.entries[slot] if slot < self.used else None

    def _verified(self, offset: int | None, sequence: int, previous: LogPoint | None) -> Entry | None:
        segment = self.segment
        if offset is None or previous is None or offset >= segment.size:
            return None
        if sequence - segment.first >= capacity(segment.header.segment_bytes):
            return None
        try:
            decoded = segment.verify(offset, sequence, previous)
        except RecordCorrupt:
            return None
        if decoded.header.position.epoch != segment.header.epoch:
            return None
        return entry_of(decoded, offset, segment.first)

    def _write_entry(self, entry: Entry) -> None:
        sequence = entry.position.sequence
        slot = sequence - self.segment.first
        self.segment.file.pwrite([encode_entry(entry)], ENTRIES_OFFSET + slot * ENTRY_BYTES)
        self.result.repaired.append(sequence)
        self.changed = True
