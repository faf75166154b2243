"""Where an export goes: plain files in folders, or one zip. Nothing that is there is ever overwritten."""

import os
import sys
import tempfile
import time
import zipfile
from pathlib import Path, PurePosixPath
from typing import IO, Protocol

from perenne.moving.content import Content, InFile
from perenne.moving.holdings import Holding
from perenne.moving.proof import digest_of_file


class NotWritten(Exception):
    """Something else has this name already, or cannot be written there; the text says what."""


class Target(Protocol):
    """One export's destination. spool: a folder for what is large, on the same file system."""

    spool: Path

    def has(self, one: Holding) -> bool:
        """Whether it is there from an earlier run, with the right digest. Raises NotWritten, OSError."""
        ...

    def put(self, one: Holding, content: Content) -> bool:
        """Write it; False when it was there. Raises NotWritten, OSError."""
        ...

    def finish(self) -> None:
        """Complete what was written, and make it durable. Raises NotWritten, OSError."""
        ...

    def abandon(self) -> None:
        """Remove what is of no use without its end."""
        ...


class Names:
    """Two members of one name are two images: the second gets its number in the log, and its digest where another log
    has the same number for something else.
    """

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def name(self, one: Holding) -> str:
        name = one.path
        pure = PurePosixPath(name)
        for mark in (f"v{one.sequence}", f"v{one.sequence}.{one.digest.hex()}"):
            if name in self._taken:
                name = str(pure.with_name(f"{pure.stem}.{mark}{pure.suffix}"))
        return name

    def take(self, name: str) -> None:
        self._taken.add(name)


def place(content: Content, spool: Path, to: Path, digest: bytes) -> bool:
    """Put a whole file in its place at once, or find it there; False then. Raises NotWritten, OSError."""
    if to.exists():
        if digest_of_file(to) == digest:
            return False
        raise NotWritten(f"{to} exists and is another file: it was not touched")
    to.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, InFile) and content.temporary:
        made = content.path
    else:
        descriptor, name = tempfile.mkstemp(dir=spool, prefix="spool-")
        made = Path(name)
        with os.fdopen(descriptor, "wb") as file:
            for piece in content.pieces():
                file.write(piece)
    made.chmod(0o644)
    try:
        os.link(made, to)  # unlike a rename it overwrites nothing that came meanwhile
    except FileExistsError as error:
        raise NotWritten(f"{to} was made by somebody else meanwhile: it was not touched") from error
    except OSError:
        made.rename(to)  # a file system without links
    else:
        made.unlink()
    return True


class Files:
    """Study, series and instance are a folder, a folder and a file, as in the log."""

    def __init__(self, folder: Path, spool: Path) -> None:
        self._folder = folder
        self.spool = spool
        self._names = Names()

    def has(self, one: Holding) -> bool:
        name = self._names.name(one)
        to = self._folder / name
        if not to.exists():
            return False
        self._names.take(name)
        if digest_of_file(to) == one.digest:
            return True
        raise NotWritten(f"{to} exists and is another file: it was not touched")

    def put(self, one: Holding, content: Content) -> bool:
        name = self._names.name(one)
        self._names.take(name)
        return place(content, self.spool, self._folder / name, one.digest)

    def finish(self) -> None:
        os.sync()

    def abandon(self) -> None: ...


class Zip:
    """One zip, written from front to back, under another name until it is whole. None: to standard output."""

    def __init__(self, path: Path | None, spool: Path) -> None:
        self._path = path
        self.spool = spool
        self._names = Names()
        self._part = None if path is None else path.with_name(f"{path.name}.part")
        self._file: IO[bytes] = sys.stdout.buffer if self._part is None else self._part.open("wb")
        self._zip = zipfile.ZipFile(self._file, "w", zipfile.ZIP_STORED, allowZip64=True)

    def has(self, one: Holding) -> bool:
        return False

    def put(self, one: Holding, content: Content) -> bool:
        name = self._names.name(one)
        self._names.take(name)
        member = zipfile.ZipInfo(name, time.localtime()[:6])
        member.external_attr = 0o644 << 16
        member.file_size = content.size
        with self._zip.open(member, "w", force_zip64=content.size > 1 << 31) as to:
            for piece in content.pieces():
                to.write(piece)
        return True

    def finish(self) -> None:
        self._zip.close()
        self._file.flush()
        if self._path is None or self._part is None:
            return
        os.fsync(self._file.fileno())
        self._file.close()
        if self._path.exists():
            raise NotWritten(f"{self._path} was made by somebody else meanwhile; the export is {self._part}")
        self._part.rename(self._path)

    def abandon(self) -> None:
        self._zip.fp = None  # else it writes an end when it is collected, and what was streamed looks whole
        if self._part is not None:
            self._file.close()
            self._part.unlink(missing_ok=True)
