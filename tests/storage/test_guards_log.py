"""Guards of the log, each by what happens without it: a disk in memory is looked at after every single operation."""

import pytest

from storage.errors import RecordCorrupt, SegmentPoisoned, StorageFull
from storage.log import Log
from tests.storage.log_helpers import IDENTITY, append, record_after
from tests.storage.memory_disk import MemoryDisk


def filled(sizes: tuple[int, ...]) -> tuple[MemoryDisk, Log]:
    disk = MemoryDisk()
    log = Log.open(disk, IDENTITY, host_rebooted=False, spares=0)[0]
    for size in sizes:
        append(log, size)
        log.sync()
    return disk, log


def on_the_medium(disk: MemoryDisk, directory: str) -> bytes:
    return b"".join(bytes(content.durable) for name, content in disk.files.items() if name.startswith(directory))


def test_what_is_cut_lies_in_lost_and_found_before_the_first_byte_of_it_goes() -> None:
    """Over a segment's boundary: both the zeros in one file and the removal of the other are cuts."""
    disk, log = filled((100, 5000, 30_000, 20_000, 300))
    raws = {sequence: log.read_raw(sequence) for sequence in range(1, 6)}
    assert len(disk.list("log")) == 2
    moments: list[MemoryDisk] = []
    disk.after = lambda kind, name: moments.append(disk.copy())
    names = log.truncate_after(1)
    assert len(names) == 4
    for moment in moments:
        for sequence, raw in raws.items():
            kept = raw in on_the_medium(moment, "log/0") or raw in on_the_medium(moment, "lost+found/")
            assert kept, f"record {sequence} is nowhere"
    assert raws[1] in on_the_medium(disk, "log/0")
    assert not any(raws[sequence] in on_the_medium(disk, "log/0") for sequence in range(2, 6))


def test_nothing_is_cut_while_lost_and_found_has_no_room_for_it() -> None:
    disk, log = filled((100, 5000, 300))
    raws = [log.read_raw(sequence) for sequence in (1, 2, 3)]
    disk.room = 1000
    with pytest.raises(StorageFull):
        log.truncate_after(1)
    assert log.end.sequence == 3
    assert all(raw in on_the_medium(disk, "log/0") for raw in raws)


def test_after_a_write_that_failed_nothing_is_said_to_be_durable() -> None:
    """The file itself takes the next write, and its fsync succeeds: without the record that failed."""
    disk, log = filled((100,))

    def fail(kind: str, name: str) -> None:
        if kind == "write":
            disk.before = lambda kind, name: None
            raise OSError(5, "Input/output error")

    append(log, 700)
    disk.before = fail
    with pytest.raises(SegmentPoisoned):
        log.sync()
    with pytest.raises(SegmentPoisoned):
        log.sync()
    with pytest.raises(SegmentPoisoned):
        log.append(*record_after(log.end, 10))
    assert log.durable.sequence == 1


@pytest.mark.parametrize("whole_limit", [1_000_000, 100])
def test_a_record_whose_bytes_were_altered_on_the_medium_is_not_handed_out(whole_limit: int) -> None:
    """Whether it is read into memory, or stays in its file and leaves in pieces."""
    disk, log = filled((5000, 5000))
    entry = log.entry(1)
    assert entry is not None
    content = disk.files[f"log/{entry.segment:012d}.tar"]
    at = content.volatile.index(b"".join(log.read(1).payload.parts())) + 3000
    content.durable[at] ^= 1
    content.volatile[at] ^= 1
    with pytest.raises(RecordCorrupt):
        log.read(1, whole_limit=whole_limit)
    assert log.damaged() == (1,)
