"""A name is durable only when its directory was synced (ext4, xfs).

The disks in memory, here and in the simulator, take that for given: the real one is watched doing it.
"""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from storage.disk import Disk, RealDisk

CHANGES: dict[str, tuple[Callable[[Disk], None], set[str]]] = {
    "rename": (lambda disk: disk.rename("one/name", "two/name"), {"one", "two"}),
    "remove": (lambda disk: disk.remove("one/name"), {"one"}),
    "make_directory": (lambda disk: disk.make_directory("two/three"), {"two"}),
    "write_atomically": (lambda disk: disk.write_atomically("two/name", b"2"), {"two"}),
    "preallocate": (lambda disk: disk.preallocate("two/name", 4096), {"two"}),
}
"""And the directories that are other ones then."""


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_names_is_synced_with_its_directories(
    change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, directories = CHANGES[change]
    disk = RealDisk(tmp_path)
    for name in ("one", "two"):
        disk.make_directory(name)
    disk.write_atomically("one/name", b"1")
    before = {name: sorted(os.listdir(tmp_path / name)) for name in ("one", "two")}
    synced: dict[str, list[str]] = {}
    fsync = os.fsync

    def watched(fd: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{fd}"))
        if path.is_dir():
            synced[path.name] = sorted(os.listdir(path))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", watched)
    make(disk)
    after = {name: sorted(os.listdir(tmp_path / name)) for name in directories}
    assert synced == after, "each, and as it is in the end"
    assert all(after[name] != before[name] for name in directories)
    disk.close()
