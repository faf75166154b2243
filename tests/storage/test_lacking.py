"""Goal: what a replica lacks is known without reading it: its bytes, and when the first record of it came.

Method: a real log of several segments; what is expected is added up from the lengths that were appended.
"""

from collections.abc import Sequence
from pathlib import Path

from storage.disk import RealDisk
from storage.evicted import Stub
from storage.log import Log
from storage.table import ENTRIES_OFFSET, ENTRY_BYTES
from tests.storage.log_helpers import IDENTITY, append

RECORDS = 40


class Nowhere:
    """A tier that must not be asked."""

    def read(self, stub: Stub, stubs: Sequence[int], offset: int, size: int) -> bytes:
        raise AssertionError(f"{stub.first} was read back")

    def forget(self, stub: Stub, stubs: Sequence[int]) -> None:
        raise AssertionError(f"{stub.first} was read back")


def opened(directory: Path) -> Log:
    return Log.open(RealDisk(directory), IDENTITY, host_rebooted=False, spares=0)[0]


def filled(directory: Path) -> tuple[Log, list[int]]:
    """A log of two epochs, the first of which ends early in a segment; and the length of each record."""
    log, lengths = opened(directory), list[int]()
    for number in range(RECORDS):
        append(log, 100 + 400 * (number % 7), epoch=1 if number < 25 else 2)
        entry = log.entry(log.end.sequence)  # not written yet
        assert entry is not None
        lengths.append(entry.length)
    assert sum(one.sealed for one in log.segments()) > 3
    return log, lengths


def assert_sums(log: Log, lengths: list[int]) -> None:
    for sequence in range(RECORDS + 1):
        assert log.bytes_after(sequence) == sum(lengths[sequence:]), sequence
    assert log.bytes_after(RECORDS + 5) == 0


def times(log: Log) -> list[int | None]:
    return [log.time_of(sequence) for sequence in range(1, RECORDS + 2)]


def test_times_are_those_of_the_records_written_or_not(tmp_path: Path) -> None:
    log, _ = filled(tmp_path)
    expected = [1_700_000_000_000_000 + sequence for sequence in range(1, RECORDS + 1)]
    assert times(log) == [*expected, None]
    log.sync()
    place = log.entry(3)
    assert times(log) == [*expected, None] and place is not None
    with (tmp_path / "log" / f"{place.segment:012d}.tar").open("r+b") as file:
        file.seek(place.offset)
        file.write(bytes(4096))
    assert times(log)[:4] == [*expected[:2], None, expected[3]]
    assert log.damaged() == (), "who only looks notes nothing"
    log.close()


def test_they_are_those_of_the_records_before_and_after_a_restart(tmp_path: Path) -> None:
    log, lengths = filled(tmp_path)
    assert_sums(log, lengths)
    log.sync()
    assert_sums(log, lengths)
    log.close()
    log = opened(tmp_path)
    assert_sums(log, lengths)
    log.elsewhere.source = Nowhere()
    for segment in [one for one in log.segments() if one.sealed][::2]:
        log.evict(segment.first)
        assert log.time_of(segment.first) is None, "it lies elsewhere, and nobody waits for it"
    assert_sums(log, lengths)
    log.close()
    log = opened(tmp_path)
    log.elsewhere.source = Nowhere()
    assert_sums(log, lengths)
    log.close()


def test_a_damaged_entry_counts_its_whole_segment(tmp_path: Path) -> None:
    log, lengths = filled(tmp_path)
    log.sync()
    log.close()
    first = next(one for one in opened_segments(tmp_path) if one > 1)
    with (tmp_path / "log" / f"{first:012d}.tar").open("r+b") as file:
        file.seek(ENTRIES_OFFSET + ENTRY_BYTES)
        file.write(bytes(range(ENTRY_BYTES)))
    log = opened(tmp_path)
    assert log.entry(first + 1) is None
    assert log.bytes_after(first) == log.bytes_after(first - 1) == sum(lengths[first - 1 :])
    assert log.bytes_after(first + 1) == sum(lengths[first + 1 :])
    log.close()


def opened_segments(directory: Path) -> list[int]:
    log = opened(directory)
    firsts = [one.first for one in log.segments()]
    log.close()
    return firsts
