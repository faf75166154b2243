"""Goal: what was staged is what arrived, hashed in one pass, with bounded memory and nothing left behind."""

import random

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from storage.digest import part10_meta_length
from storage.errors import FormatError, StorageFull
from storage.position import NO_DIGEST, RecordKind
from storage.staging import StagingArea
from tests.storage.memory_disk import MemoryDisk

META = bytes(128) + b"DICM\x02\x00\x00\x00UL\x04\x00" + (20).to_bytes(4, "little") + bytes(range(20))


def new_area(disk: MemoryDisk, pool: int = 4 << 20) -> StagingArea:
    return StagingArea(disk, memory_instance_bytes=1 << 20, pool_bytes=pool)


@given(
    st.integers(0, 3_000_000),
    st.sampled_from([1_000, 131_072, 2_000_000]),
    st.booleans(),
)
def test_bytes_and_digests_are_those_that_arrived(size: int, piece: int, raw: bool) -> None:
    disk = MemoryDisk()
    area = new_area(disk)
    body = random.Random(size).randbytes(size)
    receiving = area.begin_raw() if raw else area.begin(META)
    rest = memoryview(META + body if raw else body)
    while rest:
        receiving.write(rest[:piece])
        rest = rest[piece:]
    staged = receiving.finish(len(META))
    assert b"".join(staged.parts()) == META + body and staged.size == len(META) + size
    assert all(len(part) <= 1 << 20 for part in staged.parts())
    assert staged.head(100_000) == body[:100_000]
    assert staged.dataset_digest == blake3(body).digest()
    assert staged.digest == blake3(META + staged.dataset_digest).digest()
    assert area.statistics().pooled_bytes_in_use <= 2 << 20
    staged.retain()
    staged.release()
    assert b"".join(staged.parts()) == META + body
    staged.release()
    assert area.statistics().pooled_bytes_in_use == 0 and disk.list("staging") == []


@pytest.mark.parametrize("cut", range(0, len(META) + 1, 3))
def test_a_payload_shorter_than_its_meta_is_all_data_set(cut: int) -> None:
    receiving = new_area(MemoryDisk()).begin_raw()
    for at in range(cut):
        receiving.write(memoryview(META)[at : at + 1])
    staged = receiving.finish()
    whole = cut == len(META)
    assert staged.meta_length == (cut if whole else 0)
    assert staged.dataset_digest == blake3(b"" if whole else META[:cut]).digest()


def test_other_kinds_have_no_data_set() -> None:
    receiving = new_area(MemoryDisk()).begin_raw(RecordKind.NOTE)
    receiving.write(memoryview(META))
    staged = receiving.finish()
    assert (staged.dataset_digest, staged.digest) == (NO_DIGEST, blake3(META).digest())


def test_an_exhausted_pool_spills_and_a_full_disk_refuses() -> None:
    disk = MemoryDisk()
    area = new_area(disk, pool=128 * 1024)
    first = area.begin_raw()
    first.write(memoryview(bytes(60_000)))
    second = area.begin_raw()
    second.write(memoryview(bytes(100_000)))
    assert area.statistics().files == 1
    disk.room = 10
    with pytest.raises(StorageFull):
        second.write(memoryview(bytes(100_000)))
    first.abandon()
    second.abandon()
    assert area.statistics().pooled_bytes_in_use == 0 and disk.list("staging") == []


def test_leftovers_are_removed_at_start() -> None:
    disk = MemoryDisk()
    disk.write_atomically("staging/00000001.part", b"never acknowledged")
    assert new_area(disk).statistics().leftovers == 1 and disk.list("staging") == []


def test_file_meta_must_state_its_length() -> None:
    assert part10_meta_length(META) == len(META)
    with pytest.raises(FormatError):
        new_area(MemoryDisk()).begin(META + b"x")
