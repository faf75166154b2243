"""What an object of the tier holds: whole records, checked one by one while its bytes come. Pure, in flat memory."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from replication.tier.keys import PREFIX_BYTES, Run
from storage.digest import PayloadHasher
from storage.errors import FormatError, RecordCorrupt
from storage.position import RecordHeader, chain_after
from storage.record import DecodedRecord, decode_header, header_bytes
from storage.segment import verify_rest


@dataclass(frozen=True, slots=True)
class Link:
    """One record as its object has it: its header, and the chain up to it, which only its neighbours can prove.

    tombstone: of a deleted instance whose payload was taken away; it is believed by whoever has that record.
    """

    header: RecordHeader
    chain: bytes
    tombstone: int = 0

    @property
    def sequence(self) -> int:
        return self.header.position.sequence

    def follows(self, chain: bytes) -> bool:
        """Whether `chain` is the chain up to the record before this one: the proof that a branch is one."""
        return chain_after(chain, self.header) == self.chain


class Sink(Protocol):
    """Where the payload of one record goes; nobody is asked for a stub's. `storage.staging.Receiving` is one."""

    def write(self, data: memoryview) -> None: ...


def nowhere(header: RecordHeader) -> Sink | None:
    """The payload is checked, and nobody wants it."""
    return None


@dataclass(slots=True)
class _Open:
    """A record whose head was read: what is left of its payload, and of the padding behind it. rest: of a stub, what it
    must have in their place, in so many bytes of `left`.
    """

    decoded: DecodedRecord
    left: int
    padding: int
    hasher: PayloadHasher
    sink: Sink | None
    rest: bytearray | None = None

    @property
    def header(self) -> RecordHeader:
        return self.decoded.header


class RunReader:
    """Reads the object called `run`: it holds these records, whole, in order, and nothing else.

    Give it the bytes in pieces of any size, then `finish`. Payloads are checked against their digests, the records
    against each other by the chain, and all of it against the name. What comes before the first record it cannot know.
    Everything raises RecordCorrupt or FormatError; a sink has then been given bytes that are not proved.
    """

    def __init__(self, run: Run, sink: Callable[[RecordHeader], Sink | None] = nowhere) -> None:
        """sink(header): where that record's payload goes; None to check it only."""
        self._run = run
        self._sink = sink
        self._next = run.first
        self._head = bytearray()
        self._open: _Open | None = None
        self._chain: bytes | None = None

    def feed(self, data: bytes | memoryview) -> list[Link]:
        """Take the next bytes; return the records that came to their end with them."""
        view = memoryview(data)
        found: list[Link] = []
        while len(view):
            if self._open is None:
                view = self._take_head(view)
            if self._open is not None:
                view = self._take_body(self._open, view)
                if not self._open.left and not self._open.padding:
                    found.append(self._end(self._open))
        return found

    def finish(self) -> None:
        """No more bytes come."""
        if self._open is not None or self._head or self._next <= self._run.last:
            raise RecordCorrupt(self._next, "it is cut short")
        if self._chain is None or self._chain[:PREFIX_BYTES] != self._run.chain_prefix:
            raise FormatError(f"{self._run.key} holds another chain than its name says")

    def _take_head(self, view: memoryview) -> memoryview:
        if self._next > self._run.last:
            raise FormatError(f"{self._run.key} holds more than its name says")
        while len(view) and len(self._head) < (needed := header_bytes(self._head)):
            taken = needed - len(self._head)
            self._head += view[:taken]
            view = view[taken:]
        if len(self._head) < header_bytes(self._head):
            return view
        try:
            decoded = decode_header(memoryview(self._head))
        except RecordCorrupt as error:
            raise RecordCorrupt(self._next, error.reason) from error  # the bytes may not even say which it is
        self._head = bytearray()
        header = decoded.header
        if (header.position.epoch, header.position.sequence) != (self._run.epoch, self._next):
            raise FormatError(f"{self._run.key} holds record {header.position}")
        if self._chain is not None and chain_after(self._chain, header) != decoded.chain:
            raise RecordCorrupt(self._next, "it does not continue the record before it")
        behind, hasher = decoded.length - decoded.payload_offset, PayloadHasher(header.kind)
        if decoded.tombstone:
            self._open = _Open(decoded, behind, 0, hasher, None, bytearray())
        else:
            self._open = _Open(decoded, header.size, behind - header.size, hasher, self._sink(header))
        return view

    def _take_body(self, record: _Open, view: memoryview) -> memoryview:
        payload = view[: record.left]
        if len(payload):
            if record.rest is not None:
                record.rest += payload
            else:
                record.hasher.update(payload)
            if record.sink is not None:
                record.sink.write(payload)
            record.left -= len(payload)
            view = view[len(payload) :]
        if not record.left and record.padding:
            padding = view[: record.padding]
            if any(padding):
                raise RecordCorrupt(self._next, "its padding is not zero")
            record.padding -= len(padding)
            view = view[len(padding) :]
        return view

    def _end(self, record: _Open) -> Link:
        digests, decoded = record.hasher.finish(), record.decoded
        if record.rest is not None:
            verify_rest(decoded, iter((bytes(record.rest),)))
        elif (digests.digest, digests.dataset) != (record.header.digest, record.header.dataset):
            raise RecordCorrupt(self._next, "its payload does not match its digest")
        self._open, self._chain = None, decoded.chain
        self._next += 1
        return Link(record.header, decoded.chain, decoded.tombstone)


def read_run(run: Run, data: bytes) -> tuple[Link, ...]:
    """Return every record of the object called `run`, given whole. Raises RecordCorrupt, FormatError."""
    reader = RunReader(run)
    links = reader.feed(data)
    reader.finish()
    return tuple(links)
