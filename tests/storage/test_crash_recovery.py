"""Goal: no crash at any moment loses a synced record, serves a corrupt one, or drops a valid byte.

Method: run the real log over a disk in memory, stop after every single disk operation, generate what the disk
may hold then (kill, power cut with every subset of unsynced writes, torn sectors), and recover each image.
"""

import random
from dataclasses import dataclass, field

import pytest

from storage.log import Log
from storage.position import GENESIS, LogPoint
from storage.record import decode_header
from tests.storage.log_helpers import IDENTITY, append
from tests.storage.memory_disk import MemoryDisk
from tests.storage.recording_disk import killed, killed_inside_last_write, power_cuts


@dataclass
class Promised:
    """What the log had said when the crash came."""

    synced: LogPoint = GENESIS
    raws: dict[bytes, bytes] = field(default_factory=lambda: dict[bytes, bytes]())
    """Chain to raw bytes of every record ever appended, on any branch."""


@dataclass
class Moment:
    disk: MemoryDisk
    synced: LogPoint
    chains: frozenset[bytes]


def record_moments(samples: int = 1) -> tuple[list[Moment], dict[bytes, bytes]]:
    """Run a workload of groups, rolls, epochs and a truncation; return the disk after each operation."""
    disk = MemoryDisk()
    promised = Promised()
    moments: list[Moment] = []

    def observe(kind: str, name: str) -> None:
        moments.append(Moment(disk.copy(), promised.synced, frozenset(promised.raws)))

    log, _ = Log.open(disk, IDENTITY, host_rebooted=False, spares=0)
    disk.after = observe

    def group(*sizes: int, epoch: int, salt: int = 0) -> None:
        for size in sizes:
            append(log, size, epoch, salt)
            promised.raws[log.end.chain] = log.read_raw(log.end.sequence)
        promised.synced = log.sync()

    group(100, epoch=1)
    group(6000, 300, 9000, epoch=1)
    log.probe()
    group(20000, 5000, 20000, 100, epoch=1)  # rolls inside the group
    group(100_000, 10, epoch=1)  # larger than a segment
    cut = log.end
    group(700, 800, 900, epoch=2)
    group(3000, epoch=2)
    target = cut.sequence + 2
    promised.synced = log.point_at(target) or GENESIS
    log.truncate_after(target)
    group(5000, 600, epoch=2, salt=9)
    promised.synced = log.point_at(cut.sequence - 1) or GENESIS
    log.truncate_after(cut.sequence - 1)
    promised.synced = log.end
    group(300, 200, epoch=3)
    log.close()
    return moments, promised.raws


MOMENTS, RAWS = record_moments()


def check(image: MemoryDisk, moment: Moment, *, host_rebooted: bool) -> None:
    before = {name: bytes(content.volatile) for name, content in image.files.items() if name.startswith("log/0")}
    log, report = Log.open(image, IDENTITY, host_rebooted=host_rebooted, spares=0)
    assert report.damaged == ()
    assert log.end.sequence >= moment.synced.sequence, "a synced record is lost"
    assert log.point_at(moment.synced.sequence) == moment.synced
    if report.torn_tail is not None:
        assert host_rebooted and report.torn_tail.torn
        assert report.torn_tail.first > moment.synced.sequence
        log.cut_torn_tail()
    present = set[bytes]()
    for sequence in range(1, log.end.sequence + 1):
        raw = log.read_raw(sequence)
        chain = decode_header(raw).chain
        assert RAWS[chain] == raw, "the log serves something that was never appended"
        present.add(chain)
    last = log.entry(log.end.sequence)
    if last is not None:
        rest = image.files[f"log/{last.segment:012d}.tar"].volatile[last.offset + last.length :]
        assert not rest.strip(b"\0"), "bytes are left after the end of the log"
    saved = b"".join(bytes(content.volatile) for name, content in image.files.items() if name.startswith("lost+found/"))
    for chain, raw in RAWS.items():
        if chain not in present and any(raw in data for data in before.values()):
            assert raw in saved, "a valid record was dropped"
    end = append(log, 1234, log.end.epoch or 1, salt=77)
    assert log.sync() == end
    log.close()
    reopened, again = Log.open(image, IDENTITY, host_rebooted=True, spares=0)
    assert (reopened.end, again.damaged, again.torn_tail, again.clean) == (
        end,
        (),
        None,
        True,
    )
    assert reopened.read(end.sequence).header.size == 1234


def test_the_workload_visits_every_kind_of_operation() -> None:
    assert len(MOMENTS) > 60
    assert any(moment.synced.sequence > 12 for moment in MOMENTS)


@pytest.mark.parametrize("part", range(4))
def test_a_killed_process_loses_nothing_synced(part: int) -> None:
    rng = random.Random(part)
    for moment in MOMENTS[part::4]:
        check(killed(moment.disk), moment, host_rebooted=False)
        for image in killed_inside_last_write(moment.disk, rng):
            check(image, moment, host_rebooted=False)


@pytest.mark.parametrize("part", range(4))
def test_a_power_cut_with_any_reordering_loses_nothing_synced(part: int) -> None:
    rng = random.Random(part)
    for moment in MOMENTS[part::4]:
        for image in power_cuts(moment.disk, rng, samples=12):
            check(image, moment, host_rebooted=True)
