"""Goal: a stub is believed only with the tombstone in one's own log: before, and without it, it is damage.

Method: a leader's compacted log is copied into another, by records and by whole segments, stopped at every operation.
"""

from pathlib import Path

import pytest
from msgspec.structs import replace

from storage.deletion import Covered, Tombstone
from storage.disk import RealDisk
from storage.errors import PayloadGone, RecordCorrupt
from storage.log import Log
from storage.position import LogPoint
from storage.reader import BytesPayload, StoredRecord, StoredStub
from storage.record import decode_header, encode_stub
from storage.stubs import cover_of
from storage.table import ENTRIES_OFFSET, ENTRY_BYTES, encode_entry
from storage.walk import Found, Walk
from tests.storage.compacting import bury, compact, filled, opened
from tests.storage.log_helpers import append
from tests.storage.memory_disk import MemoryDisk
from tests.storage.recording_disk import killed

RECORDS = 30
GONE = (2, 3, 9, 20)


def leader() -> tuple[MemoryDisk, Log, int]:
    """A compacted log. Its tombstone lies in a segment that is sealed, too."""
    disk = MemoryDisk()
    log = opened(disk)
    filled(log, RECORDS)
    at = bury(log, GONE)
    for number in range(20):
        append(log, 5000 + number)
    log.sync()
    compact(log, GONE, at)
    return disk, log, at


def take(follower: Log, source: Log, sequence: int) -> None:
    """Append what the other log holds, as it is."""
    found = source.read_any(sequence)
    if isinstance(found, StoredStub):
        follower.append_stub(found.header, found.chain, found.tombstone)
    else:
        follower.append(found.header, found.chain, found.payload)


def install(follower: Log, disk: MemoryDisk, source: MemoryDisk, name: str) -> LogPoint:
    disk.files["log/incoming"] = source.files[name].copy()
    return follower.install_segment(follower.proof("log/incoming", len(source.read(name))).finish())


def test_a_stub_that_is_not_written_yet_is_not_read_either() -> None:
    _, source, _ = leader()
    follower = opened(MemoryDisk())
    for sequence in range(1, 4):
        take(follower, source, sequence)
    for sequence in (2, 3):
        with pytest.raises(RecordCorrupt):
            follower.read_any(sequence)
    assert isinstance(follower.read_any(1), StoredRecord)
    follower.sync()
    follower.close()


@pytest.mark.parametrize("restarts", [False, True])
def test_record_by_record_a_stub_is_damage_until_its_tombstone_is_durable(restarts: bool) -> None:
    _, source, at = leader()
    disk = MemoryDisk()
    follower = opened(disk)
    for sequence in range(1, at):
        take(follower, source, sequence)
    if not restarts:  # also before they are written
        with pytest.raises(RecordCorrupt):
            follower.read_any(at - 1 if at - 1 in GONE else 20)
    follower.sync()
    if restarts:
        follower.close()
        follower = opened(disk, host_rebooted=True, floor=1)
    assert set(follower.damaged()) == set(GONE) and not follower.intact
    assert all(follower.awaits(sequence) for sequence in GONE)
    for sequence in GONE:
        with pytest.raises(RecordCorrupt):
            follower.read(sequence)
        assert follower.judge(sequence), "the medium says no more than memory"
    take(follower, source, at)
    assert not follower.intact, "the tombstone is not durable yet"
    follower.sync()
    assert follower.damaged() == () and follower.intact and not follower.waiting
    for sequence in range(at + 1, source.end.sequence + 1):
        take(follower, source, sequence)
    follower.sync()
    assert follower.end == source.end
    assert all(follower.read_raw(s) == source.read_raw(s) for s in range(1, source.end.sequence + 1))
    with pytest.raises(PayloadGone):
        follower.read(2)


def test_segment_by_segment_a_stub_is_damage_until_its_tombstone_is_there() -> None:
    origin, source, at = leader()
    disk = MemoryDisk()
    follower = opened(disk)
    sealed = [segment for segment in source.segments() if segment.sealed]
    for segment in sealed:
        assert segment.last is not None
        assert install(follower, disk, origin, segment.name) == source.point_at(segment.last)
        waits = {s for s in GONE if s <= segment.last} if segment.last < at else set[int]()
        assert set(follower.damaged()) == waits
    assert sealed[-1].last is not None and sealed[-1].last > at, "the last one held the tombstone"
    assert all(follower.read_raw(s) == source.read_raw(s) for s in range(1, sealed[-1].last + 1))
    append(follower, 700)
    assert follower.sync().sequence == sealed[-1].last + 1


def test_a_compacted_segment_may_be_the_newest_one_of_a_log() -> None:
    origin, source, _ = leader()
    disk = MemoryDisk()
    follower = opened(disk)
    first = source.segments()[0]
    end = install(follower, disk, origin, first.name)
    follower.close()
    follower = opened(disk, host_rebooted=True)
    assert follower.end == end and set(follower.damaged()) == {2, 3} and follower.awaits(2)
    follower.probe()
    append(follower, 100)
    follower.sync()
    follower.close()
    assert opened(disk).end.sequence == end.sequence + 1


def test_at_no_moment_of_a_copy_is_a_stub_without_its_tombstone_taken_for_sound() -> None:
    origin, source, at = leader()
    for whole in (False, True):
        disk = MemoryDisk()
        follower = opened(disk)
        images: list[MemoryDisk] = []
        disk.after = lambda kind, name, disk=disk, images=images: images.append(disk.copy())  # type: ignore[misc]
        if whole:
            for segment in source.segments()[:-1]:
                install(follower, disk, origin, segment.name)
        else:
            for sequence in range(1, at + 3):
                take(follower, source, sequence)
                follower.sync()
        met = 0
        for image in images:
            stopped = killed(image)
            stopped.close()
            again = opened(stopped)
            here = {s for s in GONE if s <= again.end.sequence and again.is_stub(s)}
            if again.end.sequence < at:
                assert set(again.damaged()) == here and again.intact == (not here)
                met += bool(here)
            else:
                assert again.damaged() == ()
            again.close()
        assert met > 1


def test_without_its_tombstone_a_stub_is_damage_and_the_payload_repairs_it(tmp_path: Path) -> None:
    """What was taken away from the wrong record, as whoever can write to the disk or the bucket could do."""
    _, source, at = leader()
    before = opened(MemoryDisk())
    filled(before, RECORDS)
    full = before.read_raw(4)
    log = opened(RealDisk(tmp_path))
    for sequence in range(1, at):
        found = before.read_any(sequence)
        assert isinstance(found, StoredRecord)
        if sequence in (4, 20):
            log.append_stub(found.header, found.chain, at)
        else:
            log.append(found.header, found.chain, found.payload)
    take(log, source, at)
    for sequence in range(at + 1, source.end.sequence + 1):
        take(log, source, sequence)
    log.sync()
    assert log.damaged() == (4,) and not log.awaits(4), "the tombstone is here, and covers 20 only"
    assert not log.intact
    raws = {s: log.read_raw(s) for s in range(1, log.end.sequence + 1) if s != 4}
    log.repair(4, full)
    assert log.damaged() == () and log.read_raw(4) == full and log.is_stub(20)
    assert {s: log.read_raw(s) for s in raws} == raws
    log.close()
    assert opened(RealDisk(tmp_path)).read_raw(4) == full


def test_a_tombstone_covers_these_bytes_under_this_name() -> None:
    log = opened(MemoryDisk())
    filled(log, 3)
    mine, other = log.read(2).header, log.read(3).header
    this = Covered("1.2", "1.2.3", "1.2.3.2", mine.dataset)
    for covered, covers in (
        (this, True),
        (replace(this, dataset=other.dataset), False),
        (replace(this, sop_instance_uid="1.2.3.3"), False),
    ):
        tombstone = Tombstone((covered,), "sent twice", "anna", "", 1, "d1")
        assert (cover_of(tombstone, mine) is not None) == covers, covered
    assert cover_of(Tombstone((this, this), "sent twice", "anna", "", 1, "d1"), mine) is None, "which one is meant?"
    log.close()


def test_a_stub_repairs_what_its_tombstone_covers_and_nothing_else() -> None:
    _, source, at = leader()
    disk = MemoryDisk()
    log = opened(disk)
    filled(log, RECORDS)
    bury(log, GONE)
    for number in range(20):
        append(log, 5000 + number)
    log.sync()
    for sequence in (2, 4):
        entry = log.entry(sequence)
        assert entry is not None
        for image in (disk.files[log.segments()[0].name].volatile, disk.files[log.segments()[0].name].durable):
            image[entry.offset + 1600] ^= 255
        assert log.judge(sequence)
    log.repair(2, source.read_raw(2))
    assert log.is_stub(2) and log.damaged() == (4,), "a second damaged record in the segment is no obstacle"
    found = source.read_any(4)
    assert isinstance(found, StoredRecord)
    with pytest.raises(RecordCorrupt, match="does not cover"):
        log.repair(4, encode_stub(found.header, found.chain, at))
    assert log.damaged() == (4,)
    log.repair(4, source.read_raw(4))
    assert log.intact and log.end == source.end


def test_a_damaged_stub_is_repaired_by_either_form() -> None:
    origin, source, _ = leader()
    full = opened(MemoryDisk())
    filled(full, RECORDS)
    for offered in (source.read_raw(2), full.read_raw(2)):
        disk = origin.copy()
        disk.close()
        log = opened(disk)
        entry = log.entry(2)
        assert entry is not None and entry.stub
        for image in (disk.files[log.segments()[0].name].volatile, disk.files[log.segments()[0].name].durable):
            image[entry.offset + 600] ^= 255
        assert log.judge(2)
        log.repair(2, BytesPayload(offered))
        assert log.read_raw(2) == offered and log.intact
        log.close()
        assert opened(disk).end == source.end


def test_what_is_cut_with_a_stub_in_it_goes_to_lost_and_found_as_it_is() -> None:
    _, source, at = leader()
    log = opened(MemoryDisk())
    for sequence in range(1, at + 1):
        take(log, source, sequence)
    log.sync()
    names = log.truncate_after(1)
    assert len(names) == at - 1 and log.intact and not log.waiting
    log.close()


def test_a_log_read_offline_says_which_stubs_no_tombstone_covers(tmp_path: Path) -> None:
    _, source, at = leader()
    before = opened(MemoryDisk())
    filled(before, RECORDS)
    for upto, wrong in ((at - 1, [2, 4]), (at + 3, [4])):
        log = opened(RealDisk(tmp_path / str(upto)))
        for sequence in range(1, upto + 1):
            if sequence in (2, 4):
                header = before.read(sequence).header
                log.append_stub(header, decode_header(before.read_raw(sequence)).chain, at)
            else:
                take(log, before if sequence < at else source, sequence)
        log.sync()
        log.close()
        walk = Walk(tmp_path / str(upto), verify=True)
        records = [one for path in walk.segments() for one in walk.segment(path)]
        assert all(isinstance(one, Found) and one.damage is None for one in records)
        assert [(fault.sequence, fault.lost) for fault in walk.finish()] == [(sequence, 1) for sequence in wrong]


def test_a_segment_whose_table_lies_about_a_stub_is_refused() -> None:
    origin, source, _ = leader()
    name = source.segments()[0].name
    for sequence in (2, 4):
        entry = source.entry(sequence)
        assert entry is not None
        disk = MemoryDisk()
        follower = opened(disk)
        altered = origin.copy()
        slot = ENTRIES_OFFSET + (sequence - 1) * ENTRY_BYTES
        lie = encode_entry(replace(entry, stub=not entry.stub))
        altered.files[name].volatile[slot : slot + ENTRY_BYTES] = lie
        with pytest.raises(RecordCorrupt, match="entry does not match"):
            install(follower, disk, altered, name)
        assert follower.end.sequence == 0 and follower.damaged() == ()
