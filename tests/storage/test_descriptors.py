"""Goal: a log of many segments needs one descriptor for each, a verb may open as many as the system allows, and no
descriptor is ever closed twice: by then its number may be another file's.
"""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from storage import disk
from storage.disk import RealDisk
from storage.log import Log
from tests.storage.log_helpers import IDENTITY, append

VERB = """
import atexit, resource, sys
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
atexit.register(lambda: print(resource.getrlimit(resource.RLIMIT_NOFILE)[0] == hard))
from perenne.cli import main
sys.argv[1:] = ["log", "--help"]
main()
"""


def open_files(root: Path) -> list[str]:
    """Those below `root`, once for each descriptor."""
    found = [
        os.readlink(f"/proc/self/fd/{fd}")
        for fd in os.listdir("/proc/self/fd")
        if os.path.islink(f"/proc/self/fd/{fd}")
    ]
    return sorted(name for name in found if name.startswith(f"{root}/log/0"))


def test_only_the_newest_segment_has_a_second_descriptor(tmp_path: Path) -> None:
    log = Log.open(RealDisk(tmp_path), IDENTITY, host_rebooted=False, direct=True, spares=0)[0]
    for _ in range(30):
        append(log, 9000)
    assert len(log.segments()) > 4
    newest = [str(tmp_path / log.segments()[-1].name)]
    each = [str(tmp_path / segment.name) for segment in log.segments()]
    assert open_files(tmp_path) == sorted(each + newest)
    log.close()
    log = Log.open(RealDisk(tmp_path), IDENTITY, host_rebooted=False, direct=True, spares=0)[0]
    assert open_files(tmp_path) == sorted(each + newest), "after a start as well"
    log.close()
    assert open_files(tmp_path) == []


def test_a_verb_may_open_as_many_files_as_the_system_allows() -> None:
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] == 64:
        pytest.skip("the system allows no more than the test wants to begin with")
    done = subprocess.run([sys.executable, "-c", VERB], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0 and done.stdout.endswith("True\n"), done.stdout[-200:] + done.stderr


def test_a_file_that_could_not_be_opened_closes_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: Path) -> int:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(disk, "_open_direct", refused)
    with pytest.raises(OSError, match="Too many") as failed:
        RealDisk(tmp_path).open("one", create=True, direct=True)
    with (tmp_path / "other").open("wb", buffering=0) as other:  # gets the number that was free again
        del failed
        assert other.write(b"x") == 1
