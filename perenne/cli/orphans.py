"""`perenne tier orphans`: objects of the tier that end on a dead branch, judged by what a node knows to be committed.

Reads the node's log as it lies there, beside the running node; nothing is locked, written or deleted.
"""

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from replication.tier.keys import LOG, PREFIX_BYTES, Run, parse_run
from replication.tier.port import NotThere, ObjectStore
from storage.errors import FormatError
from storage.metadata import PROMISE_FILE, newest_promise
from storage.position import GENESIS, LogPoint
from storage.segment_file import SegmentFile
from storage.table import ENTRIES_OFFSET, ENTRY_BYTES, decode_entry


class CommittedLog:
    """What one data directory knows to be committed. Raises OSError, FormatError when it is none."""

    def __init__(self, directory: Path) -> None:
        promise = newest_promise((directory / PROMISE_FILE).read_bytes())
        if promise is None:
            raise FormatError(f"{directory / PROMISE_FILE} is damaged")
        self.floor: LogPoint = promise.floor
        segments = sorted(path for path in (directory / "log").glob("*.tar") if path.stem.isdecimal())
        self._segments = segments
        self._firsts = [int(path.stem) for path in segments]

    def point_at(self, sequence: int) -> LogPoint | None:
        """None beyond the floor, and where the entry is damaged or its segment is gone."""
        if sequence == self.floor.sequence:
            return self.floor
        index = bisect_right(self._firsts, sequence) - 1
        if sequence > self.floor.sequence or index < 0:
            return None
        first = self._firsts[index]
        try:
            with SegmentFile(self._segments[index]) as file:
                raw = file.read(ENTRIES_OFFSET + (sequence - first) * ENTRY_BYTES, ENTRY_BYTES)
        except FileNotFoundError:
            return None
        entry = decode_entry(raw, sequence, first)
        return entry.point if entry is not None else None


@dataclass(frozen=True, slots=True)
class Judged:
    """own: objects of the log. orphans: of dead branches. undecided: they end above what this node knows to be
    committed, or at a record whose entry cannot be read here.
    """

    own: tuple[Run, ...]
    orphans: tuple[Run, ...]
    undecided: tuple[Run, ...]


def judge(runs: Iterable[Run], log: CommittedLog) -> Judged:
    """Epochs rise along a log: above the floor there is no record of an epoch before the floor's."""
    own: list[Run] = []
    orphans: list[Run] = []
    undecided: list[Run] = []
    for run in runs:
        point = log.point_at(run.last)
        if point is not None and point.position == run.end and point.chain[:PREFIX_BYTES] == run.chain_prefix:
            own.append(run)
        elif point is not None or (run.last > log.floor.sequence and run.epoch < log.floor.epoch):
            orphans.append(run)
        else:
            undecided.append(run)
    return Judged(tuple(own), tuple(orphans), tuple(undecided))


async def survey(store: ObjectStore, log: CommittedLog) -> tuple[Judged, dict[Run, int]]:
    """List the tier, and ask for the size of each orphan. Raises TierError."""
    found = judge([run async for key in store.list(LOG) if (run := parse_run(key)) is not None], log)
    sizes: dict[Run, int] = {}
    for run in found.orphans:
        try:
            sizes[run] = (await store.head(run.key)).size
        except NotThere:
            continue  # somebody took it away since it was listed
    return found, sizes


def document(found: Judged, sizes: dict[Run, int], log: CommittedLog) -> dict[str, object]:
    """For `--json`."""
    floor = log.floor if log.floor != GENESIS else None
    return {
        "committed_upto": floor.sequence if floor is not None else 0,
        "objects": len(found.own) + len(found.orphans) + len(found.undecided),
        "undecided": len(found.undecided),
        "orphans": [
            {"key": run.key, "epoch": run.epoch, "first": run.first, "last": run.last, "bytes": sizes[run]}
            for run in found.orphans
            if run in sizes
        ],
    }
