"""Whole segments that other processes make: the same bytes as the ordinary way, and whatever is wrong is left to it."""

import asyncio
import errno
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from perenne.config import TierConfig
from perenne.hands import ProcessHands
from replication.restore import engine
from replication.restore.beyond import Kept, keep
from replication.restore.engine import Engine, Until
from replication.restore.fetching import Fetching
from replication.restore.filling import Filling, RestoringDisk
from replication.restore.report import Report
from replication.restore.segments import HandsLost, assembled
from replication.tier.keys import Run
from storage.assembling import Assembled
from storage.disk import RealDisk, RealFile
from storage.errors import StorageFull
from storage.log import Log
from storage.position import LogPoint
from storage.walk import Fault, Walk
from tests.restore.archive import Archive, groups, marker, put, reopened, restored, segments, silent
from tests.tier.rig import Reached, directory_reached

SMALL = 64 * 1024
"""Objects of tests are smaller than real ones; groups of few records are smaller still."""


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two epochs in six segments or so: most are full, one ends with its epoch, the last is open."""
    root = tmp_path_factory.mktemp("archive") / "data"
    made = Archive.begin(root)
    made.epoch(1)
    made.instances(500, size=20_000)
    made.epoch(4)
    made.instances(300, size=20_000)
    made.sealed()
    return root


@pytest.fixture
def tier(tmp_path: Path) -> Reached:
    return directory_reached(tmp_path / "san")


@pytest.fixture
def packed(archive: Path, tier: Reached) -> list[Run]:
    """As a node leaves it: sealed segments as whole objects, the last one's records in groups."""
    log = reopened(archive)
    *sealed, last = [(segment.first, segment.last or 0) for segment in log.segments()]
    spans = [*sealed, *(span for span in groups(log, 7, last[0]) if span[0] >= last[0])]
    runs = asyncio.run(put(tier.store, log, spans))
    log.close()
    return runs


@pytest.fixture
def hands(tmp_path: Path) -> Iterator[ProcessHands]:
    made = ProcessHands(TierConfig(kind="directory", directory=tmp_path / "san"), 2, SMALL)
    yield made
    made.close()


def with_hands(tier: Reached, to: Path, hands: ProcessHands, until: Until | None = None) -> Report:
    filling = Filling.begin(to, marker())
    try:
        return asyncio.run(Engine(tier.store, filling, until or Until(), silent, hands=hands).run())
    finally:
        filling.close()


def faults(root: Path) -> list[Fault]:
    walk = Walk(root, verify=True)
    return [found for path in walk.segments() for found in walk.segment(path) if isinstance(found, Fault)]


def test_segments_come_back_byte_for_byte(
    archive: Path,
    tier: Reached,
    packed: list[Run],
    hands: ProcessHands,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    installed: list[int] = []
    install = Log.install_assembled

    def noted(log: Log, made: Assembled) -> LogPoint:
        installed.append(made.head.position.sequence)
        return install(log, made)

    monkeypatch.setattr(Log, "install_assembled", noted)
    report = with_hands(tier, tmp_path / "data", hands)
    assert report.complete and report.records == 802 and report.objects == len(packed)
    assert installed == [run.first for run in packed if run.last - run.first >= 15]
    assert segments(tmp_path / "data") == segments(archive)
    assert not faults(tmp_path / "data")
    assert not list((tmp_path / "data" / "staging").iterdir())
    log = reopened(tmp_path / "data")
    assert log.intact and log.end.sequence == 802
    assert log.read(500).header.position.sequence == 500
    log.close()


def taken(path: Path) -> int:
    """Bytes on the medium."""
    return path.stat().st_blocks * 512


@pytest.mark.parametrize("by_hands", [True, False])
def test_what_a_segment_does_not_hold_takes_no_room(
    tier: Reached, hands: ProcessHands, tmp_path: Path, *, by_hands: bool
) -> None:
    """A compacted archive comes back to a disk of its own size; the segment that a node goes on writing is reserved."""
    made = Archive.begin(tmp_path / "archive")
    for epoch in (1, 2):
        made.epoch(epoch)
        made.instances(50, size=20_000)
    spans = [(one.first, one.last or 0) for one in made.log.segments()]
    asyncio.run(put(tier.store, made.log, spans))
    made.sealed()
    filling = Filling.begin(tmp_path / "data", marker())
    asyncio.run(Engine(tier.store, filling, Until(), silent, hands=hands if by_hands else None).run())
    filling.settled(None)
    log = filling.log
    sealed = {
        tmp_path / "data" / one.name: one.bytes - held.offset - held.size
        for one in log.segments()
        if one.sealed
        for held in [log.sealed_records(one.first)]
    }
    newest = tmp_path / "data" / log.segments()[-1].name
    filling.close()
    assert any(left > 1024 * 1024 for left in sealed.values()), "one ends long before its file does"
    for path, left in sealed.items():
        assert taken(path) <= path.stat().st_size - left + 64 * 1024
    assert taken(newest) >= newest.stat().st_size


def test_a_file_system_that_takes_no_file_of_this_size_is_named_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(_: RealFile, size: int) -> None:
        if size:
            raise OSError(errno.EFBIG, "File too large")

    monkeypatch.setattr(RealFile, "truncate", refused)
    with pytest.raises(StorageFull, match="no room for 8192 bytes of made"):
        RestoringDisk(tmp_path).preallocate("made", 8192)
    assert list(tmp_path.iterdir()) == []


def alter(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_a_damaged_segment_is_named_as_the_ordinary_way_names_it(
    tier: Reached, packed: list[Run], hands: ProcessHands, tmp_path: Path
) -> None:
    """One byte in its middle: what lies before it is restored, and the rest is a gap."""
    alter(tmp_path / "san" / packed[1].key, 1_000_000)
    one = restored(tier.store, tmp_path / "one")
    two = with_hands(tier, tmp_path / "two", hands)
    assert not two.complete and packed[1].first < two.end.sequence < packed[1].last
    assert (two.end, two.damaged, two.holes) == (one.end, one.damaged, one.holes)
    assert segments(tmp_path / "two") == segments(tmp_path / "one")


def test_what_could_not_be_made_or_was_not_taken_leaves_its_room_to_what_lies_beyond(
    tier: Reached, packed: list[Run], hands: ProcessHands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Segments behind a gap were made ahead of time: they, and what is left of the damaged one, may fill the disk."""
    alter(tmp_path / "san" / packed[1].key, 1_000_000)
    there: list[set[str]] = []

    async def noted(fetching: Fetching, disk: RealDisk, run: Run, *, damaged: bool) -> Kept:
        there.append(set(disk.list("staging")))
        return await keep(fetching, disk, run, damaged=damaged)

    monkeypatch.setattr(engine, "keep", noted)
    assert not with_hands(tier, tmp_path / "data", hands).complete
    assert there and not any(there)


def test_what_continues_something_else_is_not_taken_over(archive: Path, tier: Reached, tmp_path: Path) -> None:
    """The file is proved by itself; the log alone knows what lies before it."""
    log = reopened(archive)
    first, second, third = (segment for segment in log.segments()[:3])
    (run,) = asyncio.run(put(tier.store, log, [(third.first, third.last or 0)]))
    asyncio.run(put(tier.store, log, [(first.first, first.last or 0), (second.first, second.last or 0)]))
    log.close()
    filling = Filling.begin(tmp_path / "data", marker())
    staged = filling.staged("segment-x")
    made = asyncio.run(assembled(tier.store, run, filling.root, staged, filling.marker.segment_bytes))
    assert isinstance(made, Assembled) and made.head.position.sequence == third.first
    assert not filling.take_over(made)
    assert filling.end.sequence == 0 and not filling.disk.exists(staged)
    filling.close()


def test_an_end_in_the_middle_of_a_segment_is_kept_to(
    tier: Reached, packed: list[Run], hands: ProcessHands, tmp_path: Path
) -> None:
    wanted = packed[2].first + 5
    report = with_hands(tier, tmp_path / "data", hands, Until(sequence=wanted))
    assert report.end.sequence == wanted
    assert not faults(tmp_path / "data")


def test_a_process_that_is_killed_costs_nothing(
    archive: Path, tier: Reached, packed: list[Run], hands: ProcessHands, tmp_path: Path
) -> None:
    filling = Filling.begin(tmp_path / "scratch", marker())
    one = asyncio.run(
        hands.assemble(packed[0], filling.root, filling.staged("segment-y"), filling.marker.segment_bytes)
    )
    assert isinstance(one, Assembled)
    filling.close()
    for hand in hands.processes():
        os.kill(hand, signal.SIGKILL)
    report = with_hands(tier, tmp_path / "data", hands)
    assert report.complete and segments(tmp_path / "data") == segments(archive)
    assert any("a process that restores segments ended" in note for note in report.notes)


def test_it_goes_on_where_a_restore_was_stopped(
    archive: Path, tier: Reached, packed: list[Run], hands: ProcessHands, tmp_path: Path
) -> None:
    """Half a segment is there already: its rest comes record by record, and what follows as segments again."""
    with_stop = restored(tier.store, tmp_path / "data", Until(sequence=packed[1].first + 3))
    assert with_stop.end.sequence == packed[1].first + 3
    report = with_hands(tier, tmp_path / "data", hands)
    assert report.complete and report.resumed
    assert segments(tmp_path / "data") == segments(archive)


def test_ctrl_c_does_not_reach_a_process_that_is_only_starting(tmp_path: Path) -> None:
    """The terminal sends it to all of them; the one that it is for ends the others."""
    hands = ProcessHands(TierConfig(kind="directory", directory=tmp_path / "san"), 1, SMALL)

    async def started() -> int:
        waiting = asyncio.create_task(hands.assemble(Run(1, 1, 1, bytes(8)), tmp_path, "staged", 1))
        while not hands.processes():
            await asyncio.sleep(0)
        (pid,) = hands.processes()
        mask = signals_kept_out(pid)
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(HandsLost):
            await waiting
        return mask

    try:
        assert asyncio.run(started()) & 1 << (signal.SIGINT - 1)
        assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ()), "here it is taken again"
    finally:
        hands.close()


def signals_kept_out(pid: int) -> int:
    """Blocked or ignored, as a mask."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int.__or__(*(int(line.split()[1], 16) for line in lines if line.startswith(("SigBlk:", "SigIgn:"))))
