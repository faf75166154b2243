"""Members of tar and zip archives, one after the other. Names are labels only: nothing is ever written under them.

Python's tarfile ends silently at a damaged header and where a file is cut off between two members. Both are said here,
and reading goes on behind damage.
"""

import bz2
import gzip
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Final, Self, cast

from perenne.moving import findings
from perenne.moving.content import Stream, Unreadable
from perenne.moving.examine import Find
from perenne.moving.findings import LeftOut, printable

_PACKED: Final[dict[bytes, Callable[[IO[bytes]], Any]]] = {
    b"\x1f\x8b": lambda file: gzip.GzipFile(fileobj=file),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\x00": lzma.LZMAFile,
}
_HEADERS: Final = frozenset(
    (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
)
_HEADER_BYTES: Final = 1024 * 1024
ENDS: Final = (OSError, EOFError, zlib.error, lzma.LZMAError, tarfile.TarError)


class _Member(tarfile.TarInfo):
    """Tells its archive how each header ended, which tarfile keeps to itself."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        member = super().frombuf(buf, encoding, errors)
        if member.size < 0 or (member.type in _HEADERS and member.size > _HEADER_BYTES):
            raise _absurd()
        return member

    @classmethod
    def fromtarfile(cls, tarfile: tarfile.TarFile) -> Self:
        archive = cast("_Tar", tarfile)
        try:
            member = super().fromtarfile(tarfile)
        except _EOF:
            archive.ended = True
            raise
        except _INVALID:
            archive.damaged.append(tarfile.offset)
            del archive.damaged[1000:]
            raise
        archive.ended = False
        return member


_EOF: Final[type[Exception]] = cast(Any, tarfile).EOFHeaderError
_INVALID: Final[type[Exception]] = cast(Any, tarfile).InvalidHeaderError


def _absurd() -> Exception:
    return _INVALID("a size that cannot be")


class _Tar(tarfile.TarFile):
    """ended: zeros, the mark of the end, came last. damaged: offsets of blocks that should be headers and are not."""

    tarinfo = _Member
    ended = False

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.damaged: list[int] = []
        super().__init__(*arguments, **options)


ZIP: Final = (b"PK\x03\x04", b"PK\x05\x06")


def is_tar(head: bytes) -> bool:
    """Whether a file begins with a tar header, by its checksum: old archives have no magic word."""
    try:
        tarfile.TarInfo.frombuf(head[: tarfile.BLOCKSIZE], "utf-8", "surrogateescape")
    except tarfile.TarError:
        return False
    return True


def first_of(file: IO[bytes]) -> bytes:
    """The first bytes of what was compressed, as far as they can be had."""
    try:
        return file.read(tarfile.BLOCKSIZE)
    except ENDS:
        return b""


def unpacked(head: bytes, file: IO[bytes]) -> IO[bytes] | None:
    """What reads a file that gzip, bzip2 or xz compressed; None when none of them did."""
    for magic, opened in _PACKED.items():
        if head.startswith(magic):
            return cast(IO[bytes], opened(file))
    return None


def tar_members(name: str, stamp: str, file: IO[bytes], skip: Callable[[str, str], bool]) -> Iterator[Find | LeftOut]:
    """Read a tar from front to back. skip: asked with name and stamp before a member is read."""
    try:
        archive = _Tar.open(fileobj=file, mode="r|", ignore_zeros=True)
    except ENDS as error:
        yield _broken(name, error)
        return
    try:
        yield from _tar_members(name, stamp, archive, skip)
    except ENDS as error:
        yield _broken(name, error)


def _tar_members(name: str, stamp: str, archive: _Tar, skip: Callable[[str, str], bool]) -> Iterator[Find | LeftOut]:
    while (member := archive.next()) is not None:
        cast(Any, archive).members = []  # else it would remember millions
        yield from _damage(name, archive)
        if not member.isreg():
            continue
        label, own_stamp = f"{name}!{printable(member.name)}", f"{stamp}@{member.offset}"
        if skip(label, own_stamp):
            continue
        stream = archive.extractfile(member)
        if stream is not None:
            yield Find(label, own_stamp, Guarded(stream))
    yield from _damage(name, archive)
    if not archive.ended:
        yield LeftOut(name, findings.UNREADABLE, "the archive is cut off: it has no end, and more may be missing")


def _damage(name: str, archive: _Tar) -> Iterator[LeftOut]:
    """Blocks in a row that are no headers are the payload of a member whose header is damaged."""
    if archive.damaged:
        where = f"{name}!byte {archive.damaged[0]}"
        archive.damaged = []
        yield LeftOut(where, findings.UNREADABLE, "the archive is damaged here: a member, or several, cannot be read")


def _broken(name: str, error: Exception) -> LeftOut:
    text = str(error) or type(error).__name__
    return LeftOut(name, findings.UNREADABLE, f"the archive cannot be read any further: {text}")


class Guarded:
    """A member's bytes; what goes wrong with them is the member's misfortune."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def read(self, size: int, /) -> bytes:
        try:
            return self._stream.read(size)
        except (*ENDS, zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
            raise Unreadable(f"the archive gives it incompletely: {error or type(error).__name__}") from error


def zip_members(name: str, stamp: str, path: Path, skip: Callable[[str, str], bool]) -> Iterator[Find | LeftOut]:
    """Read the members that the directory of a zip names."""
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, *ENDS, NotImplementedError) as error:
        yield _broken(name, error)
        return
    with archive:
        for member in archive.infolist():
            label, own_stamp = f"{name}!{printable(member.filename)}", f"{stamp}@{member.header_offset}"
            if member.is_dir() or skip(label, own_stamp):
                continue
            try:
                stream = archive.open(member)
            except (zipfile.BadZipFile, *ENDS, RuntimeError, NotImplementedError) as error:
                yield LeftOut(label, findings.UNREADABLE, f"the archive does not give it: {error}")
                continue
            with stream:
                yield Find(label, own_stamp, Guarded(stream))
