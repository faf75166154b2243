"""Goal: a SAN that is away is an outage, never an empty archive; what is on it is plain tar and checked.

Method: directories that lose their mark, are swapped, filled, or hold what a killed process left.
"""

import errno
import os
import subprocess
import time
from pathlib import Path

import pytest

from replication.tier.directory import SENTINEL, DirectoryStore
from replication.tier.port import NoRoom, ObjectDamaged, Refused, Stored, Unreachable
from replication.tier.retrying import Patience
from storage.position import GENESIS, LogPoint, LogPosition, RecordKind, chain_after
from storage.record import encode_header, small_member, trailing_padding
from tests.tier.rig import QUICK, Reached, directory_reached, flipped, reached_through, run

KEY = "log/000000000001/a.tar"


def quick(root: Path) -> Reached:
    return reached_through(DirectoryStore(root), lambda _: None, Patience(give_up_s=0.1))


def everything(reached: Reached) -> list[str]:
    async def listed() -> list[str]:
        return [key async for key in reached.store.list("")]

    return run(listed())


@pytest.mark.parametrize("exists", [True, False])
def test_an_unmounted_directory_is_an_outage_for_every_call_and_gets_no_byte(tmp_path: Path, exists: bool) -> None:
    root = tmp_path / "mount point"
    if exists:
        root.mkdir()
    away = quick(root)
    asks = (
        lambda: away.store.put(KEY, b"x"),
        lambda: away.store.get(KEY),
        lambda: away.store.head(KEY),
        lambda: away.store.delete(KEY),
    )
    for ask in asks:
        with pytest.raises(Unreachable):
            run(ask())
    with pytest.raises(Unreachable):
        everything(away)
    assert list(tmp_path.iterdir()) == ([root] if exists else [])
    assert not exists or list(root.iterdir()) == []
    away.end()


def test_a_mount_that_goes_and_comes_back_is_an_outage_in_between(tmp_path: Path) -> None:
    reached = directory_reached(tmp_path / "san", QUICK)
    run(reached.store.put(KEY, b"x"))
    (tmp_path / "san").rename(tmp_path / "elsewhere")
    (tmp_path / "san").mkdir()
    with pytest.raises(Unreachable, match="not mounted"):
        everything(reached)
    (tmp_path / "san").rmdir()
    (tmp_path / "elsewhere").rename(tmp_path / "san")
    assert everything(reached) == [KEY]
    reached.end()


def test_another_archives_directory_in_its_place_is_refused(tmp_path: Path) -> None:
    reached = directory_reached(tmp_path / "san")
    run(reached.store.put(KEY, b"x"))
    (tmp_path / "san").rename(tmp_path / "elsewhere")
    directory_reached(tmp_path / "san").end()
    with pytest.raises(Refused, match="something else is mounted"):
        everything(reached)
    reached.end()


def test_a_mark_is_never_replaced(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    store.prepare()
    mark = (tmp_path / SENTINEL).read_bytes()
    assert "already" in store.prepare()
    assert (tmp_path / SENTINEL).read_bytes() == mark


@pytest.mark.parametrize("cut", [1, 512, 513, 1024, 5000])
def test_a_file_that_lost_its_end_is_damaged_not_shorter(tmp_path: Path, cut: int) -> None:
    reached = directory_reached(tmp_path)
    run(reached.store.put(KEY, bytes(range(256)) * 30))
    with (tmp_path / KEY).open("r+b") as file:
        file.truncate((tmp_path / KEY).stat().st_size - cut)
    with pytest.raises(ObjectDamaged):
        run(reached.store.get(KEY))
    with pytest.raises(ObjectDamaged):
        run(reached.store.get_range(KEY, 0, 9))
    reached.end()


def test_a_damaged_seal_is_damage(tmp_path: Path) -> None:
    reached = directory_reached(tmp_path)
    run(reached.store.put(KEY, b"x" * 1000))
    data = (tmp_path / KEY).read_bytes()
    (tmp_path / KEY).write_bytes(data[:-512] + flipped(data[-512:]))
    with pytest.raises(ObjectDamaged):
        run(reached.store.head(KEY))
    reached.end()


def test_leftovers_of_killed_processes_are_no_objects_and_go_after_a_day(tmp_path: Path) -> None:
    directory_reached(tmp_path).end()
    (tmp_path / ".tmp").mkdir()
    for name, age in (("old", 100_000), ("new", 100)):
        (tmp_path / ".tmp" / name).write_bytes(b"half")
        os.utime(tmp_path / ".tmp" / name, (time.time() - age, time.time() - age))
    reached = directory_reached(tmp_path)
    run(reached.store.put(KEY, b"x"))
    assert everything(reached) == [KEY]
    assert [path.name for path in (tmp_path / ".tmp").iterdir()] == ["new"]
    reached.end()


def test_a_run_of_records_is_a_tar_that_every_tar_reads(tmp_path: Path) -> None:
    run_of_records = b""
    point = GENESIS
    for sequence in range(1, 4):
        header, payload = small_member(LogPosition(1, sequence), RecordKind.NOTE, {"n": sequence}, 0)
        chain = chain_after(point.chain, header)
        run_of_records += encode_header(header, chain) + payload + bytes(trailing_padding(len(payload)))
        point = LogPoint(header.position, chain)
    reached = directory_reached(tmp_path)
    run(reached.store.put(KEY, run_of_records))
    names = [f"perenne/{sequence:012d}-note.json" for sequence in range(1, 4)]
    (tmp_path / "bare.tar").write_bytes(run_of_records)
    for tar in ("tar", "bsdtar"):
        for file in (tmp_path / KEY, tmp_path / "bare.tar"):
            listed = subprocess.run([tar, "tf", str(file)], capture_output=True, text=True, check=True)
            assert (listed.stdout.split(), listed.stderr) == (names, "")
    reached.end()


def test_a_full_file_system_is_no_room_and_leaves_nothing(tmp_path: Path) -> None:
    root = tmp_path / "small"
    root.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(root)], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mounting is not allowed here")
    try:
        reached = directory_reached(root, QUICK)
        run(reached.store.put(KEY, b"x" * 50_000))
        with pytest.raises(NoRoom, match="Make room"):
            run(reached.store.put("log/1/b", b"x" * 500_000))
        assert everything(reached) == [KEY]
        assert list((root / ".tmp").iterdir()) == []
        assert run(reached.store.put("log/1/c", b"x" * 50_000)) is Stored.CREATED
        reached.end()
    finally:
        subprocess.run(["umount", str(root)], check=True)
    away = quick(root)
    with pytest.raises(Unreachable, match="not mounted"):
        run(away.store.put(KEY, b"x"))
    assert list(root.iterdir()) == []
    away.end()


def test_a_read_only_mount_is_refused_with_the_next_step(tmp_path: Path) -> None:
    root = tmp_path / "ro"
    root.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(root)], check=False, capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        reached = directory_reached(root)
        subprocess.run(["mount", "-o", "remount,ro", str(root)], check=True)
        with pytest.raises(Refused, match="Give the node's user the right"):
            run(reached.store.put(KEY, b"x"))
        reached.end()
    finally:
        subprocess.run(["umount", str(root)], check=True)


def test_a_name_that_was_never_synced_is_not_there_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first attempt gave the file its name, and failed to sync the directory: the second one finds the name."""
    reached = directory_reached(tmp_path)
    run(reached.store.put("log/000000000001/before.tar", b"y"))
    sync, synced = os.fsync, list[bool]()

    def failing(fd: int) -> None:
        if os.readlink(f"/proc/self/fd/{fd}") == str(tmp_path / "log" / "000000000001"):
            synced.append(bool(synced))
            if not synced[-1]:
                raise OSError(errno.EIO, "Input/output error")
        sync(fd)

    monkeypatch.setattr(os, "fsync", failing)
    assert run(reached.store.put(KEY, b"x")) is Stored.THERE_BEFORE
    assert synced == [False, True]
    reached.end()
