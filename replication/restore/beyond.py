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
from storage.record import HEADER_LIMIT, RECORD_ALIGNMENT, decode_header

_HEAD: Final = b"././@PaxHeader"


@dataclass(frozen=True, slots=True)
class Kept:
    """One object. saved: its name relative to the data directory; empty where it could not be read, and error says why.

    records: the headers that can be read in it, believed by nobody yet.
    """

    run: Run
    saved: str
    error: str
    records: tuple[RecordHeader, ...]


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
        return Kept(run, name, "", tuple(headers_in(file)))
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


def headers_in(file: DiskFile) -> Iterator[RecordHeader]:
    """Every header that can be read, wherever damage lies between them: records begin at multiples of 4096."""
    at, size = 0, file.size()
    while at < size:
        head = file.pread(HEADER_LIMIT, at)
        if not head.startswith(_HEAD):
            at += RECORD_ALIGNMENT
            continue
        try:
            decoded = decode_header(head)
        except RecordCorrupt:
            at += RECORD_ALIGNMENT
            continue
        yield decoded.header
        at += decoded.length
