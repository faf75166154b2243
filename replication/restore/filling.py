"""The data directory that a restore fills: a marker that keeps every node out, the log, and large records' spool.

The marker `restore.json` is the first file written and the last one removed. A killed restore leaves a log that opens
like that of a killed node, so the next run goes on after its last record; the chain proves that it is the same one.
"""

import errno
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

from replication.restore.cutting import SPOOLED, CutRecord
from replication.restore.releasing import Releasing
from storage.assembling import Assembled
from storage.disk import DiskFile, RealDisk
from storage.errors import FormatError, LogContradiction, SegmentPoisoned, StorageFull
from storage.log import Log, LogIdentity
from storage.metadata import RESTORE_FILE, NodeIdentity, PromiseFile, write_identity
from storage.position import LogPoint
from storage.reader import Payload

_SPOOL: Final = "staging"
_SYNC_BYTES: Final = 64 * 1024 * 1024
_PIECE: Final = 1024 * 1024
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
PAST: Final = "past"
"""The kind of a directory that is for looking only."""


class NotEmpty(Exception):
    """The directory holds something else than what this restore began; nothing was changed."""


@dataclass(frozen=True, slots=True)
class Marker:
    """What the restore is: of which cluster, for whom, how far. kind: node, cluster or past. done: nothing is missing
    any more but the operator's word, or, for the past, for good.
    """

    kind: str
    source: str
    cluster_id: str
    segment_bytes: int
    node_id: str = ""
    incarnation: str = ""
    until: str = ""
    boot: str = ""
    done: bool = False


class RestoringDisk(RealDisk):
    """Makes segments of holes, which read like zeros: where payloads were deleted, there is little to put into them,
    and a disk of the size of the lost one must do.
    """

    def preallocate(self, name: str, size: int, *, zeros: bool = True) -> None:
        file = self.open(f"{name}.tmp", create=True)
        try:
            file.truncate(0)
            file.truncate(size)
            file.sync()
        except OSError as error:
            self.remove(f"{name}.tmp")
            if error.errno in _FULL:
                raise StorageFull(f"no room for {size} bytes of {name}") from error
            raise SegmentPoisoned(f"making {name} failed: {error.strerror}") from error
        finally:
            file.close()
        self.rename(f"{name}.tmp", name)

    def reserve(self, name: str) -> None:
        """Give a file all the room that its size says, as a log that is written to has it. Raises StorageFull,
        SegmentPoisoned.
        """
        with (self._root / name).open("r+b") as file:
            size = os.fstat(file.fileno()).st_size
            try:
                os.posix_fallocate(file.fileno(), 0, size)
                os.fsync(file.fileno())
            except OSError as error:
                if error.errno in _FULL:
                    raise StorageFull(f"no room for {size} bytes of {name}") from error
                raise SegmentPoisoned(f"reserving {name} failed: {error.strerror}") from error


class Filling:
    """An open directory with its log. `wrote`: payload and header bytes appended by this run."""

    def __init__(self, root: Path, disk: RestoringDisk, marker: Marker, log: Log, *, resumed: bool) -> None:
        self.root = root
        self.disk = disk
        self.marker = marker
        self.log = log
        self.resumed = resumed
        self._unsynced = 0
        self.releasing = Releasing(disk, log)
        for name in disk.list(_SPOOL):
            disk.remove(f"{_SPOOL}/{name}")

    @classmethod
    def begin(cls, root: Path, wanted: Marker) -> "Filling":
        """Make the directory ready, or go on with what an earlier run began there.

        Raises NotEmpty, StorageError (LogLocked when another process works on it).
        """
        disk = RestoringDisk(root)
        try:
            disk.lock("lock")
            found = _begun(root, disk, wanted)
            marker = found or replace(wanted, incarnation=secrets.token_hex(8), boot=_boot())
            if found is None:
                _write(disk, marker)
            if marker.kind != PAST and not disk.exists("node.json"):
                write_identity(disk, NodeIdentity(marker.cluster_id, marker.node_id, marker.incarnation))
            rebooted = marker.boot != _boot()
            identity = LogIdentity(marker.cluster_id, marker.segment_bytes)
            log, report = Log.open(disk, identity, host_rebooted=rebooted, spares=0)
            for name in (*report.saved, *log.cut_torn_tail()):
                disk.remove(name)  # a half-written copy of what the tier holds whole
            return cls(root, disk, marker, log, resumed=found is not None)
        except BaseException:  # whatever ends it, the lock is let go; it is raised again
            disk.close()
            raise

    @property
    def end(self) -> LogPoint:
        return self.log.end

    def take(self, record: CutRecord) -> None:
        """Append one record, and sync from time to time. Raises LogContradiction, StorageFull, SegmentPoisoned."""
        if record.tombstone:
            self.log.append_stub(record.header, record.chain, record.tombstone)
        else:
            self.log.append(record.header, record.chain, record.payload, record.head)
        self._unsynced += record.payload.size
        if record.payload.size > SPOOLED:
            self._sweep(record.header.position.sequence)
        elif self._unsynced >= _SYNC_BYTES:
            self.sync()

    def staged(self, name: str) -> str:
        """Where a file may be made that the log takes over later."""
        self.disk.make_directory(_SPOOL)
        return f"{_SPOOL}/{name}"

    def unstage(self, prefix: str) -> None:
        """Nobody makes these files any more, or wants them."""
        for name in self.disk.list(_SPOOL):
            if name.startswith(prefix):
                self.disk.remove(f"{_SPOOL}/{name}")

    def take_over(self, made: Assembled) -> bool:
        """Have a whole segment, if it continues the log where a segment begins; else it is thrown away.

        Raises StorageFull, SegmentPoisoned.
        """
        try:
            if self.log.begins_segment(made.head.position.epoch, made.head_length, made.head_length):
                self.log.install_assembled(made)
                if self.releasing.due(self.log.end.sequence):
                    self.sync()
                return True
        except LogContradiction:
            pass  # whether it is damage, or another branch, is found where its records are read one by one
        self.disk.remove(made.staged)
        return False

    def sync(self) -> None:
        """Also make room: what an earlier run kept aside goes as soon as it is proved to be durable in the log."""
        durable = self.log.sync()
        self._unsynced = 0
        self.releasing.upto(durable)

    def spool(self, sequence: int) -> "FileSpool":
        """A file for one large record."""
        self.disk.make_directory(_SPOOL)
        return FileSpool(self.disk.open(f"{_SPOOL}/restore-{sequence}", create=True))

    def _sweep(self, sequence: int) -> None:
        """A large record that lies in the log now needs its file no more. The next one may be coming in meanwhile."""
        self.sync()
        name = f"{_SPOOL}/restore-{sequence}"
        if self.disk.exists(name):
            self.disk.remove(name)

    def settled(self, floor: LogPoint | None) -> None:
        """The log is whole. floor: what counts as committed from now on. Raises StorageFull, SegmentPoisoned."""
        self.sync()
        if self.marker.kind != PAST and (made := self.log.segments()):
            self.disk.reserve(made[-1].name)
        if floor is not None:
            promise = PromiseFile(self.disk)
            try:
                promise.store(floor=floor)
            finally:
                promise.close()

    def mark_done(self) -> None:
        self.marker = replace(self.marker, done=True)
        _write(self.disk, self.marker)

    def release(self) -> None:
        """A node may have the directory now."""
        self.disk.remove(RESTORE_FILE)

    def forget(self) -> None:
        """Nothing was restored: the directory is empty again. After `close`. It stays itself, since it may be a mount
        point, or lie where this user may make none, and belongs to whom it belonged.
        """
        for entry in list(self.root.iterdir()):
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()

    def close(self) -> None:
        for name in self.disk.list(_SPOOL):
            self.disk.remove(f"{_SPOOL}/{name}")
        self.log.close()


class FileSpool:
    """Payload of one large record, in a file."""

    def __init__(self, file: DiskFile) -> None:
        self._file = file
        self._file.truncate(0)
        self._size = 0

    def write(self, data: memoryview) -> None:
        self._file.pwrite([data], self._size)
        self._size += len(data)

    def payload(self) -> Payload:
        return _Spooled(self._file, self._size)


@dataclass(frozen=True, slots=True)
class _Spooled:
    file: DiskFile
    size: int

    def parts(self) -> Iterator[memoryview]:
        for at in range(0, self.size, _PIECE):
            yield memoryview(self.file.pread(min(_PIECE, self.size - at), at))


def judged(root: Path, wanted: Marker) -> Marker | None:
    """What `Filling.begin` would find of an earlier run, and nothing is changed. Raises as it does."""
    if not root.exists():
        return None
    disk = RealDisk(root)
    try:
        if disk.exists("lock"):
            disk.lock("lock")
        return _begun(root, disk, wanted)
    finally:
        disk.close()


def _begun(root: Path, disk: RealDisk, wanted: Marker) -> Marker | None:
    """What an earlier run of the same restore left. Raises NotEmpty, FormatError."""
    found = read_marker(disk)
    if found is not None and not _same(found, wanted):
        raise NotEmpty(f"{root} holds another restore ({_told(found)}): give an empty directory")
    if found is None and (there := [entry.name for entry in root.iterdir() if entry.name != "lock"]):
        raise NotEmpty(f"{root} is not empty ({', '.join(sorted(there)[:3])} …): give an empty directory")
    return found


def read_marker(disk: RealDisk) -> Marker | None:
    """What a directory says of an unfinished restore. Raises FormatError."""
    if not disk.exists(RESTORE_FILE):
        return None
    try:
        return Marker(**json.loads(disk.read(RESTORE_FILE)))
    except (ValueError, TypeError) as error:
        raise FormatError(f"{RESTORE_FILE} cannot be read: {error}; give an empty directory") from error


def _write(disk: RealDisk, marker: Marker) -> None:
    disk.write_atomically(RESTORE_FILE, json.dumps(asdict(marker), indent=1).encode() + b"\n")


def _same(found: Marker, wanted: Marker) -> bool:
    return replace(found, incarnation="", boot="", done=False) == replace(wanted, incarnation="", boot="", done=False)


def _told(marker: Marker) -> str:
    until = f", until {marker.until}" if marker.until else ""
    return f"{marker.kind} {marker.node_id} of cluster {marker.cluster_id} from {marker.source}{until}"


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
