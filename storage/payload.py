"""Payloads of records as they pass: offered in pieces, and records read back from the log with theirs."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from msgspec import Struct

from storage.digest import PayloadHasher
from storage.errors import MediumUnreadable, RecordCorrupt
from storage.position import RecordHeader, RecordKind
from storage.segment import PIECE as SEGMENT_PIECE
from storage.segment import Segment
from storage.table import Entry


class Payload(Protocol):
    """Bytes of a record, offered in pieces. `storage.staging.Staged` is one."""

    @property
    def size(self) -> int: ...

    def parts(self) -> Iterator[memoryview]: ...


class BytesPayload(Struct, frozen=True):
    """A payload that is already in memory."""

    data: bytes

    @property
    def size(self) -> int:
        return len(self.data)

    def parts(self) -> Iterator[memoryview]:
        yield memoryview(self.data)


@dataclass(frozen=True, slots=True)
class StoredRecord:
    """A record read back, its payload checked against digest and chain."""

    header: RecordHeader
    chain: bytes
    payload: Payload


@dataclass(frozen=True, slots=True)
class StoredStub:
    """A deleted instance whose payload was taken away: what is left of its record. tombstone: what covers it, read and
    believed.
    """

    header: RecordHeader
    chain: bytes
    tombstone: int


class Pending(Struct, frozen=True):
    """A record appended and not yet written. tombstone: of a stub; its head is all of it."""

    entry: Entry
    header: RecordHeader
    head: bytes
    payload: Payload
    tombstone: int = 0


@dataclass(frozen=True, slots=True)
class FilePayload:
    """A large payload in its segment, hashed once before it was handed out and again while it leaves.

    `parts` raises RecordCorrupt before its last piece when the bytes changed in between.
    """

    header: RecordHeader
    segment: Segment
    offset: int
    piece: int = SEGMENT_PIECE

    @property
    def size(self) -> int:
        return self.header.size

    def parts(self) -> Iterator[memoryview]:
        try:
            pieces = (memoryview(piece) for piece in self.segment.raw(self.offset, self.size, self.piece))
            yield from checked(self.header.kind, self.header.digest, pieces)
        except MediumUnreadable as error:
            raise RecordCorrupt(self.header.position.sequence, str(error)) from error
        except RecordCorrupt as error:
            raise RecordCorrupt(self.header.position.sequence, error.reason) from error


def checked(kind: RecordKind, digest: bytes, pieces: Iterator[memoryview]) -> Iterator[memoryview]:
    """Hand on the pieces of a payload, the last one only when all of them match its digest. Raises RecordCorrupt."""
    hasher = PayloadHasher(kind)
    held: memoryview | None = None
    for piece in pieces:
        if held is not None:
            yield held
        hasher.update(piece)
        held = piece
    if hasher.finish().digest != digest:
        raise RecordCorrupt(0, "its bytes do not match its digest")
    if held is not None:
        yield held
