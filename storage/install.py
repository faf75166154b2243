"""A whole sealed segment from a peer: checked record by record while it comes in, before it is taken over."""

import sys
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from storage.disk import Disk
from storage.errors import FormatError, LogContradiction, MediumUnreadable, RecordCorrupt
from storage.position import GENESIS, LogPoint, LogPosition
from storage.record import BLOCK, DecodedRecord
from storage.segment import PIECE, Segment, open_segment
from storage.table import (
    EMPTY_ENTRY,
    ENTRIES_OFFSET,
    ENTRY_BYTES,
    MARK_OFFSETS,
    PAGE,
    Entry,
    capacity,
    data_offset,
    decode_segment_header,
    entry_of,
    segment_file_bytes,
)


@dataclass(frozen=True, slots=True)
class ProvedSegment:
    """A staged segment in which every record is what its chain says. end: its last point. stubs: by sequence, the
    tombstones that they name.
    """

    name: str
    segment: Segment
    end: LogPoint
    stubs: Mapping[int, int]

    def check_continues(self, end: LogPoint) -> None:
        """Raises LogContradiction when it is no continuation of a log that ends there."""
        header = self.segment.header
        if (header.first, header.chain_before) != (end.sequence + 1, end.chain) or header.epoch < end.epoch:
            raise LogContradiction(f"a segment from {header.first} on does not continue {end.position}")


class SegmentProof:
    """Checks a staged segment while its file grows: every entry, record and chain, and that the rest is zero.

    size: bytes that the file has in the end. tolerated: records known to be damaged, of which only the entry must be
    right.
    """

    def __init__(
        self,
        disk: Disk,
        staged_name: str,
        size: int,
        cluster_id: str,
        segment_bytes: int,
        tolerated: Collection[int] = (),
    ) -> None:
        self._disk = disk
        self._name = staged_name
        self._size = size
        self._place = cluster_id, segment_bytes
        self._tolerated = tolerated
        self._segment: Segment | None = None
        self._point = GENESIS
        self._stubs: dict[int, int] = {}
        self._arrived = 0
        self._window = memoryview(b"")
        self._window_at = 0
        self._steps = self._prove()
        self._needed = next(self._steps)

    def advance(self, arrived: int) -> None:
        """Check what lies whole in the first `arrived` bytes of the file. Raises RecordCorrupt, FormatError."""
        self._arrived = arrived
        while self._needed <= arrived:
            self._needed = next(self._steps)

    def finish(self) -> ProvedSegment:
        """Check the rest: nothing more will be written. Raises RecordCorrupt, FormatError."""
        self._arrived = self._size
        for _ in self._steps:
            pass
        assert self._segment is not None, "a proof that comes to its end has one"
        return ProvedSegment(self._name, self._segment, self._point, self._stubs)

    def close(self) -> None:
        """Let go of the file."""
        if self._segment is not None:
            self._segment.file.close()

    def _prove(self) -> Iterator[int]:
        """Yields how many bytes must have arrived for the next step, before each."""
        yield PAGE
        file = self._disk.open(self._name)
        try:
            header = decode_segment_header(file.pread(PAGE, 0))
        finally:
            file.close()
        if (header.cluster_id, header.segment_bytes) != self._place:
            raise FormatError("the segment is of another cluster")
        yield data_offset(header.segment_bytes)
        segment = self._segment = open_segment(self._disk, self._name, header, direct=False)
        segment.size = self._size
        slots = capacity(header.segment_bytes)
        table = segment.file.pread(slots * ENTRY_BYTES, ENTRIES_OFFSET)
        used = -(-len(table.rstrip(b"\0")) // ENTRY_BYTES)
        self._point = LogPoint(LogPosition(header.epoch, header.first - 1), header.chain_before)
        offset = segment.data_offset
        for slot, entry in enumerate(segment.entries(table, used)):
            yield offset + (entry.length if entry is not None else 0)
            offset = self._step(segment, header.first + slot, entry, offset)
        yield sys.maxsize
        if segment.file.size() != self._size:
            raise FormatError(f"the segment has {segment.file.size()} bytes instead of {self._size}")
        _check_size(segment, offset)
        if used == 0 or table[used * ENTRY_BYTES :] != EMPTY_ENTRY * (slots - used):
            raise FormatError("the segment holds no records")
        if segment.file.pread(2 * PAGE, MARK_OFFSETS[0]).strip(b"\0") or segment.first_nonzero(offset) is not None:
            raise FormatError("the segment is not sealed")
        segment.last, segment.end_offset = self._point.sequence, offset

    def _step(self, segment: Segment, sequence: int, entry: Entry | None, offset: int) -> int:
        """Check one record and its entry, and return where it ends."""
        if sequence not in self._tolerated:
            decoded = self._verified(segment, offset, sequence, entry.length if entry is not None else 0)
            if decoded.tombstone:
                self._stubs[sequence] = decoded.tombstone
            if entry != entry_of(decoded, offset, segment.first):
                raise RecordCorrupt(sequence, "its entry does not match it")
        if entry is None or entry.offset != offset:
            raise RecordCorrupt(sequence, "its entry is damaged")
        self._point = entry.point
        return offset + entry.length

    def _verified(self, segment: Segment, offset: int, sequence: int, length: int) -> DecodedRecord:
        """Raises RecordCorrupt, also where not even the bytes say which record they are."""
        try:
            return segment.verify(offset, sequence, self._point, self._read(segment, offset, length))
        except RecordCorrupt as error:
            raise RecordCorrupt(sequence, error.reason) from error

    def _read(self, segment: Segment, offset: int, length: int) -> memoryview | None:
        """Return a whole record of `length` bytes; None when it is large, or does not come in one piece."""
        at = offset - self._window_at
        if at + length > len(self._window):
            if not BLOCK < length <= PIECE:
                return None
            try:
                self._window = memoryview(segment.file.pread(min(PIECE, self._arrived - offset), offset))
            except MediumUnreadable:
                return None
            self._window_at, at = offset, 0
        return self._window[at : at + length] if length <= len(self._window) - at else None


def _check_size(segment: Segment, end: int) -> None:
    """A segment is as large as its first record needs, or of the ordinary size; one written anew ends behind its last
    record.
    """
    first = segment.entry(segment.first)
    whole = segment_file_bytes(segment.header.segment_bytes, first.length if first is not None else 0)
    if segment.size not in (whole, end + PAGE):
        raise FormatError(f"the segment has {segment.size} bytes")
