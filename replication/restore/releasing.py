"""What an earlier run kept aside beyond a gap goes once the log has all of it: else an archive needs its room twice.

The proof is the chain's. Every header in the file is put behind the point of the log before it, and must lead to the
point that the log has next: so it is the very header of the log's record, digest included, and the bytes under that
digest lie in the log, synced. Nothing is believed of the file's name but where to look. What is not proved stays.
"""

import re
from collections import deque
from dataclasses import dataclass
from typing import Final

from replication.restore.beyond import is_whole
from storage.disk import Disk, DiskFile
from storage.errors import FormatError, MediumUnreadable, RecordCorrupt
from storage.log import Log
from storage.lostfound import DIRECTORY
from storage.position import GENESIS, LogPoint, chain_after
from storage.record import HEADER_LIMIT, DecodedRecord, decode_header
from storage.table import PAGE, data_offset, decode_segment_header

_NAME: Final = re.compile(r"beyond-(\d{12})-(\d{12})-(\d{12})-[0-9a-f]{16}(\.tar|-damaged\.bin)(\.tmp)?", re.ASCII)
_TABLE_NAME: Final = b"segment.table\0"
_PIECE: Final = 1024 * 1024
NOT_REACHED: Final = "the restored log does not reach its last record"


@dataclass(frozen=True, slots=True)
class _File:
    """damaged: it was when it was kept, so each of its bytes is looked at. begun: its copy was cut short by a kill."""

    last: int
    first: int
    name: str
    damaged: bool
    begun: bool


class Releasing:
    """The files that lie there as a run begins; `staying` says of each that was looked at why it is not removed."""

    def __init__(self, disk: Disk, log: Log) -> None:
        self._disk = disk
        self._log = log
        self._waiting = deque(sorted(_files(disk), key=lambda file: (file.last, file.name)))
        self._staying: dict[str, str] = {}
        self.removed = 0

    def due(self, sequence: int) -> bool:
        """Whether something could go if the log were synced up to here."""
        return bool(self._waiting) and self._waiting[0].last <= sequence

    def upto(self, durable: LogPoint) -> None:
        """Remove what is proved to lie in the log up to a point that is synced. Raises SegmentPoisoned."""
        while self.due(durable.sequence):
            file = self._waiting.popleft()
            if why := self._unproved(file):
                self._staying[file.name] = why
            else:
                self._disk.remove(file.name)
                self.removed += 1

    @property
    def staying(self) -> dict[str, str]:
        """By name relative to the data directory."""
        return self._staying | {file.name: NOT_REACHED for file in self._waiting}

    def _unproved(self, wanted: _File) -> str:
        file = self._disk.open(wanted.name)
        try:
            self._prove(file, wanted)
        except (RecordCorrupt, FormatError, MediumUnreadable) as error:
            return str(error)
        finally:
            file.close()
        return ""

    def _prove(self, file: DiskFile, wanted: _File) -> None:
        """Raises RecordCorrupt, FormatError, MediumUnreadable."""
        at, size = _begin(file), file.size()
        before = self._point(wanted.first - 1)
        for sequence in range(wanted.first, wanted.last + 1):
            try:
                decoded = decode_header(file.pread(HEADER_LIMIT, at))
            except RecordCorrupt:
                if wanted.begun and size - at < HEADER_LIMIT:
                    return  # cut off within a header: of that record nothing is there
                raise
            before = self._same(sequence, decoded, before)
            cut_off = wanted.begun and at + decoded.length > size
            if wanted.damaged and not cut_off and not is_whole(file, at, decoded):
                raise RecordCorrupt(sequence, "its bytes do not match its digest")
            at += decoded.length
        while at < size:
            piece = file.pread(_PIECE, at)
            if piece.strip(b"\0"):
                raise FormatError("it holds more than the records that its name says")
            at += len(piece)

    def _same(self, sequence: int, decoded: DecodedRecord, before: LogPoint) -> LogPoint:
        """The log's point at this record, if the file's record is the log's. Raises RecordCorrupt."""
        point = self._point(sequence)
        if (decoded.header.position, decoded.chain) != (point.position, point.chain) or (
            chain_after(before.chain, decoded.header) != point.chain
        ):
            raise RecordCorrupt(sequence, "the log holds another record there")
        if not decoded.tombstone and (self._log.is_stub(sequence) or sequence in self._log.damage.known):
            raise RecordCorrupt(sequence, "the log does not hold its bytes")
        return point

    def _point(self, sequence: int) -> LogPoint:
        point = self._log.point_at(sequence) if sequence else GENESIS
        if point is None:
            raise RecordCorrupt(sequence, "the log cannot say which record it holds there")
        return point


def _files(disk: Disk) -> list[_File]:
    return [
        _File(int(found[3]), int(found[2]), f"{DIRECTORY}/{name}", found[4] != ".tar", found[5] is not None)
        for name in disk.list(DIRECTORY)
        if (found := _NAME.fullmatch(name))
    ]


def _begin(file: DiskFile) -> int:
    """Where the records of a sealed segment begin; 0 for a group of records. Raises FormatError."""
    page = file.pread(PAGE, 0)
    return data_offset(decode_segment_header(page).segment_bytes) if page.startswith(_TABLE_NAME) else 0
