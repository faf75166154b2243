"""Goal: a log that is filled after a compaction is cut into the same segments as one that was there before it."""

import pytest

from storage.log import Log
from tests.storage.compacting import opened
from tests.storage.memory_disk import MemoryDisk
from tests.storage.test_stubs import install, leader, take


def seams(log: Log) -> list[int]:
    return [segment.first for segment in log.segments()]


@pytest.mark.parametrize("every", [1000, 7, 1], ids=["in one go", "restarted now and then", "restarted after each"])
def test_records_of_a_compacted_log_go_into_the_segments_that_they_were_in(every: int) -> None:
    _, source, _ = leader()
    disk = MemoryDisk()
    follower = opened(disk)
    for sequence in range(1, source.end.sequence + 1):
        take(follower, source, sequence)
        follower.sync()
        if sequence % every == 0:
            follower.close()
            follower = opened(disk)
    assert len(seams(source)) > 5
    assert seams(follower) == seams(source)


def test_so_do_those_that_come_again_after_a_cut() -> None:
    _, source, _ = leader()
    follower = opened(MemoryDisk())
    for sequence in range(1, 22):
        take(follower, source, sequence)
    follower.sync()
    kept = follower.point_at(10)
    assert kept is not None and 10 not in {segment.last for segment in source.segments()}
    follower.truncate_after(10)
    for sequence in range(11, source.end.sequence + 1):
        take(follower, source, sequence)
    assert seams(follower) == seams(source)


def test_so_do_those_behind_a_segment_that_came_whole() -> None:
    disk, source, _ = leader()
    own = MemoryDisk()
    follower = opened(own)
    first = source.segments()[0]
    install(follower, own, disk, first.name)
    assert follower.end.sequence == first.last
    for sequence in range(follower.end.sequence + 1, source.end.sequence + 1):
        take(follower, source, sequence)
    assert seams(follower) == seams(source)
