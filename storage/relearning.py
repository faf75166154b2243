"""New places for an evicted segment: its records lie in another object now, of a form with more stubs (ADR 0014, 11).

The new table is written beside the old one, from what was read in that object and proved against the chain that stayed
here, and only then takes its name: at each moment there is one of them, complete.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from storage.deletion import Covered
from storage.disk import DiskFile
from storage.errors import LogContradiction, RecordCorrupt, StorageError
from storage.evicted import EvictedFile, Stub, stub_content
from storage.position import RecordHeader, chain_after
from storage.record import decode_header, encode_header, encode_stub
from storage.rewriting import Rewriter
from storage.segment import Segment
from storage.spare import REWRITTEN
from storage.table import ENTRIES_OFFSET, ENTRY_BYTES, PAGE, encode_entry, entry_of


class Seen(Protocol):
    """A record that was read in an object, its payload checked. tombstone: of a stub; else 0."""

    @property
    def header(self) -> RecordHeader: ...

    @property
    def chain(self) -> bytes: ...

    @property
    def tombstone(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Relearned:
    """The new table of an evicted segment, whole and read back, that waits to take the old one's place.

    stubs: those that the old one did not know, as this log's own tombstones name them.
    """

    old: Segment
    stub: Stub
    name: str
    stubs: Mapping[int, Covered]


class Relearner(Rewriter):
    """The part of the log that changes where evicted records are looked for."""

    def prepare_relearning(self, first: int, records: Sequence[Seen]) -> Relearned:
        """Write the table that the evicted segment which begins with `first` has by these records, beside the old one.

        For any thread. records: all that lies in another object, in order. They must be the very records of this log,
        by its chain; a stub is believed only with its tombstone in this log, and what is a stub already stays one.
        Raises RecordCorrupt, RecordsElsewhere, LogContradiction, StorageFull, SegmentPoisoned; nothing is left behind.
        """
        segment = self._evicted_from(first)
        end = self.point_at(segment.last)
        if end is None or len(records) != segment.last - first + 1:
            raise LogContradiction(f"{segment.name} holds other records than were read")
        table = bytearray(segment.file.pread(segment.data_offset, 0))
        before, offset = segment.header.chain_before, segment.data_offset
        new: dict[int, Covered] = {}
        for slot, record in enumerate(records):
            sequence, entry = first + slot, segment.entry(first + slot)
            if record.header.position.sequence != sequence or chain_after(before, record.header) != record.chain:
                raise RecordCorrupt(sequence, "another record lies in the tier")
            if entry is not None and entry.stub and not record.tombstone:
                raise LogContradiction(f"{segment.name}: record {sequence} is a stub here, and not in the tier")
            if record.tombstone:
                covered = self._believed.cover(record.header, record.tombstone)
                if entry is None or not entry.stub:
                    new[sequence] = covered
            placed = entry_of(decode_header(_head(record)), offset, first)
            at = ENTRIES_OFFSET + slot * ENTRY_BYTES
            table[at : at + ENTRY_BYTES] = encode_entry(placed)
            before, offset = record.chain, offset + placed.length
        if before != end.chain:
            raise RecordCorrupt(segment.last, "another branch lies in the tier")
        if not new:
            raise LogContradiction(f"{segment.name} knows these places already")
        stub = Stub(first, end, offset + PAGE, segment.data_offset, offset)
        name = f"log/{REWRITTEN}{first:012d}"
        self._write_beside(name, stub_content(bytes(table), stub))
        return Relearned(segment, stub, name, new)

    def adopt_relearning(self, relearned: Relearned) -> None:
        """Look for the records by the new places from now on. Whoever reads by the old ones right now reads once more
        when their object is gone.

        Raises LogContradiction when the segment was written anew meanwhile.
        """
        self._refuse_if_unfit()
        old = relearned.old
        if self._find(old.first) is not old:
            self.drop_relearning(relearned)
            raise LogContradiction(f"{old.name} was written anew since: its places are learned anew")
        self._guarded(lambda: self._disk.rename(relearned.name, old.name))
        stub = relearned.stub
        file = EvictedFile(self._disk.open(old.name), stub, self.elsewhere)
        self._exchange(old, replace(old, file=file, size=stub.size, end_offset=stub.end))

    def drop_relearning(self, relearned: Relearned) -> None:
        """Nobody wants it any more."""
        self._disk.remove(relearned.name)

    def _evicted_from(self, first: int) -> Segment:
        segment = self._sealed(first)
        if segment is None or segment.first != first or not segment.evicted:
            raise LogContradiction(f"no segment that begins with record {first} is evicted")
        return segment

    def _write_beside(self, name: str, content: bytes) -> None:
        file = self._disk.open(name, create=True)
        try:
            file.truncate(0)
            file.pwrite([content], 0)
            file.sync()
            file.drop_cache()
            _check(file, content)
        except (StorageError, OSError):
            file.close()
            self._disk.remove(name)
            raise
        file.close()


def _head(record: Seen) -> bytes:
    if record.tombstone:
        return encode_stub(record.header, record.chain, record.tombstone)
    return encode_header(record.header, record.chain)


def _check(file: DiskFile, content: bytes) -> None:
    """Read back from the medium what was written. Raises StorageError."""
    if file.size() != len(content) or file.pread(len(content), 0) != content:
        raise StorageError("a table that was written anew does not come back as it was written")
