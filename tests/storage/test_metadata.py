"""Goal: what a node swore never falls, whatever the disk does to one write."""

import pytest

from storage.errors import FormatError, LogContradiction
from storage.metadata import NodeIdentity, Promise, PromiseFile, read_identity, write_identity
from storage.position import LogPoint, LogPosition
from tests.storage.memory_disk import MemoryDisk

POINT = LogPoint(LogPosition(3, 9), b"c" * 32)


def test_a_promise_survives_and_never_falls() -> None:
    disk = MemoryDisk()
    file = PromiseFile(disk)
    file.store(epoch=7, floor=POINT, counter=4, host_boot="boot-a")
    file.store(epoch=6, floor=LogPoint(LogPosition(2, 8), b"d" * 32), counter=1)
    assert PromiseFile(disk).value == Promise(7, POINT, 4, "boot-a") == file.value


def test_one_damaged_slot_leaves_the_other_and_two_stop_the_node() -> None:
    disk = MemoryDisk()
    file = PromiseFile(disk)
    for epoch in (5, 6):
        file.store(epoch=epoch)
    newest = next(s for s in (0, 1) if PromiseFile(_without(disk, 1 - s)).value.epoch == 6) * 4096
    disk.files["promise"].volatile[newest + 20] ^= 1
    assert PromiseFile(disk).value.epoch == 5
    disk.files["promise"].volatile[4096 - newest + 20] ^= 1
    with pytest.raises(FormatError):
        PromiseFile(disk)


def _without(disk: MemoryDisk, slot: int) -> MemoryDisk:
    other = disk.copy()
    other.files["promise"].volatile[slot * 4096 + 20] ^= 1
    return other


def test_a_directory_is_formatted_once() -> None:
    disk = MemoryDisk()
    assert read_identity(disk) is None
    identity = NodeIdentity("cluster", "n1", "incarnation")
    write_identity(disk, identity)
    assert read_identity(disk) == identity
    with pytest.raises(LogContradiction):
        write_identity(disk, identity)
