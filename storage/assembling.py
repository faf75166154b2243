"""A segment file made of bare records that were proved on their way here, so that a log can take it over as it lies.

What makes it part of a log is its first page, which the log writes: it names what lies before (docs/format.md, Table).
"""

from typing import Final

from msgspec import Struct

from storage.disk import Buffer, Disk, RealDisk
from storage.errors import FormatError
from storage.position import LogPoint, RecordHeader
from storage.record import RECORD_ALIGNMENT, record_length
from storage.table import (
    ENTRIES_OFFSET,
    PAGE,
    Entry,
    SegmentHeader,
    capacity,
    data_offset,
    encode_entry,
    encode_segment_header,
    segment_file_bytes,
)

HEADER_ROOM: Final = PAGE
"""Bytes at the beginning that are left to the log."""


class Assembled(Struct, frozen=True):
    """A file that holds all of a segment but its first page, on stable storage.

    staged: its name. head, chain: of its first record; head_length: bytes of that whole record, its
    payload with it. end: its last record,
    and end_offset, where that ends. stubs: the tombstones that they name. bytes: of all records.
    """

    staged: str
    head: RecordHeader
    chain: bytes
    head_length: int
    end: LogPoint
    end_offset: int
    stubs: dict[int, int]
    records: int
    bytes: int


class Assembly:
    """One such file while its records come in. Whoever makes it proves them, and that each follows the one before.

    Raises FormatError when they are more than a segment of this size takes, StorageFull, SegmentPoisoned.
    """

    def __init__(self, disk: RealDisk, staged: str, segment_bytes: int) -> None:
        self._staged = staged
        self._slots = capacity(segment_bytes)
        self._size = segment_bytes
        self._offset = self._written = data_offset(segment_bytes)
        self._entries: list[bytes] = []
        self._first: tuple[RecordHeader, bytes, int] | None = None
        self._end: LogPoint | None = None
        self._stubs: dict[int, int] = {}
        disk.preallocate(staged, segment_bytes, zeros=False)
        self._file = disk.open(staged)

    def write(self, data: Buffer) -> None:
        """The next bytes, whatever records they belong to."""
        if self._written + len(data) + RECORD_ALIGNMENT > self._size:
            raise FormatError("these records do not fit into one segment")
        self._file.pwrite([data], self._written)
        self._written += len(data)

    def record(self, header: RecordHeader, chain: bytes, length: int, tombstone: int = 0) -> None:
        """The next record, of which all bytes were written."""
        if self._first is None:
            self._first = (header, chain, record_length(header.path, header.size))
        if len(self._entries) == self._slots or segment_file_bytes(self._size, length) != self._size:
            raise FormatError("these records do not fit into one segment")
        place = (self._offset, length, header.digest, chain, self._first[0].position.sequence, tombstone > 0)
        self._entries.append(encode_entry(Entry(header.position, header.kind, *place)))
        if tombstone:
            self._stubs[header.position.sequence] = tombstone
        self._end = LogPoint(header.position, chain)
        self._offset += length

    def finish(self) -> Assembled:
        """Write the table, and sync. Raises FormatError when there is nothing, or bytes that no record claims."""
        if self._first is None or self._end is None or self._offset != self._written:
            raise FormatError("what was written is not what the records say")
        self._file.pwrite([b"".join(self._entries)], ENTRIES_OFFSET)
        self._file.sync()
        start = data_offset(self._size)
        size = self._offset - start
        return Assembled(
            self._staged, *self._first, self._end, self._offset, self._stubs, len(self._entries), size
        )  # fmt: skip

    def close(self) -> None:
        self._file.close()


def headed(disk: Disk, made: Assembled, cluster_id: str, segment_bytes: int, before: LogPoint) -> SegmentHeader:
    """Write the first page of a segment that continues `before`. The caller has judged that it does."""
    position = made.head.position
    header = SegmentHeader(cluster_id, segment_bytes, position.sequence, position.epoch, before.chain)
    file = disk.open(made.staged)
    try:
        file.pwrite([encode_segment_header(header)], 0)
        file.sync()
    finally:
        file.close()
    return header
