"""Page-aligned memory by way of which anything can be written with O_DIRECT."""

import errno
import mmap
import os
import threading
from collections.abc import Sequence
from typing import Final

Buffer = bytes | bytearray | memoryview

IOV_MAX: Final = 1024
SECTOR: Final = 512
_AS_IT_LIES: Final = 16 * 1024
_BOUNCE_BYTES: Final = 4 * 1024 * 1024


class Bounce:
    """Page-aligned memory, one piece for a whole disk: O_DIRECT takes no other."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._memory: memoryview | None = None

    def write(self, fd: int, parts: Sequence[Buffer], offset: int) -> None:
        """Write the parts, whole pages in sum: large aligned ones as they lie, everything else by way of here."""
        with self._lock:
            memory = self._memory = self._memory or memoryview(mmap.mmap(-1, _BOUNCE_BYTES))
            vectors = _vectors(memory, parts)
            if vectors is not None:
                try:
                    if os.pwritev(fd, vectors, offset) == sum(map(len, vectors)):
                        return
                except OSError as error:
                    if error.errno != errno.EINVAL:  # memory or device want a stricter alignment
                        raise
            self._write_gathered(fd, memory, parts, offset)

    def _write_gathered(self, fd: int, memory: memoryview, parts: Sequence[Buffer], offset: int) -> None:
        filled = 0
        for part in parts:
            view = memoryview(part)
            while view:
                taken = min(len(view), len(memory) - filled)
                memory[filled : filled + taken] = view[:taken]
                filled += taken
                view = view[taken:]
                if filled == len(memory):
                    offset = write_all(fd, memory, offset)
                    filled = 0
        if filled:
            write_all(fd, memory[:filled], offset)


def _vectors(memory: memoryview, parts: Sequence[Buffer]) -> list[memoryview] | None:
    """Arrange parts for one vectored write in whole sectors: small ones and odd ends are copied into `memory`.

    None when they do not fit. Whether the large ones are aligned in memory is for the kernel to say.
    """
    vectors: list[memoryview] = []
    start = filled = 0
    for part in parts:
        view = memoryview(part)
        if len(view) >= _AS_IT_LIES and (filled - start) % SECTOR == 0:
            if filled > start:
                vectors.append(memory[start:filled])
                start = filled
            whole = len(view) // SECTOR * SECTOR
            vectors.append(view[:whole])
            view = view[whole:]
        if filled + len(view) > len(memory):
            return None
        memory[filled : filled + len(view)] = view
        filled += len(view)
    if filled > start:
        vectors.append(memory[start:filled])
    return vectors if len(vectors) <= IOV_MAX else None


def write_all(fd: int, data: memoryview, offset: int) -> int:
    """Write everything; return where it ends."""
    while data:
        done = os.pwrite(fd, data, offset)
        offset += done
        data = data[done:]
    return offset
