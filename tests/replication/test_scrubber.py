"""Goal: a scrub of a node that runs finds what is damaged on the medium, and nothing else.

Method: a real log on a real disk, with damage behind its back.
"""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from replication.scrubber import ScrubReading
from storage.disk import RealDisk
from storage.log import Log
from storage.scrub import Depth, Read
from storage.table import ENTRIES_OFFSET, ENTRY_BYTES, MARK_OFFSETS
from tests.storage.compacting import bury, compact
from tests.storage.log_helpers import IDENTITY, append, record_after

SIZES = (3000, 20_000, 500, 9000, 40_000, 100, 12_000, 30_000)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    """Three segments, the last of them not sealed."""
    opened = Log.open(RealDisk(tmp_path), IDENTITY, host_rebooted=False, spares=0)[0]
    for epoch in (1, 2, 3):
        for size in SIZES[: 3 if epoch == 3 else 8]:
            append(opened, size, epoch)
            opened.sync()
    yield opened
    opened.close()


def overwrite(directory: Path, name: str, offset: int, data: bytes) -> None:
    with (directory / name).open("r+b") as file:
        file.seek(offset)
        file.write(data)


def scrubbed(log: Log, directory: Path, depth: Depth, step: int = 1) -> tuple[list[int], dict[int, list[str]]]:
    """Read everything in steps of `step` bytes; return what is known to be damaged, and the faults by segment."""
    reading = ScrubReading(log, directory)
    faults: dict[int, list[str]] = {}
    following = 1
    while True:
        done = reading.step(Read(depth, following, log.durable.sequence, step))
        if done.nothing_left:
            return list(log.damaged()), faults
        if done.segment is not None:
            following = done.segment.last + 1
            if done.segment.faults:
                faults[done.segment.first] = [fault.text for fault in done.segment.faults]


@pytest.mark.parametrize("depth", list(Depth))
def test_a_sound_log_is_found_sound(log: Log, tmp_path: Path, depth: Depth) -> None:
    assert len(log.segments()) >= 3
    assert scrubbed(log, tmp_path, depth) == ([], {})


def test_a_pass_that_begins_anew_does_not_go_on_in_the_middle(log: Log, tmp_path: Path) -> None:
    reading, upto = ScrubReading(log, tmp_path), log.durable.sequence
    assert reading.step(Read(Depth.DEEP, 9, upto, 1)).segment is None, "the second segment is being read"
    reading.forget(Depth.DEEP)
    done = reading.step(Read(Depth.DEEP, 1, upto, 1 << 30))
    assert done.segment is not None and done.segment.first == 1


def place(log: Log, sequence: int) -> tuple[str, int]:
    entry = log.entry(sequence)
    assert entry is not None
    return f"log/{entry.segment:012d}.tar", entry.offset


@pytest.mark.parametrize("sequence", [2, 8, 13, 18])
def test_a_deep_scrub_finds_what_nobody_has_read(log: Log, tmp_path: Path, sequence: int) -> None:
    name, offset = place(log, sequence)
    payload = log.read(sequence).payload  # its pages are in memory now, and sound
    overwrite(tmp_path, name, offset + 4096 + payload.size // 2, b"rot")
    assert scrubbed(log, tmp_path, Depth.LIGHT) == ([], {})
    assert scrubbed(log, tmp_path, Depth.DEEP) == ([sequence], {})


def test_a_light_scrub_finds_damaged_headers(log: Log, tmp_path: Path) -> None:
    name, offset = place(log, 3)
    overwrite(tmp_path, name, offset + 600, b"rot")
    assert scrubbed(log, tmp_path, Depth.LIGHT) == ([3], {})


def test_what_lies_around_the_records_is_written_anew(log: Log, tmp_path: Path) -> None:
    """In a sealed segment all of it; in the newest, header and entries."""
    first, newest = (place(log, sequence)[0] for sequence in (1, 17))
    for segment in log.segments():
        assert log.mend_frame(segment.first) == []
    before = {name: (tmp_path / name).read_bytes() for name in (first, newest)}
    for name in (first, newest):
        overwrite(tmp_path, name, 700, b"rot")
        overwrite(tmp_path, name, ENTRIES_OFFSET + ENTRY_BYTES, b"rot")
    overwrite(tmp_path, first, MARK_OFFSETS[1], b"rot")
    overwrite(tmp_path, first, len(before[first]) - 6000, b"rot")
    damaged, faults = scrubbed(log, tmp_path, Depth.LIGHT)
    assert damaged == [] and set(faults) == {1, 17}
    saved = [name for segment in faults for name in log.mend_frame(segment)]
    assert {name: (tmp_path / name).read_bytes() for name in before} == before
    assert any(b"rot" in (tmp_path / name).read_bytes() for name in saved)
    assert scrubbed(log, tmp_path, Depth.DEEP) == ([], {})
    append(log, 700, 3)
    log.sync()
    assert scrubbed(log, tmp_path, Depth.DEEP) == ([], {}), "the newest goes on with a sound table"


def test_what_was_cut_or_stored_meanwhile_is_not_damaged(log: Log, tmp_path: Path) -> None:
    reading = ScrubReading(log, tmp_path)
    read = Read(Depth.DEEP, 17, log.durable.sequence, 1)
    reading.step(read)
    log.truncate_after(17)
    append(log, 900, 3, salt=9)
    log.sync()
    while reading.step(read).segment is None:
        pass
    assert log.damaged() == ()


@pytest.mark.parametrize("depth", list(Depth))
def test_a_log_that_is_written_and_cut_meanwhile_raises_no_alarm(log: Log, tmp_path: Path, depth: Depth) -> None:
    stop = threading.Event()

    def write() -> None:
        epoch = 3
        while not stop.wait(0.001):
            for size in (200, 9000, 15_000):
                append(log, size, epoch)
            log.sync()
            if log.end.sequence > 60:
                log.truncate_after(30)
                epoch += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        reading, following, passes = ScrubReading(log, tmp_path), 1, 0
        while passes < 8:
            done = reading.step(Read(depth, following, log.durable.sequence, 1))
            if done.nothing_left:
                following, passes = 1, passes + 1
            elif done.segment is not None:
                following = done.segment.last + 1
                assert not done.segment.contradicts(log.segments()), done.segment.faults
    finally:
        stop.set()
        writer.join()
    assert log.damaged() == ()
    assert scrubbed(log, tmp_path, Depth.DEEP) == ([], {})


@pytest.mark.parametrize("depth", list(Depth))
def test_a_scrub_tells_a_stub_that_nothing_covers_from_one_that_is_right(tmp_path: Path, depth: Depth) -> None:
    log = Log.open(RealDisk(tmp_path), IDENTITY, host_rebooted=False, spares=0)[0]
    append(log, 300)
    header, chain, _ = record_after(log.end, 9000)
    log.append_stub(header, chain, 4)
    append(log, 300)
    log.sync()
    at = bury(log, [1])
    append(log, 300, 2)
    log.sync()
    assert log.damaged() == (2,)
    log.damage.clear(2)  # as if its register had been lost
    compact(log, [1], at)
    assert scrubbed(log, tmp_path, depth) == ([2], {})
    log.close()
