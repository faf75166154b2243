"""Reads a log as it lies there, without a lock and without a write, and compares each record with its two places.

A record stands in its segment and in the segment's table (docs/format.md). Either may be damaged: the walk goes on
by the other. A node may be writing meanwhile. It writes mark, records and entries in this order, so the walk reads
marks and table first: whatever they promise must be there, and what lies beyond is the newest group, half written.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from storage.errors import RecordCorrupt
from storage.evicted import Stub
from storage.metadata import PROMISE_FILE, Promise, newest_promise
from storage.position import GENESIS, RecordHeader, RecordKind, chain_after
from storage.record import HEADER_LIMIT, DecodedRecord, decode_header
from storage.segment import verify_rest
from storage.segment_file import PIECE, SegmentFile, snapshot
from storage.stubs import Unbelieved
from storage.table import (
    EMPTY_ENTRY,
    ENTRY_BYTES,
    OPEN_END,
    PAGE,
    Entry,
    SegmentHeader,
    data_offset,
    decode_entry,
    entry_of,
)

_ATTEMPTS: Final = 6
_PAUSE_S: Final = 0.2
_PAX_NAME: Final = b"././@PaxHeader"
_ZEROS: Final = bytes(PIECE)


@dataclass(frozen=True, slots=True)
class Bytes:
    """A stretch of a file, read again each time it is asked for."""

    path: Path
    offset: int
    size: int

    def pieces(self) -> Iterator[bytes | memoryview]:
        """Raises OSError; RecordCorrupt when the file ends too early."""
        with SegmentFile(self.path) as file:
            yield from file.pieces(self.offset, self.size)


@dataclass(frozen=True, slots=True)
class Found:
    """One record that can be read. damage: None when its digest and chain hold and its entry agrees.

    tombstone: its payload was taken away, since this record covers it; 0 where the payload is here. What `payload`
    gives of such a stub is a text that says so.
    """

    segment: Path
    header: RecordHeader
    chain: bytes
    payload: Bytes
    damage: str | None = None
    tombstone: int = 0


@dataclass(frozen=True, slots=True)
class Fault:
    """Something wrong besides a record that can be read.

    lost: how many records cannot be read because of it; elsewhere: how many the tier alone has. note: nothing is wrong
    with what was promised, and yet somebody may want to know.
    """

    segment: Path
    sequence: int | None
    text: str
    lost: int = 0
    note: bool = False
    elsewhere: int = 0


def _every(_: RecordHeader) -> bool:
    return True


@dataclass(slots=True)
class Walk:
    """One pass over a log. verify: read payloads and compare them with their digests: those that are `wanted`.

    medium: read past the page cache.
    """

    directory: Path
    verify: bool
    wanted: Callable[[RecordHeader], bool] = _every
    medium: bool = False
    end: int = 0
    """The last record that was found, or proved to have been there."""
    _chain: bytes | None = GENESIS.chain
    _segment_bytes: int | None = None
    _names: list[Path] = field(default_factory=list[Path])
    _promise: Promise | None = None
    _stubs: Unbelieved = field(default_factory=Unbelieved)

    def segments(self) -> list[Path]:
        """The segment files, oldest first."""
        with contextlib.suppress(OSError):  # segments without their node: nothing more is known of them
            # Before the segments are listed: what was committed by now lies in them.
            self._promise = newest_promise((self.directory / PROMISE_FILE).read_bytes())
        self._names = sorted(path for path in (self.directory / "log").glob("*.tar") if path.stem.isdecimal())
        return self._names

    def segment(self, path: Path) -> Iterator[Found | Fault]:
        """Walk one segment; to be called for each in order."""
        for one in self._segment(path):
            if isinstance(one, Found):
                self._believe(one)
            yield one

    def _believe(self, one: Found) -> None:
        """Whether stubs are to be believed shows when their tombstones come by; `finish` says which are not."""
        if one.tombstone:
            self._stubs.stub(one.header, one.tombstone)
        elif one.header.kind is RecordKind.TOMBSTONE and one.damage is None:
            self._stubs.tombstone(one.header.position.sequence, lambda: b"".join(map(bytes, one.payload.pieces())))

    def tombstone_elsewhere(self, sequence: int) -> None:
        """An entry of an evicted segment is one of a tombstone."""
        self._stubs.elsewhere(sequence)

    def _segment(self, path: Path) -> Iterator[Found | Fault]:
        following = next((name for name in self._names if name > path), None)
        if following is not None and following.exists():
            with contextlib.suppress(FileNotFoundError):  # cut since it was listed
                yield from self.once(path, int(following.stem))
        else:
            yield from self._newest(path)

    def finish(self) -> Iterator[Fault]:
        """What only the whole log can show: that tombstones cover what lost its payload, and that it ends where this
        node once knew records to be committed.
        """
        for sequence in self._stubs.left():
            text = "its payload was taken away, and no tombstone here covers it"
            yield Fault(self.directory / "log", sequence, text, lost=1)
        for sequence, tombstone in self._stubs.unread():
            text = f"its payload was taken away: tombstone {tombstone}, which says so, is evicted, and was not read"
            yield Fault(self.directory / "log", sequence, text, note=True)
        floor = self._promise.floor.sequence if self._promise is not None else 0
        if floor > self.end:
            text = f"the log ends with record {self.end}, but this node knew {floor} to be committed"
            yield Fault(self.directory / "log", self.end + 1, text, lost=floor - self.end)

    def _newest(self, path: Path) -> Iterator[Found | Fault]:
        """A node may be writing here: what is wrong counts when nothing moved meanwhile, or each time it is read."""
        start = (self.end, self._chain, self._segment_bytes)
        found: list[Found | Fault] = []
        wrong: set[tuple[int | None, str]] | None = None
        with contextlib.suppress(FileNotFoundError):  # cut by the node since it was listed: nothing in it was promised
            for _ in range(_ATTEMPTS):
                self.end, self._chain, self._segment_bytes = start
                before = _fingerprint(path)
                # Beside a writer each read of the medium would wait for its syncs, and make them wait.
                found = list(self.once(path, None, cached=any(before[0] + before[1])))
                here = {key for one in found if (key := _wrong(one)) is not None}
                wrong = here if wrong is None else wrong & here
                if not wrong:
                    break
                time.sleep(_PAUSE_S)
                if _fingerprint(path) == before:
                    wrong = here
                    break
            for one in found:
                if isinstance(one, Found):
                    yield one if _wrong(one) in (wrong or ()) else replace(one, damage=None)
                elif _wrong(one) in (wrong or ()):
                    yield one

    def once(self, path: Path, following: int | None, *, cached: bool = False) -> Iterator[Found | Fault]:
        """Walk one segment a single time, whatever is written to it meanwhile: what it says may be of the moment.

        following: the first record of the next segment; None in the newest. cached: read what the system has in
        memory, also where the medium was asked for. Raises FileNotFoundError.
        """
        with SegmentFile(path, medium=self.medium and not cached, all_of_it=self.verify) as file:
            try:
                yield from _Segment(self, file, following).walk()
            except OSError as error:
                yield Fault(path, None, f"cannot be read: {error.strerror}")
                self._chain = None

    # Shared with the walk through one segment

    @property
    def chain(self) -> bytes | None:
        return self._chain

    def reached(self, sequence: int, chain: bytes | None) -> None:
        self.end, self._chain = sequence, chain

    def segment_bytes(self, header: SegmentHeader | None) -> int | None:
        """Every segment of a log has the same: one whose header is damaged takes it from those before."""
        if header is not None:
            self._segment_bytes = header.segment_bytes
        return self._segment_bytes


def _wrong(one: Found | Fault) -> tuple[int | None, str] | None:
    if isinstance(one, Fault):
        return one.sequence, one.text
    return None if one.damage is None else (one.header.position.sequence, one.damage)


def _fingerprint(path: Path) -> tuple[bytes, bytes, bytes]:
    with SegmentFile(path) as file:
        found = snapshot(file, None)
    return (*found.marks, found.table)


class _Segment:
    """The walk through one segment. following: the first record of the next one; None in the newest."""

    def __init__(self, walk: Walk, file: SegmentFile, following: int | None) -> None:
        self._walk = walk
        self._file = file
        self._path = file.path
        self._following = following
        self._first = int(file.path.stem)
        self._lost_from: int | None = None

    def walk(self) -> Iterator[Found | Fault]:
        walk, path, first = self._walk, self._path, self._first
        self._facts = facts = snapshot(self._file, walk.segment_bytes(None))
        size = walk.segment_bytes(facts.header)
        if first > walk.end + 1:
            text = f"records {walk.end + 1} to {first - 1} are missing: no segment holds them"
            yield Fault(path, walk.end + 1, text, lost=first - walk.end - 1)
            walk.reached(first - 1, None)
        elif first <= walk.end:
            yield Fault(path, first, f"begins with record {first}, but the segment before it ends with {walk.end}")
            walk.reached(first - 1, None)
        if facts.header is None:
            yield Fault(path, None, f"{facts.why}; tar can still read the file")
            if size is None:
                count = self._following - first if self._following is not None else 0
                yield Fault(path, first, "its records cannot be found without the header", lost=count)
                walk.reached(first - 1 + count, None)
                return
        elif facts.header.first != first:
            yield Fault(path, first, f"its header says that it begins with record {facts.header.first}")
        elif walk.chain is not None and facts.header.chain_before != walk.chain:
            yield Fault(path, first, "does not follow from the segment before it: the chains differ")
        if facts.stub is not None and self._following is not None:
            yield from self._evicted(facts.stub)
            return
        chain = facts.header.chain_before if facts.header is not None else walk.chain
        if self._following is not None and facts.armed:
            yield Fault(path, None, "is not the newest, and its group marks are not empty")
        elif facts.armed and facts.newest is None:
            yield Fault(path, None, "its group marks are damaged")
        assert size is not None
        yield from self._records(data_offset(size), chain)

    def _evicted(self, stub: Stub) -> Iterator[Fault]:
        """Its records are in the tier; what is left of them here are their entries, which the next segment proves."""
        last = stub.last.sequence
        for sequence in range(self._first, last + 1):
            entry = decode_entry(self._slot(sequence), sequence, self._first)
            if entry is None or (sequence == last and entry.point != stub.last):
                yield Fault(self._path, sequence, "its table entry is missing or damaged, and its segment is evicted")
            elif entry.kind is RecordKind.TOMBSTONE:
                self._walk.tombstone_elsewhere(sequence)
        if stub.first != self._first or last + 1 != self._following:
            yield Fault(self._path, None, f"says that it was records {stub.first} to {last} before it was evicted")
        text = f"records {self._first} to {last} are evicted: the tier holds them"
        yield Fault(self._path, self._first, text, note=True, elsewhere=last + 1 - self._first)
        self._walk.reached(last, stub.last.chain)

    def _records(self, begin: int, chain: bytes | None) -> Iterator[Found | Fault]:
        sequence, offset, known = self._first, begin, True
        while True:
            entry = self._entry(sequence)
            if entry is not None and known and entry.offset != offset:
                entry = None
            if entry is not None:
                offset, known = entry.offset, True
            decoded, why = self._header(offset, sequence) if known else (None, "its place is unknown")
            promised = entry is not None or self._promised(sequence)
            damage = self._damage(offset, entry, decoded, chain) if decoded is not None else why
            if (decoded is None or damage) and not promised:
                break
            if decoded is not None:
                yield from self._told(sequence - 1)
                if entry is None and promised:
                    missing = "missing" if self._slot(sequence) == EMPTY_ENTRY else "damaged"
                    yield Fault(self._path, sequence, f"its table entry is {missing}; the record itself is there")
                size = decoded.length - decoded.payload_offset if decoded.tombstone else decoded.header.size
                payload = Bytes(self._path, offset + decoded.payload_offset, size)
                yield Found(self._path, decoded.header, decoded.chain, payload, damage, decoded.tombstone)
                offset, chain = offset + decoded.length, decoded.chain
            elif entry is not None:
                yield from self._told(sequence - 1)
                yield Fault(self._path, sequence, f"{why}; only its table entry is left", lost=1)
                offset, chain = entry.offset + entry.length, entry.chain
            elif known and sequence - self._first >= self._facts.used and not self._something_after(offset):
                break  # the segment ends here; if records are missing, the next one says so
            else:
                self._lost_from = self._lost_from or sequence
                chain = None
                if known and (found := self._after(sequence, offset)) is not None:
                    sequence, offset = found[0] - 1, found[1]
                else:
                    known = False
            self._walk.reached(sequence, chain)
            sequence += 1
        yield from self._told(sequence - 1)
        yield from self._end(offset, known)

    def _told(self, last: int) -> Iterator[Fault]:
        """Say which records in a row left no trace."""
        first, self._lost_from = self._lost_from, None
        if first is not None:
            which = f"records {first} to {last}" if last > first else f"record {first}"
            text = f"{which} cannot be read: neither record nor table entry is whole"
            yield Fault(self._path, first, text, lost=last - first + 1)

    def _damage(self, offset: int, entry: Entry | None, decoded: DecodedRecord, chain: bytes | None) -> str | None:
        header = decoded.header
        if chain is not None and chain_after(chain, header) != decoded.chain:
            return "it does not follow from the record before"
        if self._facts.header is not None and header.position.epoch != self._facts.header.epoch:
            return "it is of another epoch than its segment"
        if entry is not None and entry != entry_of(decoded, offset, entry.segment):
            return "its table entry is of another record"
        if decoded.tombstone or (self._walk.verify and self._walk.wanted(header)):
            start, length = offset + decoded.payload_offset, decoded.length - decoded.payload_offset
            try:
                verify_rest(decoded, self._file.pieces(start, length))
            except RecordCorrupt as error:
                return error.reason
            except OSError as error:
                return f"it cannot be read: {error.strerror}"
        return None

    def _header(self, offset: int, sequence: int) -> tuple[DecodedRecord | None, str]:
        try:
            decoded = decode_header(self._file.read(offset, HEADER_LIMIT))
        except RecordCorrupt as error:
            return None, f"its header is damaged: {error.reason}"
        except OSError as error:
            return None, f"its header cannot be read: {error.strerror}"
        if decoded.header.position.sequence != sequence:
            return None, f"record {decoded.header.position.sequence} lies in its place"
        if offset + decoded.length > self._file.size:
            return None, "the file ends inside of it"
        return decoded, ""

    def _slot(self, sequence: int) -> bytes:
        at = (sequence - self._first) * ENTRY_BYTES
        return self._facts.table[at : at + ENTRY_BYTES] or EMPTY_ENTRY

    def _entry(self, sequence: int) -> Entry | None:
        entry = decode_entry(self._slot(sequence), sequence, self._first)
        header = self._facts.header
        if entry is None or (header is not None and entry.position.epoch != header.epoch) or entry.length <= 0:
            return None
        return entry if entry.offset + entry.length <= self._file.size else None

    def _promised(self, sequence: int) -> bool:
        """Whether a record must be there, whatever its own two places say."""
        if self._following is not None:
            return sequence < self._following
        if sequence - self._first < self._facts.used:
            return True
        mark = self._facts.newest
        return mark is not None and sequence <= mark.start.sequence

    def _after(self, sequence: int, offset: int) -> tuple[int, int] | None:
        """Where the walk goes on after a record without a trace: at the next good entry, or else the next record."""
        for slot in range(sequence + 1 - self._first, self._facts.used):
            if (entry := self._entry(self._first + slot)) is not None:
                return entry.position.sequence, entry.offset
        for at in range(-(-(offset + 1) // PAGE) * PAGE, self._file.size, PAGE):
            try:
                if self._file.read(at, len(_PAX_NAME)) != _PAX_NAME:
                    continue
                decoded = decode_header(self._file.read(at, HEADER_LIMIT))
            except (RecordCorrupt, OSError):
                continue
            found = decoded.header.position.sequence
            if found > sequence and (self._following is None or found < self._following):
                return found, at
        return None

    def _end(self, offset: int, known: bool) -> Iterator[Fault]:
        """After the last record lies nothing; in the newest segment, at most a group that is being written."""
        facts, mark = self._facts, self._facts.newest
        if facts.armed and self._following is None:
            last = self._first + facts.used - 1
            if known and (self._walk.end > last or any(self._file.read(offset, PAGE))):
                text = "the newest group is not complete: no sender was told that it is stored"
                yield Fault(self._path, last + 1, text, note=True)
            elif mark is not None and mark.end != OPEN_END and mark.end.sequence > last:
                text = f"the newest group was to end with record {mark.end.sequence}, and was never written"
                yield Fault(self._path, last + 1, text, note=True)
            return
        if known and self._something_after(offset):
            yield Fault(self._path, None, f"bytes that are no record lie after the last one (from byte {offset} on)")

    def _something_after(self, offset: int) -> bool:
        while piece := self._file.read(offset, PIECE):
            if piece != _ZEROS[: len(piece)]:
                return True
            offset += len(piece)
        return False
