"""The tier in a directory on a SAN or NFS mount: an object is a file, put under its name by link(2), fsynced.

```
<root>/.perenne-tier   the mount sentinel: written once by `perenne tier prepare`, never by a node
<root>/.tmp/           files being written; what a killed process leaves here is never an object
<root>/<key>           the object, zeros to a multiple of 512 bytes and 1024 more (the end of a tar), 512 bytes of seal
```

Without the sentinel the mount is missing: that is an outage, not an empty archive. Every call opens the root, looks for
the sentinel in what it opened, and works from that descriptor, so that a mount that comes or goes meanwhile cannot put
an object beside it. Hard links are needed: link(2) refuses a name that exists, on NFS too.
"""

import contextlib
import errno
import json
import os
import secrets
import stat
import struct
import time
import zlib
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Final

from blake3 import blake3

from replication.tier.bodies import PIECE, Body, BodyFacts, body_pieces
from replication.tier.port import (
    AlreadyThere,
    ChecksumRefused,
    NoRoom,
    NotThere,
    ObjectDamaged,
    ObjectInfo,
    Page,
    Refused,
    TierError,
    Unreachable,
    check_key,
)

SENTINEL: Final = ".perenne-tier"
_TEMPORARY: Final = ".tmp"
_LEFTOVER_S: Final = 86_400
_PAGE_KEYS: Final = 10_000
_BLOCK: Final = 512
_END_OF_TAR: Final = 2 * _BLOCK
_MAGIC: Final = b"perenne-object-1"
_SEAL: Final = struct.Struct(">16sQ32s")
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_FORBIDDEN: Final = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.EOPNOTSUPP, errno.ENAMETOOLONG})
_OPEN_ROOT: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class DirectoryStore:
    """One directory. Makes nothing until `put`, which needs the sentinel."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._sentinel: str | None = None
        self._durable: set[str] = set()
        """Directories that this process has seen on stable storage, not merely made by somebody."""

    @property
    def description(self) -> str:
        return str(self._root)

    def put(self, key: str, body: Body, facts: BodyFacts, *, only_if_absent: bool, lock: bool) -> None:
        """lock: a directory retains nothing; it is left to the file system."""
        name = f"{_TEMPORARY}/{secrets.token_hex(16)}"
        with self._at_work(f"writing {key}") as root:
            if _TEMPORARY not in self._durable:
                _make_directories(root, name, self._durable)
                _sweep(root)
            _make_directories(root, check_key(key), self._durable)
            try:
                _write(root, name, body, facts)
                if only_if_absent:
                    try:
                        _link(root, name, key)
                    except AlreadyThere:
                        # An earlier attempt may have got no further than this: the caller counts what it finds there.
                        _sync_directory(root, os.path.dirname(key))
                        raise
                else:
                    os.rename(name, key, src_dir_fd=root, dst_dir_fd=root)
                _sync_directory(root, os.path.dirname(key))
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=root)

    def get(self, key: str) -> bytes:
        with self._at_work(f"reading {key}") as root, _opened(root, key) as fd:
            size, digest = _read_seal(fd, key)
            data = _pread(fd, size, 0)
        if len(data) != size or blake3(data).digest() != digest:
            raise ObjectDamaged(f"{key}: its bytes do not match the digest kept beside them")
        return data

    def get_range(self, key: str, offset: int, size: int) -> bytes:
        with self._at_work(f"reading {key}") as root, _opened(root, key) as fd:
            whole, _ = _read_seal(fd, key)
            return _pread(fd, max(0, min(size, whole - offset)), offset)

    def head(self, key: str) -> ObjectInfo:
        with self._at_work(f"looking at {key}") as root, _opened(root, key) as fd:
            return ObjectInfo(*_read_seal(fd, key))

    def list_page(self, prefix: str, after: str) -> Page:
        found: list[str] = []
        with self._at_work(f"listing {prefix}") as root:
            for key in _walk(root, "", prefix, after):
                if len(found) == _PAGE_KEYS:
                    return Page(tuple(found), more=True)
                found.append(key)
        return Page(tuple(found), more=False)

    def delete(self, key: str) -> None:
        with self._at_work(f"deleting {key}") as root, contextlib.suppress(FileNotFoundError):
            os.unlink(check_key(key), dir_fd=root)
            _sync_directory(root, os.path.dirname(key))

    def prepare(self) -> str:
        """Write the sentinel where there is none. Only an operator can know that the right thing is mounted."""
        try:
            fd = os.open(self._root, _OPEN_ROOT)
            try:
                if _exists(fd, SENTINEL):
                    return f"{self._root} is prepared already"
                text = json.dumps({"format": 1, "id": secrets.token_hex(16)}).encode() + b"\n"
                temporary = f".{secrets.token_hex(8)}"
                file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640, dir_fd=fd)
                try:
                    _write_all(file, text)
                    _give_away(fd, file)
                    os.fsync(file)
                finally:
                    os.close(file)
                _link(fd, temporary, SENTINEL)
                os.unlink(temporary, dir_fd=fd)
                os.fsync(fd)
            finally:
                os.close(fd)
        except OSError as error:
            raise _sorted_out(f"preparing {self._root}", error) from error
        return f"wrote {self._root}/{SENTINEL}"

    def close(self) -> None:
        """Nothing is kept open between calls."""

    @contextlib.contextmanager
    def _at_work(self, what: str) -> Generator[int]:
        """Open the root if it is the right one; sort out whatever the system says."""
        try:
            fd = os.open(self._root, _OPEN_ROOT)
        except OSError as error:
            raise _sorted_out(f"{what}: opening {self._root}", error) from error
        try:
            self._look_for_sentinel(fd)
            yield fd
        except OSError as error:
            raise _sorted_out(what, error) from error
        finally:
            os.close(fd)

    def _look_for_sentinel(self, root: int) -> None:
        try:
            with _opened(root, SENTINEL) as fd:
                found = os.pread(fd, 1024, 0).decode(errors="replace")
        except NotThere as error:
            step = "Mount it. For a new tier: perenne tier prepare, once, with the right thing mounted."
            raise Unreachable(
                f"{self._root} has no {SENTINEL}: it is not mounted, or was never prepared", step
            ) from error
        if self._sentinel not in (None, found):
            raise Refused(
                f"{self._root}/{SENTINEL} is another one than before: something else is mounted here",
                "Mount the tier of this archive, or restart the node if the change is meant.",
            )
        self._sentinel = found


def _write(root: int, name: str, body: Body, facts: BodyFacts) -> None:
    """Write and fsync a new file that holds the object and its seal, if what was read matches `facts.crc32`."""
    fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640, dir_fd=root)
    try:
        _give_away(root, fd)
        size, crc, hasher = 0, 0, blake3()
        for piece in body_pieces(body):
            size, crc = size + len(piece), zlib.crc32(piece, crc)
            hasher.update(piece)
            _write_all(fd, piece)
        if crc != facts.crc32:
            raise ChecksumRefused(f"the object's {size} bytes do not match their checksum")
        facts_of_it = _SEAL.pack(_MAGIC, size, hasher.digest())
        seal = facts_of_it + blake3(facts_of_it).digest()
        _write_all(fd, bytes(-size % _BLOCK + _END_OF_TAR) + seal.ljust(_BLOCK, b"\0"))
        os.fsync(fd)  # once: after a failure the file is thrown away, and a new attempt writes a new one
    finally:
        os.close(fd)


def _read_seal(fd: int, key: str) -> tuple[int, bytes]:
    """Return the object's size and digest. Raises ObjectDamaged when the file is no whole object."""
    length = os.fstat(fd).st_size
    seal = os.pread(fd, _BLOCK, max(0, length - _BLOCK))
    if len(seal) == _BLOCK:
        magic, size, digest = _SEAL.unpack(seal[: _SEAL.size])
        own = blake3(seal[: _SEAL.size]).digest()
        whole = length == size + -size % _BLOCK + _END_OF_TAR + _BLOCK
        if magic == _MAGIC and whole and seal[_SEAL.size : _SEAL.size + 32] == own:
            return size, digest
    raise ObjectDamaged(f"{key}: the file's last block is not the seal of a whole object")


def _link(root: int, name: str, key: str) -> None:
    """Give the file its name, which must be new. Raises AlreadyThere."""
    try:
        os.link(name, key, src_dir_fd=root, dst_dir_fd=root)
    except FileExistsError as error:
        # NFS may do it, lose the answer, and refuse its own repetition: then the name is this file's.
        with contextlib.suppress(OSError):
            if os.path.samestat(os.stat(name, dir_fd=root), os.stat(key, dir_fd=root)):
                return
        raise AlreadyThere(f"{key}: the name is taken") from error


def _make_directories(root: int, key: str, durable: set[str]) -> None:
    """Make the directories that `key` lies in, each durable before something is put into it.

    One that is there already may have been made a moment ago by somebody who has not synced it yet.
    """
    parts = key.split("/")[:-1]
    for path in ("/".join(parts[:depth]) for depth in range(1, len(parts) + 1)):
        if path not in durable:
            with contextlib.suppress(FileExistsError):
                os.mkdir(path, 0o750, dir_fd=root)
                fd = os.open(path, _OPEN_ROOT, dir_fd=root)
                try:
                    _give_away(root, fd)
                finally:
                    os.close(fd)
            _sync_directory(root, os.path.dirname(path))
            durable.add(path)


def _give_away(root: int, made: int) -> None:
    """What root makes belongs to whom the tier belongs: `prepare`, `probe` and `restore` are typed by root, and a node
    that runs as somebody else could neither read the sentinel nor write beside what was tried.
    """
    if os.geteuid() == 0:
        owner = os.fstat(root)
        with contextlib.suppress(OSError):  # a server may not let root do that
            os.fchown(made, owner.st_uid, owner.st_gid)


def _sweep(root: int) -> None:
    """Remove what killed processes left behind; nothing is written for a day."""
    fd = os.open(_TEMPORARY, _OPEN_ROOT, dir_fd=root)
    try:
        with os.scandir(fd) as entries:
            old = [e.name for e in entries if time.time() - e.stat().st_mtime > _LEFTOVER_S]
        for name in old:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=fd)
    finally:
        os.close(fd)


def _sync_directory(root: int, name: str) -> None:
    fd = os.open(name or ".", _OPEN_ROOT, dir_fd=root)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextlib.contextmanager
def _opened(root: int, name: str) -> Generator[int]:
    try:
        fd = os.open(name if name == SENTINEL else check_key(name), os.O_RDONLY | os.O_CLOEXEC, dir_fd=root)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise NotThere(f"{name}: no such object") from error
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise NotThere(f"{name}: no such object")
        yield fd
    finally:
        os.close(fd)


def _exists(root: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=root)
    except FileNotFoundError:
        return False
    return True


def _walk(root: int, directory: str, prefix: str, after: str) -> Iterator[str]:
    """Keys in the order of their bytes, which is that of names where a directory ends in `/`."""
    fd = os.open(directory or ".", _OPEN_ROOT, dir_fd=root)
    try:
        with os.scandir(fd) as entries:
            names = sorted(f"{e.name}/" if e.is_dir() else e.name for e in entries if not e.name.startswith("."))
    finally:
        os.close(fd)
    for name in names:
        path = directory + name
        if not path.startswith(prefix) and not (name.endswith("/") and prefix.startswith(path)):
            continue
        if not name.endswith("/"):
            if path > after:
                yield path
        elif path > after or after.startswith(path):
            with contextlib.suppress(FileNotFoundError):
                yield from _walk(root, path, prefix, after)


def _pread(fd: int, size: int, offset: int) -> bytes:
    pieces: list[bytes] = []
    while size > 0 and (piece := os.pread(fd, min(size, PIECE), offset)):
        pieces.append(piece)
        size, offset = size - len(piece), offset + len(piece)
    return b"".join(pieces)


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _sorted_out(what: str, error: OSError) -> TierError:
    """Sort what the system says by what the caller does next."""
    said = f"{what}: {error.strerror or error}"
    if error.errno in _FULL:
        return NoRoom(said, "Make room there.")
    if error.errno in _FORBIDDEN:
        return Refused(said, "Give the node's user the right to write there, on a file system with hard links.")
    if error.errno == errno.ENOENT:
        return Unreachable(said, "Check tier.directory, and that it is mounted.")
    return Unreachable(said, "Look at the mount, and at the system's log.")
