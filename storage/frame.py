"""What lies around the records of a segment: header, group marks, table, zeros. All of it is known from elsewhere.

So what is damaged of it is not repaired from another replica but written anew, from the records and what a segment is.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from storage.errors import MediumUnreadable, RecordCorrupt
from storage.position import LogPoint, LogPosition, chain_after
from storage.segment import Segment
from storage.table import (
    EMPTY_ENTRY,
    ENTRIES_OFFSET,
    ENTRY_BYTES,
    MARK_OFFSETS,
    PAGE,
    Entry,
    capacity,
    encode_entry,
    encode_segment_header,
    entry_of,
)


@dataclass(frozen=True, slots=True)
class Stretch:
    """Pages of a segment that are not what they must be. data: what they must be; None for zeros."""

    offset: int
    size: int
    data: bytes | None


def wrong_stretches(segment: Segment, end_chain: bytes, *, newest: bool) -> list[Stretch]:
    """Compare a segment with what it must be. In the newest, marks and what lies behind the records may be anything.

    end_chain: up to its last record, as the next segment or the open log knows it.
    """
    entries = known_entries(segment, end_chain)
    pages = [(0, encode_segment_header(segment.header)), *_table_pages(segment, entries)]
    if not newest:
        pages += [(offset, bytes(PAGE)) for offset in MARK_OFFSETS]
    wrong = [Stretch(offset, PAGE, data) for offset, data in pages if _page(segment, offset) != data]
    last = entries[-1] if entries else None
    if not newest and last is not None:
        end = last.offset + last.length
        wrong += _not_zero(segment, end)
    return wrong


def known_entries(segment: Segment, end_chain: bytes) -> list[Entry | None]:
    """One entry for each record: as the table has it, or else as the record's header says it.

    Such a header is believed where the chain goes through it: from the record before to the next entry that can be
    read, or to `end_chain`. None elsewhere: that record must be repaired first.
    """
    found: list[Entry | None] = []
    unproved = 0
    previous: LogPoint | None = LogPoint(LogPosition(0, segment.first - 1), segment.header.chain_before)
    offset = segment.data_offset
    for sequence in range(segment.first, segment.last + 1):
        entry = segment.entry(sequence)
        if entry is not None:
            if unproved and previous is not None and not _follows(segment, previous, entry):
                found[-unproved:] = [None] * unproved
            unproved = 0
        elif previous is not None:
            entry = _entry_of(segment, offset, sequence, previous)
            if entry is None:
                found[len(found) - unproved :] = [None] * unproved
            unproved = unproved + 1 if entry is not None else 0
        found.append(entry)
        previous = entry.point if entry is not None else None
        offset = entry.offset + entry.length if entry is not None else offset
    if unproved and previous is not None and previous.chain != end_chain:
        found[-unproved:] = [None] * unproved
    return found


def _entry_of(segment: Segment, offset: int, sequence: int, previous: LogPoint) -> Entry | None:
    try:
        decoded = segment.record_header(offset)
    except RecordCorrupt:
        return None
    header = decoded.header
    if header.position != LogPosition(segment.header.epoch, sequence) or offset + decoded.length > segment.size:
        return None
    if chain_after(previous.chain, header) != decoded.chain:
        return None
    return entry_of(decoded, offset, segment.first)


def _follows(segment: Segment, previous: LogPoint, entry: Entry) -> bool:
    try:
        header = segment.record_header(entry.offset).header
    except RecordCorrupt:
        return False
    return chain_after(previous.chain, header) == entry.chain


def _table_pages(segment: Segment, entries: Sequence[Entry | None]) -> Iterator[tuple[int, bytes]]:
    """Each page of the table as it must be. A slot whose record is unknown stays as it is."""
    per_page = PAGE // ENTRY_BYTES
    for first in range(0, capacity(segment.header.segment_bytes), per_page):
        offset = ENTRIES_OFFSET + first * ENTRY_BYTES
        slots = [encode_entry(entry) if entry is not None else b"" for entry in entries[first : first + per_page]]
        if b"" in slots:
            now = _page(segment, offset)
            slots = [slot or now[at * ENTRY_BYTES : (at + 1) * ENTRY_BYTES] for at, slot in enumerate(slots)]
        yield offset, b"".join(slots) + EMPTY_ENTRY * (per_page - len(slots))


def _page(segment: Segment, offset: int) -> bytes:
    """Never equal to what is expected where the disk does not give it back."""
    try:
        return segment.file.pread(PAGE, offset)
    except MediumUnreadable:
        return b"unreadable".ljust(PAGE, b"?")


def _not_zero(segment: Segment, end: int) -> list[Stretch]:
    """What lies behind the last record, as one stretch; none where all is zero."""
    first: int | None = None
    last = end
    for offset in range(end, segment.size, PAGE):
        if _page(segment, offset).strip(b"\0"):
            first = offset if first is None else first
            last = offset + PAGE
    return [] if first is None else [Stretch(first, min(last, segment.size) - first, None)]
