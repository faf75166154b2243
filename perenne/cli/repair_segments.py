"""The part of `perenne repair DATA_DIR` that takes over whole segments, for what no open log could mend.

A segment is taken when what the source holds from it on leads to something that this node knows: the header of its next
sound segment, an entry of its own table, or the point up to which it knows the log to be committed. At the end of the
log there may be nothing of the kind. Then it need only follow, and the node is made to ask the others before it leads.
"""

import errno
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from perenne.cli.offline_log import OfflineNode
from replication.opening import UNSETTLED
from storage.damage import DamageRegister
from storage.errors import FormatError, LogContradiction, StorageError
from storage.evicted import decode_stub
from storage.install import SegmentProof
from storage.lostfound import DIRECTORY as LOST_AND_FOUND
from storage.lostfound import LostAndFound
from storage.metadata import PromiseFile
from storage.position import LogPoint, LogPosition, chain_after
from storage.segment import open_segment, segment_name
from storage.segment_file import PIECE, SegmentFile
from storage.table import (
    ENTRIES_OFFSET,
    ENTRY_BYTES,
    MARK_OFFSETS,
    PAGE,
    SegmentHeader,
    capacity,
    data_offset,
    decode_entry,
    decode_segment_header,
)
from storage.walk import Found, Walk

STAGED: Final = "staging/repair.tar"
_NO_LINKS: Final = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EACCES})


class Segments(Protocol):
    """Where whole segments come from. lacking: why one is not to be had there."""

    lacking: str

    def segment(self, first: int) -> Path | None:
        """A file that claims to be the sealed segment that begins with this record."""
        ...


@dataclass(slots=True)
class Taken:
    """What was done. shorter: what lay there beyond the end of what was taken."""

    segments: list[str] = field(default_factory=list[str])
    saved: list[str] = field(default_factory=list[str])
    shorter: list[str] = field(default_factory=list[str])


def take_segments(node: OfflineNode, first: int, source: Segments, done: Taken, *, upto: int) -> str | None:
    """Take over whole segments from `first` on, until `upto` is held. Return why one could not be, if so."""
    while first <= upto:
        path = source.segment(first)
        if path is None:
            return source.lacking
        try:
            end = _take(node, first, path, source, done)
        except (StorageError, OSError) as error:
            return str(error)
        done.segments.append(segment_name(first))
        first = end.sequence + 1
    return None


def unsettle(node: OfflineNode) -> None:
    """Before the end of the log is cut or replaced: this node may have confirmed what stood there, and may end without
    it, by a crash or since the source lacks it. It then asks the others before it leads, as for a torn tail (ADR 0002).
    """
    promise = PromiseFile(node.disk)
    try:
        promise.store(host_boot=promise.value.host_boot.removesuffix(UNSETTLED) + UNSETTLED)
    finally:
        promise.close()


def _take(node: OfflineNode, first: int, path: Path, source: Segments, done: Taken) -> LogPoint:
    """Copy, prove, and only then put it in place. Raises StorageError, OSError; then nothing was changed."""
    disk = node.disk
    before = LogPoint(LogPosition(0, first - 1), _chain_before(node.directory, first))
    _refuse_if_not_sealed(path, node.identity.segment_bytes)
    seen = _leads(node, before, path, source)
    disk.make_directory("staging")
    try:
        size = _copied(node, path)
        identity = node.identity
        proved = SegmentProof(disk, STAGED, size, identity.cluster_id, identity.segment_bytes).finish()
        proved.segment.file.close()
        proved.check_continues(before)
        if seen.chains.get(proved.end.sequence) != proved.end.chain:
            raise LogContradiction("it changed while it was read: type this again")
        last = proved.end.sequence
        if seen.next is None:
            unsettle(node)
        elif last >= seen.next:
            raise LogContradiction(f"it ends with record {last}, but the next segment begins with {seen.next}")
        register = DamageRegister(disk)
        if disk.exists(segment_name(first)):
            done.saved.append(_kept(node, first, lambda: register.note(*range(first, last + 1))))
        register.note(*proved.stubs)  # until the log, when it is opened, finds their tombstones
        disk.rename(STAGED, segment_name(first))
    finally:
        if disk.exists(STAGED):
            disk.remove(STAGED)
    if seen.beyond > last and seen.next is None and source.segment(last + 1) is None:
        done.shorter.append(
            f"record {seen.beyond} lay there, and the source ends with {last}: what lay there is kept in lost+found,"
            " and the others are asked before this node leads"
        )
    return proved.end


def _copied(node: OfflineNode, path: Path) -> int:
    """Copy to this node's own disk, where it does not change any more; return its size."""
    copy = node.disk.open(STAGED, create=True)
    try:
        copy.truncate(0)
        with SegmentFile(path) as file:
            offset = 0
            while piece := file.read(offset, PIECE):
                copy.pwrite([piece], offset)
                offset += len(piece)
        copy.sync()
        return copy.size()
    finally:
        copy.close()


def _refuse_if_not_sealed(path: Path, segment_bytes: int) -> None:
    """Raises LogContradiction, with what to do about it; OSError."""
    with SegmentFile(path) as file:
        marks = file.read(MARK_OFFSETS[0], 2 * PAGE)
    if decode_stub(marks, data_offset(segment_bytes)) is not None:
        raise LogContradiction("the other node has evicted it: take it from one that keeps it")
    if marks.strip(b"\0"):
        raise LogContradiction("the other node still writes to it, or was killed: stop it in good order, and try again")


def _kept(node: OfflineNode, first: int, about_to_be_gone: Callable[[], None]) -> str:
    """Give what lies there a second name, so that at no moment there is a log that ends before it.

    Where the file system has no hard links it is moved, and `about_to_be_gone` called before; to another one, copied.
    """
    disk, live = node.disk, node.directory / segment_name(first)
    disk.make_directory(LOST_AND_FOUND)
    stem = f"{LOST_AND_FOUND}/segment-{first:012d}"
    number = 1
    while disk.exists(name := f"{stem}-{number}.tar"):
        if (node.directory / name).samefile(live):
            return name  # of a run that was killed here
        number += 1
    try:
        (node.directory / name).hardlink_to(live)
    except OSError as error:
        if error.errno == errno.EXDEV:
            return _copied_away(node, first, name)
        if error.errno not in _NO_LINKS:
            raise
        about_to_be_gone()
        disk.rename(segment_name(first), name)
    disk.sync_directory(LOST_AND_FOUND)
    return name


def _copied_away(node: OfflineNode, first: int, name: str) -> str:
    """All that the disk still gives back of a segment."""
    header = SegmentHeader("", node.identity.segment_bytes, first, 0, bytes(32))
    segment = open_segment(node.disk, segment_name(first), header, direct=False)
    try:
        return LostAndFound(node.disk).save_segment(name, segment.salvaged(0, segment.size))
    finally:
        segment.file.close()


# What is proved, and by what


@dataclass(slots=True)
class _Seen:
    """What the source holds. chains: by record. next: where this node's own next sound segment begins. beyond: the last
    record of which this node has an entry.
    """

    chains: dict[int, bytes]
    next: int | None
    beyond: int


def _leads(node: OfflineNode, before: LogPoint, path: Path, source: Segments) -> _Seen:
    """See that what the source holds after `before` leads to what this node knows. Raises LogContradiction."""
    known, header, openable = _known(node, before.sequence + 1)
    chains, chain = dict[int, bytes](), before.chain
    wanted = max(known, default=0)
    following: Path | None = path
    while following is not None and (not chains or max(chains) < wanted):
        reached = len(chains)
        for point in _points(following, before.sequence + 1 + reached, chain):
            chains[point.sequence] = chain = point.chain
        following = source.segment(max(chains) + 1) if len(chains) > reached else None
    end = max(chains, default=before.sequence)
    if any(chains.get(sequence, digest) != digest for sequence, digest in known.items()):
        raise LogContradiction("what this node has after it does not follow from it: it is of another branch")
    sound = f"the source is sound up to record {end} only"
    floor = node.promise.floor.sequence
    if header is not None and end < header.first - 1:
        raise LogContradiction(
            f"{sound}: nothing proves that it leads to {header.first}, where this node's log goes on"
        )
    if header is None and end < floor:
        raise LogContradiction(f"{sound}, but this node knew {floor} to be committed")
    if header is None and openable and end < wanted:
        raise LogContradiction(f"{sound}, and this node has more: record {wanted}")
    return _Seen(chains, header.first if header is not None else None, wanted)


def _points(path: Path, first: int, chain: bytes) -> Iterator[LogPoint]:
    """The records of a segment as far as each follows from the one before. Payloads are not read."""
    walk = Walk(path.parent.parent, verify=False)
    walk.reached(first - 1, chain)
    for found in walk.once(path, None):
        if not isinstance(found, Found):
            if found.lost:
                return
            continue
        if found.damage is not None or found.header.position.sequence != first:
            return
        if chain_after(chain, found.header) != found.chain:
            return
        yield LogPoint(found.header.position, found.chain)
        first, chain = first + 1, found.chain


def _known(node: OfflineNode, first: int) -> tuple[dict[int, bytes], SegmentHeader | None, bool]:
    """Chains that this node knows from `first` on, up to its own next sound segment; that one's header; and whether the
    segment from `first` on has its own.
    """
    known, openable = dict[int, bytes](), False
    floor = node.promise.floor
    if floor.sequence >= first:
        known[floor.sequence] = floor.chain
    for one in segments(node.directory):
        if one < first:
            continue
        path = node.directory / segment_name(one)
        header = _header(path)
        if header is not None and one > first:
            known = {sequence: chain for sequence, chain in known.items() if sequence < one}
            known[one - 1] = header.chain_before
            return known, header, openable
        openable = openable or header is not None
        known |= _entries(path, one, node.identity.segment_bytes)
    return known, None, openable


def _header(path: Path) -> SegmentHeader | None:
    try:
        with SegmentFile(path) as file:
            return decode_segment_header(file.read(0, PAGE))
    except (FormatError, OSError):
        return None


def _entries(path: Path, first: int, segment_bytes: int) -> dict[int, bytes]:
    """What is left of a table says of which branch its records are."""
    slots = capacity(segment_bytes)
    try:
        with SegmentFile(path) as file:
            table = file.read(ENTRIES_OFFSET, slots * ENTRY_BYTES)
    except OSError:
        return {}
    found = (decode_entry(table[n * ENTRY_BYTES : (n + 1) * ENTRY_BYTES], first + n, first) for n in range(slots))
    return {entry.position.sequence: entry.chain for entry in found if entry is not None}


def _chain_before(directory: Path, first: int) -> bytes:
    """This node's own chain up to the record before: nothing else may say what follows. Raises LogContradiction."""
    walk = Walk(directory, verify=False)
    for path in walk.segments():
        if int(path.stem) >= first:
            break
        for _ in walk.segment(path):
            pass
    if walk.end != first - 1 or walk.chain is None:
        raise LogContradiction(f"what lies before record {first} is damaged itself: it must be mended first")
    return walk.chain


def segments(directory: Path) -> list[int]:
    """By their first records, in order."""
    return sorted(int(path.stem) for path in (directory / "log").glob("*.tar") if path.stem.isdecimal())
