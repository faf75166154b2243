"""From a tier back to a data directory: byte for byte, judged by cmp and by plain tar."""

import asyncio
import subprocess
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import cast

import pytest

from perenne.lostfound import entries
from replication.restore import cutting, engine, filling
from replication.restore.engine import Until
from replication.restore.fetching import Fetching
from replication.restore.filling import Filling, NotEmpty
from replication.tier.keys import Run
from replication.tier.port import ObjectStore
from storage.disk import Buffer, RealDisk, RealFile
from storage.errors import FormatError, StorageError, StorageFull
from storage.metadata import read_identity
from storage.table import data_offset
from storage.walk import Fault, Walk
from tests.restore.archive import (
    SEGMENT_BYTES,
    STUDY,
    Archive,
    groups,
    instance,
    marker,
    put,
    reopened,
    restored,
    segments,
    uid,
)
from tests.tier.rig import Reached, directory_reached

INSTANCES = 2_000
Place = Callable[[int], Callable[[bytes], int]]
"""Where in an object's bytes something of one record lies."""


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two epochs, 2,000 small instances and one that fills a segment of its own."""
    root = tmp_path_factory.mktemp("archive") / "data"
    made = Archive.begin(root)
    made.epoch(1)
    made.instances(INSTANCES // 2)
    made.epoch(4)
    made.instances(INSTANCES // 2 - 1)
    made.instances(1, size=5_000_000)
    made.sealed()
    return root


@pytest.fixture
def tier(tmp_path: Path) -> Reached:
    return directory_reached(tmp_path / "san")


def upload(store: ObjectStore, root: Path, size: int = 150) -> list[Run]:
    log = reopened(root)
    runs = asyncio.run(put(store, log, groups(log, size)))
    log.close()
    return runs


def test_two_thousand_instances_come_back_byte_for_byte(archive: Path, tier: Reached, tmp_path: Path) -> None:
    upload(tier.store, archive)
    report = restored(tier.store, tmp_path / "data")
    assert report.complete and report.records == INSTANCES + 2
    assert segments(tmp_path / "data") == segments(archive)
    walk = Walk(tmp_path / "data", verify=True)
    assert not [found for path in walk.segments() for found in walk.segment(path) if isinstance(found, Fault)]

    out = tmp_path / "out"
    out.mkdir()
    for segment in sorted((tmp_path / "data" / "log").glob("*.tar")):
        done = subprocess.run(["tar", "xf", str(segment)], cwd=out, capture_output=True, text=True, check=True)
        assert done.stderr == ""
    found = {path.stem: path.read_bytes() for path in out.rglob("*.dcm")}
    assert len(found) == INSTANCES
    assert found[uid(7)] == instance(7, 600)


# Less: 130 records are enough for whatever goes wrong


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records 1 to 71 of epoch 1, 72 to 132 of epoch 4."""
    root = tmp_path_factory.mktemp("small") / "data"
    made = Archive.begin(root)
    made.epoch(1)
    made.instances(70)
    made.epoch(4)
    made.instances(60)
    made.sealed()
    return root


def test_large_records_go_through_files_one_after_another(
    tier: Reached, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next one is written to its file while the one before it is appended from its own."""
    made = Archive.begin(tmp_path / "data")
    made.epoch(1)
    for size in (300_000, 2_000, 700_000, 300_001, 300_000, 5_000):
        made.instances(2, size=size)
    made.sealed()
    upload(tier.store, tmp_path / "data", size=100)
    for module in (cutting, filling):
        monkeypatch.setattr(module, "SPOOLED", 100_000)
    monkeypatch.setattr(engine, "Fetching", partial(Fetching, piece=65_536))
    report = restored(tier.store, tmp_path / "back")
    assert report.complete and report.end.sequence == 13
    assert segments(tmp_path / "back") == segments(tmp_path / "data")
    assert not list((tmp_path / "back" / "staging").iterdir()), "no file is left behind"


def gone(tier: Reached, run: Run) -> None:
    asyncio.run(tier.store.delete(run.key))


def test_a_lost_object_is_named_and_the_rest_is_kept(small: Path, tier: Reached, tmp_path: Path) -> None:
    runs = upload(tier.store, small, 20)
    lost = next(run for run in runs if run.first == 41)
    gone(tier, lost)
    report = restored(tier.store, tmp_path / "data")
    assert not report.complete
    assert [(hole.first, hole.last) for hole in report.holes] == [(41, 60)]
    assert report.end.sequence == 40
    beyond = [run for run in runs if run.first > 41]
    assert [kept.run for kept in report.kept] == beyond
    for kept in report.kept:
        saved = (tmp_path / "data" / kept.saved).read_bytes()
        assert saved == asyncio.run(tier.store.get(kept.run.key))
        assert len(kept.records) == kept.run.last - kept.run.first + 1
        shown = [one.sequence for one in entries(tmp_path / "data", [Path(kept.saved).name], verify=True)]
        assert shown == list(range(kept.run.first, kept.run.last + 1)), "lost-found shows each"
    assert (61, f"{STUDY}/{STUDY}.0/{uid(61)}.dcm") in report.aside_names()
    assert "MISSING: records 41 to 60" in report.text()


def test_an_altered_object_gives_what_is_whole_and_names_what_is_not(
    small: Path, tier: Reached, tmp_path: Path
) -> None:
    runs = upload(tier.store, small, 20)
    altered = next(run for run in runs if run.first == 21)
    path = tmp_path / "san" / altered.key
    data = bytearray(path.read_bytes())
    at = data.index(instance(33, 600))
    data[at + 100] ^= 1
    path.write_bytes(data)
    report = restored(tier.store, tmp_path / "data")
    assert report.end.sequence == 32
    assert [(hole.first, hole.last) for hole in report.holes] == [(33, 40)]
    assert "payload does not match its digest" in report.holes[0].why[0] and uid(33) in report.holes[0].why[0]
    assert [number for number, _ in report.missing_names()] == [33], "the others lie whole behind it"
    assert {*range(34, 41)} < {number for number, _ in report.aside_names()}
    text = report.text()
    assert "MISSING: records 33 to 40: nothing that can be read continues the log there" in text
    assert "of these records 34 to 40 can be read whole" in text and "\nnowhere whole: record 33\n" in text
    assert report.document()["missing_nowhere_whole"] == [{"first": 33, "last": 33}]
    shown = entries(tmp_path / "data", [Path(report.kept[0].saved).name], verify=True)
    altered_there = [one.sequence for one in shown if "digest" in (one.damage or "")]
    assert altered_there == [33], "lost-found says so too"
    assert report.kept[0].saved.endswith("-damaged.bin")
    assert (tmp_path / "data" / report.kept[0].saved).read_bytes() == data[: -512 - 1024 - (-len(body_of(data)) % 512)]


def altered(root: Path, run: Run, at: Callable[[bytes], int]) -> bytes:
    """Flip one bit of the object in a directory tier, where at(its bytes) says; return what it holds now."""
    path = root / run.key
    data = bytearray(path.read_bytes())
    data[at(bytes(data))] ^= 1
    path.write_bytes(data)
    return bytes(data)


def body_of(file: bytes | bytearray) -> bytes:
    """The object in a file of a directory tier: what stands before the end of tar and the seal (docs/tier.md)."""
    return bytes(file[: -512 - 1024])


def in_payload(number: int) -> Callable[[bytes], int]:
    return lambda data: data.index(instance(number, 600)) + 100


def in_header(number: int) -> Callable[[bytes], int]:
    return lambda data: data.index(f"comment=seq={number} ".encode()) + 8


@pytest.mark.parametrize(
    ("place", "damaged", "certain"),
    [(in_payload, 33, True), (in_header, 33, True), (in_payload, 71, True), (in_header, 71, False)],
)
def test_an_object_below_a_seam_gives_what_is_whole(
    small: Path,
    tier: Reached,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    place: Place,
    damaged: int,
    certain: bool,
) -> None:
    """A packed segment ends where an epoch does: the chain that the next epoch proves stands in the last header."""
    monkeypatch.setattr(engine, "Fetching", partial(Fetching, piece=8_192))
    wide, behind = upload(tier.store, small, 100)
    assert (wide.first, wide.last, behind.first) == (1, 71, 72)
    dead = Archive.begin(tmp_path / "dead")
    dead.epoch(1)
    dead.instances(30)
    dead.epoch(2)
    dead.instances(60)
    asyncio.run(put(tier.store, dead.log, [(32, 92)]))
    dead.sealed()
    data = altered(tmp_path / "san", wide, place(damaged))
    report = restored(tier.store, tmp_path / "data")
    assert (report.end.epoch, report.end.sequence, report.records) == (1, damaged - 1, damaged - 1)
    assert [(hole.first, hole.last, hole.certain) for hole in report.holes] == [(damaged, 71, certain)]
    assert wide.key in report.holes[0].why[0] and [*report.damaged] == [wide]
    assert [number for number, _ in report.missing_names()] == ([damaged] if place is in_payload else [])
    assert report.nowhere_whole() == [(damaged, damaged)]
    assert report.whole_aside() == ([(damaged + 1, 71)] if damaged < 71 else [])
    assert [kept.run for kept in report.kept] == [wide, behind]
    assert (tmp_path / "data" / report.kept[0].saved).read_bytes() == body_of(data)


def test_an_object_at_a_seam_is_read_once(small: Path, tier: Reached, tmp_path: Path) -> None:
    made = Archive.begin(tmp_path / "long")
    made.epoch(1)
    made.instances(40, size=100_000)
    made.epoch(2)
    made.sealed()
    (wide, _) = upload(tier.store, tmp_path / "long", 100)
    report = restored(tier.store, tmp_path / "data")
    size = asyncio.run(tier.store.head(wide.key)).size
    assert report.complete and size < report.bytes < size + 100_000


def test_another_object_serves_for_a_damaged_one(small: Path, tier: Reached, tmp_path: Path) -> None:
    upload(tier.store, small, 20)
    log = reopened(small)
    wide, also = asyncio.run(put(tier.store, log, [(1, 71), (15, 50)]))
    log.close()
    tier.alter(wide.key)
    report = restored(tier.store, tmp_path / "data")
    assert report.complete and segments(tmp_path / "data") == segments(small)
    assert [*report.damaged] == [wide]
    assert report.spare == 1, "the group that lies inside of the object that served"
    assert also not in report.orphans


def test_a_dead_branch_does_not_surface(small: Path, tier: Reached, tmp_path: Path) -> None:
    upload(tier.store, small, 20)
    dead = Archive.begin(tmp_path / "dead")
    dead.epoch(1)
    dead.instances(60)
    dead.epoch(2)
    dead.instances(40)
    (orphan,) = asyncio.run(put(tier.store, dead.log, [(62, 102)]))
    dead.sealed()
    report = restored(tier.store, tmp_path / "data")
    assert report.complete and segments(tmp_path / "data") == segments(small)
    assert report.orphans == (orphan,)


def test_an_object_that_vanishes_between_list_and_get_is_replaced(small: Path, tier: Reached, tmp_path: Path) -> None:
    """The uploader puts the sealed segment in the place of the small objects while they are being read."""
    runs = upload(tier.store, small, 10)
    log = reopened(small)

    class Replacing:
        """The tier, in which the first read of an object finds it replaced."""

        replaced = False

        def __getattr__(self, name: str) -> object:
            return getattr(tier.store, name)

        async def get_range(self, key: str, offset: int, size: int) -> bytes:
            if key == runs[2].key and not self.replaced:
                self.replaced = True
                await put(tier.store, log, [(1, 71)])
                for run in runs[:7]:
                    await tier.store.delete(run.key)
            return await tier.store.get_range(key, offset, size)

    report = restored(cast(ObjectStore, Replacing()), tmp_path / "data")
    log.close()
    assert report.complete and segments(tmp_path / "data") == segments(small)


def test_the_past_ends_at_a_position_or_before_a_time(small: Path, tier: Reached, tmp_path: Path) -> None:
    runs = upload(tier.store, small, 20)
    gone(tier, runs[-1])
    report = restored(tier.store, tmp_path / "position", Until(sequence=50), kind="past")
    assert (
        report.complete and report.end.sequence == 50 and report.stopped_at == "record 50 is the last that was wanted"
    )
    report = restored(tier.store, tmp_path / "time", Until(time_us=1_700_000_000_000_000 + 30_500_000), kind="past")
    assert report.complete and report.end.sequence == 30
    found = list(Walk(tmp_path / "time", verify=True).segment(tmp_path / "time" / "log" / "000000000001.tar"))
    assert len(found) == 30 and not [one for one in found if isinstance(one, Fault)]


def test_no_node_takes_a_directory_that_is_not_finished(small: Path, tier: Reached, tmp_path: Path) -> None:
    upload(tier.store, small, 50)
    restored(tier.store, tmp_path / "data")
    with pytest.raises(FormatError, match="restore"):
        read_identity(RealDisk(tmp_path / "data"))


def test_a_directory_with_something_in_it_is_refused(small: Path, tier: Reached, tmp_path: Path) -> None:
    upload(tier.store, small, 50)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "holiday.jpg").write_bytes(b"mine")
    with pytest.raises(NotEmpty, match=r"holiday\.jpg"):
        restored(tier.store, tmp_path / "data")
    assert [path.name for path in (tmp_path / "data").iterdir() if path.name != "lock"] == ["holiday.jpg"]
    restored(tier.store, tmp_path / "other")
    with pytest.raises(NotEmpty, match="another restore"):
        Filling.begin(tmp_path / "other", marker(source="elsewhere"))


def test_a_disk_that_runs_full_keeps_what_is_there(
    small: Path, tier: Reached, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Room is taken as it is written to, not before: it ends in the middle of a segment."""
    upload(tier.store, small, 20)
    monkeypatch.setattr(filling, "_SYNC_BYTES", 1)
    room = 3
    write = RealFile.pwrite

    def until_full(file: RealFile, parts: Sequence[Buffer], offset: int) -> None:
        nonlocal room
        room -= offset > data_offset(SEGMENT_BYTES)
        if room < 0:
            raise StorageFull("no room")
        write(file, parts, offset)

    with monkeypatch.context() as patched:
        patched.setattr(RealFile, "pwrite", until_full)
        with pytest.raises(StorageError, match="no room"):
            restored(tier.store, tmp_path / "data")
    left = Filling.begin(tmp_path / "data", marker())
    assert left.resumed and left.end.sequence > 0
    left.close()
    assert restored(tier.store, tmp_path / "data").complete
    assert segments(tmp_path / "data") == segments(small)


def test_a_restore_goes_on_where_it_was_interrupted(small: Path, tier: Reached, tmp_path: Path) -> None:
    runs = upload(tier.store, small, 20)
    gone(tier, runs[4])
    first = restored(tier.store, tmp_path / "data")
    assert first.end.sequence == 71
    log = reopened(small)
    asyncio.run(put(tier.store, log, [(72, 91)]))
    log.close()
    report = restored(tier.store, tmp_path / "data")
    assert report.complete and report.resumed and report.records == 132 - 71
    assert segments(tmp_path / "data") == segments(small)
