"""Goal: a bad sector is damage like other damage: known, mended, and never the end of a node.

Method: a disk in memory that refuses to read some pages, until they are written whole.
"""

import errno
import os
from pathlib import Path

import pytest

from storage.disk import RealDisk
from storage.errors import MediumUnreadable, RecordCorrupt
from storage.log import Log
from storage.rawrecord import WholeRecord
from storage.record import encode_header
from storage.table import ENTRIES_OFFSET, ENTRY_BYTES, PAGE
from tests.storage.log_helpers import IDENTITY, append, record_after
from tests.storage.memory_disk import MemoryDisk

FIRST = "log/000000000001.tar"
SIZES = (3000, 20_000, 500, 9000, 5000)


def filled() -> tuple[MemoryDisk, Log, dict[int, bytes]]:
    """Segments of records 1-3, 4-5, 6-8 and 9-10, which is open; and every record as it lies there."""
    disk = MemoryDisk()
    log = Log.open(disk, IDENTITY, host_rebooted=False, spares=0)[0]
    for epoch in (1, 2):
        for size in SIZES:
            append(log, size, epoch)
            log.sync()
    return disk, log, {number: log.read_raw(number) for number in range(1, 11)}


@pytest.mark.parametrize(("sequence", "page"), [(2, 0), (2, 2), (7, 3), (10, 0), (10, 1)])
def test_an_unreadable_record_is_damage_and_is_mended_by_writing_it_anew(sequence: int, page: int) -> None:
    disk, log, held = filled()
    entry, stored = log.entry(sequence), log.read(sequence)
    lent = WholeRecord(stored.header, stored.chain, stored.payload)  # as it comes from another node: in three parts
    assert entry is not None
    name = f"log/{entry.segment:012d}.tar"
    before = bytes(disk.files[name].volatile)
    disk.files[name].unreadable.add(entry.offset // PAGE + page)
    with pytest.raises(RecordCorrupt):
        log.read(sequence)
    assert log.damaged() == (sequence,)
    assert log.read_raw(sequence - 1) == held[sequence - 1], "its neighbour is sound"
    log.repair(sequence, lent)
    assert log.read_raw(sequence) == held[sequence] and log.damaged() == ()
    assert bytes(disk.files[name].volatile) == before
    saved = [bytes(disk.files[one].volatile) for one in disk.files if one.endswith("-damaged.bin")]
    (left,) = saved
    assert left[page * PAGE : (page + 1) * PAGE] == bytes(PAGE), "what could not be read is zero"
    assert left[: page * PAGE] + left[(page + 1) * PAGE :] == (
        held[sequence][: page * PAGE] + held[sequence][(page + 1) * PAGE :]
    ), "and what could be is kept"


@pytest.mark.parametrize("first", [1, 9])
def test_an_unreadable_table_is_written_anew(first: int) -> None:
    disk, log, held = filled()
    name = f"log/{first:012d}.tar"
    before = bytes(disk.files[name].volatile)
    disk.files[name].unreadable.add(ENTRIES_OFFSET // PAGE)
    assert log.entry(first + 1) is None
    assert log.read_raw(first) == held[first]
    assert len(log.mend_frame(first)) == 1
    assert bytes(disk.files[name].volatile) == before
    assert all(log.read_raw(number) == held[number] for number in held)
    assert log.damaged() == ()


def test_a_record_is_mended_although_the_page_of_its_entry_cannot_be_read() -> None:
    disk, log, held = filled()
    entry = log.entry(2)
    assert entry is not None
    disk.files[FIRST].unreadable |= {ENTRIES_OFFSET // PAGE, entry.offset // PAGE + 1}
    with pytest.raises(RecordCorrupt):
        log.read(2)
    log.mend_frame(1)
    log.repair(2, held[2])
    log.mend_frame(1)
    assert all(log.read_raw(number) == held[number] for number in held) and log.damaged() == ()


def test_what_the_kernel_says_of_a_bad_sector_is_told_from_other_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = RealDisk(tmp_path).open("file", create=True)

    def failing(code: int) -> None:
        def pread(*_: object) -> bytes:
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr("storage.disk.os.pread", pread)

    failing(errno.EIO)
    with pytest.raises(MediumUnreadable, match="file cannot be read at byte 4096"):
        file.pread(10, 4096)
    failing(errno.EBADF)
    with pytest.raises(OSError, match="Bad file descriptor"):
        file.pread(10, 4096)


def test_an_entry_is_not_made_of_a_record_that_the_chain_does_not_go_through() -> None:
    """A lost write leaves an older record behind, which follows the one before as well as the right one did."""
    disk, log, _ = filled()
    before, entry = log.point_at(1), log.entry(2)
    assert before is not None and entry is not None
    header, chain, payload = record_after(before, SIZES[1], salt=3)
    other = encode_header(header, chain) + payload.data
    file = disk.open(FIRST)
    file.pwrite([other.ljust(entry.length, b"\0")], entry.offset)
    file.pwrite([bytes(ENTRY_BYTES)], ENTRIES_OFFSET + ENTRY_BYTES)
    assert log.mend_frame(1) == []
    assert log.entry(2) is None
