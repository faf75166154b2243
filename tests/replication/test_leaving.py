"""Goal: no byte leaves a node unchecked: to a viewer, to another node, or into the tier.

Method: bytes that change between the check and the moment they leave. What other nodes take is proved in
tests/replication/test_feeder.py and tests/integration/test_damage.py, what a bucket lends in tests/tier.
"""

from collections.abc import Iterable
from pathlib import Path

import pytest

from replication.lookup import FetchedInstance, StoredInstance
from replication.tiering import _whole  # pyright: ignore[reportPrivateUsage]
from storage.disk import RealDisk
from storage.errors import RecordCorrupt, StorageError
from storage.log import Log
from storage.staging import Staged, StagingArea
from tests.storage.log_helpers import IDENTITY, append, record_after

LARGE = 600_000


def staged_in_file(root: Path, data: bytes) -> tuple[Staged, Path]:
    area = StagingArea(RealDisk(root), memory_instance_bytes=1000, pool_bytes=1 << 20)
    receiving = area.begin_raw()
    receiving.write(memoryview(data))
    staged = receiving.finish()
    assert not staged.in_memory
    (path,) = (root / "staging").iterdir()
    return staged, path


def rot(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(b"rot")


def taken(parts: Iterable[bytes | memoryview], because: type[StorageError] = RecordCorrupt) -> bytes:
    """What a reader has got when it is cut off."""
    got = b""
    with pytest.raises(because):
        for part in parts:
            got += bytes(part)
    return got


def test_an_instance_that_rots_while_it_leaves_is_cut_short_and_known(tmp_path: Path) -> None:
    log = Log.open(RealDisk(tmp_path), IDENTITY, host_rebooted=False, spares=0)[0]
    append(log, LARGE)
    log.sync()
    leaving = StoredInstance(log.read(1, whole_limit=1000), log)
    rot(tmp_path / "log/000000000001.tar", 300_000)
    assert len(taken(leaving.parts())) < LARGE
    assert log.damaged() == (1,)
    log.close()


def test_what_another_node_lent_is_checked_again_when_it_lay_in_a_file(tmp_path: Path) -> None:
    staged, path = staged_in_file(tmp_path, bytes(range(250)) * (10 * LARGE // 250))
    instance = FetchedInstance(staged)
    assert sum(map(len, instance.parts())) == instance.size
    rot(path, 3_000_000)
    assert len(taken(instance.parts())) < instance.size


def test_what_goes_into_the_tier_is_checked_when_it_lay_in_a_file(tmp_path: Path) -> None:
    log = Log.open(RealDisk(tmp_path), IDENTITY, host_rebooted=False, spares=0)[0]
    header, chain, payload = record_after(log.end, LARGE)
    staged, path = staged_in_file(tmp_path, payload.data)
    append(log, LARGE)
    log.sync()
    assert b"".join(_whole(header, chain, staged)) == log.read_raw(1)
    rot(path, 300_000)
    taken(_whole(header, chain, staged))
    staged.release()
    log.close()
