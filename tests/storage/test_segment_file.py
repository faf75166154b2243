"""Goal: what is read from the medium is right, and does not come into the page cache."""

import ctypes
import mmap
import os
import random
from pathlib import Path

import pytest

from storage.segment_file import WINDOW, SegmentFile

SIZE = 2 * WINDOW + 3 * 4096
CONTENT = random.Random(1).randbytes(SIZE)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Cold: none of its pages is in memory."""
    path = tmp_path / "segment"
    path.write_bytes(CONTENT)
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)
    if resident(path):
        pytest.skip("this file system keeps everything in memory")
    return path


def resident(path: Path) -> int:
    """How many pages of a file are in the page cache, as mincore(2) says."""
    libc = ctypes.CDLL(None, use_errno=True)
    with path.open("r+b") as opened, mmap.mmap(opened.fileno(), 0) as mapped:
        pages = -(-len(mapped) // mmap.PAGESIZE)
        found = (ctypes.c_ubyte * pages)()
        address = ctypes.addressof(ctypes.c_char.from_buffer(mapped))
        assert libc.mincore(ctypes.c_void_p(address), ctypes.c_size_t(len(mapped)), found) == 0
        return sum(one & 1 for one in found)


@pytest.mark.parametrize("all_of_it", [True, False])
def test_the_medium_is_read_past_the_page_cache(file: Path, all_of_it: bool) -> None:
    with SegmentFile(file, medium=True, all_of_it=all_of_it) as opened:
        assert b"".join(map(bytes, opened.pieces(0, SIZE))) == CONTENT
    assert resident(file) < 100
    with SegmentFile(file) as opened:
        assert len(opened.read(0, SIZE)) == SIZE
    assert resident(file) == SIZE // 4096


@pytest.mark.parametrize("size", [1, 4095, 4096, 70_000])
def test_ranges_of_any_kind_are_what_the_file_holds(file: Path, size: int) -> None:
    chance = random.Random(size)
    with SegmentFile(file, medium=True) as opened:
        for offset in [0, WINDOW - 1, SIZE - size, SIZE - 1, SIZE, *(chance.randrange(SIZE) for _ in range(40))]:
            assert opened.read(offset, size) == CONTENT[offset : offset + size]
            assert (
                b"".join(map(bytes, opened.pieces(offset, min(size, SIZE - offset))))
                == (CONTENT[offset : offset + size])
            )
