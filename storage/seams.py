"""Where a segment ends and the next begins, also once payloads were taken away: as if each were there still.

Nodes that were filled before and after a compaction then cut their logs at the same places, and so do the objects of
the tier that hold whole segments: an evicted segment is read from one of exactly that name (ADR 0014).
"""

from storage.errors import RecordCorrupt
from storage.record import record_length
from storage.sealed import stubs_in
from storage.segment import Segment
from storage.table import segment_file_bytes


def measure(segment: Segment, segment_bytes: int) -> None:
    """Find out what stubs save in a segment that may be written to. One that cannot be read saves nothing."""
    segment.saved, first = 0, 0
    for sequence in stubs_in(segment) if segment.last >= segment.first else ():
        entry = segment.entry(sequence)
        try:
            header = segment.record_header(entry.offset).header if entry is not None else None
        except RecordCorrupt:
            continue  # damage is for others to find and to mend
        if entry is not None and header is not None:
            whole = record_length(header.path, header.size)
            segment.saved += whole - entry.length
            first = whole if sequence == segment.first else first
    entry = segment.entry(segment.first) if segment.last >= segment.first else None
    segment.limit = segment_file_bytes(segment_bytes, first or (entry.length if entry is not None else 0))
