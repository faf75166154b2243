"""What lies below the paths that were named: files, and the members of archives among them. Detected by content."""

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from perenne.moving import findings
from perenne.moving.archives import ZIP, Guarded, first_of, is_tar, tar_members, unpacked, zip_members
from perenne.moving.examine import Find
from perenne.moving.findings import LeftOut, printable
from perenne.moving.part10 import HEAD, is_part10

Skip = Callable[[str, str], bool]


@dataclass(slots=True)
class Progress:
    """Bytes of files passed so far, the one that is being read included; for eyes only."""

    done: int = 0
    files: int = 0


def files(paths: Sequence[Path]) -> Iterator[tuple[Path, os.stat_result] | LeftOut]:
    """Every file below the paths, each directory in the order of its names. Links to directories are not followed."""
    pending = list(reversed(paths))
    while pending:
        path = pending.pop()
        try:
            facts = path.stat()
            if stat.S_ISDIR(facts.st_mode):
                if path.is_symlink() and path not in paths:
                    yield _left(path, "a link to a directory is not followed: name that directory, too, if it belongs")
                    continue
                with os.scandir(path) as entries:
                    names = sorted(entry.name for entry in entries)
                pending.extend(path / name for name in reversed(names))
            elif stat.S_ISREG(facts.st_mode):
                yield path, facts
            else:
                yield LeftOut(printable(str(path)), findings.NOT_DICOM, "no file")
        except OSError as error:
            yield _left(path, f"cannot be read: {error.strerror}")


def _left(path: Path, why: str) -> LeftOut:
    return LeftOut(printable(str(path)), findings.UNREADABLE, why)


def finds(paths: Sequence[Path], skip: Skip, progress: Progress) -> Iterator[Find | LeftOut]:
    """Open what is below the paths, one after the other: each is closed when the next is asked for.

    skip: asked with name and stamp before anything is read.
    """
    for one in files(paths):
        if isinstance(one, LeftOut):
            yield one
            continue
        path, facts = one
        name, stamp = printable(str(path)), f"{facts.st_size}:{facts.st_mtime_ns}:{facts.st_ctime_ns}"
        before = progress.done
        try:
            if not skip(name, stamp):
                with path.open("rb") as file:
                    for found in _in_file(name, stamp, path, file, skip):
                        progress.done = before + min(file.tell(), facts.st_size)
                        yield found
        except OSError as error:
            yield _left(path, f"cannot be read: {error.strerror}")
        progress.done = before + facts.st_size
        progress.files += 1


def _in_file(name: str, stamp: str, path: Path, file: IO[bytes], skip: Skip) -> Iterator[Find | LeftOut]:
    head = file.read(HEAD)
    file.seek(0)
    if is_part10(head):
        yield Find(name, stamp, file, path)
    elif is_tar(head):
        yield from tar_members(name, stamp, file, skip)
    elif head.startswith(ZIP):
        yield from zip_members(name, stamp, path, skip)
    elif (inner := unpacked(head, file)) is None:
        yield Find(name, stamp, file, path)
    elif is_tar(first_of(inner)):
        inner.seek(0)
        yield from tar_members(name, stamp, inner, skip)
    else:
        inner.seek(0)
        yield Find(name, stamp, Guarded(inner))
