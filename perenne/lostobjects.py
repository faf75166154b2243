"""Objects of the tier that a restore kept in lost+found (`beyond-…`): many records in one file, each judged by itself.

They were committed, and the file may be their only copy. Tombstones among them say which instances were deleted since.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from storage.deletion import NotUnderstood, Tombstone, decode_small
from storage.errors import RecordCorrupt, StorageError
from storage.lostfound import DIRECTORY
from storage.position import RecordKind
from storage.record import HEADER_LIMIT, RECORD_ALIGNMENT, DecodedRecord, decode_header
from storage.table import PAGE, data_offset, decode_segment_header

_NAME: Final = re.compile(r"beyond-\d+-(\d+)-(\d+)-[0-9a-f]+(?:\.tar|-damaged\.bin)")
_TABLE: Final = b"segment.table\0"
BEYOND: Final = (
    "an object of the tier that a restore could not append, since something before it or in it is missing: what it"
    " holds was committed, and this may be the only copy. Keep it; `resubmit` offers its instances to the cluster"
)
Covers = dict[tuple[str, bytes], int]
"""By SOP Instance UID and digest of the data set: the highest tombstone that covers it."""


def is_object(name: str) -> bool:
    return _NAME.fullmatch(name) is not None


def records_in(path: Path) -> Iterator[tuple[int, DecodedRecord | None]]:
    """Every record whose header can be read, with its offset; None for a stretch of bytes that is none. Raises OSError.

    A header counts only where its number is one that the file's name allows, and higher than those before it: bytes of
    an image that look like a record, behind damage, are none.
    """
    found = _NAME.fullmatch(path.name)
    assert found is not None, "only objects are asked for"
    last = int(found[2])
    following = int(found[1])
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size = os.fstat(descriptor).st_size
        at, strange = _begin(descriptor), -1
        while at < size:
            head = os.pread(descriptor, HEADER_LIMIT, at)
            try:
                decoded = decode_header(head)
                if not following <= decoded.header.position.sequence <= last:
                    raise RecordCorrupt(following, "another record lies in its place")
            except RecordCorrupt:
                if strange < 0 and head[:RECORD_ALIGNMENT].strip(b"\0"):
                    strange = at
                at += RECORD_ALIGNMENT
                continue
            if strange >= 0 or decoded.header.position.sequence > following:
                yield max(strange, 0), None
                strange = -1
            yield at, decoded
            following = decoded.header.position.sequence + 1
            at += decoded.length
        if strange >= 0 or following <= last:
            yield max(strange, 0), None
    finally:
        os.close(descriptor)


def _begin(descriptor: int) -> int:
    """Where the records of a sealed segment begin; 0 for a group of records, or a table that cannot be read."""
    page = os.pread(descriptor, PAGE, 0)
    if not page.startswith(_TABLE):
        return 0
    try:
        return data_offset(decode_segment_header(page).segment_bytes)
    except StorageError:
        return 0


def covered(data_dir: Path) -> Covers:
    """What the tombstones in all objects of a lost+found cover. Raises OSError."""
    covers: Covers = {}
    directory = data_dir / DIRECTORY
    for path in sorted(directory.iterdir()) if directory.is_dir() else ():
        if not is_object(path.name):
            continue
        for at, decoded in records_in(path):
            if decoded is None or decoded.header.kind is not RecordKind.TOMBSTONE:
                continue
            for key in _covers(path, at, decoded):
                covers[key] = max(decoded.header.position.sequence, covers.get(key, 0))
    return covers


def _covers(path: Path, at: int, decoded: DecodedRecord) -> Iterator[tuple[str, bytes]]:
    """Also of a damaged one, as far as it can be read: rather hold an image back than bring a deleted one back."""
    with path.open("rb") as file:
        file.seek(at + decoded.payload_offset)
        payload = file.read(decoded.header.size)
    try:
        said = decode_small(RecordKind.TOMBSTONE, payload)
    except NotUnderstood:
        return
    assert isinstance(said, Tombstone), "that is its kind"
    for one in said.covers:
        yield one.sop_instance_uid, one.dataset
