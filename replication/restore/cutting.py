"""Records out of the bytes of an object, as they arrive in pieces, each proved before it is handed on. No disk, no net.

A group of records or a sealed segment with its table: what it is, its first bytes say. What a piece ends within is kept
until the next one; a record larger than `SPOOLED` goes through a file, so that memory stays bounded.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Protocol

from msgspec import Struct

from replication.tier.contents import Link
from replication.tier.keys import PREFIX_BYTES, Run
from storage.digest import PayloadHasher
from storage.errors import FormatError, RecordCorrupt
from storage.position import RecordHeader, chain_after
from storage.reader import BytesPayload, Payload
from storage.record import HEADER_LIMIT, DecodedRecord, decode_header
from storage.segment import verify_rest
from storage.table import PAGE, data_offset, decode_segment_header

SPOOLED: Final = 64 * 1024 * 1024
"""A record larger than this goes through a file."""
_TABLE_NAME: Final = b"segment.table\0"


class Spool(Protocol):
    """A file that takes the payload of one large record."""

    def write(self, data: memoryview) -> None: ...

    def payload(self) -> Payload:
        """Everything that was written, to be read any number of times."""
        ...


class View(Struct, frozen=True):
    """A payload that lies in a piece of an object: no copy is made."""

    data: memoryview

    @property
    def size(self) -> int:
        return len(self.data)

    def parts(self) -> Iterator[memoryview]:
        yield self.data


class CutRecord(Struct, frozen=True):
    """One whole record: its digests match, its padding is zero, and its header is canonical: `head`, where at hand.

    tombstone: of a deleted instance whose payload was taken away; then `payload` is empty. length: bytes of all of it.
    """

    header: RecordHeader
    chain: bytes
    payload: Payload
    length: int
    head: bytes | None = None
    tombstone: int = 0

    @property
    def link(self) -> Link:
        return Link(self.header, self.chain, self.tombstone)


@dataclass(slots=True)
class _Large:
    """A record on its way through a file. left: payload bytes to come; padding: zero bytes behind it."""

    decoded: DecodedRecord
    spool: Spool
    hasher: PayloadHasher
    left: int
    padding: int


class Cutter:
    """Cuts one object. `run`: what its name says. Feed it all of the object's bytes in order, then `finish`."""

    def __init__(self, run: Run, spool: Callable[[int], Spool]) -> None:
        self._run = run
        self._spool = spool
        self._rest = b""
        self._large: _Large | None = None
        self._started = False
        self._skip = 0
        self._table_chain: bytes | None = None
        self._segment = False
        self._last_piece = False
        self.next = run.first
        """The record that comes next; `run.last + 1` after the last."""
        self._before: bytes | None = None

    def feed(self, piece: bytes) -> Iterator[CutRecord]:
        """Yield the records that are complete now. Raises RecordCorrupt, FormatError, and is of no use afterwards."""
        data = memoryview(self._rest + piece if self._rest else piece)
        self._rest = b""
        at = 0
        if not self._started:
            if len(data) < PAGE:
                self._rest = bytes(data)
                return
            self._begin(bytes(data[:PAGE]))
        skipped = min(self._skip, len(data))
        self._skip -= skipped
        at += skipped
        while at < len(data):
            if self.next > self._run.last:
                self._nothing_more(data[at:])
                return
            if self._large is not None:
                at = self._go_on_large(self._large, data, at)
                if self._large.left == 0 and self._large.padding == 0:
                    yield self._end_large(self._large)
                continue
            if len(data) - at < PAGE:
                break
            try:
                decoded = decode_header(data[at : at + HEADER_LIMIT])
            except RecordCorrupt as error:
                if len(data) - at < HEADER_LIMIT and not self._last_piece:
                    break  # perhaps only cut off
                raise RecordCorrupt(self.next, error.reason) from error
            if at + decoded.length <= len(data):
                yield self._whole(decoded, data[at : at + decoded.length])
                at += decoded.length
            elif decoded.length > SPOOLED:
                self._begin_large(decoded)
                at += decoded.payload_offset
            else:
                break
        self._rest = bytes(data[at:])

    def finish(self) -> Iterator[CutRecord]:
        """The object has no more bytes. Raises RecordCorrupt, FormatError when it should have."""
        self._last_piece = True
        if not self._started and self._rest:
            self._begin(self._rest[:PAGE])
        yield from self.feed(b"")
        if self.next <= self._run.last:
            raise RecordCorrupt(self.next, "the object ends before it")
        if self._rest.strip(b"\0") or (self._rest and not self._segment):
            raise FormatError(f"{self._run.key} holds more than its name says")
        assert self._before is not None, "a run holds a record at least"
        if self._before[:PREFIX_BYTES] != self._run.chain_prefix:
            raise FormatError(f"{self._run.key} holds another chain than its name says")

    def _begin(self, page: bytes) -> None:
        self._started = True
        if page.startswith(_TABLE_NAME):
            header = decode_segment_header(page)
            self._segment = True
            self._skip = data_offset(header.segment_bytes)
            self._before = header.chain_before

    def _whole(self, decoded: DecodedRecord, record: memoryview) -> CutRecord:
        header = decoded.header
        self._expect(decoded)
        if decoded.tombstone:
            verify_rest(decoded, iter((record[decoded.payload_offset :],)))
            return self._passed(
                CutRecord(header, decoded.chain, BytesPayload(b""), decoded.length, tombstone=decoded.tombstone)
            )
        payload = record[decoded.payload_offset : decoded.payload_offset + header.size]
        hasher = PayloadHasher(header.kind)
        hasher.update(payload)
        self._prove(header, hasher)
        padding = bytes(record[decoded.payload_offset + header.size :])
        if padding.strip(b"\0"):
            raise RecordCorrupt(self.next, "its padding is not zero")
        head = bytes(record[: decoded.payload_offset])
        return self._passed(CutRecord(header, decoded.chain, View(payload), decoded.length, head))

    def _expect(self, decoded: DecodedRecord) -> None:
        position = decoded.header.position
        if (position.epoch, position.sequence) != (self._run.epoch, self.next):
            raise RecordCorrupt(self.next, f"record {position.sequence} of epoch {position.epoch} lies in its place")
        if self._before is not None and chain_after(self._before, decoded.header) != decoded.chain:
            raise RecordCorrupt(self.next, "it does not continue the record before it")

    def _prove(self, header: RecordHeader, hasher: PayloadHasher) -> None:
        digests = hasher.finish()
        if (digests.digest, digests.dataset) != (header.digest, header.dataset):
            raise RecordCorrupt(self.next, f"its payload does not match its digest ({header.path})")

    def _passed(self, record: CutRecord) -> CutRecord:
        self.next += 1
        self._before = record.chain
        return record

    def _begin_large(self, decoded: DecodedRecord) -> None:
        self._expect(decoded)
        header = decoded.header
        padding = decoded.length - decoded.payload_offset - header.size
        self._large = _Large(decoded, self._spool(self.next), PayloadHasher(header.kind), header.size, padding)

    def _go_on_large(self, large: _Large, data: memoryview, at: int) -> int:
        taken = data[at : at + large.left]
        large.hasher.update(taken)
        large.spool.write(taken)
        large.left -= len(taken)
        at += len(taken)
        if large.left == 0:
            zeros = data[at : at + large.padding]
            if any(zeros):
                raise RecordCorrupt(self.next, "its padding is not zero")
            large.padding -= len(zeros)
            at += len(zeros)
        return at

    def _end_large(self, large: _Large) -> CutRecord:
        self._large = None
        decoded = large.decoded
        self._prove(decoded.header, large.hasher)
        return self._passed(CutRecord(decoded.header, decoded.chain, large.spool.payload(), decoded.length))

    def _nothing_more(self, data: memoryview) -> None:
        """Only the zeros of a sealed segment may follow the last record."""
        if not self._segment or bytes(data).strip(b"\0"):
            raise FormatError(f"{self._run.key} holds more than its name says")


class Unkept:
    """For whoever asks for headers alone: a large payload is hashed, and not kept."""

    def write(self, data: memoryview) -> None: ...

    def payload(self) -> Payload:
        return BytesPayload(b"")
