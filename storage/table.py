"""The first member of a segment: header, group marks and one checksummed entry per record
(docs/format.md, Table).

Pure encoding and arithmetic; reading and writing it is the segment's business.
"""

import struct
from dataclasses import dataclass
from typing import Final

from blake3 import blake3
from msgspec import Struct

from storage.errors import FormatError
from storage.position import KIND_CODE, LogPoint, LogPosition, RecordKind
from storage.record import RECORD_ALIGNMENT, DecodedRecord, ustar_header

FORMAT_VERSION: Final = 1
PAGE: Final = 4096
HEADER_OFFSET: Final = 512
MARK_OFFSETS: Final = (PAGE, 2 * PAGE)
ENTRIES_OFFSET: Final = 3 * PAGE
ENTRY_BYTES: Final = 128
EMPTY_ENTRY: Final = bytes(ENTRY_BYTES)
_ENTRIES_PER_PAGE: Final = PAGE // ENTRY_BYTES
_MAGIC: Final = b"perenne-segment\n"
_MARK_MAGIC: Final = b"perenne-group-1\n"
_HEADER: Final = struct.Struct(">16sIIQQQ32s64s")
_ENTRY: Final = struct.Struct(">QQQQBB6x32s32s")
_STUB_AT: Final = 33
"""Where an entry says whether it is a stub: behind four numbers and the kind."""
_MARK: Final = struct.Struct(">16sQQQQ32sQQQ32s")
_KIND_OF: Final = {code: kind for kind, code in KIND_CODE.items()}


@dataclass(frozen=True, slots=True)
class SegmentHeader:
    """What a segment says of itself; equal on every node."""

    cluster_id: str
    segment_bytes: int
    first: int
    epoch: int
    chain_before: bytes


class Entry(Struct, frozen=True):
    """The table's facts of one record.

    offset and length in bytes of the segment file; segment: its first sequence. stub: its payload was taken away.
    """

    position: LogPosition
    kind: RecordKind
    offset: int
    length: int
    digest: bytes
    chain: bytes
    segment: int
    stub: bool = False

    @property
    def point(self) -> LogPoint:
        return LogPoint(self.position, self.chain)


class GroupMark(Struct, frozen=True):
    """One group commit, announced in the same fdatasync as its records.

    Everything up to `start` was durable before the group's first byte was written. Offsets are
    where data ends.
    """

    number: int
    start: LogPoint
    start_offset: int
    end: LogPoint
    end_offset: int


OPEN_END: Final = LogPoint(LogPosition(0, 2**64 - 1), bytes(32))
"""The end of a group mark written before the group was complete: nothing after it proves
the group durable.
"""


def capacity(segment_bytes: int) -> int:
    """Return how many records a segment's table holds: one per 16 KiB, in whole pages, at least one page."""
    return max(_ENTRIES_PER_PAGE, segment_bytes // 16384 // _ENTRIES_PER_PAGE * _ENTRIES_PER_PAGE)


def data_offset(segment_bytes: int) -> int:
    """Return where the first record begins."""
    return ENTRIES_OFFSET + capacity(segment_bytes) * ENTRY_BYTES


def segment_file_bytes(segment_bytes: int, first_record: int) -> int:
    """Return the size of a segment that begins with a record of this length: larger only where it must be."""
    return max(segment_bytes, data_offset(segment_bytes) + first_record + RECORD_ALIGNMENT)


def encode_segment_header(header: SegmentHeader) -> bytes:
    """Return the first page: the tar header of `segment.table` and the segment's header."""
    size = data_offset(header.segment_bytes) - 512
    body = _HEADER.pack(
        _MAGIC,
        FORMAT_VERSION,
        capacity(header.segment_bytes),
        header.segment_bytes,
        header.first,
        header.epoch,
        header.chain_before,
        header.cluster_id.encode().ljust(64, b"\0"),
    )
    page = ustar_header(b"segment.table", b"", size, 0, b"0") + body + blake3(body).digest()
    return page.ljust(PAGE, b"\0")


def decode_segment_header(page: bytes) -> SegmentHeader:
    """Raises FormatError when the page is damaged or of another format version."""
    body = page[HEADER_OFFSET : HEADER_OFFSET + _HEADER.size]
    if len(page) != PAGE or blake3(body).digest() != page[HEADER_OFFSET + _HEADER.size :][:32]:
        raise FormatError("the segment header is damaged")
    magic, version, _, segment_bytes, first, epoch, chain, cluster = _HEADER.unpack(body)
    if magic != _MAGIC or version != FORMAT_VERSION:
        raise FormatError(f"segment format {version} is not known to this version")
    header = SegmentHeader(cluster.rstrip(b"\0").decode(), segment_bytes, first, epoch, chain)
    if encode_segment_header(header) != page:
        raise FormatError("the segment header is not canonical")
    return header


def encode_entry(entry: Entry) -> bytes:
    body = _ENTRY.pack(
        entry.position.sequence,
        entry.position.epoch,
        entry.offset,
        entry.length,
        KIND_CODE[entry.kind],
        entry.stub,
        entry.digest,
        entry.chain,
    )
    return body + blake3(body).digest(length=ENTRY_BYTES - _ENTRY.size)


def decode_entry(raw: bytes, sequence: int, segment: int) -> Entry | None:
    """Return the entry, or None when it is damaged, empty, or of another sequence (a misdirected write)."""
    body = raw[: _ENTRY.size]
    if len(raw) != ENTRY_BYTES or raw == EMPTY_ENTRY:
        return None
    if blake3(body).digest(length=ENTRY_BYTES - _ENTRY.size) != raw[_ENTRY.size :]:
        return None
    number, epoch, offset, length, kind, stub, digest, chain = _ENTRY.unpack(body)
    if number != sequence or kind not in _KIND_OF or stub > 1:
        return None
    return Entry(LogPosition(epoch, number), _KIND_OF[kind], offset, length, digest, chain, segment, bool(stub))


def stubs_said(table: bytes, first: int) -> list[int]:
    """Sequences of the stubs among the entries from that of record `first` on; a damaged entry says nothing."""
    found: list[int] = []
    for at in (at for at, flag in enumerate(table[_STUB_AT::ENTRY_BYTES]) if flag):
        entry = decode_entry(table[at * ENTRY_BYTES : (at + 1) * ENTRY_BYTES], first + at, first)
        if entry is not None and entry.stub:
            found.append(first + at)
    return found


def entry_of(decoded: DecodedRecord, offset: int, segment: int) -> Entry:
    """The entry that a record must have, which lies at `offset` of its segment."""
    header = decoded.header
    facts = (header.position, header.kind, offset, decoded.length, header.digest, decoded.chain)
    return Entry(*facts, segment, decoded.tombstone > 0)


def encode_mark(mark: GroupMark) -> bytes:
    """Return the whole page of a group mark."""
    body = _MARK.pack(
        _MARK_MAGIC,
        mark.number,
        mark.start.sequence,
        mark.start.epoch,
        mark.start_offset,
        mark.start.chain,
        mark.end.sequence,
        mark.end.epoch,
        mark.end_offset,
        mark.end.chain,
    )
    return (body + blake3(body).digest()).ljust(PAGE, b"\0")


def decode_mark(page: bytes) -> GroupMark | None:
    """Return the mark, or None when the page is empty or damaged."""
    body = page[: _MARK.size]
    if blake3(body).digest() != page[_MARK.size :][:32]:
        return None
    magic, number, s_seq, s_epoch, s_offset, s_chain, e_seq, e_epoch, e_offset, e_chain = _MARK.unpack(body)
    if magic != _MARK_MAGIC:
        return None
    start = LogPoint(LogPosition(s_epoch, s_seq), s_chain)
    return GroupMark(number, start, s_offset, LogPoint(LogPosition(e_epoch, e_seq), e_chain), e_offset)
