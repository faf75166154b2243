"""What lies behind a gap, and what is damaged: kept in lost+found as it is, and named as far as its headers say."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from replication.restore.fetching import Fetching
from replication.tier.keys import Run
from replication.tier.port import TierError
from storage.disk import Disk, DiskFile
from storage.errors import RecordCorrupt
from storage.lostfound import DIRECTORY
from storage.position import RecordHeader
from storage.record import HEADER_LIMIT, RECORD_ALIGNMENT, DecodedRecord, decode_header
from storage.segment import verify_rest

_HEAD: Final = b"././@PaxHeader"
_PIECE: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Kept:
    """One object. saved: its name relative to the data directory; empty where it could not be read, and error says why.

    records: the headers that can be read in it, believed by nobody yet. whole: of a damaged one, which of them have
    every byte that their digests ask for; of another one nobody looked.
    """

    run: Run
    saved: str
    error: str
    records: tuple[RecordHeader, ...]
    whole: frozenset[int] = frozenset()


async def keep(fetching: Fetching, disk: Disk, run: Run, *, damaged: bool) -> Kept:
    """Copy one object, if an earlier run has not done so. Raises StorageFull, SegmentPoisoned."""
    disk.make_directory(DIRECTORY)
    stem = f"beyond-{run.epoch:012d}-{run.first:012d}-{run.last:012d}-{run.chain_prefix.hex()}"
    name = f"{DIRECTORY}/{stem}{'-damaged.bin' if damaged else '.tar'}"
    if not disk.exists(name):
        temporary = f"{name}.tmp"
        file = disk.open(temporary, create=True)
        try:
            file.truncate(0)
            await _copy(fetching, run, file)
            file.sync()
        except TierError as error:
            disk.remove(temporary)
            return Kept(run, "", str(error), ())
        finally:
            file.close()
        disk.rename(temporary, name)
    file = disk.open(name)
    try:
        found = list(records_in(file, run))
        sound = frozenset(one.header.position.sequence for at, one in found if damaged and is_whole(file, at, one))
        return Kept(run, name, "", tuple(one.header for _, one in found), sound)
    finally:
        file.close()


async def _copy(fetching: Fetching, run: Run, file: DiskFile) -> None:
    at = 0
    async with contextlib.aclosing(fetching.all([run])) as pieces:
        async for piece in pieces:
            if piece.error is not None:
                raise piece.error
            file.pwrite([piece.data], at)
            at += len(piece.data)


def records_in(file: DiskFile, run: Run) -> Iterator[tuple[int, DecodedRecord]]:
    """Every header that can be read, with its offset, wherever damage lies between them: records begin at multiples of
    4096. Bytes of an image that look like a header count only if the object's name allows their number there.
    """
    at, size, following = 0, file.size(), run.first
    while at < size:
        head = file.pread(HEADER_LIMIT, at)
        decoded = _decoded(head) if head.startswith(_HEAD) else None
        if decoded is None or not following <= decoded.header.position.sequence <= run.last:
            at += RECORD_ALIGNMENT
            continue
        yield at, decoded
        following = decoded.header.position.sequence + 1
        at += decoded.length


def _decoded(head: bytes) -> DecodedRecord | None:
    try:
        return decode_header(head)
    except RecordCorrupt:
        return None


def is_whole(file: DiskFile, at: int, decoded: DecodedRecord) -> bool:
    """Whether all that follows this header is what it says. Raises MediumUnreadable."""
    try:
        verify_rest(decoded, _pieces(file, at + decoded.payload_offset, at + decoded.length))
    except RecordCorrupt:
        return False
    return True


def _pieces(file: DiskFile, at: int, end: int) -> Iterator[bytes]:
    while at < end and (data := file.pread(min(_PIECE, end - at), at)):
        yield data
        at += len(data)
