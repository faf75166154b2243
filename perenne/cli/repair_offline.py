"""`perenne repair DATA_DIR`: mends the log of a node that does not run, from another node's directory or the tier.

First whole segments, for what no open log could mend: one that is missing, or of which nothing can be believed. Then
record by record, by the log's own rules (`Log.repair`). Each byte that is taken is proved by chain and digest, each
that is replaced goes to lost+found first.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from perenne.cli.offline_log import OfflineNode
from perenne.cli.repair_segments import Segments, Taken, take_segments, unsettle
from perenne.cli.usage import completed
from storage.errors import FormatError, LogContradiction, RecordAbsent, RecordCorrupt
from storage.log import Log
from storage.lostfound import DIRECTORY as LOST_AND_FOUND
from storage.metadata import Promise
from storage.reader import Payload
from storage.record import decode_header
from storage.segment import segment_name
from storage.segment_file import SegmentFile
from storage.table import PAGE, decode_segment_header
from storage.walk import Fault, Found, Walk


@dataclass(slots=True)
class Surveyed:
    """What is wrong with a log. segments: by first record, those that no open log could mend; records: the others.

    headless: segments whose own header is damaged. Mostly their first record says what it was.
    """

    segments: dict[int, str] = field(default_factory=dict[int, str])
    headless: list[int] = field(default_factory=list[int])
    records: list[int] = field(default_factory=list[int])
    frames: list[int] = field(default_factory=list[int])
    missing: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    """Records of which no segment is there, as (first, last)."""

    @property
    def sound(self) -> bool:
        return not (self.segments or self.records or self.frames or self.missing)


@dataclass(slots=True)
class Repaired(Taken):
    """What was done, for a person. left: what could not be mended, and why. begun: whether anything may be changed."""

    begun: bool = False
    records: list[int] = field(default_factory=list[int])
    frames: list[int] = field(default_factory=list[int])
    left: list[str] = field(default_factory=list[str])

    @property
    def progress(self) -> int:
        return len(self.segments) + len(self.records) + len(self.frames)


class Source(Segments, Protocol):
    """Where sound bytes come from. Nothing that it gives is believed."""

    def record(self, epoch: int, sequence: int) -> Payload | None:
        """A whole record, as it lies in a segment."""
        ...

    def sound(self, epochs: Mapping[int, int]) -> Iterator[tuple[int, bool]]:
        """Of each of these records, in their order, whether it is sound there. epochs: by sequence."""
        ...


def survey(directory: Path, reached: Callable[[int], None]) -> Surveyed:
    """Read everything from the medium. reached: told of each segment's end, in bytes."""
    walk = Walk(directory, verify=True, medium=True)
    result, done, previous = Surveyed(), 0, 0
    for path in walk.segments():
        first, headless, follows = int(path.stem), not _has_header(path), walk.chain is not None
        if headless:
            result.headless.append(first)
        for found in walk.segment(path):
            why = _noted(found, first, result)
            if why is not None and (headless or why.lost > 1):
                # Neither its records nor its neighbours say where each begins: no open log could mend it.
                result.segments[first] = why.text
        if headless and previous and not follows:
            # The header is to be had only with the segment, which must follow from the record before.
            result.segments.setdefault(first, "its header is damaged, and so is the record before it")
            result.segments.setdefault(previous, "its last record is damaged, and so is the header after it")
        previous = first
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
        if first not in result.frames:
            result.frames.append(first)
        return None
    if found.sequence < first:
        result.missing.append((found.sequence, first - 1))
        return None
    result.records += range(found.sequence, found.sequence + found.lost)
    return found


def mend(node: OfflineNode, wrong: Surveyed, source: Source, done: Repaired) -> None:
    """Do what can be done; `done` grows meanwhile, but `left` is of this round. Raises StorageError when the log cannot
    be opened afterwards.
    """
    done.begun, done.left = True, []
    failed = dict[int, str]()
    for first in sorted({*wrong.segments, *(first for first, _ in wrong.missing)}):
        _take(node, first, source, done, failed, upto=_last_missing(wrong, first))
    try:
        _mend_inside(node, wrong, source, done)
    except (FormatError, LogContradiction):
        tried = {*failed, *wrong.segments}
        for first in wrong.headless:
            if first not in tried:  # a header of which nothing that is left says what it was
                _take(node, first, source, done, failed, upto=first)
        if not failed and tried.issuperset(wrong.headless):
            raise
        if failed:
            done.left += _lines(failed)
            return  # without those segments the log cannot be opened: what is wrong besides waits for them
        _mend_inside(node, wrong, source, done)
    _look_again(node, wrong, failed, done)


def _take(node: OfflineNode, first: int, source: Source, done: Repaired, failed: dict[int, str], *, upto: int) -> None:
    if (why := take_segments(node, first, source, done, upto=upto)) is not None:
        failed[first] = why


def _mend_inside(node: OfflineNode, wrong: Surveyed, source: Source, done: Repaired) -> None:
    """Single records, and what lies around them, in a log that can be opened."""
    with node.log() as log:
        damaged = set(log.damaged()) | {one for one in wrong.records if log.judge(one)}
        for first, upto in wrong.missing:
            damaged -= set(range(first, upto + 1))  # they have no place before their segment is there
        tail, end, last = log.tail, log.end.sequence, log.segments()[-1:]
        floor = node.promise.floor
        if tail is not None:
            damaged |= set(range(tail.first, tail.last + 1))
        if end < floor.sequence and last and last[0].epoch == floor.epoch:
            damaged |= set(range(end + 1, floor.sequence + 1))
        if max(damaged, default=0) > end:
            unsettle(node)
        for sequence in sorted(damaged):
            _mend_record(node, log, sequence, source, done)
        for segment in log.segments():
            if saved := log.mend_frame(segment.first) if log.tail is None else []:
                done.saved += saved


def _look_again(node: OfflineNode, wrong: Surveyed, failed: dict[int, str], done: Repaired) -> None:
    """What lies around the records is mended by whoever opens the log, and what was not to be had as a segment may have
    been mended record by record: see that it is.
    """
    walk = Walk(node.directory, verify=False, medium=True)
    faults, lacking = dict[int, str](), set[int]()
    for path in walk.segments():
        first = int(path.stem)
        for found in walk.segment(path):
            if not isinstance(found, Fault) or found.note:
                continue
            if not found.lost:
                faults[first] = found.text
            else:
                lacking |= {first, *range(found.sequence or first, (found.sequence or first) + found.lost)}
    lacking |= set(range(walk.end + 1, node.promise.floor.sequence + 1))
    named = {segment_name(first) for first in faults}
    taken = {int(name[4:-4]) for name in done.segments if name not in named}
    done.frames = sorted({*done.frames, *wrong.frames} - faults.keys() - taken)
    still = {first: why for first, why in failed.items() if first in lacking}
    done.left += [*_lines(still), *_lines(faults)]


def _lines(segments: dict[int, str]) -> list[str]:
    return [f"segment {first}: {why}" for first, why in sorted(segments.items())]


def _last_missing(wrong: Surveyed, first: int) -> int:
    return next((last for begin, last in wrong.missing if begin == first), first)


def _mend_record(node: OfflineNode, log: Log, sequence: int, source: Source, done: Repaired) -> None:
    epoch = next((one.epoch for one in log.segments() if one.first <= sequence <= (one.last or one.first)), None)
    if epoch is None and log.segments():
        epoch = log.segments()[-1].epoch
    beyond = sequence > log.end.sequence
    found = source.record(epoch or 0, sequence) if sequence <= log.end.sequence + 1 else None
    if found is None:
        done.left.append(f"record {sequence}: the source does not have it sound")
        return
    before = _saved(node)
    try:
        if beyond:
            _refuse_another_branch(found, epoch or 0, node.promise)
        with completed():  # between a cut tail and its record in place, the log ends too early for the next run
            log.repair(sequence, found)
            done.records.append(sequence)
    except (RecordCorrupt, RecordAbsent, LogContradiction) as error:
        done.left.append(f"record {sequence}: {error}")
        return
    done.saved += sorted(_saved(node) - before)


def _refuse_another_branch(found: Payload, epoch: int, promise: Promise) -> None:
    """Nothing of this log comes after it to prove it. But two records of one epoch and number are the same, and the log
    is known up to the floor. Raises LogContradiction, RecordCorrupt.
    """
    decoded = decode_header(next(iter(found.parts())))
    position, floor = decoded.header.position, promise.floor
    if position.epoch != epoch:
        raise LogContradiction(f"what the source has is of epoch {position.epoch}, and what lay here of epoch {epoch}")
    if position.sequence == floor.sequence and decoded.chain != floor.chain:
        raise LogContradiction("what the source has is not what this node knows to be committed")


def _saved(node: OfflineNode) -> set[str]:
    return {f"{LOST_AND_FOUND}/{name}" for name in node.disk.list(LOST_AND_FOUND)}
