"""Goal: an export of several data directories whose logs have different ends holds what each of them has.

Method: real logs on a real disk with a common beginning, as a disk that was frozen has beside the one that went on.
"""

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest

from storage.disk import RealDisk
from storage.log import Log
from storage.position import LogPosition, RecordHeader, RecordKind, chain_after
from storage.walk import Found, Walk
from tests.moving.console import perenne
from tests.storage.log_helpers import IDENTITY, append, lose, record_after

COMMON = 3


@pytest.fixture
def disks(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Three nodes' directories: records 1 to 3 are the same, 4 and 5 of a leadership of its own, of equal names."""
    first = tmp_path / "one"
    log = opened(first)
    for _ in range(COMMON):
        append(log, 3000)
    close(log)
    others = tmp_path / "two", tmp_path / "three"
    for other in others:
        shutil.copytree(first, other)
    for epoch, directory in enumerate((first, *others), 2):
        log = opened(directory)
        for _ in range(2):
            append(log, 3000, epoch, salt=epoch)
        close(log)
    return first, *others


def test_what_was_evicted_is_left_out_and_named_unless_another_directory_has_it(tmp_path: Path) -> None:
    keeps, evicts = tmp_path / "keeps", tmp_path / "evicts"
    log = opened(keeps)
    while len(log.segments()) < 3:
        append(log, 9000)
    last = log.segments()[0].last
    close(log)
    shutil.copytree(keeps, evicts)
    log = opened(evicts)
    log.evict(1)
    close(log)
    done = perenne("export", str(tmp_path / "out"), "--from", str(evicts), "--all", "--json")
    facts = json.loads(done.stdout)
    assert done.exit_code == 1 and len(facts["left_out"]) == last
    assert f"records 1 to {last} are evicted: the tier holds them" in done.stdout
    done = perenne("export", str(tmp_path / "both"), "--from", str(evicts), "--from", str(keeps), "--all", "--json")
    assert (done.exit_code, json.loads(done.stdout)["left_out"]) == (0, [])


def opened(directory: Path) -> Log:
    return Log.open(RealDisk(directory), IDENTITY, host_rebooted=False, spares=0)[0]


def close(log: Log) -> None:
    log.sync()
    log.close()


def stored(*directories: Path) -> set[bytes]:
    """Every content that is there."""
    contents: set[bytes] = set()
    for directory in directories:
        walk = Walk(directory, verify=True)
        for segment in walk.segments():
            for found in walk.segment(segment):
                assert isinstance(found, Found) and found.damage is None
                contents.add(b"".join(map(bytes, found.payload.pieces())))
    return contents


def exported(to: Path, *directories: Path, more: tuple[str, ...] = (), code: int = 0) -> dict[str, Any]:
    sources = [option for directory in directories for option in ("--from", str(directory))]
    done = perenne("export", "--json", str(to), *sources, "--all", *more)
    assert done.exit_code == code, done.stdout + done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def below(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in folder.rglob("*.dcm")]


def test_what_only_one_disk_has_comes_out_also_where_another_has_something_else(
    disks: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    there = stored(*disks)
    assert len(there) == COMMON + 2 * len(disks), "the ends differ"
    assert exported(tmp_path / "dry", *disks, more=("--dry-run",))["found"] == len(there)
    report = exported(tmp_path / "out", *disks)
    assert (report["found"], report["written"], report["left_out"]) == (len(there), len(there), [])
    files = below(tmp_path / "out")
    assert set(files) == there and len(files) == len(there), "each once, under a name of its own"
    again = exported(tmp_path / "out", *disks)
    assert (again["already"], again["written"]) == (len(there), 0)
    exported(tmp_path / "all.zip", *disks, more=("--as", "zip"))
    with zipfile.ZipFile(tmp_path / "all.zip") as archive:
        assert {archive.read(name) for name in archive.namelist()} == there
        assert len(set(archive.namelist())) == len(archive.namelist()) == len(there)


def test_the_same_bytes_come_out_once_where_a_sender_sent_them_again(
    disks: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    """What one branch has as record 4 is stored anew by the leader of another, as record 6."""
    one, two, _ = disks
    log = opened(one)
    point = log.point_at(COMMON)
    log.close()
    assert point is not None
    header, _, payload = record_after(point, 3000, 2, salt=2)
    log = opened(two)
    position = LogPosition(3, log.end.sequence + 1)
    anew = RecordHeader(
        position, RecordKind.INSTANCE, header.dataset, header.digest, header.time_us, header.path, header.size
    )
    log.append(anew, chain_after(log.end.chain, anew), payload)
    close(log)
    there = stored(one, two)
    assert len(there) == COMMON + 4
    assert exported(tmp_path / "out", one, two)["found"] == len(there)
    assert sorted(below(tmp_path / "out")) == sorted(there)


def test_another_record_of_its_number_does_not_stand_in_for_one_that_is_damaged(
    disks: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    one, two, _ = disks
    there = stored(one, two)
    lose(one, 2)
    lose(one, 5)
    report = exported(tmp_path / "out", one, two, code=1)
    assert [(left["sequence"], left["unsure"]) for left in report["left_out"]] == [(5, True)], "2 is in the other, too"
    assert report["written"] == len(there) - 1 == len(below(tmp_path / "out"))
    turned = exported(tmp_path / "turned", two, one, code=1)
    assert [left["sequence"] for left in turned["left_out"]] == [5], "whichever comes first"


def test_a_rotten_payload_is_named_beside_another_record_of_its_number(
    disks: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    one, two, _ = disks
    log = opened(one)
    entry = log.entry(5)
    log.close()
    assert entry is not None
    with (one / "log/000000000004.tar").open("r+b") as file:
        file.seek(entry.offset + entry.length - 1500)
        file.write(b"rot")
    report = exported(tmp_path / "out", one, two, code=1)
    assert [(left["sequence"], left["why"]) for left in report["left_out"]] == [
        (5, "its bytes do not match its digest")
    ]
    assert report["written"] == COMMON + 3
