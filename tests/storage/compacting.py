"""For tests: small logs with deleted instances in them, and their compaction."""

from collections.abc import Collection

from storage.deletion import Covered, Tombstone, encode_tombstone, small_path
from storage.digest import digests_of
from storage.disk import Disk
from storage.log import BytesPayload, Log
from storage.position import LogPosition, RecordHeader, RecordKind, chain_after
from tests.storage.log_helpers import IDENTITY, append


def opened(disk: Disk, *, host_rebooted: bool = False, floor: int = 0) -> Log:
    return Log.open(disk, IDENTITY, host_rebooted=host_rebooted, floor=floor, spares=0)[0]


def covering(log: Log, sequences: Collection[int]) -> Tombstone:
    covers = [Covered("1.2", "1.2.3", f"1.2.3.{s}", log.read(s).header.dataset) for s in sorted(sequences)]
    return Tombstone(tuple(covers), "sent twice", "anna", "", 1_700_000_000_000_000, "d1")


def bury(log: Log, sequences: Collection[int], epoch: int = 1) -> int:
    """Append a tombstone that covers these records; return where it lies."""
    return append_tombstone(log, covering(log, sequences), epoch)


def append_tombstone(log: Log, tombstone: Tombstone, epoch: int = 1) -> int:
    payload = encode_tombstone(tombstone)
    digests = digests_of(RecordKind.TOMBSTONE, [payload])
    position = LogPosition(epoch, log.end.sequence + 1)
    path = small_path(position, RecordKind.TOMBSTONE)
    header = RecordHeader(position, RecordKind.TOMBSTONE, digests.dataset, digests.digest, 1, path, len(payload))
    log.append(header, chain_after(log.end.chain, header), BytesPayload(payload))
    log.sync()
    return position.sequence


def filled(log: Log, records: int, size: int = 2000) -> None:
    for number in range(records):
        append(log, size + 300 * number)
    log.sync()


def compact(log: Log, sequences: Collection[int], tombstone: int) -> int:
    """Compact every segment that holds some of these; return what became free."""
    freed = 0
    for segment in log.segments():
        covered = {s: tombstone for s in sequences if segment.last is not None and segment.first <= s <= segment.last}
        if covered:
            freed += log.adopt_compaction(log.prepare_compaction(segment.first, covered))
    return freed
