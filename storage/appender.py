"""The writing half of the log: groups, their marks, and the roll to the next segment. One thread only."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from storage.damage import DamageRegister
from storage.disk import Buffer, Disk
from storage.errors import FormatError, LogContradiction, SegmentPoisoned, StorageError
from storage.lostfound import LostAndFound
from storage.position import LogPoint, RecordHeader, chain_after
from storage.reader import BytesPayload, LogReader, Payload, Pending, StoredStub
from storage.record import RECORD_ALIGNMENT, encode_header, encode_stub, record_length, trailing_padding
from storage.recovery import Recovered, Tail
from storage.seams import measure
from storage.segment import Segment, open_segment, segment_name
from storage.spare import Spares
from storage.table import (
    ENTRIES_OFFSET,
    ENTRY_BYTES,
    MARK_OFFSETS,
    OPEN_END,
    PAGE,
    Entry,
    GroupMark,
    SegmentHeader,
    capacity,
    data_offset,
    encode_entry,
    encode_mark,
    encode_segment_header,
    segment_file_bytes,
)

DEFAULT_SEGMENT_BYTES: Final = 256 * 1024 * 1024
_FLUSH_BYTES: Final = 8 * 1024 * 1024
_BATCH_BYTES: Final = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class LogIdentity:
    """Fixed when the cluster was created; the same on every node."""

    cluster_id: str
    segment_bytes: int = DEFAULT_SEGMENT_BYTES

    def __post_init__(self) -> None:
        if self.segment_bytes % RECORD_ALIGNMENT or self.segment_bytes < data_offset(self.segment_bytes) + 8192:
            raise FormatError(f"segment_bytes: {self.segment_bytes} is too small or no multiple of 4096")
        if len(self.cluster_id.encode()) > 64:
            raise FormatError("the cluster id is longer than 64 bytes")


class LogAppender(LogReader):
    """Appends and syncs.

    After any failure of the disk it writes nothing more (pitfalls: never retry fsync).
    """

    def __init__(
        self,
        disk: Disk,
        identity: LogIdentity,
        found: Recovered,
        damage: DamageRegister,
        spares: int,
        direct: bool,
    ) -> None:
        super().__init__(tuple(found.segments), found.end, damage)
        if found.segments:
            measure(found.segments[-1], identity.segment_bytes)
        self._disk = disk
        self._identity = identity
        self._direct = direct
        self._tail = found.tail
        self._failure: str | None = None
        self._table = bytearray()
        self._group: list[Pending] = []
        self._group_bytes = 0
        self._durable_offset = found.segments[-1].end_offset if found.segments else 0
        self._lost = LostAndFound(disk)
        self.waiting: dict[int, int] = {}
        """Stubs that are not believed yet, and the tombstones that they name."""
        self._spares = Spares(disk, identity.segment_bytes, spares)
        self.elsewhere = found.elsewhere

    @property
    def intact(self) -> bool:
        """False while a record is known to be damaged or the tail is not settled: such a node may
        not lead.
        """
        return self._tail is None and not self.damage.known and self._failure is None

    @property
    def failure(self) -> str | None:
        """Why this log writes nothing more; None while it does."""
        return self._failure

    @property
    def tail(self) -> Tail | None:
        """What lies unsettled after the end, if anything."""
        return self._tail

    @property
    def spare_segments(self) -> int:
        """Zeroed segments ready. Leave the in-sync set before it stays at 0 (protocol, disk rules)."""
        return self._spares.ready

    def append(self, header: RecordHeader, chain: bytes, payload: Payload, head: bytes | None = None) -> None:
        """Add the next record to the group. `payload` must stay valid until `sync` has returned.

        head: the record's header as `decode_header` has just found it canonical; else it is encoded here.
        Raises LogContradiction when it does not fit; StorageFull, with nothing visible; SegmentPoisoned.
        """
        self._refuse_if_unfit()
        self._refuse_if_no_successor(header, chain)
        if payload.size != header.size:
            raise LogContradiction(f"record {header.position}: its size does not fit")
        head = encode_header(header, chain) if head is None else head
        self._append(Pending(self._entry_after(header, chain, head), header, head, payload))

    def append_stub(self, header: RecordHeader, chain: bytes, tombstone: int) -> None:
        """Add what another replica has left of a deleted instance. It counts as damaged until the tombstone that covers
        it is durable here (protocol, section 11). Raises as `append`.
        """
        self._refuse_if_unfit()
        self._refuse_if_no_successor(header, chain)
        whole = encode_stub(header, chain, tombstone)
        entry = self._entry_after(header, chain, whole, stub=True)
        self.waiting[header.position.sequence] = tombstone
        self._append(Pending(entry, header, whole, BytesPayload(b""), tombstone))

    def _refuse_if_no_successor(self, header: RecordHeader, chain: bytes) -> None:
        end, position = self._end, header.position
        if position.sequence != end.sequence + 1 or position.epoch < end.epoch:
            raise LogContradiction(f"record {position} cannot follow {end.position}")
        if chain_after(end.chain, header) != chain:
            raise LogContradiction(f"record {position}: chain or size does not fit")

    def _entry_after(self, header: RecordHeader, chain: bytes, head: bytes, *, stub: bool = False) -> Entry:
        """The entry of the next record, in the segment where it goes. head: all of it, of a stub."""
        whole = record_length(header.path, header.size) if stub else 0
        length = len(head) if stub else len(head) + header.size + trailing_padding(header.size)
        segment = self._segment_for(header.position.epoch, length, whole or length)
        segment.saved += whole - length if stub else 0
        place = (segment.end_offset, length, header.digest, chain, segment.first, stub)
        return Entry(header.position, header.kind, *place)

    def _append(self, pending: Pending) -> None:
        entry, segment = pending.entry, self._segments[-1]
        with self._lock:
            segment.last = entry.position.sequence
            segment.end_offset += entry.length
            self._pending[entry.position.sequence] = pending
            self._end = entry.point
        self._group.append(pending)
        self._group_bytes += entry.length
        if self._group_bytes >= _FLUSH_BYTES:
            self._guarded(lambda: self._flush(whole=False))

    def sync(self) -> LogPoint:
        """Write what is pending and make it durable; return the new durable point. Raises SegmentPoisoned."""
        self._refuse_if_poisoned()
        if self._durable != self._end:
            self._guarded(self._sync)
            self.believe_stubs()
        return self._durable

    def awaits(self, sequence: int) -> bool:
        """Whether a record is a stub, and the tombstone that it names is still to come."""
        return self.waiting.get(sequence, 0) > self._durable.sequence

    def believe_stubs(self) -> None:
        """Believe the stubs whose tombstones are durable here by now; those that they do not cover stay damaged."""
        if not self.waiting:
            return
        arrived = [sequence for sequence, by in self.waiting.items() if by <= self._durable.sequence]
        if not arrived:
            return
        for sequence in arrived:
            del self.waiting[sequence]
        believed = [sequence for sequence in arrived if self._is_believed(sequence)]
        self.damage.clear(*believed)
        if len(believed) < len(arrived):
            self.damage.changed()  # the others are damaged for good now, and somebody may mend them

    def _is_believed(self, sequence: int) -> bool:
        try:
            return isinstance(self.read_any(sequence), StoredStub)
        except StorageError:
            return False

    def probe(self) -> None:
        """Write and sync 4 KiB on the real data path: the canary. Raises SegmentPoisoned.

        It rewrites the group mark, which says what it said before; without a segment there is
        nothing to probe.
        """
        self.sync()
        if not self._segments or self._tail is not None:
            return
        self._arm(self._segments[-1])
        self._guarded(lambda: self._rewrite_mark(self._segments[-1]))

    def _rewrite_mark(self, segment: Segment) -> None:
        self._write_mark(segment, self._durable, self._durable_offset)
        segment.file.sync()
        segment.marks += 1

    def _sync(self) -> None:
        self._flush(whole=True)
        segment = self._segments[-1]
        segment.file.sync()
        segment.marks += 1
        self._durable = self._end
        self._durable_offset = segment.end_offset

    def _flush(self, *, whole: bool) -> None:
        """Write mark, records and entries, in this order: a process killed in between leaves no
        entry without record.

        whole: the group ends here; otherwise its mark leaves the end open.
        """
        segment = self._segments[-1]
        end, end_offset = (self._end, segment.end_offset) if whole else (OPEN_END, 0)
        self._write_mark(segment, end, end_offset)
        if self._group:
            # Before they are there: after a crash no stub is believed unseen.
            self.damage.note(*(one.entry.position.sequence for one in self._group if one.tombstone))
            self._write_records(segment)
            first, last = self._group[0].entry, self._group[-1].entry
            for pending in self._group:
                at = (pending.entry.position.sequence - segment.first) * ENTRY_BYTES
                self._table[at : at + ENTRY_BYTES] = encode_entry(pending.entry)
            low = (first.position.sequence - segment.first) * ENTRY_BYTES // PAGE * PAGE
            high = -(-(last.position.sequence - segment.first + 1) * ENTRY_BYTES // PAGE) * PAGE
            segment.file.pwrite([memoryview(self._table)[low:high]], ENTRIES_OFFSET + low)
        with self._lock:
            self._pending.clear()
        self._group = []
        self._group_bytes = 0

    def _write_mark(self, segment: Segment, end: LogPoint, end_offset: int) -> None:
        # Both writes of one group go to one page: the other page still holds the group before.
        number = segment.marks + 1
        mark = GroupMark(number, self._durable, self._durable_offset, end, end_offset)
        segment.file.pwrite([encode_mark(mark)], MARK_OFFSETS[number % 2])

    def _write_records(self, segment: Segment) -> None:
        offset = self._group[0].entry.offset
        batch: list[Buffer] = []
        size = 0
        for piece in _pieces(self._group):
            batch.append(piece)
            size += len(piece)
            if size >= _BATCH_BYTES:
                # Whole pages only, so that O_DIRECT can take them; the rest begins the next batch.
                rest = size % PAGE
                view = memoryview(batch[-1])
                if rest >= len(view):
                    continue
                batch[-1] = view[: len(view) - rest]
                segment.file.pwrite(batch, offset)
                offset += size - rest
                batch = []
                if rest:
                    batch.append(view[len(view) - rest :])
                size = rest
        if batch:
            segment.file.pwrite(batch, offset)

    def begins_segment(self, epoch: int, length: int, whole: int) -> bool:
        """Whether the next record begins a segment: a pure function of epochs and of the sizes of whole records.

        length: bytes that it takes. whole: with its payload, if that was taken away.
        """
        if not self._segments:
            return True
        segment = self._segments[-1]
        room = segment.end_offset + segment.saved + whole + RECORD_ALIGNMENT <= segment.limit
        space = segment.end_offset + length + RECORD_ALIGNMENT <= segment.size
        slots = segment.last - segment.first + 1 < capacity(self._identity.segment_bytes)
        return segment.header.epoch != epoch or not room or not space or not slots

    def _segment_for(self, epoch: int, length: int, whole: int) -> Segment:
        if not self.begins_segment(epoch, length, whole):
            self._arm(self._segments[-1])
            return self._segments[-1]
        size = segment_file_bytes(self._identity.segment_bytes, length)
        temporary = f"log/next-{self._end.sequence + 1}"
        self._spares.take(temporary, size)
        self._guarded(lambda: self._roll(temporary, epoch))
        self._segments[-1].limit = segment_file_bytes(self._identity.segment_bytes, whole)
        return self._segments[-1]

    def _roll(self, temporary: str, epoch: int) -> None:
        """Seal the last segment and begin the next in the file `temporary`."""
        self._retire_last()
        first = self._end.sequence + 1
        identity = self._identity
        header = SegmentHeader(identity.cluster_id, identity.segment_bytes, first, epoch, self._end.chain)
        segment = open_segment(self._disk, temporary, header, direct=self._direct)
        segment.end_offset = segment.data_offset
        self._durable_offset = segment.end_offset
        segment.file.pwrite([encode_segment_header(header)], 0)
        self._write_mark(segment, self._durable, self._durable_offset)
        segment.file.sync()
        segment.marks += 1
        segment.armed = True
        self._disk.rename(temporary, segment_name(first))
        self._table = bytearray(capacity(identity.segment_bytes) * ENTRY_BYTES)
        with self._lock:
            self._segments = (*self._segments, segment)

    def _retire_last(self) -> None:
        if not self._segments:
            return
        segment = self._segments[-1]
        if self._durable != self._end:
            self._sync()
        if segment.last >= segment.first:
            self._disarm(segment)
            segment.file.end_direct()
            return
        with self._lock:
            self._segments = self._segments[:-1]
        self._disk.remove(segment.name)

    def _arm(self, segment: Segment) -> None:
        """Make sure that a mark is durable before the first group after an open, a cut or an install."""
        if not segment.armed:
            self._guarded(lambda: self._rearm(segment))

    def _rearm(self, segment: Segment) -> None:
        self._durable_offset = segment.end_offset
        self._rewrite_mark(segment)
        segment.armed = True
        self._table = bytearray(
            segment.file.pread(capacity(self._identity.segment_bytes) * ENTRY_BYTES, ENTRIES_OFFSET)
        )

    def _disarm(self, segment: Segment) -> None:
        segment.file.pwrite([bytes(2 * PAGE)], MARK_OFFSETS[0])
        segment.file.sync()
        segment.armed = False

    def _guarded(self, work: Callable[[], None]) -> None:
        """Do what touches the disk. After any failure this log writes nothing more."""
        try:
            work()
        except Exception as error:  # whatever it was: what lies on the disk now is not what was meant
            self._failure = f"{type(error).__name__}: {error}"
            raise SegmentPoisoned(f"the log stopped writing: {self._failure}") from error

    def _refuse_if_poisoned(self) -> None:
        if self._failure is not None:
            raise SegmentPoisoned(f"the log stopped writing: {self._failure}")

    def _refuse_if_unfit(self) -> None:
        self._refuse_if_poisoned()
        if self._tail is not None:
            raise LogContradiction("the tail is not settled")


def _pieces(group: Sequence[Pending]) -> Iterator[Buffer]:
    for pending in group:
        yield pending.head
        yield from pending.payload.parts()
        if not pending.tombstone and (padding := trailing_padding(pending.header.size)):
            yield bytes(padding)
