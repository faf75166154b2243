"""One segment file of the log: its table, its records, and reading them with proof.

Reading is for any thread; the writing methods belong to the log thread.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from storage.digest import PayloadHasher, digests_of_whole
from storage.disk import Disk, DiskFile
from storage.errors import MediumUnreadable, RecordCorrupt
from storage.position import LogPoint, RecordHeader, chain_after
from storage.record import HEADER_LIMIT, DecodedRecord, decode_header, encode_stub
from storage.table import (
    ENTRIES_OFFSET,
    ENTRY_BYTES,
    MARK_OFFSETS,
    PAGE,
    Entry,
    GroupMark,
    SegmentHeader,
    data_offset,
    decode_entry,
    decode_mark,
)

PIECE: Final = 1024 * 1024
_ZEROS: Final = bytes(PIECE)


@dataclass(frozen=True, slots=True)
class SegmentInfo:
    """name: relative to the data directory. last: None while it holds no record. bytes: of the file, as long as it is
    whole. evicted: only its table is here.
    """

    name: str
    first: int
    last: int | None
    epoch: int
    chain_before: bytes
    sealed: bool
    bytes: int
    evicted: bool = False


def segment_name(first: int) -> str:
    return f"log/{first:012d}.tar"


@dataclass(slots=True)
class Segment:
    """An open segment.

    last: sequence of its last record, `first - 1` while it has none; end_offset: where it ends.
    """

    header: SegmentHeader
    file: DiskFile
    size: int
    last: int
    end_offset: int
    marks: int = field(default=0)
    armed: bool = field(default=False)
    """A group mark is durable in it: without one, everything in it is durable (docs/format.md,
    Group marks).
    """
    evicted: bool = field(default=False)
    """Its records are not here: what is read of them comes from elsewhere."""
    found_end: int = field(default=0)
    """Where its last entry said that it ends when the log was opened; of sealed ones, for `extent` alone."""
    saved: int = field(default=0)
    """Bytes that its stubs take less than the records they are of. Kept while it is the last one (`storage.seams`)."""
    limit: int = field(default=0)
    """How large its file would be with each payload in it."""
    repairs: int = field(default=0)
    """How often something in it was written anew: a copy that was made meanwhile is not one of it any more."""

    @property
    def first(self) -> int:
        return self.header.first

    @property
    def name(self) -> str:
        return segment_name(self.first)

    @property
    def data_offset(self) -> int:
        return data_offset(self.header.segment_bytes)

    @property
    def extent(self) -> int:
        """Bytes of its records, without looking: all behind the table where the end is not known."""
        return (self.end_offset or self.found_end or self.size) - self.data_offset

    def entry(self, sequence: int) -> Entry | None:
        """Read one entry; None when it is damaged, empty or cannot be read."""
        offset = ENTRIES_OFFSET + (sequence - self.first) * ENTRY_BYTES
        try:
            raw = self.file.pread(ENTRY_BYTES, offset)
        except MediumUnreadable:
            return None
        return self._sane(decode_entry(raw, sequence, self.first))

    def entries(self, table: bytes, count: int) -> list[Entry | None]:
        """Decode the first `count` entries of the table's bytes."""
        return [
            self._sane(decode_entry(table[i * ENTRY_BYTES : (i + 1) * ENTRY_BYTES], self.first + i, self.first))
            for i in range(count)
        ]

    def marks_found(self) -> list[GroupMark]:
        found = (decode_mark(self.file.pread(PAGE, offset)) for offset in MARK_OFFSETS)
        return sorted((mark for mark in found if mark is not None), key=lambda mark: mark.number)

    def record_header(self, offset: int) -> DecodedRecord:
        """Decode the header at `offset`. Raises RecordCorrupt; proves nothing but its form."""
        try:
            return decode_header(self.file.pread(min(HEADER_LIMIT, self.size - offset), offset))
        except MediumUnreadable:
            # The last page of what was asked for may be the bad one, and may belong to what comes behind.
            return decode_header(b"".join(self.salvaged(offset, min(HEADER_LIMIT, self.size - offset))))

    def raw(self, offset: int, length: int, most: int = PIECE) -> Iterator[bytes]:
        end = offset + length
        while offset < end:
            piece = self.file.pread(min(most, end - offset), offset)
            if not piece:
                return
            offset += len(piece)
            yield piece

    def salvaged(self, offset: int, length: int) -> Iterator[bytes]:
        """Like `raw`, with zeros for the pages that the disk does not give back."""
        end = offset + length
        while offset < end:
            size = min(PIECE, end - offset)
            try:
                yield self.file.pread(size, offset)
            except MediumUnreadable:
                for at in range(offset, offset + size, PAGE):
                    page = min(PAGE, offset + size - at)
                    try:
                        yield self.file.pread(page, at)
                    except MediumUnreadable:
                        yield bytes(page)
            offset += size

    def verify(
        self, offset: int, sequence: int, previous: LogPoint | None, data: memoryview | None = None
    ) -> DecodedRecord:
        """Check the record at `offset` completely: form, chain after `previous` where known, digest, padding.

        data: all of it, where somebody has read it. Raises RecordCorrupt.
        """
        decoded = self.record_header(offset) if data is None else decode_header(data)
        header = decoded.header
        if header.position.sequence != sequence or offset + decoded.length > self.size:
            raise RecordCorrupt(sequence, "another record lies in its place")
        if previous is not None and chain_after(previous.chain, header) != decoded.chain:
            raise RecordCorrupt(sequence, "its chain does not follow from the record before")
        start, end = decoded.payload_offset, decoded.length
        verify_rest(decoded, self.raw(offset + start, end - start) if data is None else iter((data[start:end],)))
        return decoded

    def first_nonzero(self, offset: int) -> int | None:
        """Return the offset of the first page from `offset` on that is not all zero."""
        while offset < self.size:
            piece = self.file.pread(min(PIECE, self.size - offset), offset)
            if piece != _ZEROS[: len(piece)]:
                for page in range(0, len(piece), PAGE):
                    if piece[page : page + PAGE].strip(b"\0"):
                        return offset + page
            offset += len(piece)
        return None

    def last_nonzero(self, offset: int) -> int:
        """Return the end of the last page from `offset` on that is not all zero; `offset` when
        there is none.
        """
        end = offset
        while (found := self.first_nonzero(end)) is not None:
            end = found + PAGE
        return end

    def zero(self, offset: int, end: int) -> None:
        while offset < end:
            piece = min(PIECE, end - offset)
            self.file.pwrite([memoryview(_ZEROS)[:piece]], offset)
            offset += piece

    def _sane(self, entry: Entry | None) -> Entry | None:
        if entry is None or entry.position.epoch != self.header.epoch or entry.length <= 0:
            return None
        return entry if entry.offset + entry.length <= self.size else None


def verify_payload(header: RecordHeader, pieces: Iterator[bytes | memoryview]) -> None:
    """Check payload and padding, given as the bytes after the record's header. Raises RecordCorrupt."""
    first = memoryview(next(pieces, b""))
    if header.size <= len(first):  # as most of them are
        left, digests = 0, digests_of_whole(header.kind, first[: header.size])
        _check_padding(header, first[header.size :])
    else:
        hasher, left = PayloadHasher(header.kind), header.size - len(first)
        hasher.update(first)
        for piece in pieces:
            inside = min(left, len(piece))
            hasher.update(memoryview(piece)[:inside])
            left -= inside
            _check_padding(header, memoryview(piece)[inside:])
        digests = hasher.finish()
    if left or digests.digest != header.digest or digests.dataset != header.dataset:
        raise RecordCorrupt(header.position.sequence, "its bytes do not match its digest")
    for piece in pieces:
        _check_padding(header, memoryview(piece))


def _check_padding(header: RecordHeader, after: memoryview) -> None:
    if after and bytes(after).strip(b"\0"):
        raise RecordCorrupt(header.position.sequence, "its padding is not zero")


def verify_rest(decoded: DecodedRecord, pieces: Iterator[bytes | memoryview]) -> None:
    """Check what follows a record's header: payload and padding, or what a stub has in their place. Raises
    RecordCorrupt.
    """
    if not decoded.tombstone:
        verify_payload(decoded.header, pieces)
        return
    expected = encode_stub(decoded.header, decoded.chain, decoded.tombstone)[decoded.payload_offset :]
    if b"".join(bytes(piece) for piece in pieces) != expected:
        raise RecordCorrupt(decoded.header.position.sequence, "it is not what a stub must be")


def open_segment(disk: Disk, name: str, header: SegmentHeader, *, direct: bool) -> Segment:
    file = disk.open(name, direct=direct)
    return Segment(header, file, file.size(), header.first - 1, 0)
