"""Goal: without Perenne, tar gives every image back, byte for byte and without a word on stderr."""

import random
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from msgspec.structs import replace

from storage.disk import RealDisk
from storage.errors import LogLocked
from storage.log import Log
from storage.position import LogPoint, chain_after
from storage.staging import Staged, StagingArea
from storage.writer import GroupCommit
from tests.storage.log_helpers import IDENTITY, append, record_after


def written(root: Path, *, groups: int, direct: bool = False) -> dict[str, bytes]:
    """Write the same 40 records in groups of the given size; return path to payload."""
    log, _ = Log.open(RealDisk(root), IDENTITY, host_rebooted=False, direct=direct, spares=1)
    files: dict[str, bytes] = {}
    for number in range(40):
        header, chain, payload = record_after(
            log.end, (number * 977) % 9000 + (70_000 if number == 9 else 0), 1 + number // 25
        )
        log.append(header, chain, payload)
        files[header.path] = payload.data
        if number % groups == 0:
            log.sync()
    log.close()
    return files


@pytest.mark.parametrize("tool", ["tar", pytest.param("bsdtar", marks=pytest.mark.needs("bsdtar")), "python"])
def test_extracted_files_are_byte_identical(tool: str, tmp_path: Path) -> None:
    files = written(tmp_path / "data", groups=3)
    target = tmp_path / "out"
    target.mkdir()
    for segment in sorted((tmp_path / "data/log").glob("*.tar")):
        if tool == "python":
            with tarfile.open(segment) as archive:
                archive.extractall(target)  # Debian 12 has a 3.11 without filters
            continue
        for mode in ("tvf", "xf"):
            done = subprocess.run([tool, mode, segment], cwd=target, capture_output=True, check=True)
            assert done.stderr == b""
    found = {str(p.relative_to(target)): p.read_bytes() for p in target.rglob("*.dcm")}
    assert found == files


def test_a_segment_is_a_valid_archive_while_it_is_half_full(tmp_path: Path) -> None:
    log, _ = Log.open(RealDisk(tmp_path), IDENTITY, host_rebooted=False, spares=0)
    append(log, 700)
    log.sync()
    done = subprocess.run(["tar", "tf", tmp_path / "log/000000000001.tar"], capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (b"segment.table\n1.2/1.2.3/1.2.3.1.dcm\n", b"")
    log.close()


def test_the_same_log_is_the_same_bytes_however_it_was_grouped_and_written(tmp_path: Path) -> None:
    for name, groups, direct in (("a", 1, False), ("b", 7, True)):
        written(tmp_path / name, groups=groups, direct=direct)
    names = sorted(p.name for p in (tmp_path / "a/log").glob("*.tar"))
    assert len(names) > 3 and names == sorted(p.name for p in (tmp_path / "b/log").glob("*.tar"))
    for name in names:
        assert (tmp_path / "a/log" / name).read_bytes() == (tmp_path / "b/log" / name).read_bytes()


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    log, _ = Log.open(RealDisk(tmp_path), IDENTITY, host_rebooted=False, spares=0)
    program = (
        "import sys; from pathlib import Path; from storage.disk import RealDisk\n"
        "from storage.errors import LogLocked\n"
        "try:\n    RealDisk(Path(sys.argv[1])).lock('lock')\nexcept LogLocked:\n    sys.exit(42)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    assert subprocess.run(command, check=False, cwd=Path(__file__).parents[2]).returncode == 42
    with pytest.raises(LogLocked):
        RealDisk(tmp_path).lock("lock")
    log.close()
    assert subprocess.run(command, check=False, cwd=Path(__file__).parents[2]).returncode == 0


def test_group_commit_reports_everything_durable_and_releases_staging(tmp_path: Path) -> None:
    disk = RealDisk(tmp_path)
    area = StagingArea(disk, memory_instance_bytes=1 << 20, pool_bytes=4 << 20)
    log, _ = Log.open(disk, IDENTITY, host_rebooted=False, spares=0)
    durable: list[int] = []
    writer = GroupCommit(log, lambda point: durable.append(point.sequence), lambda error: pytest.fail(str(error)))
    end = log.end
    staged: list[Staged] = []
    for size in (10, 5000, 3_000_000, 200):
        receiving = area.begin_raw()
        receiving.write(memoryview(random.Random(size).randbytes(size)))
        held = receiving.finish(0)
        header, _, _ = record_after(end, 0)
        header = replace(header, dataset=held.dataset_digest, digest=held.digest, size=size)
        end = LogPoint(header.position, chain_after(end.chain, header))
        writer.submit(header, end.chain, held)
        staged.append(held)
    assert writer.call(lambda: log.durable).result(timeout=10) == end
    assert durable[-1] == 4
    assert b"".join(log.read(3).payload.parts()) == random.Random(3_000_000).randbytes(3_000_000)
    for held in staged:
        held.release()
    assert area.statistics().files == 0 and area.statistics().pooled_bytes_in_use == 0
    assert disk.list("staging") == []
    writer.close()
    log.close()
