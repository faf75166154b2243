"""An instance while it is being received: in pooled memory first, in a file under `staging/` when
it grows large.

Its digests are taken while the bytes arrive. Nothing here is durable: what is staged was never acknowledged.
"""

import itertools
import mmap
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from storage.digest import PayloadHasher, part10_meta_length
from storage.disk import Disk, DiskFile
from storage.errors import FormatError
from storage.position import RecordKind

DIRECTORY: Final = "staging"
PIECE: Final = 1024 * 1024
_SMALL: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class StagingStatistics:
    """Bytes are of buffers handed out, not of payload.

    leftovers: files of an earlier process removed at start.
    """

    pooled_bytes_in_use: int
    pooled_bytes_free: int
    files: int
    spilled: int
    leftovers: int


class StagingArea:
    """Hands out buffers and keeps them for the next instance: fresh large ones cost page faults.

    memory_instance_bytes: an instance larger than this goes to a file.
    pool_bytes: all buffers together; when they are handed out, instances go to files whatever their size.
    """

    def __init__(self, disk: Disk, *, memory_instance_bytes: int, pool_bytes: int) -> None:
        self._disk = disk
        self.memory_instance_bytes = memory_instance_bytes
        self._pool_bytes = pool_bytes
        self._free: dict[int, list[memoryview]] = {_SMALL: [], PIECE: []}
        self._allocated = 0
        # The collector may let go of an instance wherever something is allocated, also in whoever holds this.
        self._lock = threading.RLock()
        self._numbers = itertools.count(1)
        self._files = 0
        self._spilled = 0
        disk.make_directory(DIRECTORY)
        leftovers = disk.list(DIRECTORY)
        for name in leftovers:
            disk.remove(f"{DIRECTORY}/{name}")
        self._leftovers = len(leftovers)

    def begin(self, meta: bytes) -> "Receiving":
        """Start an instance whose preamble and File Meta are `meta`, complete and with their group length."""
        if part10_meta_length(meta) != len(meta):
            raise FormatError("the File Meta group does not state its own length")
        receiving = Receiving(self, RecordKind.INSTANCE)
        receiving.write(memoryview(meta))
        return receiving

    def begin_raw(self, kind: RecordKind = RecordKind.INSTANCE) -> "Receiving":
        """Start a payload that arrives whole, File Meta included, such as from a peer."""
        return Receiving(self, kind)

    def statistics(self) -> StagingStatistics:
        with self._lock:
            free = sum(size * len(buffers) for size, buffers in self._free.items())
            return StagingStatistics(
                self._allocated - free,
                free,
                self._files,
                self._spilled,
                self._leftovers,
            )

    def take(self, size: int) -> memoryview | None:
        """Return a buffer of `size` (one of the two classes), or None when the pool is exhausted."""
        with self._lock:
            if self._free[size]:
                return self._free[size].pop()
            other = _SMALL if size == PIECE else PIECE
            while self._allocated + size > self._pool_bytes and self._free[other]:
                self._free[other].pop()
                self._allocated -= other
            if self._allocated + size > self._pool_bytes:
                return None
            self._allocated += size
        return memoryview(mmap.mmap(-1, size))  # page-aligned, so that O_DIRECT takes it as it is

    def give_back(self, buffer: memoryview) -> None:
        with self._lock:
            self._free[len(buffer)].append(buffer)

    def create_file(self) -> tuple[str, DiskFile]:
        name = f"{DIRECTORY}/{next(self._numbers):08d}.part"
        file = self._disk.open(name, create=True)
        with self._lock:
            self._files += 1
            self._spilled += 1
        return name, file

    def remove_file(self, name: str, file: DiskFile) -> None:
        file.close()
        self._disk.remove(name)
        with self._lock:
            self._files -= 1


class _Bytes:
    """The bytes of one payload, in buffers or in a file, shared by counting references."""

    def __init__(self, area: StagingArea) -> None:
        self.area = area
        self.buffers: list[memoryview] = []
        self.size = 0
        self.file: DiskFile | None = None
        self.file_name = ""

    def free(self) -> None:
        for buffer in self.buffers:
            self.area.give_back(buffer)
        self.buffers = []
        if self.file is not None:
            self.area.remove_file(self.file_name, self.file)
            self.file = None


class Staged:
    """A whole payload and its digests; immutable. Begins with one reference, and goes when the
    last is released.

    size: payload bytes. meta_length: of preamble and File Meta, 0 for other kinds of records.
    """

    def __init__(self, held: _Bytes, hasher: PayloadHasher) -> None:
        digests = hasher.finish()
        self._held = held
        self._references = 1
        self._lock = threading.Lock()
        self.size = held.size
        self.meta_length = digests.meta_length
        self.dataset_digest = digests.dataset
        self.digest = digests.digest

    @property
    def in_memory(self) -> bool:
        return self._held.file is None

    def parts(self) -> Iterator[memoryview]:
        """Yield the payload in order, in pieces of at most 1 MiB.

        The views are valid while a reference is held.
        """
        yield from self._range(0, self.size)

    def head(self, size: int) -> memoryview:
        """Return the first `size` bytes of the data set, fewer when it is shorter."""
        pieces = list(self._range(self.meta_length, min(self.size, self.meta_length + size)))
        return pieces[0] if len(pieces) == 1 else memoryview(b"".join(pieces))

    def retain(self) -> None:
        with self._lock:
            assert self._references > 0, "retained after its last release"
            self._references += 1

    def release(self) -> None:
        with self._lock:
            assert self._references > 0, "released more often than retained"
            self._references -= 1
            last = self._references == 0
        if last:
            self._held.free()

    def _range(self, start: int, end: int) -> Iterator[memoryview]:
        held = self._held
        if held.file is not None:
            while start < end:
                piece = held.file.pread(min(PIECE, end - start), start)
                if not piece:
                    raise FormatError(f"{held.file_name} ended early")
                start += len(piece)
                yield memoryview(piece)
            return
        base = 0
        for buffer in held.buffers:
            low, high = max(start - base, 0), min(end - base, len(buffer))
            if low < high:
                yield buffer[low:high].toreadonly()
            base += len(buffer)


class Receiving:
    """A payload that is still arriving. Used by one thread; ends with `finish` or `abandon`."""

    def __init__(self, area: StagingArea, kind: RecordKind) -> None:
        self._area = area
        self._held = _Bytes(area)
        self._hasher = PayloadHasher(kind)
        self._room = 0

    @property
    def size(self) -> int:
        return self._held.size

    def write(self, data: memoryview) -> None:
        """Take the next bytes; they are copied. Raises StorageFull when a large one finds no room on disk."""
        self._hasher.update(data)
        held = self._held
        while data:
            if held.file is not None:
                held.file.pwrite([data], held.size)
                held.size += len(data)
                return
            if self._room == 0 and not self._grow():
                self._spill()
                continue
            taken = min(len(data), self._room)
            buffer = held.buffers[-1]
            start = len(buffer) - self._room
            buffer[start : start + taken] = data[:taken]
            held.size += taken
            self._room -= taken
            data = data[taken:]

    def finish(self, meta_length: int | None = None) -> Staged:
        """Return the whole payload.

        Raises FormatError when `meta_length` is given and the bytes say otherwise.
        """
        staged = Staged(self._held, self._hasher)
        if meta_length is not None and meta_length != staged.meta_length:
            staged.release()
            raise FormatError(f"File Meta is {staged.meta_length} bytes, not {meta_length}")
        return staged

    def abandon(self) -> None:
        self._held.free()

    def _grow(self) -> bool:
        """Add a buffer: a small one first, replaced by a large one, so that small instances stay cheap."""
        held = self._held
        if held.size >= self._area.memory_instance_bytes:
            return False
        first = not held.buffers
        buffer = self._area.take(_SMALL if first else PIECE)
        if buffer is None:
            return False
        filled = 0
        if len(held.buffers) == 1 and len(held.buffers[0]) == _SMALL:
            small = held.buffers.pop()
            filled = len(small)
            buffer[:filled] = small
            self._area.give_back(small)
        held.buffers.append(buffer)
        self._room = len(buffer) - filled
        return True

    def _spill(self) -> None:
        held = self._held
        name, file = self._area.create_file()
        held.file_name, held.file = name, file
        offset = 0
        try:
            for buffer in held.buffers:
                used = min(len(buffer), held.size - offset)
                file.pwrite([buffer[:used]], offset)
                offset += used
        finally:
            for buffer in held.buffers:
                self._area.give_back(buffer)
            held.buffers = []
        self._room = 0
