"""What is uploaded: bytes in memory, or a part of a local file that no longer changes. Read in pieces, hashed once."""

import io
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from blake3 import blake3

PIECE: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class FilePart:
    """`size` bytes of a local file from `offset` on, such as a sealed segment.

    pace(): called before each piece is read, in the reading thread; it may take its time.
    """

    path: Path
    offset: int
    size: int
    pace: Callable[[], None] | None = None


Body = bytes | FilePart


@dataclass(frozen=True, slots=True)
class BodyFacts:
    """size in bytes; crc32 as zlib has it; digest: BLAKE3, 32 bytes."""

    size: int
    crc32: int
    digest: bytes


def body_facts(body: Body) -> BodyFacts:
    """Read all of it once. Raises OSError when the file cannot be read or is too short."""
    size, crc, hasher = 0, 0, blake3()
    for piece in body_pieces(body):
        size, crc = size + len(piece), zlib.crc32(piece, crc)
        hasher.update(piece)
    return BodyFacts(size, crc, hasher.digest())


def body_pieces(body: Body) -> Iterator[bytes]:
    """Return the bytes in pieces of at most 1 MiB; none for an empty body. Raises OSError."""
    with open_body(body) as file:
        left = len(body) if isinstance(body, bytes) else body.size
        while left:
            piece = file.read(min(PIECE, left))
            if not piece:
                raise OSError(f"{body.path if isinstance(body, FilePart) else 'the body'} ends {left} bytes early")
            left -= len(piece)
            yield piece


def open_body(body: Body) -> BinaryIO:
    """Return it as a file that can be read and rewound. Raises OSError."""
    if isinstance(body, bytes):
        return io.BytesIO(body)
    return io.BufferedReader(_Window(body), PIECE)


class _Window(io.RawIOBase):
    """A part of a file, as if it were the whole."""

    def __init__(self, part: FilePart) -> None:
        self._part = part
        self._file = part.path.open("rb", buffering=0)
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._part.size}[whence]
        self._position = max(0, base + offset)
        return self._position

    # The base class takes any buffer; io.BufferedReader, the only caller, hands over memoryviews.
    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]  # see above
        if self._part.pace is not None:
            self._part.pace()
        wanted = min(len(buffer), max(0, self._part.size - self._position))
        self._file.seek(self._part.offset + self._position)
        got = self._file.readinto(memoryview(buffer)[:wanted])
        self._position += got
        return got

    def close(self) -> None:
        self._file.close()
        super().close()
