"""One segment file of a log that may belong to a running node: read by position, nothing written, nothing locked."""

import errno
import mmap
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


WINDOW: Final = 4 * 1024 * 1024


class SegmentFile:
    """One open file, read by position: a page that the disk cannot read is an error here, not a signal.

    all_of_it: most of the file will be asked for, in order. medium: read past the page cache. What was written
    yesterday is still in memory, and says nothing about the disk; and what a scrub reads must not push out what others
    need.
    """

    def __init__(self, path: Path, *, medium: bool = False, all_of_it: bool = False) -> None:
        self.path = path
        self._ahead = WINDOW if all_of_it else 0
        self._direct = False
        self._window: memoryview | None = None
        self._at = self._filled = 0
        self._descriptor = self._open(medium)
        self.size = os.fstat(self._descriptor).st_size

    def _open(self, medium: bool) -> int:
        if medium:
            self._window = memoryview(mmap.mmap(-1, WINDOW))  # page-aligned: O_DIRECT takes no other
            try:
                found = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECT)
                self._direct = True
                return found
            except OSError as error:
                if error.errno != errno.EINVAL:  # no O_DIRECT on this file system: its pages are dropped instead
                    raise
        return os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)

    def __enter__(self) -> "SegmentFile":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def read(self, offset: int, size: int) -> bytes:
        """Read up to `size` bytes. Raises OSError."""
        parts: list[bytes] = []
        while size > 0 and len(part := bytes(self._some(offset, min(size, PIECE), ahead=self._ahead))):
            parts.append(part)
            offset, size = offset + len(part), size - len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def pieces(self, offset: int, size: int) -> Iterator[bytes | memoryview]:
        """Each piece is valid until the next one is asked for. Raises OSError; RecordCorrupt when the file ends."""
        while size > 0:
            piece = self._some(offset, min(PIECE, size), ahead=WINDOW)
            if not len(piece):
                raise RecordCorrupt(0, "the file ends inside of it")
            yield piece
            offset, size = offset + len(piece), size - len(piece)

    def _some(self, offset: int, size: int, *, ahead: int) -> bytes | memoryview:
        """Return some of the bytes that begin at `offset`, none at the end of the file only."""
        if self._window is None:
            return os.pread(self._descriptor, size, offset)
        if not self._at <= offset < self._at + self._filled:
            self._fill(self._window, offset, max(size, ahead))
        start = offset - self._at
        return self._window[start : min(start + size, self._filled)]

    def _fill(self, window: memoryview, offset: int, size: int) -> None:
        """Read whole pages from the medium, `offset` among them; a small file at once."""
        if self.size <= WINDOW:
            offset, size = 0, self.size
        self._at, self._filled = offset // PAGE * PAGE, 0
        length = min(-(-(offset + size) // PAGE) * PAGE - self._at, WINDOW)
        if not self._direct:
            os.posix_fadvise(self._descriptor, self._at, length, os.POSIX_FADV_DONTNEED)
        while self._filled < length:
            got = os.preadv(self._descriptor, [window[self._filled : length]], self._at + self._filled)
            self._filled += got
            if not got or got % PAGE:
                break
        if not self._direct:
            os.posix_fadvise(self._descriptor, self._at, length, os.POSIX_FADV_DONTNEED)


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
