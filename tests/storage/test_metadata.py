"""Goal: what a node swore never falls, whatever the disk does to one write."""

import pytest

from storage.errors import FormatError, LogContradiction, SegmentPoisoned
from storage.metadata import NodeIdentity, Promise, PromiseFile, read_identity, write_identity
from storage.position import LogPoint, LogPosition
from tests.storage.memory_disk import Content, MemoryDisk

POINT = LogPoint(LogPosition(3, 9), b"c" * 32)


def formatted() -> MemoryDisk:
    disk = MemoryDisk()
    write_identity(disk, NodeIdentity("cluster", "n1", "incarnation"))
    return disk


def test_a_promise_survives_and_never_falls() -> None:
    disk = formatted()
    file = PromiseFile(disk)
    file.store(epoch=7, floor=POINT, counter=4, host_boot="boot-a")
    file.store(epoch=6, floor=LogPoint(LogPosition(2, 8), b"d" * 32), counter=1)
    assert PromiseFile(disk).value == Promise(7, POINT, 4, "boot-a") == file.value


def test_one_damaged_slot_leaves_the_other_and_two_stop_the_node() -> None:
    disk = formatted()
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


@pytest.mark.parametrize("also_lost", [(), ("node.json",)])
def test_a_lost_promise_is_not_replaced_by_zeros(also_lost: tuple[str, ...]) -> None:
    """Zeros would let the old incarnation confirm to a leader that it had sworn not to serve."""
    disk = formatted()
    PromiseFile(disk).store(epoch=7)
    disk.files["log/000000000001.tar"] = Content()
    for name in ("promise", *also_lost):
        disk.remove(name)
    with pytest.raises(FormatError, match="put the file back.*new incarnation"):
        if read_identity(disk) is None:
            write_identity(disk, NodeIdentity("cluster", "n1", "another"))
        PromiseFile(disk)
    assert not disk.exists("promise")


def test_a_node_killed_while_it_formats_can_format_again() -> None:
    disk = MemoryDisk()

    def killed(kind: str, name: str) -> None:
        if name == "node.json":
            raise SegmentPoisoned(name)

    disk.before = killed
    with pytest.raises(SegmentPoisoned):
        write_identity(disk, NodeIdentity("cluster", "n1", "first"))
    disk.before = lambda kind, name: None
    write_identity(disk, NodeIdentity("cluster", "n1", "second"))
    assert PromiseFile(disk).value == Promise()
