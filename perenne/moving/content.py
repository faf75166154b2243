"""Bytes that are to be moved: in memory when small, else in a file that is read again each time they are asked for."""

import os
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

IN_MEMORY: Final = 16 * 1024 * 1024
"""Larger ones stay in a file, so that memory stays flat whatever comes."""
PIECE: Final = 1024 * 1024
SIZE_PREFIX: Final = 8
"""Orthanc writes the size of what it compressed before it, as 64 bits, little endian."""


class Unreadable(Exception):
    """The bytes cannot be had: the text says why."""


class Stream(Protocol):
    """What bytes are read from, once, from front to back."""

    def read(self, size: int, /) -> bytes: ...


class Content(Protocol):
    """A run of bytes that can be read several times."""

    @property
    def size(self) -> int: ...

    def pieces(self) -> Iterator[bytes]:
        """Raises Unreadable, OSError."""
        ...

    def discard(self) -> None:
        """Remove what was made for it."""
        ...


@dataclass(frozen=True, slots=True)
class Held:
    """In memory. again: where it can be read again, once it is not."""

    data: bytes
    again: Content | None = None

    @property
    def size(self) -> int:
        return len(self.data)

    def pieces(self) -> Iterator[bytes]:
        yield self.data

    def discard(self) -> None: ...


@dataclass(frozen=True, slots=True)
class InFile:
    """A whole file. temporary: it was made for this, and goes with it."""

    path: Path
    size: int
    temporary: bool = False

    def pieces(self) -> Iterator[bytes]:
        left = self.size
        with self.path.open("rb", buffering=0) as file:
            while left:
                piece = file.read(min(PIECE, left))
                if not piece:
                    raise Unreadable("the file is shorter than it was")
                left -= len(piece)
                yield piece

    def discard(self) -> None:
        if self.temporary:
            self.path.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class Deflated:
    """A file as Orthanc compresses it; inflated anew each time, never more than it says it holds."""

    path: Path
    size: int

    def pieces(self) -> Iterator[bytes]:
        with self.path.open("rb") as file:
            file.seek(SIZE_PREFIX)
            stream = Inflating(file, self.size)
            while piece := stream.read(PIECE):
                yield piece

    def discard(self) -> None: ...


class Inflating:
    """Reads what zlib compressed. Raises Unreadable when it does not hold exactly as much as was said."""

    def __init__(self, compressed: Stream, size: int) -> None:
        self._compressed = compressed
        self._inflater = zlib.decompressobj()
        self._left = size

    def read(self, size: int, /) -> bytes:
        parts: list[bytes] = []
        while size > 0 and (part := self._part(size)):
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def _part(self, most: int) -> bytes:
        while not self._inflater.eof:
            raw = self._inflater.unconsumed_tail or self._compressed.read(64 * 1024)
            try:
                part = self._inflater.decompress(raw, most)
            except zlib.error as error:
                raise Unreadable(f"its compressed bytes are damaged ({error})") from error
            self._left -= len(part)
            if self._left < 0:
                raise Unreadable("it holds more than its size says")
            if part:
                return part
            if not raw:
                raise Unreadable("its compressed bytes end early")
        if self._left:
            raise Unreadable("it holds less than its size says")
        return b""


def compressed_size(head: bytes) -> int | None:
    """The size that Orthanc's prefix names; None where these bytes do not begin as Orthanc compresses."""
    if len(head) < SIZE_PREFIX + 2 or head[8] != 0x78 or int.from_bytes(head[8:10], "big") % 31:
        return None
    size = int.from_bytes(head[:SIZE_PREFIX], "little")
    return size if 0 < size < 1 << 48 else None


def read_upto(stream: Stream, size: int) -> bytes:
    """Read so many bytes, or all that there are."""
    parts: list[bytes] = []
    while size > 0 and (part := stream.read(size)):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def spool(head: bytes, stream: Stream, folder: Path, most: int) -> InFile:
    """Copy a stream to a temporary file. Raises Unreadable when it is larger than `most`, OSError."""
    descriptor, name = tempfile.mkstemp(dir=folder, prefix="spool-")
    path, size = Path(name), len(head)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(head)
            while piece := stream.read(PIECE):
                size += len(piece)
                if size > most:
                    raise Unreadable(f"it is larger than {most:,} bytes, the most that --largest allows")
                file.write(piece)
    except BaseException:  # Ctrl-C too: half a file is not left behind
        path.unlink(missing_ok=True)
        raise
    return InFile(path, size, temporary=True)
