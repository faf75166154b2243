"""The index follows the log: applied as one goes or rebuilt, it says the same."""

from pathlib import Path
from typing import Any, cast

import pydicom

from storage.digest import digests_of
from storage.disk import RealDisk
from storage.index import FILE, Index
from storage.indexer import Indexer
from storage.log import BytesPayload, Log
from storage.position import GENESIS, LogPosition, RecordHeader, RecordKind, chain_after
from tests.storage.log_helpers import IDENTITY, append

SAMPLES = Path(pydicom.__file__).parent / "data" / "test_files"
NAMES = ["CT_small.dcm", "MR_small.dcm", "JPEG2000.dcm", "rtplan.dcm"]


def opened(directory: Path) -> tuple[RealDisk, Log]:
    directory.mkdir(exist_ok=True)
    disk = RealDisk(directory)
    log, _ = Log.open(disk, IDENTITY, host_rebooted=False, spares=0)
    return disk, log


def store(log: Log, data: bytes, time_us: int = 1) -> None:
    digests = digests_of(RecordKind.INSTANCE, [data])
    sequence = log.end.sequence + 1
    position = LogPosition(1, sequence)
    header = RecordHeader(
        position, RecordKind.INSTANCE, digests.dataset, digests.digest, time_us, f"1/2/{sequence}.dcm", len(data)
    )
    log.append(header, chain_after(log.end.chain, header), BytesPayload(data))


def filled(tmp_path: Path) -> tuple[RealDisk, Log]:
    disk, log = opened(tmp_path / "data")
    for name in NAMES:
        store(log, (SAMPLES / name).read_bytes())
        append(log, 700)  # no Part 10 file: nothing to index, and no obstacle
    log.sync()
    return disk, log


def test_an_index_rebuilt_equals_one_that_followed(tmp_path: Path) -> None:
    disk, log = filled(tmp_path)
    index = Index.open(disk)
    for sequence in range(1, log.end.sequence + 1):
        point = log.point_at(sequence)
        assert point is not None
        Indexer(log, index).advance(point)
    followed = index.everything()
    assert index.count_instances() == len(NAMES)
    uid = str(cast(Any, pydicom).dcmread(SAMPLES / "CT_small.dcm")["SOPInstanceUID"].value)
    assert [location.sequence for location in index.find(uid)] == [1]
    index.clear()
    assert Indexer(log, index).advance(log.end) == len(NAMES)
    assert index.everything() == followed
    assert index.applied == log.end
    index.close()
    log.close()


def test_a_damaged_index_is_moved_aside_and_built_again(tmp_path: Path) -> None:
    disk, log = filled(tmp_path)
    (tmp_path / "data" / FILE).write_bytes(b"SQLite format 3\0" + bytes(range(256)) * 40)
    index = Index.open(disk)
    assert index.moved_aside == "index.sqlite.damaged"
    assert disk.exists("index.sqlite.damaged")
    assert index.applied == GENESIS
    assert Indexer(log, index).advance(log.end) == len(NAMES)
    index.close()
    log.close()


def test_an_index_of_another_branch_is_rebuilt(tmp_path: Path) -> None:
    disk, log = filled(tmp_path)
    index = Index.open(disk)
    Indexer(log, index).advance(log.end)
    log.truncate_after(2)
    store(log, (SAMPLES / "MR_small.dcm").read_bytes())
    log.sync()
    Indexer(log, index).advance(log.end)
    assert index.count_instances() == 2
    assert index.applied == log.end
    index.close()
    log.close()


def test_the_same_uid_with_other_bytes_is_a_conflict(tmp_path: Path) -> None:
    disk, log = opened(tmp_path / "data")
    data = (SAMPLES / "CT_small.dcm").read_bytes()
    store(log, data)
    store(log, data[:-1] + b"x")
    log.sync()
    index = Index.open(disk)
    Indexer(log, index).advance(log.end)
    uid = str(cast(Any, pydicom).dcmread(SAMPLES / "CT_small.dcm")["SOPInstanceUID"].value)
    assert index.conflicts() == (uid,)
    assert len(index.find(uid)) == 2
    index.close()
    log.close()


def test_a_record_that_could_not_be_read_leaves_a_gap_that_is_remembered(tmp_path: Path) -> None:
    disk, log = opened(tmp_path / "data")
    data = (SAMPLES / "CT_small.dcm").read_bytes()
    store(log, data)
    log.sync()
    entry = log.entry(1)
    assert entry is not None
    segment = tmp_path / "data" / log.segments()[0].name
    with segment.open("r+b") as file:
        file.seek(entry.offset)
        whole = file.read(1024)
        file.seek(entry.offset)
        file.write(bytes(1024))
    index = Index.open(disk)
    assert Indexer(log, index).advance(log.end) == 0
    index.close()
    again = Index.open(disk)
    assert (again.holes, again.applied) == (frozenset({1}), log.end)
    assert Indexer(log, again).fill_holes() == 1, "it is damaged still"
    with segment.open("r+b") as file:
        file.seek(entry.offset)
        file.write(whole)
    assert Indexer(log, again).fill_holes() == 0
    assert not again.holes
    assert again.count_instances() == 1
    again.close()
    log.close()


def test_the_time_of_the_first_instance_from_a_record_on(tmp_path: Path) -> None:
    disk, log = opened(tmp_path / "data")
    for number, name in enumerate(NAMES):
        append(log, 700)  # nothing to index
        store(log, (SAMPLES / name).read_bytes(), time_us=100 + number)
    log.sync()
    index = Index.open(disk)
    assert index.time_from(1) is None
    Indexer(log, index).advance(log.end)
    assert [index.time_from(sequence) for sequence in range(1, 10)] == [100, 100, 101, 101, 102, 102, 103, 103, None]
    index.close()
    log.close()
