"""What an object of the tier holds: whole records, checked one by one. Pure functions over its bytes."""

from dataclasses import dataclass
from typing import Final

from replication.tier.keys import PREFIX_BYTES, Run
from storage.digest import digests_of
from storage.errors import FormatError, RecordCorrupt
from storage.position import RecordHeader, chain_after
from storage.record import decode_header
from storage.table import PAGE, data_offset, decode_segment_header

_TABLE_NAME: Final = b"segment.table\0"


@dataclass(frozen=True, slots=True)
class Link:
    """One record as its object has it: its header, and the chain up to it, which only its neighbours can prove."""

    header: RecordHeader
    chain: bytes

    @property
    def sequence(self) -> int:
        return self.header.position.sequence

    def follows(self, chain: bytes) -> bool:
        """Whether `chain` is the chain up to the record before this one: the proof that a branch is one."""
        return chain_after(chain, self.header) == self.chain


def read_run(run: Run, data: bytes) -> tuple[Link, ...]:
    """Return every record of the object called `run`: it holds these, whole, in order, and nothing else.

    A group of records, or a sealed segment with its table. Payloads are checked against their digests, the records
    against each other by the chain, and all of it against the name. What comes before the first record it cannot know.
    Raises RecordCorrupt, FormatError.
    """
    view = memoryview(data)
    segment = decode_segment_header(data[:PAGE]) if data.startswith(_TABLE_NAME) else None
    offset = data_offset(segment.segment_bytes) if segment is not None else 0
    links: list[Link] = []
    for sequence in range(run.first, run.last + 1):
        link, offset = _record(run, sequence, view, offset)
        if links and not link.follows(links[-1].chain):
            raise RecordCorrupt(sequence, "it does not continue the record before it")
        links.append(link)
    if links[-1].chain[:PREFIX_BYTES] != run.chain_prefix:
        raise FormatError(f"{run.key} holds another chain than its name says")
    if segment is not None and not links[0].follows(segment.chain_before):
        raise FormatError(f"{run.key} does not continue what its table says")
    if data[offset:].strip(b"\0") if segment is not None else len(data) != offset:
        raise FormatError(f"{run.key} holds more than its name says")
    return tuple(links)


def _record(run: Run, sequence: int, view: memoryview, offset: int) -> tuple[Link, int]:
    """Return one record, and where it ends."""
    decoded = decode_header(view[offset:])
    header = decoded.header
    if (header.position.epoch, header.position.sequence) != (run.epoch, sequence):
        raise FormatError(f"{run.key} holds record {header.position}")
    start = offset + decoded.payload_offset
    payload = view[start : start + header.size]
    end = offset + decoded.length
    if len(payload) != header.size or end > len(view):
        raise RecordCorrupt(sequence, "it is cut short")
    digests = digests_of(header.kind, [payload])
    if (digests.digest, digests.dataset) != (header.digest, header.dataset):
        raise RecordCorrupt(sequence, "its payload does not match its digest")
    if any(view[start + header.size : end]):
        raise RecordCorrupt(sequence, "its padding is not zero")
    return Link(header, decoded.chain), end
