"""A whole sealed segment from a peer: checked record by record, from this node's own end,
before it is taken over.
"""

from storage.disk import Disk
from storage.errors import FormatError, LogContradiction, RecordCorrupt
from storage.position import LogPoint
from storage.segment import Segment, open_segment
from storage.table import (
    EMPTY_ENTRY,
    ENTRIES_OFFSET,
    ENTRY_BYTES,
    MARK_OFFSETS,
    PAGE,
    capacity,
    decode_segment_header,
    segment_file_bytes,
)


def verified_segment(
    disk: Disk, staged_name: str, cluster_id: str, segment_bytes: int, end: LogPoint
) -> tuple[Segment, LogPoint]:
    """Return the segment, ready to be renamed, and its last point.

    Every entry, record and chain is checked, and that the rest is zero. Raises RecordCorrupt, FormatError, or
    LogContradiction when it does not continue from `end`.
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
    for slot, entry in enumerate(segment.entries(table, used)):
        sequence = header.first + slot
        decoded = segment.verify(offset, sequence, point)
        found = decoded.header
        facts = (found.position, found.kind, offset, decoded.length, found.digest, decoded.chain)
        if entry is None or facts != (
            entry.position,
            entry.kind,
            entry.offset,
            entry.length,
            entry.digest,
            entry.chain,
        ):
            raise RecordCorrupt(sequence, "its entry does not match it")
        if slot == 0 and segment.size != segment_file_bytes(segment_bytes, decoded.length):
            raise FormatError(f"the segment has {segment.size} bytes")
        point, offset = entry.point, offset + entry.length
    if used == 0 or table[used * ENTRY_BYTES :] != EMPTY_ENTRY * (slots - used):
        raise FormatError("the segment holds no records")
    if segment.file.pread(2 * PAGE, MARK_OFFSETS[0]).strip(b"\0") or segment.first_nonzero(offset) is not None:
        raise FormatError("the segment is not sealed")
    segment.last, segment.end_offset = point.sequence, offset
    return segment, point
