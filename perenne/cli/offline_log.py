"""A log that is opened while its node does not run: locked, and with the cluster's settings read from itself."""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from perenne.belonging import given_back
from storage.disk import RealDisk
from storage.errors import FormatError
from storage.log import Log, LogIdentity
from storage.metadata import PROMISE_FILE, Promise, newest_promise, read_identity
from storage.table import PAGE, decode_segment_header


class NoDirectory(FormatError):
    """What was named is no data directory of a node."""


class HeldDisk(RealDisk):
    """A disk whose lock outlives the logs that are opened on it."""

    def close(self) -> None:
        """A log closes its disk; this one is not the log's."""

    def release(self) -> None:
        super().close()


@dataclass(frozen=True, slots=True)
class OfflineNode:
    """A data directory whose lock is held."""

    directory: Path
    disk: HeldDisk
    identity: LogIdentity
    promise: Promise

    @contextmanager
    def log(self) -> Generator[Log]:
        """Nothing is cut: what a power loss may have torn is for the node to settle, which can ask the others.

        Raises FormatError, LogContradiction, SegmentPoisoned, StorageFull.
        """
        opened, _ = Log.open(self.disk, self.identity, host_rebooted=False, floor=self.promise.floor.sequence, spares=0)
        try:
            yield opened
        finally:
            opened.close()


@contextmanager
def locked_node(directory: Path) -> Generator[OfflineNode]:
    """Hold the lock meanwhile.

    Raises LogLocked while its node runs, NoDirectory when it is none, FormatError when nothing is known of it.
    """
    if not (directory / "log").is_dir():
        raise NoDirectory(f"{directory} holds no log: give the [node] data_dir of a node")
    disk = HeldDisk(directory)
    disk.lock("lock")
    try:
        yield _known(directory, disk)
    finally:
        given_back(directory)  # while its node cannot start
        disk.release()


def _known(directory: Path, disk: HeldDisk) -> OfflineNode:
    identity = read_identity(disk)
    if identity is None:
        raise FormatError(f"{directory} has no node.json: it never belonged to a node")
    content = disk.read(PROMISE_FILE) if disk.exists(PROMISE_FILE) else b""
    promise = newest_promise(content)
    if promise is None:
        raise FormatError(f"{directory}: the file `{PROMISE_FILE}` is missing or damaged: see docs/recovery.md")
    return OfflineNode(directory, disk, LogIdentity(identity.cluster_id, segment_bytes(directory)), promise)


def segment_bytes(directory: Path) -> int:
    """Equal for all segments of a cluster: any one that can be read says it. Raises FormatError."""
    for path in sorted((directory / "log").glob("*.tar")):
        try:
            with path.open("rb") as file:
                return decode_segment_header(file.read(PAGE)).segment_bytes
        except (FormatError, OSError):
            continue
    raise FormatError(f"{directory}/log: no segment has a header that can be read")
