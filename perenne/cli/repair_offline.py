"""`perenne repair DATA_DIR`: mends the log of a node that does not run, from another node's directory or the tier.

First whole segments, for what no open log could mend: one that is missing, or of which nothing can be believed. Then
record by record, by the log's own rules (`Log.repair`). Each byte that is taken is proved by chain and digest, each
that is replaced goes to lost+found first.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from perenne.cli.offline_log import OfflineNode
from perenne.cli.usage import completed
from replication.opening import UNSETTLED
from storage.damage import DamageRegister
from storage.errors import FormatError, LogContradiction, RecordAbsent, RecordCorrupt, StorageError
from storage.install import SegmentProof
from storage.log import Log
from storage.lostfound import DIRECTORY as LOST_AND_FOUND
from storage.metadata import PromiseFile
from storage.position import LogPoint, LogPosition
from storage.reader import Payload
from storage.segment import segment_name
from storage.segment_file import PIECE, SegmentFile
from storage.table import PAGE, decode_segment_header
from storage.walk import Fault, Found, Walk

STAGED: Final = "staging/repair.tar"


@dataclass(slots=True)
class Surveyed:
    """What is wrong with a log. segments: by first record, those that no open log could mend; records: the others."""

    segments: dict[int, str] = field(default_factory=dict[int, str])
    records: list[int] = field(default_factory=list[int])
    frames: list[int] = field(default_factory=list[int])
    missing: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    """Records of which no segment is there, as (first, last)."""

    @property
    def sound(self) -> bool:
        return not (self.segments or self.records or self.frames or self.missing)


@dataclass(slots=True)
class Repaired:
    """What was done, for a person. left: what could not be mended, and why. begun: whether anything may be changed."""

    begun: bool = False
    segments: list[str] = field(default_factory=list[str])
    records: list[int] = field(default_factory=list[int])
    frames: list[int] = field(default_factory=list[int])
    saved: list[str] = field(default_factory=list[str])
    left: list[str] = field(default_factory=list[str])


class Source(Protocol):
    """Where sound bytes come from. Nothing that it gives is believed. lacking: why a segment is not to be had there."""

    lacking: str

    def segment(self, first: int) -> Path | None:
        """A file that claims to be the sealed segment that begins with this record."""
        ...

    def record(self, epoch: int, sequence: int) -> Payload | None:
        """A whole record, as it lies in a segment."""
        ...


def survey(directory: Path, reached: Callable[[int], None]) -> Surveyed:
    """Read everything from the medium. reached: told of each segment's end, in bytes."""
    walk = Walk(directory, verify=True, medium=True)
    result, done = Surveyed(), 0
    for path in walk.segments():
        first, headless = int(path.stem), not _has_header(path)
        for found in walk.segment(path):
            why = _noted(found, first, result)
            if why is not None and (headless or why.lost > 1):
                # Neither its records nor its neighbours say where each begins: no open log could mend it.
                result.segments[first] = why.text
        done += path.stat().st_size
        reached(done)
    for fault in walk.finish():
        if fault.note:
            continue
        if fault.sequence is not None and fault.sequence <= walk.end:
            result.records.append(fault.sequence)
        else:
            result.missing.append((walk.end + 1, walk.end + fault.lost))
    return result


def _has_header(path: Path) -> bool:
    try:
        with SegmentFile(path, medium=True) as file:
            decode_segment_header(file.read(0, PAGE))
    except (FormatError, OSError):
        return False
    return True


def _noted(found: Found | Fault, first: int, result: Surveyed) -> Fault | None:
    """Sort what a walk says; return what cost a record."""
    if isinstance(found, Found):
        if found.damage is None:
            return None
        sequence = found.header.position.sequence
        result.records.append(sequence)
        return Fault(found.segment, sequence, found.damage, lost=1)
    if found.note:
        return None
    if not found.lost or found.sequence is None:
        result.frames.append(first)
        return None
    if found.sequence < first:
        result.missing.append((found.sequence, first - 1))
        return None
    result.records += range(found.sequence, found.sequence + found.lost)
    return found


def mend(node: OfflineNode, wrong: Surveyed, source: Source, done: Repaired) -> None:
    """Do what can be done; `done` grows meanwhile. Raises StorageError when the log cannot be opened afterwards."""
    done.begun = True
    failed = dict[int, str]()
    for first in sorted({*wrong.segments, *(first for first, _ in wrong.missing)}):
        _mend_segment(node, first, source, done, failed, upto=_last_missing(wrong, first))
    try:
        _mend_inside(node, wrong, source, done)
    except FormatError:
        if not failed:
            raise
        done.left += _lines(failed)
        return  # without those segments the log cannot be opened: what is wrong besides waits for them
    _look_again(node.directory, wrong, failed, done)


def _mend_inside(node: OfflineNode, wrong: Surveyed, source: Source, done: Repaired) -> None:
    """Single records, and what lies around them, in a log that can be opened."""
    with node.log() as log:
        damaged = set(log.damaged()) | {one for one in wrong.records if log.judge(one)}
        tail = log.tail
        if tail is not None:
            damaged |= set(range(tail.first, tail.last + 1))
            _unsettle(node)
        for sequence in sorted(damaged):
            _mend_record(node, log, sequence, source, done)
        for segment in log.segments():
            if saved := log.mend_frame(segment.first) if log.tail is None else []:
                done.saved += saved


def _unsettle(node: OfflineNode) -> None:
    """Before the end of the log is cut or replaced: this node may have confirmed what stood there, and may end without
    it, by a crash or since the source lacks it. It then asks the others before it leads, as for a torn tail (ADR 0002).
    """
    promise = PromiseFile(node.disk)
    try:
        promise.store(host_boot=promise.value.host_boot.removesuffix(UNSETTLED) + UNSETTLED)
    finally:
        promise.close()


def _look_again(directory: Path, wrong: Surveyed, failed: dict[int, str], done: Repaired) -> None:
    """What lies around the records is mended by whoever opens the log, and a segment that was not to be had may have
    been mended record by record: see that it is.
    """
    walk = Walk(directory, verify=False, medium=True)
    faults, lacking = dict[int, str](), dict[int, str]()
    for path in walk.segments():
        first = int(path.stem)
        for found in walk.segment(path):
            if isinstance(found, Fault) and not found.note:
                (lacking if found.lost else faults)[first] = found.text
    done.frames = sorted(set(wrong.frames) - faults.keys())
    still = {first: why for first, why in failed.items() if first in lacking or first not in wrong.segments}
    done.left += [*_lines(still), *_lines(faults)]


def _lines(segments: dict[int, str]) -> list[str]:
    return [f"segment {first}: {why}" for first, why in sorted(segments.items())]


def _last_missing(wrong: Surveyed, first: int) -> int:
    return next((last for begin, last in wrong.missing if begin == first), first)


def _mend_segment(
    node: OfflineNode, first: int, source: Source, done: Repaired, failed: dict[int, str], *, upto: int
) -> None:
    """Take over whole segments from `first` on, until `upto` is held. failed: takes why one could not be."""
    while first <= upto:
        path = source.segment(first)
        if path is None:
            failed[first] = source.lacking
            return
        try:
            end = _take(node, first, path, done)
        except (StorageError, OSError) as error:
            failed[first] = str(error)
            return
        done.segments.append(segment_name(first))
        first = end.sequence + 1


def _take(node: OfflineNode, first: int, path: Path, done: Repaired) -> LogPoint:
    """Copy, prove, and only then put it in place. Raises StorageError, OSError; then nothing was changed."""
    disk = node.disk
    disk.make_directory("staging")
    copy = disk.open(STAGED, create=True)
    try:
        copy.truncate(0)
        with SegmentFile(path) as file:
            offset = 0
            while piece := file.read(offset, PIECE):
                copy.pwrite([piece], offset)
                offset += len(piece)
        copy.sync()
        size = copy.size()
    finally:
        copy.close()
    try:
        identity = node.identity
        before = LogPoint(LogPosition(0, first - 1), _chain_before(node.directory, first))
        proved = SegmentProof(disk, STAGED, size, identity.cluster_id, identity.segment_bytes).finish()
        proved.segment.file.close()
        proved.check_continues(before)
        _fits(node, first, proved.end)
    except StorageError:
        disk.remove(STAGED)
        raise
    if _newest(node.directory) == first:
        _unsettle(node)
    if disk.exists(segment_name(first)):
        disk.make_directory(LOST_AND_FOUND)
        taken = set(disk.list(LOST_AND_FOUND))
        name = next(name for n in range(1, len(taken) + 2) if (name := f"segment-{first:012d}-{n}.tar") not in taken)
        # Both names until the other takes its place: at no moment is there a log that ends before it.
        (node.directory / LOST_AND_FOUND / name).hardlink_to(node.directory / segment_name(first))
        disk.sync_directory(LOST_AND_FOUND)
        done.saved.append(f"{LOST_AND_FOUND}/{name}")
    DamageRegister(disk).note(*proved.stubs)  # until the log, when it is opened, finds their tombstones
    disk.rename(STAGED, segment_name(first))
    return proved.end


def _segments(directory: Path) -> list[int]:
    """By their first records, in order."""
    return sorted(int(path.stem) for path in (directory / "log").glob("*.tar") if path.stem.isdecimal())


def _newest(directory: Path) -> int:
    return max(_segments(directory), default=0)


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


def _fits(node: OfflineNode, first: int, end: LogPoint) -> None:
    """It must end where this node's next segment begins, or where nothing follows. Raises LogContradiction."""
    following = next((one for one in _segments(node.directory) if one > first), None)
    if following is None:
        floor = node.promise.floor
        if floor.sequence == end.sequence and floor.chain != end.chain:
            raise LogContradiction("it does not end as this node knows the log to be committed")
        return
    if end.sequence >= following:
        raise LogContradiction(f"it ends with record {end.sequence}, but the next segment begins with {following}")
    if end.sequence + 1 == following:
        try:
            header = decode_segment_header((node.directory / segment_name(following)).read_bytes()[:PAGE])
        except FormatError:
            return  # damaged as well: its own turn comes, and must follow from here
        if header.chain_before != end.chain:
            raise LogContradiction("the segment after it does not follow from it: it is of another branch")


def _mend_record(node: OfflineNode, log: Log, sequence: int, source: Source, done: Repaired) -> None:
    epoch = next((one.epoch for one in log.segments() if one.first <= sequence <= (one.last or one.first)), None)
    if epoch is None and log.segments():
        epoch = log.segments()[-1].epoch
    found = source.record(epoch or 0, sequence) if sequence <= log.end.sequence + 1 else None
    if found is None:
        done.left.append(f"record {sequence}: the source does not have it sound")
        return
    before = _saved(node)
    try:
        with completed():  # between a cut tail and its record in place, the log ends too early for the next run
            log.repair(sequence, found)
            done.records.append(sequence)
    except (RecordCorrupt, RecordAbsent, LogContradiction) as error:
        done.left.append(f"record {sequence}: {error}")
        return
    done.saved += sorted(_saved(node) - before)


def _saved(node: OfflineNode) -> set[str]:
    return {f"{LOST_AND_FOUND}/{name}" for name in node.disk.list(LOST_AND_FOUND)}
