"""A file system in user space that passes everything on to a directory, until it is told to fail.

Fault: EIO on fsync and fdatasync while the file `fail-fsync` lies beside the directory behind it. As on ext4, what was
written is still shown to readers. (What a power cut makes of it then is the simulated disk's business.)
"""

import contextlib
import errno
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

from perenne.local.processes import DidNotStart, Running, start

FAIL: Final = "fail-fsync"
FAILED: Final = "failed-fsync"
"""Lies there once one has failed."""


def mount(behind: Path, at: Path, log: Path) -> Running | None:
    """Mount a failing disk; None where this machine cannot. Raises DidNotStart where it could and does not."""
    try:
        import mfusepy  # noqa: F401  # pyright: ignore[reportUnusedImport]  # absent, or without libfuse
    except (ImportError, OSError):
        return None
    if not Path("/dev/fuse").exists() or shutil.which("fusermount") is None and shutil.which("fusermount3") is None:
        return None
    behind.mkdir(parents=True, exist_ok=True)
    at.mkdir(parents=True, exist_ok=True)
    running = start([sys.executable, "-m", "tests.faults.failing_disk", str(behind), str(at)], log, Path.cwd())
    deadline = time.monotonic() + 10
    while not os.path.ismount(at):
        if not running.alive or time.monotonic() > deadline:
            running.kill()
            raise DidNotStart(f"no file system in user space, although all that it needs is here\n{running.tail(8)}")
        time.sleep(0.02)
    return running


def unmount(at: Path) -> None:
    subprocess.run(["umount", "-l", str(at)], check=False, capture_output=True)


def _serve(behind: Path, at: Path) -> None:
    import mfusepy

    class Loopback(mfusepy.Operations):  # type: ignore[misc]  # mfusepy is untyped
        use_ns = True

        def _path(self, path: str) -> str:
            return str(behind) + path

        def _sync(self, handle: int) -> int:
            if (behind.parent / FAIL).exists():
                (behind.parent / FAILED).touch()
                raise mfusepy.FuseOSError(errno.EIO)
            os.fdatasync(handle)
            return 0

        def access(self, path: str, amode: int) -> int:
            if not os.access(self._path(path), amode):
                raise mfusepy.FuseOSError(errno.EACCES)
            return 0

        def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
            with _as_fuse(mfusepy):
                found = os.lstat(self._path(path))
            names = ("st_mode", "st_nlink", "st_size", "st_uid", "st_gid", "st_blocks", "st_blksize", "st_ino")
            times = {"st_atime": found.st_atime_ns, "st_mtime": found.st_mtime_ns, "st_ctime": found.st_ctime_ns}
            return {name: getattr_of(found, name) for name in names} | times

        def readdir(self, path: str, fh: int) -> list[str]:
            with _as_fuse(mfusepy):
                return [".", "..", *os.listdir(self._path(path))]

        def mkdir(self, path: str, mode: int) -> int:
            with _as_fuse(mfusepy):
                os.mkdir(self._path(path), mode)
            return 0

        def rmdir(self, path: str) -> int:
            with _as_fuse(mfusepy):
                os.rmdir(self._path(path))
            return 0

        def unlink(self, path: str) -> int:
            with _as_fuse(mfusepy):
                os.unlink(self._path(path))
            return 0

        def rename(self, old: str, new: str) -> int:
            with _as_fuse(mfusepy):
                os.rename(self._path(old), self._path(new))
            return 0

        def open(self, path: str, flags: int) -> int:
            with _as_fuse(mfusepy):
                return os.open(self._path(path), flags & ~os.O_DIRECT)

        def create(self, path: str, mode: int, fi: Any = None) -> int:
            with _as_fuse(mfusepy):
                return os.open(self._path(path), os.O_RDWR | os.O_CREAT | os.O_TRUNC, mode)

        def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
            with _as_fuse(mfusepy):
                return os.pread(fh, size, offset)

        def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
            with _as_fuse(mfusepy):
                return os.pwrite(fh, data, offset)

        def truncate(self, path: str, length: int, fh: int | None = None) -> int:
            with _as_fuse(mfusepy):
                os.truncate(self._path(path) if fh is None else fh, length)
            return 0

        def fsync(self, path: str, datasync: int, fh: int) -> int:
            with _as_fuse(mfusepy):
                return self._sync(fh)

        def fsyncdir(self, path: str, datasync: int, fh: int) -> int:
            return 0

        def flush(self, path: str, fh: int) -> int:
            return 0

        def release(self, path: str, fh: int) -> int:
            os.close(fh)
            return 0

        def statfs(self, path: str) -> dict[str, int]:
            with _as_fuse(mfusepy):
                found = os.statvfs(self._path(path))
            names = ("f_bavail", "f_bfree", "f_blocks", "f_bsize", "f_favail", "f_ffree", "f_files", "f_frsize")
            return {name: getattr_of(found, name) for name in names}

        def chmod(self, path: str, mode: int) -> int:
            with _as_fuse(mfusepy):
                os.chmod(self._path(path), mode)
            return 0

        def utimens(self, path: str, times: tuple[int, int] | None = None) -> int:
            with _as_fuse(mfusepy):
                os.utime(self._path(path), ns=times) if times is not None else os.utime(self._path(path))
            return 0

    mfusepy.FUSE(Loopback(), str(at), foreground=True, nothreads=False, allow_other=False)


def getattr_of(found: object, name: str) -> int:
    return int(getattr(found, name))


@contextlib.contextmanager
def _as_fuse(fuse: Any) -> Any:
    try:
        yield
    except OSError as error:
        raise fuse.FuseOSError(error.errno) from error


if __name__ == "__main__":
    _serve(Path(sys.argv[1]), Path(sys.argv[2]))
