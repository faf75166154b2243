"""One segment file of a log that may belong to a running node: read by position, nothing written, nothing locked."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from storage.errors import FormatError, RecordCorrupt
from storage.evicted import Stub, decode_stub
from storage.table import (
    ENTRIES_OFFSET,
    ENTRY_BYTES,
    MARK_OFFSETS,
    PAGE,
    GroupMark,
    SegmentHeader,
    capacity,
    data_offset,
    decode_mark,
    decode_segment_header,
)

PIECE: Final = 1024 * 1024


class SegmentFile:
    """One open file, read by position: a page that the disk cannot read is an error here, not a signal."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.size = os.fstat(self._descriptor).st_size

    def __enter__(self) -> "SegmentFile":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def read(self, offset: int, size: int) -> bytes:
        """Read up to `size` bytes. Raises OSError."""
        parts: list[bytes] = []
        while size > 0 and (part := os.pread(self._descriptor, size, offset)):
            parts.append(part)
            offset, size = offset + len(part), size - len(part)
        return b"".join(parts)

    def pieces(self, offset: int, size: int) -> Iterator[bytes]:
        while size > 0:
            piece = self.read(offset, min(PIECE, size))
            if not piece:
                raise RecordCorrupt(0, "the file ends inside of it")
            yield piece
            offset, size = offset + len(piece), size - len(piece)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Marks and table of one segment, read before its records."""

    header: SegmentHeader | None
    why: str
    marks: tuple[bytes, bytes]
    table: bytes
    stub: Stub | None = None
    """What an evicted segment was; None where the records are here."""

    @property
    def used(self) -> int:
        """Slots up to the last one that is not empty."""
        return -(-len(self.table.rstrip(b"\0")) // ENTRY_BYTES)

    @property
    def armed(self) -> bool:
        return any(page.strip(b"\0") for page in self.marks)

    @property
    def newest(self) -> GroupMark | None:
        found = [mark for mark in map(decode_mark, self.marks) if mark is not None]
        return max(found, key=lambda mark: mark.number, default=None)


def snapshot(file: SegmentFile, segment_bytes: int | None) -> Snapshot:
    marks = (file.read(MARK_OFFSETS[0], PAGE), file.read(MARK_OFFSETS[1], PAGE))
    header: SegmentHeader | None = None
    why = ""
    try:
        header = decode_segment_header(file.read(0, PAGE))
    except FormatError as error:
        why = str(error)
    size = header.segment_bytes if header is not None else segment_bytes
    table = file.read(ENTRIES_OFFSET, capacity(size) * ENTRY_BYTES) if size is not None else b""
    stub = decode_stub(b"".join(marks), data_offset(size)) if size is not None else None
    return Snapshot(header, why, marks, table, stub)
