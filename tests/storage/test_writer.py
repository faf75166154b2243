"""The log thread: groups, failures, and work between groups."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from storage.disk import Disk, RealDisk
from storage.errors import SegmentPoisoned, StorageError
from storage.log import Log
from storage.position import GENESIS, LogPoint
from storage.writer import CommitQueue, GroupCommit
from tests.storage.log_helpers import IDENTITY, append, record_after
from tests.storage.memory_disk import MemoryDisk


class Heard:
    """What the log thread reported."""

    def __init__(self) -> None:
        self.durable: list[int] = []
        self.failures: list[str] = []
        self._changed = threading.Condition()

    def on_durable(self, point: LogPoint) -> None:
        with self._changed:
            self.durable.append(point.sequence)
            self._changed.notify_all()

    def on_failure(self, error: StorageError) -> None:
        with self._changed:
            self.failures.append(str(error))
            self._changed.notify_all()

    def until(self, condition: Callable[[], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(condition, 20)


def opened(directory: Path) -> Log:
    return new_log(RealDisk(directory))


def new_log(disk: Disk) -> Log:
    return Log.open(disk, IDENTITY, host_rebooted=False, floor=0, spares=0)[0]


def test_what_is_submitted_becomes_durable_in_order(tmp_path: Path) -> None:
    log, heard = opened(tmp_path), Heard()
    group = GroupCommit(log, heard.on_durable, heard.on_failure)
    end = GENESIS
    for _ in range(20):
        header, chain, payload = record_after(end, 700)
        group.submit(header, chain, payload)
        end = LogPoint(header.position, chain)
    heard.until(lambda: heard.durable[-1:] == [20])
    assert heard.durable == sorted(heard.durable)
    assert group.call(lambda: log.durable.sequence).result(20) == 20
    group.close()
    log.close()


class Surprising:
    """A payload that fails by a bug and not by the disk: when its bytes are wanted, or already when it is asked for
    its size.
    """

    def __init__(self, size: int, *, sizeless: bool) -> None:
        self._size = size
        self._sizeless = sizeless

    @property
    def size(self) -> int:
        if self._sizeless:
            raise ZeroDivisionError("a bug")
        return self._size

    def parts(self) -> Iterator[memoryview]:
        raise ZeroDivisionError("a bug")


@pytest.mark.parametrize("sizeless", [False, True])
def test_a_bug_in_the_log_thread_is_reported_and_nothing_more_is_written(tmp_path: Path, *, sizeless: bool) -> None:
    log, heard = opened(tmp_path), Heard()
    group = GroupCommit(log, heard.on_durable, heard.on_failure)
    header, chain, payload = record_after(GENESIS, 700)
    group.submit(header, chain, Surprising(payload.size, sizeless=sizeless))
    heard.until(lambda: bool(heard.failures))
    assert "ZeroDivisionError" in heard.failures[0]
    group.submit(*record_after(GENESIS, 700))
    assert group.call(lambda: "the thread lives").result(20) == "the thread lives"
    assert heard.durable == []
    group.close()
    log.close()


class ByHand(CommitQueue):
    """Works when it is told to, so that what is submitted in between is one group."""

    def _put(self, item: Any) -> None:
        self._queue.append(item)

    def close(self) -> None: ...


def fails_to_sync(kind: str, name: str) -> None:
    if kind == "sync" and name.startswith("log/"):
        raise OSError(5, "Input/output error")


def test_a_group_that_lacks_room_and_cannot_be_synced_is_not_reported_as_a_full_disk() -> None:
    """A full disk is waited for, and written on then; a poisoned log never is: the node would wait for nothing."""
    disk, heard = MemoryDisk(), list[StorageError]()
    log = new_log(disk)
    append(log, 30_000)
    log.sync()
    queue = ByHand(log, lambda point: None, heard.append)
    header, chain, payload = record_after(log.end, 700)
    queue.submit(header, chain, payload)
    queue.submit(*record_after(LogPoint(header.position, chain), 60_000))
    disk.room, disk.before = 1000, fails_to_sync
    queue.work_once()
    (error,) = heard
    assert isinstance(error, SegmentPoisoned) and "stopped writing" in str(error)
    assert queue.failures == 1
    queue.work_once()
    assert len(heard) == 1


def test_a_call_that_poisons_the_log_is_reported_as_a_group_is() -> None:
    """Who called may think that his own matter failed alone."""
    disk, heard = MemoryDisk(), list[StorageError]()
    log = new_log(disk)
    append(log, 700)
    append(log, 700)
    log.sync()
    queue = ByHand(log, lambda point: None, heard.append)
    disk.before = fails_to_sync
    called = queue.call(lambda: log.truncate_after(1))
    queue.work_once()
    assert isinstance(called.exception(0), SegmentPoisoned)
    (error,) = heard
    assert isinstance(error, SegmentPoisoned) and not log.intact
