"""What `perenne repair DATA_DIR --dry-run` foresees: whether the source has what is wrong here."""

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from perenne.cli.repair_offline import Source, Surveyed
from storage.errors import FormatError
from storage.segment_file import SegmentFile
from storage.table import PAGE, decode_segment_header


@dataclass(slots=True)
class Foreseen:
    """What the source has, and lacks: records by sequence, sound there, and segments by their first record. Whether
    they are of this log is proved only when they are put in place.
    """

    records: list[int] = field(default_factory=list[int])
    segments: list[int] = field(default_factory=list[int])
    lacking_records: list[int] = field(default_factory=list[int])
    lacking_segments: list[int] = field(default_factory=list[int])

    def lines(self) -> list[str]:
        """For a person."""
        records, segments = len(self.records) + len(self.lacking_records), len(self.segments + self.lacking_segments)
        has = [f"{len(self.records)} of {records} records sound"] if records else []
        has += [f"{len(self.segments)} of {segments} segments"] if segments else []
        said = [f"the source has {' and '.join(has)}; that they are this log's is proved as they come"] if has else []
        lacking = [*(f"segment {one}" for one in self.lacking_segments), *(f"{one}" for one in self.lacking_records)]
        return [*said, *([f"it lacks {', '.join(lacking[:20])} ({len(lacking)})"] if lacking else [])]


def foreseen(directory: Path, wrong: Surveyed, source: Source, reached: Callable[[int], None]) -> Foreseen:
    """Ask the source for everything that is wrong. reached: told how many it was asked for.

    Raises StorageError, TierError, OSError.
    """
    result, epochs = Foreseen(), _epochs(directory)
    for first in sorted({*wrong.segments, *(first for first, _ in wrong.missing)}):
        (result.segments if source.segment(first) is not None else result.lacking_segments).append(first)
    firsts = [first for first, _ in epochs]
    places = {sequence: bisect_right(firsts, sequence) for sequence in set(wrong.records)}
    asked = {sequence: epochs[place - 1][1] if place else 0 for sequence, place in places.items()}
    for done, (sequence, found) in enumerate(source.sound(asked), 1):
        (result.records if found else result.lacking_records).append(sequence)
        reached(done)
    return result


def _epochs(directory: Path) -> list[tuple[int, int]]:
    """Of each segment whose header can be read, its first record and its epoch."""
    found: list[tuple[int, int]] = []
    for path in sorted((directory / "log").glob("*.tar")):
        try:
            with SegmentFile(path) as file:
                header = decode_segment_header(file.read(0, PAGE))
        except (FormatError, OSError):
            continue
        found.append((header.first, header.epoch))
    return found
