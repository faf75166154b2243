"""A whole sealed segment from a peer: checked record by record, from this node's own end,
before it is taken over.
"""

from collections.abc import Collection, Mapping

from storage.disk import Disk
from storage.errors import FormatError, LogContradiction, RecordCorrupt
from storage.position import LogPoint
from storage.record import DecodedRecord
from storage.segment import Segment, open_segment
from storage.table import (
    EMPTY_ENTRY,
    ENTRIES_OFFSET,
    ENTRY_BYTES,
    MARK_OFFSETS,
    PAGE,
    capacity,
    decode_segment_header,
    entry_of,
    segment_file_bytes,
)


def verified_segment(
    disk: Disk, staged_name: str, cluster_id: str, segment_bytes: int, end: LogPoint, tolerated: Collection[int] = ()
) -> tuple[Segment, LogPoint, Mapping[int, int]]:
    """Return the segment, ready to be renamed, its last point, and its stubs with the tombstones that they name.

    Every entry, record and chain is checked, and that the rest is zero. tolerated: records known to be damaged, of
    which only the entry must be right. Raises RecordCorrupt, FormatError, or LogContradiction when it does not
    continue from `end`.
    """
    file = disk.open(staged_name)
    try:
        header = decode_segment_header(file.pread(PAGE, 0))
    finally:
        file.close()
    if (header.cluster_id, header.segment_bytes) != (cluster_id, segment_bytes):
        raise FormatError("the segment is of another cluster")
    if (header.first, header.chain_before) != (end.sequence + 1, end.chain) or header.epoch < end.epoch:
        raise LogContradiction(f"a segment from {header.first} on does not continue {end.position}")
    segment = open_segment(disk, staged_name, header, direct=False)
    point, offset = end, segment.data_offset
    slots = capacity(segment_bytes)
    table = segment.file.pread(slots * ENTRY_BYTES, ENTRIES_OFFSET)
    used = -(-len(table.rstrip(b"\0")) // ENTRY_BYTES)
    stubs: dict[int, int] = {}
    for slot, entry in enumerate(segment.entries(table, used)):
        sequence = header.first + slot
        if sequence not in tolerated:
            decoded = _verified(segment, offset, sequence, point)
            if decoded.tombstone:
                stubs[sequence] = decoded.tombstone
            if entry != entry_of(decoded, offset, header.first):
                raise RecordCorrupt(sequence, "its entry does not match it")
        if entry is None or entry.offset != offset:
            raise RecordCorrupt(sequence, "its entry is damaged")
        point, offset = entry.point, offset + entry.length
    _check_size(segment, offset)
    if used == 0 or table[used * ENTRY_BYTES :] != EMPTY_ENTRY * (slots - used):
        raise FormatError("the segment holds no records")
    if segment.file.pread(2 * PAGE, MARK_OFFSETS[0]).strip(b"\0") or segment.first_nonzero(offset) is not None:
        raise FormatError("the segment is not sealed")
    segment.last, segment.end_offset = point.sequence, offset
    return segment, point, stubs


def _verified(segment: Segment, offset: int, sequence: int, point: LogPoint) -> DecodedRecord:
    """Raises RecordCorrupt, also where not even the bytes say which record they are."""
    try:
        return segment.verify(offset, sequence, point)
    except RecordCorrupt as error:
        raise RecordCorrupt(sequence, error.reason) from error


def _check_size(segment: Segment, end: int) -> None:
    """A segment is as large as its first record needs, or of the ordinary size; one written anew ends behind its last
    record.
    """
    first = segment.entry(segment.first)
    whole = segment_file_bytes(segment.header.segment_bytes, first.length if first is not None else 0)
    if segment.size not in (whole, end + PAGE):
        raise FormatError(f"the segment has {segment.size} bytes")
