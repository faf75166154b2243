"""What a data directory holds of what is wanted, read from its log as it lies there: no lock, no write, no index.

The files are the truth: an index may be gone, damaged or behind. Whether an instance is wanted, its own header says.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from perenne.moving.selection import Wanted
from storage.dataset import Attributes, NeedMore, UnreadableDataSet, read_meta, scan
from storage.errors import FormatError, RecordCorrupt
from storage.position import RecordKind
from storage.table import PAGE, decode_segment_header
from storage.walk import Fault, Found, Walk

_HEAD: Final = 64 * 1024
_LONG_HEAD: Final = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Holding:
    """One stored instance. places: each gives all its bytes anew, unproved; digest: what they must have.

    other: told the digest that a place gave instead, it says what that means. epoch: 0 where it is not known; with the
    sequence it names one record, also where logs have different ends.
    """

    sequence: int
    path: str
    size: int
    digest: bytes
    places: Sequence[Callable[[], Iterator[bytes | memoryview]]]
    other: Callable[[bytes], str] = lambda _: "its bytes do not match its digest"
    epoch: int = 0


@dataclass(frozen=True, slots=True)
class Missing:
    """Records first to last, which cannot be read; whether they are wanted is not known when `unsure`.

    digest: what its bytes must have; empty where that is not known. epoch: 0 where it is not known.
    """

    first: int
    last: int
    name: str
    why: str
    unsure: bool
    digest: bytes = b""
    epoch: int = 0


def in_directory(directory: Path, wanted: Wanted, passed: Callable[[int], None]) -> Iterator[Holding | Missing]:
    """Walk a log, which may belong to a running node. passed: told the size of each segment when it is done."""
    walk = Walk(directory, verify=False)
    for segment in walk.segments():
        epoch = _epoch_of(segment)
        for found in walk.segment(segment):
            if isinstance(found, Found):
                yield from _of_record(found, wanted, epoch)
            else:
                inside = found.sequence is not None and found.sequence >= int(segment.stem)
                yield from _of_fault(found, epoch if inside else 0)
        passed(segment.stat().st_size if segment.exists() else 0)
    for fault in walk.finish():
        yield from _of_fault(fault, 0)


def _epoch_of(segment: Path) -> int:
    """The one epoch of all its records; 0 where its header does not say."""
    try:
        with segment.open("rb") as file:
            return decode_segment_header(file.read(PAGE)).epoch
    except (FormatError, OSError):
        return 0


def _of_fault(fault: Fault, epoch: int) -> Iterator[Missing]:
    """What costs no record costs an export nothing. What was evicted is not here: another source may have it."""
    if count := fault.lost or fault.elsewhere:
        first = fault.sequence or 0
        yield Missing(first, first + count - 1, fault.segment.name, fault.text, unsure=True, epoch=epoch)


def _of_record(found: Found, wanted: Wanted, epoch: int) -> Iterator[Holding | Missing]:
    header = found.header
    if header.kind is not RecordKind.INSTANCE or (found.tombstone and found.damage is None):
        return  # of an instance that was deleted and compacted there is nothing to export
    sequence, uids = header.position.sequence, uids_of(header.path)
    if wanted.excludes(*uids):
        return
    why = found.damage
    if why is None and (wanted.by_header or "unknown" in uids):
        try:
            if not wanted.matches(_attributes(found)):
                return
        except (UnreadableDataSet, RecordCorrupt, OSError) as error:
            why = f"whether it belongs cannot be read: {error}"
    if why is not None:
        digest = header.digest if found.damage is None else b""  # of a damaged record nothing is believed
        yield Missing(sequence, sequence, header.path, why, unsure=wanted.by_header, digest=digest, epoch=epoch)
        return
    places = (found.payload.pieces,)
    yield Holding(sequence, header.path, header.size, header.digest, places, epoch=header.position.epoch)


def uids_of(path: str) -> tuple[str, str, str]:
    """Study, series and instance of a member's name; `unknown` where the name cannot tell."""
    parts = path.split("/")
    if len(parts) != 3:
        return "unknown", "unknown", "unknown"
    return parts[0], parts[1], parts[2].removesuffix(".dcm").partition(".v")[0]


def _attributes(found: Found) -> Attributes:
    """Raises UnreadableDataSet, RecordCorrupt, OSError."""
    try:
        return _scanned(found, _HEAD)
    except NeedMore:
        return _scanned(found, _LONG_HEAD)


def _scanned(found: Found, most: int) -> Attributes:
    size = min(found.header.size, most)
    head = b"".join(replace(found.payload, size=size).pieces())
    meta = read_meta(head)
    complete = size == found.header.size
    return scan(memoryview(head)[meta.meta_length :], meta.transfer_syntax_uid, complete=complete)
