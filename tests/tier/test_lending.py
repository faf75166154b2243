"""Goal: one record comes out of the bucket for a repair, whatever object holds it, and never an altered one.

Method: a real log, its records in objects of every kind in a directory, some of them altered or gone.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from replication.tier import lending
from replication.tier.keys import run_name
from replication.tier.lending import lend
from storage.disk import RealDisk
from storage.log import Log
from storage.staging import Staged, StagingArea
from tests.storage.log_helpers import IDENTITY, append
from tests.tier.rig import Reached, directory_reached, run

SIZES = (3000, 12_000, 500, 9000)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    """Records 1 to 4 in a sealed segment, 5 to 8 in the newest."""
    opened = Log.open(RealDisk(tmp_path / "node"), IDENTITY, host_rebooted=False, spares=0)[0]
    for epoch in (1, 2):
        for size in SIZES:
            append(opened, size, epoch)
        opened.sync()
    yield opened
    opened.close()


@pytest.fixture
def tier(tmp_path: Path) -> Iterator[Reached]:
    reached = directory_reached(tmp_path / "san")
    yield reached
    reached.end()


def put(tier: Reached, log: Log, first: int, last: int, *, segment: Path | None = None) -> str:
    end = log.point_at(last)
    assert end is not None
    key = run_name(first, end).key
    body = segment.read_bytes() if segment is not None else b"".join(map(log.read_raw, range(first, last + 1)))
    run(tier.store.put(key, body))
    return key


def lent(tier: Reached, tmp_path: Path, epoch: int, sequence: int) -> bytes | None:
    """What the tier lends of a record: its payload, which a digest has proved."""
    area = StagingArea(RealDisk(tmp_path / "staging"), memory_instance_bytes=64 * 1024, pool_bytes=1 << 20)
    found = run(lend(tier.store, epoch, sequence, area))
    if found is None:
        assert area.statistics().pooled_bytes_in_use == 0
        return None
    header, _, staged = found
    assert (header.position.epoch, header.position.sequence) == (epoch, sequence)
    assert isinstance(staged, Staged)
    payload = b"".join(map(bytes, staged.parts()))
    staged.release()
    return payload


def payload(log: Log, sequence: int) -> bytes:
    return b"".join(map(bytes, log.read(sequence).payload.parts()))


@pytest.mark.parametrize("whole", [lending.WHOLE_BYTES, 0])
def test_a_record_comes_out_of_single_objects_groups_and_sealed_segments(
    log: Log, tier: Reached, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: int
) -> None:
    """Small objects are fetched at once, others by range."""
    monkeypatch.setattr(lending, "WHOLE_BYTES", whole)
    put(tier, log, 1, 4, segment=tmp_path / "node" / "log/000000000001.tar")
    put(tier, log, 5, 5)
    put(tier, log, 6, 8)
    for sequence in range(1, 9):
        assert lent(tier, tmp_path, 1 if sequence < 5 else 2, sequence) == payload(log, sequence)
    assert lent(tier, tmp_path, 2, 9) is None
    assert lent(tier, tmp_path, 3, 5) is None


def test_what_is_altered_is_passed_over_for_another_object(log: Log, tier: Reached, tmp_path: Path) -> None:
    keys = [put(tier, log, 5, 6), put(tier, log, 5, 8)]
    path = tmp_path / "san" / keys[0]
    path.chmod(0o644)
    content = bytearray(path.read_bytes())
    content[-3000] ^= 1  # in the payload of record 6
    path.write_bytes(content)
    assert lent(tier, tmp_path, 2, 6) == payload(log, 6)
    assert lent(tier, tmp_path, 2, 5) == payload(log, 5), "its neighbour is sound in either"
    run(tier.store.delete(keys[1]))
    assert lent(tier, tmp_path, 2, 6) is None
    assert lent(tier, tmp_path, 2, 5) == payload(log, 5)
