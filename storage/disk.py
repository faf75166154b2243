"""The only home of fsync, rename, preallocation and flock. Everything else in `storage` asks a `Disk`.

Names are relative to the root, with `/`. Tests put other disks behind the same protocol (tests/storage/).
"""

import errno
import fcntl
import mmap
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Protocol

from storage.bounce import IOV_MAX, Bounce, write_all
from storage.bounce import Buffer as Buffer
from storage.errors import LogLocked, MediumUnreadable, SegmentPoisoned, StorageFull

PAGE: Final = 4096
DIRECT_BYTES: Final = 64 * 1024
"""Smaller writes go through the page cache even where O_DIRECT is wanted: each direct one waits for the device."""
_ZERO_BYTES: Final = 4 * 1024 * 1024
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_UNREADABLE: Final = frozenset({errno.EIO, errno.ENODATA, errno.EUCLEAN, errno.EBADMSG, errno.EILSEQ})
"""What kernels answer for a bad sector, or for bytes that fail a checksum of the file system or the device."""


class DiskFile(Protocol):
    """One open file. Reads are allowed from any thread; writes come from one thread at a time."""

    def pread(self, size: int, offset: int) -> bytes:
        """Return up to `size` bytes, fewer only at the end of the file. Raises MediumUnreadable."""
        ...

    def pread_into(self, buffer: memoryview, offset: int) -> int: ...

    def pwrite(self, parts: Sequence[Buffer], offset: int) -> None:
        """Write all parts one after another. Raises StorageFull, or SegmentPoisoned on any other failure."""
        ...

    def sync(self) -> None:
        """fdatasync.

        A failure poisons the file: the kernel may have marked the lost pages clean (pitfalls, fsync).
        """
        ...

    def end_direct(self) -> None:
        """Nothing more is appended: let go of the second descriptor, for O_DIRECT. Writes go through the cache now."""
        ...

    def drop_cache(self) -> None:
        """Make later reads come from the medium, as far as the system allows it; call after `sync`."""
        ...

    def truncate(self, size: int) -> None: ...

    def size(self) -> int: ...

    def close(self) -> None: ...


class Disk(Protocol):
    """A directory tree on stable storage. Whatever changes a name is durable when the call returns."""

    def open(self, name: str, *, create: bool = False, direct: bool = False) -> DiskFile:
        """Open for reading and writing; `create` makes it when absent. Raises FileNotFoundError."""
        ...

    def preallocate(self, name: str, size: int, *, zeros: bool = True) -> None:
        """Create a file of `size` zero bytes, fsynced, in place only when whole. Raises
        StorageFull, leaving nothing.

        zeros: write them, so that a later fdatasync finds no unwritten extents; else only reserve the room.
        """
        ...

    def write_atomically(self, name: str, data: bytes) -> None: ...

    def read(self, name: str) -> bytes: ...

    def exists(self, name: str) -> bool: ...

    def list(self, directory: str) -> list[str]:
        """Names of the files in a directory, sorted, without it; empty when it does not exist."""
        ...

    def rename(self, old: str, new: str) -> None: ...

    def remove(self, name: str) -> None: ...

    def make_directory(self, name: str) -> None: ...

    def sync_directory(self, name: str) -> None: ...

    def free_bytes(self) -> int: ...

    def lock(self, name: str) -> None:
        """Hold an exclusive flock until `close` or the end of the process. Raises LogLocked."""
        ...

    def path(self, name: str) -> Path | None:
        """The real path where there is one, for external tools and sendfile."""
        ...

    def close(self) -> None: ...


class RealFile:
    """A file descriptor, and a second one with O_DIRECT where aligned writes shall pass the page cache by."""

    def __init__(self, path: Path, bounce: Bounce, *, create: bool, direct: bool) -> None:
        self._name = path.name
        self._bounce = bounce
        self._poisoned = False
        self._syncing = threading.Lock()
        """The kernel tells of lost pages once, one of those who wait for them: the others must not be told nothing."""
        self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0), 0o640)
        self._direct_fd = -1
        if direct:
            try:
                self._direct_fd = _open_direct(path)
            except OSError:
                self.close()
                raise

    def __del__(self) -> None:
        # An evicted file may still be read by another thread; it is closed when the last reader lets go.
        self.close()

    def pread(self, size: int, offset: int) -> bytes:
        try:
            return self._pread(size, offset)
        except OSError as error:
            if error.errno not in _UNREADABLE:
                raise
            raise MediumUnreadable(f"{self._name} cannot be read at byte {offset}: {error.strerror}") from error

    def _pread(self, size: int, offset: int) -> bytes:
        data = os.pread(self._fd, size, offset)
        if len(data) == size or not data:
            return data
        pieces = [data]
        got = len(data)
        while got < size and (more := os.pread(self._fd, size - got, offset + got)):
            pieces.append(more)
            got += len(more)
        return b"".join(pieces)

    def pread_into(self, buffer: memoryview, offset: int) -> int:
        done = 0
        while done < len(buffer) and (got := os.preadv(self._fd, [buffer[done:]], offset + done)):
            done += got
        return done

    def pwrite(self, parts: Sequence[Buffer], offset: int) -> None:
        self._refuse_if_poisoned()
        try:
            total = sum(map(len, parts))
            if self._direct_fd >= 0 and total >= DIRECT_BYTES and total % PAGE == 0 and offset % PAGE == 0:
                self._bounce.write(self._direct_fd, parts, offset)
            else:
                self._write_buffered(parts, offset)
        except OSError as error:
            if error.errno in _FULL:
                raise StorageFull(f"no room to write {self._name}") from error
            self._poisoned = True
            raise SegmentPoisoned(f"write to {self._name} failed: {error.strerror}") from error

    def _write_buffered(self, parts: Sequence[Buffer], offset: int) -> None:
        for first in range(0, len(parts), IOV_MAX):
            batch: Sequence[Buffer] = parts[first : first + IOV_MAX]
            wanted = sum(map(len, batch))
            written = os.pwritev(self._fd, batch, offset)
            offset += written
            if written == wanted:
                continue
            for part in batch:  # a short write: finish part by part
                view = memoryview(part)
                skipped = min(written, len(view))
                written -= skipped
                view = view[skipped:]
                while view:
                    done = os.pwrite(self._fd, view, offset)
                    offset += done
                    view = view[done:]

    def sync(self) -> None:
        with self._syncing:
            self._refuse_if_poisoned()
            try:
                os.fdatasync(self._fd)
            except OSError as error:
                self._poisoned = True
                raise SegmentPoisoned(f"fdatasync of {self._name} failed: {error.strerror}") from error

    def drop_cache(self) -> None:
        os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def truncate(self, size: int) -> None:
        self._refuse_if_poisoned()
        os.ftruncate(self._fd, size)

    def size(self) -> int:
        return os.fstat(self._fd).st_size

    def end_direct(self) -> None:
        direct, self._direct_fd = self._direct_fd, -1
        if direct >= 0:
            os.close(direct)

    def close(self) -> None:
        # Forgotten before they are closed: the numbers are another file's at once, which a second close would close.
        found = getattr(self, "_fd", -1), getattr(self, "_direct_fd", -1)
        self._fd = self._direct_fd = -1
        for fd in found:
            if fd >= 0:
                os.close(fd)

    def _refuse_if_poisoned(self) -> None:
        if self._poisoned:
            raise SegmentPoisoned(f"{self._name} was poisoned by an earlier failure")


class RealDisk:
    """A directory of the local file system. Made when it does not exist."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._locks: dict[str, int] = {}
        self._bounce = Bounce()
        root.mkdir(parents=True, exist_ok=True)

    def open(self, name: str, *, create: bool = False, direct: bool = False) -> DiskFile:
        return RealFile(self._root / name, self._bounce, create=create, direct=direct)

    def preallocate(self, name: str, size: int, *, zeros: bool = True) -> None:
        temporary = name + ".tmp"
        path = self._root / temporary
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o640)
        try:
            try:
                if zeros:
                    _write_zeros(path, fd, size)
                else:
                    os.posix_fallocate(fd, 0, size)
                os.fsync(fd)
            finally:
                os.close(fd)
        except OSError as error:
            path.unlink(missing_ok=True)
            if error.errno in _FULL or error.errno == errno.EFBIG:
                raise StorageFull(f"no room for {size} bytes of {name}") from error
            raise SegmentPoisoned(f"preallocating {name} failed: {error.strerror}") from error
        self.rename(temporary, name)

    def write_atomically(self, name: str, data: bytes) -> None:
        temporary = name + ".tmp"
        path = self._root / temporary
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o640)
        try:
            try:
                view = memoryview(data)
                while view:
                    view = view[os.write(fd, view) :]
                os.fsync(fd)
            finally:
                os.close(fd)
        except OSError as error:
            path.unlink(missing_ok=True)
            if error.errno in _FULL:
                raise StorageFull(f"no room to write {name}") from error
            raise SegmentPoisoned(f"writing {name} failed: {error.strerror}") from error
        self.rename(temporary, name)

    def read(self, name: str) -> bytes:
        return (self._root / name).read_bytes()

    def exists(self, name: str) -> bool:
        return (self._root / name).exists()

    def list(self, directory: str) -> list[str]:
        path = self._root / directory
        if not path.is_dir():
            return []
        return sorted(entry.name for entry in path.iterdir() if entry.is_file())

    def rename(self, old: str, new: str) -> None:
        os.rename(self._root / old, self._root / new)
        # A rename is durable only when its directories are (ext4, xfs).
        for directory in {os.path.dirname(old), os.path.dirname(new)}:
            self.sync_directory(directory)

    def remove(self, name: str) -> None:
        (self._root / name).unlink()
        self.sync_directory(os.path.dirname(name))

    def make_directory(self, name: str) -> None:
        (self._root / name).mkdir(parents=True, exist_ok=True)
        self.sync_directory(os.path.dirname(name))

    def sync_directory(self, name: str) -> None:
        fd = os.open(self._root / name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        except OSError as error:
            raise SegmentPoisoned(f"fsync of directory {name!r} failed: {error.strerror}") from error
        finally:
            os.close(fd)

    def free_bytes(self) -> int:
        facts = os.statvfs(self._root)
        return facts.f_bavail * facts.f_frsize

    def lock(self, name: str) -> None:
        if name in self._locks:
            return
        fd = os.open(self._root / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(fd)
            raise LogLocked(f"{self._root} is in use by another process") from error
        self._locks[name] = fd

    def path(self, name: str) -> Path | None:
        return self._root / name

    def close(self) -> None:
        """Let go of the locks."""
        while self._locks:
            os.close(self._locks.popitem()[1])


def _open_direct(path: Path) -> int:
    """Return -1 where there is no O_DIRECT, such as on tmpfs and some network file systems."""
    try:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_DIRECT)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return -1


def _write_zeros(path: Path, fd: int, size: int) -> None:
    """Fill a file with zeros, past the page cache where that is possible: nobody will read them."""
    whole = size // PAGE * PAGE
    direct = _open_direct(path)
    try:
        # Anonymous memory is zero and page-aligned. Small steps: a large one would hold up the group commits beside it.
        view = memoryview(mmap.mmap(-1, _ZERO_BYTES))
        if direct >= 0:
            os.posix_fallocate(fd, 0, size)
        for offset in range(0, whole if direct >= 0 else 0, _ZERO_BYTES):
            write_all(direct, view[: min(_ZERO_BYTES, whole - offset)], offset)
        for offset in range(whole if direct >= 0 else 0, size, _ZERO_BYTES):
            write_all(fd, view[: min(_ZERO_BYTES, size - offset)], offset)
            os.fdatasync(fd)
    finally:
        if direct >= 0:
            os.close(direct)
