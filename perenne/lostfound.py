"""What lies in the lost+found of a data directory, one file at a time: read and judged, moved aside, never deleted."""

import mmap
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from perenne.lostobjects import BEYOND, Covers, covered, is_object, records_in
from storage.dataset import UnreadableDataSet, read_meta
from storage.digest import META_LIMIT_BYTES, digests_of, part10_meta_length
from storage.errors import StorageError
from storage.lostfound import DIRECTORY, RESUBMITTED
from storage.position import RecordKind
from storage.record import HEADER_LIMIT, DecodedRecord, decode_header

DAMAGED: Final = "-damaged.bin"
"""Ends the names of bytes that were no valid record in their place."""
PIECE: Final = 1024 * 1024
CUT: Final = (
    "cut off the end of this node's log: when it was cut it was not committed. Another leader's log took its place, or"
    " it was the torn tail after a power loss. Its sender was not told Success, or the cluster has it elsewhere"
)
REPLACED: Final = (
    "lay in the log where a record was damaged: evidence. The record was repaired from another copy, or cut off with"
    " the end of the log; `perenne repair --config FILE` says what is still damaged"
)
NO_RECORD: Final = "bytes that were no valid record when they were taken out: evidence, nothing that could be sent"


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """One record: a file, or a part of one that is an object of the tier.

    damage: why it is no valid record; None for one whose bytes match their digests. at: where it begins in the file.
    deleted: the tombstone that covers it, among those that lie in lost+found; 0 for none.
    """

    name: str
    bytes: int
    why: str
    at: int = 0
    damage: str | None = None
    deleted: int = 0
    sequence: int | None = None
    epoch: int | None = None
    kind: str = ""
    time_us: int | None = None
    path: str = ""
    digest: str = ""
    sop_instance_uid: str = ""
    sop_class_uid: str = ""
    transfer_syntax_uid: str = ""

    @property
    def sendable(self) -> bool:
        """Whether it is a valid instance, so that it can be offered to the cluster like any other."""
        return self.damage is None and not self.deleted and self.kind == RecordKind.INSTANCE.value

    @property
    def settled(self) -> bool:
        """Whether nothing is left to be done about it, though it cannot be sent: it was deleted, or is no instance."""
        return bool(self.deleted) or (self.damage is None and self.kind != RecordKind.INSTANCE.value)

    def document(self) -> dict[str, Any]:
        return {**asdict(self), "sendable": self.sendable}


def names(data_dir: Path) -> list[str]:
    """Names in lost+found, sorted; unfinished copies and what was resubmitted left out."""
    directory = data_dir / DIRECTORY
    if not directory.is_dir():
        return []
    return sorted(one.name for one in directory.iterdir() if one.is_file() and not one.name.endswith(".tmp"))


def resubmitted(data_dir: Path) -> int:
    """How many files were resubmitted before, and lie in their own directory."""
    directory = data_dir / DIRECTORY / RESUBMITTED
    return len(list(directory.iterdir())) if directory.is_dir() else 0


def entries(data_dir: Path, wanted: Iterable[str], *, verify: bool) -> Iterator[Saved]:
    """Read files, one after the other: one entry for each record in them. Raises OSError."""
    covers: Covers | None = None
    for name in wanted:
        if not is_object(name):
            yield look(data_dir, name, verify=verify)
            continue
        covers = covered(data_dir) if covers is None else covers
        yield from _in_object(data_dir / DIRECTORY / name, covers, verify=verify)


def look(data_dir: Path, name: str, *, verify: bool) -> Saved:
    """Read a file that is one record. verify: every byte against the digests; else the header alone, but
    of what was damaged when it came here. Raises OSError.
    """
    file = data_dir / DIRECTORY / name
    size = file.stat().st_size
    try:
        with file.open("rb") as content:
            decoded = decode_header(content.read(HEADER_LIMIT))
    except StorageError as error:
        return Saved(name=name, bytes=size, why=NO_RECORD, damage=str(error))
    damaged = name.endswith(DAMAGED)
    saved = _judged(file, 0, decoded, REPLACED if damaged else CUT, verify=verify or damaged)
    return replace(saved, bytes=size)


def _in_object(file: Path, covers: Covers, *, verify: bool) -> Iterator[Saved]:
    for at, decoded in records_in(file):
        if decoded is None:
            damage = f"from byte {at} on are bytes that are no record, or records are missing"
            yield Saved(name=file.name, bytes=0, why=BEYOND, at=at, damage=damage)
            continue
        saved = _judged(file, at, decoded, BEYOND, verify=verify)
        tombstone = covers.get((saved.sop_instance_uid, decoded.header.dataset), 0)
        yield replace(saved, deleted=tombstone if tombstone > decoded.header.position.sequence else 0)


def _judged(file: Path, at: int, decoded: DecodedRecord, why: str, *, verify: bool) -> Saved:
    header = decoded.header
    damage = None
    with file.open("rb") as content:
        if verify and not decoded.tombstone:
            damage = _damage(decoded, content.fileno(), at, file.stat().st_size)
        content.seek(at + decoded.payload_offset)
        head = content.read(min(header.size, META_LIMIT_BYTES)) if not decoded.tombstone else b""
    uid = sop_class = syntax = ""
    if decoded.tombstone:
        damage = "it was deleted, and compaction took its bytes away"
    elif header.kind is RecordKind.INSTANCE:
        try:
            meta = read_meta(head)
            uid, sop_class, syntax = meta.sop_instance_uid, meta.sop_class_uid, meta.transfer_syntax_uid
        except UnreadableDataSet as error:
            damage = damage or str(error)
    return Saved(
        name=file.name,
        bytes=decoded.length,
        why=why,
        at=at,
        damage=damage,
        deleted=decoded.tombstone,
        sequence=header.position.sequence,
        epoch=header.position.epoch,
        kind=header.kind.value,
        time_us=header.time_us,
        path=header.path,
        digest=header.digest.hex(),
        sop_instance_uid=uid,
        sop_class_uid=sop_class,
        transfer_syntax_uid=syntax,
    )


def _damage(decoded: DecodedRecord, descriptor: int, at: int, size: int) -> str | None:
    header = decoded.header
    if size - at < decoded.payload_offset + header.size:
        return f"it is cut short: {size - at} bytes of {decoded.length}"
    found = digests_of(header.kind, _pieces(descriptor, at + decoded.payload_offset, header.size))
    matches = (found.digest, found.dataset) == (header.digest, header.dataset)
    return None if matches else "its bytes do not match its digest"


def _pieces(descriptor: int, at: int, size: int) -> Iterator[bytes]:
    while size > 0 and (piece := os.pread(descriptor, min(PIECE, size), at)):
        yield piece
        at, size = at + len(piece), size - len(piece)


def data_set(data_dir: Path, saved: Saved) -> memoryview:
    """The data set of a sendable record, without preamble and File Meta; mapped, so that its size costs no memory.

    The map goes with its last view: what is on its way to a socket may outlive an association that broke.
    """
    with (data_dir / DIRECTORY / saved.name).open("rb") as file:
        file.seek(saved.at)
        decoded = decode_header(file.read(HEADER_LIMIT))
        whole = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    begin = saved.at + decoded.payload_offset
    end = begin + decoded.header.size
    return whole[begin + part10_meta_length(bytes(whole[begin : begin + 144])) : end]


def set_aside(data_dir: Path, name: str) -> None:
    """Mark a file as resubmitted: it moves below its own directory, durably, and nothing is overwritten."""
    lost = data_dir / DIRECTORY
    done = lost / RESUBMITTED
    if not done.is_dir():
        done.mkdir()
        _sync(lost)
    target, number = done / name, 1
    while target.exists():
        number += 1
        target = done / f"{name}.{number}"
    (lost / name).rename(target)
    _sync(done)
    _sync(lost)


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
