"""The records of a sealed segment as one run of bytes: bare, without the table. Nobody appends to them any more."""

from collections.abc import Iterator
from dataclasses import dataclass

from storage.errors import RecordCorrupt, RecordsElsewhere
from storage.position import EpochSpan
from storage.segment import Segment
from storage.table import ENTRIES_OFFSET, ENTRY_BYTES, stubs_said


@dataclass(frozen=True, slots=True)
class SealedRecords:
    """Where they lie. name: of the file, relative to the data directory; offset and size: in bytes of it."""

    segment: Segment
    span: EpochSpan
    offset: int
    size: int

    @property
    def name(self) -> str:
        return self.segment.name

    def pieces(self) -> Iterator[bytes]:
        """Read them as they are, in pieces of at most 1 MiB; the caller checks them."""
        return self.segment.raw(self.offset, self.size)


def span_of(segment: Segment) -> EpochSpan:
    """A segment holds records of one epoch: an epoch starts a segment."""
    return EpochSpan(segment.header.epoch, segment.first, segment.last)


def sealed_records(segment: Segment, *, evicted: bool = False) -> SealedRecords:
    """Raises RecordCorrupt when the entry of the last record, which says where it ends, is damaged, and
    RecordsElsewhere when the segment is evicted, unless it may be.
    """
    if segment.evicted and not evicted:
        raise RecordsElsewhere(segment.first, "its segment is evicted")
    last = segment.entry(segment.last)
    if last is None:
        raise RecordCorrupt(segment.last, "its entry is damaged")
    offset = segment.data_offset
    return SealedRecords(segment, span_of(segment), offset, last.offset + last.length - offset)


def stubs_in(segment: Segment) -> list[int]:
    """Sequences of the records whose payloads were taken away, as the table says; also of an evicted segment."""
    count = segment.last - segment.first + 1
    return stubs_said(segment.file.pread(count * ENTRY_BYTES, ENTRIES_OFFSET), segment.first)
