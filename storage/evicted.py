"""Evicted segments: table and chain digests stay here, the records lie elsewhere and come back in ranges.

The file of an evicted segment ends behind its table (docs/format.md, Evicted). Whoever reads a record of it reads as
ever, and checks as ever: only where the bytes come from is another.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from blake3 import blake3

from storage.disk import Buffer, DiskFile
from storage.errors import RecordsElsewhere
from storage.position import LogPoint, LogPosition
from storage.table import ENTRIES_OFFSET, ENTRY_BYTES, MARK_OFFSETS, PAGE, stubs_said

_MAGIC: Final = b"perenne-evicted\n"
_STUB: Final = struct.Struct(">16sQQQQQ32s")


@dataclass(frozen=True, slots=True)
class Stub:
    """What an evicted segment was. size: of its file; offset, end: where its records began and ended in it."""

    first: int
    last: LogPoint
    size: int
    offset: int
    end: int


class Source(Protocol):
    """Where the records of evicted segments lie."""

    def read(self, stub: Stub, stubs: Sequence[int], offset: int, size: int) -> bytes:
        """Return `size` bytes from byte `offset` of its records on; they are not checked. Blocks. stubs: sequences of
        the records in it whose payloads had been taken away.

        Raises RecordsElsewhere when they cannot be had now.
        """
        ...

    def forget(self, stub: Stub, stubs: Sequence[int]) -> None:
        """What was kept of these records was wrong: the next read comes from where they lie."""
        ...


@dataclass(slots=True)
class Elsewhere:
    """One for each open log. source: None as long as nobody knows one."""

    source: Source | None = None

    def read(self, stub: Stub, stubs: Sequence[int], offset: int, size: int) -> bytes:
        if self.source is None:
            raise RecordsElsewhere(stub.first, "this node has no tier to read it from")
        return self.source.read(stub, stubs, offset, size)


def encode_stub(stub: Stub) -> bytes:
    """Return the page that stands, twice, where a segment that is written has its group marks."""
    last = stub.last
    body = _STUB.pack(_MAGIC, stub.first, last.sequence, last.epoch, stub.size, stub.end - stub.offset, last.chain)
    return (body + blake3(body).digest()).ljust(PAGE, b"\0")


def decode_stub(pages: bytes, offset: int) -> Stub | None:
    """Return what either of the two pages says, None when none is a stub's. offset: where records begin there."""
    for page in (pages[:PAGE], pages[PAGE:]):
        body = page[: _STUB.size]
        if page.startswith(_MAGIC) and blake3(body).digest() == page[_STUB.size :][:32]:
            _, first, last, epoch, size, length, chain = _STUB.unpack(body)
            return Stub(first, LogPoint(LogPosition(epoch, last), chain), size, offset, offset + length)
    return None


def stub_content(table: bytes, stub: Stub) -> bytes:
    """Return the whole file. table: the bytes of the segment up to its first record."""
    return table[: MARK_OFFSETS[0]] + 2 * encode_stub(stub) + table[ENTRIES_OFFSET:] + bytes(PAGE)


class EvictedFile:
    """A segment file of which only the beginning is here. Nobody writes to it."""

    def __init__(self, file: DiskFile, stub: Stub, elsewhere: Elsewhere) -> None:
        self._file = file
        self._stub = stub
        self._elsewhere = elsewhere
        self._stubs: Sequence[int] | None = None

    def pread(self, size: int, offset: int) -> bytes:
        stub = self._stub
        end = min(offset + size, stub.size)
        pieces: list[bytes] = []
        if offset < stub.offset:
            pieces.append(self._file.pread(min(end, stub.offset) - offset, offset))
            offset = min(end, stub.offset)
        if offset < min(end, stub.end):
            pieces.append(self._fetched(offset - stub.offset, min(end, stub.end) - offset))
            offset = min(end, stub.end)
        pieces.append(bytes(max(0, end - offset)))
        return b"".join(pieces)

    def _fetched(self, offset: int, size: int) -> bytes:
        return self._elsewhere.read(self._stub, self._without_payload(), offset, size)

    def _without_payload(self) -> Sequence[int]:
        """As the table says, which is here."""
        if self._stubs is None:
            stub = self._stub
            count = stub.last.sequence - stub.first + 1
            self._stubs = stubs_said(self._file.pread(count * ENTRY_BYTES, ENTRIES_OFFSET), stub.first)
        return self._stubs

    def pread_into(self, buffer: memoryview, offset: int) -> int:
        data = self.pread(len(buffer), offset)
        buffer[: len(data)] = data
        return len(data)

    def pwrite(self, parts: Sequence[Buffer], offset: int) -> None:
        raise RecordsElsewhere(self._stub.first, "an evicted segment is not written")

    def sync(self) -> None:
        self._file.sync()

    def end_direct(self) -> None:
        self._file.end_direct()

    def drop_cache(self) -> None:
        self._file.drop_cache()
        if self._elsewhere.source is not None:
            self._elsewhere.source.forget(self._stub, self._without_payload())

    def truncate(self, size: int) -> None:
        raise RecordsElsewhere(self._stub.first, "an evicted segment is not cut")

    def size(self) -> int:
        return self._stub.size

    def close(self) -> None:
        self._file.close()
