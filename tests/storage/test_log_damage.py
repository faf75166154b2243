"""Goal: damage is told from a torn tail exactly as docs/format.md says, marked, never cut, and
repaired only with proof.

Method: a real log over a disk in memory, with bytes changed behind its back.
"""

import pytest

from storage.errors import (
    FormatError,
    LogContradiction,
    RecordAbsent,
    RecordCorrupt,
    SegmentPoisoned,
    StorageError,
    StorageFull,
)
from storage.log import Log
from storage.record import encode_header
from storage.table import ENTRIES_OFFSET, ENTRY_BYTES
from tests.storage.log_helpers import IDENTITY, append, record_after
from tests.storage.memory_disk import MemoryDisk


def new_log(disk: MemoryDisk, *, host_rebooted: bool = False, floor: int = 0) -> Log:
    return Log.open(disk, IDENTITY, host_rebooted=host_rebooted, floor=floor, spares=0)[0]


def filled(sizes: tuple[int, ...] = (100, 5000, 300)) -> tuple[MemoryDisk, Log]:
    disk = MemoryDisk()
    log = new_log(disk)
    for size in sizes:
        append(log, size)
        log.sync()
    return disk, log


def damage(disk: MemoryDisk, name: str, offset: int, length: int = 8) -> None:
    for image in (disk.files[name].volatile, disk.files[name].durable):
        for at in range(offset, offset + length):
            image[at] ^= 0xFF


def damage_record(disk: MemoryDisk, log: Log, sequence: int) -> None:
    entry = log.entry(sequence)
    assert entry is not None
    damage(disk, f"log/{entry.segment:012d}.tar", entry.offset + 1600)


def damage_entry(disk: MemoryDisk, sequence: int) -> None:
    damage(disk, "log/000000000001.tar", ENTRIES_OFFSET + (sequence - 1) * ENTRY_BYTES + 20)


def test_a_damaged_record_is_never_served_and_is_repaired_from_another_replica() -> None:
    disk, log = filled()
    raw = log.read_raw(2)
    damage_record(disk, log, 2)
    with pytest.raises(RecordCorrupt):
        log.read(2)
    assert log.damaged() == (2,) and not log.intact
    with pytest.raises(RecordCorrupt):
        log.repair(2, raw[:-5000] + bytes(5000))
    log.repair(2, raw)
    assert log.damaged() == () and log.intact
    assert log.read_raw(2) == raw
    assert any("damaged" in name for name in disk.list("lost+found"))


def test_a_record_is_repaired_whose_header_is_lost_with_every_entry() -> None:
    """Where it ends, nothing here says: the record that is offered does, if the next one begins just there."""
    disk, log = filled((100, 5000, 300, 200))
    append(log, 200, epoch=2)  # an epoch starts a segment: the first one is sealed
    log.sync()
    raws = {sequence: log.read_raw(sequence) for sequence in (1, 2)}
    entry = log.entry(1)
    assert entry is not None
    for sequence in range(1, 5):
        damage_entry(disk, sequence)
    damage(disk, "log/000000000001.tar", entry.offset, 600)
    log.judge(1)
    with pytest.raises(RecordCorrupt, match="offered are of another record"):
        log.repair(1, raws[2])
    log.repair(1, raws[1])
    assert log.read_raw(1) == raws[1]
    assert log.read_raw(2) == raws[2]


def test_a_record_of_another_branch_repairs_nothing() -> None:
    disk, log = filled()
    other = MemoryDisk()
    twin = new_log(other)
    append(twin, 100)
    append(twin, 5000, salt=3)
    damage_record(disk, log, 2)
    with pytest.raises(RecordCorrupt, match="branch"):
        log.repair(2, twin.read_raw(2))


def test_a_damaged_entry_is_repaired_from_its_record_at_start() -> None:
    disk, log = filled()
    log.close()
    for sequence in (1, 2, 3):
        damage_entry(disk, sequence)
        log, report = Log.open(disk, IDENTITY, host_rebooted=True, spares=0)
        assert report.repaired_entries == (sequence,) and report.end.sequence == 3
        assert log.read(sequence).header.position.sequence == sequence
        log.close()


def test_the_end_of_a_sealed_segment_is_known_by_the_segment_that_follows() -> None:
    """A stray write hit several entries; logs are compared by where their epochs end (docs/proof.md, 24)."""
    disk, log = filled()
    append(log, 200, epoch=2)
    log.sync()
    ends = [log.point_at(sequence) for sequence in range(5)]
    for sequence in (2, 3):
        damage_entry(disk, sequence)
    assert log.point_at(3) == ends[3] and log.point_at(4) == ends[4]
    damage_entry(disk, 1)
    assert [log.point_at(sequence) for sequence in range(5)] == [ends[0], ends[1], None, ends[3], ends[4]]


@pytest.mark.parametrize("sequence", [1, 2])
def test_both_places_damaged_before_the_last_group_is_corruption_and_not_cut(sequence: int) -> None:
    disk, log = filled()
    raw = log.read_raw(sequence)
    damage_record(disk, log, sequence)
    damage_entry(disk, sequence)
    disk.close()  # the process dies: no clean end
    log, report = Log.open(disk, IDENTITY, host_rebooted=True, spares=0)
    assert report.damaged == (sequence,) and report.torn_tail is None
    assert log.end.sequence == 3 and log.read(3).header.size == 300
    log.repair(sequence, raw)
    assert log.read_raw(sequence) == raw and log.intact


def test_the_last_group_after_a_reboot_is_a_torn_tail_that_waits_to_be_settled() -> None:
    disk, log = filled()
    raw = log.read_raw(3)
    damage_record(disk, log, 3)
    disk.close()
    log, report = Log.open(disk, IDENTITY, host_rebooted=True, spares=0)
    assert report.torn_tail is not None and report.torn_tail.first == 3 and log.end.sequence == 2
    with pytest.raises(LogContradiction):
        append(log, 10)
    log.repair(3, raw)
    assert log.intact and log.read_raw(3) == raw and append(log, 10).sequence == 4


def test_the_last_group_without_a_reboot_or_below_the_floor_is_corruption() -> None:
    for rebooted, floor in ((False, 0), (True, 3)):
        disk, log = filled()
        damage_record(disk, log, 3)
        disk.close()
        log, report = Log.open(disk, IDENTITY, host_rebooted=rebooted, floor=floor, spares=0)
        assert report.torn_tail is None and report.damaged == (3,) and log.end.sequence == 3


def test_a_cleanly_closed_log_has_no_torn_tail() -> None:
    disk, log = filled()
    damage_record(disk, log, 3)
    damage_entry(disk, 3)
    log.close()
    log, report = Log.open(disk, IDENTITY, host_rebooted=True, spares=0)
    assert report.torn_tail is not None and not report.torn_tail.torn
    with pytest.raises(LogContradiction):
        log.cut_torn_tail()


def test_a_damaged_segment_header_is_rebuilt_from_its_first_record() -> None:
    disk, log = filled((30_000, 30_000, 100))
    log.close()
    page = disk.read("log/000000000002.tar")[:4096]
    damage(disk, "log/000000000002.tar", 600)
    assert new_log(disk).end.sequence == 3
    assert disk.read("log/000000000002.tar")[:4096] == page


def test_a_failed_fsync_poisons_the_log_for_good() -> None:
    disk, log = filled()

    def fail(kind: str, name: str) -> None:
        if kind == "sync":
            raise OSError(5, "Input/output error")

    disk.before = fail
    append(log, 77)
    with pytest.raises(SegmentPoisoned):
        log.sync()
    disk.before = lambda kind, name: None
    with pytest.raises(SegmentPoisoned):
        log.sync()
    with pytest.raises(SegmentPoisoned):
        append(log, 78)
    assert log.durable.sequence == 3


def test_a_full_disk_refuses_the_record_and_leaves_the_log_usable() -> None:
    disk, log = filled((30_000,))
    disk.room = 1000
    files = disk.list("log")
    with pytest.raises(StorageFull):
        append(log, 31_000)
    assert disk.list("log") == files and log.end.sequence == 1
    assert append(log, 10).sequence == 2 and log.sync().sequence == 2
    disk.room = 1 << 30
    assert append(log, 31_000).sequence == 3 and log.sync().sequence == 3


def test_what_does_not_follow_is_refused() -> None:
    _, log = filled()
    header, chain, payload = record_after(log.end, 10)
    with pytest.raises(LogContradiction):
        log.append(header, bytes(32), payload)
    log.append(header, chain, payload)
    with pytest.raises(LogContradiction):
        log.append(header, chain, payload)
    with pytest.raises(RecordAbsent):
        log.read(9)
    assert log.read(4).payload.size == 10  # appended, not yet written
    assert b"".join(log.read_raw_parts(4)).startswith(encode_header(header, chain))


def test_a_segment_that_comes_in_is_proved_as_far_as_it_came() -> None:
    source_disk, source = filled((9_000, 9_000, 9_000, 60_000))
    assert source.segments()[0].last == 3
    data = bytearray(source_disk.read("log/000000000001.tar"))
    entry = source.entry(2)
    assert entry is not None
    upto = entry.offset + entry.length
    data[upto - 1_000] ^= 1
    disk = MemoryDisk()
    log = new_log(disk)
    disk.write_atomically("staging/x", bytes(data[:upto]))
    proof = log.proof("staging/x", len(data))
    proof.advance(upto - 1)
    with pytest.raises(RecordCorrupt) as refused:
        proof.advance(upto)
    assert refused.value.sequence == 2


def test_what_has_not_come_yet_is_not_looked_at() -> None:
    source_disk, source = filled((9_000, 9_000, 9_000, 60_000))
    data = source_disk.read("log/000000000001.tar")
    disk = MemoryDisk()
    log = new_log(disk)
    disk.write_atomically("staging/x", bytes(len(data)))
    proof = log.proof("staging/x", len(data))
    for at in range(0, len(data), 3_000):
        disk.files["staging/x"].volatile[at : at + 3_000] = data[at : at + 3_000]
        proof.advance(min(at + 3_000, len(data)))
    assert proof.finish().end == source.point_at(3)


def test_a_whole_segment_is_installed_only_when_every_byte_is_proved() -> None:
    source_disk, source = filled((30_000, 20_000, 100))
    data = source_disk.read("log/000000000001.tar")
    disk = MemoryDisk()
    log = new_log(disk)
    for at in (700, 4200, ENTRIES_OFFSET + 40, 20_000, len(data) - 1):
        wrong = bytearray(data)
        wrong[at] ^= 1
        disk.write_atomically("staging/x", bytes(wrong))
        with pytest.raises(StorageError):
            log.install_segment(log.proof("staging/x", len(data)).finish())
        assert log.end.sequence == 0 and disk.exists("staging/x")
    disk.write_atomically("staging/x", data)
    assert log.install_segment(log.proof("staging/x", len(data)).finish()) == source.point_at(1)
    append(log, 20_000)
    append(log, 100)
    log.close()
    source.close()
    assert [source_disk.read(f"log/{name}") for name in source_disk.list("log")] == [
        disk.read(f"log/{name}") for name in disk.list("log")
    ]


def test_a_reader_may_ask_for_a_payload_in_pieces_that_stays_in_its_file() -> None:
    _, log = filled((2_000_000,))
    whole, pieces = log.read(1).payload, log.read(1, whole_limit=1_000_000).payload
    assert [len(part) for part in whole.parts()] == [2_000_000]
    assert max(len(part) for part in pieces.parts()) <= 256 * 1024
    assert b"".join(pieces.parts()) == b"".join(whole.parts())


def test_known_damage_survives_a_restart_until_the_record_is_repaired() -> None:
    disk, log = filled()
    raw = log.read_raw(2)
    damage_record(disk, log, 2)
    with pytest.raises(RecordCorrupt):
        log.read(2)
    for _ in range(2):  # killed: nothing was closed
        disk = disk.copy()
        log = new_log(disk)
        assert log.damaged() == (2,)
        assert not log.intact
    log.repair(2, raw)
    log = new_log(disk.copy())
    assert log.damaged() == ()
    assert log.intact


def test_at_start_damage_is_judged_anew_by_the_medium() -> None:
    disk, log = filled()
    for sequence in (1, 2):
        damage_record(disk, log, sequence)
        with pytest.raises(RecordCorrupt):
            log.read(sequence)
    damage_record(disk, log, 2)  # the bits flip back
    assert new_log(disk.copy()).damaged() == (1,)


def test_damage_is_forgotten_when_the_record_reads_well_again_or_is_cut() -> None:
    disk, log = filled()
    heard: list[tuple[int, ...]] = []
    log.damage.changed = lambda: heard.append(log.damaged())
    for sequence in (1, 3):
        damage_record(disk, log, sequence)
        with pytest.raises(RecordCorrupt):
            log.read(sequence)
    damage_record(disk, log, 1)  # the bits flip back
    log.read(1)
    assert log.damaged() == (1, 3), "as far as memory shows"
    assert not log.judge(1)
    log.truncate_after(2)
    assert heard == [(1,), (1, 3), (3,), ()]
    assert new_log(disk.copy()).intact


def test_what_is_left_of_a_cut_log_is_as_damaged_as_before() -> None:
    """The new end too: it would count as a copy, and its node could lead."""
    disk, log = filled()
    damage_record(disk, log, 2)
    with pytest.raises(RecordCorrupt):
        log.read(2)
    log.truncate_after(2)
    assert log.damaged() == (2,) and not log.intact


def test_a_node_that_cannot_tell_what_was_damaged_does_not_start() -> None:
    disk, log = filled()
    log.note_damage(2)
    damage(disk, "damaged", 20)
    with pytest.raises(FormatError, match="perenne log verify"):
        new_log(disk.copy())


def test_damage_is_known_also_where_it_cannot_be_written_down() -> None:
    disk, log = filled()

    def full(kind: str, name: str) -> None:
        if name == "damaged":
            raise StorageFull(name)

    disk.before = full
    log.note_damage(2)
    assert not log.intact
    disk.before = lambda kind, name: None
    log.note_damage(3)
    damage_record(disk, log, 2)
    damage_record(disk, log, 3)
    assert new_log(disk.copy()).damaged() == (2, 3)


@pytest.mark.parametrize("entry", [False, True])
def test_a_log_without_one_of_its_older_segments_is_not_taken_for_whole(*, entry: bool) -> None:
    """The one before it seems to reach as far as the next one: its table has room for more records."""
    disk, log = filled()
    for epoch in (2, 3):
        append(log, 300, epoch)
        append(log, 300, epoch)
    log.sync()
    log.close()
    del disk.files["log/000000000004.tar"]
    if entry:
        damage_entry(disk, 3)
    log = new_log(disk)
    assert log.damaged() == (4, 5) and not log.intact
    log.close()


def test_a_last_entry_that_was_wiped_does_not_make_its_record_damaged() -> None:
    disk, log = filled()
    append(log, 300, 2)
    log.sync()
    log.close()
    for image in (disk.files["log/000000000001.tar"].volatile, disk.files["log/000000000001.tar"].durable):
        at = ENTRIES_OFFSET + 2 * ENTRY_BYTES
        image[at : at + ENTRY_BYTES] = bytes(ENTRY_BYTES)
    log = new_log(disk)
    assert log.damaged() == () and log.intact
    log.close()
